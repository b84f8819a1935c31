//! A folder of Kubernetes manifests from a few words: what a test changes is what it says, the rest has plain defaults.
//!
//! Files are replaced by rename, as a careful operator (and the kubelet) would; nothing here knows how the agent reads them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;

use crate::certs::Leaf;

/// A folder that the agent watches; gone when dropped. Objects are named `namespace/name`, or `name` in `default`.
#[derive(Debug)]
pub struct Manifests {
    dir: TempDir,
}

impl Manifests {
    pub fn new() -> std::io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("manifests-").tempdir()?;
        Ok(Self { dir })
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// An Ingress; replaces the one of the same name.
    pub fn ingress(&self, ingress: &Ingress) -> std::io::Result<&Self> {
        self.write(&file_name("ingress", &ingress.name), &ingress.yaml())
    }

    /// An IngressClass of this controller.
    pub fn class(&self, name: &str, controller: &str, is_default: bool) -> std::io::Result<&Self> {
        self.write(
            &file_name("class", name),
            &format!(
                "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata:\n  name: {name}\n  annotations:\n    \
                 ingressclass.kubernetes.io/is-default-class: \"{is_default}\"\nspec:\n  controller: {controller}\n"
            ),
        )
    }

    /// The class that most tests want: ours, named `ingress-agent`, the default.
    pub fn our_class(&self) -> std::io::Result<&Self> {
        self.class("ingress-agent", "ingress-agent.io/controller", true)
    }

    /// A Service with one port named `http`, number 80, and a ready slice for each of these addresses.
    pub fn service(&self, name: &str, endpoints: &[SocketAddr]) -> std::io::Result<&Self> {
        let (namespace, short) = split(name);
        self.write(
            &file_name("service", name),
            &format!(
                "apiVersion: v1\nkind: Service\nmetadata:\n  namespace: {namespace}\n  name: {short}\nspec:\n  \
                 ports: [{{name: http, port: 80, targetPort: http}}]\n"
            ),
        )?;
        self.endpoints(name, endpoints)
    }

    /// Replaces the endpoints of a Service: all ready.
    pub fn endpoints(&self, service: &str, endpoints: &[SocketAddr]) -> std::io::Result<&Self> {
        let all: Vec<_> = endpoints.iter().map(|&e| (e, "ready: true")).collect();
        self.endpoints_with(service, &all)
    }

