//! A guest in another language names its types and functions, and adds its frames.

use std::sync::mpsc;
use std::time::Duration;

use couplet::inspect::Inspector;
use couplet::{LoopOptions, Protocol, Transport};
use couplet_core::hooks::inspector as hooks;

use crate::kit::{Program, text};

/// The guest's protocol, which blocks until the test releases it.
struct Guest(mpsc::Receiver<()>);

impl Protocol for Guest {
    fn connection_made(&mut self, transport: &Transport) {
        hooks::name_protocol(transport, "guest.Chat");
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {
        // The test may have failed.
        let _ = self.0.recv();
    }
}

#[test]
fn a_hanging_callback_has_the_names_and_the_frames_of_a_guest() {
    let (let_go, waits) = mpsc::channel();
    let inspector = Inspector::at("0").frames(|| vec!["think (chat.py:12)".to_owned()]);
    let (program, address) =
        Program::start_with(inspector, LoopOptions::default(), move |reactor| {
            hooks::revise_snapshots(reactor, |_| panic!("replaced"));
            hooks::revise_snapshots(reactor, |snapshot| {
                for port in &mut snapshot.ports {
                    port.factory = Some("guest.Chats");
                }
            });
            let mut waits = Some(waits);
            let port = reactor.listen("tcp:0:interface=127.0.0.1", move || {
                Guest(waits.take().expect("one connection"))
            });
            port.expect("a free port").host().socket_addr().expect("TCP")
        });
    let factory =
        program.until("/ports.json", |rows| rows[0]["factory"].as_str().map(str::to_owned));
    assert_eq!(factory, "guest.Chats");
    let mut client = std::net::TcpStream::connect(address).expect("it listens");
    std::io::Write::write_all(&mut client, b"go").expect("it reads");
    let hangs = |state: &serde_json::Value| {
        Some(state["loops"][0].clone()).filter(|it| it["state"] == "hung")
    };
    let doing = program.until("/state.json", |state| Some(hangs(state)?["doing"].clone()));
    let what = text(&doing, "what");
    assert!(what.starts_with("a callback of guest.Chat (connection "), "{what}");
    assert_eq!(doing["backtrace"][0], "think (chat.py:12)");
    let (mut seen, mut laters) = (doing["for"].as_f64(), Vec::new());
    for _ in 0..3 {
        let later = program.until("/state.json", |state| {
            Some(hangs(state)?["doing"].clone()).filter(|it| it["for"].as_f64() > seen)
        });
        seen = later["for"].as_f64();
        laters.push(later["backtrace"].as_array().cloned().expect("frames"));
    }
    let_go.send(()).expect("it waits");
    program.until("/state.json", |state| hangs(state).is_none().then_some(()));
    // The next looks have the frames once too.
    for frames in laters {
        let count = frames.iter().filter(|frame| **frame == "think (chat.py:12)").count();
        assert_eq!((count, &frames[0]), (1, &doing["backtrace"][0]), "{frames:#?}");
    }
}

#[test]
fn a_call_of_a_guest_has_its_name() {
    let (let_go, waits) = mpsc::channel::<()>();
    let (program, ()) = Program::start(move |reactor| {
        let guest = reactor.clone();
        reactor.call_later(Duration::ZERO, move || {
            let _entered = hooks::enter(&guest, "timed call", || "chat.tick".into());
            let _ = waits.recv();
        });
    });
    let doing = program.until("/state.json", |state| {
        Some(&state["loops"][0]).filter(|it| it["state"] == "hung").map(|it| it["doing"].clone())
    });
    assert_eq!(text(&doing, "what"), "timed call chat.tick");
    let_go.send(()).expect("it waits");
}

#[test]
fn a_revision_that_panics_leaves_the_rest_of_the_snapshot() {
    let (program, ()) = Program::start(|reactor| {
        hooks::revise_snapshots(reactor, |_| panic!("no names"));
        reactor.call_later(Duration::from_secs(1000), || ());
    });
    // The panic may take longer than an answer may.
    let has_row = |rows: &serde_json::Value| rows.as_array().map(Vec::len) == Some(1);
    program.until("/calls.json", |rows| has_row(rows).then_some(()));
}

#[test]
fn a_loop_without_an_inspector_records_no_call_of_a_guest() {
    couplet::run(|reactor| {
        let entered = hooks::enter(reactor, "timed call", || unreachable!("it needs no name"));
        assert!(entered.is_none());
        reactor.stop();
        Ok(())
    })
    .expect("it runs");
}
