//! Steered listeners that come and go while the agent runs: a change of the map, and no connection is touched.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ingress_tests::AgentProcess;

use crate::Done;
use crate::agent::{DEADLINE, HOST, Site, ask_on, get, wait};
use crate::namespace::NODE;

fn connect(port: u16) -> anyhow::Result<TcpStream> {
    let address = SocketAddr::new(NODE.parse()?, port);
    let stream = TcpStream::connect_timeout(&address, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    Ok(stream)
}

fn get_at(port: u16) -> anyhow::Result<String> {
    let mut stream = connect(port)?;
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"
    )?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    Ok(response)
}

/// The ports that the agent says it steers.
fn steered(site: &Site, agent: &AgentProcess) -> anyhow::Result<Vec<String>> {
    let status = site.status(agent.pid())?;
    let addresses = status["kernel"]["addresses"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let text = |view: &serde_json::Value| view["address"].as_str().unwrap_or_default().to_owned();
    Ok(addresses.iter().map(text).collect())
}

#[test]
fn a_listener_is_added_and_removed_by_the_map_alone_and_no_request_fails() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("agent.yaml");
    let write = |text: &str| {
        let new = folder.path().join("new.yaml");
        std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &file))
    };
    write("http: ':80'\nhttps: 'off'\n")?;
    let path = file.display().to_string();
    let agent = site.start(&["--kernel", "on", "--config", &path])?;
    let (enough, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| -> Done {
        let load = scope.spawn(|| {
            site.net.client.run(|| {
                while !enough.load(Ordering::Relaxed) {
                    let response = get("10.77.0.1", NODE)?;
                    anyhow::ensure!(response.starts_with("HTTP/1.1 200"), "{response}");
                    asked.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        });
        let changed = (|| -> Done {
            // The agent holds no right any more: port 81 could not be bound.
            assert_eq!(
                site.status(agent.pid())?["kernel"]["rights"]["held"],
                serde_json::json!([])
            );
            write("http: [':80', ':81']\nhttps: '10.77.0.2:443'\n")?;
            wait("the new addresses are steered", || {
                Ok(steered(&site, &agent)? == ["[::]:80", "[::]:81", "10.77.0.2:443"])
            })?;
            // The private listeners of a kind that was not served so far are watched too.
            let status = site.status(agent.pid())?;
            let queues = status["kernel"]["queues"]["listeners"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            assert!(
                queues
                    .iter()
                    .any(|queue| queue["listener"] == "https" && queue["sockets"] != 0),
                "{status}"
            );
            let kept = site.net.client.run(|| {
                anyhow::ensure!(get_at(81)?.starts_with("HTTP/1.1 200"));
                // Plain HTTP to a TLS listener is told so.
                anyhow::ensure!(get_at(443)?.starts_with("HTTP/1.1 400"));
                let kept = connect(81)?;
                anyhow::ensure!(ask_on(&kept)?.contains("200"));
                Ok(kept)
            })?;
            write("http: ':80'\nhttps: 'off'\n")?;
            wait("they are gone", || Ok(steered(&site, &agent)? == ["[::]:80"]))?;
            site.net.client.run(|| {
                anyhow::ensure!(connect(81).is_err() && connect(443).is_err());
                Ok(())
            })?;
            assert!(ask_on(&kept)?.contains("200"));
            Ok(())
        })();
        enough.store(true, Ordering::Relaxed);
        load.join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        changed
    })?;
    eprintln!(
        "{} requests while listeners came and went",
        asked.load(Ordering::Relaxed)
    );
    Ok(())
}

#[test]
fn a_range_of_ports_is_served_and_each_port_is_told_from_its_neighbour() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let agent = site.start(&["--http", ":8000-8100", "--kernel", "on"])?;
    assert_eq!(agent.http.port(), 8000);
    site.net.client.run(|| {
        for port in [8000, 8057, 8100] {
            let response = get_at(port)?.to_ascii_lowercase();
            anyhow::ensure!(response.starts_with("http/1.1 200"), "{port}: {response}");
            anyhow::ensure!(
                response.contains(&format!("\"x-forwarded-port\":[\"{port}\"]")),
                "{response}"
            );
        }
        anyhow::ensure!(connect(7999).is_err() && connect(8101).is_err());
        Ok(())
    })?;
    let status = site.status(agent.pid())?;
    let addresses = status["kernel"]["addresses"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    assert_eq!(addresses.len(), 101);
    assert_eq!(addresses[57]["steered"], 1, "{status}");
    assert_eq!(addresses[58]["steered"], 0, "{status}");
    Ok(())
}
