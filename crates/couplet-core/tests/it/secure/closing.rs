//! How secure connections end.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use couplet::factory::Layered;
use couplet::layers::PassThrough;
use couplet::{Address, By, Producer, ProducerKind, Reactor, Reason, Transport};

use super::{Cut, End, NAME, Rig};
use crate::suite::kit::LOOPBACK;

#[test]
fn c07_c13_after_lose_connection_writes_are_dropped_on_tls_unless_a_producer_is_registered() {
    struct Silent;
    impl Producer for Silent {
        fn resume_producing(&mut self) {}
    }
    for (produces, mut rig) in Rig::each([false, true]) {
        let (server, client) = rig.joined();
        let transport = client.transport();
        if produces {
            transport.register_producer(Silent, ProducerKind::Push).expect("the first");
        }
        transport.write("before ");
        transport.lose_connection();
        transport.write("after");
        rig.turn();
        // Row 13: the close waits for the producer.
        assert_eq!(client.is_lost(), !produces);
        transport.unregister_producer();
        rig.turn();
        let whole: &[u8] = if produces { b"before after" } else { b"before " };
        assert_eq!(server.received(), whole);
        assert!(matches!(client.reason(), Reason::Done(By::Us)), "{}", client.reason());
    }
}

#[test]
fn c06a_writes_until_the_end_are_sent_on_tls() {
    for half in [Transport::lose_connection, Transport::lose_write_connection] {
        for mut rig in Rig::both() {
            let (server, client) = rig.joined();
            let transport = client.transport();
            transport.set_write_until_end(true);
            transport.write("before ");
            half(&transport);
            transport.write("after");
            rig.turn();
            assert_eq!(server.received(), b"before after");
            // The close_notify was sent.
            transport.write("late");
            rig.turn();
            assert_eq!(server.received(), b"before after");
            assert_eq!(transport.dropped(), 4);
        }
    }
}

#[test]
fn c27_an_abort_is_aborted_here_and_lost_there_on_tls() {
    for mut rig in Rig::both() {
        let (server, client) = rig.joined();
        client.transport().write("never");
        client.transport().abort_connection();
        rig.turn();
        assert!(matches!(client.reason(), Reason::Aborted));
        assert!(matches!(server.reason(), Reason::Lost(_)));
        assert_eq!(server.received(), b"");
    }
}

#[test]
fn c63_lose_write_connection_on_tls_leaves_reading_open() {
    for mut rig in Rig::both() {
        let (server, client) = (End::aware(), End::default());
        rig.join(&server, &client);
        client.transport().write("question");
        client.transport().lose_write_connection();
        rig.turn();
        assert_eq!(server.log(), ["made", "data", "read_closed"]);
        assert_eq!(client.log(), ["made", "write_closed"]);
        server.transport().write("answer");
        rig.turn();
        assert_eq!(client.received(), b"answer");
        server.transport().lose_connection();
        rig.turn();
        assert_eq!(client.log(), ["made", "write_closed", "data", "read_closed", "lost"]);
        assert!(matches!(client.reason(), Reason::Done(_)) && server.reason().is_clean());
    }
}

#[test]
fn c78_a_close_notify_is_answered_and_a_fin_without_it_is_lost() {
    for mut rig in Rig::both() {
        let (server, client) = rig.joined();
        client.transport().write("all of it");
        client.transport().lose_connection();
        rig.turn();
        assert_eq!(server.received(), b"all of it");
        assert!(matches!(server.reason(), Reason::Done(By::Peer)), "{}", server.reason());
        assert!(matches!(client.reason(), Reason::Done(By::Us)), "{}", client.reason());
    }
    for mut rig in Rig::both() {
        let (server, client) = (End::default(), End::default());
        let port = rig.listen(&server);
        let cuts = Rc::new(Cell::new(false));
        let (tls, end, cut) = (rig.client.clone(), client.clone(), cuts.clone());
        let over = move |reactor: &Reactor, _: &Address| {
            tls.layer(NAME, reactor.now()).expect("a good name")
        };
        let inner = Layered::new(move || end.clone(), over);
        let factory = Layered::new(inner, move |_, _| Cut {
            cuts: cut.clone(),
            inner: PassThrough::default(),
        });
        let to = port.socket_addr().expect("a TCP address");
        rig.reactor.connect_tcp("127.0.0.1", to.port(), factory);
        rig.turn();
        client.transport().write("a part");
        rig.turn();
        cuts.set(true);
        client.transport().lose_connection();
        rig.turn();
        assert_eq!(server.received(), b"a part");
        assert!(matches!(server.reason(), Reason::Lost(_)), "{}", server.reason());
        let reason = server.reason();
        let error = reason.downcast_ref::<couplet::TlsError>().expect("it says that it was cut");
        assert_eq!(error.problem, couplet::TlsProblem::Truncated);
    }
}

