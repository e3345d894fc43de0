//! A server certificate that is chosen after the ClientHello has arrived.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use couplet::factory::Layered;
use couplet::layers::tls::{
    ClientHello, ClientTls, ClientTlsOptions, Identity, ServerTls, ServerTlsOptions, Tls, TlsInfo,
};
use couplet::layers::{PassThrough, SingleBytes};
use couplet::testing::failure_of;
use couplet::{
    Address, ConnectError, Connection, Deferred, Failure, Reactor, Reason, Resolver, TlsProblem,
};

use super::{End, NAME, Rig};
use crate::logged::logged;
use crate::suite::kit::LOOPBACK;

/// A ClientHello, and the resolver for its certificate.
type Asked = (ClientHello, Resolver<Identity>);

/// A server without a certificate, and the requests for one.
#[derive(Clone)]
struct Vault {
    tls: ServerTls,
    asked: Rc<RefCell<Vec<Asked>>>,
}

impl Vault {
    fn new() -> Vault {
        let options = ServerTlsOptions::chosen_later();
        let tls = ServerTls::new(&options).expect("a configuration that works");
        Vault { tls, asked: Rc::default() }
    }

    fn layer(&self) -> impl FnMut(&Reactor, &Address) -> Tls + use<> {
        let vault = self.clone();
        move |reactor, _| {
            let asked = vault.asked.clone();
            vault.tls.layer(reactor.now()).choosing(move |hello| {
                let (deferred, resolver) = Deferred::new();
                asked.borrow_mut().push((hello.clone(), resolver));
                deferred
            })
        }
    }

    fn take(&self) -> Asked {
        self.asked.borrow_mut().pop().expect("a certificate was asked for")
    }
}

/// A server and a client whose handshake waits for a certificate.
struct Waiting {
    server: End,
    client: End,
    connecting: Deferred<Connection<End>>,
    hello: ClientHello,
    resolver: Resolver<Identity>,
}

fn wait(rig: &mut Rig) -> Waiting {
    let (vault, server, client) = (Vault::new(), End::default(), End::default());
    let port = rig.listen_over(&server, vault.layer());
    let connecting = rig.connect(&port, &client);
    rig.turn();
    let (hello, resolver) = vault.take();
    Waiting { server, client, connecting, hello, resolver }
}

/// A layer that gets this certificate immediately.
fn at_once(tls: &ServerTls, identity: &Identity) -> impl FnMut(&Reactor, &Address) -> Tls + use<> {
    let (tls, identity) = (tls.clone(), identity.clone());
    move |reactor, _| {
        let identity = identity.clone();
        tls.layer(reactor.now()).choosing(move |_| Deferred::succeed(identity))
    }
}

#[test]
fn a_handshake_waits_for_its_certificate() {
    for mut rig in Rig::both() {
        let Waiting { server, client, connecting, hello, resolver } = wait(&mut rig);
        connecting.detach();
        rig.advance(Duration::from_secs(9));
        assert!(!server.is_made() && !client.is_made());
        assert_eq!(hello.server_name.as_deref(), Some(NAME));
        assert!(hello.alpn.is_empty() && hello.cipher_suites.contains(&0x1301), "{hello:?}");
        resolver.callback(rig.authority.identity(NAME));
        rig.turn();
        assert!(server.is_made() && client.is_made(), "{:?} {:?}", server.log(), client.log());
        let info = server.transport().info::<TlsInfo>().expect("it is secure");
        assert_eq!(info.server_name.as_deref(), Some(NAME));
        client.transport().write("hello");
        rig.turn();
        assert_eq!(server.received(), b"hello");
    }
}

#[test]
fn a_choice_sees_the_clients_offers_in_order_of_preference() {
    for (alpn, mut rig) in Rig::each([&["h3", "h2", "http/1.1"][..], &["h2"], &[]]) {
        let options = ClientTlsOptions::default().roots(rig.authority.roots()).alpn(alpn);
        rig.client = ClientTls::new(&options.server_name("Shop.Test")).expect("settings that work");
        let Waiting { connecting, hello, .. } = wait(&mut rig);
        connecting.detach();
        let offered: Vec<&[u8]> = alpn.iter().map(|one| one.as_bytes()).collect();
        assert_eq!(hello.alpn, offered);
        assert_eq!(hello.server_name.as_deref(), Some("shop.test"), "in lower case");
    }
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Alone,
    Lowest,
    Middle,
    Highest,
}

#[test]
fn a_handshake_continues_with_its_late_certificate_at_any_place_of_its_layer() {
    use Place::{Alone, Highest, Lowest, Middle};
    for (place, mut rig) in Rig::each([Alone, Lowest, Middle, Highest]) {
        let (vault, server, client) = (Vault::new(), End::default(), End::default());
        let (end, tls) = (server.clone(), vault.layer());
        let end = move || end.clone();
        let pass = |_: &Reactor, _: &Address| PassThrough::default();
        let listening = match place {
            Alone => rig.reactor.listen(LOOPBACK, Layered::new(end, tls)),
            Lowest => rig.reactor.listen(LOOPBACK, Layered::new(Layered::new(end, pass), tls)),
            Highest => rig.reactor.listen(LOOPBACK, Layered::new(Layered::new(end, tls), pass)),
            Middle => {
                let above = Layered::new(Layered::new(end, pass), tls);
                rig.reactor.listen(LOOPBACK, Layered::new(above, pass))
            }
        };
        rig.connect(&listening.expect("a free port").host(), &client).detach();
        rig.turn();
        let (_, resolver) = vault.take();
        assert!(!server.is_made() && !client.is_made(), "{place:?}");
        resolver.callback(rig.authority.identity(NAME));
        rig.turn();
        assert!(server.is_made() && client.is_made(), "{place:?}: {:?}", client.log());
    }
}

