use ingress_core::diagnostic::{Diagnostic, Severity};
use ingress_core::name::{Kind, ObjectRef};

use super::*;

fn ran(args: &[&str]) -> (Exit, String) {
    let mut out = Vec::new();
    let args = std::iter::once("ingress-agent")
        .chain(args.iter().copied())
        .map(OsString::from)
        .collect();
    let exit = dispatch(args, &mut out, |_| Ok(()));
    (exit, String::from_utf8(out).unwrap())
}

#[test]
fn the_flags_and_commands_do_not_contradict_each_other() {
    Cli::command().debug_assert();
}

#[test]
fn completions_are_printed_for_bash_zsh_and_fish() {
    for shell in ["bash", "zsh", "fish"] {
        let (exit, script) = ran(&["completions", shell]);
        assert_eq!(exit, Exit::Ok);
        assert!(
            script.contains("ingress-agent") && script.contains("access-log-format"),
            "{shell}"
        );
    }
}

#[test]
fn the_help_of_run_names_every_settings_unit_and_default() {
    let units = [
        ("DURATION", "(ms, s, m, h)"),
        ("SIZE", "in bytes"),
        ("N", "(a count)"),
        ("RATE", "a second"),
        ("BOOL", "true or false"),
        ("ADDR", "ADDRESS:PORT|health"),
        ("CIDR", "(CIDR)"),
        ("SHARE", "0 to 1"),
    ];
    for arg in crate::config::flags::command()
        .get_arguments()
        .filter(|arg| arg.get_id() != "help")
    {
        let help = arg.get_help().unwrap().to_string();
        let value = arg.get_value_names().unwrap()[0].as_str();
        if let Some((_, unit)) = units.iter().find(|(name, _)| *name == value) {
            assert!(
                unit.split('|').any(|unit| help.contains(unit)),
                "--{} does not name its unit: {help}",
                arg.get_id()
            );
        }
        let optional = ["FILE", "DIR", "BACKEND", "SECRET"].contains(&value);
        let default = !arg.get_default_values().is_empty() || help.contains("[default: ");
        assert!(optional || default, "--{} names no default", arg.get_id());
        assert!(
            arg.get_help_heading().is_some(),
            "--{} stands under no heading",
            arg.get_id()
        );
    }
}

#[test]
fn help_teaches_by_examples_and_exit_codes() {
    for args in [&["--help"][..], &["run", "--help"], &["check", "--help"]] {
        let (exit, help) = ran(args);
        assert_eq!(exit, Exit::Ok);
        assert!(
            help.contains("Examples:") && help.contains("Exit codes:"),
            "{args:?}"
        );
    }
    assert!(ran(&["run", "--help"]).1.contains("[default: 30s]"));
}

#[test]
fn a_wrong_command_line_exits_with_2() {
    assert_eq!(ran(&["run", "--no-such-flag"]).0, Exit::Usage);
    assert_eq!(ran(&["run", "--manifests=x", "--workers=0"]).0, Exit::Usage);
    assert_eq!(ran(&["check", "/nonexistent/folder"]).0, Exit::Usage);
    assert_eq!(ran(&[]).0, Exit::Usage);
}

#[test]
fn run_serves_the_resolved_configuration_and_says_when_it_fails() {
    let args = |more: &[&str]| {
        ["ingress-agent", "run", "--manifests=x"]
            .iter()
            .chain(more)
            .map(OsString::from)
            .collect::<Vec<_>>()
    };
    let mut seen = None;
    let exit = dispatch(args(&["--http=127.0.0.1:0"]), &mut Vec::new(), |config| {
        seen = Some(config.http);
        Ok(())
    });
    assert_eq!(
        (exit, seen),
        (Exit::Ok, Some(vec!["127.0.0.1:0".parse().unwrap()]))
    );
    assert_eq!(
        dispatch(args(&[]), &mut Vec::new(), |_| anyhow::bail!("port taken")),
        Exit::Failed
    );
}

#[test]
fn check_exits_by_the_worst_problem_found() {
    let object = ObjectRef::new(Kind::Ingress, "shop", "web");
    let found = |severities: &[Severity]| {
        let diagnostics = severities
            .iter()
            .map(|s| Diagnostic::new(*s, &object, "spec", "Odd", "odd"))
            .collect();
        check::verdict(&check::sum_up(1, 1, diagnostics))
    };
    assert_eq!(found(&[]), Exit::Ok);
    assert_eq!(found(&[Severity::Info]), Exit::Ok);
    assert_eq!(found(&[Severity::Info, Severity::Warning]), Exit::Warnings);
    assert_eq!(found(&[Severity::Warning, Severity::Error]), Exit::Failed);
}

#[test]
fn check_prints_one_problem_a_line_whatever_a_manifest_holds() {
    let object = ObjectRef::new(Kind::Ingress, "shop", "we\u{1b}[2Jb");
    let odd = Diagnostic::new(Severity::Error, &object, "spec", "Odd", "two\nlines");
    let text = check::text(&check::sum_up(1, 0, vec![odd.clone(), odd]));
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(!text.contains('\u{1b}'));
}

#[test]
fn check_of_an_empty_folder_finds_nothing_and_prints_json_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let (exit, text) = ran(&["check", path, "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["ingresses"], 0);
    assert_eq!(json["errors"], 0, "{json}");
    assert_ne!(exit, Exit::Usage);
}

#[test]
fn a_probe_says_yes_for_200_alone_and_no_where_nobody_answers() {
    use std::io::Read as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let socket = format!("--socket={}", path.display());
    assert_eq!(ran(&["probe", "ready", &socket]).0, Exit::Failed, "nobody");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    for (question, asked, answer, exit) in [
        ("ready", "GET /readyz ", "HTTP/1.1 200 OK\r\n\r\nok\n", Exit::Ok),
        (
            "live",
            "GET /healthz ",
            "HTTP/1.1 503 No\r\n\r\nworker 0\n",
            Exit::Failed,
        ),
        ("live", "GET /healthz ", "", Exit::Failed),
    ] {
        let agent = listener.try_clone().unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = agent.accept().unwrap();
            let mut head = vec![0; 200];
            let read = stream.read(&mut head).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&head[..read]).into_owned()
        });
        assert_eq!(ran(&["probe", question, &socket]).0, exit, "{answer:?}");
        let head = thread.join().unwrap();
        assert!(head.starts_with(asked), "{head}");
    }
    assert_eq!(ran(&["probe", "lively", &socket]).0, Exit::Usage);
}
