//! What the client's frames do to the connection (RFC 9113, 6). An error ends the connection; what is only a stream's fault ends the stream.

use bytes::{Buf, BytesMut};
use http::Method;

use super::end::LEAVING;
use super::settings::LARGEST_WINDOW;
use super::streams::Stream;
use super::wire::{Partial, Wire, kind};
use crate::proxy::wire::h2::frame::{ACK, Frame, Kind};
use crate::proxy::wire::h2::{Asked, ErrorCode, H2Refusal, Malformed};

impl Wire {
    /// Takes all whole frames that are there.
    pub(super) fn take_input(&mut self) -> Result<(), H2Refusal> {
        while let Some((frame, payload)) = self.follower.next(&mut self.input, self.now)? {
            self.receive(frame, payload)?;
            if !self.follower.in_head() {
                // What is behind this frame has time of its own.
                self.t.clock.end();
            }
        }
        if self.input.is_empty() && self.streams.is_empty() {
            self.input = BytesMut::new();
        }
        Ok(())
    }

    fn receive(&mut self, frame: Frame, payload: BytesMut) -> Result<(), H2Refusal> {
        match frame.kind {
            Kind::Data => self.receive_data(frame, payload),
            Kind::Headers => self.receive_headers(frame, payload),
            Kind::Continuation => self.receive_continuation(frame, &payload),
            Kind::Reset => self.receive_reset(frame, &payload),
            Kind::Settings => self.receive_settings(frame, &payload),
            Kind::Ping => self.receive_ping(frame, &payload),
            Kind::WindowUpdate => self.receive_window_update(frame, &payload),
            Kind::Priority => self.receive_priority(frame),
            Kind::PushPromise => Err(H2Refusal::protocol("PUSH_PROMISE from a client")),
            Kind::GoAway if frame.stream != 0 => Err(H2Refusal::protocol("GOAWAY on a stream")),
            Kind::GoAway if frame.length < 8 => {
                Err(H2Refusal::with(ErrorCode::FrameSize, "a frame of a wrong size"))
            }
            Kind::GoAway => {
                self.peer.leaves = true;
                Ok(())
            }
            Kind::PriorityUpdate | Kind::Other => Ok(()),
        }
    }

    /// Neither stream 0 nor one that was never opened.
    fn check_begun(&self, stream: u32) -> Result<(), H2Refusal> {
        if stream == 0 || stream > self.follower.last_stream() {
            return Err(H2Refusal::protocol("a frame on a stream that is not open"));
        }
        Ok(())
    }

    fn receive_data(&mut self, frame: Frame, mut payload: BytesMut) -> Result<(), H2Refusal> {
        self.check_begun(frame.stream)?;
        let flow = i64::from(frame.length);
        self.receive_window -= flow;
        if self.receive_window < 0 {
            return Err(H2Refusal::with(
                ErrorCode::FlowControl,
                "more DATA than the window allows",
            ));
        }
        let content = frame
            .content(&payload)
            .ok_or(H2Refusal::protocol("padding longer than its frame"))?;
        let all = payload.len();
        if content.is_empty() && all > 0 && !frame.end_stream() {
            self.follower.padding_alone(self.now)?;
        }
        let Some(stream) = self.streams.get_mut(&frame.stream) else {
            self.return_credit(all);
            return self.receive_late(frame.stream, flow);
        };
        stream.receive_window -= flow;
        stream.expects = false;
        let fault = match () {
            () if stream.ended => Some(ErrorCode::StreamClosed),
            () if stream.receive_window < 0 => Some(ErrorCode::FlowControl),
            () if !stream.arrives(content.len(), frame.end_stream()) => Some(ErrorCode::Protocol),
            () => None,
        };
        if let Some(code) = fault {
            self.return_credit(all);
            self.reset(frame.stream, code);
            return Ok(());
        }
        payload.truncate(content.end);
        payload.advance(content.start);
        let kept = if stream.is_read { payload.len() } else { 0 };
        // Padding fills windows too (RFC 9113, 6.1); it is given back with the next data that is read.
        stream.unreturned += i64::try_from(all.saturating_sub(payload.len())).unwrap_or(0);
        if kept > 0 {
            stream.push(payload);
        }
        stream.ended = frame.end_stream();
        stream.wake_reader();
        self.return_credit(all.saturating_sub(kept));
        Ok(())
    }

    /// DATA on a stream that is over (RFC 9113, 5.1): in order as far as it was on its way when we broke the stream off.
    fn receive_late(&mut self, id: u32, flow: i64) -> Result<(), H2Refusal> {
        let Some(window) = self.broken_off(id) else {
            self.send(
                kind::RST_STREAM,
                0,
                id,
                &ErrorCode::StreamClosed.value().to_be_bytes(),
            );
            return Ok(());
        };
        *window -= flow;
        if *window < 0 {
            let how = "DATA goes on after its stream was broken off";
            return Err(H2Refusal::with(ErrorCode::StreamClosed, how));
        }
        Ok(())
    }

    fn receive_headers(&mut self, frame: Frame, mut payload: BytesMut) -> Result<(), H2Refusal> {
        if frame.stream == 0 {
            return Err(H2Refusal::protocol("HEADERS on stream 0"));
        }
        let content = frame
            .content(&payload)
            .ok_or(H2Refusal::protocol("padding or priority longer than its frame"))?;
        payload.truncate(content.end);
        payload.advance(content.start);
        if frame.end_headers() {
            return self.receive_block(frame, &payload);
        }
        // On memory of its own: what comes is bounded, what it was read with is not.
        self.partial = Some(Partial {
            head: frame,
            block: BytesMut::from(&payload[..]),
        });
        Ok(())
    }

