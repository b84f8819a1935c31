//! The programs in the kernel beside the same decisions run here, on generated packets (BPF_PROG_TEST_RUN; nothing is attached).

use std::collections::{BTreeMap, BTreeSet};

use aya::programs::{SchedClassifier, TestRun, TestRunOptions, Xdp};
use ingress_common::bucket::Rate;
use ingress_common::names::NameKey;
use ingress_common::packet::{self, Packet, Segment, mapped};
use ingress_common::verdict::{self, Judged, JudgedKey, SETTING_ALLOW_LIST, Step as Judgement};
use ingress_common::window::{HEAD_BYTES, Head, Window};
use ingress_core::datapath::{Listener, Operation, SourceLists};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::*;

const US: [u8; 4] = [198, 51, 100, 2];
const US_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

fn ground() -> Ground {
    let nets = |texts: &[&str]| texts.iter().map(|net| net.parse().unwrap()).collect();
    let listener = |address: &str, tls| Listener {
        address: address.parse().unwrap(),
        tls,
        proxy_protocol: false,
        sources: SourceLists::default(),
    };
    Ground {
        listeners: vec![
            listener("198.51.100.2:80", false),
            listener("[2001:db8::2]:443", true),
        ],
        sources: SourceLists {
            allow: nets(&["192.0.2.0/24", "2001:db8::/32"]),
            deny: nets(&["192.0.2.128/25", "2001:db8:bad::/48"]),
            trusted: nets(&["192.0.2.200/32"]),
        },
        ingress: vec!["198.51.100.2".parse().unwrap()],
        ..Ground::default()
    }
}

/// The tables as [`Contents`] has them. No socket of this machine has these addresses.
struct Model(Contents, Settings, BTreeSet<[u8; 16]>);

impl verdict::Tables for Model {
    fn settings(&self) -> Settings {
        self.1
    }
    fn judged(&self, key: &JudgedKey) -> Option<Judged> {
        let judged: BTreeMap<_, _> = self
            .0
            .judged
            .iter()
            .map(|(p, j)| ((p.address, p.port), *j))
            .collect();
        judged.get(&(key.address, key.port)).copied()
    }
    fn listed(&self, list: u32, source: &[u8; 16]) -> u32 {
        let source = u128::from_be_bytes(*source);
        let covering = self.0.sources.iter().filter(|(network, _)| {
            let mask = u128::MAX.checked_shl(160 - network.prefix_bits).unwrap_or(0);
            network.key.list == list.to_be_bytes()
                && u128::from_be_bytes(network.key.address) == source & mask
        });
        covering
            .max_by_key(|(network, _)| network.prefix_bits)
            .map_or(verdict::NOT_LISTED, |(_, entry)| *entry)
    }
    fn is_banned(&self, source: &[u8; 16]) -> bool {
        self.2.contains(source)
    }
    fn is_ingress(&self, address: &[u8; 16]) -> bool {
        self.0.ingress.contains(address)
    }
    fn has_socket(&self, _: &Segment) -> bool {
        false
    }
    fn is_first(&self, _: &Segment) -> bool {
        false
    }
    fn knows(&self, _: NameKey) -> bool {
        false
    }
    fn spend_of(&self, _: &Rate, _: &[u8; 16]) -> bool {
        true
    }
    fn spend(&self, _: &Rate) -> bool {
        true
    }
}

/// Whether the packet would be dropped.
fn drops(model: &Model, frame: &[u8]) -> bool {
    let mut head: Head = [0; _];
    let len = frame.len().min(HEAD_BYTES);
    head[..len].copy_from_slice(&frame[..len]);
    let window = Window::new(&head, u32::try_from(len).unwrap());
    let packet: Packet = packet::parse(&window, u32::try_from(frame.len()).unwrap());
    match verdict::headers(model, &packet) {
        Judgement::Final(verdict) => verdict.mode(&model.1) == REJECT,
        Judgement::Words(_) => false,
    }
}

