//! Programs with planted faults, and the inspector's account of each: it shows the lines that
//! `docs/diagnosis.md` quotes, and raises the flags. The mended programs have no flags.
//!
//! Flags that are raised after half a minute or later are in `src/flags/diagnosis.rs`, in virtual
//! time.

#![cfg(unix)]

#[macro_use]
extern crate couplet_testkit;

mod exhausted;
mod programs;
mod quotes;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use couplet::Reactor;
use couplet_testkit_loops::inspected as kit;
use serde_json::Value;

use couplet_testkit::program::now;
use couplet_testkit_loops::PATIENCE;
use couplet_testkit_loops::inspected::{Program, pause};
use programs::Version::{self, Faulty, Mended};
use programs::{
    answers, children, deaf, futurelock, half_closed, handshakes, jobs, locked, paused, restarts,
    slow, storm,
};
use quotes::Quote;

/// Runs a program.
fn run(
    start: fn(&Reactor, Version) -> couplet::Result<SocketAddr>,
    version: Version,
) -> (Program, SocketAddr) {
    Program::start(move |reactor| start(reactor, version).expect("a free port"))
}

/// A client that has sent this.
fn client(address: SocketAddr, text: &str) -> TcpStream {
    let mut client = TcpStream::connect(address).expect("it listens");
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    client.write_all(text.as_bytes()).expect("it reads");
    client
}

/// The next line from the program.
fn line(client: &TcpStream) -> String {
    let mut line = String::new();
    BufReader::new(client).read_line(&mut line).expect("it answers");
    line.trim_end().to_owned()
}

/// Looks at a program until it shows the quoted rows and flags.
fn shows(program: &Program, name: &str) -> Value {
    shows_all(|| program.get("/state.json"), name)
}

/// The same by the states that it has.
fn shows_all(look: impl FnMut() -> Value, name: &str) -> Value {
    shows_parts(look, name, |quote, state| {
        let mut different = quote.missing_rows(state);
        different.extend(quote.different_flags(&state["flags"]));
        different
    })
}

/// The same without its flags, which are raised much later.
fn shows_rows(program: &Program, name: &str) -> Value {
    shows_parts(
        || program.get("/state.json"),
        name,
        |quote, state| {
            let mut different = quote.missing_rows(state);
            different.extend(quote.unhealthy(&state["flags"]));
            different
        },
    )
}

fn shows_parts(
    mut look: impl FnMut() -> Value,
    name: &str,
    differences: impl Fn(&Quote, &Value) -> Vec<String>,
) -> Value {
    let quote = Quote::of(name);
    let late = now() + PATIENCE;
    loop {
        let state = look();
        let different = differences(&quote, &state);
        if different.is_empty() {
            return state;
        }
        let (flags, views) = (&state["flags"], &state["views"]);
        assert!(now() < late, "{different:#?} of {flags:#} with {views:#}");
        pause();
    }
}

/// Looks at a mended program until it has served its clients.
fn is_healthy(program: &Program, name: &str, clients: impl FnOnce() + Send) {
    let quote = Quote::of(name);
    std::thread::scope(|scope| {
        let serving = scope.spawn(clients);
        let mut is_served = false;
        // One more look when all are served.
        while !std::mem::replace(&mut is_served, serving.is_finished()) {
            assert_eq!(quote.unhealthy(&program.get("/flags.json")), Vec::<String>::new());
            pause();
        }
    });
}

#[test]
fn a_resolver_that_is_kept() {
    let ask = |address| {
        let waiting = client(address, "wait Door\r\n");
        // The same connection orders the lines.
        (&waiting).write_all(b"announce Door\r\n").expect("it reads");
        waiting
    };
    let (program, address) = run(answers::start, Faulty);
    let _waiting = ask(address);
    shows_rows(&program, "answers");
    let (program, address) = run(answers::start, Mended);
    is_healthy(&program, "answers", || assert_eq!(line(&ask(address)), "it has happened"));
    let deferreds = program.get("/deferreds.json");
    let mut rows = deferreds.as_array().expect("rows").iter();
    assert!(rows.all(|row| row["state"] == "ended"), "one waits: {deferreds}");
}

#[test]
fn reading_that_is_never_resumed() {
    let (program, address) = run(paused::start, Faulty);
    let _client = client(address, "!");
    shows_rows(&program, "paused");
    let (program, address) = run(paused::start, Mended);
    let client = client(address, "!");
    (&client).write_all(b"more").expect("it reads");
    program.until("/connections.json", |rows| (rows[0]["in"] == 5).then_some(()));
}

#[test]
fn a_callback_that_blocks() {
    let shrink = |address| {
        let mut client = client(address, "image");
        client.read_exact(&mut [0]).expect("it answers");
        client
    };
    let (program, address) = run(slow::start, Faulty);
    let _client = shrink(address);
    shows(&program, "slow");
    let (program, address) = run(slow::start, Mended);
    is_healthy(&program, "slow", || drop(shrink(address)));
}

