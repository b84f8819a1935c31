//! Accounting by connection: what the kernel's side keeps of each, how it ended, and how it adds up.
//!
//! A socket counts when it has a [`Tag`], and only then. It is added to the sums of its owner once, when it ends; and some are told one by one,
//! as [`Connection`]: those that ended badly, those whose network was slow, and a sample of the others, each at a rate of its own.

use crate::bucket::Rate;

/// Owners with sums of their own; more are counted under [`OTHERS`]. Bounds the memory: 8 MB when full.
pub const MAX_SUMS: u32 = 12_288;
/// Powers of two of microseconds: the last one holds 8 seconds and more.
pub const BUCKETS: usize = 24;

/// Whose a socket is. The agent writes it, by the socket's descriptor; what a listener has, the sockets that it accepts begin with.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tag {
    /// [`CLIENT`] or [`BACKEND`].
    pub side: u32,
    /// A number of the agent's for a kind of listener; 0 towards backends.
    pub listener: u32,
    /// A number of the agent's: a route, or an endpoint; [`NOBODY`] while no request has said.
    pub owner: u32,
    pub _padding: u32,
    /// When the agent accepted it (CLOCK_MONOTONIC, nanoseconds); 0 is not known.
    pub accepted: u64,
}

pub const CLIENT: u32 = 1;
pub const BACKEND: u32 = 2;
pub const NOBODY: u32 = 0;
/// For owners that the table has no room for.
pub const OTHERS: u32 = u32::MAX;

/// What the kernel's side keeps of an open socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// When the first SYN was sent, or, for a client's connection, when the handshake was done (CLOCK_MONOTONIC, nanoseconds).
    pub began: u64,
    /// When it was established; 0 before.
    pub established: u64,
    /// Not 0: the other side has reset it.
    pub reset_by_peer: u32,
    /// Where the program puts a number whose value the verifier must not follow.
    pub scratch: u32,
}

/// Whose sums.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SumKey {
    pub side: u32,
    pub listener: u32,
    pub owner: u32,
}

impl SumKey {
    #[inline(always)]
    pub const fn of(tag: &Tag) -> Self {
        Self {
            side: tag.side,
            listener: tag.listener,
            owner: tag.owner,
        }
    }

    #[inline(always)]
    pub const fn others(self) -> Self {
        Self {
            owner: OTHERS,
            ..self
        }
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both sides said that they were done.
    Finished,
    /// It was never established.
    Failed,
    ResetByPeer,
    /// Reset by us, or, where nobody tells who it was, by either.
    Reset,
    /// What was sent was not acknowledged in time.
    TimedOut,
}

/// A connection at its end, as the kernel's fields have it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// The state that it left for TCP_CLOSE (net/tcp_states.h).
    pub left: u32,
    /// Unanswered retransmissions in a row (icsk_retransmits).
    pub unanswered: u32,
    pub now: u64,
    pub life: Life,
    pub tag: Tag,
    /// Eight times the smoothed round trip in microseconds (srtt_us); 0 was never measured.
    pub srtt_by_8: u32,
    /// Microseconds; [`u32::MAX`] was never measured.
    pub least_rtt: u32,
    pub retransmits: u32,
    pub segments_in: u32,
    pub segments_out: u32,
    pub _padding: u32,
    /// A FIN counts as one byte, and so does the SYN of who connects.
    pub bytes_in: u64,
    pub bytes_out: u64,
}

const ESTABLISHED: u32 = 1;
const SYN_SENT: u32 = 2;
const SYN_RECV: u32 = 3;
const FIN_WAIT1: u32 = 4;
const FIN_WAIT2: u32 = 5;
/// The state that ends a socket.
pub const CLOSE: u32 = 7;
const CLOSE_WAIT: u32 = 8;
const NEW_SYN_RECV: u32 = 12;

impl Ended {
    /// A reset after both sides were done changes nothing: LAST_ACK, CLOSING and TIME_WAIT are good ends.
    #[inline(always)]
    pub const fn how(&self) -> End {
        let is_open = matches!(self.left, ESTABLISHED | FIN_WAIT1 | CLOSE_WAIT);
        match self.left {
            SYN_SENT | SYN_RECV | NEW_SYN_RECV => End::Failed,
            // From here the way to TIME_WAIT is the good one.
            FIN_WAIT2 if self.life.reset_by_peer != 0 => End::ResetByPeer,
            _ if !is_open => End::Finished,
            _ if self.life.reset_by_peer != 0 => End::ResetByPeer,
            _ if self.unanswered > 0 => End::TimedOut,
            _ => End::Reset,
        }
    }

