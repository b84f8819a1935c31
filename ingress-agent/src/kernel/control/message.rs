//! What is said, and in which form.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::MAX_LINE;
use crate::kernel::KernelView;
use crate::tickets::SharedKey;

/// Raised when an agent of before could misunderstand.
const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Envelope<T> {
    version: u32,
    #[serde(flatten)]
    content: T,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    Status,
    /// What opens our TLS session tickets, for an agent that is about to take over.
    TicketKeys,
    /// The sockets that this agent listens on, but for the first so many: they come beside the answer.
    Listeners {
        skip: usize,
    },
    /// A newer agent has these addresses in force.
    Retire(Retire),
    /// End steering; go on with what is open.
    Detach,
    /// Who is banned, but for the first so many? A line has no room for all of a long list.
    Bans {
        #[serde(default)]
        skip: usize,
    },
    Ban {
        address: IpAddr,
        milliseconds: u64,
    },
    Lift {
        address: IpAddr,
    },
    /// Change the share of sources that is taken, in parts of 10000.
    Share {
        share: u32,
    },
}

/// A ban, as it is listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanView {
    /// An IPv4 address, or an IPv6 /64.
    pub source: String,
    pub why: String,
    pub seconds_left: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retire {
    pub pid: u32,
    pub addresses: Vec<SocketAddr>,
    /// Of which it holds the very sockets that an agent before it listens on. One of an older version holds none.
    #[serde(default)]
    pub adopted: Vec<SocketAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    Done,
    /// Not done, and why.
    Refused {
        reason: String,
    },
    Status(Status),
    Bans {
        bans: Vec<BanView>,
        /// That found no room.
        more: usize,
    },
    TicketKeys {
        keys: Vec<SharedKey>,
    },
    /// Listening sockets are beside the line.
    Listeners {
        /// That are still to be asked for.
        more: usize,
    },
}

impl Answer {
    pub fn refused(reason: impl std::fmt::Display) -> Self {
        Self::Refused {
            reason: reason.to_string(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub pid: u32,
    pub release: String,
    /// `serving`, `handing over` or `draining`.
    pub phase: String,
    pub connections: usize,
    pub kernel: KernelView,
}

pub(super) fn write<T: Serialize>(mut stream: &UnixStream, content: &T) -> io::Result<()> {
    stream.write_all(&line(content)?)
}

pub(super) fn line<T: Serialize>(content: &T) -> io::Result<Vec<u8>> {
    let envelope = Envelope {
        version: VERSION,
        content,
    };
    let mut line = serde_json::to_vec(&envelope)?;
    line.push(b'\n');
    Ok(line)
}

pub(super) fn read<T: DeserializeOwned>(stream: &UnixStream) -> io::Result<T> {
    let mut line = String::new();
    BufReader::new(stream.take(MAX_LINE)).read_line(&mut line)?;
    parse(&line)
}

pub(super) fn parse<T: DeserializeOwned>(line: &str) -> io::Result<T> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    if !line.ends_with('\n') {
        return Err(invalid(
            "the other side has ended in the middle of a line, or said too much".into(),
        ));
    }
    let Versioned { version } = serde_json::from_str(line)?;
    if version != VERSION {
        return Err(invalid(format!(
            "the other side speaks version {version}, this is version {VERSION}"
        )));
    }
    let envelope: Envelope<T> = serde_json::from_str(line)?;
    Ok(envelope.content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_survives_the_way() {
        let (one, other) = UnixStream::pair().unwrap();
        let order = Order::Retire(Retire {
            pid: 7,
            addresses: vec!["[::]:80".parse().unwrap(), "10.0.0.5:443".parse().unwrap()],
            adopted: vec!["[::]:80".parse().unwrap()],
        });
        write(&one, &order).unwrap();
        assert_eq!(read::<Order>(&other).unwrap(), order);
    }

    #[test]
    fn an_agent_of_before_is_understood_when_it_asks_who_is_banned() {
        let order = parse::<Order>("{\"version\":1,\"order\":\"bans\"}\n").unwrap();
        assert_eq!(order, Order::Bans { skip: 0 });
    }

    #[test]
    fn an_agent_of_before_that_takes_over_holds_nobodys_sockets() {
        let line = "{\"version\":1,\"order\":\"retire\",\"pid\":7,\"addresses\":[\"[::]:80\"]}\n";
        let Order::Retire(retire) = parse::<Order>(line).unwrap() else {
            panic!("not understood");
        };
        assert_eq!(retire.adopted, []);
    }

    #[test]
    fn another_version_garbage_and_endless_lines_are_refused() {
        let refused = |line: &str| parse::<Order>(line).unwrap_err().to_string();
        assert!(refused("{\"version\":2,\"order\":\"dance\"}\n").contains("version 2"));
        refused("{\"version\":1,\"order\":\"dance\"}\n");
        refused("\n");
        refused("{\"version\":1,\"order\":\"status\"}");
        let (mut one, other) = UnixStream::pair().unwrap();
        let writer = std::thread::spawn(move || {
            let _ = one.write_all(&vec![b' '; 400 * 1024]);
        });
        read::<Order>(&other).unwrap_err();
        drop(other);
        writer.join().unwrap();
    }
}
