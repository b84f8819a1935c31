//! The OCI image layout (image-spec 1.1): one layer, its configuration, a manifest and an index, each named by its SHA-256.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use serde_json::{Value, json};

const PATH: &str = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";

/// Writes the layout of an image whose whole content is `root`; the layer's size and the manifest's digest.
pub(super) fn write(layout: &Path, root: &Path, name: &str) -> anyhow::Result<(u64, String)> {
    std::fs::create_dir_all(layout.join("blobs/sha256"))?;
    let layer = layout.join("layer.tar");
    super::tar(root, &layer)?;
    // Of the layer before it is compressed (image-spec, config.md).
    let content = sha256(&layer)?;
    let layer = add(
        layout,
        &compressed(&layer)?,
        "application/vnd.oci.image.layer.v1.tar+gzip",
    )?;
    let config = json!({
        "architecture": architecture()?,
        "os": "linux",
        "config": {
            "Entrypoint": [format!("/{}", super::PROGRAM_IN_IMAGE)],
            "Cmd": ["run"],
            "Env": [PATH],
            "WorkingDir": "/",
            "Labels": labels(),
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{content}")]},
    });
    let config = add_json(layout, &config, "application/vnd.oci.image.config.v1+json")?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": [layer],
    });
    let mut manifest = add_json(layout, &manifest, "application/vnd.oci.image.manifest.v1+json")?;
    let digest = manifest["digest"].as_str().unwrap_or_default();
    let digest = digest.trim_start_matches("sha256:").to_owned();
    let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    manifest["annotations"] = json!({
        "org.opencontainers.image.ref.name": tag,
        // By which containerd names what it imports.
        "io.containerd.image.name": name,
    });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [manifest],
    });
    std::fs::write(layout.join("index.json"), index.to_string())?;
    std::fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok((layer["size"].as_u64().unwrap_or_default(), digest))
}

fn labels() -> Value {
    json!({
        "org.opencontainers.image.title": "ingress-agent",
        "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
        "org.opencontainers.image.licenses": "Apache-2.0",
    })
}

/// As the Go names that the specification takes.
fn architecture() -> anyhow::Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("no image for {other}"),
    }
}

fn add_json(layout: &Path, value: &Value, media_type: &str) -> anyhow::Result<Value> {
    let file = layout.join("blob.json");
    std::fs::write(&file, value.to_string())?;
    add(layout, &file, media_type)
}

/// Moves a file to where its digest says, and describes it.
fn add(layout: &Path, file: &Path, media_type: &str) -> anyhow::Result<Value> {
    let digest = sha256(file)?;
    let size = super::size(file)?;
    std::fs::rename(file, layout.join("blobs/sha256").join(&digest))?;
    Ok(json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size}))
}

/// Replaces the file.
fn compressed(file: &Path) -> anyhow::Result<PathBuf> {
    let status = Command::new("gzip")
        .args(["--best", "--no-name"])
        .arg(file)
        .stdin(Stdio::null())
        .status()
        .context("gzip is needed")?;
    if !status.success() {
        bail!("gzip {}: {status}", file.display());
    }
    let mut name = file.as_os_str().to_owned();
    name.push(".gz");
    Ok(name.into())
}

pub(super) fn sha256(file: &Path) -> anyhow::Result<String> {
    let output = Command::new("sha256sum")
        .arg(file)
        .stdin(Stdio::null())
        .output()
        .context("sha256sum (coreutils) is needed")?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.split(' ').next() {
        Some(sum) if output.status.success() && sum.len() == 64 => Ok(sum.to_owned()),
        _ => bail!("sha256sum {}: {}", file.display(), output.status),
    }
}
