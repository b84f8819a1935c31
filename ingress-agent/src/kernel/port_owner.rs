//! Who listens on a port: by the kernel's list of sockets (which tells the cgroup, and so the pod), and by /proc, where processes can be seen.
//!
//! Reads only, and what it can't know it says. Bounded: a node has many processes and cgroups.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::netlink::{self, Family, attributes, u32};

/// Who has a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortOwner {
    /// Process id and command; several where a socket is shared.
    processes: BTreeSet<(u32, String)>,
    /// Below the root of the hierarchy.
    cgroups: BTreeSet<String>,
    /// Of the sockets.
    uids: BTreeSet<u32>,
    /// What would have to be different to know more.
    missing: Vec<String>,
}

/// Who listens on this address, or on one that overlaps it; `None`: nobody in this network namespace.
pub fn of(address: SocketAddr) -> Option<PortOwner> {
    let mut owner = PortOwner::default();
    let sockets = match listening() {
        Ok(sockets) => sockets,
        Err(error) => {
            owner.missing.push(format!("the list of sockets: {error}"));
            return Some(owner);
        }
    };
    let sockets: Vec<_> = sockets
        .into_iter()
        .filter(|socket| overlap(address, socket.address))
        .collect();
    if sockets.is_empty() {
        return None;
    }
    owner.uids = sockets.iter().map(|socket| socket.uid).collect();
    owner.find_processes(&sockets.iter().map(|socket| socket.inode).collect());
    owner.find_cgroups(&sockets.iter().filter_map(|socket| socket.cgroup).collect());
    Some(owner)
}

impl PortOwner {
    fn find_processes(&mut self, inodes: &BTreeSet<u32>) {
        let wanted: BTreeSet<_> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
        let mut hidden = false;
        for pid in processes() {
            let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
                hidden = true;
                continue;
            };
            let mut links = descriptors
                .flatten()
                .take(MOST_DESCRIPTORS)
                .filter_map(|entry| entry.path().read_link().ok());
            if links.any(|link| link.to_str().is_some_and(|link| wanted.contains(link))) {
                self.processes.insert((pid, command(pid)));
                let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
                self.cgroups.extend(unified(&cgroup).map(str::to_owned));
            }
        }
        if self.processes.is_empty() {
            self.missing.push(if hidden {
                "its process: CAP_SYS_PTRACE shows other users' processes".to_owned()
            } else {
                "its process: it is not among those that are visible here (hostPID shows the node's)"
                    .to_owned()
            });
        }
    }

    /// By the number that the socket has of its cgroup: also where its process can't be seen.
    fn find_cgroups(&mut self, ids: &BTreeSet<u64>) {
        if !self.cgroups.is_empty() {
            return;
        }
        let Some(root) = HIERARCHIES
            .iter()
            .map(Path::new)
            .find(|root| root.join("cgroup.procs").exists())
        else {
            return self
                .missing
                .push("its cgroup: no cgroup v2 hierarchy is mounted here".to_owned());
        };
        self.cgroups = directories(root, ids)
            .into_iter()
            .map(|path| format!("/{}", path.strip_prefix(root).unwrap_or(&path).display()))
            .collect();
        if self.cgroups.is_empty() {
            self.missing
                .push("its cgroup: it is not below the one that is mounted here".to_owned());
        }
    }

    /// Pods that it may be, by their uid.
    pub fn pods(&self) -> BTreeSet<String> {
        self.cgroups.iter().filter_map(|cgroup| pod(cgroup)).collect()
    }
}

/// Half a sentence: `nginx (pid 4711), of pod …`.
impl fmt::Display for PortOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let processes = self
            .processes
            .iter()
            .map(|(pid, command)| format!("{command} (pid {pid})"));
        let mut known: Vec<String> = processes.collect();
        known.extend(self.pods().iter().map(|uid| format!("pod {uid}")));
        if self.pods().is_empty() {
            known.extend(self.cgroups.iter().map(|cgroup| format!("cgroup {cgroup}")));
        }
        if self.processes.is_empty() {
            known.extend(self.uids.iter().map(|uid| format!("uid {uid}")));
        }
        known.extend(
            self.missing
                .iter()
                .map(|missing| format!("not known is {missing}")),
        );
        f.write_str(&known.join(", "))
    }
}

/// Where cgroup v2 usually is.
const HIERARCHIES: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
const MOST_PROCESSES: usize = 32_768;
const MOST_DESCRIPTORS: usize = 65_536;
const MOST_DIRECTORIES: usize = 20_000;

/// A listening TCP socket.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Socket {
    address: SocketAddr,
    uid: u32,
    inode: u32,
    cgroup: Option<u64>,
}

fn listening() -> io::Result<Vec<Socket>> {
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    const TCP: u8 = 6;
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    /// Bit of TCP_LISTEN.
    const LISTEN: u32 = 1 << 10;
    let socket = netlink::open(Family::Sockets, 0)?;
    let mut all = Vec::new();
    for family in [AF_INET, AF_INET6] {
        // struct inet_diag_req_v2: family, protocol, two bytes, states, and an address of 48 bytes that means all.
        let mut request = vec![family, TCP, 0, 0];
        request.extend(LISTEN.to_ne_bytes());
        request.resize(8 + 48, 0);
        let answers = netlink::dump(&socket, SOCK_DIAG_BY_FAMILY, SOCK_DIAG_BY_FAMILY, &request)?;
        all.extend(answers.iter().filter_map(|answer| read(answer)));
    }
    Ok(all)
}

