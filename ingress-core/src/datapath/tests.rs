use ingress_common::bucket::Rate;
use ingress_common::packet::{ACK, Destination, Packet, SYN, Segment};
use ingress_common::verdict::{
    NOT_LISTED, REJECT, Reading, SETTING_ALLOW_LIST, Settings, Step, Tables, Verdict, headers, words,
};
use ingress_common::window::{Payload, Window};
use proptest::prelude::*;

use super::*;
use crate::compile::compile;
use crate::fixture::*;
use crate::name::Kind;
use crate::resource::{CertificateBinding, CertificateKey, Resources, Seniority, UnownedHost};

const HTTP: &str = "198.51.100.2:80";
const HTTPS: &str = "[2001:db8::2]:443";

fn listener(address: &str, tls: bool) -> Listener {
    Listener {
        address: address.parse().unwrap(),
        tls,
        proxy_protocol: false,
        sources: SourceLists::default(),
    }
}

fn ground() -> Ground {
    Ground {
        listeners: vec![listener(HTTP, false), listener(HTTPS, true)],
        ..Ground::default()
    }
}

fn built(resources: &Resources) -> (Contents, Vec<Note>) {
    contents(&compile(resources, &Snapshot::empty()).0, &ground())
}

fn flags(contents: &Contents) -> Vec<u32> {
    contents.judged.values().map(|judged| judged.flags).collect()
}

fn unowned(host: &str) -> UnownedHost {
    UnownedHost {
        host: HostPattern::parse(host).unwrap(),
        object: ingress("lost"),
        why: "no class".into(),
    }
}

fn certificate(host: &str) -> CertificateBinding {
    CertificateBinding {
        seniority: Seniority::new(None, ingress("web"), (0, 0)),
        field: "spec.tls[0]".to_owned(),
        host: HostPattern::parse(host).unwrap(),
        certificate: CertificateKey(Arc::new(ObjectRef::new(Kind::Secret, "shop", "tls"))),
    }
}

/// Lookups in contents, as the kernel does them.
struct Model<'a>(&'a Contents);

impl Tables for Model<'_> {
    fn settings(&self) -> Settings {
        Settings {
            names: REJECT,
            sources: REJECT,
            unserved: REJECT,
            flags: if self.0.allow_list { SETTING_ALLOW_LIST } else { 0 },
            ..Settings::default()
        }
    }
    fn judged(&self, key: &JudgedKey) -> Option<Judged> {
        let place = Place {
            address: key.address,
            port: key.port,
        };
        self.0.judged.get(&place).copied()
    }
    fn listed(&self, list: u32, source: &[u8; 16]) -> u32 {
        let whole = u128::from_be_bytes(*source);
        let covers = |network: &Network| {
            let host_bits = 160 - network.prefix_bits;
            let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
            network.key.list == list.to_be_bytes() && u128::from_be_bytes(network.key.address) == whole & mask
        };
        let longest = self.0.sources.iter().filter(|(network, _)| covers(network));
        longest
            .max_by_key(|(network, _)| network.prefix_bits)
            .map_or(NOT_LISTED, |(_, entry)| *entry)
    }
    fn is_banned(&self, _: &[u8; 16]) -> bool {
        false
    }
    fn is_ingress(&self, address: &[u8; 16]) -> bool {
        self.0.ingress.contains(address)
    }
    /// The listeners' sockets are there before and after any change.
    fn has_socket(&self, segment: &Segment) -> bool {
        matches!(segment.to.port, 80 | 443)
    }
    fn is_first(&self, _: &Segment) -> bool {
        true
    }
    fn knows(&self, name: NameKey) -> bool {
        self.0.names.contains(&name)
    }
    fn spend_of(&self, _: &Rate, _: &[u8; 16]) -> bool {
        true
    }
    fn spend(&self, _: &Rate) -> bool {
        true
    }
}

