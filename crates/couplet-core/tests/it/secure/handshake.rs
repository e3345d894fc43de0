//! The handshake, and the details that are known after it.

use std::time::Duration;

use couplet::factory::Layered;
use couplet::layers::tls::{
    CertificateDirectory, ClientTls, ClientTlsOptions, ServerTls, ServerTlsOptions, TlsInfo,
    TlsVersion,
};
use couplet::layers::{Bandwidth, ProxyReader, Throttle};
use couplet::testing::{failure_of, success_of};
use couplet::{Address, CertificateProblem, ConnectError, Reactor, Reason, TlsProblem};

use super::{End, NAME, Rig, accepting};
use crate::logged::logged;
use crate::needed::Folder;
use crate::suite::kit::LOOPBACK;
use couplet_testkit_loops::authority::Authority;

#[test]
fn c81_both_sides_are_made_when_the_handshake_is_complete() {
    for mut rig in Rig::both() {
        let (server, client) = rig.joined();
        assert_eq!((server.log(), client.log()), (vec!["made".into()], vec!["made".into()]));
        let info = client.transport().info::<TlsInfo>().expect("it is secure");
        assert_eq!(info.version, TlsVersion::Tls13);
        assert!(!info.peer_certificates.is_empty());
        let info = server.transport().info::<TlsInfo>().expect("it is secure");
        assert_eq!(info.server_name.as_deref(), Some(NAME));
        client.transport().write("hello");
        server.transport().write("welcome");
        rig.turn();
        assert_eq!((server.received(), client.received()), (b"hello".into(), b"welcome".into()));
    }
}

#[test]
fn handshakes_side_by_side_keep_their_names_apart() {
    let names = [NAME, "other.test"];
    for mut rig in Rig::both() {
        let folder = Folder::new();
        for name in names {
            folder.write(&format!("{name}.pem"), rig.authority.pem(name, |_| ()));
        }
        let directory = CertificateDirectory::open(folder.join("")).expect("two certificates");
        let tls = ServerTls::new(&ServerTlsOptions::from_directory(directory)).expect("it works");
        let servers = [End::default(), End::default()];
        let mut next = servers.clone().into_iter();
        let build = move || next.next().expect("there are two");
        let secure = Layered::new(build, accepting(&tls));
        let port = rig.reactor.listen(LOOPBACK, secure).expect("a free port").host();
        for name in names {
            let (tls, end) = (rig.client.clone(), End::default());
            let says = end.on("made", move |transport| transport.write(name));
            let layer = move |reactor: &Reactor, _: &Address| {
                tls.layer(name, reactor.now()).expect("a good name")
            };
            let number = port.port().expect("a TCP port");
            rig.reactor
                .connect(("127.0.0.1", number), Layered::new(move || says.clone(), layer))
                .detach();
        }
        rig.turn();
        for server in servers {
            let info = server.transport().info::<TlsInfo>().expect("it is secure");
            assert_eq!(
                info.server_name.as_deref().map(str::as_bytes),
                Some(&server.received()[..])
            );
        }
    }
}

#[test]
fn c75_c76_c77_an_untrusted_certificate_ends_the_connect_with_the_tls_error() {
    for mut rig in Rig::both() {
        let (server, client) = (End::default(), End::default());
        let port = rig.listen(&server);
        let strangers = ClientTlsOptions::default().roots(Authority::new().roots());
        let tls = ClientTls::new(&strangers).expect("a configuration that works");
        let connecting = rig.connect_with(&port, &client, &tls);
        rig.turn();
        let failure = failure_of(connecting);
        let Some(ConnectError::NotOpened(Reason::Tls(error))) = failure.downcast_ref() else {
            panic!("{failure}");
        };
        let unknown = TlsProblem::Certificate(CertificateProblem::UnknownIssuer);
        assert_eq!(error.problem, unknown, "{error}");
        assert!(!server.is_made() && !client.is_made(), "there is no protocol without a handshake");
        let ports = rig.l.snapshot().ports;
        assert_eq!((ports[0].counters.accepted, ports[0].counters.not_opened), (1, 1));
        assert!(rig.l.snapshot().connections.is_empty());
    }
}