    /// Replaces the endpoints of a Service, each with its conditions, such as `ready: false, serving: true, terminating: true`.
    pub fn endpoints_with(&self, service: &str, endpoints: &[(SocketAddr, &str)]) -> std::io::Result<&Self> {
        let (namespace, short) = split(service);
        let mut yaml = String::new();
        // Endpoints of one slice share their port, so each backend process gets a slice of its own.
        for (index, (address, conditions)) in endpoints.iter().enumerate() {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            let _ = write!(
                yaml,
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  namespace: {namespace}\n  \
                 name: {short}-{index}\n  labels: {{kubernetes.io/service-name: {short}}}\naddressType: {family}\n\
                 ports: [{{name: http, port: {}}}]\nendpoints:\n- addresses: [\"{}\"]\n  conditions: {{{conditions}}}\n",
                address.port(),
                address.ip()
            );
        }
        if endpoints.is_empty() {
            // As the control plane leaves it; a file without any content would be taken for one half-written.
            let _ = write!(
                yaml,
                "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  namespace: {namespace}\n  \
                 name: {short}-0\n  labels: {{kubernetes.io/service-name: {short}}}\naddressType: IPv4\n\
                 ports: [{{name: http, port: 80}}]\nendpoints: []\n",
            );
        }
        self.write(&file_name("endpoints", service), &yaml)
    }

    /// A `kubernetes.io/tls` Secret.
    pub fn tls_secret(&self, name: &str, leaf: &Leaf) -> std::io::Result<&Self> {
        let (namespace, short) = split(name);
        self.write(
            &file_name("secret", name),
            &format!(
                "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata:\n  namespace: {namespace}\n  name: {short}\n\
                 data:\n  tls.crt: {}\n  tls.key: {}\n",
                STANDARD.encode(&leaf.certificate),
                STANDARD.encode(&leaf.key)
            ),
        )
    }

    /// The same with an OCSP response beside it, DER.
    pub fn stapled_tls_secret(&self, name: &str, leaf: &Leaf, staple: &[u8]) -> std::io::Result<&Self> {
        self.tls_secret(name, leaf)?;
        let file = file_name("secret", name);
        let plain = std::fs::read_to_string(self.file(&file))?;
        self.write(
            &file,
            &format!("{plain}  tls.ocsp-staple: {}\n", STANDARD.encode(staple)),
        )
    }

    /// Any text as any file: for what the builders do not say.
    pub fn write(&self, file: &str, text: &str) -> std::io::Result<&Self> {
        // The watcher ignores dot files, so the half-written state is never read.
        let partial = self.dir.path().join(format!(".{file}.partial"));
        std::fs::write(&partial, text)?;
        std::fs::rename(partial, self.file(file))?;
        Ok(self)
    }

    pub fn remove(&self, file: &str) -> std::io::Result<&Self> {
        std::fs::remove_file(self.file(file))?;
        Ok(self)
    }

    /// Removes a Secret made by [`Manifests::tls_secret`].
    pub fn remove_tls_secret(&self, name: &str) -> std::io::Result<&Self> {
        self.remove(&file_name("secret", name))
    }

    pub fn remove_ingress(&self, name: &str) -> std::io::Result<&Self> {
        self.remove(&file_name("ingress", name))
    }

    fn file(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }
}

/// An Ingress in a few words: `Ingress::new("shop/web").host("shop.test").prefix("/", "web")`.
#[derive(Clone, Debug)]
pub struct Ingress {
    name: String,
    class: Option<String>,
    annotations: Vec<(String, String)>,
    created: Option<String>,
    default_backend: Option<String>,
    tls: Vec<(Vec<String>, String)>,
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    host: Option<String>,
    paths: Vec<(String, &'static str, String)>,
}

impl Ingress {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            class: None,
            annotations: Vec::new(),
            created: None,
            default_backend: None,
            tls: Vec::new(),
            rules: Vec::new(),
        }
    }

    pub fn class(mut self, name: &str) -> Self {
        self.class = Some(name.to_owned());
        self
    }

