//! With which flags the programs of the control plane run. Knows nothing of processes.

use super::control_plane::{Facts, Ports, Program};
use super::pki::Pki;

const SERVICE_RANGE: &str = "10.96.0.0/16";

/// Who asked what is noted of ServiceAccounts, but those of the controllers: what an agent needs is what it asked.
pub(super) const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: None
    userGroups: [\"system:serviceaccounts:kube-system\"]
  - level: Metadata
    userGroups: [\"system:serviceaccounts\"]
";

/// What needs neither nodes nor clouds; each name lacks its `-controller`.
const CONTROLLERS: &[&str] = &[
    "deployment",
    "replicaset",
    "daemonset",
    "statefulset",
    "job",
    "endpoints",
    "endpointslice",
    "endpointslice-mirroring",
    "serviceaccount",
    "serviceaccount-token",
    "namespace",
    "garbage-collector",
    "root-ca-certificate-publisher",
    "clusterrole-aggregation",
    "pod-garbage-collector",
    "ttl-after-finished",
    "disruption",
];

pub(super) fn of(program: Program, facts: &Facts, pki: &Pki, ports: Ports) -> Vec<String> {
    match program {
        Program::Etcd => etcd(facts, ports),
        Program::ApiServer => api_server(facts, pki, ports),
        Program::ControllerManager => controller_manager(facts, pki, ports),
    }
}

fn etcd(facts: &Facts, ports: Ports) -> Vec<String> {
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let (client, peer) = (url(ports.etcd), url(ports.etcd_peer));
    vec![
        format!("--data-dir={}", facts.folder.join("etcd").display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        // The data is thrown away.
        "--unsafe-no-fsync=true".to_owned(),
        "--auto-compaction-retention=5m".to_owned(),
        "--log-level=warn".to_owned(),
    ]
}

fn api_server(facts: &Facts, pki: &Pki, ports: Ports) -> Vec<String> {
    let file = |flag: &str, name: &str| format!("--{flag}={}", pki.file(name).display());
    vec![
        format!("--etcd-servers=http://127.0.0.1:{}", ports.etcd),
        format!("--feature-gates=WatchList={}", facts.streams_lists),
        "--bind-address=127.0.0.1".to_owned(),
        // Not loopback, which it refuses; nobody goes there, as no endpoint of the API server itself is kept.
        "--advertise-address=192.0.2.1".to_owned(),
        "--endpoint-reconciler-type=none".to_owned(),
        format!("--secure-port={}", ports.api),
        format!("--service-cluster-ip-range={SERVICE_RANGE}"),
        file("tls-cert-file", "kube-apiserver.crt"),
        file("tls-private-key-file", "kube-apiserver.key"),
        file("client-ca-file", "ca.crt"),
        "--authorization-mode=Node,RBAC".to_owned(),
        file("service-account-key-file", "service-accounts.pub"),
        file("service-account-signing-key-file", "service-accounts.key"),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        file("requestheader-client-ca-file", "ca.crt"),
        "--requestheader-allowed-names=front-proxy-client".to_owned(),
        "--requestheader-username-headers=X-Remote-User".to_owned(),
        "--requestheader-group-headers=X-Remote-Group".to_owned(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
        file("proxy-client-cert-file", "front-proxy-client.crt"),
        file("proxy-client-key-file", "front-proxy-client.key"),
        "--allow-privileged=true".to_owned(),
        format!("--audit-policy-file={}", facts.audit_policy().display()),
        format!("--audit-log-path={}", facts.audit_log().display()),
    ]
}

fn controller_manager(facts: &Facts, pki: &Pki, ports: Ports) -> Vec<String> {
    let config = facts.folder.join("controllers.kubeconfig");
    let config = config.display();
    let names: Vec<_> = CONTROLLERS
        .iter()
        .map(|name| format!("{name}-controller"))
        .collect();
    vec![
        format!("--kubeconfig={config}"),
        format!("--authentication-kubeconfig={config}"),
        format!("--authorization-kubeconfig={config}"),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--secure-port={}", ports.controllers),
        format!(
            "--service-account-private-key-file={}",
            pki.file("service-accounts.key").display()
        ),
        format!("--root-ca-file={}", pki.file("ca.crt").display()),
        "--use-service-account-credentials=true".to_owned(),
        "--leader-elect=false".to_owned(),
        // The default of 20 a second makes Deployments slow.
        "--kube-api-qps=200".to_owned(),
        "--kube-api-burst=400".to_owned(),
        format!("--controllers={}", names.join(",")),
    ]
}
