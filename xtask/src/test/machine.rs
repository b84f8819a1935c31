//! What tests need of the machine beside a Rust toolchain: small programs of ordinary packages.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use crate::apt;

/// Programs that tests start, and the Debian package of each.
const PROGRAMS: [(&str, &str); 6] = [
    ("ip", "iproute2"),
    ("ss", "iproute2"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("setpriv", "util-linux"),
    ("kill", "procps"),
];

/// Installs what is missing; what is missing after that, in a line.
pub(super) fn prepare() -> Option<String> {
    let packages: BTreeSet<&str> = missing().into_iter().map(|(_, package)| package).collect();
    if packages.is_empty() {
        return None;
    }
    let packages: Vec<&str> = packages.into_iter().collect();
    println!("installing {}", packages.join(" "));
    let why = apt::install(&packages).err().map(|error| format!(" ({error:#})"));
    let names: Vec<&str> = missing().into_iter().map(|(program, _)| program).collect();
    let (names, packages, why) = (names.join(", "), packages.join(" "), why.unwrap_or_default());
    (!names.is_empty()).then(|| format!("missing here: {names}; install {packages}{why}"))
}

fn missing() -> Vec<(&'static str, &'static str)> {
    let is_missing = |(program, _): &(&str, &str)| {
        let started = Command::new(program)
            .arg("-V")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        started.is_err()
    };
    PROGRAMS.into_iter().filter(is_missing).collect()
}
