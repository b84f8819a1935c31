//! A folder of Kubernetes manifests, read and watched: it stands in for an API server.
//!
//! A bad file or object is its own problem: what it gave last stays in force, and a Diagnostic says so. A folder that is away keeps
//! everything, as losing all routes to an unmounted disk is worse than serving old ones; a folder that is there and empty is empty.
//! An object's age is its `creationTimestamp` and never a file's time. Knows nothing of what objects mean.

mod changes;
mod file;
mod scan;
mod watch;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ingress_core::diagnostic::{Diagnostic, Severity};
use ingress_core::name::ObjectRef;

use self::file::{FileState, Standing};
use self::scan::Listing;
pub use self::watch::{WatchHandle, watch};
use crate::objects::{Objects, SourceState};

/// What earlier reads found, by file and by object: what stays in force while a file or an object is broken. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct LastGood {
    inner: Arc<Known>,
}

#[derive(Clone, Debug, Default)]
struct Known {
    files: BTreeMap<PathBuf, Arc<FileState>>,
    objects: Objects,
    /// Of the files.
    diagnostics: Vec<Diagnostic>,
    /// Some object stands in several places, so that what one file says depends on the others.
    collided: bool,
}

/// Reads the folder once. Files that did not change since `last` are not read again, and objects that did not change keep their `Arc`.
pub fn load(dir: &Path, last: &LastGood) -> (SourceState, LastGood) {
    match scan::list(dir) {
        Ok(listing) => update(dir, &listing, last.clone()),
        Err(error) => (absent(dir, &error, last), last.clone()),
    }
}

/// Reads one manifest that is given as text; the end of `name` says whether it is JSON or YAML.
pub fn load_text(name: &Path, text: &[u8]) -> SourceState {
    let files = BTreeMap::from([(name.to_path_buf(), Arc::new(file::from_text(name, text)))]);
    let assembly = assemble(&files);
    let (objects, mut diagnostics) = (assembly.objects, assembly.diagnostics);
    diagnostics.sort();
    SourceState { objects, diagnostics }
}

/// The state of a folder that can't be read: the last one, and an error.
fn absent(dir: &Path, error: &io::Error, last: &LastGood) -> SourceState {
    let message = match last.inner.files.len() {
        0 => format!("the folder can't be read: {error}"),
        _ => format!("the folder can't be read: {error}; its last good objects stay in force"),
    };
    let diagnostic = Diagnostic::new(
        Severity::Error,
        &file::reference(dir),
        "",
        "FolderUnreadable",
        message,
    );
    let mut diagnostics = last.inner.diagnostics.clone();
    diagnostics.push(diagnostic);
    SourceState {
        objects: last.inner.objects.clone(),
        diagnostics,
    }
}

/// Reads what changed in the listing, and puts everything together.
fn update(dir: &Path, listing: &Listing, last: LastGood) -> (SourceState, LastGood) {
    let changes = changes::find(dir, listing, &last.inner);
    // Nobody else holds it where a folder is watched: no copy.
    let mut known = Arc::unwrap_or_clone(last.inner);
    changes::apply(changes, &mut known);
    let state = SourceState {
        objects: known.objects.clone(),
        diagnostics: all_diagnostics(listing, &known.diagnostics),
    };
    let inner = Arc::new(known);
    (state, LastGood { inner })
}

fn all_diagnostics(listing: &Listing, of_files: &[Diagnostic]) -> Vec<Diagnostic> {
    let mut diagnostics = of_files.to_vec();
    diagnostics.extend(listing.unknown.iter().map(|(folder, why)| {
        Diagnostic::new(
            Severity::Error,
            &file::reference(folder),
            "",
            "FolderUnreadable",
            why.as_str(),
        )
    }));
    diagnostics.sort();
    diagnostics.dedup();
    diagnostics
}

/// The set of objects: of two files with the same one, the first by path wins; a stand-by only where nothing valid is.
fn assemble(files: &BTreeMap<PathBuf, Arc<FileState>>) -> Assembly<'_> {
    let mut assembly = Assembly::default();
    for standby in [false, true] {
        for (path, state) in files {
            for standing in state
                .standing
                .iter()
                .filter(|standing| standing.standby == standby)
            {
                assembly.add(path, standing);
            }
        }
    }
    assembly
        .diagnostics
        .extend(files.values().flat_map(|state| state.diagnostics.iter().cloned()));
    assembly
}

#[derive(Default)]
struct Assembly<'f> {
    objects: Objects,
    diagnostics: Vec<Diagnostic>,
    owners: HashMap<&'f ObjectRef, &'f Path, foldhash::quality::RandomState>,
    collided: bool,
}

impl<'f> Assembly<'f> {
    fn add(&mut self, path: &'f Path, standing: &'f Standing) {
        match self.owners.get(&standing.reference) {
            None => {
                self.owners.insert(&standing.reference, path);
                standing.object.clone().insert(&mut self.objects);
            }
            Some(owner) => {
                self.collided = true;
                if !standing.standby {
                    self.diagnostics.push(duplicate(&standing.reference, owner, path));
                }
            }
        }
    }
}

fn duplicate(reference: &ObjectRef, owner: &Path, path: &Path) -> Diagnostic {
    let message = if owner == path {
        format!(
            "{} has it more than once: the first one is in force",
            path.display()
        )
    } else {
        format!(
            "{} and {} both have it: the one in {} is in force, as it is the first by path",
            owner.display(),
            path.display(),
            owner.display()
        )
    };
    Diagnostic::new(Severity::Warning, reference, "", "ObjectDuplicated", message)
}

#[cfg(test)]
mod tests;
