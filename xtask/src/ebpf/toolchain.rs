//! The toolchain for BPF, from ordinary packages: Debian's rustc with its library sources, LLVM, and bpf-linker built against it.
//!
//! No nightly is needed: `-Z build-std` is opened on the stable compiler by RUSTC_BOOTSTRAP. Versions are pinned, because another LLVM
//! gives other bytes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::apt;
use crate::workspace::{self, target};

const PACKAGES: [&str; 5] = ["rustc-web", "rust-web-src", "cargo-web", "llvm-22", "llvm-22-dev"];
const LLVM: &str = "/usr/lib/llvm-22";
const RUSTC: &str = "/usr/bin/rustc";
const CARGO: &str = "/usr/bin/cargo";
const LINKER_VERSION: &str = "0.13.0";

/// A toolchain that is there.
#[derive(Debug)]
pub(super) struct Toolchain {
    linker: PathBuf,
    /// What has a say in the object's bytes.
    pub(super) versions: BTreeMap<String, String>,
}

impl Toolchain {
    /// Finds it, or installs it: packages by apt-get (as root), bpf-linker by cargo into the target folder.
    pub(super) fn installed() -> anyhow::Result<Self> {
        if !has_packages() {
            install_packages()?;
        }
        let linker = match find_linker() {
            Some(linker) => linker,
            None => install_linker()?,
        };
        let tools = [
            ("rustc", first_line(Path::new(RUSTC), "--version")?),
            (
                "llvm",
                first_line(&Path::new(LLVM).join("bin/llvm-config"), "--version")?,
            ),
            ("bpf-linker", first_line(&linker, "--version")?),
        ];
        let versions = tools.map(|(name, version)| (name.to_owned(), version)).into();
        Ok(Self { linker, versions })
    }

    /// Its cargo, with everything set that has a say and nothing inherited that could have one.
    pub(super) fn cargo(&self) -> Command {
        let mut command = Command::new(CARGO);
        for inherited in [
            "RUSTFLAGS",
            "RUSTUP_TOOLCHAIN",
            "CARGO",
            "RUSTC_WRAPPER",
            "CARGO_BUILD_TARGET",
        ] {
            command.env_remove(inherited);
        }
        let mut path = self
            .linker
            .parent()
            .map(Path::to_path_buf)
            .unwrap_or_default()
            .into_os_string();
        path.push(":/usr/bin:/bin");
        command
            .env("RUSTC", RUSTC)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("PATH", path);
        command
    }

    pub(super) fn objcopy(&self) -> PathBuf {
        Path::new(LLVM).join("bin/llvm-objcopy")
    }
}

fn has_packages() -> bool {
    let programs = [
        RUSTC,
        CARGO,
        "/usr/lib/llvm-22/bin/llvm-config",
        "/usr/lib/llvm-22/bin/llvm-objcopy",
    ];
    programs.iter().all(|program| Path::new(program).exists()) && has_library_sources()
}

fn has_library_sources() -> bool {
    let sysroot = first_line_of(Command::new(RUSTC).args(["--print", "sysroot"]));
    sysroot.is_ok_and(|root| {
        Path::new(&root)
            .join("lib/rustlib/src/rust/library/Cargo.lock")
            .exists()
    })
}

fn install_packages() -> anyhow::Result<()> {
    println!("installing {} (about 240 MB)", PACKAGES.join(" "));
    apt::install(&PACKAGES)?;
    if !has_packages() {
        bail!("apt-get installed {}, and they are not there", PACKAGES.join(" "));
    }
    Ok(())
}

/// Of the right version, in the target folder or where `cargo install` puts it.
fn find_linker() -> Option<PathBuf> {
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo/bin"));
    let folders = [Some(target().join("tools/bin")), home];
    let candidates = folders
        .into_iter()
        .flatten()
        .map(|folder| folder.join("bpf-linker"));
    candidates
        .into_iter()
        .find(|linker| first_line(linker, "--version").is_ok_and(|version| version.ends_with(LINKER_VERSION)))
}

fn install_linker() -> anyhow::Result<PathBuf> {
    let tools = target().join("tools");
    println!(
        "installing bpf-linker {LINKER_VERSION} into {} (about a minute)",
        tools.display()
    );
    let status = workspace::cargo()
        .env("LLVM_PREFIX", LLVM)
        .env("LLVM_SYS_221_PREFIX", LLVM)
        .args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked"])
        .args(["--no-default-features", "--features", "llvm-22", "--root"])
        .arg(&tools)
        .stdin(Stdio::null())
        .status()
        .context("start cargo")?;
    if !status.success() {
        bail!("cargo install bpf-linker failed: {status}");
    }
    Ok(tools.join("bin/bpf-linker"))
}

fn first_line(program: &Path, argument: &str) -> anyhow::Result<String> {
    first_line_of(Command::new(program).arg(argument))
}

fn first_line_of(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .env_remove("RUSTUP_TOOLCHAIN")
        .stderr(Stdio::null())
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}
