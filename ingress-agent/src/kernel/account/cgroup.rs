//! The agent's own control group, where its sockets are seen: cgroup v2, also where it stands beside v1 (a hybrid hierarchy).

use std::path::{Path, PathBuf};

/// The folder of this process's group.
///
/// # Errors
/// In words, where there is none that can be reached.
pub(super) fn own() -> Result<PathBuf, String> {
    let read = |path: &str| std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
    folder(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?)
}

fn folder(groups: &str, mounts: &str) -> Result<PathBuf, String> {
    // Hierarchy 0 with no controllers is v2 (cgroups(7)).
    let group = groups
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .ok_or("this process is in no group of cgroup v2")?;
    let mounts = mounts.lines().filter_map(mount);
    let mut reason = "no cgroup v2 file system is mounted here".to_owned();
    for (root, point) in mounts {
        match Path::new(group).strip_prefix(&root) {
            Ok(below) => return Ok(Path::new(&point).join(below)),
            Err(_) => reason = format!("the group {group} is not below what is mounted at {point} ({root})"),
        }
    }
    Err(reason)
}

/// Root and mount point of a line of mountinfo (proc_pid_mountinfo(5)) that is a cgroup2 file system:
/// `36 35 98:0 /root /point options optional... - type source options`.
fn mount(line: &str) -> Option<(String, String)> {
    let (first, rest) = line.split_once(" - ")?;
    if rest.split(' ').next() != Some("cgroup2") {
        return None;
    }
    let mut fields = first.split(' ').skip(3);
    Some((unescape(fields.next()?), unescape(fields.next()?)))
}

/// Space, tab, newline and backslash are octal there.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_group_is_found_in_every_usual_hierarchy() {
        let found =
            |groups: &str, mounts: &str| folder(groups, mounts).map(|path| path.display().to_string());
        let unified = "29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let hybrid = "30 23 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n31 23 0:28 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n";
        let pod = "0::/kubepods/pod1/c1\n";
        assert_eq!(found(pod, unified).unwrap(), "/sys/fs/cgroup/kubepods/pod1/c1");
        assert_eq!(
            found("9:name=systemd:/\n0::/system.slice/x.service\n", hybrid).unwrap(),
            "/sys/fs/cgroup/unified/system.slice/x.service"
        );
        // A container: its own cgroup namespace, or the host's with only its own part mounted.
        assert_eq!(found("0::/\n", unified).unwrap(), "/sys/fs/cgroup/");
        let part = "29 23 0:26 /kubepods/pod1/c1 /sys/fs/cgroup ro - cgroup2 cgroup ro\n";
        assert_eq!(found(pod, part).unwrap(), "/sys/fs/cgroup/");
        let elsewhere = "29 23 0:26 /other /mnt/a\\040b ro - cgroup2 cgroup ro\n";
        assert!(found(pod, elsewhere).unwrap_err().contains("/mnt/a b"));
        assert!(found(pod, "").unwrap_err().contains("no cgroup v2"));
        assert!(found("1:cpu:/\n", unified).unwrap_err().contains("in no group"));
    }
}
