//! Frame by frame, with time as an argument.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use proptest::prelude::*;

use super::{ErrorCode, Follower, Frame, H2Refusal};
use crate::proxy::wire::Limits;
use crate::proxy::wire::detect::H2_PREFACE;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, length: usize) -> Vec<u8> {
    let size = u32::try_from(length).unwrap().to_be_bytes();
    let mut frame = vec![size[1], size[2], size[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.resize(9 + length, 0);
    frame
}

/// A connection after preface and SETTINGS.
struct Connection {
    follower: Follower,
    input: BytesMut,
    now: Instant,
}

impl Connection {
    fn new() -> Self {
        let now = Instant::now();
        let follower = Follower::new(&Limits::default(), now);
        let mut connection = Self {
            follower,
            input: BytesMut::new(),
            now,
        };
        connection
            .read(&[H2_PREFACE, &frame(SETTINGS, 0, 0, 0)].concat())
            .unwrap();
        connection
    }

    /// Takes all whole frames.
    fn read(&mut self, bytes: &[u8]) -> Result<(), H2Refusal> {
        self.input.extend_from_slice(bytes);
        while self.follower.next(&mut self.input, self.now)?.is_some() {}
        Ok(())
    }

    fn client(&mut self, kind: u8, flags: u8, stream: u32, length: usize) -> Result<(), H2Refusal> {
        self.read(&frame(kind, flags, stream, length))
    }

    fn server(&mut self, kind: u8, flags: u8, stream: u32, length: usize) -> Result<(), H2Refusal> {
        let header = super::frame::header(kind, flags, stream, length);
        self.follower.server_frame(Frame::parse(header), self.now)
    }
}

/// After how many rounds the client is refused, if within 100,000.
fn refused_after(
    mut round: impl FnMut(&mut Connection, u32) -> Result<(), H2Refusal>,
) -> Option<(u32, ErrorCode)> {
    let mut connection = Connection::new();
    (0..100_000).find_map(|i| round(&mut connection, i).err().map(|refusal| (i, refusal.code)))
}

#[test]
fn rapid_reset_is_stopped_soon() {
    let refused = refused_after(|c, i| {
        c.client(HEADERS, END_HEADERS | END_STREAM, 2 * i + 1, 10)?;
        c.client(RESET, 0, 2 * i + 1, 4)
    });
    assert_eq!(refused, Some((200, ErrorCode::EnhanceYourCalm)));
}

#[test]
fn making_us_reset_streams_is_stopped_soon() {
    let refused = refused_after(|c, i| {
        c.client(HEADERS, END_HEADERS | END_STREAM, 2 * i + 1, 10)?;
        c.client(WINDOW_UPDATE, 0, 2 * i + 1, 4)?;
        c.server(RESET, 0, 2 * i + 1, 4)
    });
    assert_eq!(refused, Some((100, ErrorCode::EnhanceYourCalm)));
}

#[test]
fn floods_of_frames_that_serve_nobody_are_stopped() {
    for (kind, length, within) in [
        (PING, 8, 100),
        (SETTINGS, 6, 41),
        (DATA, 0, 100),
        (PRIORITY, 5, 300),
        (WINDOW_UPDATE, 4, 2000),
        (0xfa, 0, 100),
    ] {
        let refused = refused_after(|c, _| c.client(kind, 0, 1, length));
        let (after, code) = refused.unwrap();
        assert!(
            after <= within && code == ErrorCode::EnhanceYourCalm,
            "{kind}: {after}"
        );
    }
}

#[test]
fn a_window_opened_byte_by_byte_is_stopped() {
    let refused = refused_after(|c, _| {
        c.client(WINDOW_UPDATE, 0, 1, 4)?;
        c.server(DATA, 0, 1, 1)
    });
    assert_eq!(refused, Some((2000, ErrorCode::EnhanceYourCalm)));
}

#[test]
fn header_blocks_are_bounded_in_frames_and_bytes() {
    let refused = refused_after(|c, i| c.client(if i == 0 { HEADERS } else { CONTINUATION }, 0, 1, 0));
    assert_eq!(refused, Some((17, ErrorCode::EnhanceYourCalm)));
    let refused = refused_after(|c, i| c.client(if i == 0 { HEADERS } else { CONTINUATION }, 0, 1, 16_384));
    assert_eq!(refused, Some((4, ErrorCode::EnhanceYourCalm)));
}

#[test]
fn frames_out_of_order_or_over_size_are_refused() {
    let mut connection = Connection::new();
    connection.client(HEADERS, 0, 1, 5).unwrap();
    assert_eq!(
        connection.client(PING, 0, 0, 8).unwrap_err().code,
        ErrorCode::Protocol
    );
    assert_eq!(
        Connection::new().client(CONTINUATION, 0, 1, 5).unwrap_err().code,
        ErrorCode::Protocol
    );
    assert_eq!(
        Connection::new().client(DATA, 0, 1, 16_385).unwrap_err().code,
        ErrorCode::FrameSize
    );
    let now = Instant::now();
    let mut follower = Follower::new(&Limits::default(), now);
    let mut input = BytesMut::from(&[H2_PREFACE, &frame(PING, 0, 0, 8)].concat()[..]);
    assert_eq!(
        follower.next(&mut input, now).unwrap_err().code,
        ErrorCode::Protocol
    );
}

#[test]
fn a_heavy_upload_and_a_chatty_grpc_stream_never_meet_a_budget() {
    let upload = refused_after(|c, _| {
        c.client(DATA, 0, 1, 16_384)?;
        c.server(WINDOW_UPDATE, 0, 1, 4)
    });
    assert_eq!(upload, None);
    let chatty = refused_after(|c, _| {
        c.server(DATA, 0, 1, 7)?;
        c.client(PING, 0, 0, 8)?;
        c.client(WINDOW_UPDATE, 0, 1, 4)?;
        c.client(WINDOW_UPDATE, 0, 0, 4)?;
        c.client(DATA, 0, 1, 7)
    });
    assert_eq!(chatty, None);
    let streams = refused_after(|c, i| {
        c.client(PRIORITY, 0, 2 * i + 1, 5)?;
        c.client(HEADERS, END_HEADERS | END_STREAM, 2 * i + 1, 50)?;
        c.server(HEADERS, END_HEADERS, 2 * i + 1, 50)?;
        c.server(DATA, END_STREAM, 2 * i + 1, 50)?;
        c.server(RESET, 0, 2 * i + 1, 4)?;
        c.client(RESET, 0, 2 * i + 1, 4)
    });
    assert_eq!(streams, None);
}

#[test]
fn window_updates_for_a_long_fat_path_may_come_after_the_download() {
    let mut connection = Connection::new();
    for _ in 0..10_000 {
        connection.server(DATA, 0, 1, 16_384).unwrap();
    }
    for _ in 0..20_000 {
        connection.client(WINDOW_UPDATE, 0, 1, 4).unwrap();
    }
}

#[test]
fn credit_comes_back_with_time() {
    let mut connection = Connection::new();
    for _ in 0..10 {
        for _ in 0..100 {
            connection.client(PING, 0, 0, 8).unwrap();
        }
        connection.now += Duration::from_secs(10);
    }
}

proptest! {
    #[test]
    fn frames_are_the_same_however_they_are_cut(
        frames in prop::collection::vec((0u8..12, any::<u8>(), 0u32..9, 0usize..40), 0..40),
        cuts in prop::collection::vec(1usize..50, 1..10),
    ) {
        let bytes: Vec<u8> = frames.iter().flat_map(|(kind, flags, stream, length)| frame(*kind, *flags, *stream, *length)).collect();
        let mut whole = Connection::new();
        let expected = whole.read(&bytes);
        let mut cut = Connection::new();
        let mut rest = &bytes[..];
        let mut outcome = Ok(());
        for size in cuts.iter().cycle() {
            if rest.is_empty() || outcome.is_err() {
                break;
            }
            let (piece, after) = rest.split_at(rest.len().min(*size));
            outcome = cut.read(piece);
            rest = after;
        }
        prop_assert_eq!(outcome, expected);
        prop_assert_eq!(cut.follower.in_head(), whole.follower.in_head());
    }
}
