//! Backends and clients that speak bytes, for everything that a well-behaved library would mend or refuse to send.
//!
//! Every wait has a deadline: a test that would hang fails instead, saying what had arrived.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::gate::Gate;

/// Long enough for a machine that is ten times slower than it should be; reached only by a failing test.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// Of what had arrived, as much as a failing test shows.
const SHOWN_BYTES: usize = 2000;
/// No backend or client here keeps more than this.
const MAX_BYTES: usize = 64 << 20;

/// A backend that answers each connection with given bytes and remembers what it got.
#[derive(Debug)]
pub struct RawBackend {
    address: SocketAddr,
    record: Arc<Record>,
}

/// What a [`RawBackend`] does on each connection, in order.
#[derive(Clone, Debug)]
pub enum Step {
    /// Waits until the bytes so far contain this.
    Expect(Vec<u8>),
    Send(Vec<u8>),
    Wait(Duration),
    /// Waits until the test opens the gate: for an order of events that no sleep can promise.
    Until(Gate),
    /// Ends the sending side; still reads.
    HalfClose,
    /// Closes at once: a reset when unread bytes are left.
    Close,
    /// Closes with a reset, whatever was read.
    Reset,
}

#[derive(Debug, Default)]
struct Record {
    connections: Mutex<Vec<Vec<u8>>>,
    /// Connections that the peer has ended, or that this side has.
    ended: AtomicUsize,
    changed: Condvar,
    stopped: AtomicBool,
}

impl RawBackend {
    /// Waits for a whole request head, sends `response`, then keeps reading until the peer closes.
    pub fn answering(response: impl AsRef<[u8]>) -> io::Result<Self> {
        Self::scripted(vec![
            Step::Expect(b"\r\n\r\n".to_vec()),
            Step::Send(response.as_ref().to_vec()),
        ])
    }

    pub fn scripted(script: Vec<Step>) -> io::Result<Self> {
        Self::scripted_in_turn(vec![script])
    }

    /// Each connection has a script of its own, in the order in which they are accepted; the last one is for all that follow.
    pub fn scripted_in_turn(scripts: Vec<Vec<Step>>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let record = Arc::new(Record::default());
        let shared = Arc::clone(&record);
        std::thread::Builder::new()
            .name("raw backend".into())
            .spawn(move || accept(&listener, &shared, &scripts))?;
        Ok(Self { address, record })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The bytes of each connection so far, in the order in which they were accepted.
    pub fn received(&self) -> Vec<Vec<u8>> {
        self.record.lock().clone()
    }

    pub fn connections(&self) -> usize {
        self.record.lock().len()
    }

    /// Connections that are over, whoever ended them.
    pub fn ended(&self) -> usize {
        self.record.ended.load(Ordering::Acquire)
    }

    /// Waits until `enough` says so of what has arrived; gives that, or what there was at the deadline as the error.
    pub fn wait_for(&self, enough: impl Fn(&[Vec<u8>]) -> bool) -> Result<Vec<Vec<u8>>, Vec<Vec<u8>>> {
        let until = Instant::now() + DEADLINE;
        let mut connections = self.record.lock();
        while !enough(&connections) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(connections.clone());
            }
            connections = self
                .record
                .changed
                .wait_timeout(connections, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        Ok(connections.clone())
    }
}

impl Drop for RawBackend {
    fn drop(&mut self) {
        self.record.stopped.store(true, Ordering::Relaxed);
        // Wakes the accept loop, so that it sees the end.
        let _ = TcpStream::connect(self.address);
    }
}

impl Record {
    fn lock(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> usize {
        let mut connections = self.lock();
        connections.push(Vec::new());
        self.changed.notify_all();
        connections.len() - 1
    }

    fn append(&self, index: usize, bytes: &[u8]) {
        if let Some(kept) = self.lock().get_mut(index)
            && kept.len() < MAX_BYTES
        {
            kept.extend(bytes);
        }
        self.changed.notify_all();
    }

    fn contains(&self, index: usize, wanted: &[u8]) -> bool {
        self.lock().get(index).is_some_and(|kept| find(kept, wanted))
    }
}

fn accept(listener: &TcpListener, record: &Arc<Record>, scripts: &[Vec<Step>]) {
    while let Ok((stream, _)) = listener.accept() {
        if record.stopped.load(Ordering::Relaxed) {
            return;
        }
        let record = Arc::clone(record);
        let index = record.open();
        let script = scripts.get(index).or(scripts.last()).cloned().unwrap_or_default();
        let spawned = std::thread::Builder::new().spawn(move || {
            // How the connection ended shows in what the client got.
            let _ = play(stream, &record, index, &script);
            record.ended.fetch_add(1, Ordering::Release);
        });
        if spawned.is_err() {
            return;
        }
    }
}

fn play(mut stream: TcpStream, record: &Record, index: usize, script: &[Step]) -> io::Result<()> {
    stream.set_read_timeout(Some(DEADLINE))?;
    for step in script {
        match step {
            Step::Expect(wanted) => {
                while !record.contains(index, wanted) {
                    read_some(&mut stream, record, index)?;
                }
            }
            Step::Send(bytes) => stream.write_all(bytes)?,
            Step::Wait(time) => std::thread::sleep(*time),
            Step::Until(gate) => gate.wait(),
            Step::HalfClose => stream.shutdown(std::net::Shutdown::Write)?,
            Step::Close => return Ok(()),
            Step::Reset => return reset(&stream),
        }
    }
    loop {
        read_some(&mut stream, record, index)?;
    }
}

fn read_some(stream: &mut TcpStream, record: &Record, index: usize) -> io::Result<()> {
    let mut buffer = [0; 16 << 10];
    let count = stream.read(&mut buffer)?;
    if count == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    record.append(index, buffer.get(..count).unwrap_or_default());
    Ok(())
}

/// A client that sends given bytes and reads what comes.
#[derive(Debug)]
pub struct RawClient {
    stream: TcpStream,
    received: Vec<u8>,
}

impl RawClient {
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, DEADLINE)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(DEADLINE))?;
        Ok(Self {
            stream,
            received: Vec::new(),
        })
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Sends one byte at a time, each in a packet of its own as far as the kernel allows.
    pub fn send_byte_by_byte(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        bytes
            .as_ref()
            .iter()
            .try_for_each(|byte| self.stream.write_all(&[*byte]))
    }

