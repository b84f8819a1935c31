//! The command line: what there is, how it explains itself, and what each exit code means.

mod bans;
mod check;
mod kernel;
mod probe;
mod slow;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::config::flags::{ClassFlags, RunFlags};
use crate::config::{Config, docs};
use crate::{telemetry, translate};

const EXAMPLES: &str = "\
Examples:
  Serve a folder of manifests on the ordinary ports:
    ingress-agent run --manifests /etc/ingress-agent/manifests
  Try it without being root, on loopback:
    ingress-agent run --manifests ./site --http 127.0.0.1:8080 --https 127.0.0.1:8443
  See what is wrong with manifests before they serve anything:
    ingress-agent check ./site

Every setting of `run` can also stand in the environment (INGRESS_AGENT_HTTP for --http) or in a YAML file (--config).

Exit codes:
  0  all went well
  1  run: the agent could not start, or failed;  check: errors were found;  probe: no
  2  the command line, the environment or the file is wrong
  3  check: warnings were found, but no errors";

const RUN_EXAMPLES: &str = "\
Durations have a unit: 500ms, 30s, 5m, 1h. Sizes are bytes: 8192, 64k, 1m. What is repeatable is given several times, or with
commas in the environment, or as a list in the file.

Precedence: flag, environment, file (--config), default. A higher place replaces the whole list.

Examples:
  ingress-agent run --manifests ./site --http :80 --https :443
  ingress-agent run --manifests ./site --http 10.0.0.5:80 --http '[fd00::5]:80' --https off
  ingress-agent run --manifests ./site --trusted-proxies 10.0.0.0/8 --proxy-protocol on
  INGRESS_AGENT_ACCESS_LOG=errors ingress-agent run --config agent.yaml

Signals: SIGTERM and SIGINT end the agent orderly (see --drain-timeout). SIGHUP reads the file of --config again, which is also done when it
changes: http and https take effect at once; what needs a restart is named in the log.

Exit codes:
  0  ended orderly
  1  could not start, or failed
  2  the command line, the environment or the file is wrong";

const CHECK_EXAMPLES: &str = "\
Nothing is served and nothing is changed. Each problem names the object, the field and what was expected.

Examples:
  ingress-agent check ./site
  ingress-agent check ./site -o json | jq '.diagnostics[] | select(.severity == \"error\")'

Exit codes:
  0  no problem, or only information
  1  errors: some requests would get an error, or go elsewhere
  2  the command line is wrong, or DIR is not a folder
  3  warnings, but no errors: part of what an object asks for would have no effect";

const KERNEL_EXAMPLES: &str = "\
Asks every agent of the node by its socket in the run directory. What an agent has in the kernel ends with its process in any case.

Examples:
  ingress-agent kernel status
  ingress-agent kernel status -o json | jq '.[].status.kernel.addresses'
  ingress-agent kernel takeover 5%

Exit codes:
  0  all went well, or there is no agent
  1  an agent did not answer, or refused
  2  the command line is wrong";

const BANS_EXAMPLES: &str = "\
Asks every agent of the node by its socket in the run directory. Sources ban themselves by what `run --ban-handshakes` and the like count.

Examples:
  ingress-agent bans
  ingress-agent bans add 192.0.2.1 --for 10m
  ingress-agent bans lift 2001:db8::/64

Exit codes:
  0  all went well
  1  there is no agent, or one did not answer, or refused
  2  the command line is wrong";

const PROBE_EXAMPLES: &str = "\
For a pod's probes: two pods of one node's network share every port, and each has a socket of its own (run --admin-socket).

Examples:
  ingress-agent probe ready --socket /run/ingress-agent-pod/admin.sock
  INGRESS_AGENT_ADMIN_SOCKET=/run/ingress-agent-pod/admin.sock ingress-agent probe live

Exit codes:
  0  yes
  1  no, or nobody answers; standard error says what is missing
  2  the command line is wrong";

const SLOW_EXAMPLES: &str = "\
Looks at the last minute or two: of each connection the first request and one in sixteen, and each that took 100 ms or more. The slowest routes come first.

Examples:
  ingress-agent slow
  ingress-agent slow shop.example.com/api
  ingress-agent slow --connections
  ingress-agent slow -o json | jq '.[] | select(.slow == \"pod\") | .host'

Exit codes:
  0  all went well
  1  the agent did not answer
  2  the command line is wrong";

