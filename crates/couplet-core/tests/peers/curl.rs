//! curl, as a client of HTTP over TLS and over UNIX sockets.

use couplet::factory::Layered;
use couplet::{ListenOptions, Reason, Transport, UnixAddress};

use crate::kit::{Ends, Event, NAME, Scene, has};
use crate::logged::logged;
use couplet_testkit_loops::authority::Authority;

/// More than the kernel buffers.
const MUCH: usize = 5_000_000;

/// Answers each request with a long text, and closes, as HTTP/1.0 does (RFC 1945, 7.2.2).
fn http(transport: &Transport, event: Event<'_>) {
    match event {
        Event::Data(data) if data.ends_with(b"\r\n\r\n") => {
            let head = format!("HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n{NAME}\n");
            transport.write(head);
            transport.write(vec![b'x'; MUCH]);
            transport.lose_connection();
        }
        Event::ReadClosed => transport.lose_connection(),
        _ => {}
    }
}

impl Scene {
    fn curl(&mut self, words: &[&str]) -> (bool, String) {
        let always = ["--silent", "--show-error", "--max-time", "20", "--noproxy", "*"];
        self.run(&mut self.command("curl", &[&always, words].concat()))
    }
}

#[test]
fn a_page_is_read_to_its_end() {
    if !has("curl") {
        return;
    }
    let mut scene = Scene::new();
    let tls = scene.server(scene.server_options().alpn(["http/1.1"]));
    let ends = Ends::new(http);
    let port = scene.listen(&tls, &ends);
    let (page, resolve) =
        (format!("https://{NAME}:{port}/page"), format!("{NAME}:{port}:127.0.0.1"));
    for version in ["--tls-max", "--tlsv1.3"] {
        let mut words = vec!["--cacert", "ca.pem", "--resolve", &resolve, version];
        words.extend((version == "--tls-max").then_some("1.2"));
        words.push(&page);
        let (success, said) = scene.curl(&words);
        assert!(success && said.starts_with(NAME), "{said:.200}");
        assert_eq!(said.len(), NAME.len() + 1 + MUCH);
    }
    scene.until_idle();
    assert!(ends.have_ended(2) && ends.last().reason().is_clean());
    assert_eq!(ends.last().tls().alpn.as_deref(), Some(&b"http/1.1"[..]));
}

#[test]
fn a_page_is_read_over_tls_on_a_unix_socket() {
    if !has("curl") {
        return;
    }
    let mut scene = Scene::new();
    let (tls, path) = (scene.server(scene.server_options()), scene.path("socket"));
    let ends = Ends::new(http);
    let factory = Layered::new(ends.factory(), move |reactor, _| tls.layer(reactor.now()));
    scene
        .reactor
        .listen((UnixAddress::from(&*path), ListenOptions::default()), factory)
        .expect("a path of ours");
    let page = format!("https://{NAME}/page");
    let (success, said) = scene.curl(&["--cacert", "ca.pem", "--unix-socket", &path, &page]);
    assert!(success, "{said:.200}");
    assert_eq!(said.len(), NAME.len() + 1 + MUCH);
    scene.until_idle();
    assert!(matches!(ends.last().reason(), Reason::Done(_)), "{}", ends.last().reason());
}

#[test]
fn a_wrong_authority_a_wrong_name_and_plain_http_are_reported_on_both_sides() {
    if !has("curl") {
        return;
    }
    let mut scene = Scene::new();
    scene.write("other.pem", Authority::readable("another authority").own_pem());
    let ends = Ends::new(http);
    let port = scene.listen(&scene.server(scene.server_options()), &ends);
    let to = |scheme: &str, name: &str| format!("{scheme}://{name}:{port}/");
    let resolve = |name: &str| format!("{name}:{port}:127.0.0.1");
    let (page, other, plain) = (to("https", NAME), to("https", "other.test"), to("http", NAME));
    let (there, elsewhere) = (resolve(NAME), resolve("other.test"));
    for (words, theirs, ours) in [
        (
            ["--cacert", "other.pem", "--resolve", &there, &page],
            "(60) SSL certificate problem: unable to get local issuer certificate",
            "unknown_ca (it rejects our certificate)",
        ),
        (
            ["--cacert", "ca.pem", "--resolve", &elsewhere, &other],
            "no alternative certificate subject name matches target host name 'other.test'",
            // curl checks the name after the handshake.
            "",
        ),
        (
            ["--cacert", "ca.pem", "--resolve", &there, &plain],
            "(1) Received HTTP/0.9 when not allowed",
            "TLS handshake failed: the peer sent plain HTTP to a TLS port",
        ),
    ] {
        let ((), log) = logged(|| {
            let (success, said) = scene.curl(&words);
            assert!(!success && said.contains(theirs), "{said}");
            scene.until_idle();
        });
        match ours {
            "" => assert!(log.is_empty(), "{log:?}"),
            ours => assert!(matches!(&log[..], [line] if line.contains(ours)), "{log:?}"),
        }
    }
}
