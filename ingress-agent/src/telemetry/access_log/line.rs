//! One request as one line. docs/observability.md lists the fields; they are stable.

use std::fmt::{Display, Write as _};
use std::io::Write as _;
use std::time::{Duration, SystemTime};

use super::escape::{self, Escaped};
use crate::config::LogFormat;
use crate::telemetry::record::{RequestRecord, UpstreamRecord};

/// A JSON object. Fields that have no value are left out.
pub(super) fn json(out: &mut Vec<u8>, record: &RequestRecord<'_>) {
    out.extend_from_slice(b"{\"time\":\"");
    timestamp(out, record.started);
    let _ = write!(
        out,
        "\",\"duration_ms\":{},\"client\":\"{}\",\"peer\":\"{}\",\"listener\":\"{}\",\"protocol\":\"{}\"",
        Millis(record.duration),
        record.client,
        record.peer,
        record.listener.as_str(),
        record.protocol.as_str(),
    );
    if let Some(tls) = record.tls {
        let _ = write!(out, ",\"tls_version\":\"{}\"", tls.version.as_str());
        optional(out, "tls_server_name", tls.server_name.map(str::as_bytes));
    }
    string(out, "method", record.method);
    string(out, "host", record.host);
    string(out, "target", record.target);
    let _ = write!(out, ",\"status\":{}", record.status);
    if let Some(reason) = record.reason {
        let _ = write!(out, ",\"reason\":\"{}\"", reason.code());
    }
    let _ = write!(
        out,
        ",\"request_bytes\":{},\"response_bytes\":{}",
        record.request_bytes, record.response_bytes
    );
    optional(
        out,
        "request_id",
        Some(record.request_id).filter(|id| !id.is_empty()),
    );
    optional(out, "user_agent", record.user_agent);
    optional(out, "referer", record.referer);
    if let Some(tcp) = record.client_tcp {
        let _ = write!(
            out,
            ",\"client_rtt_ms\":{},\"client_least_rtt_ms\":{},\"client_retransmits\":{}",
            Millis(tcp.rtt),
            Millis(tcp.least_rtt),
            tcp.retransmits
        );
    }
    json_routing(out, record);
    out.extend_from_slice(b"}\n");
}

fn json_routing(out: &mut Vec<u8>, record: &RequestRecord<'_>) {
    if let Some(route) = record.route {
        string(out, "namespace", route.object.namespace.as_bytes());
        string(out, "ingress", route.object.name.as_bytes());
        shown(out, "path", &route.path);
    }
    if let Some(upstream) = &record.upstream {
        json_upstream(out, upstream);
    }
    if let Some(unowned) = record.unowned {
        shown(out, "unowned_object", &unowned.object);
        string(out, "unowned_because", unowned.why.as_bytes());
    }
    if let Some(error) = record.error {
        shown(out, "error", error);
    }
}

fn json_upstream(out: &mut Vec<u8>, upstream: &UpstreamRecord<'_>) {
    string(out, "service", upstream.cluster.service.name.as_bytes());
    string(
        out,
        "service_namespace",
        upstream.cluster.service.namespace.as_bytes(),
    );
    shown(out, "service_port", &upstream.cluster.port);
    if let Some(endpoint) = upstream.endpoint {
        let _ = write!(out, ",\"endpoint\":\"{endpoint}\"");
    }
    let _ = write!(
        out,
        ",\"attempts\":{},\"reused\":{}",
        upstream.attempts, upstream.reused
    );
    if let Some(connect) = upstream.connect {
        let _ = write!(out, ",\"connect_ms\":{}", Millis(connect));
    }
    if let Some(first_byte) = upstream.first_byte {
        let _ = write!(out, ",\"first_byte_ms\":{}", Millis(first_byte));
    }
}

