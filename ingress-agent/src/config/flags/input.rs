//! Flags for where objects come from, a folder or a cluster, and for what is written back.

use std::path::PathBuf;

use clap::Args;

use ingress_core::nearness::Place;

use super::not_empty;
use crate::config::{
    Address, Cluster, ConfigError, NodeAddress, ObjectName, Publish, PublishFrom, SecretAccess, Source,
};

#[derive(Debug, Args)]
#[command(next_help_heading = "Input")]
pub(super) struct Input {
    /// Folder of Kubernetes manifests (.yaml, .yml, .json, also in subfolders); it is watched, and changes take effect at once. Without it, the
    /// objects come from a cluster.
    #[arg(long, value_name = "DIR", env = "INGRESS_AGENT_MANIFESTS")]
    manifests: Option<PathBuf>,

    /// Kubeconfig file that says how to reach the cluster. [default: the service account, in a pod]
    #[arg(
        long,
        value_name = "FILE",
        env = "INGRESS_AGENT_KUBECONFIG",
        conflicts_with = "manifests"
    )]
    kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig file. [default: its current one]
    #[arg(long, value_name = "NAME", env = "INGRESS_AGENT_CONTEXT", requires = "kubeconfig", value_parser = not_empty)]
    context: Option<String>,

    /// Namespace to read, and no other: then Roles in these namespaces suffice, besides the right on IngressClasses. Repeatable. [default: all]
    #[arg(long, value_name = "NAMESPACE", env = "INGRESS_AGENT_WATCH_NAMESPACES", value_delimiter = ',', value_parser = not_empty)]
    watch_namespaces: Vec<String>,

    /// Label selector for Ingresses, such as team=web or tier!=internal: others are not read. [default: all]
    #[arg(long, value_name = "SELECTOR", env = "INGRESS_AGENT_INGRESS_SELECTOR", value_parser = not_empty)]
    ingress_selector: Option<String>,

    /// How Secrets are read from the cluster: tls watches those of type kubernetes.io/tls, and others where an Ingress names them; referenced
    /// asks for the named ones alone, about once a minute, and needs no more than the right to get them.
    #[arg(
        long,
        value_name = "MODE",
        env = "INGRESS_AGENT_SECRETS",
        default_value = "tls"
    )]
    secrets: SecretAccess,

    /// Name of the Node that the agent runs on, from the pod's spec.nodeName; its zone is read from that Node. [default: unknown]
    #[arg(long, value_name = "NAME", env = "INGRESS_AGENT_NODE_NAME", value_parser = not_empty)]
    node_name: Option<String>,

    /// Zone that the agent is in, for Services that prefer endpoints of the same zone. [default: that of its Node]
    #[arg(long, value_name = "ZONE", env = "INGRESS_AGENT_ZONE", value_parser = not_empty)]
    zone: Option<String>,

    /// Name of the agent's own pod. [default: unknown]
    #[arg(long, value_name = "NAME", env = "INGRESS_AGENT_POD_NAME", value_parser = not_empty)]
    pod_name: Option<String>,

    /// Namespace of the agent's own pod. [default: unknown]
    #[arg(long, value_name = "NAMESPACE", env = "INGRESS_AGENT_POD_NAMESPACE", value_parser = not_empty)]
    pod_namespace: Option<String>,

    /// Folder on the node where the last state of the cluster is kept: an agent that starts while the API server is away serves from it. [default: none is kept]
    #[arg(long, value_name = "DIR", env = "INGRESS_AGENT_STATE_DIR")]
    state_dir: Option<PathBuf>,

    /// Folder for the Secrets of that state. It has to be on a tmpfs, or none are kept.
    #[arg(
        long,
        value_name = "DIR",
        env = "INGRESS_AGENT_STATE_SECRETS_DIR",
        default_value = "/run/ingress-agent/secrets"
    )]
    state_secrets_dir: PathBuf,
}

/// What is written back.
#[derive(Debug, Args)]
#[command(next_help_heading = "Status of Ingresses")]
pub(super) struct Status {
    /// IP address or host name for the status of all our Ingresses, such as that of a load balancer in front. Repeatable. [default: those of the nodes whose agents are ready, when agent-service is set]
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "INGRESS_AGENT_PUBLISH_ADDRESS",
        value_delimiter = ',',
        conflicts_with = "publish_service"
    )]
    publish_address: Vec<Address>,

    /// Service (NAMESPACE/NAME, often of type LoadBalancer) whose own addresses are copied into the status of all our Ingresses. [default: none]
    #[arg(long, value_name = "SERVICE", env = "INGRESS_AGENT_PUBLISH_SERVICE")]
    publish_service: Option<ObjectName>,

    /// Headless Service over the agents themselves (NAMESPACE/NAME): its EndpointSlices tell which nodes' agents are ready. It also keeps all but three
    /// agents out of the election of the one that writes. [default: none]
    #[arg(long, value_name = "SERVICE", env = "INGRESS_AGENT_AGENT_SERVICE")]
    agent_service: Option<ObjectName>,

    /// Which address of a node is published: internal (InternalIP, needs no right on Nodes) or external (ExternalIP).
    #[arg(
        long,
        value_name = "TYPE",
        env = "INGRESS_AGENT_PUBLISH_NODE_ADDRESS",
        default_value = "internal"
    )]
    publish_node_address: NodeAddress,
}

impl Status {
    fn resolve(self) -> Publish {
        let from = match (self.publish_service, &self.agent_service) {
            _ if !self.publish_address.is_empty() => PublishFrom::Fixed(self.publish_address),
            (Some(service), _) => PublishFrom::Service(service),
            (None, Some(agents)) => PublishFrom::Agents(agents.clone()),
            (None, None) => PublishFrom::Nothing,
        };
        Publish {
            from,
            node_address: self.publish_node_address,
            agent_service: self.agent_service,
        }
    }
}

impl Input {
    pub(super) fn place(&self) -> Place {
        Place {
            node: self.node_name.clone(),
            zone: self.zone.clone(),
        }
    }

    /// `in_pod`: the environment names an API server, as it does in every pod.
    pub(super) fn resolve(self, status: Status, in_pod: bool) -> Result<Source, ConfigError> {
        if let Some(manifests) = self.manifests {
            return Ok(Source::Manifests(manifests));
        }
        if self.kubeconfig.is_none() && !in_pod {
            return Err(ConfigError::Contradiction(
                "there is no source of objects: expected --manifests DIR (a folder of Kubernetes manifests; also INGRESS_AGENT_MANIFESTS or the key manifests of the file), or a cluster: --kubeconfig FILE, or to run in a pod with a service account (KUBERNETES_SERVICE_HOST is not set)".into(),
            ));
        }
        Ok(Source::Cluster(Box::new(Cluster {
            kubeconfig: self.kubeconfig,
            context: self.context,
            namespaces: self.watch_namespaces,
            ingress_selector: self.ingress_selector,
            secrets: self.secrets,
            node_name: self.node_name,
            pod_name: self.pod_name,
            pod_namespace: self.pod_namespace,
            state_dir: self.state_dir,
            state_secrets_dir: self.state_secrets_dir,
            publish: status.resolve(),
        })))
    }
}
