//! Names of ExternalName Services to addresses: on a thread of its own, never on the request path.
//!
//! Each name is asked again when its TTL has passed. A name that no longer resolves keeps its last addresses, and is told.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// A TTL below this is stretched: nobody's zone file may make us ask without pause.
const SHORTEST: Duration = Duration::from_secs(5);
/// A TTL above this is cut, so that a move is noticed within it.
const LONGEST: Duration = Duration::from_secs(300);
/// After a failure.
const AGAIN: Duration = Duration::from_secs(10);
/// For one name, over all servers.
const PATIENCE: Duration = Duration::from_secs(10);
/// Questions under way at once.
const AT_ONCE: usize = 16;

/// What is known of the wanted names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// Sorted and without duplicates; of a name that fails now, the last that were known.
    pub addresses: BTreeMap<String, Vec<IpAddr>>,
    /// Why a name does not resolve.
    pub failures: BTreeMap<String, String>,
}

/// The resolving thread. It ends when this is dropped.
#[derive(Debug)]
pub struct Resolver {
    wanted: mpsc::UnboundedSender<BTreeSet<String>>,
    thread: Option<JoinHandle<()>>,
}

impl Resolver {
    /// Asks these servers; without any, those of the node's resolver configuration. `tell` is called, on the resolver's thread, whenever the answers have changed.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(servers: Vec<SocketAddr>, tell: impl FnMut(Answers) + Send + 'static) -> io::Result<Self> {
        let (wanted, orders) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let work = Work {
            servers: servers.into(),
            orders,
            names: BTreeMap::new(),
            told: Answers::default(),
            tell: Box::new(tell),
        };
        let thread = std::thread::Builder::new()
            .name("resolve".into())
            .spawn(move || runtime.block_on(work.run()))?;
        Ok(Self {
            wanted,
            thread: Some(thread),
        })
    }

    /// Exactly these names are resolved from now on.
    pub fn want(&self, names: BTreeSet<String>) {
        // The thread ends only with this handle.
        let _ = self.wanted.send(names);
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        let (closed, _) = mpsc::unbounded_channel();
        self.wanted = closed;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Work {
    servers: Arc<[SocketAddr]>,
    orders: mpsc::UnboundedReceiver<BTreeSet<String>>,
    names: BTreeMap<String, Known>,
    told: Answers,
    tell: Box<dyn FnMut(Answers) + Send>,
}

/// What is known of one name.
struct Known {
    addresses: Option<Vec<IpAddr>>,
    failure: Option<String>,
    /// When to ask again.
    due: Instant,
    asked: bool,
}

type Finding = (String, Result<(Vec<IpAddr>, Duration), String>);

impl Work {
    async fn run(mut self) {
        let mut questions = JoinSet::new();
        loop {
            self.ask_what_is_due(&mut questions);
            let next = self.next_due();
            tokio::select! {
                order = self.orders.recv() => match order {
                    Some(names) => self.want(names),
                    None => return,
                },
                Some(Ok(finding)) = questions.join_next() => self.learn(finding),
                () = tokio::time::sleep_until(next) => {}
            }
            self.tell_changes();
        }
    }

    fn want(&mut self, names: BTreeSet<String>) {
        self.names.retain(|name, _| names.contains(name));
        for name in names {
            self.names.entry(name).or_insert_with(|| Known {
                addresses: None,
                failure: None,
                due: Instant::now(),
                asked: false,
            });
        }
    }

    fn next_due(&self) -> Instant {
        let waiting = self.names.values().filter(|known| !known.asked);
        let later = Instant::now() + LONGEST;
        waiting
            .map(|known| known.due)
            .min()
            .unwrap_or(later)
            .max(Instant::now() + Duration::from_millis(10))
    }

    fn ask_what_is_due(&mut self, questions: &mut JoinSet<Finding>) {
        let now = Instant::now();
        for (name, known) in &mut self.names {
            if questions.len() >= AT_ONCE {
                return;
            }
            if !known.asked && known.due <= now {
                known.asked = true;
                questions.spawn(ask(Arc::clone(&self.servers), name.clone()));
            }
        }
    }

    fn learn(&mut self, (name, result): Finding) {
        let Some(known) = self.names.get_mut(&name) else {
            return; // no longer wanted
        };
        known.asked = false;
        match result {
            Ok((addresses, ttl)) => {
                known.addresses = Some(addresses);
                known.failure = None;
                known.due = Instant::now() + ttl;
            }
            Err(failure) => {
                known.failure = Some(failure);
                known.due = Instant::now() + AGAIN;
            }
        }
    }

    fn tell_changes(&mut self) {
        let mut answers = Answers::default();
        for (name, known) in &self.names {
            if let Some(addresses) = &known.addresses {
                answers.addresses.insert(name.clone(), addresses.clone());
            }
            if let Some(failure) = &known.failure {
                answers.failures.insert(name.clone(), failure.clone());
            }
        }
        if answers != self.told {
            self.told = answers.clone();
            (self.tell)(answers);
        }
    }
}

/// A resolver of its own for each question: the node's configuration may have changed, and nothing but our own TTLs is cached.
async fn ask(servers: Arc<[SocketAddr]>, name: String) -> Finding {
    let asking = async {
        let resolver = resolver(&servers)?;
        // The trailing dot keeps the search domains out: an ExternalName is complete.
        let found = resolver
            .lookup_ip(format!("{name}."))
            .await
            .map_err(|error| error.to_string())?;
        let mut addresses: Vec<_> = found.iter().map(|address| address.to_canonical()).collect();
        addresses.sort();
        addresses.dedup();
        let ttl = found
            .valid_until()
            .saturating_duration_since(std::time::Instant::now());
        Ok((addresses, ttl.clamp(SHORTEST, LONGEST)))
    };
    let result = match tokio::time::timeout(PATIENCE, asking).await {
        Ok(result) => result,
        Err(_elapsed) => Err("no answer from any name server in 10 seconds".to_owned()),
    };
    (name, result)
}

fn resolver(servers: &[SocketAddr]) -> Result<TokioResolver, String> {
    let builder = if servers.is_empty() {
        TokioResolver::builder_tokio()
    } else {
        let servers = servers.iter().map(name_server).collect();
        let config = ResolverConfig::from_name_servers(servers);
        Ok(TokioResolver::builder_with_config(
            config,
            TokioRuntimeProvider::default(),
        ))
    };
    builder
        .and_then(hickory_resolver::ResolverBuilder::build)
        .map_err(|error| format!("the resolver's configuration: {error}"))
}

/// TCP is for answers that UDP has no room for (RFC 7766, 5).
fn name_server(address: &SocketAddr) -> NameServerConfig {
    let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    for connection in &mut connections {
        connection.port = address.port();
    }
    NameServerConfig::new(address.ip(), true, connections)
}
