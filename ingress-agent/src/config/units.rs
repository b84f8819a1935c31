//! The values that flags and the file hold: durations, sizes, addresses, names. Each error says what was expected.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use ingress_core::resource::PortRef;
use ipnet::IpNet;
use serde::{Serialize, Serializer};

/// `30s`, `500ms`, `5m`, `1h`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text);
    let number: u64 = number.parse().map_err(|_| expected_duration(text))?;
    let millis = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => None,
    };
    match millis {
        Some(0) => Err("expected more than zero".into()),
        // A year: longer ones are typing errors, and overflow clocks.
        Some(millis) if millis <= 31_536_000_000 => Ok(Duration::from_millis(millis)),
        Some(_) => Err("expected at most a year (8760h)".into()),
        None => Err(expected_duration(text)),
    }
}

/// `8192`, `64k`, `1m`: bytes, in powers of 1024.
pub fn size(text: &str) -> Result<usize, String> {
    let (number, unit) = split_unit(text);
    let number: usize = number.parse().map_err(|_| expected_size(text))?;
    let factor = match unit {
        "" => 1,
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        _ => return Err(expected_size(text)),
    };
    number
        .checked_mul(factor)
        .filter(|bytes| (1_024..=16 << 20).contains(bytes))
        .ok_or_else(|| "expected a size between 1k and 16m".into())
}

/// A whole number of at least 1.
pub fn count(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(number) if (1..=100_000_000).contains(&number) => Ok(number),
        _ => Err("expected a whole number from 1 to 100000000".into()),
    }
}

/// An address to listen on, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    Off,
    On {
        /// With the first port.
        address: SocketAddr,
        /// The same but for a range.
        last_port: u16,
    },
}

/// More are a mistake: each is an address of its own for everything that is told by address.
const MOST_PORTS: u16 = 256;

/// `127.0.0.1:8080`, `[::]:80`, `:80` (all addresses), `:8000-8100` (a range of ports) or `off`.
pub fn listen(text: &str) -> Result<Listen, String> {
    if text == "off" {
        return Ok(Listen::Off);
    }
    let range = range(text);
    let single = range.map_or(text, |(single, _)| single);
    let address = match single.strip_prefix(':') {
        Some(port) => port
            .parse()
            .ok()
            .map(|port: u16| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))),
        None => single.parse().ok(),
    };
    let address: SocketAddr = address.ok_or_else(|| {
        "expected ADDRESS:PORT such as 127.0.0.1:8080 or [::]:80, :PORT for all addresses, a range of ports as in :8000-8100, or off".to_owned()
    })?;
    let last_port = range.map_or(address.port(), |(_, last)| last);
    if range.is_some() && (address.port() == 0 || last_port < address.port()) {
        return Err("expected a range from a lower port, not 0, to a higher one".into());
    }
    if last_port - address.port() >= MOST_PORTS {
        return Err(format!("expected a range of at most {MOST_PORTS} ports"));
    }
    Ok(Listen::On { address, last_port })
}

/// `:8000-8100` apart: `:8000` and the last port.
fn range(text: &str) -> Option<(&str, u16)> {
    let (single, last) = text.rsplit_once('-')?;
    Some((single, last.parse().ok()?))
}

/// `10.0.0.10`, or with a port other than DNS's own: `10.0.0.10:5353`, `[fd00::a]:5353`.
pub fn name_server(text: &str) -> Result<SocketAddr, String> {
    const DNS: u16 = 53;
    let alone = || {
        text.parse::<std::net::IpAddr>()
            .map(|ip| SocketAddr::new(ip, DNS))
    };
    text.parse().or_else(|_| alone()).map_err(|_| {
        "expected the address of a DNS server such as 10.0.0.10, or ADDRESS:PORT such as 10.0.0.10:5353 or [fd00::a]:5353".into()
    })
}

/// `10.0.0.0/8`, or one address.
pub fn network(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from))
        .map(|net| net.trunc())
        .map_err(|_| "expected a network such as 10.0.0.0/8 or fd00::/8, or one IP address".into())
}

/// Where clients reach an Ingress, as its status says it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Address {
    Ip(IpAddr),
    Hostname(String),
}

