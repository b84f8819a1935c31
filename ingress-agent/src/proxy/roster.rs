//! Every worker's listening sockets, where all workers see them: what waits at one that stalls or has ended is taken by the others, one
//! that starts again finds its own, and listeners come and go while workers run.
//!
//! On the calm path a worker adds one to a number for each connection, and nobody looks into another's queue but [`Roster::look`], at
//! every [`TICK`], with one system call for all queues. Knows nothing of connections.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::gettid;
use tokio::sync::Notify;

use super::door::Doors;
use crate::listener::Listener;

/// A connection that waits from one look to the next, at a worker that took none meanwhile, is taken by another: after one to two of these.
pub const TICK: Duration = Duration::from_millis(20);
/// From here on a stall is told in the log: shorter ones are a busy machine's.
const TOLD_AFTER: Duration = Duration::from_secs(1);

/// All workers' seats, in their order.
#[derive(Debug)]
pub struct Roster {
    seats: Vec<Seat>,
    /// What waits behind a closed one is another agent's.
    pub doors: Doors,
    /// Connections that another worker took than the one they waited at.
    taken: AtomicU64,
    /// Workers that were started again.
    restarts: AtomicU64,
}

/// One worker's.
#[derive(Debug, Default)]
pub(crate) struct Seat {
    posts: ArcSwap<Vec<Arc<Post>>>,
    /// Connections that it took from its own queues; it alone counts.
    accepted: AtomicU64,
    /// What waits in its queues is anybody's. Until it comes by itself.
    stalled: AtomicBool,
    /// The thread's id; 0 before it runs.
    thread: AtomicI32,
    /// There is something to do: see [`Seat::called`].
    call: Notify,
}

/// A listening socket of one worker.
#[derive(Debug)]
pub(crate) struct Post {
    pub(crate) listener: Listener,
    address: SocketAddr,
    /// The others' way to its queue; `None` once its worker has closed it.
    socket: ArcSwapOption<TcpListener>,
    closing: Notify,
}

