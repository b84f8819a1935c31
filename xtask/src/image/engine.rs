//! A container engine for the test that runs the image: podman, with a runtime that can start a container on this machine.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::apt;

/// Programs, which are Debian's packages of the same names.
const PROGRAMS: [&str; 3] = ["podman", "crun", "runc"];
/// crun refuses some layouts of cgroups that runc takes, and the other way round.
const RUNTIMES: [&str; 2] = ["crun", "runc"];
/// As the test has it too: an engine's own defaults are above what a process without SYS_RESOURCE may give.
const LIMITS: [&str; 4] = ["--ulimit", "nofile=4096:4096", "--ulimit", "nproc=30000:30000"];

/// The runtime to use with podman, which is installed where it is missing; or why there is none. An image of nothing but `true` has to run: what
/// fails after that is our image's fault.
pub(crate) fn runtime() -> Result<&'static str, String> {
    let missing: Vec<&str> = PROGRAMS.into_iter().filter(|name| is_missing(name)).collect();
    if !missing.is_empty() {
        println!("installing {}", missing.join(" "));
        if let Err(error) = apt::install(&missing) {
            return Err(format!("missing here: {} ({error:#})", missing.join(", ")));
        }
    }
    let mut refused = Vec::new();
    for runtime in RUNTIMES {
        match starts(runtime) {
            Ok(()) => return Ok(runtime),
            Err(error) => refused.push(format!("{runtime}: {error:#}")),
        }
    }
    Err(format!(
        "podman starts no container on this machine ({})",
        refused.join("; ")
    ))
}

fn is_missing(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null());
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_err()
}

fn starts(runtime: &str) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let root = folder.path().join("root");
    super::fill(&root, Path::new("/bin/true"))?;
    let own = |name: &str| folder.path().join(name);
    let output = Command::new("podman")
        .arg("--root")
        .arg(own("storage"))
        .arg("--runroot")
        .arg(own("run"))
        .arg("--tmpdir")
        .arg(own("tmp"))
        .args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"])
        .args(["--events-backend", "none", "--runtime", runtime])
        .args(["run", "--rm", "--network", "host"])
        .args(LIMITS)
        .arg("--rootfs")
        .arg(&root)
        .arg(format!("/{}", super::PROGRAM_IN_IMAGE))
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{}", said.trim().replace('\n', " "));
    Ok(())
}
