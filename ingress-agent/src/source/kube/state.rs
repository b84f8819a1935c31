//! The last state on the node's own disk: an agent that starts while the API server is away serves from it.
//!
//! Secrets lie in a file of their own, which has to be in memory (tmpfs) and for us alone. Both files are written whole and then renamed,
//! and carry a checksum: a damaged one is told and ignored.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::objects::Objects;
use crate::source::manifest::object::Object;

/// Raised when the files' form changes: older ones are ignored then.
const FORMAT: u32 = 1;
/// More is not ours.
const LARGEST: u64 = 1 << 30;

/// Where the two files lie.
#[derive(Clone, Debug)]
pub(super) struct Shelf {
    dir: PathBuf,
    secrets: PathBuf,
    /// The last attempt to save failed, which is said once.
    fails: Arc<AtomicBool>,
}

/// What was found.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) objects: Objects,
    /// Seconds since 1970.
    pub(super) saved: u64,
    /// What could not be read, if anything.
    pub(super) problem: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
    saved: u64,
    /// FNV-1a of all that follows.
    checksum: u64,
}

impl Shelf {
    pub(super) fn new(dir: PathBuf, secrets: PathBuf) -> Self {
        Self {
            dir,
            secrets,
            fails: Arc::default(),
        }
    }

    /// A failure is logged, once until it went well again.
    pub(super) fn save_and_say(&self, objects: &Objects) {
        let saved = self.save(objects);
        let failed_before = self.fails.swap(saved.is_err(), Ordering::Relaxed);
        if let Err(problem) = saved
            && !failed_before
        {
            tracing::error!("the state is not wholly saved on this node: {problem}");
        }
    }

    /// Writes both files. Secrets that have no safe place are left out, and that is an error once everything else is written.
    fn save(&self, objects: &Objects) -> Result<(), String> {
        let mut public = Vec::new();
        let mut private = Vec::new();
        each(objects, |object| {
            let into = match object {
                Object::Secret(_) => &mut private,
                _ => &mut public,
            };
            serde_json::to_writer(&mut *into, &object)?;
            into.push(b'\n');
            Ok(())
        })
        .map_err(|error| error.to_string())?;
        let said = |path: &Path| {
            let path = path.display().to_string();
            move |error: io::Error| format!("{path}: {error}")
        };
        write(&self.dir, "objects.json", &public).map_err(said(&self.dir))?;
        if private.is_empty() {
            return Ok(());
        }
        make(&self.secrets).map_err(said(&self.secrets))?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let real = self.secrets.canonicalize().map_err(said(&self.secrets))?;
        if !is_in_memory(&mounts, &real) {
            return Err(format!(
                "{} is not on a tmpfs, so that Secrets are not kept there: after a restart without the API server TLS hosts would have no certificate (--state-secrets-dir)",
                self.secrets.display()
            ));
        }
        write(&self.secrets, "secrets.json", &private).map_err(said(&self.secrets))
    }

    /// `None` when nothing was ever saved; the error is for a file that is there and can't be used.
    pub(super) fn load(&self) -> Result<Option<Stored>, String> {
        let mut objects = Objects::default();
        let path = self.dir.join("objects.json");
        let Some(saved) = read(&path, &mut objects).map_err(|why| damaged(&path, &why))? else {
            return Ok(None);
        };
        let path = self.secrets.join("secrets.json");
        let problem = match read(&path, &mut objects) {
            Ok(_) => None,
            Err(why) => Some(damaged(&path, &why)),
        };
        Ok(Some(Stored {
            objects,
            saved,
            problem,
        }))
    }
}

fn damaged(path: &Path, why: &str) -> String {
    format!("the state in {} is ignored: {why}", path.display())
}

fn each(objects: &Objects, mut take: impl FnMut(Object) -> serde_json::Result<()>) -> serde_json::Result<()> {
    let all = objects
        .ingress_classes
        .values()
        .cloned()
        .map(Object::IngressClass)
        .chain(objects.ingresses.values().cloned().map(Object::Ingress))
        .chain(objects.services.values().cloned().map(Object::Service))
        .chain(
            objects
                .endpoint_slices
                .values()
                .cloned()
                .map(Object::EndpointSlice),
        )
        .chain(objects.config_maps.values().cloned().map(Object::ConfigMap))
        .chain(objects.namespaces.values().cloned().map(Object::Namespace))
        .chain(objects.nodes.values().cloned().map(Object::Node))
        .chain(objects.secrets.values().cloned().map(Object::Secret));
    for object in all {
        take(object)?;
    }
    Ok(())
}

