//! What becomes of a packet: the whole decision of early rejection, over tables that either side provides.
//!
//! *Unsure means pass*: every way out of here that is not certain is a pass, and user space decides. Only packets to served addresses
//! and ports are judged, and packets that open a connection to an ingress address where no socket listens.

use crate::bucket::Rate;
use crate::http::{self, Request};
use crate::names::{NameKey, Walk};
use crate::packet::{Destination, NotTcp, Packet, Segment};
use crate::tls::{self, Bytes, Hello};
use crate::window::{Head, Payload};

/// A check does nothing.
pub const OFF: u32 = 0;
/// A check counts what it would reject.
pub const COUNT: u32 = 1;
/// A check rejects.
pub const REJECT: u32 = 2;

/// What is switched on. One entry in an array map, replaced as a whole.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Each one of [`OFF`], [`COUNT`], [`REJECT`].
    pub names: u32,
    pub sources: u32,
    pub unserved: u32,
    pub budgets: u32,
    pub malformed: u32,
    pub bans: u32,
    /// Of the `SETTING_` constants.
    pub flags: u32,
    pub padding: u32,
    /// New connections of one source (an IPv4 address, or an IPv6 /64).
    pub by_source: Rate,
    /// New connections in all.
    pub in_total: Rate,
    /// Samples for the log.
    pub samples: Rate,
}

/// The node's list of sources allows some: the others are rejected.
pub const SETTING_ALLOW_LIST: u32 = 1;
/// An opening packet that is rejected is answered with a reset; else it is dropped.
pub const SETTING_ANSWER: u32 = 2;

/// Where a packet goes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct JudgedKey {
    /// In network order; IPv4 stands as `::ffff:a.b.c.d`.
    pub address: [u8; 16],
    /// In host order.
    pub port: u16,
    pub padding: u16,
}

const _: () = assert!(size_of::<JudgedKey>() == 20);

/// A served address and port, as far as rejection is concerned.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Judged {
    /// Its own list of sources; [`NODE_LIST`] if it has none.
    pub list: u32,
    /// Of the `JUDGE_` constants.
    pub flags: u32,
}

/// A TLS name that is not in the table is unmatched.
pub const JUDGE_TLS_NAMES: u32 = 1;
/// A plain-HTTP host that is not in the table is unmatched.
pub const JUDGE_HTTP_HOSTS: u32 = 2;
/// Its own list allows some sources: the others are rejected.
pub const JUDGE_ALLOW_LIST: u32 = 4;

/// A network in a list of sources: the key of a longest-prefix-match map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceKey {
    /// In network order, so that it is a prefix.
    pub list: [u8; 4],
    /// IPv4 stands as `::ffff:a.b.c.d`.
    pub address: [u8; 16],
}

/// The list that holds for every listener.
pub const NODE_LIST: u32 = 0;

/// What a list says of a source; of several networks the smallest decides.
pub const NOT_LISTED: u32 = 0;
pub const DENIED: u32 = 1;
pub const ALLOWED: u32 = 2;
/// Never rejected, for whatever reason.
pub const TRUSTED: u32 = 3;

/// Room in the tables.
pub const MAX_NAMES: u32 = 65_536;
pub const MAX_JUDGED: u32 = 4096;
pub const MAX_SOURCES: u32 = 16_384;
pub const MAX_INGRESS: u32 = 1024;
/// Sources that are banned at the same time.
pub const MAX_BANS: u32 = 8192;

/// Ports that are never taken for unserved: kube-proxy serves node ports without a socket.
pub const NODE_PORTS: core::ops::RangeInclusive<u16> = 30_000..=32_767;

const _: () = assert!(size_of::<Settings>() == 80);
const _: () = assert!(size_of::<Judged>() == 8);
const _: () = assert!(size_of::<SourceKey>() == 20);

/// What became of a packet, and why. The number is the index of its counter.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Nobody's business here. Not counted.
    Untouched = 0,
    SourceDenied = 1,
    SourceNotAllowed = 2,
    PortUnserved = 3,
    SourceBudget = 4,
    TotalBudget = 5,
    MalformedTcp = 6,
    MalformedHello = 7,
    TlsNameUnknown = 8,
    HttpHostUnknown = 9,
    /// From here on: a first segment that passes, and why.
    NameKnown = 10,
    HostKnown = 11,
    NotFirst = 12,
    Split = 13,
    Encrypted = 14,
    NoName = 15,
    Unusual = 16,
    /// Rejected again: for a time, by what the source did before.
    SourceBanned = 17,
}

