//! Which files of the folder are manifests, and whether they may have changed. Looks at names and `stat` alone.
//!
//! Links are followed. Hidden names are skipped, and with them editors' temporaries (`.web.yaml.swp`, `.#web.yaml`) and the `..data`
//! and `..2024_01_01` folders of a mounted ConfigMap or Secret, whose visible links (`web.yaml -> ..data/web.yaml`) are read instead.
//! Other temporaries (`web.yaml~`, `#web.yaml#`, `4913`) don't end like a manifest.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use crate::source::manifest::Format;

const MAX_DEPTH: usize = 32;
const MAX_FILES: usize = 100_000;
const MAX_FOLDERS: usize = 20_000;

/// What changes when a file's content does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) size: u64,
    /// Seconds and nanoseconds.
    pub(super) modified: (i64, i64),
    changed: (i64, i64),
    pub(super) inode: u64,
    pub(super) device: u64,
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
            device: metadata.dev(),
        }
    }
}

/// The manifests of a folder, by path relative to it.
#[derive(Clone, Debug, Default)]
pub(super) struct Listing {
    /// A file that can't be looked at says why.
    pub(super) files: BTreeMap<PathBuf, Result<Stamp, String>>,
    /// Folders that could not be listed, or not all of them: what is below may still be there.
    pub(super) unknown: BTreeMap<PathBuf, String>,
}

/// Lists the folder; an error means that the folder itself can't be read.
pub(super) fn list(root: &Path) -> io::Result<Listing> {
    let metadata = fs::metadata(root)?;
    let mut walk = Walk {
        root,
        listing: Listing::default(),
        folders: 0,
        above: Vec::new(),
    };
    let entries = fs::read_dir(root)?;
    walk.above.push((metadata.dev(), metadata.ino()));
    walk.entries(Path::new(""), entries);
    Ok(walk.listing)
}

/// Brings `listing` up to date with one path that changed; false when only a new [`list`] can tell.
pub(super) fn refresh(root: &Path, listing: &mut Listing, path: &Path) -> bool {
    let Ok(relative) = path.strip_prefix(root) else {
        return false;
    };
    match visibility(relative) {
        Visibility::Swap => return false,
        Visibility::Hidden => return true,
        Visibility::Visible => {}
    }
    let linked = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return forget(listing, relative),
        Err(_) => return false,
    };
    if !linked.is_file() {
        return false;
    }
    if format_of(relative).is_some() {
        listing
            .files
            .insert(relative.to_path_buf(), Ok(Stamp::of(&linked)));
    }
    true
}

/// How the file's name says it is written; none for what is no manifest.
pub(super) fn format_of(path: &Path) -> Option<Format> {
    match path.extension()?.to_str()? {
        "yaml" | "yml" => Some(Format::Yaml),
        "json" => Some(Format::Json),
        _ => None,
    }
}

fn forget(listing: &mut Listing, relative: &Path) -> bool {
    if relative.as_os_str().is_empty() {
        return false;
    }
    if listing.files.remove(relative).is_some() {
        return true;
    }
    // A folder takes its files along.
    !listing
        .files
        .keys()
        .chain(listing.unknown.keys())
        .any(|path| path.starts_with(relative))
}

enum Visibility {
    Visible,
    Hidden,
    /// Part of a mounted ConfigMap's swap: the visible links now lead elsewhere.
    Swap,
}

fn visibility(relative: &Path) -> Visibility {
    let names = || {
        relative.components().filter_map(|component| match component {
            Component::Normal(name) => Some(name.as_encoded_bytes()),
            _ => None,
        })
    };
    if names().any(|name| name.starts_with(b"..")) {
        Visibility::Swap
    } else if names().any(is_hidden_bytes) {
        Visibility::Hidden
    } else {
        Visibility::Visible
    }
}

fn is_hidden(name: &OsStr) -> bool {
    is_hidden_bytes(name.as_encoded_bytes())
}

fn is_hidden_bytes(name: &[u8]) -> bool {
    name.starts_with(b".") || name.starts_with(b"#")
}

struct Walk<'r> {
    root: &'r Path,
    listing: Listing,
    folders: usize,
    /// Device and inode of the folders above: one that appears again is a loop of links.
    above: Vec<(u64, u64)>,
}

impl Walk<'_> {
    fn folder(&mut self, relative: &Path, identity: (u64, u64)) {
        self.folders = self.folders.saturating_add(1);
        if self.above.contains(&identity) {
            return;
        }
        if self.above.len() >= MAX_DEPTH || self.folders > MAX_FOLDERS {
            let why = format!("not read: at most {MAX_FOLDERS} folders, {MAX_DEPTH} deep, are");
            self.listing.unknown.insert(relative.to_path_buf(), why);
            return;
        }
        match fs::read_dir(self.root.join(relative)) {
            Ok(entries) => {
                self.above.push(identity);
                self.entries(relative, entries);
                self.above.pop();
            }
            // Gone since its parent was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.unknown(relative, &error),
        }
    }

    fn entries(&mut self, relative: &Path, entries: fs::ReadDir) {
        for entry in entries {
            match entry {
                Ok(entry) if is_hidden(&entry.file_name()) => {}
                Ok(entry) => self.entry(&relative.join(entry.file_name())),
                Err(error) => return self.unknown(relative, &error),
            }
        }
    }

    fn entry(&mut self, relative: &Path) {
        let is_manifest = format_of(relative).is_some();
        match fs::metadata(self.root.join(relative)) {
            Ok(metadata) if metadata.is_dir() => self.folder(relative, (metadata.dev(), metadata.ino())),
            Ok(metadata) if is_manifest && metadata.is_file() => {
                self.file(relative, Ok(Stamp::of(&metadata)))
            }
            Ok(_) => {}
            Err(error) if is_manifest => self.missing(relative, &error),
            Err(_) => {}
        }
    }

    /// A plain file that can't be found has just been removed; a link that leads nowhere may be a mount that is away.
    fn missing(&mut self, relative: &Path, error: &io::Error) {
        let is_link = fs::symlink_metadata(self.root.join(relative)).is_ok();
        if is_link || error.kind() != io::ErrorKind::NotFound {
            self.file(relative, Err(error.to_string()));
        }
    }

    fn file(&mut self, relative: &Path, found: Result<Stamp, String>) {
        if self.listing.files.len() < MAX_FILES {
            self.listing.files.insert(relative.to_path_buf(), found);
        } else {
            let folder = relative.parent().unwrap_or(relative).to_path_buf();
            let why = format!("not read to its end: at most {MAX_FILES} files are");
            self.listing.unknown.insert(folder, why);
        }
    }

    fn unknown(&mut self, relative: &Path, error: &io::Error) {
        self.listing
            .unknown
            .insert(relative.to_path_buf(), format!("can't be listed: {error}"));
    }
}