#[test]
fn c105a_a_handshake_continues_during_a_drain() {
    for mut rig in Rig::both() {
        let (server, client) = (End::default(), End::default());
        let port = rig.listen(&server);
        let connecting = rig.connect(&port, &client);
        while rig.l.snapshot().ports[0].counters.accepted == 0 {
            rig.l.turn(Some(Duration::ZERO)).expect("the memory driver does not fail");
        }
        assert!(!server.is_made());
        let drained = rig.reactor.drain(Duration::from_secs(10));
        rig.turn();
        success_of(connecting);
        assert_eq!(server.log(), ["made", "draining"]);
        client.transport().lose_connection();
        rig.turn();
        assert_eq!(success_of(drained).finished, 1);
    }
}

#[test]
fn c105a_a_silent_handshake_has_the_time_of_a_drain() {
    for mut rig in Rig::both() {
        let (server, client) = (End::default(), End::default());
        let port = rig.listen(&server);
        let silent = rig.network.connect(port.clone()).expect("the port listens");
        let begun = rig.network.connect(port).expect("the port listens");
        rig.push(&begun, &[22, 3, 1]);
        let drained = rig.reactor.drain(Duration::from_secs(5));
        rig.turn();
        // The handshake itself may take longer.
        rig.advance(Duration::from_millis(4999));
        assert!(!silent.is_closed() && !begun.is_closed());
        rig.advance(Duration::from_millis(1));
        let drained = success_of(drained);
        assert_eq!((drained.finished, drained.closed, drained.aborted), (0, 2, 0));
        assert!(!server.is_made() && !client.is_made());
        let snapshot = rig.l.snapshot();
        assert_eq!((snapshot.ports.len(), snapshot.connections.len()), (0, 0));
    }
}

#[test]
fn c77_a_peer_that_leaves_in_the_handshake_is_no_connection_and_worth_a_warning_if_it_sent_a_byte()
{
    for (bytes, mut rig) in Rig::each([&b""[..], &[22]]) {
        let tls = rig.listen(&End::default());
        let proxy = rig.listen_over(&End::default(), |reactor, _| ProxyReader::new(reactor.now()));
        let ((), log) = logged(|| {
            for port in [tls, proxy] {
                let wire = rig.wire_to(&port);
                wire.push(bytes);
                rig.fin(&wire);
            }
        });
        let told = log.iter().filter(|line| line.contains("cannot open a connection"));
        assert_eq!(told.count(), 2 * bytes.len(), "{log:?}");
        assert!(rig.l.snapshot().ports.iter().all(|port| port.counters.not_opened == 1));
    }
}

#[test]
fn a_connect_can_be_stopped_in_its_handshake() {
    for mut rig in Rig::both() {
        let peer = rig.network.listen(std::net::SocketAddr::from(([127, 0, 0, 1], 0)), 1);
        let peer = peer.expect("a free port");
        let client = End::default();
        let connecting = rig.connect(&peer, &client);
        rig.turn();
        assert_eq!(rig.l.snapshot().connections[0].state, "opening");
        connecting.cancel();
        rig.turn();
        assert!(!client.is_made());
        assert!(rig.l.snapshot().connections.is_empty());
        assert!(rig.l.snapshot().connectors.is_empty());
    }
}

#[test]
fn a_full_layer_keeps_reading_off_over_a_pause() {
    for mut rig in Rig::both() {
        let server = End::default();
        let wire = rig.wire_over(&server, |_, _| Throttle::new(Some(Bandwidth::new(1000)), None));
        let push = |rig: &mut Rig| rig.push(&wire, &[7; 300_000]);
        while push(&mut rig) > 0 {}
        let (before, transport) = (server.received().len(), server.transport());
        transport.pause_producing();
        rig.turn();
        transport.resume_producing();
        rig.turn();
        assert_eq!(push(&mut rig), 0, "the peer is still held back: {before}");
    }
}
