//! Debian's packages, installed where this machine lacks them.

use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// As root only.
pub(crate) fn install(packages: &[&str]) -> anyhow::Result<()> {
    // Another installation may be going on: wait for it rather than fail.
    let apt = || {
        let mut command = Command::new("apt-get");
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["-o", "DPkg::Lock::Timeout=300", "-q"])
            .stdin(Stdio::null());
        command
    };
    // Old lists will do if there are no new ones.
    let _ = apt().arg("update").status();
    let status = apt()
        .args(["install", "--yes", "--no-install-recommends"])
        .args(packages)
        .status()
        .context("apt-get is not there (the packages are Debian's)")?;
    if !status.success() {
        bail!("apt-get install {} failed: {status}", packages.join(" "));
    }
    Ok(())
}
