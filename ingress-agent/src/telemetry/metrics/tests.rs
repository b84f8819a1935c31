use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use ingress_core::diagnostic::{Diagnostic, Severity};
use ingress_core::name::{Kind, ObjectRef};
use ingress_core::reason::Reason;
use ingress_core::resource::CertificateKey;
use ingress_core::snapshot::Snapshot;

use super::collect::{Collected, collect};
use super::histogram::Histogram;
use super::render::{Format, Process, Queues, render};
use super::*;
use crate::account::TcpTotals;
use crate::kernel::reject::AttachedView;
use crate::kernel::rights::RightsView;
use crate::kernel::steering::AddressView;
use crate::kernel::{HookView, KernelView};
use crate::listener::Listener;
use crate::published::Published;
use crate::series::{LiveSeries, SharedSeries};
use crate::telemetry::access_log::Counts;
use crate::telemetry::record::{HttpVersion, RequestRecord, UpstreamRecord};
use crate::telemetry::samples;

fn live(snapshot: &Snapshot, limit: usize) -> SharedSeries {
    Arc::new(ArcSwap::from_pointee(LiveSeries::of(snapshot, limit)))
}

fn published() -> Published {
    Published {
        generation: 7,
        changed: SystemTime::UNIX_EPOCH + Duration::from_secs(100),
        snapshot: Arc::new(Snapshot::empty()),
        diagnostics: Arc::new([]),
        objects: vec![("Ingress", 3)],
        certificates: BTreeMap::new(),
        unowned: 2,
    }
}

fn steered() -> KernelView {
    KernelView {
        accounting: Box::default(),
        queues: Box::default(),
        rejection: Box::default(),
        rights: RightsView::default(),
        steering: HookView {
            on: true,
            reason: String::new(),
        },
        addresses: vec![AddressView {
            address: "[::]:80".parse().unwrap(),
            share: 10_000,
            steered: 12,
            left: 3,
            unclaimed: 0,
            refused: 0,
        }],
    }
}

#[test]
fn each_hook_says_by_itself_whether_it_is_at_work() {
    let mut view = steered();
    view.rejection.on = true;
    view.rejection.interfaces = vec![
        AttachedView {
            interface: "eth0".to_owned(),
            by: "xdp (native)".to_owned(),
            why: String::new(),
            pinned: String::new(),
        },
        AttachedView {
            interface: "eth1".to_owned(),
            by: "nothing".to_owned(),
            why: "tc: not to be had".to_owned(),
            pinned: String::new(),
        },
    ];
    let mut page = super::text::Page::new(Format::Prometheus);
    super::kernel::render(&mut page, &view);
    let page = page.finish();
    for (hook, on) in [("rejection", 1), ("tc", 0), ("xdp", 1), ("accounting", 0)] {
        let line = format!("ingress_agent_kernel_hook{{hook=\"{hook}\"}} {on}");
        assert!(page.contains(&line), "{line}: {page}");
    }
}

#[test]
fn steered_and_left_connections_are_counted_by_address() {
    let page = page(ShardSnapshot::default());
    assert!(
        page.contains("ingress_agent_kernel_hook{hook=\"steering\"} 1"),
        "{page}"
    );
    assert!(
        page.contains("ingress_agent_steering_connections_total{address=\"[::]:80\",verdict=\"steered\"} 12"),
        "{page}"
    );
}

fn page_of(format: Format, total: ShardSnapshot, published: &Published) -> String {
    let collected = Collected {
        total,
        answered: vec![true, false],
    };
    let process = Process {
        published,
        folded: 5,
        access_log: &Counts::default(),
        draining: false,
        ended: Some(crate::drain::Drain::default().tally()),
        tcp: &TcpTotals {
            counted: true,
            ..TcpTotals::default()
        },
        source: None,
        kernel: &steered(),
        queues: Queues::default(),
    };
    render(format, &collected, &process)
}

