//! Two connections joined by a relay, on the memory network: bytes, ends and resets of each peer
//! reach the other.

use std::net::SocketAddr;
use std::time::Duration;

use couplet::protocols::Relay;
use couplet::testing::{Manner, Wire, hold, success_of};
use couplet::transport::Timeout;
use couplet::{Connection, Port, Protocol, Reactor, Transport};
use proptest::prelude::*;

use crate::pace::TestLoop;

fn server() -> SocketAddr {
    ([127, 0, 0, 1], 4000).into()
}

/// A relay between a client and a server; the test holds the wires of both.
struct Rig {
    stage: TestLoop,
    port: Port,
}

fn rigs() -> [Rig; 2] {
    [Manner::Readiness, Manner::Completion].map(Rig::new)
}

impl Rig {
    fn new(manner: Manner) -> Rig {
        let mut stage = TestLoop::on(manner, 7);
        let port = stage.listen(relay_to(&stage.reactor));
        stage.l.begin(|_| Ok(())).expect("the setup does not fail");
        Rig { stage, port }
    }

    fn settle(&mut self) {
        self.stage.turns(12);
    }

    fn serve(&self) {
        self.stage.network.listen(server(), 50).expect("the address is free");
    }

    fn accept(&self) -> Wire {
        self.stage.network.accept(server()).expect("it connects")
    }

    /// A client that has connected, in the next turn.
    fn begin(&self) -> Wire {
        self.stage.network.connect(self.port.host()).expect("it listens")
    }

    fn client(&mut self) -> Wire {
        let client = self.begin();
        self.settle();
        client
    }

    fn pair(&mut self) -> (Wire, Wire) {
        self.serve();
        let client = self.client();
        (client, self.accept())
    }

    /// Both sides of a relay connect to the server: their connections, and its wires.
    fn dial(&mut self) -> [(Connection<Relay>, Wire); 2] {
        self.serve();
        let (near, far) = Relay::pair();
        [near, far].map(|side| {
            let to = format!("tcp:{}", server());
            let connecting = self.stage.reactor.connect_protocol(to, side);
            self.settle();
            (success_of(connecting), self.accept())
        })
    }

    /// Both connections have ended, and the loop holds only its port.
    fn is_over(&mut self) -> bool {
        self.settle();
        self.stage.network.slots_in_use() == 1
    }
}

fn relay_to(reactor: &Reactor) -> impl FnMut() -> Relay + 'static {
    let reactor = reactor.clone();
    move || {
        let (near, far) = Relay::pair();
        let connecting = reactor.connect_protocol(format!("tcp:{}", server()), far);
        connecting.add_both(|_| Ok(())).detach();
        near
    }
}

#[test]
fn data_received_before_the_other_connection_is_made_waits_for_it() {
    for mut rig in rigs() {
        rig.stage.network.set_silent(server());
        let early = rig.begin();
        early.push(b"hello, is there anybody?");
        early.fin();
        rig.settle();
        assert!(!early.is_receiving());
    }
    for mut rig in rigs() {
        rig.serve();
        let client = rig.begin();
        client.push(b"hello");
        client.fin();
        rig.settle();
        let server = rig.accept();
        rig.settle();
        assert_eq!(server.take(), b"hello");
        assert!(server.saw_fin());
        server.push(b"good bye");
        rig.settle();
        assert_eq!(client.take(), b"good bye");
    }
}

#[test]
fn a_reset_after_a_half_close_is_carried_too() {
    for mut rig in rigs() {
        let (client, server) = rig.pair();
        client.fin();
        rig.settle();
        server.push(b"half of an answer");
        rig.settle();
        server.reset();
        rig.settle();
        assert!(client.saw_reset());
        assert!(rig.is_over());
    }
}

