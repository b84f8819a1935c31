//! `cargo xtask test`: every check, step by step, with its time; the last line says `N passed, N failed`.
//!
//! Needs no terminal and no network beyond what cargo needs. What is missing on the machine is said in one line.

mod binaries;
mod machine;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::ValueEnum;

use crate::libtest::{Outcome, Verdict};
use crate::{deny, deploy, ebpf, image, kube, promises, tidy, workspace};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Run only the tests whose name contains this, and no other step.
    filter: Option<String>,
    /// Run only this step; repeatable.
    #[arg(long, value_enum)]
    only: Vec<Step>,
}

/// In the order in which they run: what fails fast comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Step {
    /// cargo fmt --check
    Format,
    /// The house rules that no lint checks.
    Tidy,
    /// cargo clippy, warnings are errors.
    Clippy,
    /// cargo-deny: licences, sources, bans, advisories.
    Deny,
    /// cargo xtask ebpf --check
    Ebpf,
    /// Every test of the workspace but those of the next step.
    Tests,
    /// What holds in a cluster, on a real API server, and what deploy/ puts there; builds that and Helm first, once, from Go modules.
    Cluster,
    /// cargo xtask demo --check
    Demo,
    /// docs/promises.toml names tests that exist and ran.
    Promises,
}

/// What a step found.
#[derive(Debug, Default)]
struct Report {
    tests: Vec<Outcome>,
    /// What is wrong, apart from failed tests; a line each.
    problems: Vec<String>,
    /// What could not be checked, and why.
    skipped: Vec<String>,
    /// What was printed by what failed: shown again at the end, where a record of the run is read.
    details: Vec<Details>,
}

#[derive(Debug)]
struct Details {
    of: String,
    lines: Vec<String>,
}

struct Done {
    step: Step,
    took: Duration,
    report: Report,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let mut done: Vec<Done> = Vec::new();
    let steps = steps(options);
    for (index, &step) in steps.iter().enumerate() {
        println!("\n=== [{}/{}] {}", index + 1, steps.len(), step.title());
        let start = Instant::now();
        let ran: Vec<Outcome> = done.iter().flat_map(Done::outcomes).collect();
        let report = step.run(options, &ran).unwrap_or_else(|error| Report {
            problems: vec![format!("{error:#}")],
            ..Report::default()
        });
        for problem in &report.problems {
            println!("  problem: {problem}");
        }
        let took = start.elapsed();
        println!(
            "--- {}: {} in {:.1} s",
            step.title(),
            report.verdict(),
            took.as_secs_f32()
        );
        done.push(Done { step, took, report });
    }
    Ok(summarise(&done))
}

fn steps(options: &Options) -> Vec<Step> {
    if options.filter.is_some() && options.only.is_empty() {
        return vec![Step::Tests];
    }
    let wanted = |step: &Step| options.only.is_empty() || options.only.contains(step);
    Step::value_variants().iter().copied().filter(wanted).collect()
}

impl Step {
    fn title(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::Tidy => "tidy",
            Self::Clippy => "clippy",
            Self::Deny => "deny",
            Self::Ebpf => "ebpf --check",
            Self::Tests => "tests",
            Self::Cluster => "cluster",
            Self::Demo => "demo --check",
            Self::Promises => "promises",
        }
    }

    fn run(self, options: &Options, ran: &[Outcome]) -> anyhow::Result<Report> {
        match self {
            Self::Format => cargo_step(&["fmt", "--all", "--check"]),
            Self::Clippy => cargo_step(&[
                "clippy",
                "--workspace",
                "--all-targets",
                "--locked",
                "--",
                "--deny",
                "warnings",
            ]),
            Self::Tidy => Ok(Report {
                problems: tidy::problems()?,
                ..Report::default()
            }),
            Self::Deny => {
                let (problems, skipped) = deny::check()?;
                Ok(Report {
                    problems,
                    skipped,
                    ..Report::default()
                })
            }
            Self::Ebpf => {
                let ebpf::Findings { problems, skipped } = ebpf::check()?;
                Ok(Report {
                    problems,
                    skipped,
                    ..Report::default()
                })
            }
            Self::Tests => tests(options.filter.as_deref()),
            Self::Cluster => cluster(options.filter.as_deref()),
            Self::Demo => demo(),
            Self::Promises if options.only == [Self::Promises] => {
                let mut report = tests(None)?;
                report.tests.extend(cluster(None)?.tests);
                report.problems.extend(promises::problems(&report.tests)?);
                Ok(report)
            }
            Self::Promises => Ok(Report {
                problems: promises::problems(ran)?,
                ..Report::default()
            }),
        }
    }
}

fn cargo_step(arguments: &[&str]) -> anyhow::Result<Report> {
    let mut report = Report::default();
    let mut command = workspace::cargo();
    command.args(arguments);
    binaries::run_step(&format!("cargo {}", arguments.join(" ")), command, &mut report)?;
    Ok(report)
}

fn tests(filter: Option<&str>) -> anyhow::Result<Report> {
    // A test may start the agent as a process, and would otherwise find an old one.
    workspace::build("ingress-agent", workspace::Profile::Dev)?;
    let mut report = Report::default();
    report.skipped.extend(machine::prepare());
    for binary in binaries::build()?.iter().filter(|binary| binary.name != CLUSTER) {
        println!("{}", binary.name);
        binary.run(filter, &mut report)?;
    }
    binaries::doc_tests(filter, &mut report)?;
    if let (Some(filter), true) = (filter, report.tests.is_empty()) {
        bail!("no test's name contains {filter:?}");
    }
    Ok(report)
}

