//! First words of real clients and generated ones, in every segmentation, through tc's program and through the same decisions on the host.
//!
//! Both have to give the same verdict, and no name that is served may ever be called unknown. Names are only counted, so that the program
//! rewrites nothing; connections are real ones of this machine, since it asks the kernel for their sockets.
#![allow(
    unsafe_code,
    reason = "getsockopt(2) tells where a connection's first byte is"
)]

use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use ingress_common::verdict::{JUDGE_HTTP_HOSTS, JUDGE_TLS_NAMES, NODE_LIST, Reading, Verdict};
use ingress_common::window::{PAYLOAD_BYTES, Payload};
use ingress_core::datapath::Place;

use super::*;

/// What is served.
const KNOWN: [&[u8]; 3] = [b"shop.test", b"other.test", b"a.shop.test"];

/// An established connection that has received nothing, and the byte that it expects.
struct Connection {
    client: TcpStream,
    server: TcpStream,
    first: u32,
}

impl Connection {
    fn new(address: &str) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let first = next_byte(&server);
        Self {
            client,
            server,
            first,
        }
    }
}

/// TCP_QUEUE_SEQ of the receive queue (Linux 3.5).
fn next_byte(socket: &TcpStream) -> u32 {
    let set = |option: libc::c_int, value: libc::c_int| {
        let length = libc::socklen_t::try_from(size_of_val(&value)).unwrap();
        let value = (&raw const value).cast();
        // SAFETY: an int and its size.
        let result =
            unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, option, value, length) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    };
    const RECEIVE: libc::c_int = 1;
    const OFF_WITHOUT_A_PROBE: libc::c_int = -1;
    set(libc::TCP_REPAIR, 1);
    set(libc::TCP_REPAIR_QUEUE, RECEIVE);
    let mut next = 0_u32;
    let mut length = libc::socklen_t::try_from(size_of_val(&next)).unwrap();
    let value = (&raw mut next).cast();
    // SAFETY: room for a word, and its size.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_QUEUE_SEQ,
            value,
            &raw mut length,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    set(libc::TCP_REPAIR, OFF_WITHOUT_A_PROBE);
    next
}

/// What stands around the payload.
#[derive(Clone, Copy, Debug, Default)]
struct Around {
    tags: usize,
    /// Words of options, or IPv6 extension headers.
    ip: usize,
    tcp: usize,
}

fn frame(connection: &Connection, around: Around, at: u32, payload: &[u8]) -> Vec<u8> {
    let (from, to) = (
        connection.client.local_addr().unwrap(),
        connection.server.local_addr().unwrap(),
    );
    let mut tcp = Vec::new();
    tcp.extend(from.port().to_be_bytes());
    tcp.extend(to.port().to_be_bytes());
    tcp.extend(connection.first.wrapping_add(at).to_be_bytes());
    tcp.extend([
        0,
        0,
        0,
        5,
        u8::try_from((5 + around.tcp) * 16).unwrap(),
        0x18,
        1,
        0,
        0,
        0,
        0,
        0,
    ]);
    tcp.extend(vec![1; around.tcp * 4]);
    tcp.extend(payload);
    let mut frame = vec![2; 12];
    (0..around.tags).for_each(|_| frame.extend([0x81, 0, 0, 7]));
    match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            frame.extend([8, 0, u8::try_from(0x45 + around.ip).unwrap(), 0]);
            frame.extend(
                u16::try_from(20 + around.ip * 4 + tcp.len())
                    .unwrap()
                    .to_be_bytes(),
            );
            frame.extend([0, 1, 0, 0, 64, 6, 0, 0]);
            frame.extend(from.octets());
            frame.extend(to.octets());
            frame.extend(vec![1; around.ip * 4]);
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(u16::try_from(around.ip * 8 + tcp.len()).unwrap().to_be_bytes());
            frame.extend([if around.ip == 0 { 6 } else { 60 }, 64]);
            frame.extend(from.octets());
            frame.extend(to.octets());
            for left in (0..around.ip).rev() {
                frame.extend([if left == 0 { 6 } else { 60 }, 0, 1, 4, 0, 0, 0, 0]);
            }
        }
        _ => unreachable!("one family"),
    }
    frame.extend(tcp);
    frame
}

/// The tables, for these connections.
struct Host<'a> {
    settings: Settings,
    connections: &'a [Connection],
}

