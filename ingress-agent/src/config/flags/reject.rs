//! The settings of early rejection.

use std::net::IpAddr;

use clap::{ArgAction, Args};
use ipnet::IpNet;

use super::not_empty;
use crate::config::{HookMode, Reject, units};

#[derive(Debug, Args)]
#[command(next_help_heading = "Kernel side")]
pub(super) struct RejectFlags {
    /// Network interface whose packets are judged before the agent sees them (tc, XDP). Repeatable. [default: none, nothing is judged]
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

    /// Judge by XDP what headers show, before the kernel makes a packet buffer (true or false); else tc does.
    #[arg(long, value_name = "BOOL", env = "INGRESS_AGENT_KERNEL_XDP", default_value = "false", action = ArgAction::Set)]
    kernel_xdp: bool,

    /// Network (CIDR) or address whose packets to served addresses are dropped. Repeatable; of several networks the smallest decides. [default: none]
    #[arg(long, value_name = "CIDR", env = "INGRESS_AGENT_KERNEL_DENY", value_delimiter = ',', value_parser = units::network)]
    kernel_deny: Vec<IpNet>,

    /// Network (CIDR) or address that alone may reach served addresses. Repeatable. [default: everyone]
    #[arg(long, value_name = "CIDR", env = "INGRESS_AGENT_KERNEL_ALLOW", value_delimiter = ',', value_parser = units::network)]
    kernel_allow: Vec<IpNet>,

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

impl RejectFlags {
    /// `all` is what holds for every hook.
    pub(super) fn resolve(self, all: HookMode) -> Reject {
        Reject {
            mode: HookMode::Auto.under(all),
            interfaces: self.kernel_interfaces,
            xdp: self.kernel_xdp,
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
