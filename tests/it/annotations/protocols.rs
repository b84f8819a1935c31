//! What is spoken to the backend.

use ingress_tests::{Certs, Echo, Request, Site};

use super::annotated;
use crate::Done;

/// A site whose backend speaks TLS, or clear text, and what it says it was asked with.
fn spoken(protocol: &str, tls: bool, request: Request) -> anyhow::Result<ingress_tests::Answer> {
    let site = Site::new(&[annotated(&[("backend-protocol", protocol)])])?;
    let leaf = Certs::new()?.leaf(&["pod.test"])?;
    let echo = if tls {
        Echo::start_tls("pod", &leaf)?
    } else {
        Echo::start("pod")?
    };
    site.manifests.endpoints("web", &[echo.address()])?;
    let agent = site.start()?;
    agent.ask(request)
}

#[test]
fn backend_protocol_says_what_the_backend_is_spoken_to_in() -> Done {
    for (protocol, tls, version) in [
        ("HTTP", false, "HTTP/1.1"),
        ("HTTPS", true, "HTTP/1.1"),
        ("H2C", false, "HTTP/2.0"),
        ("GRPC", false, "HTTP/2.0"),
        ("GRPCS", true, "HTTP/2.0"),
        ("H2", true, "HTTP/2.0"),
    ] {
        let answer = spoken(protocol, tls, Request::post("http://web.test/a?b=1", "body")?)?;
        assert_eq!(answer.served_by(), "pod", "{protocol}");
        let seen = answer.seen();
        assert_eq!(
            (&seen["protocol"], &seen["host"]),
            (&version.into(), &"web.test".into()),
            "{protocol}"
        );
        assert_eq!(
            (&seen["path"], &seen["bodyLength"]),
            (&"/a".into(), &4.into()),
            "{protocol}"
        );
    }
    Ok(())
}

#[test]
fn grpc_passes_with_its_trailers() -> Done {
    for (protocol, tls) in [("GRPC", false), ("GRPCS", true)] {
        let call = Request::post("http://web.test/pkg.Service/Call", "frames")?.h2();
        let call = call
            .header("content-type", "application/grpc")?
            .header("te", "trailers")?;
        let answer = spoken(protocol, tls, call)?;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, "frames"),
            "{protocol}"
        );
        assert_eq!(
            answer.trailers.get("grpc-status").map(|v| v.as_bytes()),
            Some(&b"0"[..]),
            "{protocol}"
        );
    }
    Ok(())
}

#[test]
fn a_backend_that_speaks_no_tls_where_tls_is_wanted_is_502() -> Done {
    let answer = spoken("HTTPS", false, Request::get("http://web.test/")?)?;
    assert_eq!((answer.status, answer.reason()), (502, "upstream_tls"));
    Ok(())
}

#[test]
fn app_protocol_of_the_service_port_decides_where_no_annotation_does() -> Done {
    let echo = Echo::start("pod")?;
    let site = Site::new(&[annotated(&[])])?;
    site.manifests.endpoints("web", &[echo.address()])?;
    site.manifests.write(
        "service-web.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{name: http, port: 80, appProtocol: kubernetes.io/h2c}]}\n",
    )?;
    let agent = site.start()?;
    assert_eq!(agent.get("http://web.test/")?.seen()["protocol"], "HTTP/2.0");
    Ok(())
}
