//! Scenes with a bare socket, controlled by the test, as the other end. Unlike a transport, it can
//! close with unread input or write to a dead peer.

use crate::suite::kit::Kit;
use crate::suite::peer::Saw;
use crate::suite::plays::play;
use couplet_core::ListenError;
use couplet_testkit::needed::has_ipv6;

/// Scenes that have the same outcome on sockets and in the simulator, with the protocol as server and
/// as client.
const SCENES: &[&str] = &[
    // The peer closes and has not read all.
    "{server|client}; aware; once made: write unread; tick; b close; a lost Lost; a error ConnectionReset
    a log made, lost(Lost)",
    // The peer writes first, and then closes without having read all.
    "{server|client}; aware; once made: write unread; tick; b send last words; tick; b close; a lost Lost
    a error ConnectionReset; a received last words; a lacks read_closed",
    // The peer has closed and is written to; the first write is answered with a reset.
    "{server|client}; aware; b close; a until read_closed; a tells write too late; tick; a write much too late
    a lost Lost; a error BrokenPipe; a log made, read_closed, lost(Lost)",
    // The peer resets behind its bytes.
    "{server|client}; b send before it; a gets before it; b reset; a lost Lost; a error ConnectionReset
    a log made, data(9), lost(Lost)",
    // After an abort the peer can still read the bytes that had arrived.
    "{server|client}; once made: write unread; tick; a tells abort; a lost Aborted; tick; b takes; b got unread
    b saw Reset; a log made, lost(Aborted)",
    // The peer writes to one that has ended and drains.
    "{server|client}; once made: lose; tick; b send nobody hears it; tick; b sees Fin; b fin; a lost Done(Us); b sound
    a log made, lost(Done(Us))",
    // The peer writes to one that was aborted.
    "{server|client}; a tells abort; a lost Aborted; tick; b refused nobody hears it; a log made, lost(Aborted)",
    // The peer ends its half and reads on.
    "{server|client}; aware; b send question; b fin; a until read_closed; a tells write answer; b gets answer
    a tells lose; a lost Done(Peer); b sees Fin; a log made, data(8), read_closed, lost(Done(Peer)); a received question",
];

#[test]
fn a_bare_peer_has_the_same_effect() {
    for kit in [Kit::mio(), Kit::sim()] {
        play(kit, SCENES);
    }
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
            rig.reactor.listen(address, || super::factories::Deaf)
        };
        let any = listen("0.0.0.0", 0).expect("a free port");
        let number = any.host().socket_addr().expect("an address").port();
        for ip in ["0.0.0.0", "127.0.0.1", "::"] {
            let error = listen(ip, number).expect_err(ip);
            let error: &ListenError = error.downcast_ref().expect("a port in use");
            assert_eq!(error.source.kind(), std::io::ErrorKind::AddrInUse, "{kit:?} {ip}");
        }
        if has_ipv6() {
            listen("::1", number).unwrap_or_else(|error| panic!("{kit:?}: {error}"));
        }
    }
}
