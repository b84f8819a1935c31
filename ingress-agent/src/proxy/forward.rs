//! A resolved request to an endpoint and back: pick, send, try another one when that is safe.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::header::SET_COOKIE;
use http::{HeaderValue, StatusCode};
use ingress_core::balance::{LiveEndpoint, NothingToPick, PickRequest, hash_bytes};
use ingress_core::fields::Fields;
use ingress_core::filter::{self, Forwarded};
use ingress_core::reason::Reason;
use ingress_core::resource::Balance;
use ingress_core::snapshot::{Cluster, Route};

use super::account::{Account, InFlight};
use super::body::RequestBody;
use super::connection::Connection;
use super::message::Response;
use super::response_body::ResponseBody;
use super::upstream::{Answer, Call, Failed, ProxyHeader, Reply, RequestHead, UpstreamIo};
use crate::error::{ProxyError, Side};
use crate::telemetry::metrics::UpstreamEvent;

/// The request line and Host as the backend gets them; the fields are in the account's head.
pub(crate) struct Outgoing<'a> {
    pub(crate) target: Cow<'a, str>,
    pub(crate) host: &'a [u8],
    /// Where the request came from; sent after the head's own fields.
    pub(crate) extra: Forwarded<'a>,
    pub(crate) websocket: bool,
    /// The client came by HTTPS: cookies may be `Secure`.
    pub(crate) https: bool,
}

impl Outgoing<'_> {
    fn head<'a>(&'a self, account: &'a Account) -> RequestHead<'a> {
        RequestHead {
            method: &account.head.method,
            target: &self.target,
            host: self.host,
            fields: &account.head.fields,
            extra: Some(&self.extra),
            websocket: self.websocket,
        }
    }
}

/// How the phases can end well.
pub(crate) enum Outcome {
    Response(Response<ResponseBody>),
    Tunnel(Response<()>, UpstreamIo),
}

/// Sends the request to an endpoint of the route's cluster; to another one when that failed and a second try is safe.
pub(crate) async fn forward(
    connection: &Connection,
    account: &mut Account,
    route: &Route,
    outgoing: &Outgoing<'_>,
    mut body: RequestBody,
) -> Result<Outcome, ProxyError> {
    let worker = &connection.worker;
    let cluster = choose_cluster(route, account, worker.random())?;
    account.cluster = Some(Arc::clone(&cluster));
    if outgoing.websocket && cluster.key.protocol.is_h2() {
        return Err(ProxyError::Answered(Reason::NotImplemented));
    }
    account.progress = body.progress();
    let idempotent = account.head.method.is_idempotent();
    cluster.retry_budget.deposit();
    let mut tried: Vec<SocketAddr> = Vec::new();
    loop {
        let endpoint = pick(connection, account, route, (&cluster, &tried))?;
        let address = endpoint.endpoint.address;
        account.attempts += 1;
        account.endpoint = Some(address);
        let mut in_flight = InFlight::begin(endpoint, Rc::clone(worker));
        let mut informational = informational(connection);
        let mut call = Call {
            address,
            protocol: cluster.key.protocol,
            server_name: None,
            head: outgoing.head(account),
            timeouts: &route.policy.timeouts,
            proxy_header: proxy_header(connection, account, route),
            informational: &mut informational,
        };
        let failed = match worker.upstreams.send(&mut call, body).await {
            Ok(reply) => return Ok(receive(account, route, outgoing, reply, in_flight)),
            Err(failed) => failed,
        };
        if failed.error.is_no_connection() {
            worker.shard.upstream(UpstreamEvent::ConnectFailed);
        }
        if failed.error.side() == Side::Upstream {
            in_flight.failed();
        }
        drop(in_flight);
        body = try_again(account, route, &cluster, failed, idempotent)?;
        tried.push(address);
    }
}

/// Whom the backend is told of on TCP's own level, where the route wants that.
fn proxy_header(connection: &Connection, account: &Account, route: &Route) -> Option<ProxyHeader> {
    let client = connection.client;
    route.policy.upstream_proxy_protocol.then(|| ProxyHeader {
        // A client that a trusted proxy's field names has no port that anybody knows.
        source: match account.client == client.ip() {
            true => client,
            false => SocketAddr::new(account.client, 0),
        },
        destination: connection.local,
    })
}