    /// `ssl-redirect` stands for `nginx.ingress.kubernetes.io/ssl-redirect`; a name with a slash stands for itself.
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        let full = if name.contains('/') {
            name.to_owned()
        } else {
            format!("nginx.ingress.kubernetes.io/{name}")
        };
        self.annotations.push((full, value.to_owned()));
        self
    }

    /// `metadata.creationTimestamp`, such as `2026-01-01T00:00:00Z`.
    pub fn created(mut self, timestamp: &str) -> Self {
        self.created = Some(timestamp.to_owned());
        self
    }

    pub fn default_backend(mut self, service: &str) -> Self {
        self.default_backend = Some(service.to_owned());
        self
    }

    pub fn tls(mut self, hosts: &[&str], secret: &str) -> Self {
        let hosts = hosts.iter().map(|&h| h.to_owned()).collect();
        self.tls.push((hosts, secret.to_owned()));
        self
    }

    /// Begins a rule; the paths that follow are its.
    pub fn host(mut self, host: &str) -> Self {
        self.rules.push(Rule {
            host: Some(host.to_owned()),
            paths: Vec::new(),
        });
        self
    }

    pub fn exact(self, path: &str, service: &str) -> Self {
        self.path(path, "Exact", service)
    }

    pub fn prefix(self, path: &str, service: &str) -> Self {
        self.path(path, "Prefix", service)
    }

    pub fn implementation_specific(self, path: &str, service: &str) -> Self {
        self.path(path, "ImplementationSpecific", service)
    }

    /// The Service is `name` for port 80, `name:8080`, or `name:http` for a port by its name.
    fn path(mut self, path: &str, kind: &'static str, service: &str) -> Self {
        if self.rules.is_empty() {
            self.rules.push(Rule {
                host: None,
                paths: Vec::new(),
            });
        }
        if let Some(rule) = self.rules.last_mut() {
            rule.paths.push((path.to_owned(), kind, service.to_owned()));
        }
        self
    }

    /// `metadata.name` and its namespace: `shop/web`.
    pub fn namespace_and_name(&self) -> (&str, &str) {
        split(&self.name)
    }

    /// The Services that it names, with their namespaces, without their ports.
    pub fn services(&self) -> BTreeSet<String> {
        let (namespace, _) = split(&self.name);
        let paths = self.rules.iter().flat_map(|rule| &rule.paths);
        let backends = paths.map(|(_, _, service)| service).chain(&self.default_backend);
        let bare = |service: &String| service.split(':').next().unwrap_or_default().to_owned();
        backends
            .map(|service| format!("{namespace}/{}", bare(service)))
            .collect()
    }

    /// The manifest. Flow style with JSON strings, so that no value needs escaping of its own.
    pub fn yaml(&self) -> String {
        let (namespace, short) = split(&self.name);
        let mut yaml = format!(
            "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  namespace: {namespace}\n  name: {short}\n"
        );
        if let Some(created) = &self.created {
            let _ = writeln!(yaml, "  creationTimestamp: {}", quote(created));
        }
        if !self.annotations.is_empty() {
            yaml.push_str("  annotations:\n");
        }
        for (name, value) in &self.annotations {
            let _ = writeln!(yaml, "    {name}: {}", quote(value));
        }
        yaml.push_str("spec:\n");
        if let Some(class) = &self.class {
            let _ = writeln!(yaml, "  ingressClassName: {}", quote(class));
        }
        if let Some(service) = &self.default_backend {
            let _ = writeln!(yaml, "  defaultBackend: {}", backend(service));
        }
        self.push_tls(&mut yaml);
        self.push_rules(&mut yaml);
        yaml
    }

    fn push_tls(&self, yaml: &mut String) {
        if !self.tls.is_empty() {
            yaml.push_str("  tls:\n");
        }
        for (hosts, secret) in &self.tls {
            let hosts: Vec<_> = hosts.iter().map(|h| quote(h)).collect();
            let _ = writeln!(
                yaml,
                "  - {{hosts: [{}], secretName: {}}}",
                hosts.join(", "),
                quote(secret)
            );
        }
    }

    fn push_rules(&self, yaml: &mut String) {
        if !self.rules.is_empty() {
            yaml.push_str("  rules:\n");
        }
        for rule in &self.rules {
            let http = if rule.paths.is_empty() {
                ""
            } else {
                "http:\n      paths:\n"
            };
            match &rule.host {
                Some(host) => {
                    let _ = write!(yaml, "  - host: {}\n    {http}", quote(host));
                    yaml.truncate(yaml.trim_end_matches(' ').len());
                }
                None => {
                    let _ = write!(yaml, "  - {http}");
                }
            }
            for (path, kind, service) in &rule.paths {
                let _ = writeln!(
                    yaml,
                    "      - {{path: {}, pathType: {kind}, backend: {}}}",
                    quote(path),
                    backend(service)
                );
            }
        }
    }
}

fn backend(service: &str) -> String {
    let (name, port) = service.split_once(':').unwrap_or((service, "80"));
    let port = match port.parse::<u16>() {
        Ok(number) => format!("number: {number}"),
        Err(_) => format!("name: {port}"),
    };
    format!("{{service: {{name: {name}, port: {{{port}}}}}}}")
}

/// A JSON string is a YAML string.
fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn split(name: &str) -> (&str, &str) {
    name.split_once('/').unwrap_or(("default", name))
}

fn file_name(kind: &str, name: &str) -> String {
    let bare = name.strip_prefix("default/").unwrap_or(name);
    format!("{kind}-{}.yaml", bare.replace('/', "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ingress_in_a_few_words_is_the_manifest_one_would_write() {
        let yaml = Ingress::new("shop/web")
            .annotation("ssl-redirect", "false")
            .tls(&["shop.test"], "shop-tls")
            .host("shop.test")
            .prefix("/", "web")
            .exact("/health", "web:http")
            .yaml();
        let expected = r#"apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  namespace: shop
  name: web
  annotations:
    nginx.ingress.kubernetes.io/ssl-redirect: "false"
spec:
  tls:
  - {hosts: ["shop.test"], secretName: "shop-tls"}
  rules:
  - host: "shop.test"
    http:
      paths:
      - {path: "/", pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}
      - {path: "/health", pathType: Exact, backend: {service: {name: web, port: {name: http}}}}
"#;
        assert_eq!(yaml, expected);
    }
}
