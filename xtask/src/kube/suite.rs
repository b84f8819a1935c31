//! The Kubernetes project's Ingress suite: the source of its module, copied into the cache, told to look more often, and built there.
//!
//! It is built in its own tree, as it reads its scenarios from the working directory.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use super::build::{cache, find_go, lock};
use super::{Extra, modules, pins};
use crate::workspace;

const MODULE: &str = "sigs.k8s.io/ingress-controller-conformance";
/// A checkout of the pinned commit, in place of the module.
const SOURCE: &str = "INGRESS_SUITE_SOURCE";
/// To be raised when what follows changes.
const RECIPE: u32 = 2;

/// What is changed, each once or more: how long it sleeps between two looks and before it looks at all. As published it sleeps thirteen
/// minutes; what it asks and what it expects stays as it is, and who answers has less time for it.
const EDITS: [(&str, &str, &str); 4] = [
    (
        "test/kubernetes/kubernetes.go",
        "ingressWaitInterval = 5 * time.Second",
        "ingressWaitInterval = 200 * time.Millisecond",
    ),
    (
        "test/kubernetes/deployment.go",
        "wait.Poll(5*time.Second,",
        "wait.Poll(200*time.Millisecond,",
    ),
    (
        "test/kubernetes/deployment.go",
        "time.Sleep(60 * time.Second)",
        // Over ten seconds a new endpoint comes to its full share.
        "time.Sleep(15 * time.Second)",
    ),
    (
        "test/kubernetes/templates/templates.go",
        "initialDelaySeconds: 1",
        "initialDelaySeconds: 0",
    ),
];

/// The folder with `suite.test`, `echoserver` and `features`, built first where it is missing. Progress goes to standard error.
pub(crate) fn suite() -> anyhow::Result<Extra> {
    let version = version()?;
    let folder = cache().join(format!("ingress-suite-{version}-{RECIPE}"));
    if is_whole(&folder) {
        return Ok(Extra::Built(folder));
    }
    if let Err(why) = find_go("it is built from its Go module") {
        return Ok(Extra::Missing(format!("{why:#}")));
    }
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let _lock = lock(&folder)?;
    if is_whole(&folder) {
        return Ok(Extra::Built(folder));
    }
    let source = match source(&version)? {
        Ok(source) => source,
        Err(why) => return Ok(Extra::Missing(why)),
    };
    eprintln!("Building the Ingress suite {version} (two minutes, once) …");
    copy(&source, &folder)?;
    for (file, before, after) in EDITS {
        edit(&folder.join(file), before, after)?;
    }
    go(&folder, &["build", "-o", "echoserver", "./images/echoserver"])?;
    // Last: with it the folder is whole.
    go(&folder, &["test", "-c", "-vet=off", "-o", "suite.partial", "."])?;
    std::fs::rename(folder.join("suite.partial"), folder.join("suite.test"))?;
    Ok(Extra::Built(folder))
}

fn is_whole(folder: &Path) -> bool {
    folder.join("suite.test").is_file()
}

fn version() -> anyhow::Result<String> {
    let path = workspace::root().join("tests/kube-lab/ingress-suite/go.mod");
    let text = std::fs::read_to_string(&path).with_context(|| workspace::shown(&path))?;
    pins::version_in(&text, MODULE)
        .with_context(|| format!("{}: no version of {MODULE}", workspace::shown(&path)))
}

/// Where its source is, or why it can't be had.
fn source(version: &str) -> anyhow::Result<Result<PathBuf, String>> {
    match std::env::var_os(SOURCE).map(PathBuf::from) {
        Some(folder) => checkout(folder, version).map(Ok),
        None => {
            // Outside of any module, so that what it gives is compared with the public checksum database.
            let found = modules::download(&format!("{MODULE}@{version}"), &std::env::temp_dir())?;
            Ok(found.map_err(|why| format!("{why}; {SOURCE} may name a checkout of it")))
        }
    }
}

fn checkout(folder: PathBuf, version: &str) -> anyhow::Result<PathBuf> {
    let output = Command::new("git")
        .arg("-C")
        .arg(&folder)
        .args(["rev-parse", "HEAD"])
        .output()?;
    let head = String::from_utf8_lossy(&output.stdout);
    // A version without a tag ends in twelve digits of its commit.
    let commit = version.rsplit('-').next().unwrap_or(version);
    if !head.starts_with(commit) {
        bail!("{SOURCE}={}: not a checkout of commit {commit}", folder.display());
    }
    Ok(folder)
}

/// The files of a module are read-only, and so would be what is copied with their permissions.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_name() == ".git" {
            continue;
        }
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::write(&target, std::fs::read(entry.path())?)?;
        }
    }
    Ok(())
}

fn edit(path: &Path, before: &str, after: &str) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    if !text.contains(before) {
        bail!("{}: no {before:?} in it", path.display());
    }
    std::fs::write(path, text.replace(before, after))?;
    Ok(())
}

fn go(folder: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    let status = Command::new("go")
        .args(arguments)
        .current_dir(folder)
        .env("CGO_ENABLED", "0")
        // Its go.mod is older than the pruning of modules, so that `go` has to add to it.
        .env("GOFLAGS", "-mod=mod -buildvcs=false")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()?;
    if !status.success() {
        bail!("go {}: {status}; its messages are above", arguments.join(" "));
    }
    Ok(())
}