    #[inline(always)]
    pub const fn why(&self) -> Why {
        match self.how() {
            End::Finished if self.retransmits >= MANY_RETRANSMITS || self.srtt_by_8 / 8 >= LONG_RTT => {
                Why::Slow
            }
            End::Finished => Why::Sample,
            _ => Why::Bad,
        }
    }

    /// Microseconds that it took to be there: from SYN to established towards a backend; from established to accepted for a client's.
    #[inline(always)]
    pub const fn setup(&self) -> Option<u64> {
        let (from, to) = match self.tag.side {
            BACKEND => (self.life.began, self.life.established),
            _ => (self.life.established, self.tag.accepted),
        };
        if from == 0 || to == 0 {
            return None;
        }
        Some(to.saturating_sub(from) / 1000)
    }

    /// Adds it to sums: `add(place, amount)` for each number that changes.
    #[inline(always)]
    pub fn charge(&self, mut add: impl FnMut(Place, u64)) {
        add(Place::At(CONNECTIONS), 1);
        match self.how() {
            End::Finished => {}
            End::Failed => add(Place::At(FAILED), 1),
            End::ResetByPeer => add(Place::At(RESET_BY_PEER), 1),
            End::Reset => add(Place::At(RESET), 1),
            End::TimedOut => add(Place::At(TIMED_OUT), 1),
        }
        add(Place::At(BYTES_IN), self.bytes_in);
        add(Place::At(BYTES_OUT), self.bytes_out);
        add(Place::At(SEGMENTS_IN), self.segments_in as u64);
        add(Place::At(SEGMENTS_OUT), self.segments_out as u64);
        add(Place::At(RETRANSMITS), self.retransmits as u64);
        if self.life.established != 0 {
            add(
                Place::At(LASTED),
                self.now.saturating_sub(self.life.established) / 1000,
            );
        }
        if self.srtt_by_8 != 0 {
            observe(&mut add, RTT, (self.srtt_by_8 / 8) as u64);
        }
        if self.least_rtt != u32::MAX && self.srtt_by_8 != 0 {
            observe(&mut add, LEAST_RTT, self.least_rtt as u64);
        }
        if let Some(micros) = self.setup() {
            observe(&mut add, SETUP, micros);
        }
    }
}

#[inline(always)]
fn observe(add: &mut impl FnMut(Place, u64), histogram: usize, micros: u64) {
    add(Place::Bucket(histogram, bucket(micros)), 1);
    add(Place::At(histogram + BUCKETS), micros);
}

/// Why a connection is told by itself. Each has a bucket of its own, so that many of one kind do not hide another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It did not end as both sides wanted.
    Bad = 0,
    /// Much was sent again, or its round trips were long.
    Slow = 1,
    /// One of the others.
    Sample = 2,
}

/// Kinds of [`Why`], each with a bucket.
pub const WHYS: u32 = 3;
/// So many segments sent again make a connection worth telling.
pub const MANY_RETRANSMITS: u32 = 3;
/// And so do such round trips: microseconds, smoothed.
pub const LONG_RTT: u32 = 200_000;

impl Why {
    pub const ALL: [Self; WHYS as usize] = [Self::Bad, Self::Slow, Self::Sample];

    /// What the kernel's side tells at most: reading it all costs little, whatever happens to the node.
    #[inline(always)]
    pub const fn rate(self) -> Rate {
        const BAD: Rate = Rate::new(100, 100);
        const SLOW: Rate = Rate::new(20, 40);
        const SAMPLE: Rate = Rate::new(5, 10);
        match self {
            Self::Bad => BAD,
            Self::Slow => SLOW,
            Self::Sample => SAMPLE,
        }
    }
}

/// One connection that has ended, as the kernel's side tells it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    pub ended: Ended,
    /// A [`Why`] as number.
    pub why: u32,
    /// [`AF_INET`], and then the short addresses hold; else the long ones.
    pub family: u32,
    pub local_port: u32,
    /// As `bpf_sock_ops` has it: network byte order, in the upper half on little-endian machines.
    pub remote_port: u32,
    /// Network byte order, as all addresses here.
    pub local_ip4: u32,
    pub remote_ip4: u32,
    pub local_ip6: [u32; 4],
    pub remote_ip6: [u32; 4],
}

/// sys/socket.h
pub const AF_INET: u32 = 2;
/// Of the ring buffer that carries them: some 390, more than a second may bring, with all buckets full before it.
pub const CONNECTIONS_BYTES: u32 = 64 * 1024;

/// Which number of [`Sums`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// One of the constants.
    At(usize),
    /// A histogram's first place, and the bucket: the one thing that is not known beforehand.
    Bucket(usize, usize),
}

impl Place {
    /// Below [`PLACES`].
    #[inline(always)]
    pub const fn index(self) -> usize {
        match self {
            Self::At(place) => place,
            Self::Bucket(histogram, bucket) => histogram + bucket,
        }
    }
}

