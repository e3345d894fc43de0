//! Hosts that crash, and programs that are killed, restarted or paused.

use std::cell::Cell;
use std::rc::Rc;
use std::time::SystemTime;

use couplet::sim::{Fault, Host, Sim};
use couplet::{Failure, Protocol, Reactor, Reason, Result, Transport};
use couplet_core::driver::Signal;
use couplet_testkit_loops::doubles::Echo;

use super::kit::{Diary, Logger, ms, s};

/// A program that listens and logs to the diary.
fn logs(diary: &Diary) -> impl Fn(&Reactor) -> Result<()> + 'static {
    let diary = diary.clone();
    move |reactor| {
        diary.add("starts");
        let diary = diary.clone();
        reactor.listen("tcp:80", move || Logger(diary.clone())).map(drop)
    }
}

/// A world with a server that logs, and a connection to it.
fn served() -> (Sim, Host, couplet::sim::Socket, Diary) {
    let diary = Diary::default();
    let (sim, server, socket) = super::kit::served(logs(&diary));
    assert_eq!(diary.take(), ["starts", "made"]);
    (sim, server, socket, diary)
}

#[test]
fn a_crash_is_silent_and_the_program_restarts_when_it_is_over() {
    let (mut sim, server, socket, diary) = served();
    sim.fault(s(2), s(10), Fault::Crash(server));
    sim.run_for(s(5)).unwrap();
    assert!(!sim.is_running(server));
    assert!(socket.is_open() && socket.error().is_none());
    assert_eq!(diary.take(), [""; 0], "a crash makes no callbacks");
    sim.run_for(s(10)).unwrap();
    assert!(sim.is_running(server));
    assert_eq!(diary.take(), ["starts"]);
    drop(socket);
    sim.finish().unwrap();
}

#[test]
fn a_killed_program_gets_no_callbacks_and_its_system_closes() {
    let (mut sim, server, socket, diary) = served();
    sim.fault(s(2), s(10), Fault::Kill(server));
    sim.run_for(s(5)).unwrap();
    assert!(!sim.is_running(server));
    assert!(socket.saw_fin() && socket.error().is_none());
    let late = sim.socket(sim.hosts()[1], sim.at(server, 80)).unwrap();
    sim.run_for(s(1)).unwrap();
    assert!(late.error().is_some(), "its system refuses the connect");
    assert_eq!(diary.take(), [""; 0], "no callbacks");
    drop((socket, late));
    sim.run_for(s(10)).unwrap();
    assert_eq!(diary.take(), ["starts"]);
    sim.finish().unwrap();
}

#[test]
fn a_program_that_is_killed_with_unread_input_resets() {
    let (mut sim, server, socket, _) = served();
    // A paused program reads nothing.
    sim.fault(s(1), s(5), Fault::Pause(server));
    sim.fault(s(3), s(1), Fault::Kill(server));
    sim.run_for(ms(1)).unwrap();
    socket.push(b"not read").unwrap();
    sim.run_for(s(1)).unwrap();
    assert!(socket.error().is_none() && !socket.saw_fin());
    sim.run_for(s(2)).unwrap();
    assert_eq!(socket.error(), Some(std::io::ErrorKind::ConnectionReset));
}

#[test]
fn a_program_that_fails_to_restart_is_retried_every_second() {
    let mut sim = Sim::new(1);
    let (starts, diary) = (Rc::new(Cell::new(0)), Diary::default());
    let (count, log) = (starts.clone(), diary.clone());
    let host = sim.host("stubborn", move |reactor| {
        count.set(count.get() + 1);
        log.add(format!("starts {}", count.get()));
        match count.get() {
            2 | 3 => Err(Failure::msg("not yet")),
            _ => reactor.listen("tcp:80", || Logger(Diary::default())).map(drop),
        }
    });
    sim.fault(s(1), s(9), Fault::Kill(host));
    sim.run_for(s(11)).unwrap();
    assert_eq!(starts.get(), 2 + 1, "at 10 s, and at 11 s");
    assert!(!sim.is_running(host));
    sim.run_for(s(2)).unwrap();
    assert!(sim.is_running(host));
    assert_eq!(starts.get(), 4);
    sim.finish().unwrap();
}

