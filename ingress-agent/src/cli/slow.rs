//! `slow`: for each route, whether the client's network, the proxy, the network to the pod or the pod takes the time; and, when asked, the
//! single connections that broke or were slow.

use std::error::Error;
use std::fmt::Write as _;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use serde::de::DeserializeOwned;

use super::probe::{self, At};
use super::{Exit, Output, complain, print};
use crate::account::{ConnectionFigures, ConnectionsView, Ending, NetworkFigures, RouteFigures, Side};

#[derive(Debug, Args)]
pub(super) struct SlowFlags {
    /// Only routes of this host, and of this path: HOST or HOST/PATH, as the Ingress has them. [default: all]
    route: Option<String>,
    /// In place of routes, the last single connections that ended badly or were slow, and a sample of the others; with HOST only clients'.
    #[arg(long)]
    connections: bool,
    /// The --admin address of the agent.
    #[arg(
        long,
        value_name = "ADDR",
        env = "INGRESS_AGENT_ADMIN",
        default_value = "127.0.0.1:9090"
    )]
    admin: SocketAddr,
    /// The --admin-socket of the agent, in place of its address.
    #[arg(long, value_name = "FILE", env = "INGRESS_AGENT_ADMIN_SOCKET")]
    socket: Option<PathBuf>,
    /// How to print: text for people, json for programs.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Output,
}

pub(super) fn slow(flags: &SlowFlags, out: &mut dyn Write) -> Exit {
    let at = match &flags.socket {
        Some(path) => At::Socket(path),
        None => At::Address(flags.admin),
    };
    let shown = match flags.connections {
        true => connections(flags, &at),
        false => routes(flags, &at),
    };
    match shown {
        Ok(shown) => print(out, shown.as_bytes()),
        Err(error) => complain(&format!("{at}: {error}"), Exit::Failed),
    }
}

fn routes(flags: &SlowFlags, at: &At<'_>) -> Result<String, Box<dyn Error>> {
    let mut routes: Vec<RouteFigures> = asked(at, "/slow")?;
    routes.retain(|route| flags.wants(&route.host, &route.path));
    // The worst first.
    routes.sort_by(|a, b| all(b).total_cmp(&all(a)));
    match flags.output {
        Output::Text => Ok(text(&routes)),
        Output::Json => Ok(serde_json::to_string_pretty(&routes)? + "\n"),
    }
}

fn connections(flags: &SlowFlags, at: &At<'_>) -> Result<String, Box<dyn Error>> {
    let mut view: ConnectionsView = asked(at, "/connections")?;
    if flags.route.is_some() {
        view.connections.retain(|connection| {
            let route = connection.route.as_ref();
            route.is_some_and(|route| flags.wants(&route.host, &route.path))
        });
    }
    match flags.output {
        Output::Text => Ok(told(&view)),
        Output::Json => Ok(serde_json::to_string_pretty(&view)? + "\n"),
    }
}

fn asked<T: DeserializeOwned>(at: &At<'_>, path: &str) -> Result<T, Box<dyn Error>> {
    match probe::ask(at, path)? {
        (200, body) => Ok(serde_json::from_str(&body)?),
        (status, _) => Err(format!("the answer is {status}").into()),
    }
}

impl SlowFlags {
    fn wants(&self, host: &str, path: &str) -> bool {
        let wanted = self.route.as_deref();
        wanted.is_none_or(|wanted| is_wanted(wanted, host, path))
    }
}

fn is_wanted(wanted: &str, own_host: &str, own_path: &str) -> bool {
    let (host, path) = match wanted.split_once('/') {
        Some((host, path)) => (host, Some(path)),
        None => (wanted, None),
    };
    // `Prefix /path`
    let own = own_path.split_once('/').map_or("", |(_, path)| path);
    own_host.eq_ignore_ascii_case(host) && path.is_none_or(|path| path == own)
}

fn all(route: &RouteFigures) -> f64 {
    route.client_ms + route.proxy_ms + route.backend_network_ms + route.pod_ms
}