/// How many verdicts there are.
pub const VERDICTS: u32 = 18;

impl Verdict {
    pub const ALL: [Self; VERDICTS as usize] = [
        Self::Untouched,
        Self::SourceDenied,
        Self::SourceNotAllowed,
        Self::PortUnserved,
        Self::SourceBudget,
        Self::TotalBudget,
        Self::MalformedTcp,
        Self::MalformedHello,
        Self::TlsNameUnknown,
        Self::HttpHostUnknown,
        Self::NameKnown,
        Self::HostKnown,
        Self::NotFirst,
        Self::Split,
        Self::Encrypted,
        Self::NoName,
        Self::Unusual,
        Self::SourceBanned,
    ];

    /// The word in metrics and the log.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Untouched => "untouched",
            Self::SourceDenied => "source_denied",
            Self::SourceNotAllowed => "source_not_allowed",
            Self::PortUnserved => "port_unserved",
            Self::SourceBudget => "source_budget",
            Self::TotalBudget => "total_budget",
            Self::MalformedTcp => "malformed_tcp",
            Self::MalformedHello => "malformed_hello",
            Self::TlsNameUnknown => "tls_name_unknown",
            Self::HttpHostUnknown => "http_host_unknown",
            Self::NameKnown => "name_known",
            Self::HostKnown => "host_known",
            Self::NotFirst => "not_first",
            Self::Split => "split",
            Self::Encrypted => "encrypted",
            Self::NoName => "no_name",
            Self::Unusual => "unusual",
            Self::SourceBanned => "source_banned",
        }
    }

    /// The check that it belongs to, as the settings have it; [`OFF`] for what passes anyway.
    pub const fn mode(self, settings: &Settings) -> u32 {
        mode(self as u32, settings)
    }

    /// Whether the check behind it would reject, were it not only counting.
    pub const fn is_reject(self) -> bool {
        is_reject(self as u32)
    }
}

/// [`Verdict::mode`] by number, as the kernel's side passes verdicts on.
#[inline(always)]
pub const fn mode(verdict: u32, settings: &Settings) -> u32 {
    match verdict {
        1 | 2 => settings.sources,
        3 => settings.unserved,
        4 | 5 => settings.budgets,
        6 => settings.malformed,
        7..=9 => settings.names,
        17 => settings.bans,
        _ => OFF,
    }
}

/// [`Verdict::is_reject`] by number.
#[inline(always)]
pub const fn is_reject(verdict: u32) -> bool {
    let first = verdict >= Verdict::SourceDenied as u32 && verdict <= Verdict::HttpHostUnknown as u32;
    first || verdict == Verdict::SourceBanned as u32
}

/// What the decision looks things up in: maps in the kernel, collections in the model beside it.
pub trait Tables {
    fn settings(&self) -> Settings;
    fn judged(&self, key: &JudgedKey) -> Option<Judged>;
    /// [`NOT_LISTED`] … [`TRUSTED`].
    fn listed(&self, list: u32, source: &[u8; 16]) -> u32;
    /// Whether a source (an IPv4 address, or an IPv6 /64) is on the list of those that are banned, and its time is not over.
    fn is_banned(&self, source: &[u8; 16]) -> bool;
    /// An address on which unserved ports are to be refused.
    fn is_ingress(&self, address: &[u8; 16]) -> bool;
    /// Whether any socket of this node would take the packet.
    fn has_socket(&self, segment: &Segment) -> bool;
    /// Proof that the segment is the first data of its connection; false when it can't be had.
    fn is_first(&self, segment: &Segment) -> bool;
    fn knows(&self, name: NameKey) -> bool;
    /// Takes a token of the source's bucket.
    fn spend_of(&self, rate: &Rate, source: &[u8; 16]) -> bool;
    /// Takes a token of the bucket for all.
    fn spend(&self, rate: &Rate) -> bool;
}

/// Memory for reading a payload: in a map in the kernel, where a stack is too small and the verifier forgets its values.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Reading {
    pub place: tls::Place,
    pub line: http::Line,
    pub walk: Walk,
}

/// Memory for judging one packet, on one CPU.
#[repr(C)]
pub struct Scratch {
    pub head: Head,
    pub payload: Payload,
    pub reading: Reading,
    pub segment: Segment,
}

