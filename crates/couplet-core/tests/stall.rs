//! The stall detector, row 97a: a call that holds a loop for too long is logged while it does.
//!
//! A separate process, because it has one detector for all loops, whose thread is counted, and
//! which logs to the global subscriber. Each stall here lasts until its line is logged, so a test
//! that ends has seen it in time.

#[macro_use]
extern crate couplet_testkit;

use std::collections::BTreeMap;
use std::sync::{Arc, Barrier, Condvar, Mutex, Once, PoisonError, RwLock, mpsc};
use std::thread;
use std::time::Duration;

use couplet::{Address, IntoFactory, Loop, LoopOptions, Protocol, Reactor, Remote, Transport};
use couplet_testkit::logged::warnings;
#[cfg(target_os = "linux")]
use couplet_testkit::program::wait_until;
use couplet_testkit_loops::doubles::{Quiet, on_data, on_made};
use couplet_testkit_loops::suite::recorder::{A, On, Recorder, Script};

const LIMIT: Duration = Duration::from_millis(20);
/// Longer than any test takes; a test that reaches it fails.
const LONG: Duration = Duration::from_secs(300);

static LINES: Mutex<BTreeMap<String, Vec<String>>> = Mutex::new(BTreeMap::new());
static LOGGED: Condvar = Condvar::new();

/// Keeps a line, which names the thread that it is about.
fn keep(line: String) {
    let thread = line.split_once("thread=\"").and_then(|(_, rest)| rest.split_once('"'));
    let thread = thread.map_or("", |(name, _)| name).to_owned();
    LINES.lock().unwrap_or_else(PoisonError::into_inner).entry(thread).or_default().push(line);
    LOGGED.notify_all();
}

/// Blocks until a line about this thread is logged; without one, the test fails after the timeout.
#[inline(never)]
#[expect(clippy::disallowed_methods, reason = "to hang is what is tested")]
fn hang() {
    let me = thread::current().name().map(str::to_owned).expect("a name");
    let lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    let count = |lines: &BTreeMap<String, Vec<String>>| lines.get(&me).map_or(0, Vec::len);
    // On a busy machine the thread may have stalled before.
    let before = count(&lines);
    let is_silent = |lines: &mut BTreeMap<String, Vec<String>>| count(lines) == before;
    drop(LOGGED.wait_timeout_while(lines, LONG, is_silent));
}

/// Shared by the tests; exclusive for the test that counts threads.
static RUNNING: RwLock<()> = RwLock::new(());

fn watched() -> LoopOptions {
    LoopOptions::default().stall_after(LIMIT)
}

/// Runs a loop in a thread with this name until it is stopped; returns the lines about it.
fn logged_by(
    name: &str,
    options: LoopOptions,
    setup: impl FnOnce(&Reactor) -> couplet::Result<()> + Send + 'static,
) -> Vec<String> {
    static GLOBAL: Once = Once::new();
    GLOBAL
        .call_once(|| tracing::subscriber::set_global_default(warnings(keep)).expect("the first"));
    let thread = thread::Builder::new().name(name.to_owned());
    let run = move || Loop::with_options(options).expect("a loop").run(setup);
    thread.spawn(run).expect("a thread").join().expect("no panic").expect("it is stopped");
    LINES.lock().unwrap_or_else(PoisonError::into_inner).remove(name).unwrap_or_default()
}

/// Asserts that one line reports the stall, and another its end.
#[track_caller]
fn assert_stalled(lines: &[String], parts: &[&str]) {
    let reports = |line: &String| {
        line.contains("a call blocks its loop") && parts.iter().all(|part| line.contains(part))
    };
    assert!(lines.iter().any(reports), "{parts:?} are in a line of: {lines:?}");
    let continues = |line: &String| line.contains("the loop continues after");
    assert!(lines.iter().any(continues), "{lines:?}");
}

/// A protocol that blocks in this callback, then stops the loop.
fn slow(on: On) -> impl FnMut(&Address) -> Option<Recorder> {
    A::default().once(Script::new().once(on, |transport| hangs(transport.reactor())()))
}

