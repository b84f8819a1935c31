//! Where clients reach us: what is written into every status.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Node, Service};
use kube::api::ListParams;
use kube::{Api, Client};

use super::{in_words, plan};
use crate::config::{Address, NodeAddress, ObjectName, Publish, PublishFrom};
use crate::objects::{Key, Objects};

/// Sorted; asks the API server only where the objects at hand don't say it.
pub(super) async fn find(
    client: &Client,
    publish: &Publish,
    objects: &Objects,
) -> Result<Vec<Address>, String> {
    match &publish.from {
        PublishFrom::Nothing => Ok(Vec::new()),
        PublishFrom::Fixed(addresses) => Ok(plan::sorted(addresses.iter().cloned())),
        PublishFrom::Service(service) => {
            let api: Api<Service> = Api::namespaced(client.clone(), &service.namespace);
            let service = api.get(&service.name).await.map_err(in_words)?;
            Ok(of_service(&service))
        }
        PublishFrom::Agents(service) => {
            let agents = plan::agents(objects, &key(service));
            match publish.node_address {
                NodeAddress::Internal => {
                    let each = agents.iter().map(|agent| Address::Ip(agent.address));
                    Ok(plan::sorted(each))
                }
                NodeAddress::External => external(client, &agents).await,
            }
        }
    }
}

pub(super) fn key(service: &ObjectName) -> Key {
    Key::new(service.namespace.as_str(), service.name.as_str())
}

async fn external(client: &Client, agents: &[plan::Agent]) -> Result<Vec<Address>, String> {
    let ours: BTreeSet<&str> = agents.iter().map(|agent| agent.node.as_str()).collect();
    let api: Api<Node> = Api::all(client.clone());
    let nodes = api
        .list(&ListParams::default().match_any())
        .await
        .map_err(in_words)?;
    Ok(plan::sorted(nodes.items.iter().flat_map(|node| {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let status = node.status.as_ref().filter(|_| ours.contains(name));
        let listed = status.and_then(|status| status.addresses.as_ref());
        let external = listed
            .into_iter()
            .flatten()
            .filter(|address| address.type_ == "ExternalIP");
        external.filter_map(|address| address.address.parse().ok().map(Address::Ip))
    })))
}

/// What the Service's own status says, else its externalIPs.
fn of_service(service: &Service) -> Vec<Address> {
    let status = service.status.as_ref();
    let balancer = status.and_then(|status| status.load_balancer.as_ref());
    let entries = balancer.and_then(|balancer| balancer.ingress.as_ref());
    let balanced: Vec<_> = entries
        .into_iter()
        .flatten()
        .filter_map(|entry| match (&entry.ip, &entry.hostname) {
            (Some(ip), _) => ip.parse().ok().map(Address::Ip),
            (None, Some(name)) => Some(Address::Hostname(name.clone())),
            (None, None) => None,
        })
        .collect();
    if !balanced.is_empty() {
        return plan::sorted(balanced);
    }
    let spec = service.spec.as_ref();
    let external = spec.and_then(|spec| spec.external_ips.as_ref());
    let parsed = external.into_iter().flatten().filter_map(|ip| ip.parse().ok());
    plan::sorted(parsed.map(Address::Ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_gives_what_its_load_balancer_has_and_else_its_external_ips() {
        let service = |json| serde_json::from_value::<Service>(json).unwrap();
        let balanced = service(serde_json::json!({
            "spec": {"externalIPs": ["192.0.2.9"]},
            "status": {"loadBalancer": {"ingress": [{"hostname": "lb.example"}, {"ip": "192.0.2.1"}]}},
        }));
        let ip = |text: &str| Address::Ip(text.parse().unwrap());
        assert_eq!(
            of_service(&balanced),
            [ip("192.0.2.1"), Address::Hostname("lb.example".into())]
        );
        let plain = service(serde_json::json!({"spec": {"externalIPs": ["192.0.2.9"]}, "status": {}}));
        assert_eq!(of_service(&plain), [ip("192.0.2.9")]);
    }
}
