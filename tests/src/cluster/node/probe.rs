//! Probes of the manifest, asked as a kubelet asks them: by HTTP, by TCP, or by a command in the container.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::process::Process;

const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A question that is asked again and again.
pub(super) struct Asked {
    question: Question,
    every: Duration,
    patience: Duration,
    after_failures: u32,
    after_successes: u32,
    begin: Instant,
}

enum Question {
    Http { address: SocketAddr, path: String },
    Tcp(SocketAddr),
    Exec(Vec<String>),
}

impl Asked {
    /// Asked first after the probe's initial delay.
    pub(super) fn new(probe: &Probe, container: &Container, address: Ipv4Addr) -> anyhow::Result<Self> {
        let number =
            |value: Option<i32>, default: u32| value.and_then(|v| u32::try_from(v).ok()).unwrap_or(default);
        let seconds = |value, default| Duration::from_secs(number(value, default).into());
        let question = if let Some(http) = &probe.http_get {
            Question::Http {
                address: (address, port(&http.port, container)?).into(),
                path: http.path.clone().unwrap_or_else(|| "/".to_owned()),
            }
        } else if let Some(tcp) = &probe.tcp_socket {
            Question::Tcp((address, port(&tcp.port, container)?).into())
        } else if let Some(exec) = &probe.exec {
            Question::Exec(exec.command.clone().unwrap_or_default())
        } else {
            bail!("a probe of a kind that this node does not know");
        };
        Ok(Self {
            question,
            every: seconds(probe.period_seconds, 10),
            patience: seconds(probe.timeout_seconds, 1),
            after_failures: number(probe.failure_threshold, 3).max(1),
            after_successes: number(probe.success_threshold, 1).max(1),
            begin: Instant::now() + seconds(probe.initial_delay_seconds, 0),
        })
    }

    /// Asks for ever; tells each time when the answer stands by the probe's thresholds.
    pub(super) async fn run(
        self,
        command: impl Fn(&[String]) -> anyhow::Result<Command>,
        tell: impl Fn(bool),
    ) {
        tokio::time::sleep_until(self.begin).await;
        let (mut failures, mut successes) = (0, 0);
        loop {
            let next = Instant::now() + self.every;
            let answer = timeout(self.patience, self.question.ask(&command)).await;
            if matches!(answer, Ok(Ok(true))) {
                (failures, successes) = (0, successes + 1);
                if successes >= self.after_successes {
                    tell(true);
                }
            } else {
                (failures, successes) = (failures + 1, 0);
                if failures >= self.after_failures {
                    tell(false);
                }
            }
            tokio::time::sleep_until(next).await;
        }
    }
}

impl Question {
    async fn ask(&self, command: impl Fn(&[String]) -> anyhow::Result<Command>) -> anyhow::Result<bool> {
        match self {
            Self::Tcp(address) => Ok(TcpStream::connect(address).await.is_ok()),
            Self::Http { address, path } => {
                let mut stream = TcpStream::connect(address).await?;
                let request = format!(
                    "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nUser-Agent: kube-probe\r\n\r\n"
                );
                stream.write_all(request.as_bytes()).await?;
                // `HTTP/1.1 2`: 200 to 399 is a yes.
                let mut start = [0; 10];
                stream.read_exact(&mut start).await?;
                Ok(matches!(start[9], b'2' | b'3'))
            }
            Self::Exec(words) => {
                let mut process = Process::start(&mut command(words)?)?;
                loop {
                    if let Some(status) = process.ended() {
                        return Ok(status.success());
                    }
                    sleep(LOOK_AGAIN).await;
                }
            }
        }
    }
}

fn port(port: &IntOrString, container: &Container) -> anyhow::Result<u16> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            let named = ports.find(|port| port.name.as_ref() == Some(name));
            named.map(|port| port.container_port)
        }
    };
    let number = number.with_context(|| format!("no port {port:?}"))?;
    Ok(u16::try_from(number)?)
}
