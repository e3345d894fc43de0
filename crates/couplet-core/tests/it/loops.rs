//! Rows 99 to 105: how and in which order a run ends. A loop is a value: several coexist in one
//! process or thread, and each can run any number of times.

use std::cell::RefCell;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use couplet::defer::set_reporter;
use couplet::endpoints::TcpClient;
use couplet::reactor::Stopped;
use couplet::testing::{Manner, Memory, Network, Wire};
use couplet::{
    ConnectOptions, Connection, DatagramOptions, Deferred, Failure, ListenOptions, Loop,
    LoopOptions, Reactor, Resolver, Shutdown, Signal, Transport, hooks,
};
use couplet_testkit_loops::doubles::{Echo, Quiet};

use crate::logged::logged;
use crate::pace::{ms, real_loop, s};
use crate::suite::kit::LOOPBACK;
use crate::suite::recorder::{A, Log, Maker, On, Script};

/// A loop in memory, whose clock advances automatically when nothing is ready.
fn memory() -> (Loop, Network) {
    let (driver, network) = Memory::new(Manner::Readiness, 0);
    let l = Loop::with_driver(driver, LoopOptions::default());
    (l, network)
}

fn memory_with_log() -> (Loop, Network, Reactor, Log) {
    let (l, network) = memory();
    let reactor = l.reactor();
    (l, network, reactor, Log::default())
}

/// Connects to a port whose connection stops the loop in this callback.
fn stop_in(reactor: &Reactor, on: On) {
    let stops = Script::new().once(on, |transport| transport.reactor().stop());
    let port = reactor.listen(LOOPBACK, A::default().once(stops));
    let to = port.expect("a free port").host().to_string();
    reactor.connect(to, || Quiet).detach();
}

