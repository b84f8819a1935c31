use std::process::Command;

use super::*;

const CHILD: &str = "INGRESS_AGENT_TEST_CHILD_ARGS";

/// Not a test of its own: [`resolved_in_child`] starts it in a process whose environment it may choose.
#[test]
fn child_prints_its_configuration() {
    let Ok(args) = std::env::var(CHILD) else { return };
    let args = args.split('\n').filter(|arg| !arg.is_empty()).map(str::to_owned);
    match Config::from_args(args) {
        Ok(config) => println!("\nRESOLVED {}", serde_json::to_string(&config).unwrap()),
        Err(error) => println!("\nREFUSED {error}"),
    }
}

fn resolved_in_child(args: &[&str], env: &[(&str, &str)]) -> serde_json::Value {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "config::tests::child_prints_its_configuration",
            "--nocapture",
        ])
        .env(CHILD, args.join("\n"))
        .envs(env.iter().copied())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("RESOLVED "));
    serde_json::from_str(line.unwrap_or_else(|| panic!("{text}"))).unwrap()
}

fn file(text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.yaml");
    std::fs::write(&path, text).unwrap();
    let flag = format!("--config={}", path.display());
    (dir, flag)
}

fn config(args: &[&str]) -> Config {
    Config::from_args(["--manifests=site"].iter().chain(args)).unwrap()
}

fn refused(args: &[&str]) -> String {
    Config::from_args(args).unwrap_err().to_string()
}

fn refused_file(text: &str) -> String {
    let (_dir, flag) = file(text);
    refused(&[&flag])
}

#[test]
fn a_flag_wins_over_the_environment_which_wins_over_the_file_which_wins_over_the_default() {
    let (_dir, flag) =
        file("manifests: from-file\nhttp: 127.0.0.1:1\nhttps: 127.0.0.1:1\nidle-timeout: 1s\n");
    let env = [
        ("INGRESS_AGENT_HTTP", "127.0.0.1:2"),
        ("INGRESS_AGENT_HTTPS", "127.0.0.1:2"),
    ];
    let resolved = resolved_in_child(&[&flag, "--http=127.0.0.1:3"], &env);
    assert_eq!(resolved["http"], serde_json::json!(["127.0.0.1:3"]));
    assert_eq!(resolved["https"], serde_json::json!(["127.0.0.1:2"]));
    assert_eq!(resolved["limits"]["idle_timeout"], "1s");
    assert_eq!(resolved["limits"]["head_timeout"], "15s");
}

#[test]
fn the_file_can_be_named_by_the_environment() {
    let (_dir, flag) = file("manifests: from-file\n");
    let path = flag.strip_prefix("--config=").unwrap();
    assert_eq!(
        resolved_in_child(&[], &[("INGRESS_AGENT_CONFIG", path)])["source"]["manifests"],
        "from-file"
    );
}

#[test]
fn lists_are_repeated_flags_or_commas_in_the_environment_or_a_list_in_the_file() {
    let wanted = serde_json::json!(["10.0.0.0/8", "fd00::/8"]);
    let (_dir, flag) = file("manifests: x\ntrusted-proxies:\n  - 10.0.0.0/8\n  - fd00::/8\n");
    let env = [("INGRESS_AGENT_TRUSTED_PROXIES", "10.0.0.0/8,fd00::/8")];
    assert_eq!(resolved_in_child(&[&flag], &[])["trusted_proxies"], wanted);
    assert_eq!(
        resolved_in_child(&["--manifests=x"], &env)["trusted_proxies"],
        wanted
    );
    let flags = [
        "--manifests=x",
        "--trusted-proxies=10.0.0.0/8",
        "--trusted-proxies",
        "fd00::/8",
    ];
    assert_eq!(resolved_in_child(&flags, &[])["trusted_proxies"], wanted);
}

