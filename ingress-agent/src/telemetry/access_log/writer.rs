//! The thread that writes. It alone may block on the output.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use super::{Counts, line};
use crate::config::LogFormat;

/// Batches that wait for the writer; with their size this bounds the log's memory to about 2 MiB.
const QUEUE: usize = 64;
/// How often the log says what it dropped.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Whole lines on their way.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) lines: u64,
}

/// The writer thread's handle.
#[derive(Debug)]
pub struct Writer(Option<JoinHandle<()>>);

impl Writer {
    pub(super) fn none() -> Self {
        Self(None)
    }

    pub(super) fn spawn(
        format: LogFormat,
        out: impl Write + Send + 'static,
        counts: Arc<Counts>,
    ) -> std::io::Result<(SyncSender<Batch>, Self)> {
        let (sender, receiver) = sync_channel(QUEUE);
        let mut output = Output {
            format,
            out,
            counts,
            reported: 0,
            last_report: Instant::now(),
        };
        let thread = std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || output.run(&receiver))?;
        Ok((sender, Self(Some(thread))))
    }

    /// Waits until everything is written, after every [`super::Sink`] and [`super::AccessLog`] is gone; at most `patience`,
    /// because an output that nobody reads must not hold up the end. `true` when all was written.
    pub fn finish(self, patience: Duration) -> bool {
        let Some(thread) = self.0 else { return true };
        let (done, finished) = sync_channel(1);
        let waiter = std::thread::Builder::new()
            .name("access-log-end".into())
            .spawn(move || {
                let _ = thread.join();
                let _ = done.send(());
            });
        waiter.is_ok() && finished.recv_timeout(patience).is_ok()
    }
}

struct Output<W> {
    format: LogFormat,
    out: W,
    counts: Arc<Counts>,
    /// Drops that the log has already told of.
    reported: u64,
    last_report: Instant,
}

impl<W: Write> Output<W> {
    fn run(&mut self, batches: &Receiver<Batch>) {
        loop {
            match batches.recv_timeout(REPORT_EVERY) {
                Ok(batch) => self.write(&batch),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.report(),
            }
            if self.last_report.elapsed() >= REPORT_EVERY {
                self.report();
            }
        }
    }

    fn write(&mut self, batch: &Batch) {
        let counter = match self.out.write_all(&batch.bytes).and_then(|()| self.out.flush()) {
            Ok(()) => &self.counts.written,
            Err(_) => &self.counts.dropped,
        };
        counter.fetch_add(batch.lines, Ordering::Relaxed);
    }

    fn report(&mut self) {
        self.last_report = Instant::now();
        let dropped = self.counts.dropped();
        if dropped > self.reported {
            let mut bytes = Vec::new();
            line::dropped(
                &mut bytes,
                self.format,
                SystemTime::now(),
                dropped - self.reported,
            );
            if self.out.write_all(&bytes).and_then(|()| self.out.flush()).is_ok() {
                self.reported = dropped;
            }
        }
    }
}
