//! `docs/promises.toml`: what is promised and which tests show it. Checked against the tests that ran.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Context;
use serde::Deserialize;

use crate::libtest::{Outcome, Verdict};
use crate::workspace;

#[derive(Deserialize)]
struct File {
    promise: Vec<Promise>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Promise {
    id: String,
    issue: u32,
    text: String,
    state: State,
    /// As `cargo xtask test` prints them: the test binary, a space, the path.
    #[serde(default)]
    tests: Vec<String>,
    /// What is missing; says something wherever the state is not done.
    #[serde(default)]
    left: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Done,
    Part,
    Open,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Part => "part",
            Self::Open => "open",
        }
    }
}

pub(crate) fn print() -> anyhow::Result<ExitCode> {
    let all = read()?;
    let mut counts: BTreeMap<(u32, State), usize> = BTreeMap::new();
    for promise in &all {
        *counts.entry((promise.issue, promise.state)).or_default() += 1;
        let tests = promise.tests.len();
        println!(
            "{} {:<28} {:>2} tests  {}",
            promise.state.word(),
            promise.id,
            tests,
            promise.text
        );
    }
    println!("\nLeft:");
    for promise in all.iter().filter(|p| p.state != State::Done) {
        let left = if promise.left.is_empty() {
            "all of it"
        } else {
            &promise.left
        };
        println!("  {}: {left}", promise.id);
    }
    println!();
    for ((issue, state), count) in counts {
        println!("issue {issue}: {count} {}", state.word());
    }
    Ok(ExitCode::SUCCESS)
}

/// What is wrong with the file, given every test that ran.
pub(crate) fn problems(ran: &[Outcome]) -> anyhow::Result<Vec<String>> {
    Ok(compare(&read()?, ran))
}

fn read() -> anyhow::Result<Vec<Promise>> {
    let path = workspace::root().join("docs/promises.toml");
    let text = std::fs::read_to_string(&path).context("docs/promises.toml")?;
    let file: File = toml::from_str(&text).context("docs/promises.toml")?;
    Ok(file.promise)
}

fn compare(promises: &[Promise], ran: &[Outcome]) -> Vec<String> {
    let verdicts: BTreeMap<&str, &Verdict> = ran.iter().map(|o| (o.name.as_str(), &o.verdict)).collect();
    let mut problems = Vec::new();
    let mut seen = BTreeMap::new();
    for promise in promises {
        let id = &promise.id;
        if seen.insert(id, ()).is_some() {
            problems.push(format!("promise {id}: the id stands twice"));
        }
        if promise.state == State::Done && promise.tests.is_empty() {
            problems.push(format!("promise {id}: done, but no test is named"));
        }
        if promise.state == State::Part && promise.left.is_empty() {
            problems.push(format!(
                "promise {id}: part, but `left` does not say what is missing"
            ));
        }
        for test in &promise.tests {
            match verdicts.get(test.as_str()) {
                // A failed test is told on its own line already.
                Some(Verdict::Passed | Verdict::Failed) => {}
                Some(Verdict::Ignored(_)) => {
                    problems.push(format!("promise {id}: test {test:?} was ignored"));
                }
                None => problems.push(format!(
                    "promise {id}: test {test:?} does not exist or did not run"
                )),
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn promise(state: State, tests: &[&str]) -> Promise {
        Promise {
            id: "host-exact".into(),
            issue: 3,
            text: String::new(),
            state,
            tests: tests.iter().map(|&t| t.to_owned()).collect(),
            left: String::new(),
        }
    }

    fn ran(verdict: Verdict) -> [Outcome; 1] {
        [Outcome {
            name: "core a::b".into(),
            verdict,
        }]
    }

    #[test]
    fn a_promise_whose_test_passed_is_kept() {
        let promises = [promise(State::Done, &["core a::b"])];
        assert!(compare(&promises, &ran(Verdict::Passed)).is_empty());
    }

    #[test]
    fn a_named_test_that_does_not_exist_or_did_not_run_is_a_problem() {
        let promises = [promise(State::Done, &["core a::b", "core a::c"])];
        let problems = compare(&promises, &ran(Verdict::Ignored(String::new())));
        assert_eq!(
            problems,
            [
                r#"promise host-exact: test "core a::b" was ignored"#,
                r#"promise host-exact: test "core a::c" does not exist or did not run"#
            ]
        );
    }

    #[test]
    fn done_without_a_test_part_without_a_rest_and_an_id_twice_are_problems() {
        let problems = compare(&[promise(State::Done, &[]), promise(State::Part, &[])], &[]);
        assert_eq!(problems.len(), 3, "{problems:?}");
    }

    #[test]
    fn the_file_in_the_repository_can_be_read() {
        assert!(read().unwrap().len() > 60);
    }
}