/// The bucket `n` holds what is below `2^n` microseconds and not in a bucket before.
#[inline(always)]
pub const fn bucket(micros: u64) -> usize {
    let bits = (u64::BITS - micros.leading_zeros()) as usize;
    if bits < BUCKETS { bits } else { BUCKETS - 1 }
}

/// All numbers of one owner. An array and not fields, so that the kernel's side adds to each by one atomic instruction.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sums(pub [u64; PLACES]);

pub const CONNECTIONS: usize = 0;
pub const FAILED: usize = 1;
pub const RESET_BY_PEER: usize = 2;
pub const RESET: usize = 3;
pub const TIMED_OUT: usize = 4;
pub const BYTES_IN: usize = 5;
pub const BYTES_OUT: usize = 6;
pub const SEGMENTS_IN: usize = 7;
pub const SEGMENTS_OUT: usize = 8;
pub const RETRANSMITS: usize = 9;
/// Microseconds that connections were established.
pub const LASTED: usize = 10;
/// Three histograms: [`BUCKETS`] counts, then the sum in microseconds.
pub const RTT: usize = 11;
pub const LEAST_RTT: usize = RTT + BUCKETS + 1;
pub const SETUP: usize = LEAST_RTT + BUCKETS + 1;
pub const PLACES: usize = SETUP + BUCKETS + 1;

impl Default for Sums {
    fn default() -> Self {
        Self([0; PLACES])
    }
}

impl Sums {
    /// 0 for a place that is none.
    pub fn get(&self, place: usize) -> u64 {
        self.0.get(place).copied().unwrap_or_default()
    }

    /// Counts of the histogram that begins at `place`, by bucket.
    pub fn histogram(&self, place: usize) -> [u64; BUCKETS] {
        core::array::from_fn(|bucket| self.get(place + bucket))
    }

    /// The sum of what was observed there, in microseconds.
    pub fn total(&self, place: usize) -> u64 {
        self.get(place + BUCKETS)
    }

    pub fn add(&mut self, place: Place, amount: u64) {
        if let Some(number) = self.0.get_mut(place.index()) {
            *number = number.wrapping_add(amount);
        }
    }

    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine = mine.wrapping_add(theirs);
        }
    }

    /// What came since an earlier reading of the same sums.
    pub fn since(&self, earlier: &Self) -> Self {
        Self(core::array::from_fn(|place| {
            self.get(place).saturating_sub(earlier.get(place))
        }))
    }
}

/// Why something could not be counted or told; an index into a small array of the kernel's side.
pub const LOST_NO_ROOM: u32 = 0;
/// A connection was to be told, and the ring buffer was full.
pub const LOST_BUFFER_FULL: u32 = 1;
/// A connection that ended badly or was slow came above the rate.
pub const LOST_RATE: u32 = 2;
pub const LOSSES: u32 = 3;

const _: () = assert!(size_of::<Tag>() == 24 && align_of::<Tag>() == 8);
const _: () = assert!(size_of::<Life>() == 24 && align_of::<Life>() == 8);
const _: () = assert!(size_of::<Ended>() == 104 && align_of::<Ended>() == 8);
const _: () = assert!(size_of::<Connection>() == 160 && align_of::<Connection>() == 8);
const _: () = assert!(size_of::<SumKey>() == 12 && align_of::<SumKey>() == 4);
const _: () = assert!(size_of::<Sums>() == PLACES * 8 && PLACES == 86);

#[cfg(feature = "user")]
mod user {
    #![allow(unsafe_code, reason = "aya's marker for plain bytes is an unsafe trait")]
    use super::{SumKey, Sums, Tag};

    // SAFETY: repr(C), integers only, no implicit padding (the asserted sizes are the sums of the fields').
    unsafe impl aya::Pod for Tag {}
    // SAFETY: as above.
    unsafe impl aya::Pod for SumKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Sums {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn charged(ended: &Ended) -> Sums {
        let mut sums = Sums::default();
        ended.charge(|place, amount| {
            assert!(place.index() < PLACES);
            sums.add(place, amount);
        });
        sums
    }

    const OPEN: Life = Life {
        began: 1_000_000,
        established: 4_000_000,
        reset_by_peer: 0,
        scratch: 0,
    };
    const RESET_LIFE: Life = Life {
        reset_by_peer: 1,
        ..OPEN
    };

