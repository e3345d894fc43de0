//! `testing::run`: a whole program in virtual time, and the report on a program that leaks.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use super::{Notes, failing, s};
use couplet::defer::set_reporter;
use couplet::reactor::Stopped;
use couplet::testing::{hold, run, run_within};
use couplet::transport::Timeout;
use couplet::{Address, Deferred, Failure, LoopingCall, Protocol, Reactor, Shutdown, Transport};

use couplet_testkit_loops::doubles::{Quiet, on_made};

/// Echoes, and closes on "bye".
struct Echo;

impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
        if data == b"bye" {
            transport.lose_connection();
        }
    }
}

/// A Deferred that has fired.
fn done() -> Deferred<()> {
    Deferred::succeed(())
}

/// The location in this file marked with the comment `// @name`.
fn at(name: &str) -> String {
    let is_marked = |line: &str| line.ends_with(&format!("// @{name}"));
    let line = include_str!("run.rs").lines().position(is_marked).expect("a marked line");
    format!("{}:{}:", file!(), line + 1)
}

/// Asserts that `program` leaks exactly these objects, each with its description, location and
/// remedy; a location after `@` is a [mark](at). Returns the message.
#[track_caller]
fn leaves(things: &[(&str, &str, &str)], program: impl FnOnce(&Reactor) -> Deferred<()>) -> String {
    let text = failing(|| run(program));
    let mut entries = text.split("\n1. ").nth(1).unwrap_or_default().to_owned();
    assert!(text.starts_with("the program ended and left behind:\n1. "), "{text}");
    for (number, (what, place, remedy)) in (2..).zip(things) {
        let next = format!("\n{number}. ");
        let (entry, rest) = entries.split_once(&next).unwrap_or((&entries, ""));
        assert!(entry.starts_with(what), "{what:?} is not where it was expected: {text}");
        let place = place.strip_prefix('@').map_or_else(|| (*place).to_owned(), at);
        assert!(entry.contains(&place), "{what:?} is reported without {place:?}: {text}");
        let advice = entry.split_once("to clean up: ").unwrap_or_default().1;
        assert!(advice.contains(remedy), "{what:?} is reported without {remedy:?}: {text}");
        entries = rest.to_owned();
    }
    assert!(entries.is_empty(), "more is reported: {text}");
    text
}

#[test]
fn a_clean_program_returns_its_result_in_virtual_time() {
    let answer = run(|reactor| {
        let reactor = reactor.clone();
        reactor.clone().spawn(async move {
            let start = reactor.now();
            let port = reactor.listen("tcp:10000", || Echo)?;
            let echo = reactor.connect("tcp:localhost:10000", || Echo).await?;
            reactor.sleep(s(20 * 3600)).await?;
            echo.tell(|_, transport| transport.write("bye"));
            reactor.sleep(s(1)).await?;
            if let Some(stopped) = port.stop_listening() {
                stopped.await?;
            }
            Ok((echo.is_lost(), reactor.now() - start))
        })
    });
    assert_eq!(answer.expect("a clean program"), (true, s(20 * 3600 + 1)));
}

#[test]
fn closes_requested_at_the_end_still_complete() {
    let notes = Notes::default();
    let ours = notes.clone();
    let result = run(|reactor| {
        let port = reactor.listen("tcp:1", || Echo).expect("a free port");
        reactor.connect("tcp:127.0.0.1:1", move || ours.clone()).map(move |connection| {
            connection.transport().lose_connection();
            port.stop_listening().expect("it listens").detach();
        })
    });
    assert!(result.is_ok() && notes.entries().last().is_some_and(|last| last.starts_with("lost")));
}

#[test]
fn the_failure_of_a_clean_program_is_returned() {
    let failure = run(|_| Deferred::<()>::fail(Failure::msg("no poem"))).expect_err("it failed");
    assert_eq!(failure.to_string(), "no poem");
    let failure = run(|reactor| reactor.spawn::<()>(async { panic!("no page") }));
    assert!(failure.expect_err("it failed").to_string().contains("no page"));
}

#[test]
fn a_program_that_stops_its_reactor_ends_like_any_run() {
    let ended = Rc::new(Cell::new(false));
    let ends = ended.clone();
    let kept = Rc::new(RefCell::new(None));
    let keeps = kept.clone();
    let result = run(|reactor| {
        reactor.listen("tcp:1", || Echo).expect("a free port");
        reactor.connect("tcp:127.0.0.1:1", || Echo).detach();
        let stopping = reactor.clone();
        reactor.call_later(s(1), move || stopping.stop());
        reactor.on(Shutdown::After, move || {
            ends.set(true);
            done()
        });
        let (never, resolver) = Deferred::<()>::new();
        *keeps.borrow_mut() = Some(resolver);
        never
    });
    let failure = result.expect_err("stopped");
    let stopped = failure.downcast_ref::<Stopped>().expect("a Stopped error");
    assert_eq!(stopped.signal, None);
    assert!(ended.get());
}

