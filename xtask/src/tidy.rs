//! The house rules that no lint checks: sizes, module heads, who may mention what, papers that keep up with the code.

use std::path::Path;
use std::process::{ExitCode, Stdio};

use anyhow::Context;

use crate::workspace::{self, files_below, root, shown};

/// Lines of a file without its tests; beyond it, something is hiding in there.
const MOST_LINES: usize = 500;
const OUR_FOLDERS: [&str; 4] = ["ingress-core", "ingress-agent", "xtask", "tests"];

pub(crate) fn print() -> anyhow::Result<ExitCode> {
    let problems = problems()?;
    problems.iter().for_each(|p| println!("{p}"));
    println!("{} problems", problems.len());
    Ok(if problems.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Every breach, a line each.
pub(crate) fn problems() -> anyhow::Result<Vec<String>> {
    let mut problems = Vec::new();
    for folder in OUR_FOLDERS {
        for path in files_below(&root().join(folder), ".rs")? {
            let text = std::fs::read_to_string(&path)?;
            problems.extend(source_problems(&shown(&path), &text));
        }
    }
    problems.extend(dependency_problems()?);
    problems.extend(link_problems()?);
    problems.extend(generated_page_problems()?);
    Ok(problems)
}

fn source_problems(path: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if path.ends_with("/mod.rs") {
        problems.push(format!(
            "{path}: modules are `foo.rs` beside `foo/`, not `mod.rs`"
        ));
    }
    if is_test_file(path) {
        return problems;
    }
    if !text.starts_with("//!") {
        problems.push(format!(
            "{path}: begins with `//!` lines that say what the module owns"
        ));
    }
    let code: Vec<_> = code_lines(text).collect();
    let count = code.last().map_or(0, |(number, _)| *number);
    if count > MOST_LINES {
        problems.push(format!(
            "{path}: {count} lines without tests, at most {MOST_LINES} are fine"
        ));
    }
    for (number, line) in code {
        for rule in RULES.iter().filter(|rule| rule.concerns(path)) {
            for word in rule.words.iter().filter(|word| mentions(line, word)) {
                problems.push(format!("{path}:{number}: `{word}`: {}", rule.why));
            }
        }
    }
    problems
}

fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs")
        || path.contains("/tests/")
        || path.starts_with("tests/it/")
        || path.starts_with("tests/cluster/")
}

/// Numbered lines up to the tests at the file's end.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines().take_while(|line| *line != "#[cfg(test)]"))
}

/// Words that some files may not have.
struct Rule {
    below: &'static str,
    except: &'static [&'static str],
    words: &'static [&'static str],
    why: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        below: "ingress-core/src/",
        except: &[],
        words: &[
            "Instant::now",
            "SystemTime::now",
            "std::env",
            "std::fs",
            "std::thread",
            "std::process",
            "TcpStream",
            "TcpListener",
            "UdpSocket",
            "ToSocketAddrs",
            "tokio",
        ],
        why: "the core is a function of its arguments: time, environment and sockets stay outside",
    },
    Rule {
        below: "ingress-agent/src/",
        except: &["ingress-agent/src/source", "ingress-agent/src/status"],
        words: &["kube::", "use kube"],
        why: "only source and status talk to the API server",
    },
    Rule {
        below: "ingress-agent/src/",
        except: &[
            "ingress-agent/src/main.rs",
            "ingress-agent/src/app",
            "ingress-agent/src/cli",
        ],
        words: &["anyhow::"],
        why: "anyhow is for start-up (main, cli, app), xtask and tests; the agent's errors are typed",
    },
    Rule {
        below: "ingress-agent/src/",
        except: &["ingress-agent/src/kernel"],
        words: &["unsafe_code"],
        why: "the agent's only unsafe code is in kernel/",
    },
];

impl Rule {
    fn concerns(&self, path: &str) -> bool {
        path.starts_with(self.below) && !self.except.iter().any(|e| path.starts_with(e))
    }
}

/// Comments may say anything.
fn mentions(line: &str, word: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    code.contains(word)
}

