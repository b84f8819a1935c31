//! ClientHellos through rustls and our choice of certificate.

use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ingress_agent::proxy::tls::{self_signed, server_config};
use ingress_agent::publish::{Publisher, Setup, Trust};
use ingress_agent::series::SharedSeries;
use ingress_agent::source::dir::load_text;
use ingress_agent::tickets::{self, TicketKeys};
use ingress_agent::translate::Options;
use rustls::server::{Accepted, Acceptor, ServerConfig};

use super::{Target, cuts, outcome};
use crate::certs::Certs;

pub static CLIENT_HELLO: Target = Target {
    name: "client_hello",
    executions: 20_000,
    longest: 3000,
    words: &[
        b"\x16\x03\x01",
        b"\x16\x03\x03",
        b"\x14\x03\x03\0\x01\x01",
        b"\x15\x03\x03\0\x02\x02\x28",
        b"\x17\x03\x03",
        b"\x01\0\0",
        b"\x03\x03",
        b"\x03\x04",
        b"\x13\x01",
        b"\x13\x02",
        b"\x13\x03",
        b"\xc0\x2b",
        b"\xc0\x2f",
        b"\x00\xff",
        b"\x56\0",
        b"\0\0\0\x0f\0\x0d\0\0\x0ashop.tests",
        b"\0\x0a\0\x04\0\x02\0\x1d",
        b"\0\x0d\0\x04\0\x02\x04\x03",
        b"\0\x10\0\x05\0\x03\x02h2",
        b"\0\x2b\0\x03\x02\x03\x04",
        b"\0\x33",
        b"\0\x29",
        b"\0\x2a\0\0",
        b"\xfe\x0d",
        b"\x11\xec",
        b"\0\x1d\0\x20",
        b"shop.test",
        b"*.test",
        b"SHOP.test.",
        b"\xff\xff",
        b"\0\0",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
    check,
};

fn check(input: &[u8]) -> u64 {
    let whole = shake(input, &[input.len()]);
    assert_eq!(
        shake(input, &cuts(input)).is_ok(),
        whole.is_ok(),
        "cut into some pieces"
    );
    let repaired = repair(input);
    outcome((whole, shake(&repaired, &[repaired.len()])))
}

/// One record with one handshake message, whatever the input's own lengths say: so that mutations reach further in.
fn repair(input: &[u8]) -> Vec<u8> {
    let body = input.get(9..).unwrap_or_default();
    let [_, _, h, l] = u32::try_from(body.len()).unwrap_or_default().to_be_bytes();
    let [_, _, rh, rl] = u32::try_from(body.len() + 4).unwrap_or_default().to_be_bytes();
    let mut bytes = vec![0x16, 3, 1, rh, rl, 1, 0, h, l];
    bytes.extend_from_slice(body);
    bytes
}

/// Whether the handshake goes on, and with a name; or why not.
fn shake(input: &[u8], ends: &[usize]) -> Result<(bool, bool), String> {
    let mut acceptor = Acceptor::default();
    let mut start = 0;
    for end in ends {
        let mut piece = input.get(start..*end).unwrap_or_default();
        start = *end;
        while !piece.is_empty() {
            let read = acceptor.read_tls(&mut piece).map_err(|error| error.to_string())?;
            match acceptor.accept() {
                Ok(Some(accepted)) => return Ok(answer(accepted)),
                Ok(None) if read == 0 => return Err("no room".to_owned()),
                Ok(None) => {}
                Err((error, mut alert)) => {
                    alert.write(&mut Vec::new()).map_err(|error| error.to_string())?;
                    return Err(kind(&error));
                }
            }
        }
    }
    Err("incomplete".to_owned())
}

/// Without what differs from input to input.
fn kind(error: &rustls::Error) -> String {
    let text = format!("{error:?}");
    text.chars().take_while(|c| !c.is_ascii_digit()).collect()
}

fn answer(accepted: Accepted) -> (bool, bool) {
    let name = accepted.client_hello().server_name().map(str::to_owned);
    assert_name(name.as_deref());
    let Some(served) = &*SERVED else {
        panic!("no TLS configuration")
    };
    let goes_on = match accepted.into_connection(Arc::clone(&served.config)) {
        Ok(mut connection) => {
            let mut flight = Vec::new();
            while connection.wants_write() && connection.write_tls(&mut flight).is_ok_and(|n| n > 0) {}
            assert!(flight.len() < 16 * 1024, "an answer of {} bytes", flight.len());
            !flight.is_empty()
        }
        Err((_, mut alert)) => {
            let _ = alert.write(&mut Vec::new());
            false
        }
    };
    (goes_on, name.is_some())
}

/// A name is as the lookup expects it, and gets a certificate that covers it, or the default one.
fn assert_name(name: Option<&str>) {
    let text = name.unwrap_or_default();
    assert!(
        text.bytes()
            .all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase()),
        "{text:?}"
    );
    let Some(served) = &*SERVED else {
        panic!("no TLS configuration")
    };
    let live = served.live.load();
    let chosen: Vec<_> = live.certificates_for(name).collect();
    assert!(!chosen.is_empty(), "{text:?} gets no certificate");
    for certificate in chosen {
        let default = certificate
            .names
            .iter()
            .any(|name| name == "ingress-agent.invalid");
        assert!(
            default || certificate.covers(text),
            "{text:?} got {:?}",
            certificate.names
        );
    }
}

