//! The server's side of the handshake: RFC 6455, 4.2.
//!
//! Contract: 44, 58b, 173a.

use std::future::{pending, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Extensions, Method, Request, Response, StatusCode, Version};
use hyper::ext::Protocol;
use hyper::upgrade::{OnUpgrade, Upgraded};
use tungstenite::protocol::Role;

use super::h2_stream::H2Stream;
use super::options::WebSocketOptions;
use super::socket::Socket;
use super::wire::Wire;
use super::{ReturnSlot, WebSocket, WebSocketError, code, key};
use crate::http2::{StreamEnd, TunnelIo};
use crate::io::Io;
use crate::monitor::Monitor;
use couplet_core::hooks::LoopOwned;
use couplet_core::hooks::{ConnectionEnd, GuestStream, catch_panic};
use couplet_core::transport::Timeout;
use couplet_core::{Reason, Result, Transport};

/// Identifies the connection of a request that may be upgraded.
#[derive(Clone)]
pub(crate) struct UpgradeContext(Arc<LoopOwned<Rc<Monitor>>>);

impl UpgradeContext {
    /// Attaches the connection to a request that may be upgraded.
    pub(crate) fn attach(extensions: &mut Extensions, monitor: &Rc<Monitor>) {
        if extensions.get::<OnUpgrade>().is_some() {
            let owned = LoopOwned::new(monitor.transport().reactor(), monitor.clone());
            extensions.insert(UpgradeContext(Arc::new(owned)));
        }
    }
}

/// A valid request for a WebSocket.
struct Acceptance {
    /// Value of Sec-WebSocket-Accept; `None` in HTTP/2.
    accept: Option<HeaderValue>,
    protocol: Option<String>,
}

/// Answers a request for a WebSocket, and runs the handler as a task of the loop once the response
/// is sent.
///
/// The response is 101 (200 over HTTP/2). Otherwise the handler is dropped: the response is 426 if
/// the request is not for a WebSocket or names another version of the protocol, and 400 if it is
/// malformed.
///
/// A handler that is still busy when its client has left, for
/// [`half_close_timeout`](crate::HttpOptions::half_close_timeout), is dropped. One that receives or
/// sends gets an error before that.
///
/// When the handler returns, its WebSocket is closed with code 1000, or with 1011 if it failed or
/// panicked. Both are logged at level error, except a [`WebSocketError`], which is the peer's and
/// logged at level debug.
///
/// Pages of other sites can connect too, with the user's cookies: where that matters, check the
/// request's `origin` header first.
///
/// ```
/// use couplet::http::websocket::{self, WebSocket, WebSocketOptions};
/// use couplet::http::{Body, HttpExt, Request, Response};
/// use std::convert::Infallible;
/// use tower::service_fn;
///
/// async fn echo(mut request: Request<Body>) -> Result<Response<String>, Infallible> {
///     let options = WebSocketOptions::default();
///     Ok(websocket::upgrade(&mut request, options, async |mut socket: WebSocket| {
///         while let Some(message) = socket.recv().await {
///             socket.send(message?).await?;
///         }
///         Ok(())
///     }))
/// }
///
/// couplet::run(|reactor| {
///     reactor.serve_http("tcp:0:interface=127.0.0.1", service_fn(echo))?;
/// #   reactor.stop();
///     Ok(())
/// })?;
/// # Ok::<(), couplet::Failure>(())
/// ```
pub fn upgrade<Q, B: From<&'static str>>(
    request: &mut Request<Q>,
    options: WebSocketOptions,
    handle: impl AsyncFnOnce(WebSocket) -> Result<()> + 'static,
) -> Response<B> {
    let acceptance = match check_request(request, &options) {
        Ok(acceptance) => acceptance,
        Err((status, problem)) => return refusal(status, problem),
    };
    let context = request.extensions_mut().remove::<UpgradeContext>();
    let Some(monitor) = context.as_ref().and_then(|context| context.0.get()) else {
        log_error!(
            "cannot upgrade to a WebSocket: the request did not come from a server of this crate"
        );
        return refusal(StatusCode::INTERNAL_SERVER_ERROR, "");
    };
    let upgrading = hyper::upgrade::on(request);
    let protocol = acceptance.protocol.clone();
    let reactor = monitor.transport().reactor();
    // Boxed, so that an open WebSocket does not keep the state of the handshake.
    let opening = Box::pin(open(upgrading, monitor.clone(), options, protocol));
    let within = monitor.options().half_close_timeout;
    monitor.become_websocket();
    reactor.spawn(run(opening, handle, within)).detach();
    answer(acceptance)
}