/// Every dependency has its reason in docs/dependencies.md, as a table row that begins with its name.
fn dependency_problems() -> anyhow::Result<Vec<String>> {
    let manifest: toml::Table = std::fs::read_to_string(root().join("Cargo.toml"))?.parse()?;
    let page = std::fs::read_to_string(root().join("docs/dependencies.md")).unwrap_or_default();
    let dependencies = manifest
        .get("workspace")
        .and_then(|w| w.get("dependencies"))
        .and_then(toml::Value::as_table)
        .context("Cargo.toml: [workspace.dependencies] is missing")?;
    let undocumented = dependencies
        .iter()
        .filter(|(_, value)| value.get("path").is_none())
        .filter(|(name, _)| !page.contains(&format!("| `{name}` |")));
    Ok(undocumented
        .map(|(name, _)| format!("docs/dependencies.md: no row gives the reason for `{name}`"))
        .collect())
}

/// Relative links of our pages lead somewhere.
fn link_problems() -> anyhow::Result<Vec<String>> {
    let mut pages = files_below(&root().join("docs"), ".md")?;
    for name in ["README.md", "CHANGELOG.md"] {
        pages.push(root().join(name));
    }
    let mut problems = Vec::new();
    for page in pages {
        let text = std::fs::read_to_string(&page).with_context(|| shown(&page))?;
        let folder = page.parent().unwrap_or(root());
        for link in links(&text) {
            if let Some(what) = broken(folder, &page, link) {
                problems.push(format!("{}: link to {link}: {what}", shown(&page)));
            }
        }
    }
    Ok(problems)
}

/// The targets of `[text](target)` outside code blocks.
fn links(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut in_code = false;
    for line in text.lines() {
        in_code ^= line.starts_with("```");
        if in_code {
            continue;
        }
        found.extend(line.split("](").skip(1).filter_map(|rest| rest.split(')').next()));
    }
    found
}

fn broken(folder: &Path, page: &Path, link: &str) -> Option<&'static str> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = if file.is_empty() {
        page.to_path_buf()
    } else {
        folder.join(file)
    };
    if !target.exists() {
        return Some("no such file");
    }
    if anchor.is_empty() {
        return None;
    }
    let text = std::fs::read_to_string(target).unwrap_or_default();
    let has_heading = text
        .lines()
        .filter(|line| line.starts_with('#'))
        .any(|line| slug(line) == anchor);
    (!has_heading).then_some("no such heading")
}

/// A heading's anchor, as the usual Markdown viewers make it.
fn slug(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = words
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// docs/annotations.md is what the agent prints. Not checked while there is no such page.
fn generated_page_problems() -> anyhow::Result<Vec<String>> {
    let page = root().join("docs/annotations.md");
    let Ok(written) = std::fs::read_to_string(&page) else {
        return Ok(Vec::new());
    };
    let output = workspace::cargo()
        .args([
            "run",
            "--quiet",
            "--package",
            "ingress-agent",
            "--",
            "docs",
            "annotations",
        ])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    if output.status.success() && output.stdout == written.as_bytes() {
        return Ok(Vec::new());
    }
    Ok(vec![
        "docs/annotations.md is not what the table in code says: \
         cargo run -p ingress-agent -- docs annotations > docs/annotations.md"
            .to_owned(),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_core_may_not_read_the_clock_outside_comments() {
        let text = "//! x\n// Instant::now is the caller's\nlet now = Instant::now();\n";
        let problems = source_problems("ingress-core/src/a.rs", text);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].starts_with("ingress-core/src/a.rs:3: `Instant::now`"));
        assert!(source_problems("ingress-agent/src/a.rs", text).is_empty());
    }

    #[test]
    fn tests_do_not_count_as_lines() {
        let long = "let x = 1;\n".repeat(600);
        let text = format!("//! x\n#[cfg(test)]\nmod tests {{\n{long}}}\n");
        assert!(source_problems("xtask/src/a.rs", &text).is_empty());
        assert_eq!(
            source_problems("xtask/src/a.rs", &format!("//! x\n{long}")).len(),
            1
        );
    }

    #[test]
    fn a_module_without_a_head_and_a_mod_rs_are_told() {
        assert_eq!(source_problems("xtask/src/a/mod.rs", "fn x() {}\n").len(), 2);
    }

    #[test]
    fn links_in_code_blocks_are_no_links() {
        assert_eq!(
            links("[a](b.md) [c](d.md#e)\n```\n[x](y)\n```\n"),
            ["b.md", "d.md#e"]
        );
        assert_eq!(slug("## What is served, and why?"), "what-is-served-and-why");
    }
}
