//! A loop inside a tokio runtime, and a tokio runtime around a loop.

#[macro_use]
extern crate couplet_testkit;

mod around;
mod databases;
#[cfg(unix)]
mod inside;

use std::net::SocketAddr;
use std::time::Duration;

use couplet::{Port, Reactor, Result};
pub(crate) use couplet_testkit_loops::doubles::Echo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longer than any test takes; a test that reaches it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) const ANY: &str = "tcp:0:interface=127.0.0.1";

pub(crate) fn address(port: &Port) -> SocketAddr {
    port.host().socket_addr().expect("a TCP port")
}

/// The answer of an echo server on this loop to a tokio client.
pub(crate) async fn echoed(reactor: &Reactor, word: &str) -> Result<String> {
    let port = reactor.listen(ANY, || Echo)?;
    let mut stream = TcpStream::connect(address(&port)).await?;
    stream.write_all(word.as_bytes()).await?;
    let mut answer = vec![0; word.len()];
    stream.read_exact(&mut answer).await?;
    Ok(String::from_utf8(answer)?)
}
