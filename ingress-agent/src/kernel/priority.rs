//! A thread's place behind those that serve. Knows the scheduler, and nothing of what the thread does.
#![allow(
    unsafe_code,
    reason = "sched_setattr(2) has no safe wrapper among our dependencies; the call reads one structure of ours"
)]

use std::io;

/// Beside a thread that always has work this leaves a tenth of a core (weights 110 and 1024, `sched_prio_to_weight`): slow, but never starved.
const NICE: i32 = 10;
/// Since Linux 6.12 a thread that wakes goes before one with a longer slice than its own (`PREEMPT_SHORT`); without that it waits until the
/// other's slice has ended, which is more than a request takes. Older kernels ignore it, as they do not know slices.
const SLICE_NANOSECONDS: u64 = 20_000_000;

/// Puts the calling thread, and those that it starts from now on, behind the others. Without rights there is no way back.
///
/// # Errors
/// Where a sandbox forbids it; the thread goes on as before.
pub(crate) fn step_back() -> io::Result<()> {
    let attributes = libc::sched_attr {
        size: u32::try_from(size_of::<libc::sched_attr>()).unwrap_or(0),
        // As SCHED_OTHER, but never preempts anybody when it wakes.
        sched_policy: libc::SCHED_BATCH.unsigned_abs(),
        sched_flags: 0,
        sched_nice: NICE,
        sched_priority: 0,
        sched_runtime: SLICE_NANOSECONDS,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: sched_setattr(2) reads `size` bytes behind the pointer, which are the structure's own; 0 is the calling thread.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_steps_back_is_behind_the_others_and_they_stay_where_they_are() {
        // proc_pid_stat(5): nice is field 19, policy field 41; what follows the name in parentheses begins with field 3.
        let mine = || {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            let (_, fields) = stat.rsplit_once(") ").unwrap();
            let fields: Vec<_> = fields.split(' ').map(str::to_owned).collect();
            (fields[16].clone(), fields[38].clone())
        };
        let before = mine();
        let after = std::thread::spawn(move || {
            step_back().unwrap();
            mine()
        });
        assert_eq!(
            after.join().unwrap(),
            ("10".to_owned(), libc::SCHED_BATCH.to_string())
        );
        assert_eq!(mine(), before);
    }
}
