//! Rows 5, 15, 15b, 78 and 79: the table of ends. The peer says goodbye in each way, at each moment,
//! in clear and over TLS; where the bytes agree, so do reason and time.

use std::time::Duration;

use couplet::factory::Layered;
use couplet::layers::tls::{ServerTls, ServerTlsOptions, TlsVersion};
use couplet::layers::{Bandwidth, PassThrough, Throttle};
use couplet::protocols::Relay;
use couplet::testing::{Manner, Wire};
use couplet::transport::Timeout;
use couplet::{TlsError, TlsProblem, Transport};

use super::{End, NAME, Rig, accepting};
use crate::suite::kit::LOOPBACK;
use crate::suite::recorder::text;
use couplet_testkit_loops::sealed::{Raw, Saw, Sealed};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Clear,
    /// In clear, through a layer that passes everything on.
    Layered,
    Tls(TlsVersion),
    /// TLS above another layer.
    LayeredTls,
}

const KINDS: [Kind; 5] = [
    Kind::Clear,
    Kind::Layered,
    Kind::Tls(TlsVersion::Tls12),
    Kind::Tls(TlsVersion::Tls13),
    Kind::LayeredTls,
];

impl Kind {
    fn is_tls(self) -> bool {
        matches!(self, Kind::Tls(_) | Kind::LayeredTls)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// And TCP stays open.
    CloseNotify,
    /// Over TLS, a truncated stream.
    Fin,
    /// In order: over TLS a close_notify, then the FIN.
    Both,
    Reset,
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// Before our close.
    Before,
    /// While our last output waits for the peer, which reads it after the act.
    During,
    /// After the peer has read our last output and our end.
    After,
    /// After our end, while we still want the peer's answer.
    HalfClosed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limits {
    Default,
    /// A slow reader has unlimited time.
    NoCloseDeadline,
    /// The peer has unlimited time to end.
    NoFinTimeout,
}

const ALL_LIMITS: [Limits; 3] = [Limits::Default, Limits::NoCloseDeadline, Limits::NoFinTimeout];

/// When the connection is lost, after the peer's act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Now,
    /// At the FIN timeout.
    Late,
    /// Stays open: a peer that may still send has no time limit.
    Never,
}

use Moment::{After, Before, During, HalfClosed};
use Way::{Both, CloseNotify, Fin, Nothing, Reset};
use When::{Late, Never, Now};

/// The reason in clear and over TLS, and the time.
const TABLE: &[(Moment, Way, [&str; 2], When)] = &[
    (Before, CloseNotify, ["", "Done(Peer)"], Now),
    (Before, Fin, ["Done(Peer)", "Lost"], Now),
    (Before, Both, ["Done(Peer)", "Done(Peer)"], Now),
    (Before, Reset, ["Lost", "Lost"], Now),
    (Before, Nothing, ["Done(Us)", "Done(Us)"], Late),
    (During, CloseNotify, ["", "Done(Us)"], Now),
    (During, Fin, ["Done(Us)", "Done(Us)"], Now),
    (During, Both, ["Done(Us)", "Done(Us)"], Now),
    (During, Reset, ["Lost", "Lost"], Now),
    (During, Nothing, ["Done(Us)", "Done(Us)"], Late),
    (After, CloseNotify, ["", "Done(Us)"], Now),
    (After, Fin, ["Done(Us)", "Done(Us)"], Now),
    (After, Both, ["Done(Us)", "Done(Us)"], Now),
    (After, Reset, ["Done(Us)", "Done(Us)"], Now),
    (After, Nothing, ["Done(Us)", "Done(Us)"], Late),
    (HalfClosed, CloseNotify, ["", "Done(Peer)"], Now),
    (HalfClosed, Fin, ["Done(Peer)", "Lost"], Now),
    (HalfClosed, Both, ["Done(Peer)", "Done(Peer)"], Now),
    (HalfClosed, Reset, ["Lost", "Lost"], Now),
    (HalfClosed, Nothing, ["", ""], Never),
];

struct Peer {
    wire: Wire,
    sealed: Option<Sealed>,
}

impl Peer {
    /// A TLS client whose handshake is complete; each turn takes the time `turn`.
    fn open(rig: &mut Rig, wire: Wire, turn: Duration) -> Peer {
        let now = rig.reactor.now();
        let mut sealed = Sealed::new(rig.client.layer(NAME, now).expect("a good name"), now);
        while !sealed.is_open() {
            sealed.pump(&wire);
            rig.network.advance(turn);
            rig.turn_some();
        }
        rig.turn_some();
        Peer { wire, sealed: Some(sealed) }
    }

