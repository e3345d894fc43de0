//! Endpoint strings, the library's and the program's: an endpoint that parses prints as a string
//! with the same meaning, and an error points into the string.
//!
//! The input is the string.

use std::any::Any;

use couplet::endpoints::{EndpointError, TcpClient, client_from_string, quote, server_from_string};

use couplet_command::endpoint::{to_connect, to_listen};

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
    "chain=",
    "trustRoots=",
    "hostname=",
    "extraCertChain=",
    "sslmethod=TLS_METHOD",
    "tcp6:",
    "fd:3",
    "systemd:",
    "systemd:domain=INET:index=0",
    "name=web",
    "haproxy:",
    "trusted=10.0.0.0/8,[::1]",
    "header-timeout=",
    "version=2",
    "throttle:",
    "read=64k",
    "write=1M",
    "shared=yes",
    "log:",
    "file=a.pcap",
    "form=hex",
    "limit=",
    "endpoint=",
    "endpoint=tcp\\:80",
    "udp:",
    "tsl:",
    "haprox:",
    "crt=",
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
    match server_from_string(text) {
        Ok(endpoint) => {
            let printed = endpoint.to_string();
            let again = server_from_string(&printed);
            let again = again.unwrap_or_else(|error| panic!("{text:?}: {error}"));
            assert_eq!(format!("{again:?}"), format!("{endpoint:?}"), "{text:?} as {printed:?}");
        }
        Err(error) => check_error(&error, text),
    }
}

fn client(text: &str) {
    match client_from_string(text) {
        Ok(endpoint) => {
            let printed = endpoint.to_string();
            let again = client_from_string(&printed);
            let again = again.unwrap_or_else(|error| panic!("{text:?}: {error}"));
            assert_eq!(format!("{again:?}"), format!("{endpoint:?}"), "{text:?} as {printed:?}");
        }
        Err(error) => check_error(&error, text),
    }
}

/// Checks that the caret is under a character of the string, or right after it.
fn check_error(error: &EndpointError, text: &str) {
    assert!(text.is_char_boundary(error.at()), "{} of {text:?}", error.at());
    let printed = error.to_string();
    let lines: Vec<&str> = printed.split('\n').collect();
    assert_eq!(lines.len(), 3 + usize::from(error.hint().is_some()), "{printed}");
    assert_eq!(lines[1].chars().count(), 4 + text.chars().count(), "{printed}");
    assert_eq!(lines[2].find('^'), Some(4 + text[..error.at()].chars().count()), "{printed}");
}

/// Checks that a quoted text is one value and round-trips.
fn quoted(text: &str) {
    match client_from_string(&format!("tcp:host={}:port=80", quote(text))) {
        Ok(endpoint) if text.starts_with('[') => drop(endpoint),
        Ok(endpoint) => {
            let any: &dyn Any = &*endpoint;
            let tcp: &TcpClient = any.downcast_ref().expect("it is tcp:");
            assert_eq!((&*tcp.host, tcp.port), (text, 80));
        }
        Err(error) => {
            // A scope must exist.
            let refused = text.is_empty() || text.contains(['[', ']', '/', ' ', '%']);
            assert!(refused, "{text:?} does not round-trip: {error}");
        }
    }
}

/// Checks that the program's name for an endpoint is a string that the library parses.
fn typed(text: &str) {
    match to_connect(text) {
        Ok(peer) => {
            let again = client_from_string(&peer.name);
            let again = again.unwrap_or_else(|error| panic!("{text:?}: {error}"));
            assert_eq!(format!("{again:?}"), format!("{:?}", peer.endpoint), "{text:?}");
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
