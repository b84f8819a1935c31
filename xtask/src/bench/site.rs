//! One generated site, written three times: as manifests, for nginx and for HAProxy.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::bail;
use tempfile::TempDir;

use crate::certificates::Authority;

const PATHS: [&str; 3] = ["/", "/api", "/static"];
const HOSTS_IN_A_FILE: usize = 100;

pub(crate) struct Site {
    dir: TempDir,
    clients: u32,
    pub(crate) backend: u16,
    pub(crate) nginx: Ports,
    pub(crate) haproxy: Ports,
    pub(crate) agent: Ports,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    pub(crate) http: u16,
    pub(crate) https: u16,
    pub(crate) admin: u16,
}

impl Site {
    pub(crate) fn write(hosts: usize) -> anyhow::Result<Self> {
        Self::with_room(hosts, 4000)
    }

    /// `clients`: connections that the peers have to take at the same time; they reserve memory for them.
    pub(crate) fn with_room(hosts: usize, clients: u32) -> anyhow::Result<Self> {
        let [backend, a, b, c, d, e, f, g] = free_ports()?;
        let ports = |http, https, admin| Ports { http, https, admin };
        let site = Self {
            dir: tempfile::Builder::new()
                .prefix("ingress-agent-bench-")
                .tempdir()?,
            clients,
            backend,
            nginx: ports(a, b, 0),
            haproxy: ports(c, d, 0),
            agent: ports(e, f, g),
        };
        let leaf = Authority::new()?.leaf(&["*.bench.test".to_owned()])?;
        site.put("cert.pem", &leaf.certificate)?;
        site.put("key.pem", &leaf.key)?;
        site.put("both.pem", &format!("{}{}", leaf.certificate, leaf.key))?;
        site.put("backend.conf", &site.backend_conf())?;
        site.put("haproxy.conf", &site.haproxy_conf())?;
        site.put_peers(hosts)?;
        std::fs::create_dir(site.path("manifests"))?;
        site.put("manifests/secret.yaml", &leaf.secret("bench", "bench-tls"))?;
        site.put("manifests/service.yaml", &service(backend))?;
        for index in 0..hosts {
            site.put(&format!("manifests/{index}.yaml"), &ingress(index, "bench-tls"))?;
        }
        Ok(site)
    }

    /// The hosts, for nginx and HAProxy; what reloads it finds a host more or less.
    pub(crate) fn put_peers(&self, hosts: usize) -> std::io::Result<()> {
        let nginx = self.nginx_conf(hosts);
        // Only a master can put a new worker beside the old one.
        let with_master = nginx.replacen("master_process off;", "master_process on;", 1);
        self.put("nginx.conf", &nginx)?;
        self.put("nginx-with-master.conf", &with_master)?;
        self.put("routes.map", &routes_map(hosts))
    }