fn verdict(contents: &Contents, source: IpAddr, to: SocketAddr, says: &[u8]) -> Verdict {
    let segment = Segment {
        to: Destination {
            source: bytes(&source),
            address: bytes(&to.ip()),
            port: to.port(),
        },
        source_port: 50_000,
        sequence: 1,
        acknowledged: 1,
        flags: if says.is_empty() { SYN } else { ACK },
        ip_at: 14,
        tcp_at: 34,
        payload_at: 54,
        payload_len: u32::try_from(says.len()).unwrap(),
    };
    let model = Model(contents);
    match headers(&model, &Packet::Tcp(segment)) {
        Step::Final(verdict) => verdict,
        Step::Words(judged) => {
            let mut payload: Payload = [0; _];
            payload[..says.len()].copy_from_slice(says);
            let window = Window::new(&payload, segment.payload_len);
            words(&model, &segment, judged, &window, &mut Reading::default())
        }
    }
}

fn asked_for(contents: &Contents, host: &str) -> Verdict {
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let client = "192.0.2.1".parse().unwrap();
    verdict(contents, client, HTTP.parse().unwrap(), request.as_bytes())
}

#[test]
fn routed_unowned_and_certified_hosts_are_known_and_no_other() {
    let (contents, notes) = built(&Resources {
        routes: vec![
            route("web", "shop.example", "Exact /x"),
            route("web", "*.apps.example", "Prefix /"),
            fallback("web", "own.example"),
        ],
        unowned: vec![unowned("lost.example")],
        certificates: vec![certificate("tls.example")],
        ..Resources::default()
    });
    assert_eq!(notes, []);
    for host in [
        "shop.example",
        "a.apps.example",
        "own.example",
        "lost.example",
        "tls.example",
    ] {
        assert_eq!(asked_for(&contents, host), Verdict::HostKnown, "{host}");
    }
    for host in [
        "apps.example",
        "a.b.apps.example",
        "x.shop.example",
        "stranger.example",
    ] {
        assert_eq!(asked_for(&contents, host), Verdict::HttpHostUnknown, "{host}");
    }
    assert_eq!(flags(&contents), [JUDGE_HTTP_HOSTS, JUDGE_TLS_NAMES]);
}

#[test]
fn a_rule_without_host_or_a_default_backend_or_an_unowned_one_turns_names_off_and_is_named() {
    let shop = || route("web", "shop.example", "Prefix /");
    for (resources, object) in [
        (resources(vec![shop(), route("any", "", "Prefix /x")]), "any"),
        (resources(vec![shop(), fallback("default", "")]), "default"),
        (
            Resources {
                unowned: vec![unowned("")],
                ..resources(vec![shop()])
            },
            "lost",
        ),
    ] {
        let (contents, notes) = built(&resources);
        assert_eq!(flags(&contents), [0, 0], "{object}");
        assert_eq!(asked_for(&contents, "stranger.example"), Verdict::Untouched);
        assert!(
            notes[0].to_string().contains(&format!("Ingress shop/{object}")),
            "{}",
            notes[0]
        );
    }
}

#[test]
fn a_certificate_for_every_name_turns_tls_names_off_alone() {
    let (contents, notes) = built(&Resources {
        certificates: vec![certificate("")],
        ..resources(vec![route("web", "shop.example", "Prefix /")])
    });
    assert_eq!(flags(&contents), [JUDGE_HTTP_HOSTS, 0]);
    assert!(notes[0].to_string().contains("Secret shop/tls"), "{}", notes[0]);
}

#[test]
fn a_listener_on_every_address_is_judged_on_the_nodes_own_but_for_loopback_and_other_listeners() {
    let mut ground = Ground {
        listeners: vec![
            listener("[::]:443", true),
            listener("198.51.100.2:443", false),
            listener("0.0.0.0:80", false),
            listener("127.0.0.1:8080", false),
        ],
        local: ["127.0.0.1", "::1", "198.51.100.2", "198.51.100.3", "2001:db8::2"]
            .map(|ip| ip.parse().unwrap())
            .to_vec(),
        ..Ground::default()
    };
    let judged = |ground: &Ground| -> Vec<(String, u32)> {
        let (contents, _) = contents(&Snapshot::empty(), ground);
        let text = |place: &Place| {
            let ip = std::net::Ipv6Addr::from(place.address).to_canonical();
            SocketAddr::new(ip, place.port).to_string()
        };
        let mut all: Vec<_> = contents.judged.iter().map(|(p, j)| (text(p), j.flags)).collect();
        all.sort();
        all
    };
    let expected = [
        ("198.51.100.2:443", JUDGE_HTTP_HOSTS),
        ("198.51.100.2:80", JUDGE_HTTP_HOSTS),
        ("198.51.100.3:443", JUDGE_TLS_NAMES),
        ("198.51.100.3:80", JUDGE_HTTP_HOSTS),
        ("[2001:db8::2]:443", JUDGE_TLS_NAMES),
    ];
    assert_eq!(
        judged(&ground),
        expected.map(|(text, flags)| (text.to_owned(), flags))
    );
    ground.loopback = true;
    assert_eq!(judged(&ground).len(), 9);
}

