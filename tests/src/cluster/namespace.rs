//! What a case has for itself: a namespace, an IngressClass of the same name, and the Services and Ingresses in them.

use std::sync::atomic::{AtomicU32, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Cluster, Pod};
use crate::certs::Leaf;
use crate::manifests::Ingress;

/// Both kinds of name are used once in the life of a cluster: what is deleted may take a while to go.
static USED: AtomicU32 = AtomicU32::new(0);

/// Deleted when dropped, with all that is in it.
#[derive(Debug)]
pub struct Namespace<'c> {
    cluster: &'c Cluster,
    name: String,
}

impl<'c> Namespace<'c> {
    pub(super) fn create(cluster: &'c Cluster, name: &str) -> anyhow::Result<Self> {
        let number = USED.fetch_add(1, Ordering::Relaxed);
        let created = Self {
            cluster,
            name: format!("{name}-{number}"),
        };
        let name = &created.name;
        cluster.apply(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n---\n\
             apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {{name: {name}}}\n\
             spec: {{controller: ingress-agent.io/controller}}\n"
        ))?;
        Ok(created)
    }

    /// Of the namespace and of its IngressClass.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn cluster(&self) -> &'c Cluster {
        self.cluster
    }

    /// An Ingress of this namespace and its class, to be completed and given to [`Self::apply_ingress`].
    pub fn ingress(&self, name: &str) -> Ingress {
        Ingress::new(&format!("{}/{name}", self.name)).class(&self.name)
    }

    pub fn apply_ingress(&self, ingress: &Ingress) -> anyhow::Result<()> {
        self.cluster.apply(&ingress.yaml())
    }

    /// Applies manifests whose objects name no namespace.
    pub fn apply(&self, manifests: &str) -> anyhow::Result<()> {
        let flags = [
            "apply",
            "--server-side",
            "--force-conflicts",
            "-n",
            &self.name,
            "-f",
            "-",
        ];
        self.cluster.kubectl(&flags, manifests).map(drop)
    }

    /// A `kubernetes.io/tls` Secret; replaces the one of the same name.
    pub fn tls_secret(&self, name: &str, leaf: &Leaf) -> anyhow::Result<()> {
        let secret = serde_json::json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": name},
            "data": {"tls.crt": STANDARD.encode(&leaf.certificate), "tls.key": STANDARD.encode(&leaf.key)},
        });
        self.apply(&secret.to_string())
    }

    /// `kubectl delete`, such as `("ingress", "web")`; returns when the object is gone.
    pub fn delete(&self, kind: &str, name: &str) -> anyhow::Result<()> {
        self.cluster
            .kubectl(&["delete", "-n", &self.name, kind, name], "")
            .map(drop)
    }

    /// A Service with port 80 named `http`, without a selector, and a slice with these pods, all ready.
    pub fn service(&self, name: &str, pods: &[&Pod]) -> anyhow::Result<()> {
        self.apply(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{name: http, port: 80, targetPort: http}}]}}\n"
        ))?;
        self.endpoints(name, pods)
    }

    /// Replaces the endpoints of such a Service.
    pub fn endpoints(&self, service: &str, pods: &[&Pod]) -> anyhow::Result<()> {
        let ready = |pod: &&Pod| {
            format!(
                "{{addresses: [{}], conditions: {{ready: true}}}}",
                pod.address().ip()
            )
        };
        let endpoints: Vec<_> = pods.iter().map(ready).collect();
        self.apply(&format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {service}-1\n  \
             labels: {{kubernetes.io/service-name: {service}, endpointslice.kubernetes.io/managed-by: ingress-agent-tests}}\n\
             addressType: IPv4\nports: [{{name: http, port: {}, protocol: TCP}}]\nendpoints: [{}]\n",
            Pod::PORT,
            endpoints.join(", ")
        ))
    }

    /// A server in the pod network that says this name.
    pub fn pod(&self, name: &str) -> anyhow::Result<Pod> {
        Pod::start(self.cluster, name)
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        for kind in ["ingressclass", "namespace"] {
            // The cluster ends soon anyway.
            let _ = self
                .cluster
                .kubectl(&["delete", kind, &self.name, "--wait=false"], "");
        }
    }
}
