//! `cargo xtask demo`: the examples, live on loopback, with real backends; `--check` asks everything and compares.

pub(crate) mod backends;
mod site;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{ChildStderr, Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use self::backends::Backends;
use self::site::Site;
use crate::guard::Guarded;
use crate::interrupt::{Ended, Interrupt};
use crate::workspace::{self, Profile};

/// Reached only by an agent that is not going to be ready.
const READY_WITHIN: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Where plain HTTP is served.
    #[arg(long, default_value = "127.0.0.1:8080")]
    http: SocketAddr,
    /// Where HTTPS is served.
    #[arg(long, default_value = "127.0.0.1:8443")]
    https: SocketAddr,
    /// Where health, metrics and the configuration are shown.
    #[arg(long, default_value = "127.0.0.1:9090")]
    admin: SocketAddr,
    /// Ask every URL of docs/examples/expected.toml on free ports, compare, and exit.
    #[arg(long)]
    check: bool,
}

/// Where this demo listens.
#[derive(Clone, Copy, Debug)]
struct Places {
    http: SocketAddr,
    https: SocketAddr,
    admin: SocketAddr,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let interrupt = Interrupt::catch()?;
    let wanted = places(options)?;
    println!("Building the agent and the backends …");
    let programs = workspace::build("ingress-agent", Profile::Dev)?;
    workspace::build("ingress-tests", Profile::Dev)?;

    // Dropped in reverse: the agent ends first, then the backends, then the folder goes.
    let site = Site::new()?;
    let backends = Backends::start(&programs.join("echo-backend"), site.backend_names())?;
    site.write(&backends)?;
    let (mut agent, told) = start_agent(&programs.join("ingress-agent"), &site, wanted, options.check)?;
    let Some(places) = wait_until_ready(&mut agent, &told, &interrupt)? else {
        println!("Interrupted.");
        return Ok(ExitCode::FAILURE);
    };
    if options.check {
        return check(&programs.join("demo-check"), &site, places, &interrupt);
    }
    introduce(&site, &backends, places);
    match interrupt.or_exit_of(&mut agent.child)? {
        Ended::Interrupted => println!("\nEnding: agent, backends, temporary files."),
        Ended::Exited(status) => bail!("the agent ended by itself: {status}"),
    }
    Ok(ExitCode::SUCCESS)
}

fn places(options: &Options) -> anyhow::Result<Places> {
    if options.check {
        // The kernel chooses, so nothing on this machine is in the way.
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        return Ok(Places {
            http: any,
            https: any,
            admin: any,
        });
    }
    for (flag, address) in [
        ("--http", options.http),
        ("--https", options.https),
        ("--admin", options.admin),
    ] {
        TcpListener::bind(address).map_err(|error| {
            anyhow::anyhow!("{address} cannot be used: {error}. Choose another with {flag} IP:PORT.")
        })?;
    }
    Ok(Places {
        http: options.http,
        https: options.https,
        admin: options.admin,
    })
}

/// The agent, and where it will say that it listens: what it was told to, or what the kernel chose.
fn start_agent(
    program: &Path,
    site: &Site,
    wanted: Places,
    is_check: bool,
) -> anyhow::Result<(Guarded, Receiver<Places>)> {
    let mut command = Command::new(program);
    command
        .arg("run")
        .arg("--manifests")
        .arg(site.manifests())
        .args(["--http", &wanted.http.to_string()])
        .args(["--https", &wanted.https.to_string()])
        .args(["--admin", &wanted.admin.to_string()])
        .args(["--log-format", "text"])
        .args(["--workers", "2", "--kernel", "off"])
        .args(["--access-log", if is_check { "off" } else { "all" }])
        .args(["--access-log-format", "text"]);
    let (agent, log) = Guarded::start_telling(&command)?;
    let (tell, told) = channel();
    std::thread::Builder::new().spawn(move || {
        pass_on(log, |places| {
            // Nobody waits for it when the demo is ending already.
            let _ = tell.send(places);
        });
    })?;
    Ok((agent, told))
}

/// The agent's log goes on to our own standard error; the line that says where it listens is read on the way.
fn pass_on(log: ChildStderr, mut listens: impl FnMut(Places)) {
    for line in BufReader::new(log).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        eprintln!("{line}");
        if let Some(places) = Places::in_log_line(&line) {
            listens(places);
        }
    }
}

impl Places {
    /// `… INFO serving http="127.0.0.1:8080" https="127.0.0.1:8443" admin="127.0.0.1:9090"`
    fn in_log_line(line: &str) -> Option<Self> {
        let value = |name: &str| {
            let (_, rest) = line.split_once(&format!(" {name}=\""))?;
            rest.split('"').next()?.parse().ok()
        };
        line.contains(" serving ").then_some(())?;
        Some(Self {
            http: value("http")?,
            https: value("https")?,
            admin: value("admin")?,
        })
    }
}

