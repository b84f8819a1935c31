//! A certificate by ACME's HTTP-01 (RFC 8555, 8.3) as cert-manager goes about it, in the objects that its solver makes.
//!
//! Of cert-manager 1.18 and later (`pkg/issuer/acme/http`): names by `generateName`, the class by field (`ingressClassName` of the
//! Issuer) or by annotation (`class`), the path `Exact` or, with the feature gate ACMEHTTP01IngressPathTypeExact off and before 1.18,
//! `ImplementationSpecific`; or the path is added to an Ingress that is there (`name`). Its Challenge does not exist here, so that no
//! owner is named: the garbage collector would take the objects away.

use ingress_tests::{Answer, Certs, Cluster, Namespace, TestAgent};
use serde_json::{Value, json};

use crate::Done;

const TOKEN: &str = "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0";
/// Of the solver's pod.
const PORT: u16 = 8089;

fn path() -> String {
    format!("/.well-known/acme-challenge/{TOKEN}")
}

/// How the Issuer names its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Field,
    Annotation,
}

/// The objects of one challenge; what is on a host beside it is there already.
struct Challenge<'n> {
    namespace: &'n Namespace<'n>,
    host: String,
    service: String,
    ingress: Option<String>,
}

impl<'n> Challenge<'n> {
    /// A Service, and the slice that Kubernetes makes for the solver's pod, which listens at the port of all pods here.
    fn begin(namespace: &'n Namespace<'n>, host: &str) -> anyhow::Result<Self> {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata(json!({"auth.istio.io/8089": "NONE"})),
            "spec": {"type": "NodePort", "selector": labels(),
                "ports": [{"name": "http", "port": PORT, "targetPort": PORT}]},
        });
        let place = format!("/api/v1/namespaces/{}/services", namespace.name());
        Ok(Self {
            service: post(namespace.cluster(), &place, &service)?,
            namespace,
            host: host.to_owned(),
            ingress: None,
        })
    }

    fn backend(&self) -> Value {
        json!({"service": {"name": self.service, "port": {"number": PORT}}})
    }

    fn add_ingress(&mut self, class: Class, path_type: &str) -> Done {
        let mut annotations = json!({"nginx.ingress.kubernetes.io/whitelist-source-range": "0.0.0.0/0,::/0"});
        let paths = json!([{"path": path(), "pathType": path_type, "backend": self.backend()}]);
        let mut spec = json!({"rules": [{"host": self.host, "http": {"paths": paths}}]});
        match class {
            Class::Field => spec["ingressClassName"] = json!(self.namespace.name()),
            Class::Annotation => annotations["kubernetes.io/ingress.class"] = json!(self.namespace.name()),
        }
        let ingress = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "metadata": metadata(annotations), "spec": spec});
        let place = format!(
            "/apis/networking.k8s.io/v1/namespaces/{}/ingresses",
            self.namespace.name()
        );
        self.ingress = Some(post(self.namespace.cluster(), &place, &ingress)?);
        Ok(())
    }

    fn end(self) -> Done {
        if let Some(ingress) = &self.ingress {
            self.namespace.delete("ingress", ingress)?;
        }
        self.namespace.delete("service", &self.service)?;
        self.namespace
            .delete("endpointslice", &format!("{}-1", self.service))
    }
}

/// Hashes of host and token in the original.
fn labels() -> Value {
    json!({"acme.cert-manager.io/http-domain": "1034261183", "acme.cert-manager.io/http-token": "2883719426",
        "acme.cert-manager.io/http01-solver": "true"})
}

fn metadata(annotations: Value) -> Value {
    json!({"generateName": "cm-acme-http-solver-", "labels": labels(), "annotations": annotations})
}

