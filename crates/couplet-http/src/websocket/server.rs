//! The server's side of the handshake: RFC 6455, 4.2.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Extensions, Method, Request, Response, StatusCode, Version};
use hyper::ext::Protocol;
use hyper::upgrade::{OnUpgrade, Upgraded};
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::Role;

use super::guest::Guest;
use super::options::WebSocketOptions;
use super::socket::Socket;
use super::wire::Wire;
use super::{WebSocket, code};
use crate::io::Io;
use crate::watch::Watch;
use couplet_core::Result;
use couplet_core::hooks::Homing;
use couplet_core::hooks::caught;

/// Identifies the connection of a request that may be upgraded.
#[derive(Clone)]
pub(crate) struct Origin(Arc<Homing<Rc<Watch>>>);

impl Origin {
    /// Attaches the connection to a request that may be upgraded.
    pub(crate) fn note(extensions: &mut Extensions, watch: &Rc<Watch>) {
        if extensions.get::<OnUpgrade>().is_some() {
            let homing = Homing::new(watch.transport().reactor(), watch.clone());
            extensions.insert(Origin(Arc::new(homing)));
        }
    }
}

/// A valid request for a WebSocket.
struct Asked {
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
/// When the handler returns, its WebSocket is closed with code 1000, or with 1011 if it failed or
/// panicked.
///
/// Pages of other sites can connect too, with the user's cookies: where that matters, check the
/// request's `origin` header first.
///
/// ```
/// use couplet::http::websocket::{self, WebSocket, WebSocketOptions};
/// use couplet::http::{Body, Request, Response};
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
    let asked = match asked(request, &options) {
        Ok(asked) => asked,
        Err((status, problem)) => return refusal(status, problem),
    };
    let origin = request.extensions_mut().remove::<Origin>();
    let Some(watch) = origin.as_ref().and_then(|origin| origin.0.get()) else {
        log_error!("a WebSocket was asked of a request that no server of this crate has got");
        return refusal(StatusCode::INTERNAL_SERVER_ERROR, "");
    };
    let upgrading = hyper::upgrade::on(request);
    let protocol = asked.protocol.clone();
    let reactor = watch.transport().reactor();
    reactor.spawn(run(upgrading, watch.clone(), Rc::new(options), protocol, handle)).detach();
    answer(asked)
}

fn answer<B: From<&'static str>>(asked: Asked) -> Response<B> {
    let mut answer = Response::new(B::from(""));
    if let Some(accept) = asked.accept {
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = answer.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    // The client offered this name in a header, so it is valid in one.
    if let Some(protocol) = asked.protocol.and_then(|name| HeaderValue::try_from(name).ok()) {
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
fn asked<Q>(
    request: &Request<Q>,
    options: &WebSocketOptions,
) -> Result<Asked, (StatusCode, &'static str)> {
    const WRONG: StatusCode = StatusCode::BAD_REQUEST;
    let headers = request.headers();
    let extended = request.extensions().get::<Protocol>();
    let is_extended = extended.is_some_and(|name| name.as_str() == "websocket");
    if !is_extended && !has_token(headers, header::UPGRADE, "websocket") {
        return Err((StatusCode::UPGRADE_REQUIRED, "this is a WebSocket\n"));
    }
    let is_get = request.method() == Method::GET && request.version() == Version::HTTP_11;
    if !is_extended && !is_get {
        return Err((WRONG, "a WebSocket is asked for by GET, in HTTP/1.1\n"));
    }
    if !is_extended && !has_token(headers, header::CONNECTION, "upgrade") {
        return Err((WRONG, "the connection is not to be upgraded\n"));
    }
    if has_body(headers) {
        return Err((WRONG, "a WebSocket is asked for without a body\n"));
    }
    match only(headers, header::SEC_WEBSOCKET_VERSION) {
        Some(b"13") => {}
        Some(_) => return Err((StatusCode::UPGRADE_REQUIRED, "the version is 13\n")),
        None => return Err((WRONG, "there is not one Sec-WebSocket-Version\n")),
    }
    let key = only(headers, header::SEC_WEBSOCKET_KEY).filter(|key| is_key(key));
    if key.is_none() && !is_extended {
        return Err((WRONG, "there is not one Sec-WebSocket-Key, of 16 bytes in Base64\n"));
    }
    let accept = key
        .filter(|_| !is_extended)
        .map(|key| HeaderValue::try_from(derive_accept_key(key)).expect("Base64 is ASCII"));
    let offered: Vec<&str> = tokens(headers, header::SEC_WEBSOCKET_PROTOCOL).collect();
    let protocol = options.protocols.iter().find(|ours| offered.contains(&ours.as_str())).cloned();
    Ok(Asked { accept, protocol })
}

/// Whether a request has a body: RFC 9112, 6.3.
fn has_body(headers: &HeaderMap) -> bool {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    headers.contains_key(header::TRANSFER_ENCODING)
        || lengths.any(|length| length.as_bytes().iter().any(|digit| *digit != b'0'))
}

/// Returns the value of a header that occurs exactly once.
pub(super) fn only(headers: &HeaderMap, name: HeaderName) -> Option<&[u8]> {
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

/// Whether `key` is 16 bytes in Base64.
fn is_key(key: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    // The last digit of 16 bytes has four zero bits.
    matches!(key, [digits @ .., b'A' | b'Q' | b'g' | b'w', b'=', b'=']
        if digits.len() == 21 && digits.iter().all(is_digit))
}

/// Returns the whole connection, or an HTTP/2 stream of it.
fn wire_of(upgraded: Upgraded, watch: &Rc<Watch>) -> Wire {
    let parts = match upgraded.downcast::<Io>() {
        Ok(parts) => parts,
        Err(upgraded) => return Wire::guest(Guest::new(upgraded, watch)),
    };
    let (stream, unread) = parts.io.into_parts().expect("a task runs in its loop's thread");
    let unread =
        if unread.is_empty() { parts.read_buf } else { [parts.read_buf, unread].concat().into() };
    Wire::new(stream, unread, Role::Server)
}

/// Runs the handler, and closes the WebSocket that it leaves.
async fn run(
    upgrading: OnUpgrade,
    watch: Rc<Watch>,
    options: Rc<WebSocketOptions>,
    protocol: Option<String>,
    handle: impl AsyncFnOnce(WebSocket) -> Result<()> + 'static,
) -> Result<()> {
    let upgraded = match upgrading.await {
        Ok(upgraded) => upgraded,
        Err(error) => {
            tracing::debug!(%error, "a connection did not become a WebSocket");
            return Ok(());
        }
    };
    let wire = wire_of(upgraded, &watch);
    drop(watch);
    let transport = wire.transport().clone();
    let (socket, home) = WebSocket::of_handler(Socket::new(wire, Role::Server, &options, protocol));
    let (connection, peer) = (transport.id(), transport.peer());
    let handled = {
        let mut handling = pin!(handle(socket));
        poll_fn(|cx| match caught(|| handling.as_mut().poll(cx)) {
            Ok(polled) => polled.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        })
        .await
    };
    let code = match handled {
        Ok(Ok(())) => code::NORMAL,
        Ok(Err(failure)) => {
            tracing::debug!(%connection, %peer, %failure, "a handler of a WebSocket failed");
            code::INTERNAL_ERROR
        }
        Err(panic) => {
            log_error!(%connection, %peer, %panic, "a handler of a WebSocket panicked");
            code::INTERNAL_ERROR
        }
    };
    if let Some(mut socket) = home.take() {
        let _ = socket.close(code, "").await;
    }
    Ok(())
}
