use core::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::string::String;
use std::vec::Vec;

use super::*;
use crate::packet::mapped;
use crate::packet::{ACK, FIN, SYN};
use crate::window::{Payload, Window};

/// Tables as plain collections.
#[derive(Default)]
struct Plain {
    settings: Settings,
    judged: BTreeMap<([u8; 16], u16), Judged>,
    listed: BTreeMap<(u32, [u8; 16]), u32>,
    banned: BTreeSet<[u8; 16]>,
    ingress: BTreeSet<[u8; 16]>,
    sockets: BTreeSet<u16>,
    names: BTreeSet<NameKey>,
    first: bool,
    tokens_of_source: Cell<u32>,
    tokens: Cell<u32>,
}

impl Tables for Plain {
    fn settings(&self) -> Settings {
        self.settings
    }
    fn judged(&self, key: &JudgedKey) -> Option<Judged> {
        self.judged.get(&(key.address, key.port)).copied()
    }
    fn listed(&self, list: u32, source: &[u8; 16]) -> u32 {
        self.listed.get(&(list, *source)).copied().unwrap_or(NOT_LISTED)
    }
    fn is_banned(&self, source: &[u8; 16]) -> bool {
        self.banned.contains(source)
    }
    fn is_ingress(&self, address: &[u8; 16]) -> bool {
        self.ingress.contains(address)
    }
    fn has_socket(&self, segment: &Segment) -> bool {
        self.sockets.contains(&segment.to.port)
    }
    fn is_first(&self, _: &Segment) -> bool {
        self.first
    }
    fn knows(&self, name: NameKey) -> bool {
        self.names.contains(&name)
    }
    fn spend_of(&self, _: &Rate, _: &[u8; 16]) -> bool {
        spend(&self.tokens_of_source)
    }
    fn spend(&self, _: &Rate) -> bool {
        spend(&self.tokens)
    }
}

fn spend(tokens: &Cell<u32>) -> bool {
    let left = tokens.get();
    tokens.set(left.saturating_sub(1));
    left > 0
}

const US: [u8; 16] = mapped([198, 51, 100, 2]);
const CLIENT: [u8; 16] = mapped([192, 0, 2, 1]);

/// Everything on; 443 and 80 are served, `shop.example` and `*.apps.example` are known.
fn plain() -> Plain {
    let judged = |flags| Judged {
        list: NODE_LIST,
        flags,
    };
    Plain {
        settings: Settings {
            names: REJECT,
            sources: REJECT,
            unserved: REJECT,
            budgets: REJECT,
            malformed: REJECT,
            bans: REJECT,
            ..Settings::default()
        },
        judged: BTreeMap::from([
            ((US, 443), judged(JUDGE_TLS_NAMES)),
            ((US, 80), judged(JUDGE_HTTP_HOSTS)),
        ]),
        names: BTreeSet::from([
            NameKey::exact(b"shop.example"),
            NameKey::wildcard(b"apps.example"),
        ]),
        first: true,
        ..Plain::default()
    }
}

fn segment(port: u16, flags: u32, payload: &[u8]) -> Segment {
    Segment {
        to: Destination {
            source: CLIENT,
            address: US,
            port,
        },
        source_port: 50_000,
        sequence: 1,
        acknowledged: 1,
        flags,
        ip_at: 14,
        tcp_at: 34,
        payload_at: 54,
        payload_len: u32::try_from(payload.len()).unwrap(),
    }
}

fn judge(tables: &Plain, segment: Segment, payload: &[u8]) -> Verdict {
    match headers(tables, &Packet::Tcp(segment)) {
        Step::Final(verdict) => verdict,
        Step::Words(judged) => {
            let mut bytes: Payload = [0; _];
            bytes[..payload.len()].copy_from_slice(payload);
            let window = Window::new(&bytes, segment.payload_len);
            words(tables, &segment, judged, &window, &mut Reading::default())
        }
    }
}

fn says(tables: &Plain, port: u16, payload: &[u8]) -> Verdict {
    judge(tables, segment(port, ACK, payload), payload)
}