#[test]
fn triggers_before_the_shutdown_may_clean_up() {
    let result = run(|reactor| {
        let port = reactor.listen("tcp:1", || Echo).expect("a free port");
        let later = reactor.clone();
        reactor.on(Shutdown::Before, move || {
            later.sleep(s(1)).then(move |()| port.stop_listening().expect("it listens"))
        });
        done()
    });
    assert!(result.is_ok());
    // Each of several, whichever is the slowest.
    for delays in [[1, 2, 3], [3, 2, 1], [1, 3, 2]] {
        let result = run(|reactor| {
            for (number, delay) in (1..).zip(delays) {
                let port = reactor.listen(format!("tcp:{number}"), || Echo).expect("a free port");
                let later = reactor.clone();
                reactor.on(Shutdown::Before, move || {
                    let stop = move || port.stop_listening().expect("it listens");
                    later.sleep(s(delay)).then(move |()| stop())
                });
            }
            done()
        });
        assert!(result.is_ok());
    }
    let text = failing(|| {
        run(|reactor| {
            reactor.on(Shutdown::Before, || Deferred::new().0.add_errback(|_| Ok(())));
            let (never, resolver) = Deferred::new();
            let kept = RefCell::new(Some((never, resolver)));
            reactor.on(Shutdown::Before, move || {
                let (never, resolver) = kept.take().expect("called once");
                std::mem::forget(resolver);
                never
            });
            done()
        })
    });
    assert!(text.starts_with("a trigger of `Shutdown::Before` never fires"), "{text}");
}

#[test]
fn an_open_port_is_reported_with_where_it_was_opened() {
    let left = [("a port that listens on tcp:127.0.0.1:10000", "@port", "`port.stop_listening()`")];
    leaves(&left, |reactor| {
        reactor.listen("tcp:10000:interface=127.0.0.1", || Echo).expect("a free port"); // @port
        done()
    });
    // A port that was opened again is reported with the location of the second call.
    let left =
        [("a port that listens on tcp:127.0.0.1:7", "@port again", "`port.stop_listening()`")];
    leaves(&left, |reactor| {
        let port = reactor.listen(SocketAddr::from(([127, 0, 0, 1], 7)), || Echo).expect("free");
        port.stop_listening().expect("it listens").map(move |()| {
            port.start_listening().expect("it is free again"); // @port again
        })
    });
}

#[test]
fn an_open_connection_is_reported_once_for_each_end_with_its_origin() {
    let left = [
        ("a port", "@port of a connection", "stop"),
        (
            "a connection to tcp:127.0.0.1:1 (open, bytes in 0 out 5 buffered 0)",
            "@connection",
            "lose",
        ),
        (
            "a connection from tcp:127.0.0.1:",
            "@port of a connection",
            "`transport.lose_connection()`, on either",
        ),
    ];
    let text = leaves(&left, |reactor| {
        reactor.listen("tcp:1", || Quiet).expect("a free port"); // @port of a connection
        let connecting = reactor.connect("tcp:127.0.0.1:1", || Quiet); // @connection
        connecting.map(move |connection| {
            let transport = connection.transport();
            transport.write("hello");
            transport.set_timeout(Timeout::Idle, Some(s(60)));
            connection.call_later(s(60), |_, _| {}); // @call of a connection
        })
    });
    // The loop's own timers are not reported, and a connection's timers are reported with it.
    let own = format!("with its own timed call, requested at {}", at("call of a connection"));
    assert!(text.contains(&own), "{own} is not in: {text}");
    assert!(text.contains("accepted by the port opened at"), "{text}");
}

