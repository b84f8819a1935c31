//! `cargo xtask deploy`: the plain manifests are what Helm renders from the chart, kept in the repository for those without Helm.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, bail};

use crate::kube;
use crate::workspace::root;

const CHART: &str = "deploy/chart";
const MANIFESTS: &str = "deploy/manifests/install.yaml";
const HEAD: &str = "# Made by `cargo xtask deploy render` from deploy/chart, with its default values; to be changed there.\n";

#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    task: Task,
}

#[derive(clap::Subcommand)]
enum Task {
    /// Write deploy/manifests/install.yaml.
    Render {
        /// Change nothing: compare the kept file with what the chart gives.
        #[arg(long)]
        check: bool,
    },
    /// Build Helm once, and print where it is.
    Helm,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let helm = kube::helm()?;
    match options.task {
        Task::Helm => println!("{}", helm.display()),
        Task::Render { check: false } => {
            let text = render(&helm)?;
            std::fs::create_dir_all(kept().parent().unwrap_or(root()))?;
            std::fs::write(kept(), &text).context(MANIFESTS)?;
            println!("{MANIFESTS}: {} lines", text.lines().count());
        }
        Task::Render { check: true } => {
            let problems = problems(&helm)?;
            problems.iter().for_each(|problem| println!("{problem}"));
            if !problems.is_empty() {
                return Ok(ExitCode::FAILURE);
            }
            println!("{MANIFESTS} is what {CHART} gives");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What is wrong with the kept manifests, a line each.
pub(crate) fn problems(helm: &Path) -> anyhow::Result<Vec<String>> {
    let rendered = render(helm)?;
    let kept = std::fs::read_to_string(kept()).context(MANIFESTS)?;
    Ok(first_difference(&kept, &rendered)
        .map(|what| {
            format!("{MANIFESTS} is not what {CHART} gives ({what}): run `cargo xtask deploy render`")
        })
        .into_iter()
        .collect())
}

fn kept() -> PathBuf {
    root().join(MANIFESTS)
}

fn render(helm: &Path) -> anyhow::Result<String> {
    let output = Command::new(helm)
        .args(["template", "ingress-agent", CHART, "--namespace", "ingress-agent"])
        .args(["--set", "createNamespace=true"])
        .current_dir(root())
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {}", helm.display()))?;
    if !output.status.success() {
        bail!(
            "helm template {CHART}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let text = String::from_utf8(output.stdout).context("helm's output")?;
    Ok(format!("{HEAD}{text}"))
}

fn first_difference(kept: &str, rendered: &str) -> Option<String> {
    let differs = kept
        .lines()
        .zip(rendered.lines())
        .position(|(kept, rendered)| kept != rendered);
    match differs {
        Some(line) => Some(format!("line {}", line + 1)),
        None if kept != rendered => Some("one of them ends earlier".to_owned()),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_told_by_its_line() {
        assert_eq!(first_difference("a\nb\n", "a\nb\n"), None);
        assert_eq!(first_difference("a\nb\n", "a\nc\n").as_deref(), Some("line 2"));
        assert!(first_difference("a\n", "a\nb\n").is_some());
    }
}
