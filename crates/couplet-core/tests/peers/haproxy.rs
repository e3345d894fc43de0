//! HAProxy in front of our server and behind our client: the addresses that it sends and receives,
//! its health checks, and its report of the TLS that it terminated.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::rc::Rc;

use couplet::layers::tls::{ClientTlsOptions, TlsVersion};
use couplet::layers::{ProxyHeader, ProxyReader, ProxyVersion, ProxyWriter};
use couplet::{Address, Transport};
use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};

use crate::kit::{Ends, Event, Program, Scene, echo, has, quiet};
use crate::logged::logged;

/// HAProxy, listening on a port.
struct Proxy {
    program: Program,
    port: u16,
}

impl Scene {
    /// Starts HAProxy, with extra words after its own address, and a line about its server. The
    /// port is passed as its stdin, so it is free and already listening.
    fn haproxy(&self, bind_more: &str, server: &str) -> Proxy {
        let config = format!(
            "defaults\n  mode tcp\n  timeout connect 20s\n  timeout client 20s\n  \
             timeout server 20s\nlisten all\n  bind fd@0 {bind_more}\n  server ours {server}\n"
        );
        self.write("haproxy.cfg", config);
        let (port, listener) = listening();
        let mut command = self.command("haproxy", &["-db", "-f", "haproxy.cfg"]);
        let program = Program::start_with_stdin(&mut command, Stdio::from(listener));
        Proxy { program, port }
    }
}

fn listening() -> (u16, OwnedFd) {
    let listener = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    bind(&listener, &SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    listen(&listener, 16).expect("it is bound");
    let address = SocketAddr::try_from(getsockname(&listener).expect("it is bound"));
    (address.expect("a TCP address").port(), listener)
}

/// The PROXY headers of the connections.
type Headers = Rc<RefCell<Vec<Rc<ProxyHeader>>>>;

/// An echo that records the header of each connection.
fn noting(headers: &Headers) -> Ends {
    let headers = headers.clone();
    Ends::new(move |transport: &Transport, event: Event<'_>| {
        if matches!(event, Event::Made) {
            headers.borrow_mut().push(transport.info().expect("there was a header"));
        }
        echo(transport, event);
    })
}

/// Connects to a plaintext port, sends a text, and waits for the echo.
fn speak(scene: &mut Scene, port: u16) -> (Address, Address) {
    let ends = Ends::new(quiet);
    scene.reactor.connect(("127.0.0.1", port), ends.factory()).detach();
    scene.until("a connection", || ends.count() == 1 && ends.last().is_made());
    let end = ends.last();
    let addresses = (end.transport().peer().clone(), end.transport().host().clone());
    end.transport().write("who am I");
    scene.until("the echo", || end.has_received(b"who am I"));
    end.transport().lose_connection();
    scene.until_lost(&end);
    addresses
}

#[test]
fn the_clients_address_is_known_behind_haproxy() {
    if !has("haproxy") {
        return;
    }
    for send in ["send-proxy", "send-proxy-v2"] {
        let (mut scene, headers) = (Scene::new(), Headers::default());
        let ends = noting(&headers);
        let port = scene.listen_over(&ends, |reactor, _| ProxyReader::new(reactor.now()));
        let proxy = scene.haproxy("", &format!("127.0.0.1:{port} {send}"));
        let (their_host, their_peer) = speak(&mut scene, proxy.port);
        let ours = ends.last().transport();
        assert_eq!((ours.peer(), ours.host()), (&their_peer, &their_host), "{send}");
        assert_eq!(headers.borrow().last().expect("one").peer.as_ref(), Some(&their_peer));
    }
}

#[test]
fn health_checks_log_nothing_and_disturb_no_client() {
    if !has("haproxy") {
        return;
    }
    // The first check sends a header because it uses the clients' port.
    for check in ["check inter 20ms fall 1000", "check check-send-proxy inter 20ms fall 1000"] {
        let (mut scene, headers) = (Scene::new(), Headers::default());
        let ends = noting(&headers);
        let port = scene.listen_over(&ends, |reactor, _| ProxyReader::new(reactor.now()));
        let (_proxy, log) = logged(|| {
            let proxy = scene.haproxy("", &format!("127.0.0.1:{port} send-proxy-v2 {check}"));
            scene.until_accepted(5);
            let (_, their_peer) = speak(&mut scene, proxy.port);
            let seen = scene.accepted();
            scene.until_accepted(seen + 5);
            // A check is the proxy's own connection, without a client.
            let headers = headers.borrow();
            let clients = headers.iter().filter_map(|header| header.peer.clone());
            assert_eq!(clients.collect::<Vec<_>>(), [their_peer], "{check}");
            assert!(headers.len() > 1, "{check}: {headers:?}");
            proxy
        });
        assert!(log.is_empty(), "{check}: {log:?}");
    }
}