#[test]
fn a_program_that_fails_at_its_first_start_breaks_the_world() {
    let mut sim = Sim::new(1);
    sim.host("wrong", |_| Err(Failure::msg("no configuration")));
    let failure = sim.run_for(s(1)).unwrap_err();
    let text = format!("{failure:#}");
    assert!(text.contains("the program of wrong does not start: no configuration"), "{text}");
}

#[test]
fn a_program_that_ended_normally_is_not_restarted_by_the_end_of_a_kill() {
    let mut sim = Sim::new(1);
    let diary = Diary::default();
    let log = diary.clone();
    let host = sim.host("short", move |reactor: &Reactor| {
        log.add("starts");
        let stopping = reactor.clone();
        reactor.call_later(s(1), move || stopping.stop());
        Ok(())
    });
    sim.fault(s(2), s(1), Fault::Kill(host));
    sim.run_for(s(10)).unwrap();
    assert_eq!(diary.take(), ["starts"]);
}

#[test]
fn overlapping_faults_restart_a_program_once_when_the_last_is_over() {
    let (mut sim, server, _socket, diary) = served();
    sim.fault(s(2), s(10), Fault::Kill(server));
    sim.fault(s(3), s(2), Fault::Crash(server));
    sim.fault(s(4), s(3), Fault::Crash(server));
    sim.run_for(s(10)).unwrap();
    assert_eq!(diary.take(), [""; 0]);
    let refused = sim.socket(sim.hosts()[1], sim.at(server, 80)).unwrap();
    sim.run_for(ms(10)).unwrap();
    assert!(refused.error().is_some(), "the power has been back since second 7");
    sim.run_for(s(10)).unwrap();
    assert_eq!(diary.take(), ["starts"]);
}

/// The first and the last second of each of two faults.
const OVERLAPS: [[(u64, u64); 2]; 8] = [
    [(1, 5), (3, 9)],
    [(3, 9), (1, 5)],
    [(1, 9), (3, 5)],
    [(3, 5), (1, 9)],
    [(1, 5), (1, 9)],
    [(1, 9), (1, 5)],
    [(1, 9), (5, 9)],
    [(5, 9), (1, 9)],
];

#[test]
fn a_host_is_silent_until_the_last_of_its_crashes_ends() {
    for crashes in OVERLAPS {
        let (mut sim, server, _socket, diary) = served();
        for (from, to) in crashes {
            sim.fault(s(from), s(to - from), Fault::Crash(server));
        }
        sim.run_for(s(7)).unwrap();
        let early = sim.socket(sim.hosts()[1], sim.at(server, 80)).unwrap();
        sim.run_for(ms(500)).unwrap();
        assert!(!early.is_open() && early.error().is_none(), "{crashes:?}");
        assert_eq!(diary.take(), [""; 0], "{crashes:?}");
        drop(early);
        sim.run_for(s(3)).unwrap();
        let late = sim.socket(sim.hosts()[1], sim.at(server, 80)).unwrap();
        sim.run_for(ms(500)).unwrap();
        assert!(late.is_open(), "{crashes:?}");
        assert_eq!(diary.take(), ["starts", "made"], "{crashes:?}");
    }
}

#[test]
fn a_paused_program_does_nothing_and_then_resumes_where_it_was() {
    let mut sim = Sim::new(1);
    let diary = Diary::default();
    let server = sim.host("server", logs(&diary));
    let ticking = Diary::default();
    sim.host("other", ticks(&ticking));
    let client = sim.bare_host("client");
    sim.fault(s(1), s(10), Fault::Pause(server));
    sim.run_for(s(2)).unwrap();
    let socket = sim.socket(client, sim.at(server, 80)).unwrap();
    sim.run_for(s(1)).unwrap();
    assert!(socket.is_open(), "its system keeps running");
    socket.push(b"hello").unwrap();
    sim.run_for(s(7)).unwrap();
    assert_eq!(diary.take(), ["starts"]);
    assert!(ticking.len() >= 10, "other programs keep running");
    sim.run_for(s(2)).unwrap();
    assert_eq!(diary.take(), ["made", "hello"]);
}