fn page(total: ShardSnapshot) -> String {
    page_of(Format::Prometheus, total, &published())
}

fn record_all(shard: &Shard, snapshot: &Snapshot) {
    for route in snapshot.routes() {
        let cluster = samples::cluster(&route.object.name);
        let upstream = UpstreamRecord {
            cluster: &cluster,
            endpoint: None,
            attempts: 2,
            connect: Some(Duration::from_millis(1)),
            first_byte: Some(Duration::from_millis(30)),
            reused: false,
        };
        shard.record(&RequestRecord {
            route: Some(route),
            upstream: Some(upstream),
            ..samples::record()
        });
    }
}

fn has(page: &str, line: &str) {
    assert!(page.lines().any(|have| have == line), "{line}\n{page}");
}

#[test]
fn requests_are_counted_by_route_and_class_and_timed_and_add_up_over_workers() {
    let snapshot = samples::snapshot(&["web"]);
    let series = live(&snapshot, 10);
    let (one, two) = (Shard::new(Arc::clone(&series)), Shard::new(series));
    record_all(&one, &snapshot);
    record_all(&two, &snapshot);
    two.record(&RequestRecord {
        status: 404,
        reason: Some(Reason::HostUnknown),
        ..samples::record()
    });
    let mut total = one.snapshot();
    total.add(two.snapshot());
    let page = page(total);
    for line in [
        "ingress_agent_requests_total{namespace=\"shop\",ingress=\"web\",code=\"2xx\"} 2",
        "ingress_agent_requests_total{namespace=\"_none\",ingress=\"_none\",code=\"4xx\"} 1",
        "ingress_agent_request_duration_seconds_bucket{namespace=\"shop\",ingress=\"web\",le=\"0.0025\"} 0",
        "ingress_agent_request_duration_seconds_bucket{namespace=\"shop\",ingress=\"web\",le=\"0.005\"} 2",
        "ingress_agent_request_duration_seconds_bucket{namespace=\"shop\",ingress=\"web\",le=\"+Inf\"} 2",
        "ingress_agent_request_duration_seconds_sum{namespace=\"shop\",ingress=\"web\"} 0.006084",
        "ingress_agent_upstream_connect_duration_seconds_count{namespace=\"shop\",service=\"web\"} 2",
        "ingress_agent_upstream_retries_total{namespace=\"shop\",service=\"web\"} 2",
        "ingress_agent_answers_total{reason=\"host_unknown\"} 1",
        "ingress_agent_response_body_bytes_total{namespace=\"shop\",ingress=\"web\"} 24",
    ] {
        has(&page, line);
    }
}