fn text(routes: &[RouteFigures]) -> String {
    if routes.is_empty() {
        return "no requests of such a route were looked at yet\n".into();
    }
    let mut text = String::new();
    for route in routes {
        let _ = write_route(&mut text, route);
    }
    text
}

fn write_route(text: &mut String, route: &RouteFigures) -> std::fmt::Result {
    let RouteFigures {
        host,
        path,
        namespace,
        ingress,
        slow,
        ..
    } = route;
    writeln!(text, "{host} {path} (Ingress {namespace}/{ingress}): {slow}")?;
    writeln!(
        text,
        "  a request takes: client's network {} ms, proxy {} ms, network to the pod {} ms, pod {} ms ({} looked at)",
        route.client_ms, route.proxy_ms, route.backend_network_ms, route.pod_ms, route.requests
    )?;
    write_network(text, "clients", &route.client)?;
    for backend in &route.backends {
        let name = format!("Service {}/{}", backend.namespace, backend.service);
        write_network(text, &name, &backend.network)?;
    }
    Ok(())
}

fn write_network(text: &mut String, name: &str, network: &NetworkFigures) -> std::fmt::Result {
    let rtt = network
        .rtt_ms
        .map_or_else(|| "unknown".to_owned(), |rtt| format!("{rtt} ms"));
    write!(
        text,
        "  {name}: round trip {rtt}, {} of {} segments sent again, window full {} ms",
        network.retransmits, network.segments, network.window_limited_ms
    )?;
    if let Some(ends) = network.connections {
        write!(
            text,
            "; {} connections ended, {} failed, {} reset by the other side, {} reset, {} timed out",
            ends.all, ends.failed, ends.reset_by_peer, ends.reset, ends.timed_out
        )?;
    }
    writeln!(text)
}

fn told(view: &ConnectionsView) -> String {
    if !view.counted {
        return "accounting is off in the kernel, and nobody else knows of single connections: `ingress-agent kernel status` says why\n".into();
    }
    let mut text = String::new();
    for connection in &view.connections {
        let _ = write_connection(&mut text, connection);
    }
    if view.connections.is_empty() {
        text += "none so far\n";
    }
    let untold = view.untold;
    if untold.buffer_full + untold.rate > 0 {
        let _ = writeln!(
            text,
            "not told: {} above the rate, {} because the buffer was full",
            untold.rate, untold.buffer_full
        );
    }
    text
}

fn write_connection(text: &mut String, connection: &ConnectionFigures) -> std::fmt::Result {
    let end = match connection.end {
        Ending::Finished => "finished",
        Ending::Failed => "failed",
        Ending::ResetByPeer => "reset by the other side",
        Ending::Reset => "reset",
        Ending::TimedOut => "timed out",
    };
    write!(text, "{:.1} s ago, ", connection.ended_seconds_ago)?;
    match connection.side {
        Side::Client => {
            let listener = connection.listener.as_deref().unwrap_or("unknown");
            write!(
                text,
                "client {} at {listener} {}",
                connection.peer, connection.local
            )?;
            match &connection.route {
                Some(route) => write!(
                    text,
                    ", {} {} (Ingress {}/{})",
                    route.host, route.path, route.namespace, route.ingress
                )?,
                None => write!(text, ", no request")?,
            }
        }
        Side::Backend => {
            write!(text, "endpoint {}", connection.peer)?;
            for service in &connection.services {
                write!(text, ", Service {service}")?;
            }
        }
    }
    let rtt = connection
        .rtt_ms
        .map_or_else(|| "unknown".to_owned(), |rtt| format!("{rtt} ms"));
    writeln!(
        text,
        ": {end} after {} ms; {} bytes in, {} out, round trip {rtt}, {} of {} segments sent again",
        connection.lasted_ms,
        connection.bytes_in,
        connection.bytes_out,
        connection.retransmits,
        connection.segments_out
    )
}