fn make(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

fn write(dir: &Path, name: &str, body: &[u8]) -> io::Result<()> {
    make(dir)?;
    let saved = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let header = Header {
        format: FORMAT,
        saved: saved.as_secs(),
        checksum: checksum(body),
    };
    let new = dir.join(format!("{name}.new"));
    // Its mode counts only when it is made: one left behind by a crash may have another.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    serde_json::to_writer(&mut file, &header)?;
    file.write_all(b"\n")?;
    file.write_all(body)?;
    file.sync_all()?;
    fs::rename(&new, dir.join(name))
}

fn read(path: &Path, into: &mut Objects) -> Result<Option<u64>, String> {
    let mut text = Vec::new();
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    file.take(LARGEST + 1)
        .read_to_end(&mut text)
        .map_err(|error| error.to_string())?;
    if text.len() as u64 > LARGEST {
        return Err("it is larger than 1 GiB".into());
    }
    let end = text
        .iter()
        .position(|byte| *byte == b'\n')
        .ok_or("it is cut short")?;
    let (header, body) = (&text[..end], &text[end + 1..]);
    let header: Header = serde_json::from_slice(header).map_err(|_| "its first line is not ours")?;
    if header.format != FORMAT {
        return Err(format!(
            "it has form {}, and this agent reads {FORMAT}",
            header.format
        ));
    }
    if checksum(body) != header.checksum {
        return Err("its checksum is wrong".into());
    }
    // Nothing of a file that is wrong somewhere.
    let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let parsed: Result<Vec<Object>, _> = lines.map(serde_json::from_slice).collect();
    // The parser's own words could quote a key.
    for object in parsed.map_err(|_| "a line of it is no object")? {
        object.insert(into);
    }
    Ok(Some(header.saved))
}

/// FNV-1a, 64 bits: against damage, not against malice; whoever may write here is root.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Whether the path is on a file system that no disk holds, by proc_pid_mountinfo(5): field 5 is the mount point, the one after " - " the
/// type.
fn is_in_memory(mountinfo: &str, path: &Path) -> bool {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (mount, rest) = line.split_once(" - ")?;
        // A space in a name is \040 there; such a mount point is not found, which is the safe side.
        let point = Path::new(mount.split(' ').nth(4)?);
        Some((point, rest.split(' ').next()?))
    });
    let innermost = mounts
        .filter(|(point, _)| path.starts_with(point))
        .max_by_key(|(point, _)| point.components().count());
    innermost.is_some_and(|(_, kind)| matches!(kind, "tmpfs" | "ramfs"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::objects::Key;

    /// `/dev/shm` is a tmpfs on every Linux.
    fn shelf() -> (Shelf, tempfile::TempDir, tempfile::TempDir) {
        let (disk, memory) = (
            tempfile::tempdir().unwrap(),
            tempfile::tempdir_in("/dev/shm").unwrap(),
        );
        let shelf = Shelf::new(disk.path().join("state"), memory.path().join("secrets"));
        (shelf, disk, memory)
    }

    fn objects() -> Objects {
        let mut objects = Objects::default();
        let ingress = serde_json::json!({"metadata": {"namespace": "shop", "name": "web"}});
        let secret = serde_json::json!({"metadata": {"namespace": "shop", "name": "tls"}, "data": {"tls.key": "S0VZ"}});
        objects.ingresses.insert(
            Key::new("shop", "web"),
            Arc::new(serde_json::from_value(ingress).unwrap()),
        );
        objects.secrets.insert(
            Key::new("shop", "tls"),
            Arc::new(serde_json::from_value(secret).unwrap()),
        );
        objects
    }

    #[test]
    fn what_was_saved_is_read_again_and_secrets_lie_apart_for_the_owner_alone() {
        let (shelf, _disk, _memory) = shelf();
        assert!(shelf.load().unwrap().is_none(), "nothing was ever saved");
        shelf.save(&objects()).unwrap();
        shelf.save(&objects()).unwrap();
        let stored = shelf.load().unwrap().unwrap();
        assert_eq!(
            (stored.objects.ingresses.len(), stored.objects.secrets.len()),
            (1, 1)
        );
        let public = fs::read_to_string(shelf.dir.join("objects.json")).unwrap();
        assert!(!public.contains("S0VZ"));
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(shelf.secrets.join("secrets.json")), 0o600);
        assert_eq!(mode(shelf.secrets.clone()), 0o700);
    }

    #[test]
    fn a_damaged_file_is_told_and_ignored_as_a_whole() {
        let (shelf, _disk, _memory) = shelf();
        shelf.save(&objects()).unwrap();
        let secrets = shelf.secrets.join("secrets.json");
        let whole = fs::read(&secrets).unwrap();
        fs::write(&secrets, &whole[..whole.len() - 3]).unwrap();
        let stored = shelf.load().unwrap().unwrap();
        assert_eq!(
            (stored.objects.ingresses.len(), stored.objects.secrets.len()),
            (1, 0)
        );
        assert!(stored.problem.unwrap().contains("checksum"));
        for text in [
            "",
            "{}\n",
            "{\"format\":9,\"saved\":1,\"checksum\":0}\n",
            "\0\0\0\n",
        ] {
            fs::write(shelf.dir.join("objects.json"), text).unwrap();
            assert!(shelf.load().unwrap_err().contains("is ignored"), "{text:?}");
        }
    }

    #[test]
    fn secrets_are_written_to_memory_alone() {
        let mounts = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 22 0:5 / /run rw - tmpfs tmpfs rw\n31 30 8:2 / /run/disk rw - ext4 /dev/sdb rw\n";
        assert!(is_in_memory(mounts, Path::new("/run/ingress-agent")));
        assert!(!is_in_memory(mounts, Path::new("/run/disk/x")));
        assert!(!is_in_memory(mounts, Path::new("/var/lib/ingress-agent")));
        assert!(!is_in_memory("", Path::new("/run")));
    }
}
