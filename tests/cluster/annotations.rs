//! What Ingresses say by annotation, and the protocols: applied to the real API server, where the chart's admission policy judges them
//! too, and asked of an agent that knows them from there, in front of real pods.
//!
//! Each family is in the table once; tests/it has all its corners, from a folder.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context;
use http::Method;
use ingress_tests::{Answer, Certs, Echo, Namespace, Request, TestAgent};

use crate::Done;
use crate::deploy::Release;
use crate::lab::wait_until;

/// One Ingress, on a host of its own.
struct Case {
    /// Of the Ingress, and the first label of its host.
    name: &'static str,
    annotations: &'static [(&'static str, &'static str)],
    backend: &'static str,
    shown: fn(&Asking<'_>) -> Done,
}

/// Its path; all others have `/`.
const REWRITTEN: &str = "/api(/|$)(.*)";

const CASES: &[Case] = &[
    case(
        "permanent",
        &[("permanent-redirect", "https://new.test/there")],
        |asking| led(&asking.get("/")?, 301, "https://new.test/there"),
    ),
    case(
        "temporal",
        &[("temporal-redirect", "https://away.test$request_uri")],
        |asking| led(&asking.get("/x?y=1")?, 302, "https://away.test/x?y=1"),
    ),
    case("forced", &[("force-ssl-redirect", "true")], |asking| {
        led(&asking.get("/x")?, 308, &asking.secure("/x"))
    }),
    case("root", &[("app-root", "/app")], |asking| {
        let answer = asking.get("/")?;
        assert_eq!((answer.status, answer.header("location")), (302, "/app"));
        is_from(&asking.get("/app")?, "web")
    }),
    case(
        "rewrite",
        &[("use-regex", "true"), ("rewrite-target", "/$2")],
        |asking| {
            let seen = asking.get("/api/users/7?x=1")?.seen();
            assert_eq!(
                (seen["path"].as_str(), seen["query"].as_str()),
                (Some("/users/7"), Some("x=1"))
            );
            Ok(())
        },
    ),
    case("body", &[("proxy-body-size", "1k")], |asking| {
        is_from(
            &asking.ask(asking.request("/")?.method(Method::POST).body("a".repeat(1024)))?,
            "web",
        )?;
        is_from(
            &asking.ask(asking.request("/")?.method(Method::POST).body("a".repeat(1025)))?,
            "413 body_too_large",
        )
    }),
    case("slow", &[("proxy-read-timeout", "1")], |asking| {
        is_from(&asking.get("/?delay=1")?, "web")?;
        is_from(&asking.get("/?delay=60000")?, "504 response_timeout")
    }),
    case(
        "vhost",
        &[("upstream-vhost", "inner.test"), ("x-forwarded-prefix", "/shop")],
        |asking| {
            let seen = asking.get("/")?.seen();
            assert_eq!(
                (&seen["host"], &seen["headers"]["x-forwarded-prefix"][0]),
                (&"inner.test".into(), &"/shop".into())
            );
            Ok(())
        },
    ),
    case("headers", &[("custom-headers", "headers")], |asking| {
        assert_eq!(asking.get("/")?.header("x-team"), "shop");
        Ok(())
    }),
    case("alias", &[("server-alias", "alias.test")], |asking| {
        let request = Request::get("http://alias.test/")?;
        is_from(&request.ask(asking.agent.http)?, "web")
    }),
    case(
        "allowed",
        &[("allowlist-source-range", "127.0.0.0/8, ::1/128")],
        |asking| is_from(&asking.get("/")?, "web"),
    ),
    case(
        "elsewhere",
        &[("allowlist-source-range", "192.0.2.0/24")],
        |asking| is_from(&asking.get("/")?, "403 denied"),
    ),
    case(
        "denied",
        &[("denylist-source-range", "127.0.0.0/8, ::1/128")],
        |asking| is_from(&asking.get("/")?, "403 denied"),
    ),
    case(
        "cors",
        &[
            ("enable-cors", "true"),
            ("cors-allow-origin", "https://app.test"),
            ("cors-allow-methods", "GET, PUT"),
        ],
        |asking| {
            let preflight = asking
                .request("/")?
                .method(Method::OPTIONS)
                .header("origin", "https://app.test")?;
            let answer = asking.ask(preflight.header("access-control-request-method", "PUT")?)?;
            assert_eq!((answer.status, answer.reason()), (204, "cors_preflight"));
            assert_eq!(answer.header("access-control-allow-methods"), "GET, PUT");
            let simple = asking.ask(asking.request("/")?.header("origin", "https://app.test")?)?;
            assert_eq!(simple.header("access-control-allow-origin"), "https://app.test");
            is_from(&simple, "web")
        },
    ),
    Case {
        backend: "both",
        ..case(
            "sticky",
            &[("affinity", "cookie"), ("session-cookie-name", "route")],
            |asking| {
                let first = asking.get("/")?;
                let cookie = first.header("set-cookie").split(';').next().unwrap_or_default();
                assert!(cookie.starts_with("route="), "{first:?}");
                for _ in 0..20 {
                    is_from(
                        &asking.ask(asking.request("/")?.header("cookie", cookie)?)?,
                        first.backend(),
                    )?;
                }
                Ok(())
            },
        )
    },
    case("h2c", &[("backend-protocol", "H2C")], |asking| {
        assert_eq!(asking.get("/")?.seen()["protocol"], "HTTP/2.0");
        Ok(())
    }),
    case("grpc", &[("backend-protocol", "GRPC")], |asking| {
        grpc(asking, "http")
    }),
    Case {
        backend: "secure",
        ..case("tls", &[("backend-protocol", "HTTPS")], |asking| {
            is_from(&asking.get("/")?, "secure")
        })
    },
    // Each is the main one of a canary in the other table.
    case("by-header", &[], |asking| {
        for (value, backend) in [("always", "canary"), ("never", "web")] {
            is_from(
                &asking.ask(asking.request("/")?.header("x-canary", value)?)?,
                backend,
            )?;
        }
        is_from(&asking.get("/")?, "web")
    }),
    case("by-value", &[], |asking| {
        for (value, backend) in [("beta", "canary"), ("always", "web")] {
            is_from(
                &asking.ask(asking.request("/")?.header("x-canary", value)?)?,
                backend,
            )?;
        }
        Ok(())
    }),
    case("by-cookie", &[], |asking| {
        for (value, backend) in [("try=always", "canary"), ("try=never", "web")] {
            is_from(
                &asking.ask(asking.request("/")?.header("cookie", value)?)?,
                backend,
            )?;
        }
        Ok(())
    }),
    case("by-weight", &[], |asking| {
        let mut taken = 0;
        for _ in 0..400 {
            taken += usize::from(asking.get("/")?.backend() == "canary");
        }
        // Five standard deviations around the mean of 100.
        assert!((57..=143).contains(&taken), "{taken} of 400");
        Ok(())
    }),
    Case {
        annotations: &[("backend-protocol", "GRPC"), ("ssl-redirect", "false")],
        ..case("secured-grpc", &[], |asking| grpc(asking, "https"))
    },
    case("secured", &[], |asking| {
        led(&asking.get("/")?, 308, &asking.secure("/"))?;
        let answer = asking.at("https", "/")?.h2().ask(asking.agent.https)?;
        assert_eq!((answer.version, answer.backend()), (http::Version::HTTP_2, "web"));
        assert_eq!(answer.certificate_names, std::slice::from_ref(&asking.host));
        Ok(())
    }),
    case("websocket", &[], |asking| {
        let echoed = asking
            .at("http", "/")?
            .ask_websocket(asking.agent.http, "hello")?;
        assert_eq!(echoed, "hello");
        Ok(())
    }),
    case("secured-websocket", &[], |asking| {
        let echoed = asking
            .at("https", "/")?
            .ask_websocket(asking.agent.https, "hello")?;
        assert_eq!(echoed, "hello");
        Ok(())
    }),
];

/// Beside the main Ingress of this name, to the Service `canary`.
const CANARIES: &[(&str, &[(&str, &str)])] = &[
    ("by-header", &[("canary-by-header", "X-Canary")]),
    (
        "by-value",
        &[
            ("canary-by-header", "X-Canary"),
            ("canary-by-header-value", "beta"),
        ],
    ),
    ("by-cookie", &[("canary-by-cookie", "try")]),
    ("by-weight", &[("canary-weight", "25")]),
];

const fn case(
    name: &'static str,
    annotations: &'static [(&'static str, &'static str)],
    shown: fn(&Asking<'_>) -> Done,
) -> Case {
    Case {
        name,
        annotations,
        backend: "web",
        shown,
    }
}

/// The agent, and the host of the case.
struct Asking<'a> {
    agent: &'a TestAgent,
    authority: &'a str,
    host: String,
}

impl Asking<'_> {
    fn at(&self, scheme: &str, path: &str) -> anyhow::Result<Request> {
        Ok(Request::get(&format!("{scheme}://{}{path}", self.host))?.trusting(self.authority))
    }

