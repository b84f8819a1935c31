//! One request, one screen: target → resolve → filters → forward → response filters → account.
//!
//! Each phase takes what the phase before returned. A request resolves on one live state and then holds only its route.

use std::borrow::Cow;
use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use http::header::{CONNECTION, COOKIE, SERVER};
use http::{HeaderValue, Method, Version};
use ingress_core::fields::{Fields, HeadText};
use ingress_core::filter::{self, Client, Decision, Hop, RequestFacts};
use ingress_core::host::RequestHost;
use ingress_core::matching::{Miss, RequestView};
use ingress_core::path::{self, BadPath};
use ingress_core::reason::Reason;
use ingress_core::snapshot::Route;

use super::account::{Account, Served};
use super::answer;
use super::body::{RequestBody, Source};
use super::connection::Connection;
use super::forward::{self, Outcome, Outgoing};
use super::message::{Head, Response};
use super::upstream::UpstreamIo;
use super::wire;
use crate::drain::Ended;
use crate::error::ProxyError;
use crate::listener::Listener;

/// An upgraded connection to a backend, with the account of the request that asked for it.
pub(crate) struct Tunnel {
    pub(crate) io: UpstreamIo,
    pub(crate) account: Box<Account>,
    pub(crate) idle: Duration,
}

/// Left by a request whose upgrade the backend granted; begins when the 101 has gone out.
pub(crate) type TunnelPlace = RefCell<Option<Tunnel>>;

/// Answers one request; an error is an answer too, unless nobody is left to read it.
pub(crate) async fn answer(
    connection: Rc<Connection>,
    place: &TunnelPlace,
    head: Box<Head>,
    incoming: Source,
) -> Result<Response<Served>, ProxyError> {
    let mut account = Account::open(&connection, head);
    let unknown_length = incoming.size_hint().exact().is_none();
    let mut response = match served(&connection, &mut account, incoming).await {
        Ok(Outcome::Response(response)) => response,
        Ok(Outcome::Tunnel(response, io)) => {
            let (response, account) = account.open_tunnel(response);
            let idle = account.route.as_ref().map_or(IDLE_TUNNEL, |route| {
                let timeouts = &route.policy.timeouts;
                timeouts.read.max(timeouts.send)
            });
            *place.borrow_mut() = Some(Tunnel { io, account, idle });
            return Ok(response);
        }
        Err(error) => answer::to_error(&connection, &mut account, error)?,
    };
    // An own answer does not wait for the rest of the body; then the connection closes, which the client must be told (RFC 9112, 9.6).
    let body_left = account.reason.is_some() && (unknown_length || connection.gate.is_body_open());
    if account.head.version != Version::HTTP_2 && (body_left || connection.gate.is_draining()) {
        response.fields.insert(CONNECTION, CLOSE);
    }
    // To the client a gateway is the origin server (RFC 9110, 3.7), but where the backend has said who it is, it stays so (10.2.4).
    if connection.worker.shared.config.server_header && !response.fields.contains(SERVER.as_str()) {
        response.fields.append(SERVER, OURSELVES);
    }
    Ok(account.serve(response))
}

const OURSELVES: HeaderValue = HeaderValue::from_static("ingress-agent");
const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// For a tunnel without a route, which cannot be.
const IDLE_TUNNEL: Duration = Duration::from_secs(60);

/// The outcome of the phases, unless the process ends before there is one.
async fn served(
    connection: &Connection,
    account: &mut Account,
    incoming: Source,
) -> Result<Outcome, ProxyError> {
    let mut serving = pin!(serve(connection, account, incoming));
    poll_fn(|cx| {
        if connection.gate.is_ending() {
            connection.worker.shared.drain.ended(Ended::Request);
            return Poll::Ready(Err(ProxyError::Answered(Reason::Draining)));
        }
        serving.as_mut().poll(cx)
    })
    .await
}