#[test]
fn a_program_is_paused_until_the_last_of_its_pauses_ends() {
    for pauses in OVERLAPS {
        let (mut sim, diary) = (Sim::new(1), Diary::default());
        let host = sim.host("host", ticks(&diary));
        for (from, to) in pauses {
            sim.fault(s(from), s(to - from), Fault::Pause(host));
        }
        sim.run_for(ms(1500)).unwrap();
        assert!(!diary.take().is_empty(), "{pauses:?}");
        sim.run_for(s(7)).unwrap();
        assert_eq!(diary.take(), [""; 0], "{pauses:?}");
        sim.run_for(s(2)).unwrap();
        assert!(!diary.take().is_empty(), "{pauses:?}");
    }
}

#[test]
fn a_program_that_is_killed_before_a_pause_or_in_it_starts_after_the_pause() {
    // A fault, and the first and the last second of it and of the pause.
    type Case = (fn(Host) -> Fault, [(u64, u64); 2]);
    let cases: [Case; 3] = [
        (Fault::Kill, [(2, 5), (4, 14)]),
        (Fault::Kill, [(4, 5), (2, 14)]),
        (Fault::Crash, [(4, 5), (2, 14)]),
    ];
    for (fault, times) in cases {
        let (mut sim, server, socket, diary) = served();
        drop(socket);
        sim.run_for(ms(500)).unwrap();
        assert_eq!(diary.take().len(), 1, "it is lost");
        for (fault, (from, to)) in [fault(server), Fault::Pause(server)].into_iter().zip(times) {
            sim.fault(s(from), s(to - from), fault);
        }
        sim.run_for(s(12)).unwrap();
        assert!(!sim.is_running(server), "a paused program gets no CPU time: {times:?}");
        assert_eq!(diary.take(), [""; 0], "{times:?}");
        sim.run_for(s(3)).unwrap();
        assert!(sim.is_running(server), "{times:?}");
        assert_eq!(diary.take(), ["starts"], "{times:?}");
        let socket = sim.socket(sim.hosts()[1], sim.at(server, 80)).unwrap();
        sim.run_for(s(1)).unwrap();
        assert!(socket.is_open(), "{times:?}");
        assert_eq!(diary.take(), ["made"], "{times:?}");
        drop(socket);
        sim.finish().unwrap();
    }
}

#[test]
fn faults_that_follow_one_another_have_the_same_effect_each_time() {
    let (mut sim, server, socket, diary) = served();
    drop(socket);
    sim.run_for(s(1)).unwrap();
    diary.take();
    let ends: [fn(Host) -> Fault; 5] =
        [Fault::Kill, Fault::Kill, Fault::Crash, Fault::Crash, Fault::Kill];
    for (nth, fault) in ends.into_iter().enumerate() {
        sim.fault(sim.elapsed(), s(1), fault(server));
        sim.run_for(ms(500)).unwrap();
        assert!(!sim.is_running(server), "{nth}");
        sim.run_for(s(1)).unwrap();
        assert_eq!(diary.take(), ["starts"], "{nth}");
        // A pause holds the program of each life, again and again.
        for pause in 0..2 {
            sim.fault(sim.elapsed(), s(1), Fault::Pause(server));
            sim.run_for(ms(1)).unwrap();
            let socket = sim.socket(sim.hosts()[1], sim.at(server, 80)).unwrap();
            sim.run_for(ms(900)).unwrap();
            assert_eq!(diary.take(), [""; 0], "{nth}, {pause}");
            sim.run_for(ms(200)).unwrap();
            assert_eq!(diary.take(), ["made"], "{nth}, {pause}");
            drop(socket);
            sim.run_for(ms(100)).unwrap();
            assert_eq!(diary.take(), ["lost: Done(Peer)"], "{nth}, {pause}");
        }
    }
    sim.finish().unwrap();
}

