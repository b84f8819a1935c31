//! Namespaces and interfaces of Pods: a bridge in the node's namespace, and a cable from it into the namespace of each Pod.

use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::PoisonError;

use anyhow::bail;

use super::process::Process;
use crate::cluster::pods::{inside, ip, ip_batch, wait_for_namespace};

/// Where Pods find the API server, as in any cluster: the first Service address. Not 443, which is the node's own port here, as no
/// kube-proxy translates it: agents listen there.
pub(super) const API: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 96, 0, 1), 6443);
/// The last parts of Pods' addresses, below those of `cluster::pods`; the bridge has the one before.
const FIRST: u8 = 66;
const LAST: u8 = 126;

/// The node's namespace with its bridge.
#[derive(Debug)]
pub(super) struct Network {
    /// The process that holds the node's namespace.
    holder: u32,
    number: u8,
    addresses: Mutex<Addresses>,
}

/// Handed out round robin: who still knows an old one shall not soon meet another Pod there.
#[derive(Debug)]
struct Addresses {
    next: u8,
    used: Vec<u8>,
}

/// What a Pod has of the network; given back when dropped.
#[derive(Debug)]
pub(super) struct Sandbox<'n> {
    network: &'n Network,
    pub(super) address: Ipv4Addr,
    /// Holds the namespace; none on the host's network.
    pause: Option<Process>,
    last: Option<u8>,
}

impl Network {
    pub(super) fn create(holder: u32, number: u8) -> anyhow::Result<Self> {
        let network = Self {
            holder,
            number,
            addresses: Mutex::new(Addresses {
                next: FIRST,
                used: Vec::new(),
            }),
        };
        let (bridge, api) = (network.address(FIRST - 1), API.0);
        // A bridge would otherwise change its MAC with its ports, and Pods would keep the old one for a while.
        ip_batch(
            &inside(holder),
            &format!(
                "link add pods0 address 02:00:c6:12:{number:02x}:41 type bridge\n\
                 address add {bridge}/26 dev pods0\nlink set pods0 up\n\
                 address add {api}/32 dev lo\nroute add default via {}\n",
                network.address(1)
            ),
        )?;
        let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward";
        let enabled = Command::new("nsenter")
            .args(&inside(holder)[1..])
            .args(["sh", "-c", forward])
            .status()?;
        if !enabled.success() {
            bail!("the node does not forward: {enabled}");
        }
        // From this machine Pods are behind the node.
        let (pods, node) = (format!("198.18.{number}.64/26"), network.address(2).to_string());
        ip(&[], &["route", "add", &pods, "via", &node])?;
        Ok(network)
    }

    fn address(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.number, last)
    }

    /// The address of the node itself.
    pub(super) fn node(&self) -> Ipv4Addr {
        self.address(2)
    }

    /// A place for a Pod: the node's own network, or a namespace with an address.
    pub(super) fn sandbox(&self, on_host: bool) -> anyhow::Result<Sandbox<'_>> {
        if on_host {
            return Ok(Sandbox {
                network: self,
                address: self.node(),
                pause: None,
                last: None,
            });
        }
        let last = self.take()?;
        let mut sandbox = Sandbox {
            network: self,
            address: self.address(last),
            pause: None,
            last: Some(last),
        };
        let mut pause = Command::new("setpriv");
        pause
            .args(["--pdeathsig", "KILL", "--", "unshare", "--net", "--"])
            .args(["sleep", "infinity"])
            .stdin(Stdio::null());
        let pause = sandbox.pause.insert(Process::start(&mut pause)?);
        wait_for_namespace(pause.child())?;
        let pid = pause.pid();
        // From the address: with another one at the same address, neighbours would go on sending to the old one for seconds.
        let mac = format!("02:00:c6:12:{:02x}:{last:02x}", self.number);
        ip_batch(
            &inside(self.holder),
            &format!(
                "link add pod{last} type veth peer name eth0 address {mac} netns {pid}\n\
                 link set pod{last} master pods0 up\n"
            ),
        )?;
        ip_batch(
            &inside(pid),
            &format!(
                "link set lo up\naddress add {}/26 dev eth0\nlink set eth0 up\nroute add default via {}\n",
                sandbox.address,
                self.address(FIRST - 1)
            ),
        )?;
        Ok(sandbox)
    }

    fn take(&self) -> anyhow::Result<u8> {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in FIRST..=LAST {
            let last = addresses.next;
            addresses.next = if last == LAST { FIRST } else { last + 1 };
            if !addresses.used.contains(&last) {
                addresses.used.push(last);
                return Ok(last);
            }
        }
        bail!("all addresses for Pods are used")
    }
}

impl Sandbox<'_> {
    /// A process that is in the namespace.
    pub(super) fn holder(&self) -> u32 {
        self.pause.as_ref().map_or(self.network.holder, Process::pid)
    }

    pub(super) fn is_on_host(&self) -> bool {
        self.last.is_none()
    }

    /// Whether something listens for TCP; on the host's network that says nothing of a single Pod.
    pub(super) fn has_listener(&self) -> bool {
        // The fourth column is the state; 0A is LISTEN (include/net/tcp_states.h).
        let listens = |table: &str| {
            let path = format!("/proc/{}/net/{table}", self.holder());
            let text = std::fs::read_to_string(path).unwrap_or_default();
            text.lines()
                .any(|line| line.split_whitespace().nth(3) == Some("0A"))
        };
        self.is_on_host() || listens("tcp") || listens("tcp6")
    }
}

impl Drop for Sandbox<'_> {
    fn drop(&mut self) {
        let Some(last) = self.last else { return };
        // The cable goes with the namespace, and with it our end: first the holder, so that the address is free when it is given away.
        drop(self.pause.take());
        let cable = format!("pod{last}");
        let words = inside(self.network.holder);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        // Gone already, most of the time.
        let _ = ip(&words, &["link", "del", &cable]);
        let mut addresses = self
            .network
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        addresses.used.retain(|used| *used != last);
    }
}
