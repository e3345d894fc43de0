//! System services and their failures: descriptors, names, blocking jobs.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use couplet::defer::Deferred;
use couplet::sim::{Fault, Host, Sim};
use couplet::{ConnectError, Reactor};

use super::kit::{Diary, Logger, ms, s};

/// Connects and logs the outcome.
fn connect(reactor: &Reactor, endpoint: &str, diary: &Diary) {
    let (made, failed, protocol) = (diary.clone(), diary.clone(), diary.clone());
    reactor
        .connect(endpoint, move || Logger(protocol.clone()))
        .map(move |_| made.add("connected"))
        .add_errback(move |failure| {
            failed.add(match failure.downcast_ref::<ConnectError>() {
                Some(ConnectError::System(error)) => format!("system: {:?}", error.raw_os_error()),
                Some(ConnectError::LocalBind { address, .. }) => format!("bind: {address}"),
                Some(ConnectError::NameLookup { source, .. }) => format!("name: {}", source.kind()),
                _ => format!("failed: {failure}"),
            });
            Ok(())
        })
        .detach();
}

/// A world with a server, and a client that connects to `endpoint` once a second.
fn connecting(endpoint: &'static str) -> (Sim, Host, Host, Diary) {
    let mut sim = Sim::new(1);
    let server = sim
        .host("server", |reactor| reactor.listen("tcp:80", || Logger(Diary::default())).map(drop));
    let diary = Diary::default();
    let log = diary.clone();
    let client = sim.host("client", move |reactor| {
        again(reactor, endpoint, &log);
        Ok(())
    });
    (sim, server, client, diary)
}

fn again(reactor: &Reactor, endpoint: &'static str, diary: &Diary) {
    connect(reactor, endpoint, diary);
    let (reactor, diary) = (reactor.clone(), diary.clone());
    reactor.clone().call_later(s(1), move || again(&reactor, endpoint, &diary));
}

#[test]
fn without_descriptors_connects_fail_with_emfile() {
    let (mut sim, _, client, diary) = connecting("tcp:10.0.0.1:80");
    sim.fault(ms(500), s(1), Fault::NoDescriptors(client));
    sim.run_for(ms(2400)).unwrap();
    assert_eq!(diary.take(), ["made", "connected", "system: Some(24)", "made", "connected"]);
    sim.finish().unwrap();
}

#[test]
fn without_descriptors_a_server_turns_queued_connections_away() {
    let (mut sim, server, _, diary) = connecting("tcp:10.0.0.1:80");
    sim.fault(ms(500), s(1), Fault::NoDescriptors(server));
    sim.run_for(ms(2400)).unwrap();
    assert_eq!(
        diary.take(),
        ["made", "connected", "made", "connected", "lost: Done(Peer)", "made", "connected"]
    );
    sim.finish().unwrap();
}

#[test]
fn without_descriptors_a_port_that_resumes_turns_all_away_that_wait() {
    let mut sim = Sim::new(1);
    let server = sim.host("server", |reactor| {
        let port = reactor.listen("tcp:80", || Logger(Diary::default()))?;
        port.pause_producing();
        for resumes in [2, 5] {
            let (resumed, again) = (port.clone(), port.clone());
            reactor.call_later(s(resumes), move || resumed.resume_producing());
            reactor.call_later(s(resumes + 1), move || again.pause_producing());
        }
        Ok(())
    });
    let client = sim.bare_host("client");
    for (from, has_descriptors) in [(1, false), (4, true)] {
        sim.run_for(s(from) - sim.elapsed()).unwrap();
        let connect = |_| sim.socket(client, sim.at(server, 80)).unwrap();
        let sockets: Vec<_> = (0..4).map(connect).collect();
        if !has_descriptors {
            sim.fault(s(from), ms(1500), Fault::NoDescriptors(server));
        }
        sim.run_for(ms(500)).unwrap();
        assert!(sockets.iter().all(|socket| socket.is_open() && !socket.saw_fin()), "{from}");
        sim.run_for(s(1)).unwrap();
        let turned_away = sockets.iter().filter(|socket| socket.saw_fin()).count();
        assert_eq!(turned_away, if has_descriptors { 0 } else { 4 }, "{from}");
    }
    sim.run_for(s(1)).unwrap();
    sim.finish().unwrap();
}

