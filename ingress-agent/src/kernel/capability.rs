//! Which capabilities this process has, and what kernel it runs on: to say what is missing.

use std::fmt;

/// See capabilities(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Capability {
    NetAdmin,
    Perfmon,
    Bpf,
}

impl Capability {
    pub(super) const fn mask(self) -> u64 {
        1 << self.bit()
    }

    const fn bit(self) -> u32 {
        match self {
            Self::NetAdmin => 12,
            Self::Perfmon => 38,
            Self::Bpf => 39,
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::Perfmon => "CAP_PERFMON",
            Self::Bpf => "CAP_BPF",
        })
    }
}

/// CAP_SYS_ADMIN stands for CAP_BPF (Linux 5.8).
const SYS_ADMIN: u32 = 21;

/// Those of `needed` that the process lacks. Where it can't be known, none: an error then speaks for itself.
pub(super) fn missing(needed: &[Capability]) -> Vec<Capability> {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    effective(&status).map_or_else(Vec::new, |mask| lacking(mask, needed))
}

/// Whether a seccomp filter judges this thread's system calls.
pub(super) fn is_filtered() -> bool {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    has_filter(&status)
}

/// seccomp(2), `SECCOMP_MODE_FILTER`.
fn has_filter(status: &str) -> bool {
    let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
    mode.is_some_and(|mode| mode.trim() == "2")
}

fn lacking(mask: u64, needed: &[Capability]) -> Vec<Capability> {
    let has = |bit: u32| mask >> bit & 1 == 1;
    needed
        .iter()
        .copied()
        .filter(|capability| !has(capability.bit()))
        .filter(|capability| *capability != Capability::Bpf || !has(SYS_ADMIN))
        .collect()
}

/// From a thread's status in /proc.
pub(super) fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// All capabilities by their number (linux/capability.h, 6.18).
const ALL: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Those of a mask, by name.
pub(super) fn names(mask: u64) -> Vec<String> {
    let name = |bit: usize| match ALL.get(bit) {
        Some(name) => format!("CAP_{name}"),
        None => format!("capability {bit}"),
    };
    (0..64).filter(|bit| mask >> bit & 1 == 1).map(name).collect()
}

/// Major and minor number of the running kernel.
pub(super) fn kernel_version() -> Option<(u32, u32)> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    parse_version(&release)
}

fn parse_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_and_the_old_all_powerful_one_counts() {
        let both = [Capability::NetAdmin, Capability::Bpf];
        assert_eq!(lacking(0, &both), both);
        assert_eq!(lacking(1 << 12, &both), [Capability::Bpf]);
        assert_eq!(names(1 << 12 | 1 << 39), ["CAP_NET_ADMIN", "CAP_BPF"]);
        assert_eq!(lacking(1 << 12 | 1 << 39, &both), []);
        assert_eq!(lacking(1 << 12 | 1 << 21, &both), []);
        assert_eq!(
            effective("Name:\tx\nCapEff:\t000001ffffffffff\n"),
            Some(0x1ff_ffff_ffff)
        );
        assert_eq!(effective("Name:\tx\n"), None);
    }

    #[test]
    fn a_seccomp_filter_is_seen() {
        assert!(has_filter("Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n"));
        assert!(!has_filter("Seccomp:\t0\nSeccomp_filters:\t0\n"));
        assert!(!has_filter(""));
    }

    #[test]
    fn kernel_versions_are_read_from_any_distributions_name() {
        assert_eq!(parse_version("6.18.44-fc-v657\n"), Some((6, 18)));
        assert_eq!(parse_version("5.4.0-150-generic"), Some((5, 4)));
        assert_eq!(parse_version("odd"), None);
    }
}
