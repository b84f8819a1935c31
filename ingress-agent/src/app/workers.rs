//! The workers' threads, and the watch over them: one that ends by a fault is started again, and what waits at one that stalls is taken by
//! the others.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::control::{Vital, spawn};
use crate::admin::AdminState;
use crate::proxy::accept::{self, Equipment};
use crate::proxy::roster::{Memory, Roster, TICK};
use crate::proxy::worker::Shared;
use crate::telemetry::access_log;
use crate::telemetry::metrics::{Inbox, Mailbox};

/// A worker that ends by a fault so often within [`WINDOW`] is not started again: something is wrong that a new start does not mend.
const RESTARTS: usize = 5;
const WINDOW: Duration = Duration::from_mins(10);
/// Before a worker is started again, so that a fault at every start does not take all of a core.
const PAUSE: Duration = Duration::from_millis(100);

/// Every how many looks it is measured what workers have to do.
const LOADS: u32 = 10;

/// Looks at the workers' queues until it is dropped.
pub(super) struct Watch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// `tell` gets what each worker has to do, again and again.
    pub(super) fn start(roster: &Arc<Roster>, tell: impl Fn(&[u32]) + Send + 'static) -> Result<Self> {
        let (stop, stopped) = channel();
        let roster = Arc::clone(roster);
        let thread = spawn("watch", move || {
            let mut memory = Memory::default();
            let mut ticks = 0u32;
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                roster.look(&mut memory);
                ticks = ticks.wrapping_add(1);
                if ticks.is_multiple_of(LOADS) {
                    tell(&roster.loads(&mut memory));
                }
            }
        })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One thread for each, with the inbox of its mailbox.
pub(super) fn start(
    shared: &Arc<Shared>,
    state: &Arc<AdminState>,
    access_log: &access_log::Sink,
    mailboxes: Vec<(Mailbox, Inbox)>,
) -> Result<Vec<JoinHandle<()>>> {
    let mut workers = Vec::new();
    for (index, (mailbox, inbox)) in mailboxes.into_iter().enumerate() {
        let name = format!("worker-{index}");
        let vital = Vital::new(&name, state);
        let (shared, access_log) = (Arc::clone(shared), access_log.clone());
        let mut first = Some(inbox);
        workers.push(spawn(&name, move || {
            let roster = Arc::clone(&shared.roster);
            let run = || {
                accept::run(Equipment {
                    shared: Arc::clone(&shared),
                    index,
                    access_log: access_log.clone(),
                    inbox: first.take().unwrap_or_else(|| mailbox.renew()),
                })
            };
            if !keep_running(index, &roster, run) {
                vital.failed();
            }
        })?);
    }
    Ok(workers)
}

/// Until it ends by itself (true), or by faults too often. Its sockets stay open in the roster all the while.
fn keep_running(worker: usize, roster: &Roster, mut run: impl FnMut() -> io::Result<()>) -> bool {
    let mut faults: Vec<Instant> = Vec::new();
    loop {
        let error = match catch_unwind(AssertUnwindSafe(&mut run)) {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => error.to_string(),
            // The panic's own words are in the log already.
            Err(_) => "it panicked".to_owned(),
        };
        faults.retain(|fault| fault.elapsed() < WINDOW);
        faults.push(Instant::now());
        if faults.len() > RESTARTS {
            tracing::error!(
                worker,
                error,
                "the worker has ended again and stays away; the others take what comes to it"
            );
            return false;
        }
        tracing::error!(
            worker,
            error,
            "the worker has ended: its open connections are lost; it is started again"
        );
        std::thread::sleep(PAUSE);
        roster.restarted();
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::listener::Listener;

    #[test]
    fn a_worker_that_ends_by_a_fault_is_started_again_and_not_for_ever() {
        let roster = Roster::new(1);
        let mut runs = 0;
        let once = |runs: &mut i32| {
            *runs += 1;
            match *runs {
                1 => panic!("a fault of this test"),
                2 => Err(io::Error::other("another")),
                _ => Ok(()),
            }
        };
        assert!(keep_running(0, &roster, || once(&mut runs)));
        assert_eq!((runs, roster.restarts()), (3, 2));
        let mut runs = 0;
        assert!(!keep_running(0, &roster, || {
            runs += 1;
            Err(io::Error::other("for ever"))
        }));
        assert_eq!(runs, RESTARTS + 1);
    }

    #[test]
    fn what_waits_at_a_worker_that_has_ended_is_neither_refused_nor_lost() {
        let roster = Roster::new(2);
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        roster
            .open(vec![vec![(Listener::Http, socket)], Vec::new()])
            .unwrap();
        let mut taken = 0;
        let ended = keep_running(0, &roster, || {
            let _watch = Watch::start(&roster, |_| {}).unwrap();
            let _clients = [(); 4].map(|()| TcpStream::connect(address).unwrap());
            while taken < 4 {
                roster.take(1, |_, _, _| {
                    taken += 1;
                    Ok(())
                });
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        });
        assert!(ended);
        assert_eq!(roster.taken(), 4);
    }
}