    /// Further hosts, each with a certificate and a key of its own, many to a file; gives the files.
    pub(crate) fn put_with_certificates(&self, hosts: Range<usize>) -> anyhow::Result<Vec<PathBuf>> {
        let authority = Authority::new()?;
        let mut files = Vec::new();
        for first in hosts.clone().step_by(HOSTS_IN_A_FILE) {
            let mut text = String::new();
            for index in first..hosts.end.min(first + HOSTS_IN_A_FILE) {
                let name = format!("tls-{index}");
                let secret = authority.leaf(&[host(index)])?.secret("bench", &name);
                let _ = write!(text, "---\n{secret}---\n{}", ingress(index, &name));
            }
            let file = self.path(&format!("manifests/with-certificates-{first}.yaml"));
            std::fs::write(&file, text)?;
            files.push(file);
        }
        Ok(files)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn put(&self, name: &str, text: &str) -> std::io::Result<()> {
        std::fs::write(self.path(name), text)
    }

    fn backend_conf(&self) -> String {
        let dir = self.dir.path();
        nginx_frame(
            dir,
            &format!(
                "keepalive_requests 100000000;\nserver {{ listen 127.0.0.1:{} backlog=4096; \
                 location / {{ default_type text/plain; return 200 \"hello from the backend\\n\"; }} }}",
                self.backend
            ),
            ("backend", self.clients),
        )
    }

    fn nginx_conf(&self, hosts: usize) -> String {
        let dir = self.dir.path();
        let Ports { http, https, .. } = self.nginx;
        let listen = format!("listen 127.0.0.1:{http}; listen 127.0.0.1:{https} ssl http2;");
        let mut text = format!(
            "keepalive_requests 100000000;\n\
             server_names_hash_max_size 65536; server_names_hash_bucket_size 128;\n\
             ssl_certificate {0}/cert.pem; ssl_certificate_key {0}/key.pem; ssl_protocols TLSv1.2 TLSv1.3;\n\
             ssl_session_cache shared:s:10m;\n\
             proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $http_host;\n\
             proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;\n\
             upstream app {{ server 127.0.0.1:{1}; keepalive 256; keepalive_requests 100000000; }}\n\
             server {{ listen 127.0.0.1:{http} default_server backlog=4096; \
             listen 127.0.0.1:{https} ssl http2 default_server backlog=4096; return 404; }}\n",
            dir.display(),
            self.backend
        );
        for index in 0..hosts {
            let locations: String = PATHS
                .iter()
                .map(|path| format!("location {path} {{ proxy_pass http://app; }} "))
                .collect();
            let _ = writeln!(
                text,
                "server {{ {listen} server_name {}; {locations}}}",
                host(index)
            );
        }
        nginx_frame(dir, &text, ("nginx", self.clients))
    }

    fn haproxy_conf(&self) -> String {
        let dir = self.dir.path().display();
        let Ports { http, https, .. } = self.haproxy;
        // It wants two descriptors for each connection or it does not start; idle ones need one.
        format!(
            "global\n  nbthread 1\n  maxconn {0}\n  no strict-limits\n\
             defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  option forwardfor\n  \
             http-reuse always\n\
             frontend in\n  bind 127.0.0.1:{http} backlog 4096\n  \
             bind 127.0.0.1:{https} ssl crt {dir}/both.pem alpn h2,http/1.1 backlog 4096\n  \
             use_backend %[base,lower,map_beg({dir}/routes.map,unmatched)]\n\
             backend unmatched\n  http-request return status 404\n\
             backend app\n  server one 127.0.0.1:{1}\n",
            self.clients, self.backend
        )
    }
}

/// Appears with its whole text at once, as an editor or a sync does it.
pub(crate) fn put_whole(path: &Path, text: &str) -> std::io::Result<()> {
    let aside = path.with_extension("part");
    std::fs::write(&aside, text)?;
    std::fs::rename(&aside, path)
}

pub(crate) fn host(index: usize) -> String {
    format!("h{index}.bench.test")
}

fn nginx_frame(dir: &Path, http: &str, (name, clients): (&str, u32)) -> String {
    // Each takes another one to the backend.
    let connections = clients * 2;
    let dir = dir.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {dir}/{name}-{kind}; "))
        .collect();
    format!(
        "daemon off; master_process off; worker_processes 1; pid {dir}/{name}.pid; error_log stderr error;\n\
         events {{ worker_connections {connections}; }}\nhttp {{ access_log off; {temporary}\n{http}\n}}\n"
    )
}

fn routes_map(hosts: usize) -> String {
    let mut text = String::new();
    for index in 0..hosts {
        for path in PATHS {
            let _ = writeln!(text, "{}{path} app", host(index));
        }
    }
    text
}

pub(crate) fn ingress(index: usize, secret: &str) -> String {
    let host = host(index);
    let paths: String = PATHS
        .iter()
        .map(|path| {
            format!(
                "      - {{path: {path}, pathType: Prefix, backend: {{service: {{name: app, port: {{number: 80}}}}}}}}\n"
            )
        })
        .collect();
    // Without the annotation, plain HTTP would be redirected, because the host has a certificate.
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  namespace: bench\n  name: h{index}\n  annotations:\n    \
         nginx.ingress.kubernetes.io/ssl-redirect: \"false\"\nspec:\n  ingressClassName: ingress-agent\n  \
         tls: [{{hosts: [{host}], secretName: {secret}}}]\n  rules:\n  - host: {host}\n    http:\n      paths:\n{paths}"
    )
}

fn service(backend: u16) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {{name: ingress-agent}}\n\
         spec: {{controller: ingress-agent.io/controller}}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{namespace: bench, name: app}}\n\
         spec: {{ports: [{{name: http, port: 80}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{namespace: bench, name: app-1, labels: {{kubernetes.io/service-name: app}}}}\naddressType: IPv4\n\
         ports: [{{name: http, port: {backend}}}]\nendpoints: [{{addresses: [\"127.0.0.1\"], conditions: {{ready: true}}}}]\n"
    )
}

/// Below what Linux gives to clients: the load's own connections would take a port between its choice and its use. Each is
/// tried once in the life of this process, as a port of another site may be chosen but not yet in use.
fn free_ports<const N: usize>() -> anyhow::Result<[u16; N]> {
    static TRIED: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    // Two benches at the same time begin at different places.
    let begin = u16::try_from(std::process::id() * 101 % u32::from(COUNT))?;
    let mut ports = [0; N];
    for port in &mut ports {
        *port = loop {
            let tried = TRIED.fetch_add(1, Ordering::Relaxed);
            if tried >= COUNT {
                bail!("no free port from {FIRST} on");
            }
            let candidate = FIRST + (begin + tried) % COUNT;
            if TcpListener::bind((Ipv4Addr::LOCALHOST, candidate)).is_ok() {
                break candidate;
            }
        };
    }
    Ok(ports)
}
