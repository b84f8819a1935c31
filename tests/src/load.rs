//! Steady requests in the background while something happens: afterwards it is said which of them failed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::bail;

use crate::client::{Answer, Request};
use crate::kept::KeptConnection;

/// Each asks half of the rate: one on a connection that it keeps, the other on a new one each time.
const CLIENTS: u32 = 2;
/// Enough to see what is wrong.
const SHOWN: usize = 5;
/// However a test ends, its load does.
const AT_MOST: Duration = Duration::from_mins(5);

/// Running; ends when dropped.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    /// Asks for `url` this often a second; whatever is not 200 is a failure.
    pub fn start(url: &str, address: SocketAddr, a_second: u32) -> anyhow::Result<Self> {
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let pause = Duration::from_secs(1) * CLIENTS / a_second;
        let mut clients = Vec::new();
        for is_keeping in [true, false] {
            let client = Client {
                url: url.to_owned(),
                address,
                stop: Arc::clone(&stop),
                asked: Arc::clone(&asked),
                is_keeping,
            };
            clients.push(std::thread::Builder::new().spawn(move || client.run(pause))?);
        }
        Ok(Self { stop, asked, clients })
    }

    /// Requests that were answered so far.
    pub fn requests(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// Waits until this many more were answered: so that what comes next is seen by them.
    pub fn wait_for(&self, more: usize) -> anyhow::Result<()> {
        let (wanted, until) = (self.requests() + more, Instant::now() + AT_MOST);
        while self.requests() < wanted {
            if Instant::now() > until {
                bail!("the load stands still");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Ends it; how many were answered, or an error that shows the first failures.
    pub fn finish(mut self) -> anyhow::Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        let mut failures = Vec::new();
        for client in self.clients.drain(..) {
            match client.join() {
                Ok(failed) => failures.extend(failed),
                Err(_) => bail!("a client of the load panicked"),
            }
        }
        let asked = self.requests();
        if failures.is_empty() && asked > 0 {
            return Ok(asked);
        }
        let shown: Vec<_> = failures.iter().take(SHOWN).collect();
        bail!("{} of {asked} requests failed; first: {shown:#?}", failures.len())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Client {
    url: String,
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    is_keeping: bool,
}

impl Client {
    fn run(self, pause: Duration) -> Vec<String> {
        let (start, mut kept, mut failures) = (Instant::now(), None, Vec::new());
        let mut next = start;
        while !self.stop.load(Ordering::Relaxed) && start.elapsed() < AT_MOST {
            match self.ask(&mut kept) {
                Ok(answer) if answer.status == 200 => {
                    // Who says so takes no further request on this connection (RFC 9112, 9.6).
                    if answer.header("connection").eq_ignore_ascii_case("close") {
                        kept = None;
                    }
                }
                Ok(answer) => failures.push(format!("{:?}: {}", start.elapsed(), answer.served_by())),
                Err(error) => {
                    failures.push(format!("{:?}: {error:#}", start.elapsed()));
                    kept = None;
                }
            }
            self.asked.fetch_add(1, Ordering::Relaxed);
            // Behind its time it asks at once, and does not catch up.
            next = (next + pause).max(Instant::now());
            std::thread::sleep(next - Instant::now().min(next));
        }
        failures
    }

    fn ask(&self, kept: &mut Option<KeptConnection>) -> anyhow::Result<Answer> {
        let request = Request::get(&self.url)?;
        if !self.is_keeping {
            return request.ask(self.address);
        }
        let connection = match kept {
            Some(connection) => connection,
            None => kept.insert(KeptConnection::open(&request, self.address)?),
        };
        connection.ask(request)
    }
}
