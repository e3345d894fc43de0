//! Row 145c: a program and its connection end together.

use std::cell::RefCell;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use couplet::endpoints::ProcessClient;
use couplet::factory::Layered;
use couplet::layers::ProxyReader;
use couplet::process::{ChildFd, Command, Process, ProcessEnd, ProcessSignal, WhenLost};
use couplet::sim::Sim;
use couplet::{Address, Deferred, Loop, Protocol, Reactor, Transport};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Nursery, kill, sh};
use crate::secure::End;

const SECOND: Duration = Duration::from_secs(1);

/// A program, and our end of its connection, which stays open after the program's end of stream, as
/// a relay's does.
#[derive(Clone)]
struct Seen {
    end: End,
    process: Rc<RefCell<Option<Process>>>,
}

impl Seen {
    fn new() -> Seen {
        let process: Rc<RefCell<Option<Process>>> = Rc::default();
        let kept = process.clone();
        let keep = move |transport: &Transport| *kept.borrow_mut() = Process::of(transport);
        Seen { end: End::aware().on("made", keep), process }
    }

    fn process(&self) -> Process {
        self.process.borrow().clone().expect("it was made")
    }

    fn exit(&self) -> Option<ProcessEnd> {
        self.process.borrow().as_ref()?.end()
    }

    fn code(&self) -> Option<i32> {
        self.exit().and_then(|exit| exit.code())
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.end.received()).into_owned()
    }
}

fn connect(reactor: &Reactor, command: Command, when_lost: WhenLost) -> Seen {
    let seen = Seen::new();
    let end = seen.end.clone();
    let connecting =
        reactor.connect(ProcessClient::new(command).when_lost(when_lost), move || end.clone());
    connecting.map(drop).detach();
    seen
}

/// Connects to a script, and waits until it has written a line.
fn ready(nursery: &mut Nursery, script: &str, when_lost: WhenLost) -> Seen {
    let seen = connect(&nursery.l.reactor(), sh(script), when_lost);
    nursery.until("its first line", || seen.text().contains('\n'));
    seen
}

/// Aborts the connection, and waits for the end of the program.
fn abort(nursery: &mut Nursery, seen: &Seen) {
    seen.end.transport().abort_connection();
    nursery.until("its end", || seen.exit().is_some());
}

fn signal(end: Option<ProcessEnd>) -> Option<ProcessSignal> {
    end.expect("it has ended").signal()
}

/// Whether this process runs; a zombie does not.
fn runs(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap_or_default().trim_start().chars().next();
    state.is_some_and(|state| state != 'Z')
}

#[test]
fn c145c_a_program_whose_connection_is_aborted_is_asked_to_end() {
    let mut nursery = Nursery::new();
    let seen = ready(&mut nursery, "echo $$; exec sleep 1000", WhenLost::default());
    assert_eq!(seen.process().pid().map(|pid| pid.to_string()), Some(seen.text().trim().into()));
    abort(&mut nursery, &seen);
    assert_eq!(signal(seen.exit()), Some(ProcessSignal::TERM));
    assert_eq!(nursery.l.snapshot().pending_calls, 0, "nothing is left of the grace");
}

#[test]
fn c145c_the_whole_group_of_a_program_is_killed_after_the_grace() {
    let mut nursery = Nursery::new();
    let script = "trap '' TERM; sh -c 'echo $$; exec sleep 1000' & wait; wait";
    let seen = ready(&mut nursery, script, WhenLost::End(Duration::from_millis(20)));
    let grandchild = seen.text();
    assert!(runs(&grandchild));
    abort(&mut nursery, &seen);
    assert_eq!(signal(seen.exit()), Some(ProcessSignal::KILL));
    nursery.until("the end of the whole group", || !runs(&grandchild));
}

#[test]
fn c145c_the_rest_of_a_group_ends_with_its_leader() {
    let mut nursery = Nursery::new();
    let script = "(trap '' TERM; exec sleep 1000) & echo $!; exit 3";
    let seen = ready(&mut nursery, script, WhenLost::End(3600 * SECOND));
    nursery.until("the loss", || seen.end.is_lost());
    assert_eq!(seen.code(), Some(3));
    let grandchild = seen.text();
    nursery.until("the end of its child", || !runs(&grandchild));
}