#[test]
fn a_lock_that_is_held_across_an_await() {
    let (program, address) = run(locked::start, Faulty);
    let _silent = client(address, "");
    program.until("/locks.json", |locks| (!locks[0].is_null()).then_some(()));
    let _stopped = client(address, "rose\n");
    shows_rows(&program, "locked");
    let (program, address) = run(locked::start, Mended);
    let silent = client(address, "");
    is_healthy(&program, "locked", || assert_eq!(line(&client(address, "rose\n")), "4"));
    drop(silent);
}

/// A helper that a script has started, which the test ends.
struct Helper(String);

impl Drop for Helper {
    fn drop(&mut self) {
        let killed = std::process::Command::new("kill").arg(&self.0).status();
        assert!(killed.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

#[test]
fn a_child_that_leaves_a_helper_behind() {
    let (program, address) = run(children::start, Faulty);
    let stopped = client(address, "run");
    let _helper = Helper(line(&stopped));
    shows(&program, "children");
    let (program, address) = run(children::start, Mended);
    is_healthy(&program, "children", || {
        let mut client = client(address, "run");
        let mut output = String::new();
        client.read_to_string(&mut output).expect("it ends");
        drop(Helper(output.trim().to_owned()));
    });
}

#[test]
fn a_peer_that_reads_nothing() {
    let (program, address) = run(deaf::start, Faulty);
    let _deaf = client(address, "");
    shows(&program, "deaf");
    drop(program);
    let (program, address) = run(deaf::start, Mended);
    let deaf = client(address, "");
    let reader = client(address, "");
    // More than the buffers between the two ends hold.
    is_healthy(&program, "deaf", || {
        (&reader).take(32 << 20).read_to_end(&mut Vec::new()).expect("prices");
    });
    drop(deaf);
}

#[test]
fn handshakes_that_do_not_finish() {
    let (program, address) = run(handshakes::start, Faulty);
    let _direct = client(address, "");
    shows(&program, "handshakes");
    let (program, address) = run(handshakes::start, Mended);
    is_healthy(&program, "handshakes", || assert_eq!(line(&client(address, "hi\r\n")), "hi"));
}

#[test]
fn jobs_that_wait_for_a_thread() {
    let ask = |address| (0..12).map(|_| client(address, "?")).collect::<Vec<_>>();
    let (program, address) = run(jobs::start, Faulty);
    let _asking = ask(address);
    shows(&program, "jobs");
    let (program, address) = run(jobs::start, Mended);
    is_healthy(&program, "jobs", || {
        for client in ask(address) {
            assert_eq!(line(&client), "42");
        }
    });
}

#[test]
fn a_looping_call_without_a_period() {
    let run = |version| Program::start(move |reactor| storm::start(reactor, version)).0;
    let faulty = run(Faulty);
    shows(&faulty, "storm");
    drop(faulty);
    let mended = run(Mended);
    // The flag counts the last five whole seconds.
    mended.until("/time.json", |time| (time[0]["idle"].as_f64()? > 6.0).then_some(()));
    assert_eq!(Quote::of("storm").unhealthy(&mended.get("/flags.json")), Vec::<String>::new());
}

#[test]
fn a_service_that_fails_at_each_start() {
    let run = |version| Program::start(move |reactor| restarts::start(reactor, version)).0;
    shows(&run(Faulty), "restarts");
    let mended = run(Mended);
    // The service has seen that the file is missing, and sleeps.
    mended.row_with("tasks", "waits for a sleep requested at ");
    assert_eq!(mended.get("/flags.json"), Value::Array(Vec::new()));
}

#[test]
fn a_connection_that_stays_half_closed() {
    let count = |address| {
        let client = client(address, "four");
        client.shutdown(Shutdown::Write).expect("it is open");
        assert_eq!(line(&client), "4 bytes");
        client
    };
    let (program, address) = run(half_closed::start, Faulty);
    let _client = count(address);
    shows_rows(&program, "half_closed");
    let (program, address) = run(half_closed::start, Mended);
    is_healthy(&program, "half_closed", || {
        assert_eq!(count(address).read(&mut [0]).expect("it ends"), 0);
    });
}

#[test]
fn a_request_for_a_lock_that_is_put_aside() {
    let order = |program: &Program, address| {
        let first = client(address, "");
        program.until("/locks.json", |locks| (!locks[0].is_null()).then_some(()));
        let second = client(address, "tea\n");
        assert_eq!(line(&second), "others are served first");
        (&first).write_all(b"coffee\n").expect("it reads");
        assert_eq!(line(&first), "done");
        second
    };
    let (program, address) = run(futurelock::start, Faulty);
    let _second = order(&program, address);
    shows(&program, "futurelock");
    let (program, address) = run(futurelock::start, Mended);
    let second = order(&program, address);
    assert_eq!(line(&second), "done");
    assert_eq!(
        Quote::of("futurelock").unhealthy(&program.get("/flags.json")),
        Vec::<String>::new()
    );
}
