//! Questions to the kernel by netlink(7), as far as this agent has any: lists of everything, none of which asks for a right.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};

/// Whom the questions are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// Interfaces and addresses: rtnetlink(7).
    Route,
    /// Sockets: sock_diag(7).
    Sockets,
}

/// The kernel answers at once, or never.
const PATIENCE: Duration = Duration::from_secs(2);
/// Messages that one list may have: far beyond any node's interfaces and listening sockets.
const MOST: usize = 100_000;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// NLM_F_REQUEST and NLM_F_DUMP.
const DUMP: u16 = 0x301;
const HEADER: usize = 16;

/// `groups`: what is heard of without a question.
pub(super) fn open(family: Family, groups: u32) -> io::Result<OwnedFd> {
    let protocol = match family {
        // NETLINK_ROUTE is 0.
        Family::Route => None,
        Family::Sockets => Some(SOCK_DIAG),
    };
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        protocol,
    )?;
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    Ok(socket)
}

/// The bodies of all messages that answer a question for everything.
pub(super) fn dump(socket: &OwnedFd, question: u16, answer: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    // RFC 3549, 2.3.2.
    let length = u32::try_from(HEADER + body.len()).map_err(io::Error::other)?;
    let mut request = length.to_ne_bytes().to_vec();
    request.extend(question.to_ne_bytes());
    request.extend(DUMP.to_ne_bytes());
    request.resize(HEADER, 0);
    request.extend(body);
    send(socket, &request, SendFlags::empty())?;
    let mut bodies = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let (_, length) = recv(socket, &mut buffer[..], RecvFlags::empty())?;
        for (kind, body) in messages(&buffer[..length.min(buffer.len())]) {
            match kind {
                NLMSG_DONE => return Ok(bodies),
                NLMSG_ERROR => return Err(io::Error::other("the kernel refused to list")),
                kind if kind == answer && bodies.len() < MOST => bodies.push(body.to_vec()),
                _ => {}
            }
        }
    }
}

/// Kind and body of each message; ends at the first that makes no sense.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32(bytes, 0)?).ok()?;
        let body = bytes.get(HEADER..length)?;
        let kind = u16(bytes, 4)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// Kind and value of each attribute of a message.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16(bytes, 0)?);
        let value = bytes.get(4..length)?;
        // The two high bits are flags (NLA_F_NESTED, NLA_F_NET_BYTEORDER).
        let kind = u16(bytes, 2)? & 0x3fff;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Up to its zero byte.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

pub(super) fn u16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|bytes| u16::from_ne_bytes(*bytes))
}

pub(super) fn u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|bytes| u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_short_or_counts_wrong_ends_the_reading() {
        let mut bytes = 20u32.to_ne_bytes().to_vec();
        bytes.extend([7, 0, 0, 0]);
        bytes.resize(16, 0);
        bytes.extend([8, 0, 3, 0]);
        assert_eq!(messages(&bytes).count(), 1);
        for end in 0..bytes.len() {
            assert_eq!(messages(&bytes[..end]).count(), 0);
        }
        for length in [0u32, 1, 15, u32::MAX] {
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(messages(&bytes).count(), 0, "{length}");
        }
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[4, 0, 1, 0x80]).next(), Some((1, &[][..])));
    }
}
