//! A DNS server that knows a few names and counts what it is asked: for ExternalName Services.
//!
//! UDP, A records (RFC 1035, 4); a name that it doesn't know is NXDOMAIN, any other type of a known name has no records.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const TYPE_A: [u8; 2] = [0, 1];
const HEADER: usize = 12;
/// How soon the thread notices that the server was dropped.
const LOOK_UP: Duration = Duration::from_millis(50);

/// A running DNS server; it ends when dropped.
#[derive(Debug)]
pub struct DnsServer {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    ended: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct Zone {
    /// Address and time to live, in seconds.
    records: BTreeMap<String, (Ipv4Addr, u32)>,
    /// Questions for A records.
    asked: BTreeMap<String, usize>,
}

impl DnsServer {
    /// On a free port of 127.0.0.1, without any name.
    pub fn start() -> std::io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(LOOK_UP))?;
        let server = Self {
            address: socket.local_addr()?,
            zone: Arc::default(),
            ended: Arc::default(),
        };
        let (zone, ended) = (Arc::clone(&server.zone), Arc::clone(&server.ended));
        std::thread::Builder::new()
            .name("dns".into())
            .spawn(move || serve(&socket, &zone, &ended))?;
        Ok(server)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on the name has this address.
    pub fn set(&self, name: &str, address: [u8; 4], ttl_seconds: u32) {
        let record = (address.into(), ttl_seconds);
        lock(&self.zone).records.insert(name.to_owned(), record);
    }

    /// From now on there is no such name.
    pub fn remove(&self, name: &str) {
        lock(&self.zone).records.remove(name);
    }

    /// How often the name's address was asked for.
    pub fn asked(&self, name: &str) -> usize {
        lock(&self.zone).asked.get(name).copied().unwrap_or_default()
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

fn serve(socket: &UdpSocket, zone: &Mutex<Zone>, ended: &AtomicBool) {
    let mut buffer = [0; 1500];
    while !ended.load(Ordering::Relaxed) {
        let Ok((length, peer)) = socket.recv_from(&mut buffer) else {
            continue; // the read timeout
        };
        if let Some(answer) = buffer.get(..length).and_then(|query| answer(query, zone)) {
            // Who asks will ask again.
            let _ = socket.send_to(&answer, peer);
        }
    }
}

fn answer(query: &[u8], zone: &Mutex<Zone>) -> Option<Vec<u8>> {
    let (name, length) = question_name(query.get(HEADER..)?)?;
    let question = query.get(HEADER..HEADER + length + 4)?;
    let is_a = question.get(length..length + 2)? == TYPE_A;
    let mut zone = lock(zone);
    if is_a {
        *zone.asked.entry(name.clone()).or_default() += 1;
    }
    let record = zone.records.get(&name);
    let shown = record.filter(|_| is_a);
    let mut out = query.get(..2)?.to_vec();
    // Response, recursion desired and available; NXDOMAIN is 3.
    out.extend([0x81, if record.is_some() { 0x80 } else { 0x83 }]);
    out.extend([0, 1, 0, u8::from(shown.is_some()), 0, 0, 0, 0]);
    out.extend(question);
    if let Some((address, ttl)) = shown {
        // The name is the one at offset 12; type A, class IN.
        out.extend([0xc0, 12, 0, 1, 0, 1]);
        out.extend(ttl.to_be_bytes());
        out.extend([0, 4]);
        out.extend(address.octets());
    }
    Some(out)
}

/// The name in lower case without its last dot, and how many bytes it takes.
fn question_name(mut rest: &[u8]) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    let mut length = 1;
    loop {
        let (&size, after) = rest.split_first()?;
        if size == 0 {
            return Some((labels.join("."), length));
        }
        let (label, next) = after.split_at_checked(usize::from(size))?;
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        length += label.len() + 1;
        rest = next;
    }
}

fn lock(zone: &Mutex<Zone>) -> MutexGuard<'_, Zone> {
    zone.lock().unwrap_or_else(PoisonError::into_inner)
}
