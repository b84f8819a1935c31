//! The settings of early rejection.

use std::net::IpAddr;
use std::path::PathBuf;

use super::not_empty;
use crate::config::{HookMode, ListenerChoice, Reject, SourceRule, units};
use clap::{ArgAction, Args};

/// Where bpffs is mounted by convention, and our directory in it.
pub(crate) const BPFFS: &str = "/sys/fs/bpf/ingress-agent";

#[derive(Debug, Args)]
#[command(next_help_heading = "Kernel side")]
pub(super) struct RejectFlags {
    /// Early rejection: packets to served addresses are judged before the agent sees them. auto (where it can be), on (or the start fails) or off.
    #[arg(
        long,
        value_name = "MODE",
        env = "INGRESS_AGENT_KERNEL_REJECTION",
        default_value = "auto"
    )]
    kernel_rejection: HookMode,

    /// Network interface whose packets are judged. Repeatable; one that vanishes and returns is taken up again. [default: those with a served address]
    #[arg(long, value_name = "NAME", env = "INGRESS_AGENT_KERNEL_INTERFACES", value_delimiter = ',', value_parser = not_empty)]
    kernel_interfaces: Vec<String>,

    /// First segments with a TLS name or HTTP host that nobody serves: auto (count; refuse while more come than --kernel-names-above), on (refuse) or off.
    #[arg(
        long,
        value_name = "MODE",
        env = "INGRESS_AGENT_KERNEL_NAMES",
        default_value = "auto"
    )]
    kernel_names: HookMode,

    /// Unmatched connections a second from which --kernel-names auto refuses them.
    #[arg(
        long,
        value_name = "RATE",
        env = "INGRESS_AGENT_KERNEL_NAMES_ABOVE",
        default_value = "100"
    )]
    kernel_names_above: u32,

    /// Judge by tc (tcx, Linux 6.6): all checks; beside XDP, names alone. auto (where it can be), on (or early rejection is not possible) or off.
    #[arg(
        long,
        value_name = "MODE",
        env = "INGRESS_AGENT_KERNEL_TC",
        default_value = "auto"
    )]
    kernel_tc: HookMode,

    /// Judge by XDP what headers show, before the kernel makes a packet buffer: auto (natively, where the driver is known to take it without
    /// harm: docs/kernel.md), on (natively with every driver, else generically) or off.
    #[arg(
        long,
        value_name = "MODE",
        env = "INGRESS_AGENT_KERNEL_XDP",
        default_value = "auto"
    )]
    kernel_xdp: HookMode,

    /// Directory of a mounted bpffs, where XDP stays on its interfaces from one agent to the next; without it, XDP ends with each agent.
    #[arg(
        long,
        value_name = "DIR",
        env = "INGRESS_AGENT_BPFFS",
        default_value = BPFFS
    )]
    bpffs: PathBuf,

    /// Network (CIDR) or address whose packets to served addresses are dropped; with http=, https= or ADDRESS:PORT= in front, those to such listeners
    /// alone. Repeatable; of several networks the smallest decides. [default: none]
    #[arg(long, value_name = "CIDR", env = "INGRESS_AGENT_KERNEL_DENY", value_delimiter = ',', value_parser = rule)]
    kernel_deny: Vec<SourceRule>,

    /// Network (CIDR) or address that alone may reach served addresses, or one listener: as above. Repeatable. [default: everyone]
    #[arg(long, value_name = "CIDR", env = "INGRESS_AGENT_KERNEL_ALLOW", value_delimiter = ',', value_parser = rule)]
    kernel_allow: Vec<SourceRule>,

    /// Address of this node on which new connections to ports without a socket are refused (node ports never). Repeatable. [default: none]
    #[arg(
        long,
        value_name = "IP",
        env = "INGRESS_AGENT_KERNEL_CLOSED",
        value_delimiter = ','
    )]
    kernel_closed: Vec<IpAddr>,

    /// New connections a second that one source may open (an IPv4 address or an IPv6 /64), with as many at once; 0 is unlimited.
    #[arg(
        long,
        value_name = "RATE",
        env = "INGRESS_AGENT_KERNEL_MAX_NEW_PER_SOURCE",
        default_value = "0"
    )]
    kernel_max_new_per_source: u32,

    /// New connections a second from all sources together, with as many at once; 0 is unlimited.
    #[arg(
        long,
        value_name = "RATE",
        env = "INGRESS_AGENT_KERNEL_MAX_NEW",
        default_value = "0"
    )]
    kernel_max_new: u32,

    /// Answer new connections that the kernel side refuses with a reset instead of silence (true or false); not by XDP.
    #[arg(long, value_name = "BOOL", env = "INGRESS_AGENT_KERNEL_ANSWER", default_value = "false", action = ArgAction::Set)]
    kernel_answer: bool,
}

/// `10.0.0.0/8`, or `https=10.0.0.0/8`.
fn rule(text: &str) -> Result<SourceRule, String> {
    let Some((listener, network)) = text.split_once('=') else {
        return units::network(text).map(|network| SourceRule {
            listener: None,
            network,
        });
    };
    let listener = match listener {
        "http" => ListenerChoice::Http,
        "https" => ListenerChoice::Https,
        address => match units::listen(address)? {
            units::Listen::On { address, last_port } if last_port == address.port() => {
                ListenerChoice::At(address)
            }
            units::Listen::On { .. } => return Err("expected one port, not a range".into()),
            units::Listen::Off => {
                return Err("expected http, https or a listener's address before the =".into());
            }
        },
    };
    Ok(SourceRule {
        listener: Some(listener),
        network: units::network(network)?,
    })
}

impl RejectFlags {
    /// `all` is what holds for every hook.
    pub(super) fn resolve(self, all: HookMode) -> Reject {
        Reject {
            mode: self.kernel_rejection.under(all),
            interfaces: self.kernel_interfaces,
            tc: self.kernel_tc,
            xdp: self.kernel_xdp,
            bpffs: self.bpffs,
            names: self.kernel_names,
            names_above: self.kernel_names_above,
            deny: self.kernel_deny,
            allow: self.kernel_allow,
            closed: self.kernel_closed,
            by_source: self.kernel_max_new_per_source,
            in_total: self.kernel_max_new,
            answer: self.kernel_answer,
        }
    }
}