#[test]
fn beyond_the_bound_objects_are_counted_together_and_their_number_is_told() {
    let names: Vec<String> = (0..50).map(|i| format!("web{i}")).collect();
    let snapshot = samples::snapshot(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let series = live(&snapshot, 10);
    let shard = Shard::new(Arc::clone(&series));
    record_all(&shard, &snapshot);
    let total = shard.snapshot();
    assert_eq!((total.routes.len(), total.services.len()), (10, 10));
    assert_eq!(series.load().folded(), 80);
    has(
        &page(total),
        "ingress_agent_requests_total{namespace=\"_other\",ingress=\"_other\",code=\"2xx\"} 40",
    );
}

#[test]
fn memory_comes_back_when_routes_vanish_scraped_or_not() {
    let (old, new) = (samples::snapshot(&["a", "b", "c"]), samples::snapshot(&["d"]));
    let series = live(&old, 10);
    let (scraped, unscraped) = (Shard::new(Arc::clone(&series)), Shard::new(Arc::clone(&series)));
    record_all(&scraped, &old);
    record_all(&unscraped, &old);
    assert_eq!(scraped.snapshot().routes.len(), 3);
    series.store(Arc::new(LiveSeries::of(&new, 10)));
    assert_eq!(scraped.snapshot().routes.len(), 0);
    record_all(&unscraped, &new);
    assert_eq!(
        unscraped.series(),
        (1, 1),
        "the first new object sweeps the vanished"
    );
    // A request that outlives its route is counted, but brings no series back.
    record_all(&unscraped, &old);
    assert_eq!(unscraped.series(), (1, 1));
}

#[test]
fn connections_count_as_open_while_they_live() {
    let shard = Shard::new(live(&Snapshot::empty(), 10));
    let mut connection = shard.connection(Listener::Https);
    let unknown = shard.connection(Listener::Http);
    connection.speaks(HttpVersion::Http2);
    shard.tls_handshake(TlsOutcome::Failed);
    shard.refused(Refusal::SourceLimit);
    let open = page(shard.snapshot());
    has(
        &open,
        "ingress_agent_connections{listener=\"https\",protocol=\"HTTP/2\"} 1",
    );
    has(
        &open,
        "ingress_agent_connections{listener=\"http\",protocol=\"unknown\"} 1",
    );
    has(&open, "ingress_agent_tls_handshakes_total{result=\"failed\"} 1");
    has(
        &open,
        "ingress_agent_connections_refused_total{limit=\"source\"} 1",
    );
    drop((connection, unknown));
    let closed = page(shard.snapshot());
    has(
        &closed,
        "ingress_agent_connections{listener=\"https\",protocol=\"HTTP/2\"} 0",
    );
    has(
        &closed,
        "ingress_agent_connections{listener=\"http\",protocol=\"unknown\"} 0",
    );
    has(&closed, "ingress_agent_connections_total{listener=\"https\"} 1");
}

#[test]
fn backend_connections_are_told_as_the_workers_pools_count_them() {
    let shard = Shard::new(live(&Snapshot::empty(), 10));
    shard.upstream(UpstreamEvent::Ejected);
    let worker = |idle| ShardSnapshot {
        upstream_pool: UpstreamPool {
            created: idle,
            reused: 5,
            idle,
        },
        ..ShardSnapshot::default()
    };
    let mut total = shard.snapshot();
    total.add(worker(1));
    total.add(worker(2));
    let page = page(total);
    has(&page, "ingress_agent_upstream_connections_idle 3");
    has(&page, "ingress_agent_upstream_connections_created_total 3");
    has(&page, "ingress_agent_upstream_ejections_total 1");
}

#[test]
fn the_configuration_its_problems_and_certificates_are_told() {
    let object = ObjectRef::new(Kind::Ingress, "shop", "web");
    let secret = CertificateKey(Arc::new(ObjectRef::new(Kind::Secret, "shop", "web-tls")));
    let published = Published {
        diagnostics: Arc::new([Diagnostic::new(
            Severity::Error,
            &object,
            "spec",
            "ServiceNotFound",
            "gone",
        )]),
        certificates: BTreeMap::from([(secret, 1_900_000_000)]),
        ..published()
    };
    let page = page_of(Format::Prometheus, ShardSnapshot::default(), &published);
    for line in [
        "ingress_agent_config_generation 7",
        "ingress_agent_config_last_change_timestamp_seconds 100.000000",
        "ingress_agent_objects{kind=\"Ingress\"} 3",
        "ingress_agent_unowned_ingresses 2",
        "ingress_agent_diagnostics{reason=\"ServiceNotFound\",severity=\"error\"} 1",
        "ingress_agent_certificate_not_after_timestamp_seconds{namespace=\"shop\",secret=\"web-tls\"} 1900000000",
        "ingress_agent_folded_series 5",
        "ingress_agent_worker_stalled{worker=\"0\"} 0",
        "ingress_agent_worker_stalled{worker=\"1\"} 1",
    ] {
        has(&page, line);
    }
    assert!(
        page.contains("\nprocess_resident_memory_bytes ") && page.contains("\nprocess_cpu_seconds_total ")
    );
}

#[test]
fn label_values_are_escaped() {
    let mut page = ShardSnapshot::default();
    let object = Arc::new(ObjectRef::new(Kind::Ingress, "a\\b", "c\"d\ne"));
    page.routes.insert(
        object,
        shard::RouteSeries {
            by_class: [0, 0, 1, 0, 0, 0],
            ..Default::default()
        },
    );
    has(
        &self::page(page),
        r#"ingress_agent_requests_total{namespace="a\\b",ingress="c\"d\ne",code="2xx"} 1"#,
    );
}

#[test]
fn every_line_is_well_formed_and_every_sample_belongs_to_the_family_above_it() {
    let snapshot = samples::snapshot(&["web"]);
    let shard = Shard::new(live(&snapshot, 10));
    record_all(&shard, &snapshot);
    for format in [Format::Prometheus, Format::OpenMetrics] {
        let page = page_of(format, shard.snapshot(), &published());
        let mut family = String::new();
        for line in page
            .lines()
            .filter(|line| *line != "# EOF" && !line.starts_with("# HELP "))
        {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                family = rest.split(' ').next().unwrap().to_owned();
                continue;
            }
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(name.starts_with(&family), "{line} under {family}");
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
        assert_eq!(page.ends_with("# EOF\n"), format == Format::OpenMetrics);
    }
    assert_eq!(
        Format::for_accept("application/openmetrics-text;version=1.0.0,text/plain;q=0.5"),
        Format::OpenMetrics
    );
    assert_eq!(Format::for_accept("*/*"), Format::Prometheus);
}

#[test]
fn every_metric_is_documented() {
    let docs =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/observability.md")).unwrap();
    for line in page(ShardSnapshot::default()).lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let name = rest.split(' ').next().unwrap();
            assert!(docs.contains(&format!("`{name}`")), "{name} is not documented");
        }
    }
}

