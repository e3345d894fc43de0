//! Rows 146 to 149, 152 and 154: the order of callbacks, and the exits of children.

use std::rc::Rc;
use std::time::Duration;

use couplet::process::{
    Process, ProcessEnd, ProcessProtocol, ProcessSignal, SignalError, SpawnError,
};
use couplet::testing::success_of;
use couplet::{LoopOptions, Reason};

use super::{Command, Log, Logged, Nursery, sh};
#[cfg(target_os = "linux")]
use crate::apart::{descriptors, raise_descriptor_limit};
use crate::logged::logged;

#[test]
fn c146_made_comes_first_and_ended_last_after_every_loss() {
    let mut nursery = Nursery::new();
    let (process, log) = nursery.spawn(sh("read line; echo $line; echo loud >&2; exit 3"));
    assert!(log.entries().is_empty(), "nothing is called inside spawn_process");
    process.write("ro");
    process.write("se\n");
    let entries = nursery.ended(&log);
    assert_eq!(entries[0], "made");
    assert_eq!((log.text(1).as_str(), log.text(2).as_str()), ("rose\n", "loud\n"));
    for once in ["lost 0 Done(Peer)", "lost 1 Done(Peer)", "lost 2 Done(Peer)", "exited 3"] {
        assert_eq!(log.count(once), 1, "{once}: {entries:?}");
    }
    assert_eq!(log.last(), "ended 3");
}

#[test]
fn c146_exited_does_not_wait_for_pipes_that_grandchildren_hold() {
    let mut nursery = Nursery::new();
    let (process, log) = nursery.spawn(sh("exec 3<&0; cat <&3 & exit 0"));
    nursery.until("process_exited", || log.has("exited 0"));
    (0..5).for_each(|_| nursery.turn());
    assert!(!log.has_ended(), "{:?}", log.entries());
    assert!(process.pid().is_none() && process.end().is_some());
    let ended = process.ended();
    assert!(!ended.has_fired(), "it waits for the pipes like process_ended");
    process.lose_connection();
    nursery.ended(&log);
    nursery.l.run_until(ended).expect("it has ended");
}

#[test]
fn c146_a_child_that_closes_its_output_lives_on() {
    let mut nursery = Nursery::new();
    let (process, log) = nursery.spawn(sh("exec >&- 2>&-; read line; exit 4"));
    nursery.until("both", || log.has("lost 1 Done(Peer)") && log.has("lost 2 Done(Peer)"));
    assert!(process.pid().is_some() && !log.has("exited 4"));
    process.write("go\n");
    nursery.ended(&log);
    assert_eq!(log.last(), "ended 4");
}

#[test]
fn c146_a_child_without_pipes_is_made_exited_and_ended() {
    let mut nursery = Nursery::new();
    let command = (0..3).fold(Command::new("/bin/true"), |command, number| command.closed(number));
    let log = nursery.run(command);
    assert_eq!(log.entries(), ["made", "exited 0", "ended 0"]);
}