/// Where it listens, once it is ready; none when interrupted.
fn wait_until_ready(
    agent: &mut Guarded,
    told: &Receiver<Places>,
    interrupt: &Interrupt,
) -> anyhow::Result<Option<Places>> {
    let until = Instant::now() + READY_WITHIN;
    let mut places = None;
    loop {
        places = places.or_else(|| told.try_recv().ok());
        if let Some(places) = places.filter(|places| is_ready(places.admin).unwrap_or(false)) {
            return Ok(Some(places));
        }
        if let Some(status) = agent.child.try_wait()? {
            bail!("the agent ended before it was ready: {status}; its messages are above");
        }
        if Instant::now() > until {
            bail!("the agent was not ready within {READY_WITHIN:?}; it listens at {places:?}");
        }
        if interrupt.within(LOOK_AGAIN) {
            return Ok(None);
        }
    }
}

/// Whether the agent's admin address says that it serves.
pub(crate) fn is_ready(admin: SocketAddr) -> anyhow::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&admin, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(
        stream,
        "GET /readyz HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n"
    )?;
    let mut start = [0; 12];
    stream.read_exact(&mut start)?;
    Ok(&start == b"HTTP/1.1 200")
}

fn check(program: &Path, site: &Site, places: Places, interrupt: &Interrupt) -> anyhow::Result<ExitCode> {
    let mut child = Command::new(program)
        .arg(site::examples().join("expected.toml"))
        .args([places.http.to_string(), places.https.to_string()])
        .arg(site.authority())
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| program.display().to_string())?;
    match interrupt.or_exit_of(&mut child)? {
        Ended::Exited(status) => Ok(code_of(status)),
        Ended::Interrupted => {
            child.kill()?;
            child.wait()?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn code_of(status: ExitStatus) -> ExitCode {
    if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn introduce(site: &Site, backends: &Backends, places: Places) {
    println!(
        "\nServed on http://{} and https://{}:\n",
        places.http, places.https
    );
    for row in site.routes() {
        println!(
            "  {:<28} {:<8} {:<18} {}",
            row.host, row.kind, row.path, row.backend
        );
    }
    println!("\nBackends, each a process:\n");
    for (name, address) in backends.all() {
        println!("  {name:<12} {address}");
    }
    let http = places.http;
    let https = places.https;
    let authority = site.authority();
    let authority = authority.display();
    println!("\nTo try, in another terminal:\n");
    println!("  curl -H 'Host: blog.example.test' http://{http}/posts/1");
    println!("  curl -i -H 'Host: shop.example.test' http://{http}/        # 308 to HTTPS");
    for (host, path) in [
        ("shop.example.test", "/api/orders"),
        ("any.apps.example.test", "/"),
    ] {
        println!(
            "  curl --cacert {authority} --resolve {host}:{}:{} https://{host}:{}{path}",
            https.port(),
            https.ip(),
            https.port()
        );
    }
    println!("  curl -H 'Host: checkout.example.test' -H 'x-canary: always' http://{http}/");
    println!("  curl -i -H 'Host: intranet.example.test' http://{http}/    # 404: nobody owns it");
    println!("  curl -i -H 'Host: reports.example.test' http://{http}/     # 503: nothing ready");
    println!("  curl 'http://{http}/posts?delay=300&status=503&bytes=10' -H 'Host: blog.example.test'");
    println!(
        "  curl http://{}/config                                # what is served, as JSON",
        places.admin
    );
    println!(
        "\nChange a file below {} and ask again.",
        site.manifests().display()
    );
    println!("Ctrl-C ends everything.");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_port_gets_a_message_that_names_the_flag_to_change_it() {
        let busy = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let free = (Ipv4Addr::LOCALHOST, 0).into();
        let options = Options {
            http: free,
            https: busy.local_addr().unwrap(),
            admin: free,
            check: false,
        };
        let message = places(&options).unwrap_err().to_string();
        assert!(message.contains("--https IP:PORT"), "{message}");
        assert!(message.contains(&options.https.to_string()), "{message}");
    }

    #[test]
    fn where_the_agent_listens_is_read_from_its_log() {
        let line =
            "2026-11-21T15:26:54Z  INFO serving http=\"127.0.0.1:1\" https=\"[::1]:2\" admin=\"127.0.0.1:3\"";
        let places = Places::in_log_line(line).unwrap();
        assert_eq!(places.https, "[::1]:2".parse().unwrap());
        assert_eq!((places.http.port(), places.admin.port()), (1, 3));
        assert!(Places::in_log_line("2026-11-21T15:26:54Z  INFO stopped").is_none());
    }

    #[test]
    fn the_table_of_what_is_served_has_every_rule_of_the_examples() {
        let rows = Site::new().unwrap().routes();
        let has = |host: &str, backend: &str| {
            rows.iter()
                .any(|row| row.host == host && row.backend.starts_with(backend))
        };
        assert!(has("shop.example.test", "Service health"));
        assert!(has("*.apps.example.test", "Service apps"));
        assert!(has("intranet.example.test", "404: nobody owns it"));
    }
}
