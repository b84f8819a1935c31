//! `slow`: for each route, whether the client's network, the proxy, the network to the pod or the pod takes the time.

use std::fmt::Write as _;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::probe::{self, At};
use super::{Exit, Output, complain, print};
use crate::account::{NetworkFigures, RouteFigures};

#[derive(Debug, Args)]
pub(super) struct SlowFlags {
    /// Only routes of this host, and of this path: HOST or HOST/PATH, as the Ingress has them. [default: all]
    route: Option<String>,
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
    let body = match probe::ask(&at, "/slow") {
        Ok((200, body)) => body,
        Ok((status, _)) => return complain(&format!("{at}: the answer is {status}"), Exit::Failed),
        Err(error) => return complain(&format!("{at}: {error}"), Exit::Failed),
    };
    let mut routes: Vec<RouteFigures> = match serde_json::from_str(&body) {
        Ok(routes) => routes,
        Err(error) => return complain(&format!("{at}: {error}"), Exit::Failed),
    };
    routes.retain(|route| {
        flags
            .route
            .as_deref()
            .is_none_or(|wanted| is_wanted(wanted, route))
    });
    // The worst first.
    routes.sort_by(|a, b| all(b).total_cmp(&all(a)));
    match flags.output {
        Output::Text => print(out, text(&routes).as_bytes()),
        Output::Json => match serde_json::to_string_pretty(&routes) {
            Ok(json) => print(out, (json + "\n").as_bytes()),
            Err(error) => complain(&error.to_string(), Exit::Failed),
        },
    }
}

fn is_wanted(wanted: &str, route: &RouteFigures) -> bool {
    let (host, path) = match wanted.split_once('/') {
        Some((host, path)) => (host, Some(path)),
        None => (wanted, None),
    };
    // `Prefix /path`
    let own = route.path.split_once('/').map_or("", |(_, path)| path);
    route.host.eq_ignore_ascii_case(host) && path.is_none_or(|path| path == own)
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