#[test]
fn without_descriptors_no_port_can_be_opened() {
    let mut sim = Sim::new(1);
    let host = sim.bare_host("a");
    sim.fault(s(0), s(1), Fault::NoDescriptors(host));
    sim.run_for(ms(1)).unwrap();
    let error = sim.listen(host, sim.at(host, 80), 5).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(24));
    assert_eq!(sim.datagrams(host, 53).unwrap_err().raw_os_error(), Some(24));
    sim.run_for(s(1)).unwrap();
    assert!(sim.listen(host, sim.at(host, 80), 5).is_ok());
}

#[test]
fn c32a_a_connect_can_only_come_from_an_address_of_its_host() {
    for (from, what) in [
        ("10.0.0.2", "made"),
        ("10.0.0.1", "bind: tcp:10.0.0.1:0"),
        ("10.0.0.9", "bind: tcp:10.0.0.9:0"),
    ] {
        let endpoint = format!("tcp:10.0.0.1:80:bindAddress={from}").leak();
        let (mut sim, _, _, diary) = connecting(endpoint);
        sim.run_for(ms(500)).unwrap();
        let log = diary.take();
        assert!(log[0].starts_with(what), "{from}: {log:?}");
    }
}

#[test]
fn a_program_has_at_most_a_thousand_lookups_in_flight() {
    let diary = Diary::default();
    let log = diary.clone();
    let mut sim = Sim::new(1);
    sim.host("client", move |reactor| {
        (0..1010).for_each(|_| connect(reactor, "tcp:nobody:80", &log));
        Ok(())
    });
    sim.run_for(ms(500)).unwrap();
    let log = diary.take();
    let of =
        |kind: io::ErrorKind| log.iter().filter(|line| **line == format!("name: {kind}")).count();
    assert_eq!(of(io::ErrorKind::QuotaExceeded), 10);
    assert_eq!(of(io::ErrorKind::NotFound), 1000);
}

#[test]
fn an_unknown_name_is_not_found() {
    let (mut sim, _, _, diary) = connecting("tcp:nobody:80");
    sim.run_for(ms(500)).unwrap();
    assert_eq!(diary.take(), [format!("name: {}", io::ErrorKind::NotFound)]);
}

#[test]
fn a_lookup_takes_at_most_five_milliseconds() {
    let diary = Diary::default();
    let log = diary.clone();
    let mut sim = Sim::new(1);
    sim.host("client", move |reactor| {
        (0..500).for_each(|_| connect(reactor, "tcp:nobody:80", &log));
        Ok(())
    });
    // The turns take time too.
    sim.run_for(Duration::from_micros(5300)).unwrap();
    assert_eq!(diary.len(), 500);
}

#[test]
fn lookups_fail_for_a_while() {
    let (mut sim, _, client, diary) = connecting("tcp:server:80");
    sim.fault(ms(500), s(1), Fault::NoNames(client));
    sim.run_for(ms(2400)).unwrap();
    let failed = format!("name: {}", io::ErrorKind::TimedOut);
    assert_eq!(diary.take(), ["made", "connected", &failed, "made", "connected"]);
    sim.finish().unwrap();
}

#[test]
fn lookups_take_longer_for_a_while() {
    let (mut sim, _, client, diary) = connecting("tcp:server:80");
    sim.fault(s(0), ms(500), Fault::SlowNames(client, s(10)));
    sim.run_for(ms(1500)).unwrap();
    assert_eq!(diary.take(), ["made", "connected"], "the second lookup is not slow");
    let done = sim.run_until(s(20), |sim| sim.elapsed() >= s(10)).unwrap();
    assert!(done);
    diary.take();
    sim.run_for(ms(50)).unwrap();
    assert!(diary.len() >= 2, "the first lookup completes after 10 s");
    sim.finish().unwrap();
}

