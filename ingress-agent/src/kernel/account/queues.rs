//! The queues of our listening sockets, and what the kernel did when one was full: connections that no process ever saw.
//!
//! By listener: how many wait to be accepted, how many may, and how many the kernel has dropped (sock_diag(7), no right needed). The kernel counts
//! SYN cookies and the reasons only for the network namespace as a whole.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::kernel::netlink::{self, Family, attributes, u32};

/// Shared by the thread that looks now and then and by whoever shows it.
#[derive(Debug)]
pub struct Queues(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// By the number that the socket has in the kernel.
    sockets: BTreeMap<u32, Socket>,
    /// Of sockets that are closed.
    gone: BTreeMap<(&'static str, SocketAddr), u64>,
    /// The namespace's counts when the agent started.
    before: BTreeMap<&'static str, u64>,
    told: Option<Told>,
    problem: String,
}

#[derive(Debug)]
struct Socket {
    listener: &'static str,
    address: SocketAddr,
    waiting: u32,
    most: u32,
    room: u32,
    /// As the kernel has it, which begins anew after four thousand million.
    drops: u32,
    dropped: u64,
}

/// What stood in the log last.
#[derive(Debug)]
struct Told {
    /// `None`: nothing yet.
    at: Option<Instant>,
    dropped: BTreeMap<(&'static str, SocketAddr), u64>,
    cookies: u64,
    /// Times that a queue was full and no cookie helped.
    full: u64,
}

/// What an operator sees.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuesView {
    /// `net.ipv4.tcp_syncookies`: 0 off, 1 when a queue is full, 2 always; `None` where it can't be read.
    pub syn_cookies: Option<u32>,
    pub listeners: Vec<QueueView>,
    /// Of the whole network namespace since the agent started, by the names of `nstat`.
    pub events: BTreeMap<String, u64>,
    /// Why there are no figures; empty where there are.
    #[serde(default)]
    pub problem: String,
}

/// All sockets of one listener and address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueView {
    /// `http` or `https`.
    pub listener: String,
    /// Its own: of a steered listener an address of loopback.
    pub address: SocketAddr,
    pub sockets: usize,
    /// To be accepted, now.
    pub waiting: u64,
    /// The most that was seen to wait at one socket.
    pub most: u32,
    /// How many may wait at one socket.
    pub room: u32,
    /// Connections, and requests for one, that the kernel has dropped: there was no room, or nobody is where they say they come from.
    pub dropped: u64,
}

/// `TcpExt` of /proc/net/netstat.
const EVENTS: [&str; 9] = [
    "SyncookiesSent",
    "SyncookiesRecv",
    "SyncookiesFailed",
    "ListenOverflows",
    "ListenDrops",
    "TCPReqQFullDoCookies",
    "TCPReqQFullDrop",
    "TCPBacklogDrop",
    "TCPAbortOnOverflow",
];
const COOKIES: &str = "SyncookiesSent";
/// Those that say that a client found no room.
const FULL: [&str; 2] = ["ListenOverflows", "TCPReqQFullDrop"];
const COOKIES_AT: &str = "/proc/sys/net/ipv4/tcp_syncookies";
const MOST_ROOM_AT: &str = "/proc/sys/net/core/somaxconn";
/// What was dropped stands in the log at most this often.
const TOLD_EVERY: Duration = Duration::from_secs(60);

