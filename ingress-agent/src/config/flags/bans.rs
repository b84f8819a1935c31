//! The settings of penalties.

use std::time::Duration;

use clap::Args;
use ipnet::IpNet;

use super::not_empty;
use crate::config::{Bans, units};

#[derive(Debug, Args)]
#[command(next_help_heading = "Penalties")]
pub(super) struct BanFlags {
    /// Failed TLS handshakes of one source (an IPv4 address or an IPv6 /64) within --ban-window from which it is banned; 0 is never.
    #[arg(
        long,
        value_name = "NUMBER",
        env = "INGRESS_AGENT_BAN_HANDSHAKES",
        default_value = "0"
    )]
    ban_handshakes: u32,

    /// Requests of one source for hosts that nobody serves, within --ban-window, from which it is banned; 0 is never.
    #[arg(
        long,
        value_name = "NUMBER",
        env = "INGRESS_AGENT_BAN_UNMATCHED",
        default_value = "0"
    )]
    ban_unmatched: u32,

    /// Refused requests (4xx) of one source for --ban-scan-paths, within --ban-window, from which it is banned; 0 is never.
    #[arg(
        long,
        value_name = "NUMBER",
        env = "INGRESS_AGENT_BAN_SCANS",
        default_value = "0"
    )]
    ban_scans: u32,

    /// Beginning of a path that only scanners ask for. Repeatable.
    #[arg(
        long,
        value_name = "PATH",
        env = "INGRESS_AGENT_BAN_SCAN_PATHS",
        value_delimiter = ',',
        default_value = "/.env,/.git/,/.aws/,/wp-login.php,/wp-admin/,/xmlrpc.php,/phpmyadmin/,/cgi-bin/,/vendor/phpunit/",
        value_parser = not_empty
    )]
    ban_scan_paths: Vec<String>,

    /// Time within which offences are counted (ms, s, m, h). A source that was also served well in it is not banned.
    #[arg(long, value_name = "DURATION", env = "INGRESS_AGENT_BAN_WINDOW", default_value = "1m", value_parser = units::duration)]
    ban_window: Duration,

    /// How long a source is banned for its offences (ms, s, m, h).
    #[arg(long, value_name = "DURATION", env = "INGRESS_AGENT_BAN_FOR", default_value = "10m", value_parser = units::duration)]
    ban_for: Duration,

    /// Network (CIDR) or address that is never banned; nor are --trusted-proxies. Repeatable. [default: none]
    #[arg(long, value_name = "CIDR", env = "INGRESS_AGENT_BAN_NEVER", value_delimiter = ',', value_parser = units::network)]
    ban_never: Vec<IpNet>,
}

impl BanFlags {
    pub(super) fn resolve(self) -> Bans {
        Bans {
            handshakes: self.ban_handshakes,
            unmatched: self.ban_unmatched,
            scans: self.ban_scans,
            scan_paths: self.ban_scan_paths,
            window: self.ban_window,
            lasts: self.ban_for,
            never: self.ban_never,
        }
    }
}
