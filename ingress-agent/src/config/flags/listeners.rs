//! Where clients and operators reach the agent.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use ipnet::IpNet;

use super::super::units::{self, Listen};
use super::super::{ConfigError, ProxyProtocol};

#[derive(Debug, Args)]
#[command(next_help_heading = "Listeners")]
pub(super) struct Listeners {
    /// Address for plain HTTP: ADDRESS:PORT, :PORT for all addresses, either with a range of ports (:8000-8100), or off. Repeatable. A change in the file takes effect
    /// while the agent runs.
    #[arg(long, value_name = "ADDR", env = "INGRESS_AGENT_HTTP", value_delimiter = ',', default_value = "[::]:80", value_parser = units::listen)]
    pub(super) http: Vec<Listen>,

    /// Address for HTTPS: ADDRESS:PORT, :PORT for all addresses, either with a range of ports (:8400-8500), or off. Repeatable. A change in the file takes effect
    /// while the agent runs.
    #[arg(long, value_name = "ADDR", env = "INGRESS_AGENT_HTTPS", value_delimiter = ',', default_value = "[::]:443", value_parser = units::listen)]
    pub(super) https: Vec<Listen>,

    /// Address for health, metrics and the configuration dump, or off. Not for the public: keep it on loopback or behind a network policy.
    #[arg(long, value_name = "ADDR", env = "INGRESS_AGENT_ADMIN", default_value = "127.0.0.1:9090", value_parser = units::listen)]
    pub(super) admin: Listen,

    /// Unix socket for the same pages, for `ingress-agent probe`. With it, an admin address that another process has is taken when it becomes free
    /// and does not keep the agent from starting. [default: none]
    #[arg(long, value_name = "FILE", env = "INGRESS_AGENT_ADMIN_SOCKET")]
    pub(super) admin_socket: Option<PathBuf>,

    /// Port that redirects from HTTP to HTTPS name, when clients reach HTTPS on another one than the agent listens on; 443 stays out of URLs. [default: the port of the first HTTPS address]
    #[arg(long, value_name = "PORT", env = "INGRESS_AGENT_HTTPS_PORT_IN_REDIRECTS", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) https_port_in_redirects: Option<u16>,

    /// Network (CIDR) or address of load balancers in front: their X-Forwarded-* headers and PROXY protocol are believed. Repeatable. [default: nobody]
    #[arg(long, value_name = "CIDR", env = "INGRESS_AGENT_TRUSTED_PROXIES", value_delimiter = ',', value_parser = units::network)]
    pub(super) trusted_proxies: Vec<IpNet>,

    /// Whether connections from trusted proxies begin with a PROXY protocol header (version 1 or 2): on or off.
    #[arg(
        long,
        value_name = "MODE",
        env = "INGRESS_AGENT_PROXY_PROTOCOL",
        default_value = "off"
    )]
    pub(super) proxy_protocol: ProxyProtocol,
}

/// Each port of a range is an address of its own.
pub(super) fn addresses(listens: &[Listen], name: &str) -> Result<Vec<SocketAddr>, ConfigError> {
    let mut addresses = Vec::new();
    for listen in listens {
        if let Listen::On { address, last_port } = listen {
            let ports = address.port()..=*last_port;
            addresses.extend(ports.map(|port| SocketAddr::new(address.ip(), port)));
        }
    }
    if !addresses.is_empty() && listens.contains(&Listen::Off) {
        return Err(ConfigError::Contradiction(format!(
            "{name} is off and an address at once: expected one or the other"
        )));
    }
    Ok(addresses)
}

pub(super) fn one_address(listen: Listen, name: &str) -> Result<Option<SocketAddr>, ConfigError> {
    match addresses(&[listen], name)?.as_slice() {
        [] => Ok(None),
        [address] => Ok(Some(*address)),
        _ => Err(ConfigError::Contradiction(format!(
            "{name} is a range: expected one port"
        ))),
    }
}
