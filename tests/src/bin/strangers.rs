//! Connections that nobody here has a use for, for the bench: `strangers ADDRESS tls|http|syn SECONDS RATE`.
//!
//! One after the other, each says its first words (a ClientHello or a request for a host that nobody serves), waits for the first thing that comes
//! back, and is reset. `syn` are first packets alone, of sources that do not exist: all count as refused. RATE is connections a second, 0 as many as there can be. Prints `refused N answered M`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ingress_tests::client::Indifferent;
use ingress_tests::syns::Syns;
use rustls::client::ClientConnection;
use rustls::{ClientConfig, NamedGroup};
use socket2::{Domain, Socket, Type};

const STRANGER: &str = "stranger.invalid";
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, kind, seconds, rate] = arguments.as_slice() else {
        bail!("usage: strangers ADDRESS tls|http|syn SECONDS RATE");
    };
    let (address, rate): (SocketAddr, u32) = (address.parse()?, rate.parse()?);
    let mut come: Box<dyn FnMut() -> anyhow::Result<bool>> = match (kind.as_str(), address) {
        ("tls", _) => {
            let hello = client_hello()?;
            Box::new(move || visit(address, &hello))
        }
        ("http", _) => {
            let get = format!("GET / HTTP/1.1\r\nHost: {STRANGER}\r\n\r\n");
            Box::new(move || visit(address, get.as_bytes()))
        }
        ("syn", SocketAddr::V4(to)) => {
            let mut syns = Syns::new(to)?;
            Box::new(move || syns.send().map(|()| false).context("a SYN"))
        }
        _ => bail!("{kind} is none of tls, http and, by IPv4, syn"),
    };
    let begin = Instant::now();
    let end = begin + Duration::from_secs(seconds.parse()?);
    let pause = Duration::from_secs(1).checked_div(rate).unwrap_or_default();
    let (mut refused, mut answered) = (0_u32, 0_u32);
    while Instant::now() < end {
        match come()? {
            true => answered += 1,
            false => refused += 1,
        }
        let next = begin + pause * (refused + answered);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    println!("refused {refused} answered {answered}");
    Ok(())
}

/// Whether an answer came.
fn visit(address: SocketAddr, words: &[u8]) -> anyhow::Result<bool> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // Resets at its end, or the client's ports would be used up.
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(&address.into()).context("connect")?;
    let mut stream = TcpStream::from(socket);
    stream.write_all(words)?;
    Ok(stream.read(&mut [0; 4096]).is_ok_and(|length| length > 0))
}

/// As a client without post-quantum groups says it: it fits one segment.
fn client_hello() -> anyhow::Result<Vec<u8>> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider
        .kx_groups
        .retain(|group| group.name() == NamedGroup::X25519);
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider.clone()))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Indifferent(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut client = ClientConnection::new(Arc::new(config), STRANGER.try_into()?)?;
    let mut hello = Vec::new();
    client.write_tls(&mut hello)?;
    Ok(hello)
}