#[test]
fn a_connection_that_cannot_finish_closing_is_reported_with_what_blocks_it() {
    fn closing<P: Protocol>(reactor: &Reactor, server: impl Fn() -> P + 'static) -> Deferred<()> {
        reactor.listen("tcp:1", server).expect("a free port");
        reactor.connect("tcp:127.0.0.1:1", || Quiet).map(move |connection| {
            connection.transport().write([0; 200_000]);
            connection.transport().lose_connection();
        })
    }
    let left = |state, remedy| {
        [
            ("a port", "opened at", "stop"),
            (state, "requested at", remedy),
            ("a connection from tcp:127.0.0.1:", "accepted by", "lose_connection"),
        ]
    };
    let lingering = "a connection to tcp:127.0.0.1:1 (lingering";
    leaves(&left(lingering, "it is closing, but the other end does"), |reactor| {
        // The server keeps reading and never closes.
        closing(reactor, || Notes { aware: true, ..Notes::default() })
    });
    let flushing = "a connection to tcp:127.0.0.1:1 (flushing";
    leaves(&left(flushing, "does not read"), |reactor| {
        closing(reactor, || on_made(Transport::pause_producing))
    });
}

#[test]
fn an_unfinished_connect_is_reported_with_its_call_site() {
    struct Again;
    impl couplet::Factory for Again {
        type Protocol = Quiet;
        fn build_protocol(&mut self, _: &Address) -> Option<Quiet> {
            None
        }
        fn client_connection_failed(
            &mut self,
            connector: &couplet::Connector,
            _: &couplet::Reason,
        ) {
            connector.connect_after(s(60)).expect("it is disconnected");
        }
    }
    let left =
        [("a connect to tcp:127.0.0.1:9 (waiting)", "@connect", "`connector.stop_connecting()`")];
    leaves(&left, |reactor| {
        reactor.connect(("127.0.0.1", 9), Again).detach(); // @connect
        reactor.sleep(s(1))
    });
}

#[test]
fn a_pending_call_is_reported_with_its_time_and_its_call_site() {
    let left = [
        ("a timed call, due in 28s", "@call", "keep its `DelayedCall`, and `cancel()` it"),
        ("a sleep, due in 38s", "@sleep", "cancel its Deferred"),
        ("a timeout, due in 48s", "@timeout", "the Deferred that it guards"),
        ("a timed call, due in 58s", "@call again", "cancel"),
    ];
    leaves(&left, |reactor| {
        reactor.call_later(s(30), || {}); // @call
        reactor.sleep(s(40)).detach(); // @sleep
        let (never, resolver) = Deferred::<()>::new();
        never.add_timeout(reactor, s(50)).add_errback(|_| Ok(())).detach(); // @timeout
        reactor.call_later(s(60), move || drop(resolver)); // @call again
        reactor.call_later(s(1), || {});
        reactor.call_later(s(70), || {}).cancel();
        reactor.sleep(s(2))
    });
}

#[test]
fn calls_made_by_the_library_have_the_call_site_in_user_code() {
    let left = [
        ("a sleep, due in 9s", "@deferred call", "cancel"),
        ("a looping call, due in 9s", "@looping call", "`stop()` it"),
    ];
    leaves(&left, |reactor| {
        let looping = LoopingCall::new(reactor, || {});
        looping.start(s(10)).detach(); // @looping call
        reactor.sleep(s(20)).add_callback(|()| Ok(())).detach(); // @deferred call
        reactor.sleep(s(11))
    });
    let (never, _resolver) = Deferred::<()>::new();
    let left = [
        ("a timeout, due in 20s", "@timeout of a task", "the Deferred that it guards"),
        (
            "a task that has not finished",
            "@task with a timeout",
            "wait for its Deferred, or cancel that",
        ),
    ];
    leaves(&left, |reactor| {
        let inner = reactor.clone();
        let task = async move { inner.timeout(s(30), never).await }; // @timeout of a task
        reactor.spawn(task).detach(); // @task with a timeout
        reactor.sleep(s(10))
    });
}

#[test]
fn an_unhandled_failure_is_reported_with_where_it_began_and_was_dropped() {
    leaves(&[("an unhandled failure: no poem", "@failure", "`add_errback`")], |_| {
        let failure = Failure::msg("no poem"); // @failure
        drop(Deferred::<()>::fail(failure).map(|()| ()));
        done()
    });
    let left = [("an unhandled failure: connection refused", "@failed connect", "`add_errback`")];
    let text = leaves(&left, |reactor| {
        drop(reactor.connect("tcp:127.0.0.1:9", || Echo)); // @failed connect
        reactor.sleep(s(1))
    });
    let told = text.matches(&at("failed connect")).count();
    assert_eq!(told, 2, "the connect and its Deferred: {text}");
}

#[test]
fn a_panic_in_a_callback_is_reported() {
    let left = [
        ("a panic in timed call: no poem", "contained", "callbacks do not panic"),
        ("a panic in a callback of a protocol: no page", "contained", "`transport.fail(error)`"),
    ];
    leaves(&left, |reactor| {
        reactor.call_soon(|| panic!("no poem"));
        let port = reactor.listen("tcp:1", || on_made(|_| panic!("no page"))).expect("a free port");
        reactor.connect("tcp:127.0.0.1:1", || Quiet).detach();
        reactor.sleep(s(1)).then(move |()| port.stop_listening().expect("it listens"))
    });
}