#[test]
fn a_histogram_counts_what_is_at_a_bound_within_it_and_keeps_what_is_above_the_last() {
    let mut histogram = Histogram::default();
    for duration in [Duration::from_micros(500), Duration::from_secs(61), Duration::MAX] {
        histogram.observe(duration);
    }
    let buckets: Vec<_> = histogram.cumulative().collect();
    assert_eq!((buckets[0], buckets.last()), (("0.0005", 1), Some(&("60", 1))));
    assert_eq!(histogram.count(), 3);
}

#[tokio::test]
async fn a_stalled_worker_is_named_and_does_not_hold_up_the_scrape() {
    let (alive, inbox) = mailbox();
    let (stalled, _never_read) = mailbox();
    let (gone, dropped) = mailbox();
    drop(dropped);
    let shard = Shard::new(live(&Snapshot::empty(), 10));
    shard.record(&samples::record());
    let local = tokio::task::LocalSet::new();
    local.spawn_local(inbox.serve(Rc::clone(&shard), UpstreamPool::default));
    let collected = local.run_until(collect(&[stalled, alive, gone])).await;
    assert_eq!(collected.answered, [false, true, false]);
    assert_eq!(collected.stalled().collect::<Vec<_>>(), [0, 2]);
    assert_eq!(collected.total.unrouted.by_class[2], 1);
}

/// The target is 100 ns in an optimised build; the bound here only catches an accident such as a copy of the whole map.
#[test]
fn recording_a_request_is_cheap() {
    let snapshot = samples::snapshot(&["web"]);
    let shard = Shard::new(live(&snapshot, 10));
    let route = snapshot.routes().next().unwrap();
    let record = RequestRecord {
        route: Some(route),
        ..samples::record()
    };
    let round = || {
        let started = Instant::now();
        for _ in 0..100 {
            shard.record(&record);
        }
        started.elapsed() / 100
    };
    // The best of many: in some of them the machine had other things to do.
    let each = (0..100).map(|_| round()).min().unwrap();
    println!("{each:?} a record");
    assert!(each < Duration::from_micros(50), "{each:?}");
}
