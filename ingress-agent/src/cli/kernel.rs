//! `kernel`: what the agents of this node have in the kernel, and how to take it away.

use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use ingress_common::abi::WHOLE;
use serde::Serialize;

use super::{Exit, NodeFlags, Output, complain, print};
use crate::config::Sample;
use crate::config::flags::BPFFS;
use crate::kernel::control::{self, Answer, Order, Status};
use crate::kernel::port_owner;
use crate::kernel::reject::{self, RejectView};
use crate::kernel::rights::RightsView;

#[derive(Debug, Args)]
pub(super) struct KernelFlags {
    #[command(flatten)]
    node: NodeFlags,
    /// The --bpffs of the agents.
    #[arg(long, value_name = "DIR", env = "INGRESS_AGENT_BPFFS", default_value = BPFFS, global = true)]
    bpffs: PathBuf,
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// What is on, for which addresses, and what became of connections.
    Status,
    /// Take everything out of the kernel: new connections go to whoever else has the ports. What is open goes on.
    Detach,
    /// Change the share of client addresses that is taken: 0 to 1, 10% or 1/10.
    Takeover { share: Sample },
}

/// An agent and what it said.
#[derive(Debug, Serialize)]
struct Agent {
    socket: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    /// What stands in bpffs, in place of an agent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pinned: Vec<String>,
    /// Empty where all went well.
    problem: String,
}

/// What outlives agents, whether one lives or not. By the order to detach it goes.
fn pins(bpffs: &Path, order: &Order) -> Option<Agent> {
    let mut pins = Agent {
        socket: bpffs.to_owned(),
        status: None,
        pinned: Vec::new(),
        problem: String::new(),
    };
    match order {
        Order::Status => pins.pinned = reject::pinned(bpffs),
        Order::Detach => {
            let foreign = |path: PathBuf| format!("{}: not ours; it stays", path.display());
            match reject::remove_pins(bpffs) {
                Ok(stays) => pins.pinned = stays.into_iter().map(foreign).collect(),
                Err(problem) => pins.problem = problem,
            }
        }
        _ => {}
    }
    (!pins.pinned.is_empty() || !pins.problem.is_empty()).then_some(pins)
}

pub(super) fn kernel(flags: &KernelFlags, out: &mut dyn Write) -> Exit {
    let order = match flags.task {
        Task::Status => Order::Status,
        Task::Detach => Order::Detach,
        Task::Takeover { share } => Order::Share {
            share: share.parts_of(WHOLE),
        },
    };
    let agents = match control::agents(&flags.node.run_dir) {
        Ok(agents) => agents,
        Err(error) => {
            return complain(
                &format!("{}: {error}", flags.node.run_dir.display()),
                Exit::Failed,
            );
        }
    };
    let mut answers: Vec<_> = agents.into_iter().map(|socket| ask(socket, &order)).collect();
    answers.extend(pins(&flags.bpffs, &order));
    let printed = match flags.node.output {
        Output::Text => print(out, text(&answers, &order).as_bytes()),
        Output::Json => match serde_json::to_string_pretty(&answers) {
            Ok(json) => print(out, (json + "\n").as_bytes()),
            Err(error) => complain(&error.to_string(), Exit::Failed),
        },
    };
    match answers.iter().any(|agent| !agent.problem.is_empty()) {
        true if printed == Exit::Ok => Exit::Failed,
        _ => printed,
    }
}

fn ask(socket: PathBuf, order: &Order) -> Agent {
    let (status, problem) = match control::ask(&socket, order) {
        Ok(Answer::Status(status)) => (Some(status), String::new()),
        Ok(Answer::Done) => (None, String::new()),
        Ok(Answer::Bans { .. } | Answer::TicketKeys { .. } | Answer::Listeners { .. }) => {
            (None, "it answered something else".to_owned())
        }
        Ok(Answer::Refused { reason }) => (None, reason),
        Err(error) => (None, error.to_string()),
    };
    Agent {
        socket,
        status,
        pinned: Vec::new(),
        problem,
    }
}

fn text(agents: &[Agent], order: &Order) -> String {
    if agents.is_empty() {
        return "no agent of this node steers sockets: nothing of ours is in the kernel\n".into();
    }
    let mut text = String::new();
    for agent in agents {
        let _ = match &agent.status {
            _ if !agent.pinned.is_empty() => agent
                .pinned
                .iter()
                .try_for_each(|line| writeln!(text, "pinned: {line}")),
            Some(status) => write_status(&mut text, status, control::is_here(&agent.socket)),
            None if agent.problem.is_empty() => {
                let done = match order {
                    Order::Detach => "nothing of it is in the kernel any more",
                    _ => "done",
                };
                writeln!(text, "{}: {done}", agent.socket.display())
            }
            None => writeln!(text, "{}: {}", agent.socket.display(), agent.problem),
        };
    }
    text
}

/// `is_here`: the agent is in our own network namespace, so that its ports are ours.
fn write_status(text: &mut String, status: &Status, is_here: bool) -> std::fmt::Result {
    let Status {
        pid,
        release,
        phase,
        connections,
        kernel,
    } = status;
    writeln!(
        text,
        "agent {pid} (version {release}): {phase}, {connections} connections"
    )?;
    writeln!(text, "  accounting {}", kernel.accounting)?;
    writeln!(text, "  steering {}", kernel.steering)?;
    for address in &kernel.addresses {
        let share = f64::from(address.share) * 100.0 / f64::from(WHOLE);
        writeln!(
            text,
            "    {}: share {share}%, steered {}, left {}, unclaimed {}, refused {}",
            address.address, address.steered, address.left, address.unclaimed, address.refused
        )?;
        // Nobody of ours is bound to it.
        if is_here && let Some(owner) = port_owner::of(address.address) {
            writeln!(text, "      also listened on by {owner}")?;
        }
    }
    write!(text, "{}", kernel.queues)?;
    write_rejection(text, &kernel.rejection)?;
    write_rights(text, &kernel.rights)
}

fn write_rejection(text: &mut String, rejection: &RejectView) -> std::fmt::Result {
    match (rejection.on, rejection.reason.as_str()) {
        (true, "") => writeln!(
            text,
            "  early rejection on, unmatched names are {}",
            rejection.names
        )?,
        (true, reason) => writeln!(
            text,
            "  early rejection on, unmatched names are {}; {reason}",
            rejection.names
        )?,
        (false, reason) => writeln!(text, "  early rejection off: {reason}")?,
    }
    for at in &rejection.interfaces {
        let why = if at.why.is_empty() {
            String::new()
        } else {
            format!(" ({})", at.why)
        };
        let pinned = if at.pinned.is_empty() { "" } else { ", pinned" };
        writeln!(text, "    {} by {}{pinned}{why}", at.interface, at.by)?;
        let of_this = rejection
            .counts
            .iter()
            .filter(|count| count.interface == at.interface);
        for count in of_this {
            writeln!(text, "      {} {}", count.verdict, count.packets)?;
        }
    }
    for note in &rejection.notes {
        writeln!(text, "    {note}")?;
    }
    Ok(())
}

fn write_rights(text: &mut String, rights: &RightsView) -> std::fmt::Result {
    if rights.held.is_empty() {
        return writeln!(text, "  capabilities: none");
    }
    writeln!(
        text,
        "  capabilities: {} ({})",
        rights.held.join(", "),
        rights.why
    )
}
