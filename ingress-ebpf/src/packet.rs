//! A packet as XDP or tc gives it, copied to where the shared decisions read it: also what lies in fragments of the buffer.

use core::ffi::c_void;
use core::hint::black_box;

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use aya_ebpf::helpers::generated::{bpf_skb_load_bytes, bpf_xdp_get_buff_len, bpf_xdp_load_bytes};
use ingress_common::packet::{self, Packet};
use ingress_common::verdict::Scratch;
use ingress_common::window::{HEAD_BYTES, PAYLOAD_BYTES, Window};

use crate::maps::SCRATCH;

/// What a program was called for.
#[derive(Clone, Copy)]
pub enum Frame {
    Xdp(*mut xdp_md),
    Tc(*mut __sk_buff),
}

/// The shortest frame that can hold TCP.
const SHORTEST: u64 = 54;

impl Frame {
    /// For helpers that both kinds of program have.
    #[inline(always)]
    pub fn context(self) -> *mut c_void {
        match self {
            Self::Xdp(context) => context.cast(),
            Self::Tc(context) => context.cast(),
        }
    }

    #[inline(always)]
    pub fn interface(self) -> u32 {
        // SAFETY: the kernel gives a valid context.
        unsafe {
            match self {
                Self::Xdp(context) => (*context).ingress_ifindex,
                Self::Tc(context) => (*context).ifindex,
            }
        }
    }

    #[inline(always)]
    pub fn len(self) -> u64 {
        // SAFETY: as above.
        unsafe {
            match self {
                Self::Xdp(context) => bpf_xdp_get_buff_len(context),
                Self::Tc(context) => (*context).len as u64,
            }
        }
    }

    /// The packet's first bytes, to behind the first `shift` of what `to` points to; false where it has fewer.
    #[inline(always)]
    pub fn copy<T>(self, bytes: usize, to: *mut T, shift: usize) -> bool {
        if shift + bytes > size_of::<T>() {
            return false;
        }
        self.load(0, to.cast::<u8>().wrapping_add(shift), bytes as u64)
    }

    /// One byte.
    #[inline(always)]
    pub fn copy_from(self, at: u32, to: *mut u8) -> bool {
        self.load(at, to, 1)
    }

    /// Copies `len` bytes; the caller has bounded `len` for the verifier, below the size of what `to` points to.
    #[inline(always)]
    fn load(self, at: u32, to: *mut u8, len: u64) -> bool {
        // SAFETY: the helpers check the packet's end, the verifier that `to` has room for `len`.
        let result = unsafe {
            match self {
                Self::Xdp(context) => bpf_xdp_load_bytes(context, at, to.cast(), len as u32),
                Self::Tc(context) => bpf_skb_load_bytes(context.cast(), at, to.cast(), len as u32),
            }
        };
        result == 0
    }
}

/// This CPU's memory for the packet at hand.
#[inline(always)]
pub fn scratch() -> Option<&'static mut Scratch> {
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: a per-CPU value; XDP and tc of one packet run one after the other, with softirqs off.
    Some(unsafe { &mut *scratch })
}

/// What the headers are.
pub const OTHER: u32 = 0;
pub const TCP: u32 = 1;
pub const MALFORMED: u32 = 2;

/// Reads the headers into `scratch.segment` (of a malformed packet, only where it goes). A function of its own, as the other steps are:
/// together they would not fit on one stack frame.
#[inline(never)]
pub fn read(frame: Frame, scratch: &mut Scratch) -> u32 {
    let len = frame.len();
    let most = HEAD_BYTES as u64;
    // Hidden from LLVM, which would otherwise prove the bounds away that the verifier wants to see.
    let copied = black_box(if len < most { len } else { most });
    if copied < SHORTEST || copied > most {
        return OTHER;
    }
    if !frame.load(0, scratch.head.as_mut_ptr(), copied) {
        return OTHER;
    }
    let window = Window::new(&scratch.head, copied as u32);
    match packet::parse(&window, len as u32) {
        Packet::Tcp(segment) => {
            scratch.segment = segment;
            TCP
        }
        Packet::MalformedTcp(to) => {
            scratch.segment.to = to;
            MALFORMED
        }
        Packet::Other(_) => OTHER,
    }
}

/// Copies the payload's beginning; its length.
#[inline(always)]
pub fn payload(frame: Frame, scratch: &mut Scratch) -> Option<u32> {
    let len = scratch.segment.payload_len as u64;
    let most = PAYLOAD_BYTES as u64;
    let copied = black_box(if len < most { len } else { most });
    if copied < 1 || copied > most {
        return None;
    }
    frame
        .load(scratch.segment.payload_at, scratch.payload.as_mut_ptr(), copied)
        .then_some(copied as u32)
}
