use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use ingress_core::host::HostPattern;
use ingress_core::name::{Kind, ObjectRef};
use ingress_core::reason::Reason;
use ingress_core::resource::{RoutePolicy, UnownedHost};
use proptest::prelude::*;

use super::*;
use crate::config::Sample;
use crate::telemetry::record::{RequestRecord, TlsRecord, TlsVersion, UpstreamRecord};
use crate::telemetry::samples;

const PATIENCE: Duration = Duration::from_secs(90);

fn settings(mode: AccessLogMode, format: LogFormat, sample: &str) -> config::AccessLog {
    config::AccessLog {
        mode,
        format,
        sample: sample.parse::<Sample>().unwrap(),
    }
}

/// Sends what is written to a channel.
struct Tell(Sender<Vec<u8>>);

impl Write for Tell {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = self.0.send(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What the log holds after these records.
fn logged(settings: config::AccessLog, records: &[RequestRecord<'_>]) -> String {
    let (tell, told): (_, Receiver<Vec<u8>>) = channel();
    let (sink, writer) = start_on(settings, Tell(tell)).unwrap();
    let log = sink.worker();
    records.iter().for_each(|record| log.log(record));
    drop((log, sink));
    assert!(writer.finish(PATIENCE));
    String::from_utf8(told.iter().flatten().collect()).unwrap()
}

fn json(record: &RequestRecord<'_>) -> serde_json::Value {
    let text = logged(settings(AccessLogMode::All, LogFormat::Json, "1"), &[*record]);
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_line_tells_the_whole_request() {
    let snapshot = samples::snapshot(&["web"]);
    let cluster = samples::cluster("web");
    let record = RequestRecord {
        route: snapshot.routes().next().map(|route| &**route),
        upstream: Some(UpstreamRecord {
            cluster: &cluster,
            endpoint: Some("10.1.2.3:8080".parse().unwrap()),
            attempts: 2,
            connect: Some(Duration::from_micros(400)),
            first_byte: Some(Duration::from_millis(2)),
            reused: false,
        }),
        tls: Some(TlsRecord {
            version: TlsVersion::Tls13,
            server_name: Some("web.example"),
        }),
        request_id: b"abc",
        user_agent: Some(b"curl"),
        ..samples::record()
    };
    let line = json(&record);
    for (field, value) in [
        ("time", "2024-02-29T12:34:56.789Z"),
        ("client", "192.0.2.7"),
        ("peer", "10.0.0.1:40000"),
        ("listener", "http"),
        ("protocol", "HTTP/1.1"),
        ("tls_version", "TLSv1.3"),
        ("tls_server_name", "web.example"),
        ("method", "GET"),
        ("host", "web.example"),
        ("target", "/a?b=c"),
        ("namespace", "shop"),
        ("ingress", "web"),
        ("path", "Prefix /"),
        ("service_namespace", "shop"),
        ("service", "web"),
        ("service_port", "80"),
        ("endpoint", "10.1.2.3:8080"),
        ("request_id", "abc"),
        ("user_agent", "curl"),
    ] {
        assert_eq!(line[field], value, "{field}");
    }
    assert_eq!(
        (&line["status"], &line["attempts"], &line["reused"]),
        (&200.into(), &2.into(), &false.into())
    );
    assert_eq!(
        (&line["duration_ms"], &line["connect_ms"]),
        (&3.042.into(), &0.4.into())
    );
    assert!(line.get("reason").is_none() && line.get("error").is_none() && line.get("referer").is_none());
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/observability.md");
    let page = std::fs::read_to_string(page).unwrap();
    for field in line.as_object().unwrap().keys() {
        assert!(
            page.contains(&format!("| `{field}` |")),
            "{field} is not documented"
        );
    }
}

#[test]
fn an_unowned_hosts_line_names_the_ingress_and_the_mismatch_in_both_forms() {
    let unowned = UnownedHost {
        host: HostPattern::parse("web.example").unwrap(),
        object: Arc::new(ObjectRef::new(Kind::Ingress, "shop", "web")),
        why: "ingressClassName \"nginx\" names no IngressClass".into(),
    };
    let record = RequestRecord {
        status: 404,
        reason: Some(Reason::HostUnowned),
        unowned: Some(&unowned),
        ..samples::record()
    };
    let line = json(&record);
    assert_eq!(line["reason"], "host_unowned");
    assert_eq!(line["unowned_object"], "Ingress shop/web");
    assert_eq!(
        line["unowned_because"],
        "ingressClassName \"nginx\" names no IngressClass"
    );
    let text = logged(settings(AccessLogMode::All, LogFormat::Text, "1"), &[record]);
    assert!(
        text.contains(r#"unowned="Ingress shop/web: ingressClassName \"nginx\" names no IngressClass""#),
        "{text}"
    );
}

#[test]
fn errors_says_that_only_failures_are_logged() {
    let fine = samples::record();
    let redirect = RequestRecord {
        status: 308,
        reason: Some(Reason::RedirectHttps),
        ..fine
    };
    let missing = RequestRecord { status: 404, ..fine };
    let left = RequestRecord {
        status: 200,
        reason: Some(Reason::ClientClosed),
        ..fine
    };
    let text = logged(
        settings(AccessLogMode::Errors, LogFormat::Text, "1"),
        &[fine, redirect, missing, left],
    );
    assert_eq!(text.lines().count(), 2, "{text}");
}

#[test]
fn a_sample_leaves_out_successes_and_never_errors() {
    let missing = RequestRecord {
        status: 404,
        ..samples::record()
    };
    let mut records = vec![samples::record(); 1_000];
    records.push(missing);
    assert_eq!(
        logged(settings(AccessLogMode::All, LogFormat::Text, "0"), &records)
            .lines()
            .count(),
        1
    );
    let some = logged(settings(AccessLogMode::All, LogFormat::Text, "1/2"), &records)
        .lines()
        .count();
    assert!((200..800).contains(&some), "{some}");
}

#[test]
fn off_logs_nothing_and_starts_no_writer() {
    assert_eq!(
        logged(
            settings(AccessLogMode::Off, LogFormat::Json, "1"),
            &[samples::record()]
        ),
        ""
    );
}

#[test]
fn a_route_may_turn_its_log_off() {
    let policy = RoutePolicy {
        access_log: false,
        ..RoutePolicy::default()
    };
    let snapshot = samples::snapshot_with(&["quiet"], &policy);
    let quiet = RequestRecord {
        route: snapshot.routes().next().map(|route| &**route),
        ..samples::record()
    };
    assert_eq!(
        logged(settings(AccessLogMode::All, LogFormat::Json, "1"), &[quiet]),
        ""
    );
}

#[test]
fn hostile_bytes_stay_readable_and_forge_nothing() {
    let target = b"/\"\\\r\n{\"status\":200}\x00\x1b[2J\xff\xc3\xa9\xe2\x80\xa8\xe2\x80\xae";
    let record = RequestRecord {
        target,
        ..samples::record()
    };
    assert_eq!(
        json(&record)["target"],
        "/\"\\\r\n{\"status\":200}\0\u{1b}[2J\\xff\u{e9}\u{2028}\u{202e}"
    );
    let text = logged(settings(AccessLogMode::All, LogFormat::Text, "1"), &[record]);
    let wanted = r#""GET /\"\\\x0d\x0a{\"status\":200}\x00\x1b[2J\xffé\u{2028}\u{202e} HTTP/1.1""#;
    assert!(text.contains(wanted), "{text}");
}

proptest! {
    #[test]
    fn no_bytes_can_end_a_line_or_a_string(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let record = RequestRecord { target: &bytes, host: &bytes, method: &bytes, user_agent: Some(&bytes), referer: Some(&bytes), ..samples::record() };
        let mut out = Vec::new();
        line::json(&mut out, &record);
        let parsed: serde_json::Value = serde_json::from_slice(&out).unwrap();
        prop_assert_eq!(parsed["status"].as_u64(), Some(200));
        line::text(&mut out, &record);
        let text = String::from_utf8(out).unwrap();
        prop_assert_eq!(text.matches(char::is_control).count(), 2, "one line feed each");
        if let Ok(plain) = std::str::from_utf8(&bytes) {
            prop_assert_eq!(parsed["target"].as_str(), Some(plain));
        }
    }
}

#[tokio::test]
async fn a_single_line_does_not_wait_for_others() {
    let (tell, told) = channel();
    let (sink, writer) = start_on(settings(AccessLogMode::All, LogFormat::Json, "1"), Tell(tell)).unwrap();
    let log = sink.worker();
    log.log(&samples::record());
    let read = tokio::task::spawn_blocking(move || told.recv_timeout(PATIENCE));
    let flushing = AccessLog::keep_flushing(Rc::downgrade(&log));
    let line = tokio::select! {
        line = read => line.unwrap().unwrap(),
        () = flushing => panic!("the worker's log still lives"),
    };
    assert!(line.ends_with(b"}\n"));
    drop((log, sink));
    assert!(writer.finish(PATIENCE));
}

/// Blocks every write until it is opened.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

struct Blocked(Arc<Gate>, Sender<Vec<u8>>);

impl Write for Blocked {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let open = self.0.open.lock().unwrap();
        drop(self.0.opened.wait_while(open, |open| !*open).unwrap());
        let _ = self.1.send(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_blocked_output_never_blocks_traffic_and_what_is_dropped_is_counted_and_told() {
    const REQUESTS: u64 = 20_000;
    let gate = Arc::new(Gate::default());
    let (tell, told) = channel();
    let (sink, writer) = start_on(
        settings(AccessLogMode::All, LogFormat::Json, "1"),
        Blocked(Arc::clone(&gate), tell),
    )
    .unwrap();
    let (log, counts) = (sink.worker(), sink.counts());
    let record = samples::record();
    // Returns although nothing can be written: the test would hang here otherwise.
    for _ in 0..REQUESTS {
        log.log(&record);
    }
    assert!(counts.dropped() > 0, "the queue is bounded");
    assert!(
        log.pending.borrow().bytes.capacity() < 4 * BATCH_BYTES,
        "a worker's own buffer is bounded"
    );
    *gate.open.lock().unwrap() = true;
    gate.opened.notify_all();
    drop((log, sink));
    assert!(writer.finish(PATIENCE));
    let text = String::from_utf8(told.iter().flatten().collect()).unwrap();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let written = lines.iter().filter(|line| line.get("status").is_some()).count() as u64;
    let told: u64 = lines
        .iter()
        .filter_map(|line| line.get("dropped")?.as_u64())
        .sum();
    assert_eq!((written, told), (counts.written(), counts.dropped()));
    assert_eq!(written + told, REQUESTS);
}

#[test]
fn an_output_that_nobody_reads_does_not_hold_up_the_end() {
    let gate = Arc::new(Gate::default());
    let (tell, _told) = channel();
    let (sink, writer) = start_on(
        settings(AccessLogMode::All, LogFormat::Json, "1"),
        Blocked(Arc::clone(&gate), tell),
    )
    .unwrap();
    sink.worker().log(&samples::record());
    drop(sink);
    assert!(!writer.finish(Duration::from_millis(10)));
    *gate.open.lock().unwrap() = true;
    gate.opened.notify_all();
}