/// Which counter.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CountKey {
    pub interface: u32,
    /// A [`Verdict`].
    pub verdict: u32,
}

/// A rejected (or only counted) packet, for the log.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    pub source: [u8; 16],
    pub interface: u32,
    pub verdict: u32,
    /// In host order.
    pub port: u16,
    /// 1 when it was rejected, 0 when it was only counted.
    pub rejected: u16,
    /// Of `name`.
    pub name_len: u32,
    /// The TLS name or host, as sent, cut to this.
    pub name: [u8; SAMPLE_NAME],
}

/// Bytes of a name in a sample.
pub const SAMPLE_NAME: usize = 64;
/// Interfaces × verdicts that are counted.
pub const MAX_COUNTS: u32 = 1024;
/// Sources whose budget is remembered; of more, the longest silent are forgotten.
pub const MAX_BUDGETS: u32 = 65_536;
/// Bytes of samples that wait for the agent.
pub const SAMPLES_BYTES: u32 = 64 * 1024;

const _: () = assert!(size_of::<Reading>() == 72);
const _: () = assert!(size_of::<Scratch>() == 272 + 2064 + 72 + 64);
const _: () = assert!(size_of::<CountKey>() == 8);
const _: () = assert!(size_of::<Sample>() == 96);

/// What the headers alone come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Final(Verdict),
    /// To a listener that judges names, with a payload: [`words`] decides.
    Words(Judged),
}

/// Judges a packet by its headers.
#[inline(always)]
pub fn headers<T: Tables>(tables: &T, packet: &Packet) -> Step {
    match packet {
        Packet::Tcp(segment) => match judged(tables, &segment.to) {
            Some(judged) => served(tables, segment, judged),
            None => Step::Final(unserved(tables, segment)),
        },
        Packet::MalformedTcp(to) => Step::Final(malformed(tables, to)),
        Packet::Other(NotTcp::Foreign | NotTcp::Fragment | NotTcp::Truncated | NotTcp::Unusual) => {
            Step::Final(Verdict::Untouched)
        }
    }
}

#[inline(always)]
fn judged<T: Tables>(tables: &T, to: &Destination) -> Option<Judged> {
    tables.judged(&JudgedKey {
        address: to.address,
        port: to.port,
        padding: 0,
    })
}

#[inline(always)]
fn malformed<T: Tables>(tables: &T, to: &Destination) -> Verdict {
    let off = tables.settings().malformed == OFF;
    if off || judged(tables, to).is_none() || tables.listed(NODE_LIST, &to.source) == TRUSTED {
        return Verdict::Untouched;
    }
    Verdict::MalformedTcp
}

/// Most specific first: the listener's own list, then the node's. To be trusted by either is to be trusted.
#[inline(always)]
fn served<T: Tables>(tables: &T, segment: &Segment, judged: Judged) -> Step {
    let settings = tables.settings();
    let node = tables.listed(NODE_LIST, &segment.to.source);
    let own = if judged.list == NODE_LIST {
        NOT_LISTED
    } else {
        tables.listed(judged.list, &segment.to.source)
    };
    if node == TRUSTED || own == TRUSTED {
        return Step::Final(Verdict::Untouched);
    }
    if settings.bans != OFF && tables.is_banned(&budget_source(&segment.to.source)) {
        return Step::Final(Verdict::SourceBanned);
    }
    if settings.sources != OFF {
        let node_allows = settings.flags & SETTING_ALLOW_LIST != 0;
        let own_allows = judged.flags & JUDGE_ALLOW_LIST != 0;
        if node == DENIED || own == DENIED {
            return Step::Final(Verdict::SourceDenied);
        }
        if (node_allows && node != ALLOWED) || (own_allows && own != ALLOWED) {
            return Step::Final(Verdict::SourceNotAllowed);
        }
    }
    if segment.opens() {
        return Step::Final(opening(tables, &settings, segment));
    }
    let names = judged.flags & (JUDGE_TLS_NAMES | JUDGE_HTTP_HOSTS) != 0;
    if settings.names != OFF && names && segment.says() {
        return Step::Words(judged);
    }
    Step::Final(Verdict::Untouched)
}

