//! Every command of this repository. One file per task; nothing here is part of the product.

mod apt;
mod bench;
mod certificates;
mod demo;
mod deny;
mod deploy;
mod ebpf;
mod guard;
mod image;
mod interrupt;
mod kube;
mod libtest;
mod promises;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The commands of this repository")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build and start the agent on loopback with the examples of docs/examples and real backends.
    Demo(demo::Options),
    /// Everything that has to hold: formatting, lints, dependencies, house rules, every test, the demo, the promises.
    Test(test::Options),
    /// What is promised, what shows it, and what is left.
    Promises,
    /// The house rules that no lint checks.
    Tidy,
    /// Build the eBPF object that the agent carries, or prove that the kept one is what the source gives.
    Ebpf(ebpf::Options),
    /// CPU a request, throughput, latency and memory beside nginx and HAProxy.
    Bench(bench::Options),
    /// A real Kubernetes API server on loopback: build, up, down, status.
    Kube(kube::Options),
    /// What is in deploy/: render the plain manifests from the chart, or prove that the kept ones are what it gives.
    Deploy(deploy::Options),
    /// An OCI image of the agent, without a container engine.
    Image(image::Options),
    /// Runs a program until standard input closes, so that it cannot outlive who started it.
    #[command(hide = true)]
    Guard(guard::Options),
}

fn main() -> ExitCode {
    run(Cli::parse().task).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(task: Task) -> anyhow::Result<ExitCode> {
    match task {
        Task::Demo(options) => demo::run(&options),
        Task::Test(options) => test::run(&options),
        Task::Promises => promises::print(),
        Task::Tidy => tidy::print(),
        Task::Ebpf(options) => ebpf::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Kube(options) => kube::run(&options),
        Task::Deploy(options) => deploy::run(&options),
        Task::Image(options) => image::run(&options),
        Task::Guard(options) => guard::run(&options),
    }
}
