//! What each path of the admin address shows.

use std::sync::atomic::Ordering;

use http::{HeaderMap, StatusCode, header};
use ingress_core::snapshot::SnapshotView;
use serde::Serialize;

use super::AdminState;
use crate::config::Config;
use crate::telemetry::metrics::collect::collect;
use crate::telemetry::metrics::render::{self, Format, Process, Queues};

/// An answer of the admin address.
pub(super) struct Page {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) body: String,
}

impl Page {
    pub(super) fn text(status: StatusCode, body: impl Into<String>) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=utf-8",
            body: body.into(),
        }
    }

    fn json(value: &impl Serialize) -> Self {
        match serde_json::to_string_pretty(value) {
            Ok(body) => Self {
                status: StatusCode::OK,
                content_type: "application/json",
                body: body + "\n",
            },
            Err(error) => Self::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }
}

const INDEX: &str = "<!doctype html>
<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"color-scheme\" content=\"light dark\"><title>ingress-agent</title></head>
<body><h1>ingress-agent</h1><ul>
<li><a href=\"/healthz\">/healthz</a>: the process is alive and its workers answer</li>
<li><a href=\"/readyz\">/readyz</a>: it serves the configuration, and is not about to stop</li>
<li><a href=\"/metrics\">/metrics</a>: Prometheus metrics</li>
<li><a href=\"/config\">/config</a>: settings and routes in force, as JSON</li>
<li><a href=\"/kernel\">/kernel</a>: what is on in the kernel, and why what is off is, as JSON</li>
<li><a href=\"/slow\">/slow</a>: who is slow, route by route: network, proxy or pod, as JSON</li>
<li><a href=\"/connections\">/connections</a>: the last connections that broke or were slow, and some others, as JSON</li>
<li><a href=\"/diagnostics\">/diagnostics</a>: what is wrong with objects, as JSON</li>
</ul></body></html>
";

pub(super) async fn page(path: &str, headers: &HeaderMap, state: &AdminState) -> Page {
    match path {
        "/" => Page {
            status: StatusCode::OK,
            content_type: "text/html; charset=utf-8",
            body: INDEX.into(),
        },
        "/healthz" => health(state).await,
        "/readyz" => readiness(state).await,
        "/metrics" => metrics(headers, state).await,
        "/config" => config(state),
        "/kernel" => Page::json(&state.kernel.view()),
        "/slow" => slow(state),
        "/connections" => connections(state),
        "/diagnostics" => Page::json(&state.published.load().diagnostics),
        _ => Page::text(StatusCode::NOT_FOUND, "no such page; / lists them\n"),
    }
}

fn slow(state: &AdminState) -> Page {
    let published = state.published.load();
    let accounts = state.accounts.get();
    let routes = accounts.map(|accounts| accounts.routes(&published.snapshot));
    Page::json(&routes.unwrap_or_default())
}

fn connections(state: &AdminState) -> Page {
    let published = state.published.load();
    let accounts = state.accounts.get();
    let told = accounts.map(|accounts| accounts.connections(&published.snapshot));
    Page::json(&told.unwrap_or_default())
}

async fn health(state: &AdminState) -> Page {
    let mut missing = stalled(state).await;
    // Workers end once they are drained; an agent that handed over waits for its signal without them, and needs no restart.
    if state.draining.load(Ordering::Relaxed) {
        missing.clear();
    }
    missing.extend(
        state
            .dead
            .get()
            .map(|name| format!("thread {name}: has ended by a fault; the log says which")),
    );
    verdict(&missing)
}

/// Every condition that is missing, one a line.
async fn readiness(state: &AdminState) -> Page {
    let mut missing = Vec::new();
    if state.published.load().generation == 0 {
        let waiting = state.source.get().and_then(|counts| counts.waiting());
        let why = waiting.unwrap_or_else(|| "the source has not been read yet".to_owned());
        missing.push(format!("configuration: {why}"));
    }
    if !state.listening.load(Ordering::Relaxed) {
        missing.push("listeners: not all are bound yet".to_owned());
    }
    if state.draining.load(Ordering::Relaxed) {
        missing.push("draining: the agent is about to stop".to_owned());
    }
    missing.extend(stalled(state).await);
    verdict(&missing)
}

/// Workers that are expected to answer and don't; they start when the first state is there.
async fn stalled(state: &AdminState) -> Vec<String> {
    if !state.listening.load(Ordering::Relaxed) {
        return Vec::new();
    }
    collect(&state.workers)
        .await
        .stalled()
        .map(|worker| format!("worker {worker}: has not answered within a second"))
        .collect()
}

fn verdict(missing: &[String]) -> Page {
    if missing.is_empty() {
        return Page::text(StatusCode::OK, "ok\n");
    }
    Page::text(StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n")
}

async fn metrics(headers: &HeaderMap, state: &AdminState) -> Page {
    let collected = collect(&state.workers).await;
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .unwrap_or("");
    let format = Format::for_accept(accept);
    let published = state.published.load();
    let accounts = state.accounts.get();
    let tcp = accounts.map(|accounts| accounts.totals(&published.snapshot, &state.series.load()));
    let process = Process {
        published: &published,
        tcp: &tcp.unwrap_or_default(),
        folded: state.series.load().folded(),
        access_log: &state.access_log,
        draining: state.draining.load(Ordering::Relaxed),
        ended: state.drain.get().map(|drain| drain.tally()),
        source: state.source.get().map(AsRef::as_ref),
        kernel: &state.kernel.view(),
        queues: queues(state),
    };
    Page {
        status: StatusCode::OK,
        content_type: format.content_type(),
        body: render::render(format, &collected, &process),
    }
}

fn queues(state: &AdminState) -> Queues {
    state.roster.get().map_or_else(Queues::default, |roster| Queues {
        taken: roster.taken(),
        restarts: roster.restarts(),
    })
}

/// The whole of `/config`. A snapshot holds no key material, and settings name Secrets without their content.
#[derive(Serialize)]
struct ConfigPage<'a> {
    generation: u64,
    settings: &'a Config,
    #[serde(flatten)]
    snapshot: SnapshotView<'a>,
}

fn config(state: &AdminState) -> Page {
    let published = state.published.load();
    Page::json(&ConfigPage {
        generation: published.generation,
        settings: &state.config.load(),
        snapshot: published.snapshot.view(state.epoch.elapsed()),
    })
}
