//! The last connections that the kernel's side told one by one: with their owner's name, in a bounded number, and to the log at debug.
//!
//! Each kind has a list of its own, so that a thousand resets leave the slow ones, and those the sample of the others, where they were.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ingress_common::account::{AF_INET, BACKEND, Connection, End, Why};
use ingress_core::snapshot::Snapshot;
use serde::{Deserialize, Serialize};

use super::desk::listener_number;
use super::report::{addresses, millis};
use super::{Accounts, Name, Owner, RouteName, lock};
use crate::kernel::account::{Accounting, Untold, monotonic};
use crate::listener::Listener;

/// Connections of each kind that are remembered.
const REMEMBERED: usize = 256;
/// What is read at once; more than the kernel's buffer holds.
const MOST_AT_ONCE: usize = 1024;

/// `/connections`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ConnectionsView {
    /// Whether the kernel's side counts; it alone can tell of these.
    pub counted: bool,
    /// What is not among them.
    pub untold: Untold,
    /// The latest first.
    pub connections: Vec<ConnectionFigures>,
}

/// A connection that has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectionFigures {
    pub side: Side,
    pub why: Reason,
    pub end: Ending,
    pub ended_seconds_ago: f64,
    pub local: SocketAddr,
    /// The client, or the endpoint.
    pub peer: SocketAddr,
    /// A client's: `http` or `https`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// A client's: of its latest request; not there where none came that has a route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<RouteOf>,
    /// Services that have the endpoint now, as `namespace/name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<String>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub segments_in: u32,
    pub segments_out: u32,
    pub retransmits: u32,
    /// Smoothed, at its end; not there where it was never measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub least_rtt_ms: Option<f64>,
    /// From SYN to established (backend), from established to accepted (client).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub setup_ms: Option<f64>,
    /// From established, or from its SYN where it never was, to its end.
    pub lasted_ms: f64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteOf {
    pub namespace: String,
    pub ingress: String,
    pub host: String,
    pub path: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    Client,
    Backend,
}

/// Why it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    EndedBadly,
    Slow,
    Sample,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    Finished,
    Failed,
    ResetByPeer,
    Reset,
    TimedOut,
}

/// Of each kind the latest, with the moment it ended (nanoseconds of CLOCK_MONOTONIC).
#[derive(Debug, Default)]
pub(super) struct Remembered([VecDeque<(u64, ConnectionFigures)>; Why::ALL.len()]);

impl Accounts {
    /// The last ones, for whoever asks.
    pub fn connections(&self, snapshot: &Snapshot) -> ConnectionsView {
        let Some(kernel) = self.kernel() else {
            return ConnectionsView::default();
        };
        self.hear(kernel);
        let mut connections = lock(&self.remembered).latest(monotonic());
        let services = services(snapshot);
        for connection in &mut connections {
            if let (Side::Backend, Some(names)) = (connection.side, services.get(&connection.peer)) {
                connection.services.clone_from(names);
            }
        }
        ConnectionsView {
            counted: true,
            untold: kernel.untold(),
            connections,
        }
    }

    /// Reads what the kernel's side has told meanwhile.
    pub(super) fn hear(&self, kernel: &Accounting) {
        // Held while reading, so that of two who read at the same time the earlier connections come first.
        let mut remembered = lock(&self.remembered);
        let told = kernel.ended(MOST_AT_ONCE);
        if told.is_empty() {
            return;
        }
        let owners = self.owners();
        let by_number: HashMap<u32, &Arc<Owner>> = owners.iter().map(|owner| (owner.number, owner)).collect();
        for connection in &told {
            let name = by_number
                .get(&connection.ended.tag.owner)
                .map(|owner| &owner.name);
            let figures = ConnectionFigures::of(connection, name);
            figures.log();
            remembered.add(connection, figures);
        }
    }
}

impl Remembered {
    fn add(&mut self, connection: &Connection, figures: ConnectionFigures) {
        let Self(kinds) = self;
        let kind = usize::try_from(connection.why).unwrap_or(usize::MAX);
        // Any other number is not the program's.
        let Some(kind) = kinds.get_mut(kind) else { return };
        if kind.len() >= REMEMBERED {
            kind.pop_front();
        }
        kind.push_back((connection.ended.now, figures));
    }