fn client() -> impl Protocol {
    on_made(|transport| {
        transport.write("word");
        transport.lose_connection();
    })
}

fn serve<K>(reactor: &Reactor, factory: impl IntoFactory<K>) -> couplet::Result<()> {
    let port = reactor.listen("tcp:0:interface=127.0.0.1", factory)?;
    let number = port.host().port().expect("a TCP port");
    reactor.connect(("127.0.0.1", number), client).detach();
    Ok(())
}

const RECORDER: &str = "of=\"couplet_testkit_loops::suite::recorder::Recorder\"";

#[test]
fn c97a_a_callback_of_a_protocol_that_hangs_is_logged_with_its_name_and_type() {
    let _running = RUNNING.read();
    for (callback, on) in [
        ("connection_made", On::Made),
        ("data_received", On::Data),
        ("read_closed", On::ReadClosed),
        ("connection_lost", On::Lost),
    ] {
        let setup = move |reactor: &Reactor| serve(reactor, slow(on));
        let lines = logged_by(callback, watched(), setup);
        assert_stalled(&lines, &[&format!("kind={callback:?}"), RECORDER, "held="]);
    }
}

/// Blocks, then stops the loop.
fn hangs(reactor: &Reactor) -> impl FnOnce() + 'static {
    let stopping = reactor.clone();
    move || {
        hang();
        stopping.stop();
    }
}

fn slow_factory(reactor: &Reactor) -> impl FnMut() -> Quiet + 'static {
    let mut hangs = Some(hangs(reactor));
    move || {
        hangs.take().into_iter().for_each(|hangs| hangs());
        Quiet
    }
}

/// Writes once, and blocks in the call.
struct SlowProducer(Transport);

impl couplet::Producer for SlowProducer {
    fn resume_producing(&mut self) {
        hangs(self.0.reactor())();
    }
}

/// Stands for the row's place in this file.
const HERE: &str = "here";

type Setup = fn(&Reactor) -> couplet::Result<()>;

