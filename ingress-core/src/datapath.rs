//! What the kernel's tables for early rejection hold: a function of the snapshot, the listeners and the settings.
//!
//! Knows the layout of keys and values, not how they get into the kernel. A table that would not hold everything turns its check off,
//! and says so: half a table would reject what it should let pass.

mod diff;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ingress_common::names::NameKey;
use ingress_common::packet::mapped;
use ingress_common::verdict::{
    ALLOWED, DENIED, JUDGE_ALLOW_LIST, JUDGE_HTTP_HOSTS, JUDGE_TLS_NAMES, Judged, JudgedKey, MAX_INGRESS,
    MAX_JUDGED, MAX_NAMES, MAX_SOURCES, NODE_LIST, SourceKey, TRUSTED,
};
use ipnet::IpNet;

use crate::host::HostPattern;
use crate::name::ObjectRef;
use crate::snapshot::Snapshot;

pub use diff::{Changes, Operation, diff};

/// Everything but the snapshot that the tables depend on.
#[derive(Clone, Debug, Default)]
pub struct Ground {
    pub listeners: Vec<Listener>,
    /// The node's own addresses: what a listener on every address listens on.
    pub local: Vec<IpAddr>,
    /// Judge traffic to loopback addresses too.
    pub loopback: bool,
    /// Names that are served whatever the snapshot says: those of the default certificate.
    pub also_known: Vec<HostPattern>,
    /// For every listener.
    pub sources: SourceLists,
    /// Addresses on which ports that nobody serves are refused.
    pub ingress: Vec<IpAddr>,
}

#[derive(Clone, Debug)]
pub struct Listener {
    pub address: SocketAddr,
    pub tls: bool,
    /// Connections begin with a PROXY header, so their first segment says nothing.
    pub proxy_protocol: bool,
    pub sources: SourceLists,
}

/// Of several networks that hold a source, the smallest decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceLists {
    /// Empty: everyone.
    pub allow: Vec<IpNet>,
    pub deny: Vec<IpNet>,
    /// Never rejected, for whatever reason.
    pub trusted: Vec<IpNet>,
}

/// The tables, as they are to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    pub names: BTreeSet<NameKey>,
    pub judged: BTreeMap<Place, Judged>,
    pub sources: BTreeMap<Network, u32>,
    pub ingress: BTreeSet<[u8; 16]>,
    /// The node's list allows some sources, so that all others are rejected.
    pub allow_list: bool,
}

/// An address and port, in an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub address: [u8; 16],
    pub port: u16,
}

impl Place {
    pub fn key(self) -> JudgedKey {
        JudgedKey {
            address: self.address,
            port: self.port,
            padding: 0,
        }
    }
}

/// A network of a source list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Network {
    pub key: SourceKey,
    /// Of the whole key: 32 bits name the list.
    pub prefix_bits: u32,
}

/// What is not checked, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// No name is judged, because every name is served.
    EveryNameIsServed(ByWhom),
    /// The check is off, because its table is too small.
    Overflow {
        table: &'static str,
        needed: usize,
        room: u32,
    },
}

/// What takes every name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ByWhom {
    /// A rule without a host, or a default backend.
    Route(Arc<ObjectRef>),
    /// An Ingress without a host that nobody owns: its requests are to be explained.
    Unowned(Arc<ObjectRef>),
    /// A certificate for every name; only TLS names are not judged.
    Certificate(Arc<ObjectRef>),
    /// The default certificate's names.
    DefaultCertificate,
}

/// What one says in the log.
impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::EveryNameIsServed(ByWhom::Route(object)) => {
                write!(f, "names are not judged: {object} takes requests for every host")
            }
            Self::EveryNameIsServed(ByWhom::Unowned(object)) => {
                write!(
                    f,
                    "names are not judged: {object}, which nobody owns, names no host"
                )
            }
            Self::EveryNameIsServed(ByWhom::Certificate(object)) => {
                write!(f, "TLS names are not judged: {object} is bound to every name")
            }
            Self::EveryNameIsServed(ByWhom::DefaultCertificate) => {
                f.write_str("TLS names are not judged: the default certificate is for every name")
            }
            Self::Overflow { table, needed, room } => write!(
                f,
                "{table} are not checked in the kernel: {needed} entries are needed, and there is room for {room}"
            ),
        }
    }
}