#[test]
fn c146_a_protocol_is_dropped_when_its_process_has_ended_though_its_handle_stays() {
    struct Keeps(#[allow(dead_code, reason = "it is dropped")] Rc<()>);
    impl ProcessProtocol for Keeps {}
    let mut nursery = Nursery::new();
    let kept = Rc::new(());
    let process = nursery.l.reactor().spawn_process(sh("exit 0"), Keeps(kept.clone()));
    let process = process.expect("it starts");
    nursery.l.run_until(process.ended()).expect("it ends");
    assert_eq!((Rc::strong_count(&kept), process.pid()), (1, None));
}

#[test]
fn c146_every_wait_for_the_end_of_a_process_fires() {
    let mut nursery = Nursery::new();
    let (process, log) = nursery.spawn(sh("read line; exit 4"));
    let cancelled = process.ended();
    let waits = [process.ended(), process.ended(), process.ended()];
    cancelled.cancel();
    cancelled.add_errback(|_| Ok(ProcessEnd::LeftRunning)).detach();
    process.write("go\n");
    nursery.ended(&log);
    for end in waits.into_iter().chain([process.ended(), process.ended()]) {
        assert_eq!(success_of(end).code(), Some(4));
    }
}

#[test]
fn c153_all_pipes_of_a_child_are_closed_at_once_before_they_are_connected_too() {
    let mut nursery = Nursery::new();
    for (is_early, aborts) in [(false, false), (true, false), (false, true), (true, true)] {
        let (process, log) = nursery.spawn(sh("exec sleep 1000"));
        if !is_early {
            nursery.until("made", || log.has("made"));
        }
        match aborts {
            true => process.abort_connection(),
            false => process.lose_connection(),
        }
        let reason = if aborts { "Aborted" } else { "Done(Us)" };
        nursery.until("the losses", || {
            (0..3).all(|number| log.has(&format!("lost {number} {reason}")))
        });
        assert!(process.pid().is_some(), "the child itself keeps running");
        process.signal_process("KILL").expect("it runs");
        nursery.ended(&log);
        assert_eq!(log.entries().len(), 6, "{:?}", log.entries());
    }
}

#[test]
fn c180a_a_child_has_a_row_until_it_has_ended_though_its_handle_stays() {
    let mut nursery = Nursery::new();
    let (first, first_log) = nursery.spawn(sh("read line; exit 4"));
    let (second, second_log) = nursery.spawn(sh("exec 3<&0; cat <&3 & exit 0"));
    let all = |nursery: &mut Nursery, wanted: &str| -> Vec<String> {
        let fields = nursery.l.snapshot().rows.into_iter().flat_map(|row| row.fields);
        fields.filter(|(name, _)| *name == wanted).map(|(_, value)| value).collect()
    };
    let states = |nursery: &mut Nursery| all(nursery, "state");
    nursery.until("process_exited", || second_log.has("exited 0"));
    assert_eq!(states(&mut nursery), ["running", "exited"]);
    assert_eq!(all(&mut nursery, "open"), ["0, 1, 2", "0, 1, 2"]);
    second.close_stderr();
    nursery.until("a loss", || second.pipe(2).is_none());
    assert_eq!(all(&mut nursery, "open"), ["0, 1, 2", "0, 1"]);
    let exited = "exited (the process exited cleanly); waits for its pipes to be closed: 0, 1";
    assert_eq!(all(&mut nursery, "why"), ["waits for its exit", exited]);
    second.lose_connection();
    nursery.ended(&second_log);
    assert_eq!(states(&mut nursery), ["running"]);
    first.write("go\n");
    nursery.ended(&first_log);
    assert_eq!(states(&mut nursery), [""; 0]);
    assert!(first.end().is_some() && second.end().is_some());
}

#[test]
fn c147_an_end_is_a_code_or_a_signal() {
    let mut nursery = Nursery::new();
    for (script, end) in [("exit 0", "0"), ("exit 7", "7"), ("kill -TERM $$", "SIGTERM")] {
        let (process, log) = nursery.spawn(sh(script));
        nursery.ended_with(&log, &format!("exited {end}"));
        let end = process.end().expect("it has ended");
        assert!(end.code().is_some() != end.signal().is_some());
        assert_eq!(end.is_success(), script == "exit 0");
    }
}

#[test]
fn c148_a_panic_in_process_exited_is_logged_and_ended_still_comes() {
    let mut nursery = Nursery::new();
    let protocol = Logged { panics_in_exited: true, ..Logged::default() };
    let log = protocol.log.clone();
    nursery.l.reactor().spawn_process(sh("exit 0"), protocol).expect("it starts");
    let lines = logged(|| nursery.ended(&log)).1;
    assert_eq!(log.last(), "ended 0");
    assert_eq!(lines.iter().filter(|line| line.contains("on purpose")).count(), 1, "{lines:?}");
}

#[test]
fn c148_a_panic_about_a_pipe_loses_that_pipe_and_later_callbacks_still_come() {
    struct Panics(Log);
    impl ProcessProtocol for Panics {
        fn child_data_received(&mut self, _: &Process, child_fd: i32, _: &[u8]) {
            panic!("about {child_fd}");
        }
        fn child_connection_lost(&mut self, _: &Process, child_fd: i32, reason: &Reason) {
            self.0.push(format!("lost {child_fd}: {reason}"));
        }
        fn process_ended(&mut self, _: &Process, end: &ProcessEnd) {
            self.0.push(format!("ended: {end}"));
        }
    }
    let mut nursery = Nursery::new();
    let log = Log::default();
    let script = "echo rose; read line; echo thorn >&2; read line; exit 3";
    let process = nursery.l.reactor().spawn_process(sh(script), Panics(log.clone()));
    let process = process.expect("it starts");
    for number in [1, 2] {
        nursery.until("a loss", || log.entries().len() == number);
        let lost = log.last();
        assert!(lost.starts_with(&format!("lost {number}: ")), "{lost}");
        assert!(lost.ends_with(&format!("about {number}")), "{lost}");
        process.write("go on\n");
    }
    let entries = nursery.ended(&log);
    assert_eq!(entries.len(), 4, "{entries:?}");
    assert_eq!(log.last(), "ended: the process exited with code 3");
}

#[test]
fn c149_a_program_that_cannot_be_started_is_an_immediate_error() {
    let mut nursery = Nursery::new();
    let folder = crate::needed::Folder::new();
    let text = folder.join("text");
    std::fs::write(&text, "no program").expect("a file");
    let cases = [
        Command::new("/nonexistent/program"),
        Command::new("no-such-program-in-the-path"),
        Command::new(text),
        Command::new("/bin/true").current_dir("/nonexistent"),
        Command::new("/bin/true").terminal(Default::default()).current_dir("/nonexistent"),
        Command::new("/bin/true").descriptor(5, couplet::process::ChildFd::SameAs(77)),
    ];
    for command in cases {
        let log = Log::default();
        let protocol = Logged { log: log.clone(), ..Logged::default() };
        let error = nursery.l.reactor().spawn_process(command, protocol).expect_err("it can't");
        let SpawnError { .. } = &error;
        assert!(error.to_string().starts_with("cannot start "), "{error}");
        nursery.turn();
        assert!(log.entries().is_empty());
    }
    assert_eq!(nursery.l.snapshot().watches, 0);
}

#[test]
fn c152_a_signal_is_sent_by_name_or_number_until_the_exit() {
    let mut nursery = Nursery::new();
    let script = "trap 'echo usr1; exit 5' USR1; echo ready; while :; do sleep 0.01; done";
    for by_name in [true, false] {
        let (process, log) = nursery.ready(sh(script), "ready");
        let usr1 = "USR1".parse::<ProcessSignal>().expect("a name").number();
        let sent =
            if by_name { process.signal_process("SIGUSR1") } else { process.signal_process(usr1) };
        sent.expect("it runs");
        nursery.ended(&log);
        assert_eq!(log.text(1), "ready\nusr1\n");
        let after = process.signal_process("TERM");
        assert!(matches!(after, Err(SignalError::ExitedAlready)), "{after:?}");
        let unknown = process.signal_process("POEM");
        assert!(matches!(unknown, Err(SignalError::NoSuchSignal(_))), "{unknown:?}");
    }
}

/// A script that ignores SIGTERM.
const STUBBORN: &str = "trap '' TERM; echo ready; while :; do sleep 0.01; done";
const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn c152a_a_child_that_ignores_sigterm_is_killed_after_the_grace() {
    let mut nursery = Nursery::new();
    for (script, grace, exited) in [
        (STUBBORN, Duration::from_millis(20), "exited SIGKILL"),
        // A child that exits in time is never killed.
        ("echo ready; exec cat", HOUR, "exited SIGTERM"),
    ] {
        let (process, log) = nursery.ready(sh(script), "ready");
        process.terminate(grace).expect("it runs");
        nursery.ended_with(&log, exited);
        assert_eq!(nursery.l.snapshot().pending_calls, 0, "nothing is left of the grace");
    }
}

#[test]
fn c152a_of_two_terminates_the_time_of_the_last_counts() {
    const MINUTE: Duration = Duration::from_secs(60);
    let mut nursery = Nursery::new();
    for (first, last) in [(HOUR, MINUTE), (MINUTE, HOUR)] {
        let (process, log) = nursery.ready(sh(STUBBORN), "ready");
        process.terminate(first).expect("it runs");
        process.terminate(last).expect("it runs");
        assert_eq!(nursery.l.snapshot().pending_calls, 1, "there is one kill to come");
        let left = nursery.l.next_turn().expect("the kill") - nursery.l.reactor().now();
        assert!(left > last - MINUTE / 2 && left <= last, "{left:?}");
        process.terminate(Duration::ZERO).expect("it runs");
        nursery.ended_with(&log, "exited SIGKILL");
    }
}

/// A script that waits for a child which ignores SIGTERM.
const GRANDCHILD: &str = "(trap '' TERM; echo ready; exec sleep 1000) & wait";

#[test]
fn c152c_a_signal_reaches_the_whole_group_of_a_child_that_leads_one() {
    let mut nursery = Nursery::new();
    let ours = rustix::process::getpgrp().as_raw_nonzero().get();
    let own: [fn(Command) -> Command; 3] = [
        |command| command.process_group(0),
        Command::new_session,
        |command| command.terminal(Default::default()),
    ];
    for (n, lead) in own.into_iter().enumerate() {
        let (process, log) = nursery.ready(lead(sh(GRANDCHILD)), "ready");
        process.signal_group("KILL").expect("it leads a group");
        // The grandchild holds the pipes until it exits.
        nursery.ended(&log);
        assert!(log.has("exited SIGKILL"), "{n}: {:?}", log.entries());
        let after = process.signal_group("KILL");
        assert!(matches!(after, Err(SignalError::ExitedAlready)), "{n}: {after:?}");
    }
    for command in [Command::new("cat"), Command::new("cat").process_group(ours)] {
        let (process, log) = nursery.spawn(command);
        for refused in [process.signal_group("TERM"), process.terminate_group(Duration::ZERO)] {
            assert!(matches!(refused, Err(SignalError::NoGroup)), "{refused:?}");
        }
        process.close_stdin();
        nursery.ended_with(&log, "exited 0");
    }
}

#[test]
fn c152c_terminate_group_ends_every_process_of_the_group() {
    let mut nursery = Nursery::new();
    // First the leader exits immediately and the grandchild ignores the signal; then both ignore
    // it.
    let both = format!("trap '' TERM; {GRANDCHILD}");
    let cases = [
        (sh(GRANDCHILD).new_session(), HOUR, "exited SIGTERM"),
        (sh(&both).process_group(0), Duration::ZERO, "exited SIGKILL"),
    ];
    for (command, grace, exited) in cases {
        let (process, log) = nursery.ready(command, "ready");
        process.terminate_group(grace).expect("it leads a group");
        nursery.ended_with(&log, exited);
        assert_eq!(nursery.l.snapshot().pending_calls, 0, "nothing is left of the grace");
    }
}

#[test]
fn c152_a_stopped_child_continues_on_sigcont() {
    let mut nursery = Nursery::new();
    let (process, log) = nursery.spawn(Command::new("cat"));
    process.signal_process("STOP").expect("it runs");
    process.write("rose");
    (0..20).for_each(|_| nursery.turn());
    assert_eq!(log.text(1), "");
    process.signal_process("CONT").expect("it runs");
    process.close_stdin();
    nursery.ended(&log);
    assert_eq!(log.text(1), "rose");
}

#[test]
fn c154_children_started_before_the_run_are_noticed_and_others_are_left_alone() {
    let mut other =
        std::process::Command::new("/bin/sh").args(["-c", "exit 9"]).spawn().expect("it");
    let mut l = couplet::Loop::with_options(LoopOptions::default()).expect("a loop");
    let protocol = Logged::default();
    let log = protocol.log.clone();
    let process = l.reactor().spawn_process(sh("exit 2"), protocol).expect("it starts");
    l.run(|reactor| {
        let stopping = reactor.clone();
        process.ended().map(move |_| stopping.stop()).detach();
        Ok(())
    })
    .expect("a run");
    assert!(log.has("ended 2"));
    assert_eq!(other.wait().expect("nobody else waited for it").code(), Some(9));
}

#[cfg(unix)]
#[test]
fn c154_a_child_that_other_code_has_waited_for_ends_with_an_unknown_status_and_no_other_does() {
    let mut nursery = Nursery::new();
    let children = [(); 3].map(|()| nursery.spawn(sh("read line; exit 3")));
    nursery.until("connection_made", || children.iter().all(|(_, log)| log.has("made")));
    for (n, (process, log)) in children.iter().enumerate() {
        let pid = process.pid().expect("it runs");
        let ours = process.pipe(0).expect("a pipe");
        if n == 1 {
            // It is waited for before the loop turns again.
            rustix::process::kill_process(
                super::pid_of(&pid.to_string()),
                rustix::process::Signal::KILL,
            )
            .expect("it runs");
            let waited = rustix::process::waitpid(
                Some(super::pid_of(&pid.to_string())),
                rustix::process::WaitOptions::empty(),
            );
            assert!(waited.expect("a child").is_some());
        } else {
            ours.write("\n");
        }
        nursery.ended(log);
        let end = process.end().expect("it has ended");
        assert_eq!(matches!(end, ProcessEnd::Unknown(_)), n == 1, "{end}");
        assert_eq!(end.code(), if n == 1 { None } else { Some(3) });
        let ends = log.entries().into_iter().filter(|entry| entry.starts_with("ended"));
        assert_eq!(ends.count(), 1);
        assert!(process.pid().is_none());
    }
    assert_eq!(Nursery::left(&mut nursery.l), (0, 0, 0));
}

#[test]
fn c154a_a_child_that_outlives_the_run_is_left_running_and_its_protocol_is_notified() {
    let mut l = couplet::Loop::new().expect("a loop");
    let protocol = Logged::default();
    let log = protocol.log.clone();
    let process = l.reactor().spawn_process(sh("trap '' PIPE; read line"), protocol).expect("it");
    l.run(move |reactor| {
        let stopping = reactor.clone();
        reactor.call_soon(move || stopping.stop());
        Ok(())
    })
    .expect("a run");
    assert!(matches!(process.end(), Some(ProcessEnd::LeftRunning)));
    let entries = log.entries();
    assert_eq!(entries[0], "made");
    for number in 0..3 {
        assert!(log.has(&format!("lost {number} Shutdown")), "{entries:?}");
    }
    assert_eq!(log.last(), "ended LeftRunning", "{entries:?}");
}

#[test]
fn a_child_whose_pipes_come_too_late_for_the_run_has_ended_for_its_protocol() {
    let mut nursery = Nursery::new();
    let protocol = Logged::default();
    let log = protocol.log.clone();
    nursery
        .l
        .run(|reactor| {
            let spawning = reactor.clone();
            reactor.on(couplet::Shutdown::After, move || {
                spawning.spawn_process(sh("exit 0"), protocol).expect("it starts");
                couplet::Deferred::succeed(())
            });
            reactor.stop();
            Ok(())
        })
        .expect("a run");
    nursery.until("process_ended", || log.has_ended());
}

/// Whether a process has exited and was not reaped.
#[cfg(target_os = "linux")]
fn is_zombie(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}

#[cfg(target_os = "linux")]
#[test]
fn c154b_many_short_children_leave_no_zombie_and_no_descriptor() {
    // `CHILDREN=10000` starts more.
    let many = std::env::var("CHILDREN").ok().and_then(|text| text.parse().ok()).unwrap_or(200);
    let test = "process::ends::c154b_many_short_children_leave_no_zombie_and_no_descriptor";
    if !super::is_alone(test) {
        return;
    }
    let mut nursery = Nursery::new();
    nursery.run(Command::new("/bin/true"));
    let before = descriptors();
    let mut pids = Vec::new();
    for _ in 0..many / 20 {
        let batch: Vec<_> = (0..20).map(|_| nursery.spawn(Command::new("/bin/true"))).collect();
        for (process, log) in batch {
            pids.extend(process.pid());
            nursery.ended(&log);
        }
    }
    assert_eq!(descriptors(), before);
    assert!(!pids.into_iter().any(is_zombie));
    assert_eq!(Nursery::left(&mut nursery.l), (0, 0, 0));
}

#[cfg(target_os = "linux")]
#[test]
fn c154b_a_thousand_children_at_once_are_served_and_leave_nothing() {
    let test = "process::ends::c154b_a_thousand_children_at_once_are_served_and_leave_nothing";
    if !super::is_alone(test) {
        return;
    }
    // Two pipes and a pidfd per child.
    let most =
        raise_descriptor_limit().map_or(usize::MAX, |most| (most as usize).saturating_sub(100) / 4);
    let many = most.min(1000);
    let mut nursery = Nursery::new();
    nursery.run(Command::new("/bin/true"));
    let before = descriptors();
    let cat = || Command::new("cat").descriptor(2, couplet::process::ChildFd::Null);
    let children: Vec<_> = (0..many).map(|_| nursery.spawn(cat())).collect();
    let pids: Vec<u32> = children.iter().filter_map(|(process, _)| process.pid()).collect();
    assert_eq!(pids.len(), many);
    for (at, (process, _)) in children.iter().enumerate() {
        process.write(format!("line {at}\n"));
    }
    for (at, (process, log)) in children.iter().enumerate() {
        nursery.until("its echo", || log.text(1) == format!("line {at}\n"));
        assert!(process.pid().is_some(), "all run at once");
    }
    assert_eq!(nursery.l.snapshot().watches, many);
    children.iter().for_each(|(process, _)| process.close_stdin());
    for (process, log) in &children {
        nursery.ended(log);
        assert_eq!(process.end().and_then(|end| end.code()), Some(0));
    }
    assert_eq!(descriptors(), before);
    assert!(!pids.into_iter().any(is_zombie));
    assert_eq!(Nursery::left(&mut nursery.l), (0, 0, 0));
}

#[test]
fn an_end_says_how_the_process_ended() {
    let killed = |core_dumped| ProcessEnd::Signaled { signal: ProcessSignal::KILL, core_dumped };
    let unknown = std::io::Error::other("no child");
    for (end, text) in [
        (ProcessEnd::Exited(0), "the process exited cleanly"),
        (ProcessEnd::Exited(3), "the process exited with code 3"),
        (killed(false), "the process was ended by SIGKILL"),
        (killed(true), "the process was ended by SIGKILL and dumped core"),
        (
            ProcessEnd::Unknown(unknown.into()),
            "the process has ended, but its exit status is unknown: no child",
        ),
        (ProcessEnd::LeftRunning, "the loop has ended, but the process keeps running"),
    ] {
        assert_eq!(end.to_string(), text);
        let is_killed = matches!(end, ProcessEnd::Signaled { .. });
        assert_eq!(end.signal(), is_killed.then_some(ProcessSignal::KILL), "{text}");
        let code = if let ProcessEnd::Exited(code) = end { Some(code) } else { None };
        assert_eq!((end.code(), end.is_success()), (code, code == Some(0)), "{text}");
    }
}