/// A call that blocks: the parts of its line, the line of its place in this file, and the setup of
/// the loop.
type Hang = (&'static str, &'static [&'static str], u32, Setup);

const HANGS: &[Hang] = &[
    ("a factory", &["kind=\"build_protocol\"", file!()], 0, |reactor| {
        serve(reactor, slow_factory(reactor))
    }),
    ("inside another", &["its loop: build_protocol of ", ", in connect"], 0, |reactor| {
        let port = reactor.listen("tcp:0:interface=127.0.0.1", || Quiet)?;
        let number = port.host().port().expect("TCP");
        reactor.connect(("127.0.0.1", number), slow_factory(reactor)).detach();
        Ok(())
    }),
    ("a timed call", &["kind=\"timed call\"", HERE], line!() + 1, |reactor| {
        reactor.call_later(Duration::ZERO, hangs(reactor));
        Ok(())
    }),
    ("a task", &["kind=\"task\"", "task \"slow poem\"", HERE], line!() + 7, |reactor| {
        let (napping, hangs) = (reactor.sleep(Duration::from_millis(1)), hangs(reactor));
        let poem = async move {
            napping.await?;
            hangs();
            Ok(())
        };
        reactor.spawn_named("slow poem", poem).detach();
        Ok(())
    }),
    ("a tell", &["kind=\"tell\"", HERE], line!() + 2, |reactor| {
        let tells = Script::new().once_a(On::Made, |a, _| {
            a.connection().tell(|_, transport| hangs(transport.reactor())());
        });
        serve(reactor, A::default().once(tells))
    }),
    ("from a thread", &["kind=\"call from another thread\"", HERE], line!() + 1, |reactor| {
        Ok(reactor.remote().call(|reactor| hangs(reactor)())?)
    }),
    ("a trigger", &["kind=\"shutdown trigger\"", file!()], 0, |reactor| {
        reactor.on(couplet::reactor::Shutdown::Before, || {
            hang();
            couplet::Deferred::succeed(())
        });
        let stopping = reactor.clone();
        reactor.call_soon(move || stopping.stop());
        Ok(())
    }),
    ("the setup", &["kind=\"setup\""], 0, |reactor| {
        hangs(reactor)();
        Ok(())
    }),
    ("a job's result", &["kind=\"job result\""], 0, |reactor| {
        let hangs = hangs(reactor);
        reactor.defer_to_thread(|| Ok(())).map(move |()| hangs()).detach();
        Ok(())
    }),
    #[cfg(unix)]
    ("a watch", &["kind=\"watch\"", HERE], line!() + 4, |reactor| {
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair()?;
        std::io::Write::write_all(&mut theirs, b"word")?;
        let mut hangs = Some(hangs(reactor));
        reactor.watch(ours, couplet::Interest::Readable, move |_, _| {
            hangs.take().expect("it stops the loop")();
        })?;
        Ok(())
    }),
    ("a producer", &["kind=\"resume_producing\"", "of=\"stall::SlowProducer\""], 0, |reactor| {
        let produces = |transport: &Transport| {
            let producer = SlowProducer(transport.clone());
            transport.register_producer(producer, couplet::ProducerKind::Pull).expect("the first");
        };
        serve(reactor, move || on_made(produces))
    }),
    ("an upgraded one", &["kind=\"connection_lost\"", RECORDER], 0, |reactor| {
        let upgrades = |it: &Transport, _: &[u8]| {
            let lost = Script::new().once(On::Lost, |it| hangs(it.reactor())());
            it.upgrade(A::default().plays(lost));
        };
        serve(reactor, move || on_data(upgrades))
    }),
];

#[test]
fn c97a_a_call_that_hangs_is_logged_with_its_kind_and_its_place_or_type() {
    let _running = RUNNING.read();
    for (call, parts, line, setup) in HANGS {
        let place = format!("{}:{line}", file!());
        let parts: Vec<&str> =
            parts.iter().map(|part| if *part == HERE { &*place } else { part }).collect();
        // The name of the thread, which the lines name.
        let lines = logged_by(call, watched(), *setup);
        assert_stalled(&lines, &parts);
    }
}

/// Polls, because a thread gets its name and ends shortly after the request, and the kernel's list of
/// threads may lack some while others end.
#[cfg(target_os = "linux")]
fn wait_for_detectors(expected: usize) {
    wait_until(&format!("the number of detectors to be {expected}"), || detectors() == expected);
}

#[cfg(target_os = "linux")]
fn detectors() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("it is there");
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.trim() == "couplet stalls").count()
}

#[test]
fn c97a_two_loops_hang_at_the_same_time_and_share_one_detector() {
    let _running = RUNNING.read();
    let both = Arc::new(Barrier::new(2));
    let run = |name: &'static str| {
        let both = both.clone();
        thread::spawn(move || {
            logged_by(name, watched(), move |reactor| {
                both.wait();
                hang();
                #[cfg(target_os = "linux")]
                wait_for_detectors(1);
                both.wait();
                reactor.stop();
                Ok(())
            })
        })
    };
    for (name, loop_of) in [("left", run("left")), ("right", run("right"))] {
        let lines = loop_of.join().expect("no panic");
        assert_stalled(&lines, &[&format!("thread={name:?}")]);
    }
}

#[test]
fn c97a_a_loop_with_a_long_limit_delays_no_report_about_another() {
    let _running = RUNNING.read();
    for short_first in [false, true] {
        let both = Arc::new(Barrier::new(2));
        let run = |name: &'static str, after: Duration, hangs: bool| {
            let both = both.clone();
            thread::spawn(move || {
                let options = LoopOptions::default().stall_after(after);
                logged_by(name, options, move |reactor| {
                    both.wait();
                    if hangs {
                        hang();
                    }
                    both.wait();
                    reactor.stop();
                    Ok(())
                })
            })
        };
        let mut order = [("short", LIMIT, true), ("patient", LONG, false)];
        if !short_first {
            order.reverse();
        }
        for (name, lines) in order.map(|(name, after, hangs)| (name, run(name, after, hangs))) {
            let lines = lines.join().expect("no panic");
            match name {
                "short" => assert_stalled(&lines, &["thread=\"short\""]),
                _ => assert_eq!(lines, Vec::<String>::new(), "it is within its limit"),
            }
        }
    }
}

