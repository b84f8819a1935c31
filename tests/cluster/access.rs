//! A ServiceAccount with the rights that docs/cluster.md names, in its own namespace alone, to be taken away and given back.

use std::path::Path;

use ingress_tests::Namespace;
use serde_json::{Value, json};

use crate::Done;

/// What the agent may do in its namespace; the ClusterRole for IngressClasses is apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Right {
    Ingresses,
    Services,
    EndpointSlices,
    Secrets,
    ConfigMaps,
    Leases,
    Statuses,
    Events,
}

impl Right {
    const ALL: [Self; 8] = [
        Self::Ingresses,
        Self::Services,
        Self::EndpointSlices,
        Self::Secrets,
        Self::ConfigMaps,
        Self::Leases,
        Self::Statuses,
        Self::Events,
    ];

    fn rule(self) -> Value {
        const READ: &[&str] = &["get", "list", "watch"];
        let (group, resource, verbs) = match self {
            Self::Ingresses => ("networking.k8s.io", "ingresses", &READ[1..]),
            Self::Services => ("", "services", &READ[1..]),
            Self::EndpointSlices => ("discovery.k8s.io", "endpointslices", &READ[1..]),
            Self::Secrets => ("", "secrets", READ),
            Self::ConfigMaps => ("", "configmaps", READ),
            Self::Leases => ("coordination.k8s.io", "leases", &["get", "create", "update"][..]),
            Self::Statuses => ("networking.k8s.io", "ingresses/status", &["patch"][..]),
            Self::Events => ("events.k8s.io", "events", &["create"][..]),
        };
        json!({"apiGroups": [group], "resources": [resource], "verbs": verbs})
    }
}

/// The ServiceAccount `agent`; what it has outside of its namespace goes when it is dropped.
pub(crate) struct Account<'n> {
    namespace: &'n Namespace<'n>,
}

impl<'n> Account<'n> {
    pub(crate) fn create(namespace: &'n Namespace<'n>) -> anyhow::Result<Self> {
        let created = Self { namespace };
        let name = namespace.name();
        let subject = json!([{"kind": "ServiceAccount", "name": "agent", "namespace": name}]);
        let role = |kind: &str, name: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name});
        let rbac = "rbac.authorization.k8s.io/v1";
        let classes = json!([
            {"apiGroups": ["networking.k8s.io"], "resources": ["ingressclasses"], "verbs": ["list", "watch"]},
            {"apiGroups": [""], "resources": ["namespaces"], "resourceNames": [name], "verbs": ["list", "watch"]},
        ]);
        let wide = [
            json!({"apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": name}, "rules": classes}),
            json!({"apiVersion": rbac, "kind": "ClusterRoleBinding", "metadata": {"name": name},
                "roleRef": role("ClusterRole", name), "subjects": subject}),
        ];
        namespace.cluster().apply(&documents(&wide))?;
        let own = [
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "agent"}}),
            json!({"apiVersion": rbac, "kind": "RoleBinding", "metadata": {"name": "agent"},
                "roleRef": role("Role", "agent"), "subjects": subject}),
        ];
        namespace.apply(&documents(&own))?;
        created.allow_all_but(&[])?;
        Ok(created)
    }

    /// From now on, for whatever is asked anew.
    pub(crate) fn allow_all_but(&self, taken: &[Right]) -> Done {
        let left = Right::ALL.into_iter().filter(|right| !taken.contains(right));
        let rules: Vec<_> = left.map(Right::rule).collect();
        let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "agent"}, "rules": rules});
        self.namespace.apply(&role.to_string())
    }

    /// Of what lies outside of its namespace, IngressClasses alone stay.
    pub(crate) fn forget_namespaces(&self) -> Done {
        let patch = r#"[{"op": "remove", "path": "/rules/1"}]"#;
        let name = self.namespace.name();
        let arguments = ["patch", "clusterrole", name, "--type=json", "-p", patch];
        self.namespace.cluster().kubectl(&arguments, "").map(drop)
    }

    /// A token that is good as long as the Secret of this name is there: the API server asks for it.
    pub(crate) fn write_token(&self, bound_to: &str, path: &Path) -> Done {
        let secret =
            json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": {"name": bound_to}});
        self.namespace.apply(&secret.to_string())?;
        let arguments = ["create", "token", "agent", "-n", self.namespace.name()];
        let bound = ["--bound-object-kind", "Secret", "--bound-object-name", bound_to];
        let token = self
            .namespace
            .cluster()
            .kubectl(&[&arguments[..], &bound].concat(), "")?;
        // In one step, as the kubelet does it.
        let beside = path.with_extension("new");
        std::fs::write(&beside, token.trim())?;
        std::fs::rename(beside, path)?;
        Ok(())
    }

    /// A kubeconfig straight to the API server, in a folder of the agent's.
    pub(crate) fn write_kubeconfig(&self, folder: &Path) -> anyhow::Result<std::path::PathBuf> {
        let (token, path) = (folder.join("token"), folder.join("kubeconfig"));
        self.write_token("direct", &token)?;
        let original = std::fs::read_to_string(self.namespace.cluster().kubeconfig())?;
        let mut config: Value = serde_json::from_str(&original)?;
        config["users"][0]["user"] = json!({"tokenFile": token});
        std::fs::write(&path, config.to_string())?;
        Ok(path)
    }

    /// The tokens that are bound to this Secret are refused from now on.
    pub(crate) fn expire(&self, bound_to: &str) -> Done {
        self.namespace.delete("secret", bound_to)
    }
}

impl Drop for Account<'_> {
    fn drop(&mut self) {
        for kind in ["clusterrolebinding", "clusterrole"] {
            let arguments = ["delete", kind, self.namespace.name(), "--wait=false"];
            // The cluster ends soon anyway.
            let _ = self.namespace.cluster().kubectl(&arguments, "");
        }
    }
}

fn documents(all: &[Value]) -> String {
    let texts: Vec<_> = all.iter().map(Value::to_string).collect();
    texts.join("\n---\n")
}