#[test]
fn every_setting_has_an_environment_variable_of_its_own_name() {
    for arg in flags::command()
        .get_arguments()
        .filter(|arg| arg.get_id() != "help")
    {
        let long = arg.get_long().unwrap();
        let wanted = format!("INGRESS_AGENT_{}", long.to_uppercase().replace('-', "_"));
        assert_eq!(arg.get_env().unwrap(), wanted.as_str(), "--{long}");
    }
}

#[test]
fn the_defaults_are_the_documented_ones() {
    let config = config(&[]);
    assert_eq!(config.http, ["[::]:80".parse().unwrap()]);
    assert_eq!(config.https, ["[::]:443".parse().unwrap()]);
    assert_eq!(config.admin, Some("127.0.0.1:9090".parse().unwrap()));
    assert!((1..=8).contains(&config.workers));
    assert_eq!(config.served.classes.controllers, ["ingress-agent.io/controller"]);
    assert_eq!(config.served.classes.ingress_class, "ingress-agent");
    assert!(!config.served.classes.watch_ingress_without_class);
    assert_eq!(config.access_log.mode, AccessLogMode::All);
    assert!(config.reason_header && config.server_header);
}

#[test]
fn an_unknown_key_is_refused_with_file_line_and_a_suggestion() {
    let problem = refused_file("manifests: x\n\ndrain_timeout: 30s\n");
    assert!(
        problem.ends_with("agent.yaml:3: drain_timeout: is not a setting: did you mean drain-timeout?"),
        "{problem}"
    );
    let problem = refused_file("manifests: x\nbananas: 3\n");
    assert!(
        problem.contains("agent.yaml:2: bananas: is not a setting"),
        "{problem}"
    );
}

#[test]
fn a_value_of_the_wrong_form_is_refused_with_file_line_key_and_what_was_expected() {
    for (line, wanted) in [
        (
            "http: [\":80\", \"example.com\"]",
            "http: \"example.com\" is not valid: expected ADDRESS:PORT",
        ),
        (
            "idle-timeout: 30",
            "idle-timeout: \"30\" is not valid: expected a unit: 30s",
        ),
        ("idle-timeout: 0s", "expected more than zero"),
        ("idle-timeout: 99999999999999999999h", "expected a duration"),
        (
            "max-head-size: 64q",
            "expected a size in bytes such as 8192, 64k or 1m",
        ),
        (
            "max-head-size: 99999999999999m",
            "expected a size between 1k and 16m",
        ),
        ("access-log: some", "expected off or all or errors"),
        ("access-log-sample: 2", "expected a share of requests from 0 to 1"),
        (
            "access-log-sample: nan",
            "expected a share of requests from 0 to 1",
        ),
        ("default-backend: web", "expected NAMESPACE/SERVICE:PORT"),
        ("default-certificate: web", "expected NAMESPACE/NAME"),
        (
            "trusted-proxies: [10.0.0.0/33]",
            "expected a network such as 10.0.0.0/8",
        ),
        ("drain-timeout: [1s, 2s]", "is a list: expected one value"),
        ("limits: {a: b}", "limits: is not a setting"),
        ("drain-timeout: {a: b}", "is a mapping: expected one value"),
        ("drain-timeout:", "has no value"),
        ("http: []", "is an empty list"),
    ] {
        let problem = refused_file(&format!("manifests: x\n{line}\n"));
        assert!(
            problem.contains("agent.yaml:2: ") && problem.contains(wanted),
            "{line}\n{problem}"
        );
    }
}

#[test]
fn what_is_not_yaml_is_refused_with_file_and_line() {
    let problem = refused_file("manifests: x\nhttp: [\n");
    assert!(
        problem.contains("agent.yaml:") && problem.contains("expected a YAML mapping"),
        "{problem}"
    );
    assert!(refused_file("- a\n").contains("agent.yaml:1: "));
    assert!(refused(&["--config=/nonexistent/agent.yaml"]).contains("cannot be read"));
}