    /// Where plain HTTP is sent to: the agent's port is not 443 here.
    fn secure(&self, path: &str) -> String {
        format!("https://{}:{}{path}", self.host, self.agent.https.port())
    }

    fn request(&self, path: &str) -> anyhow::Result<Request> {
        self.at("http", path)
    }

    fn ask(&self, request: Request) -> anyhow::Result<Answer> {
        request.ask(self.agent.http)
    }

    fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.ask(self.request(path)?)
    }
}

fn led(answer: &Answer, status: u16, location: &str) -> Done {
    assert_eq!(
        (answer.status, answer.header("location")),
        (status, location),
        "{answer:?}"
    );
    Ok(())
}

fn is_from(answer: &Answer, backend: &str) -> Done {
    assert_eq!(answer.served_by(), backend, "{answer:?}");
    Ok(())
}

/// A unary call as it is on the wire: a message of five bytes before and four of text, the status in trailers.
fn grpc(asking: &Asking<'_>, scheme: &str) -> Done {
    let message = b"\0\0\0\0\x04word".as_slice();
    let call = asking
        .at(scheme, "/shop.Cart/Add")?
        .method(Method::POST)
        .body(message)
        .h2();
    let call = call
        .header("content-type", "application/grpc+proto")?
        .header("te", "trailers")?;
    let address = if scheme == "https" {
        asking.agent.https
    } else {
        asking.agent.http
    };
    let answer = call.ask(address)?;
    assert_eq!((answer.status, answer.backend()), (200, "web"), "{answer:?}");
    assert_eq!(
        (&answer.body[..], answer.trailers["grpc-status"].as_bytes()),
        (message, b"0".as_slice())
    );
    Ok(())
}

