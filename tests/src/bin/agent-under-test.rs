//! The agent as a process of its own, for tests of signals and of what it prints.

use std::process::ExitCode;

use ingress_agent::{app, cli};

fn main() -> ExitCode {
    cli::main(std::env::args_os(), &mut std::io::stdout(), app::run)
}
