//! `cargo xtask image`: an OCI image of the agent without a container engine: the program, the libraries that it loads, CA roots, a user.
//!
//! Packed by the tar, gzip and sha256sum of every Linux, with all times at 0: the same files give the same image.

mod engine;
mod layout;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, bail};

pub(crate) use self::engine::runtime;
use crate::workspace::{self, Profile};

/// Where Debian, Fedora and SUSE keep the roots, in one file.
const ROOTS: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
];
/// In the image, where rustls' and OpenSSL's users look for it.
const ROOTS_IN_IMAGE: &str = "etc/ssl/certs/ca-certificates.crt";
const PROGRAM_IN_IMAGE: &str = "usr/bin/ingress-agent";
/// What mounts need; a read-only root can't grow them.
const FOLDERS: [&str; 4] = [
    "etc/ingress-agent",
    "run/ingress-agent",
    "run/ingress-agent-pod",
    "var/lib/ingress-agent",
];

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Where the image goes: a tar of an OCI image layout, for `podman load`, `skopeo copy oci-archive:…` or `ctr images import`.
    #[arg(long, value_name = "FILE", default_value = "target/ingress-agent-image.tar")]
    output: PathBuf,
    /// The name and tag that the image says it has.
    #[arg(long, value_name = "NAME", default_value = concat!("ghcr.io/ingress-agent/ingress-agent:", env!("CARGO_PKG_VERSION")))]
    name: String,
    /// Leave the image's file system in this folder, and pack nothing (deploy/Containerfile does the rest).
    #[arg(long, value_name = "DIR", conflicts_with_all = ["output", "name"])]
    root: Option<PathBuf>,
    /// Pack the development build, which is large and slow.
    #[arg(long)]
    dev: bool,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let profile = if options.dev {
        Profile::Dev
    } else {
        Profile::Release
    };
    let program = workspace::build("ingress-agent", profile)?.join("ingress-agent");
    if let Some(root) = &options.root {
        let files = fill(root, &program)?;
        println!("{}: {} files", root.display(), files.len());
        return Ok(ExitCode::SUCCESS);
    }
    let image = pack(&program, &options.name, &options.output)?;
    println!("{}: {}", options.output.display(), options.name);
    println!("  {:>9} bytes unpacked, in {} files", image.unpacked, image.files);
    println!("  {:>9} bytes to pull (sha256:{})", image.layer, image.manifest);
    Ok(ExitCode::SUCCESS)
}

/// An image of the development build, for the test that gives it to a container engine.
pub(crate) fn for_tests() -> anyhow::Result<PathBuf> {
    let program = workspace::build("ingress-agent", Profile::Dev)?.join("ingress-agent");
    let archive = workspace::target().join("ingress-agent-image-under-test.tar");
    pack(&program, "ingress-agent.test/ingress-agent:under-test", &archive)?;
    Ok(archive)
}

/// What came out.
#[derive(Debug)]
struct Image {
    files: usize,
    unpacked: u64,
    /// The compressed layer's size.
    layer: u64,
    /// The manifest's digest: the image's own.
    manifest: String,
}

fn pack(program: &Path, name: &str, output: &Path) -> anyhow::Result<Image> {
    let folder = tempfile::tempdir()?;
    let root = folder.path().join("root");
    let files = fill(&root, program)?;
    let unpacked = files.iter().map(|file| size(file)).sum::<anyhow::Result<u64>>()?;
    let layout = folder.path().join("layout");
    let (layer, manifest) = layout::write(&layout, &root, name)?;
    tar(&layout, output)?;
    Ok(Image {
        files: files.len(),
        unpacked,
        layer,
        manifest,
    })
}

/// The image's whole file system; gives its files.
fn fill(root: &Path, program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    for folder in FOLDERS {
        std::fs::create_dir_all(root.join(folder))?;
    }
    let mut files = vec![copy(program, root, PROGRAM_IN_IMAGE, 0o755)?];
    strip(&root.join(PROGRAM_IN_IMAGE))?;
    for library in libraries(program)? {
        let place = library.strip_prefix("/").unwrap_or(&library).to_path_buf();
        files.push(copy(&library, root, place, 0o755)?);
    }
    let roots = ROOTS.iter().map(Path::new).find(|path| path.is_file());
    let roots = roots.context("no CA roots on this machine (package ca-certificates)")?;
    files.push(copy(roots, root, ROOTS_IN_IMAGE, 0o644)?);
    for (place, text) in [
        (
            "etc/passwd",
            "root:x:0:0:root:/:/nonexistent\nagent:x:65532:65532:agent:/:/nonexistent\n",
        ),
        ("etc/group", "root:x:0:\nagent:x:65532:\n"),
        // The C library asks nobody for names of hosts without it.
        ("etc/nsswitch.conf", "hosts: files dns\n"),
    ] {
        let path = root.join(place);
        std::fs::write(&path, text)?;
        files.push(path);
    }
    Ok(files)
}

/// Follows links, so that the file itself is under the name that is asked for.
fn copy(from: &Path, root: &Path, place: impl AsRef<Path>, mode: u32) -> anyhow::Result<PathBuf> {
    let to = root.join(place);
    std::fs::create_dir_all(to.parent().unwrap_or(root))?;
    std::fs::copy(from, &to).with_context(|| from.display().to_string())?;
    std::fs::set_permissions(&to, std::fs::Permissions::from_mode(mode))?;
    Ok(to)
}

/// Line tables are half of it, and names are enough for a backtrace.
fn strip(program: &Path) -> anyhow::Result<()> {
    let status = Command::new("strip").arg("--strip-debug").arg(program).status();
    let status = status.context("strip (binutils, which a C compiler brings along) is needed")?;
    if !status.success() {
        bail!("strip {}: {status}", program.display());
    }
    Ok(())
}

/// The shared libraries that a program loads, and the loader, by the paths at which they are looked for.
fn libraries(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).stdin(Stdio::null()).output();
    let output = output.context("ldd (of the C library) is needed to find what the program loads")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if let Some(missing) = text.lines().find(|line| line.contains("not found")) {
        bail!("{}: {}", program.display(), missing.trim());
    }
    Ok(loaded(&text))
}

/// Of lines such as `libc.so.6 => /lib/libc.so.6 (0x…)` and `/lib64/ld-linux.so.2 (0x…)`; a static program has none.
fn loaded(ldd: &str) -> Vec<PathBuf> {
    ldd.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect()
}

fn size(file: &Path) -> anyhow::Result<u64> {
    Ok(std::fs::metadata(file)
        .with_context(|| file.display().to_string())?
        .len())
}

/// Everything in a folder, in order of names, owned by root, readable for everybody, with no time.
fn tar(folder: &Path, output: &Path) -> anyhow::Result<()> {
    let status = Command::new("tar")
        .args(["--create", "--sort=name", "--mtime=@0", "--owner=0", "--group=0"])
        .args([
            "--mode=u+rwX,go+rX,go-w",
            "--numeric-owner",
            "--format=gnu",
            "--file",
        ])
        .arg(output)
        .arg("--directory")
        .arg(folder)
        .arg(".")
        .stdin(Stdio::null())
        .status()
        .context("GNU tar is needed")?;
    if !status.success() {
        bail!("tar {}: {status}", folder.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
