//! Requests that the gate refused before any service saw them: told to the log and the metrics like every other answer.

use std::time::{Duration, SystemTime};

use ingress_core::reason::Reason;

use super::connection::Connection;
use super::wire::Refusal;
use crate::drain::Ended;
use crate::telemetry::record::{HttpVersion, RequestRecord, TlsRecord};

/// Tells of the refusal that ended the connection, if one did and no request's account has told of it.
pub(crate) fn tell(connection: &Connection, protocol: HttpVersion) {
    let Some(refusal) = connection.gate.refusal() else {
        return;
    };
    if connection.refusal_told.get() {
        return;
    }
    if refusal.reason == Reason::Draining {
        connection.worker.shared.drain.ended(Ended::Request);
    }
    record(connection, protocol, refusal);
}

/// Tells of an h2 request that was malformed (RFC 9113, 8.1.1), and whose stream was reset for it.
pub(crate) fn tell_malformed(connection: &Connection, how: &'static str) {
    record(connection, HttpVersion::Http2, Refusal::bad(how));
}

fn record(connection: &Connection, protocol: HttpVersion, refusal: Refusal) {
    connection.worker.finished(&RequestRecord {
        started: SystemTime::now(),
        duration: Duration::ZERO,
        client: connection.client.ip(),
        peer: connection.peer,
        listener: connection.listener,
        protocol,
        tls: connection.tls.as_ref().map(|tls| TlsRecord {
            version: tls.version,
            server_name: tls.server_name.as_deref(),
        }),
        method: b"",
        host: b"",
        target: b"",
        status: refusal.reason.status().as_u16(),
        reason: Some(refusal.reason),
        route: None,
        client_tcp: None,
        upstream: None,
        request_bytes: 0,
        response_bytes: 0,
        request_id: b"",
        user_agent: None,
        referer: None,
        error: Some(&refusal.detail),
        unowned: None,
    });
}
