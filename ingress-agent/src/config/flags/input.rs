//! Flags for where objects come from: a folder or a cluster.

use std::path::PathBuf;

use clap::Args;

use super::not_empty;
use crate::config::{Cluster, ConfigError, SecretAccess, Source};

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

    /// Name of the Node that the agent runs on, from the pod's spec.nodeName. [default: unknown]
    #[arg(long, value_name = "NAME", env = "INGRESS_AGENT_NODE_NAME", value_parser = not_empty)]
    node_name: Option<String>,

    /// Name of the agent's own pod. [default: unknown]
    #[arg(long, value_name = "NAME", env = "INGRESS_AGENT_POD_NAME", value_parser = not_empty)]
    pod_name: Option<String>,

    /// Namespace of the agent's own pod. [default: unknown]
    #[arg(long, value_name = "NAMESPACE", env = "INGRESS_AGENT_POD_NAMESPACE", value_parser = not_empty)]
    pod_namespace: Option<String>,
}

impl Input {
    /// `in_pod`: the environment names an API server, as it does in every pod.
    pub(super) fn resolve(self, in_pod: bool) -> Result<Source, ConfigError> {
        if let Some(manifests) = self.manifests {
            return Ok(Source::Manifests(manifests));
        }
        if self.kubeconfig.is_none() && !in_pod {
            return Err(ConfigError::Contradiction(
                "there is no source of objects: expected --manifests DIR (a folder of Kubernetes manifests; also INGRESS_AGENT_MANIFESTS or the key manifests of the file), or a cluster: --kubeconfig FILE, or to run in a pod with a service account (KUBERNETES_SERVICE_HOST is not set)".into(),
            ));
        }
        Ok(Source::Cluster(Cluster {
            kubeconfig: self.kubeconfig,
            context: self.context,
            namespaces: self.watch_namespaces,
            ingress_selector: self.ingress_selector,
            secrets: self.secrets,
            node_name: self.node_name,
            pod_name: self.pod_name,
            pod_namespace: self.pod_namespace,
        }))
    }
}
