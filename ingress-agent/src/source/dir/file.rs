//! One manifest file: what of it is in force, and what there is to say about it.
//!
//! A file that can't be read, or not as a whole, keeps the objects that it gave last.

use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ingress_core::diagnostic::{Diagnostic, Severity};
use ingress_core::name::{Kind, ObjectRef};

use super::scan::{self, Stamp};
use crate::objects::Objects;
use crate::source::admission;
use crate::source::manifest::object::Object;
use crate::source::manifest::{self, Entry, Format, Manifest};

/// Largest manifest file, in bytes.
pub(super) const MAX_BYTES: u64 = 16 * 1024 * 1024;
/// A file that is wrong all over is told so often and no more.
const MAX_DIAGNOSTICS: usize = 200;
/// Clocks of file systems tick in milliseconds: a file so young can change again without a trace in its stamp.
const YOUNG: Duration = Duration::from_millis(100);

/// What is known of a file.
#[derive(Debug)]
pub(super) struct FileState {
    /// None when the file has to be read again however it looks.
    pub(super) stamp: Option<Stamp>,
    hash: u64,
    pub(super) standing: Vec<Standing>,
    pub(super) diagnostics: Vec<Diagnostic>,
}

/// One object that a file gives.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    pub(super) reference: ObjectRef,
    pub(super) object: Object,
    /// An earlier version, in force because the present one was refused.
    pub(super) standby: bool,
}

/// Where a file is, as the reader needs it.
pub(super) struct Place<'p> {
    pub(super) root: &'p Path,
    pub(super) relative: &'p Path,
}

/// Reads the file anew. `earlier` is what it gave before, `objects` is all that is in force.
pub(super) fn read(
    place: &Place<'_>,
    found: &Result<Stamp, String>,
    earlier: Option<&FileState>,
    objects: &Objects,
) -> FileState {
    let file = reference(place.relative);
    let stamp = found.as_ref().ok().copied();
    let bytes = found
        .clone()
        .and_then(|stamp| contents(&place.root.join(place.relative), stamp.size));
    let hash = bytes.as_deref().map_or(0, hash);
    let mut state = match bytes {
        Ok(_) if earlier.is_some_and(|earlier| earlier.hash == hash && earlier.hash != 0) => {
            unchanged(earlier)
        }
        Ok(bytes) if bytes.is_empty() && gave_objects(earlier) => emptied(&file, earlier),
        Ok(bytes) => match manifest::parse(&bytes, format_of(place.relative), &file) {
            Ok(manifest) => judge(manifest, &file, objects),
            Err(message) => failed(&file, "ManifestInvalid", &message, earlier),
        },
        Err(message) => failed(&file, "FileUnreadable", &message, earlier),
    };
    state.hash = hash;
    state.stamp = stamp.filter(|stamp| !is_young(stamp));
    state
}

/// A file that is given as text, and has no past.
pub(super) fn from_text(name: &Path, text: &[u8]) -> FileState {
    let file = reference(name);
    match manifest::parse(text, format_of(name), &file) {
        Ok(manifest) => judge(manifest, &file, &Objects::default()),
        Err(message) => failed(&file, "ManifestInvalid", &message, None),
    }
}

/// How diagnostics name a file: by its path below the folder. Control characters would forge lines of a log.
pub(super) fn reference(relative: &Path) -> ObjectRef {
    let name = relative.to_string_lossy();
    ObjectRef::new(Kind::File, "", name.replace(char::is_control, "\u{fffd}"))
}

/// The text, bounded even when the file grows while it is read.
fn contents(path: &Path, size: u64) -> Result<Vec<u8>, String> {
    let too_large = || format!("expected at most {} MiB, found more", MAX_BYTES / 1024 / 1024);
    if size > MAX_BYTES {
        return Err(too_large());
    }
    let bytes = read_bounded(path).map_err(|error| format!("can't be read: {error}"))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_BYTES) {
        return Err(too_large());
    }
    Ok(bytes)
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(MAX_BYTES.saturating_add(1))
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn format_of(relative: &Path) -> Format {
    scan::format_of(relative).unwrap_or(Format::Yaml)
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = foldhash::quality::FixedState::default().build_hasher();
    hasher.write(bytes);
    hasher.finish()
}

fn is_young(stamp: &Stamp) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = u64::try_from(stamp.modified.0).unwrap_or_default();
    let nanoseconds = u32::try_from(stamp.modified.1).unwrap_or_default();
    now.saturating_sub(Duration::new(seconds, nanoseconds)) < YOUNG
}

