//! The program: chooses the allocator and hands over to [`ingress_agent::cli`].

use std::process::ExitCode;

use ingress_agent::{app, cli};

/// Fast, and gives memory back when load goes away.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Huge pages are given back only as a whole: with them, 10,000 hosts take a seventh more memory. Refused, it costs no more than that.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    cli::main(std::env::args_os(), &mut std::io::stdout(), app::run)
}
