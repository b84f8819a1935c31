//! The programs of a control plane: from `KUBEBUILDER_ASSETS`, or built once by the ordinary `go` into a cache outside the repository.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, bail};

use super::pins::{self, PINS, Pin};
use crate::workspace;

const NO_GO: &str = "`go` is missing: the API server is built from Go modules. Install Go (https://go.dev/dl/), \
                     or set KUBEBUILDER_ASSETS to a folder with etcd, kube-apiserver, kube-controller-manager and kubectl";

/// The folder with all of them, built first where they are missing. Progress goes to standard error.
pub(crate) fn programs() -> anyhow::Result<PathBuf> {
    match std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from) {
        Some(folder) => given(folder),
        None => built(),
    }
}

fn given(folder: PathBuf) -> anyhow::Result<PathBuf> {
    match missing(&folder).as_slice() {
        [] => Ok(folder),
        missing => {
            let names: Vec<_> = missing.iter().map(|pin| pin.program).collect();
            bail!(
                "KUBEBUILDER_ASSETS={}: no {} in it; unset it, and they are built",
                folder.display(),
                names.join(", no ")
            )
        }
    }
}

fn built() -> anyhow::Result<PathBuf> {
    let folder = cache().join(pins::hash()?);
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    if missing(&folder).is_empty() {
        return Ok(folder);
    }
    find_go()?;
    let _lock = lock(&folder)?;
    let missing = missing(&folder);
    for (index, pin) in missing.iter().enumerate() {
        let start = Instant::now();
        eprintln!(
            "Building {} {} ({} of {}; all four take about 13 minutes on two cores) …",
            pin.program,
            pin.version()?,
            index + 1,
            missing.len()
        );
        build(pin, &folder)?;
        eprintln!("  {:.0} s", start.elapsed().as_secs_f32());
    }
    eprintln!("Programs are in {}", folder.display());
    Ok(folder)
}

/// `$XDG_CACHE_HOME/ingress-agent/kube`, or the same below `~/.cache`; where nothing can be written there, beside what cargo builds.
pub(super) fn cache() -> PathBuf {
    let own = own_cache();
    let is_usable =
        |folder: &PathBuf| std::fs::create_dir_all(folder).is_ok() && tempfile::tempfile_in(folder).is_ok();
    own.filter(is_usable).unwrap_or_else(fallback)
}

fn own_cache() -> Option<PathBuf> {
    // The specification says to ignore relative paths; an empty HOME is one.
    let absolute = |path: PathBuf| path.is_absolute().then_some(path);
    let given = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let base = given
        .and_then(absolute)
        .or_else(|| Some(absolute(std::env::home_dir()?)?.join(".cache")))?;
    Some(base.join("ingress-agent/kube"))
}

fn fallback() -> PathBuf {
    workspace::target().join("kube")
}

fn missing(folder: &Path) -> Vec<&'static Pin> {
    let is_missing = |pin: &&Pin| !folder.join(pin.program).is_file();
    PINS.iter().filter(is_missing).collect()
}

fn find_go() -> anyhow::Result<()> {
    let found = Command::new("go")
        .arg("version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
    match found {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => bail!("`go version` failed: {status}"),
        Err(_) => bail!(NO_GO),
    }
}

/// One build at a time; the second finds everything done. Released when dropped, and by the kernel if we die.
fn lock(folder: &Path) -> anyhow::Result<File> {
    let lock = File::create(folder.join("lock"))?;
    if lock.try_lock().is_err() {
        eprintln!("Another build of the same programs is under way; waiting for it …");
        lock.lock()?;
    }
    Ok(lock)
}

fn build(pin: &Pin, folder: &Path) -> anyhow::Result<()> {
    // Under its name only when it is whole.
    let partial = folder.join(format!("{}.partial", pin.program));
    let mut go = Command::new("go");
    if folder.starts_with(fallback()) {
        // Go, too, keeps things at home.
        for (name, of_go) in [("GOCACHE", "go-build"), ("GOPATH", "go")] {
            if std::env::var_os(name).is_none() {
                go.env(name, fallback().join(of_go));
            }
        }
    }
    let status = go
        .args([
            "build",
            "-mod=readonly",
            "-trimpath",
            "-buildvcs=false",
            "-ldflags",
        ])
        .arg(link_flags(&pin.version()?))
        .arg("-o")
        .arg(&partial)
        .arg(pin.package)
        .current_dir(pin.folder())
        .env("CGO_ENABLED", "0")
        .stdin(Stdio::null())
        // Its standard output would be taken for the folder's name.
        .stdout(Stdio::null())
        .status()
        .context(NO_GO)?;
    if !status.success() {
        bail!(
            "building {} failed: {status}; go's messages are above",
            pin.program
        );
    }
    std::fs::rename(&partial, folder.join(pin.program))?;
    Ok(())
}

/// Without a stamped version `/version` says v0.0.0, which clients take for too old. etcd has no such variables, which the linker ignores.
fn link_flags(version: &str) -> String {
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or("0"), numbers.next().unwrap_or("0"));
    let mut flags = "-s -w".to_owned();
    for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
        for (variable, value) in [
            ("gitVersion", version),
            ("gitMajor", major),
            ("gitMinor", minor),
            ("gitTreeState", "clean"),
        ] {
            flags += &format!(" -X {package}.{variable}={value}");
        }
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_stamped_where_the_programs_look_for_it() {
        let flags = link_flags("v1.36.3");
        assert!(flags.contains("-X k8s.io/component-base/version.gitVersion=v1.36.3"));
        assert!(flags.contains("-X k8s.io/client-go/pkg/version.gitMinor=36"));
    }

    #[test]
    fn a_folder_that_lacks_programs_is_refused_by_their_names() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["etcd", "kube-apiserver", "kubectl"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let message = given(folder.path().to_path_buf()).unwrap_err().to_string();
        assert!(message.contains("no kube-controller-manager in it"), "{message}");
        assert!(!message.contains("no etcd"), "{message}");
    }
}
