//! Kinds that a program registers. The table is global to the process, so the names are unique to
//! these tests.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use couplet::endpoints::{
    ClientEndpoint, EndpointError, Parts, RegisterError, ServerEndpoint, TcpClient, TcpServer,
    client_from_string, register_client, register_server, server_from_string,
};
use couplet::factory::{ErasedFactory, Layered};
use couplet::layers::SingleBytes;
use couplet::services::ClientService;
use couplet::{ConnectError, Deferred, Loop, Port, Reactor, Transport};

use super::{Echo, ask};
use crate::needed::{Folder, has_ipv6};

/// Finds the port after a while, as a lookup of SRV records does.
#[derive(Clone, Debug)]
struct Later {
    name: String,
    port: u16,
}

impl ClientEndpoint for Later {
    fn connect(&self, reactor: &Reactor, factory: ErasedFactory) -> Deferred<Transport> {
        let (connecting, port) = (reactor.clone(), self.port);
        let found = reactor.sleep(Duration::from_millis(1)).map(move |()| port);
        found.then(move |port| TcpClient::new("127.0.0.1", port).connect(&connecting, factory))
    }

    fn host(&self) -> Option<&str> {
        Some(&self.name)
    }
}

impl fmt::Display for Later {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "later:{}:{}", self.name, self.port)
    }
}

fn later(parts: &mut Parts) -> Result<Later, EndpointError> {
    let name = parts.positional().ok_or_else(|| parts.missing("name", "later:NAME:PORT"))?;
    let port = parts.positional().ok_or_else(|| parts.missing("port", "later:NAME:PORT"))?;
    let port = port.number("a port number", 1, 65_535)? as u16;
    Ok(Later { name: name.text().to_owned(), port })
}

/// A wrapper that delivers bytes one at a time.
#[derive(Debug)]
struct Singly<E>(E);

impl<E: ServerEndpoint> ServerEndpoint for Singly<E> {
    fn listen(&self, reactor: &Reactor, factory: ErasedFactory) -> couplet::Result<Port> {
        let factory = factory.layered("singly", |_| Some(Box::new(SingleBytes::default())));
        self.0.listen(reactor, factory)
    }
}

impl<E: fmt::Display> fmt::Display for Singly<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "singly:{}", self.0)
    }
}

fn register() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        register_client("later", later).unwrap();
        register_server("singly", |parts: &mut Parts| parts.server().map(Singly)).unwrap();
        register_server("anywhere", |parts: &mut Parts| {
            let mut on = false;
            if let Some(six) = parts.keyword("six") {
                on = six.yes_or_no()?;
            }
            let ip: std::net::IpAddr =
                if on { [0, 0, 0, 0, 0, 0, 0, 1].into() } else { [127, 0, 0, 1].into() };
            Ok(TcpServer::new((ip, 0).into()))
        })
        .unwrap();
    });
}

#[test]
fn c145_a_registered_kind_works_in_strings_everywhere() {
    register();
    let mut l = Loop::new().unwrap();
    let port = l.reactor().listen("anywhere", Echo::default).unwrap();
    let number = port.host().port().unwrap();
    // Without a wrapper, inside one, and quoted in an `endpoint=`.
    for text in
        ["later:x:$", "throttle:later:x:$:read=1M", r"throttle:endpoint=later\:x\:$:write=1M"]
    {
        let text = text.replace('$', &number.to_string());
        assert_eq!(ask(&mut l, &text).unwrap(), b"hello", "{text}");
        assert_eq!(client_from_string(&text).unwrap().host(), Some("x"), "{text}");
    }
    let endpoint = server_from_string("haproxy:singly:anywhere:six=yes").unwrap();
    assert_eq!(endpoint.to_string(), "haproxy:singly:tcp:0:interface=[::1]");
    if has_ipv6() {
        let port = l.reactor().listen(&endpoint, Echo::default).unwrap().to_string();
        let number = port.rsplit(':').next().unwrap();
        assert_eq!(port, format!("haproxy:singly:[::1]:{number}"));
    }
    let service = ClientService::new(&l.reactor(), format!("later:x:{number}"), Echo::default);
    let service = service.unwrap();
    service.start();
    assert!(l.run_until(service.when_connected(Some(1))).is_ok());
}