/// The phases in order.
async fn serve(
    connection: &Connection,
    account: &mut Account,
    incoming: Source,
) -> Result<Outcome, ProxyError> {
    if connection.worker.shared.pressure.is_short() {
        return Err(ProxyError::Answered(Reason::Overloaded));
    }
    if account.head.version == Version::HTTP_2 {
        wire::check_h2_head(&account.head, connection.worker.limits())?;
    }
    let asked = Asked::of(&account.head)?;
    let target = asked.target(&account.head)?;
    let route = resolve(connection, account, &target)?;
    let hop = hop(connection, &asked, &target);
    let client = connection
        .worker
        .shared
        .forwarding
        .client(&hop, &account.head.fields);
    account.client = client.ip;
    if let Decision::Answer(own) = filter::decide(&route, &facts(connection, account, &target, &client)) {
        return Ok(Outcome::Response(answer::own(connection, account, own)));
    }
    let mut body = RequestBody::new(incoming, route.policy.body_limit)?;
    if account.head.version == Version::HTTP_2 {
        body.limit_gap(body_gap(connection, account, &route));
        if body.may_belie_its_emptiness() {
            body.ended().await?;
        }
    }
    let cors = route
        .policy
        .cors
        .as_deref()
        .map(|cors| filter::cors_response_edits(cors, &account.head.fields));
    let outgoing = outgoing(connection, account, &route, (&asked, &target), (&hop, &client))?;
    let mut outcome = forward::forward(connection, account, &route, &outgoing, body).await?;
    if let Outcome::Response(response) = &mut outcome {
        filter::apply(&mut response.fields, filter::response_edits(&route));
        filter::apply(&mut response.fields, cors.unwrap_or_default());
    }
    Ok(outcome)
}

/// How long an h2 client may be silent within a body; for HTTP/1 the gate knows. The messages of a gRPC stream may be as far apart as its
/// route says for the other direction.
fn body_gap(connection: &Connection, account: &Account, route: &Route) -> Duration {
    let gap = connection.worker.limits().body_gap;
    let content_type = account.head.fields.get("content-type");
    let grpc = content_type.is_some_and(|value| value.starts_with(b"application/grpc"));
    if grpc {
        gap.max(route.policy.timeouts.read)
    } else {
        gap
    }
}

/// The parts of a request head that say whom and what it asks for; cheap copies, so that the head itself can be edited.
pub(crate) struct Asked {
    /// In origin form; `None` for `/`.
    path_and_query: Option<HeadText>,
    /// As the client wrote it, port included; `None` where HTTP/1.0 says none.
    authority: Option<HeadText>,
}

/// The same in the form that matching uses.
pub(crate) struct Target<'a> {
    pub(crate) host: RequestHost<'a>,
    /// Normalised.
    pub(crate) path: Cow<'a, str>,
    pub(crate) query: Option<&'a str>,
    /// Both as the client wrote them.
    written: &'a str,
}

impl Asked {
    /// `:authority` or an absolute-form target wins over Host (RFC 9112, 3.2.2); on h2 the two must agree (RFC 9113, 8.3.1).
    fn of(head: &Head) -> Result<Self, ProxyError> {
        if matches!(head.method, Method::CONNECT | Method::TRACE) {
            return Err(ProxyError::Answered(Reason::NotImplemented));
        }
        let mut fields = head.fields.get_all("host");
        let field = fields.next();
        if fields.next().is_some() {
            return Err(ProxyError::BadRequest("more than one host"));
        }
        let authority = match (&head.authority, field) {
            (Some(authority), field) => {
                let agrees = field.is_none_or(|f| f.eq_ignore_ascii_case(authority.as_bytes()));
                if head.version == Version::HTTP_2 && !agrees {
                    return Err(ProxyError::BadRequest(":authority and host differ"));
                }
                Some(authority.clone())
            }
            (None, Some(_)) => Some(
                head.fields
                    .shared_text("host")
                    .ok_or(ProxyError::BadRequest("malformed host"))?,
            ),
            (None, None) if head.version == Version::HTTP_10 => None,
            (None, None) => return Err(ProxyError::BadRequest("no host")),
        };
        Ok(Self {
            path_and_query: head.origin_form(),
            authority: authority.filter(|authority| !authority.as_bytes().is_empty()),
        })
    }

    fn target(&self, head: &Head) -> Result<Target<'_>, ProxyError> {
        let host = match &self.authority {
            Some(authority) => RequestHost::parse(authority.as_str())
                .map_err(|_| ProxyError::BadRequest("malformed host"))?,
            None if head.version == Version::HTTP_10 => RequestHost {
                name: Cow::Borrowed(""),
                port: None,
            },
            None => return Err(ProxyError::BadRequest("malformed host")),
        };
        let written = self.path_and_query.as_ref().map_or("/", HeadText::as_str);
        let mark = written.bytes().position(|byte| byte == b'?');
        let (path, query) = match mark.and_then(|mark| written.split_at_checked(mark)) {
            Some((path, query)) => (path, query.get(1..)),
            None => (written, None),
        };
        let path = match (path, &head.method) {
            ("*", &Method::OPTIONS) => Cow::Borrowed("/"),
            (path, _) => path::normalise(path).map_err(bad_path)?,
        };
        Ok(Target {
            host,
            path,
            query,
            written,
        })
    }

    fn authority(&self) -> &[u8] {
        self.authority.as_ref().map_or(b"", HeadText::as_bytes)
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
        method: &account.head.method,
        host: &target.host.name,
        path: &target.path,
        query: target.query,
        headers: &account.head.fields,
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
        Some(port) if port != connection.local.port() => Cow::Owned(port.to_string().into_bytes()),
        _ => Cow::Borrowed(connection.local_port_text.as_bytes()),
    };
    Hop {
        peer: connection.client.ip(),
        peer_text: connection.client_text.as_bytes(),
        https: connection.listener == Listener::Https,
        host: asked.authority(),
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
        method: &account.head.method,
        headers: &account.head.fields,
        client_ip: client.ip,
        https_port: connection.worker.shared.https_port.load(Ordering::Relaxed),
    }
}

