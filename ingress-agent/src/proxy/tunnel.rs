//! After a 101: bytes both ways until both sides are done, nothing has moved for too long, or the agent has to go.
//!
//! A tunnel in which nothing moves holds no buffer: what comes is read into one that the worker's tunnels share, and only what the other side does
//! not take at once is kept.

mod frames;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, timeout_at};

use self::frames::Frames;

/// What went through a tunnel, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Carried {
    /// From the client to the backend.
    pub up: u64,
    /// From the backend to the client.
    pub down: u64,
}

/// Where a worker's tunnels read into.
pub(crate) struct Scratch(RefCell<Box<[u8]>>);

impl Default for Scratch {
    fn default() -> Self {
        Self(RefCell::new(vec![0; 64 * 1024].into()))
    }
}

/// How long the client may take to answer our Close frame.
const GOODBYE: Duration = Duration::from_secs(5);

/// Copies both ways. One direction's end is passed on as a half-close; the tunnel ends when both have ended,
/// on an error, when no byte has moved for `idle`, or after `end` by a Close frame of ours between two of the backend's.
pub(crate) async fn run<C, U>(
    mut client: C,
    mut backend: U,
    idle: Duration,
    end: impl Future<Output = ()>,
    scratch: &Scratch,
) -> Carried
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let last_moved = Cell::new(Instant::now());
    let mut up = Flow::new(&last_moved, scratch);
    let mut down = Flow::new(&last_moved, scratch);
    let mut end = pin!(end);
    let mut goodbye: Option<Pin<Box<Sleep>>> = None;
    let both = poll_fn(|cx| {
        down.ends_after_frame = down.ends_after_frame || end.as_mut().poll(cx).is_ready();
        let up_done = up
            .poll(Pin::new(&mut client), Pin::new(&mut backend), cx)?
            .is_ready();
        let down_done = down
            .poll(Pin::new(&mut backend), Pin::new(&mut client), cx)?
            .is_ready();
        let said = down.state == State::Said;
        if said && up.frames.is_closed() && up.is_empty() {
            // Both sides know that this was an end (RFC 6455, 7.1.1): the server closes.
            ready!(Pin::new(&mut client).poll_shutdown(cx))?;
            return Poll::Ready(Ok(()));
        }
        let mut is_answered_in_time = || {
            let time = goodbye.get_or_insert_with(|| Box::pin(sleep(GOODBYE)));
            time.as_mut().poll(cx).is_pending()
        };
        if up_done && down_done || said && !is_answered_in_time() {
            return Poll::Ready(io::Result::Ok(()));
        }
        Poll::Pending
    });
    tokio::select! {
        _ = both => {}
        () = silence(&last_moved, idle) => {}
    }
    Carried {
        up: up.carried,
        down: down.carried,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The source has ended; the other side is told.
    Ending,
    /// Our Close frame is the last thing that goes this way.
    Goodbye,
    Said,
    Done,
}

/// One direction.
struct Flow<'a> {
    state: State,
    frames: Frames,
    /// A Close frame of ours comes after the frame that is under way.
    ends_after_frame: bool,
    /// Read, and not yet taken by the other side; `sent` bytes of it are.
    kept: Vec<u8>,
    sent: usize,
    unflushed: bool,
    carried: u64,
    last_moved: &'a Cell<Instant>,
    scratch: &'a Scratch,
}

impl<'a> Flow<'a> {
    fn new(last_moved: &'a Cell<Instant>, scratch: &'a Scratch) -> Self {
        Self {
            state: State::Open,
            frames: Frames::default(),
            ends_after_frame: false,
            kept: Vec::new(),
            sent: 0,
            unflushed: false,
            carried: 0,
            last_moved,
            scratch,
        }
    }

    fn is_empty(&self) -> bool {
        self.kept.is_empty() && !self.unflushed
    }

