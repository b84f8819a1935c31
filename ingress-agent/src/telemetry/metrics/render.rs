//! Which metrics there are: from the workers' numbers and the process's state to the page that a scraper reads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use ingress_core::name::ObjectRef;
use ingress_core::reason::Reason;

use super::collect::Collected;
use super::shard::{RouteSeries, ServiceSeries, ShardSnapshot, UpstreamEvent};
use super::source;
pub use super::text::Format;
use super::text::{Labels, Page, seconds};
use super::{kernel, process, tcp};
use crate::account::TcpTotals;
use crate::drain::Tally;
use crate::kernel::KernelView;
use crate::listener::Listener;
use crate::published::Published;
use crate::source::cluster::counts::SourceCounts;
use crate::telemetry::access_log::Counts;
use crate::telemetry::record::HttpVersion;

/// What is known beside the workers' numbers.
#[derive(Clone, Copy, Debug)]
pub struct Process<'a> {
    pub published: &'a Published,
    pub folded: usize,
    pub access_log: &'a Counts,
    pub draining: bool,
    pub ended: Option<Tally>,
    /// Of the cluster, where that is the source.
    pub source: Option<&'a SourceCounts>,
    pub kernel: &'a KernelView,
    pub tcp: &'a TcpTotals,
    pub queues: Queues,
}

/// What became of connections and workers when one stalled or ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Queues {
    /// Connections that another worker took than the one they waited at.
    pub taken: u64,
    pub restarts: u64,
}

/// The whole page.
pub fn render(format: Format, collected: &Collected, process: &Process<'_>) -> String {
    let mut page = Page::new(format);
    requests(&mut page, &collected.total);
    services(&mut page, &collected.total);
    answers(&mut page, &collected.total);
    connections(&mut page, &collected.total);
    upstream(&mut page, &collected.total);
    configuration(&mut page, process);
    if let Some(counts) = process.source {
        source::render(&mut page, counts);
    }
    agent(&mut page, collected, process);
    kernel::render(&mut page, process.kernel);
    tcp::render(&mut page, process.tcp);
    process::render(&mut page);
    page.finish()
}

/// A namespace or name that no Kubernetes object can have: for what is counted together, and for requests without a route.
const OTHER: (&str, &str) = ("_other", "_other");
const NONE: (&str, &str) = ("_none", "_none");

fn requests(page: &mut Page, total: &ShardSnapshot) {
    let mut series = sorted(&total.routes);
    series.push((OTHER, &total.other_routes));
    series.push((NONE, &total.unrouted));
    let each = || {
        series
            .iter()
            .map(|((namespace, name), series)| (ingress(namespace, name), *series))
    };

    page.family(
        "ingress_agent_requests_total",
        "counter",
        "Requests, by route object and status class.",
    );
    for (labels, series) in each() {
        for (class, count) in classes(series) {
            page.sample(
                "ingress_agent_requests_total",
                &labels,
                Some(("code", class)),
                count,
            );
        }
    }
    page.family(
        "ingress_agent_request_duration_seconds",
        "histogram",
        "Time from a request's first byte to its response's last.",
    );
    for (labels, series) in each() {
        page.histogram(
            "ingress_agent_request_duration_seconds",
            &labels,
            &series.duration,
        );
    }
    page.family(
        "ingress_agent_request_body_bytes_total",
        "counter",
        "Bytes of request bodies.",
    );
    for (labels, series) in each() {
        page.sample(
            "ingress_agent_request_body_bytes_total",
            &labels,
            None,
            series.request_bytes,
        );
    }
    page.family(
        "ingress_agent_response_body_bytes_total",
        "counter",
        "Bytes of response bodies.",
    );
    for (labels, series) in each() {
        page.sample(
            "ingress_agent_response_body_bytes_total",
            &labels,
            None,
            series.response_bytes,
        );
    }
}

/// A class without requests has no line yet.
fn classes(series: &RouteSeries) -> impl Iterator<Item = (&'static str, u64)> {
    ["none", "1xx", "2xx", "3xx", "4xx", "5xx"]
        .into_iter()
        .zip(series.by_class)
        .filter(|(_, count)| *count > 0)
}