fn answer<B: From<&'static str>>(acceptance: Acceptance) -> Response<B> {
    let mut answer = Response::new(B::from(""));
    if let Some(accept) = acceptance.accept {
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = answer.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    // The client offered this name in a header, so it is valid in one.
    if let Some(protocol) = acceptance.protocol.and_then(|name| HeaderValue::try_from(name).ok()) {
        answer.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    answer
}

fn refusal<B: From<&'static str>>(status: StatusCode, problem: &'static str) -> Response<B> {
    let mut answer = Response::new(B::from(problem));
    *answer.status_mut() = status;
    if status == StatusCode::UPGRADE_REQUIRED {
        let headers = answer.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    answer
}

/// Validates a request for a WebSocket, or returns the refusal: RFC 6455, 4.2.1, and RFC 8441, 5.
fn check_request<Q>(
    request: &Request<Q>,
    options: &WebSocketOptions,
) -> Result<Acceptance, (StatusCode, &'static str)> {
    const WRONG: StatusCode = StatusCode::BAD_REQUEST;
    let headers = request.headers();
    let extended = request.extensions().get::<Protocol>();
    let is_extended = extended.is_some_and(|name| name.as_str() == "websocket");
    if !is_extended && !has_token(headers, header::UPGRADE, "websocket") {
        return Err((StatusCode::UPGRADE_REQUIRED, "this is a WebSocket\n"));
    }
    let is_get = request.method() == Method::GET && request.version() == Version::HTTP_11;
    if !is_extended && !is_get {
        return Err((WRONG, "a WebSocket requires GET and HTTP/1.1\n"));
    }
    if !is_extended && !has_token(headers, header::CONNECTION, "upgrade") {
        return Err((WRONG, "the Connection header lacks \"upgrade\"\n"));
    }
    if has_body(headers) {
        return Err((WRONG, "a WebSocket request must not have a body\n"));
    }
    match single_value(headers, header::SEC_WEBSOCKET_VERSION) {
        Some(b"13") => {}
        Some(_) => {
            return Err((StatusCode::UPGRADE_REQUIRED, "the WebSocket version must be 13\n"));
        }
        None => return Err((WRONG, "exactly one Sec-WebSocket-Version is required\n")),
    }
    let key = single_value(headers, header::SEC_WEBSOCKET_KEY).filter(|key| key::is_valid(key));
    if key.is_none() && !is_extended {
        return Err((WRONG, "exactly one Sec-WebSocket-Key of 16 bytes in Base64 is required\n"));
    }
    let accept = key
        .filter(|_| !is_extended)
        .map(|key| HeaderValue::try_from(key::answer(key)).expect("Base64 is ASCII"));
    let offered: Vec<&str> = tokens(headers, header::SEC_WEBSOCKET_PROTOCOL).collect();
    let protocol = options.protocols.iter().find(|ours| offered.contains(&ours.as_str())).cloned();
    Ok(Acceptance { accept, protocol })
}

/// Whether a request has a body: RFC 9112, 6.3.
fn has_body(headers: &HeaderMap) -> bool {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    headers.contains_key(header::TRANSFER_ENCODING)
        || lengths.any(|length| length.as_bytes().iter().any(|digit| *digit != b'0'))
}

/// Returns the value of a header that occurs exactly once.
pub(super) fn single_value(headers: &HeaderMap, name: HeaderName) -> Option<&[u8]> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then_some(first.as_bytes())
}

/// The elements of a list header.
fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(|token| token.trim_matches([' ', '\t']))
}

pub(super) fn has_token(headers: &HeaderMap, name: HeaderName, wanted: &str) -> bool {
    tokens(headers, name).any(|token| token.eq_ignore_ascii_case(wanted))
}

/// The connection of a WebSocket, or its HTTP/2 stream, observed for its end.
enum ClientEnd {
    Connection(ConnectionEnd),
    H2Stream(StreamEnd),
}

impl ClientEnd {
    /// Ready when the client has left, with whether its handler's time is up.
    fn poll_left(&self, cx: &mut Context<'_>) -> Poll<bool> {
        match self {
            // The half-close timeout limits the transport, too, for an end behind unread bytes.
            ClientEnd::Connection(end) => {
                end.poll_peer_end(cx).map(|reason| matches!(reason, Some(Reason::Timeout)))
            }
            ClientEnd::H2Stream(end) => end.poll_gone(cx).map(|()| false),
        }
    }
}

