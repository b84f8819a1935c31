//! The API server at the address at which Pods look for it: bytes from the node's namespace to loopback, where it listens.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::Context;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::os::fd::AsFd;
use tokio::net::TcpStream;

/// Binds in the namespace of this process; sockets keep their namespace wherever they are used.
pub(super) fn listen(holder: u32, address: (Ipv4Addr, u16)) -> anyhow::Result<TcpListener> {
    let namespace = File::open(format!("/proc/{holder}/ns/net"))?;
    std::thread::scope(|scope| {
        let bind = scope.spawn(|| {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .context("setns")?;
            let listener = TcpListener::bind(address).with_context(|| format!("{address:?}"))?;
            listener.set_nonblocking(true)?;
            anyhow::Ok(listener)
        });
        bind.join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

pub(super) async fn run(listener: TcpListener, to: SocketAddr) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
        return;
    };
    while let Ok((mut client, _)) = listener.accept().await {
        tokio::spawn(async move {
            // A client whose server is away sees its connection end, as it would without us.
            if let Ok(mut server) = TcpStream::connect(to).await {
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            }
        });
    }
}
