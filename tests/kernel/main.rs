//! What the agent does in the kernel, shown on real packets between network namespaces: needs root, iproute2 and eBPF.
//!
//! Where the machine can't do that at all, a case says `skipped:` with the reason and passes; anything else that fails, fails.

mod account;
mod agent;
mod bans;
mod hand_over;
mod hooks;
mod listeners;
mod namespace;
mod passing;
mod pins;
mod queues;
mod reject;
mod rights;
mod stalls;
mod steering;
mod traffic;

type Done = anyhow::Result<()>;
