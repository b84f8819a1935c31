//! `probe`: asks the agent of this pod by its Unix socket whether it is ready or alive, for the pod's probes.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use socket2::Socket;

use super::{Exit, complain, print};

#[derive(Debug, Args)]
pub(super) struct ProbeFlags {
    /// ready: it serves, and is not about to stop. live: it needs no restart.
    question: Question,
    /// The --admin-socket of the agent.
    #[arg(long, value_name = "FILE", env = "INGRESS_AGENT_ADMIN_SOCKET")]
    socket: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Question {
    Ready,
    Live,
}

impl Question {
    fn path(self) -> &'static str {
        match self {
            Self::Ready => "/readyz",
            Self::Live => "/healthz",
        }
    }
}

/// Less than a kubelet waits, so that the words below reach its Event. The agent itself gives its workers a second.
const PATIENCE: Duration = Duration::from_secs(4);
/// A line for each worker, or a route's figures a kilobyte each.
const MAX_ANSWER: u64 = 64 * 1024 * 1024;

/// Where an agent's admin pages are.
pub(super) enum At<'a> {
    Socket(&'a Path),
    Address(SocketAddr),
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => path.display().fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

pub(super) fn probe(flags: &ProbeFlags, out: &mut dyn Write) -> Exit {
    match ask(&At::Socket(&flags.socket), flags.question.path()) {
        Ok((200, body)) => print(out, body.as_bytes()),
        Ok((_, body)) => complain(&body, Exit::Failed),
        Err(error) => complain(&format!("{}: {error}", flags.socket.display()), Exit::Failed),
    }
}

/// Status and body.
pub(super) fn ask(at: &At<'_>, path: &str) -> io::Result<(u16, String)> {
    let until = Instant::now() + PATIENCE;
    let mut stream = match at {
        At::Socket(socket) => Socket::from(OwnedFd::from(UnixStream::connect(socket)?)),
        At::Address(address) => Socket::from(TcpStream::connect_timeout(address, PATIENCE)?),
    };
    stream.set_write_timeout(Some(PATIENCE))?;
    // In one piece: an agent may answer, and close, as soon as it has read enough.
    let question = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(question.as_bytes())?;
    let answer = read_all(&stream, until)?;
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP");
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(malformed)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or_else(malformed)?, body.to_owned()))
}

fn read_all(stream: &Socket, until: Instant) -> io::Result<String> {
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    let mut input = stream.take(MAX_ANSWER);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        // A timeout of zero would be none.
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match input.read(&mut part) {
            Ok(0) => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Ok(read) => bytes.extend_from_slice(part.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no answer within {PATIENCE:?}"),
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
