//! What the standard library has no call for: a map's entry by a shared descriptor, TCP's own figures of a socket, the kernel's clock.
#![allow(
    unsafe_code,
    reason = "bpf(2), getsockopt(2) and clock_gettime(2) are called here"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use ingress_common::account::{Connection, Tag};

/// The part of `union bpf_attr` that BPF_MAP_UPDATE_ELEM reads (linux/bpf.h).
#[repr(C)]
struct Update {
    map: u32,
    _padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;

/// Writes a socket's tag. aya's own call wants the map for itself alone; here all workers share it.
pub(super) fn set_tag(map: BorrowedFd<'_>, socket: RawFd, tag: &Tag) -> io::Result<()> {
    let map = u32::try_from(map.as_raw_fd()).map_err(io::Error::other)?;
    let mut update = Update {
        map,
        _padding: 0,
        key: (&raw const socket) as u64,
        value: std::ptr::from_ref(tag) as u64,
        flags: 0,
    };
    // SAFETY: `update` is laid out as the kernel's union; its pointers are to an int and a tag, the sizes of the map's key and value, and
    // both live until the call has returned. A descriptor that is no socket is refused by the kernel.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_UPDATE_ELEM,
            &raw mut update,
            size_of::<Update>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// From the bytes that the kernel's side wrote; `None` for any other number of them.
pub(super) fn connection(bytes: &[u8]) -> Option<Connection> {
    if bytes.len() != size_of::<Connection>() {
        return None;
    }
    // SAFETY: so many bytes are there, and any bytes are a connection: it is made of integers alone. The copy asks for no alignment.
    Some(unsafe { bytes.as_ptr().cast::<Connection>().read_unaligned() })
}

/// What TCP knows of a connection (tcp(7), linux/tcp.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpInfo {
    /// Smoothed, microseconds; 0 was never measured.
    pub rtt: u32,
    pub least_rtt: u32,
    pub retransmits: u32,
    pub segments_out: u32,
    /// Those with data (Linux 4.6).
    pub data_segments_out: u32,
    /// Microseconds in which something sent was not acknowledged yet, as exact as the kernel's ticks of 1 to 10 ms (Linux 4.10).
    pub busy: u64,
    /// Microseconds in which the other side's receive window was what held us up (Linux 4.10).
    pub window_limited: u64,
}

impl TcpInfo {
    /// How long what we asked was on its way, towards a server. Where one segment with data was sent, the smoothed figure is for seven eighths the
    /// SYN's (RFC 6298, 2.3), which is small and on a thin line much faster; the segment's own time is known, and Linux acknowledges a
    /// connection's first data at once, whether or not there is an answer yet.
    pub fn request_rtt(&self) -> u32 {
        match self.data_segments_out {
            1 => self.rtt.max(u32::try_from(self.busy).unwrap_or(u32::MAX)),
            _ => self.rtt,
        }
    }
}

/// Words of `struct tcp_info` that are asked for.
const WORDS: usize = 48;

/// `None` where the descriptor is no TCP socket.
pub fn tcp_info(socket: RawFd) -> Option<TcpInfo> {
    let mut words = [0_u32; WORDS];
    let mut size = libc::socklen_t::try_from(size_of_val(&words)).ok()?;
    // SAFETY: the kernel writes at most `size` bytes, which `words` has, and any bytes are words.
    let result = unsafe {
        libc::getsockopt(
            socket,
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            words.as_mut_ptr().cast(),
            &raw mut size,
        )
    };
    // Places by the header's offsets; an older kernel writes less, and what it does not know stays 0.
    let word = |offset: usize| words.get(offset / 4).copied().unwrap_or_default();
    let long = |offset: usize| match cfg!(target_endian = "little") {
        true => u64::from(word(offset)) | u64::from(word(offset + 4)) << 32,
        false => u64::from(word(offset)) << 32 | u64::from(word(offset + 4)),
    };
    (result == 0).then(|| TcpInfo {
        rtt: word(68),
        retransmits: word(100),
        segments_out: word(136),
        least_rtt: word(148),
        data_segments_out: word(156),
        busy: long(168),
        window_limited: long(176),
    })
}

/// CLOCK_MONOTONIC in nanoseconds: what bpf_ktime_get_ns gives.
pub fn monotonic() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call writes one timespec.
    if unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) } != 0 {
        return 0;
    }
    let part = |number: i64| u64::try_from(number).unwrap_or_default();
    part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn tcp_tells_its_round_trip_and_what_it_sent() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        for _ in 0..4 {
            client.write_all(b"ping").unwrap();
            server.read_exact(&mut [0; 4]).unwrap();
            server.write_all(b"pong").unwrap();
            client.read_exact(&mut [0; 4]).unwrap();
        }
        let info = tcp_info(client.as_raw_fd()).unwrap();
        assert!(info.rtt > 0 && info.rtt < 10_000_000, "{info:?}");
        assert!(
            info.least_rtt <= info.rtt * 2 && info.segments_out >= 5,
            "{info:?}"
        );
        assert!(info.data_segments_out >= 4, "{info:?}");
        assert_eq!(tcp_info(-1), None);
        assert_eq!(tcp_info(0), None, "standard input is no socket");
    }

    #[test]
    fn a_connection_is_read_from_as_many_bytes_as_it_has_and_no_others() {
        let mut bytes = [0_u8; size_of::<Connection>()];
        bytes[..4].copy_from_slice(&4_u32.to_ne_bytes());
        bytes[8..16].copy_from_slice(&9_u64.to_ne_bytes());
        bytes[104..108].copy_from_slice(&2_u32.to_ne_bytes());
        bytes[156..].copy_from_slice(&[1, 2, 3, 4]);
        let read = connection(&bytes).unwrap();
        assert_eq!((read.ended.left, read.ended.now, read.why), (4, 9, 2));
        assert_eq!(read.remote_ip6[3].to_ne_bytes(), [1, 2, 3, 4]);
        assert_eq!(connection(&bytes[1..]), None);
        assert_eq!(connection(&[]), None);
    }

    #[test]
    fn the_way_of_an_only_request_is_its_own_and_not_the_smaller_syns() {
        let once = TcpInfo {
            rtt: 80_000,
            data_segments_out: 1,
            busy: 160_000,
            ..TcpInfo::default()
        };
        assert_eq!(once.request_rtt(), 160_000);
        let kept = TcpInfo {
            data_segments_out: 2,
            ..once
        };
        assert_eq!(kept.request_rtt(), 80_000);
    }

    #[test]
    fn the_kernels_clock_goes_forward() {
        let first = monotonic();
        assert!(first > 0 && monotonic() >= first);
    }
}