#[test]
fn behind_the_proxy_protocol_no_name_is_judged() {
    let mut ground = ground();
    ground.listeners.iter_mut().for_each(|l| l.proxy_protocol = true);
    assert_eq!(flags(&contents(&Snapshot::empty(), &ground).0), [0, 0]);
}

#[test]
fn more_names_than_fit_turn_the_check_off_and_are_said() {
    let hosts = (0..=MAX_NAMES).map(|i| HostPattern::parse(&format!("h{i}.example")).unwrap());
    let ground = Ground {
        also_known: hosts.collect(),
        ..ground()
    };
    let (contents, notes) = contents(&Snapshot::empty(), &ground);
    assert!(contents.names.is_empty());
    assert_eq!(flags(&contents), [0, 0]);
    let text = notes[0].to_string();
    assert!(text.contains("65537") && text.contains("65536"), "{text}");
}

#[test]
fn more_networks_or_listeners_than_fit_turn_their_checks_off() {
    let many = |most: u32| (0..=most).map(|i| IpAddr::from(i.to_be_bytes()));
    let mut ground = ground();
    ground.sources.deny = many(MAX_SOURCES).map(IpNet::from).collect();
    ground.sources.allow = vec!["10.0.0.0/8".parse().unwrap()];
    ground.ingress = many(MAX_INGRESS).collect();
    let (tables, notes) = contents(&Snapshot::empty(), &ground);
    assert!(tables.sources.is_empty() && !tables.allow_list && tables.ingress.is_empty());
    assert_eq!(notes.len(), 2, "{notes:?}");
    ground.listeners = vec![listener("0.0.0.0:80", false)];
    ground.local = (0..=MAX_JUDGED)
        .map(|i| IpAddr::from((i + (10 << 24)).to_be_bytes()))
        .collect();
    assert!(contents(&Snapshot::empty(), &ground).0.judged.is_empty());
}

#[test]
fn the_smallest_network_decides_and_a_listener_has_its_own_list() {
    let nets = |texts: &[&str]| texts.iter().map(|net| net.parse().unwrap()).collect();
    let mut ground = ground();
    ground.sources.deny = nets(&["10.0.0.0/8", "2001:db8:bad::/48"]);
    ground.sources.trusted = nets(&["10.1.2.0/24"]);
    ground.listeners[0].sources.allow = nets(&["10.1.0.0/16", "192.0.2.0/24"]);
    ground.sources.allow = nets(&["0.0.0.0/0", "::/0", "10.1.0.0/16"]);
    let (contents, _) = contents(&Snapshot::empty(), &ground);
    let opens =
        |source: &str, to: &str| verdict(&contents, source.parse().unwrap(), to.parse().unwrap(), b"");
    assert_eq!(opens("10.9.9.9", HTTP), Verdict::SourceDenied);
    assert_eq!(opens("10.1.9.9", HTTP), Verdict::Untouched);
    assert_eq!(opens("10.1.2.9", HTTP), Verdict::Untouched);
    assert_eq!(opens("203.0.113.1", HTTP), Verdict::SourceNotAllowed);
    assert_eq!(opens("203.0.113.1", HTTPS), Verdict::Untouched);
    assert_eq!(opens("2001:db8:bad::1", HTTPS), Verdict::SourceDenied);
    assert_eq!(opens("192.0.2.1", HTTP), Verdict::Untouched);
}