    pub fn half_close(&mut self) -> io::Result<()> {
        self.stream.shutdown(std::net::Shutdown::Write)
    }

    /// Closes with a reset instead of an orderly end.
    pub fn reset(self) -> io::Result<()> {
        reset(&self.stream)
    }

    /// Everything until the peer closes; an error when it does not before the deadline.
    pub fn read_to_end(&mut self) -> io::Result<Vec<u8>> {
        let until = Instant::now() + DEADLINE;
        while self.read_once(until)? {}
        Ok(std::mem::take(&mut self.received))
    }

    /// Everything up to and including `wanted`; what comes after it stays for the next read.
    pub fn read_until(&mut self, wanted: impl AsRef<[u8]>) -> io::Result<Vec<u8>> {
        let (wanted, until) = (wanted.as_ref(), Instant::now() + DEADLINE);
        // What was looked at before can only hold the beginning of it.
        let mut seen = 0;
        loop {
            let new = self.received.get(seen..).unwrap_or_default();
            if let Some(start) = position(new, wanted).map(|at| seen + at) {
                let rest = self.received.split_off(start + wanted.len());
                return Ok(std::mem::replace(&mut self.received, rest));
            }
            seen = (self.received.len() + 1).saturating_sub(wanted.len()).max(seen);
            if !self.read_once(until)? {
                return Err(io::Error::other(format!(
                    "closed before what was wanted; got {}",
                    shown(&self.received)
                )));
            }
        }
    }

    /// Whether the peer has closed, or closes within `time`.
    pub fn is_closed_within(&mut self, time: Duration) -> bool {
        let until = Instant::now() + time;
        loop {
            match self.read_once(until) {
                Ok(true) => {}
                Ok(false) => return true,
                Err(e) => return e.kind() != io::ErrorKind::TimedOut,
            }
        }
    }

    /// False at the end of the stream.
    fn read_once(&mut self, until: Instant) -> io::Result<bool> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || self.received.len() > MAX_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("gave up; got {}", shown(&self.received)),
            ));
        }
        self.stream.set_read_timeout(Some(left))?;
        let mut buffer = [0; 16 << 10];
        match self.stream.read(&mut buffer) {
            Ok(0) => Ok(false),
            Ok(count) => {
                self.received.extend(buffer.get(..count).unwrap_or_default());
                Ok(true)
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(true),
            Err(e) => Err(e),
        }
    }
}

/// Sends `bytes`, reads to the end: the whole exchange of most tests of bad input.
pub fn exchange(address: SocketAddr, bytes: impl AsRef<[u8]>) -> io::Result<String> {
    let mut client = RawClient::connect(address)?;
    client.send(bytes)?;
    Ok(String::from_utf8_lossy(&client.read_to_end()?).into_owned())
}

/// An address of 127.0.0.1 at which nobody listens, and at which nobody else can begin to as long as this is held.
///
/// The port of a listener that was closed would do only until the kernel gives it to another test.
#[derive(Debug)]
pub struct Refusing {
    address: SocketAddr,
    _bound: Socket,
}

impl Refusing {
    pub fn new() -> io::Result<Self> {
        let bound = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        bound.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        let address = bound.local_addr()?.as_socket();
        let address = address.ok_or_else(|| io::Error::other("bound to no IP address"))?;
        Ok(Self {
            address,
            _bound: bound,
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// How much there is, and the last of it.
fn shown(bytes: &[u8]) -> String {
    let last = bytes.get(bytes.len().saturating_sub(SHOWN_BYTES)..);
    let text = String::from_utf8_lossy(last.unwrap_or_default());
    format!("{} bytes, the last of them {text:?}", bytes.len())
}

/// The close that follows sends RST: nothing may linger.
fn reset(stream: &TcpStream) -> io::Result<()> {
    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO))
}

fn find(haystack: &[u8], needle: &[u8]) -> bool {
    position(haystack, needle).is_some()
}

fn position(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len().max(1)).position(|w| w == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raw_backend_records_what_it_got_and_answers_as_told() {
        let backend = RawBackend::scripted(vec![
            Step::Expect(b"\r\n\r\n".to_vec()),
            Step::Send(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
            Step::Close,
        ])
        .unwrap();
        let answer = exchange(backend.address(), "GET / HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!(answer, "HTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!(backend.received(), [b"GET / HTTP/1.1\r\n\r\n".to_vec()]);
    }

    #[test]
    fn an_address_that_refuses_is_nobody_elses() {
        let refusing = Refusing::new().unwrap();
        let refused = TcpStream::connect(refusing.address()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let taken = TcpListener::bind(refusing.address()).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_raw_client_keeps_what_follows_the_wanted_bytes() {
        let backend = RawBackend::answering("one\n\ntwo\n\n").unwrap();
        let mut client = RawClient::connect(backend.address()).unwrap();
        client.send("\r\n\r\n").unwrap();
        assert_eq!(client.read_until("\n\n").unwrap(), b"one\n\n");
        assert_eq!(client.read_until("\n\n").unwrap(), b"two\n\n");
    }
}
