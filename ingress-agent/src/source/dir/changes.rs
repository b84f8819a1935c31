//! What differs between a listing of the folder and what is known of it, and the smallest work that brings the latter up to date.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use ingress_core::name::ObjectRef;

use super::file::{self, FileState, Place};
use super::scan::{Listing, Stamp};
use super::{Known, assemble};
use crate::source::manifest::object::Object;

/// So many files at least for each thread that reads: a start reads thousands, a change a few.
const FILES_A_THREAD: usize = 250;
/// Reading is short, and the node has other work.
const MAX_THREADS: usize = 8;

/// Each file that is new, was read again, or went.
pub(super) type Changes = Vec<(PathBuf, Option<Arc<FileState>>)>;

type Found = Result<Stamp, String>;

/// Reads the files whose stamps differ. Both sides are sorted by path: one walk over the two, no search.
pub(super) fn find(dir: &Path, listing: &Listing, known: &Known) -> Changes {
    let mut unread = Vec::new();
    let mut gone = Vec::new();
    let mut earlier = known.files.iter().peekable();
    for (path, found) in &listing.files {
        let before = loop {
            let Some(&(other, state)) = earlier.peek() else {
                break None;
            };
            match order(other, path) {
                Ordering::Less => gone.push(other),
                Ordering::Equal => break Some(state),
                Ordering::Greater => break None,
            }
            earlier.next();
        };
        if before.is_some() {
            earlier.next();
        }
        if before.is_none_or(|state| found.as_ref().ok() != state.stamp.as_ref() || state.stamp.is_none()) {
            unread.push((path, found));
        }
    }
    gone.extend(earlier.map(|(path, _)| path));
    // What is below a folder that can't be listed may still be there.
    gone.retain(|path| !listing.unknown.keys().any(|folder| path.starts_with(folder)));
    let mut changes = read_all(dir, &unread, known);
    changes.extend(gone.into_iter().map(|path| (path.clone(), None)));
    changes
}

/// The order of paths; nearly all are equal, which their bytes tell faster than their components do.
fn order(a: &Path, b: &Path) -> Ordering {
    if a.as_os_str() == b.as_os_str() {
        return Ordering::Equal;
    }
    a.cmp(b)
}

fn read_all(dir: &Path, unread: &[(&PathBuf, &Found)], known: &Known) -> Changes {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let threads = (unread.len() / FILES_A_THREAD).clamp(1, cores.min(MAX_THREADS));
    let read = |part: &[(&PathBuf, &Found)]| -> Changes {
        part.iter()
            .map(|(path, found)| ((*path).clone(), Some(Arc::new(read_one(dir, path, found, known)))))
            .collect()
    };
    if threads == 1 {
        return read(unread);
    }
    thread::scope(|scope| {
        let size = unread.len().div_ceil(threads);
        let parts: Vec<_> = unread
            .chunks(size)
            .map(|part| (part, thread::Builder::new().spawn_scoped(scope, || read(part))))
            .collect();
        let mut all = Changes::new();
        for (part, thread) in parts {
            // Where no thread can be had, or one panicked, this one does its work.
            let done = thread.ok().and_then(|thread| thread.join().ok());
            all.extend(done.unwrap_or_else(|| read(part)));
        }
        all
    })
}

fn read_one(dir: &Path, path: &Path, found: &Found, known: &Known) -> FileState {
    let place = Place {
        root: dir,
        relative: path,
    };
    file::read(
        &place,
        found,
        known.files.get(path).map(Arc::as_ref),
        &known.objects,
    )
}

/// Puts the changes in force: what they touch where that is possible, everything anew where it is not.
pub(super) fn apply(changes: Changes, known: &mut Known) {
    if changes.is_empty() {
        return;
    }
    let simple = known.files.len() > changes.len() && is_simple(&changes, known);
    let mut retell = false;
    for (path, new) in changes {
        let old = match &new {
            Some(new) => known.files.insert(path, Arc::clone(new)),
            None => known.files.remove(&path),
        };
        let says = |state: &Option<Arc<FileState>>| state.as_ref().is_some_and(|s| !s.diagnostics.is_empty());
        retell |= says(&old) || says(&new);
        if simple {
            replace(old.as_deref(), new.as_deref(), known);
        }
    }
    if !simple {
        let assembly = assemble(&known.files);
        let (objects, diagnostics, collided) = (assembly.objects, assembly.diagnostics, assembly.collided);
        (known.objects, known.diagnostics, known.collided) = (objects, diagnostics, collided);
    } else if retell {
        let told = known
            .files
            .values()
            .flat_map(|state| state.diagnostics.iter().cloned());
        known.diagnostics = told.collect();
    }
}

/// Whether each object of the changed files stands in one of them alone, before as after: then no other file matters.
fn is_simple(changes: &Changes, known: &Known) -> bool {
    if known.collided {
        return false;
    }
    let mut before = BTreeSet::new();
    let mut after = BTreeSet::new();
    for (path, new) in changes {
        let old = known.files.get(path);
        before.extend(old.iter().flat_map(|old| references(old)));
        for reference in new.iter().flat_map(|new| references(new)) {
            if !after.insert(reference) {
                return false;
            }
        }
    }
    // One that moved from a changed file to another must not be taken out after it was put in.
    let moved = changes.iter().any(|(path, new)| {
        let stays: BTreeSet<_> = new.iter().flat_map(|new| references(new)).collect();
        let old = known.files.get(path);
        old.iter()
            .flat_map(|old| references(old))
            .any(|reference| after.contains(reference) && !stays.contains(reference))
    });
    !moved
        && after
            .difference(&before)
            .all(|reference| Object::find(&known.objects, reference).is_none())
}

fn references(state: &FileState) -> impl Iterator<Item = &ObjectRef> {
    state.standing.iter().map(|standing| &standing.reference)
}

/// Writes only what differs: a kind of which nothing changed keeps its map.
fn replace(old: Option<&FileState>, new: Option<&FileState>, known: &mut Known) {
    let standing = |state: Option<&FileState>| state.map(|s| s.standing.clone()).unwrap_or_default();
    let (old, new) = (standing(old), standing(new));
    let stays: BTreeSet<_> = new.iter().map(|standing| &standing.reference).collect();
    for gone in old.iter().filter(|gone| !stays.contains(&gone.reference)) {
        Object::remove(&mut known.objects, &gone.reference);
    }
    drop(stays);
    for standing in new {
        let before = Object::find(&known.objects, &standing.reference);
        if !before.is_some_and(|before| before.is(&standing.object)) {
            standing.object.insert(&mut known.objects);
        }
    }
}

#[cfg(test)]
mod tests;
