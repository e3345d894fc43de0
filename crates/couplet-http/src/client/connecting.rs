//! New connections of a client.
//!
//! Contract: 176a, 176b.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::client::conn::{http1, http2};
use hyper::rt::{Executor, Read, ReadBufCursor, Write};

use super::pool::{Http1, Http1Facts, Leader, Lease, Origin, Outcome, Scheme};
use super::{Client, HttpError};
use couplet_core::endpoints::TcpClient;
use couplet_core::hooks::GuestStream;
use couplet_core::{Failure, Reactor, SocketOption, Stream};

/// Maximum number of lines in a proxy's response to CONNECT.
const MAX_PROXY_LINES: usize = 100;

/// Spawns the tasks of hyper's HTTP/2.
#[derive(Clone)]
struct TaskExecutor(Reactor);

impl<F: Future<Output = ()> + 'static> Executor<F> for TaskExecutor {
    fn execute(&self, future: F) {
        let task = self.0.spawn(async move {
            future.await;
            Ok(())
        });
        task.detach();
    }
}

impl Client {
    /// Leases a pooled connection, or a new one. If the server may speak HTTP/2, concurrent
    /// requests make a single attempt and share the resulting connection.
    pub(super) async fn lease(&self, origin: &Origin) -> Result<Lease, HttpError> {
        loop {
            if let Some(mut lease) = Lease::from_pool(&self.inner, origin) {
                if lease.is_ready().await {
                    return Ok(lease);
                }
                continue;
            }
            if origin.scheme == Scheme::Http || self.inner.pool.borrow().speaks_http1(origin) {
                return self.connect(origin).await;
            }
            let attempt = match Leader::new(&self.inner, origin) {
                Ok(leader) => {
                    let connected = self.connect(origin).await;
                    leader.finish(&connected);
                    return connected;
                }
                Err(attempt) => attempt,
            };
            match attempt.outcome(origin).await {
                Outcome::Failed(error) => return Err(error),
                Outcome::Unshared => return self.connect(origin).await,
                Outcome::Shared | Outcome::Abandoned => {}
            }
        }
    }

    async fn connect(&self, origin: &Origin) -> Result<Lease, HttpError> {
        let limit = self.inner.options.connect_timeout;
        let connecting = async { Ok::<_, Failure>(self.open(origin).await) };
        let opened = self.inner.reactor.timeout(limit, connecting).await;
        let to = || origin.host_and_port();
        let (stream, is_http2) = match opened {
            Ok(opened) => opened?,
            Err(failure) => return Err(HttpError::Connect { to: to(), failure }),
        };
        let (tasks, facts) =
            (TaskExecutor(self.inner.reactor.clone()), Rc::new(Http1Facts::default()));
        let transport = stream.transport().clone();
        let io = ClientIo { stream, facts: facts.clone() };
        if is_http2 {
            let http2 = http2::Builder::new(tasks.clone());
            let (sender, connection) = http2.handshake(io).await.map_err(HttpError::Broken)?;
            tasks.execute(run_connection(to(), connection, facts));
            return Ok(Lease::new_http2(&self.inner, origin, sender));
        }
        let (sender, connection) = http1::handshake(io).await.map_err(HttpError::Broken)?;
        tasks.execute(run_connection(to(), connection, facts.clone()));
        let retires_at = self.inner.retires_at();
        let http1 = Http1 { sender, facts, transport, retires_at };
        Ok(Lease::new_http1(&self.inner, origin, http1))
    }

