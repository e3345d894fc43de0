//! Runs a server's connection: detects the HTTP version, serves requests and parks when idle.
//!
//! Contract: 51d, 58a, 105f, 171, 172, 175b.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use http::{Request, Response};
use hyper::server::conn::http1;
use tower_service::Service;

use super::body::Body;
use super::handler::{Clock, Handler};
use super::http2::{PREFACE, Session};
use super::io::Io;
use super::monitor::{Instruction, Monitor};
use super::options::{HttpOptions, Versions};
use super::share::ServerShare;
use super::warm::{BufferGuard, WarmConnections};
use couplet_core::hooks::{Departure, is_real_time};
use couplet_core::{Failure, Reactor, Result, Stream};

/// State shared by the connections of a server.
pub(super) struct Server<S> {
    service: S,
    clock: Rc<Clock>,
    server_share: Rc<ServerShare>,
    warm: Rc<WarmConnections>,
    http1: http1::Builder,
}

impl<S> Server<S> {
    pub(super) fn new(reactor: &Reactor, service: S, options: HttpOptions) -> Server<S> {
        let clock = Clock::new(reactor);
        let mut http1 = http1::Builder::new();
        http1
            .auto_date_header(is_real_time(reactor))
            .half_close(true)
            .max_buf_size(options.max_head.max(8 * 1024));
        if options.max_headers != 100 {
            http1.max_headers(options.max_headers);
        }
        let warm = WarmConnections::new(reactor, options.free_idle_after);
        Server { service, clock, server_share: ServerShare::new(options), warm, http1 }
    }
}

/// Why hyper stopped serving a connection.
enum ServeEnd {
    /// The connection ended or was upgraded.
    Ended,
    /// The connection was idle.
    Parked(Io),
}

pub(super) fn run<S, B>(
    stream: Stream,
    server: Rc<Server<S>>,
) -> impl Future<Output = Result<()>> + use<S, B>
where
    S: Service<Request<Body>, Response = Response<B>, Error: Into<Failure>> + Clone + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<Failure>> + 'static,
{
    let stopping = StopOnDrop(Monitor::new(&stream, &server.server_share));
    let mut is_http2 = preselected_http2(&stream, server.server_share.options());
    let mut io = Io::new(stream, &stopping.0);
    // An `async fn` would keep its arguments as well as the values made of them.
    async move {
        let monitor = &stopping.0;
        loop {
            // The wait for the first byte of a request needs no per-request state.
            let begins = poll_fn(|cx| {
                if monitor.ending().poll_lost(cx).is_ready()
                    || monitor.departure() == Departure::Now
                {
                    return Poll::Ready(Ok(false));
                }
                let readable = io.poll_readable(cx);
                if readable.is_pending() && monitor.is_finished() {
                    return Poll::Ready(Ok(false));
                }
                readable
            });
            if !begins.await? {
                if monitor.departure() == Departure::Now {
                    io.leave(monitor.options().handed());
                    return Ok(());
                }
                // No request is in progress.
                monitor.transport().set_close_at_once(monitor.is_settled());
                return Ok(());
            }
            if is_http2.is_none() {
                is_http2 = Some(Box::pin(begins_http2(&mut io)).await?);
            }
            if is_http2 == Some(true) {
                monitor.set_http2();
                let handler = Handler::new(server.service.clone(), monitor, None);
                return Box::pin(serve_http2(io, handler, &server, monitor)).await;
            }
            let clock =
                (!is_real_time(monitor.transport().reactor())).then(|| server.clock.clone());
            let handler = Handler::new(server.service.clone(), monitor, clock);
            // Boxed, so that an idle connection does not hold its state.
            match Box::pin(serve_http1(io, handler, &server, monitor)).await? {
                ServeEnd::Ended => {
                    monitor.leave_to_upgrade();
                    return Ok(());
                }
                ServeEnd::Parked(parked) => io = parked,
            }
        }
    }
}

