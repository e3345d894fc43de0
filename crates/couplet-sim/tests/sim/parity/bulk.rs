//! Bulk scenes: producers, pauses, watermarks and caps, and many connections.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use couplet::{ProducerKind, Transport};

use super::Scene;
use crate::kit::pattern;
use crate::suite::recorder::{A, Call, On, Recorder, Script};

const MUCH: usize = 3_000_000;

/// Closes once this many bytes have been received.
fn takes(a: &A, bytes: usize) -> Script {
    let a = a.clone();
    Script::new().on(On::Data, move |transport| {
        if a.received_len() >= bytes {
            transport.lose_connection();
        }
    })
}

#[test]
fn much_at_once() {
    let sends = |_: &A| Script::new().once(On::Made, |t| t.write(pattern(MUCH)));
    let trace = Scene::of(sends, |a| takes(a, MUCH)).play();
    assert!(trace.client[0][1].starts_with("data: 3000000 bytes"), "{trace:?}");
}

#[test]
fn much_both_ways_at_once() {
    let both = |_: &A| {
        Script::new().aware().once(On::Made, |transport| {
            transport.write(pattern(MUCH));
            transport.lose_write_connection();
        })
    };
    // The network decides whether an end sees its own FIN or the peer's first.
    let trace = Scene::of(both, both).unordered().play();
    assert!(trace.client[0].iter().any(|entry| entry.starts_with("data: 3000000 bytes")));
}

#[test]
fn a_reader_that_pauses_at_each_piece_and_is_resumed_a_turn_later() {
    let sends = |_: &A| Script::new().once(On::Made, |t| t.write(pattern(MUCH)));
    let stutters = |a: &A| {
        takes(a, MUCH).on(On::Data, |transport| {
            transport.pause_producing();
            let connection = transport.connection::<Recorder>();
            connection.tell(|_, transport| transport.resume_producing());
        })
    };
    // The number of resumes depends on how the stream is cut.
    Scene::of(sends, stutters).without("resumed").play();
}

#[test]
fn a_push_producer_that_obeys_pauses() {
    Scene::of(
        |a| {
            let a = a.clone();
            Script::new().once(On::Made, move |transport| push(&a, transport))
        },
        |a| takes(a, MUCH),
    )
    .without("resume")
    .without("pause")
    .play();
}

/// The bytes left to write, and whether the producer is paused.
struct Rest {
    bytes: RefCell<Vec<u8>>,
    paused: Cell<bool>,
}

/// Writes everything, one piece per turn, while not paused.
fn push(a: &A, transport: &Transport) {
    let rest = Rc::new(Rest { bytes: RefCell::new(pattern(MUCH)), paused: Cell::default() });
    let left = rest.clone();
    let source = a.source(transport, move |call, transport| {
        left.paused.set(call == Call::Pause);
        if call == Call::Resume {
            push_on(&left, transport);
        }
    });
    transport.register_producer(source, ProducerKind::Push).expect("the only producer");
    push_on(&rest, transport);
}

fn push_on(rest: &Rc<Rest>, transport: &Transport) {
    let mut bytes = rest.bytes.borrow_mut();
    if rest.paused.get() || bytes.is_empty() {
        return;
    }
    let n = bytes.len().min(30_000);
    transport.write(bytes.drain(..n).as_slice());
    if bytes.is_empty() {
        transport.unregister_producer();
    }
    let rest = rest.clone();
    transport.connection::<Recorder>().tell(move |_, transport| push_on(&rest, transport));
}

#[test]
fn a_pull_producer_that_is_asked_for_each_piece() {
    Scene::of(
        |a| {
            let a = a.clone();
            Script::new().once(On::Made, move |transport| {
                let mut pieces = 100;
                let source = a.source(transport, move |_, transport| {
                    pieces -= 1;
                    transport.write(pattern(5000));
                    if pieces == 0 {
                        transport.unregister_producer();
                        transport.lose_connection();
                    }
                });
                transport.register_producer(source, ProducerKind::Pull).expect("the only producer");
            })
        },
        |_| Script::new(),
    )
    .play();
}

#[test]
fn a_producer_whose_peer_aborts_is_stopped() {
    let trace = Scene::of(
        |a| {
            let a = a.clone();
            Script::new().once(On::Made, move |transport| {
                let source = a.source(transport, |call, transport| {
                    if call == Call::Resume {
                        transport.write(vec![1; 50_000]);
                    }
                });
                transport.register_producer(source, ProducerKind::Pull).expect("the only producer");
            })
        },
        |a| {
            let a = a.clone();
            Script::new().on(On::Data, move |transport| {
                if a.received_len() > 1_000_000 {
                    transport.abort_connection();
                }
            })
        },
    )
    .any_part()
    .without("resume")
    .play();
    assert_eq!(trace.server[0], ["made", "stop", "lost: Lost(ConnectionReset)"]);
}

#[test]
fn exceeding_the_write_cap_ends_the_connection() {
    let floods = |_: &A| {
        Script::new().once(On::Data, |transport| {
            transport.set_write_cap(Some(50_000));
            transport.write(vec![1; 60_000]);
        })
    };
    let asks = |_: &A| Script::new().once(On::Made, |transport| transport.write("flood"));
    let trace = Scene::of(floods, asks).any_part().play();
    assert_eq!(trace.server[0], ["made", "lost: Overflow"]);
}

#[test]
fn forty_connections_at_once() {
    Scene::of(
        |a| {
            let (a, mut echoed) = (a.clone(), 0);
            Script::new().on(On::Data, move |transport| {
                transport.write(&a.received()[echoed..]);
                echoed = a.received_len();
            })
        },
        |a| takes(a, 20_000).once(On::Made, |transport| transport.write(pattern(20_000))),
    )
    .times(40)
    .play();
}