    /// Ready when nothing will ever move this way again.
    fn poll<R, W>(
        &mut self,
        mut from: Pin<&mut R>,
        mut to: Pin<&mut W>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead,
        W: AsyncWrite,
    {
        loop {
            ready!(self.poll_send(to.as_mut(), cx))?;
            match self.state {
                State::Open if self.ends_after_frame && self.frames.is_between() => self.say_goodbye(),
                State::Open => ready!(self.poll_pass(from.as_mut(), to.as_mut(), cx))?,
                State::Ending => {
                    ready!(to.as_mut().poll_shutdown(cx))?;
                    self.state = State::Done;
                }
                State::Goodbye => self.state = State::Said,
                State::Said => return Poll::Pending, // woken by what the client sends, or by the time
                State::Done => return Poll::Ready(Ok(())),
            }
        }
    }

    /// What was kept goes first.
    fn poll_send<W: AsyncWrite>(
        &mut self,
        mut to: Pin<&mut W>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while let Some(rest) = self.kept.get(self.sent..).filter(|rest| !rest.is_empty()) {
            let sent = ready!(to.as_mut().poll_write(cx, rest))?;
            self.count(sent)?;
            self.sent += sent;
        }
        if self.sent > 0 {
            (self.kept, self.sent) = (Vec::new(), 0);
        }
        if self.unflushed {
            ready!(to.poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once, and sends at once what goes.
    fn poll_pass<R, W>(
        &mut self,
        from: Pin<&mut R>,
        to: Pin<&mut W>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead,
        W: AsyncWrite,
    {
        let mut scratch = self.scratch.0.borrow_mut();
        let mut buffer = ReadBuf::new(&mut scratch);
        ready!(from.poll_read(cx, &mut buffer))?;
        let mut chunk = buffer.filled();
        if chunk.is_empty() {
            self.state = State::Ending;
            return Poll::Ready(Ok(()));
        }
        if self.ends_after_frame {
            chunk = chunk.get(..self.frames.pass_frame(chunk)).unwrap_or(chunk);
        } else {
            self.frames.pass(chunk);
        }
        let sent = match to.poll_write(cx, chunk) {
            Poll::Ready(sent) => sent?,
            Poll::Pending => 0,
        };
        if sent > 0 {
            self.count(sent)?;
        }
        self.kept.extend_from_slice(chunk.get(sent..).unwrap_or_default());
        self.unflushed = true;
        Poll::Ready(Ok(()))
    }

    fn say_goodbye(&mut self) {
        self.state = State::Goodbye;
        if !self.frames.is_closed() {
            self.kept.extend_from_slice(&frames::GOING_AWAY);
            self.unflushed = true;
        }
    }

    fn count(&mut self, sent: usize) -> io::Result<()> {
        if sent == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.carried += sent as u64;
        self.last_moved.set(Instant::now());
        Ok(())
    }
}

/// Ends when nothing has moved for `idle`.
async fn silence(last_moved: &Cell<Instant>, idle: Duration) {
    loop {
        let deadline = last_moved.get() + idle;
        if Instant::now() >= deadline {
            return;
        }
        let _ = timeout_at(deadline, std::future::pending::<()>()).await;
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
            .block_on(future)
    }

    #[test]
    fn a_half_close_is_passed_on_and_the_other_direction_goes_on() {
        let scratch = Scratch::default();
        block_on(async {
            let (mut client, client_side) = tokio::io::duplex(64);
            let (mut backend, backend_side) = tokio::io::duplex(64);
            let tunnel = run(
                client_side,
                backend_side,
                Duration::from_secs(60),
                pending(),
                &scratch,
            );
            let talk = async move {
                client.write_all(b"ping").await.unwrap();
                client.shutdown().await.unwrap();
                let mut got = Vec::new();
                backend.read_to_end(&mut got).await.unwrap();
                assert_eq!(got, b"ping");
                backend.write_all(b"late answer").await.unwrap();
                drop(backend);
                let mut got = Vec::new();
                client.read_to_end(&mut got).await.unwrap();
                assert_eq!(got, b"late answer");
            };
            let (carried, ()) = tokio::join!(tunnel, talk);
            assert_eq!(carried, Carried { up: 4, down: 11 });
        });
    }

    #[test]
    fn a_tunnel_in_which_nothing_moves_ends() {
        let scratch = Scratch::default();
        block_on(async {
            let (_client, client_side) = tokio::io::duplex(64);
            let (_backend, backend_side) = tokio::io::duplex(64);
            let before = Instant::now();
            run(
                client_side,
                backend_side,
                Duration::from_secs(60),
                pending(),
                &scratch,
            )
            .await;
            assert!(before.elapsed() >= Duration::from_secs(60));
        });
    }

    /// An unmasked text frame.
    const TEXT: &[u8] = b"\x81\x05hello";
    /// The same as a client says it, with a mask of zeros; and a Close.
    const ANSWER: &[u8] = b"\x88\x80\0\0\0\0";

    #[test]
    fn a_tunnel_that_has_to_end_says_so_between_two_frames_and_waits_for_the_answer() {
        let scratch = Scratch::default();
        block_on(async {
            let (mut client, client_side) = tokio::io::duplex(64);
            let (mut backend, backend_side) = tokio::io::duplex(64);
            let end = tokio::time::sleep(Duration::from_secs(30));
            let tunnel = run(client_side, backend_side, Duration::from_secs(600), end, &scratch);
            let talk = async move {
                backend.write_all(&TEXT[..3]).await.unwrap();
                tokio::time::sleep(Duration::from_secs(60)).await;
                // The rest of the frame, and the next one, which comes too late.
                backend.write_all(&[&TEXT[3..], TEXT].concat()).await.unwrap();
                let expected = [TEXT, &frames::GOING_AWAY].concat();
                let mut got = vec![0; expected.len()];
                client.read_exact(&mut got).await.unwrap();
                assert_eq!(got, expected);
                client.write_all(ANSWER).await.unwrap();
                let mut rest = Vec::new();
                backend.read_to_end(&mut rest).await.unwrap();
                assert_eq!(rest, ANSWER, "the backend learns that this was an end");
                client.read_to_end(&mut rest).await.unwrap();
                assert_eq!(rest, ANSWER, "nothing after the Close frame");
            };
            tokio::join!(tunnel, talk);
        });
    }

    #[test]
    fn a_client_that_does_not_answer_the_close_frame_is_not_waited_for_long() {
        let scratch = Scratch::default();
        block_on(async {
            let (_client, client_side) = tokio::io::duplex(64);
            let (_backend, backend_side) = tokio::io::duplex(64);
            let before = Instant::now();
            let end = std::future::ready(());
            run(client_side, backend_side, Duration::from_secs(600), end, &scratch).await;
            assert_eq!(before.elapsed(), GOODBYE);
        });
    }
}