impl Roster {
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self {
            seats: (0..workers).map(|_| Seat::default()).collect(),
            doors: Doors::default(),
            taken: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
        })
    }

    /// Gives every worker its sockets of new listeners, which it accepts from at once. They must not block.
    ///
    /// # Errors
    /// When a socket is not one (any more).
    pub fn open(&self, sockets: Vec<Vec<(Listener, TcpListener)>>) -> io::Result<()> {
        for (seat, sockets) in self.seats.iter().zip(sockets) {
            let mut posts = Vec::clone(&seat.posts.load());
            for (listener, socket) in sockets {
                posts.push(Arc::new(Post {
                    listener,
                    address: socket.local_addr()?,
                    socket: ArcSwapOption::from_pointee(socket),
                    closing: Notify::new(),
                }));
            }
            seat.posts.store(Arc::new(posts));
            seat.call.notify_one();
        }
        Ok(())
    }

    /// Takes a listener away from every worker: what has come is still answered, what comes is refused.
    pub fn close(&self, listener: Listener, address: SocketAddr) {
        for seat in &self.seats {
            let (gone, kept): (Vec<_>, Vec<_>) = seat
                .posts
                .load()
                .iter()
                .cloned()
                .partition(|post| post.listener == listener && post.address == address);
            seat.posts.store(Arc::new(kept));
            for post in gone {
                // Only its worker still has it now: a stalled one closes it when it can, and that of one that has ended goes here.
                post.socket.store(None);
                post.closing.notify_one();
            }
        }
    }

    pub(crate) fn seat(&self, worker: usize) -> Option<&Seat> {
        self.seats.get(worker)
    }

    /// Connections that waited at a stalled worker, and were taken by another.
    pub fn taken(&self) -> u64 {
        self.taken.load(Relaxed)
    }

    pub fn restarts(&self) -> u64 {
        self.restarts.load(Relaxed)
    }

    pub fn restarted(&self) {
        self.restarts.fetch_add(1, Relaxed);
    }

    /// Workers whose queues are the others' business just now.
    pub fn stalled(&self) -> impl Iterator<Item = usize> {
        let seats = self.seats.iter().enumerate();
        seats
            .filter(|(_, seat)| seat.stalled.load(Relaxed))
            .map(|(worker, _)| worker)
    }

    /// What waits at stalled workers, in turns: one connection from each of their queues at a time.
    pub(crate) fn take(
        &self,
        own: usize,
        mut took: impl FnMut(Listener, std::net::TcpStream, SocketAddr) -> io::Result<()>,
    ) {
        for worker in self.stalled().filter(|worker| *worker != own) {
            let posts = self.seat(worker).map(|seat| seat.posts.load_full());
            for post in posts.iter().flat_map(|posts| posts.iter()) {
                if self.doors.is_closed(post.address) {
                    continue;
                }
                let Some(socket) = post.socket.load_full() else {
                    continue;
                };
                for _ in 0..AT_ONCE {
                    let Ok((stream, peer)) = socket.accept() else {
                        break;
                    };
                    self.taken.fetch_add(1, Relaxed);
                    if let Err(error) = took(post.listener, stream, peer) {
                        tracing::warn!(%error, "a connection of another worker's queue is lost");
                    }
                }
            }
        }
    }

    /// Looks at every queue, and calls the workers to those that are not looked after.
    pub fn look(&self, memory: &mut Memory) {
        memory.seats.resize_with(self.seats.len(), Seen::default);
        let waiting = self.waiting();
        let mut call = false;
        for (worker, seat) in self.seats.iter().enumerate() {
            let accepted = seat.accepted.load(Relaxed);
            let waits = waiting.contains(&worker);
            let Some(seen) = memory.seats.get_mut(worker) else {
                continue;
            };
            let unmoved = waits && seen.waited && accepted == seen.accepted;
            if unmoved && !seat.stalled.swap(true, Relaxed) {
                seen.since = Some(Instant::now());
            }
            call |= waits && seat.stalled.load(Relaxed);
            seen.waited = waits;
            seen.accepted = accepted;
            seen.tell(worker, seat.stalled.load(Relaxed));
        }
        if call {
            self.seats.iter().for_each(|seat| seat.call.notify_one());
        }
    }

    /// How much each worker has to do: eighths of its time, in which it ran or waited for a core, and more than all of it where it does not come
    /// to its connections.
    pub fn loads(&self, memory: &mut Memory) -> Vec<u32> {
        let now = Instant::now();
        let since = memory.measured.replace(now).map(|before| now - before);
        memory.seats.resize_with(self.seats.len(), Seen::default);
        let seats = self.seats.iter().zip(&mut memory.seats);
        let measure = |(seat, seen): (&Seat, &mut Seen)| {
            let busy = busy(seat.thread.load(Relaxed));
            let more = busy.saturating_sub(std::mem::replace(&mut seen.busy, busy));
            match since {
                _ if seat.stalled.load(Relaxed) => EIGHTHS + 1,
                Some(since) => eighths(more, since),
                None => 0,
            }
        };
        seats.map(measure).collect()
    }

    /// Workers in one of whose queues something waits.
    fn waiting(&self) -> Vec<usize> {
        let mut sockets = Vec::new();
        for (worker, seat) in self.seats.iter().enumerate() {
            let posts = seat.posts.load();
            let ours = posts.iter().filter(|post| !self.doors.is_closed(post.address));
            let open = ours.filter_map(|post| post.socket.load_full());
            sockets.extend(open.map(|socket| (worker, socket)));
        }
        let mut polled: Vec<_> = sockets
            .iter()
            .map(|(_, socket)| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN))
            .collect();
        // Interrupted by a signal, or without memory: the next look sees it.
        if poll(&mut polled, Some(&Timespec::default())).is_err() {
            return Vec::new();
        }
        let ready = polled.iter().zip(&sockets);
        ready
            .filter(|(polled, _)| polled.revents().contains(PollFlags::IN))
            .map(|(_, (worker, _))| *worker)
            .collect()
    }
}