#[test]
fn c97a_an_idle_loop_is_not_reported() {
    let _running = RUNNING.read();
    let (idle, is_idle) = mpsc::channel::<Remote>();
    let other = thread::spawn(move || {
        let idle: Remote = is_idle.recv().expect("it runs");
        // Lasts as long as the detector needs to find a stall.
        let lines = logged_by("busy", watched(), |reactor| {
            hang();
            reactor.stop();
            Ok(())
        });
        idle.call(Reactor::stop).expect("it waits");
        lines
    });
    let lines = logged_by("idle", watched(), move |reactor| {
        let remote = reactor.remote();
        // In the loop's second turn, after the setup.
        reactor.call_soon(move || idle.send(remote).expect("it waits"));
        Ok(())
    });
    assert_eq!(lines, Vec::<String>::new());
    assert_stalled(&other.join().expect("no panic"), &[]);
}

#[test]
fn c97a_the_reports_of_a_long_stall_come_at_doubling_intervals() {
    let _running = RUNNING.read();
    // Each call hangs until another line is logged.
    let lines = logged_by("long", watched().tune(|it| it.stall_backtraces(false)), |reactor| {
        (0..5).for_each(|_| hang());
        reactor.stop();
        Ok(())
    });
    let held: Vec<f64> = lines.iter().map(|line| held_for(line)).collect();
    // The last one reports the end.
    for pair in held[..5].windows(2) {
        assert!(pair[1] >= 2.0 * pair[0] - 0.001, "{held:?}");
    }
}

/// The field `held` of a line, in milliseconds.
fn held_for(line: &str) -> f64 {
    let held = line.split("held=").nth(1).and_then(|rest| rest.split(' ').next());
    let held = held.unwrap_or_else(|| panic!("no time in {line}"));
    let seconds = |text: &str| text.parse::<f64>().expect("a number");
    match held.strip_suffix("ms") {
        Some(millis) => seconds(millis),
        None => 1000.0 * seconds(held.trim_end_matches('s')),
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn c97a_a_backtrace_of_the_loops_thread_is_logged_unless_it_is_not_wanted() {
    let _running = RUNNING.read();
    let setup = |reactor: &Reactor| {
        hang();
        reactor.stop();
        Ok(())
    };
    let with = logged_by("traced", watched(), setup);
    assert_stalled(&with, &["stall::hang", "stall::logged_by"]);
    let without = logged_by("untraced", watched().tune(|it| it.stall_backtraces(false)), setup);
    assert!(!without[0].contains("stall::hang"), "{without:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn c97a_there_is_a_detector_only_while_a_loop_wants_one() {
    use couplet_core::driver::memory::{Manner, Memory};

    let _running = RUNNING.write();
    wait_for_detectors(0);
    let without = Loop::new().expect("a loop");
    let (driver, _) = Memory::new(Manner::Readiness, 0);
    let of_virtual_time = Loop::with_driver(driver, watched());
    assert_eq!(detectors(), 0, "off unless it is asked for, and in virtual time");
    let first = Loop::with_options(watched()).expect("a loop");
    let second = Loop::with_options(watched()).expect("a loop");
    let kept = second.reactor();
    drop(first);
    let third = Loop::with_options(watched()).expect("a loop");
    drop(second);
    wait_for_detectors(1);
    drop(third);
    wait_for_detectors(0);
    drop((without, of_virtual_time, kept));
    let lines = logged_by("again", watched(), |reactor| {
        hang();
        reactor.stop();
        Ok(())
    });
    assert_stalled(&lines, &["kind=\"setup\""]);
}
