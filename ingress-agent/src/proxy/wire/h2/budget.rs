//! What a client may spend on frames that serve nobody. Each kind of frame has credit that comes with time and with useful
//! work, so that a connection that moves much data or many streams is never near its end.

use std::time::Instant;

use super::H2Refusal;
use super::frame::{Frame, Kind};

/// Credit that is spent frame by frame.
#[derive(Debug)]
struct Bucket {
    level: u32,
    /// What time alone fills up to.
    burst: u32,
    per_second: u32,
    filled: Instant,
}

/// What useful work fills up to: enough for all that is under way on a long fat path.
const CAP: u32 = 1 << 17;

impl Bucket {
    fn new(burst: u32, per_second: u32, now: Instant) -> Self {
        Self {
            level: burst,
            burst,
            per_second,
            filled: now,
        }
    }

    fn earn(&mut self, credit: u32) {
        self.level = self.level.saturating_add(credit).min(CAP.max(self.level));
    }

    fn spend(&mut self, cost: u32, now: Instant) -> bool {
        if self.level < cost {
            self.fill(now);
        }
        let paid = self.level.checked_sub(cost);
        self.level = paid.unwrap_or(0);
        paid.is_some()
    }

    /// The clock is asked only when the credit is used up.
    fn fill(&mut self, now: Instant) {
        let millis = now.saturating_duration_since(self.filled).as_millis();
        let credit = millis.saturating_mul(u128::from(self.per_second)) / 1000;
        if credit > 0 {
            self.filled = now;
            let credit = u32::try_from(credit).unwrap_or(u32::MAX);
            self.level = self.level.saturating_add(credit).min(self.burst.max(self.level));
        }
    }
}

/// The credit of one connection.
#[derive(Debug)]
pub(super) struct Budgets {
    /// RST_STREAM from the client: rapid reset (CVE-2023-44487).
    resets: Bucket,
    /// RST_STREAM from us: what the client provokes (CVE-2025-8671, "made you reset").
    provoked: Bucket,
    pings: Bucket,
    settings: Bucket,
    empty_data: Bucket,
    priorities: Bucket,
    window_updates: Bucket,
    others: Bucket,
}

impl Budgets {
    pub(super) fn new(resets: u32, now: Instant) -> Self {
        Self {
            resets: Bucket::new(resets, (resets / 10).max(1), now),
            provoked: Bucket::new(100, 10, now),
            pings: Bucket::new(100, 10, now),
            settings: Bucket::new(40, 2, now),
            empty_data: Bucket::new(100, 10, now),
            priorities: Bucket::new(300, 20, now),
            window_updates: Bucket::new(2000, 200, now),
            others: Bucket::new(100, 10, now),
        }
    }

    pub(super) fn client_frame(&mut self, frame: Frame, now: Instant) -> Result<(), H2Refusal> {
        let (bucket, cost, detail) = match frame.kind {
            Kind::Data if frame.length == 0 && !frame.end_stream() => {
                (&mut self.empty_data, 1, "too many empty DATA frames")
            }
            Kind::Data => {
                self.empty_data.earn(1);
                self.pings.earn(1);
                return Ok(());
            }
            Kind::Headers => {
                self.priorities.earn(4);
                self.window_updates.earn(4);
                self.others.earn(2);
                return Ok(());
            }
            // Bounded with its header block.
            Kind::Continuation => return Ok(()),
            Kind::Reset => (&mut self.resets, 1, "too many RST_STREAM frames"),
            Kind::Ping => (&mut self.pings, 1, "too many PING frames"),
            Kind::Settings => (&mut self.settings, 1, "too many SETTINGS frames"),
            Kind::Priority | Kind::PriorityUpdate => (&mut self.priorities, 1, "too many PRIORITY frames"),
            Kind::WindowUpdate => (&mut self.window_updates, 1, "too many WINDOW_UPDATE frames"),
            Kind::Other | Kind::PushPromise | Kind::GoAway => (
                &mut self.others,
                1 + frame.length / 1024,
                "too many frames of unknown types",
            ),
        };
        if bucket.spend(cost, now) {
            Ok(())
        } else {
            Err(H2Refusal::calm(detail))
        }
    }

    /// A DATA frame turned out to be padding alone: it has earned like any other, and is worth no more than an empty one.
    pub(super) fn padding_alone(&mut self, now: Instant) -> Result<(), H2Refusal> {
        if self.empty_data.spend(2, now) {
            Ok(())
        } else {
            Err(H2Refusal::calm("too many empty DATA frames"))
        }
    }

    pub(super) fn server_frame(&mut self, frame: Frame, now: Instant) -> Result<(), H2Refusal> {
        if frame.end_stream() {
            self.resets.earn(1);
            self.provoked.earn(1);
        }
        match frame.kind {
            // Below five bytes (the prefix of a gRPC message) it is the client's window that makes the frame small.
            Kind::Data if frame.length >= 5 => {
                self.window_updates.earn(3 + frame.length / 512);
                self.pings.earn(1);
            }
            Kind::Reset if !self.provoked.spend(1, now) => {
                return Err(H2Refusal::calm("too many frames that make us reset streams"));
            }
            // A client acknowledges each of ours.
            Kind::Settings if !frame.ack() => self.settings.earn(1),
            Kind::Ping if !frame.ack() => self.pings.earn(1),
            _ => {}
        }
        Ok(())
    }
}