/// As after an answer to a request that the server does not read to its end.
#[test]
fn c71a_a_reset_behind_the_end_of_a_stream_costs_nothing_of_it() {
    for turned in [false, true] {
        for mut rig in rigs() {
            let (client, server) = rig.pair();
            let (first, second) = if turned { (server, client) } else { (client, server) };
            let (piece, mut sent) = ([7; 1024], 0);
            // More than the network takes, so that the relay holds some.
            while rig.stage.l.snapshot().connections.iter().all(|one| one.buffered == 0) {
                sent += first.push(&piece);
                (0..5).for_each(|_| rig.settle());
            }
            first.fin();
            rig.settle();
            second.push(b"more of a question");
            rig.settle();
            first.reset();
            rig.settle();
            let mut taken = 0;
            while !second.saw_fin() {
                assert!(!second.saw_reset(), "{taken} bytes of {sent}");
                taken += second.take().len();
                rig.settle();
            }
            assert_eq!(taken, sent);
            second.fin();
            assert!(rig.is_over());
            // Nothing is lost by a reset when all of the stream has arrived.
            let (client, server) = (rig.client(), rig.accept());
            let (first, second) = if turned { (server, client) } else { (client, server) };
            first.fin();
            rig.settle();
            first.reset();
            rig.settle();
            assert!(second.saw_reset());
        }
    }
}

/// How one peer leaves, as the other sees it.
#[derive(Clone, Copy, Debug)]
enum Leaves {
    Never,
    Fin,
    /// After more bytes than the relay and the other peer take.
    FinBehindBytes,
    Reset,
}

/// The other peer's activity, second by second.
#[derive(Clone, Copy, Debug)]
enum Other {
    Silent,
    /// Sends a byte whenever this many seconds have passed; the leaving peer reads it.
    Sends(u64),
    /// Sends as much as fits; nothing is read.
    Floods,
    /// Takes at most this many bytes.
    Takes(usize),
}

/// Seconds from the leave until both connections have ended; `None` after an hour.
fn left_after(
    leaves: Leaves,
    other: Other,
    timeout: Option<Option<u64>>,
    turned: bool,
) -> Option<u64> {
    let mut rig = Rig::new(Manner::Readiness);
    let [first, second] = rig.dial().map(|(connection, wire)| {
        if let Some(timeout) = timeout {
            connection
                .transport()
                .set_timeout(Timeout::HalfClose, timeout.map(Duration::from_secs));
        }
        wire
    });
    let (first, second) = if turned { (second, first) } else { (first, second) };
    let flood = vec![7; 64 * 1024];
    match leaves {
        Leaves::Never => {}
        Leaves::Fin => first.fin(),
        Leaves::FinBehindBytes => {
            while first.push(&flood) > 0 {
                rig.settle();
            }
            first.fin();
        }
        Leaves::Reset => first.reset(),
    }
    for second_passed in 0..3600 {
        if rig.is_over() {
            assert!(first.saw_reset() || matches!(leaves, Leaves::Reset), "it is not told a lie");
            return Some(second_passed);
        }
        match other {
            Other::Silent => {}
            Other::Sends(each) if second_passed % each == 0 => {
                second.push(b"x");
                rig.settle();
                first.take();
            }
            Other::Sends(_) => {}
            Other::Floods => {
                second.push(&flood);
            }
            Other::Takes(bytes) => {
                second.take_most(bytes);
            }
        }
        rig.stage.pass(Duration::from_secs(1));
    }
    None
}

