//! Bounds-checked reads from a copy of a packet's bytes, in the one form that both rustc and the kernel's verifier accept.
//!
//! The verifier wants a mask right before each access and LLVM would prove it useless and drop it: [`black_box`] hides the value
//! from LLVM. The copy is [`SLACK`] bytes longer than the mask reaches, so that an array may begin at any masked index.

use core::hint::black_box;

/// Longest array that is read at once.
pub const SLACK: usize = 16;
/// Enough for Ethernet, two tags, the longest IPv4 and TCP headers, or IPv6 with some extension headers.
pub const HEAD_BYTES: usize = 256;
/// How much of a segment's payload is looked at; a ClientHello or request head that is longer is not judged.
pub const PAYLOAD_BYTES: usize = 2048;

/// A copy of a packet's first bytes.
pub type Head = [u8; HEAD_BYTES + SLACK];
/// A copy of a payload's first bytes.
pub type Payload = [u8; PAYLOAD_BYTES + SLACK];

/// The first `len` bytes of a buffer.
#[derive(Clone, Copy, Debug)]
pub struct Window<'a, const SIZE: usize> {
    bytes: &'a [u8; SIZE],
    len: u32,
}

impl<'a, const SIZE: usize> Window<'a, SIZE> {
    const MASK: u32 = {
        assert!(SIZE > SLACK && (SIZE - SLACK).is_power_of_two() && SIZE <= 1 << 16);
        #[allow(clippy::cast_possible_truncation, reason = "asserted above")]
        let mask = (SIZE - SLACK - 1) as u32;
        mask
    };

    /// A `len` beyond the buffer is cut to it.
    #[inline(always)]
    pub fn new(bytes: &'a [u8; SIZE], len: u32) -> Self {
        let most = Self::MASK + 1;
        Self {
            bytes,
            len: if len > most { most } else { len },
        }
    }

    #[inline(always)]
    pub fn len(&self) -> u32 {
        self.len
    }

    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline(always)]
    pub fn u8(&self, at: u32) -> Option<u8> {
        if at >= self.len {
            return None;
        }
        Some(self.bytes[(black_box(at) & Self::MASK) as usize])
    }

    /// Network order.
    #[inline(always)]
    pub fn u16(&self, at: u32) -> Option<u16> {
        Some(u16::from_be_bytes(self.array(at)?))
    }

    /// Network order.
    #[inline(always)]
    pub fn u32(&self, at: u32) -> Option<u32> {
        Some(u32::from_be_bytes(self.array(at)?))
    }

    #[inline(always)]
    pub fn array<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        const { assert!(N <= SLACK) };
        #[allow(clippy::cast_possible_truncation, reason = "at most 16")]
        let size = N as u32;
        if at > self.len || self.len - at < size {
            return None;
        }
        let start = (black_box(at) & Self::MASK) as usize;
        let mut array = [0; N];
        let mut i = 0;
        while i < N {
            array[i] = self.bytes[start + i];
            i += 1;
        }
        Some(array)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_read_beyond_the_length_nor_beyond_the_buffer() {
        let bytes: Head = core::array::from_fn(|i| i.to_le_bytes()[0]);
        let window = Window::new(&bytes, 5);
        assert_eq!(
            (window.u8(4), window.u8(5), window.u8(u32::MAX)),
            (Some(4), None, None)
        );
        assert_eq!(
            (window.u16(3), window.u16(4), window.u16(u32::MAX)),
            (Some(0x0304), None, None)
        );
        assert_eq!((window.u32(1), window.u32(2)), (Some(0x0102_0304), None));
        let whole = Window::new(&bytes, u32::MAX);
        assert_eq!(whole.len(), 256);
        assert_eq!((whole.u8(255), whole.u8(256)), (Some(255), None));
        assert!(whole.array::<16>(240).is_some() && whole.array::<16>(241).is_none());
    }
}