#[test]
fn a_signal_that_a_dead_program_did_not_see_does_not_end_the_next_one() {
    for fault in [Fault::Kill as fn(Host) -> Fault, Fault::Crash] {
        let (mut sim, server, socket, diary) = served();
        drop(socket);
        sim.fault(s(2), s(2), Fault::Pause(server));
        sim.fault(s(3), s(2), fault(server));
        sim.run_for(ms(1500)).unwrap();
        sim.signal(server, Signal::Terminate);
        sim.run_for(s(10)).unwrap();
        assert!(sim.is_running(server));
        assert!(diary.take().ends_with(&["starts".to_owned()]));
        sim.finish().unwrap();
    }
}

#[test]
fn a_crash_between_two_tries_of_a_program_leaves_one_series_of_tries() {
    let (mut sim, starts) = (Sim::new(1), Rc::new(Cell::new(0)));
    let count = starts.clone();
    let host = sim.host("stubborn", move |_| {
        count.set(count.get() + 1);
        if count.get() == 1 { Ok(()) } else { Err(Failure::msg("not yet")) }
    });
    sim.fault(s(1), s(1), Fault::Kill(host));
    sim.fault(ms(4500), ms(1200), Fault::Crash(host));
    // At 0, 2, 3, 4, 5.7, 6.7 and 7.7 s.
    for (until, expected) in [(ms(4600), 4), (ms(6500), 5), (ms(8200), 7)] {
        sim.run_for(until - sim.elapsed()).unwrap();
        assert_eq!(starts.get(), expected, "{until:?}");
    }
    sim.finish().unwrap();
}

#[test]
fn the_end_of_a_world_does_not_wait_for_a_pause() {
    let (mut sim, server, socket, diary) = served();
    sim.fault(s(2), s(9999), Fault::Pause(server));
    sim.run_for(s(3)).unwrap();
    socket.push(b"hello").unwrap();
    drop(socket);
    sim.run_for(s(1)).unwrap();
    assert_eq!(diary.take(), [""; 0]);
    let before = sim.elapsed();
    sim.finish().unwrap();
    let took = sim.elapsed() - before;
    assert!(took < s(60), "{took:?}");
    let noted = diary.take();
    assert!(noted[0] == "hello" && noted[1].starts_with("lost: "), "{noted:?}");
    // The pause that was cut short does not end a second time.
    sim.run_for(s(20_000)).unwrap();
}

#[test]
fn the_end_of_a_world_ends_the_faults_of_each_host() {
    let (mut sim, diary) = (Sim::new(1), Diary::default());
    let hosts = ["a", "b", "c"].map(|name| sim.host(name, ticks(&diary)));
    for host in hosts {
        sim.fault(s(1), s(9999), Fault::Pause(host));
    }
    sim.run_for(s(10)).unwrap();
    let before = sim.elapsed();
    sim.finish().unwrap();
    assert!(sim.elapsed() - before < s(1));
}

/// A program that logs each second.
fn ticks(diary: &Diary) -> impl Fn(&Reactor) -> Result<()> + 'static {
    let diary = diary.clone();
    move |reactor| {
        tick(reactor, &diary);
        Ok(())
    }
}

fn tick(reactor: &Reactor, diary: &Diary) {
    diary.add("tick");
    let (reactor, diary) = (reactor.clone(), diary.clone());
    reactor.clone().call_later(s(1), move || tick(&reactor, &diary));
}