#[test]
fn c71d_a_session_whose_peer_has_left_ends_when_nothing_moves_for_the_half_close_timeout() {
    let (default, never, short) = (None, Some(None), Some(Some(8)));
    for (leaves, other, timeout, expected) in [
        (Leaves::Never, Other::Silent, default, None),
        (Leaves::Never, Other::Floods, default, None),
        (Leaves::Reset, Other::Silent, default, Some(0..=0)),
        (Leaves::Reset, Other::Silent, never, Some(0..=0)),
        (Leaves::Fin, Other::Silent, default, Some(60..=60)),
        (Leaves::Fin, Other::Silent, short, Some(8..=8)),
        (Leaves::Fin, Other::Silent, never, None),
        // Progress, however slow, keeps the session.
        (Leaves::Fin, Other::Sends(1), default, None),
        (Leaves::Fin, Other::Sends(50), default, None),
        (Leaves::Fin, Other::Sends(7), short, None),
        (Leaves::Fin, Other::Sends(300), default, Some(60..=75)),
        // The peer that left reads nothing.
        (Leaves::Fin, Other::Floods, default, Some(60..=90)),
        (Leaves::Fin, Other::Floods, never, None),
        // The end waits behind bytes that the other peer does not read, or reads slowly.
        (Leaves::FinBehindBytes, Other::Silent, default, Some(60..=75)),
        (Leaves::FinBehindBytes, Other::Silent, never, None),
        (Leaves::FinBehindBytes, Other::Takes(10), default, None),
        (Leaves::FinBehindBytes, Other::Takes(64 * 1024), short, Some(8..=60)),
    ] {
        for turned in [false, true] {
            let left = left_after(leaves, other, timeout, turned);
            let fits = match (&expected, left) {
                (Some(expected), Some(left)) => expected.contains(&left),
                (expected, left) => expected.is_none() && left.is_none(),
            };
            assert!(
                fits,
                "{leaves:?}, {other:?}, {timeout:?}, {turned}: {left:?}, not {expected:?}"
            );
        }
    }
}

#[test]
fn a_connect_that_fails_resets_the_client() {
    for mut rig in rigs() {
        let client = rig.client();
        assert!(client.saw_reset());
        assert!(rig.is_over());
    }
}

#[test]
fn a_client_lost_before_the_other_connection_is_made_ends_that_one() {
    for mut rig in rigs() {
        rig.serve();
        let client = rig.begin();
        rig.stage.turn();
        client.reset();
        rig.settle();
        let server = rig.accept();
        rig.settle();
        assert!(server.saw_reset());
        assert!(rig.is_over());
    }
}

#[test]
fn our_close_flushes_and_closes_both() {
    for mut rig in rigs() {
        let [(near, a), (_far, b)] = rig.dial();
        a.push(b"the last words");
        drop(near.call_later(Duration::ZERO, |_, near| near.lose_connection()));
        rig.settle();
        assert_eq!(b.take(), b"the last words");
        assert!(a.saw_fin());
        a.fin();
        rig.settle();
        assert!(b.saw_fin() && !a.saw_reset() && !b.saw_reset());
        b.fin();
        assert!(rig.is_over());
    }
}

#[test]
fn the_end_of_a_drain_breaks_the_other_connection() {
    for mut rig in rigs() {
        let sides = [rig.pair(), (rig.client(), rig.accept())];
        let drained = rig.port.drain(Duration::from_secs(1));
        rig.stage.pass(Duration::from_secs(1));
        for (client, server) in &sides {
            assert!(client.saw_fin() && !server.saw_fin() && !server.saw_reset());
            client.fin();
            rig.settle();
            assert!(server.saw_reset(), "its stream may be cut");
        }
        assert_eq!(success_of(drained).closed, 2);
        assert_eq!(rig.stage.network.slots_in_use(), 0);
    }
}

#[test]
fn a_stop_of_the_reactor_flushes_both_sides() {
    for mut rig in rigs() {
        let (client, server) = rig.pair();
        client.push(b"on its way");
        rig.settle();
        rig.stage.l.end().expect("a run ends");
        assert_eq!(server.take(), b"on its way");
        assert!(client.saw_fin() && server.saw_fin() && !server.saw_reset());
    }
}