/// The tables for a snapshot.
pub fn contents(snapshot: &Snapshot, ground: &Ground) -> (Contents, Vec<Note>) {
    let mut notes = Vec::new();
    let names = names(snapshot, ground, &mut notes);
    let flags = judgeable(snapshot, ground, names.is_some(), &mut notes);
    let sources = sources(ground, &mut notes);
    let mut contents = Contents {
        names: names.unwrap_or_default(),
        judged: judged(ground, flags, sources.is_some(), &mut notes),
        allow_list: sources.is_some() && !ground.sources.allow.is_empty(),
        sources: sources.unwrap_or_default(),
        ingress: ground.ingress.iter().map(bytes).collect(),
    };
    if let Some(note) = overflow("unserved ports", contents.ingress.len(), MAX_INGRESS) {
        contents.ingress.clear();
        notes.push(note);
    }
    (contents, notes)
}

fn overflow(table: &'static str, needed: usize, room: u32) -> Option<Note> {
    (needed > room as usize).then_some(Note::Overflow { table, needed, room })
}

/// Everything that is routed, owned by nobody, or has a certificate.
fn names(snapshot: &Snapshot, ground: &Ground, notes: &mut Vec<Note>) -> Option<BTreeSet<NameKey>> {
    let routed = snapshot.routes().map(|route| &route.host);
    let unowned = snapshot.unowned_hosts().map(|unowned| &unowned.host);
    let bound: Vec<_> = snapshot.certificate_bindings().map(|(host, _)| host).collect();
    let all = routed.chain(unowned).chain(&bound).chain(&ground.also_known);
    let names: BTreeSet<_> = all.filter_map(name).collect();
    match overflow("names", names.len(), MAX_NAMES) {
        Some(note) => {
            notes.push(note);
            None
        }
        None => Some(names),
    }
}

fn name(host: &HostPattern) -> Option<NameKey> {
    match host {
        HostPattern::Exact(name) => Some(NameKey::exact(name.as_bytes())),
        HostPattern::Wildcard(suffix) => Some(NameKey::wildcard(suffix.as_bytes())),
        HostPattern::Any => None,
    }
}

/// Which kinds of names may be judged at all.
fn judgeable(snapshot: &Snapshot, ground: &Ground, fits: bool, notes: &mut Vec<Note>) -> u32 {
    let is_any = |host: &HostPattern| *host == HostPattern::Any;
    let route = snapshot.routes().find(|route| is_any(&route.host));
    let unowned = snapshot.unowned_hosts().find(|unowned| is_any(&unowned.host));
    let everything = match (route, unowned) {
        (Some(route), _) => Some(ByWhom::Route(Arc::clone(&route.object))),
        (None, Some(unowned)) => Some(ByWhom::Unowned(Arc::clone(&unowned.object))),
        (None, None) => None,
    };
    if let Some(whom) = everything {
        notes.push(Note::EveryNameIsServed(whom));
        return 0;
    }
    if !fits {
        return 0;
    }
    match certificate_for_all(snapshot, ground) {
        Some(whom) => {
            notes.push(Note::EveryNameIsServed(whom));
            JUDGE_HTTP_HOSTS
        }
        None => JUDGE_HTTP_HOSTS | JUDGE_TLS_NAMES,
    }
}

fn certificate_for_all(snapshot: &Snapshot, ground: &Ground) -> Option<ByWhom> {
    let mut bindings = snapshot.certificate_bindings();
    let bound = bindings.find(|(host, _)| *host == HostPattern::Any);
    if let Some(key) = bound.and_then(|(_, keys)| keys.first()) {
        return Some(ByWhom::Certificate(Arc::clone(&key.0)));
    }
    let default = ground.also_known.contains(&HostPattern::Any);
    default.then_some(ByWhom::DefaultCertificate)
}

