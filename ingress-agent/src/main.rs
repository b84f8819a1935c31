//! The program: chooses the allocator and hands over to [`ingress_agent::cli`].

use std::process::ExitCode;

use ingress_agent::{app, cli};

/// Fast, and gives memory back when load goes away.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main(std::env::args_os(), &mut std::io::stdout(), app::run)
}