/// From a `struct inet_diag_msg` and its attributes (linux/inet_diag.h).
fn read(answer: &[u8]) -> Option<Socket> {
    const INET_DIAG_CGROUP_ID: u16 = 21;
    const AF_INET6: u8 = 10;
    let port = u16::from_be_bytes(*answer.get(4..)?.first_chunk()?);
    let ip: [u8; 16] = *answer.get(8..)?.first_chunk()?;
    let ip = if *answer.first()? == AF_INET6 {
        IpAddr::V6(Ipv6Addr::from(ip)).to_canonical()
    } else {
        IpAddr::V4(Ipv4Addr::from(*ip.first_chunk::<4>()?))
    };
    let mut attributes = attributes(answer.get(72..)?);
    let cgroup = attributes.find(|(kind, _)| *kind == INET_DIAG_CGROUP_ID);
    Some(Socket {
        address: SocketAddr::new(ip, port),
        uid: u32(answer, 64)?,
        inode: u32(answer, 68)?,
        cgroup: cgroup.and_then(|(_, id)| id.first_chunk().map(|id| u64::from_ne_bytes(*id))),
    })
}

fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let (a, b) = (one.ip().to_canonical(), other.ip());
    one.port() == other.port() && (a == b || a.is_unspecified() || b.is_unspecified())
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.take(MOST_PROCESSES)
}

/// Its name, as a program calls itself: hostile until escaped.
fn command(pid: u32) -> String {
    let name = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_ascii_end().escape_ascii().to_string()
}

/// The path of the v2 hierarchy in /proc/PID/cgroup: `0::/kubepods/…`.
fn unified(cgroup: &str) -> impl Iterator<Item = &str> {
    cgroup.lines().filter_map(|line| line.strip_prefix("0::"))
}

/// Directories whose inodes are these: what the kernel calls a cgroup's id.
fn directories(root: &Path, ids: &BTreeSet<u64>) -> Vec<PathBuf> {
    let (mut found, mut waiting, mut seen) = (Vec::new(), vec![root.to_path_buf()], 0);
    while let Some(directory) = waiting.pop() {
        seen += 1;
        if seen > MOST_DIRECTORIES || found.len() == ids.len() {
            break;
        }
        if std::fs::metadata(&directory).is_ok_and(|metadata| ids.contains(&metadata.ino())) {
            found.push(directory.clone());
        }
        let entries = std::fs::read_dir(&directory).into_iter().flatten().flatten();
        let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        waiting.extend(below.map(|entry| entry.path()));
    }
    found
}

/// The pod's uid in a path of the kubelet: `/kubepods.slice/kubepods-pod0f3c….slice/…` (systemd writes `_` for `-`) or `/kubepods/burstable/pod0f3c…/…`.
fn pod(cgroup: &str) -> Option<String> {
    cgroup.split('/').find_map(|part| {
        let part = part.trim_end_matches(".slice");
        let (_, uid) = part.rsplit_once("pod")?;
        let uid = uid.replace('_', "-");
        let is_uid = uid.len() >= 32 && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        is_uid.then_some(uid)
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn who_has_a_port_is_told_with_process_and_command() {
        let mine = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = mine.local_addr().unwrap();
        let owner = of(SocketAddr::from(([0u16; 8], address.port()))).unwrap();
        assert!(
            owner
                .to_string()
                .contains(&format!("(pid {})", std::process::id())),
            "{owner}"
        );
        drop(mine);
        assert_eq!(of(address), None);
    }

    #[test]
    fn a_pod_is_known_by_the_path_of_its_cgroup() {
        const UID: &str = "0f3c1b2a-1111-2222-3333-444455556666";
        let systemd = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0f3c1b2a_1111_2222_3333_444455556666.slice/cri-containerd-ab.scope";
        assert_eq!(pod(systemd).as_deref(), Some(UID));
        assert_eq!(
            pod(&format!("/kubepods/besteffort/pod{UID}/ab")).as_deref(),
            Some(UID)
        );
        assert_eq!(pod("/system.slice/nginx.service"), None);
        assert_eq!(pod("/podman.slice/podx"), None);
        assert_eq!(
            unified("1:name=systemd:/x\n0::/a/b\n").collect::<Vec<_>>(),
            ["/a/b"]
        );
    }

    #[test]
    fn what_is_not_known_is_said() {
        let owner = PortOwner {
            uids: [101].into(),
            cgroups: ["/kubepods/pod0f3c1b2a-1111-2222-3333-444455556666/x".to_owned()].into(),
            missing: vec!["its process: hostPID".to_owned()],
            ..PortOwner::default()
        };
        assert_eq!(
            owner.to_string(),
            "pod 0f3c1b2a-1111-2222-3333-444455556666, uid 101, not known is its process: hostPID"
        );
    }

    #[test]
    fn a_socket_is_read_and_one_that_is_cut_short_is_not() {
        let mut answer = vec![2, 10, 0, 0, 0, 80, 0, 0, 10, 0, 0, 5];
        answer.resize(72, 0);
        answer[64] = 101;
        answer[68] = 7;
        let socket = read(&answer).unwrap();
        assert_eq!(socket.address, "10.0.0.5:80".parse().unwrap());
        assert_eq!((socket.uid, socket.inode, socket.cgroup), (101, 7, None));
        for end in 0..72 {
            assert_eq!(read(&answer[..end]), None);
        }
    }
}
