//! Scenes of closing: half-closes, closes by one side or both, clean or abortive.

use couplet::Transport;

use super::Scene;
use crate::suite::recorder::{A, On, Script};

fn quiet(_: &A) -> Script {
    Script::new()
}

fn writes(text: &'static str) -> Script {
    Script::new().once(On::Made, move |transport| transport.write(text))
}

/// Runs `act` once this many bytes have been received.
fn at(a: &A, bytes: usize, act: impl FnOnce(&Transport) + 'static) -> Script {
    on_top(Script::new(), a, bytes, act)
}

fn on_top(script: Script, a: &A, bytes: usize, act: impl FnOnce(&Transport) + 'static) -> Script {
    let (a, mut act) = (a.clone(), Some(act));
    script.on(On::Data, move |transport| {
        if a.received_len() >= bytes
            && let Some(act) = act.take()
        {
            act(transport);
        }
    })
}

fn echo(a: &A) -> Script {
    let (a, mut echoed) = (a.clone(), 0);
    Script::new().on(On::Data, move |transport| {
        transport.write(&a.received()[echoed..]);
        echoed = a.received_len();
    })
}

#[test]
fn an_echo_that_the_client_ends() {
    let trace =
        Scene::of(echo, |a| on_top(writes("hello"), a, 5, Transport::lose_connection)).play();
    assert_eq!(trace.client[0], ["made", "data: hello", "lost: Done(Us)"]);
    assert_eq!(trace.server[0], ["made", "data: hello", "read_closed", "lost: Done(Peer)"]);
}

#[test]
fn an_answer_after_which_the_server_ends() {
    Scene::of(
        |a| {
            at(a, 8, |transport| {
                transport.write("answer");
                transport.lose_connection();
            })
        },
        |_| writes("question"),
    )
    .play();
}

#[test]
fn a_greeting_after_which_the_server_ends_at_once() {
    let greets = |_: &A| writes("bye").once(On::Made, Transport::lose_connection);
    let trace = Scene::of(greets, quiet).play();
    assert_eq!(trace.client[0], ["made", "data: bye", "read_closed", "lost: Done(Peer)"]);
}

#[test]
fn both_end_at_once() {
    // The network decides whose FIN arrives first, or whether they cross.
    let ends = |_: &A| Script::new().once(On::Made, Transport::lose_connection);
    Scene::of(ends, ends).play_one_of(&[&["Us", "Us"], &["Us", "Peer"], &["Peer", "Us"]]);
}

#[test]
fn the_client_ends_its_half_and_is_answered() {
    Scene::of(
        |_| {
            Script::new().aware().once(On::ReadClosed, |transport| {
                transport.write("the answer");
                transport.lose_connection();
            })
        },
        |_| writes("all of the question").once(On::Made, Transport::lose_write_connection),
    )
    .play();
}

#[test]
fn the_server_ends_its_half_and_is_answered() {
    Scene::of(
        |_| writes("go on").once(On::Made, Transport::lose_write_connection).aware(),
        |_| {
            Script::new().aware().once(On::ReadClosed, |transport| {
                transport.write("and on");
                transport.lose_write_connection();
            })
        },
    )
    .play();
}

#[test]
fn each_ends_its_half_when_it_has_heard_enough() {
    Scene::of(
        |a| at(a, 4, Transport::lose_write_connection).aware(),
        |a| on_top(writes("ping"), a, 4, |_| ()).once(On::Made, Transport::lose_write_connection),
    )
    .play();
}

#[test]
fn the_client_aborts() {
    let trace =
        Scene::of(quiet, |_| Script::new().once(On::Made, Transport::abort_connection)).play();
    assert_eq!(trace.client[0], ["made", "lost: Aborted"]);
    assert_eq!(trace.server[0], ["made", "lost: Lost(ConnectionReset)"]);
}

#[test]
fn the_server_aborts_when_it_has_heard_enough() {
    let aborts = |a: &A| at(a, 5, Transport::abort_connection);
    let trace = Scene::of(aborts, |_| writes("hello")).play();
    assert_eq!(trace.client[0], ["made", "lost: Lost(ConnectionReset)"]);
}

#[test]
fn bytes_written_before_an_abort_are_dropped() {
    // Not in `connection_made`: a reset before the client has seen its connect would fail it.
    let aborts = |a: &A| {
        at(a, 5, |transport| {
            transport.write("never");
            transport.abort_connection();
        })
    };
    let trace = Scene::of(aborts, |_| writes("hello")).play();
    assert_eq!(trace.client[0], ["made", "lost: Lost(ConnectionReset)"]);
}

#[test]
fn an_abort_with_much_in_flight() {
    let sends = |_: &A| Script::new().once(On::Made, |t| t.write(vec![7; 1_000_000]));
    let aborts = |a: &A| at(a, 100, Transport::abort_connection);
    let trace = Scene::of(sends, aborts).any_part().play();
    assert_eq!(trace.server[0], ["made", "lost: Lost(ConnectionReset)"]);
}

#[test]
fn a_close_with_unread_input() {
    // After `lose_connection` a paused end drains its input up to the peer's FIN, so that no reset
    // destroys its answer.
    let ends = |_: &A| {
        Script::new().once(On::Made, |transport| {
            transport.pause_producing();
            transport.write("answer");
            transport.lose_connection();
        })
    };
    let sends = |_: &A| Script::new().once(On::Made, |t| t.write(vec![7; 100_000]));
    let trace = Scene::of(ends, sends).play();
    assert_eq!(trace.client[0], ["made", "data: answer", "read_closed", "lost: Done(Peer)"]);
    assert_eq!(trace.server[0], ["made", "lost: Done(Us)"]);
}

#[test]
fn bytes_written_after_a_close_are_dropped() {
    Scene::of(quiet, |_| {
        Script::new().once(On::Made, |transport| {
            transport.write("before");
            transport.lose_connection();
            transport.write("after");
        })
    })
    .play();
}

#[test]
fn bytes_written_after_a_half_close_are_dropped() {
    Scene::of(
        |a| at(a, 6, |transport| transport.write("heard")),
        |_| {
            Script::new().aware().once(On::Made, |transport| {
                transport.write("before");
                transport.lose_write_connection();
                transport.write("after");
            })
        },
    )
    .play();
}

#[test]
fn bytes_written_to_a_peer_that_has_closed() {
    let ends = |_: &A| Script::new().once(On::Made, Transport::lose_connection);
    let answers = |_: &A| {
        Script::new().aware().once(On::ReadClosed, |transport| {
            transport.write("nobody hears it");
            transport.lose_connection();
        })
    };
    let trace = Scene::of(ends, answers).play();
    assert_eq!(trace.server[0], ["made", "lost: Done(Us)"], "it drains its input");
}

#[test]
fn a_pause_holds_the_end_of_the_stream_until_it_is_over() {
    Scene::of(
        |_| {
            Script::new()
                .once(On::Made, |transport| {
                    transport.pause_producing();
                    let connection = transport.connection::<crate::suite::recorder::Recorder>();
                    connection.tell(|_, transport| transport.resume_producing());
                })
                .on(On::Resumed, |_| ())
        },
        |_| writes("hello").once(On::Made, Transport::lose_connection),
    )
    .play();
}
