//! A client that speaks HTTP/2 frame by frame, for what no library would send.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use ingress_tests::raw::DEADLINE;

pub(crate) const DATA: u8 = 0x0;
pub(crate) const HEADERS: u8 = 0x1;
pub(crate) const PRIORITY: u8 = 0x2;
pub(crate) const RST_STREAM: u8 = 0x3;
pub(crate) const SETTINGS: u8 = 0x4;
pub(crate) const PUSH_PROMISE: u8 = 0x5;
pub(crate) const PING: u8 = 0x6;
pub(crate) const GOAWAY: u8 = 0x7;
pub(crate) const WINDOW_UPDATE: u8 = 0x8;
pub(crate) const CONTINUATION: u8 = 0x9;

pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn new(kind: u8, flags: u8, stream: u32, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            kind,
            flags,
            stream,
            payload: payload.into(),
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).unwrap().to_be_bytes();
        let mut bytes = length[1..].to_vec();
        bytes.extend([self.kind, self.flags]);
        bytes.extend(self.stream.to_be_bytes());
        bytes.extend(&self.payload);
        bytes
    }

    /// The error code of a GOAWAY or RST_STREAM.
    pub(crate) fn error_code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// A header block of literals that name nothing in any table (RFC 7541, 6.2.2).
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        string(&mut block, name.as_bytes());
        string(&mut block, value.as_bytes());
    }
    block
}

/// A plain string literal (RFC 7541, 5.2).
pub(crate) fn string(block: &mut Vec<u8>, text: &[u8]) {
    if text.len() < 127 {
        block.push(u8::try_from(text.len()).unwrap());
    } else {
        block.push(127);
        let mut rest = text.len() - 127;
        while rest >= 128 {
            block.push(u8::try_from(rest % 128).unwrap() | 128);
            rest /= 128;
        }
        block.push(u8::try_from(rest).unwrap());
    }
    block.extend(text);
}

/// The pseudo-header fields of a GET, with what more there is to say.
pub(crate) fn get<'a>(path: &'a str, more: &[(&'a str, &'a str)]) -> Vec<u8> {
    request("GET", path, more)
}

pub(crate) fn request<'a>(method: &'a str, path: &'a str, more: &[(&'a str, &'a str)]) -> Vec<u8> {
    let mut fields = vec![
        (":method", method),
        (":scheme", "http"),
        (":path", path),
        (":authority", crate::site::HOST),
    ];
    fields.extend(more);
    block(&fields)
}

pub(crate) struct H2Client {
    stream: TcpStream,
}

impl H2Client {
    /// Connected, with the preface and empty SETTINGS sent.
    pub(crate) fn open(address: SocketAddr) -> Self {
        Self::open_with(address, &[])
    }

    /// The same with these SETTINGS: identifier and value.
    pub(crate) fn open_with(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut client = Self::connect(address);
        client.send_bytes(PREFACE).unwrap();
        let mut payload = Vec::new();
        for (identifier, value) in settings {
            payload.extend(identifier.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        client.send(SETTINGS, 0, 0, payload).unwrap();
        client
    }

    /// The same with a whole request without a body on stream 1, all in one piece: no time passes between the two.
    pub(crate) fn open_asking(address: SocketAddr, block: Vec<u8>) -> Self {
        let mut client = Self::connect(address);
        let settings = Frame::new(SETTINGS, 0, 0, []).bytes();
        let asking = Frame::new(HEADERS, END_STREAM | END_HEADERS, 1, block).bytes();
        client
            .send_bytes(&[PREFACE, &settings, &asking].concat())
            .unwrap();
        client
    }

    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Self { stream }
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    pub(crate) fn send(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: impl Into<Vec<u8>>,
    ) -> io::Result<()> {
        self.send_bytes(&Frame::new(kind, flags, stream, payload).bytes())
    }

    /// A whole request without a body.
    pub(crate) fn ask(&mut self, stream: u32, block: Vec<u8>) -> io::Result<()> {
        self.send(HEADERS, END_STREAM | END_HEADERS, stream, block)
    }

    /// The next frame; none at the end of the connection, orderly or not. SETTINGS are acknowledged on the way.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.read_exact(&mut head)?;
        let [l2, l1, l0, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, l2, l1, l0]) as usize];
        self.read_exact(&mut payload)?;
        if kind == SETTINGS && flags & 1 == 0 {
            let _ = self.send(SETTINGS, 1, 0, []);
        }
        let stream = u32::from_be_bytes(stream);
        Some(Frame::new(kind, flags, stream, payload))
    }

    /// The next frame of this kind; none when the connection ends first.
    pub(crate) fn next_of(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.next()?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// How the stream is answered: its status, or the code of its reset; none when the connection ends first.
    pub(crate) fn outcome(&mut self, stream: u32) -> Option<Outcome> {
        loop {
            let frame = self.next()?;
            match frame.kind {
                HEADERS if frame.stream == stream => return Some(Outcome::Status(status(&frame.payload))),
                RST_STREAM if frame.stream == stream => return Some(Outcome::Reset(frame.error_code())),
                GOAWAY if frame.error_code() != 0 => return Some(Outcome::GoneAway(frame.error_code())),
                _ => {}
            }
        }
    }

    /// The error code with which the connection ends.
    pub(crate) fn end(&mut self) -> Option<u32> {
        let code = self.next_of(GOAWAY)?.error_code();
        while self.next().is_some() {}
        Some(code)
    }

    pub(crate) fn half_close(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    fn read_exact(&mut self, space: &mut [u8]) -> Option<()> {
        match self.stream.read_exact(space) {
            Ok(()) => Some(()),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                panic!("neither a frame nor the end before the deadline")
            }
            Err(_) => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Status(u16),
    Reset(u32),
    GoneAway(u32),
}

/// The status of a response's header block, which begins with it: indexed, or a literal of digits.
fn status(block: &[u8]) -> u16 {
    // A dynamic table size update may stand before it (RFC 7541, 6.3).
    let mut block = block;
    while block.first().is_some_and(|b| b & 0xe0 == 0x20) {
        block = &block[1..];
    }
    match block[0] {
        0x88 => 200,
        0x89 => 204,
        0x8a => 206,
        0x8b => 304,
        0x8c => 400,
        0x8d => 404,
        0x8e => 500,
        // Literal with the name `:status`.
        0x48 | 0x08 | 0x18 => digits(&block[1..]),
        other => panic!("not a status: {other:#x}"),
    }
}

fn digits(string: &[u8]) -> u16 {
    let length = usize::from(string[0] & 0x7f);
    let text = &string[1..=length];
    if string[0] & 0x80 == 0 {
        return std::str::from_utf8(text).unwrap().parse().unwrap();
    }
    // Huffman (RFC 7541, appendix B): 0 to 2 have five bits, 3 to 9 six.
    let mut bits = 0u32;
    for byte in text {
        bits = bits << 8 | u32::from(*byte);
    }
    let mut left = length * 8;
    let mut value = 0;
    for _ in 0..3 {
        let five = (bits >> (left - 5)) & 0x1f;
        let digit = if five <= 2 {
            left -= 5;
            five
        } else {
            left -= 6;
            ((bits >> left) & 0x3f) - 0x19 + 3
        };
        value = value * 10 + u16::try_from(digit).unwrap();
    }
    value
}
