//! Endpoint strings: contract rows 144 and 145 (the TCP part), and 33.

use couplet::endpoints::{ClientEndpoint, EndpointError, ServerEndpoint, quote};
use couplet::{Loop, Protocol, Transport};
use proptest::prelude::*;

fn client(text: &str) -> Result<(String, u16), EndpointError> {
    match text.parse()? {
        ClientEndpoint::Tcp { host, port, .. } => Ok((host, port)),
        other => panic!("{other:?}"),
    }
}

fn server(text: &str) -> Result<String, EndpointError> {
    match text.parse()? {
        ServerEndpoint::Tcp { address, .. } => Ok(address.to_string()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn c144_colons_separate_and_the_first_equals_sign_splits() {
    assert_eq!(client("tcp:example.com:80"), Ok(("example.com".into(), 80)));
    assert_eq!(client("tcp:host=example.com:port=80"), Ok(("example.com".into(), 80)));
    assert_eq!(client("tcp:port=80:host=a=b"), Ok(("a=b".into(), 80)));
    assert_eq!(client("tcp:[::1]:80"), Ok(("::1".into(), 80)));
    assert_eq!(server("tcp:80:interface=127.0.0.1"), Ok("127.0.0.1:80".into()));
    assert_eq!(server("tcp:port=80:interface=[::1]"), Ok("[::1]:80".into()));
}

#[test]
fn c144_a_backslash_escapes() {
    assert_eq!(server(r"tcp:80:interface=\:\:1"), Ok("[::1]:80".into()));
    assert_eq!(client(r"tcp:\e\xample.com:80"), Ok(("example.com".into(), 80)));
    assert_eq!(client(r"tcp:a\=b:80"), Ok(("a=b".into(), 80)));
    assert!(client("tcp:example.com:80\\").is_err());
}

#[test]
fn c144_quoting_protects_backslash_and_colon() {
    assert_eq!(quote(r"a\b:c=d"), r"a\\b\:c=d");
    let text = format!("tcp:{}:80", quote(r"a\b:c"));
    assert_eq!(client(&text), Ok((r"a\b:c".into(), 80)));
}

#[test]
fn a_client_endpoint_prints_as_a_string_that_means_the_same() {
    for text in ["tcp:[::1]:80", r"tcp:\:\:1:80", r"tcp:a\:b:80", r"tcp:a\=b:80", "tcp:host=a=b:80"]
    {
        let endpoint: ClientEndpoint = text.parse().unwrap();
        assert_eq!(client(&endpoint.to_string()), client(text), "{text} as {endpoint}");
    }
}

#[test]
fn an_error_does_nothing_to_a_terminal() {
    let error = client("tcp:host:80:\x1b[2J\n=x").unwrap_err();
    assert!(!error.problem().contains(char::is_control), "{error:?}");
    assert_eq!(error.to_string().lines().count(), 3);
}

struct Quiet;

impl Protocol for Quiet {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

#[test]
fn c145_tcp_listens_on_both_families() {
    let mut l = Loop::new().unwrap();
    let reactor = l.reactor();
    let port = reactor.listen("tcp:0", || Quiet).unwrap();
    let number = port.host().port().unwrap();
    for host in ["127.0.0.1", "[::1]"] {
        let connecting = reactor.connect(format!("tcp:{host}:{number}"), || Quiet);
        let connection = l.run_until(connecting).unwrap_or_else(|e| panic!("{host}: {e}"));
        // A peer of IPv4 is shown as IPv4, on both sides.
        let peer = connection.transport().peer().ip().unwrap();
        assert_eq!(peer.is_ipv4(), host == "127.0.0.1");
    }
}

#[test]
fn c145_interface_narrows_a_port() {
    let mut l = Loop::new().unwrap();
    let reactor = l.reactor();
    let port = reactor.listen("tcp:0:interface=127.0.0.1", || Quiet).unwrap();
    let number = port.host().port().unwrap();
    assert_eq!(port.host().to_string(), format!("tcp:127.0.0.1:{number}"));
    let there = reactor.connect(format!("tcp:127.0.0.1:{number}"), || Quiet);
    assert!(l.run_until(there).is_ok());
    let elsewhere = reactor.connect(format!("tcp:[::1]:{number}"), || Quiet);
    assert!(l.run_until(elsewhere).is_err());
}

#[test]
fn c145_an_unknown_prefix_is_an_error() {
    for text in ["udp:80", "80", "", "unix", "TCP:80", "tcp=80"] {
        let error = server(text).unwrap_err();
        assert!(error.problem().contains("begins with tcp:"), "{text}: {error}");
    }
}

/// (text, the column of the caret, a word of the problem)
const BAD_TO_LISTEN: [(&str, usize, &str); 9] = [
    ("tcp:", 4, "port"),
    ("tcp", 3, "missing"),
    ("tcp:http", 4, "port"),
    ("tcp:65536", 4, "65535"),
    ("tcp:-1", 4, "port"),
    ("tcp:80:interface=here", 17, "IP address"),
    ("tcp:80:backlog=0", 15, "connections"),
    ("tcp:80:colour=red", 7, "known"),
    ("tcp:80:81", 7, "nothing more"),
];

const BAD_TO_CONNECT: [(&str, usize, &str); 9] = [
    ("tcp:80", 6, "missing"),
    ("tcp::80", 4, "missing"),
    ("tcp:host:http", 9, "port"),
    ("tcp:[::1:80", 4, "never closed"),
    ("tcp:[localhost]:80", 4, "IPv6"),
    ("tcp:two words:80", 4, "host name"),
    ("tcp:host:80:timeout=soon", 20, "seconds"),
    ("tcp:host:80:timeout=1:timeout=2", 22, "twice"),
    (r"tcp:host:80:\c\olour=red", 12, "known"),
];

#[test]
fn c33_a_malformed_endpoint_is_an_error_at_once_that_shows_the_place() {
    let to_listen =
        BAD_TO_LISTEN.map(|(text, at, word)| (text, at, word, server(text).unwrap_err()));
    let to_connect =
        BAD_TO_CONNECT.map(|(text, at, word)| (text, at, word, client(text).unwrap_err()));
    for (text, at, word, error) in to_listen.into_iter().chain(to_connect) {
        assert!(error.problem().contains(word), "{text}: {error}");
        let printed = error.to_string();
        let lines: Vec<&str> = printed.lines().collect();
        assert_eq!(lines[1].trim_start(), text);
        assert_eq!(lines[2].find('^'), Some(4 + at), "{printed}");
    }
}

#[test]
fn a_connect_to_what_is_no_endpoint_is_a_deferred_that_has_failed() {
    let mut l = Loop::new().unwrap();
    let connecting = l.reactor().connect("tcp:localhost", || Quiet);
    let failure = l.run_until(connecting).unwrap_err();
    assert!(failure.is::<EndpointError>(), "{failure}");
}

proptest! {
    #[test]
    fn any_text_is_an_endpoint_or_an_error_and_never_a_panic(text in ".{0,60}") {
        let _ = server(&text).map_err(|error| error.to_string());
        let _ = client(&text).map_err(|error| error.to_string());
        let _ = client(&format!("tcp:{text}")).map_err(|error| error.to_string());
    }

    #[test]
    fn what_is_quoted_comes_back(host in "[a-z:\\\\.-]{1,20}", port: u16) {
        // Without `=`, at which a part is split.
        let read = client(&format!("tcp:{}:{port}", quote(&host)));
        prop_assert_eq!(read, Ok((host, port)));
    }

    #[test]
    fn an_endpoint_prints_as_a_string_that_means_the_same(port: u16, ip: std::net::IpAddr) {
        let endpoint: ServerEndpoint =
            format!("tcp:{port}:interface={}", quote(&ip.to_string())).parse().unwrap();
        prop_assert_eq!(server(&endpoint.to_string()), server(&format!("tcp:{port}:interface={}", quote(&ip.to_string()))));
    }
}