#[test]
fn a_registered_kind_may_still_be_looking_when_it_is_cancelled() {
    register();
    let mut l = Loop::new().unwrap();
    let connecting = l.reactor().connect("later:x:9", Echo::default);
    connecting.cancel();
    let error = l.run_until(connecting).unwrap_err();
    assert!(error.is_cancelled(), "{error}");
    assert_eq!(l.snapshot().pending_calls, 0, "the lookup has been cancelled too");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let connecting = l.reactor().connect(format!("later:x:{port}"), Echo::default);
    let error = l.run_until(connecting).unwrap_err();
    assert!(error.is::<ConnectError>(), "{error}");
}

#[test]
fn registered_kinds_are_in_errors_and_hints() {
    register();
    for (text, hint) in [
        ("latr:x:80", Some("later:x:80")),
        ("throttle:latr:x:80:read=1", Some("throttle:later:x:80:read=1")),
        ("later:x", None),
    ] {
        let error = client_from_string(text).unwrap_err();
        assert_eq!(error.hint(), hint, "{error}");
    }
    let error = server_from_string("udp:80").unwrap_err();
    assert!(error.problem().contains("anywhere:"), "{error}");
    let error = server_from_string("anywhere:sx=yes").unwrap_err();
    assert_eq!(error.hint(), Some("anywhere:six=yes"), "{error}");
    assert!(error.problem().contains("known keywords are six="), "{error}");
    let error = server_from_string("anywhere:80").unwrap_err();
    assert_eq!((error.problem(), error.at()), ("expected nothing more", 9));
    let error = server_from_string("later:x:80").unwrap_err();
    assert!(error.problem().contains("an endpoint to listen starts with"), "{error}");
}

#[test]
fn a_prefix_is_registered_once_and_is_a_word() {
    register();
    for taken in ["later", "tcp", "haproxy"] {
        let refused = register_client(taken, later).unwrap_err();
        assert_eq!(refused, RegisterError::Taken(taken.to_owned()));
    }
    assert_eq!(client_from_string("tcp:a:80").unwrap().to_string(), "tcp:a:80");
    let long = "x".repeat(33);
    for invalid in ["", "UP", "a:b", "a b", "1st", "-x", "a=b", "\u{e4}", &long] {
        let refused = register_client(invalid, later).unwrap_err();
        assert_eq!(refused, RegisterError::Invalid(invalid.to_owned()));
    }
    let longest = &long[1..];
    for valid in [longest, "later-2_x+y"] {
        register_client(valid, later).unwrap();
        assert_eq!(client_from_string(&format!("{valid}:x:80")).unwrap().to_string(), "later:x:80");
    }
    // Server and client prefixes are separate.
    register_server("later-too", |parts: &mut Parts| parts.server()).unwrap();
    register_client("later-too", later).unwrap();
}

/// Wraps the given factory in another one, then listens.
#[derive(Debug)]
struct Around;

impl ServerEndpoint for Around {
    fn listen(&self, reactor: &Reactor, factory: ErasedFactory) -> couplet::Result<Port> {
        let around = Layered::new(factory, |_, _| SingleBytes::default());
        reactor.listen(SocketAddr::from(([127, 0, 0, 1], 0)), around)
    }
}

impl fmt::Display for Around {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "around")
    }
}

#[test]
fn a_factory_of_the_users_may_wrap_the_erased_one() {
    let folder = Folder::new();
    register_server("around", |_: &mut Parts| Ok(Around)).unwrap();
    for (text, connect, works) in [
        ("around", "@", true),
        // The layers of the erased factory still apply, and still reject connections.
        ("haproxy:around", "haproxy:@", true),
        ("haproxy:around", "@", false),
        ("haproxy:around:trusted=10.0.0.1", "haproxy:@", false),
        ("log:around:file=$traffic.pcap", "@", true),
    ] {
        let mut l = Loop::new().unwrap();
        let text = text.replace('$', &format!("{}/", folder.display()));
        let port = l.reactor().listen(&text, Echo::default).unwrap();
        let at = format!("127.0.0.1:{}", port.host().port().unwrap());
        let answer = ask(&mut l, connect.replace('@', &at));
        assert_eq!(answer.is_ok(), works, "{text}: {answer:?}");
    }
    let capture = std::fs::read(folder.path("traffic.pcap")).unwrap();
    assert_eq!(capture.windows(5).filter(|bytes| bytes == b"hello").count(), 1, "the answer");
}
