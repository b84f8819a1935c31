//! cargo-deny: installed into `target/tools` when it is not there (about a minute on two cores), then asked.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::workspace;

const VERSION: &str = "0.20.2";

/// Problems, and what could not be checked.
pub(crate) fn check() -> anyhow::Result<(Vec<String>, Vec<String>)> {
    let program = installed()?;
    let mut problems = Vec::new();
    if !ask(&program, &["bans", "licenses", "sources"])?.success {
        problems.push("cargo-deny: bans, licenses or sources; its messages are above".to_owned());
    }
    let mut skipped = Vec::new();
    let advisories = ask(&program, &["advisories"])?;
    if advisories.has_no_database {
        skipped.push("cargo-deny advisories: the advisory database cannot be fetched from here".to_owned());
    } else if !advisories.success {
        problems.push("cargo-deny: advisories; its messages are above".to_owned());
    }
    Ok((problems, skipped))
}

struct Answer {
    success: bool,
    has_no_database: bool,
}

fn ask(program: &PathBuf, checks: &[&str]) -> anyhow::Result<Answer> {
    let output = Command::new(program)
        .current_dir(workspace::root())
        .args([
            "--workspace",
            "--color",
            "never",
            "check",
            "--hide-inclusion-graph",
        ])
        .args(checks)
        .stdin(Stdio::null())
        .output()
        .context("start cargo-deny")?;
    let text = String::from_utf8_lossy(&output.stderr);
    let has_no_database = text.contains("failed to fetch advisory database");
    if !has_no_database {
        print!("{text}");
    }
    Ok(Answer {
        success: output.status.success(),
        has_no_database,
    })
}

fn installed() -> anyhow::Result<PathBuf> {
    let tools = workspace::target().join("tools");
    let own = tools.join("bin/cargo-deny");
    for program in [own.clone(), PathBuf::from("cargo-deny")] {
        if is_our_version(&program) {
            return Ok(program);
        }
    }
    println!("Installing cargo-deny {VERSION} into {} …", tools.display());
    let status = workspace::cargo()
        .args([
            "install",
            "cargo-deny",
            "--locked",
            "--debug",
            "--quiet",
            "--force",
        ])
        .args(["--version", VERSION])
        .arg("--root")
        .arg(&tools)
        .arg("--target-dir")
        .arg(tools.join("build"))
        // It runs for a second; what counts is the time to build it.
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .stdin(Stdio::null())
        .status()?;
    if !status.success() {
        bail!("cargo-deny {VERSION} is missing and cannot be installed: is the crate registry reachable?");
    }
    Ok(own)
}

fn is_our_version(program: &PathBuf) -> bool {
    let output = Command::new(program).arg("--version").output();
    output.is_ok_and(|o| String::from_utf8_lossy(&o.stdout).trim().ends_with(VERSION))
}
