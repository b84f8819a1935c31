//! What has to be written: from what is ours and where we are reached to patches. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use k8s_openapi::api::networking::v1::{Ingress, IngressLoadBalancerIngress};

use crate::config::Address;
use crate::objects::{Key, Objects};
use crate::translate::endpoints::SERVICE_LABEL;

/// As the API server keeps it beside the fields that we wrote.
pub(super) const FIELD_MANAGER: &str = "ingress-agent";

impl From<&Address> for IngressLoadBalancerIngress {
    fn from(address: &Address) -> Self {
        let (ip, hostname) = match address {
            Address::Ip(ip) => (Some(ip.to_string()), None),
            Address::Hostname(name) => (None, Some(name.clone())),
        };
        Self {
            hostname,
            ip,
            ports: None,
        }
    }
}

/// What an Ingress's status held when it was last looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Another Ingress of the same name has another.
    pub(super) uid: String,
    pub(super) addresses: Vec<Address>,
    /// We wrote its status some time.
    pub(super) ours: bool,
}

impl Seen {
    pub(super) fn of(ingress: &Ingress) -> Self {
        let status = ingress
            .status
            .as_ref()
            .and_then(|status| status.load_balancer.as_ref());
        let entries = status
            .and_then(|balancer| balancer.ingress.as_ref())
            .into_iter()
            .flatten();
        let addresses = entries.filter_map(|entry| match (&entry.ip, &entry.hostname) {
            (Some(ip), _) => ip.parse().ok().map(Address::Ip),
            (None, Some(name)) => Some(Address::Hostname(name.clone())),
            (None, None) => None,
        });
        let mut managers = ingress.metadata.managed_fields.iter().flatten();
        Self {
            uid: ingress.metadata.uid.clone().unwrap_or_default(),
            addresses: sorted(addresses),
            ours: managers.any(|entry| {
                entry.manager.as_deref() == Some(FIELD_MANAGER)
                    && entry.subresource.as_deref() == Some("status")
            }),
        }
    }
}

/// One status to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Patch {
    pub(super) key: Key,
    pub(super) uid: String,
    /// Empty: what we wrote is taken away.
    pub(super) addresses: Vec<Address>,
}

/// Nothing where all is as it should be. Without any address nothing is known, and nothing is taken away.
pub(super) fn plan(
    seen: &BTreeMap<Key, Seen>,
    owned: &BTreeMap<Key, String>,
    addresses: &[Address],
    fights: &Fights,
    now: Instant,
) -> Vec<Patch> {
    if addresses.is_empty() {
        return Vec::new();
    }
    let wrong = owned.iter().filter(|(key, uid)| {
        let seen = seen.get(key).filter(|seen| seen.uid == **uid);
        let is_right = seen.is_some_and(|seen| seen.addresses == addresses);
        !is_right && !fights.rests(key, now)
    });
    let foreign = seen
        .iter()
        .filter(|(key, seen)| seen.ours && !seen.addresses.is_empty() && !owned.contains_key(key));
    let write = wrong.map(|(key, uid)| Patch {
        key: key.clone(),
        uid: uid.clone(),
        addresses: addresses.to_vec(),
    });
    let clear = foreign.map(|(key, seen)| Patch {
        key: key.clone(),
        uid: seen.uid.clone(),
        addresses: Vec::new(),
    });
    write.chain(clear).collect()
}

/// Statuses that somebody else keeps writing: after three times within an hour they are left to him for an hour.
#[derive(Debug, Default)]
pub(super) struct Fights {
    rounds: BTreeMap<Key, Vec<Instant>>,
}

const HOUR: Duration = Duration::from_secs(3600);
const ROUNDS: usize = 3;

impl Fights {
    /// Ours was replaced by another's. True when this is given up now.
    pub(super) fn lost(&mut self, key: &Key, now: Instant) -> bool {
        let rounds = self.rounds.entry(key.clone()).or_default();
        rounds.retain(|round| now.saturating_duration_since(*round) < HOUR);
        rounds.push(now);
        rounds.len() == ROUNDS
    }

    fn rests(&self, key: &Key, now: Instant) -> bool {
        self.rounds.get(key).is_some_and(|rounds| {
            let recent = rounds
                .iter()
                .filter(|round| now.saturating_duration_since(**round) < HOUR);
            recent.count() >= ROUNDS
        })
    }
}

/// An agent that is ready, by its Service's slices.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Agent {
    pub(super) node: String,
    pub(super) address: IpAddr,
}

/// The agents that are ready and not about to stop. On the host's network a pod's address is its node's InternalIP.
pub(super) fn agents(objects: &Objects, service: &Key) -> Vec<Agent> {
    let slices = objects.endpoint_slices.iter().filter(|(key, slice)| {
        let labels = slice.metadata.labels.as_ref();
        key.namespace == service.namespace
            && labels.and_then(|labels| labels.get(SERVICE_LABEL)) == Some(&service.name)
    });
    let endpoints = slices.flat_map(|(_, slice)| &slice.endpoints);
    let ready = endpoints.filter(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        conditions.is_none_or(|c| c.ready.unwrap_or(true) && !c.terminating.unwrap_or(false))
    });
    let mut agents: Vec<_> = ready
        .flat_map(|endpoint| {
            let node = endpoint.node_name.clone().unwrap_or_default();
            endpoint.addresses.iter().filter_map(move |address| {
                Some(Agent {
                    node: node.clone(),
                    address: address.parse().ok()?,
                })
            })
        })
        .collect();
    agents.sort();
    agents.dedup();
    agents
}