fn noting(log: &Log, entry: &'static str) -> impl FnOnce() + 'static {
    let log = log.clone();
    move || log.note(entry)
}

/// A shutdown trigger that logs an entry and is done immediately.
fn at_once(log: &Log, entry: &'static str) -> impl FnOnce() -> Deferred<()> + 'static {
    let log = log.clone();
    move || {
        log.note(entry);
        Deferred::succeed(())
    }
}

fn run_to_the_end(l: &mut Loop) {
    l.run(|_| Ok(())).expect("the run ends");
}

fn run_for(l: &mut Loop, time: Duration) {
    stop_after(&l.reactor(), time);
    run_to_the_end(l);
}

fn stop_after(reactor: &Reactor, delay: Duration) {
    let stopping = reactor.clone();
    reactor.call_later(delay, move || stopping.stop());
}

#[test]
fn c99_stop_only_sets_a_mark_and_the_turn_runs_to_its_end() {
    let (mut l, network) = memory();
    let a = A::default();
    let log = a.log.clone();
    let port = l.reactor().listen(LOOPBACK, a.once(Script::new())).expect("a free port");
    let wire = network.connect(port.host()).expect("it listens");
    l.reactor().on(Shutdown::Before, at_once(&log, "before"));
    let (stopping, inner) = (l.reactor(), log.clone());
    l.reactor().call_later(s(1), move || {
        stopping.stop();
        assert!(!stopping.is_stopping());
        inner.note("stop returned");
    });
    l.reactor().call_later(s(1), noting(&log, "due in the same turn"));
    run_to_the_end(&mut l);
    assert_eq!(
        log.entries(),
        ["made", "stop returned", "due in the same turn", "before", "draining", "lost(Shutdown)"]
    );
    assert!(wire.saw_fin());
}

#[test]
fn c100_a_run_ends_in_order() {
    let (mut l, network) = memory();
    let a = A::default();
    let (log, reactor) = (a.log.clone(), l.reactor());
    let port = reactor.listen(LOOPBACK, a.makes_many()).expect("a free port");
    let to = port.host().socket_addr().expect("TCP");
    let wire = network.connect(to).expect("it listens");
    reactor.on(Shutdown::After, at_once(&log, "after"));
    reactor.on(Shutdown::During, at_once(&log, "during 1"));
    reactor.on(Shutdown::During, at_once(&log, "during 2"));
    let (waiting, resolver) = Deferred::new();
    let inner = log.clone();
    reactor.on(Shutdown::Before, move || {
        inner.note("before 1");
        waiting
    });
    reactor.on(Shutdown::Before, at_once(&log, "before 2"));
    // While the first one waits, the loop turns normally: connections and timers work.
    let (inner, sending) = (log.clone(), Rc::new(wire));
    let wire = sending.clone();
    reactor.call_later(s(2), move || {
        inner.note("a timed call");
        sending.push(b"hello");
    });
    let inner = log.clone();
    reactor.call_later(s(3), move || {
        inner.note("before 1 is done");
        resolver.callback(());
    });
    run_for(&mut l, s(1));
    let entries = log.entries();
    assert!(entries[1].starts_with("build"), "{entries:?}");
    assert_eq!(entries[0], "do_start");
    let order = "made, before 1, before 2, a timed call, data(5), before 1 is done, do_stop, \
                 draining, lost(Shutdown), during 1, during 2, after";
    assert_eq!(entries[2..].join(", "), order);
    assert!(wire.is_closed() && !port.is_listening());
    assert!(network.connect(to).is_err(), "the port is closed");
}

#[test]
fn c101_a_panic_or_a_failure_in_a_trigger_stops_no_other() {
    let reported: Rc<RefCell<Vec<String>>> = Rc::default();
    let notes = reported.clone();
    set_reporter(move |unhandled| notes.borrow_mut().push(unhandled.failure().to_string()));
    let (mut l, _network, reactor, log) = memory_with_log();
    for when in [Shutdown::Before, Shutdown::During, Shutdown::After] {
        reactor.on(when, || -> Deferred<()> { panic!("no poem") });
        reactor.on(when, || Deferred::fail(Failure::msg("no prose")));
        reactor.on(when, at_once(&log, "well"));
    }
    stop_after(&reactor, s(1));
    let (run, lines) = logged(|| l.run(|_| Ok(())));
    run.expect("the run ends");
    assert_eq!(log.entries(), ["well", "well", "well"]);
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines.iter().all(|line| line.contains("no poem")), "{lines:?}");
    assert_eq!(reported.take(), ["no prose", "no prose", "no prose"]);
}

#[test]
fn c102_calls_and_tasks_still_pending_when_the_loop_stops_never_run() {
    let (mut l, _network, reactor, log) = memory_with_log();
    let held = Rc::new(());
    let inside = held.clone();
    let call = reactor.call_later(s(100), {
        let log = log.clone();
        move || log.note(format!("{inside:?}"))
    });
    let task = reactor.spawn({
        let (reactor, log) = (reactor.clone(), log.clone());
        async move {
            reactor.sleep(s(100)).await?;
            log.note("task");
            Ok(())
        }
    });
    // Requested at the very end of the run, by its last triggers.
    let (late, inner) = (reactor.clone(), log.clone());
    reactor.on(Shutdown::After, move || {
        late.call_soon(noting(&inner, "requested after the end"));
        late.spawn(async { Ok(()) })
    });
    run_for(&mut l, s(1));
    assert!(!call.active() && task.has_fired());
    assert_eq!(Rc::strong_count(&held), 1, "dropped with the run");
    assert_eq!(l.snapshot().pending_calls + l.snapshot().tasks, 0);
    stop_after(&reactor, s(1000));
    run_to_the_end(&mut l);
    assert!(log.entries().is_empty(), "{:?}", log.entries());
}

#[test]
fn c102_a_connect_asked_for_at_the_end_fails_and_does_not_wait_for_another_run() {
    let (mut l, network) = memory();
    let to = network.listen(LOOPBACK, 5).expect("a free port");
    let (port, log) = (to.port().expect("TCP"), Log::default());
    let reactor = l.reactor();
    for when in [Shutdown::During, Shutdown::After] {
        let (late, log) = (reactor.clone(), log.clone());
        reactor.on(when, move || {
            let maker = Maker::new(&log, |_| None);
            let options = ConnectOptions::default();
            let connecting =
                late.connect(TcpClient::new("127.0.0.1", port).options(options), maker);
            log.watch("connected", connecting);
            Deferred::succeed(())
        });
    }
    run_for(&mut l, s(1));
    let refused = "client_connection_failed(Failed(the reactor stopped))";
    let each = ["do_start", refused, "do_stop", "connected: failed"];
    assert_eq!(log.entries(), [each, each].concat());
    run_for(&mut l, s(1));
    assert!(network.accept(to).is_none());
    assert_eq!(log.len(), 2 * each.len());
}

#[test]
fn c103_stop_before_a_run_or_twice_does_nothing() {
    let (mut l, network, reactor, log) = memory_with_log();
    reactor.stop();
    l.turn(Some(Duration::ZERO)).expect("memory does not fail");
    assert!(!reactor.is_stopping());
    reactor.stop();
    reactor.on(Shutdown::During, at_once(&log, "during"));
    reactor.on(Shutdown::Before, {
        let reactor = reactor.clone();
        move || {
            reactor.stop();
            reactor.sleep(s(5))
        }
    });
    let stopping = reactor.clone();
    reactor.call_later(s(1), move || {
        stopping.stop();
        stopping.stop();
    });
    for at in 2..5 {
        stop_after(&reactor, s(at));
    }
    run_to_the_end(&mut l);
    assert_eq!(network.elapsed(), s(6), "the first stop counts, and nothing shortens the shutdown");
    assert_eq!(log.entries(), ["during"]);
    reactor.stop();
    run_for(&mut l, s(1));
    assert_eq!(network.elapsed(), s(7), "a stop between two runs does not affect the next");
}

#[test]
fn c99_a_run_ends_wherever_it_is_stopped_from_and_however_often() {
    type Stop = fn(&Reactor);
    let places: [(&str, Stop); 7] = [
        ("a timed call", |reactor| stop_after(reactor, s(1))),
        ("a task", |reactor| {
            let inner = reactor.clone();
            let task = reactor.spawn(async move {
                inner.sleep(s(1)).await?;
                inner.stop();
                inner.stop();
                Ok(())
            });
            task.detach();
        }),
        ("another thread", |reactor| {
            let remote = reactor.remote();
            let twice = move || [(); 2].map(|()| remote.call(Reactor::stop));
            let called = std::thread::spawn(twice).join().expect("it only calls");
            assert!(called.iter().all(Result::is_ok));
        }),
        ("a callback of a Deferred", |reactor| {
            let stopping = reactor.clone();
            reactor.sleep(s(1)).map(move |()| stopping.stop()).detach();
        }),
        ("a callback of a connection", |reactor| stop_in(reactor, On::Made)),
        ("a trigger of another stop", |reactor| {
            let stopping = reactor.clone();
            reactor.on(Shutdown::Before, move || {
                stopping.stop();
                stopping.sleep(s(1))
            });
            stop_after(reactor, s(1));
        }),
        ("connection_lost at the end", |reactor| {
            stop_in(reactor, On::Lost);
            stop_after(reactor, s(1));
        }),
    ];
    for (place, stop) in places {
        let (mut l, _network) = memory();
        let log = Log::default();
        l.reactor().on(Shutdown::After, at_once(&log, "after"));
        l.run(|reactor| {
            stop(reactor);
            Ok(())
        })
        .expect("the run ends");
        assert_eq!(log.entries(), ["after"], "stopped from {place}");
        assert!(l.snapshot().connections.is_empty() && !l.reactor().is_stopping());
    }
}

#[test]
fn c103_a_loop_runs_again_after_it_was_stopped() {
    let (mut l, network) = memory();
    let a = A::default();
    let reactor = l.reactor();
    let port = reactor.listen(LOOPBACK, a.makes_many()).expect("a free port");
    for run in 1..=3 {
        if run > 1 {
            port.start_listening().expect("it was free");
        }
        let to = port.host().socket_addr().expect("TCP");
        let wire = network.connect(to).expect("it listens");
        wire.push(b"hello");
        stop_after(&reactor, s(1));
        run_to_the_end(&mut l);
        for entry in ["do_start", "data(5)", "lost(Shutdown)", "do_stop"] {
            assert_eq!(a.log.count(entry), run, "{entry}");
        }
        assert!(!reactor.is_stopping());
    }
    assert_eq!(network.elapsed(), s(3));
}

#[test]
fn c103_a_run_whose_setup_fails_is_over() {
    let (mut l, network, reactor, log) = memory_with_log();
    let error = l.run(|reactor| {
        reactor.listen(LOOPBACK, Maker::new(&log, |_| None))?;
        reactor.call_later(s(1), noting(&log, "never"));
        Err(Failure::msg("no poem"))
    });
    assert_eq!(error.expect_err("the setup's error").to_string(), "no poem");
    assert_eq!(l.snapshot().ports.len() + l.snapshot().pending_calls, 0);
    reactor.stop();
    stop_after(&reactor, s(2));
    run_to_the_end(&mut l);
    assert_eq!(network.elapsed(), s(2));
    assert!(!log.has("never"), "{:?}", log.entries());
}

#[test]
fn run_until_keeps_connections_open() {
    let (mut l, network) = memory();
    let to = network.listen(LOOPBACK, 5).expect("a free port");
    let a = A::default();
    let (port, options) = (to.port().expect("TCP"), ConnectOptions::default());
    let factory = a.once(Script::new());
    let connecting =
        l.reactor().connect(TcpClient::new("127.0.0.1", port).options(options), factory);
    let connection: Connection<_> = l.run_until(connecting).expect("it connects");
    let wire = network.accept(to).expect("it has connected");
    // Between two runs nothing is called; the next run delivers the bytes that arrived in between.
    wire.push(b"hello");
    assert_eq!(a.log.entries(), ["made"]);
    let received = connection.ask(|_, transport| transport.id());
    assert_eq!(l.run_until(received).expect("a live connection"), connection.id());
    let slept = l.reactor().sleep(s(5));
    l.run_until(slept).expect("it ends");
    assert_eq!(a.received(), b"hello");
    assert!(!connection.is_lost() && network.elapsed() == s(5));
    // The error is the failure of the Deferred; a fired Deferred needs no turn.
    let failed = l.run_until(Deferred::<()>::fail(Failure::msg("no poem")));
    assert_eq!(failed.expect_err("it failed").to_string(), "no poem");
    // A stop inside it ends everything, as in any run.
    stop_after(&l.reactor(), s(1));
    let never = l.reactor().sleep(s(1000));
    let stopped = l.run_until(never).expect_err("it was stopped");
    assert!(stopped.is::<Stopped>() || stopped.is_cancelled(), "{stopped}");
    assert_eq!(a.log.entries(), ["made", "data(5)", "draining", "lost(Shutdown)"]);
}

#[test]
fn run_until_finishes_a_shutdown_that_has_begun() {
    let (mut l, network, reactor, log) = memory_with_log();
    reactor.on(Shutdown::Before, {
        let reactor = reactor.clone();
        move || reactor.sleep(s(5))
    });
    reactor.on(Shutdown::After, at_once(&log, "after"));
    stop_after(&reactor, s(1));
    // The result arrives in the middle of the shutdown.
    let result = reactor.sleep(s(3)).map(|()| "done");
    assert_eq!(l.run_until(result).expect("it fires"), "done");
    assert_eq!(log.entries(), ["after"], "a run that is shutting down finishes its shutdown");
    assert_eq!(network.elapsed(), s(6));
    assert!(!reactor.is_stopping());
    let slept = reactor.sleep(s(1));
    l.run_until(slept).expect("the next run is a normal one");
}

#[test]
fn a_run_that_can_never_continue_ends_with_an_error() {
    let (mut l, network) = memory();
    let (never, _resolver): (Deferred<()>, Resolver<()>) = Deferred::new();
    let error = l.run_until(never).expect_err("nothing can happen");
    assert!(error.is::<std::io::Error>(), "{error:?}");
    l.reactor().stop();
    stop_after(&l.reactor(), s(1));
    run_to_the_end(&mut l);
    assert_eq!(network.elapsed(), s(1), "the stop between the runs had no effect");
}

#[test]
fn c104_a_call_for_when_the_loop_runs_waits_for_the_turn_in_order() {
    let (mut l, _network, reactor, log) = memory_with_log();
    reactor.call_soon(noting(&log, "before the run"));
    let (inner, again) = (log.clone(), reactor.clone());
    l.run(|reactor| {
        reactor.call_soon(noting(&inner, "in setup"));
        let (reactor, log) = (reactor.clone(), inner.clone());
        again.call_soon(move || {
            reactor.call_soon(noting(&log, "while it runs"));
            reactor.call_soon({
                let reactor = reactor.clone();
                move || reactor.stop()
            });
            log.note("a call");
        });
        inner.note("setup returns");
        Ok(())
    })
    .expect("the run ends");
    let expected = ["setup returns", "before the run", "in setup", "a call", "while it runs"];
    assert_eq!(log.entries(), expected);
}

#[test]
fn c105_a_signal_stops_the_run_and_a_second_one_ends_it_at_once() {
    for again in [false, true] {
        let (mut l, network, reactor, log) = memory_with_log();
        reactor.on(Shutdown::Before, {
            let reactor = reactor.clone();
            move || reactor.sleep(s(100))
        });
        reactor.on(Shutdown::After, at_once(&log, "after"));
        let signals = network.clone();
        reactor.call_later(s(1), move || signals.signal(Signal::Interrupt));
        if again {
            let signals = network.clone();
            reactor.call_later(s(2), move || signals.signal(Signal::Terminate));
        }
        reactor.call_later(s(3), || {});
        run_to_the_end(&mut l);
        let (seconds, signal) =
            if again { (3, Signal::Terminate) } else { (101, Signal::Interrupt) };
        assert!(network.elapsed() <= s(seconds), "{:?}", network.elapsed());
        assert_eq!(l.stopped_by(), Some(signal));
        assert_eq!(log.entries(), ["after"]);
        stop_after(&reactor, s(1));
        run_to_the_end(&mut l);
        assert_eq!(l.stopped_by(), None, "stopped_by() is about the last run");
    }
}

/// Calls `react` with this script; returns the exit code and the log. Tests run in parallel and
/// only one loop handles the signals, so the warning about that is left out.
fn react<T: 'static>(script: impl FnOnce(&Reactor) -> Deferred<T>) -> (ExitCode, Vec<String>) {
    let (code, mut log) = logged(|| couplet::react(script));
    log.retain(|line| !line.contains("another loop handles the signals"));
    (code, log)
}

