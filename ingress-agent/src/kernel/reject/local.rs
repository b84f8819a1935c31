//! The node's own addresses, as /proc shows them: a listener on every address listens on these.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Sorted. Empty where /proc does not show them: then nothing is judged on a listener for every address.
pub(crate) fn addresses() -> Vec<IpAddr> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut all: Vec<IpAddr> = ipv4(&read("/proc/thread-self/net/fib_trie"))
        .map(IpAddr::V4)
        .chain(ipv6(&read("/proc/thread-self/net/if_inet6")).map(IpAddr::V6))
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// An address stands before what is known of it; `host LOCAL` is one of ours.
fn ipv4(fib_trie: &str) -> impl Iterator<Item = Ipv4Addr> {
    let mut address = None;
    fib_trie.lines().filter_map(move |line| {
        let line = line.trim_start();
        if let Some(text) = line.strip_prefix("|-- ") {
            address = text.trim().parse().ok();
            return None;
        }
        line.contains("host LOCAL").then_some(address).flatten()
    })
}

/// 32 hexadecimal digits begin each line.
fn ipv6(if_inet6: &str) -> impl Iterator<Item = Ipv6Addr> {
    if_inet6.lines().filter_map(|line| {
        let digits = line.split_whitespace().next().filter(|text| text.len() == 32)?;
        u128::from_str_radix(digits, 16).ok().map(Ipv6Addr::from)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_are_read_and_broadcasts_are_not() {
        let trie = "Main:\n  +-- 10.0.0.0/24 2 0 2\n     |-- 10.0.0.0\n        /24 link UNICAST\n     |-- 10.0.0.5\n        /32 host LOCAL\n     |-- 10.0.0.255\n        /32 link BROADCAST\n";
        assert_eq!(ipv4(trie).collect::<Vec<_>>(), [Ipv4Addr::new(10, 0, 0, 5)]);
        let inet6 = "20010db8000000000000000000000005 02 40 00 80     eth0\nnonsense\n";
        assert_eq!(
            ipv6(inet6).collect::<Vec<_>>(),
            ["2001:db8::5".parse::<Ipv6Addr>().unwrap()]
        );
        assert!(addresses().contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)));
    }
}