#[test]
fn c145c_a_program_whose_connection_is_closed_reads_the_end_of_its_input_first() {
    let mut nursery = Nursery::new();
    let folder = crate::needed::Folder::new();
    let script = format!("echo ready; cat > {0}; sleep 0.05; echo end >> {0}", folder.path("got"));
    let seen = ready(&mut nursery, &script, WhenLost::default());
    seen.end.transport().write("rose\n");
    seen.end.transport().lose_connection();
    nursery.until("its end", || seen.exit().is_some());
    assert_eq!(seen.code(), Some(0));
    assert_eq!(std::fs::read(folder.join("got")).expect("a file"), b"rose\nend\n");
}

#[test]
fn c145c_a_program_whose_connect_is_cancelled_ends_too() {
    let mut nursery = Nursery::new();
    let folder = crate::needed::Folder::new();
    let script = format!("echo $$ > {}; exec sleep 1000", folder.path("pid"));
    let connecting = nursery.l.reactor().connect(ProcessClient::new(sh(&script)), End::default);
    let pid = || std::fs::read_to_string(folder.join("pid")).unwrap_or_default();
    while !pid().ends_with('\n') {
        std::thread::yield_now();
    }
    assert!(runs(&pid()));
    let canceller = connecting.canceller();
    connecting.add_both(|_| Ok(())).detach();
    canceller.cancel();
    nursery.until("its end", || !runs(&pid()));
    // The system shows the exit before the loop notices it.
    nursery.until_loop("the end of its watch", |l| l.snapshot().watches == 0);
}

#[test]
fn c145c_the_exit_of_a_program_ends_its_connection_after_its_output() {
    let mut nursery = Nursery::new();
    // A daemon that leaves the group holds the pipes forever.
    let daemon = "exec 3>&1; pid=$(setsid sh -c 'echo $$; exec sleep 1000 >&3' &); echo $pid >&2";
    // The unread output fits a page: the whole capacity of a pipe for a user with many of them.
    for (when_lost, pauses, size) in
        [(WhenLost::default(), false, 60_000), (WhenLost::Keep, true, 4_000)]
    {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let command =
            sh(&format!("{daemon}; head -c {size} /dev/zero; exit 0")).descriptor(2, writer);
        let seen = connect(&nursery.l.reactor(), command.clone(), when_lost);
        drop(command);
        nursery.until("connection_made", || seen.end.is_made());
        let transport = seen.end.transport();
        if pauses {
            transport.pause_producing();
            nursery.until("its end", || seen.exit().is_some());
            (0..5).for_each(|_| nursery.turn());
            assert!(!seen.end.is_lost(), "it waits for whoever pauses");
            transport.resume_producing();
        }
        nursery.until("the loss", || seen.end.is_lost());
        assert_eq!(seen.end.received().len(), size);
        assert!(seen.end.reason().is_clean());
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(reader));
        let daemon = lines.next().expect("a line").expect("text");
        assert!(runs(&daemon), "it has left the group");
        kill(&daemon);
    }
}

/// Programs that close their input before they answer, with their input, output and exit code.
fn early_closers() -> Vec<(&'static str, Vec<u8>, Vec<u8>, i32)> {
    let mut big = b"first\n".to_vec();
    big.resize(3_000_000, b'x');
    let small = b"hello".to_vec();
    vec![
        ("exec head -n1", big.clone(), b"first\n".to_vec(), 0),
        ("exec grep -q first", big.clone(), Vec::new(), 0),
        ("read a; echo $a; exit 3", big.clone(), b"first\n".to_vec(), 3),
        (
            "exec 0<&-; sleep 0.1; echo done; sleep 0.1; echo more",
            big.clone(),
            b"done\nmore\n".to_vec(),
            0,
        ),
        ("read a; exec 0<&-; head -c 1000000 /dev/zero", big.clone(), vec![0; 1_000_000], 0),
        ("exec 0<&-; sleep 0.1; echo done", small.clone(), b"done\n".to_vec(), 0),
        ("exec 0<&- 1>&-; sleep 0.1; exit 7", big, Vec::new(), 7),
        ("exec 1>&-; cat >/dev/null; exit 7", small, Vec::new(), 7),
    ]
}