/// `192.0.2.1`, `2001:db8::1` or `lb.example`.
impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(ip) = text.parse() {
            return Ok(Self::Ip(ip));
        }
        // RFC 1123, 2.1; the API server takes no other in a status.
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let is_name = text.len() <= 253 && text.split('.').all(is_label);
        // Digits and dots alone are a mistyped address.
        if is_name && text.bytes().any(|b| b.is_ascii_lowercase()) {
            Ok(Self::Hostname(text.to_owned()))
        } else {
            Err("expected an IP address such as 192.0.2.1, or a host name in lower case".into())
        }
    }
}

/// A namespaced object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ObjectName {
    pub namespace: String,
    pub name: String,
}

impl FromStr for ObjectName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split_once('/')
            .filter(|(namespace, name)| is_object_name(namespace) && is_object_name(name))
            .map(|(namespace, name)| Self {
                namespace: namespace.into(),
                name: name.into(),
            })
            .ok_or_else(|| "expected NAMESPACE/NAME such as ingress/default-tls".into())
    }
}

/// A Service's port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackendName {
    pub namespace: String,
    pub service: String,
    pub port: PortRef,
}

impl FromStr for BackendName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            "expected NAMESPACE/SERVICE:PORT such as ingress/fallback:80 or ingress/fallback:http".to_owned()
        };
        let (object, port) = text.rsplit_once(':').ok_or_else(expected)?;
        let object: ObjectName = object.parse().map_err(|_| expected())?;
        let port = match port.parse::<u16>() {
            Ok(0) => return Err(expected()),
            Ok(number) => PortRef::Number(number),
            Err(_) if is_object_name(port) => PortRef::Name(port.into()),
            Err(_) => return Err(expected()),
        };
        Ok(Self {
            namespace: object.namespace,
            service: object.name,
            port,
        })
    }
}

/// A share from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Sample(f64);

impl Sample {
    pub const ALL: Self = Self(1.0);

    pub fn share(self) -> f64 {
        self.0
    }

    /// In whole parts of `whole`, rounded.
    pub fn parts_of(self, whole: u32) -> u32 {
        let parts = (self.0 * f64::from(whole)).round();
        // 0 ≤ share ≤ 1, so this is within 0..=whole; Rust has no checked conversion from floating point.
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "bounded by the type's own check"
        )]
        let parts = parts as u32;
        parts.min(whole)
    }
}

/// `0.1`, `10%` or `1/10`.
impl FromStr for Sample {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let share = if let Some(percent) = text.strip_suffix('%') {
            percent.parse::<f64>().ok().map(|p| p / 100.0)
        } else if let Some(n) = text.strip_prefix("1/") {
            n.parse::<u32>()
                .ok()
                .filter(|n| *n > 0)
                .map(|n| 1.0 / f64::from(n))
        } else {
            text.parse::<f64>().ok()
        };
        share
            .filter(|share| (0.0..=1.0).contains(share))
            .map(Self)
            .ok_or_else(|| "expected a share of requests from 0 to 1: 0.1, 10% or 1/10".into())
    }
}

/// A duration as it would be typed.
pub fn as_text<S: Serializer>(duration: &Duration, s: S) -> Result<S::Ok, S::Error> {
    let millis = duration.as_millis();
    if millis.is_multiple_of(1_000) {
        s.collect_str(&format_args!("{}s", millis / 1_000))
    } else {
        s.collect_str(&format_args!("{millis}ms"))
    }
}

fn split_unit(text: &str) -> (&str, &str) {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    text.split_at_checked(digits).unwrap_or((text, ""))
}

fn expected_duration(text: &str) -> String {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return format!("expected a unit: {text}s, {text}ms, {text}m or {text}h");
    }
    "expected a duration such as 500ms, 30s, 5m or 1h".into()
}

fn expected_size(_: &str) -> String {
    "expected a size in bytes such as 8192, 64k or 1m".into()
}

/// RFC 1123 subdomain, loosely: enough to catch typing errors; the objects themselves are checked elsewhere.
fn is_object_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    !text.is_empty() && text.len() <= 253 && text.bytes().all(inner)
}