#[test]
fn a_certificate_that_is_there_does_not_delay_a_handshake_however_it_is_cut() {
    for mut rig in Rig::both() {
        let (vault, server, client) = (Vault::new(), End::default(), End::default());
        let identity = rig.authority.identity(NAME);
        let end = server.clone();
        let secure = Layered::new(move || end.clone(), at_once(&vault.tls, &identity));
        let cut = Layered::new(secure, |_, _| SingleBytes::default());
        let port = rig.reactor.listen(LOOPBACK, cut).expect("a free port").host();
        rig.connect(&port, &client).detach();
        rig.turn();
        assert!(server.is_made() && client.is_made(), "{:?} {:?}", server.log(), client.log());
    }
}

#[test]
fn a_choice_that_fails_ends_the_handshake_with_an_alert_and_its_failure() {
    for mut rig in Rig::both() {
        let Waiting { server, client, connecting, resolver, .. } = wait(&mut rig);
        resolver.errback(Failure::msg("the vault is locked"));
        let log = logged(|| rig.turn()).1.concat();
        assert!(log.contains("cannot choose a certificate: the vault is locked"), "{log}");
        let failure = failure_of(connecting);
        let Some(ConnectError::NotOpened(Reason::Tls(error))) = failure.downcast_ref() else {
            panic!("{failure}");
        };
        assert_eq!(error.problem, TlsProblem::AlertReceived(80), "{error}");
        assert!(!server.is_made() && !client.is_made());
        assert_eq!(rig.not_opened_and_open(), (1, 0));
    }
}

/// Only the server has a deadline.
#[test]
fn a_choice_ends_with_the_servers_deadline_and_is_cancelled() {
    for mut rig in Rig::both() {
        let (vault, server) = (Vault::new(), End::default());
        let wire = rig.wire_over(&server, vault.layer());
        let hello = hello_of(&rig);
        rig.push(&wire, &hello);
        let (_, resolver) = vault.take();
        rig.advance(Duration::from_millis(9900));
        assert!(!resolver.is_cancelled());
        rig.advance(Duration::from_millis(200));
        assert!(resolver.is_cancelled(), "nobody waits for it");
        resolver.callback(rig.authority.identity(NAME));
        rig.advance(Duration::from_secs(2));
        assert_eq!((rig.not_opened_and_open(), server.is_made()), ((1, 0), false));
    }
}

#[test]
fn a_client_that_leaves_cancels_its_choice() {
    for mut rig in Rig::both() {
        let Waiting { connecting, resolver, .. } = wait(&mut rig);
        connecting.cancel();
        rig.turn();
        assert!(resolver.is_cancelled(), "nobody waits for it");
        assert!(rig.l.snapshot().connections.is_empty());
    }
}

/// The system buffers the bytes of a client that should wait, so nothing of ours grows.
#[test]
fn a_client_that_sends_on_while_its_certificate_is_chosen_is_not_read() {
    for mut rig in Rig::both() {
        let vault = Vault::new();
        let wire = rig.wire_over(&End::default(), vault.layer());
        let mut hello = hello_of(&rig);
        hello.extend_from_slice(&[23; 100]);
        rig.push(&wire, &hello);
        let _chosen_later = vault.take();
        for _ in 0..100 {
            rig.push(&wire, &[23; 100_000]);
        }
        assert_eq!(wire.push(b"more"), 0, "it is not read");
    }
}

fn hello_of(rig: &Rig) -> Vec<u8> {
    use couplet::layers::{Layer, Outbox};
    let mut tls = rig.client.layer(NAME, rig.reactor.now()).expect("a good name");
    let mut below = Outbox::new(Rc::default());
    tls.down(&mut Outbox::new(Rc::default()), &mut below, rig.reactor.now());
    below.slices().flatten().copied().collect()
}

#[test]
fn plain_http_gets_an_alert_and_no_protocol_with_and_without_a_choice() {
    for (chooses, mut rig) in Rig::each([false, true]) {
        let (vault, server) = (Vault::new(), End::default());
        let port = match chooses {
            true => rig.listen_over(&server, vault.layer()),
            false => rig.listen(&server),
        };
        let wire = rig.wire_to(&port);
        rig.push(&wire, b"GET / HTTP/1.1\r\nHost: couplet.test\r\n\r\n");
        assert_eq!(wire.take().first(), Some(&21), "a record of type alert");
        let log = logged(|| rig.close(&wire)).1.concat();
        assert!(log.contains("HTTP"), "{chooses}: {log}");
        assert!(!server.is_made() && vault.asked.borrow().is_empty(), "{chooses}");
    }
}

#[test]
fn a_certificate_is_chosen_on_a_live_connection_and_its_sessions_are_resumed() {
    for mut rig in Rig::both() {
        let (vault, resumed) = (Vault::new(), Rc::new(Cell::new(0)));
        let identity = rig.authority.identity(NAME);
        for round in 0..2 {
            let make = RefCell::new(at_once(&vault.tls, &identity));
            let reactor = rig.reactor.clone();
            let peer = Address::from(std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
            let server = End::default().on("made", move |transport| {
                transport
                    .start_layer((make.borrow_mut())(&reactor, &peer))
                    .expect("it may still write");
            });
            let client = rig.starting_client();
            rig.join_in_clear(&server, &client);
            assert_eq!(server.log(), ["made", "secure"], "{round}");
            let info = client.transport().info::<TlsInfo>().expect("it is secure");
            resumed.set(resumed.get() + usize::from(info.resumed));
            client.transport().lose_connection();
            rig.turn();
        }
        assert_eq!(resumed.get(), 1);
    }
}
