//! Map keys and values of socket steering. Their bytes are the contract between the kernel's side and the agent's, so every size is asserted.

/// The addresses that the agent may serve by steering; more are bound as ever.
pub const MAX_SERVED: u32 = 256;
/// Two families for each served address that means all of them.
pub const MAX_SERVED_KEYS: u32 = 2 * MAX_SERVED;
/// Sockets that connections may be given to: workers × listeners × families.
pub const MAX_SLOTS: u32 = 1024;

/// An address and port that is served. Words and not bytes: what copies bytes one by one is a function that the verifier lets only
/// CAP_PERFMON load ("pointer arithmetic prohibited for !root").
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServedKey {
    pub address: Address,
    pub port: u32,
}

/// An IPv6 address, or an IPv4 one as `::ffff:a.b.c.d`. Each word holds its four bytes as they stand in the packet, whatever the machine's
/// byte order. All zeros (in either form) mean every address of the family.
pub type Address = [u32; 4];

/// What to do with new connections to a served address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Its sockets are `first_slot .. first_slot + slots`.
    pub first_slot: u32,
    pub slots: u32,
    /// How many of [`WHOLE`] sources are taken; the others stay with whoever else has the port.
    pub share: u32,
    /// Makes the spread over the slots something that a client can't foresee.
    pub seed: u32,
    /// Index into the counts.
    pub counter: u32,
    /// Of the `FLAG_` constants.
    pub flags: u32,
}

/// A share of all sources.
pub const WHOLE: u32 = 10_000;
/// An entry for every address takes connections to loopback addresses too.
pub const FLAG_LOOPBACK: u32 = 1;

/// What became of new connections to a served address, on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SteerCounts {
    /// Given to one of our sockets.
    pub steered: u64,
    /// Outside the share, or to loopback without the flag.
    pub left: u64,
    /// No socket was there: it went on as if there were no agent.
    pub unclaimed: u64,
    /// The kernel refused the socket (another family, not listening).
    pub refused: u64,
}

const _: () = assert!(size_of::<ServedKey>() == 20 && align_of::<ServedKey>() == 4);
const _: () = assert!(size_of::<Served>() == 24 && align_of::<Served>() == 4);
const _: () = assert!(size_of::<SteerCounts>() == 32 && align_of::<SteerCounts>() == 8);

#[cfg(feature = "user")]
mod user {
    #![allow(unsafe_code, reason = "aya's marker for plain bytes is an unsafe trait")]
    use super::{Served, ServedKey, SteerCounts};

    // SAFETY: repr(C), integers only, no implicit padding (the asserted sizes are the sums of the fields').
    unsafe impl aya::Pod for ServedKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Served {}
    // SAFETY: as above.
    unsafe impl aya::Pod for SteerCounts {}
}