    fn act(&mut self, way: Way) {
        match (way, &mut self.sealed) {
            (Nothing, _) => {}
            (CloseNotify, Some(sealed)) => sealed.say_goodbye(&self.wire),
            (Both, Some(sealed)) => sealed.fin(&self.wire),
            (CloseNotify, None) => unreachable!("there is none in clear"),
            (Fin, _) | (Both, None) => Wire::fin(&self.wire),
            (Reset, _) => self.wire.reset(),
        }
    }

    fn take(&mut self) -> (Vec<u8>, Saw) {
        match &mut self.sealed {
            Some(sealed) => sealed.take(&self.wire, 64 * 1024),
            None => Raw::take(&self.wire, 64 * 1024),
        }
    }

    /// Reads everything up to our end, and returns the number of bytes.
    fn take_to_the_end(&mut self, rig: &mut Rig) -> usize {
        let mut taken = 0;
        for _ in 0..1000 {
            let (bytes, saw) = self.take();
            taken += bytes.len();
            match saw {
                Saw::Open => rig.turn_some(),
                Saw::Fin => return taken,
                Saw::Reset => panic!("a reset after {taken} bytes"),
            }
        }
        panic!("no end after {taken} bytes");
    }
}

/// A connection of `end` that a peer of this kind has made.
fn connected(rig: &mut Rig, kind: Kind, end: &End) -> Peer {
    let layer = accepting(&of_version(rig, kind));
    let wire = match kind {
        Kind::Clear => rig.wire(end),
        Kind::Layered => rig.wire_over(end, |_, _| PassThrough::default()),
        Kind::Tls(_) => rig.wire_over(end, layer),
        Kind::LayeredTls => {
            let inner = end.clone();
            let over = Layered::new(Layered::new(move || inner.clone(), layer), |_, _| {
                PassThrough::default()
            });
            let port = rig.reactor.listen(LOOPBACK, over).expect("a free port").host();
            rig.wire_to(&port)
        }
    };
    let peer = match kind.is_tls() {
        true => Peer::open(rig, wire, Duration::ZERO),
        false => Peer { wire, sealed: None },
    };
    while !end.is_made() {
        rig.turn_some();
    }
    peer
}

fn of_version(rig: &Rig, kind: Kind) -> ServerTls {
    let options = ServerTlsOptions::new(rig.authority.identity(NAME));
    let options = match kind {
        Kind::Tls(version) => options.versions(version, version),
        _ => options,
    };
    ServerTls::new(&options).expect("a configuration that works")
}

const SECOND: Duration = Duration::from_secs(1);
const FIN_TIMEOUT: Duration = Duration::from_secs(30);
const MUCH: usize = 1_000_000;

#[test]
fn c15b_c78_each_end_at_each_moment_has_its_reason_and_its_time() {
    for manner in [Manner::Readiness, Manner::Completion] {
        for kind in KINDS {
            for &(moment, way, reasons, when) in TABLE {
                if way == CloseNotify && !kind.is_tls() {
                    continue;
                }
                for limits in ALL_LIMITS {
                    let case = format!("{manner:?}, {kind:?}, {moment:?}, {way:?}, {limits:?}");
                    let reason = reasons[usize::from(kind.is_tls())];
                    let mut rig = Rig::new(manner);
                    check(&mut rig, (kind, moment, way, limits), (reason, when), &case);
                }
            }
        }
    }
}

fn check(
    rig: &mut Rig,
    (kind, moment, way, limits): (Kind, Moment, Way, Limits),
    (reason, when): (&str, When),
    case: &str,
) {
    let end = End::aware();
    let mut peer = connected(rig, kind, &end);
    let transport = end.transport();
    match limits {
        Limits::Default => {}
        Limits::NoCloseDeadline => transport.set_timeout(Timeout::Close, None),
        Limits::NoFinTimeout => transport.set_timeout(Timeout::Fin, None),
    }
    match moment {
        Before => {
            peer.act(way);
            rig.turn();
            transport.write("bye");
            transport.lose_connection();
        }
        During => {
            transport.write(vec![7; MUCH]);
            transport.lose_connection();
            rig.turn();
            peer.act(way);
            rig.turn();
            if way != Reset {
                assert!(!end.is_lost(), "{case}: its output waits");
                assert_eq!(peer.take_to_the_end(rig), MUCH, "{case}");
            }
        }
        After | HalfClosed => {
            transport.write("bye");
            match moment {
                After => transport.lose_connection(),
                _ => transport.lose_write_connection(),
            }
            assert_eq!(peer.take_to_the_end(rig), 3, "{case}");
            rig.turn();
            assert!(!end.is_lost(), "{case}");
            peer.act(way);
        }
    }
    rig.turn();
    let year = Duration::from_secs(365 * 24 * 3600);
    match (when, limits) {
        (Now, _) => {}
        (Late, Limits::Default | Limits::NoCloseDeadline) => {
            rig.advance(FIN_TIMEOUT - SECOND);
            assert!(!end.is_lost(), "{case}");
            rig.advance(SECOND);
        }
        (Late, Limits::NoFinTimeout) => {
            rig.advance(year);
            assert!(!end.is_lost(), "{case}");
            peer.act(Both);
            rig.turn();
        }
        (Never, _) => {
            rig.advance(year);
            return assert!(!end.is_lost(), "{case}");
        }
    }
    assert!(end.is_lost(), "{case}: {:?}", end.log());
    assert_eq!(text(&end.reason()), reason, "{case}");
    if way == Fin && reason == "Lost" {
        let problem = end.reason().downcast_ref::<TlsError>().map(|error| error.problem);
        assert_eq!(problem, Some(TlsProblem::Truncated), "{case}");
    }
    assert!(peer.wire.is_closed() || way == Reset, "{case}: our socket is closed");
}

#[test]
fn c15b_a_peer_that_does_not_read_has_the_close_deadline_and_then_the_fin_timeout() {
    for (kind, reads) in KINDS.into_iter().flat_map(|kind| [(kind, true), (kind, false)]) {
        let mut rig = Rig::new(Manner::Readiness);
        let end = End::default();
        let mut peer = connected(&mut rig, kind, &end);
        let transport = end.transport();
        transport.set_timeout(Timeout::Close, Some(10 * SECOND));
        transport.set_timeout(Timeout::Fin, reads.then_some(5 * SECOND));
        transport.write(vec![7; MUCH]);
        transport.lose_connection();
        rig.turn();
        rig.advance(9 * SECOND);
        if reads {
            assert_eq!(peer.take_to_the_end(&mut rig), MUCH, "{kind:?}");
            rig.turn();
            rig.advance(4 * SECOND);
        }
        assert!(!end.is_lost(), "{kind:?}, {reads}");
        rig.advance(SECOND);
        let reason = if reads { "Done(Us)" } else { "CloseTimedOut" };
        assert_eq!(text(&end.reason()), reason, "{kind:?}");
    }
}

#[test]
fn c79_a_close_notify_that_a_pause_held_back_ends_the_connection_with_our_end() {
    for mut rig in Rig::both() {
        let end = End::default();
        let mut peer = connected(&mut rig, Kind::Tls(TlsVersion::Tls13), &end);
        end.transport().pause_producing();
        rig.turn();
        let Some(sealed) = &mut peer.sealed else { unreachable!("it has TLS") };
        sealed.send(&peer.wire, b"unread");
        sealed.say_goodbye(&peer.wire);
        rig.turn();
        end.transport().write("bye");
        end.transport().lose_connection();
        assert_eq!(peer.take_to_the_end(&mut rig), 3);
        rig.turn();
        assert!(end.is_lost(), "{:?}", end.log());
        assert!(end.reason().is_clean(), "{}", end.reason());
    }
}

#[test]
fn c79_a_close_notify_behind_a_pause_in_the_layers_came_before_our_close() {
    for mut rig in Rig::both() {
        let end = End::default().on("data", Transport::pause_producing);
        let mut peer = connected(&mut rig, Kind::Tls(TlsVersion::Tls13), &end);
        // In one chunk: the pause finds the other two records in the layers.
        let Some(sealed) = &mut peer.sealed else { unreachable!("it has TLS") };
        sealed.send(&peer.wire, b"read");
        sealed.send(&peer.wire, b"unread");
        sealed.say_goodbye(&peer.wire);
        rig.turn();
        assert_eq!(end.received(), b"read");
        end.transport().write("bye");
        end.transport().lose_connection();
        assert_eq!(peer.take_to_the_end(&mut rig), 3);
        rig.turn();
        assert_eq!(text(&end.reason()), "Done(Peer)", "{:?}", end.log());
    }
}

/// The input after our end passes through a throttle below TLS. While the throttle is full, for some
/// seconds, the socket is not read; the close_notify is found afterwards.
#[test]
fn c79_a_close_notify_behind_a_throttle_is_found_when_it_has_passed() {
    let mut rig = Rig::new(Manner::Readiness);
    let end = End::default();
    let inner = end.clone();
    let secure = Layered::new(move || inner.clone(), accepting(&rig.server));
    let over = Layered::new(secure, |_, _| Throttle::new(Some(Bandwidth::new(10_000)), None));
    let port = rig.reactor.listen(LOOPBACK, over).expect("a free port").host();
    let wire = rig.wire_to(&port);
    let mut peer = Peer::open(&mut rig, wire, SECOND / 10);
    while !end.is_made() {
        rig.advance(SECOND / 10);
    }
    end.transport().write("bye");
    end.transport().lose_connection();
    assert_eq!(peer.take_to_the_end(&mut rig), 3);
    let sealed = peer.sealed.as_mut().expect("it has TLS");
    let data = vec![7; 100_000];
    let mut sent = 0;
    // In steps too short to save up an allowance.
    for step in 0..400 {
        if sent < data.len() {
            sent += sealed.send(&peer.wire, &data[sent..]);
        } else {
            sealed.say_goodbye(&peer.wire);
        }
        rig.network.advance(SECOND / 20);
        rig.turn_some();
        if end.is_lost() {
            assert!((160..=240).contains(&step), "100 KB at 10 KB/s took {step} steps");
            return assert_eq!(text(&end.reason()), "Done(Us)");
        }
    }
    panic!("not lost: {:?}", end.log());
}

#[test]
fn c79_four_clients_that_keep_tcp_open_do_not_block_a_port_of_four() {
    let mut rig = Rig::new(Manner::Readiness);
    let build =
        || End::default().on("made", |transport| transport.set_timeout(Timeout::Close, None));
    let options = couplet::ListenOptions::default().max_connections(4);
    let secure = Layered::new(build, accepting(&rig.server));
    let port = rig.reactor.listen((LOOPBACK, options), secure).expect("a free port");
    let mut peers = Vec::new();
    for round in 1..=3 {
        for _ in 0..4 {
            let wire = rig.wire_to(&port.host());
            peers.push(Peer::open(&mut rig, wire, Duration::ZERO));
            peers.last_mut().expect("the new one").act(CloseNotify);
            rig.turn();
        }
        let snapshot = rig.l.snapshot();
        assert_eq!(
            (snapshot.ports[0].counters.accepted, snapshot.connections.len()),
            (4 * round, 0)
        );
    }
}

/// The immediate effect at the other peer of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relayed {
    Open,
    /// And a reset at the half-close timeout.
    Fin,
    Reset,
}

