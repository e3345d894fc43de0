//! Endpoint strings, the library's and the program's: what parses prints as a string that means the
//! same, and an error points into the string.
//!
//! The input is the string.

use couplet::endpoints::{ClientEndpoint, EndpointError, ServerEndpoint, quote};

use crate::endpoint::{to_connect, to_listen};

pub(crate) const WORDS: &[&str] = &[
    "tcp:",
    "unix:",
    "tls:",
    "ssl:",
    "cert=a.pem",
    "key=",
    "privateKey=",
    "sni=",
    "ca=",
    "client-ca=",
    "servername=",
    "alpn=h2,http/1.1",
    "@",
    "/run/app.sock",
    "mode=660",
    "owner=0",
    "lockfile=",
    "address=",
    "path=",
    ":",
    "=",
    "\\",
    "\\:",
    "\\\\",
    "[",
    "]",
    "[::1]",
    "127.0.0.1",
    "localhost",
    "80",
    "0",
    "65536",
    "host=",
    "port=",
    "interface=",
    "backlog=",
    "reuse_port=yes",
    "timeout=",
    "1e300",
    "0.5",
    "inf",
    "nan",
    "bindAddress=",
    "bindPort=",
    "no_delay=no",
    "fe80::1%1",
    "%lo",
    "\u{e4}",
    "\u{1f4dc}",
    "\x07",
];

/// Tries one input.
///
/// # Panics
///
/// If an endpoint does not round-trip through its own string, or an error points elsewhere.
pub fn endpoints(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    server(text);
    client(text);
    quoted(text);
    typed(text);
}

fn server(text: &str) {
    match text.parse::<ServerEndpoint>() {
        Ok(endpoint) => {
            let printed = endpoint.to_string();
            let again = printed.parse::<ServerEndpoint>();
            let again = again.unwrap_or_else(|error| panic!("{text:?}: {error}"));
            assert_eq!(format!("{again:?}"), format!("{endpoint:?}"), "{text:?} as {printed:?}");
        }
        Err(error) => points_into(&error, text),
    }
}

fn client(text: &str) {
    match text.parse::<ClientEndpoint>() {
        Ok(endpoint) => {
            let printed = endpoint.to_string();
            let again = printed.parse::<ClientEndpoint>();
            let again = again.unwrap_or_else(|error| panic!("{text:?}: {error}"));
            assert_eq!(format!("{again:?}"), format!("{endpoint:?}"), "{text:?} as {printed:?}");
        }
        Err(error) => points_into(&error, text),
    }
}

fn target(endpoint: &ClientEndpoint) -> (String, u16) {
    match endpoint {
        ClientEndpoint::Tcp { host, port, .. } => (host.clone(), *port),
        ClientEndpoint::Unix { path, .. } => (format!("{path:?}"), 0),
        ClientEndpoint::Tls { over, .. } => target(over),
        other => panic!("{other:?} is not known here"),
    }
}

/// The caret is under a character of the string, or right after it.
fn points_into(error: &EndpointError, text: &str) {
    assert!(text.is_char_boundary(error.at()), "{} of {text:?}", error.at());
    let printed = error.to_string();
    let lines: Vec<&str> = printed.split('\n').collect();
    assert_eq!(lines.len(), 3 + usize::from(error.hint().is_some()), "{printed}");
    assert_eq!(lines[1].chars().count(), 4 + text.chars().count(), "{printed}");
    assert_eq!(lines[2].find('^'), Some(4 + text[..error.at()].chars().count()), "{printed}");
}

/// A quoted text is one value, and round-trips.
fn quoted(text: &str) {
    let read = format!("tcp:host={}:port=80", quote(text)).parse::<ClientEndpoint>();
    match read {
        Ok(endpoint) if text.starts_with('[') => drop(endpoint),
        Ok(endpoint) => assert_eq!(target(&endpoint), (text.to_owned(), 80)),
        Err(error) => {
            // A scope must exist.
            let refused = text.is_empty() || text.contains(['[', ']', '/', ' ', '%']);
            assert!(refused, "{text:?} does not round-trip: {error}");
        }
    }
}

/// The program's name for an endpoint is a string that the library parses.
fn typed(text: &str) {
    match to_connect(text) {
        Ok(peer) => {
            let again = peer.name.parse::<ClientEndpoint>();
            let again = again.unwrap_or_else(|error| panic!("{text:?}: {error}"));
            assert_eq!(target(&again), target(&peer.endpoint), "{text:?}");
        }
        Err(error) => printable(&error.to_string()),
    }
    if let Err(error) = to_listen(text) {
        printable(&error.to_string());
    }
}

fn printable(error: &str) {
    let control = |c: char| c.is_control() && c != '\n';
    assert!(!error.contains(control), "{error:?} has a control character");
}