    /// Opens a stream to the server; returns whether it speaks HTTP/2.
    async fn open(&self, origin: &Origin) -> Result<(Stream, bool), HttpError> {
        let proxy = &self.inner.options.proxy;
        let (host, port) = match proxy {
            Some((host, port)) => (host.as_str(), *port),
            None => (origin.host.as_str(), origin.port),
        };
        let connecting = self.inner.reactor.connect_stream(TcpClient::new(host, port));
        let failed = |failure| HttpError::Connect { to: format!("{host}:{port}"), failure };
        let mut stream = connecting.await.map_err(failed)?;
        stream.transport().set_option(SocketOption::NoDelay(true));
        if origin.scheme == Scheme::Http {
            return Ok((stream, false));
        }
        if proxy.is_some() {
            open_tunnel(&mut stream, origin).await?;
        }
        let is_http2 = self.encrypt(&mut stream, origin).await.map_err(failed)?;
        Ok((stream, is_http2))
    }

    #[cfg(any(feature = "tls", feature = "ring"))]
    async fn encrypt(&self, stream: &mut Stream, origin: &Origin) -> couplet_core::Result<bool> {
        use couplet_core::layers::tls::ClientTls;
        let tls = match self.inner.tls.get() {
            Some(tls) => tls,
            None => {
                let options = self.inner.options.tls.clone().alpn(["h2", "http/1.1"]);
                let made = ClientTls::new(&options)?;
                self.inner.tls.get_or_init(|| made)
            }
        };
        stream.start_tls((tls, &origin.host)).await?;
        Ok(stream.tls().is_some_and(|tls| tls.alpn.as_deref() == Some(b"h2")))
    }

    #[cfg(not(any(feature = "tls", feature = "ring")))]
    async fn encrypt(&self, _: &mut Stream, _: &Origin) -> couplet_core::Result<bool> {
        Err(Failure::msg("https: needs the feature `tls` or `ring`"))
    }
}

/// Drives a connection and logs its error; hyper fails the pending requests.
async fn run_connection(
    to: String,
    connection: impl Future<Output = hyper::Result<()>>,
    facts: Rc<Http1Facts>,
) {
    if let Err(error) = connection.await {
        tracing::debug!(%to, %error, "an HTTP client's connection failed");
        facts.surplus.set(is_surplus(&error));
    }
}

/// Whether an HTTP/1.1 connection broke because of unsolicited bytes. hyper has no name for this
/// error: it is the only error of an idle connection without a cause.
fn is_surplus(error: &hyper::Error) -> bool {
    error.source().is_none() && !error.is_incomplete_message() && !error.is_canceled()
}

/// Asks a proxy for a tunnel to the server: RFC 9110, 9.3.6.
async fn open_tunnel(stream: &mut Stream, origin: &Origin) -> Result<(), HttpError> {
    let to = origin.host_and_port();
    let failed = |error: io::Error| HttpError::Connect { to: to.clone(), failure: error.into() };
    let request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n");
    stream.write_all(request).await.map_err(failed)?;
    let mut status = None;
    for _ in 0..MAX_PROXY_LINES {
        let Some(line) = stream.read_line().await.map_err(failed)? else { break };
        let line = String::from_utf8_lossy(&line).into_owned();
        if line.is_empty() {
            let status = status.unwrap_or(line);
            let is_passed_on = status.split(' ').nth(1).is_some_and(|code| code.starts_with('2'));
            return if is_passed_on { Ok(()) } else { Err(HttpError::Proxy(status)) };
        }
        status.get_or_insert(line);
    }
    Err(HttpError::Proxy(status.unwrap_or_default()))
}

/// Adapts a stream to hyper's client. Written bytes leave with the turn.
struct ClientIo {
    stream: Stream,
    facts: Rc<Http1Facts>,
}

impl Read for ClientIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let (room, bytes) = (buffer.remaining(), &self.facts.bytes);
        self.stream.poll_read_with(cx, room, |data| {
            bytes.set(bytes.get() + data.len() as u64);
            buffer.put_slice(data);
        })
    }
}

impl Write for ClientIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Write::poll_write(Pin::new(&mut self.stream), cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Write::poll_write_vectored(Pin::new(&mut self.stream), cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Write::poll_shutdown(Pin::new(&mut self.stream), cx)
    }
}
