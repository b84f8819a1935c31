//! A Kubernetes API server on loopback as a process: `kube-cluster --programs DIR [--folder DIR]`.
//!
//! Prints one line of JSON when it is ready, then obeys lines on its standard input (`stop PROGRAM`, `start PROGRAM`), each answered
//! by `ok` or `error: …`. When that input closes it ends everything: whoever started it holds the other end, so that nothing
//! outlives its starter, however that one ends.

use std::io::BufRead;
use std::path::PathBuf;

use anyhow::{Context, bail};
use ingress_tests::cluster::control_plane::{ControlPlane, Program};

fn main() -> anyhow::Result<()> {
    let mut programs = None;
    let mut folder = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let value = arguments
            .next()
            .with_context(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--programs" => programs = Some(PathBuf::from(value)),
            "--folder" => folder = Some(PathBuf::from(value)),
            _ => bail!("unknown flag {flag}; known: --programs, --folder"),
        }
    }
    // Gone at the end; a given folder stays.
    let own = match folder {
        None => Some(tempfile::Builder::new().prefix("kube-cluster-").tempdir()?),
        Some(_) => None,
    };
    let folder = folder.or_else(|| own.as_ref().map(|own| own.path().to_path_buf()));
    let programs = programs.context("--programs DIR is needed")?;
    let mut plane = ControlPlane::start(&programs, &folder.context("no folder")?)?;
    println!("{}", serde_json::to_string(plane.facts())?);
    for line in std::io::stdin().lock().lines() {
        match obey(&mut plane, &line?) {
            Ok(()) => println!("ok"),
            Err(error) => println!("error: {error:#}"),
        }
    }
    Ok(())
}

fn obey(plane: &mut ControlPlane, line: &str) -> anyhow::Result<()> {
    let (verb, name) = line.split_once(' ').unwrap_or((line, ""));
    let program = Program::named(name).with_context(|| format!("no program {name:?}"))?;
    match verb {
        "stop" => plane.stop(program),
        "start" => plane.start_program(program),
        _ => bail!("unknown command {verb:?}; known: stop, start"),
    }
}