#[test]
fn a_health_check_of_a_tls_port_logs_nothing() {
    if !has("haproxy") {
        return;
    }
    let (mut scene, ends) = (Scene::new(), Ends::new(echo));
    let port = scene.listen(&scene.server(scene.server_options()), &ends);
    let ((), log) = logged(|| {
        // With this interval there is one check: a second one would be cut off at the end of the
        // test.
        let check = "check check-ssl verify none inter 20s";
        let proxy = scene.haproxy("", &format!("127.0.0.1:{port} {check}"));
        scene.until("a check", || ends.count() > 0);
        scene.until_idle();
        assert!(!proxy.program.said().contains("DOWN"), "{}", proxy.program.said());
    });
    assert!(log.is_empty(), "{log:?}");
}

#[test]
fn haproxys_report_of_the_tls_that_it_terminated_reaches_us() {
    if !has("haproxy") {
        return;
    }
    let (mut scene, headers) = (Scene::new(), Headers::default());
    scene.certificate("client.test", |_| {});
    let ours = noting(&headers);
    let port = scene.listen_over(&ours, |reactor, _| ProxyReader::new(reactor.now()));
    let (folder, ca) = (scene.path("server.pem"), scene.path("ca.pem"));
    let front = format!("ssl crt {folder} ca-file {ca} verify optional alpn h2,echo");
    let options = "send-proxy-v2 proxy-v2-options ssl,cert-cn,ssl-cipher,authority,crc32c";
    let proxy = scene.haproxy(&front, &format!("127.0.0.1:{port} {options}"));
    let identity = scene.identity("client.test.pem");
    for (version, identity) in [(TlsVersion::Tls12, None), (TlsVersion::Tls13, Some(identity))] {
        let tls = scene.client_options().versions(version, version).alpn(["echo"]);
        let has_certificate = identity.is_some();
        let tls = identity.into_iter().fold(tls, ClientTlsOptions::identity);
        let end = scene.connect(&scene.client(tls), proxy.port, &Ends::new(quiet));
        scene.until_made(&end);
        end.transport().write("through it");
        scene.until("the echo", || end.has_received(b"through it"));
        let header = headers.borrow().last().cloned().expect("it came");
        assert_eq!(header.peer.as_ref(), Some(end.transport().host()));
        assert_eq!(header.alpn.as_deref(), Some(&b"echo"[..]));
        assert_eq!(header.authority.as_deref(), Some(crate::kit::NAME));
        let told = header.tls.as_ref().expect("it has ended TLS");
        assert_eq!(told.version, Some(version.to_string()));
        assert!(told.cipher.is_some(), "{told:?}");
        assert_eq!((told.client_certificate, told.verified), (has_certificate, has_certificate));
        let name = has_certificate.then(|| "client.test".to_owned());
        assert_eq!(told.common_name, name);
        end.transport().lose_connection();
        scene.until_lost(&end);
    }
}

#[test]
fn haproxy_believes_our_report_of_a_client() {
    if !has("haproxy") {
        return;
    }
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        for (peer, host) in
            [("192.0.2.7:4321", "198.51.100.1:443"), ("[2001:db8::7]:4321", "[2001:db8::1]:443")]
        {
            let (mut scene, headers) = (Scene::new(), Headers::default());
            let ours = noting(&headers);
            let port = scene.listen_over(&ours, |reactor, _| ProxyReader::new(reactor.now()));
            let proxy = scene.haproxy("accept-proxy", &format!("127.0.0.1:{port} send-proxy-v2"));
            let address =
                |text: &str| -> Address { text.parse::<SocketAddr>().expect("an address").into() };
            let header = ProxyHeader::new(address(peer), address(host));
            let end = scene.connect_over(proxy.port, &Ends::new(quiet), move |_, _| {
                ProxyWriter::new(&header, version).expect("addresses alone")
            });
            scene.until_made(&end);
            end.transport().write("on behalf of another");
            scene.until("the echo", || end.has_received(b"on behalf of another"));
            let behind = ours.last().transport();
            assert_eq!((behind.peer(), behind.host()), (&address(peer), &address(host)));
        }
    }
}
