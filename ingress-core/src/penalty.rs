//! Which sources are banned for a time, and when their deeds are enough for it. Pure: time is an argument, counted from any fixed moment.
//!
//! A source is an IPv4 address or an IPv6 /64, as for budgets: what one subscriber has (RFC 4291, 2.5.4). Many people may share one behind
//! NAT, so it takes a number of offences within a window, and a source that was also served well in it is never banned.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use ingress_common::packet::is_translated;
use ingress_common::packet::mapped;
use ingress_common::verdict::{MAX_BANS, budget_source};
use ipnet::IpNet;

/// Whom offences are counted of, and who is banned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source([u8; 16]);

impl Source {
    pub fn of(ip: IpAddr) -> Self {
        let bytes = match ip.to_canonical() {
            IpAddr::V4(v4) => mapped(v4.octets()),
            IpAddr::V6(v6) => v6.octets(),
        };
        Self(budget_source(&bytes))
    }

    /// As the kernel's table has it.
    pub fn key(&self) -> &[u8; 16] {
        &self.0
    }

    /// An address of it, and how many bits of that count.
    fn parts(self) -> (IpAddr, u8) {
        match Ipv6Addr::from(self.0).to_canonical() {
            IpAddr::V4(v4) => (IpAddr::V4(v4), 32),
            // Behind NAT64 one address is one source.
            v6 @ IpAddr::V6(_) if is_translated(&self.0) => (v6, 128),
            v6 @ IpAddr::V6(_) => (v6, 64),
        }
    }

    /// Whether it has an address in common with a network.
    pub fn overlaps(self, network: &IpNet) -> bool {
        let (ip, bits) = self.parts();
        let whole = IpNet::new(ip, bits).is_ok_and(|own| own.contains(&network.network()));
        whole || network.contains(&ip)
    }
}

/// `192.0.2.1`, or `2001:db8::/64`.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parts() {
            (ip, 32 | 128) => ip.fmt(f),
            (v6, bits) => write!(f, "{v6}/{bits}"),
        }
    }
}

/// What counts against a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Offence {
    /// A TLS handshake that failed or took too long.
    Handshake,
    /// A request for a host that nobody serves.
    Unmatched,
    /// A path that scanners ask for, refused.
    Scan,
}

impl Offence {
    pub const ALL: [Self; 3] = [Self::Handshake, Self::Unmatched, Self::Scan];

    /// The word in the log and in lists.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Handshake => "handshake_failures",
            Self::Unmatched => "unmatched_hosts",
            Self::Scan => "scanner_paths",
        }
    }
}

/// How much is too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Offences of each kind within the window, as in [`Offence::ALL`]; 0: any number.
    pub offences: [u32; 3],
    pub window: Duration,
    /// How long a ban lasts.
    pub lasts: Duration,
}

impl Limits {
    pub fn is_on(&self) -> bool {
        self.offences.iter().any(|limit| *limit > 0)
    }
}

/// Sources whose deeds are remembered at a time; of more, nothing is known.
pub const MOST_WATCHED: usize = 8192;

/// What sources did lately. Two windows are kept, the one that runs and the one before it; of the latter counts what a window's length
/// reaches back into.
#[derive(Debug)]
pub struct Offences {
    limits: Limits,
    began: Duration,
    now: HashMap<Source, Deeds>,
    before: HashMap<Source, Deeds>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Deeds {
    offences: [u32; 3],
    good: bool,
}

impl Offences {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            began: Duration::ZERO,
            now: HashMap::new(),
            before: HashMap::new(),
        }
    }

    /// One more offence; whether that was one too many.
    pub fn offence(&mut self, source: Source, offence: Offence, now: Duration) -> bool {
        let limit = self.limits.offences[offence as usize];
        if limit == 0 {
            return false;
        }
        self.turn(now);
        let before = self.before.get(&source).copied().unwrap_or_default();
        let Some(deeds) = self.deeds(source) else {
            return false;
        };
        let count = &mut deeds.offences[offence as usize];
        *count = count.saturating_add(1);
        let (good, count) = (deeds.good || before.good, *count);
        if good {
            return false;
        }
        let passed =
            now.saturating_sub(self.began).as_secs_f64() / self.limits.window.as_secs_f64().max(1e-3);
        let earlier = f64::from(before.offences[offence as usize]) * (1.0 - passed).clamp(0.0, 1.0);
        let enough = f64::from(count) + earlier >= f64::from(limit);
        if enough {
            // It begins anew when its time is over.
            self.now.remove(&source);
            self.before.remove(&source);
        }
        enough
    }

    /// It was served what it asked for.
    pub fn good(&mut self, source: Source, now: Duration) {
        self.turn(now);
        if let Some(deeds) = self.deeds(source) {
            deeds.good = true;
        }
    }

    /// Sources of which something is known.
    pub fn watched(&self) -> usize {
        self.now.len() + self.before.len()
    }

    fn deeds(&mut self, source: Source) -> Option<&mut Deeds> {
        if self.now.len() >= MOST_WATCHED && !self.now.contains_key(&source) {
            return None;
        }
        Some(self.now.entry(source).or_default())
    }

    fn turn(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.began);
        if passed < self.limits.window {
            return;
        }
        self.before = std::mem::take(&mut self.now);
        if passed >= 2 * self.limits.window {
            self.before.clear();
        }
        self.began = now;
    }
}

/// Why a source is banned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Offence(Offence),
    /// By order.
    Order,
}

impl Why {
    /// Of its [`Self::code`].
    pub fn of(code: &str) -> Option<Self> {
        let offences = Offence::ALL.map(Self::Offence).into_iter();
        offences.chain([Self::Order]).find(|why| why.code() == code)
    }

    pub const fn code(self) -> &'static str {
        match self {
            Self::Offence(offence) => offence.code(),
            Self::Order => "order",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ban {
    pub source: Source,
    pub why: Why,
    pub until: Duration,
}

/// There is no room for another ban.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// The list, as long as the kernel's table.
#[derive(Clone, Debug, Default)]
pub struct Bans(HashMap<Source, Ban>);

impl Bans {
    /// When it is over: of two ends the later one stands.
    pub fn add(&mut self, ban: Ban) -> Result<Duration, Full> {
        let most = usize::try_from(MAX_BANS).unwrap_or(usize::MAX);
        if self.0.len() >= most && !self.0.contains_key(&ban.source) {
            return Err(Full);
        }
        let entry = self.0.entry(ban.source).or_insert(ban);
        if ban.until > entry.until {
            *entry = ban;
        }
        Ok(entry.until)
    }

    /// Whether it was banned.
    pub fn lift(&mut self, source: Source) -> bool {
        self.0.remove(&source).is_some()
    }

    /// Takes out those whose time is over.
    pub fn expire(&mut self, now: Duration) -> Vec<Ban> {
        let over: Vec<_> = self.0.values().filter(|ban| ban.until <= now).copied().collect();
        for ban in &over {
            self.0.remove(&ban.source);
        }
        over
    }

    pub fn is_banned(&self, source: Source, now: Duration) -> bool {
        self.0.get(&source).is_some_and(|ban| now < ban.until)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those that end first come first.
    pub fn list(&self) -> Vec<Ban> {
        let mut all: Vec<_> = self.0.values().copied().collect();
        all.sort_by_key(|ban| (ban.until, ban.source));
        all
    }
}

#[cfg(test)]
mod tests;