#[test]
fn c145h_a_program_that_closes_its_input_answers_in_full_and_gets_no_signal() {
    for (script, input, output, code) in early_closers() {
        for pauses in [false, true] {
            for closes in [false, true] {
                let mut nursery = Nursery::new();
                let seen = connect(&nursery.l.reactor(), sh(script), WhenLost::default());
                nursery.until("connection_made", || seen.end.is_made());
                let transport = seen.end.transport();
                transport.write(&input);
                if closes || input.len() < 100 {
                    transport.lose_write_connection();
                }
                if pauses {
                    transport.pause_producing();
                    // A program that writes more than a pipe holds exits only after it is read.
                    let waits = output.len() < 60_000;
                    nursery.until("the end of its input", || {
                        if waits {
                            seen.exit().is_some()
                        } else {
                            transport.write_error().is_some()
                        }
                    });
                    assert!(!seen.end.is_lost(), "{script}");
                    transport.resume_producing();
                }
                nursery.until(script, || seen.end.is_lost() && seen.exit().is_some());
                assert!(seen.end.received() == output, "{script}: {}", seen.text());
                assert_eq!(seen.code(), Some(code), "{script}: {:?}", seen.exit());
                assert_eq!(seen.end.log().iter().filter(|call| *call == "write_closed").count(), 1);
            }
        }
    }
}

#[test]
fn c145h_a_child_with_separate_pipes_that_closes_its_input_answers_in_full() {
    for (script, input, output, code) in early_closers() {
        let mut nursery = Nursery::new();
        let (process, log) = nursery.spawn(sh(script));
        process.write(&input);
        if input.len() < 100 {
            process.close_stdin();
        }
        let entries = nursery.ended(&log);
        assert!(log.text(1).into_bytes() == output, "{script}");
        assert_eq!(entries.last(), Some(&format!("ended {code}")), "{script}");
    }
}

#[test]
fn c145c_a_program_that_has_exited_before_its_connection_is_made_ends_it() {
    let mut nursery = Nursery::new();
    // The connection is made after the header, which arrives once the loop has seen the exit.
    let script = "leader=$$; (while kill -0 $leader 2>/dev/null; do sleep 0.01; done; \
                  printf 'PROXY UNKNOWN\\r\\n'; while sleep 0.2; do printf .; done) & exit 0";
    let seen = Seen::new();
    let end = seen.end.clone();
    let factory = Layered::new(
        move || end.clone(),
        |reactor: &Reactor, _: &Address| ProxyReader::new(reactor.now()),
    );
    let reactor = nursery.l.reactor();
    reactor
        .connect(ProcessClient::new(sh(script)).when_lost(WhenLost::Keep), factory)
        .map(drop)
        .detach();
    nursery.until("connection_made", || seen.end.is_made());
    assert_eq!(seen.code(), Some(0));
    nursery.until("the loss, though its child has the pipes", || seen.end.is_lost());
}

#[test]
fn a_program_dies_with_the_thread_of_its_loop_by_the_signal_that_was_set() {
    type Set = fn(Command) -> Command;
    let cases: [(Set, &str); 3] = [
        (|command| command, ""),
        (|command| command.death_signal(ProcessSignal::TERM), "TERM\n"),
        (|command| command.death_signal(ProcessSignal::HUP), "HUP\n"),
    ];
    for (set, caught) in cases {
        let folder = crate::needed::Folder::new();
        let traps = ["TERM", "HUP"]
            .map(|name| format!("trap 'echo {name} >> {}; exit' {name};", folder.path("caught")));
        let script = format!("{} echo $$; while :; do sleep 0.01; done", traps.concat());
        let thread = std::thread::spawn(move || {
            let mut nursery = Nursery::new();
            let seen = connect(&nursery.l.reactor(), set(sh(&script)), WhenLost::default());
            nursery.until("its first line", || seen.text().contains('\n'));
            let pid = seen.text();
            // The loop gets no chance to end the program.
            std::mem::forget((nursery, seen));
            pid
        });
        let pid = thread.join().expect("no panic");
        Nursery::new().until("its death", || !runs(&pid));
        let signals = std::fs::read_to_string(folder.join("caught")).unwrap_or_default();
        assert_eq!(signals, caught);
    }
}

#[test]
fn c145c_programs_that_end_leave_nothing() {
    let mut nursery = Nursery::new();
    for _ in 0..20 {
        let reactor = nursery.l.reactor();
        let seen = connect(&reactor, Command::new("sleep").arg("1000"), WhenLost::default());
        nursery.until("connection_made", || seen.end.is_made());
        abort(&mut nursery, &seen);
    }
    assert_eq!(Nursery::left(&mut nursery.l), (0, 0, 0));
}

