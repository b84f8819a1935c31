//! After a 101: bytes both ways until both sides are done, nothing has moved for too long, or the agent has to go.

mod frames;

use std::cell::Cell;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use self::frames::Frames;

/// What went through a tunnel, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Carried {
    /// From the client to the backend.
    pub up: u64,
    /// From the backend to the client.
    pub down: u64,
}

const BUFFER: usize = 16 * 1024;

/// How long the client may take to answer our Close frame.
const GOODBYE: Duration = Duration::from_secs(5);

/// Copies both ways. One direction's end is passed on as a half-close; the tunnel ends when both have ended,
/// on an error, when no byte has moved for `idle`, or after `end` by a Close frame of ours between two of the backend's.
pub(crate) async fn run<C, U>(client: C, backend: U, idle: Duration, end: impl Future<Output = ()>) -> Carried
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let (client_read, client_write) = tokio::io::split(client);
    let (backend_read, backend_write) = tokio::io::split(backend);
    let last_moved = Cell::new(Instant::now());
    let client_closed = Notify::new();
    let mut carried = Carried::default();
    let up = Direction {
        from: client_read,
        to: backend_write,
        count: &mut carried.up,
        last_moved: &last_moved,
        frames: Frames::default(),
    };
    let down = Direction {
        from: backend_read,
        to: client_write,
        count: &mut carried.down,
        last_moved: &last_moved,
        frames: Frames::default(),
    };
    // try_join: an error in one direction ends the other, a clean end does not.
    let both = async { tokio::try_join!(up.copy(&client_closed), down.copy_until(end, &client_closed)) };
    tokio::select! {
        _ = both => {}
        () = silence(&last_moved, idle) => {}
    }
    carried
}

struct Direction<'a, R, W> {
    from: R,
    to: W,
    count: &'a mut u64,
    last_moved: &'a Cell<Instant>,
    frames: Frames,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Direction<'_, R, W> {
    /// What the client sends; `closed` learns of its Close frame.
    async fn copy(mut self, closed: &Notify) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = self.from.read(&mut buffer).await?;
            let Some(chunk) = buffer.get(..length).filter(|chunk| !chunk.is_empty()) else {
                return self.to.shutdown().await;
            };
            self.frames.pass(chunk);
            self.pass_on(chunk).await?;
            if self.frames.is_closed() {
                closed.notify_one();
            }
        }
    }

    /// What the backend sends, until `end` and the end of a frame after it.
    async fn copy_until(mut self, end: impl Future<Output = ()>, closed: &Notify) -> io::Result<()> {
        let mut end = std::pin::pin!(end);
        let mut ending = false;
        let mut buffer = vec![0; BUFFER];
        loop {
            if ending && self.frames.is_between() {
                return self.say_goodbye(closed).await;
            }
            let length = tokio::select! {
                biased;
                () = end.as_mut(), if !ending => {
                    ending = true;
                    continue;
                }
                read = self.from.read(&mut buffer) => read?,
            };
            let Some(chunk) = buffer.get(..length).filter(|chunk| !chunk.is_empty()) else {
                return self.to.shutdown().await;
            };
            match self.frames.pass(chunk).filter(|_| ending) {
                Some(frame_end) => {
                    self.pass_on(chunk.get(..frame_end).unwrap_or(chunk)).await?;
                    return self.say_goodbye(closed).await;
                }
                None => self.pass_on(chunk).await?,
            }
        }
    }

    async fn pass_on(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.to.write_all(chunk).await?;
        self.to.flush().await?;
        *self.count += chunk.len() as u64;
        self.last_moved.set(Instant::now());
        Ok(())
    }

    /// The client's answer goes to the backend like everything that it sends, so that both know that this was an end (RFC 6455, 7.1.1).
    async fn say_goodbye(&mut self, closed: &Notify) -> io::Result<()> {
        let said = async {
            if !self.frames.is_closed() {
                self.to.write_all(&frames::GOING_AWAY).await?;
                self.to.flush().await?;
            }
            closed.notified().await;
            self.to.shutdown().await
        };
        let _ = timeout(GOODBYE, said).await;
        Err(io::ErrorKind::ConnectionAborted.into()) // ends the other direction too
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
        block_on(async {
            let (mut client, client_side) = tokio::io::duplex(64);
            let (mut backend, backend_side) = tokio::io::duplex(64);
            let tunnel = run(client_side, backend_side, Duration::from_secs(60), pending());
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
        block_on(async {
            let (_client, client_side) = tokio::io::duplex(64);
            let (_backend, backend_side) = tokio::io::duplex(64);
            let before = Instant::now();
            run(client_side, backend_side, Duration::from_secs(60), pending()).await;
            assert!(before.elapsed() >= Duration::from_secs(60));
        });
    }

    /// An unmasked text frame.
    const TEXT: &[u8] = b"\x81\x05hello";
    /// The same as a client says it, with a mask of zeros; and a Close.
    const ANSWER: &[u8] = b"\x88\x80\0\0\0\0";

    #[test]
    fn a_tunnel_that_has_to_end_says_so_between_two_frames_and_waits_for_the_answer() {
        block_on(async {
            let (mut client, client_side) = tokio::io::duplex(64);
            let (mut backend, backend_side) = tokio::io::duplex(64);
            let end = tokio::time::sleep(Duration::from_secs(30));
            let tunnel = run(client_side, backend_side, Duration::from_secs(600), end);
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
        block_on(async {
            let (_client, client_side) = tokio::io::duplex(64);
            let (_backend, backend_side) = tokio::io::duplex(64);
            let before = Instant::now();
            let end = std::future::ready(());
            run(client_side, backend_side, Duration::from_secs(600), end).await;
            assert_eq!(before.elapsed(), GOODBYE);
        });
    }
}