fn judged(ground: &Ground, names: u32, lists: bool, notes: &mut Vec<Note>) -> BTreeMap<Place, Judged> {
    let mut judged = BTreeMap::new();
    for (list, listener) in (NODE_LIST + 1..).zip(&ground.listeners) {
        let value = judgement(listener, if lists { list } else { NODE_LIST }, names);
        for place in places(listener, ground) {
            judged.insert(place, value);
        }
    }
    if let Some(note) = overflow("listeners", judged.len(), MAX_JUDGED) {
        notes.push(note);
        return BTreeMap::new();
    }
    judged
}

fn judgement(listener: &Listener, list: u32, names: u32) -> Judged {
    let kind = if listener.tls {
        JUDGE_TLS_NAMES
    } else {
        JUDGE_HTTP_HOSTS
    };
    let own = list != NODE_LIST && listener.sources != SourceLists::default();
    let mut flags = if listener.proxy_protocol { 0 } else { kind & names };
    if own && !listener.sources.allow.is_empty() {
        flags |= JUDGE_ALLOW_LIST;
    }
    Judged {
        list: if own { list } else { NODE_LIST },
        flags,
    }
}

/// The addresses that a listener listens on, as packets name them. A listener on one address stands before one on all.
fn places(listener: &Listener, ground: &Ground) -> Vec<Place> {
    let (ip, port) = (listener.address.ip(), listener.address.port());
    let place = |ip: &IpAddr| Place {
        address: bytes(ip),
        port,
    };
    let judged = |ip: &&IpAddr| ground.loopback || !ip.to_canonical().is_loopback();
    if !ip.is_unspecified() {
        return Some(&ip).filter(judged).map(place).into_iter().collect();
    }
    let own = |ip: &&IpAddr| {
        let others = ground.listeners.iter().map(|other| other.address);
        let taken = others
            .into_iter()
            .any(|other| other == SocketAddr::new(**ip, port));
        // `[::]` takes IPv4 too.
        !taken && (ip.is_ipv4() || listener.address.is_ipv6())
    };
    ground
        .local
        .iter()
        .filter(judged)
        .filter(own)
        .map(place)
        .collect()
}

/// As a packet's address stands in the tables.
fn bytes(ip: &IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The node's list and each listener's; None when they don't all fit.
fn sources(ground: &Ground, notes: &mut Vec<Note>) -> Option<BTreeMap<Network, u32>> {
    let own = ground.listeners.iter().map(|listener| &listener.sources);
    let lists = std::iter::once(&ground.sources).chain(own);
    let mut sources = BTreeMap::new();
    for (list, lists) in (NODE_LIST..).zip(lists) {
        // What is in several lists is trusted before it is denied, and denied before it is allowed.
        for (networks, entry) in [
            (&lists.allow, ALLOWED),
            (&lists.deny, DENIED),
            (&lists.trusted, TRUSTED),
        ] {
            sources.extend(networks.iter().map(|net| (network(list, net), entry)));
        }
    }
    match overflow("source lists", sources.len(), MAX_SOURCES) {
        Some(note) => {
            notes.push(note);
            None
        }
        None => Some(sources),
    }
}

fn network(list: u32, net: &IpNet) -> Network {
    let net = net.trunc();
    let (address, bits) = match net {
        IpNet::V4(v4) => (mapped(v4.network().octets()), 96 + u32::from(v4.prefix_len())),
        IpNet::V6(v6) => (v6.network().octets(), u32::from(v6.prefix_len())),
    };
    Network {
        key: SourceKey {
            list: list.to_be_bytes(),
            address,
        },
        prefix_bits: 32 + bits,
    }
}

#[cfg(test)]
mod tests;