/// Runs the loop with a connection to a script, until the script has written a line. Returns the
/// line.
fn run_with(l: &mut Loop, script: &str, when_lost: WhenLost) -> String {
    let script = script.to_owned();
    let (line, seen) = (Rc::new(RefCell::new(String::new())), Rc::new(RefCell::new(None)));
    let (kept, met) = (line.clone(), seen.clone());
    struct Stops(Rc<RefCell<String>>);
    impl Protocol for Stops {
        fn data_received(&mut self, transport: &Transport, data: &[u8]) {
            self.0.borrow_mut().push_str(&String::from_utf8_lossy(data));
            transport.reactor().stop();
        }
    }
    l.run(move |reactor| {
        let connecting = reactor
            .connect(ProcessClient::new(sh(&script)).when_lost(when_lost), move || {
                Stops(kept.clone())
            })
            .map(move |made| *met.borrow_mut() = Process::of(&made.transport()));
        connecting.detach();
        Ok(())
    })
    .expect("a run");
    assert!(seen.borrow().as_ref().is_some_and(|process: &Process| process.end().is_some()));
    line.take()
}

#[test]
fn c145c_the_end_of_a_run_waits_for_its_programs_and_leaves_none() {
    let folder = crate::needed::Folder::new();
    let path = folder.path("said");
    // The program takes 50 ms to exit.
    let gentle = format!(
        "trap 'sleep 0.05; echo bye > {path}; exit' TERM; echo $$; while :; do sleep 0.01; done"
    );
    let mut l = Loop::new().expect("a loop");
    let pid = run_with(&mut l, &gentle, WhenLost::default());
    assert!(!runs(&pid));
    assert_eq!(std::fs::read(&path).expect("a file"), b"bye\n");
    // The program ignores SIGTERM.
    let stubborn = "trap '' TERM; echo $$; while :; do sleep 0.01; done";
    let pid = run_with(&mut l, stubborn, WhenLost::End(Duration::from_millis(20)));
    assert!(!runs(&pid));
    // The run leaves the program running.
    let pid = run_with(&mut l, "trap '' PIPE; echo $$; exec sleep 1000", WhenLost::Keep);
    assert!(runs(&pid));
    kill(&pid);
}