fn services(page: &mut Page, total: &ShardSnapshot) {
    let mut series: Vec<((&str, &str), &ServiceSeries)> = sorted(&total.services);
    series.push((OTHER, &total.other_services));
    let each = || {
        series.iter().map(|((namespace, name), series)| {
            (
                Labels::new().with("namespace", namespace).with("service", name),
                *series,
            )
        })
    };
    page.family(
        "ingress_agent_upstream_connect_duration_seconds",
        "histogram",
        "Time to open a connection to an endpoint, by Service.",
    );
    for (labels, series) in each() {
        page.histogram(
            "ingress_agent_upstream_connect_duration_seconds",
            &labels,
            &series.connect,
        );
    }
    page.family(
        "ingress_agent_upstream_response_duration_seconds",
        "histogram",
        "Time to an endpoint's first byte of response, by Service.",
    );
    for (labels, series) in each() {
        page.histogram(
            "ingress_agent_upstream_response_duration_seconds",
            &labels,
            &series.first_byte,
        );
    }
    page.family(
        "ingress_agent_upstream_retries_total",
        "counter",
        "Further attempts after a first that failed, by Service.",
    );
    for (labels, series) in each() {
        page.sample(
            "ingress_agent_upstream_retries_total",
            &labels,
            None,
            series.retries,
        );
    }
}

fn answers(page: &mut Page, total: &ShardSnapshot) {
    page.family(
        "ingress_agent_answers_total",
        "counter",
        "Answers that the agent made by itself, by reason.",
    );
    for (reason, count) in Reason::ALL.iter().zip(total.answers) {
        page.sample(
            "ingress_agent_answers_total",
            &Labels::new().with("reason", reason.code()),
            None,
            count,
        );
    }
}

fn connections(page: &mut Page, total: &ShardSnapshot) {
    page.family(
        "ingress_agent_connections",
        "gauge",
        "Client connections open now; the protocol is unknown until something was said.",
    );
    for (listener, row) in Listener::ALL.iter().zip(&total.connections) {
        let protocols =
            std::iter::once("unknown").chain(HttpVersion::ALL.iter().map(|version| version.as_str()));
        for (protocol, count) in protocols.zip(row) {
            let labels = Labels::new().with("listener", listener.as_str());
            page.sample(
                "ingress_agent_connections",
                &labels,
                Some(("protocol", protocol)),
                count,
            );
        }
    }
    page.family(
        "ingress_agent_connections_total",
        "counter",
        "Client connections accepted.",
    );
    for (listener, count) in Listener::ALL.iter().zip(total.connections_opened) {
        page.sample(
            "ingress_agent_connections_total",
            &Labels::new().with("listener", listener.as_str()),
            None,
            count,
        );
    }
    page.family(
        "ingress_agent_connections_refused_total",
        "counter",
        "Client connections closed at once because of a limit, or because their source is banned.",
    );
    for (limit, count) in ["total", "source", "banned", "memory"]
        .into_iter()
        .zip(total.refused)
    {
        page.sample(
            "ingress_agent_connections_refused_total",
            &Labels::new().with("limit", limit),
            None,
            count,
        );
    }
    page.family(
        "ingress_agent_tls_handshakes_total",
        "counter",
        "TLS handshakes with clients, by result.",
    );
    for (result, count) in ["ok", "failed", "timeout"].into_iter().zip(total.tls_handshakes) {
        page.sample(
            "ingress_agent_tls_handshakes_total",
            &Labels::new().with("result", result),
            None,
            count,
        );
    }
}

fn upstream(page: &mut Page, total: &ShardSnapshot) {
    let pool = total.upstream_pool;
    let counters = [
        (
            "ingress_agent_upstream_connections_created_total",
            "Connections opened to endpoints.",
            pool.created,
        ),
        (
            "ingress_agent_upstream_connections_reused_total",
            "Requests sent on a connection that was open already.",
            pool.reused,
        ),
        (
            "ingress_agent_upstream_connections_failed_total",
            "Connections to endpoints that could not be opened.",
            total.upstream_event(UpstreamEvent::ConnectFailed),
        ),
        (
            "ingress_agent_upstream_ejections_total",
            "Endpoints taken out because they kept failing.",
            total.upstream_event(UpstreamEvent::Ejected),
        ),
    ];
    for (name, help, value) in counters {
        page.single(name, "counter", help, value);
    }
    page.single(
        "ingress_agent_upstream_connections_idle",
        "gauge",
        "Connections to endpoints that wait for a request.",
        pool.idle,
    );
}