/// The source's own budget first: one that has none left must not use up that of all.
#[inline(always)]
fn opening<T: Tables>(tables: &T, settings: &Settings, segment: &Segment) -> Verdict {
    if settings.budgets == OFF {
        return Verdict::Untouched;
    }
    let source = budget_source(&segment.to.source);
    if settings.by_source.is_limited() && !tables.spend_of(&settings.by_source, &source) {
        return Verdict::SourceBudget;
    }
    if settings.in_total.is_limited() && !tables.spend(&settings.in_total) {
        return Verdict::TotalBudget;
    }
    Verdict::Untouched
}

/// One host has a whole IPv6 /64 (RFC 4291, 2.5.4), so that is what shares a budget. Not behind NAT64, where one /64 is all of IPv4.
#[inline(always)]
pub fn budget_source(source: &[u8; 16]) -> [u8; 16] {
    let mut key = *source;
    if !crate::packet::is_mapped(source) && !crate::packet::is_translated(source) {
        let mut i = 8;
        while i < 16 {
            key[i] = 0;
            i += 1;
        }
    }
    key
}

/// Only a packet that opens a connection, to an address given over to ingress, where no socket listens and kube-proxy serves nothing.
#[inline(always)]
fn unserved<T: Tables>(tables: &T, segment: &Segment) -> Verdict {
    if !segment.opens() || tables.settings().unserved == OFF || !tables.is_ingress(&segment.to.address) {
        return Verdict::Untouched;
    }
    let node_port = segment.to.port >= *NODE_PORTS.start() && segment.to.port <= *NODE_PORTS.end();
    let trusted = tables.listed(NODE_LIST, &segment.to.source) == TRUSTED;
    if node_port || trusted || tables.has_socket(segment) {
        return Verdict::Untouched;
    }
    Verdict::PortUnserved
}

/// Judges what a first segment says. The proof comes before the reading: it costs a lookup, the reading a thousand steps.
#[inline(always)]
pub fn words<T: Tables>(
    tables: &T,
    segment: &Segment,
    judged: Judged,
    bytes: &Bytes<'_>,
    reading: &mut Reading,
) -> Verdict {
    if judged.flags & JUDGE_TLS_NAMES != 0 && tls::looks_like(bytes) {
        if !tables.is_first(segment) {
            return Verdict::NotFirst;
        }
        return hello(tables, bytes, reading);
    }
    if judged.flags & JUDGE_HTTP_HOSTS != 0 && http::looks_like(bytes) {
        if !tables.is_first(segment) {
            return Verdict::NotFirst;
        }
        return request(tables, bytes, reading);
    }
    Verdict::Untouched
}

#[inline(always)]
fn hello<T: Tables>(tables: &T, bytes: &Bytes<'_>, reading: &mut Reading) -> Verdict {
    match tls::server_name(bytes, &mut reading.place, &mut reading.walk) {
        Hello::Name if is_known(tables, &reading.walk) => Verdict::NameKnown,
        Hello::Name => Verdict::TlsNameUnknown,
        Hello::Malformed => Verdict::MalformedHello,
        Hello::Foreign | Hello::Unusual => Verdict::Unusual,
        Hello::Split => Verdict::Split,
        Hello::Encrypted => Verdict::Encrypted,
        Hello::NoName => Verdict::NoName,
    }
}

#[inline(always)]
fn request<T: Tables>(tables: &T, bytes: &Bytes<'_>, reading: &mut Reading) -> Verdict {
    match http::host(bytes, &mut reading.line, &mut reading.walk) {
        Request::Host if is_known(tables, &reading.walk) => Verdict::HostKnown,
        Request::Host => Verdict::HttpHostUnknown,
        Request::Foreign | Request::Unusual => Verdict::Unusual,
        Request::Split => Verdict::Split,
        Request::NoHost => Verdict::NoName,
    }
}

#[inline(always)]
fn is_known<T: Tables>(tables: &T, walk: &Walk) -> bool {
    tables.knows(walk.exact()) || tables.knows(walk.wildcard())
}

#[cfg(feature = "user")]
mod user {
    #![allow(unsafe_code, reason = "aya's marker for plain bytes is an unsafe trait")]
    use super::{CountKey, Judged, JudgedKey, Settings, SourceKey};
    use crate::names::NameKey;

    // SAFETY: repr(C), integers only, no implicit padding (the asserted sizes are the sums of the fields').
    unsafe impl aya::Pod for Settings {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Judged {}
    // SAFETY: as above.
    unsafe impl aya::Pod for JudgedKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for SourceKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for CountKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for NameKey {}
}

#[cfg(test)]
mod tests;