/// Creates an object; the name that it got.
fn post(cluster: &Cluster, place: &str, object: &Value) -> anyhow::Result<String> {
    let answer = cluster.api().post(place, &object.to_string())?;
    anyhow::ensure!(answer.status == 201, "{answer:?}");
    Ok(answer.body["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned())
}

/// The site of a case: redirects to HTTPS, for which there is no certificate yet.
fn site(namespace: &Namespace<'_>, host: &str) -> ingress_tests::Ingress {
    namespace
        .ingress("web")
        .annotation("cert-manager.io/cluster-issuer", "letsencrypt")
        .annotation("force-ssl-redirect", "true")
        .tls(&[host], "web-tls")
        .host(host)
        .prefix("/", "web")
}

fn is_signed_by(name: &'static str) -> impl Fn(&Answer) -> bool {
    move |answer| answer.backend() == "web" && answer.certificate_names.iter().any(|found| found == name)
}

/// The whole of it, twice; `begin` adds the path to an Ingress, and `end` takes away what ends not with the challenge.
fn issue(
    name: &str,
    begin: impl Fn(&mut Challenge<'_>) -> Done,
    end: impl Fn(&Namespace<'_>, &str) -> Done,
) -> Done {
    let cluster = crate::cluster()?;
    let namespace = cluster.namespace(name)?;
    let agent = TestAgent::start_in_cluster(cluster.kubeconfig(), &["--watch-namespaces", namespace.name()])?;
    let (host, certs) = (format!("web.{}.test", namespace.name()), Certs::new()?);
    let (web, solver) = (namespace.pod("web")?, namespace.pod("solver")?);
    namespace.service("web", &[&web])?;
    namespace.apply_ingress(&site(&namespace, &host))?;
    let (plain, secure) = (format!("http://{host}/"), format!("https://{host}/"));
    agent.get_until(&plain, |answer| answer.status == 308)?;
    let object = format!("Ingress {}/web", namespace.name());
    agent.diagnostic(&object, "SecretNotFound")?;

    let challenged = format!("http://{host}{}", path());
    // First the one for the certificate, later the one for its renewal.
    for generation in ["first.test", "second.test"] {
        let mut challenge = Challenge::begin(&namespace, &host)?;
        begin(&mut challenge)?;
        // cert-manager asks by itself before it lets the authority ask; the pod may not be ready by then.
        agent.get_until(&challenged, |answer| answer.status == 503)?;
        namespace.endpoints(&challenge.service, &[&solver])?;
        agent.get_until(&challenged, |answer| {
            answer.status == 200 && answer.backend() == "solver"
        })?;
        assert_eq!(agent.get(&plain)?.status, 308, "the site goes on redirecting");
        let about_it = |(object, ..): &(String, String, String)| object.contains("cm-acme-http-solver");
        let told = agent.diagnostics()?;
        assert!(!told.iter().any(about_it), "{told:?}");

        end(&namespace, &host)?;
        challenge.end()?;
        agent.get_until(&challenged, |answer| answer.backend() != "solver")?;
        let certificate = certs.leaf(&[&host, generation])?;
        namespace.tls_secret("web-tls", &certificate)?;
        agent.get_until(&secure, is_signed_by(generation))?;
    }
    Ok(())
}

fn nothing(_: &Namespace<'_>, _: &str) -> Done {
    Ok(())
}

#[test]
fn a_solver_with_a_class_by_field_is_served_on_plain_http_and_its_certificate_at_once() -> Done {
    issue(
        "acme-field",
        |challenge| challenge.add_ingress(Class::Field, "Exact"),
        nothing,
    )
}

#[test]
fn a_solver_with_a_class_by_annotation_is_served_on_plain_http_and_its_certificate_at_once() -> Done {
    let begin =
        |challenge: &mut Challenge<'_>| challenge.add_ingress(Class::Annotation, "ImplementationSpecific");
    issue("acme-annotation", begin, nothing)
}

#[test]
fn a_challenge_in_the_sites_own_ingress_is_served_on_plain_http_and_its_certificate_at_once() -> Done {
    let begin = |challenge: &mut Challenge<'_>| {
        let service = format!("{}:{PORT}", challenge.service);
        let with_it = site(challenge.namespace, &challenge.host).exact(&path(), &service);
        challenge.namespace.apply_ingress(&with_it)
    };
    let end = |namespace: &Namespace<'_>, host: &str| namespace.apply_ingress(&site(namespace, host));
    issue("acme-in-place", begin, end)
}
