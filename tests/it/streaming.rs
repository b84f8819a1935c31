//! Bodies that flow: every byte in its place, no faster than the slower side takes them, and no more of them kept than that needs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ingress_tests::raw::DEADLINE;

use crate::frames::{DATA, END_HEADERS, H2Client, HEADERS, Outcome, get, request};
use crate::site::{HOST, Site, wait};

const LARGE: u64 = 100 << 20;

/// The byte at each place of a large body; no short period, so that a piece in the wrong place shows.
fn pattern(at: u64) -> u8 {
    at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0]
}

/// Blocks of the pattern, made once: debug builds are slow at this.
struct Pattern(Vec<u8>);

impl Pattern {
    /// A prime, so that it divides no buffer's size.
    const PERIOD: usize = 1_000_003;

    fn new() -> Self {
        Self((0..).take(Self::PERIOD).map(pattern).collect())
    }

    /// The bytes of the body from `at` on: `length` of them, at most 64 KB.
    fn at(&self, at: u64, length: usize) -> &[u8] {
        let start = usize::try_from(at).unwrap() % Self::PERIOD;
        let end = (start + length).min(Self::PERIOD);
        &self.0[start..end]
    }
}

fn send_pattern(stream: &mut impl Write, counter: &AtomicU64, length: u64) -> std::io::Result<()> {
    let pattern = Pattern::new();
    let mut at = 0;
    while at < length {
        let want = usize::try_from((length - at).min(64 << 10)).unwrap();
        let written = stream.write(pattern.at(at, want))?;
        at += written as u64;
        counter.store(at, Ordering::Relaxed);
    }
    Ok(())
}

/// Reads to `length` or the end; how much was as it should be.
fn check_pattern(stream: &mut impl Read, counter: &AtomicU64, length: u64) -> u64 {
    let pattern = Pattern::new();
    let mut buffer = vec![0; 64 << 10];
    let mut at = 0;
    while at < length {
        let Ok(got @ 1..) = stream.read(&mut buffer) else {
            break;
        };
        let mut rest = &buffer[..got];
        while !rest.is_empty() {
            let right = pattern.at(at, rest.len());
            assert!(rest.starts_with(right), "a wrong byte after {at}");
            at += right.len() as u64;
            rest = &rest[right.len()..];
        }
        counter.store(at, Ordering::Relaxed);
    }
    at
}

/// One connection: reads a head, then does what it is told with the stream.
fn backend(then: impl FnOnce(TcpStream, Arc<AtomicU64>) + Send + 'static) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let counter = Arc::<AtomicU64>::default();
    let shared = Arc::clone(&counter);
    small_buffers(&listener);
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(DEADLINE * 3)).unwrap();
        read_head(&mut stream);
        then(stream, shared);
    });
    (address, counter)
}

/// So that little lies in the sockets of the two ends; accepted connections have those of their listener.
fn small_buffers(socket: &impl AsFd) {
    let socket = socket2::SockRef::from(socket);
    socket.set_recv_buffer_size(64 << 10).unwrap();
    socket.set_send_buffer_size(64 << 10).unwrap();
}

/// More than this was not taken for somebody who takes none: the agent's own sockets hold what the machine lets them, which may be a lot.
const HELD_BACK: u64 = LARGE * 2 / 3;

fn read_head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

fn client(site: &Site) -> TcpStream {
    let stream = TcpStream::connect(site.agent.http).unwrap();
    small_buffers(&stream);
    stream.set_read_timeout(Some(DEADLINE * 3)).unwrap();
    stream.set_write_timeout(Some(DEADLINE * 3)).unwrap();
    stream
}

/// Sends until nothing has moved for a while: then only buffers are full.
fn settled(counter: &AtomicU64) -> u64 {
    let mut last = 0;
    loop {
        std::thread::sleep(Duration::from_millis(300));
        let now = counter.load(Ordering::Relaxed);
        if now == last && now > 0 {
            return now;
        }
        last = now;
    }
}

#[test]
fn a_hundred_megabytes_down_are_the_same_bytes_at_the_other_end() {
    let (address, _) = backend(|mut stream, sent| {
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n").unwrap();
        send_pattern(&mut stream, &sent, LARGE).unwrap();
    });
    let site = Site::new(&[address]);
    let mut client = client(&site);
    write!(client, "GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").unwrap();
    assert!(read_head(&mut client).contains(&format!("content-length: {LARGE}\r\n")));
    assert_eq!(check_pattern(&mut client, &AtomicU64::new(0), LARGE), LARGE);
    drop(client);
    site.assert_well();
}

#[test]
fn a_hundred_megabytes_up_are_the_same_bytes_at_the_other_end() {
    let (address, _) = backend(|mut stream, seen| {
        let right = check_pattern(&mut stream, &seen, LARGE);
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nx-right: {right}\r\ncontent-length: 0\r\n\r\n"
        )
        .unwrap();
    });
    let site = Site::with(&[address], &[("proxy-body-size", "0")], &[]);
    let mut client = client(&site);
    write!(
        client,
        "POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {LARGE}\r\n\r\n"
    )
    .unwrap();
    send_pattern(&mut client, &AtomicU64::new(0), LARGE).unwrap();
    let head = read_head(&mut client);
    assert!(head.contains(&format!("x-right: {LARGE}\r\n")), "{head}");
    drop(client);
    site.assert_well();
}

