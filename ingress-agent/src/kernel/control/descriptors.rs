//! Listening sockets that one agent passes to another beside a line (unix(7), SCM_RIGHTS): both then have the same socket, with the same queue.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::message::{self, Answer, Order};
use super::{MAX_LINE, agents_in, connect};

/// What goes with one line; the kernel takes up to 253.
pub const MOST_PASSED: usize = 128;
/// More listening sockets than this no agent has: 64 workers with as many addresses.
const MOST_IN_ALL: usize = 4096;

/// Listening sockets of an agent that serves now, by their addresses.
pub type Inherited = Vec<(SocketAddr, TcpListener)>;

/// Asks the agents of a place for the sockets that they listen on. None has any to give that is of an older version, steers, or drains.
pub fn listeners(place: &Path) -> Inherited {
    let mut all = Inherited::new();
    for agent in agents_in(place).unwrap_or_default() {
        match listeners_of(&agent) {
            Ok(sockets) => all.extend(sockets),
            Err(error) => {
                let agent = agent.display();
                tracing::info!(%agent, %error, "another agent passes no listening sockets on: addresses that it serves can be bound only once it has ended");
            }
        }
    }
    all
}

fn listeners_of(agent: &Path) -> io::Result<Inherited> {
    let mut all = Inherited::new();
    loop {
        if all.len() >= MOST_IN_ALL {
            return Err(io::Error::other(format!(
                "it has more than {MOST_IN_ALL} sockets"
            )));
        }
        let (answer, passed) = ask(agent, &Order::Listeners { skip: all.len() })?;
        let more = match answer {
            Answer::Listeners { more } => more,
            Answer::Refused { reason } => return Err(io::Error::other(reason)),
            _ => return Err(io::Error::other("it answered something else")),
        };
        let is_all = more == 0;
        if passed.is_empty() && !is_all {
            return Err(io::Error::other(format!("{more} sockets have not come")));
        }
        for descriptor in passed {
            let socket = TcpListener::from(descriptor);
            // Where it listens, the socket itself knows best.
            all.push((socket.local_addr()?, socket));
        }
        if is_all {
            return Ok(all);
        }
    }
}

/// One question; its answer with what came beside it.
fn ask(agent: &Path, order: &Order) -> io::Result<(Answer, Vec<OwnedFd>)> {
    let stream = connect(agent)?;
    message::write(&stream, order)?;
    let (mut line, mut passed) = (Vec::new(), Vec::new());
    let most = usize::try_from(MAX_LINE).unwrap_or(usize::MAX);
    while line.last() != Some(&b'\n') && line.len() < most {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_PASSED))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [0; 4096];
        let read = recvmsg(
            &stream,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut beside,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        // Half of an address's sockets are worse than none: what waits in the others would be nobody's.
        if read.flags.contains(ReturnFlags::CTRUNC) {
            return Err(io::Error::other(
                "not all descriptors could be received (is the limit of open files too low?)",
            ));
        }
        for message in beside.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                passed.extend(descriptors);
            }
        }
        if read.bytes == 0 {
            break;
        }
        line.extend_from_slice(bytes.get(..read.bytes).unwrap_or_default());
    }
    let line = String::from_utf8(line).map_err(io::Error::other)?;
    Ok((message::parse(&line)?, passed))
}

/// Sends a line and these descriptors in one piece.
pub(super) fn write(stream: &UnixStream, line: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_PASSED))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors for one line"));
    }
    let sent = sendmsg(stream, &[IoSlice::new(line)], &mut beside, SendFlags::NOSIGNAL)?;
    if sent < line.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::kernel::control::message::line;

    /// What an agent gets that asks one which answers this.
    fn asked(more: usize, passed: usize) -> io::Result<Inherited> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1.sock");
        let agent = UnixListener::bind(&path).unwrap();
        let thread = std::thread::spawn(move || {
            let (stream, _) = agent.accept().unwrap();
            let _: Order = message::read(&stream).unwrap();
            let sockets: Vec<_> = (0..passed)
                .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
                .collect();
            let sockets: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
            write(&stream, &line(&Answer::Listeners { more }).unwrap(), &sockets).unwrap();
        });
        let listeners = listeners_of(&path);
        thread.join().unwrap();
        listeners
    }

    #[test]
    fn the_sockets_of_an_agent_are_taken_all_or_none() {
        assert_eq!(asked(0, 3).unwrap().len(), 3);
        assert_eq!(asked(0, 0).unwrap().len(), 0);
        let error = asked(2, 0).unwrap_err();
        assert!(error.to_string().contains("2 sockets have not come"), "{error}");
        // More to come, and then the agent is gone.
        assert!(asked(2, 3).is_err());
    }
}