/// Returns the whole connection, or an HTTP/2 stream of it.
fn into_wire(upgraded: Upgraded, monitor: &Rc<Monitor>) -> (Wire, ClientEnd) {
    let parts = match upgraded.downcast::<Io>() {
        Ok(parts) => parts,
        Err(upgraded) => {
            let parts = upgraded.downcast::<TunnelIo>().expect("a server has no other upgrades");
            debug_assert!(parts.read_buf.is_empty(), "a tunnel opens after its upgrade");
            let h2_stream = H2Stream::new(parts.io, monitor);
            let end = ClientEnd::H2Stream(h2_stream.stream_end());
            return (Wire::h2_stream(h2_stream), end);
        }
    };
    let (stream, unread) = parts.io.into_parts().expect("a task runs in its loop's thread");
    let unread =
        if unread.is_empty() { parts.read_buf } else { [parts.read_buf, unread].concat().into() };
    // The WebSocket has its own.
    stream.transport().set_timeout(Timeout::Write, None);
    let end = ClientEnd::Connection(stream.ending());
    (Wire::new(stream, unread, Role::Server), end)
}

/// A WebSocket for its handler.
struct Opened {
    socket: WebSocket,
    /// To which the WebSocket returns.
    slot: Rc<ReturnSlot>,
    transport: Transport,
    client_end: ClientEnd,
}

/// The WebSocket of an upgraded connection; `None` if the upgrade failed.
async fn open(
    upgrading: OnUpgrade,
    monitor: Rc<Monitor>,
    options: WebSocketOptions,
    protocol: Option<String>,
) -> Option<Opened> {
    let failed = |error| tracing::debug!(%error, "a WebSocket upgrade failed");
    let upgraded = upgrading.await.map_err(failed).ok()?;
    let (wire, client_end) = into_wire(upgraded, &monitor);
    let transport = wire.transport().clone();
    let socket = Socket::new(wire, Role::Server, &Rc::new(options), protocol);
    let (socket, slot) = WebSocket::for_handler(socket);
    Some(Opened { socket, slot, transport, client_end })
}

/// How a handler ended.
enum Handled {
    Returned(Result<()>),
    Panicked(String),
    /// The client had left, and the handler's time was up.
    Overdue,
}

/// Runs the handler, and closes the WebSocket that it leaves.
async fn run(
    opening: Pin<Box<impl Future<Output = Option<Opened>>>>,
    handle: impl AsyncFnOnce(WebSocket) -> Result<()> + 'static,
    within: Option<Duration>,
) -> Result<()> {
    let Some(Opened { socket, slot, transport, client_end }) = opening.await else { return Ok(()) };
    let handled = {
        let mut handling = pin!(handle(socket));
        // Resolves when the time of a handler whose client has left is up.
        let mut overdue = pin!(async {
            let Some(within) = within else { return pending().await };
            if !poll_fn(|cx| client_end.poll_left(cx)).await {
                let _ = transport.reactor().sleep(within).await;
            }
        });
        poll_fn(|cx| match catch_panic(|| handling.as_mut().poll(cx)) {
            Ok(Poll::Ready(returned)) => Poll::Ready(Handled::Returned(returned)),
            Ok(Poll::Pending) => overdue.as_mut().poll(cx).map(|()| Handled::Overdue),
            Err(panic) => Poll::Ready(Handled::Panicked(panic)),
        })
        .await
    };
    let (connection, peer) = (transport.id(), transport.peer());
    let code = match handled {
        Handled::Returned(Ok(())) => code::NORMAL,
        Handled::Returned(Err(failure)) => {
            // An error of the WebSocket is the peer's doing; any other has no reader but the log.
            if failure.downcast_ref::<WebSocketError>().is_some() {
                tracing::debug!(%connection, %peer, %failure, "a WebSocket handler failed");
            } else {
                log_error!(%connection, %peer, %failure, "a WebSocket handler failed");
            }
            code::INTERNAL_ERROR
        }
        Handled::Panicked(panic) => {
            log_error!(%connection, %peer, %panic, "a WebSocket handler panicked");
            code::INTERNAL_ERROR
        }
        Handled::Overdue => {
            tracing::debug!(%connection, %peer, "a WebSocket handler is dropped: its client has left");
            drop(slot.take());
            return Ok(());
        }
    };
    if let Some(mut socket) = slot.take() {
        let _ = socket.close(code, "").await;
    }
    Ok(())
}
