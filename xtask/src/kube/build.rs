//! The programs of a control plane: from `KUBEBUILDER_ASSETS`, or built once by the ordinary `go` into a cache outside the repository.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, bail};

use super::pins::{self, HELM, PINS, Pin, Stamps};
use crate::workspace;

/// The folder with all of them, built first where they are missing. Progress goes to standard error.
pub(crate) fn programs() -> anyhow::Result<PathBuf> {
    match std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from) {
        Some(folder) => given(folder),
        None => {
            let or = "set KUBEBUILDER_ASSETS to a folder with etcd, kube-apiserver, kube-controller-manager and kubectl";
            built(
                &PINS,
                "",
                &format!("the API server is built from Go modules; or {or}"),
            )
        }
    }
}

/// The program `helm`: the one that `HELM` names, or built first where it is missing.
pub(crate) fn helm() -> anyhow::Result<PathBuf> {
    let Some(given) = std::env::var_os("HELM").map(PathBuf::from) else {
        let folder = built(
            &HELM,
            "helm-",
            "Helm is built from its Go module; or set HELM to a program",
        )?;
        return Ok(folder.join("helm"));
    };
    if !given.is_file() {
        bail!(
            "HELM={}: no such program; unset it, and it is built",
            given.display()
        );
    }
    Ok(given)
}

fn given(folder: PathBuf) -> anyhow::Result<PathBuf> {
    match missing(&PINS, &folder).as_slice() {
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

/// The folder with these programs; `why` is for those who lack Go.
pub(super) fn built(pins: &'static [Pin], prefix: &str, why: &str) -> anyhow::Result<PathBuf> {
    let folder = cache().join(format!("{prefix}{}", pins::hash(pins)?));
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    if missing(pins, &folder).is_empty() {
        return Ok(folder);
    }
    find_go(why)?;
    let _lock = lock(&folder)?;
    let missing = missing(pins, &folder);
    for (index, pin) in missing.iter().enumerate() {
        let start = Instant::now();
        eprintln!(
            "Building {} {} ({} of {}; on two cores two to eight minutes each, once) …",
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

fn missing(pins: &'static [Pin], folder: &Path) -> Vec<&'static Pin> {
    let is_missing = |pin: &&Pin| !folder.join(pin.program).is_file();
    pins.iter().filter(is_missing).collect()
}

/// An error that says what Go is wanted for, where it is missing.
pub(super) fn find_go(why: &str) -> anyhow::Result<()> {
    let found = Command::new("go")
        .arg("version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
    match found {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => bail!("`go version` failed: {status}"),
        Err(_) => bail!("`go` is missing (https://go.dev/dl/, 1.26 or newer): {why}"),
    }
}

/// One build at a time; the second finds everything done. Released when dropped, and by the kernel if we die.
pub(super) fn lock(folder: &Path) -> anyhow::Result<File> {
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
        .arg(link_flags(pin)?)
        .arg("-o")
        .arg(&partial)
        .arg(pin.package)
        .current_dir(pin.folder())
        .env("CGO_ENABLED", "0")
        .stdin(Stdio::null())
        // Its standard output would be taken for the folder's name.
        .stdout(Stdio::null())
        .status()
        .context("start go")?;
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
fn link_flags(pin: &Pin) -> anyhow::Result<String> {
    let version = pin.version()?;
    let stamps = match pin.stamps {
        Stamps::Kubernetes => kubernetes_stamps(&version),
        // v0.N.P of its libraries is 1.N.P of the Kubernetes that it takes a cluster for while there is none.
        Stamps::Helm => helm_stamps(&version, &pin.version_of("k8s.io/client-go")?),
        Stamps::None => Vec::new(),
    };
    Ok(stamps
        .iter()
        .fold("-s -w".to_owned(), |flags, (variable, value)| {
            format!("{flags} -X {variable}={value}")
        }))
}

/// Major and minor number.
fn numbers(version: &str) -> (&str, &str) {
    let mut numbers = version.trim_start_matches('v').split('.');
    (numbers.next().unwrap_or("0"), numbers.next().unwrap_or("0"))
}

fn kubernetes_stamps(version: &str) -> Vec<(String, String)> {
    let (major, minor) = numbers(version);
    let mut stamps = Vec::new();
    for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
        for (variable, value) in [
            ("gitVersion", version),
            ("gitMajor", major),
            ("gitMinor", minor),
            ("gitTreeState", "clean"),
        ] {
            stamps.push((format!("{package}.{variable}"), value.to_owned()));
        }
    }
    stamps
}

fn helm_stamps(version: &str, libraries: &str) -> Vec<(String, String)> {
    let (_, minor) = numbers(libraries);
    let mut stamps = vec![(
        "helm.sh/helm/v3/internal/version.version".to_owned(),
        version.to_owned(),
    )];
    for package in ["helm.sh/helm/v3/pkg/chartutil", "helm.sh/helm/v3/pkg/lint/rules"] {
        for (variable, value) in [("k8sVersionMajor", "1"), ("k8sVersionMinor", minor)] {
            stamps.push((format!("{package}.{variable}"), value.to_owned()));
        }
    }
    stamps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_stamped_where_the_programs_look_for_it() {
        let stamp = |variable: &str, value: &str| (variable.to_owned(), value.to_owned());
        let kubernetes = kubernetes_stamps("v1.36.3");
        assert!(kubernetes.contains(&stamp("k8s.io/component-base/version.gitVersion", "v1.36.3")));
        assert!(kubernetes.contains(&stamp("k8s.io/client-go/pkg/version.gitMinor", "36")));
        let helm = helm_stamps("v3.22.0", "v0.37.0");
        assert!(helm.contains(&stamp("helm.sh/helm/v3/internal/version.version", "v3.22.0")));
        assert!(helm.contains(&stamp("helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor", "37")));
        assert!(link_flags(&HELM[0]).unwrap().starts_with("-s -w -X "));
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
