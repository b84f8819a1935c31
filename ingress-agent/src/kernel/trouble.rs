//! What went wrong with a hook: which, at what step, the kernel's answer in words, and what is missing for it.

use std::error::Error;
use std::fmt;
use std::io;

use aya::programs::ProgramError;

use super::capability::{self, Capability};

/// A place in the kernel where a program of ours runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Steering,
    /// What tc and XDP share.
    Reject,
    Tc,
    Xdp,
    Account,
    /// Who reset a connection; a part of accounting that needs more.
    Resets,
}

impl Hook {
    fn needs(self) -> &'static [Capability] {
        match self {
            Self::Steering | Self::Account => &[Capability::NetAdmin, Capability::Bpf],
            Self::Resets => &[Capability::Bpf, Capability::Perfmon],
            Self::Reject | Self::Tc | Self::Xdp => {
                &[Capability::NetAdmin, Capability::Bpf, Capability::Perfmon]
            }
        }
    }

    /// The kernel version that has it.
    fn since(self) -> (u32, u32) {
        match self {
            Self::Steering => (5, 9),
            // Ring buffers.
            Self::Reject => (5, 8),
            // tcx.
            Self::Tc => (6, 6),
            // Programs for packets in several fragments.
            Self::Xdp => (5, 18),
            // Links of control groups; socket storage for sock_ops came before.
            Self::Account => (5, 7),
            // Socket storage for tracing programs.
            Self::Resets => (5, 11),
        }
    }

    fn without(self) -> &'static str {
        match self {
            Self::Steering => {
                "the agent binds its addresses itself, and two agents cannot hand over to each other"
            }
            Self::Reject => "unmatched traffic is answered by the agent itself",
            Self::Tc => "names are not judged, and headers only where XDP is",
            Self::Xdp => "tc judges headers too",
            Self::Account => {
                "connections are looked at by sampling (TCP_INFO), which misses those that no request came from"
            }
            Self::Resets => "the rest of accounting goes on",
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Steering => "socket steering (sk_lookup)",
            Self::Reject => "early rejection (tc, XDP)",
            Self::Tc => "early rejection by tc",
            Self::Xdp => "early rejection by XDP",
            Self::Account => "accounting (sock_ops)",
            Self::Resets => "seeing who resets (tcp_receive_reset)",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Maps,
    Load,
    Attach,
    Fill,
    Listen,
    Check,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Maps => "creating the maps",
            Self::Load => "loading the program",
            Self::Attach => "attaching the program",
            Self::Fill => "filling the maps",
            Self::Listen => "opening private listeners",
            Self::Check => "the request to itself",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A system call's error number, with its words.
    Refused { errno: Option<i32>, words: String },
    /// The verifier's last lines; the whole log is written at level debug.
    Verifier { words: String, last: String },
    /// The configuration can't be expressed in the maps.
    Unfit(String),
}

/// A hook that can't be in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub hook: Hook,
    pub step: Step,
    pub cause: Cause,
    /// By name; known only when the kernel said that something is not permitted.
    pub missing: Vec<String>,
}

impl Trouble {
    pub(super) fn unfit(hook: Hook, step: Step, what: impl Into<String>) -> Self {
        Self {
            hook,
            step,
            cause: Cause::Unfit(what.into()),
            missing: Vec::new(),
        }
    }

    /// Whether it was for want of a right.
    pub(super) fn is_not_permitted(&self) -> bool {
        matches!(
            self.cause,
            Cause::Refused {
                errno: Some(EPERM | EACCES),
                ..
            }
        )
    }

    pub(super) fn io(hook: Hook, step: Step, error: &io::Error) -> Self {
        Self::from_aya(hook, step, error)
    }

    /// Finds the system call's answer in whatever aya wrapped around it.
    pub(super) fn from_aya(hook: Hook, step: Step, error: &(dyn Error + 'static)) -> Self {
        let chain = || causes(error);
        let io_error = chain().find_map(|error| error.downcast_ref::<io::Error>());
        let verifier = chain().find_map(|error| match error.downcast_ref::<ProgramError>() {
            Some(ProgramError::LoadError { verifier_log, .. }) => Some(verifier_log.to_string()),
            _ => None,
        });
        let errno = io_error.and_then(io::Error::raw_os_error);
        let words = io_error.map_or_else(|| error.to_string(), ToString::to_string);
        let cause = match verifier {
            Some(log) if !log.trim_matches(['"', ' ']).is_empty() => {
                tracing::debug!(%hook, %log, "the verifier's whole log");
                Cause::Verifier {
                    words,
                    last: last_lines(&log),
                }
            }
            _ => Cause::Refused { errno, words },
        };
        Self {
            hook,
            step,
            cause,
            missing: missing(hook, step, errno),
        }
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let source = |error: &&'a (dyn Error + 'static)| -> Option<&'a (dyn Error + 'static)> {
        let error: &'a (dyn Error + 'static) = *error;
        error.source()
    };
    std::iter::successors(Some(error), source)
}