/// `TIME CLIENT "METHOD TARGET PROTOCOL" HOST STATUS REASON BYTES DURATION INGRESS SERVICE ENDPOINT "USER AGENT" REQUEST-ID`, then
/// `key="value"` where there is more to say. What has no value is `-`.
pub(super) fn text(out: &mut Vec<u8>, record: &RequestRecord<'_>) {
    timestamp(out, record.started);
    let _ = write!(out, " {} \"", record.client);
    escape::text(out, record.method);
    out.push(b' ');
    escape::text(out, record.target);
    let _ = write!(out, " {}\" \"", record.protocol.as_str());
    escape::text(out, record.host);
    let reason = record.reason.map_or("-", |reason| reason.code());
    let _ = write!(
        out,
        "\" {} {reason} {} {}ms ",
        record.status,
        record.response_bytes,
        Millis(record.duration)
    );
    match record.route {
        Some(route) => {
            let _ = write!(out, "{}/{} ", route.object.namespace, route.object.name);
        }
        None => out.extend_from_slice(b"- "),
    }
    text_upstream(out, record.upstream.as_ref());
    quoted(out, record.user_agent.unwrap_or(b"-"));
    out.push(b' ');
    quoted(
        out,
        if record.request_id.is_empty() {
            b"-"
        } else {
            record.request_id
        },
    );
    if let Some(unowned) = record.unowned {
        said(
            out,
            "unowned",
            &format_args!("{}: {}", unowned.object, unowned.why),
        );
    }
    if let Some(error) = record.error {
        said(out, "error", error);
    }
    out.push(b'\n');
}

fn text_upstream(out: &mut Vec<u8>, upstream: Option<&UpstreamRecord<'_>>) {
    let Some(upstream) = upstream else {
        return out.extend_from_slice(b"- - ");
    };
    let service = &upstream.cluster.service;
    let _ = write!(
        out,
        "{}/{}:{} ",
        service.namespace, service.name, upstream.cluster.port
    );
    match upstream.endpoint {
        Some(endpoint) => {
            let _ = write!(out, "{endpoint} ");
        }
        None => out.extend_from_slice(b"- "),
    }
}

/// The log's word about itself.
pub(super) fn dropped(out: &mut Vec<u8>, format: LogFormat, now: SystemTime, count: u64) {
    match format {
        LogFormat::Json => {
            out.extend_from_slice(b"{\"time\":\"");
            timestamp(out, now);
            let _ = writeln!(
                out,
                "\",\"message\":\"access log lines dropped\",\"dropped\":{count}}}"
            );
        }
        LogFormat::Text => {
            timestamp(out, now);
            let _ = writeln!(out, " access log lines dropped: {count}");
        }
    }
}

fn string(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    let _ = write!(out, ",\"{name}\":\"");
    escape::json(out, value);
    out.push(b'"');
}

fn optional(out: &mut Vec<u8>, name: &str, value: Option<&[u8]>) {
    if let Some(value) = value {
        string(out, name, value);
    }
}

fn shown(out: &mut Vec<u8>, name: &str, value: &dyn Display) {
    let _ = write!(out, ",\"{name}\":\"");
    let _ = write!(
        Escaped {
            out,
            escape: escape::json
        },
        "{value}"
    );
    out.push(b'"');
}

fn quoted(out: &mut Vec<u8>, value: &[u8]) {
    out.push(b'"');
    escape::text(out, value);
    out.push(b'"');
}

fn said(out: &mut Vec<u8>, name: &str, value: &dyn Display) {
    let _ = write!(out, " {name}=\"");
    let _ = write!(
        Escaped {
            out,
            escape: escape::text
        },
        "{value}"
    );
    out.push(b'"');
}

/// Milliseconds with microseconds behind the point.
struct Millis(Duration);

impl Display for Millis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let micros = self.0.as_micros();
        write!(f, "{}.{:03}", micros / 1_000, micros % 1_000)
    }
}

/// RFC 3339 in UTC with milliseconds.
pub(super) fn timestamp(out: &mut Vec<u8>, time: SystemTime) {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs();
    let (year, month, day) = civil(seconds / 86_400);
    let _ = write!(
        out,
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        seconds / 3_600 % 24,
        seconds / 60 % 60,
        seconds % 60,
        since.subsec_millis(),
    );
}

/// Days since 1970 to the Gregorian date, counted in eras of 400 years that begin on 1 March.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days.saturating_add(719_468);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}