const EIGHTHS: u32 = 8;

/// Coarse, so that workers with about as much to do count as equal and connections stay spread by hash.
fn eighths(busy: Duration, of: Duration) -> u32 {
    let part = busy.as_nanos() * u128::from(EIGHTHS) / of.as_nanos().max(1);
    u32::try_from(part).unwrap_or(EIGHTHS).min(EIGHTHS)
}

/// For how long a thread has run or waited for a core; nothing where the kernel does not tell.
fn busy(thread: i32) -> Duration {
    let line = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).unwrap_or_default();
    // Documentation/scheduler/sched-stats.rst: time on the cpu, time on a run queue, both in nanoseconds; time slices.
    let times = line
        .split_whitespace()
        .take(2)
        .filter_map(|time| time.parse::<u64>().ok());
    Duration::from_nanos(times.sum())
}

/// From one queue before the others get their turn.
const AT_ONCE: usize = 16;

impl Seat {
    /// What to accept from.
    pub(crate) fn posts(&self) -> Guard<Arc<Vec<Arc<Post>>>> {
        self.posts.load()
    }

    /// Until listeners have come, or others' queues are to be looked into. Whoever hears it is not stalled itself.
    pub(crate) async fn called(&self) {
        self.call.notified().await;
        self.stalled.store(false, Relaxed);
    }

    /// It is this thread's from now on.
    pub(crate) fn sit_down(&self) {
        self.thread.store(gettid().as_raw_pid(), Relaxed);
    }

    pub(crate) fn accepted(&self) {
        self.accepted.fetch_add(1, Relaxed);
    }

    /// The worker has closed its socket, or is about to: nobody else keeps it open.
    pub(crate) fn leave(&self, post: &Arc<Post>) {
        post.socket.store(None);
        self.posts.rcu(|posts| {
            let kept = posts.iter().filter(|kept| !Arc::ptr_eq(kept, post));
            kept.cloned().collect::<Vec<_>>()
        });
    }
}

impl Post {
    /// The same socket for its worker; `None` where it was closed meanwhile.
    pub(crate) fn socket(&self) -> Option<io::Result<TcpListener>> {
        self.socket.load().as_ref().map(|socket| socket.try_clone())
    }

    /// Until the listener is taken away.
    pub(crate) async fn closing(&self) {
        self.closing.notified().await;
    }
}

/// What was seen at the look before.
#[derive(Debug, Default)]
pub struct Memory {
    seats: Vec<Seen>,
    measured: Option<Instant>,
}

#[derive(Debug, Default)]
struct Seen {
    waited: bool,
    accepted: u64,
    /// A stall that goes on.
    since: Option<Instant>,
    told: bool,
    busy: Duration,
}