#[test]
fn c134_a_program_of_one_deferred_exits_with_0_or_with_1_and_a_logged_failure() {
    let (code, log) = react(|reactor| reactor.sleep(s(0)).map(|()| "a result"));
    assert!(code == ExitCode::SUCCESS && log.is_empty(), "{log:?}");
    let failing = |reactor: &Reactor| {
        reactor.sleep(s(0)).add_callback(|()| Err::<(), _>(Failure::msg("no poem")))
    };
    let (code, log) = react(failing);
    assert_eq!(code, ExitCode::FAILURE);
    assert_eq!(log, ["message=no poem "]);
    // The Deferred has fired before the loop runs.
    assert_eq!(couplet::react(|_| Deferred::succeed(())), ExitCode::SUCCESS);
}

#[test]
fn c134_react_succeeds_although_another_call_stops_the_loop() {
    let never = |reactor: &Reactor| {
        stop_after(reactor, s(0));
        reactor.sleep(s(1000))
    };
    let (code, log) = react(never);
    assert_eq!(code, ExitCode::SUCCESS);
    assert!(log.is_empty(), "{log:?}");
}

/// A loop that drains for 5 s on SIGTERM, with a connection whose peer does not read.
fn drains_for_5_s() -> (Loop, Network, A, Wire) {
    let (driver, network) = Memory::new(Manner::Readiness, 0);
    let l = Loop::with_driver(driver, LoopOptions::default().drain(s(5)));
    let a = A::default();
    let log = a.log.clone();
    let unread = Script::new().once(On::Made, |made| made.write(vec![7; 1024 * 1024]));
    let unread = unread.on(On::Draining, move |asked| {
        if !asked.reactor().is_stopping() {
            log.note("drained");
        }
    });
    let port = l.reactor().listen(LOOPBACK, a.once(unread));
    let wire = network.connect(port.expect("a free port").host()).expect("it listens");
    (l, network, a, wire)
}

