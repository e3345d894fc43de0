//! Scenes with a bare socket, controlled by the test, as the other end. Unlike a transport, it can
//! close with unread input or write to a dead peer.

use couplet::Transport;

use super::reason;
use crate::suite::kit::{BOTH_ROLES, Kit, Rig};
use crate::suite::peer::{B, Saw};
use crate::suite::recorder::{A, On, Script};

/// Plays the scene on sockets and in the simulator, with the protocol as server and as client. The
/// outcome must be the same each time.
fn play(script: fn() -> Script, scene: fn(&mut Rig, &A, B) -> String) -> String {
    let mut shown = Vec::new();
    for kit in [Kit::mio(), Kit::sim()] {
        for role in BOTH_ROLES {
            let mut rig = kit.rig();
            let (a, b) = rig.pair(role, script());
            let seen = scene(&mut rig, &a, b);
            let mut entries = a.log.entries();
            entries.retain(|entry| !entry.starts_with("data"));
            if a.is_lost() {
                entries.pop();
                entries.push(format!("lost: {}", reason(&a.reason())));
            }
            let text = String::from_utf8(a.received()).expect("the bytes are UTF-8");
            shown.push(format!("{seen} | {} | {text}", entries.join(", ")));
        }
    }
    assert!(shown.iter().all(|one| *one == shown[0]), "sockets, then simulator: {shown:#?}");
    shown.swap_remove(0)
}

fn lost(rig: &mut Rig, a: &A) {
    rig.lost(a);
}

#[test]
fn the_peer_closes_and_has_not_read_all() {
    let shown = play(
        || Script::new().aware().once(On::Made, |transport| transport.write("unread")),
        |rig, a, b| {
            rig.tick();
            b.close();
            lost(rig, a);
            String::new()
        },
    );
    assert_eq!(shown, " | made, lost: Lost(ConnectionReset) | ");
}

#[test]
fn the_peer_writes_closes_and_has_not_read_all() {
    let shown = play(
        || Script::new().aware().once(On::Made, |transport| transport.write("unread")),
        |rig, a, b| {
            rig.tick();
            b.send(b"last words");
            rig.tick();
            b.close();
            lost(rig, a);
            String::new()
        },
    );
    assert_eq!(shown, " | made, lost: Lost(ConnectionReset) | last words");
}

#[test]
fn the_peer_has_closed_and_is_written_to() {
    let shown = play(
        || Script::new().aware(),
        |rig, a, b| {
            b.close();
            rig.until("its end", || a.log.has("read_closed"));
            a.tell(|transport| transport.write("too late"));
            rig.tick();
            // The first write was answered with a reset.
            a.tell(|transport| transport.write("much too late"));
            lost(rig, a);
            String::new()
        },
    );
    assert_eq!(shown, " | made, read_closed, lost: Lost(BrokenPipe) | ");
}

#[test]
fn the_peer_resets_behind_its_bytes() {
    play(Script::new, |rig, a, b| {
        b.send(b"before it");
        rig.until("its bytes", || a.received_len() == 9);
        b.reset();
        lost(rig, a);
        String::new()
    });
}

#[test]
fn an_abort_leaves_the_peer_what_it_had_not_read_yet() {
    let shown = play(
        || Script::new().once(On::Made, |transport| transport.write("unread")),
        |rig, a, b| {
            rig.tick();
            a.tell(Transport::abort_connection);
            lost(rig, a);
            rig.tick();
            let first = b.take(100);
            while b.take(100) > 0 {}
            format!("{first} {:?}", b.saw())
        },
    );
    assert_eq!(shown, "6 Reset | made, lost: Aborted | ");
}

#[test]
fn the_peer_writes_to_one_that_has_ended_and_drains() {
    let shown = play(
        || Script::new().once(On::Made, Transport::lose_connection),
        |rig, a, b| {
            rig.tick();
            b.send(b"nobody hears it");
            rig.tick();
            let saw = rig.take_to_the_end(&b);
            b.fin();
            lost(rig, a);
            format!("{saw:?}, broken: {}", b.is_broken())
        },
    );
    assert_eq!(shown, "Fin, broken: false | made, lost: Done(Us) | ");
}

#[test]
fn the_peer_writes_to_one_that_was_aborted() {
    let shown = play(Script::new, |rig, a, b| {
        a.tell(Transport::abort_connection);
        lost(rig, a);
        rig.tick();
        let sent = b.try_send(b"nobody hears it");
        format!("{sent}")
    });
    assert_eq!(shown, "0 | made, lost: Aborted | ");
}

#[test]
fn the_peer_ends_its_half_and_reads_on() {
    let shown = play(
        || Script::new().aware(),
        |rig, a, b| {
            b.send(b"question");
            b.fin();
            rig.until("its end", || a.log.has("read_closed"));
            a.tell(|transport| transport.write("answer"));
            rig.until("the answer", || b.take_all() == 6);
            a.tell(Transport::lose_connection);
            lost(rig, a);
            format!("{:?}", rig.take_to_the_end(&b))
        },
    );
    assert_eq!(shown, "Fin | made, read_closed, lost: Done(Peer) | question");
}

#[test]
fn a_connection_waiting_at_a_port_that_stops_is_reset() {
    for kit in [Kit::mio(), Kit::sim()] {
        let mut rig = kit.rig();
        let port = rig.listen_with(|| super::factories::Deaf);
        // The loop has not turned, so the connection is in the accept queue.
        let b = rig.peer(&port);
        port.stop_listening();
        rig.tick();
        b.take(1);
        assert_eq!(b.saw(), Saw::Reset, "{kit:?}");
    }
}

#[test]
fn a_port_is_in_the_way_of_another() {
    for kit in [Kit::mio(), Kit::sim()] {
        let rig = kit.rig();
        let listen = |ip: &str, port: u16| {
            let address = std::net::SocketAddr::new(ip.parse().expect("an address"), port);
            rig.reactor.listen_tcp(address, || super::factories::Deaf)
        };
        let any = listen("0.0.0.0", 0).expect("a free port");
        let number = any.host().socket_addr().expect("an address").port();
        for ip in ["0.0.0.0", "127.0.0.1", "::"] {
            let error = listen(ip, number).expect_err(ip).source;
            assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse, "{kit:?} {ip}");
        }
        listen("::1", number).unwrap_or_else(|error| panic!("{kit:?}: {error}"));
    }
}