const EPERM: i32 = 1;
const EACCES: i32 = 13;

fn missing(hook: Hook, step: Step, errno: Option<i32>) -> Vec<String> {
    let mut missing = Vec::new();
    if matches!(errno, Some(EPERM | EACCES)) {
        missing.extend(capability::missing(hook.needs()).iter().map(ToString::to_string));
    }
    if missing.is_empty() && errno == Some(EPERM) && matches!(step, Step::Maps | Step::Load) {
        // Below 5.11 maps count as locked memory.
        let is_counted = capability::kernel_version().is_some_and(|running| running < (5, 11));
        missing.push(leave(capability::is_filtered(), is_counted).to_owned());
    }
    let (major, minor) = hook.since();
    match capability::kernel_version() {
        Some(running) if running < (major, minor) => missing.push(format!(
            "Linux {major}.{minor} (this is {}.{})",
            running.0, running.1
        )),
        _ => {}
    }
    missing
}

/// What refuses bpf(2) to a process that has the capabilities.
fn leave(filtered: bool, counted: bool) -> &'static str {
    if counted {
        "memory that may be locked (RLIMIT_MEMLOCK; docs/kernel.md says how much)"
    } else if filtered {
        "leave of the seccomp profile of this container to call bpf(2): many engines' profiles give it with CAP_SYS_ADMIN alone, so another profile is needed (Kubernetes: seccompProfile; Docker: --security-opt seccomp=...)"
    } else {
        "leave of the node to call bpf(2): the capabilities are held, so a security module (SELinux, AppArmor, kernel lockdown) or a user namespace refuses it"
    }
}

const STATISTICS: [&str; 3] = ["processed ", "verification time ", "stack depth "];

/// The verifier says why at the end, before its statistics.
fn last_lines(log: &str) -> String {
    const LINES: usize = 3;
    // aya prints it as one quoted line.
    let log = log.trim_matches('"').replace("\\n", "\n");
    let lines: Vec<_> = log
        .lines()
        .filter(|line| !line.trim().is_empty() && !STATISTICS.iter().any(|start| line.starts_with(start)))
        .collect();
    lines[lines.len().saturating_sub(LINES)..].join(" | ")
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not possible: {} failed: ", self.hook, self.step)?;
        match &self.cause {
            Cause::Refused { words, .. } | Cause::Unfit(words) => f.write_str(words)?,
            Cause::Verifier { words, last } => write!(f, "{words}: the verifier says: {last}")?,
        }
        if !self.missing.is_empty() {
            write!(f, "; missing: {}", self.missing.join(", "))?;
        }
        write!(f, "; without it {}", self.hook.without())
    }
}

impl Error for Trouble {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_names_hook_step_errno_and_what_still_works() {
        let error = io::Error::from_raw_os_error(EPERM);
        let text = Trouble::io(Hook::Steering, Step::Attach, &error).to_string();
        assert!(text.starts_with("socket steering (sk_lookup) is not possible: attaching the program failed: Operation not permitted"), "{text}");
        assert!(text.ends_with("cannot hand over to each other"), "{text}");
    }

    #[test]
    fn where_the_capabilities_are_held_the_seccomp_profile_is_named() {
        let filtered = leave(true, false);
        assert!(filtered.contains("seccomp profile") && filtered.contains("CAP_SYS_ADMIN"));
        assert!(leave(false, false).contains("security module"));
        assert!(leave(true, true).contains("RLIMIT_MEMLOCK"));
        let busy = io::Error::from_raw_os_error(16);
        assert_eq!(Trouble::io(Hook::Steering, Step::Maps, &busy).missing, [""; 0]);
    }

    #[test]
    fn of_a_verifiers_log_the_end_is_told() {
        let log = "0: R1=ctx\\n1: (b7) r0 = 0\\nR2 invalid mem access\\nverification time 9 usec\\nstack depth 128+0\\nprocessed 12 insns (limit 1000000)\\n";
        assert_eq!(
            last_lines(log),
            "0: R1=ctx | 1: (b7) r0 = 0 | R2 invalid mem access"
        );
        assert_eq!(last_lines(""), "");
    }
}
