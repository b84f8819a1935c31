//! Where things are, and how cargo is called.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// The repository's root folder.
pub(crate) fn root() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own)
}

/// `target/`, or where CARGO_TARGET_DIR puts it.
pub(crate) fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// This program again. By the kernel's link rather than by its path: a build may have put another file there meanwhile, and the path of
/// the running one then ends in ` (deleted)`.
pub(crate) fn ourselves() -> Command {
    Command::new("/proc/self/exe")
}

/// Whether programs are built for use or for measuring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    Dev,
    Release,
    /// Nearly the release build, in a fraction of its time.
    Profiling,
}

/// Builds one package's programs and gives their folder.
pub(crate) fn build(package: &str, profile: Profile) -> anyhow::Result<PathBuf> {
    let mut command = cargo();
    match profile {
        // With the features of the whole workspace, as the tests are built: otherwise half of the dependencies are built twice.
        // Not ourselves: what is running is not replaced.
        Profile::Dev => command.args(["build", "--workspace", "--exclude", "xtask", "--bins"]),
        Profile::Release => command.args(["build", "--release", "--package", package, "--bins"]),
        Profile::Profiling => {
            command.args(["build", "--profile", "profiling", "--package", package, "--bins"])
        }
    };
    let status = command.status().context("start cargo")?;
    if !status.success() {
        bail!("the programs of {package} do not build: {status}");
    }
    Ok(target().join(match profile {
        Profile::Dev => "debug",
        Profile::Release => "release",
        Profile::Profiling => "profiling",
    }))
}

/// Every file below `dir` whose name ends so, sorted; hidden folders and `target` left out.
pub(crate) fn files_below(dir: &Path, ending: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
        for entry in entries {
            let path = entry?.path();
            let name = path
                .file_name()
                .and_then(|n| n.to_str())
                .unwrap_or_default()
                .to_owned();
            if path.is_dir() && !name.starts_with('.') && name != "target" {
                folders.push(path);
            } else if path.is_file() && name.ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// A path as messages show it: from the root.
pub(crate) fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}
