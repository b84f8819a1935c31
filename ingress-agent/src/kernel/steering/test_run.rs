//! The program as the kernel runs it, on made-up lookups (BPF_PROG_TEST_RUN): which socket it chooses. Needs root; attached nowhere.
#![allow(
    unsafe_code,
    reason = "aya has no test run for sk_lookup, so bpf(2) is called here; tests only"
)]

use std::os::fd::{AsFd, AsRawFd};

use ingress_common::steer::{Opening, Steer, lighter, slot, to_any, to_this};

use super::*;

/// A lookup, as `struct bpf_sk_lookup` describes it (linux/bpf.h).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Lookup {
    cookie: u64,
    family: u32,
    protocol: u32,
    remote_ip4: u32,
    remote_ip6: [u32; 4],
    remote_port: u16,
    padding: u16,
    local_ip4: u32,
    local_ip6: [u32; 4],
    local_port: u32,
    ingress_ifindex: u32,
    /// The kernel refuses what is not zero here.
    end: u32,
}

const _: () = assert!(size_of::<Lookup>() == 72);

/// The part of `union bpf_attr` that BPF_PROG_TEST_RUN reads.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    verdict: u32,
    data_sizes: [u32; 2],
    data: [u64; 2],
    repeat: u32,
    duration: u32,
    context_sizes: [u32; 2],
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    /// As above.
    end: u32,
}

const BPF_PROG_TEST_RUN: libc::c_int = 10;
const TCP: u32 = 6;
const UDP: u32 = 17;
const SK_PASS: u32 = 1;

/// Verdict, and the cookie of the chosen socket (0: none).
fn test_run(steering: &mut Steering, lookup: Lookup) -> (u32, u64) {
    let program = program(&mut steering.program)
        .unwrap()
        .fd()
        .unwrap()
        .as_fd()
        .as_raw_fd();
    let mut out = Lookup::default();
    let size = u32::try_from(size_of::<Lookup>()).unwrap();
    let mut run = TestRun {
        program: u32::try_from(program).unwrap(),
        context_sizes: [size, size],
        context_in: (&raw const lookup) as u64,
        context_out: (&raw mut out) as u64,
        ..TestRun::default()
    };
    // SAFETY: `run` is laid out as the kernel's union, and its two pointers are to `size` bytes that live until the call has returned.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_TEST_RUN,
            &raw mut run,
            size_of::<TestRun>(),
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    (run.verdict, out.cookie)
}

fn lookup(local: &str, remote: &str, protocol: u32) -> Lookup {
    let (local, remote): (SocketAddr, SocketAddr) = (local.parse().unwrap(), remote.parse().unwrap());
    let mut lookup = Lookup {
        protocol,
        remote_port: remote.port().to_be(),
        local_port: u32::from(local.port()),
        ..Lookup::default()
    };
    match (local.ip(), remote.ip()) {
        (IpAddr::V4(local), IpAddr::V4(remote)) => {
            lookup.family = 2;
            lookup.local_ip4 = u32::from_ne_bytes(local.octets());
            lookup.remote_ip4 = u32::from_ne_bytes(remote.octets());
        }
        (IpAddr::V6(local), IpAddr::V6(remote)) => {
            lookup.family = 10;
            lookup.local_ip6 = words(local);
            lookup.remote_ip6 = words(remote);
        }
        _ => panic!("two families"),
    }
    lookup
}

fn wanted(listener: Listener, address: &str, loopback: bool) -> Wanted {
    Wanted {
        listener,
        address: address.parse().unwrap(),
        loopback,
    }
}

/// Or `None` where the kernel does not let us, which is said.
fn prepare(wanted: &[Wanted], share: u32) -> Option<(Steering, Sockets)> {
    match Steering::prepare(wanted, 4, share) {
        Ok(prepared) => Some(prepared),
        Err(trouble) if !trouble.missing.is_empty() => {
            // Not by println, which libtest keeps to itself when a test passes.
            let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("skipped: {trouble}\n"));
            None
        }
        Err(trouble) => panic!("{trouble}"),
    }
}

fn cookie(socket: &TcpListener) -> u64 {
    socket2::SockRef::from(socket).cookie().unwrap()
}

