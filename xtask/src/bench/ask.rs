//! One small HTTP/1.1 client over a kept connection: status only. Knows nothing of what is measured with it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Kept {
    stream: BufReader<TcpStream>,
}

impl Kept {
    pub(crate) fn open(port: u16) -> anyhow::Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// The status of `GET /api/item` of this host; the body is read and forgotten.
    pub(crate) fn status(&mut self, host: &str) -> anyhow::Result<u16> {
        let request = format!("GET /api/item HTTP/1.1\r\nHost: {host}\r\n\r\n");
        self.stream.get_mut().write_all(request.as_bytes())?;
        let status = self.line()?;
        let status = status.split(' ').nth(1).context("no status")?.parse()?;
        let mut length = None;
        loop {
            let line = self.line()?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = Some(value.trim().parse()?);
            }
        }
        let Some(length) = length else {
            bail!("an answer without Content-Length")
        };
        self.stream.read_exact(&mut vec![0; length])?;
        Ok(status)
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            bail!("the connection was closed");
        }
        Ok(line.trim_end().to_owned())
    }
}

/// How long it took until every connection in turn was answered with `wanted`, counted from `begin`.
pub(crate) fn until_all(
    connections: &mut [Kept],
    host: &str,
    wanted: u16,
    begin: Instant,
) -> anyhow::Result<Duration> {
    for kept in connections {
        until(kept, host, wanted, begin)?;
    }
    Ok(begin.elapsed())
}

fn until(kept: &mut Kept, host: &str, wanted: u16, begin: Instant) -> anyhow::Result<()> {
    loop {
        let status = kept.status(host)?;
        if status == wanted {
            return Ok(());
        }
        if begin.elapsed() > PATIENCE {
            bail!("{host} still answers {status} after {PATIENCE:?}, expected {wanted}");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
