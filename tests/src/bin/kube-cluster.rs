//! A Kubernetes API server on loopback as a process: `kube-cluster --programs DIR [--folder DIR] [--node [--image NAME=PROGRAM]…] [--no-streaming-lists]`.
//!
//! With `--node` it runs Pods too; an image is then the program of that name, and our own programs are known without being named.
//!
//! Prints one line of JSON when it is ready, then obeys lines on its standard input (`stop PROGRAM`, `start PROGRAM [FLAG…]`), each answered
//! by `ok` or `error: …`. When that input closes it ends everything: whoever started it holds the other end, so that nothing
//! outlives its starter, however that one ends.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use ingress_tests::cluster::control_plane::{ControlPlane, Program};
use ingress_tests::cluster::node::Images;

fn main() -> anyhow::Result<()> {
    let mut programs = None;
    let mut folder = None;
    let (mut has_node, mut streams_lists, mut images) = (false, true, own_images()?);
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        if flag == "--node" {
            has_node = true;
            continue;
        }
        if flag == "--no-streaming-lists" {
            streams_lists = false;
            continue;
        }
        let value = arguments
            .next()
            .with_context(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--programs" => programs = Some(PathBuf::from(value)),
            "--folder" => folder = Some(PathBuf::from(value)),
            "--image" => {
                let (name, program) = value.split_once('=').context("--image wants NAME=PROGRAM")?;
                images.add(name, Path::new(program));
            }
            _ => bail!(
                "unknown flag {flag}; known: --programs, --folder, --node, --image, --no-streaming-lists"
            ),
        }
    }
    // Gone at the end; a given folder stays.
    let own = match folder {
        None => Some(tempfile::Builder::new().prefix("kube-cluster-").tempdir()?),
        Some(_) => None,
    };
    let folder = folder.or_else(|| own.as_ref().map(|own| own.path().to_path_buf()));
    let programs = programs.context("--programs DIR is needed")?;
    let mut plane = ControlPlane::start(&programs, &folder.context("no folder")?, streams_lists)?;
    if has_node {
        plane.start_node(images)?;
    }
    println!("{}", serde_json::to_string(plane.facts())?);
    for line in std::io::stdin().lock().lines() {
        match obey(&mut plane, &line?) {
            Ok(()) => println!("ok"),
            Err(error) => println!("error: {error:#}"),
        }
    }
    Ok(())
}

/// The programs beside this one.
fn own_images() -> anyhow::Result<Images> {
    let own = std::env::current_exe()?;
    let folder = own.parent().context("no folder")?;
    let mut images = Images::default();
    // The agent as tests have it: built with them, so it is never an old one.
    for (name, program) in [
        ("ingress-agent", "agent-under-test"),
        ("echo-backend", "echo-backend"),
    ] {
        images.add(name, &folder.join(program));
    }
    Ok(images)
}

fn obey(plane: &mut ControlPlane, line: &str) -> anyhow::Result<()> {
    let mut words = line.split(' ');
    let (verb, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let flags: Vec<_> = words.collect();
    let program = Program::named(name).with_context(|| format!("no program {name:?}"))?;
    match verb {
        "stop" => plane.stop(program),
        "start" => plane.start_program(program, &flags),
        _ => bail!("unknown command {verb:?}; known: stop, start"),
    }
}
