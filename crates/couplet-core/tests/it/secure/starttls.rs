//! A layer on a live connection.

use std::cell::RefCell;
use std::rc::Rc;

use couplet::layers::tls::{ServerTls, TlsInfo};
use couplet::layers::{PlaintextAfterUpgrade, ProxyReader, StartLayerError};
use couplet::protocols::{LineProtocol, LineReceiver, LineTransport};
use couplet::{ProducerKind, Reason, Transport, hooks};

use super::{End, NAME, Rig};
use crate::suite::kit::LOOPBACK;
use crate::suite::recorder::A;

/// Ends that begin in clear: the server starts TLS on request, the client when the server agrees.
/// Request and answer are one byte each, which no driver splits.
fn upgrades(rig: &mut Rig) -> (End, End) {
    let (tls, ours) = (rig.server.clone(), rig.client.clone());
    let server = End::default().on("data", move |transport| {
        if transport.info::<TlsInfo>().is_none() && !hooks::is_starting_layer(transport) {
            transport.write("+");
            transport.start_tls(&tls).expect("it may still write");
            transport.write("encrypted");
        }
    });
    let client =
        End::default().on("made", |transport| transport.write("?")).on("data", move |transport| {
            if transport.info::<TlsInfo>().is_none() {
                transport.start_tls((&ours, NAME)).expect("a good name");
                transport.write("secret");
            }
        });
    rig.join_in_clear(&server, &client);
    (server, client)
}

#[test]
fn bytes_written_before_a_layer_starts_are_counted_once_on_the_wire() {
    for mut rig in Rig::both() {
        let server = End::default().on("made", |transport| {
            transport.write("in clear ");
            transport
                .start_layer(couplet::layers::PassThrough::default())
                .expect("it may still write");
            transport.write("through the layer");
        });
        let wire = rig.wire(&server);
        let sent = wire.take();
        assert_eq!(sent, b"in clear through the layer");
        let counted = rig.l.snapshot().connections[0].wire;
        assert_eq!(counted, [0, sent.len() as u64]);
    }
}

/// Layers that are started together, and later ones.
#[test]
fn bytes_around_each_of_several_layers_leave_in_order_and_once() {
    for mut rig in Rig::both() {
        let stack = |transport: &Transport| {
            for word in ["one ", "two ", "three "] {
                transport.write(word);
                let layer = couplet::layers::PassThrough::default();
                transport.start_layer(layer).expect("it may still write");
            }
            transport.write("four ");
        };
        let server = End::default().on("made", stack).on("data", stack);
        let wire = rig.wire(&server);
        let words = b"one two three four ";
        for round in 1..=3 {
            assert_eq!(wire.take(), words, "{round}");
            let shown = &rig.l.snapshot().connections[0];
            let sent = (round * words.len()) as u64;
            assert_eq!((shown.wire, shown.buffered), ([round as u64 - 1, sent], 0), "{round}");
            assert!(server.transport().flushed().has_fired(), "{round}");
            rig.push(&wire, b"x");
        }
        assert_eq!(server.received(), b"xxx");
        server.transport().lose_connection();
        rig.turn();
        assert!(wire.take() == words && wire.saw_fin());
    }
}

/// A layer that has done its work took bytes that its protocol never sees.
#[test]
fn the_bytes_of_a_layer_that_has_ended_stay_counted_on_the_wire() {
    let header = b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\n";
    for (early, mut rig) in Rig::each([&b""[..], b"early"]) {
        let server = End::default();
        let wire = rig.wire_over(&server, |reactor, _| ProxyReader::new(reactor.now()));
        rig.push(&wire, &[&header[..], early].concat());
        let (mut received, mut sent) = (early.len(), 0);
        for _ in 0..2 {
            rig.push(&wire, b"later");
            server.transport().write("answer");
            rig.turn();
            (received, sent) = (received + 5, sent + 6);
            let shown = &rig.l.snapshot().connections[0];
            assert_eq!((shown.bytes_in, shown.bytes_out), (received as u64, sent));
            assert_eq!(shown.wire, [(header.len() + received) as u64, sent]);
        }
        assert_eq!(server.received().len(), received);
    }
}

#[test]
fn c81_c84_start_tls_keeps_the_protocol_and_encrypts_bytes_written_before_the_handshake() {
    for mut rig in Rig::both() {
        let (server, client) = upgrades(&mut rig);
        rig.turn();
        // One connection_made, and handshake_completed before the first encrypted byte.
        assert_eq!(server.log(), ["made", "data", "secure", "data"]);
        assert_eq!(client.log(), ["made", "data", "secure", "data"]);
        assert_eq!(server.received(), b"?secret");
        assert_eq!(client.received(), b"+encrypted");
        assert!(
            server.transport().info::<TlsInfo>().is_some()
                && client.transport().info::<TlsInfo>().is_some()
        );
        client.transport().lose_connection();
        rig.turn();
        assert!(client.reason().is_clean() && server.reason().is_clean());
    }
}

struct Mail {
    tls: ServerTls,
    end: End,
}

impl LineProtocol for Mail {
    fn connection_made(&mut self, transport: &LineTransport) {
        couplet::Protocol::connection_made(&mut self.end, transport.as_ref());
    }

    fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
        couplet::Protocol::data_received(&mut self.end, transport.as_ref(), line);
        if line == b"STARTTLS" {
            transport.send_line("220 ready");
            transport.start_tls(&self.tls).expect("it may still write");
        }
    }

    fn connection_lost(&mut self, transport: &LineTransport, reason: &Reason) {
        couplet::Protocol::connection_lost(&mut self.end, transport.as_ref(), reason);
    }
}

#[test]
fn c84_bytes_in_clear_behind_starttls_cut_the_connection() {
    let cuts: [&[&[u8]]; 3] =
        [&[b"STARTTLS\r\nRSET\r\n"], &[b"STARTTLS\r", b"\nRSE"], &[b"STAR", b"TTLS\r\nR"]];
    for (pieces, mut rig) in Rig::each(cuts) {
        let server = End::default();
        let (tls, end) = (rig.server.clone(), server.clone());
        let mail = move || LineReceiver::new(Mail { tls: tls.clone(), end: end.clone() });
        let port = rig.reactor.listen(LOOPBACK, mail).expect("a free port").host();
        let wire = rig.network.connect(port).expect("the port listens");
        for piece in pieces {
            rig.push(&wire, piece);
        }
        assert_eq!(server.received(), b"STARTTLS", "nothing behind it is a command");
        let reason = server.reason();
        assert!(reason.downcast_ref::<PlaintextAfterUpgrade>().is_some(), "{reason}");
    }
}

#[test]
fn c80_lose_connection_in_a_handshake_with_nothing_written_does_not_wait() {
    for mut rig in Rig::both() {
        let server = rig.starting_server().on("made", Transport::lose_connection);
        let _wire = rig.wire(&server);
        assert!(server.is_lost(), "{:?}", server.log());
        assert!(rig.l.snapshot().connections.is_empty());
    }
}

#[test]
fn a_close_in_a_handshake_still_sends_written_bytes() {
    for mut rig in Rig::both() {
        let server = rig.starting_server();
        let client = rig.starting_client().on("made", |transport| {
            transport.write("the last words");
            transport.lose_connection();
        });
        rig.join_in_clear(&server, &client);
        assert_eq!(server.received(), b"the last words");
        assert!(client.reason().is_clean() && server.reason().is_clean());
    }
}

#[test]
fn c73_start_tls_takes_a_registered_producer_along() {
    for mut rig in Rig::both() {
        let tls = rig.server.clone();
        let server = End::default().on("made", move |transport| {
            let mut next = 1..=5;
            let words = A::default().source(transport, move |_, its| match next.next() {
                Some(word) => its.write(format!("{word} ")),
                None => its.unregister_producer(),
            });
            transport.register_producer(words, ProducerKind::Pull).expect("the first");
            transport.start_tls(&tls).expect("it may still write");
        });
        let client = rig.starting_client();
        rig.join_in_clear(&server, &client);
        assert_eq!(client.received(), b"1 2 3 4 5 ");
    }
}

#[test]
fn a_half_close_in_a_handshake_waits_for_it() {
    for mut rig in Rig::both() {
        let tls = rig.server.clone();
        let server = End::aware().on("made", move |transport| {
            transport.start_tls(&tls).expect("it may still write");
        });
        let server = server.on("read_closed", |transport| transport.write("answer"));
        let client = rig.starting_client().on("made", Transport::lose_write_connection);
        rig.join_in_clear(&server, &client);
        assert_eq!(server.log(), ["made", "secure", "read_closed"]);
        assert_eq!(client.received(), b"answer");
        assert_eq!(client.log(), ["made", "secure", "write_closed", "data"]);
    }
}

#[test]
fn c84a_a_layer_after_our_own_fin_is_an_error_of_the_call() {
    for mut rig in Rig::both() {
        let (tls, ours) = (rig.server.clone(), rig.client.clone());
        let errors = Rc::new(RefCell::new(Vec::new()));
        let noted = errors.clone();
        let refuse = move |transport: &Transport| {
            let name = |error: StartLayerError| matches!(error, StartLayerError::WriteClosed);
            let layer = transport.start_layer(couplet::layers::PassThrough::default());
            let results = [layer, transport.start_tls(&tls), transport.start_tls((&ours, NAME))];
            noted.borrow_mut().extend(results.map(|result| result.map_err(name)));
        };
        let again = refuse.clone();
        let server = End::default()
            .on("made", move |transport| {
                transport.write("before");
                transport.lose_write_connection();
                refuse(transport);
            })
            .on("write_closed", again);
        let wire = rig.wire(&server);
        assert_eq!(*errors.borrow(), [Err(true); 6]);
        assert_eq!(wire.take(), b"before");
        assert!(wire.saw_fin());
        rig.push(&wire, b"read on");
        assert_eq!(server.received(), b"read on");
        rig.fin(&wire);
        assert!(server.reason().is_clean(), "{}", server.reason());
    }
}

#[test]
fn c84a_tls_after_the_peers_fin_fails_without_a_wait() {
    for (live, mut rig) in Rig::each([false, true]) {
        let tls = rig.server.clone();
        let server = End::aware().on("read_closed", move |transport| {
            transport.start_tls(&tls).expect("it may still write");
        });
        let wire = match live {
            true => rig.wire_over(&server, |_, _| couplet::layers::PassThrough::default()),
            false => rig.wire(&server),
        };
        rig.fin(&wire);
        assert!(matches!(server.reason(), Reason::Lost(_)), "{}", server.reason());
    }
}