impl Seen {
    /// Once when it lasts, and once when it is over.
    fn tell(&mut self, worker: usize, stalled: bool) {
        let Some(since) = self.since else { return };
        let lasts = since.elapsed();
        if !stalled {
            if self.told {
                tracing::info!(worker, ?lasts, "the worker takes its connections again");
            }
            (self.since, self.told) = (None, false);
        } else if lasts >= TOLD_AFTER && !self.told {
            self.told = true;
            tracing::warn!(
                worker,
                "the worker does not come to its connections: the others take what waits in its queue"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    /// Two workers with a socket each on addresses of their own.
    fn two() -> (Arc<Roster>, [SocketAddr; 2]) {
        let roster = Roster::new(2);
        let mut addresses = [SocketAddr::from(([0; 4], 0)); 2];
        let sockets = addresses.iter_mut().map(|address| {
            let socket = TcpListener::bind("127.0.0.1:0").unwrap();
            socket.set_nonblocking(true).unwrap();
            *address = socket.local_addr().unwrap();
            vec![(Listener::Http, socket)]
        });
        roster.open(sockets.collect()).unwrap();
        (roster, addresses)
    }

    fn taken_by(roster: &Roster, worker: usize) -> usize {
        let mut taken = 0;
        roster.take(worker, |_, _, _| {
            taken += 1;
            Ok(())
        });
        taken
    }

    #[test]
    fn what_waits_from_one_look_to_the_next_is_taken_by_another_and_not_before() {
        let (roster, [first, _]) = two();
        let mut memory = Memory::default();
        let _clients = [(); 3].map(|()| TcpStream::connect(first).unwrap());
        roster.look(&mut memory);
        assert_eq!(taken_by(&roster, 1), 0, "the worker may be on its way");
        roster.look(&mut memory);
        assert_eq!(roster.stalled().collect::<Vec<_>>(), [0]);
        assert_eq!(taken_by(&roster, 0), 0, "its own queue is no other's");
        assert_eq!(taken_by(&roster, 1), 3);
        assert_eq!(roster.taken(), 3);
    }

    #[test]
    fn what_waits_behind_a_closed_door_is_another_agents() {
        let (roster, [first, _]) = two();
        let mut memory = Memory::default();
        roster.doors.close(&[first]);
        let _client = TcpStream::connect(first).unwrap();
        roster.look(&mut memory);
        roster.look(&mut memory);
        assert_eq!(roster.stalled().count(), 0);
        roster.doors.close(&[]);
        roster.look(&mut memory);
        roster.look(&mut memory);
        roster.doors.close(&[first]);
        assert_eq!(taken_by(&roster, 1), 0);
        roster.doors.close(&[]);
        assert_eq!(taken_by(&roster, 1), 1);
    }

    #[test]
    fn a_worker_that_takes_connections_is_left_alone_however_many_wait() {
        let (roster, [first, _]) = two();
        let mut memory = Memory::default();
        let _client = TcpStream::connect(first).unwrap();
        for _ in 0..5 {
            roster.look(&mut memory);
            roster.seat(0).unwrap().accepted();
        }
        assert_eq!(roster.stalled().count(), 0);
    }

    #[tokio::test]
    async fn a_worker_that_comes_back_has_its_queue_for_itself_again() {
        let (roster, [first, _]) = two();
        let mut memory = Memory::default();
        let _client = TcpStream::connect(first).unwrap();
        roster.look(&mut memory);
        roster.look(&mut memory);
        assert_eq!(roster.stalled().count(), 1);
        roster.seat(0).unwrap().called().await;
        assert_eq!(roster.stalled().count(), 0);
    }

    #[test]
    fn nobody_keeps_a_socket_open_that_its_worker_has_closed() {
        let (roster, [first, second]) = two();
        let seat = roster.seat(0).unwrap();
        let post = Arc::clone(&seat.posts()[0]);
        seat.leave(&post);
        drop(post);
        assert!(TcpStream::connect(first).is_err());
        roster.close(Listener::Https, second);
        drop(TcpStream::connect(second).unwrap());
        roster.close(Listener::Http, second);
        assert!(TcpStream::connect(second).is_err());
    }

    #[test]
    fn a_worker_that_is_busy_has_more_to_do_than_one_that_waits_and_a_stalled_one_the_most() {
        let (roster, [first, _]) = two();
        let mut memory = Memory::default();
        roster.seat(1).unwrap().sit_down();
        roster.loads(&mut memory);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(100) {}
        let loads = roster.loads(&mut memory);
        assert_eq!(loads[0], 0);
        assert!(loads[1] >= 6, "{loads:?}");
        let _client = TcpStream::connect(first).unwrap();
        roster.look(&mut memory);
        roster.look(&mut memory);
        assert_eq!(roster.loads(&mut memory)[0], EIGHTHS + 1);
    }

    #[test]
    fn about_as_much_counts_as_equal() {
        let second = Duration::from_secs(1);
        let of = |millis| eighths(Duration::from_millis(millis), second);
        assert_eq!([0, 120, 130, 500, 999, 5_000].map(of), [0, 0, 1, 4, 7, 8]);
    }
}