#[test]
fn the_program_chooses_a_socket_of_the_right_kind_and_family_or_none() {
    let all = [
        wanted(Listener::Http, "0.0.0.0:80", false),
        wanted(Listener::Https, "[::]:443", true),
        wanted(Listener::Https, "10.0.0.5:80", false),
    ];
    let Some((mut steering, sockets)) = prepare(&all, WHOLE) else {
        return;
    };
    let cookies = |kind: Listener, v4: bool| -> Vec<u64> {
        let of = |(listener, socket): &&(Listener, TcpListener)| {
            *listener == kind && socket.local_addr().unwrap().is_ipv4() == v4
        };
        sockets
            .iter()
            .flatten()
            .filter(of)
            .map(|(_, socket)| cookie(socket))
            .collect()
    };
    let (http, https, https6) = (
        cookies(Listener::Http, true),
        cookies(Listener::Https, true),
        cookies(Listener::Https, false),
    );
    assert_eq!((http.len(), https.len(), https6.len()), (4, 4, 4));
    let none = vec![0];
    let cases = [
        ("10.0.0.9:80", "192.0.2.1:40000", TCP, &http),
        // The very address wins over all addresses.
        ("10.0.0.5:80", "192.0.2.1:40000", TCP, &https),
        ("10.0.0.9:443", "192.0.2.1:40000", TCP, &https),
        ("[2001:db8::5]:443", "[2001:db8::1]:40000", TCP, &https6),
        ("[2001:db8::5]:80", "[2001:db8::1]:40000", TCP, &none),
        ("10.0.0.9:81", "192.0.2.1:40000", TCP, &none),
        ("10.0.0.9:20480", "192.0.2.1:80", TCP, &none),
        ("10.0.0.9:80", "192.0.2.1:40000", UDP, &none),
        ("127.0.0.1:80", "127.0.0.1:40000", TCP, &none),
        ("127.0.0.1:443", "127.0.0.1:40000", TCP, &https),
        ("[::1]:443", "[::1]:40000", TCP, &https6),
    ];
    for (local, remote, protocol, expected) in cases {
        let (verdict, cookie) = test_run(&mut steering, lookup(local, remote, protocol));
        assert_eq!(verdict, SK_PASS, "{local}: nothing is ever dropped");
        assert!(
            expected.contains(&cookie),
            "{local} from {remote}: {cookie} is not of {expected:?}"
        );
    }
    let views = steering.addresses();
    let counts: Vec<_> = views
        .iter()
        .map(|view| (view.steered, view.left, view.unclaimed, view.refused))
        .collect();
    assert_eq!(counts, [(1, 1, 0, 0), (4, 0, 0, 0), (1, 0, 0, 0)]);
}

#[test]
fn the_program_and_its_model_on_the_host_choose_the_same_slot() {
    let all = [
        wanted(Listener::Http, "[::]:80", false),
        wanted(Listener::Http, "10.0.0.5:80", false),
    ];
    let Some((mut steering, sockets)) = prepare(&all, WHOLE / 2) else {
        return;
    };
    let by_slot: std::collections::HashMap<u64, usize> = sockets
        .iter()
        .enumerate()
        .flat_map(|(worker, sockets)| sockets.iter().map(move |(_, socket)| (cookie(socket), worker)))
        .collect();
    let mut random = fastrand::Rng::with_seed(4);
    let mut loads = [0; 4];
    for n in 0..4_000_u32 {
        if n % 100 == 99 {
            loads.fill_with(|| random.u32(..3));
            steering.write_loads(&loads).unwrap();
        }
        let local = if n % 2 == 0 {
            [10, 0, 0, 5]
        } else {
            [random.u8(120..130), 0, 0, 1]
        };
        let remote = random.u32(..).to_be_bytes();
        let port = random.u16(1..);
        let opening = Opening {
            local: mapped(u32::from_ne_bytes(local)),
            local_port: 80,
            remote: mapped(u32::from_ne_bytes(remote)),
            remote_port: u32::from(port),
        };
        let find = |key: ServedKey| {
            steering
                .plan
                .entries
                .iter()
                .find(|entry| entry.key == key)
                .map(|entry| entry.served)
        };
        let (served, model) = match find(opening.exact()) {
            Some(served) => (served, to_this(&served, &opening)),
            None => {
                let served = find(opening.any()).unwrap();
                (served, to_any(&served, &opening))
            }
        };
        let text = |[a, b, c, d]: [u8; 4], port: u16| format!("{a}.{b}.{c}.{d}:{port}");
        let (_, cookie) = test_run(&mut steering, lookup(&text(local, 80), &text(remote, port), TCP));
        let expected = match model {
            Steer::Leave => None,
            Steer::Take { start } => {
                let worker = |at: u32| usize::try_from(at - served.first_slot).unwrap();
                let start = lighter(&served, start, |at| loads[worker(at)]);
                Some(worker(slot(&served, start, 0)))
            }
        };
        assert_eq!(by_slot.get(&cookie).copied(), expected, "{opening:?}");
    }
}

#[test]
fn an_empty_slot_is_passed_over_and_without_any_socket_nothing_is_claimed() {
    let all = [wanted(Listener::Http, "10.0.0.5:80", false)];
    let Some((mut steering, mut sockets)) = prepare(&all, WHOLE) else {
        return;
    };
    // Three of four workers end.
    sockets.truncate(1);
    let last = cookie(&sockets[0][0].1);
    for port in 1..100 {
        let (_, cookie) = test_run(
            &mut steering,
            lookup("10.0.0.5:80", &format!("192.0.2.1:{port}"), TCP),
        );
        assert_eq!(cookie, last);
    }
    drop(sockets);
    assert_eq!(
        test_run(&mut steering, lookup("10.0.0.5:80", "192.0.2.1:1", TCP)),
        (SK_PASS, 0)
    );
    let view = &steering.addresses()[0];
    assert_eq!((view.steered, view.unclaimed, view.refused), (99, 1, 0));
}