/// Of many agents these take part in the election; all others would only ask the API server.
const CANDIDATES: usize = 3;

/// Whether the agent of this node should stand for election.
pub(super) fn may_lead(agents: &[Agent], node: Option<&str>) -> bool {
    let nodes: BTreeSet<&str> = agents.iter().map(|agent| agent.node.as_str()).collect();
    match node {
        // Who knows too little of the others stands.
        Some(node) if nodes.contains(node) => nodes.iter().take(CANDIDATES).any(|other| *other == node),
        Some(_) if nodes.len() >= CANDIDATES => false,
        _ => true,
    }
}

pub(super) fn sorted(addresses: impl IntoIterator<Item = Address>) -> Vec<Address> {
    let mut sorted: Vec<_> = addresses.into_iter().collect();
    sorted.sort();
    sorted.dedup();
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Address {
        Address::Ip(text.parse().unwrap())
    }

    fn key(name: &str) -> Key {
        Key::new("shop", name)
    }

    fn seen(addresses: &[&str], ours: bool) -> Seen {
        Seen {
            uid: "1".to_owned(),
            addresses: addresses.iter().map(|text| ip(text)).collect(),
            ours,
        }
    }

    #[test]
    fn only_what_differs_is_written_and_only_what_we_wrote_is_taken_away() {
        let held = BTreeMap::from([
            (key("right"), seen(&["192.0.2.1"], true)),
            (key("old"), seen(&["192.0.2.9"], true)),
            (key("lost"), seen(&["192.0.2.1"], true)),
            (key("others"), seen(&["192.0.2.7"], false)),
        ]);
        let uid = || "1".to_owned();
        let mut owned = BTreeMap::from([(key("right"), uid()), (key("old"), uid()), (key("new"), uid())]);
        let addresses = [ip("192.0.2.1")];
        let now = Instant::now();
        let patches = plan(&held, &owned, &addresses, &Fights::default(), now);
        let told: Vec<_> = patches
            .iter()
            .map(|p| (p.key.name.as_str(), p.addresses.len()))
            .collect();
        assert_eq!(told, [("new", 1), ("old", 1), ("lost", 0)]);
        assert_eq!(plan(&held, &owned, &[], &Fights::default(), now), []);
        owned.insert(key("right"), "2".to_owned());
        let again = plan(&held, &owned, &addresses, &Fights::default(), now);
        assert!(
            again.iter().any(|patch| patch.key == key("right")),
            "made anew under the same name"
        );
    }

    #[test]
    fn a_status_that_another_keeps_writing_is_left_to_him_for_an_hour() {
        let (mut fights, start) = (Fights::default(), Instant::now());
        let owned = BTreeMap::from([(key("web"), "1".to_owned())]);
        let addresses = [ip("192.0.2.1")];
        let patches = |fights: &Fights, now| plan(&BTreeMap::new(), &owned, &addresses, fights, now).len();
        assert!(!fights.lost(&key("web"), start));
        assert!(!fights.lost(&key("web"), start));
        assert_eq!(patches(&fights, start), 1);
        assert!(fights.lost(&key("web"), start), "said once");
        assert_eq!(patches(&fights, start), 0);
        assert_eq!(patches(&fights, start + HOUR), 1);
    }

    #[test]
    fn addresses_are_those_of_agents_that_are_ready_and_not_about_to_stop() {
        let slice = serde_json::json!({
            "metadata": {"namespace": "ingress", "name": "agent-1", "labels": {SERVICE_LABEL: "agent"}},
            "addressType": "IPv4",
            "endpoints": [
                {"addresses": ["192.0.2.1"], "nodeName": "a", "conditions": {"ready": true}},
                {"addresses": ["192.0.2.2"], "nodeName": "b", "conditions": {"ready": false}},
                {"addresses": ["192.0.2.3"], "nodeName": "c", "conditions": {"ready": true, "terminating": true}},
            ],
        });
        let mut objects = Objects::default();
        let slice = std::sync::Arc::new(serde_json::from_value(slice).unwrap());
        objects
            .endpoint_slices
            .insert(Key::new("ingress", "agent-1"), slice);
        let ready = agents(&objects, &Key::new("ingress", "agent"));
        let nodes: Vec<_> = ready.iter().map(|agent| agent.node.as_str()).collect();
        assert_eq!(nodes, ["a"]);
        assert_eq!(agents(&objects, &Key::new("other", "agent")), []);
    }

    #[test]
    fn of_a_thousand_agents_three_stand_for_election() {
        let agent = |index: u8| Agent {
            node: format!("node-{index}"),
            address: IpAddr::from([10, 0, 0, index]),
        };
        let agents: Vec<_> = (0..100).map(agent).collect();
        let standing = agents
            .iter()
            .filter(|agent| may_lead(&agents, Some(&agent.node)))
            .count();
        assert_eq!(standing, CANDIDATES);
        assert!(may_lead(&[], Some("node-7")), "who knows nobody else stands");
        assert!(may_lead(&agents, None));
    }
}