    fn latest(&self, now: u64) -> Vec<ConnectionFigures> {
        let mut all: Vec<_> = self.0.iter().flatten().collect();
        all.sort_by_key(|(ended, _)| std::cmp::Reverse(*ended));
        let shown = |(ended, figures): &(u64, ConnectionFigures)| {
            let ago = Duration::from_nanos(now.saturating_sub(*ended));
            ConnectionFigures {
                ended_seconds_ago: millis(ago) / 1000.0,
                ..figures.clone()
            }
        };
        all.into_iter().map(shown).collect()
    }
}

impl ConnectionFigures {
    fn of(connection: &Connection, owner: Option<&Name>) -> Self {
        let ended = &connection.ended;
        let (local, peer) = ends(connection);
        let listener = Listener::ALL
            .into_iter()
            .find(|listener| listener_number(*listener) == ended.tag.listener);
        let is_measured = ended.srtt_by_8 != 0;
        let micros = |micros: u32| millis(Duration::from_micros(micros.into()));
        let since = match ended.life.established {
            0 => ended.life.began,
            established => established,
        };
        Self {
            side: match ended.tag.side {
                BACKEND => Side::Backend,
                _ => Side::Client,
            },
            why: match ended.why() {
                Why::Bad => Reason::EndedBadly,
                Why::Slow => Reason::Slow,
                Why::Sample => Reason::Sample,
            },
            end: match ended.how() {
                End::Finished => Ending::Finished,
                End::Failed => Ending::Failed,
                End::ResetByPeer => Ending::ResetByPeer,
                End::Reset => Ending::Reset,
                End::TimedOut => Ending::TimedOut,
            },
            ended_seconds_ago: 0.0,
            local,
            peer,
            listener: listener.map(|listener| listener.as_str().to_owned()),
            route: match owner {
                Some(Name::Route(name)) => Some(RouteOf::of(name)),
                _ => None,
            },
            services: Vec::new(),
            bytes_in: ended.bytes_in,
            bytes_out: ended.bytes_out,
            segments_in: ended.segments_in,
            segments_out: ended.segments_out,
            retransmits: ended.retransmits,
            rtt_ms: is_measured.then(|| micros(ended.srtt_by_8 / 8)),
            least_rtt_ms: (is_measured && ended.least_rtt != u32::MAX).then(|| micros(ended.least_rtt)),
            setup_ms: ended.setup().map(|micros| millis(Duration::from_micros(micros))),
            lasted_ms: millis(Duration::from_nanos(ended.now.saturating_sub(since))),
        }
    }

    fn log(&self) {
        let route = self.route.as_ref();
        tracing::debug!(
            side = ?self.side, why = ?self.why, end = ?self.end, peer = %self.peer, local = %self.local,
            namespace = route.map(|route| &*route.namespace), ingress = route.map(|route| &*route.ingress),
            bytes_in = self.bytes_in, bytes_out = self.bytes_out, rtt_ms = self.rtt_ms, retransmits = self.retransmits,
            lasted_ms = self.lasted_ms, "kernel: a connection has ended"
        );
    }
}

impl RouteOf {
    fn of(name: &RouteName) -> Self {
        let (kind, path) = &name.path;
        Self {
            namespace: name.object.namespace.to_string(),
            ingress: name.object.name.to_string(),
            host: name.host.to_string(),
            // The kinds of `PathMatch::key`, in the words of its `Display`.
            path: match (kind, &**path) {
                (0, path) => format!("Exact {path}"),
                (1, "") => "Prefix /".to_owned(),
                (1, path) => format!("Prefix {path}"),
                (_, path) => format!("Regex {path}"),
            },
        }
    }
}

/// Local, then remote.
fn ends(connection: &Connection) -> (SocketAddr, SocketAddr) {
    let (local, remote) = if connection.family == AF_INET {
        let short = |word: u32| IpAddr::V4(Ipv4Addr::from(word.to_ne_bytes()));
        (short(connection.local_ip4), short(connection.remote_ip4))
    } else {
        (long(connection.local_ip6), long(connection.remote_ip6))
    };
    let port = |port: u32| u16::try_from(port).unwrap_or_default();
    (
        SocketAddr::new(local, port(connection.local_port)),
        SocketAddr::new(remote, port(u32::from_be(connection.remote_port))),
    )
}