#[test]
fn a_stop_of_the_reactor_flushes_the_slower_side_after_the_other_has_ended() {
    for mut rig in rigs() {
        let (client, server) = rig.pair();
        let stream = vec![7; 1_000_000];
        let mut sent = 0;
        for _ in 0..50 {
            sent += client.push(&stream[sent..]);
            rig.settle();
        }
        let relayed = sent - client.unreceived();
        rig.stage.l.reactor().stop();
        rig.settle();
        client.fin();
        let mut got = 0;
        for _ in 0..100 {
            rig.settle();
            got += server.take().len();
        }
        assert_eq!(got, relayed);
        assert!(server.saw_fin() && !server.saw_reset());
    }
}

#[test]
fn dropping_one_side_unused_ends_the_other() {
    // At once, as in a connect to a wrong endpoint, and once the other is connected.
    for at_once in [true, false] {
        let (near, far) = Relay::pair();
        let mut far = Some(far);
        far.take_if(|_| at_once);
        let mut held = hold(near);
        assert_eq!(held.wire.saw_reset(), at_once);
        drop(far);
        held.settle();
        assert!(held.wire.saw_reset());
    }
}

#[test]
fn a_dropped_loop_leaves_no_reference_cycle() {
    struct Counted(Relay, #[expect(dead_code, reason = "it is counted")] std::rc::Rc<()>);
    impl Protocol for Counted {
        fn connection_made(&mut self, transport: &Transport) {
            self.0.connection_made(transport);
        }
        fn data_received(&mut self, transport: &Transport, data: &[u8]) {
            self.0.data_received(transport, data);
        }
    }
    let counted = std::rc::Rc::new(());
    let mut rig = Rig::new(Manner::Readiness);
    rig.serve();
    let reactor = rig.stage.reactor.clone();
    let (count, mut relay) = (counted.clone(), relay_to(&reactor));
    let port = rig.stage.listen(move || Counted(relay(), count.clone()));
    let client = rig.stage.network.connect(port.host()).expect("it listens");
    drop(port);
    rig.settle();
    client.push(b"x");
    rig.settle();
    drop((reactor, rig));
    assert_eq!(std::rc::Rc::strong_count(&counted), 1);
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Push(usize),
    Take(usize),
    Fin,
    Turn,
}

fn acts() -> impl Strategy<Value = Vec<(bool, Act)>> {
    let act = prop_oneof![
        6 => (1..100_000_usize).prop_map(Act::Push),
        6 => (1..200_000_usize).prop_map(Act::Take),
        1 => Just(Act::Fin),
        4 => Just(Act::Turn),
    ];
    prop::collection::vec((any::<bool>(), act), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 100,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn each_peer_receives_everything_the_other_sent(acts in acts(), completion in any::<bool>()) {
        let manner = if completion { Manner::Completion } else { Manner::Readiness };
        let mut rig = Rig::new(manner);
        let (client, server) = rig.pair();
        let ends = [&client, &server];
        let (mut sent, mut got) = ([vec![], vec![]], [vec![], vec![]]);
        let mut ended = [false; 2];
        for (which, act) in acts {
            let me = usize::from(which);
            match act {
                Act::Push(n) if !ended[me] => {
                    let from = sent[me].len();
                    let data: Vec<u8> = (from..from + n).map(|at| (at % 251) as u8).collect();
                    sent[me].extend_from_slice(&data[..ends[me].push(&data)]);
                }
                Act::Take(n) => got[me].extend(ends[me].take_most(n)),
                Act::Fin if !ended[me] => {
                    ends[me].fin();
                    ended[me] = true;
                }
                _ => rig.stage.turn(),
            }
        }
        for me in [0, 1] {
            if !ended[me] {
                ends[me].fin();
            }
        }
        for _ in 0..400 {
            for me in [0, 1] {
                got[me].extend(ends[me].take());
            }
            rig.stage.turn();
        }
        prop_assert!(got[0] == sent[1] && got[1] == sent[0]);
        prop_assert!(ends.iter().all(|end| end.saw_fin() && !end.saw_reset()));
        prop_assert!(rig.is_over());
    }
}