fn opens(tables: &Plain, port: u16) -> Verdict {
    judge(tables, segment(port, SYN, b""), b"")
}

fn get(host: &str) -> Vec<u8> {
    let mut text = String::from("GET / HTTP/1.1\r\nHost: ");
    text.push_str(host);
    text.push_str("\r\n\r\n");
    text.into_bytes()
}

#[test]
fn only_a_host_that_is_in_no_table_is_unmatched() {
    let tables = plain();
    assert_eq!(says(&tables, 80, &get("shop.example")), Verdict::HostKnown);
    assert_eq!(says(&tables, 80, &get("a.apps.example:80")), Verdict::HostKnown);
    for stranger in [
        "apps.example",
        "a.b.apps.example",
        "example",
        "other.example",
        "xshop.example",
    ] {
        assert_eq!(
            says(&tables, 80, &get(stranger)),
            Verdict::HttpHostUnknown,
            "{stranger}"
        );
    }
    assert_eq!(
        says(&tables, 443, &get("other.example")),
        Verdict::Untouched,
        "no HTTP there"
    );
    assert_eq!(
        says(&tables, 8443, &get("other.example")),
        Verdict::Untouched,
        "not served"
    );
}

#[test]
fn a_segment_that_is_not_proven_to_be_the_first_passes() {
    let tables = Plain {
        first: false,
        ..plain()
    };
    assert_eq!(says(&tables, 80, &get("other.example")), Verdict::NotFirst);
}

#[test]
fn a_banned_source_reaches_nothing_that_is_served_unless_it_is_trusted() {
    let mut tables = plain();
    tables.banned.insert(CLIENT);
    assert_eq!(opens(&tables, 443), Verdict::SourceBanned);
    // What is not served is nobody's business.
    assert_eq!(opens(&tables, 22), Verdict::Untouched);
    tables.listed.insert((NODE_LIST, CLIENT), TRUSTED);
    assert_eq!(opens(&tables, 443), Verdict::Untouched);
    tables.listed.clear();
    tables.settings.bans = OFF;
    assert_ne!(opens(&tables, 443), Verdict::SourceBanned);
    assert!(Verdict::SourceBanned.is_reject());
    assert_eq!(
        Verdict::ALL[Verdict::SourceBanned as usize],
        Verdict::SourceBanned
    );
}

#[test]
fn a_source_is_denied_not_allowed_or_trusted_by_the_node_or_the_listener() {
    let mut tables = plain();
    tables.listed.insert((NODE_LIST, CLIENT), DENIED);
    assert_eq!(opens(&tables, 443), Verdict::SourceDenied);
    assert_eq!(
        judge(&tables, segment(443, ACK | FIN, b""), b""),
        Verdict::SourceDenied
    );
    assert_eq!(opens(&tables, 22), Verdict::Untouched, "SSH is nobody's business");
    tables.listed.insert((NODE_LIST, CLIENT), TRUSTED);
    assert_eq!(says(&tables, 80, &get("other.example")), Verdict::Untouched);

    let mut tables = plain();
    tables.settings.flags = SETTING_ALLOW_LIST;
    assert_eq!(opens(&tables, 443), Verdict::SourceNotAllowed);
    tables.listed.insert((NODE_LIST, CLIENT), ALLOWED);
    assert_eq!(opens(&tables, 443), Verdict::Untouched);
    tables.judged.insert(
        (US, 443),
        Judged {
            list: 7,
            flags: JUDGE_ALLOW_LIST,
        },
    );
    assert_eq!(opens(&tables, 443), Verdict::SourceNotAllowed);
    assert_eq!(opens(&tables, 80), Verdict::Untouched, "another listener's list");
    tables.listed.insert((7, CLIENT), ALLOWED);
    assert_eq!(opens(&tables, 443), Verdict::Untouched);
}

