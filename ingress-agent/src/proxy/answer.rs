//! The agent's own answers: each carries exactly one reason code.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Method, Version};
use ingress_core::filter::OwnAnswer;
use ingress_core::reason::Reason;

use super::account::Account;
use super::connection::Connection;
use super::message::Response;
use super::response_body::ResponseBody;
use crate::error::ProxyError;

const REASON: HeaderName = HeaderName::from_static("x-ingress-agent-reason");

/// What is said instead of a body to HEAD (RFC 9110, 9.3.2).
fn without_body_for_head(account: &Account, mut response: Response<ResponseBody>) -> Response<ResponseBody> {
    if account.head.method == Method::HEAD
        && let ResponseBody::Full(body) = std::mem::replace(&mut response.body, ResponseBody::Empty)
    {
        response
            .fields
            .append(CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    response
}

/// A filter's answer: a redirect, a refusal, a preflight.
pub(crate) fn own(connection: &Connection, account: &mut Account, own: OwnAnswer) -> Response<ResponseBody> {
    account.reason = Some(own.reason);
    let mut response = plain(connection, own.reason);
    response.status = own.status;
    for (name, value) in own.headers {
        response.fields.append(name, value);
    }
    if own.status.is_success() {
        response.body = ResponseBody::Empty;
        response.fields.remove("content-type");
    }
    without_body_for_head(account, response)
}

/// The answer to an error.
///
/// # Errors
/// Gives the error back when nobody is left to answer, or when the gate will answer by itself.
pub(crate) fn to_error(
    connection: &Connection,
    account: &mut Account,
    error: ProxyError,
) -> Result<Response<ResponseBody>, ProxyError> {
    // A body that the gate refused looks like a vanished client from here; the gate knows better.
    let refused = connection.gate.refusal();
    let reason = refused.map_or(error.reason(), |refusal| refusal.reason);
    connection.refusal_told.set(refused.is_some());
    account.reason = Some(reason);
    account.error = Some(error.clone());
    if reason == Reason::ClientClosed {
        return Err(error);
    }
    let mut response = plain(connection, reason);
    if reason == Reason::BadRequest && account.head.version != Version::HTTP_2 {
        // Who sends one malformed request is not trusted with where the next one begins.
        response
            .fields
            .append(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(without_body_for_head(account, response))
}

fn plain(connection: &Connection, reason: Reason) -> Response<ResponseBody> {
    const PLAIN_TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
    let code = reason.code();
    let body = ResponseBody::Full(Bytes::from_static(code.as_bytes()));
    let mut response = Response::new(reason.status(), body);
    response.fields.append(CONTENT_TYPE, PLAIN_TEXT);
    if connection.worker.shared.config.reason_header {
        response.fields.append(REASON, HeaderValue::from_static(code));
    }
    response
}
