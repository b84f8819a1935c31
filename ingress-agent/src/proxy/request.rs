//! One request, one screen: target → resolve → filters → forward → response filters → account.
//!
//! Each phase takes what the phase before returned. A request resolves on one live state and then holds only its route.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_TYPE, HOST, SERVER};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Version};
use ingress_core::filter::{self, Client, Decision, Edit, Hop, RequestFacts};
use ingress_core::host::RequestHost;
use ingress_core::matching::{Miss, RequestView};
use ingress_core::path::{self, BadPath};
use ingress_core::reason::Reason;
use ingress_core::snapshot::Route;

use super::account::{Account, Served};
use super::answer;
use super::body::{RequestBody, ResponseBody, Source};
use super::forward::{self, Outgoing};
use super::serve::{Connection, Tunnel};
use super::wire;
use crate::error::ProxyError;
use crate::telemetry::record::Listener;

/// Answers one request; an error is an answer too, unless nobody is left to read it.
pub(crate) async fn handle(
    connection: Rc<Connection>,
    request: Request<Source>,
) -> Result<Response<Served>, ProxyError> {
    let (parts, incoming) = request.into_parts();
    let mut account = Account::open(&connection, parts);
    let unknown_length = incoming.size_hint().exact().is_none();
    let mut response = match serve(&connection, &mut account, incoming).await {
        Ok(Outcome::Response(response)) => response,
        Ok(Outcome::Tunnel(response, io)) => {
            let (response, account) = account.open_tunnel(response);
            let idle = account.route.as_ref().map_or(IDLE_TUNNEL, |route| {
                let timeouts = &route.policy.timeouts;
                timeouts.read.max(timeouts.send)
            });
            *connection.tunnel.borrow_mut() = Some(Tunnel { io, account, idle });
            return Ok(response);
        }
        Err(error) => answer::to_error(&connection, &mut account, error)?,
    };
    // An own answer does not wait for the rest of the body; then the connection closes, which the client must be told (RFC 9112, 9.6).
    let body_left = account.reason.is_some() && (unknown_length || connection.gate.is_body_open());
    if account.parts.version != Version::HTTP_2 && (body_left || connection.gate.is_draining()) {
        response.headers_mut().insert(CONNECTION, CLOSE);
    }
    if connection.worker.shared.config.server_header {
        // To the client a gateway is the origin server (RFC 9110, 3.7), but where the backend has said who it is, it stays so (10.2.4).
        response.headers_mut().entry(SERVER).or_insert(OURSELVES);
    }
    Ok(account.serve(response))
}

const OURSELVES: HeaderValue = HeaderValue::from_static("ingress-agent");
const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// For a tunnel without a route, which cannot be.
const IDLE_TUNNEL: Duration = Duration::from_secs(60);

/// How the phases can end well.
pub(crate) enum Outcome {
    Response(Response<ResponseBody>),
    Tunnel(Response<()>, super::upstream::UpstreamIo),
}

/// The phases in order.
async fn serve(
    connection: &Connection,
    account: &mut Account,
    incoming: Source,
) -> Result<Outcome, ProxyError> {
    if account.parts.version == Version::HTTP_2 {
        wire::check_h2_head(&account.parts, connection.worker.limits())?;
    }
    let asked = Asked::of(&account.parts)?;
    let target = asked.target(&account.parts)?;
    let route = resolve(connection, account, &target)?;
    let hop = hop(connection, &asked, &target);
    let client = connection
        .worker
        .shared
        .forwarding
        .client(&hop, &account.parts.headers);
    account.client = client.ip;
    if let Decision::Answer(own) = filter::decide(&route, &facts(connection, account, &target, &client)) {
        return Ok(Outcome::Response(answer::own(connection, account, own)));
    }
    let mut body = RequestBody::new(incoming, route.policy.body_limit)?;
    if account.parts.version == Version::HTTP_2 {
        body.limit_gap(body_gap(connection, account, &route));
        if body.may_belie_its_emptiness() {
            body.ended().await?;
        }
    }
    let cors = route
        .policy
        .cors
        .as_deref()
        .map(|cors| filter::cors_response_edits(cors, &account.parts.headers));
    let outgoing = outgoing(connection, account, &route, (&asked, &target), (&hop, &client))?;
    let mut outcome = forward::forward(connection, account, &route, &outgoing, body).await?;
    if let Outcome::Response(response) = &mut outcome {
        filter::apply(response.headers_mut(), filter::response_edits(&route));
        filter::apply(response.headers_mut(), cors.unwrap_or_default());
    }
    Ok(outcome)
}