#[test]
fn an_unserved_port_is_one_of_an_ingress_address_without_a_socket_that_is_no_node_port() {
    let mut tables = plain();
    assert_eq!(opens(&tables, 8080), Verdict::Untouched, "not asked for");
    tables.ingress.insert(US);
    tables.sockets.insert(22);
    assert_eq!(opens(&tables, 8080), Verdict::PortUnserved);
    assert_eq!(opens(&tables, 443), Verdict::Untouched);
    assert_eq!(opens(&tables, 22), Verdict::Untouched);
    assert_eq!(opens(&tables, 30_080), Verdict::Untouched);
    assert_eq!(judge(&tables, segment(8080, ACK, b""), b""), Verdict::Untouched);
    tables.listed.insert((NODE_LIST, CLIENT), TRUSTED);
    assert_eq!(opens(&tables, 8080), Verdict::Untouched);
}

#[test]
fn budgets_are_for_new_connections_and_the_sources_own_comes_first() {
    let mut tables = plain();
    tables.settings.by_source = Rate::new(1, 1);
    tables.settings.in_total = Rate::new(1, 1);
    tables.tokens_of_source.set(2);
    tables.tokens.set(1);
    assert_eq!(opens(&tables, 443), Verdict::Untouched);
    assert_eq!(opens(&tables, 443), Verdict::TotalBudget);
    tables.tokens.set(1);
    assert_eq!(opens(&tables, 443), Verdict::SourceBudget);
    assert_eq!(tables.tokens.get(), 1);
    assert_eq!(judge(&tables, segment(443, ACK, b""), b""), Verdict::Untouched);
}

#[test]
fn an_ipv6_host_has_one_budget_for_all_its_addresses() {
    let mut one = [0x20; 16];
    let other = one;
    one[15] = 1;
    assert_eq!(budget_source(&one), budget_source(&other));
    assert_ne!(
        budget_source(&mapped([10, 0, 0, 1])),
        budget_source(&mapped([10, 0, 0, 2]))
    );
    // Behind NAT64 an IPv4 address is one source, as it is without.
    for prefix in [[0, 0x64, 0xff, 0x9b, 0, 0], [0, 0x64, 0xff, 0x9b, 0, 1]] {
        let mut translated = [0; 16];
        translated[..6].copy_from_slice(&prefix);
        translated[12..].copy_from_slice(&[192, 0, 2, 1]);
        assert_eq!(budget_source(&translated), translated);
    }
    let mut near = [0, 0x64, 0xff, 0x9b, 0, 0, 0, 7, 1, 2, 3, 4, 5, 6, 7, 8];
    assert_eq!(budget_source(&near)[8..], [0; 8], "not of that prefix");
    near[5] = 2;
    assert_eq!(budget_source(&near)[8..], [0; 8]);
}

#[test]
fn a_malformed_packet_counts_where_something_is_served_alone() {
    let tables = plain();
    let malformed = |port| {
        let to = segment(port, 0, b"").to;
        headers(&tables, &Packet::MalformedTcp(to))
    };
    assert_eq!(malformed(443), Step::Final(Verdict::MalformedTcp));
    assert_eq!(malformed(22), Step::Final(Verdict::Untouched));
}

#[test]
fn with_everything_off_nothing_is_judged() {
    let mut tables = plain();
    tables.settings = Settings::default();
    tables.ingress.insert(US);
    tables.listed.insert((NODE_LIST, CLIENT), DENIED);
    assert_eq!(opens(&tables, 8080), Verdict::Untouched);
    assert_eq!(opens(&tables, 443), Verdict::Untouched);
    assert_eq!(says(&tables, 80, &get("other.example")), Verdict::Untouched);
}

#[test]
fn every_verdict_stands_at_its_number_and_only_rejections_have_a_mode() {
    let on = plain().settings;
    for (index, verdict) in Verdict::ALL.into_iter().enumerate() {
        assert_eq!(usize::try_from(verdict as u32).unwrap(), index);
        assert_eq!(verdict.mode(&on) == REJECT, verdict.is_reject(), "{verdict:?}");
    }
}