/// As the kernel's tables are written.
fn apply(contents: &mut Contents, operations: &[Operation]) {
    for operation in operations {
        match *operation {
            Operation::AddName(name) => drop(contents.names.insert(name)),
            Operation::RemoveName(name) => drop(contents.names.remove(&name)),
            Operation::Judge(place, judged) => drop(contents.judged.insert(place, judged)),
            Operation::LeaveAlone(place) => drop(contents.judged.remove(&place)),
            Operation::List(network, entry) => drop(contents.sources.insert(network, entry)),
            Operation::Unlist(network) => drop(contents.sources.remove(&network)),
            Operation::AddIngress(address) => drop(contents.ingress.insert(address)),
            Operation::RemoveIngress(address) => drop(contents.ingress.remove(&address)),
            Operation::AllowList(on) => contents.allow_list = on,
        }
    }
}

const HOSTS: [&str; 6] = [
    "a.example",
    "b.example",
    "*.example",
    "*.b.example",
    "x.b.example",
    "",
];

fn some_contents() -> impl Strategy<Value = Contents> {
    let hosts = prop::sample::subsequence(&HOSTS[..], 0..4);
    let anyone = prop::bool::weighted(0.1);
    let networks = || {
        let texts = ["192.0.2.0/24", "192.0.2.1/32", "192.0.0.0/16", "0.0.0.0/0"];
        prop::sample::subsequence(texts.to_vec(), 0..3)
    };
    let listeners = prop::sample::subsequence(vec![(HTTP, false), (HTTPS, true)], 0..=2);
    let ingress = prop::bool::ANY;
    (hosts, anyone, networks(), networks(), listeners, ingress).prop_map(
        |(hosts, anyone, allow, deny, listeners, ingress)| {
            let hosts = hosts.into_iter().filter(|host| anyone || !host.is_empty());
            let routes = hosts.map(|host| route("web", host, "Prefix /")).collect();
            let nets = |texts: Vec<&str>| texts.iter().map(|net| net.parse().unwrap()).collect();
            let ground = Ground {
                listeners: listeners.into_iter().map(|(a, tls)| listener(a, tls)).collect(),
                sources: SourceLists {
                    allow: nets(allow),
                    deny: nets(deny),
                    trusted: Vec::new(),
                },
                ingress: ingress
                    .then(|| "198.51.100.2".parse().unwrap())
                    .into_iter()
                    .collect(),
                ..Ground::default()
            };
            contents(&snapshot(routes), &ground).0
        },
    )
}

/// What is not rejected, of everything that the contents above could differ in.
fn passes(contents: &Contents) -> BTreeSet<String> {
    let mut passed = BTreeSet::new();
    for source in ["192.0.2.1", "192.0.2.2", "192.0.3.1", "203.0.113.1"] {
        for to in [HTTP, HTTPS, "198.51.100.2:8080"] {
            for host in [
                "",
                "a.example",
                "b.example",
                "c.example",
                "x.b.example",
                "y.b.example",
                "other.test",
            ] {
                let says = match host {
                    "" => String::new(),
                    host => format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"),
                };
                let verdict = verdict(
                    contents,
                    source.parse().unwrap(),
                    to.parse().unwrap(),
                    says.as_bytes(),
                );
                if !verdict.is_reject() {
                    passed.insert(format!("{source} {to} {host}"));
                }
            }
        }
    }
    passed
}

proptest! {
    #[test]
    fn the_difference_applied_gives_what_building_from_nothing_gives(
        old in some_contents(), new in some_contents()
    ) {
        let changes = diff(&old, &new);
        let mut tables = old.clone();
        apply(&mut tables, &changes.before);
        apply(&mut tables, &changes.after);
        prop_assert_eq!(&tables, &new);
        prop_assert!(diff(&new, &new).is_empty());
    }

    #[test]
    fn at_no_step_is_anything_rejected_that_the_snapshot_in_force_lets_pass(
        old in some_contents(), new in some_contents()
    ) {
        let changes = diff(&old, &new);
        let (in_old, in_new) = (passes(&old), passes(&new));
        let mut tables = old.clone();
        for operation in &changes.before {
            apply(&mut tables, std::slice::from_ref(operation));
            prop_assert!(passes(&tables).is_superset(&in_old), "before: {:?}", operation);
        }
        // The moment of publication: connections of either snapshot are there.
        prop_assert!(passes(&tables).is_superset(&in_new), "at the moment of publication");
        for operation in &changes.after {
            apply(&mut tables, std::slice::from_ref(operation));
            prop_assert!(passes(&tables).is_superset(&in_new), "after: {:?}", operation);
        }
    }
}
