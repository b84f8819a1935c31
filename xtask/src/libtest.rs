//! What libtest prints on the stable toolchain, line by line, as outcomes. Knows nothing of processes.

/// One test and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The test binary's name, a space, and the path that libtest prints.
    pub(crate) name: String,
    pub(crate) verdict: Verdict,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Passed,
    Failed,
    /// With libtest's reason, which may be empty.
    Ignored(String),
}

/// What a line of a test binary's output says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    Test {
        path: &'a str,
        verdict: Verdict,
    },
    /// `skipped: …`, from a test that found the machine unable and says so itself.
    Skipped(&'a str),
    /// What follows, until the next such line, is what this failed test printed.
    OutputOf(&'a str),
    /// `failures:`, before the outputs and again before the list of names.
    Failures,
    /// The binary's own count, which has to be there at the end.
    Result,
    Other,
}

pub(crate) fn parse(line: &str) -> Line<'_> {
    if let Some(why) = line.strip_prefix("skipped: ") {
        return Line::Skipped(why);
    }
    if line.starts_with("test result: ") {
        return Line::Result;
    }
    if line == "failures:" {
        return Line::Failures;
    }
    let output = line.strip_prefix("---- ").and_then(|l| l.strip_suffix(" ----"));
    if let Some((path, "stdout" | "stderr")) = output.and_then(|rest| rest.rsplit_once(' ')) {
        return Line::OutputOf(path);
    }
    let test = line
        .strip_prefix("test ")
        .and_then(|rest| rest.rsplit_once(" ... "))
        .and_then(|(path, word)| Some((path, verdict(word)?)));
    match test {
        Some((path, verdict)) => Line::Test {
            path: path.strip_suffix(" - should panic").unwrap_or(path),
            verdict,
        },
        None => Line::Other,
    }
}

fn verdict(word: &str) -> Option<Verdict> {
    match word.trim_end() {
        "ok" => Some(Verdict::Passed),
        "FAILED" => Some(Verdict::Failed),
        word => {
            let why = word.strip_prefix("ignored")?;
            Some(Verdict::Ignored(why.trim_start_matches(", ").to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_libtest_line_is_understood() {
        let test = |path, verdict| Line::Test { path, verdict };
        assert_eq!(parse("test a::b ... ok"), test("a::b", Verdict::Passed));
        assert_eq!(parse("test a::b ... FAILED"), test("a::b", Verdict::Failed));
        assert_eq!(
            parse("test a::b - should panic ... ok"),
            test("a::b", Verdict::Passed)
        );
        assert_eq!(
            parse("test a ... ignored, needs a moon"),
            test("a", Verdict::Ignored("needs a moon".into()))
        );
        assert_eq!(
            parse("test a ... ignored"),
            test("a", Verdict::Ignored(String::new()))
        );
        assert_eq!(
            parse("test core/src/host.rs - host (line 10) ... ok"),
            test("core/src/host.rs - host (line 10)", Verdict::Passed)
        );
    }

    #[test]
    fn other_lines_are_not_taken_for_tests() {
        assert_eq!(parse("test result: ok. 3 passed; 0 failed"), Line::Result);
        assert_eq!(parse("test a has been running for over 60 seconds"), Line::Other);
        assert_eq!(parse("test a ... maybe"), Line::Other);
        assert_eq!(parse("skipped: no IPv6"), Line::Skipped("no IPv6"));
        assert_eq!(parse("failures:"), Line::Failures);
        assert_eq!(parse("---- a::b stdout ----"), Line::OutputOf("a::b"));
        assert_eq!(parse("---- a::b ----"), Line::Other);
    }
}