/// Stops the monitor when the task ends.
struct StopOnDrop(Rc<Monitor>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Whether to speak HTTP/2, if that is known before the client's first byte.
fn preselected_http2(stream: &Stream, options: &HttpOptions) -> Option<bool> {
    match options.versions {
        Versions::Neither | Versions::Http1 => Some(false),
        Versions::Http2 => Some(true),
        Versions::Both => negotiated_http2(stream),
    }
}

#[cfg(any(feature = "tls", feature = "ring"))]
fn negotiated_http2(stream: &Stream) -> Option<bool> {
    Some(stream.tls()?.alpn.as_deref()? == b"h2")
}

#[cfg(not(any(feature = "tls", feature = "ring")))]
fn negotiated_http2(_: &Stream) -> Option<bool> {
    None
}

/// Reads the first bytes for as long as they match the HTTP/2 preface, then puts them back.
async fn begins_http2(io: &mut Io) -> io::Result<bool> {
    let mut first = Vec::new();
    while first.len() < PREFACE.len() && PREFACE.starts_with(&first) {
        let more = poll_fn(|cx| io.poll_read_new(cx, PREFACE.len() - first.len())).await?;
        if more.is_empty() {
            break;
        }
        first.extend(more);
    }
    let is_preface = first == PREFACE;
    io.put_back(first.into());
    Ok(is_preface)
}

async fn serve_http1<S, B>(
    io: Io,
    handler: Handler<S>,
    server: &Server<S>,
    monitor: &Rc<Monitor>,
) -> Result<ServeEnd>
where
    S: Service<Request<Body>, Response = Response<B>, Error: Into<Failure>> + Clone + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<Failure>> + 'static,
{
    let buffers = BufferGuard::new(&server.warm, monitor);
    let mut serving = Box::new(server.http1.serve_connection(io, handler).with_upgrades());
    let mut is_finishing = false;
    let parks = poll_fn(|cx| {
        // Between requests, hyper would drop the part of a head that it has read.
        if !is_finishing && monitor.transport().is_draining() && !monitor.is_between_requests() {
            is_finishing = true;
            Pin::new(&mut *serving).graceful_shutdown();
        }
        if let Poll::Ready(ended) = Pin::new(&mut *serving).poll(cx) {
            return Poll::Ready(ended.map_err(Failure::from).map(|()| false));
        }
        // hyper does not read while a response is pending.
        if let Poll::Ready(lost) = monitor.ending().poll_lost(cx) {
            return Poll::Ready(lost.map_err(Failure::from).map(|()| false));
        }
        if monitor.has_requests() && monitor.watch_client(cx) {
            monitor.cut_response();
            return Poll::Ready(Ok(false));
        }
        if monitor.departure() == Departure::Now && monitor.is_between_requests() {
            return Poll::Ready(Ok(true));
        }
        if monitor.is_idle() {
            let ends = monitor.is_finished() && !is_finishing;
            if monitor.instruction(cx) == Instruction::Park || ends {
                monitor.park();
                return Poll::Ready(Ok(true));
            }
            buffers.note_idle();
        }
        Poll::Pending
    });
    if parks.await?
        && let Some(parts) = serving.into_parts()
    {
        let mut io = parts.io;
        io.put_back(parts.read_buf);
        return Ok(ServeEnd::Parked(io));
    }
    Ok(ServeEnd::Ended)
}

async fn serve_http2<S, B>(
    io: Io,
    handler: Handler<S>,
    server: &Server<S>,
    monitor: &Rc<Monitor>,
) -> Result<()>
where
    S: Service<Request<Body>, Response = Response<B>, Error: Into<Failure>> + Clone + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<Failure>> + 'static,
{
    let Server { clock, warm, .. } = server;
    let Some(mut session) = Session::new(io, handler, clock, warm, monitor) else { return Ok(()) };
    let (mut is_finishing, mut is_draining) = (false, false);
    poll_fn(|cx| {
        if !is_draining && monitor.is_finished() {
            is_draining = true;
            monitor.drain();
        }
        match monitor.instruction(cx) {
            Instruction::Finish if !is_finishing => {
                is_finishing = true;
                #[cfg(feature = "websocket")]
                monitor.finish();
                session.finish();
            }
            Instruction::Park => {
                monitor.park();
                session.free_memory();
            }
            _ => {}
        }
        if let Poll::Ready(ended) = session.poll(cx) {
            return Poll::Ready(ended);
        }
        if !is_draining && monitor.is_finished() {
            // The first request has begun.
            cx.waker().wake_by_ref();
        }
        if monitor.has_requests() {
            monitor.watch_client(cx);
        }
        // A session whose client takes no output does not read.
        monitor.ending().poll_lost(cx).map_err(Failure::from)
    })
    .await
}
