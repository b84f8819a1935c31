//! cert-manager's controllers and its solver, the ACME server Pebble with its DNS server, and the definitions of cert-manager's kinds.
//!
//! cert-manager's commands are modules that the proxy does not have; those in tests/kube-lab/cert-manager start the same libraries.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::build::built;
use super::pins::CERT_MANAGER;
use super::{Extra, modules};

const MODULE: &str = "github.com/cert-manager/cert-manager";
/// Of the module, and in the folder.
const DEFINITIONS: (&str, &str) = ("deploy/crds", "crds");

/// The folder with all of it, built first where it is missing. Where that fails, the tests go on without: nothing else needs it.
pub(crate) fn cert_manager() -> Extra {
    match build() {
        Ok(folder) => Extra::Built(folder),
        Err(why) => Extra::Missing(format!("{why:#}")),
    }
}

fn build() -> anyhow::Result<PathBuf> {
    let folder = built(&CERT_MANAGER, "cert-manager-", "it is built from its Go module")?;
    let definitions = folder.join(DEFINITIONS.1);
    if !definitions.is_dir() {
        let module = modules::download(MODULE, &CERT_MANAGER[0].folder())?.map_err(anyhow::Error::msg)?;
        let partial = tempfile::tempdir_in(&folder)?;
        copy(&module.join(DEFINITIONS.0), partial.path())?;
        std::fs::rename(partial.keep(), &definitions)?;
    }
    Ok(folder)
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(from).with_context(|| from.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "yaml") {
            let name = path.file_name().context("no name")?;
            std::fs::write(to.join(name), std::fs::read(&path)?)?;
        }
    }
    Ok(())
}