#[test]
fn c105c_a_sigterm_drains_if_it_can_and_a_second_signal_ends_that() {
    use Signal::{Interrupt, Terminate};
    // A stop after 1 s, and whether a trigger then waits for 3 s; the signals and their times;
    // whether the connection is drained; the end of the run. Times are in milliseconds.
    type Case = (Option<bool>, &'static [(u64, Signal)], bool, u128);
    let cases: [Case; 9] = [
        (None, &[(1000, Terminate)], true, 1000 + 5000 + 500),
        (None, &[(1000, Terminate), (2000, Interrupt)], true, 2000 + 500),
        (None, &[(1000, Terminate), (2000, Terminate)], true, 2000 + 500),
        (None, &[(1000, Terminate), (2000, Terminate), (3000, Interrupt)], true, 2000 + 500),
        (None, &[(1000, Interrupt)], false, 1000 + 500),
        (Some(true), &[(2000, Terminate)], true, 2000 + 5000 + 500),
        (Some(true), &[(2000, Terminate), (2500, Terminate)], true, 2500 + 500),
        (Some(false), &[(1100, Terminate)], false, 1000 + 500),
        (Some(false), &[(1100, Terminate), (1200, Terminate)], false, 1200),
    ];
    for (stop, signals, drains, ends) in cases {
        let (mut l, network, a, _wire) = drains_for_5_s();
        let reactor = l.reactor();
        if stop == Some(true) {
            let sleeping = reactor.clone();
            reactor.on(Shutdown::Before, move || sleeping.sleep(s(3)));
        }
        if stop.is_some() {
            stop_after(&reactor, s(1));
        }
        for &(at, signal) in signals {
            let network = network.clone();
            reactor.call_later(Duration::from_millis(at), move || network.signal(signal));
        }
        run_to_the_end(&mut l);
        assert_eq!(a.log.has("drained"), drains, "{stop:?} {signals:?}");
        assert_eq!(a.log.count("draining"), 1, "{stop:?} {signals:?}");
        assert_eq!(a.log.count("lost(Shutdown)"), 1, "{stop:?} {signals:?}");
        let ended = network.elapsed().as_millis();
        assert!((ends - 5..=ends + 5).contains(&ended), "{stop:?} {signals:?}: {ended}");
    }
}

#[test]
fn c105c_a_drain_with_nothing_to_wait_for_takes_no_time_and_the_next_run_has_its_own() {
    let (driver, network) = Memory::new(Manner::Readiness, 0);
    let mut l = Loop::with_driver(driver, LoopOptions::default().drain(s(5)));
    for run in 1..3 {
        let signals = network.clone();
        l.reactor().call_later(s(1), move || signals.signal(Signal::Terminate));
        run_to_the_end(&mut l);
        assert_eq!(network.elapsed(), s(run));
        assert_eq!(l.stopped_by(), Some(Signal::Terminate));
    }
}

#[test]
fn c103_two_loops_in_one_thread_turn_by_turn() {
    let mut loops = [real_loop(), real_loop()];
    let (served, b) = (A::default(), A::default());
    let port = loops[0].reactor().listen(LOOPBACK, served.once(Script::new()));
    let to = port.expect("a free port").host().port().expect("TCP");
    // A callback of one loop writes to a connection of another.
    let theirs = served.clone();
    let answers = Script::new().once(On::Data, move |_| theirs.transport().write("more"));
    loops[1].reactor().connect(("127.0.0.1", to), b.once(answers)).detach();
    let mut turn_until = |done: &dyn Fn() -> bool| {
        while !done() {
            loops.iter_mut().for_each(|l| _ = l.turn(Some(ms(1))).expect("the driver waits"));
        }
    };
    turn_until(&|| served.is_made() && b.is_made());
    served.transport().write("first");
    turn_until(&|| b.received() == b"firstmore");
    assert_ne!(served.transport().id(), b.transport().id(), "an id includes its loop");
    // Dropping one loop leaves the other working.
    let [server, mut client] = loops;
    drop(server);
    while !b.is_lost() {
        client.turn(Some(ms(1))).expect("the driver waits");
    }
}

#[test]
fn bytes_in_every_turn_do_not_starve_the_rest_of_a_run() {
    let mut l = Loop::new().expect("a poll descriptor");
    let port = l.reactor().listen(LOOPBACK, || Echo).expect("a free port");
    let to = port.host().port().expect("TCP");
    let writes = |transport: &Transport| transport.write("x");
    let begins = Script::new().once(On::Made, writes).on(On::Data, writes);
    l.reactor().connect(("127.0.0.1", to), A::default().once(begins)).detach();
    let ran = l.run(|reactor| {
        let remote = reactor.remote();
        // A timed call, a call from another thread, a task that sleeps, a stop.
        reactor.call_later(ms(20), move || {
            std::thread::spawn(move || {
                remote.call(|reactor| {
                    let stopping = reactor.clone();
                    let napping = reactor.sleep(ms(20));
                    let stops = async move {
                        napping.await?;
                        stopping.stop();
                        Ok(())
                    };
                    reactor.spawn(stops).detach();
                })
            });
        });
        Ok(())
    });
    ran.expect("the run ends");
}

#[test]
fn default_options_match_the_documentation() {
    let of_port = ListenOptions::default().backlog(50).mode(0o666).lock_file(true);
    let of_port = of_port.reuse_addr(cfg!(unix)).reuse_port(false).dual_stack(true).no_delay(true);
    assert_eq!(ListenOptions::default(), of_port);
    let of_client = ConnectOptions::default().timeout(Duration::from_secs(30)).no_delay(true);
    assert_eq!(ConnectOptions::default(), of_client);
    assert_eq!(ConnectOptions::default().bind, None);
    let of_datagrams = DatagramOptions::default().size(65_535).queue(256 * 1024).mode(0o666);
    let of_datagrams = of_datagrams.reuse_addr(false).reuse_port(false).broadcast(false);
    assert_eq!(DatagramOptions::default(), of_datagrams.dual_stack(true).lock_file(true));
    assert_eq!(DatagramOptions::default().peer, None);
}

#[test]
fn a_snapshot_that_the_last_trigger_asks_for_comes_in_the_same_run() {
    let (mut l, _network) = memory();
    let log = Log::default();
    for when in [Shutdown::During, Shutdown::After] {
        let (reactor, log) = (l.reactor(), log.clone());
        l.reactor().on(when, move || {
            reactor.snapshot().map(move |_| log.note("a snapshot")).detach();
            Deferred::succeed(())
        });
    }
    stop_after(&l.reactor(), s(1));
    run_to_the_end(&mut l);
    assert_eq!(log.entries(), ["a snapshot", "a snapshot"]);
}

#[test]
fn turns_until_a_time_leave_no_timed_call() {
    let (mut l, _network) = memory();
    let (reactor, interrupting) = (l.reactor(), l.reactor());
    reactor.call_later(s(1), move || hooks::interrupt(&interrupting));
    l.turn_until(Some(reactor.now() + s(60))).expect("the driver does not fail");
    assert_eq!(l.snapshot().pending_calls, 0);
}

#[test]
fn c102_a_trigger_that_comes_too_late_does_not_wait_for_another_run() {
    use Shutdown::{After, Before, During};
    let (mut l, _network, reactor, log) = memory_with_log();
    for (in_trigger, late) in [(Before, Before), (During, During), (After, During), (After, After)]
    {
        let (own, log) = (reactor.clone(), log.clone());
        reactor.on(in_trigger, move || {
            own.on(late, at_once(&log, "late"));
            log.note("in time");
        });
    }
    run_for(&mut l, s(1));
    run_for(&mut l, s(1));
    assert_eq!(log.entries(), ["in time"; 4]);
}
