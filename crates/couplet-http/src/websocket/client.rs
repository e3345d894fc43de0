//! The client's side of the handshake: RFC 6455, 4.1.
//!
//! Contract: 176c, 178.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{StatusCode, Uri};
use tungstenite::protocol::Role;

use super::WebSocket;
use super::error::HandshakeError;
use super::key;
use super::options::WebSocketOptions;
use super::server::{has_token, single_value};
use super::socket::Socket;
use super::wire::Wire;
use crate::parse_url;
use crate::url::port_of;
use couplet_core::endpoints::{ClientEndpoint, IntoEndpoint, TcpClient};
use couplet_core::{Deferred, Reactor, Result, Stream};

/// Maximum length of the server's response head, in bytes.
const MAX_HEAD: usize = 64 * 1024;

/// Maximum number of headers in the server's response.
const MAX_HEADERS: usize = 100;

/// A client's request for a WebSocket.
///
/// ```
/// use couplet::http::websocket::{WebSocketOptions, WebSocketRequest};
///
/// let request = WebSocketRequest::new("wss://example.com/chat")
///     .header("authorization", "Bearer 4f2a")
///     .options(WebSocketOptions::default().protocols(["chat.v2", "chat"]));
/// # let _ = request;
/// ```
#[derive(Clone, Debug)]
pub struct WebSocketRequest {
    url: String,
    over: Option<Arc<dyn ClientEndpoint>>,
    headers: Vec<(String, String)>,
    options: WebSocketOptions,
}

impl WebSocketRequest {
    /// Creates a request for a `ws:` or `wss:` URL.
    pub fn new(url: impl Into<String>) -> WebSocketRequest {
        let options = WebSocketOptions::default();
        WebSocketRequest { url: url.into(), over: None, headers: Vec::new(), options }
    }

    /// Adds a header to the handshake. The protocol's own headers can't be set.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the limits, the timeouts and the subprotocols.
    #[must_use]
    pub fn options(mut self, options: WebSocketOptions) -> Self {
        self.options = options;
        self
    }

    /// Connects to this endpoint instead of the URL's host and port; `wss:` then makes no
    /// difference.
    ///
    /// # Errors
    ///
    /// If the endpoint is invalid.
    pub fn over(mut self, endpoint: impl IntoEndpoint<dyn ClientEndpoint>) -> Result<Self> {
        self.over = Some(endpoint.into_endpoint()?);
        Ok(self)
    }

    fn invalid(&self, problem: impl ToString) -> HandshakeError {
        HandshakeError::Request { url: self.url.clone(), problem: problem.to_string() }
    }
}

impl From<&str> for WebSocketRequest {
    fn from(url: &str) -> WebSocketRequest {
        WebSocketRequest::new(url)
    }
}

impl From<String> for WebSocketRequest {
    fn from(url: String) -> WebSocketRequest {
        WebSocketRequest::new(url)
    }
}

/// See [`HttpExt::connect_websocket`](crate::HttpExt::connect_websocket).
#[track_caller]
pub(crate) fn connect(owner: &Reactor, request: WebSocketRequest) -> Deferred<WebSocket> {
    let reactor = owner.clone();
    owner.spawn(async move {
        let target = parse_target(&request)?;
        let (head, accept) = build_head(&request, &target, key::random(&reactor))?;
        let stream = match &request.over {
            Some(endpoint) => reactor.connect_stream(endpoint.clone()).await?,
            None => reactor.connect_stream(target_endpoint(&request, &target)?).await?,
        };
        let limit = request.options.handshake_timeout;
        let shaking =
            async { Ok(perform_handshake(stream, &head, &accept, &request.options).await) };
        let shaken = reactor.timeout(limit, shaking).await;
        Ok(shaken.map_err(|_| HandshakeError::TimedOut)??)
    })
}

/// A URL, its port, and whether it requires TLS.
type Target = (Uri, u16, bool);

fn parse_target(request: &WebSocketRequest) -> Result<Target, HandshakeError> {
    let uri = parse_url(&request.url).ok_or_else(|| request.invalid("this is no URL"))?;
    let (is_secure, port) = match uri.scheme_str() {
        Some("ws") => (false, 80),
        Some("wss") => (true, 443),
        _ => return Err(request.invalid("the URL must begin with ws: or wss:")),
    };
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    if authority.contains('@') {
        return Err(request.invalid("the URL must not name a user"));
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(request.invalid("the URL has no host"));
    }
    let port = port_of(&uri, port)
        .ok_or_else(|| request.invalid("the port is out of range: ports are 1 to 65535"))?;
    Ok((uri, port, is_secure))
}

fn target_endpoint(
    request: &WebSocketRequest,
    (uri, port, is_secure): &Target,
) -> Result<Arc<dyn ClientEndpoint>, HandshakeError> {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let tcp = TcpClient::new(host, *port);
    if *is_secure { over_tls(tcp, request) } else { Ok(Arc::new(tcp)) }
}

#[cfg(any(feature = "tls", feature = "ring"))]
#[allow(clippy::unnecessary_wraps, reason = "without TLS it fails")]
fn over_tls(
    tcp: TcpClient,
    _: &WebSocketRequest,
) -> Result<Arc<dyn ClientEndpoint>, HandshakeError> {
    Ok(Arc::new(couplet_core::endpoints::TlsClient::new(tcp)))
}

#[cfg(not(any(feature = "tls", feature = "ring")))]
fn over_tls(
    _: TcpClient,
    request: &WebSocketRequest,
) -> Result<Arc<dyn ClientEndpoint>, HandshakeError> {
    Err(request.invalid("wss: needs the feature tls"))
}