#[test]
fn c71d_a_relay_passes_on_each_end_of_tls_and_ends_when_nothing_moves() {
    let table = [
        (CloseNotify, Relayed::Fin),
        (Fin, Relayed::Reset),
        (Both, Relayed::Fin),
        (Reset, Relayed::Reset),
        (Nothing, Relayed::Open),
    ];
    let server = std::net::SocketAddr::from(([127, 0, 0, 1], 4000));
    for kind in [TlsVersion::Tls12, TlsVersion::Tls13] {
        for (way, expected) in table {
            let mut rig = Rig::new(Manner::Readiness);
            rig.network.listen(server, 50).expect("the address is free");
            let connecting = rig.reactor.clone();
            let relay = move || {
                let (near, far) = Relay::pair();
                connecting.connect_protocol(format!("tcp:{server}"), far).detach();
                near
            };
            let layered = Layered::new(relay, accepting(&of_version(&rig, Kind::Tls(kind))));
            let port = rig.reactor.listen(LOOPBACK, layered).expect("a free port").host();
            let wire = rig.wire_to(&port);
            let mut peer = Peer::open(&mut rig, wire, Duration::ZERO);
            let other = rig.network.accept(server).expect("it connects");
            peer.act(way);
            rig.turn_some();
            let case = format!("{kind:?}, {way:?}");
            let saw = [other.saw_fin(), other.saw_reset()];
            let mut lasts = |quarters: u32| {
                (0..quarters).for_each(|_| rig.advance(15 * SECOND));
                !other.saw_reset()
            };
            match expected {
                Relayed::Reset => assert!(saw[1], "{case}"),
                Relayed::Fin => {
                    assert_eq!(saw, [true, false], "{case}");
                    assert!(lasts(3) && !lasts(1), "{case}");
                }
                Relayed::Open => {
                    assert_eq!(saw, [false, false], "{case}");
                    assert!(lasts(20), "{case}");
                }
            }
        }
    }
}