/// An IPv4 address where the socket is of IPv6 and its peer is not.
fn long(words: [u32; 4]) -> IpAddr {
    let mut bytes = [0; 16];
    for (four, word) in bytes.chunks_exact_mut(4).zip(words) {
        four.copy_from_slice(&word.to_ne_bytes());
    }
    Ipv6Addr::from(bytes).to_canonical()
}

fn services(snapshot: &Snapshot) -> HashMap<SocketAddr, Vec<String>> {
    let mut all: HashMap<SocketAddr, Vec<String>> = HashMap::new();
    for cluster in snapshot.clusters() {
        let service = &cluster.key.service;
        let name = format!("{}/{}", service.namespace, service.name);
        for address in addresses(cluster) {
            let names = all.entry(address).or_default();
            if !names.contains(&name) {
                names.push(name.clone());
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use ingress_common::account::{CLIENT, Ended, Life, Tag};

    use super::*;

    /// A client's connection that its client has reset; `now` tells one from another.
    fn reset(now: u64) -> Connection {
        Connection {
            ended: Ended {
                left: 1,
                now,
                life: Life {
                    established: 1_000_000,
                    reset_by_peer: 1,
                    ..Life::default()
                },
                tag: Tag {
                    side: CLIENT,
                    listener: 2,
                    accepted: 3_000_000,
                    ..Tag::default()
                },
                srtt_by_8: 8 * 1500,
                least_rtt: u32::MAX,
                bytes_in: 7,
                ..Ended::default()
            },
            why: Why::Bad as u32,
            family: AF_INET,
            local_port: 443,
            remote_port: u32::from(4711_u16).to_be(),
            local_ip4: u32::from_ne_bytes([10, 0, 0, 1]),
            remote_ip4: u32::from_ne_bytes([192, 0, 2, 7]),
            ..Connection::default()
        }
    }

    #[test]
    fn a_connection_is_shown_with_both_ends_and_how_it_ended() {
        let figures = ConnectionFigures::of(&reset(5_000_000), None);
        assert_eq!(figures.peer, "192.0.2.7:4711".parse().unwrap());
        assert_eq!(figures.local, "10.0.0.1:443".parse().unwrap());
        assert_eq!(figures.listener.as_deref(), Some("https"));
        assert_eq!((figures.side, figures.why), (Side::Client, Reason::EndedBadly));
        assert_eq!(figures.end, Ending::ResetByPeer);
        assert_eq!((figures.rtt_ms, figures.least_rtt_ms), (Some(1.5), None));
        assert_eq!((figures.setup_ms, figures.lasted_ms), (Some(2.0), 4.0));
    }

    #[test]
    fn an_address_of_ipv6_is_shown_as_it_is_and_a_mapped_one_short() {
        let mut connection = reset(1);
        connection.family = 10;
        let words = |address: &str| {
            let octets = address.parse::<Ipv6Addr>().unwrap().octets();
            let mut words = [0; 4];
            for (word, four) in words.iter_mut().zip(octets.chunks_exact(4)) {
                *word = u32::from_ne_bytes(four.try_into().unwrap());
            }
            words
        };
        connection.local_ip6 = words("2001:db8::1");
        connection.remote_ip6 = words("::ffff:192.0.2.7");
        let (local, peer) = ends(&connection);
        assert_eq!(local, "[2001:db8::1]:443".parse().unwrap());
        assert_eq!(peer, "192.0.2.7:4711".parse().unwrap());
    }

    #[test]
    fn the_latest_are_remembered_of_each_kind_and_of_no_kind_too_many() {
        let mut remembered = Remembered::default();
        let mut add = |connection: Connection| {
            let figures = ConnectionFigures::of(&connection, None);
            remembered.add(&connection, figures);
        };
        let good = Connection {
            why: Why::Sample as u32,
            ..reset(1)
        };
        add(good);
        (2..=1_000).for_each(|now| add(reset(now)));
        let unknown = Connection { why: 77, ..reset(1) };
        add(unknown);
        let shown = remembered.latest(1_000_001_000);
        assert_eq!(shown.len(), REMEMBERED + 1, "the one that is older stays");
        assert_eq!(shown.first().unwrap().ended_seconds_ago, 1.0);
    }
}