/// Returns the request, and the expected answer to its key.
fn build_head(
    request: &WebSocketRequest,
    (uri, port, is_secure): &Target,
    key: String,
) -> Result<(String, String), HandshakeError> {
    let host = uri.host().unwrap_or_default();
    let usual = if *is_secure { 443 } else { 80 };
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    // A query may follow the host directly.
    let root = if path.starts_with('/') { "" } else { "/" };
    let mut head = format!("GET {root}{path} HTTP/1.1\r\nHost: {host}");
    if *port != usual {
        head += &format!(":{port}");
    }
    head += "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n";
    head += &format!("Sec-WebSocket-Key: {key}\r\n");
    let protocols = &request.options.protocols;
    if !protocols.is_empty() {
        let is_token = |name: &String| HeaderName::from_bytes(name.as_bytes()).is_ok();
        if !protocols.iter().all(is_token) {
            return Err(request.invalid("a subprotocol name must be an HTTP token"));
        }
        head += &format!("Sec-WebSocket-Protocol: {}\r\n", protocols.join(", "));
    }
    for (name, value) in &request.headers {
        let parsed =
            HeaderName::from_bytes(name.as_bytes()).map_err(|error| request.invalid(error))?;
        let ours = [header::HOST, header::UPGRADE, header::CONNECTION, header::CONTENT_LENGTH];
        let is_ours = ours.contains(&parsed) || parsed.as_str().starts_with("sec-websocket-");
        if is_ours || parsed == header::TRANSFER_ENCODING {
            return Err(request.invalid(format!("the header {name} can't be set")));
        }
        HeaderValue::from_str(value).map_err(|error| request.invalid(error))?;
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    Ok((head, key::answer(key.as_bytes())))
}

/// Sends the request and reads the response.
async fn perform_handshake(
    mut stream: Stream,
    head: &str,
    accept: &str,
    options: &WebSocketOptions,
) -> Result<WebSocket, HandshakeError> {
    stream.write_all(head).await?;
    let mut got = Vec::new();
    let mut piece = [0; 4096];
    let end = loop {
        let n = stream.read(&mut piece).await.map_err(read_error)?;
        if n == 0 {
            return Err(HandshakeError::Ended);
        }
        // The end of the head may be split across two reads.
        let searched = got.len().saturating_sub(3);
        got.extend_from_slice(&piece[..n]);
        let begins = got.len().min(HTTP.len());
        if got[..begins] != HTTP[..begins] {
            return Err(HandshakeError::Wrong("it is not HTTP/1.1"));
        }
        if let Some(at) = got[searched..].windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break searched + at + 4;
        }
        if got.len() > MAX_HEAD {
            return Err(HandshakeError::Wrong("its head exceeds 64 KiB"));
        }
    };
    let unread = Bytes::from(got.split_off(end));
    let protocol = check_response(&got, accept, options)?;
    let wire = Wire::new(stream, unread, Role::Client);
    let options = Rc::new(options.clone());
    Ok(WebSocket::new(Socket::new(wire, Role::Client, &options, protocol)))
}

/// The beginning of every response.
const HTTP: &[u8] = b"HTTP/1.1 ";

/// Converts a read error. A server that closes before it responds may do so with a reset.
fn read_error(error: io::Error) -> HandshakeError {
    match error.kind() {
        io::ErrorKind::ConnectionReset => HandshakeError::Ended,
        _ => HandshakeError::Lost(error),
    }
}

/// Checks the response and returns its subprotocol.
fn check_response(
    head: &[u8],
    accept: &str,
    options: &WebSocketOptions,
) -> Result<Option<String>, HandshakeError> {
    let wrong = HandshakeError::Wrong;
    let (status, headers) = parse_head(head).ok_or(wrong("its head is not HTTP/1.1"))?;
    if status != StatusCode::SWITCHING_PROTOCOLS {
        let location = headers.get(header::LOCATION).and_then(|to| to.to_str().ok());
        return Err(HandshakeError::Refused { status, location: location.map(str::to_owned) });
    }
    if !has_token(&headers, header::UPGRADE, "websocket") {
        return Err(wrong("it does not say \"Upgrade: websocket\""));
    }
    if !has_token(&headers, header::CONNECTION, "upgrade") {
        return Err(wrong("it does not say \"Connection: Upgrade\""));
    }
    if single_value(&headers, header::SEC_WEBSOCKET_ACCEPT) != Some(accept.as_bytes()) {
        return Err(wrong("its Sec-WebSocket-Accept does not match the key"));
    }
    if headers.get_all(header::SEC_WEBSOCKET_EXTENSIONS).iter().any(|value| !value.is_empty()) {
        return Err(wrong("it has extensions that were not offered"));
    }
    if !headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL) {
        return Ok(None);
    }
    let chosen = single_value(&headers, header::SEC_WEBSOCKET_PROTOCOL);
    let chosen = options.protocols.iter().find(|ours| chosen == Some(ours.as_bytes()));
    chosen.cloned().map(Some).ok_or(wrong("it has a subprotocol that was not offered"))
}

fn parse_head(head: &[u8]) -> Option<(StatusCode, HeaderMap)> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut answer = httparse::Response::new(&mut fields);
    let is_whole = answer.parse(head).ok()?.is_complete();
    let status = StatusCode::from_u16(answer.code.filter(|_| is_whole)?).ok()?;
    let mut headers = HeaderMap::new();
    for field in answer.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        headers.append(name, HeaderValue::from_bytes(field.value).ok()?);
    }
    Some((status, headers))
}
