//! A loop that hangs.

use std::sync::mpsc;
use std::time::Duration;

use couplet::inspect::Inspector;
use couplet::{LoopOptions, Protocol, Reactor, Transport};
use serde_json::Value;

use crate::kit::{Program, text};

/// Blocks in a callback until the test releases it.
struct Hangs(mpsc::Receiver<()>);

impl Protocol for Hangs {
    fn data_received(&mut self, transport: &Transport, _: &[u8]) {
        // The test may have failed.
        let _ = self.0.recv();
        transport.write("done");
    }
}

/// The loop, if it hangs.
fn hung(state: &Value) -> Option<Value> {
    Some(&state["loops"][0]).filter(|it| it["state"] == "hung").cloned()
}

#[test]
fn c179_the_inspector_answers_while_a_callback_hangs_and_shows_it() {
    let (let_go, waits) = mpsc::channel();
    let (program, address) = Program::start(move |reactor| {
        let mut waits = Some(waits);
        let port = reactor.listen("tcp:0:interface=127.0.0.1", move || {
            Hangs(waits.take().expect("one connection"))
        });
        port.expect("a free port").host().socket_addr().expect("TCP")
    });
    let before = program.get("/state.json");
    assert_eq!(hung(&before), None);
    let mut client = std::net::TcpStream::connect(address).expect("it listens");
    // A reader does not wait for the names of a backtrace.
    let is_shown = |doing: &Value| {
        let frames = doing["backtrace"].as_array().into_iter().flatten();
        let has_names = cfg!(all(target_os = "linux", target_env = "gnu"));
        !has_names || frames.filter_map(Value::as_str).any(|name| name.contains("Hangs"))
    };
    for is_short in [true, false, true, true, false] {
        std::io::Write::write_all(&mut client, b"go").expect("it reads");
        if is_short {
            // The backtrace comes too late.
            program.until("/state.json", |state| hung(state).map(drop));
            let_go.send(()).expect("it waits");
            program.until("/state.json", |state| hung(state).is_none().then_some(()));
            continue;
        }
        let doing = program
            .until("/state.json", |state| Some(hung(state)?["doing"].clone()).filter(is_shown));
        assert!(text(&doing, "what").starts_with("a callback of Hangs (connection "), "{doing}");
        assert!(doing["for"].as_f64() > Some(0.0), "{doing}");
        let rows = program.get("/connections.json");
        assert!(rows[0].is_null() || doing["row"] == rows[0]["id"], "{doing}: {rows}");
        // The rows are those from before.
        assert_eq!(program.get("/ports.json").as_array().map(Vec::len), Some(1));
        let_go.send(()).expect("it waits");
        program.until("/state.json", |state| hung(state).is_none().then_some(()));
    }
}

#[test]
fn c179_each_of_two_loops_that_hang_at_the_same_time_has_a_backtrace() {
    let inspector = Inspector::at("0");
    let (programs, let_go): (Vec<Program>, Vec<mpsc::Sender<()>>) = (0..2)
        .map(|_| {
            let (let_go, waits) = mpsc::channel::<()>();
            let set_up = move |reactor: &Reactor| {
                reactor.call_later(Duration::ZERO, move || {
                    // The test may have failed.
                    let _ = waits.recv();
                });
            };
            let (inspector, options) = (inspector.clone(), LoopOptions::default());
            (Program::start_with(inspector, options, set_up).0, let_go)
        })
        .unzip();
    let has_backtraces = cfg!(all(target_os = "linux", target_env = "gnu"));
    let is_traced = |row: &Value| {
        let frames = row["doing"]["backtrace"].as_array().map_or(0, Vec::len);
        row["state"] == "hung" && (frames > 0 || !has_backtraces)
    };
    let is_shown = |rows: &Vec<Value>| rows.len() == 2 && rows.iter().all(is_traced);
    programs[0].until("/loops.json", |rows| rows.as_array().is_some_and(is_shown).then_some(()));
    let_go.iter().for_each(|let_go| let_go.send(()).expect("it waits"));
}

#[test]
fn c179_a_timed_call_that_hangs_is_named_by_its_place() {
    let (let_go, waits) = mpsc::channel::<()>();
    let (program, ()) = Program::start(move |reactor| {
        reactor.call_later(Duration::ZERO, move || {
            let _ = waits.recv();
        });
    });
    let doing = program.until("/state.json", |state| Some(hung(state)?["doing"].clone()));
    let what = text(&doing, "what");
    assert!(what.contains("timed call") && what.contains("hung.rs:"), "{what}");
    let_go.send(()).expect("it waits");
}

#[test]
fn the_time_of_a_loop_is_counted_by_kind() {
    let (program, ()) = Program::start(|reactor| {
        let reactor = reactor.clone();
        let repeated = reactor.clone();
        let call = couplet::LoopingCall::new(&repeated, move || {
            std::hint::black_box((0..10_000_u64).sum::<u64>());
        });
        call.start(Duration::from_millis(1)).detach();
        std::mem::forget(call);
    });
    let time = program.until("/time.json", |loops| {
        let time = loops[0].clone();
        let kinds = time["kinds"].as_array().expect("kinds");
        let call = kinds.iter().find(|kind| text(kind, "name").contains("hung.rs"));
        call.is_some_and(|call| call["calls"].as_u64() > Some(10)).then_some(time)
    });
    let idle = time["idle"].as_f64().expect("a number");
    let busy = time["busy"].as_f64().expect("a number");
    assert!(idle > 0.0 && busy > 0.0, "{time}");
    let shares = time["kinds"].as_array().expect("kinds").iter();
    let sum: f64 = shares.filter_map(|kind| kind["seconds"].as_f64()).sum();
    assert!((sum - busy).abs() < 0.001, "{time}");
    let calls = time["histogram"].as_array().expect("buckets").iter();
    assert!(calls.filter_map(|bucket| bucket["count"].as_u64()).sum::<u64>() > 10, "{time}");
}
