//! The agent's programs in the kernel. Each only reads, asks a pure decision of `ingress-common`, counts, and gives the verdict.
//!
//! One file a program; every map stands in [`maps`]. Built by `cargo xtask ebpf`.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod account;
mod early;
mod maps;
mod packet;
mod reset;
mod sk_lookup;
mod tables;
mod tc;
mod xdp;

/// Never reached: nothing here can panic, and the verifier would refuse a program that could.
#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The programs use only helpers that are there for every licence (those for tracing ask for a GPL-compatible one).
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 11] = *b"Apache-2.0\0";
