//! Holds many idle TLS connections, for the bench: `idle-tls 127.0.0.1:PORT HOST COUNT`.
//!
//! Each asks one request and then stays. Prints `open N` once all are, waits until its standard input says or closes, prints
//! `kept N`, how many the server still holds, and ends, which closes them. Trusts any certificate: it measures, no more.

use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, bail};
use ingress_tests::client::Indifferent;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, host, count] = arguments.as_slice() else {
        bail!("usage: idle-tls ADDRESS HOST COUNT");
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(hold(address.parse()?, host, count.parse()?))
}

async fn hold(address: SocketAddr, host: &str, count: usize) -> anyhow::Result<()> {
    let connector = TlsConnector::from(Arc::new(trusting()?));
    let mut streams = Vec::with_capacity(count);
    for _ in 0..count {
        streams.push(open(&connector, address, host).await?);
    }
    println!("open {}", streams.len());
    let _ = tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0])).await?;
    println!("kept {}", streams.iter().filter(|stream| is_open(stream)).count());
    Ok(())
}

async fn open(
    connector: &TlsConnector,
    address: SocketAddr,
    host: &str,
) -> anyhow::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(host.to_owned())?;
    let mut stream = connector.connect(name, stream).await?;
    let request = format!("GET /api/item HTTP/1.1\r\nHost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut start = [0; 2048];
    let mut read = 0;
    // The backend's answer is small; its last line is the whole body.
    while !start[..read].ends_with(b"hello from the backend\n") {
        match stream.read(&mut start[read..]).await? {
            0 => bail!("an answer of {read} bytes without the backend's words"),
            more => read += more,
        }
    }
    if !start.starts_with(b"HTTP/1.1 200") {
        bail!("the answer is not 200: {}", String::from_utf8_lossy(&start));
    }
    Ok(stream)
}

/// Nothing, or a session ticket, is there to read; the end is not.
fn is_open(stream: &TlsStream<TcpStream>) -> bool {
    let socket = stream.get_ref().0;
    let mut bytes = [0; 4096];
    loop {
        match socket.try_read(&mut bytes) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}

fn trusting() -> anyhow::Result<ClientConfig> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let config = ClientConfig::builder_with_provider(Arc::new(provider.clone()))
        .with_safe_default_protocol_versions()
        .context("TLS versions")?;
    Ok(config
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Indifferent(provider)))
        .with_no_client_auth())
}