#[test]
fn when_clocks_jump_forward_overdue_timers_fire_immediately() {
    let mut sim = Sim::new(1);
    let diary = Diary::default();
    let log = diary.clone();
    let host = sim.host("sleeper", move |reactor| {
        let (hour, day) = (log.clone(), log.clone());
        reactor.call_later(s(3600), move || hour.add("an hour"));
        reactor.call_later(s(86_400), move || day.add("a day"));
        Ok(())
    });
    sim.fault(s(60), s(0), Fault::ClockForward(host, s(7200)));
    sim.run_for(s(59)).unwrap();
    let before = sim.wall_clock(host);
    assert_eq!(diary.take(), [""; 0]);
    sim.run_for(s(2)).unwrap();
    assert_eq!(diary.take(), ["an hour"]);
    assert_eq!(sim.wall_clock(host).duration_since(before).unwrap(), s(7202));
    sim.finish().unwrap();
}

#[test]
fn timers_ignore_a_time_of_day_that_jumps_back() {
    let mut sim = Sim::new(1);
    let diary = Diary::default();
    let host = sim.host("sleeper", ticks(&diary));
    sim.fault(s(10), s(0), Fault::ClockBack(host, s(3600)));
    sim.run_for(s(9)).unwrap();
    let before = sim.wall_clock(host);
    sim.run_for(s(11)).unwrap();
    assert!((20..=21).contains(&diary.len()), "{}", diary.len());
    assert_eq!(before.duration_since(sim.wall_clock(host)).unwrap(), s(3600 - 11));
}

#[test]
fn the_seed_sets_the_clocks_of_hosts_slightly_apart() {
    let clocks = |seed| -> Vec<SystemTime> {
        let mut sim = Sim::new(seed);
        let hosts = [sim.bare_host("a"), sim.bare_host("b"), sim.bare_host("c")];
        sim.run_for(s(5)).unwrap();
        hosts.iter().map(|host| sim.wall_clock(*host)).collect()
    };
    let one = clocks(1);
    assert_eq!(one, clocks(1));
    assert_ne!(one, clocks(2));
    let (first, last) = (one.iter().min().unwrap(), one.iter().max().unwrap());
    let apart = last.duration_since(*first).unwrap();
    assert!(apart > s(0) && apart < s(900), "{apart:?}");
}

/// Asks its peer each second, and logs its end.
struct Asks(Diary, String);

impl Asks {
    fn ask(transport: &Transport) {
        transport.write("?");
        let again = transport.connection::<Asks>();
        again.call_later(s(1), |_, transport| Asks::ask(transport));
    }
}

impl Protocol for Asks {
    fn connection_made(&mut self, transport: &Transport) {
        Asks::ask(transport);
    }
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    fn connection_lost(&mut self, _: &Transport, _: &Reason) {
        self.0.add(&self.1);
    }
}

/// A host that serves, and asks these peers. A line is written at the start, each second, at each job
/// and at the end of a connection to a peer, and begins with the number of the host's life.
fn node(sim: &mut Sim, name: &str, peers: &'static [&str]) -> (Host, Diary) {
    fn pass_seconds(reactor: &Reactor, life: u32, second: u32, diary: &Diary) {
        diary.add(format!("{life}: {second} s"));
        let done = diary.clone();
        let job = reactor.defer_to_thread(|| Ok(()));
        job.map(move |()| done.add(format!("{life}: job {second}"))).detach();
        let (again, diary) = (reactor.clone(), diary.clone());
        reactor.call_later(s(1), move || pass_seconds(&again, life, second + 1, &diary));
    }
    let (diary, lives) = (Diary::default(), Cell::new(0));
    let log = diary.clone();
    let host = sim.host(name, move |reactor| {
        let life = lives.replace(lives.get() + 1) + 1;
        pass_seconds(reactor, life, 0, &log);
        for peer in peers {
            let (log, text) = (log.clone(), format!("{life}: loses {peer}"));
            let asks = move || Asks(log.clone(), text.clone());
            reactor.connect(format!("tcp:{peer}:80"), asks).map(drop).detach();
        }
        reactor.listen("tcp:80", || Echo).map(drop)
    });
    (host, diary)
}

