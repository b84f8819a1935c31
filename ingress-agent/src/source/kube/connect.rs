//! The way to the API server: one HTTP/2 connection for many watches, with credentials that are read again as they rotate.
//!
//! The client that kube makes by itself speaks HTTP/1.1, a connection for every watch; it logs at will, and retries by rules of its own.

mod pause;
mod token;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::runtime::Runtime;
use tower::{BoxError, ServiceBuilder};

use self::token::TokenFile;
use crate::config::Cluster;

/// Where the cluster is.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// `None`: the pod's service account.
    kubeconfig: Option<PathBuf>,
    context: Option<String>,
}

impl Place {
    pub(crate) fn of(cluster: &Cluster) -> Self {
        Self {
            kubeconfig: cluster.kubeconfig.clone(),
            context: cluster.context.clone(),
        }
    }
}

const CONNECT: Duration = Duration::from_secs(10);
/// A connection that died without a word is noticed within the sum of the two.
const PING: Duration = Duration::from_secs(20);
const PONG: Duration = Duration::from_secs(15);

/// A runtime for a thread that talks to the cluster, how to reach that, and a client on it. Asks nothing of the API server yet.
pub(crate) fn open(cluster: &Cluster) -> io::Result<(Runtime, Config, Client)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let place = Place::of(cluster);
    let config = runtime.block_on(read(&place)).map_err(io::Error::other)?;
    let client = {
        let _context = runtime.enter();
        client(&config).map_err(io::Error::other)?
    };
    Ok((runtime, config, client))
}

/// Reads how to reach the cluster. Asks nothing of the API server yet.
pub(crate) async fn read(place: &Place) -> Result<Config, String> {
    let Some(path) = &place.kubeconfig else {
        return Config::incluster().map_err(|error| {
            format!("the pod's service account can't be used: {error}; expected a token and ca.crt in /var/run/secrets/kubernetes.io/serviceaccount")
        });
    };
    let name = path.display();
    let file = Kubeconfig::read_from(path).map_err(|error| format!("{name} can't be used: {error}"))?;
    let options = KubeConfigOptions {
        context: place.context.clone(),
        ..KubeConfigOptions::default()
    };
    Config::from_custom_kubeconfig(file, &options)
        .await
        .map_err(|error| format!("{name} can't be used: {error}"))
}

/// A client with a connection of its own. Must run on a runtime.
///
/// A token's file is read again once a minute and when the token is refused, the authority's certificate about once a minute (kube does).
pub(crate) fn client(config: &Config) -> Result<Client, String> {
    let said = |error: kube::Error| format!("the connection to the API server can't be set up: {error}");
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    let mut https = HttpsConnectorBuilder::new()
        .with_tls_config(config.rustls_client_config().map_err(said)?)
        .https_or_http();
    if let Some(name) = &config.tls_server_name {
        let name = name
            .clone()
            .try_into()
            .map_err(|_| format!("tls-server-name {name:?} is no name"))?;
        https = https.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    let http = HttpClient::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http2_keep_alive_interval(PING)
        .http2_keep_alive_timeout(PONG)
        .http2_keep_alive_while_idle(true)
        .http2_adaptive_window(true)
        .build::<_, Body>(https.enable_all_versions().wrap_connector(tcp));
    let mut config = config.clone();
    let token = TokenFile::take(&mut config).map(Arc::new);
    let judge = token.clone();
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(said)?)
        .layer(config.extra_headers_layer().map_err(said)?)
        .map_request(move |mut request: http::Request<Body>| {
            if let Some(token) = &token {
                token.sign(&mut request, Instant::now());
            }
            request
        })
        .map_response(move |answer| {
            if let Some(token) = &judge {
                token.learn(&answer);
            }
            pause::in_the_body(answer)
        })
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace.as_str()))
}
