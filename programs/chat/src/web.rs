//! The chat's page: a browser's WebSocket carries the lines of a line client, a message for each.
//!
//! The member behind a page is the same as behind any connection. A pair of sockets joins the two,
//! so a slow page, and one that talks too fast, meet the same limits as a line client.
//!
//! Contract: 228.

use std::cell::Cell;
use std::future::poll_fn;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use couplet::endpoints::ServerEndpoint;
use couplet::http::websocket::{self, Message, WebSocket, WebSocketOptions, code};
use couplet::http::{
    Body, HeaderValue, HttpExt, Method, Request, Response, StatusCode, header, local,
};
use couplet::{Port, Protocol, Reactor, Stream, Transport};

use crate::member::{ChatServer, LINE_LENGTH};
use crate::room::Room;

/// The parts of the page: their paths, types and contents.
const PARTS: [(&str, &str, &str); 3] = [
    ("/", "text/html; charset=utf-8", include_str!("page/index.html")),
    ("/page.css", "text/css", include_str!("page/page.css")),
    ("/page.js", "text/javascript", include_str!("page/page.js")),
];

/// The path of the WebSocket.
const LINES: &str = "/lines";

/// Longest message of a page, in bytes; a line that is a little too long gets an answer.
const MESSAGE: usize = 4 * LINE_LENGTH;

/// Nothing is loaded from elsewhere, and no other page may show this one.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

type Answer = Response<String>;

/// Serves the page of the room.
pub(crate) fn listen(
    reactor: &Reactor,
    endpoint: Arc<dyn ServerEndpoint>,
    room: &Rc<Room>,
) -> couplet::Result<Port> {
    let room = room.clone();
    let answers =
        local(reactor, async move |mut request: Request<Body>| answer(&mut request, &room));
    reactor.serve_http(endpoint, answers)
}

fn answer(request: &mut Request<Body>, room: &Rc<Room>) -> Answer {
    if !matches!(*request.method(), Method::GET | Method::HEAD | Method::CONNECT) {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered\n");
    }
    let path = request.uri().path();
    if path == LINES {
        if let Err(problem) = check_origin(request) {
            tracing::warn!("a page was refused: {problem}");
            return plain(StatusCode::FORBIDDEN, &format!("{problem}\n"));
        }
        let options = WebSocketOptions::default().max_message(MESSAGE).max_frame(MESSAGE);
        let room = room.clone();
        return websocket::upgrade(request, options, async move |socket| talk(socket, &room).await);
    }
    match PARTS.into_iter().find(|(part, ..)| *part == path) {
        Some((_, kind, part)) => response(StatusCode::OK, kind, part),
        None => plain(StatusCode::NOT_FOUND, "the chat is at /\n"),
    }
}

/// The header with the page's own origin, sent to ask why the page was refused.
const OWN_ORIGIN: &str = "x-couplet-origin";

/// The header with the host that a client has requested from a proxy.
const FORWARDED_HOST: &str = "x-forwarded-host";

/// Checks that the page of a browser is of this server. A browser always sends the origin: a request
/// without one is by another program, which could use the line protocol as well. A name that its
/// owner points at this server passes (DNS rebinding): the names of this server are not known here.
/// A proxy passes on the requested name; no page of a browser can set these headers.
fn check_origin<B>(request: &Request<B>) -> Result<(), String> {
    let headers = request.headers();
    let mut origins = headers.get_all(header::ORIGIN).iter().chain(headers.get(OWN_ORIGIN));
    let Some(origin) = origins.next() else { return Ok(()) };
    let shown = String::from_utf8_lossy(origin.as_bytes()).into_owned();
    let hosts = hosts(request);
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    let is_own =
        |(_, origin): (&str, &str)| hosts.iter().any(|host| origin.eq_ignore_ascii_case(host));
    if origins.next().is_none() && origin.is_some_and(is_own) {
        return Ok(());
    }
    let hosts = hosts.join(" or ");
    Err(format!(
        "the page's origin is {shown}, but the server was asked as {hosts}: a proxy has to pass Host or \
         X-Forwarded-Host"
    ))
}

/// The names by which a client asked for this server, the proxy's included.
fn hosts<B>(request: &Request<B>) -> Vec<String> {
    let headers = request.headers();
    let own = request.uri().authority().map(|authority| authority.as_str().to_owned());
    let text = |name: header::HeaderName| headers.get(name)?.to_str().ok().map(str::to_owned);
    let own = own.or_else(|| text(header::HOST));
    let first = |text: String| text.split(',').next().map(|host| host.trim().to_owned());
    let forwarded = headers.get(FORWARDED_HOST).and_then(|host| host.to_str().ok());
    let forwarded = forwarded.map(str::to_owned).and_then(first);
    // RFC 7239: for=192.0.2.1;host=chat.example;proto=https
    let standard = text(header::FORWARDED).and_then(first).and_then(|proxy| {
        let mut pairs = proxy.split(';').filter_map(|pair| pair.trim().split_once('='));
        let (_, host) = pairs.find(|(name, _)| name.eq_ignore_ascii_case("host"))?;
        Some(host.trim_matches('"').to_owned())
    });
    own.into_iter().chain(forwarded).chain(standard).collect()
}