/// Edits the head into what the backend gets.
fn outgoing<'a>(
    connection: &Connection,
    account: &mut Account,
    route: &'a Route,
    (asked, target): (&'a Asked, &Target<'a>),
    (hop, client): (&Hop<'a>, &Client),
) -> Result<Outgoing<'a>, ProxyError> {
    let websocket = wants_websocket(&account.head);
    let forwarding = &connection.worker.shared.forwarding;
    let fields = &mut account.head.fields;
    let forwarded = forwarding.fields(hop, client, fields);
    filter::remove_hop_by_hop(fields);
    join_cookies(fields, account.head.version);
    account.request_id = forwarded.request_id();
    forwarded.make_way(fields);
    filter::apply(fields, filter::request_edits(route));
    Ok(Outgoing {
        extra: forwarded,
        target: outgoing_target(route, target)?,
        host: match &route.policy.upstream_host {
            Some(host) => host.as_bytes(),
            None => asked.authority(),
        },
        websocket,
        https: client.https,
    })
}

/// The backend gets what was matched: the normalised path, or what the route makes of it.
fn outgoing_target<'a>(route: &Route, target: &Target<'a>) -> Result<Cow<'a, str>, ProxyError> {
    let rewritten = filter::rewrite_target(route, &target.path, target.query).map_err(bad_path)?;
    let text = match (rewritten, &target.path) {
        (Some(rewritten), _) => rewritten,
        (None, Cow::Borrowed(_)) => return Ok(Cow::Borrowed(target.written)),
        (None, Cow::Owned(path)) => match target.query {
            Some(query) => format!("{path}?{query}"),
            None => path.clone(),
        },
    };
    match http::uri::PathAndQuery::try_from(text.as_str()) {
        Ok(_) => Ok(Cow::Owned(text)),
        Err(_) => Err(ProxyError::BadRequest(
            "the rewritten path is not a valid request target",
        )),
    }
}

/// The gate lets `Upgrade: websocket` through only in the one valid form (RFC 6455, 4.1); every other upgrade is not taken up.
fn wants_websocket(head: &Head) -> bool {
    head.version == Version::HTTP_11
        && head.method == Method::GET
        && head
            .fields
            .get("upgrade")
            .is_some_and(|upgrade| upgrade.eq_ignore_ascii_case(b"websocket"))
}

/// h2 may split cookies over several fields; over HTTP/1.1 they are one (RFC 9113, 8.2.3).
fn join_cookies(fields: &mut Fields, version: Version) {
    if version != Version::HTTP_2 || fields.get_all("cookie").nth(1).is_none() {
        return;
    }
    let crumbs: Vec<_> = fields.get_all("cookie").collect();
    if let Ok(mut cookie) = HeaderValue::from_bytes(&crumbs.join(b"; ".as_slice())) {
        // What no table may keep of one crumb, none may keep of the whole (RFC 7541, 6.2.3).
        let is_secret = |(name, _, never_indexed)| never_indexed && b"cookie".eq_ignore_ascii_case(name);
        cookie.set_sensitive(fields.entries().any(is_secret));
        fields.insert(COOKIE, cookie);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_that_are_joined_stay_as_secret_as_the_most_secret_of_them() {
        for secret in [false, true] {
            let mut fields = Fields::default();
            let mut crumb = HeaderValue::from_static("session=1");
            crumb.set_sensitive(secret);
            fields.append(COOKIE, HeaderValue::from_static("theme=dark"));
            fields.append(COOKIE, crumb);
            join_cookies(&mut fields, Version::HTTP_2);
            let joined: Vec<_> = fields.entries().collect();
            assert_eq!(joined, [(&b"cookie"[..], &b"theme=dark; session=1"[..], secret)]);
        }
    }

    fn size_of_future<A, B, C, D, F: Future>(_: impl Fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// Each level of an async call is copied into the one above it: a fat future is paid for on every request.
    #[test]
    fn the_future_of_a_request_stays_small() {
        let size = size_of_future(answer);
        assert!(size <= 3072, "{size} bytes");
    }
}
