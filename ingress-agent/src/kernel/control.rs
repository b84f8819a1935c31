//! How the agents of a node talk to each other, and `ingress-agent kernel` to them: one Unix socket an agent, in the run directory.
//!
//! One line of JSON each way, with a version, bounded in length and time. The directory is for root (or the agent's user) alone.

mod descriptors;
mod hand_over;
mod message;
mod server;

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use self::descriptors::{Inherited, MOST_PASSED, listeners};
pub use self::hand_over::{Successor, bans, tell_others, ticket_keys};
pub use self::message::{Answer, BanView, Order, Retire, Status};
pub use self::server::{Asked, Control, Reply};

/// A line of either side: the counts of 64 interfaces take 80 KiB, and 256 addresses 25.
const MAX_LINE: u64 = 256 * 1024;
const PATIENCE: Duration = Duration::from_secs(5);

/// Where agents of this network namespace meet. Agents elsewhere serve other traffic and are none of our business.
pub fn meeting_place(run_dir: &Path) -> io::Result<PathBuf> {
    let namespace = std::fs::metadata("/proc/thread-self/ns/net")?.ino();
    let place = run_dir.join(format!("net-{namespace}"));
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&place)?;
    // Whoever can put a socket here is taken for an agent: given ticket keys, and asked for listening sockets.
    if std::fs::metadata(&place)?.mode() & 0o002 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("everybody may write in {}", place.display()),
        ));
    }
    Ok(place)
}

/// Whether an agent's socket is of our own network namespace.
pub fn is_here(agent: &Path) -> bool {
    let own = std::fs::metadata("/proc/thread-self/ns/net").map(|metadata| format!("net-{}", metadata.ino()));
    let place = agent.parent().and_then(Path::file_name);
    own.is_ok_and(|own| place == Some(own.as_ref()))
}

/// Held while an agent attaches and tells the others: of two that start at once, the later one takes over from the earlier.
pub fn lock(place: &Path) -> io::Result<File> {
    let file = File::create(place.join("lock"))?;
    let until = Instant::now() + 2 * PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() > until => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "another agent has been taking over for ten seconds",
                ));
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// The agents in every namespace of a run directory; those that are gone are cleared away.
pub fn agents(run_dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for place in folder(run_dir)? {
        if place.is_dir() {
            found.extend(agents_in(&place)?);
        }
    }
    found.sort();
    Ok(found)
}

fn agents_in(place: &Path) -> io::Result<Vec<PathBuf>> {
    let sockets = folder(place)?
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "sock"));
    Ok(sockets.filter(|path| is_alive(path)).collect())
}

/// A socket file whose agent is gone refuses connections.
fn is_alive(path: &Path) -> bool {
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            let _ = std::fs::remove_file(path);
            false
        }
        _ => true,
    }
}

fn folder(path: &Path) -> io::Result<Vec<PathBuf>> {
    match std::fs::read_dir(path) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// One question, one answer.
///
/// # Errors
/// When the agent does not answer in time, or in a language of another version.
pub fn ask(agent: &Path, order: &Order) -> io::Result<Answer> {
    let stream = connect(agent)?;
    message::write(&stream, order)?;
    message::read(&stream)
}

fn connect(agent: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(agent)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_do_not_meet_where_everybody_may_write() {
        use std::os::unix::fs::PermissionsExt;
        let run = tempfile::tempdir().unwrap();
        let place = meeting_place(run.path()).unwrap();
        assert_eq!(std::fs::metadata(&place).unwrap().mode() & 0o777, 0o700);
        std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o777)).unwrap();
        let error = meeting_place(run.path()).unwrap_err();
        assert!(error.to_string().contains("everybody may write"), "{error}");
    }
}