#[test]
fn a_failure_held_by_an_object_is_reported_when_the_object_is_dropped() {
    leaves(&[("an unhandled failure: no poem", file!(), "`add_errback`")], |reactor| {
        let failed = Deferred::<()>::fail(Failure::msg("no poem"));
        reactor.on(Shutdown::After, move || {
            drop(failed);
            done()
        });
        done()
    });
}

#[test]
fn a_program_that_fails_and_leaks_gets_both_reports() {
    let text = failing(|| {
        run(|reactor| {
            reactor.listen("tcp:1", || Echo).expect("a free port");
            Deferred::<()>::fail(Failure::msg("no poem")) // @failed program
        })
    });
    let start = format!("the program failed: no poem (began at {}", at("failed program"));
    assert!(text.starts_with(&start), "{text}");
    assert!(text.contains("and left behind:\n1. a port that listens on tcp:[::]:1"), "{text}");
}

#[test]
fn the_report_of_a_stalled_program_names_the_deferred() {
    let kept = RefCell::new(None);
    let text = failing(|| {
        run(|reactor| {
            reactor.listen("tcp:1", || Echo).expect("a free port");
            let (never, resolver) = Deferred::<()>::new(); // @never
            kept.replace(Some(resolver));
            never
        })
    });
    let start = format!("the program waits forever: the Deferred of {}", at("never"));
    assert!(text.starts_with(&start), "{text}");
    assert!(text.contains("has not fired, and nothing can ever happen; remaining:\n1. a port"));
    let text = failing(|| {
        run(|_| {
            let (never, resolver) = Deferred::<()>::new();
            kept.replace(Some(resolver));
            never
        })
    });
    assert!(text.ends_with("\nnothing: no port, connection, call or task that could fire it"));
}

#[test]
fn the_report_of_a_program_that_runs_too_long_lists_running_objects() {
    let forever = |reactor: &Reactor| LoopingCall::new(reactor, || {}).start(s(60)).map(|_| ());
    let text = failing(|| run(forever));
    assert!(
        text.contains("has not fired within 86400s of virtual time; remaining:\n1. a looping call")
    );
    let text = failing(|| run_within(s(90), forever));
    assert!(text.contains("within 90s of virtual time"), "{text}");
    assert!(text.contains("due in 60s"), "the clock stops at the last event: {text}");
    let sleep = |time: Duration| move |reactor: &Reactor| reactor.sleep(time);
    assert!(run_within(s(90), sleep(s(90))).is_ok());
    assert!(run_within(s(400 * 24 * 3600), sleep(s(365 * 24 * 3600))).is_ok());
}

#[test]
fn the_report_of_a_program_that_loops_forever_lists_active_objects() {
    struct Serves;
    impl Protocol for Serves {
        fn connection_made(&mut self, transport: &Transport) {
            transport.write("to and fro");
        }
        fn data_received(&mut self, transport: &Transport, data: &[u8]) {
            transport.write(data);
        }
    }
    let text = failing(|| {
        run(|reactor| {
            reactor.listen("tcp:1", || Serves).expect("a free port");
            reactor.connect("tcp:127.0.0.1:1", || Echo).detach();
            reactor.sleep(s(1))
        })
    });
    assert!(text.starts_with("the program is livelocked: the Deferred of "), "{text}");
    assert!(text.contains("while time stands still; remaining:\n1. a port"), "{text}");
    // A finished program gets only a limited number of turns to clean up.
    let left = [("a port", "", ""), ("a connection to", "", ""), ("a connection from", "", "")];
    leaves(&left, |reactor| {
        reactor.listen("tcp:1", || Serves).expect("a free port");
        reactor.connect("tcp:127.0.0.1:1", || Echo).map(|_| ())
    });
}

#[test]
fn a_program_may_make_any_number_of_turns_while_time_passes() {
    let result = run(|reactor| {
        let count = Rc::new(Cell::new(0));
        let counted = count.clone();
        let ticks = LoopingCall::new(reactor, move || counted.set(counted.get() + 1));
        ticks.start(Duration::from_micros(1)).detach();
        reactor.sleep(Duration::from_millis(1100)).map(move |()| {
            ticks.stop();
            count.get()
        })
    });
    assert!(result.is_ok_and(|count| count > 1_000_000));
}

