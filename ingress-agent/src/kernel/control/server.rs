//! The listening side of an agent's control socket: a thread of its own, one connection at a time.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::PATIENCE;
use super::descriptors;
use super::hand_over::Successor;
use super::message::{self, Answer, Order};

/// What the agent is told to do, or asked.
#[derive(Debug)]
pub enum Asked {
    Status,
    TicketKeys,
    Detach,
    /// In parts of 10000.
    Share(u32),
    Bans {
        skip: usize,
    },
    Ban(IpAddr, Duration),
    Lift(IpAddr),
    /// The sockets that we listen on.
    Listeners {
        skip: usize,
    },
    /// To be begun; the answer must not wait for its end.
    Retire(Successor),
}

/// What is said, and which descriptors go with it.
#[derive(Debug)]
pub struct Reply {
    pub answer: Answer,
    pub beside: Vec<OwnedFd>,
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        Self {
            answer,
            beside: Vec::new(),
        }
    }
}

/// The socket; its file goes when this is dropped.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    /// Listens in the meeting place.
    ///
    /// # Errors
    /// When the socket or the thread can't be made.
    pub fn start(place: &Path, answer: impl Fn(Asked) -> Reply + Send + 'static) -> io::Result<Self> {
        let path = place.join(format!("{}-{:08x}.sock", std::process::id(), fastrand::u32(..)));
        let listener = UnixListener::bind(&path)?;
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let thread = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || {
                for stream in listener.incoming() {
                    if ended.load(Ordering::Acquire) {
                        return;
                    }
                    // Whoever asks nonsense gets an answer if it can be sent, and nothing else happens.
                    let _ = stream.and_then(|stream| serve(stream, &answer));
                }
            })?;
        Ok(Self {
            path,
            end,
            thread: Some(thread),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Release);
        // Wakes the thread; the file goes first, so that nobody else comes.
        let stream = UnixStream::connect(&self.path);
        let _ = std::fs::remove_file(&self.path);
        if let (Ok(_), Some(thread)) = (stream, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

fn serve(stream: UnixStream, answer: &impl Fn(Asked) -> Reply) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let asked = match message::read(&stream) {
        Ok(Order::Status) => Ok(Asked::Status),
        Ok(Order::TicketKeys) => Ok(Asked::TicketKeys),
        Ok(Order::Detach) => Ok(Asked::Detach),
        Ok(Order::Share { share }) => Ok(Asked::Share(share)),
        Ok(Order::Listeners { skip }) => Ok(Asked::Listeners { skip }),
        Ok(Order::Bans { skip }) => Ok(Asked::Bans { skip }),
        Ok(Order::Ban {
            address,
            milliseconds,
        }) => Ok(Asked::Ban(address, Duration::from_millis(milliseconds))),
        Ok(Order::Lift { address }) => Ok(Asked::Lift(address)),
        Ok(Order::Retire(retire)) => Ok(Asked::Retire(Successor::new(retire, stream.try_clone()?))),
        Err(error) => Err(Answer::refused(error)),
    };
    let Reply { answer, beside } = asked.map_or_else(Reply::from, answer);
    let beside: Vec<_> = beside.iter().map(AsFd::as_fd).collect();
    descriptors::write(&stream, &message::line(&answer)?, &beside)
}
