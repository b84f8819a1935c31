//! What outlives an agent: XDP links, under one directory of a mounted bpffs, so that no later agent has to set a device up again.
//!
//! `DIR/v1/xdp-NAMESPACE-INTERFACE` is a link, `DIR/v1/program-ID` a program that a link runs or may come to run: its name tells the next
//! agent whose it is, which asks for CAP_SYS_ADMIN by any other way. A link is taken for what the kernel says it is, wherever below DIR it
//! stands: so the layout may change without a gap between one format and the next.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::sys::{self, Object};

/// The layout of the directory.
const FORMAT: &str = "v1";
/// How every program of ours begins.
const OURS: &str = "ingress_";
/// Objects that are looked at.
const MOST: usize = 1024;
const DEPTH: usize = 3;

/// The directory of one network namespace's agents.
#[derive(Debug)]
pub(super) struct Pins {
    dir: PathBuf,
    namespace: u64,
}

/// An object in the directory.
#[derive(Debug)]
struct Pinned {
    path: PathBuf,
    descriptor: OwnedFd,
    object: Object,
}

/// A link that an earlier agent left, or one that lives.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) link: OwnedFd,
    /// Whether the program in it is known to be an agent's.
    pub(super) ours: bool,
}

impl Pins {
    /// Makes the directory where it is missing.
    ///
    /// # Errors
    /// Why nothing can be pinned, in words.
    pub(super) fn open(dir: &Path) -> Result<Self, String> {
        let why = |error: io::Error| format!("{}: {error}", dir.display());
        let parent = dir.parent().unwrap_or(dir);
        match sys::is_bpffs(parent) {
            Ok(true) => {}
            Ok(false) => return Err(format!("{} is not in a mounted bpffs", dir.display())),
            Err(error) => return Err(format!("{}: {error}", parent.display())),
        }
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(dir.join(FORMAT)).map_err(why)?;
        Ok(Self {
            dir: dir.to_owned(),
            namespace: namespace().map_err(why)?,
        })
    }

    /// Where the link of an interface belongs.
    pub(super) fn place(&self, interface: u32) -> PathBuf {
        let name = format!("xdp-{}-{interface}", self.namespace);
        self.dir.join(FORMAT).join(name)
    }

    /// The link by which an interface of this namespace runs the program with this number.
    pub(super) fn find(&self, interface: u32, program: u32) -> Option<Found> {
        let all = all(&self.dir);
        let ours = known(&all).contains(&program);
        let it = Object::XdpLink { program, interface };
        let found = all.into_iter().find(|pinned| pinned.object == it)?;
        Some(Found {
            path: found.path,
            link: found.descriptor,
            ours,
        })
    }

    /// A program's name for later agents, where it has none yet.
    pub(super) fn name(&self, program: BorrowedFd<'_>, id: u32) -> io::Result<()> {
        let path = self.dir.join(FORMAT).join(format!("program-{id}"));
        match sys::open(&path).and_then(|there| is_program(there.as_fd(), id)) {
            Ok(true) => Ok(()),
            _ => replace(program, &path),
        }
    }

    /// A link's name, where it has none yet. What is in its place gives way, unless it is somebody else's link that lives.
    pub(super) fn keep(&self, link: BorrowedFd<'_>, interface: u32) -> io::Result<PathBuf> {
        let path = self.place(interface);
        let own = sys::what_is(link)?;
        let there = sys::open(&path).and_then(|there| sys::what_is(there.as_fd()));
        match there {
            Ok(object) if object == own => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => sys::pin(link, &path)?,
            Ok(Object::XdpLink { program, interface })
                if interface != 0 && !known(&all(&self.dir)).contains(&program) =>
            {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "somebody else's link is in its place",
                ));
            }
            _ => {
                tracing::warn!(path = %path.display(), "kernel: a pin that is not this interface's link is replaced");
                replace(link, &path)?;
            }
        }
        Ok(path)
    }

    /// Removes what no agent of this namespace needs: links that are not `kept` (`None`: all are), those of interfaces that are gone, programs
    /// that no link runs. What an agent still holds stays in force until that one lets it go.
    pub(super) fn tidy(&self, kept: Option<&BTreeSet<PathBuf>>, own: &[u32]) {
        let mine = format!("xdp-{}-", self.namespace);
        let all = all(&self.dir);
        let known = known(&all);
        let mut runs: BTreeSet<u32> = own.iter().copied().collect();
        for pinned in &all {
            let Object::XdpLink { program, interface } = pinned.object else {
                continue;
            };
            let named = pinned.path.file_name().and_then(|name| name.to_str());
            let is_mine = named.is_some_and(|name| name.starts_with(&mine)) && known.contains(&program);
            if interface == 0 || (is_mine && kept.is_some_and(|kept| !kept.contains(&pinned.path))) {
                remove(&pinned.path);
            } else {
                runs.insert(program);
            }
        }
        for pinned in &all {
            match &pinned.object {
                Object::Program { id, name } if name.starts_with(OURS) && !runs.contains(id) => {
                    remove(&pinned.path);
                }
                Object::Program { name, .. } if !name.starts_with(OURS) => leave(&pinned.path),
                Object::Other => leave(&pinned.path),
                _ => {}
            }
        }
    }
}

