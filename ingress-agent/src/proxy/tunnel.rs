//! After a 101: bytes both ways until both sides are done, or nothing has moved for too long.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

/// What went through a tunnel, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Carried {
    /// From the client to the backend.
    pub up: u64,
    /// From the backend to the client.
    pub down: u64,
}

const BUFFER: usize = 16 * 1024;

/// Copies both ways. One direction's end is passed on as a half-close; the tunnel ends when both have ended,
/// on an error, or when no byte has moved for `idle`.
pub(crate) async fn run<C, U>(client: C, backend: U, idle: Duration) -> Carried
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let (client_read, client_write) = tokio::io::split(client);
    let (backend_read, backend_write) = tokio::io::split(backend);
    let last_moved = std::cell::Cell::new(Instant::now());
    let mut carried = Carried::default();
    let up = copy(client_read, backend_write, &mut carried.up, &last_moved);
    let down = copy(backend_read, client_write, &mut carried.down, &last_moved);
    // try_join: an error in one direction ends the other, a clean end does not.
    let both = async { tokio::try_join!(up, down) };
    tokio::select! {
        _ = both => {}
        () = silence(&last_moved, idle) => {}
    }
    carried
}

async fn copy<R, W>(
    mut from: R,
    mut to: W,
    count: &mut u64,
    last_moved: &std::cell::Cell<Instant>,
) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = from.read(&mut buffer).await?;
        let Some(chunk) = buffer.get(..length).filter(|chunk| !chunk.is_empty()) else {
            return to.shutdown().await;
        };
        to.write_all(chunk).await?;
        to.flush().await?;
        *count += chunk.len() as u64;
        last_moved.set(Instant::now());
    }
}

/// Ends when nothing has moved for `idle`.
async fn silence(last_moved: &std::cell::Cell<Instant>, idle: Duration) {
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
            let tunnel = run(client_side, backend_side, Duration::from_secs(60));
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
            run(client_side, backend_side, Duration::from_secs(60)).await;
            assert!(before.elapsed() >= Duration::from_secs(60));
        });
    }
}