/// Frames that are mostly right, about our addresses and others.
fn some_frame() -> impl Strategy<Value = Vec<u8>> {
    let sources = prop::sample::select(vec![
        [192, 0, 2, 1],
        [192, 0, 2, 200],
        [192, 0, 2, 250],
        [10, 0, 0, 1],
    ]);
    let v6_sources = prop::sample::select(vec![
        [0x20, 1, 0xd, 0xb8, 0, 1],
        [0x20, 1, 0xd, 0xb8, 0xb, 0xad],
        [0x30; 6],
    ]);
    let ports = prop::sample::select(vec![80u16, 443, 22, 8080, 30_080]);
    let flags = prop::sample::select(vec![2u8, 2, 0x10, 0x18, 3, 0, 4, 0x12]);
    let tags = prop::sample::select(vec![0usize, 0, 0, 1, 1, 2, 3]);
    let options = (0usize..11, 0usize..11, 0usize..6);
    let damage = prop::option::weighted(0.3, (0usize..90, any::<u8>()));
    let shape = (any::<bool>(), prop::bool::weighted(0.9), 0usize..40, 0usize..24);
    (sources, v6_sources, ports, flags, tags, options, damage, shape).prop_map(
        |(
            source,
            v6_source,
            port,
            flags,
            tags,
            (ip_options, tcp_options, extensions),
            damage,
            (v6, ours, payload, cut),
        )| {
            let mut tcp = vec![0xc0, 1];
            tcp.extend(port.to_be_bytes());
            tcp.extend([0, 0, 0, 9, 0, 0, 0, 5]);
            tcp.extend([
                u8::try_from((5 + tcp_options) * 16).unwrap_or(0xf0),
                flags,
                1,
                0,
                0,
                0,
                0,
                0,
            ]);
            tcp.extend(vec![1; tcp_options * 4 + payload]);
            let mut frame = vec![2; 12];
            (0..tags).for_each(|_| frame.extend([0x81, 0, 0, 7]));
            if v6 {
                let mut address = US_V6;
                address[15] = if ours { 2 } else { 3 };
                let mut inner = Vec::new();
                for left in (0..extensions).rev() {
                    inner.extend([if left == 0 { 6 } else { 60 }, 0, 1, 4, 0, 0, 0, 0]);
                }
                inner.extend(tcp);
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend(u16::try_from(inner.len()).unwrap().to_be_bytes());
                frame.extend([if extensions == 0 { 6 } else { 60 }, 64]);
                frame.extend(v6_source);
                frame.extend([0; 10]);
                frame.extend(address);
                frame.extend(inner);
            } else {
                let [a, b, c, _] = US;
                frame.extend([8, 0, u8::try_from(0x45 + ip_options).unwrap(), 0]);
                let total = u16::try_from(20 + ip_options * 4 + tcp.len()).unwrap();
                frame.extend(total.to_be_bytes());
                frame.extend([0, 1, 0, 0, 64, 6, 0, 0]);
                frame.extend(source);
                frame.extend([a, b, c, if ours { 2 } else { 3 }]);
                frame.extend(vec![1; ip_options * 4]);
                frame.extend(tcp);
            }
            if let Some((at, value)) = damage
                && let Some(byte) = frame.get_mut(at)
            {
                *byte = value;
            }
            // Mostly whole.
            frame.truncate(frame.len() - cut.saturating_sub(20).min(frame.len() - 14));
            frame
        },
    )
}

#[test]
fn the_programs_agree_with_the_same_decisions_on_the_host_about_every_generated_packet() {
    let mut ebpf = match object::load(Hook::Reject, &tables::MAPS) {
        Ok(ebpf) => ebpf,
        Err(trouble) if !trouble.missing.is_empty() => {
            // Not by println, which libtest keeps to itself when a test passes.
            let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("skipped: {trouble}\n"));
            return;
        }
        Err(trouble) => panic!("{trouble}"),
    };
    let mut tables = Tables::take(&mut ebpf).unwrap();
    let wanted = Wanted {
        ground: ground(),
        names: Names::On,
        ..Wanted::default()
    };
    let (contents, notes) = contents(&Snapshot::empty(), &wanted.ground);
    assert_eq!(notes, []);
    let mut settings = settings(&wanted);
    settings.bans = REJECT;
    let changes = diff(&Contents::default(), &contents);
    let operations: Vec<Operation> = changes.before.into_iter().chain(changes.after).collect();
    tables.apply(&operations, &mut settings).unwrap();
    tables.set(&settings).unwrap();
    tables.heart().beat(Duration::from_hours(1)).unwrap();
    assert_eq!(settings.flags & SETTING_ALLOW_LIST, SETTING_ALLOW_LIST);
    // One whose time is not over, and one whose time is.
    let banned = mapped([192, 0, 2, 1]);
    tables.ban(&banned, u64::MAX).unwrap();
    tables.ban(&mapped([192, 0, 2, 250]), 1).unwrap();
    let model = Model(contents, settings, [banned].into());
    let xdp: &mut Xdp = ebpf.program_mut("ingress_gate").unwrap().try_into().unwrap();
    xdp.load().unwrap();
    let tc: &mut SchedClassifier = ebpf.program_mut("ingress_gate_tc").unwrap().try_into().unwrap();
    tc.load().unwrap();
    let (mut dropped, mut passed) = (0, 0);
    let mut runner = TestRunner::deterministic();
    let frames: Vec<_> = (0..3000)
        .map(|_| some_frame().new_tree(&mut runner).unwrap().current())
        .collect();
    for frame in &frames {
        let expected = drops(&model, frame);
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        let xdp: &Xdp = ebpf.program("ingress_gate").unwrap().try_into().unwrap();
        let by_xdp = xdp.test_run(options).unwrap().return_value;
        assert_eq!(by_xdp == 1, expected, "XDP says {by_xdp}: {frame:02x?}");
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        let tc: &SchedClassifier = ebpf.program("ingress_gate_tc").unwrap().try_into().unwrap();
        // The kernel refuses to make a packet buffer of some damaged frames.
        if let Ok(result) = tc.test_run(options) {
            assert_eq!(
                result.return_value == 2,
                expected,
                "tc says {}: {frame:02x?}",
                result.return_value
            );
        }
        if expected {
            dropped += 1;
        } else {
            passed += 1;
        }
    }
    assert!(
        dropped > 150 && passed > 150,
        "{dropped} dropped, {passed} passed"
    );
    assert_eq!(mapped(US)[12..], US);
}

mod first_segments;

#[test]
fn xdp_is_told_that_the_agent_lives_while_its_tables_are_written_however_long_that_takes() {
    let rejection = match Rejection::prepare(Wanted::default()) {
        Ok(rejection) => rejection,
        Err(trouble) if !trouble.missing.is_empty() => {
            let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("skipped: {trouble}\n"));
            return;
        }
        Err(trouble) => panic!("{trouble}"),
    };
    rejection.follow().unwrap();
    let state = lock(&rejection.state);
    let heart = state.tables.heart();
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut last = heart.until();
    for _ in 0..2 {
        while heart.until() == last {
            assert!(Instant::now() < deadline, "no sign of life");
            std::thread::sleep(Duration::from_millis(10));
        }
        last = heart.until();
    }
    drop(state);
}