    #[test]
    fn an_end_is_told_by_the_state_that_was_left() {
        let how = |left, life, unanswered| {
            Ended {
                left,
                life,
                unanswered,
                ..Ended::default()
            }
            .how()
        };
        for good in [6, 9, 11, FIN_WAIT2] {
            assert_eq!(how(good, OPEN, 0), End::Finished, "state {good}");
        }
        for late in [6, 9, 11] {
            assert_eq!(
                how(late, RESET_LIFE, 3),
                End::Finished,
                "a reset after the end, in {late}"
            );
        }
        for open in [ESTABLISHED, FIN_WAIT1, CLOSE_WAIT] {
            assert_eq!(how(open, OPEN, 0), End::Reset);
            assert_eq!(how(open, RESET_LIFE, 0), End::ResetByPeer);
            assert_eq!(how(open, RESET_LIFE, 2), End::ResetByPeer);
            assert_eq!(how(open, OPEN, 2), End::TimedOut);
        }
        assert_eq!(how(FIN_WAIT2, RESET_LIFE, 0), End::ResetByPeer);
        for never in [SYN_SENT, SYN_RECV, NEW_SYN_RECV] {
            assert_eq!(how(never, Life::default(), 1), End::Failed);
        }
    }

    #[test]
    fn a_connection_is_added_once_with_all_that_is_known_of_it() {
        let ended = Ended {
            left: CLOSE_WAIT,
            now: 14_000_000,
            life: OPEN,
            tag: Tag {
                side: BACKEND,
                owner: 7,
                ..Tag::default()
            },
            srtt_by_8: 8 * 1500,
            least_rtt: 900,
            retransmits: 2,
            segments_in: 3,
            segments_out: 4,
            bytes_in: 50,
            bytes_out: 60,
            ..Ended::default()
        };
        let sums = charged(&ended);
        let numbers = [
            CONNECTIONS,
            RESET,
            BYTES_IN,
            BYTES_OUT,
            SEGMENTS_IN,
            SEGMENTS_OUT,
            RETRANSMITS,
            LASTED,
        ]
        .map(|place| sums.get(place));
        assert_eq!(numbers, [1, 1, 50, 60, 3, 4, 2, 10_000]);
        assert_eq!((sums.histogram(RTT)[11], sums.total(RTT)), (1, 1500));
        assert_eq!((sums.histogram(LEAST_RTT)[10], sums.total(LEAST_RTT)), (1, 900));
        assert_eq!(sums.total(SETUP), 3000, "from SYN to established");
        let mut twice = sums;
        twice.merge(&sums);
        assert_eq!(twice.get(BYTES_IN), 100);
        assert_eq!(twice.since(&sums), sums);
    }

    #[test]
    fn what_ends_badly_or_is_slow_is_told_before_the_others() {
        let good = Ended {
            left: 9,
            life: OPEN,
            srtt_by_8: 8 * 30_000,
            retransmits: MANY_RETRANSMITS - 1,
            ..Ended::default()
        };
        assert_eq!(good.why(), Why::Sample);
        let lossy = Ended {
            retransmits: MANY_RETRANSMITS,
            ..good
        };
        let far = Ended {
            srtt_by_8: 8 * LONG_RTT,
            ..good
        };
        assert_eq!([lossy, far].map(|ended| ended.why()), [Why::Slow; 2]);
        let reset = Ended {
            left: ESTABLISHED,
            ..lossy
        };
        assert_eq!(reset.why(), Why::Bad);
        for (number, why) in (0..).zip(Why::ALL) {
            assert_eq!(why as u32, number, "the place of its bucket");
            assert!(why.rate().is_limited());
        }
    }

    #[test]
    fn a_seconds_worth_of_connections_has_room_in_the_buffer() {
        let a_second: u64 = Why::ALL
            .map(|why| {
                let rate = why.rate();
                // A whole bucket, and what a second adds.
                (rate.tolerance + 1_000_000_000) / rate.interval + 1
            })
            .iter()
            .sum();
        // Eight bytes before each are the kernel's.
        let each = size_of::<Connection>() as u64 + 8;
        assert!(a_second * each <= u64::from(CONNECTIONS_BYTES), "{a_second}");
    }

    #[test]
    fn a_client_waits_from_its_handshake_until_the_agent_accepts() {
        let mut ended = Ended {
            left: 9,
            life: OPEN,
            tag: Tag {
                side: CLIENT,
                accepted: 9_000_000,
                ..Tag::default()
            },
            least_rtt: u32::MAX,
            ..Ended::default()
        };
        assert_eq!(charged(&ended).total(SETUP), 5000);
        ended.tag.accepted = 0;
        let never_accepted = charged(&ended);
        assert_eq!(never_accepted.histogram(SETUP), [0; BUCKETS]);
        assert_eq!(never_accepted.histogram(LEAST_RTT), [0; BUCKETS]);
    }

    #[test]
    fn every_time_has_a_bucket() {
        assert_eq!([0, 1, 2, 3, 4, 1023, 1024].map(bucket), [0, 1, 2, 2, 3, 10, 11]);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }
}
