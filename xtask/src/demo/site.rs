//! The demo's folder: the examples with real ports, and the Secrets made for them. Everything in one temporary directory.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use super::backends::Backends;
use crate::certificates::Authority;
use crate::workspace;

/// Follows a port in an EndpointSlice and names the backend that is to stand behind it.
const MARK: &str = "# backend: ";

const OUR_CLASS: &str = "ingress-agent";

pub(crate) fn examples() -> PathBuf {
    workspace::root().join("docs/examples")
}

pub(crate) struct Site {
    dir: TempDir,
    /// File name and text, as in the repository.
    files: Vec<(String, String)>,
    backend_names: BTreeSet<String>,
    certificates: Vec<WantedCertificate>,
}

#[derive(Deserialize)]
struct ExpectedFile {
    certificates: Vec<WantedCertificate>,
}

#[derive(Deserialize)]
struct WantedCertificate {
    /// `namespace/name`.
    secret: String,
    names: Vec<String>,
}

/// One line of the table of what is served.
pub(crate) struct Row {
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) kind: String,
    pub(crate) backend: String,
}

impl Site {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let mut files = Vec::new();
        for path in workspace::files_below(&examples(), ".yaml")? {
            let name = path
                .file_name()
                .context("file name")?
                .to_string_lossy()
                .into_owned();
            files.push((name, std::fs::read_to_string(&path)?));
        }
        let expected = std::fs::read_to_string(examples().join("expected.toml"))?;
        let expected: ExpectedFile = toml::from_str(&expected).context("docs/examples/expected.toml")?;
        let backend_names = files
            .iter()
            .flat_map(|(_, text)| text.lines())
            .filter_map(|line| line.split_once(MARK))
            .map(|(_, name)| name.trim().to_owned())
            .collect();
        Ok(Self {
            dir: tempfile::Builder::new().prefix("ingress-agent-demo-").tempdir()?,
            files,
            backend_names,
            certificates: expected.certificates,
        })
    }

    pub(crate) fn manifests(&self) -> PathBuf {
        self.dir.path().join("manifests")
    }

    /// The throw-away authority's certificate, for `curl --cacert`.
    pub(crate) fn authority(&self) -> PathBuf {
        self.dir.path().join("ca.crt")
    }

    pub(crate) fn backend_names(&self) -> impl Iterator<Item = &str> {
        self.backend_names.iter().map(String::as_str)
    }

    pub(crate) fn write(&self, backends: &Backends) -> anyhow::Result<()> {
        let manifests = self.manifests();
        std::fs::create_dir(&manifests)?;
        for (name, text) in &self.files {
            let text = with_real_ports(text, backends).with_context(|| name.clone())?;
            std::fs::write(manifests.join(name), text)?;
        }
        self.write_secrets(&manifests)
    }

    fn write_secrets(&self, manifests: &Path) -> anyhow::Result<()> {
        let authority = Authority::new()?;
        std::fs::write(self.authority(), authority.pem())?;
        for wanted in &self.certificates {
            let (namespace, short) = wanted.secret.split_once('/').with_context(|| {
                format!("expected.toml: secret {:?} is not namespace/name", wanted.secret)
            })?;
            let text = authority.leaf(&wanted.names)?.secret(namespace, short);
            let name = format!("secret-{}.yaml", wanted.secret.replace('/', "-"));
            std::fs::write(manifests.join(name), text)?;
        }
        Ok(())
    }

    /// What the Ingress objects say, for the table.
    pub(crate) fn routes(&self) -> Vec<Row> {
        let objects = self.files.iter().flat_map(|(_, text)| {
            let parsed: Result<Vec<Value>, _> = serde_saphyr::from_multiple(text);
            parsed.unwrap_or_default()
        });
        objects
            .filter(|object| object["kind"] == "Ingress")
            .flat_map(|object| rows(&object))
            .collect()
    }
}

fn rows(ingress: &Value) -> Vec<Row> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let is_ours = ingress["spec"]["ingressClassName"] == OUR_CLASS;
    let service = |backend: &Value| match is_ours {
        true => format!("Service {}", text(&backend["service"]["name"])),
        false => "404: nobody owns it".to_owned(),
    };
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let object = format!(
        "{}/{}",
        text(&ingress["metadata"]["namespace"]),
        text(&ingress["metadata"]["name"])
    );
    let mut rows = Vec::new();
    for rule in list(&ingress["spec"]["rules"]) {
        for path in list(&rule["http"]["paths"]) {
            rows.push(Row {
                host: text(&rule["host"]),
                path: text(&path["path"]),
                kind: text(&path["pathType"]),
                backend: format!("{:<24} (Ingress {object})", service(&path["backend"])),
            });
        }
        if !ingress["spec"]["defaultBackend"].is_null() {
            rows.push(Row {
                host: text(&rule["host"]),
                path: "all else".to_owned(),
                kind: "default".to_owned(),
                backend: format!(
                    "{:<24} (Ingress {object})",
                    service(&ingress["spec"]["defaultBackend"])
                ),
            });
        }
    }
    rows
}

/// `port: 18081 # backend: web-1` becomes `port: 40123 # backend: web-1`.
fn with_real_ports(text: &str, backends: &Backends) -> anyhow::Result<String> {
    let mut patched = String::new();
    for line in text.lines() {
        match line.split_once(MARK) {
            Some((_, name)) => {
                let address = backends.address(name.trim()).context("no such backend")?;
                let indent = line.split("port:").next().unwrap_or_default();
                patched.push_str(&format!("{indent}port: {} {MARK}{}", address.port(), name.trim()));
            }
            None => patched.push_str(line),
        }
        patched.push('\n');
    }
    Ok(patched)
}