/// The test binary that needs an API server.
const CLUSTER: &str = "cluster";

fn cluster(filter: Option<&str>) -> anyhow::Result<Report> {
    if let Some(missing) = machine::prepare() {
        bail!("{missing}");
    }
    if !kube::is_root() {
        bail!("not root: pods are processes in network namespaces, so that nothing of a cluster was tested");
    }
    let programs = kube::programs()?;
    println!("API server from {}", programs.display());
    workspace::build("ingress-agent", workspace::Profile::Dev)?;
    let helm = kube::helm()?;
    let mut report = Report {
        problems: deploy::problems(&helm)?,
        ..Report::default()
    };
    let mut extras = Vec::new();
    for (variable, what, extra) in [
        ("INGRESS_SUITE", "the Kubernetes Ingress suite", kube::suite()?),
        ("CERT_MANAGER", "cert-manager itself", kube::cert_manager()),
        (
            "POD_MONITORS",
            "the definition of PodMonitor",
            kube::pod_monitors()?,
        ),
    ] {
        match extra {
            kube::Extra::Built(path) => extras.push((variable, path)),
            kube::Extra::Missing(why) => report.skipped.push(format!("{what}: {why}")),
        }
    }
    match image::runtime() {
        Ok(runtime) => extras.extend([
            ("INGRESS_IMAGE", image::for_tests()?),
            ("INGRESS_IMAGE_RUNTIME", runtime.into()),
        ]),
        Err(why) => report
            .skipped
            .push(format!("the image in a container engine: {why}")),
    }
    for binary in binaries::build()?
        .iter_mut()
        .filter(|binary| binary.name == CLUSTER)
    {
        binary.env("KUBEBUILDER_ASSETS", &programs);
        binary.env("HELM", &helm);
        for (variable, path) in &extras {
            binary.env(variable, path);
        }
        binary.run(filter, &mut report)?;
    }
    if report.tests.is_empty() {
        bail!("no test ran");
    }
    Ok(report)
}

/// Each line of docs/examples/expected.toml is a test, named by what it says.
fn demo() -> anyhow::Result<Report> {
    let mut report = Report::default();
    let mut command = workspace::ourselves();
    command.args(["demo", "--check"]);
    binaries::follow("demo", command, &mut report)?;
    Ok(report)
}

impl Done {
    /// Its tests; or, where it has none, itself: `step clippy`.
    fn outcomes(&self) -> Vec<Outcome> {
        if !self.report.tests.is_empty() {
            return self.report.tests.clone();
        }
        let verdict = match self.report.failed() {
            0 => Verdict::Passed,
            _ => Verdict::Failed,
        };
        vec![Outcome {
            name: format!("step {}", self.step.title()),
            verdict,
        }]
    }
}

impl Report {
    fn count(&self, verdict: &Verdict) -> usize {
        self.tests
            .iter()
            .filter(|t| std::mem::discriminant(&t.verdict) == std::mem::discriminant(verdict))
            .count()
    }

    fn passed(&self) -> usize {
        // A step without tests of its own is one test.
        let own = usize::from(self.tests.is_empty() && self.problems.is_empty());
        self.count(&Verdict::Passed) + own
    }

    fn failed(&self) -> usize {
        self.count(&Verdict::Failed) + self.problems.len()
    }

    /// One more line of what this failed test printed, of so many at most.
    fn printed(&mut self, of: &str, line: &str, at_most: usize) {
        if !self.details.iter().any(|details| details.of == of) {
            self.details.push(Details {
                of: of.to_owned(),
                lines: Vec::new(),
            });
        }
        let details = self.details.iter_mut().find(|details| details.of == of);
        if let Some(details) = details.filter(|details| details.lines.len() < at_most) {
            details.lines.push(line.to_owned());
        }
    }

    fn verdict(&self) -> &'static str {
        if self.failed() == 0 { "ok" } else { "FAILED" }
    }
}

/// What failed, whole; then a line for each step and each failure; the last line is the count of all.
fn summarise(done: &[Done]) -> ExitCode {
    for details in done.iter().flat_map(|d| &d.report.details) {
        println!("\n=== FAILED {}", details.of);
        details.lines.iter().for_each(|line| println!("  {line}"));
    }
    println!("\n=== summary");
    for Done { step, took, report } in done {
        let tests = match report.tests.len() {
            0 => String::new(),
            count => format!("  {count} tests"),
        };
        println!(
            "{:<14} {:<7} {:>7.1} s{tests}",
            step.title(),
            report.verdict(),
            took.as_secs_f32()
        );
    }
    let reports = || done.iter().map(|d| &d.report);
    for report in reports() {
        for test in &report.tests {
            match &test.verdict {
                Verdict::Passed => {}
                Verdict::Failed => println!("FAILED   {}", test.name),
                Verdict::Ignored(why) => println!("IGNORED  {} {why}", test.name),
            }
        }
        report.problems.iter().for_each(|p| println!("PROBLEM  {p}"));
        report.skipped.iter().for_each(|s| println!("SKIPPED  {s}"));
    }
    let ignored: usize = reports()
        .map(|r| r.count(&Verdict::Ignored(String::new())) + r.skipped.len())
        .sum();
    let passed: usize = reports().map(Report::passed).sum();
    let failed: usize = reports().map(Report::failed).sum();
    let took: Duration = done.iter().map(|d| d.took).sum();
    println!(
        "\n{ignored} ignored or skipped, {:.1} minutes in all",
        took.as_secs_f32() / 60.0
    );
    println!("{}", if failed == 0 { "PASSED" } else { "FAILED" });
    println!("{passed} passed, {failed} failed");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
