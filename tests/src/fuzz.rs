//! Fuzzing on the stable toolchain: a kept corpus, seeded mutations, and targets that panic when a property is violated.
//!
//! Unlike the rest of this package, the targets call the product's parsers directly: they are about every byte, not about traffic.
//! What a target returns says coarsely what happened; an input that makes something new happen is mutated further. That stands in
//! for the coverage that only a nightly compiler would measure. docs/fuzzing.md tells how to run more and how to keep an input.

mod client_hello;
mod first_words;
mod host;
mod http1;
mod http2;
mod manifest;
mod matching;
mod mutation;
mod path;
mod proxy_protocol;
mod strict;

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mutation::{Mutator, Random};

pub use client_hello::CLIENT_HELLO;
pub use first_words::FIRST_WORDS;
pub use host::HOST;
pub use http1::HTTP1;
pub use http2::HTTP2;
pub use manifest::{ANNOTATIONS, CERTIFICATES, MANIFESTS};
pub use matching::MATCHING;
pub use path::PATH;
pub use proxy_protocol::PROXY_PROTOCOL;

/// The seed of the tests: the same inputs in every run.
const SEED: u64 = 3;
/// Far above what any input takes, even on a busy machine; anything exponential is above it.
const LONGEST_EXECUTION: Duration = Duration::from_secs(10);
/// Inputs in memory that showed something new.
const MOST_KEPT: usize = 4096;

/// What is fuzzed.
#[derive(Debug)]
pub struct Target {
    /// Also the folder below `tests/fuzz/corpus`.
    pub name: &'static str,
    /// In the tests, besides the corpus.
    pub executions: u64,
    /// Bytes of an input.
    pub longest: usize,
    /// Words of the format, for the mutations.
    pub words: &'static [&'static [u8]],
    /// Panics when a property does not hold; returns what happened, by [`outcome`].
    pub check: fn(&[u8]) -> u64,
}

/// What happened, coarsely: the fewer different values, the better they guide.
pub fn outcome(happened: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    happened.hash(&mut hasher);
    hasher.finish()
}

/// Runs the corpus as it is, and then mutations of it.
///
/// `INGRESS_FUZZ_SEED` changes the seed, `INGRESS_FUZZ_SECONDS` runs for so long instead of a fixed number of executions,
/// `INGRESS_FUZZ_TRACE` names a file that holds the present input: what is left there when the process is aborted.
///
/// # Panics
/// When a property does not hold, or an input takes too long: the input is in a file then, and the message tells where.
pub fn run(target: &Target) {
    let seed = number("INGRESS_FUZZ_SEED").unwrap_or(SEED);
    let deadline = number("INGRESS_FUZZ_SECONDS").map(|s| Instant::now() + Duration::from_secs(s));
    let corpus = corpus(target);
    assert!(!corpus.is_empty(), "tests/fuzz/corpus/{} is empty", target.name);
    let mut seen: HashSet<u64> = corpus.iter().map(|input| execute(target, input, seed)).collect();
    let mut mutator = Mutator::new(Random::new(seed), target, corpus);
    let mut executions = 0;
    while deadline.map_or(executions < target.executions, |end| Instant::now() < end) {
        let input = mutator.next_input();
        executions += 1;
        if seen.insert(execute(target, &input, seed)) && seen.len() < MOST_KEPT {
            mutator.keep(input);
        }
    }
    println!(
        "{}: {executions} executions with seed {seed}, {} outcomes",
        target.name,
        seen.len()
    );
}

fn execute(target: &Target, input: &[u8], seed: u64) -> u64 {
    if let Some(file) = std::env::var_os("INGRESS_FUZZ_TRACE") {
        let _ = std::fs::write(file, input);
    }
    let begun = Instant::now();
    let Ok(happened) = catch_unwind(|| (target.check)(input)) else {
        report(target, input, seed, "violates a property (see the panic above)");
    };
    if begun.elapsed() > LONGEST_EXECUTION {
        report(target, input, seed, "takes too long");
    }
    happened
}

fn report(target: &Target, input: &[u8], seed: u64, what: &str) -> ! {
    let name = format!("{}-{:016x}-{}", target.name, outcome(input), std::process::id());
    let path = std::env::temp_dir().join(&name);
    let place = match std::fs::write(&path, input) {
        Ok(()) => path.display().to_string(),
        Err(error) => format!("nowhere ({error})"),
    };
    panic!(
        "an input of {} bytes {what}: {}\nseed {seed}; the input is in {place}\nto keep it as a regression test:\n  \
         cp {place} tests/fuzz/corpus/{}/\n",
        input.len(),
        input.escape_ascii(),
        target.name,
    )
}

/// The kept inputs, in the order of their names.
fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target.name);
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    files.sort();
    files.iter().flat_map(std::fs::read).collect()
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// What a target reads its structure from: as many bytes as there are, then zeros.
#[derive(Debug)]
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> u8 {
        match self.0.split_first() {
            Some((byte, rest)) => {
                self.0 = rest;
                *byte
            }
            None => 0,
        }
    }

    fn pick<T: Copy>(&mut self, from: &[T], otherwise: T) -> T {
        let at = usize::from(self.next()) % from.len().max(1);
        from.get(at).copied().unwrap_or(otherwise)
    }
}

/// Where the input is cut into segments: some places that depend on its content alone, and its end.
fn cuts(input: &[u8]) -> Vec<usize> {
    let mut random = Random::new(outcome(input));
    let mut ends: Vec<usize> = (0..random.below(12)).map(|_| random.below(input.len())).collect();
    ends.push(input.len());
    ends.sort_unstable();
    ends
}

#[cfg(test)]
mod tests {
    use super::*;

    static FRAGILE: Target = Target {
        name: "proxy_protocol",
        executions: 10_000,
        longest: 100,
        words: &[b"fragile"],
        check: |input| {
            assert!(!input.windows(7).any(|w| w == b"fragile"), "broken");
            outcome(input.len())
        },
    };

    #[test]
    fn a_violated_property_is_found_and_its_input_is_written_where_the_message_says() {
        let panic = catch_unwind(|| run(&FRAGILE)).unwrap_err();
        let message = panic.downcast::<String>().unwrap();
        let path = message
            .split("the input is in ")
            .nth(1)
            .unwrap()
            .lines()
            .next()
            .unwrap();
        let input = std::fs::read(path).unwrap();
        assert!(input.windows(7).any(|w| w == b"fragile"), "{message}");
        std::fs::remove_file(path).unwrap();
    }
}