#[test]
fn all_leaks_are_reported_in_one_message() {
    let left = [
        ("a port", "@1", "stop"),
        ("a connection to", "@5", "lose"),
        ("a connection from", "@1", "lose"),
        ("a timed call", "@2", "cancel"),
        ("a task", "@3", "cancel"),
        ("an unhandled failure", "@4", "add_errback"),
    ];
    leaves(&left, |reactor| {
        reactor.listen("tcp:1", || Quiet).expect("a free port"); // @1
        reactor.call_later(s(30), || {}); // @2
        reactor.spawn(std::future::pending::<couplet::Result<()>>()).detach(); // @3
        drop(Deferred::<()>::fail(Failure::msg("no poem"))); // @4
        reactor.connect("tcp:127.0.0.1:1", || Quiet).map(|_| ()) // @5
    });
}

#[test]
fn nested_runs_are_independent() {
    let left = [
        ("an unhandled failure: no poem", "", ""),
        ("an unhandled failure: no line", "", ""),
        ("a panic in timed call: no page", "", ""),
    ];
    leaves(&left, |reactor| {
        reactor.call_soon(|| panic!("no page"));
        drop(Deferred::<()>::fail(Failure::msg("no poem")));
        reactor.sleep(s(1)).map(|()| {
            assert!(run(|_| done()).is_ok());
            failing(|| run(|_| Deferred::<()>::fail(Failure::msg("no verse")).map(drop)).unwrap());
            drop(Deferred::<()>::fail(Failure::msg("no line")));
        })
    });
}

#[test]
fn a_panic_that_a_loop_inside_of_a_run_has_contained_is_reported_by_the_run_too() {
    leaves(&[("a panic in timed call: no page", "", "")], |_| {
        let mut held = hold(Quiet);
        held.take_panics(); // so that they do not fail this one
        held.reactor().call_soon(|| panic!("no page"));
        held.settle();
        assert_eq!(held.take_panics().len(), 1);
        done()
    });
}

#[test]
fn a_panic_in_the_last_trigger_is_reported() {
    leaves(&[("a panic in", "", "")], |reactor| {
        reactor.on(Shutdown::After, || -> Deferred<()> { panic!("no page") });
        done()
    });
}

#[test]
fn only_call_sites_of_finished_work_are_forgotten() {
    leaves(&[("a timed call, due in 2600s", "@hour", "cancel")], |reactor| {
        reactor.call_later(s(3600), || {}); // @hour
        let (ticks, tasks) = (reactor.clone(), reactor.clone());
        let ticks = LoopingCall::new(reactor, move || {
            ticks.call_soon(|| {});
            tasks.spawn(async { Ok(()) }).detach();
        });
        ticks.start(s(1)).detach();
        reactor.sleep(s(1000)).map(move |()| assert!(ticks.stop()))
    });
}

#[test]
fn a_program_that_leaks_does_not_affect_later_runs() {
    let heard = Rc::new(RefCell::new(Vec::new()));
    let hears = heard.clone();
    let before = set_reporter(move |unhandled| {
        hears.borrow_mut().push(unhandled.failure().to_string());
    });
    let notes = Notes::default();
    let ours = notes.clone();
    let dropped = Rc::new(Cell::new(0));
    struct Counts(Rc<Cell<u32>>);
    impl Drop for Counts {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }
    let counts = (Counts(dropped.clone()), Counts(dropped.clone()));
    failing(|| {
        run(move |reactor| {
            reactor.listen("tcp:1", || Quiet).expect("a free port");
            reactor.call_later(s(1), move || drop(counts.0));
            reactor
                .spawn(async move {
                    let _counts = counts.1;
                    std::future::pending::<couplet::Result<()>>().await
                })
                .detach();
            drop(Deferred::<()>::fail(Failure::msg("no poem")));
            reactor.connect("tcp:127.0.0.1:1", move || ours.clone()).map(|_| ())
        })
    });
    assert_eq!(notes.entries(), ["made", "lost: connection closed by the reactor"]);
    assert_eq!(dropped.get(), 2);
    // A panic of the program itself propagates unchanged.
    assert_eq!(failing(|| run(|_| -> Deferred<()> { panic!("no page") })), "no page");
    assert!(heard.borrow().is_empty());
    drop(Deferred::<()>::fail(Failure::msg("reported as before")));
    assert_eq!(*heard.borrow(), ["reported as before"]);
    let again = run(|reactor| {
        let port = reactor.listen("tcp:1", || Quiet).expect("the port is free again");
        port.stop_listening().expect("it listens")
    });
    assert!(again.is_ok());
    before.set();
}
