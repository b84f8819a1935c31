//! The agent's own log, on standard error.

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Log, LogFormat, LogLevel};

/// Starts it, and sends panics there too; later calls in one process change nothing.
pub fn start(log: Log) {
    let level = match log.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_target(false);
    let started = match log.format {
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .finish()
            .with(libraries(level))
            .try_init(),
        LogFormat::Text => builder
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .finish()
            .with(libraries(level))
            .try_init(),
    };
    drop(started);
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let place = panic.location().map(ToString::to_string);
        let message = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(
            thread = thread.name(),
            place,
            "fault in the agent, please report it: {message:?}"
        );
    }));
}

/// Libraries warn of what clients send (h2 does), and clients must not fill our log: only errors of theirs, unless we are being debugged.
fn libraries(level: LevelFilter) -> Targets {
    let theirs = if level > LevelFilter::INFO {
        level
    } else {
        level.min(LevelFilter::ERROR)
    };
    Targets::new()
        .with_default(theirs)
        .with_targets([("ingress_agent", level), ("ingress_core", level)])
        // It warns of answers that it can't read by quoting them whole, Secrets too.
        .with_target("kube_client", level.min(LevelFilter::ERROR))
}
