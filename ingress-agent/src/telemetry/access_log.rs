//! The access log: formatted by the worker, written by a thread of its own, never waited for.
//!
//! A worker appends lines to a buffer of its own and hands whole buffers over; when the writer cannot keep up (a blocked pipe), lines
//! are dropped and counted, and the log itself says how many. Bytes from the network are escaped here: no request can forge a line.

mod escape;
mod line;
mod writer;

use std::cell::RefCell;
use std::io::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use crate::config;
use crate::config::{AccessLogMode, LogFormat};
use crate::telemetry::record::RequestRecord;
use writer::Batch;
pub use writer::Writer;

/// A buffer is handed over when it holds this much, or at the next [`FLUSH_EVERY`].
const BATCH_BYTES: usize = 32 * 1024;
/// Lines wait at most this long in their worker.
pub const FLUSH_EVERY: Duration = Duration::from_millis(100);

/// Lines written and dropped since the start; for metrics.
#[derive(Debug, Default)]
pub struct Counts {
    written: AtomicU64,
    dropped: AtomicU64,
}

impl Counts {
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// The workers' way to the writer. Clone one into each worker's thread.
#[derive(Clone, Debug)]
pub struct Sink {
    settings: config::AccessLog,
    batches: Option<SyncSender<Batch>>,
    counts: Arc<Counts>,
}

/// Starts the writer thread on standard output; with the log off there is none.
pub fn start(settings: config::AccessLog) -> std::io::Result<(Sink, Writer)> {
    start_on(settings, std::io::stdout())
}

/// The same on any output.
pub fn start_on(
    settings: config::AccessLog,
    out: impl Write + Send + 'static,
) -> std::io::Result<(Sink, Writer)> {
    let counts = Arc::new(Counts::default());
    let (batches, writer) = match settings.mode {
        AccessLogMode::Off => (None, Writer::none()),
        AccessLogMode::All | AccessLogMode::Errors => {
            let (batches, writer) = Writer::spawn(settings.format, out, Arc::clone(&counts))?;
            (Some(batches), writer)
        }
    };
    Ok((
        Sink {
            settings,
            batches,
            counts,
        },
        writer,
    ))
}

impl Sink {
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// The log of one worker, made on that worker's thread.
    pub fn worker(&self) -> Rc<AccessLog> {
        Rc::new(AccessLog {
            sink: self.clone(),
            pending: RefCell::default(),
        })
    }
}

/// One worker's access log.
#[derive(Debug)]
pub struct AccessLog {
    sink: Sink,
    pending: RefCell<Batch>,
}

impl AccessLog {
    /// No request has a line.
    pub fn is_off(&self) -> bool {
        self.sink.batches.is_none()
    }

    /// Writes the request's line, when the settings and the route want one.
    pub fn log(&self, record: &RequestRecord<'_>) {
        if !self.wants(record) {
            return;
        }
        let mut pending = self.pending.borrow_mut();
        if pending.bytes.len() >= BATCH_BYTES && !self.hand_over(&mut pending) {
            self.sink.counts.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        match self.sink.settings.format {
            LogFormat::Json => line::json(&mut pending.bytes, record),
            LogFormat::Text => line::text(&mut pending.bytes, record),
        }
        pending.lines += 1;
    }

    /// Hands over what is pending, if the writer can take it.
    pub fn flush(&self) {
        let mut pending = self.pending.borrow_mut();
        if pending.lines > 0 {
            self.hand_over(&mut pending);
        }
    }

    /// Flushes every [`FLUSH_EVERY`]; the worker spawns this on its own thread. It ends when the worker's log is dropped.
    pub async fn keep_flushing(log: std::rc::Weak<Self>) {
        let mut ticks = tokio::time::interval(FLUSH_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            match log.upgrade() {
                Some(log) => log.flush(),
                None => return,
            }
        }
    }

    fn wants(&self, record: &RequestRecord<'_>) -> bool {
        if self.is_off() || record.route.is_some_and(|route| !route.policy.access_log) {
            return false;
        }
        let share = self.sink.settings.sample.share();
        record.is_error()
            || (self.sink.settings.mode == AccessLogMode::All && (share >= 1.0 || fastrand::f64() < share))
    }

    /// `false`: the writer is behind, and the batch stays where it is.
    fn hand_over(&self, pending: &mut Batch) -> bool {
        let Some(batches) = &self.sink.batches else {
            return false;
        };
        // Room for a long line beyond the threshold, so that the buffer does not grow while it fills.
        let empty = Batch {
            bytes: Vec::with_capacity(BATCH_BYTES + 4 * 1024),
            lines: 0,
        };
        match batches.try_send(std::mem::replace(pending, empty)) {
            Ok(()) => true,
            Err(
                std::sync::mpsc::TrySendError::Full(batch)
                | std::sync::mpsc::TrySendError::Disconnected(batch),
            ) => {
                *pending = batch;
                false
            }
        }
    }
}

/// The last lines of a worker that ends.
impl Drop for AccessLog {
    fn drop(&mut self) {
        let pending = self.pending.get_mut();
        let lines = pending.lines;
        let mut last = std::mem::take(pending);
        if lines > 0 && !self.hand_over(&mut last) {
            self.sink.counts.dropped.fetch_add(lines, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
