//! Layers that panic: each ends only its own connection.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use couplet::layers::{Layer, Outbox, SingleBytes, Up};
use couplet::{Address, Failure, ProducerKind, Reason};

use super::{End, Hooked, Rig};
use crate::suite::recorder::{A, Call};

/// The calls of a layer after its panic.
type Late = Rc<RefCell<Vec<String>>>;

/// A hook that panics in the named call, each time.
fn panics(in_call: &'static str, late: &Late) -> impl Fn(&str) -> Option<Reason> + 'static {
    let (late, is_broken) = (late.clone(), Cell::new(false));
    move |call| {
        if is_broken.get() && call != "drop" {
            late.borrow_mut().push(call.to_owned());
        }
        is_broken.set(is_broken.get() || call == in_call);
        assert!(call != in_call, "broken in {call}");
        None
    }
}

#[test]
fn after_a_panic_of_a_producer_that_a_broken_layer_stops_the_next_call_is_connection_lost() {
    for mut rig in Rig::both() {
        let server = End::default().on("made", |transport| {
            let stubborn = A::default().source(transport, |call, _| {
                assert!(call != Call::Stop, "in stop");
            });
            transport.register_producer(stubborn, ProducerKind::Push).expect("the first");
            transport.lose_write_connection();
        });
        let broken = rig.wire_over(&server, |_, _| Hooked::new(panics("up", &Late::default())));
        broken.push(b"question");
        rig.fin(&broken);
        broken.take();
        rig.turn();
        assert!(matches!(server.reason(), Reason::Panicked(_)), "{}", server.reason());
        assert_eq!(server.log(), ["made", "lost"]);
    }
}

#[test]
fn a_layer_that_fails_stops_the_producer() {
    for mut rig in Rig::both() {
        let stops = A::default();
        let counted = stops.clone();
        let server = End::default().on("made", move |transport| {
            let producer = counted.source(transport, |_, _| {});
            transport.register_producer(producer, ProducerKind::Push).expect("the first");
        });
        let fails = |call: &str| (call == "up").then(|| Reason::Failed(Failure::msg("spent")));
        let wire = rig.wire_over(&server, move |_, _| Hooked::new(fails));
        rig.push(&wire, b"question");
        rig.close(&wire);
        let stops = stops.log.entries();
        assert!(server.reason().to_string().contains("spent") && stops == ["stop"], "{stops:?}");
    }
}

/// The ways to put a layer under a connection.
const WAYS: [&str; 4] = ["by the factory", "live", "live below another", "live on top of another"];

const CALLS: [&str; 11] = [
    "attach",
    "is_open",
    "up",
    "up without bytes",
    "down",
    "held",
    "deadline",
    "timed_out",
    "ended",
    "close",
    "drop",
];

/// A server with a layer that panics in `call` under its first connection.
fn listen_over_broken(
    rig: &Rig,
    server: &End,
    way: &str,
    call: &'static str,
    late: &Late,
) -> Address {
    let (now, late) = (rig.reactor.now(), late.clone());
    let panics = move |call| Hooked::new(panics(call, &late)).with_deadline(now);
    let way = WAYS.iter().position(|each| *each == way).expect("a way");
    let first = Cell::new(true);
    if way == 0 {
        let call = move || if first.replace(false) { call } else { "" };
        return rig.listen_over(server, move |_, _| panics(call()));
    }
    let server = server.clone().on("made", move |transport| {
        let calls = match (way, first.replace(false)) {
            (_, false) => vec![],
            (1, true) => vec![call],
            (2, true) => vec![call, ""],
            (_, true) => vec!["", call],
        };
        calls
            .into_iter()
            .for_each(|call| transport.start_layer(panics(call)).expect("it may still write"));
    });
    rig.listen_in_clear(&server)
}

#[test]
fn c44_a_layer_may_panic_in_every_call_however_it_was_started_and_ends_only_its_own_connection() {
    let cases = WAYS.iter().flat_map(|way| CALLS.map(|call| (way, call)));
    // A connection that ends at once has no deadline to miss.
    let cases = cases.flat_map(|(way, call)| [(way, call, false), (way, call, true)]);
    let cases = cases.filter(|(_, call, at_once)| *call != "timed_out" || !at_once);
    for ((way, call, at_once), mut rig) in Rig::each(cases) {
        let server = End::default().on("data", |transport| transport.write("answer"));
        let late = Late::default();
        let port = listen_over_broken(&rig, &server, way, call, &late);
        let broken = match at_once {
            true => rig.network.connect(port.clone()).expect("the port listens"),
            false => rig.wire_to(&port),
        };
        broken.push(b"question");
        if !at_once {
            rig.advance(std::time::Duration::from_secs(1));
        }
        rig.fin(&broken);
        broken.take();
        rig.advance(std::time::Duration::from_secs(1));
        let what = format!("{way}, {call}, at once: {at_once}");
        let lost = server.log().iter().filter(|call| *call == "lost").count();
        if lost == 0 {
            // Never opened: there was no protocol.
            let early = ["attach", "is_open", "held", "deadline", "up without bytes"];
            assert!(*way == "by the factory" && early.contains(&call), "{what}");
            assert_eq!(rig.not_opened_and_open(), (1, 0), "{what}");
        } else {
            assert_eq!(lost, 1, "{what}");
            let panicked = matches!(server.reason(), Reason::Panicked(_));
            assert_eq!(panicked, call != "drop", "{what}: {}", server.reason());
        }
        assert_eq!(*late.borrow(), [""; 0], "{what}: calls after the panic");
        let other = rig.wire_to(&port);
        rig.push(&other, b"question");
        assert_eq!(other.take(), b"answer", "{what}");
    }
}

#[test]
fn c44_a_refused_layer_may_panic_in_its_drop() {
    for mut rig in Rig::both() {
        // The first layer still holds the second byte, so the second layer is refused.
        let server = End::default().on("data", |transport| {
            transport
                .start_layer(Hooked::new(panics("drop", &Late::default())))
                .expect("it may still write");
        });
        let peer = rig.wire_over(&server, |_, _| SingleBytes::default());
        rig.push(&peer, b"ab");
        rig.fin(&peer);
        let reason = server.reason();
        assert!(reason.to_string().contains("plaintext after STARTTLS"), "{reason}");
        assert_eq!(server.log(), ["made", "data", "lost"]);
    }
}

/// Holds all bytes until the stream below ends.
#[derive(Default)]
struct Holds {
    held: Vec<u8>,
    given: bool,
    ended: bool,
}

impl Layer for Holds {
    fn up<'a>(&'a mut self, below: &mut &'a [u8], _: Instant) -> Up<'a> {
        self.held.extend_from_slice(std::mem::take(below));
        match (self.ended, std::mem::replace(&mut self.given, self.ended)) {
            (false, _) => Up::Nothing,
            (true, false) if !self.held.is_empty() => Up::Data(&self.held),
            (true, _) => Up::Closed,
        }
    }

    fn down(&mut self, above: &mut Outbox, below: &mut Outbox, _: Instant) {
        below.append(above);
    }

    fn ended(&mut self) {
        self.ended = true;
    }
}

#[test]
fn c20a_a_panic_on_bytes_that_a_layer_held_back_until_the_fin_ends_the_connection_at_once() {
    for mut rig in Rig::both() {
        let server = End::default().on("data", |_| panic!("on the held bytes"));
        let peer = rig.wire_over(&server, |_, _| Holds::default());
        rig.push(&peer, b"question");
        assert_eq!(server.log(), ["made"]);
        rig.fin(&peer);
        assert!(matches!(server.reason(), Reason::Panicked(_)), "{}", server.reason());
        assert_eq!(server.log(), ["made", "data", "lost"]);
    }
}
