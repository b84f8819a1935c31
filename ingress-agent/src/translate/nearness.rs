//! Where the agent is, and what a Service wishes for: the names of Kubernetes for the core's [`Place`] and [`Wish`].

use ingress_core::nearness::{Place, Wish};
use ingress_core::resource::Nearness;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointHints;

use super::Options;
use crate::objects::{Key, Objects};

/// A Node's zone.
pub(crate) const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// `Disabled` takes hints away. With `Auto` they come by themselves where they are safe: it says nothing more.
const MODE_ANNOTATION: &str = "service.kubernetes.io/topology-mode";

/// As the agent was told; the zone else by its own Node.
pub(super) fn place(objects: &Objects, options: &Options) -> Place {
    let place = &options.place;
    let of_node = || {
        let node = objects.nodes.get(&Key::new("", place.node.as_deref()?))?;
        node.metadata.labels.as_ref()?.get(ZONE_LABEL).cloned()
    };
    Place {
        node: place.node.clone(),
        zone: place
            .zone
            .clone()
            .or_else(of_node)
            .filter(|zone| !zone.is_empty()),
    }
}

/// `spec.trafficDistribution` goes before the annotation (KEP-4444). `PreferClose` is the older word for `PreferSameZone`.
pub(super) fn wish(service: &Service) -> Wish {
    let spec = service.spec.as_ref();
    match spec.and_then(|spec| spec.traffic_distribution.as_deref()) {
        Some("PreferClose" | "PreferSameZone") => return Wish::Zone,
        Some("PreferSameNode") => return Wish::Node,
        // Values of others are hints that nobody has to follow.
        Some(_) | None => {}
    }
    let annotations = service.metadata.annotations.as_ref();
    let mode = annotations.and_then(|all| all.get(MODE_ANNOTATION));
    match mode.is_some_and(|mode| mode.eq_ignore_ascii_case("disabled")) {
        true => Wish::Alike,
        false => Wish::Hints,
    }
}

pub(super) fn by_hints(place: &Place, hints: Option<&EndpointHints>) -> Option<Nearness> {
    let hints = hints?;
    let nodes = hints.for_nodes.iter().flatten().map(|node| node.name.as_str());
    let zones = hints.for_zones.iter().flatten().map(|zone| zone.name.as_str());
    place.by_hints(nodes, zones)
}

/// What is missing for the wish to have an effect here.
pub(super) fn unknown(wish: Wish, place: &Place) -> Option<&'static str> {
    match (wish, &place.node, &place.zone) {
        (Wish::Zone, _, None) => Some(
            "neither --zone nor a label topology.kubernetes.io/zone of its Node says in which zone this agent is",
        ),
        (Wish::Node, None, None) => Some("neither --node-name nor --zone says where this agent is"),
        _ => None,
    }
}