/// How long an h2 client may be silent within a body; for HTTP/1 the gate knows. The messages of a gRPC stream may be as far apart as its
/// route says for the other direction.
fn body_gap(connection: &Connection, account: &Account, route: &Route) -> Duration {
    let gap = connection.worker.limits().body_gap;
    let content_type = account.parts.headers.get(CONTENT_TYPE);
    let grpc = content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if grpc {
        gap.max(route.policy.timeouts.read)
    } else {
        gap
    }
}

/// The parts of a request head that say whom and what it asks for; cheap copies, so that the head itself can be edited.
pub(crate) struct Asked {
    path_and_query: PathAndQuery,
    /// As the client wrote it, port included.
    authority: HeaderValue,
}

/// The same in the form that matching uses.
pub(crate) struct Target<'a> {
    pub(crate) host: RequestHost<'a>,
    /// Normalised.
    pub(crate) path: Cow<'a, str>,
    pub(crate) query: Option<&'a str>,
}

impl Asked {
    /// `:authority` or an absolute-form target wins over Host (RFC 9112, 3.2.2); on h2 the two must agree (RFC 9113, 8.3.1).
    fn of(parts: &Parts) -> Result<Self, ProxyError> {
        if matches!(parts.method, Method::CONNECT | Method::TRACE) {
            return Err(ProxyError::Answered(Reason::NotImplemented));
        }
        let mut fields = parts.headers.get_all(HOST).iter();
        let field = fields.next();
        if fields.next().is_some() {
            return Err(ProxyError::BadRequest("more than one host"));
        }
        let authority = match (parts.uri.authority(), field) {
            (Some(authority), field) => {
                let agrees =
                    field.is_none_or(|f| f.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()));
                if parts.version == Version::HTTP_2 && !agrees {
                    return Err(ProxyError::BadRequest(":authority and host differ"));
                }
                HeaderValue::from_str(authority.as_str())
                    .map_err(|_| ProxyError::BadRequest("malformed authority"))?
            }
            (None, Some(field)) => field.clone(),
            (None, None) if parts.version == Version::HTTP_10 => HeaderValue::from_static(""),
            (None, None) => return Err(ProxyError::BadRequest("no host")),
        };
        Ok(Self {
            path_and_query: origin_form(parts)?,
            authority,
        })
    }

    fn target(&self, parts: &Parts) -> Result<Target<'_>, ProxyError> {
        let bad_host = |_| ProxyError::BadRequest("malformed host");
        let host = match self.authority.to_str() {
            Ok("") if parts.version == Version::HTTP_10 => RequestHost {
                name: Cow::Borrowed(""),
                port: None,
            },
            Ok(text) => RequestHost::parse(text).map_err(bad_host)?,
            Err(_) => return Err(ProxyError::BadRequest("malformed host")),
        };
        let path = match (self.path_and_query.path(), &parts.method) {
            ("*", &Method::OPTIONS) => Cow::Borrowed("/"),
            (path, _) => path::normalise(path).map_err(bad_path)?,
        };
        Ok(Target {
            host,
            path,
            query: self.path_and_query.query(),
        })
    }
}

/// An absolute target may have a query and no path, which is the same as `/` (RFC 9110, 4.2.3); the origin form needs the path (RFC 9112, 3.2.1).
fn origin_form(parts: &Parts) -> Result<PathAndQuery, ProxyError> {
    match parts.uri.path_and_query() {
        None => Ok(PathAndQuery::from_static("/")),
        Some(target) if target.as_str().starts_with('?') => {
            PathAndQuery::try_from(format!("/{}", target.as_str()))
                .map_err(|_| ProxyError::BadRequest("malformed target"))
        }
        Some(target) => Ok(target.clone()),
    }
}

fn bad_path(BadPath(how): BadPath) -> ProxyError {
    ProxyError::BadRequest(how)
}

/// The route, in the state that is live now.
fn resolve(
    connection: &Connection,
    account: &mut Account,
    target: &Target<'_>,
) -> Result<Arc<Route>, ProxyError> {
    let live = connection.worker.shared.live.load();
    let server_name = connection.tls.as_ref().and_then(|tls| tls.server_name.as_deref());
    if let Some(server_name) = server_name
        && !live.may_share(server_name, &target.host.name)
    {
        return Err(ProxyError::Answered(Reason::Misdirected));
    }
    let view = RequestView {
        method: &account.parts.method,
        host: &target.host.name,
        path: &target.path,
        query: target.query,
        headers: &account.parts.headers,
    };
    match live.snapshot.find(&view) {
        Ok(route) => {
            account.routed(route);
            Ok(Arc::clone(route))
        }
        Err(miss) => {
            let reason = miss.reason();
            if let Miss::HostUnowned(unowned) = miss {
                account.unowned = Some(unowned);
            }
            Err(ProxyError::Answered(reason))
        }
    }
}