#[test]
fn c145c_a_loop_that_is_dropped_or_cut_short_leaves_no_program() {
    let stubborn = "trap '' TERM; echo $$; while :; do sleep 0.01; done";
    for ends in [true, false] {
        let mut nursery = Nursery::new();
        let seen = ready(&mut nursery, stubborn, WhenLost::End(3600 * SECOND));
        let pid = seen.text();
        assert!(runs(&pid));
        if ends {
            nursery.l.begin(|_| Ok(())).expect("a run");
            nursery.l.end().expect("no signals");
        } else {
            drop(nursery);
        }
        while runs(&pid) {
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_program_that_the_last_trigger_starts_ends_with_the_run() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut ready = reader.try_clone().expect("a duplicate");
    let mut l = Loop::new().expect("a loop");
    l.run(|reactor| {
        let starting = reactor.clone();
        let script = "trap '' TERM; echo >&9; exec sleep 60";
        let command = sh(script).descriptor(9, OwnedFd::from(writer));
        reactor.on(couplet::Shutdown::After, move || {
            connect(&starting, command, WhenLost::default());
            ready.read_exact(&mut [0]).expect("it starts");
            Deferred::succeed(())
        });
        reactor.stop();
        Ok(())
    })
    .expect("a run");
    // The program's exit closes the pipe.
    let mut end = [PollFd::new(&reader, PollFlags::IN)];
    let long = Timespec { tv_sec: 10, tv_nsec: 0 };
    assert_eq!(poll(&mut end, Some(&long)).expect("it can be polled"), 1, "it still runs");
    drop(l);
}

/// A world with a program that delays its stop on SIGTERM by an hour, and a host that connects to
/// it and calls `act` a second later.
fn world(endpoint: &'static str, act: impl Fn(&Transport) + 'static) -> (Sim, Seen) {
    let mut sim = Sim::new(1);
    sim.program("stays", |program| {
        let reactor = program.reactor().clone();
        let stays = move || reactor.sleep(3600 * SECOND);
        program.reactor().on(couplet::Shutdown::Before, stays);
        Ok(())
    });
    let seen = Seen::new();
    let (end, act) = (seen.end.clone(), Rc::new(act));
    sim.host("parent", move |reactor| {
        let end = end.clone();
        let connecting = reactor.connect(endpoint, move || end.clone());
        let (act, later) = (act.clone(), reactor.clone());
        let act = move |made: couplet::Connection<End>| {
            later.call_later(SECOND, move || act(&made.transport()));
        };
        connecting.map(act).detach();
        Ok(())
    });
    sim.allow_leaks();
    (sim, seen)
}

#[test]
fn c145c_the_steps_towards_the_end_come_exactly_in_time() {
    type Act = fn(&Transport);
    let cases: [(&'static str, Act, u32); 4] = [
        ("process:stays", Transport::abort_connection, 5),
        ("process:stays:kill=7", Transport::abort_connection, 7),
        ("process:stays:kill=7", Transport::lose_connection, 14),
        ("log:process:stays:kill=7", Transport::lose_connection, 14),
    ];
    for (endpoint, act, seconds) in cases {
        let (mut sim, seen) = world(endpoint, act);
        sim.run_for(Duration::from_millis(1900)).expect("a calm world");
        assert!(seen.end.is_lost() && seen.exit().is_none());
        sim.run_for((seconds - 1) * SECOND).expect("a calm world");
        assert!(seen.exit().is_none(), "{endpoint}");
        sim.run_for(SECOND / 5).expect("a calm world");
        assert_eq!(signal(seen.exit()), Some(ProcessSignal::KILL), "{endpoint}");
        sim.finish().expect("nothing is left");
    }
    let (mut sim, seen) = world("process:stays:keep=yes", Transport::abort_connection);
    sim.run_for(3600 * SECOND).expect("a calm world");
    assert!(seen.end.is_lost() && seen.exit().is_none(), "it is kept");
}

#[test]
fn c145c_a_stop_waits_for_a_program_exactly_until_it_is_killed() {
    let (mut sim, seen) = world("process:stays:kill=7", |transport| transport.reactor().stop());
    // The connection flushes until the grace of the shutdown is over.
    sim.run_for(Duration::from_millis(7900)).expect("a calm world");
    assert!(seen.end.is_lost() && seen.exit().is_none());
    sim.run_for(Duration::from_millis(700)).expect("a calm world");
    assert_eq!(signal(seen.exit()), Some(ProcessSignal::KILL));
    sim.finish().expect("nothing is left");
}

#[test]
fn a_connected_program_has_our_standard_error_unless_another_is_set() {
    let mut nursery = Nursery::new();
    let ours = std::fs::read_link("/proc/self/fd/2").expect("it is open");
    let script = || sh("readlink /proc/self/fd/2");
    let null = std::path::Path::new("/dev/null");
    for (command, path) in [(script(), &*ours), (script().descriptor(2, ChildFd::Null), null)] {
        let seen = connect(&nursery.l.reactor(), command, WhenLost::default());
        nursery.until("its end", || seen.exit().is_some() && seen.text().contains('\n'));
        assert_eq!(std::path::Path::new(seen.text().trim()), path);
    }
}

/// The group and the session that `/proc/PID/stat` shows; 0 for one that began outside of this
/// namespace of processes.
fn group_and_session(stat: &str) -> [i32; 2] {
    let fields = stat.rsplit(')').next().expect("what follows the name").split_whitespace();
    let numbers: Vec<_> = fields.skip(2).take(2).map(|field| field.parse().expect(field)).collect();
    numbers.try_into().expect("two numbers")
}

#[test]
fn a_program_that_ends_with_its_connection_leads_a_group_unless_it_is_set_otherwise() {
    let mut nursery = Nursery::new();
    let ours = std::fs::read_to_string("/proc/self/stat").expect("it runs");
    let [group, session] = group_and_session(&ours).map(Some);
    // The group and the session of the program; `None` stands for its own.
    for (change, lost, wanted) in [
        ((|command| command) as fn(Command) -> Command, WhenLost::default(), [None, session]),
        (|command| command, WhenLost::Keep, [group, session]),
        (|command| command.process_group(0), WhenLost::Keep, [None, session]),
        (Command::new_session, WhenLost::default(), [None, None]),
    ] {
        let script = sh("read -r line < /proc/$$/stat; echo $line");
        let seen = connect(&nursery.l.reactor(), change(script), lost);
        nursery.until("its line", || seen.text().contains('\n'));
        let stat = seen.text();
        let own = stat.split(' ').next().and_then(|pid| pid.parse().ok()).expect("its number");
        assert_eq!(group_and_session(&stat), wanted.map(|number| number.unwrap_or(own)));
        nursery.until("its end", || seen.exit().is_some());
    }
}