/// The lines of a program that started at this second, up to the end.
fn seconds(life: u32, start: u64, end: u64) -> Vec<String> {
    (0..end - start).map(|second| format!("{life}: {second} s")).collect()
}

#[test]
fn crashes_that_overlap_end_each_in_its_time_and_touch_no_other_host() {
    // Of a and b, or of a twice: from, to.
    let (a, b) = (0, 1);
    let cases: &[[(usize, u64, u64); 2]] = &[
        [(a, 10, 20), (b, 12, 18)],
        [(a, 10, 18), (b, 12, 20)],
        [(a, 10, 20), (b, 10, 20)],
        [(a, 10, 15), (b, 15, 20)],
        [(a, 10, 20), (a, 12, 18)],
        [(a, 10, 18), (a, 12, 20)],
        [(a, 10, 20), (a, 10, 20)],
        [(a, 10, 15), (a, 15, 20)],
    ];
    let both_orders = cases.iter().flat_map(|[one, other]| [[*one, *other], [*other, *one]]);
    for crashes in both_orders {
        let mut sim = Sim::new(1);
        let nodes = [
            node(&mut sim, "a", &[]),
            node(&mut sim, "b", &["a"]),
            node(&mut sim, "c", &["a", "b", "d"]),
            node(&mut sim, "d", &[]),
        ];
        let client = sim.bare_host("client");
        for (node, from, to) in crashes {
            let host = nodes[node].0;
            sim.fault(s(from), s(to - from), Fault::Crash(host));
            // Some jobs are under way at a crash.
            sim.fault(s(0), s(9999), Fault::SlowJobs(host, ms(1500)));
        }
        sim.run_for(ms(500)).unwrap();
        let sockets =
            nodes.each_ref().map(|(host, _)| sim.socket(client, sim.at(*host, 80)).unwrap());
        // Between whole seconds, at which lines are written.
        sim.run_for(s(39)).unwrap();
        for (node, (host, diary)) in nodes.iter().enumerate() {
            assert!(sim.is_running(*host), "{crashes:?}");
            let down = crashes.iter().filter(|(of, ..)| *of == node);
            let (from, to) = (down.clone().map(|it| it.1).min(), down.map(|it| it.2).max());
            let lines = diary.take();
            assert!(lines.is_sorted_by_key(|line| &line[..1]), "a life after the next: {lines:?}");
            let (passed, others): (Vec<_>, Vec<_>) =
                lines.into_iter().partition(|line| line.ends_with(" s"));
            let expected = match (from, to) {
                (Some(from), Some(to)) => [seconds(1, 0, from), seconds(2, to, 40)].concat(),
                _ => seconds(1, 0, 40),
            };
            assert_eq!(passed, expected, "{crashes:?}");
            let crashed = |name: &str| crashes.iter().any(|(of, ..)| ["a", "b"][*of] == name);
            let mut lost: Vec<_> = others.into_iter().filter(|it| it.contains("loses")).collect();
            lost.sort();
            let expected: &[&str] = match (node, crashed("b")) {
                // The second life of b asks the second life of a.
                (1, false) => &["1: loses a"],
                (2, false) => &["1: loses a"],
                (2, true) => &["1: loses a", "1: loses b"],
                _ => &[],
            };
            assert_eq!(lost, expected, "{crashes:?}");
            // A connection of the first life is unknown to the second.
            sockets[node].push(b"still?").unwrap();
            let again = sim.socket(client, sim.at(*host, 80)).unwrap();
            sim.run_for(ms(10)).unwrap();
            again.push(b"again").unwrap();
            sim.run_for(ms(10)).unwrap();
            assert_eq!((again.take(9), again.error()), (b"again".to_vec(), None), "{crashes:?}");
            let (echo, error) = match from {
                Some(_) => (&b""[..], Some(std::io::ErrorKind::ConnectionReset)),
                None => (&b"still?"[..], None),
            };
            assert_eq!((&sockets[node].take(9)[..], sockets[node].error()), (echo, error));
        }
        drop(sockets);
        sim.finish().unwrap();
    }
}