#[test]
fn a_client_that_reads_slowly_slows_its_backend_down() {
    let (address, sent) = backend(|mut stream, sent| {
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n").unwrap();
        let _ = send_pattern(&mut stream, &sent, LARGE);
    });
    let site = Site::new(&[address]);
    let mut client = client(&site);
    write!(client, "GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").unwrap();
    read_head(&mut client);
    // What lies in socket buffers and one of the agent's, and no more.
    let taken = settled(&sent);
    assert!(
        taken < HELD_BACK,
        "{taken} bytes were taken for a client that reads none"
    );
    assert_eq!(check_pattern(&mut client, &AtomicU64::new(0), LARGE), LARGE);
}

#[test]
fn a_backend_that_reads_slowly_slows_its_client_down() {
    let (go, wait_for_go) = std::sync::mpsc::channel::<()>();
    let (address, _) = backend(move |mut stream, seen| {
        wait_for_go.recv().unwrap();
        let right = check_pattern(&mut stream, &seen, LARGE);
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nx-right: {right}\r\ncontent-length: 0\r\n\r\n"
        )
        .unwrap();
    });
    let site = Site::with(&[address], &[("proxy-body-size", "0")], &[]);
    let mut client = client(&site);
    write!(
        client,
        "POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {LARGE}\r\n\r\n"
    )
    .unwrap();
    let sent = Arc::<AtomicU64>::default();
    let counter = Arc::clone(&sent);
    let mut uploading = client.try_clone().unwrap();
    let upload = std::thread::spawn(move || send_pattern(&mut uploading, &counter, LARGE));
    let taken = settled(&sent);
    assert!(
        taken < HELD_BACK,
        "{taken} bytes were taken for a backend that reads none"
    );
    go.send(()).unwrap();
    upload.join().unwrap().unwrap();
    let head = read_head(&mut client);
    assert!(head.contains(&format!("x-right: {LARGE}\r\n")), "{head}");
}

#[test]
fn an_h2_client_with_a_small_window_slows_its_backend_down_and_nobody_elses() {
    let (address, sent) = backend(|mut stream, sent| {
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n").unwrap();
        let _ = send_pattern(&mut stream, &sent, LARGE);
    });
    let site = Site::new(&[address]);
    let mut client = H2Client::open_with(site.agent.http, &[(4, 1000)]);
    client.ask(1, get("/", &[])).unwrap();
    assert_eq!(client.outcome(1), Some(Outcome::Status(200)));
    let taken = settled(&sent);
    assert!(taken < HELD_BACK, "{taken} bytes were taken for a window of 1000");
    // Another stream of the same connection is not held up.
    let healthy = crate::frames::block(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "healthy.test"),
    ]);
    client.ask(3, healthy).unwrap();
    assert_eq!(client.outcome(3), Some(Outcome::Status(200)));
}

#[test]
fn an_h2_upload_to_a_slow_backend_is_held_back_by_its_window() {
    let (_go, wait_for_go) = std::sync::mpsc::channel::<()>();
    let (address, _) = backend(move |_stream, _| {
        let _ = wait_for_go.recv();
    });
    let site = Site::with(&[address], &[("proxy-body-size", "0")], &[]);
    let mut client = H2Client::open(site.agent.http);
    client
        .send(HEADERS, END_HEADERS, 1, request("POST", "/", &[]))
        .unwrap();
    // Far more than the window that the agent gave; who sends on regardless is not served.
    let mut sent = 0;
    while sent < 8 << 20 && client.send(DATA, 0, 1, vec![b'x'; 16 << 10]).is_ok() {
        sent += 16 << 10;
    }
    let outcome = client.outcome(1);
    assert!(
        matches!(
            outcome,
            None | Some(Outcome::Reset(0x3) | Outcome::GoneAway(0x3 | 0xb))
        ),
        "FLOW_CONTROL_ERROR: {outcome:?}"
    );
    drop(client);
    site.assert_well();
}

#[test]
fn a_response_is_passed_on_as_it_comes_and_not_gathered() {
    let (address, seen) = backend(|mut stream, seen| {
        write!(
            stream,
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
        )
        .unwrap();
        // The next event only when the client has the one before.
        for event in 0..5 {
            // In one piece, so that it becomes one chunk.
            stream.write_all(format!("data: {event}\n\n").as_bytes()).unwrap();
            wait("the client has the event", || {
                seen.load(Ordering::Relaxed) > event
            });
        }
    });
    let site = Site::new(&[address]);
    let mut client = client(&site);
    write!(client, "GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").unwrap();
    read_head(&mut client);
    let (mut got, mut byte) = (Vec::new(), [0]);
    for event in 0..5 {
        while !got.ends_with(format!("data: {event}\n\n").as_bytes()) {
            client.read_exact(&mut byte).unwrap();
            got.push(byte[0]);
        }
        seen.store(event + 1, Ordering::Relaxed);
    }
}

#[test]
fn a_client_that_goes_away_in_the_middle_frees_its_backend() {
    let (address, sent) = backend(|mut stream, sent| {
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n").unwrap();
        let done = send_pattern(&mut stream, &sent, LARGE);
        assert!(done.is_err());
        sent.store(u64::MAX, Ordering::Relaxed);
    });
    let site = Site::new(&[address]);
    let mut client = client(&site);
    write!(client, "GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").unwrap();
    read_head(&mut client);
    drop(client);
    wait("the backend's connection is closed", || {
        sent.load(Ordering::Relaxed) == u64::MAX
    });
    site.assert_well();
}