impl Queues {
    /// `sockets`: each with the name of its kind.
    pub fn new<'a>(sockets: impl Iterator<Item = (&'static str, &'a TcpListener)>) -> Self {
        let queues = Self(Mutex::new(State {
            before: events(),
            ..State::default()
        }));
        for (listener, socket) in sockets {
            queues.watch(listener, socket);
        }
        if number(COOKIES_AT) == Some(0) {
            tracing::warn!(
                "net.ipv4.tcp_syncookies is 0: a flood of SYNs fills the queues, and clients are refused; set it to 1 on the node"
            );
        }
        queues
    }

    /// One more socket, until it is closed.
    pub fn watch(&self, listener: &'static str, socket: &TcpListener) {
        let inode = std::fs::metadata(format!("/proc/self/fd/{}", socket.as_raw_fd())).map(|file| file.ino());
        let (Ok(address), Ok(Ok(inode))) = (socket.local_addr(), inode.map(u32::try_from)) else {
            return;
        };
        let socket = Socket {
            listener,
            address,
            waiting: 0,
            most: 0,
            room: 0,
            drops: 0,
            dropped: 0,
        };
        self.lock().sockets.insert(inode, socket);
    }

    /// Reads the kernel's figures, and tells the log of what was dropped since.
    pub fn look(&self) {
        let mut state = self.lock();
        state.read();
        state.tell(Instant::now());
    }

    pub fn view(&self) -> QueuesView {
        let mut state = self.lock();
        state.read();
        let events = events().into_iter();
        let since = |(name, count): (&'static str, u64)| {
            let before = state.before.get(name).copied().unwrap_or_default();
            (name.to_owned(), count.saturating_sub(before))
        };
        QueuesView {
            syn_cookies: number(COOKIES_AT),
            listeners: state.listeners(),
            events: events.map(since).collect(),
            problem: state.problem.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn read(&mut self) {
        let listening = match listening() {
            Ok(listening) => listening,
            Err(error) => {
                self.problem = format!("the list of sockets: {error}");
                return;
            }
        };
        self.problem.clear();
        let gone = &mut self.gone;
        self.sockets.retain(|inode, socket| {
            let is_open = listening.contains_key(inode);
            if !is_open {
                *gone.entry(socket.place()).or_default() += socket.dropped;
            }
            is_open
        });
        for (inode, socket) in &mut self.sockets {
            if let Some(figures) = listening.get(inode) {
                socket.take(figures);
            }
        }
    }

    fn dropped(&self) -> BTreeMap<(&'static str, SocketAddr), u64> {
        let mut dropped = self.gone.clone();
        for socket in self.sockets.values() {
            *dropped.entry(socket.place()).or_default() += socket.dropped;
        }
        dropped
    }

    fn listeners(&self) -> Vec<QueueView> {
        let view = |(place, dropped): ((&'static str, SocketAddr), u64)| {
            let sockets = self.sockets.values().filter(|socket| socket.place() == place);
            let mut view = QueueView {
                listener: place.0.to_owned(),
                address: place.1,
                sockets: 0,
                waiting: 0,
                most: 0,
                room: 0,
                dropped,
            };
            for socket in sockets {
                view.sockets += 1;
                view.waiting += u64::from(socket.waiting);
                view.most = view.most.max(socket.most);
                view.room = view.room.max(socket.room);
            }
            view
        };
        self.dropped().into_iter().map(view).collect()
    }

    fn tell(&mut self, now: Instant) {
        let events = events();
        let told = self.told.get_or_insert_with(|| Told {
            at: None,
            dropped: BTreeMap::new(),
            cookies: count(&self.before, COOKIES),
            full: full(&self.before),
        });
        let is_early = told
            .at
            .is_some_and(|at| now.saturating_duration_since(at) < TOLD_EVERY);
        let sent = count(&events, COOKIES).saturating_sub(told.cookies);
        let is_full = full(&events) > told.full;
        if is_early || (sent == 0 && !is_full) {
            return;
        }
        let before = std::mem::take(&mut told.dropped);
        if sent > 0 {
            tracing::warn!(
                sent,
                "SYN cookies are in use: a queue of half-open connections was full (a flood, or more clients than net.core.somaxconn allows for)"
            );
        }
        if is_full {
            self.tell_full(&before);
        }
        let dropped = self.dropped();
        self.told = Some(Told {
            at: Some(now),
            dropped,
            cookies: count(&events, COOKIES),
            full: full(&events),
        });
    }

    fn tell_full(&self, before: &BTreeMap<(&'static str, SocketAddr), u64>) {
        for view in self.listeners() {
            let known = before
                .iter()
                .find(|((kind, address), _)| *kind == view.listener && *address == view.address);
            let more = view.dropped.saturating_sub(known.map_or(0, |(_, count)| *count));
            if more > 0 {
                tracing::warn!(
                    listener = view.listener,
                    address = %view.address,
                    dropped = more,
                    room = view.room,
                    most_waiting = view.most,
                    somaxconn = number(MOST_ROOM_AT),
                    "the kernel has dropped connections because a listener's queue was full: raise net.core.somaxconn, or give the agent more workers"
                );
            }
        }
    }
}

impl Socket {
    fn place(&self) -> (&'static str, SocketAddr) {
        (self.listener, self.address)
    }

    fn take(&mut self, figures: &Figures) {
        self.waiting = figures.waiting;
        self.most = self.most.max(figures.waiting);
        self.room = figures.room;
        self.dropped += u64::from(figures.drops.wrapping_sub(self.drops));
        self.drops = figures.drops;
    }
}

/// One line for each listener and address.
impl fmt::Display for QueuesView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cookies = match self.syn_cookies {
            Some(0) => "off (net.ipv4.tcp_syncookies is 0: a flood of SYNs has clients refused)",
            Some(_) => "on",
            None => "not known",
        };
        let count = |name: &str| self.events.get(name).copied().unwrap_or_default();
        writeln!(
            f,
            "  queues: SYN cookies {cookies}, sent {}, returned {}",
            count(COOKIES),
            count("SyncookiesRecv")
        )?;
        for queue in &self.listeners {
            if queue.sockets == 0 {
                // It was taken away; what it dropped goes on counting.
                writeln!(
                    f,
                    "    {} {}: closed, dropped {}",
                    queue.listener, queue.address, queue.dropped
                )?;
                continue;
            }
            writeln!(
                f,
                "    {} {}: {} wait in {} queues of {}, at most {} in one, dropped {}",
                queue.listener,
                queue.address,
                queue.waiting,
                queue.sockets,
                queue.room,
                queue.most,
                queue.dropped
            )?;
        }
        match self.problem.as_str() {
            "" => Ok(()),
            problem => writeln!(f, "    not known: {problem}"),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Figures {
    waiting: u32,
    room: u32,
    drops: u32,
}

/// Every listening TCP socket of this network namespace, by its number.
fn listening() -> io::Result<BTreeMap<u32, Figures>> {
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    const TCP: u8 = 6;
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    /// INET_DIAG_SKMEMINFO, as a bit.
    const MEMORY: u8 = 1 << 6;
    /// Bit of TCP_LISTEN.
    const LISTEN: u32 = 1 << 10;
    let socket = netlink::open(Family::Sockets, 0)?;
    let mut all = BTreeMap::new();
    for family in [AF_INET, AF_INET6] {
        // struct inet_diag_req_v2: family, protocol, what is asked for besides, a byte, states, and an address of 48 bytes that means all.
        let mut request = vec![family, TCP, MEMORY, 0];
        request.extend(LISTEN.to_ne_bytes());
        request.resize(8 + 48, 0);
        let answers = netlink::dump(&socket, SOCK_DIAG_BY_FAMILY, SOCK_DIAG_BY_FAMILY, &request)?;
        all.extend(answers.iter().filter_map(|answer| read(answer)));
    }
    Ok(all)
}

/// From a `struct inet_diag_msg` and its attributes (linux/inet_diag.h): of a listener, `idiag_rqueue` is what waits and `idiag_wqueue` the room.
fn read(answer: &[u8]) -> Option<(u32, Figures)> {
    const INET_DIAG_SKMEMINFO: u16 = 7;
    /// SK_MEMINFO_DROPS (linux/sock_diag.h, Linux 4.12).
    const DROPS: usize = 8;
    let mut attributes = attributes(answer.get(72..)?);
    let memory = attributes.find(|(kind, _)| *kind == INET_DIAG_SKMEMINFO);
    let figures = Figures {
        waiting: u32(answer, 56)?,
        room: u32(answer, 60)?,
        drops: memory
            .and_then(|(_, words)| u32(words, DROPS * 4))
            .unwrap_or_default(),
    };
    Some((u32(answer, 68)?, figures))
}

fn count(events: &BTreeMap<&'static str, u64>, name: &str) -> u64 {
    events.get(name).copied().unwrap_or_default()
}

/// Times that a client found no room.
fn full(events: &BTreeMap<&'static str, u64>) -> u64 {
    FULL.iter().map(|name| count(events, name)).sum()
}

/// SYN cookies that were sent in this network namespace; none where it can't be read.
pub(crate) fn cookies_sent() -> u64 {
    count(&events(), COOKIES)
}

/// Empty where it can't be read.
fn events() -> BTreeMap<&'static str, u64> {
    let text = std::fs::read_to_string("/proc/self/net/netstat").unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (Some(names), Some(counts)) = (lines.next(), lines.next()) else {
        return BTreeMap::new();
    };
    let known = |(name, count): (&str, &str)| {
        let known = EVENTS.iter().find(|known| **known == name)?;
        Some((*known, count.parse().ok()?))
    };
    names
        .split(' ')
        .zip(counts.split(' '))
        .filter_map(known)
        .collect()
}

fn number(path: &str) -> Option<u32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    #[test]
    fn what_waits_at_a_listener_and_what_was_dropped_is_seen() {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener
            .bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into())
            .unwrap();
        listener.listen(1).unwrap();
        let socket = TcpListener::from(listener);
        let queues = Queues::new(std::iter::once(("http", &socket)));
        let address = socket.local_addr().unwrap();
        // Linux takes one more than it was told; what comes then is refused, silently.
        let clients: Vec<_> = (0..4)
            .map(|_| TcpStream::connect_timeout(&address, Duration::from_millis(500)))
            .collect();
        assert!(clients.iter().any(Result::is_err), "all found room");
        let view = queues.view();
        let [queue] = view.listeners.as_slice() else {
            panic!("{view:?}")
        };
        assert_eq!((queue.listener.as_str(), queue.address), ("http", address));
        assert_eq!((queue.waiting, queue.room, queue.sockets), (2, 1, 1), "{view:?}");
        assert!(queue.dropped > 0, "{view:?}");
        assert!(
            view.events.get("ListenOverflows").is_some_and(|count| *count > 0),
            "{view:?}"
        );
        assert!(view.to_string().contains("2 wait in 1 queues of 1"), "{view}");

        // What is closed goes on counting.
        let dropped = queue.dropped;
        drop(socket);
        let view = queues.view();
        assert_eq!(view.listeners.first().map(|queue| queue.dropped), Some(dropped));
        assert_eq!(view.listeners.first().map(|queue| queue.sockets), Some(0));
        assert!(view.to_string().contains("closed, dropped"), "{view}");

        // One that comes at run time is seen from then on.
        let later = TcpListener::bind("127.0.0.1:0").unwrap();
        queues.watch("https", &later);
        let view = queues.view();
        let seen = view
            .listeners
            .iter()
            .find(|queue| queue.address == later.local_addr().unwrap());
        assert_eq!(
            seen.map(|queue| (&*queue.listener, queue.sockets)),
            Some(("https", 1)),
            "{view:?}"
        );
    }

    #[test]
    fn an_answer_that_is_cut_short_is_none() {
        for length in 0..72 {
            assert_eq!(read(&vec![1; length]), None);
        }
        assert!(read(&[1; 72]).is_some());
    }
}
