//! The exposition formats: Prometheus text 0.0.4, or OpenMetrics 1.0 for those who ask for it. Knows no metric by name.

use std::fmt::{Display, Write};
use std::time::Duration;

use super::histogram::Histogram;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Prometheus,
    OpenMetrics,
}

impl Format {
    /// OpenMetrics only where `Accept` names it.
    pub fn for_accept(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Seconds as Prometheus has them, without loss below a microsecond.
pub(super) fn seconds(duration: Duration) -> String {
    format!("{}.{:06}", duration.as_secs(), duration.subsec_micros())
}

/// `a="b",c="d"`, escaped.
#[derive(Clone, Debug, Default)]
pub(super) struct Labels(String);

impl Labels {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        self.0.push_str(name);
        self.0.push_str("=\"");
        for c in value.chars() {
            match c {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                c => self.0.push(c),
            }
        }
        self.0.push('"');
        self
    }
}

/// The page as it grows.
pub(super) struct Page {
    out: String,
    format: Format,
}

impl Page {
    pub(super) fn new(format: Format) -> Self {
        Self {
            out: String::with_capacity(64 * 1024),
            format,
        }
    }

    pub(super) fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.out.push_str("# EOF\n");
        }
        self.out
    }

    /// OpenMetrics names a counter's family without its `_total`.
    pub(super) fn family(&mut self, name: &str, kind: &str, help: &str) {
        let name = match self.format {
            Format::OpenMetrics if kind == "counter" => name.trim_end_matches("_total"),
            _ => name,
        };
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub(super) fn sample(
        &mut self,
        name: &str,
        labels: &Labels,
        last: Option<(&str, &str)>,
        value: impl Display,
    ) {
        self.out.push_str(name);
        self.braces(labels, last);
        let _ = writeln!(self.out, " {value}");
    }

    pub(super) fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &Labels::new(), None, value);
    }

    pub(super) fn histogram(&mut self, name: &str, labels: &Labels, histogram: &Histogram) {
        if histogram.count() == 0 {
            return;
        }
        let bucket = format!("{name}_bucket");
        for (le, count) in histogram.cumulative() {
            self.sample(&bucket, labels, Some(("le", le)), count);
        }
        self.sample(&bucket, labels, Some(("le", "+Inf")), histogram.count());
        self.sample(&format!("{name}_sum"), labels, None, seconds(histogram.sum()));
        self.sample(&format!("{name}_count"), labels, None, histogram.count());
    }

    fn braces(&mut self, labels: &Labels, last: Option<(&str, &str)>) {
        let last = last
            .map(|(name, value)| Labels::new().with(name, value).0)
            .unwrap_or_default();
        match (labels.0.is_empty(), last.is_empty()) {
            (true, true) => {}
            (false, false) => {
                let _ = write!(self.out, "{{{},{last}}}", labels.0);
            }
            _ => {
                let _ = write!(self.out, "{{{}{last}}}", labels.0);
            }
        }
    }
}
