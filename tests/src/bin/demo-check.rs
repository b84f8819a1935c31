//! Asks a running demo everything that `expected.toml` says, one line each: `demo-check EXPECTED HTTP HTTPS CA`.
//!
//! Started by `cargo xtask demo --check`; a program of its own so that xtask need not compile an HTTP client.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use ingress_tests::expected::{Expected, Place};

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [expected, http, https, authority] = arguments.as_slice() else {
        anyhow::bail!("usage: demo-check EXPECTED HTTP HTTPS CA");
    };
    let place = Place {
        http: http.parse().context("HTTP address")?,
        https: https.parse().context("HTTPS address")?,
        authority: std::fs::read_to_string(authority).with_context(|| authority.clone())?,
    };
    let expected = Expected::read(&PathBuf::from(expected))?;
    let mut failed: usize = 0;
    for case in &expected.cases {
        let differences = case
            .differences(&place)
            .unwrap_or_else(|error| vec![format!("{error:#}")]);
        // libtest's own words, so that whoever counts tests counts these as well.
        let verdict = if differences.is_empty() { "ok" } else { "FAILED" };
        println!("test {} ... {verdict}", case.says);
        if !differences.is_empty() {
            println!("    {}", case.url);
        }
        for difference in &differences {
            println!("    {difference}");
        }
        failed += usize::from(!differences.is_empty());
    }
    let passed = expected.cases.len() - failed;
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {verdict}. {passed} passed; {failed} failed");
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