#[test]
fn lookups_with_which_a_program_ends_leave_nothing_to_the_next_one() {
    for fault in [Fault::Kill as fn(Host) -> Fault, Fault::Crash] {
        let (mut sim, _, client, _) = connecting("tcp:server:80");
        sim.fault(s(0), s(9999), Fault::SlowNames(client, s(3600)));
        sim.fault(s(6), s(1), fault(client));
        // Six are under way at the first end, and two at the second one.
        sim.run_for(ms(8500)).unwrap();
        sim.finish().unwrap();
    }
}

#[test]
fn a_renamed_host_is_found_at_its_new_address() {
    a_host_is_renamed("server", "tcp:server:80");
    // Lookups have the name as ASCII.
    a_host_is_renamed("münchen", "tcp:münchen:80");
}

fn a_host_is_renamed(name: &str, endpoint: &'static str) {
    let mut sim = Sim::new(1);
    let old = sim.bare_host(name);
    let new = sim.host("newcomer", |reactor| {
        reactor.listen("tcp:80", || Logger(Diary::default())).map(drop)
    });
    let diary = Diary::default();
    let log = diary.clone();
    sim.host("client", move |reactor| {
        again(reactor, endpoint, &log);
        Ok(())
    });
    sim.fault(ms(500), s(0), Fault::Rename(old, new));
    sim.run_for(ms(1400)).unwrap();
    let log = diary.take();
    assert!(log[0].starts_with("failed: "), "nothing listens there: {log:?}");
    assert_eq!(log[1..], ["made", "connected"]);
    sim.finish().unwrap();
}

/// Starts `count` jobs together, and logs each result with its time in milliseconds.
fn jobs(sim: &mut Sim, count: u32, diary: &Diary) -> Host {
    let diary = diary.clone();
    sim.host("worker", move |reactor| {
        let started = reactor.now();
        for n in 0..count {
            let (diary, clock) = (diary.clone(), reactor.clone());
            let job = reactor.defer_to_thread(move || Ok(n * 2));
            let log: Deferred<()> = job.map(move |twice| {
                diary.add(format!("{twice} {}", (clock.now() - started).as_millis()));
            });
            log.detach();
        }
        Ok(())
    })
}

#[test]
fn a_blocking_job_takes_its_time_and_gives_its_result() {
    let mut sim = Sim::new(1);
    let diary = Diary::default();
    let worker = jobs(&mut sim, 1, &diary);
    sim.fault(s(0), s(1), Fault::SlowJobs(worker, s(5)));
    sim.run_for(ms(4999)).unwrap();
    assert_eq!(diary.len(), 0);
    sim.run_for(s(1)).unwrap();
    let log = diary.take();
    assert!(log[0].starts_with("0 50") && log.len() == 1, "{log:?}");
    sim.finish().unwrap();
}

#[test]
fn ten_jobs_run_at_a_time_and_the_others_wait() {
    let mut sim = Sim::new(1);
    let diary = Diary::default();
    let worker = jobs(&mut sim, 25, &diary);
    sim.fault(s(0), s(100), Fault::SlowJobs(worker, s(10)));
    let done_after = |sim: &mut Sim, seconds| {
        sim.run_for(s(seconds)).unwrap();
        diary.len()
    };
    assert_eq!(done_after(&mut sim, 15), 10);
    assert_eq!(done_after(&mut sim, 10), 20);
    assert_eq!(done_after(&mut sim, 10), 25);
    sim.finish().unwrap();
}

