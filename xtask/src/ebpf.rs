//! `cargo xtask ebpf`: builds the eBPF object that the agent carries, and proves that the kept one is what the source gives.
//!
//! Plain cargo can't compile for BPF, so the stripped object is kept in the repository, beside a record of what it was made from.
//! Anybody can compare the source with the record; where the toolchain is, the object itself is built again and compared byte by byte.

mod record;
mod toolchain;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, bail};

use self::record::Record;
use self::toolchain::Toolchain;
use crate::workspace::{root, target};

const OBJECT: &str = "ingress-ebpf/prebuilt/ingress.bpf.o";
const RECORD: &str = "ingress-ebpf/prebuilt/ingress.bpf.toml";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Change nothing: compare the kept object with the source.
    #[arg(long)]
    check: bool,
    /// Where the object is written instead of its place in the repository (for looking at it).
    #[arg(long, value_name = "FILE", conflicts_with = "check")]
    output: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    if options.check {
        return Ok(print(&check()?));
    }
    let toolchain = Toolchain::installed()?;
    let built = build(&toolchain)?;
    if let Some(output) = &options.output {
        std::fs::copy(&built, output).with_context(|| output.display().to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    let record = Record::of(&built, &toolchain)?;
    std::fs::create_dir_all(root().join("ingress-ebpf/prebuilt"))?;
    std::fs::copy(&built, root().join(OBJECT)).context(OBJECT)?;
    record.write(&root().join(RECORD))?;
    println!("{OBJECT}: {} bytes, sha256 {}", record.bytes, record.sha256);
    Ok(ExitCode::SUCCESS)
}

/// What a check found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) problems: Vec<String>,
    /// What could not be checked on this machine.
    pub(crate) skipped: Vec<String>,
}

/// Source against record, kept object against record, and a new build against the kept object.
pub(crate) fn check() -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let kept = Record::read(&root().join(RECORD))?;
    let source = record::source_hash()?;
    if kept.source != source {
        findings.problems.push(format!(
            "{OBJECT} is older than its source ({source}, the record says {}): cargo xtask ebpf",
            kept.source
        ));
    }
    let (sha256, _) = record::measure(&root().join(OBJECT))?;
    if kept.sha256 != sha256 {
        findings
            .problems
            .push(format!("{OBJECT} is not what its record says: cargo xtask ebpf"));
    }
    if !findings.problems.is_empty() {
        return Ok(findings);
    }
    match Toolchain::installed() {
        Ok(toolchain) => findings.problems.extend(rebuilt(&toolchain, &kept)?),
        Err(error) => findings.skipped.push(format!(
            "ebpf: the object was not built again, only its source hash compared: {error:#}"
        )),
    }
    Ok(findings)
}

fn rebuilt(toolchain: &Toolchain, kept: &Record) -> anyhow::Result<Option<String>> {
    if kept.tools != toolchain.versions {
        return Ok(Some(format!(
            "{OBJECT} was built by {:?}, here is {:?}: cargo xtask ebpf",
            kept.tools, toolchain.versions
        )));
    }
    let same = std::fs::read(build(toolchain)?)? == std::fs::read(root().join(OBJECT))?;
    Ok((!same).then(|| format!("{OBJECT} is not byte for byte what the source gives: cargo xtask ebpf")))
}

fn print(findings: &Findings) -> ExitCode {
    findings.problems.iter().for_each(|p| println!("problem: {p}"));
    findings.skipped.iter().for_each(|s| println!("skipped: {s}"));
    if findings.problems.is_empty() {
        println!("{OBJECT} is what the source gives");
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The stripped object, in the target folder. Its bytes depend on the source and the tools alone, not on where they are.
fn build(toolchain: &Toolchain) -> anyhow::Result<PathBuf> {
    let source = root();
    let out = target().join("ebpf");
    fetch(toolchain)?;
    let status = toolchain
        .cargo()
        .current_dir(source.join("ingress-ebpf"))
        .env("RUSTC_WRAPPER", wrapper(&out)?)
        .env("CARGO_TARGET_DIR", &out)
        .env("CARGO_ENCODED_RUSTFLAGS", rust_flags(source)?)
        .args(["build", "--release", "--locked"])
        .args(["--target", "bpfel-unknown-none", "-Z", "build-std=core"])
        .stdin(Stdio::null())
        .status()
        .context("start the cargo of the eBPF toolchain")?;
    if !status.success() {
        bail!("the eBPF programs do not build: {status}");
    }
    let stripped = out.join("ingress.bpf.o");
    let status = Command::new(toolchain.objcopy())
        .arg("--strip-debug")
        .arg(out.join("bpfel-unknown-none/release/ingress-ebpf"))
        .arg(&stripped)
        .status()
        .context("start llvm-objcopy")?;
    if !status.success() {
        bail!("llvm-objcopy failed: {status}");
    }
    Ok(stripped)
}

/// Cargo tells crates of one name apart by a hash of where their sources lie, and rustc writes it into the names of functions, which stand in
/// the BTF. There is one of each of ours: the same hash in every folder.
const WRAPPER: &str = r#"#!/bin/sh
case " $* " in
*" --crate-name ingress_common "* | *" --crate-name ingress_ebpf "*)
    for argument in "$@"; do
        shift
        case "$argument" in metadata=*) argument=metadata=ingress ;; esac
        set -- "$@" "$argument"
    done
    ;;
esac
exec "$@"
"#;

fn wrapper(out: &Path) -> anyhow::Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let path = out.join("rustc-wrapper.sh");
    // Cargo builds anew when the wrapper is newer than what it made.
    if std::fs::read(&path).ok().as_deref() != Some(WRAPPER.as_bytes()) {
        std::fs::create_dir_all(out)?;
        std::fs::write(&path, WRAPPER)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    }
    Ok(path)
}

/// First, so that every registry's folder exists when its path is hidden.
fn fetch(toolchain: &Toolchain) -> anyhow::Result<()> {
    let status = toolchain
        .cargo()
        .current_dir(root().join("ingress-ebpf"))
        .args(["fetch", "--locked"])
        .stdin(Stdio::null())
        .status()
        .context("start the cargo of the eBPF toolchain")?;
    if !status.success() {
        bail!("the crates of the eBPF programs cannot be fetched: {status}");
    }
    Ok(())
}

/// Debug information (for BTF) without the paths of this machine.
fn rust_flags(source: &Path) -> anyhow::Result<String> {
    let mut flags = vec![
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        format!("--remap-path-prefix={}=/src", source.display()),
    ];
    // One folder for each registry or mirror that this machine uses.
    for registry in std::fs::read_dir(cargo_home()?.join("registry/src"))? {
        flags.push(format!(
            "--remap-path-prefix={}=/registry",
            registry?.path().display()
        ));
    }
    Ok(flags.join("\u{1f}"))
}

fn cargo_home() -> anyhow::Result<PathBuf> {
    match std::env::var_os("CARGO_HOME") {
        Some(home) => Ok(home.into()),
        None => {
            let home = std::env::var_os("HOME").context("HOME is not set")?;
            Ok(PathBuf::from(home).join(".cargo"))
        }
    }
}
