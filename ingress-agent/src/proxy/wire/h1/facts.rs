//! What the header fields say about framing, connection and host, gathered while they pass.

use ingress_core::reason::Reason;

use super::bytes::{is_token, members};
use super::target::check_host;
use super::{Framing, HeadInfo, Version};
use crate::proxy::wire::Refusal;

/// Far above any body, and far below where sums of lengths could overflow.
const LARGEST_LENGTH: u64 = 1 << 62;

/// Each option is looked for among all fields: thousands of them would be work that costs the client nothing.
pub(in crate::proxy) const MOST_CONNECTION_OPTIONS: usize = 32;

#[derive(Clone, Debug)]
pub(super) struct Facts {
    version: Version,
    get: bool,
    host: bool,
    length: Option<u64>,
    coding: Coding,
    expect_continue: bool,
    connection_options: usize,
    close: bool,
    keep_alive: bool,
    upgrade: bool,
    websocket: bool,
}

/// What the one `Transfer-Encoding` field says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Absent,
    Chunked,
    /// One coding that this proxy doesn't know.
    Unknown,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            version: Version::Http11,
            get: false,
            host: false,
            length: None,
            coding: Coding::Absent,
            expect_continue: false,
            connection_options: 0,
            close: false,
            keep_alive: false,
            upgrade: false,
            websocket: false,
        }
    }
}

impl Facts {
    pub(super) fn method_and_version(&mut self, method: &[u8], version: Version) {
        self.get = method == b"GET";
        self.version = version;
    }

    /// One field, its value without the whitespace around it. Its length sorts out nearly all that don't matter here.
    pub(super) fn note(&mut self, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => self.host(value),
            6 if name.eq_ignore_ascii_case(b"expect") => {
                self.expect_continue |= value.eq_ignore_ascii_case(b"100-continue");
                Ok(())
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => {
                self.websocket |= members(value).any(|m| m.eq_ignore_ascii_case(b"websocket"));
                Ok(())
            }
            10 if name.eq_ignore_ascii_case(b"connection") => self.connection(value),
            14 if name.eq_ignore_ascii_case(b"content-length") => self.length(value),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.coding(value),
            _ => Ok(()),
        }
    }

    /// The verdict on the whole head, which ends at `end`.
    pub(super) fn conclude(&self, end: usize) -> Result<HeadInfo, Refusal> {
        if self.version == Version::Http11 && !self.host {
            return Err(Refusal::bad("an HTTP/1.1 request without Host"));
        }
        let framing = self.framing()?;
        Ok(HeadInfo {
            end,
            version: self.version,
            framing,
            expect_continue: self.expect_continue && self.version == Version::Http11,
            upgrade_websocket: self.handshake(framing)?,
            close: self.close || (self.version == Version::Http10 && !self.keep_alive),
        })
    }

    fn host(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if self.host {
            return Err(Refusal::bad("more than one Host"));
        }
        self.host = true;
        check_host(value)
    }

    fn connection(&mut self, value: &[u8]) -> Result<(), Refusal> {
        for option in members(value) {
            if !is_token(option) {
                return Err(Refusal::bad("Connection has a member that is not a token"));
            }
            self.connection_options = self.connection_options.saturating_add(1);
            if self.connection_options > MOST_CONNECTION_OPTIONS {
                return Err(Refusal::bad("Connection has more members than anybody needs"));
            }
            match option.len() {
                5 => self.close |= option.eq_ignore_ascii_case(b"close"),
                10 => self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive"),
                7 => self.upgrade |= option.eq_ignore_ascii_case(b"upgrade"),
                _ => {}
            }
            // What is listed here is dropped on the way: never what says where the message goes and ends.
            if matches!(option.len(), 4 | 14 | 17)
                && [&b"host"[..], b"content-length", b"transfer-encoding"]
                    .iter()
                    .any(|name| option.eq_ignore_ascii_case(name))
            {
                return Err(Refusal::bad(
                    "Connection lists Host, Content-Length or Transfer-Encoding",
                ));
            }
        }
        Ok(())
    }

    /// RFC 9110 8.6 would allow repeated equal values: a sender that does so is too strange to be trusted with framing.
    fn length(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if self.length.is_some() {
            return Err(Refusal::bad("more than one Content-Length"));
        }
        if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
            return Err(Refusal::bad("Content-Length is not a number"));
        }
        let length = value
            .iter()
            .try_fold(0u64, |sum, digit| {
                sum.checked_mul(10)?
                    .checked_add(u64::from(digit.saturating_sub(b'0')))
            })
            .filter(|length| *length <= LARGEST_LENGTH)
            .ok_or(Refusal::bad("Content-Length is too large"))?;
        self.length = Some(length);
        Ok(())
    }

    fn coding(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if self.coding != Coding::Absent {
            return Err(Refusal::bad("more than one Transfer-Encoding"));
        }
        self.coding = if value.eq_ignore_ascii_case(b"chunked") {
            Coding::Chunked
        } else if is_token(value) {
            Coding::Unknown
        } else {
            return Err(Refusal::bad("Transfer-Encoding is not exactly one coding"));
        };
        Ok(())
    }

    fn framing(&self) -> Result<Framing, Refusal> {
        match (self.coding, self.length) {
            (Coding::Absent, None) => Ok(Framing::None),
            (Coding::Absent, Some(length)) => Ok(Framing::Length(length)),
            _ if self.version == Version::Http10 => Err(Refusal::bad("Transfer-Encoding in HTTP/1.0")),
            (_, Some(_)) => Err(Refusal::bad("Content-Length beside Transfer-Encoding")),
            (Coding::Chunked, None) => Ok(Framing::Chunked),
            (Coding::Unknown, None) => Err(Refusal::new(
                Reason::NotImplemented,
                "a transfer coding other than chunked",
            )),
        }
    }

    /// Other upgrade tokens are ignored, as RFC 9110 7.8 allows, and so is the field in HTTP/1.0.
    fn handshake(&self, framing: Framing) -> Result<bool, Refusal> {
        if !self.websocket || self.version == Version::Http10 {
            return Ok(false);
        }
        if self.get && self.upgrade && matches!(framing, Framing::None | Framing::Length(0)) {
            return Ok(true);
        }
        Err(Refusal::bad(
            "Upgrade: websocket without GET or Connection: upgrade, or with a body",
        ))
    }
}
