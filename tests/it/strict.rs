//! A backend that reads requests by the letter of RFC 9112 and keeps the very bytes: what it calls broken must never reach it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use ingress_tests::raw;

/// Answers every whole request with 200 and remembers it.
pub(crate) struct StrictBackend {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    requests: Vec<Whole>,
    broken: Vec<String>,
    cut: usize,
}

/// One whole request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Whole {
    /// Request line and fields, with their line ends.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Whole {
    pub(crate) fn path(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    pub(crate) fn fields(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines().skip(1);
        lines
            .filter_map(|line| line.split_once(": "))
            .filter(|(is, _)| is.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .collect()
    }
}

enum Problem {
    /// The peer went away in the middle of a message.
    Cut,
    /// The peer went away between two messages.
    End,
    Broken(String),
}

impl StrictBackend {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Seen>>::default();
        let shared = Arc::clone(&seen);
        // Ends with the test process; the sockets with the agent's.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, &seen));
            }
        });
        Self { address, seen }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// All whole requests so far.
    pub(crate) fn requests(&self) -> Vec<Whole> {
        self.seen.lock().unwrap().requests.clone()
    }

    /// What was not HTTP by the letter.
    pub(crate) fn broken(&self) -> Vec<String> {
        self.seen.lock().unwrap().broken.clone()
    }

    /// How many messages were broken off: a reader drops those.
    pub(crate) fn cut(&self) -> usize {
        self.seen.lock().unwrap().cut
    }
}

fn serve(mut stream: TcpStream, seen: &Mutex<Seen>) {
    let mut buffer = Vec::new();
    let _ = stream.set_read_timeout(Some(raw::DEADLINE * 3));
    loop {
        let request = read_request(&mut stream, &mut buffer);
        let mut seen = seen.lock().unwrap();
        match request {
            Ok(request) => seen.requests.push(request),
            Err(Problem::End) => return,
            Err(Problem::Cut) => return seen.cut += 1,
            Err(Problem::Broken(how)) => return seen.broken.push(how),
        }
        drop(seen);
        if stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .is_err()
        {
            return;
        }
    }
}

fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<Whole, Problem> {
    let head = read_head(stream, buffer)?;
    let mut lines = head.split("\r\n");
    let start = lines.next().unwrap_or_default();
    let words: Vec<_> = start.split(' ').collect();
    if words.len() != 3 || words[2] != "HTTP/1.1" || words.iter().any(|word| word.is_empty()) {
        return Err(Problem::Broken(format!("request line {start:?}")));
    }
    let (mut lengths, mut codings, mut hosts) = (Vec::new(), Vec::new(), 0);
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line
            .split_once(": ")
            .filter(|(name, _)| {
                !name.is_empty()
                    && name
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            })
            .ok_or_else(|| Problem::Broken(format!("field {line:?} in {head:?}")))?;
        match name.to_ascii_lowercase().as_str() {
            "content-length" => lengths.push(value.to_owned()),
            "transfer-encoding" => codings.push(value.to_owned()),
            "host" => hosts += 1,
            _ => {}
        }
    }
    let broken = || Problem::Broken(head.clone());
    if hosts != 1 {
        return Err(broken());
    }
    let body = match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Vec::new(),
        ([length], []) if length.bytes().all(|b| b.is_ascii_digit()) => {
            take(stream, buffer, length.parse().map_err(|_| broken())?)?
        }
        ([], [coding]) if coding == "chunked" => read_chunks(stream, buffer)?,
        _ => return Err(broken()),
    };
    Ok(Whole { head, body })
}

fn read_head(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<String, Problem> {
    loop {
        if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            let head: Vec<u8> = buffer.drain(..end + 4).collect();
            let text = String::from_utf8_lossy(&head).into_owned();
            let without_line_ends = text.replace("\r\n", "");
            if without_line_ends.contains(['\r', '\n', '\0']) {
                return Err(Problem::Broken(text));
            }
            return Ok(text);
        }
        let empty = buffer.is_empty();
        fill(stream, buffer).map_err(|cut| if empty { Problem::End } else { cut })?;
    }
}

fn read_chunks(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<Vec<u8>, Problem> {
    let mut body = Vec::new();
    loop {
        let line = take_line(stream, buffer)?;
        let size =
            usize::from_str_radix(&line, 16).map_err(|_| Problem::Broken(format!("chunk size {line:?}")))?;
        if size == 0 {
            while !take_line(stream, buffer)?.is_empty() {}
            return Ok(body);
        }
        body.extend(take(stream, buffer, size)?);
        if take(stream, buffer, 2)? != b"\r\n" {
            return Err(Problem::Broken("chunk without its line end".into()));
        }
    }
}

fn take_line(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<String, Problem> {
    loop {
        if let Some(end) = buffer.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line).into_owned();
            return line
                .strip_suffix("\r\n")
                .filter(|line| !line.contains('\r'))
                .map(str::to_owned)
                .ok_or_else(|| Problem::Broken(format!("line {line:?}")));
        }
        fill(stream, buffer)?;
    }
}

fn take(stream: &mut TcpStream, buffer: &mut Vec<u8>, length: usize) -> Result<Vec<u8>, Problem> {
    while buffer.len() < length {
        fill(stream, buffer)?;
    }
    Ok(buffer.drain(..length).collect())
}

fn fill(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<(), Problem> {
    let mut space = [0; 16 << 10];
    match stream.read(&mut space) {
        Ok(0) | Err(_) => Err(Problem::Cut),
        Ok(length) => {
            buffer.extend(&space[..length]);
            Ok(())
        }
    }
}
