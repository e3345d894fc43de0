//! The server of the page and of the views as JSON, about a program or from a recording.
//!
//! Contract: 181.

use std::rc::Rc;

use bytes::Bytes;
use couplet_core::{Port, Reactor, Result};
use couplet_http::websocket::{self, WebSocketOptions};
use couplet_http::{
    Body, HeaderValue, HttpExt, Method, Request, Response, StatusCode, header, local,
};
use http_body_util::Full;

use crate::actions;
use crate::board::Board;
use crate::live;
use crate::recording::Recording;

const PAGE: &str = include_str!("../page/index.html");

const STYLE: &str = "text/css";
const SCRIPT: &str = "text/javascript";

/// The parts of the page, which need no token: their paths, types and contents.
const PARTS: [(&str, &str, &str); 11] = [
    ("/page.css", STYLE, include_str!("../page/page.css")),
    ("/page.js", SCRIPT, include_str!("../page/page.js")),
    ("/chain.js", SCRIPT, include_str!("../page/chain.js")),
    ("/elements.js", SCRIPT, include_str!("../page/elements.js")),
    ("/fields.js", SCRIPT, include_str!("../page/fields.js")),
    ("/panes.js", SCRIPT, include_str!("../page/panes.js")),
    ("/player.js", SCRIPT, include_str!("../page/player.js")),
    ("/replay.js", SCRIPT, include_str!("../page/replay.js")),
    ("/store.js", SCRIPT, include_str!("../page/store.js")),
    ("/table.js", SCRIPT, include_str!("../page/table.js")),
    ("/tables.js", SCRIPT, include_str!("../page/tables.js")),
];

/// Nothing is loaded from elsewhere.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const JSON: &str = "application/json";
const BYTES: &str = "application/octet-stream";
const TEXT: &str = "text/plain; charset=utf-8";

type Answer = Response<Full<Bytes>>;

/// The source of the answers.
#[derive(Clone)]
pub(crate) enum Source {
    /// The loops of this process.
    Program(Rc<Board>),
    Recording(Rc<Recorded>),
}

/// A recording, and the file that it was read from.
pub(crate) struct Recorded {
    pub(crate) recording: Recording,
    pub(crate) file: Bytes,
}

/// Opens the inspector's port.
pub(crate) fn serve(
    reactor: &Reactor,
    endpoint: &str,
    token: &str,
    source: Source,
) -> Result<Port> {
    let token: Rc<str> = token.into();
    let answers = local(reactor, async move |mut request: Request<Body>| {
        answer(&mut request, &token, &source).await
    });
    reactor.serve_http(endpoint, answers)
}

async fn answer(request: &mut Request<Body>, token: &str, source: &Source) -> Answer {
    let is_action = request.method() == Method::POST;
    if !is_action && !matches!(*request.method(), Method::GET | Method::HEAD) {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET, HEAD and POST are answered\n");
    }
    let path = request.uri().path().to_owned();
    if let Some((_, kind, part)) = PARTS.into_iter().find(|(part, ..)| *part == path) {
        return response(StatusCode::OK, kind, part);
    }
    if !is_allowed(request.uri().query().unwrap_or_default(), token) {
        let text = "the token is missing or wrong: the program's log has the URL with ?token=…\n";
        return plain(StatusCode::FORBIDDEN, text);
    }
    if is_action {
        let Source::Program(board) = source else {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "a recording takes no actions\n");
        };
        return match actions::act(request, board, board.options()).await {
            Ok(()) => plain(StatusCode::OK, "done\n"),
            Err((status, words)) => plain(status, format!("{words}\n")),
        };
    }
    match (view(&path, request), source) {
        (None, _) => response(StatusCode::OK, "text/html; charset=utf-8", PAGE),
        (Some("live"), Source::Program(board)) => {
            let board = board.clone();
            let options = WebSocketOptions::default().max_message(live::MOST);
            websocket::upgrade(request, options, async move |socket| live::run(socket, board).await)
        }
        (Some(name), Source::Program(board)) => view_of_program(name, &path, board).await,
        (Some("recording"), Source::Recording(it)) => {
            response(StatusCode::OK, BYTES, it.file.clone())
        }
        (Some("state"), Source::Recording(it)) => {
            response(StatusCode::OK, JSON, it.recording.state())
        }
        (Some(name), Source::Recording(it)) => match it.recording.view(name) {
            Some(rows) => response(StatusCode::OK, JSON, rows),
            None => no_view(&path),
        },
    }
}

async fn view_of_program(name: &str, path: &str, board: &Rc<Board>) -> Answer {
    if let Err(failure) = board.refresh().await {
        return plain(StatusCode::SERVICE_UNAVAILABLE, format!("{failure}\n"));
    }
    match name {
        "recording" => response(StatusCode::OK, BYTES, board.recording(None)),
        "state" => response(StatusCode::OK, JSON, board.everything()),
        name => match board.rows(name) {
            Some(rows) => response(StatusCode::OK, JSON, rows),
            None => no_view(path),
        },
    }
}

fn no_view(path: &str) -> Answer {
    plain(StatusCode::NOT_FOUND, format!("{path} is no view; see /state.json\n"))
}

/// The view that a request names; `None` for the page.
fn view<'a>(path: &'a str, request: &Request<Body>) -> Option<&'a str> {
    let accepted = request.headers().get_all(header::ACCEPT).iter();
    let mut accepted = accepted.filter_map(|value| value.to_str().ok());
    match path.strip_prefix('/').unwrap_or(path) {
        "" if accepted.any(|value| value.contains(JSON)) => Some("state"),
        "" => None,
        name => Some(name.strip_suffix(".json").unwrap_or(name)),
    }
}

/// Whether a query has the token. The time of the comparison depends only on its length.
fn is_allowed(query: &str, token: &str) -> bool {
    let given = query.split('&').find_map(|pair| pair.strip_prefix("token=")).unwrap_or_default();
    let differences = given.bytes().zip(token.bytes()).map(|(ours, theirs)| ours ^ theirs);
    given.len() == token.len() && differences.fold(0, |all, one| all | one) == 0
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    response(status, TEXT, text)
}

fn response(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let fields = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    for (name, value) in fields {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_compared_as_a_whole() {
        assert!(is_allowed("token=abc", "abc"));
        assert!(is_allowed("a=b&token=abc", "abc"));
        for query in ["", "token=", "token=ab", "token=abcd", "token=abd", "xtoken=abc"] {
            assert!(!is_allowed(query, "abc"), "{query}");
        }
        assert!(is_allowed("", ""), "a UNIX socket needs none");
        assert!(!is_allowed("token=a", ""));
    }
}
