//! Scenes in which a callback fails or panics: its connection ends the same way on the kernel and
//! in the simulator.

use couplet::Transport;

use super::{Scene, Trace};
use crate::suite::recorder::{A, Broken, On, Script};

const ALL: [On; 5] = [On::Made, On::Data, On::ReadClosed, On::WriteClosed, On::Lost];

/// A conversation that triggers every callback; the server runs `act` in one of them.
fn in_callback(on: On, act: fn(&Transport)) -> Trace {
    Scene::of(
        move |_| {
            Script::new().aware().once(On::Data, Transport::lose_write_connection).once(on, act)
        },
        |_| {
            Script::new()
                .aware()
                .once(On::Made, |transport| transport.write("hello"))
                .once(On::ReadClosed, |transport| transport.lose_write_connection())
        },
    )
    .play()
}

#[test]
fn a_callback_that_fails() {
    for on in ALL {
        let trace = in_callback(on, |transport| transport.fail(Broken("broken")));
        let expected = if on == On::Lost { "lost: Done(Peer)" } else { "lost: Failed(broken)" };
        let last = trace.server[0].last().map(String::as_str);
        assert_eq!(last, Some(expected), "{on:?}: {trace:?}");
    }
}

#[test]
fn a_callback_that_panics() {
    for on in ALL {
        let trace = in_callback(on, |_| panic!("on purpose"));
        let expected =
            if on == On::Lost { "lost: Done(Peer)" } else { "lost: Panicked(on purpose)" };
        let last = trace.server[0].last().map(String::as_str);
        assert_eq!(last, Some(expected), "{on:?}: {trace:?}");
    }
}

#[test]
fn bytes_written_before_a_callback_fails_are_still_sent() {
    let fails = |_: &A| {
        Script::new().once(On::Made, |transport| {
            transport.write("last words");
            transport.fail(Broken("broken"));
        })
    };
    let trace = Scene::of(fails, |_| Script::new()).play();
    assert_eq!(trace.client[0], ["made", "data: last words", "read_closed", "lost: Done(Peer)"]);
}

#[test]
fn a_resume_that_panics() {
    let panics = |_: &A| {
        Script::new()
            .once(On::Made, |transport| {
                transport.pause_producing();
                let connection = transport.connection::<crate::suite::recorder::Recorder>();
                connection.tell(|_, transport| transport.resume_producing());
            })
            .once(On::Resumed, |_| panic!("on purpose"))
    };
    let trace = Scene::of(panics, |_| Script::new()).play();
    assert_eq!(trace.server[0].last().map(String::as_str), Some("lost: Panicked(on purpose)"));
}