impl verdict::Tables for Host<'_> {
    fn settings(&self) -> Settings {
        self.settings
    }
    fn judged(&self, key: &JudgedKey) -> Option<Judged> {
        let is_this = |connection: &Connection| place(connection).key() == *key;
        self.connections.iter().any(is_this).then_some(BOTH)
    }
    fn listed(&self, _: u32, _: &[u8; 16]) -> u32 {
        verdict::NOT_LISTED
    }
    fn is_banned(&self, _: &[u8; 16]) -> bool {
        false
    }
    fn is_ingress(&self, _: &[u8; 16]) -> bool {
        false
    }
    fn has_socket(&self, _: &Segment) -> bool {
        true
    }
    fn is_first(&self, segment: &Segment) -> bool {
        let client = |connection: &Connection| connection.client.local_addr().unwrap().port();
        let its = |connection: &&Connection| {
            client(connection) == segment.source_port && place(connection).port == segment.to.port
        };
        let connection = self.connections.iter().find(its);
        connection.is_some_and(|connection| connection.first == segment.sequence)
    }
    fn knows(&self, name: NameKey) -> bool {
        KNOWN.iter().any(|known| NameKey::exact(known) == name)
    }
    fn spend_of(&self, _: &Rate, _: &[u8; 16]) -> bool {
        true
    }
    fn spend(&self, _: &Rate) -> bool {
        true
    }
}

const BOTH: Judged = Judged {
    list: NODE_LIST,
    flags: JUDGE_TLS_NAMES | JUDGE_HTTP_HOSTS,
};

fn place(connection: &Connection) -> Place {
    let to = connection.server.local_addr().unwrap();
    let address = match to.ip() {
        IpAddr::V4(ip) => mapped(ip.octets()),
        IpAddr::V6(ip) => ip.octets(),
    };
    Place {
        address,
        port: to.port(),
    }
}

fn on_the_host(host: &Host<'_>, frame: &[u8]) -> Verdict {
    let mut head: Head = [0; _];
    let len = frame.len().min(HEAD_BYTES);
    head[..len].copy_from_slice(&frame[..len]);
    let window = Window::new(&head, u32::try_from(len).unwrap());
    let packet = packet::parse(&window, u32::try_from(frame.len()).unwrap());
    let judged = match verdict::headers(host, &packet) {
        Judgement::Final(verdict) => return verdict,
        Judgement::Words(judged) => judged,
    };
    let Packet::Tcp(segment) = packet else {
        unreachable!()
    };
    let len = usize::try_from(segment.payload_len).unwrap().min(PAYLOAD_BYTES);
    let at = usize::try_from(segment.payload_at).unwrap();
    let Some(said) = frame.get(at..at + len).filter(|said| !said.is_empty()) else {
        return Verdict::Untouched;
    };
    let mut payload: Payload = [0; _];
    payload[..len].copy_from_slice(said);
    let bytes = Window::new(&payload, u32::try_from(len).unwrap());
    verdict::words(host, &segment, judged, &bytes, &mut Reading::default())
}

/// The programs and their tables.
struct Machine {
    ebpf: aya::Ebpf,
    tables: Tables,
}

impl Machine {
    /// The one verdict that the program counted; `Untouched` is not counted. `None`: the kernel makes no packet buffer of this.
    fn judge(&mut self, program: &str, frame: &[u8]) -> Option<Verdict> {
        for (key, _) in self.tables.counts() {
            self.tables.forget(&key);
        }
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        let tc: &SchedClassifier = self.ebpf.program(program).unwrap().try_into().unwrap();
        let result = tc.test_run(options).ok()?;
        // TCX_NEXT: nothing is rejected, only counted.
        assert_eq!(result.return_value, u32::MAX, "{frame:02x?}");
        let counts = self.tables.counts();
        let counted: Vec<_> = counts.iter().filter(|(_, packets)| *packets > 0).collect();
        match counted[..] {
            [] => Some(Verdict::Untouched),
            [(key, 1)] => Verdict::ALL
                .into_iter()
                .find(|verdict| *verdict as u32 == key.verdict),
            _ => panic!("{counted:?} of {frame:02x?}"),
        }
    }
}