#[test]
fn plain_words_of_yaml_mean_what_they_say() {
    let (_dir, flag) = file(
        "manifests: x\nhttps: off\nreason-header: false\nworkers: 3\naccess-log-sample: 0.25\naccess-log: off\n",
    );
    let config = Config::from_args([flag]).unwrap();
    assert!(config.https.is_empty() && !config.reason_header);
    assert_eq!((config.workers, config.access_log.mode), (3, AccessLogMode::Off));
    assert!((config.access_log.sample.share() - 0.25).abs() < 1e-9);
}

#[test]
fn durations_sizes_and_samples_are_read_by_their_units() {
    assert_eq!(units::duration("500ms"), Ok(Duration::from_millis(500)));
    assert_eq!(units::duration("2h"), Ok(Duration::from_secs(7_200)));
    assert_eq!(units::size("64k"), Ok(65_536));
    for text in ["0.1", "10%", "1/10"] {
        assert!(
            (text.parse::<Sample>().unwrap().share() - 0.1).abs() < 1e-9,
            "{text}"
        );
    }
    for text in ["", "s", "1d", "-1s", "1.5s", "é"] {
        assert!(units::duration(text).is_err(), "{text}");
    }
}

#[test]
fn a_dns_server_is_an_address_with_or_without_a_port() {
    let config = config(&["--dns-server=10.0.0.10,fd00::a", "--dns-server=[fd00::b]:5353"]);
    let shown: Vec<_> = config.dns_servers.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["10.0.0.10:53", "[fd00::a]:53", "[fd00::b]:5353"]);
    let message = refused(&["--manifests=x", "--dns-server=dns.example"]);
    assert!(message.contains("ADDRESS:PORT"), "{message}");
}

#[test]
fn settings_that_make_no_sense_together_are_refused() {
    assert!(refused(&[]).contains("there is no source of objects"));
    assert!(refused(&["--manifests=x", "--http=off", "--https=off"]).contains("both off"));
    assert!(refused(&["--manifests=x", "--proxy-protocol=on"]).contains("trusted-proxies is empty"));
    assert!(refused(&["--manifests=x", "--http=off", "--http=:80"]).contains("one or the other"));
}

#[test]
fn the_configuration_page_is_what_the_flags_make_it() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    let page = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        page == docs::page(),
        "run: ingress-agent docs config > docs/configuration.md"
    );
}

#[test]
fn a_range_of_ports_is_an_address_for_each_of_them() {
    let config = config(&[
        "--http",
        "10.0.0.5:8000-8002,:80",
        "--https",
        "[fd00::5]:8443-8443",
    ]);
    let shown: Vec<_> = config.http.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        ["10.0.0.5:8000", "10.0.0.5:8001", "10.0.0.5:8002", "[::]:80"]
    );
    assert_eq!(config.https.len(), 1);
    for wrong in [
        ":8100-8000",
        ":0-5",
        ":8000-",
        ":1-65535",
        ":8000-8001-8002",
        "10.0.0.5-80",
    ] {
        assert!(units::listen(wrong).is_err(), "{wrong}");
    }
    assert!(refused(&["--manifests=site", "--admin=:9090-9091"]).contains("admin is a range"));
}

#[test]
fn of_a_file_that_is_read_again_what_needs_a_restart_and_what_is_overridden_in_vain_are_known_by_name() {
    let (dir, flag) = file("http: 127.0.0.1:1\nhttps: 127.0.0.1:2\nworkers: 1\nlog-level: info\n");
    let args = ["--http=127.0.0.1:9", "--log-level=warn", &flag];
    let before = config(&args).typed;
    let again = |text: &str| {
        std::fs::write(dir.path().join("agent.yaml"), text).unwrap();
        before.again().unwrap().typed
    };
    let same = again("workers: 1\nlog-level: info\nhttps: 127.0.0.1:2\nhttp: 127.0.0.1:1\n");
    assert!(before.needs_restart(&same).is_empty() && before.in_vain(&same).is_empty());
    let newer = again("https: 127.0.0.1:3\nworkers: 2\nhttp: 127.0.0.1:7\n");
    assert_eq!(before.needs_restart(&newer), ["workers"]);
    assert_eq!(before.in_vain(&newer), ["http", "log-level"]);
}
