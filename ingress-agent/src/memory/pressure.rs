//! Whether memory is short: resident memory against what the process may have, looked at ten times a second.
//!
//! Shedding begins well before the kernel's OOM killer would: that one ends everything at once.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::config::MemoryLimit;

/// Shedding begins at nine tenths of the limit. The rest is for what grows between two looks, and for the kernel's share (sockets, page tables).
const SHORT_FROM: u64 = 90;
/// It ends a little lower, so that it does not come and go with each request.
const ENDS_BELOW: u64 = 85;
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Read by every worker for every request.
#[derive(Debug, Default)]
pub struct Pressure {
    short: AtomicBool,
}

impl Pressure {
    /// Whether new work has to be refused.
    pub fn is_short(&self) -> bool {
        self.short.load(Ordering::Relaxed)
    }

    /// Watches on a thread of its own for as long as somebody holds the result; no thread where there is no limit.
    ///
    /// # Errors
    /// When the thread can't be started.
    pub fn watch(limit: MemoryLimit) -> io::Result<Arc<Self>> {
        let pressure = Arc::new(Self::default());
        let limit = match limit {
            MemoryLimit::Off => None,
            MemoryLimit::Bytes(bytes) => u64::try_from(bytes).ok(),
            MemoryLimit::Auto => of_cgroup(),
        };
        if let Some(limit) = limit {
            let watched = Arc::downgrade(&pressure);
            std::thread::Builder::new()
                .name("memory".to_owned())
                .spawn(move || keep_looking(&watched, limit))?;
        }
        Ok(pressure)
    }

    fn look(&self, resident: u64, limit: u64) {
        let was_short = self.is_short();
        let from = if was_short { ENDS_BELOW } else { SHORT_FROM };
        let is_short = resident >= limit / 100 * from;
        if is_short == was_short {
            return;
        }
        self.short.store(is_short, Ordering::Relaxed);
        if is_short {
            tracing::error!(
                resident,
                limit,
                "memory is short (--memory-limit): new connections and requests are answered 503 overloaded"
            );
        } else {
            tracing::info!(
                resident,
                limit,
                "memory is no longer short: everything is served again"
            );
        }
    }
}

fn keep_looking(watched: &Weak<Pressure>, limit: u64) {
    while let Some(pressure) = watched.upgrade() {
        if let Some(resident) = resident() {
            pressure.look(resident, limit);
        }
        drop(pressure);
        std::thread::sleep(LOOK_EVERY);
    }
}

/// `VmRSS` of proc_pid_status(5), in bytes.
fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

fn of_cgroup() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    limit_of(&groups, Path::new("/sys/fs/cgroup"))
}

/// The least limit of the process's group and those above it (cgroups(7): version 2 in the line `0::PATH`, version 1 in that of `memory`).
fn limit_of(groups: &str, root: &Path) -> Option<u64> {
    let lines = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let limits = lines.filter_map(|(controllers, path)| match controllers {
        "" => least_above(root, path, "memory.max"),
        _ if controllers.split(',').any(|name| name == "memory") => {
            least_above(&root.join("memory"), path, "memory.limit_in_bytes")
        }
        _ => None,
    });
    limits.min()
}

/// In a container the path may be the host's, which is not to be seen there: what is found on the way up counts.
fn least_above(root: &Path, path: &str, file: &str) -> Option<u64> {
    let inside: PathBuf = Path::new(path)
        .components()
        .filter(|component| matches!(component, Component::Normal(_)))
        .collect();
    let groups = inside.ancestors().map(|group| root.join(group).join(file));
    groups
        .filter_map(|file| bytes(&fs::read_to_string(file).ok()?))
        .min()
}

/// Version 2 says `max` where there is no limit, version 1 the largest number of whole pages.
fn bytes(text: &str) -> Option<u64> {
    const UNLIMITED: u64 = 1 << 60;
    text.trim().parse().ok().filter(|bytes| *bytes < UNLIMITED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shedding_begins_before_the_limit_and_ends_a_little_lower() {
        let pressure = Pressure::default();
        let at = |resident| {
            pressure.look(resident, 1000);
            pressure.is_short()
        };
        assert_eq!(
            [890, 900, 860, 850, 849, 899].map(at),
            [false, true, true, true, false, false]
        );
    }

    #[test]
    fn the_limit_is_the_least_of_the_groups_that_the_process_is_in() {
        let root = tempfile::tempdir().unwrap();
        let put = |file: &str, text: &str| {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let limit = |groups: &str| limit_of(groups, root.path());
        assert_eq!(limit("0::/pods/agent\n"), None);
        put("pods/agent/memory.max", "max\n");
        assert_eq!(limit("0::/pods/agent\n"), None);
        put("pods/memory.max", "268435456\n");
        assert_eq!(limit("0::/pods/agent\n"), Some(268_435_456));
        put("pods/agent/memory.max", "134217728\n");
        assert_eq!(limit("0::/pods/agent\n"), Some(134_217_728));
        assert_eq!(limit("0::/../../elsewhere\n"), None);
        put("memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(limit("5:cpu,memory:/docker/abc\n0::/\n"), None);
        put("memory/memory.limit_in_bytes", "67108864\n");
        assert_eq!(limit("5:cpu,memory:/docker/abc\n"), Some(67_108_864));
    }
}
