//! The echo backend as a process, for the demo: `echo-backend --name web-1 [--address 127.0.0.1:0]`.
//!
//! Prints its address on one line, then serves until its standard input closes: whoever started it holds the other end of
//! that pipe, so it cannot outlive its parent, however that one ends. In a container, which has no input, `--input none` lets it serve until
//! it is killed.

use std::io::Read;

use anyhow::{Context, bail};
use ingress_tests::Echo;

fn main() -> anyhow::Result<()> {
    let mut name = "echo".to_owned();
    let mut address = "127.0.0.1:0".to_owned();
    let mut has_input = true;
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let value = arguments
            .next()
            .with_context(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--name" => name = value,
            "--address" => address = value,
            "--port" => address = format!("127.0.0.1:{value}"),
            "--input" => has_input = value != "none",
            _ => bail!("unknown flag {flag}; known: --name, --address, --port, --input"),
        }
    }
    let echo = Echo::start_on(&name, address.parse().context("--address wants IP:PORT")?)?;
    println!("{}", echo.address());
    if !has_input {
        loop {
            std::thread::park();
        }
    }
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