/// Carries lines between a page and its member of the room until one of them leaves.
async fn talk(mut page: WebSocket, room: &Rc<Room>) -> couplet::Result<()> {
    tracing::debug!(peer = %page.peer(), "a page has connected");
    let mut member = join(page.transport().reactor(), room).await?;
    loop {
        match next(&mut page, &mut member).await {
            Next::FromPage(None) => return Ok(()),
            Next::FromPage(Some(message)) => {
                let message = message?;
                let Some(text) = message.as_text() else {
                    page.close(code::UNSUPPORTED, "a line is a text").await?;
                    return Ok(());
                };
                // A message is one line.
                member.write_all(format!("{}\n", text.replace('\n', " "))).await?;
            }
            Next::FromMember(line) => match line? {
                Some(line) => page.send(String::from_utf8_lossy(&line).into_owned()).await?,
                None => {
                    page.close(code::NORMAL, "").await?;
                    return Ok(());
                }
            },
        }
    }
}

enum Next {
    FromPage(Option<Result<Message, websocket::WebSocketError>>),
    FromMember(std::io::Result<Option<Vec<u8>>>),
}

/// The next message of the page, or line of the chat.
async fn next(page: &mut WebSocket, member: &mut Stream) -> Next {
    let (mut message, mut line) = (pin!(page.recv()), pin!(member.read_line()));
    poll_fn(|cx| match line.as_mut().poll(cx) {
        Poll::Ready(line) => Poll::Ready(Next::FromMember(line)),
        Poll::Pending => message.as_mut().poll(cx).map(Next::FromPage),
    })
    .await
}

/// Makes a member of the room; returns the other end of its connection.
async fn join(reactor: &Reactor, room: &Rc<Room>) -> couplet::Result<Stream> {
    let (ours, theirs) = UnixStream::pair()?;
    let room = room.clone();
    reactor.adopt(theirs, move || ChatServer::of_page(&room))?.await?;
    let stream = Rc::new(Cell::new(None));
    let made = stream.clone();
    reactor.adopt(ours, move || Streaming(made.clone()))?.await?;
    Ok(stream.take().expect("the connection was made"))
}

/// Makes a stream of its connection.
struct Streaming(Rc<Cell<Option<Stream>>>);

impl Protocol for Streaming {
    fn connection_made(&mut self, transport: &Transport) {
        self.0.set(Some(Stream::new(transport)));
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

fn plain(status: StatusCode, text: &str) -> Answer {
    response(status, "text/plain; charset=utf-8", text)
}

fn response(status: StatusCode, kind: &'static str, body: &str) -> Answer {
    let mut response = Response::new(body.to_owned());
    *response.status_mut() = status;
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_page_is_recognized_by_its_origin() {
        for (origins, host, is_own) in [
            (&["http://chat.example:8080"][..], "chat.example:8080", true),
            (&["https://Chat.example"], "chat.example", true),
            (&["http://[::1]:80"], "[::1]:80", true),
            (&[], "chat.example", true),
            (&["http://evil.example"], "chat.example", false),
            (&["http://chat.example"], "chat.example:8080", false),
            (&["http://chat.example.evil.example"], "chat.example", false),
            (&["null"], "chat.example", false),
            (&[""], "chat.example", false),
            (&["http://chat.example", "http://evil.example"], "chat.example", false),
        ] {
            let mut request = Request::builder().uri("/lines").header(header::HOST, host);
            for origin in origins {
                request = request.header(header::ORIGIN, *origin);
            }
            let request = request.body(()).expect("it is valid");
            assert_eq!(check_origin(&request).is_ok(), is_own, "{origins:?} at {host}");
        }
    }

    #[test]
    fn a_proxy_says_by_which_name_it_was_asked() {
        for (name, value, is_own) in [
            ("x-forwarded-host", "chat.example", true),
            ("x-forwarded-host", "Chat.example, inner.example", true),
            ("x-forwarded-host", "inner.example, chat.example", false),
            ("forwarded", "for=192.0.2.1;host=chat.example;proto=https", true),
            ("forwarded", "for=192.0.2.1; Host=\"chat.example\"", true),
            ("forwarded", "host=inner.example, host=chat.example", false),
            ("x-forwarded-for", "chat.example", false),
        ] {
            for origin in ["origin", OWN_ORIGIN] {
                let request = Request::builder().uri("/lines").header(header::HOST, "127.0.0.1:80");
                let request = request.header(origin, "https://chat.example").header(name, value);
                let request = request.body(()).expect("it is valid");
                let checked = check_origin(&request);
                assert_eq!(checked.is_ok(), is_own, "{name}: {value}: {checked:?}");
            }
        }
    }
}