fn configuration(page: &mut Page, process: &Process<'_>) {
    let published = process.published;
    page.single(
        "ingress_agent_config_generation",
        "gauge",
        "Number of the configuration in force; 0 before the first.",
        published.generation,
    );
    page.single(
        "ingress_agent_config_last_change_timestamp_seconds",
        "gauge",
        "When it was put in force.",
        seconds(
            published
                .changed
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default(),
        ),
    );
    page.family(
        "ingress_agent_objects",
        "gauge",
        "Objects that the source holds, by kind.",
    );
    for (kind, count) in &published.objects {
        page.sample(
            "ingress_agent_objects",
            &Labels::new().with("kind", kind),
            None,
            count,
        );
    }
    page.single(
        "ingress_agent_unowned_ingresses",
        "gauge",
        "Ingresses that no controller owns.",
        published.unowned,
    );
    let mut counts: BTreeMap<_, usize> = BTreeMap::new();
    for diagnostic in published.diagnostics.iter() {
        *counts
            .entry((diagnostic.reason, diagnostic.severity))
            .or_default() += 1;
    }
    page.family(
        "ingress_agent_diagnostics",
        "gauge",
        "Problems of objects, by reason and severity.",
    );
    for ((reason, severity), count) in counts {
        page.sample(
            "ingress_agent_diagnostics",
            &Labels::new().with("reason", reason),
            Some(("severity", severity.as_str())),
            count,
        );
    }
    page.family(
        "ingress_agent_certificate_not_after_timestamp_seconds",
        "gauge",
        "When the certificate of a Secret ends to be valid.",
    );
    for (key, not_after) in &published.certificates {
        let labels = Labels::new()
            .with("namespace", &key.0.namespace)
            .with("secret", &key.0.name);
        page.sample(
            "ingress_agent_certificate_not_after_timestamp_seconds",
            &labels,
            None,
            not_after,
        );
    }
}

fn agent(page: &mut Page, collected: &Collected, process: &Process<'_>) {
    page.family(
        "ingress_agent_worker_stalled",
        "gauge",
        "1 for a worker that did not answer within a second; its numbers are missing here.",
    );
    for (worker, answered) in collected.answered.iter().enumerate() {
        let labels = Labels::new().with("worker", &worker.to_string());
        page.sample("ingress_agent_worker_stalled", &labels, None, u8::from(!answered));
    }
    page.single(
        "ingress_agent_connections_taken_over_total",
        "counter",
        "Client connections that waited at a worker that was stalled or had ended, and were taken by another.",
        process.queues.taken,
    );
    page.single(
        "ingress_agent_worker_restarts_total",
        "counter",
        "Workers that ended by a fault and were started again; their open connections were lost.",
        process.queues.restarts,
    );
    page.single(
        "ingress_agent_draining",
        "gauge",
        "1 while the agent is about to stop.",
        u8::from(process.draining),
    );
    page.family(
        "ingress_agent_drain_ended_total",
        "counter",
        "What was open at the end of a drain: requests answered 503 draining, answers broken off, WebSockets closed, connections cut.",
    );
    for (what, count) in process.ended.iter().flat_map(|tally| &tally.0) {
        let what = Labels::new().with("what", what.as_str());
        page.sample("ingress_agent_drain_ended_total", &what, None, *count);
    }
    page.single(
        "ingress_agent_folded_series",
        "gauge",
        "Objects counted together as _other because there are too many.",
        process.folded,
    );
    page.single(
        "ingress_agent_access_log_lines_total",
        "counter",
        "Access log lines written.",
        process.access_log.written(),
    );
    page.single(
        "ingress_agent_access_log_dropped_total",
        "counter",
        "Access log lines dropped because the output was too slow.",
        process.access_log.dropped(),
    );
    page.family(
        "ingress_agent_build_info",
        "gauge",
        "Always 1; the labels say what runs.",
    );
    page.sample(
        "ingress_agent_build_info",
        &Labels::new().with("version", env!("CARGO_PKG_VERSION")),
        None,
        1,
    );
}

fn sorted<T>(
    series: &std::collections::HashMap<Arc<ObjectRef>, T, foldhash::fast::RandomState>,
) -> Vec<((&str, &str), &T)> {
    let mut series: Vec<_> = series
        .iter()
        .map(|(object, series)| ((&*object.namespace, &*object.name), series))
        .collect();
    series.sort_by_key(|(name, _)| *name);
    series
}

fn ingress(namespace: &str, name: &str) -> Labels {
    Labels::new().with("namespace", namespace).with("ingress", name)
}