fn hop<'a>(connection: &'a Connection, asked: &'a Asked, target: &Target<'_>) -> Hop<'a> {
    let worker = &connection.worker;
    let port = match target.host.port {
        Some(port) if port != connection.local.port() => HeaderValue::from(port),
        _ => connection.local_port_text.clone(),
    };
    Hop {
        peer: connection.client.ip(),
        peer_text: &connection.client_text,
        https: connection.listener == Listener::Https,
        host: &asked.authority,
        port,
        request_id: u128::from(worker.random()) << 64 | u128::from(worker.random()),
    }
}

fn facts<'a>(
    connection: &Connection,
    account: &'a Account,
    target: &'a Target<'_>,
    client: &Client,
) -> RequestFacts<'a> {
    RequestFacts {
        https: client.https,
        host: &target.host.name,
        port: target.host.port,
        path: &target.path,
        query: target.query,
        method: &account.parts.method,
        headers: &account.parts.headers,
        client_ip: client.ip,
        https_port: connection.worker.shared.https_port,
    }
}

/// Edits the head into what the backend gets.
fn outgoing(
    connection: &Connection,
    account: &mut Account,
    route: &Route,
    (asked, target): (&Asked, &Target<'_>),
    (hop, client): (&Hop<'_>, &Client),
) -> Result<Outgoing, ProxyError> {
    let websocket = wants_websocket(&account.parts);
    let forwarded = connection
        .worker
        .shared
        .forwarding
        .edits(hop, client, &account.parts.headers);
    let headers = &mut account.parts.headers;
    filter::remove_hop_by_hop(headers);
    join_cookies(headers, account.parts.version);
    account.request_id = forwarded
        .iter()
        .find_map(request_id)
        .or_else(|| headers.get(X_REQUEST_ID).cloned());
    filter::make_way(headers, &forwarded);
    filter::apply(headers, filter::request_edits(route));
    Ok(Outgoing {
        extra: forwarded,
        target: outgoing_target(route, asked, target)?,
        host: route
            .policy
            .upstream_host
            .clone()
            .unwrap_or_else(|| asked.authority.clone()),
        websocket,
        https: client.https,
    })
}

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

fn request_id(edit: &Edit) -> Option<HeaderValue> {
    match edit {
        Edit::Set(name, value) if *name == X_REQUEST_ID => Some(value.clone()),
        _ => None,
    }
}

/// The backend gets what was matched: the normalised path, or what the route makes of it.
fn outgoing_target(route: &Route, asked: &Asked, target: &Target<'_>) -> Result<PathAndQuery, ProxyError> {
    let rewritten = filter::rewrite_target(route, &target.path, target.query).map_err(bad_path)?;
    let text = match (rewritten, &target.path) {
        (Some(rewritten), _) => rewritten,
        (None, Cow::Borrowed(_)) => return Ok(asked.path_and_query.clone()),
        (None, Cow::Owned(path)) => match target.query {
            Some(query) => format!("{path}?{query}"),
            None => path.clone(),
        },
    };
    PathAndQuery::try_from(text)
        .map_err(|_| ProxyError::BadRequest("the rewritten path is not a valid request target"))
}

/// The gate lets `Upgrade: websocket` through only in the one valid form (RFC 6455, 4.1); every other upgrade is not taken up.
fn wants_websocket(parts: &Parts) -> bool {
    parts.version == Version::HTTP_11
        && parts.method == Method::GET
        && parts
            .headers
            .get(http::header::UPGRADE)
            .is_some_and(|u| u.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// h2 may split cookies over several fields; over HTTP/1.1 they are one (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap, version: Version) {
    use http::header::COOKIE;
    if version != Version::HTTP_2 || headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let crumbs: Vec<_> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(cookie) = HeaderValue::from_bytes(&crumbs.join(b"; ".as_slice())) {
        headers.insert(COOKIE, cookie);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<A, B, F: Future>(_: impl Fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    /// Each level of an async call is copied into the one above it: a fat future is paid for on every request.
    #[test]
    fn the_future_of_a_request_stays_small() {
        let size = size_of_future(handle);
        assert!(size <= 3072, "{size} bytes");
    }
}
