//! Two agents, one after the other: the newer one tells the older ones once it has the traffic; an older one watches it for a while.
//!
//! The kernel does the rest: the newer program's choice stands while it has a socket, and the older one's as soon as it has none, so a newer
//! agent that dies gives the traffic back by dying.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use ingress_common::verdict::MAX_BANS;

use super::message::{self, Answer, BanView, Order, Retire};
use super::{agents_in, ask, connect};
use crate::tickets::SharedKey;

/// The agent that takes over, and the connection that ends when it does.
#[derive(Debug)]
pub struct Successor {
    retire: Retire,
    connection: UnixStream,
}

impl Successor {
    pub(super) fn new(retire: Retire, connection: UnixStream) -> Self {
        Self { retire, connection }
    }

    pub fn pid(&self) -> u32 {
        self.retire.pid
    }

    /// Whether it holds the very sockets that we listen on at this address.
    pub fn adopted(&self, address: &SocketAddr) -> bool {
        self.retire.adopted.contains(address)
    }

    /// Whether nothing that we serve is left without an agent.
    pub fn covers(&self, ours: &[SocketAddr]) -> Result<(), String> {
        let covered = |address: &&SocketAddr| {
            !self
                .retire
                .addresses
                .iter()
                .any(|theirs| contains(theirs, address))
        };
        match ours.iter().find(covered) {
            None => Ok(()),
            Some(address) => Err(format!("{address} is served here and not by the new agent")),
        }
    }

    /// Whether it still lives after this time. Whoever ends earlier is told at once.
    pub fn outlives(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            if self.connection.set_read_timeout(Some(left)).is_err() {
                return false;
            }
            match (&self.connection).read(&mut [0; 16]) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) if is_timeout(&error) => {}
                Err(_) => return false,
            }
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

fn contains(theirs: &SocketAddr, ours: &SocketAddr) -> bool {
    let everything = theirs.ip().is_unspecified() && (theirs.is_ipv6() || ours.ip().to_canonical().is_ipv4());
    theirs.port() == ours.port() && (everything || theirs.ip().to_canonical() == ours.ip().to_canonical())
}

/// Tells every other agent of the place. The connections are to be kept for as long as this agent serves.
pub fn tell_others(
    place: &Path,
    addresses: &[SocketAddr],
    adopted: &[SocketAddr],
) -> io::Result<Vec<UnixStream>> {
    let order = Order::Retire(Retire {
        pid: std::process::id(),
        addresses: addresses.to_vec(),
        adopted: adopted.to_vec(),
    });
    let mut kept = Vec::new();
    for agent in agents_in(place)? {
        let told = connect(&agent).and_then(|stream| {
            message::write(&stream, &order)?;
            Ok((message::read::<Answer>(&stream)?, stream))
        });
        let agent = agent.display();
        match told {
            Ok((Answer::Done, stream)) => {
                tracing::info!(%agent, "took over from the agent that served here; it finishes what is open");
                kept.push(stream);
            }
            Ok((Answer::Refused { reason }, stream)) => {
                tracing::warn!(%agent, reason, "another agent goes on; connections to addresses of both come here");
                // What it passed on nevertheless it takes back when we end.
                kept.push(stream);
            }
            Ok(_) => tracing::warn!(%agent, "another agent answered something else"),
            Err(error) => {
                tracing::warn!(%agent, %error, "another agent does not answer; connections to addresses of both come here");
            }
        }
    }
    Ok(kept)
}

/// What opens the TLS session tickets of every other agent of the place; one of an older version has none to give.
pub fn ticket_keys(place: &Path) -> Vec<SharedKey> {
    let mut keys = Vec::new();
    for agent in agents_in(place).unwrap_or_default() {
        match ask(&agent, &Order::TicketKeys) {
            Ok(Answer::TicketKeys { keys: more }) => keys.extend(more),
            Ok(_) => {
                tracing::info!(agent = %agent.display(), "the agent before gives no ticket keys: clients make full handshakes here");
            }
            Err(error) => {
                tracing::warn!(agent = %agent.display(), %error, "the agent before was not asked for its ticket keys: clients make full handshakes here");
            }
        }
    }
    keys
}

/// Whom every other agent of the place bans.
pub fn bans(place: &Path) -> Vec<BanView> {
    let most = usize::try_from(MAX_BANS).unwrap_or(usize::MAX);
    let mut all = Vec::new();
    for agent in agents_in(place).unwrap_or_default() {
        let mut skip = 0;
        while skip < most {
            match ask(&agent, &Order::Bans { skip }) {
                Ok(Answer::Bans { bans, more }) => {
                    skip += bans.len();
                    let is_all = bans.is_empty() || more == 0;
                    all.extend(bans);
                    if is_all {
                        break;
                    }
                }
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(agent = %agent.display(), %error, "the agent before was not asked whom it bans: they may come again");
                    break;
                }
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn successor(addresses: &[&str]) -> (Successor, UnixStream) {
        let (one, other) = UnixStream::pair().unwrap();
        let retire = Retire {
            pid: 1,
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            adopted: Vec::new(),
        };
        (Successor::new(retire, one), other)
    }

    #[test]
    fn an_agent_retires_only_for_one_that_serves_all_it_served() {
        let covers = |theirs: &[&str], ours: &[&str]| {
            let ours: Vec<_> = ours.iter().map(|address| address.parse().unwrap()).collect();
            successor(theirs).0.covers(&ours).is_ok()
        };
        assert!(covers(&["[::]:80", "[::]:443"], &["[::]:80"]));
        assert!(covers(
            &["[::]:80"],
            &["10.0.0.5:80", "[fd00::5]:80", "0.0.0.0:80"]
        ));
        assert!(covers(&["0.0.0.0:80"], &["10.0.0.5:80"]));
        assert!(!covers(&["0.0.0.0:80"], &["[fd00::5]:80"]));
        assert!(!covers(&["0.0.0.0:80"], &["[::]:80"]));
        assert!(!covers(&["10.0.0.5:80"], &["10.0.0.6:80"]));
        assert!(!covers(&["[::]:80"], &["[::]:443"]));
        assert!(!covers(&["10.0.0.5:80"], &["0.0.0.0:80"]));
    }

    #[test]
    fn a_successor_that_dies_is_noticed_at_once_and_one_that_lives_is_believed() {
        let (watched, alive) = successor(&[]);
        assert!(watched.outlives(Duration::from_millis(50)));
        drop(alive);
        let start = Instant::now();
        assert!(!watched.outlives(Duration::from_secs(60)));
        assert!(start.elapsed() < Duration::from_secs(30));
    }
}
