//! The process's own numbers from /proc, under the names that every Prometheus client library uses. What cannot be read is left out.

use std::fs;

use super::text::Page;

/// The kernel's USER_HZ: 100 on every architecture that Linux exports it for.
const TICKS_PER_SECOND: u64 = 100;

pub(super) fn render(page: &mut Page) {
    if let Some(stat) = fs::read_to_string("/proc/self/stat")
        .ok()
        .as_deref()
        .and_then(Stat::parse)
    {
        let cpu = stat.cpu_ticks;
        let seconds = format!("{}.{:02}", cpu / TICKS_PER_SECOND, cpu % TICKS_PER_SECOND);
        page.single(
            "process_cpu_seconds_total",
            "counter",
            "User and system time.",
            seconds,
        );
        if let Some(boot) = boot_time() {
            let started = boot + stat.start_ticks / TICKS_PER_SECOND;
            page.single(
                "process_start_time_seconds",
                "gauge",
                "When the process started.",
                started,
            );
        }
        page.single(
            "process_threads",
            "gauge",
            "Threads of the process.",
            stat.threads,
        );
    }
    if let Some(kib) = status_kib("VmRSS:") {
        page.single(
            "process_resident_memory_bytes",
            "gauge",
            "Resident memory.",
            kib.saturating_mul(1_024),
        );
    }
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        page.single(
            "process_open_fds",
            "gauge",
            "Open file descriptors.",
            entries.count(),
        );
    }
    if let Some(limit) = max_fds() {
        page.single(
            "process_max_fds",
            "gauge",
            "File descriptors that may be open.",
            limit,
        );
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    start_ticks: u64,
}

impl Stat {
    /// proc(5): the name in brackets may hold anything, so fields are counted after the last bracket, where field 3 comes first.
    fn parse(text: &str) -> Option<Self> {
        let (_, fields) = text.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu_ticks: field(14)?.saturating_add(field(15)?),
            threads: field(20)?,
            start_ticks: field(22)?,
        })
    }
}

fn boot_time() -> Option<u64> {
    value_after(&fs::read_to_string("/proc/stat").ok()?, "btime")
}

fn status_kib(name: &str) -> Option<u64> {
    value_after(&fs::read_to_string("/proc/self/status").ok()?, name)
}

fn max_fds() -> Option<u64> {
    value_after(&fs::read_to_string("/proc/self/limits").ok()?, "Max open files")
}

fn value_after(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::Stat;

    #[test]
    fn a_process_name_with_brackets_and_spaces_does_not_shift_the_fields() {
        let text = "7 (a) b (c)) S 1 7 7 0 -1 4194560 9 0 0 0 150 50 0 0 20 0 3 0 1234 99";
        assert_eq!(
            Stat::parse(text),
            Some(Stat {
                cpu_ticks: 200,
                threads: 3,
                start_ticks: 1234
            })
        );
    }
}
