//! Row 154c: processes in the simulator, each a host that shares its parent's fate.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use couplet::process::{
    ChildFd, Command, OutputOptions, Process, ProcessEnd, ProcessOutput, SignalError, SpawnError,
    WindowSize,
};
use couplet::sim::{Fault, Host, Program, Sim, Weather};
use couplet::{Deferred, Protocol, Reactor, Reason, Result, Shutdown, Transport, hooks};

use couplet_testkit_loops::suite::callbacks::{Asks, Log, Logged};

const SECOND: Duration = Duration::from_secs(1);

/// Echoes, and stops its program at the end of the input.
struct Echo;

impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }

    fn connection_lost(&mut self, transport: &Transport, _: &Reason) {
        transport.reactor().stop();
    }
}

/// Sends one text, and closes.
struct Says(&'static str);

impl Protocol for Says {
    fn connection_made(&mut self, transport: &Transport) {
        transport.write(self.0);
        transport.lose_connection();
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

fn echo(program: &Program) -> Result<()> {
    program.reactor().connect("stdio:", || Echo).detach();
    Ok(())
}

/// A world with the programs that the tests start.
fn world(seed: u64) -> Sim {
    let mut sim = Sim::new(seed);
    sim.program("echo", echo);
    sim.program("exit", |program| {
        let code = program.args()[0].parse::<i32>()?;
        program.exit(code);
        Ok(())
    });
    sim.program("fails", |_| Err(couplet::Failure::msg("on purpose")));
    sim.program("waits", |_| Ok(()));
    // Delays its stop on SIGTERM by an hour.
    sim.program("stays", |program| {
        let reactor = program.reactor().clone();
        program.reactor().on(Shutdown::Before, move || reactor.sleep(3600 * SECOND));
        Ok(())
    });
    sim
}

type Kept = Rc<RefCell<Option<Process>>>;

/// Adds a host whose program spawns this command.
fn parent(sim: &mut Sim, command: Command) -> (Host, Kept, Log) {
    let (kept, log) = (Kept::default(), Log::default());
    let (process, logs) = (kept.clone(), log.clone());
    let host = sim.host("parent", move |reactor| {
        let protocol = Logged { log: logs.clone(), ..Logged::default() };
        let spawned = reactor.spawn_process(command.clone(), protocol)?;
        *process.borrow_mut() = Some(spawned);
        Ok(())
    });
    (host, kept, log)
}

fn process(kept: &Kept) -> Process {
    kept.borrow().clone().expect("it was started")
}

/// A world in which this command has run for a second.
fn running(command: Command) -> (Sim, Process, Log) {
    let mut sim = world(1);
    let (_, kept, log) = parent(&mut sim, command);
    sim.run_for(SECOND).expect("a calm world");
    let process = process(&kept);
    (sim, process, log)
}

/// The output and the end of this command.
fn output_of(sim: &mut Sim, command: Command, options: OutputOptions) -> Result<ProcessOutput> {
    let kept: Rc<RefCell<Option<Result<ProcessOutput>>>> = Rc::default();
    let outcome = kept.clone();
    sim.host("parent", move |reactor| {
        let kept = outcome.clone();
        let output = reactor.process_output((command.clone(), options.clone()));
        let keep = move |output| {
            *kept.borrow_mut() = Some(output);
            Ok(())
        };
        output.add_both(keep).detach();
        Ok(())
    });
    sim.run_until(60 * SECOND, |_| kept.borrow().is_some())?;
    let output = kept.borrow_mut().take().expect("it has ended");
    sim.finish()?;
    output
}

#[test]
fn c154c_a_simulated_process_has_its_callbacks_in_order_and_in_virtual_time() {
    let (mut sim, process, log) = running(Command::new("/bin/echo"));
    assert_eq!(log.entries(), ["made"]);
    assert!(process.pid().is_some());
    process.write("rose");
    sim.run_for(SECOND).expect("a calm world");
    assert_eq!(log.text(1), "rose");
    process.close_stdin();
    sim.run_for(SECOND).expect("a calm world");
    let entries = log.entries();
    for once in ["lost 0 Done(Us)", "lost 1 Done(Peer)", "lost 2 Done(Peer)", "exited 0"] {
        assert_eq!(log.count(once), 1, "{once}: {entries:?}");
    }
    assert_eq!(log.last(), "ended 0");
    assert!(matches!(process.signal_process("KILL"), Err(SignalError::ExitedAlready)));
    sim.finish().expect("nothing is left");
}

#[test]
fn c154c_a_simulated_process_exits_with_its_code_and_its_output_is_whole() {
    let run = |command: Command| output_of(&mut world(1), command, OutputOptions::default());
    let code = |command: Command| run(command).expect("it runs").end.code();
    assert_eq!(code(Command::new("exit").arg("3")), Some(3));
    assert_eq!(code(Command::new("exit").arg("0")), Some(0));
    assert_eq!(code(Command::new("exit").arg("no number")), Some(1));
    assert_eq!(code(Command::new("fails")), Some(1));
    let failure = run(Command::new("/bin/cat")).expect_err("there is no such program");
    assert!(failure.to_string().starts_with("cannot start /bin/cat: "), "{failure}");
    // More than a pipe holds, in both directions at the same time.
    let poem: Vec<u8> = (0..3_000_000_u32).map(|n| n as u8).collect();
    let options = OutputOptions::default().input(poem.clone());
    let output = output_of(&mut world(1), Command::new("echo"), options).expect("it runs");
    assert!(output.stdout == poem && output.end.is_success());
}

#[test]
fn c154c_the_standard_error_of_a_simulated_process_is_a_separate_pipe() {
    let speaks = |sim: &mut Sim| {
        sim.program("speaks", |program| {
            let said = program.reactor().connect("stdio:", || Says("aloud"));
            let program = program.reactor().clone();
            let stopping = program.clone();
            let complained =
                said.then(move |_| program.connect("fd:2", || Says("under its breath")));
            let stopped =
                complained.then(move |_| stopping.sleep(SECOND).map(move |()| stopping.stop()));
            stopped.add_errback(|failure| panic!("{failure}")).detach();
            Ok(())
        });
    };
    let mut sim = world(1);
    speaks(&mut sim);
    let output = output_of(&mut sim, Command::new("speaks"), OutputOptions::default());
    let output = output.expect("it runs");
    assert_eq!((&output.stdout[..], &output.stderr[..]), (&b"aloud"[..], &b"under its breath"[..]));
}

#[test]
fn c154c_signals_reach_a_simulated_process_when_they_are_sent() {
    for (program, signal, end) in [
        ("waits", "TERM", "exited 0"),
        ("waits", "INT", "exited 0"),
        ("waits", "KILL", "exited SIGKILL"),
        ("stays", "HUP", "exited SIGHUP"),
    ] {
        let (mut sim, process, log) = running(Command::new(program));
        let unknown = process.signal_process("USR2");
        assert!(matches!(unknown, Err(SignalError::Io(_))), "{unknown:?}");
        process.signal_process(signal).expect("it runs");
        assert_eq!(log.entries(), ["made"], "nothing is called inside");
        sim.run_for(Duration::from_millis(1)).expect("a calm world");
        assert!(log.has(end) && log.has_ended(), "{signal}: {:?}", log.entries());
        sim.finish().expect("nothing is left");
    }
    // Before its program runs, every signal kills a process.
    let mut sim = world(1);
    let (_, kept, log) = parent(&mut sim, Command::new("waits"));
    sim.run_until(SECOND, |_| kept.borrow().is_some()).expect("a calm world");
    process(&kept).signal_process("TERM").expect("it is there");
    sim.run_for(SECOND).expect("a calm world");
    assert!(log.has("exited SIGTERM") && log.has_ended(), "{:?}", log.entries());
    sim.finish().expect("nothing is left");
}

#[test]
fn c154c_a_simulated_process_that_stays_is_killed_exactly_after_the_grace() {
    let (mut sim, process, log) = running(Command::new("stays"));
    process.terminate(5 * SECOND).expect("it runs");
    sim.run_for(5 * SECOND - Duration::from_millis(1)).expect("a calm world");
    assert_eq!(log.entries(), ["made"]);
    sim.run_for(Duration::from_millis(2)).expect("a calm world");
    assert!(log.has("exited SIGKILL") && log.has_ended(), "{:?}", log.entries());
    sim.finish().expect("nothing is left");
}

type Heard = Rc<RefCell<Vec<String>>>;

#[test]
fn c154c_input_without_a_reader_is_dropped() {
    // A million bytes for a child that never reads; the child is killed, or its parent aborts the
    // pipe.
    for kills in [true, false] {
        let (mut sim, process, log) = running(Command::new("waits"));
        process.write(vec![b'x'; 1_000_000]);
        sim.run_for(SECOND).expect("a calm world");
        let stdin = process.pipe(0).expect("it is open");
        assert!(stdin.buffered() > 0, "a pipe holds less");
        if kills {
            process.signal_process("KILL").expect("it runs");
            sim.run_for(SECOND).expect("a calm world");
            assert!(log.has("exited SIGKILL") && log.has_ended(), "{:?}", log.entries());
        } else {
            stdin.abort_connection();
            sim.run_for(SECOND).expect("a calm world");
            assert!(!log.has_ended() && process.pipe(0).is_none(), "{:?}", log.entries());
        }
        sim.allow_leaks();
        sim.finish().expect("nothing is left");
    }
}

/// Records the reason for its loss.
struct Hears(Heard);

impl Protocol for Hears {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        self.0.borrow_mut().push(reason.to_string());
    }
}

/// A host whose child connects to a third host and spawns a grandchild, which counts seconds.
fn family(seed: u64) -> (Sim, Host, Heard, Rc<Cell<u32>>) {
    let mut sim = world(seed);
    let (heard, ticks): (Heard, Rc<Cell<u32>>) = Default::default();
    let counts = ticks.clone();
    sim.program("ticks", move |program| {
        let counts = counts.clone();
        let ticking = couplet::LoopingCall::new(program.reactor(), move || {
            counts.set(counts.get() + 1);
            Deferred::succeed(())
        });
        ticking.start(SECOND).detach();
        Ok(())
    });
    sim.program("child", |program| {
        program.reactor().connect("tcp:third:80", || Hears(Rc::default())).detach();
        program.reactor().spawn_process(Command::new("ticks"), Logged::default())?;
        Ok(())
    });
    let (parent, _, _) = parent(&mut sim, Command::new("child"));
    let hears = heard.clone();
    sim.host("third", move |reactor: &Reactor| {
        let hears = hears.clone();
        reactor.listen("tcp:80", move || Hears(hears.clone())).map(drop)
    });
    sim.allow_leaks();
    (sim, parent, heard, ticks)
}

#[test]
fn c154c_a_kill_of_the_parent_kills_its_children_and_theirs() {
    let (mut sim, parent, heard, ticks) = family(1);
    for kill in 1..=2 {
        let at = 10 * kill * SECOND;
        sim.fault(at, SECOND, Fault::Kill(parent));
        sim.run_for(at - SECOND - sim.elapsed()).expect("a calm world");
        let running = |sim: &Sim| {
            let hosts = sim.hosts().into_iter().filter(|host| sim.is_running(*host));
            hosts.map(|host| sim.name(host)).collect::<Vec<_>>()
        };
        assert_eq!(running(&sim).len(), 4, "the parent, the third, the child and its child");
        let (counted, lost) = (ticks.get(), kill as usize);
        assert!(counted >= 8 && heard.borrow().len() == lost - 1, "{counted}");
        sim.run_for(Duration::from_millis(1500)).expect("a calm world");
        assert_eq!(running(&sim), ["third"]);
        let closed = vec!["connection closed by the peer"; lost];
        assert_eq!(*heard.borrow(), closed, "a system closes for the dead");
        // The parent restarts, and spawns new children.
        sim.run_for(5 * SECOND).expect("a calm world");
        assert_eq!(running(&sim).len(), 4);
        assert!(ticks.get() >= counted + 4, "{counted}, {}", ticks.get());
    }
    sim.finish().expect("nothing is left");
}

#[test]
fn c154c_a_crash_of_the_parents_machine_takes_its_children_with_it_and_a_pause_pauses_them() {
    let (mut sim, parent, heard, ticks) = family(2);
    sim.fault(10 * SECOND, 20 * SECOND, Fault::Pause(parent));
    sim.run_for(11 * SECOND).expect("a calm world");
    let paused = ticks.get();
    sim.run_for(18 * SECOND).expect("a calm world");
    assert_eq!(ticks.get(), paused, "it stands still");
    sim.run_for(5 * SECOND).expect("a calm world");
    assert!(ticks.get() > paused + 2, "it continues");
    let now = sim.elapsed();
    sim.fault(now + SECOND, 3600 * SECOND, Fault::Crash(parent));
    sim.run_for(60 * SECOND).expect("a calm world");
    assert_eq!(sim.hosts().into_iter().filter(|host| sim.is_running(*host)).count(), 1);
    assert_eq!(heard.borrow().len(), 0, "a machine without power says nothing");
    sim.finish().expect("nothing is left");
}

#[test]
fn c154c_the_end_of_the_parents_program_is_the_end_of_its_children() {
    let mut sim = world(1);
    sim.allow_leaks();
    let children: [Log; 3] = Default::default();
    let logs = children.clone();
    sim.host("parent", move |reactor| {
        for log in &logs {
            let protocol = Logged { log: log.clone(), ..Logged::default() };
            reactor.spawn_process(Command::new("waits"), protocol)?;
        }
        let stopping = reactor.clone();
        reactor.call_later(SECOND, move || stopping.stop());
        Ok(())
    });
    let alive = |sim: &Sim| sim.hosts().into_iter().filter(|host| sim.is_running(*host)).count();
    sim.run_for(SECOND / 2).expect("a calm world");
    assert_eq!(alive(&sim), 4, "the parent and its children");
    sim.run_for(2 * SECOND).expect("a calm world");
    assert_eq!(alive(&sim), 0);
    for log in children {
        assert!(log.has("exited LeftRunning") && log.has_ended(), "{:?}", log.entries());
    }
    sim.finish().expect("nothing is left");
}

#[test]
fn c154c_the_seed_determines_processes_too_and_endpoints_start_them() {
    let trace = |seed: u64| {
        let mut sim = world(seed);
        sim.keep_trace();
        let got: Rc<RefCell<Vec<u8>>> = Rc::default();
        let into = got.clone();
        sim.host("parent", move |reactor| {
            let ((asks, answer), into) = (Asks::new("rose"), into.clone());
            reactor.connect_protocol("process:/bin/echo", asks).detach();
            answer.map(move |got| *into.borrow_mut() = got).detach();
            Ok(())
        });
        sim.run_for(SECOND).expect("a calm world");
        assert_eq!(*got.borrow(), b"rose");
        sim.finish().expect("nothing is left");
        (sim.hash(), sim.trace())
    };
    assert_eq!(trace(1), trace(1));
    let roll = |seed: u64| {
        let mut sim = world(seed);
        sim.program("dice", |program| {
            let code = hooks::random(program.reactor()) % 100_000;
            program.exit(code as i32);
            Ok(())
        });
        output_of(&mut sim, Command::new("dice"), OutputOptions::default())
            .expect("it runs")
            .end
            .code()
    };
    assert_eq!(roll(1), roll(1));
    assert_ne!(roll(1), roll(2));
}

#[test]
fn c154c_unsupported_options_of_a_simulated_process_are_refused() {
    let mut sim = world(1);
    sim.host("parent", |reactor| {
        let echo = || Command::new("echo");
        let refused = [
            echo().terminal(WindowSize::default()),
            echo().descriptor(3, ChildFd::FromChild),
            echo().descriptor(2, ChildFd::SameAs(1)),
            echo().closed(0),
            echo().inherit_stdio(),
        ];
        for command in refused {
            let error = reactor.spawn_process(command, Logged::default()).expect_err("refused");
            assert_eq!(error.error.kind(), std::io::ErrorKind::Unsupported, "{error}");
        }
        // A host is not a process, and does not own the descriptors of the test.
        for endpoint in ["stdio:", "fd:0", "fd:2"] {
            let refused = reactor.connect(endpoint, || Echo).map(|_| panic!("connected"));
            let check = |failure: couplet::Failure| {
                assert!(failure.to_string().contains("no such descriptor"), "{failure}");
                Ok(())
            };
            refused.add_errback(check).detach();
        }
        Ok(())
    });
    sim.run_for(SECOND).expect("a calm world");
    sim.finish().expect("nothing is left");
    // Unused pipe ends are closed, and an unused process is not a leak.
    let end: Rc<RefCell<Option<ProcessEnd>>> = Rc::default();
    let kept = end.clone();
    let mut sim = world(1);
    sim.host("parent", move |reactor| {
        let kept = kept.clone();
        let process = reactor.spawn_process(Command::new("exit").arg("7"), Logged::default())?;
        process.ended().map(move |end| *kept.borrow_mut() = Some(end)).detach();
        Ok(())
    });
    sim.run_for(SECOND).expect("a calm world");
    assert_eq!(end.borrow().as_ref().and_then(ProcessEnd::code), Some(7));
    sim.finish().expect("nothing is left");
}

#[test]
fn c154c_in_a_storm_a_process_answers_correctly_or_ends_with_its_parent() {
    couplet::sim::check(0..10, Weather::Storm, |sim| {
        let answered = Rc::new(Cell::new(0));
        sim.program("echo", echo);
        let count = answered.clone();
        let parent = sim.host("parent", move |reactor| {
            let (count, again) = (count.clone(), reactor.clone());
            let ask = move || {
                let count = count.clone();
                let poem = vec![b'p'; 50_000];
                let options = OutputOptions::default().input(poem.clone());
                let output = again.process_output((Command::new("echo"), options));
                let check = move |output: ProcessOutput| {
                    if matches!(output.end, ProcessEnd::LeftRunning) {
                        return assert!(poem.starts_with(&output.stdout), "the world is over");
                    }
                    assert!(output.end.is_success(), "{}", output.end);
                    assert!(output.stdout == poem, "{} bytes", output.stdout.len());
                    count.set(count.get() + 1);
                };
                // The weather may exhaust the descriptors.
                let excuse = |failure: couplet::Failure| {
                    let spawn = failure.downcast_ref::<SpawnError>().expect("else it answers");
                    assert!(spawn.to_string().contains("too many open files"), "{spawn}");
                    Ok(())
                };
                output.map(check).add_errback(excuse).detach();
            };
            couplet::LoopingCall::new(reactor, ask).start(SECOND).detach();
            Ok(())
        });
        sim.draw_faults_for(30 * SECOND, &[parent]);
        // One reset, in addition to the faults of the weather.
        sim.fault(5 * SECOND, Duration::ZERO, Fault::Reset(parent, 1));
        sim.run_for(60 * SECOND)?;
        assert!(answered.get() > 10, "{}", answered.get());
        Ok(())
    });
}

#[test]
fn a_child_has_the_time_of_day_of_its_machine() {
    let mut sim = world(1);
    let seen: Rc<RefCell<Vec<Duration>>> = Rc::default();
    let (in_child, in_parent) = (seen.clone(), seen.clone());
    sim.program("looks", move |program| {
        in_child.borrow_mut().push(hooks::unix_time(program.reactor()));
        Ok(())
    });
    let host = sim.host("parent", move |reactor| {
        let (inner, seen) = (reactor.clone(), in_parent.clone());
        reactor.call_later(2 * SECOND, move || {
            seen.borrow_mut().push(hooks::unix_time(&inner));
            let started = inner.spawn_process(Command::new("looks"), Logged::default());
            drop(started.expect("it starts"));
        });
        Ok(())
    });
    sim.fault(SECOND, Duration::ZERO, Fault::ClockBack(host, 3600 * SECOND));
    sim.run_for(3 * SECOND).expect("a calm world");
    let [before, after] = seen.take()[..] else { panic!("both look once") };
    assert!(after > before && after - before < SECOND / 10, "{before:?}, {after:?}");
}

#[test]
fn c154c_processes_share_the_clock_and_the_partitions_of_their_machine() {
    let (mut sim, parent, _heard, _) = family(3);
    sim.run_for(5 * SECOND).expect("a calm world");
    let [_, third, child, grandchild] = sim.hosts()[..] else { panic!("four hosts") };
    let clocks = |sim: &Sim| {
        let hosts = sim.hosts().into_iter();
        hosts.map(|host| sim.wall_clock(host)).collect::<Vec<_>>()
    };
    let before = clocks(&sim);
    for (jump, by) in
        [(Fault::ClockForward as fn(Host, Duration) -> Fault, 100), (Fault::ClockBack, 30)]
    {
        for _ in 0..2 {
            sim.fault(sim.elapsed(), Duration::ZERO, jump(parent, by * SECOND));
        }
    }
    sim.run_for(SECOND).expect("a calm world");
    let passed = clocks(&sim).into_iter().zip(before).map(|(after, before)| {
        after.duration_since(before).expect("more forward than back").as_secs()
    });
    assert_eq!(passed.collect::<Vec<_>>(), [141, 1, 141, 141]);
    for fault in [
        Fault::Partition(parent, third),
        Fault::OneWay(parent, third),
        Fault::OneWay(third, parent),
        Fault::BlackHole(parent),
    ] {
        sim.fault(sim.elapsed(), 5 * SECOND, fault.clone());
        sim.run_for(Duration::from_millis(1)).expect("a calm world");
        let to = sim.at(third, 80);
        let sockets = [child, grandchild].map(|host| sim.socket(host, to).expect("a descriptor"));
        sim.run_for(4 * SECOND).expect("a calm world");
        assert!(sockets.iter().all(|it| !it.is_open() && it.error().is_none()), "{fault:?}");
        sim.run_for(5 * SECOND).expect("a calm world");
        assert!(sockets.iter().all(couplet::sim::Socket::is_open), "{fault:?}");
    }
    sim.run_for(SECOND).expect("a calm world");
    sim.finish().expect("nothing is left");
}

#[test]
fn c154c_each_standard_descriptor_of_a_simulated_process_is_taken_once() {
    let mut sim = world(1);
    sim.program("greedy", |program| {
        program.reactor().connect("stdio:", || Echo).detach();
        program.reactor().connect("fd:2", || Says("once")).detach();
        for endpoint in ["stdio:", "fd:0", "fd:2"] {
            let refused = program.reactor().connect(endpoint, || Echo).map(|_| panic!("connected"));
            let check = |failure: couplet::Failure| {
                assert!(failure.to_string().contains("has already taken it"), "{failure}");
                Ok(())
            };
            refused.add_errback(check).detach();
        }
        Ok(())
    });
    let options = OutputOptions::default().input("rose");
    let output = output_of(&mut sim, Command::new("greedy"), options).expect("it runs");
    assert_eq!((&output.stdout[..], &output.stderr[..]), (&b"rose"[..], &b"once"[..]));
}

#[test]
fn c154c_a_process_whose_machine_is_paused_before_it_runs_starts_after_the_pause() {
    let (mut sim, starts) = (world(1), Rc::new(Cell::new(0)));
    let counts = starts.clone();
    sim.program("runs", move |program| {
        counts.set(counts.get() + 1);
        program.exit(0);
        Ok(())
    });
    let (host, kept, log) = parent(&mut sim, Command::new("runs"));
    sim.run_until(SECOND, |_| kept.borrow().is_some()).expect("a calm world");
    sim.fault(sim.elapsed(), 10 * SECOND, Fault::Pause(host));
    sim.run_for(9 * SECOND).expect("a calm world");
    assert_eq!(starts.get(), 0, "a paused program gets no CPU time");
    sim.run_for(2 * SECOND).expect("a calm world");
    assert_eq!(starts.get(), 1);
    assert!(log.has("exited 0") && log.has_ended(), "{:?}", log.entries());
    sim.finish().expect("nothing is left");
}

#[test]
fn c154c_a_kill_of_one_process_spares_the_others_and_starts_none() {
    let mut sim = world(1);
    sim.allow_leaks();
    let logs: [Log; 2] = Default::default();
    let their = logs.clone();
    sim.host("parent", move |reactor| {
        for log in &their {
            let protocol = Logged { log: log.clone(), ..Logged::default() };
            reactor.spawn_process(Command::new("waits"), protocol)?;
        }
        Ok(())
    });
    sim.run_for(SECOND).expect("a calm world");
    let [_, first, second] = sim.hosts()[..] else { panic!("three hosts") };
    sim.fault(sim.elapsed(), SECOND, Fault::Kill(first));
    sim.run_for(5 * SECOND).expect("a calm world");
    assert!(logs[0].has("exited SIGKILL") && logs[0].has_ended(), "{:?}", logs[0].entries());
    assert_eq!(logs[1].entries(), ["made"]);
    assert!(!sim.is_running(first) && sim.is_running(second));
    sim.finish().expect("nothing is left");
}

#[test]
fn c154c_a_reset_of_all_connections_spares_the_pipes_before_and_behind_them() {
    let mut sim = world(1);
    let (kept, log) = (Kept::default(), Log::default());
    let (keeps, logs) = (kept.clone(), log.clone());
    let parent = sim.host("parent", move |reactor| {
        reactor.listen("tcp:80", || Hears(Rc::default()))?;
        let (inner, keeps, logs) = (reactor.clone(), keeps.clone(), logs.clone());
        // Behind the first connection, and before the second one.
        reactor.call_later(SECOND, move || {
            let protocol = Logged { log: logs.clone(), ..Logged::default() };
            let spawned = inner.spawn_process(Command::new("echo"), protocol);
            *keeps.borrow_mut() = Some(spawned.expect("it starts"));
        });
        Ok(())
    });
    let client = sim.bare_host("client");
    let connect = |sim: &mut Sim, at: Duration| {
        sim.run_for(at - sim.elapsed()).expect("a calm world");
        sim.socket(client, sim.at(parent, 80)).expect("a descriptor")
    };
    let sockets = [connect(&mut sim, SECOND / 2), connect(&mut sim, 2 * SECOND)];
    sim.run_for(SECOND).expect("a calm world");
    sim.fault(sim.elapsed(), Duration::ZERO, Fault::Reset(parent, 1));
    sim.run_for(SECOND).expect("a calm world");
    let errors = sockets.each_ref().map(couplet::sim::Socket::error);
    assert_eq!(errors, [Some(std::io::ErrorKind::ConnectionReset); 2]);
    process(&kept).write("rose");
    sim.run_for(SECOND).expect("a calm world");
    assert_eq!(log.text(1), "rose");
    process(&kept).close_stdin();
    drop(sockets);
    sim.run_for(SECOND).expect("a calm world");
    sim.finish().expect("nothing is left");
}
