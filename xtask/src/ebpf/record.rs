//! What the kept object was made from: kept beside it, compared by `--check`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::toolchain::Toolchain;
use crate::workspace::{files_below, root, shown};

/// Written as TOML.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Of the object.
    pub(super) sha256: String,
    pub(super) bytes: u64,
    /// Of everything that goes into it.
    pub(super) source: String,
    pub(super) tools: BTreeMap<String, String>,
}

const HEAD: &str = "# Written by `cargo xtask ebpf`, compared by `cargo xtask ebpf --check`.\n";

impl Record {
    pub(super) fn of(object: &Path, toolchain: &Toolchain) -> anyhow::Result<Self> {
        let (sha256, bytes) = measure(object)?;
        Ok(Self {
            sha256,
            bytes,
            source: source_hash()?,
            tools: toolchain.versions.clone(),
        })
    }

    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| shown(path))?;
        toml::from_str(&text).with_context(|| shown(path))
    }

    pub(super) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = format!("{HEAD}{}", toml::to_string(self)?);
        std::fs::write(path, text).with_context(|| shown(path))
    }
}

/// SHA-256 and size.
pub(super) fn measure(file: &Path) -> anyhow::Result<(String, u64)> {
    let content = std::fs::read(file).with_context(|| shown(file))?;
    Ok((sha256(&content)?, u64::try_from(content.len())?))
}

/// Names and contents of all that the object is made from, this recipe included.
pub(super) fn source_hash() -> anyhow::Result<String> {
    let mut all = Vec::new();
    for file in sources()? {
        let content = std::fs::read(&file).with_context(|| shown(&file))?;
        writeln!(all, "{} {}", shown(&file), content.len())?;
        all.extend(content);
    }
    sha256(&all)
}

fn sources() -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for folder in ["ingress-common/src", "ingress-ebpf/src"] {
        files.extend(files_below(&root().join(folder), ".rs")?);
    }
    let single = [
        "ingress-common/Cargo.toml",
        "ingress-ebpf/Cargo.toml",
        "ingress-ebpf/Cargo.lock",
        "xtask/src/ebpf.rs",
        "xtask/src/ebpf/toolchain.rs",
    ];
    files.extend(single.map(|file| root().join(file)));
    Ok(files)
}

fn sha256(content: &[u8]) -> anyhow::Result<String> {
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("start sha256sum")?;
    child
        .stdin
        .take()
        .context("no standard input")?
        .write_all(content)?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8(output.stdout)?;
    let hash = text.split_whitespace().next().context("sha256sum said nothing")?;
    Ok(hash.to_owned())
}
