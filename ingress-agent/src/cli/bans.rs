//! `bans`: who is banned by the agents of this node, and how to change that.

use std::fmt::Write as _;
use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Exit, NodeFlags, Output, complain, print};
use crate::config::units;
use crate::kernel::control::{self, Answer, BanView, Order};

#[derive(Debug, Args)]
pub(super) struct BanFlags {
    #[command(flatten)]
    node: NodeFlags,
    #[command(subcommand)]
    task: Option<Task>,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Who is banned, why, and for how long still.
    List,
    /// End a ban now.
    Lift {
        /// An IPv4 address, or an address or /64 of IPv6.
        #[arg(value_parser = source)]
        address: IpAddr,
    },
    /// Ban a source: its connections are refused, also those that are open.
    Add {
        /// An IPv4 address, or an address or /64 of IPv6 (all of the /64 is meant).
        #[arg(value_parser = source)]
        address: IpAddr,
        /// How long (ms, s, m, h).
        #[arg(long = "for", value_name = "DURATION", default_value = "10m", value_parser = units::duration)]
        lasts: Duration,
    },
}

/// As it is listed: an address, or an IPv6 /64.
fn source(text: &str) -> Result<IpAddr, String> {
    let wrong = || "expected an address, or an IPv6 /64".to_owned();
    match text.split_once('/') {
        None => text.parse().map_err(|_| wrong()),
        Some((address, bits)) => match (address.parse::<IpAddr>(), bits) {
            (Ok(ip @ IpAddr::V4(_)), "32") | (Ok(ip @ IpAddr::V6(_)), "64") => Ok(ip),
            _ => Err(wrong()),
        },
    }
}

/// An agent and what it said.
#[derive(Debug, Serialize)]
struct Agent {
    socket: PathBuf,
    bans: Vec<BanView>,
    /// That are not shown.
    more: usize,
    /// Empty where all went well.
    problem: String,
}

pub(super) fn bans(flags: &BanFlags, out: &mut dyn Write) -> Exit {
    let order = match flags.task {
        None | Some(Task::List) => Order::Bans { skip: 0 },
        Some(Task::Lift { address }) => Order::Lift { address },
        Some(Task::Add { address, lasts }) => Order::Ban {
            address,
            milliseconds: u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX),
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
    if agents.is_empty() {
        return complain(
            "no agent of this node answers in the run directory (one with --kernel off and without --ban settings does not)",
            Exit::Failed,
        );
    }
    let answers: Vec<_> = agents.into_iter().map(|socket| ask(socket, &order)).collect();
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
    let mut agent = Agent {
        bans: Vec::new(),
        more: 0,
        problem: String::new(),
        socket,
    };
    match control::ask(&agent.socket, order) {
        Ok(Answer::Bans { bans, more }) => (agent.bans, agent.more) = (bans, more),
        Ok(Answer::Done) => {}
        Ok(Answer::Refused { reason }) => agent.problem = reason,
        Ok(Answer::Status(_) | Answer::TicketKeys { .. } | Answer::Listeners { .. }) => {
            agent.problem = "it answered something else".to_owned()
        }
        Err(error) => agent.problem = error.to_string(),
    }
    agent
}

fn text(agents: &[Agent], order: &Order) -> String {
    let mut text = String::new();
    for agent in agents {
        let socket = agent.socket.display();
        let _ = match order {
            _ if !agent.problem.is_empty() => writeln!(text, "{socket}: {}", agent.problem),
            Order::Bans { .. } if agent.bans.is_empty() => writeln!(text, "{socket}: nobody is banned"),
            Order::Bans { .. } => {
                for ban in &agent.bans {
                    let _ = writeln!(
                        text,
                        "{} banned for {} more seconds ({})",
                        ban.source, ban.seconds_left, ban.why
                    );
                }
                match agent.more {
                    0 => Ok(()),
                    more => writeln!(text, "and {more} more"),
                }
            }
            _ => writeln!(text, "{socket}: done"),
        };
    }
    text
}