/// Recorded from real clients (docs/fuzzing.md says how), and plain requests of all kinds.
fn recorded() -> Vec<(String, Vec<u8>)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fuzz/corpus/first_words");
    let files = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    let mut all: Vec<_> = files
        .map(|file| {
            let name = file.file_name().into_string().unwrap();
            (name, std::fs::read(file.path()).unwrap())
        })
        .collect();
    for host in [
        "shop.test",
        "SHOP.test:8080",
        "stranger.test",
        "10.0.0.1",
        "[::1]:80",
        "",
        "a b",
    ] {
        for line in [
            "GET / HTTP/1.1",
            "POST /x?y HTTP/1.0",
            "GET http://shop.test/ HTTP/1.1",
            "get / HTTP/1.1",
        ] {
            for field in [
                "Host: ",
                "host:",
                "Host : ",
                "X: y\r\nHost: ",
                "Host: shop.test\r\nHost: ",
            ] {
                let head = format!("{line}\r\n{field}{host}\r\nAccept: */*\r\n\r\n");
                all.push((head.clone(), head.into_bytes()));
            }
        }
    }
    all.sort();
    all
}

#[test]
fn first_segments_of_real_clients_however_they_are_cut_are_judged_as_on_the_host_and_never_rejected_wrongly()
{
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
    let connections = [Connection::new("127.0.0.1:0"), Connection::new("[::1]:0")];
    let mut settings = Settings {
        names: COUNT,
        malformed: COUNT,
        ..Settings::default()
    };
    let names = KNOWN.map(|name| Operation::AddName(NameKey::exact(name)));
    let judged = connections
        .iter()
        .map(|connection| Operation::Judge(place(connection), BOTH));
    let operations: Vec<_> = names.into_iter().chain(judged).collect();
    tables.apply(&operations, &mut settings).unwrap();
    tables.set(&settings).unwrap();
    for program in ["ingress_gate_tc", "ingress_words"] {
        let tc: &mut SchedClassifier = ebpf.program_mut(program).unwrap().try_into().unwrap();
        tc.load().unwrap();
    }
    let mut machine = Machine { ebpf, tables };
    let host = Host {
        settings,
        connections: &connections,
    };
    let mut seen = BTreeMap::<&str, u32>::new();
    let mut agree = |program: &str, connection: usize, around: Around, at: u32, said: &[u8], name: &str| {
        let frame = frame(&connections[connection], around, at, said);
        let expected = on_the_host(&host, &frame);
        let Some(given) = machine.judge(program, &frame) else {
            return;
        };
        assert_eq!(
            given,
            expected,
            "{program}: {name}, {around:?}, byte {at}: {}",
            said.escape_ascii()
        );
        *seen.entry(given.code()).or_default() += 1;
        let of_shop = !name.contains("stranger") && given == Verdict::TlsNameUnknown;
        assert!(
            !of_shop,
            "a served name is called unknown: {name}, {} bytes",
            said.len()
        );
        if at != 0 {
            assert!(!given.is_reject(), "{name}: not the connection's first byte");
        }
    };
    let plain = Around::default();
    let mut runner = TestRunner::deterministic();
    let shapes = (0usize..3, 0usize..6, 0usize..11);
    for (name, said) in recorded() {
        // Cut at every byte; and what comes after the cut, as it would come in a segment of its own.
        for cut in 1..=said.len() {
            agree("ingress_words", cut % 2, plain, 0, &said[..cut], &name);
            if cut % 7 == 0 {
                agree(
                    "ingress_words",
                    cut % 2,
                    plain,
                    u32::try_from(cut).unwrap(),
                    &said[cut..],
                    &name,
                );
            }
        }
        // In other clothes: tags, options, extension headers.
        for round in 0..12 {
            let (tags, ip, tcp) = shapes.new_tree(&mut runner).unwrap().current();
            let around = Around { tags, ip, tcp };
            agree("ingress_gate_tc", round % 2, around, 0, &said, &name);
            agree(
                "ingress_gate_tc",
                round % 2,
                around,
                1 + u32::try_from(tags).unwrap(),
                &said,
                &name,
            );
        }
        // Damaged in one byte. Whose name it is then can't be said.
        for _ in 0..12 {
            let (at, byte) = (0..said.len(), any::<u8>())
                .new_tree(&mut runner)
                .unwrap()
                .current();
            let mut damaged = said.clone();
            damaged[at] = byte;
            agree("ingress_words", at % 2, plain, 0, &damaged, "stranger");
        }
    }
    for verdict in [
        "name_known",
        "host_known",
        "http_host_unknown",
        "not_first",
        "split",
        "encrypted",
        "unusual",
    ] {
        assert!(seen.contains_key(verdict), "{verdict} is not among {seen:?}");
    }
}