fn gave_objects(earlier: Option<&FileState>) -> bool {
    earlier.is_some_and(|earlier| !earlier.standing.is_empty())
}

fn state(standing: Vec<Standing>, diagnostics: Vec<Diagnostic>) -> FileState {
    FileState {
        stamp: None,
        hash: 0,
        standing,
        diagnostics,
    }
}

fn unchanged(earlier: Option<&FileState>) -> FileState {
    let (standing, diagnostics) = earlier
        .map(|earlier| (earlier.standing.clone(), earlier.diagnostics.clone()))
        .unwrap_or_default();
    state(standing, diagnostics)
}

/// Most editors and copies truncate a file before they write it: an empty one is no wish to remove what it held.
fn emptied(file: &ObjectRef, earlier: Option<&FileState>) -> FileState {
    let message = "the file is empty: its last good objects stay in force until it has content or is removed";
    let diagnostic = Diagnostic::new(Severity::Warning, file, "", "FileEmpty", message);
    state(unchanged(earlier).standing, vec![diagnostic])
}

fn failed(file: &ObjectRef, reason: &'static str, message: &str, earlier: Option<&FileState>) -> FileState {
    let standing = unchanged(earlier).standing;
    let consequence = match standing.len() {
        0 => "nothing of it is in force".to_owned(),
        1 => "the object that it gave last stays in force".to_owned(),
        count => format!("the {count} objects that it gave last stay in force"),
    };
    let message = format!("{message}; {consequence}");
    state(
        standing,
        vec![Diagnostic::new(Severity::Error, file, "", reason, message)],
    )
}

fn judge(manifest: Manifest, file: &ObjectRef, objects: &Objects) -> FileState {
    let mut state = state(Vec::new(), manifest.diagnostics);
    for entry in manifest.entries {
        match entry {
            Entry::Object { object, warnings } => {
                state.diagnostics.extend(warnings);
                state.admit(object, objects);
            }
            Entry::Broken { reference, message } => state.refuse_broken(file, reference, &message, objects),
        }
    }
    bound(&mut state.diagnostics, file);
    state
}

/// Drops the least of what is too much.
fn bound(diagnostics: &mut Vec<Diagnostic>, file: &ObjectRef) {
    let Some(more) = diagnostics
        .len()
        .checked_sub(MAX_DIAGNOSTICS)
        .filter(|more| *more > 0)
    else {
        return;
    };
    diagnostics.sort_by_key(|diagnostic| std::cmp::Reverse(diagnostic.severity));
    diagnostics.truncate(MAX_DIAGNOSTICS);
    let message = format!("{more} more problems of this file are not listed");
    diagnostics.push(Diagnostic::new(
        Severity::Warning,
        file,
        "",
        "TooManyProblems",
        message,
    ));
}

impl FileState {
    fn admit(&mut self, object: Object, objects: &Objects) {
        let reference = object.reference();
        match admission::admit(object) {
            Ok(object) => {
                let object = object.or_same(Object::find(objects, &reference));
                self.standing.push(Standing {
                    reference,
                    object,
                    standby: false,
                });
            }
            Err(errors) => self.refuse(reference, errors, objects),
        }
    }

    fn refuse(&mut self, reference: ObjectRef, errors: Vec<admission::FieldError>, objects: &Objects) {
        let consequence = self.stand_by(&reference, objects);
        for error in errors {
            let message = format!("{}; {consequence}", error.message);
            let diagnostic =
                Diagnostic::new(Severity::Error, &reference, error.field, "ObjectRefused", message);
            self.diagnostics.push(diagnostic);
        }
    }

    fn refuse_broken(&mut self, file: &ObjectRef, reference: ObjectRef, message: &str, objects: &Objects) {
        let consequence = self.stand_by(&reference, objects);
        let message = format!("{message}; {reference}: {consequence}");
        self.diagnostics.push(Diagnostic::new(
            Severity::Error,
            file,
            "",
            "ManifestInvalid",
            message,
        ));
    }

    /// Keeps the version of the object that is in force, and says so.
    fn stand_by(&mut self, reference: &ObjectRef, objects: &Objects) -> &'static str {
        match Object::find(objects, reference) {
            Some(object) => {
                self.standing.push(Standing {
                    reference: reference.clone(),
                    object,
                    standby: true,
                });
                "its last good version stays in force"
            }
            None => "the object is not in force, as there is no earlier good version of it",
        }
    }
}
