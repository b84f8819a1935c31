//! Which endpoints are near: on the agent's own node, in its zone, or anywhere.
//!
//! Knows no Kubernetes object, only what their fields say: hints, zone and node names, and what the Service wishes for.

use serde::Serialize;

use crate::resource::{Endpoint, EndpointCondition, Nearness};

/// What a Service wishes for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// All are alike, whatever hints say.
    Alike,
    /// Hints decide, where every endpoint has one.
    #[default]
    Hints,
    /// The same; without hints, endpoints of the own zone come first.
    Zone,
    /// The same; without hints, endpoints of the own node come first, and then those of the own zone.
    Node,
}

/// Where the agent is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Place {
    pub node: Option<String>,
    pub zone: Option<String>,
}

/// An endpoint, and what its hints say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hinted {
    pub endpoint: Endpoint,
    /// `None`: it has no hint.
    pub by_hints: Option<Nearness>,
}

impl Place {
    /// By the names of an endpoint's hints; `None` without any.
    pub fn by_hints<'h>(
        &self,
        mut nodes: impl Iterator<Item = &'h str>,
        mut zones: impl Iterator<Item = &'h str>,
    ) -> Option<Nearness> {
        let (mut has_nodes, mut has_zones) = (false, false);
        let on_node = nodes.any(|name| {
            has_nodes = true;
            Some(name) == self.node.as_deref()
        });
        if on_node {
            return Some(Nearness::SameNode);
        }
        let in_zone = zones.any(|name| {
            has_zones = true;
            Some(name) == self.zone.as_deref()
        });
        match (in_zone, has_nodes || has_zones) {
            (true, _) => Some(Nearness::SameZone),
            (false, true) => Some(Nearness::Anywhere),
            (false, false) => None,
        }
    }

    /// Says of each how near it is. Hints that some of the ready endpoints lack are about to change, and decide nothing (as in kube-proxy).
    pub fn settle(&self, wish: Wish, all: Vec<Hinted>) -> Vec<Endpoint> {
        let mut ready = all
            .iter()
            .filter(|one| one.endpoint.state == EndpointCondition::Ready);
        let hints_decide = wish != Wish::Alike && ready.all(|one| one.by_hints.is_some());
        all.into_iter()
            .map(|one| {
                let nearness = match hints_decide {
                    true => one.by_hints.unwrap_or_default(),
                    false => self.by_own(wish, &one.endpoint),
                };
                Endpoint {
                    nearness,
                    ..one.endpoint
                }
            })
            .collect()
    }

    fn by_own(&self, wish: Wish, endpoint: &Endpoint) -> Nearness {
        let same = |own: &Option<String>, its: &Option<std::sync::Arc<str>>| {
            own.is_some() && own.as_deref() == its.as_deref()
        };
        let in_zone = same(&self.zone, &endpoint.zone);
        let on_node = same(&self.node, &endpoint.node);
        match wish {
            Wish::Node if on_node => Nearness::SameNode,
            Wish::Node | Wish::Zone if in_zone => Nearness::SameZone,
            _ => Nearness::Anywhere,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> Place {
        Place {
            node: Some("n1".into()),
            zone: Some("a".into()),
        }
    }

    fn endpoint(number: u8, zone: &str, node: &str) -> Endpoint {
        Endpoint {
            address: ([10, 0, 0, number], 80).into(),
            state: EndpointCondition::Ready,
            zone: Some(zone.into()),
            node: Some(node.into()),
            nearness: Nearness::default(),
        }
    }

    fn hinted(endpoint: Endpoint, zones: &[&str]) -> Hinted {
        let by_hints = here().by_hints(std::iter::empty(), zones.iter().copied());
        Hinted { endpoint, by_hints }
    }

    fn settled(wish: Wish, all: &[Hinted]) -> Vec<Nearness> {
        let all = here().settle(wish, all.to_vec());
        all.iter().map(|endpoint| endpoint.nearness).collect()
    }

    #[test]
    fn a_wish_for_the_zone_or_node_goes_by_the_endpoints_own_zone_and_node() {
        use Nearness::*;
        let plain = |number, zone, node| hinted(endpoint(number, zone, node), &[]);
        let all = [plain(1, "a", "n1"), plain(2, "a", "n2"), plain(3, "b", "n3")];
        assert_eq!(settled(Wish::Zone, &all), [SameZone, SameZone, Anywhere]);
        assert_eq!(settled(Wish::Node, &all), [SameNode, SameZone, Anywhere]);
        assert_eq!(settled(Wish::Hints, &all), [Anywhere; 3]);
    }

    #[test]
    fn hints_go_before_the_own_zone_and_count_only_when_all_that_are_ready_have_some() {
        use Nearness::*;
        // Proportional hints lend a zone endpoints of another.
        let all = [
            hinted(endpoint(1, "a", "n1"), &["b"]),
            hinted(endpoint(2, "b", "n2"), &["a"]),
        ];
        assert_eq!(settled(Wish::Zone, &all), [Anywhere, SameZone]);
        assert_eq!(settled(Wish::Hints, &all), [Anywhere, SameZone]);
        assert_eq!(settled(Wish::Alike, &all), [Anywhere; 2]);
        let half = [all[0].clone(), hinted(endpoint(2, "b", "n2"), &[])];
        assert_eq!(settled(Wish::Hints, &half), [Anywhere; 2]);
        assert_eq!(settled(Wish::Zone, &half), [SameZone, Anywhere]);
        let mut draining = half[1].clone();
        draining.endpoint.state = EndpointCondition::Draining;
        assert_eq!(
            settled(Wish::Hints, &[all[1].clone(), draining]),
            [SameZone, Anywhere]
        );
    }

    #[test]
    fn a_hint_for_the_node_is_nearer_than_one_for_the_zone() {
        let by = |nodes: &[&str]| here().by_hints(nodes.iter().copied(), ["a"].into_iter());
        assert_eq!(by(&["n1", "n2"]), Some(Nearness::SameNode));
        assert_eq!(by(&["n2"]), Some(Nearness::SameZone));
        let lost = Place::default();
        assert_eq!(
            lost.by_hints(["n1"].into_iter(), ["a"].into_iter()),
            Some(Nearness::Anywhere)
        );
    }

    #[test]
    fn who_does_not_know_where_he_is_takes_all_alike() {
        let mut nameless = endpoint(1, "a", "n1");
        (nameless.zone, nameless.node) = (None, None);
        let one = Hinted {
            endpoint: nameless,
            by_hints: None,
        };
        let all = Place::default().settle(Wish::Node, vec![one]);
        assert_eq!(all[0].nearness, Nearness::Anywhere);
    }
}