/// Removes every pinned link of this network namespace, for an agent that has no use for one.
pub(crate) fn clear(dir: &Path) {
    if dir.exists()
        && let Ok(pins) = Pins::open(dir)
    {
        pins.tidy(Some(&BTreeSet::new()), &[]);
        let _ = fs::remove_dir(dir.join(FORMAT)).and_then(|()| fs::remove_dir(dir));
    }
}

/// What is pinned, a line each, for people.
pub(crate) fn list(dir: &Path) -> Vec<String> {
    let all = all(dir);
    let known = known(&all);
    let line = |pinned: &Pinned| match &pinned.object {
        Object::XdpLink { program, interface } => {
            let whose = if known.contains(program) {
                ""
            } else {
                ", which is not ours"
            };
            let place = match interface {
                0 => "an interface that is gone".to_owned(),
                number => format!("interface {number}"),
            };
            Some(format!(
                "{}: XDP on {place}, program {program}{whose}",
                pinned.path.display()
            ))
        }
        Object::Program { .. } => None,
        Object::Other => Some(format!("{}: not ours", pinned.path.display())),
    };
    all.iter().filter_map(line).collect()
}

/// Removes everything of ours in the directory, whatever its format; what is not ours stays, and is returned.
///
/// # Errors
/// With the path of what can't be removed.
pub(crate) fn remove_all(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let all = all(dir);
    let known = known(&all);
    let mut foreign = Vec::new();
    for pinned in all {
        let ours = match &pinned.object {
            Object::XdpLink { program, interface } => *interface == 0 || known.contains(program),
            Object::Program { name, .. } => name.starts_with(OURS),
            Object::Other => false,
        };
        if !ours {
            foreign.push(pinned.path);
            continue;
        }
        fs::remove_file(&pinned.path).map_err(|error| format!("{}: {error}", pinned.path.display()))?;
    }
    if foreign.is_empty() {
        let _ = fs::remove_dir(dir.join(FORMAT)).and_then(|()| fs::remove_dir(dir));
    }
    Ok(foreign)
}

fn namespace() -> io::Result<u64> {
    Ok(fs::metadata("/proc/thread-self/ns/net")?.ino())
}

fn is_program(object: BorrowedFd<'_>, number: u32) -> io::Result<bool> {
    Ok(matches!(sys::what_is(object)?, Object::Program { id, .. } if id == number))
}

/// Everything in the directory that bpf(2) knows, to a bounded depth and number.
fn all(dir: &Path) -> Vec<Pinned> {
    let mut all = Vec::new();
    collect(dir, DEPTH, &mut all);
    all
}

fn collect(dir: &Path, depth: usize, all: &mut Vec<Pinned>) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries.take(MOST) {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if depth > 1 {
                collect(&path, depth - 1, all);
            }
        } else if all.len() < MOST
            && let Ok(descriptor) = sys::open(&path)
            && let Ok(object) = sys::what_is(descriptor.as_fd())
        {
            all.push(Pinned {
                path,
                descriptor,
                object,
            });
        }
    }
}

/// The numbers of those programs that are an agent's, of whatever version.
fn known(all: &[Pinned]) -> BTreeSet<u32> {
    let ours = all.iter().filter_map(|pinned| match &pinned.object {
        Object::Program { id, name } if name.starts_with(OURS) => Some(*id),
        _ => None,
    });
    ours.collect()
}

/// In the place of whatever is there, at once.
fn replace(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push("-new");
    let beside = path.with_file_name(name);
    let _ = fs::remove_file(&beside);
    sys::pin(object, &beside)?;
    fs::rename(&beside, path).inspect_err(|_| {
        let _ = fs::remove_file(&beside);
    })
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Ok(()) => tracing::info!(path = %path.display(), "kernel: a pin that nobody needs is removed"),
        Err(error) => tracing::warn!(path = %path.display(), %error, "kernel: a pin cannot be removed"),
    }
}

fn leave(path: &Path) {
    tracing::warn!(path = %path.display(), "kernel: it is not an agent's, and stays");
}
