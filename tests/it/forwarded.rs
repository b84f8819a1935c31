//! What backends are told of clients, and whom the agent believes.

use ingress_tests::{Certs, Ingress, RawBackend, RawClient, Request, Site};
use serde_json::Value;

use crate::Done;

fn site() -> anyhow::Result<Site> {
    Site::new(&[Ingress::new("web").host("web.test").prefix("/", "web")])
}

fn forged() -> anyhow::Result<Request> {
    Request::get("http://web.test:8080/")?
        .header("x-forwarded-for", "192.0.2.1, 198.51.100.2")?
        .header("x-forwarded-proto", "https")?
        .header("x-forwarded-host", "forged.test")?
        .header("x-forwarded-port", "1")?
        .header("x-real-ip", "192.0.2.9")?
        .header("x-request-id", "given-id")?
        .header("forwarded", "for=192.0.2.1")
}

fn headers(seen: &Value) -> impl Fn(&str) -> Vec<String> {
    let all = seen["headers"].clone();
    move |name| serde_json::from_value(all[name].clone()).unwrap_or_default()
}

#[test]
fn what_an_untrusted_client_says_of_itself_is_replaced() -> Done {
    let site = site()?;
    let agent = site.start()?;
    let seen = agent.ask(forged()?)?.seen();
    let header = headers(&seen);
    assert_eq!(header("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(header("x-forwarded-proto"), ["http"]);
    assert_eq!(header("x-forwarded-host"), ["web.test:8080"]);
    assert_eq!(header("x-forwarded-port"), ["8080"]);
    assert_eq!(header("x-real-ip"), ["127.0.0.1"]);
    assert_eq!(header("forwarded"), [""; 0]);
    let id = header("x-request-id");
    assert!(
        id.len() == 1 && id[0].len() == 32 && id[0] != "given-id",
        "{id:?}"
    );
    Ok(())
}

#[test]
fn what_a_trusted_proxy_says_is_kept_and_continued() -> Done {
    let site = site()?;
    let agent = site.start_with(&["--trusted-proxies", "127.0.0.1/32,198.51.100.0/24"])?;
    let seen = agent.ask(forged()?)?.seen();
    let header = headers(&seen);
    assert_eq!(header("x-forwarded-for"), ["192.0.2.1, 198.51.100.2, 127.0.0.1"]);
    assert_eq!(header("x-forwarded-proto"), ["https"]);
    assert_eq!(header("x-forwarded-host"), ["forged.test"]);
    assert_eq!(
        header("x-real-ip"),
        ["192.0.2.1"],
        "the right-most that is no trusted proxy"
    );
    assert_eq!(header("x-request-id"), ["given-id"]);
    Ok(())
}

#[test]
fn each_request_gets_an_identifier_of_its_own() -> Done {
    let site = site()?;
    let agent = site.start()?;
    let id = || anyhow::Ok(headers(&agent.get("http://web.test/")?.seen())("x-request-id"));
    assert_ne!(id()?, id()?);
    Ok(())
}

#[test]
fn https_is_told_to_the_backend() -> Done {
    let site = site()?;
    let agent = site.start()?;
    let seen = agent.get("https://web.test/")?.seen();
    assert_eq!(headers(&seen)("x-forwarded-proto"), ["https"]);
    Ok(())
}

#[test]
fn a_trusted_proxy_that_ended_tls_is_not_redirected_to_https() -> Done {
    let certs = Certs::new()?;
    let site = Site::new(&[Ingress::new("web")
        .tls(&["web.test"], "tls")
        .host("web.test")
        .prefix("/", "web")])?;
    site.manifests.tls_secret("tls", &certs.leaf(&["web.test"])?)?;
    let agent = site.start_with(&["--trusted-proxies", "127.0.0.0/8"])?;
    let ask = |proto: &str| agent.ask(Request::get("http://web.test/")?.header("x-forwarded-proto", proto)?);
    assert_eq!(ask("https")?.served_by(), "web");
    assert_eq!(ask("http")?.served_by(), "308 redirect_https");
    Ok(())
}

#[test]
fn hop_by_hop_headers_end_here() -> Done {
    let site = site()?;
    let agent = site.start()?;
    let request = Request::get("http://web.test/")?
        .header("connection", "x-private, keep-alive")?
        .header("x-private", "secret")?
        .header("keep-alive", "timeout=5")?
        .header("proxy-connection", "keep-alive")?
        .header("te", "gzip, trailers")?;
    let seen = agent.ask(request)?.seen();
    let header = headers(&seen);
    for gone in ["connection", "x-private", "keep-alive", "proxy-connection"] {
        assert!(header(gone).is_empty(), "{gone}: {:?}", header(gone));
    }
    assert_eq!(header("te"), ["trailers"]);
    Ok(())
}

#[test]
fn the_proxy_protocol_names_the_client_where_its_sender_is_trusted() -> Done {
    let site = site()?;
    let agent = site.start_with(&["--proxy-protocol", "on", "--trusted-proxies", "127.0.0.0/8"])?;
    let request = "GET / HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\n\r\n";
    let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    v2.extend([192, 0, 2, 7, 127, 0, 0, 1, 0x30, 0x39, 0, 80]);
    for header in [b"PROXY TCP4 192.0.2.7 127.0.0.1 12345 80\r\n".to_vec(), v2] {
        let mut client = RawClient::connect(agent.http)?;
        client.send([header, request.into()].concat())?;
        let answer = String::from_utf8(client.read_to_end()?)?;
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"x-real-ip\":[\"192.0.2.7\"]"),
            "{answer}"
        );
    }
    let mut without = RawClient::connect(agent.http)?;
    without.send(request)?;
    assert_eq!(without.read_to_end()?, b"", "never guessed");
    Ok(())
}

#[test]
fn an_answer_names_its_server_and_a_backend_that_names_itself_is_left_its_name() -> Done {
    let named =
        RawBackend::answering("HTTP/1.1 200 OK\r\nServer: itself/1.2\r\nContent-Length: 2\r\n\r\nok")?;
    let site = site()?;
    site.manifests.service("named", &[named.address()])?;
    let ingress = Ingress::new("named").host("named.test").prefix("/", "named");
    site.manifests.ingress(&ingress)?;
    let agent = site.start()?;
    for (url, server) in [
        ("http://web.test/", "ingress-agent"),
        ("http://unknown.test/", "ingress-agent"),
        ("http://named.test/", "itself/1.2"),
    ] {
        assert_eq!(agent.get(url)?.header("server"), server, "{url}");
    }
    let silent = site.start_with(&["--server-header", "false"])?;
    assert_eq!(silent.get("http://web.test/")?.header("server"), "");
    assert_eq!(silent.get("http://named.test/")?.header("server"), "itself/1.2");
    Ok(())
}