fn choose_cluster(route: &Route, account: &Account, random: u64) -> Result<Arc<Cluster>, ProxyError> {
    filter::choose_cluster(route, &account.head.fields, random)
        .map(Arc::clone)
        .map_err(ProxyError::Answered)
}

fn pick(
    connection: &Connection,
    account: &Account,
    route: &Route,
    (cluster, tried): (&Cluster, &[SocketAddr]),
) -> Result<Arc<LiveEndpoint>, ProxyError> {
    let worker = &connection.worker;
    let balance = cluster.key.balance;
    let affinity = route.policy.affinity.as_ref();
    let request = PickRequest {
        balance,
        hash: hash(balance, account),
        sticky: affinity.and_then(|affinity| filter::sticky_cookie(affinity, &account.head.fields)),
        tried,
        // One look at the clock less for all but those that try again.
        now: if tried.is_empty() {
            account.began()
        } else {
            worker.now()
        },
    };
    cluster
        .endpoints()
        .pick(&request, worker.random())
        .map(Arc::clone)
        .map_err(|NothingToPick(reason)| ProxyError::Answered(reason))
}

fn hash(balance: Balance, account: &Account) -> u64 {
    match balance {
        Balance::P2cPeakEwma | Balance::RoundRobin => 0,
        Balance::HashSource => match account.client {
            std::net::IpAddr::V4(ip) => hash_bytes(&ip.octets()),
            std::net::IpAddr::V6(ip) => hash_bytes(&ip.octets()),
        },
        Balance::HashUri => hash_bytes(account.head.target_bytes()),
    }
}

/// The body for another attempt, or the error that stands.
fn try_again(
    account: &Account,
    route: &Route,
    cluster: &Cluster,
    failed: Failed,
    idempotent: bool,
) -> Result<RequestBody, ProxyError> {
    let again = account.attempts < route.policy.retry.attempts
        && failed.error.may_retry(failed.sent, idempotent)
        && cluster.retry_budget.withdraw(account.now());
    match failed.body {
        Some(whole) if again => Ok(*whole),
        _ => Err(failed.error),
    }
}

/// 1xx heads go on to clients that can take them (RFC 9110, 15.2). A 100 doesn't: the server says it when the body is asked for.
fn informational(connection: &Connection) -> impl FnMut(StatusCode, &Fields) {
    move |status, fields: &Fields| {
        if status != StatusCode::CONTINUE {
            connection.gate.inform(status, fields);
        }
    }
}

/// The head is there: the answer goes on to the client, and the balancer learns.
fn receive(
    account: &mut Account,
    route: &Route,
    outgoing: &Outgoing<'_>,
    reply: Reply,
    mut in_flight: InFlight,
) -> Outcome {
    account.timing = Some(reply.timing);
    let cookie = sticky_cookie(account, route, outgoing, &in_flight);
    match reply.answer {
        Answer::Response(response) => {
            in_flight.answered(response.status.as_u16(), reply.timing.first_byte);
            account.in_flight = Some(in_flight);
            let mut response = response.map(ResponseBody::Upstream);
            if let Some(cookie) = cookie {
                response.fields.append(SET_COOKIE, cookie);
            }
            Outcome::Response(response)
        }
        Answer::Upgraded { response, io } => {
            in_flight.answered(response.status.as_u16(), reply.timing.first_byte);
            account.in_flight = Some(in_flight);
            Outcome::Tunnel(response, io)
        }
    }
}

/// The affinity cookie, when the client doesn't have this endpoint's yet. A session whose own endpoint is still there and
/// only failed or is ejected comes back to it, unless `change_on_failure` says that it moves for good.
fn sticky_cookie(
    account: &Account,
    route: &Route,
    outgoing: &Outgoing<'_>,
    in_flight: &InFlight,
) -> Option<HeaderValue> {
    let affinity = route.policy.affinity.as_ref()?;
    let id = in_flight.endpoint().sticky_id();
    let remembered = filter::sticky_cookie(affinity, &account.head.fields);
    let comes_back = |remembered: &str| {
        let cluster = account.cluster.as_ref();
        !affinity.change_on_failure
            && cluster.is_some_and(|cluster| cluster.endpoints().by_sticky_id(remembered).is_some())
    };
    match remembered {
        Some(remembered) if remembered == id.as_str() || comes_back(remembered) => None,
        _ => filter::set_cookie(affinity, &id, outgoing.https),
    }
}