#[test]
fn c79_a_peer_that_does_not_say_goodbye_has_the_fin_timeout() {
    for mut rig in Rig::both() {
        let (server, client) = (End::aware(), End::default());
        rig.join(&server, &client);
        server.transport().pause_producing();
        client.transport().lose_connection();
        rig.turn();
        rig.advance(Duration::from_secs(29));
        assert!(!client.is_lost());
        rig.advance(Duration::from_secs(2));
        assert!(matches!(client.reason(), Reason::Done(By::Us)), "{}", client.reason());
    }
}

#[test]
fn c82_small_writes_of_a_turn_share_records() {
    for mut rig in Rig::both() {
        let (server, client) = rig.joined();
        let wire =
            |rig: &mut Rig| rig.l.snapshot().connections.iter().map(|c| c.wire[1]).sum::<u64>();
        let before = wire(&mut rig);
        for _ in 0..1000 {
            client.transport().write("0123456789");
        }
        rig.turn();
        for _ in 0..1000 {
            client.transport().write_bytes(Bytes::from_static(b"0123456789"));
        }
        rig.turn();
        assert_eq!(server.received().len(), 20_000);
        let sent = wire(&mut rig) - before;
        assert_eq!(sent, 2 * (10_000 + 22), "a record takes 22 bytes more");
    }
}

#[test]
fn a_panic_over_tls_harms_no_other_connection() {
    couplet::testing::run(|_| couplet::Deferred::succeed(())).expect("a hook for panics");
    for mut rig in Rig::both() {
        let (server, client) = (End::default().on("data", |_| panic!("no more")), End::default());
        let (other_server, other_client) = (End::default(), End::default());
        rig.join(&server, &client);
        rig.join(&other_server, &other_client);
        client.transport().write("boom");
        rig.turn();
        assert!(matches!(server.reason(), Reason::Panicked(_)), "{}", server.reason());
        // The stream was truncated, and the peer detects it.
        assert!(matches!(client.reason(), Reason::Lost(_)), "{}", client.reason());
        other_client.transport().write("still here");
        rig.turn();
        assert_eq!(other_server.received(), b"still here");
    }
}

/// A buffer that is counted by its Arc.
struct Lent(Arc<Vec<u8>>);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A layer that only passes bytes on moves a buffer to the level below, where TLS copies it.
#[test]
fn a_buffer_is_dropped_when_a_layer_has_copied_it_at_any_level() {
    let cases = [(false, false), (false, true), (true, false), (true, true)];
    for ((passes_on, answers), mut rig) in Rig::each(cases) {
        let data = Arc::new(vec![7; 20_000]);
        let lent = Bytes::from_owner(Lent(data.clone()));
        let given = RefCell::new(Some(lent));
        let write = move |transport: &Transport| {
            transport.write_bytes(given.take().expect("one answer"));
        };
        let (server, client) = (End::default(), End::default());
        let (end, mut write) = (server.clone(), Some(write));
        let end = match answers {
            true => end.on("data", write.take().expect("it is there")),
            false => end,
        };
        let tls = rig.server.clone();
        let layer = move |reactor: &Reactor, _: &Address| tls.layer(reactor.now());
        let port = match passes_on {
            false => rig.reactor.listen_tcp(LOOPBACK, Layered::new(move || end.clone(), layer)),
            true => {
                let inner = Layered::new(move || end.clone(), |_, _| PassThrough::default());
                rig.reactor.listen_tcp(LOOPBACK, Layered::new(inner, layer))
            }
        };
        rig.connect(&port.expect("a free port").host(), &client).detach();
        rig.turn();
        client.transport().write("question");
        rig.turn();
        if let Some(write) = write {
            write(&server.transport());
            rig.turn();
        }
        assert_eq!(client.received(), *data);
        assert_eq!(Arc::strong_count(&data), 1, "passes on: {passes_on}, answers: {answers}");
    }
}