    fn receive_continuation(&mut self, frame: Frame, payload: &[u8]) -> Result<(), H2Refusal> {
        let Some(mut partial) = self.partial.take() else {
            return Err(H2Refusal::protocol("CONTINUATION without a header block"));
        };
        partial.block.extend_from_slice(payload);
        if frame.end_headers() {
            return self.receive_block(partial.head, &partial.block);
        }
        self.partial = Some(partial);
        Ok(())
    }

    fn receive_block(&mut self, head: Frame, block: &[u8]) -> Result<(), H2Refusal> {
        if self.follower.opens(head.stream)? {
            let asked = self.follower.request(block, &self.t.limits)?;
            self.open(head, asked);
            return Ok(());
        }
        let trailers = self.follower.trailers(block, &self.t.limits)?;
        let Some(stream) = self.streams.get_mut(&head.stream) else {
            return match self.broken_off(head.stream) {
                Some(_) => Ok(()),
                None => Err(H2Refusal::with(
                    ErrorCode::StreamClosed,
                    "HEADERS on a stream that is over",
                )),
            };
        };
        match trailers {
            _ if stream.ended => self.reset(head.stream, ErrorCode::StreamClosed),
            Ok(trailers) if head.end_stream() && stream.arrives(0, true) => {
                stream.trailers = Some(trailers).filter(|_| stream.is_read);
                stream.ended = true;
                stream.wake_reader();
            }
            _ => self.reset(head.stream, ErrorCode::Protocol),
        }
        Ok(())
    }

    fn open(&mut self, frame: Frame, asked: Result<Asked, Malformed>) {
        let id = frame.stream;
        self.idle_until = None;
        let mut stream = Stream::new(self.peer.initial_window);
        stream.ended = frame.end_stream();
        if self.takes_no_more() {
            self.streams.insert(id, stream);
            return self.reset(id, ErrorCode::RefusedStream);
        }
        let Asked { head, length } = match asked {
            Ok(asked) => asked,
            Err(Malformed(how)) => {
                self.t.shared.malformed(how);
                self.streams.insert(id, stream);
                return self.reset(id, ErrorCode::Protocol);
            }
        };
        stream.announced = length;
        stream.is_head = head.method == Method::HEAD;
        stream.expects = !stream.ended
            && head
                .fields
                .get("expect")
                .is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"));
        let whole = !stream.ended || stream.arrives(0, true);
        self.streams.insert(id, stream);
        if whole {
            self.opened.push_back((id, head));
        } else {
            self.t.shared.malformed("a content-length without a body");
            self.reset(id, ErrorCode::Protocol);
        }
    }

    fn receive_reset(&mut self, frame: Frame, payload: &[u8]) -> Result<(), H2Refusal> {
        self.check_begun(frame.stream)?;
        check_size(payload, 4)?;
        self.close(frame.stream);
        Ok(())
    }

    fn receive_ping(&mut self, frame: Frame, payload: &[u8]) -> Result<(), H2Refusal> {
        check_size(payload, 8)?;
        if frame.stream != 0 {
            return Err(H2Refusal::protocol("PING on a stream"));
        }
        if !frame.ack() {
            self.send(kind::PING, ACK, 0, payload);
        } else if *payload == LEAVING {
            self.client_knows();
        }
        Ok(())
    }

    fn receive_window_update(&mut self, frame: Frame, payload: &[u8]) -> Result<(), H2Refusal> {
        check_size(payload, 4)?;
        let more = payload
            .first_chunk()
            .map_or(0, |bytes| u32::from_be_bytes(*bytes));
        let more = i64::from(more & 0x7fff_ffff);
        if frame.stream == 0 {
            return self.widen_connection(more);
        }
        self.check_begun(frame.stream)?;
        let Some(stream) = self.streams.get_mut(&frame.stream) else {
            return Ok(());
        };
        stream.send_window += more;
        match () {
            () if more == 0 => self.reset(frame.stream, ErrorCode::Protocol),
            () if stream.send_window > LARGEST_WINDOW => self.reset(frame.stream, ErrorCode::FlowControl),
            () => stream.wake(),
        }
        Ok(())
    }

    fn widen_connection(&mut self, more: i64) -> Result<(), H2Refusal> {
        if more == 0 {
            return Err(H2Refusal::protocol("a window that opens by nothing"));
        }
        self.send_window += more;
        if self.send_window > LARGEST_WINDOW {
            return Err(H2Refusal::with(
                ErrorCode::FlowControl,
                "a window larger than there can be",
            ));
        }
        self.wake_waiting();
        Ok(())
    }

    fn receive_priority(&mut self, frame: Frame) -> Result<(), H2Refusal> {
        if frame.stream == 0 {
            return Err(H2Refusal::protocol("PRIORITY on stream 0"));
        }
        // Of priorities nothing else is heard (RFC 9113, 5.3.2).
        if frame.length != 5 {
            self.reset(frame.stream, ErrorCode::FrameSize);
        }
        Ok(())
    }
}

fn check_size(payload: &[u8], size: usize) -> Result<(), H2Refusal> {
    if payload.len() == size {
        Ok(())
    } else {
        Err(H2Refusal::with(ErrorCode::FrameSize, "a frame of a wrong size"))
    }
}
