//! The control side: the source's thread, the resolver's and the publisher's, wired together.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::admin::AdminState;
use crate::config::{self, Config};
use crate::kernel::priority;
use crate::kernel::reject::Rejection;
use crate::live::Live;
use crate::proxy::tls;
use crate::publish::{Event, Publisher, Report, Setup, Trust};
use crate::published::Published;
use crate::resolve::Resolver;
use crate::series::SharedSeries;
use crate::source::{cluster, dir};
use crate::status::{self, View};

/// The control side, running.
pub(super) struct Publication {
    pub(super) live: Arc<ArcSwap<Live>>,
    thread: JoinHandle<()>,
    source: Source,
    status: Option<status::Handle>,
    events: mpsc::Sender<Event>,
}

impl Publication {
    /// The publisher's ear.
    pub(super) fn events(&self) -> mpsc::Sender<Event> {
        self.events.clone()
    }

    /// Ends source and publisher, and waits for both.
    pub(super) fn stop(self) {
        if let Some(status) = self.status {
            status.stop();
        }
        self.source.stop();
        // The publisher owns the resolver, which can always send to it: only an order ends the two.
        let _ = self.events.send(Event::Stop);
        let _ = self.thread.join();
    }
}

/// Where objects come from, running.
enum Source {
    Folder(dir::WatchHandle),
    Cluster(cluster::Handle),
}

impl Source {
    fn stop(self) {
        match self {
            Self::Folder(handle) => handle.stop(),
            Self::Cluster(handle) => handle.stop(),
        }
    }
}

/// Starts source and publisher, and waits until the first state is in force: no request is answered from an empty one.
pub(super) fn start_publisher(
    config: &Config,
    state: &Arc<AdminState>,
    series: &SharedSeries,
    (started, listeners): (Instant, &[SocketAddr]),
    rejection: Option<Arc<Rejection>>,
) -> Result<Publication> {
    let (first, first_published) = mpsc::sync_channel(1);
    let admin = Arc::clone(state);
    let (send, events) = mpsc::channel();
    let resolved = send.clone();
    let vital = Vital::new("resolve", state);
    let resolver = Resolver::start(config.dns_servers.clone(), move |answers| {
        let _vital = &vital;
        let _ = resolved.send(Event::Resolved(answers));
    })?;
    let (views, seen) = watch::channel(View::default());
    let coming = rejection.clone();
    let publisher = Publisher::new(Setup {
        options: config.served.translate_options(0),
        default_certificate: tls::self_signed()?,
        started,
        series: Arc::clone(series),
        prepare: Box::new(move |snapshot| {
            if let Some(rejection) = &coming {
                rejection.before(snapshot);
            }
        }),
        announce: Box::new(move |report| {
            if let Some(rejection) = &rejection {
                rejection.after();
            }
            views.send_replace(View {
                objects: report.source.clone(),
                diagnostics: Arc::clone(&report.diagnostics),
            });
            admin.publish(published(report));
            if first.try_send(()).is_ok() {
                step_back("publish");
            }
        }),
        want_names: Box::new(move |names| resolver.want(names)),
        listeners: listeners.to_vec(),
        trust: match config.source {
            config::Source::Manifests(_) => Trust::Folder,
            config::Source::Cluster(_) => Trust::Cluster,
        },
    });
    let live = publisher.live();
    let source = start_source(config, state, send.clone())?;
    let vital = Vital::new("publish", state);
    let thread = spawn("publish", move || {
        let _vital = vital;
        publisher.run(&events);
    })?;
    first_published
        .recv()
        .context("the first state could not be put in force")?;
    let status = start_status(config, seen)?;
    Ok(Publication {
        live,
        thread,
        source,
        status,
        events: send,
    })
}

fn start_source(config: &Config, state: &Arc<AdminState>, events: mpsc::Sender<Event>) -> Result<Source> {
    let vital = Vital::new("source", state);
    let mut is_first = true;
    let tell = move |state| {
        let _vital = &vital;
        let told = events.send(Event::Source(state)).is_ok();
        // Until there is something to serve, nothing is more urgent than that.
        if std::mem::take(&mut is_first) {
            step_back("source");
        }
        told
    };
    match &config.source {
        config::Source::Manifests(folder) => dir::watch(folder.clone(), tell)
            .map(Source::Folder)
            .with_context(|| format!("--manifests {}: cannot be watched", folder.display())),
        config::Source::Cluster(settings) => {
            let counts = cluster::counts();
            state.set_source(Arc::clone(&counts));
            let setup = cluster::Setup {
                cluster: (**settings).clone(),
                options: config.served.translate_options(0),
                counts,
            };
            cluster::start(setup, tell)
                .map(Source::Cluster)
                .context("the cluster cannot be read")
        }
    }
}

/// Only a cluster is written back to.
fn start_status(config: &Config, views: watch::Receiver<View>) -> Result<Option<status::Handle>> {
    let config::Source::Cluster(settings) = &config.source else {
        return Ok(None);
    };
    let setup = status::Setup {
        cluster: (**settings).clone(),
        options: config.served.translate_options(0),
    };
    status::start(setup, views)
        .map(Some)
        .context("the status of Ingresses cannot be written")
}

/// Goes with a thread that the agent can't do without: should it panic, `/healthz` says so.
pub(super) struct Vital {
    thread: String,
    state: Arc<AdminState>,
}

impl Vital {
    pub(super) fn new(thread: &str, state: &Arc<AdminState>) -> Self {
        Self {
            thread: thread.to_owned(),
            state: Arc::clone(state),
        }
    }

    pub(super) fn failed(&self) {
        self.state.thread_died(&self.thread);
    }
}

impl Drop for Vital {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.failed();
        }
    }
}

fn published(report: Report) -> Published {
    Published {
        generation: report.generation,
        changed: report.at,
        snapshot: report.snapshot,
        diagnostics: report.diagnostics,
        objects: report.objects,
        certificates: report.certificates,
        unowned: report.unowned,
    }
}

/// For a thread that works on changes: requests go first.
fn step_back(thread: &str) {
    if let Err(error) = priority::step_back() {
        tracing::warn!(%error, "the thread {thread} cannot lower its priority: changes will disturb requests more");
    }
}

pub(super) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .with_context(|| format!("the thread {name} cannot be started"))
}