#[test]
fn a_kill_drops_the_jobs_of_its_program() {
    let mut sim = Sim::new(1);
    let diary = Diary::default();
    let worker = jobs(&mut sim, 20, &diary);
    sim.fault(s(0), s(100), Fault::SlowJobs(worker, s(10)));
    sim.fault(s(5), s(1), Fault::Kill(worker));
    sim.run_for(s(14)).unwrap();
    assert_eq!(diary.len(), 0, "the first program's jobs never run");
    sim.run_for(s(100)).unwrap();
    assert_eq!(diary.len(), 20, "the second program's jobs do");
    sim.finish().unwrap();
}

#[test]
fn a_job_that_is_cancelled_keeps_its_thread_to_its_end() {
    let (mut sim, diary) = (Sim::new(1), Diary::default());
    let log = diary.clone();
    let worker = sim.host("worker", move |reactor| {
        let job = |_| reactor.defer_to_thread(|| Ok(())).add_errback(|_| Ok(()));
        let cancelled: Vec<Deferred<()>> = (0..10).map(job).collect();
        let (inner, log) = (reactor.clone(), log.clone());
        let cancel = move || {
            for job in cancelled {
                job.cancel();
                job.detach();
            }
        };
        let another = move || {
            inner.defer_to_thread(|| Ok(())).map(move |()| log.add("done")).detach();
        };
        reactor.call_later(s(1), cancel);
        reactor.call_later(s(2), another);
        Ok(())
    });
    sim.fault(s(0), s(100), Fault::SlowJobs(worker, s(10)));
    sim.run_for(s(15)).unwrap();
    assert_eq!(diary.take(), [""; 0], "no thread was free before 10 s");
    sim.run_for(s(10)).unwrap();
    assert_eq!(diary.take(), ["done"]);
    sim.finish().unwrap();
}

#[test]
fn jobs_that_are_cancelled_while_they_wait_leave_their_places_to_others() {
    let (mut sim, diary) = (Sim::new(1), Diary::default());
    let log = diary.clone();
    // The first and the last of those that wait, and two between them.
    let cancelled = [10, 15, 16, 24];
    let worker = sim.host("worker", move |reactor| {
        let jobs: Vec<Deferred<()>> = (0..25_usize)
            .map(|number| {
                let log = log.clone();
                let job = reactor.defer_to_thread(move || Ok(number));
                job.map(move |number| log.add(number.to_string())).add_errback(|_| Ok(()))
            })
            .collect();
        reactor.call_later(s(5), move || {
            for (number, job) in jobs.into_iter().enumerate() {
                if cancelled.contains(&number) {
                    job.cancel();
                }
                job.detach();
            }
        });
        Ok(())
    });
    sim.fault(s(0), s(100), Fault::SlowJobs(worker, s(10)));
    let mut done = Vec::new();
    for (until, count) in [(15, 10), (25, 20), (35, 21)] {
        sim.run_for(s(until) - sim.elapsed()).unwrap();
        done.extend(diary.take());
        assert_eq!(done.len(), count, "after {until} s");
    }
    assert!(cancelled.iter().all(|number| !done.contains(&number.to_string())), "{done:?}");
    sim.finish().unwrap();
}

#[test]
fn the_jobs_of_a_paused_program_run_after_the_pause() {
    let (mut sim, ran) = (Sim::new(1), Arc::new(AtomicU32::new(0)));
    let counts = ran.clone();
    let worker = sim.host("worker", move |reactor| {
        for _ in 0..3 {
            let counts = counts.clone();
            let job = move || {
                counts.fetch_add(1, Ordering::Relaxed);
                Ok(())
            };
            reactor.defer_to_thread(job).detach();
        }
        Ok(())
    });
    sim.fault(s(0), s(1), Fault::SlowJobs(worker, s(2)));
    sim.fault(s(1), s(9), Fault::Pause(worker));
    sim.fault(s(5), s(10), Fault::Pause(worker));
    sim.run_for(s(14)).unwrap();
    assert_eq!(ran.load(Ordering::Relaxed), 0, "a paused program gets no CPU time");
    sim.run_for(s(2)).unwrap();
    assert_eq!(ran.load(Ordering::Relaxed), 3);
    sim.finish().unwrap();
}
