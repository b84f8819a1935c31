//! Token buckets in one word each: the generic cell rate algorithm. The word is the time at which the bucket will be full again, so
//! that two CPUs that race lose a token at worst, and an entry that was never written is a full bucket.

/// How fast tokens come, and how many there may be. Made in user space, so that the kernel divides nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds a token; 0: unlimited.
    pub interval: u64,
    /// How far ahead of the clock a bucket may run: all tokens but one.
    pub tolerance: u64,
}

const _: () = assert!(size_of::<Rate>() == 16);

const SECOND: u64 = 1_000_000_000;

impl Rate {
    /// `per_second` tokens a second, at most `burst` (at least 1) at once; 0 a second is unlimited.
    pub const fn new(per_second: u32, burst: u32) -> Self {
        if per_second == 0 {
            return Self {
                interval: 0,
                tolerance: 0,
            };
        }
        let interval = SECOND.div_ceil(per_second as u64);
        let more = burst.saturating_sub(1) as u64;
        Self {
            interval,
            tolerance: interval.saturating_mul(more),
        }
    }

    #[inline(always)]
    pub const fn is_limited(&self) -> bool {
        self.interval != 0
    }

    /// The bucket's next word when it has a token, `now` in nanoseconds of a clock that never goes back.
    #[inline(always)]
    pub const fn take(&self, bucket: u64, now: u64) -> Option<u64> {
        if self.interval == 0 {
            return Some(bucket);
        }
        // This rate writes no word so far ahead: it is from an older, slower one, and must not lock anyone out.
        let most = now.wrapping_add(self.tolerance).wrapping_add(self.interval);
        let full_at = if bucket > most {
            now.wrapping_add(self.tolerance)
        } else {
            bucket
        };
        let start = if full_at > now { full_at } else { now };
        if start - now > self.tolerance {
            return None;
        }
        Some(start.wrapping_add(self.interval))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How many of some takes at the same moment succeed.
    fn burst(rate: &Rate, bucket: &mut u64, now: u64, tries: u32) -> u32 {
        let mut took = 0;
        for _ in 0..tries {
            if let Some(next) = rate.take(*bucket, now) {
                *bucket = next;
                took += 1;
            }
        }
        took
    }

    #[test]
    fn a_fresh_bucket_gives_its_burst_and_then_its_rate() {
        let rate = Rate::new(10, 5);
        let mut bucket = 0;
        assert_eq!(burst(&rate, &mut bucket, 1, 100), 5);
        assert_eq!(burst(&rate, &mut bucket, 1 + SECOND / 10, 100), 1);
        assert_eq!(burst(&rate, &mut bucket, 1 + 100 * SECOND, 100), 5);
    }

    #[test]
    fn a_rate_of_nothing_is_no_limit() {
        assert_eq!(burst(&Rate::new(0, 0), &mut 0, 0, 1000), 1000);
    }

    #[test]
    fn a_word_of_an_older_slower_rate_locks_nobody_out() {
        let mut bucket = 0;
        assert_eq!(burst(&Rate::new(1, 1000), &mut bucket, 0, 1000), 1000);
        let faster = Rate::new(1000, 10);
        assert_eq!(burst(&faster, &mut bucket, SECOND, 10), 1);
        assert_eq!(burst(&faster, &mut bucket, SECOND + SECOND / 100, 100), 10);
    }

    proptest! {
        #[test]
        fn never_more_than_the_burst_and_the_rate_allow(
            per_second in 1u32..2000, size in 1u32..200, steps in prop::collection::vec((0u64..SECOND / 50, 0u32..40), 1..100)
        ) {
            let rate = Rate::new(per_second, size);
            let (mut bucket, mut now, mut took) = (0, 7, 0u64);
            for (wait, tries) in steps {
                now += wait;
                took += u64::from(burst(&rate, &mut bucket, now, tries));
                let allowed = u64::from(size) + (now - 7) * u64::from(per_second) / SECOND;
                prop_assert!(took <= allowed, "{} of {}", took, allowed);
            }
        }
    }
}