/// Ingress for Kubernetes on every node: routes HTTP and HTTPS from Ingress objects to pods.
#[derive(Debug, Parser)]
#[command(name = "ingress-agent", version, after_help = EXAMPLES, propagate_version = false, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve what the manifests say, until a signal ends it.
    #[command(after_help = RUN_EXAMPLES)]
    Run(Box<RunFlags>),
    /// Read manifests and tell what is wrong with them.
    #[command(after_help = CHECK_EXAMPLES)]
    Check(CheckFlags),
    /// What the agents of this node have in the kernel (eBPF), and how to take it away.
    #[command(after_help = KERNEL_EXAMPLES)]
    Kernel(kernel::KernelFlags),
    /// Who is banned by the agents of this node for what they did, and how to change that.
    #[command(after_help = BANS_EXAMPLES)]
    Bans(bans::BanFlags),
    /// Ask a running agent whether it is ready, or alive.
    #[command(after_help = PROBE_EXAMPLES)]
    Probe(probe::ProbeFlags),
    /// Tell for each route who is slow: the client's network, the proxy, the network to the pod, or the pod.
    #[command(after_help = SLOW_EXAMPLES)]
    Slow(slow::SlowFlags),
    /// Print a completion script for a shell, such as `source <(ingress-agent completions bash)`.
    Completions { shell: Shell },
    /// Print a page of the documentation, in Markdown.
    Docs { page: DocsPage },
    /// Print the version.
    Version,
}

#[derive(Debug, clap::Args)]
struct CheckFlags {
    /// Folder of manifests (.yaml, .yml, .json, also in subfolders).
    dir: PathBuf,
    /// How to print: text for people, json for programs.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Output,
    #[command(flatten)]
    classes: ClassFlags,
}

/// What commands to the agents of this node have in common.
#[derive(Debug, Args)]
struct NodeFlags {
    /// The --run-dir of the agents.
    #[arg(
        long,
        value_name = "DIR",
        env = "INGRESS_AGENT_RUN_DIR",
        default_value = "/run/ingress-agent",
        global = true
    )]
    run_dir: PathBuf,
    /// How to print: text for people, json for programs.
    #[arg(short, long, value_name = "FORMAT", default_value = "text", global = true)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DocsPage {
    /// The annotations of an Ingress.
    Annotations,
    /// The settings of `run`.
    Config,
}

/// What the process ends with; the help texts say what each means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    Ok = 0,
    Failed = 1,
    Usage = 2,
    Warnings = 3,
}

/// Does what the arguments (the program's name first) say; `run` serves until it is told to end.
pub fn main(
    args: impl Iterator<Item = OsString>,
    out: &mut dyn Write,
    run: impl FnOnce(Config) -> anyhow::Result<()>,
) -> ExitCode {
    ExitCode::from(dispatch(args.collect(), out, run) as u8)
}

fn dispatch(
    args: Vec<OsString>,
    out: &mut dyn Write,
    run: impl FnOnce(Config) -> anyhow::Result<()>,
) -> Exit {
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return explain(&error, out),
    };
    match cli.command {
        // The arguments after the program's and the command's name: the file's settings are put in front of them.
        Command::Run(_) => serve(args.into_iter().skip(2).collect(), run),
        Command::Check(flags) => check::check(flags, out),
        Command::Kernel(flags) => kernel::kernel(&flags, out),
        Command::Bans(flags) => bans::bans(&flags, out),
        Command::Probe(flags) => probe::probe(&flags, out),
        Command::Slow(flags) => slow::slow(&flags, out),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "ingress-agent", &mut script);
            print(out, &script)
        }
        Command::Docs {
            page: DocsPage::Annotations,
        } => print(out, translate::annotations_markdown().as_bytes()),
        Command::Docs {
            page: DocsPage::Config,
        } => print(out, docs::page().as_bytes()),
        Command::Version => print(
            out,
            concat!("ingress-agent ", env!("CARGO_PKG_VERSION"), "\n").as_bytes(),
        ),
    }
}

fn serve(args: Vec<OsString>, run: impl FnOnce(Config) -> anyhow::Result<()>) -> Exit {
    let config = match Config::from_args(args) {
        Ok(config) => config,
        Err(error) => return complain(&error.to_string(), Exit::Usage),
    };
    telemetry::log::start(config.log);
    match run(config) {
        Ok(()) => Exit::Ok,
        Err(error) => complain(&format!("{error:#}"), Exit::Failed),
    }
}

/// Help that was asked for goes to the output; what is wrong, to standard error.
fn explain(error: &clap::Error, out: &mut dyn Write) -> Exit {
    if error.use_stderr() {
        let _ = error.print();
        return Exit::Usage;
    }
    print(out, error.render().to_string().as_bytes())
}

/// A reader that closed the pipe early has what it wanted.
fn print(out: &mut dyn Write, bytes: &[u8]) -> Exit {
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            complain(&error.to_string(), Exit::Failed)
        }
        _ => Exit::Ok,
    }
}

fn complain(problem: &str, exit: Exit) -> Exit {
    let problem = problem.trim_end();
    let _ = writeln!(
        std::io::stderr(),
        "ingress-agent: {}",
        problem.strip_prefix("error: ").unwrap_or(problem)
    );
    exit
}

#[cfg(test)]
mod tests;