#[test]
fn what_ingresses_say_by_annotation_and_every_protocol_hold_through_the_api_server() -> Done {
    let cluster = crate::cluster()?;
    let release = Release::new(cluster, "annotations")?;
    release.apply("install", &["admissionPolicy.enabled=true"])?;
    let (namespace, certs) = (&release.namespace, Certs::new()?);
    policy_is_in_force(&release)?;

    let (web, other, canary) = (
        namespace.pod("web")?,
        namespace.pod("other")?,
        namespace.pod("canary")?,
    );
    namespace.service("web", &[&web])?;
    namespace.service("both", &[&web, &other])?;
    namespace.service("canary", &[&canary])?;
    let secure = secure_service(namespace, &certs)?;
    namespace.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: headers}\ndata: {X-Team: shop}\n")?;
    let host = |name: &str| format!("{name}.{}.test", namespace.name());
    let ingress = |name: &str, annotations: &[(&str, &str)]| {
        let ingress = namespace.ingress(name).class(&release.class);
        annotations
            .iter()
            .fold(ingress, |ingress, (name, value)| ingress.annotation(name, value))
    };
    let mut manifests = Vec::new();
    for case in CASES {
        let (host, mut ingress) = (host(case.name), ingress(case.name, case.annotations));
        if case.name.starts_with("secured") {
            namespace.tls_secret(case.name, &certs.leaf(&[&host])?)?;
            ingress = ingress.tls(&[&host], case.name);
        }
        let rule = ingress.host(&host);
        manifests.push(match case.name {
            "rewrite" => rule.implementation_specific(REWRITTEN, case.backend).yaml(),
            _ => rule.prefix("/", case.backend).yaml(),
        });
    }
    for (main, annotations) in CANARIES {
        let canary = ingress(&format!("{main}-canary"), annotations).annotation("canary", "true");
        manifests.push(canary.host(&host(main)).prefix("/", "canary").yaml());
    }
    cluster.apply(&manifests.join("\n---\n"))?;

    let flags = [
        "--watch-namespaces",
        namespace.name(),
        "--controllers",
        &release.controller,
    ];
    // Its first state has everything that was there: it is ready when that is in force.
    let agent = TestAgent::start_in_cluster(cluster.kubeconfig(), &flags)?;
    let authority = certs.authority_pem();
    for case in CASES {
        let asking = Asking {
            agent: &agent,
            authority: &authority,
            host: host(case.name),
        };
        println!("{}", case.name);
        (case.shown)(&asking).context(case.name)?;
    }
    assert!(secure.requests() > 0);
    let told = agent.diagnostics()?;
    assert!(told.is_empty(), "nothing is wrong with them: {told:#?}");
    release.helm(&["uninstall", "ingress-agent"]).map(drop)
}

/// A backend that speaks TLS alone, at this machine's end of the pods' network; named `secure`.
fn secure_service(namespace: &Namespace<'_>, certs: &Certs) -> anyhow::Result<Echo> {
    let (_, number) = namespace
        .cluster()
        .facts()
        .pods
        .context("a network of pods: root")?;
    let place = SocketAddr::from((Ipv4Addr::new(198, 18, number, 1), 0));
    let echo = Echo::start_tls_on("secure", place, &certs.leaf(&["secure.test"])?)?;
    namespace.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: secure}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: secure-1\n  \
         labels: {{kubernetes.io/service-name: secure, endpointslice.kubernetes.io/managed-by: ingress-agent-tests}}\n\
         addressType: IPv4\nports: [{{name: http, port: {}}}]\nendpoints: [{{addresses: [{}]}}]\n",
        echo.address().port(),
        echo.address().ip()
    ))?;
    Ok(echo)
}

/// It takes the API server a moment to learn a policy.
fn policy_is_in_force(release: &Release<'_>) -> Done {
    let namespace = &release.namespace;
    let snippet = namespace
        .ingress("refused")
        .class(&release.class)
        .annotation("configuration-snippet", "x")
        .host("refused.test")
        .prefix("/", "web");
    wait_until("a refusal", || {
        let words = ["create", "--dry-run=server", "-f", "-"];
        Ok(namespace.cluster().kubectl(&words, &snippet.yaml()).is_err())
    })
}