struct Served {
    live: Arc<arc_swap::ArcSwap<ingress_agent::live::Live>>,
    config: Arc<ServerConfig>,
}

static SERVED: LazyLock<Option<Served>> = LazyLock::new(|| {
    let mut publisher = Publisher::new(Setup {
        options: Options {
            controllers: vec!["ingress-agent.io/controller".into()],
            class: "ingress-agent".into(),
            classless: true,
            default_backend: None,
            default_certificate: None,
            place: Default::default(),
            now_unix: 0,
        },
        default_certificate: self_signed().ok()?,
        started: Instant::now(),
        series: SharedSeries::default(),
        prepare: Box::new(|_| ()),
        announce: Box::new(|_| ()),
        want_names: Box::new(|_| ()),
        listeners: Vec::new(),
        trust: Trust::Folder,
    });
    let leaf = Certs::new()
        .and_then(|c| c.leaf(&["shop.test", "*.shop.test"]))
        .ok()?;
    let yaml = MANIFEST
        .replace("CRT", &STANDARD.encode(leaf.certificate))
        .replace("KEY", &STANDARD.encode(leaf.key));
    publisher.apply(Some(load_text(Path::new("x.yaml"), yaml.as_bytes())), None);
    let live = publisher.live();
    let tickets = TicketKeys::new(tickets::now()).ok()?;
    let config = server_config(Arc::clone(&live), Arc::new(tickets)).ok()?;
    Some(Served { live, config })
});

const MANIFEST: &str = "
apiVersion: v1
kind: Secret
type: kubernetes.io/tls
metadata: {namespace: shop, name: tls}
data: {tls.crt: CRT, tls.key: KEY}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {namespace: shop, name: web}
spec:
  tls: [{hosts: [shop.test, '*.shop.test'], secretName: tls}]
  rules:
  - {host: shop.test, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}
  - {host: '*.shop.test', http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}
";

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise the target would only ever see what fails early.
    #[test]
    fn the_kept_client_hellos_of_tls_1_2_and_1_3_are_answered() {
        for (name, named) in [
            ("tls13-pq", true),
            ("tls13-two-records", true),
            ("tls12", true),
            ("tls13-ip", false),
        ] {
            let file = format!("{}/fuzz/corpus/client_hello/{name}", env!("CARGO_MANIFEST_DIR"));
            let hello = std::fs::read(file).unwrap();
            assert_eq!(shake(&hello, &[hello.len()]), Ok((true, named)), "{name}");
        }
    }
}
