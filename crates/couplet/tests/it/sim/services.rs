//! What systems do for programs, and do not: descriptors, names, blocking jobs.

use std::io;

use couplet::defer::Deferred;
use couplet::sim::{Fault, Host, Sim};
use couplet::{ConnectError, Reactor};

use super::kit::{Diary, Tells, ms, s};

/// Connects, and tells what becomes of it.
fn asks(reactor: &Reactor, endpoint: &str, diary: &Diary) {
    let (made, failed, protocol) = (diary.clone(), diary.clone(), diary.clone());
    reactor
        .connect(endpoint, move || Tells(protocol.clone()))
        .map(move |_| made.add("connected"))
        .add_errback(move |failure| {
            failed.add(match failure.downcast_ref::<ConnectError>() {
                Some(ConnectError::System(error)) => format!("system: {:?}", error.raw_os_error()),
                Some(ConnectError::NameLookup { source, .. }) => format!("name: {}", source.kind()),
                _ => format!("failed: {failure}"),
            });
            Ok(())
        })
        .detach();
}

/// A world with a server, and a client that asks for it once a second.
fn asking(endpoint: &'static str) -> (Sim, Host, Host, Diary) {
    let mut sim = Sim::new(1);
    let server = sim.host("server", |reactor| {
        reactor.listen("tcp:80", || Tells(Diary::default()))?;
        Ok(())
    });
    let diary = Diary::default();
    let told = diary.clone();
    let client = sim.host("client", move |reactor| {
        again(reactor, endpoint, &told);
        Ok(())
    });
    (sim, server, client, diary)
}

fn again(reactor: &Reactor, endpoint: &'static str, diary: &Diary) {
    asks(reactor, endpoint, diary);
    let (reactor, diary) = (reactor.clone(), diary.clone());
    reactor.clone().call_later(s(1), move || again(&reactor, endpoint, &diary));
}

#[test]
fn without_descriptors_connects_fail_with_emfile() {
    let (mut sim, _, client, diary) = asking("tcp:10.0.0.1:80");
    sim.fault(ms(500), s(1), Fault::NoDescriptors(client));
    sim.run_for(ms(2400)).unwrap();
    assert_eq!(diary.take(), ["made", "connected", "system: Some(24)", "made", "connected"]);
    sim.finish().unwrap();
}

#[test]
fn without_descriptors_a_server_turns_away_who_waits() {
    let (mut sim, server, _, diary) = asking("tcp:10.0.0.1:80");
    sim.fault(ms(500), s(1), Fault::NoDescriptors(server));
    sim.run_for(ms(2400)).unwrap();
    assert_eq!(
        diary.take(),
        ["made", "connected", "made", "connected", "lost: Done(Peer)", "made", "connected"]
    );
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
fn a_connect_comes_from_an_address_of_its_host_alone() {
    for (from, what) in [("10.0.0.2", "made"), ("10.0.0.1", "system"), ("10.0.0.9", "system")] {
        let endpoint = format!("tcp:10.0.0.1:80:bindAddress={from}").leak();
        let (mut sim, _, _, diary) = asking(endpoint);
        sim.run_for(ms(500)).unwrap();
        let told = diary.take();
        assert!(told[0].starts_with(what), "{from}: {told:?}");
    }
}

#[test]
fn a_program_waits_for_a_thousand_names_at_most() {
    let diary = Diary::default();
    let told = diary.clone();
    let mut sim = Sim::new(1);
    sim.host("client", move |reactor| {
        (0..1010).for_each(|_| asks(reactor, "tcp:nobody:80", &told));
        Ok(())
    });
    sim.run_for(ms(500)).unwrap();
    let told = diary.take();
    let of =
        |kind: io::ErrorKind| told.iter().filter(|line| **line == format!("name: {kind}")).count();
    assert_eq!(of(io::ErrorKind::QuotaExceeded), 10);
    assert_eq!(of(io::ErrorKind::NotFound), 1000);
}

#[test]
fn a_name_that_nobody_has_is_not_found() {
    let (mut sim, _, _, diary) = asking("tcp:nobody:80");
    sim.run_for(ms(500)).unwrap();
    assert_eq!(diary.take(), [format!("name: {}", io::ErrorKind::NotFound)]);
}

#[test]
fn lookups_fail_for_a_while() {
    let (mut sim, _, client, diary) = asking("tcp:server:80");
    sim.fault(ms(500), s(1), Fault::NoNames(client));
    sim.run_for(ms(2400)).unwrap();
    let failed = format!("name: {}", io::ErrorKind::TimedOut);
    assert_eq!(diary.take(), ["made", "connected", &failed, "made", "connected"]);
    sim.finish().unwrap();
}

#[test]
fn lookups_take_longer_for_a_while() {
    let (mut sim, _, client, diary) = asking("tcp:server:80");
    sim.fault(s(0), ms(500), Fault::SlowNames(client, s(10)));
    sim.run_for(ms(1500)).unwrap();
    assert_eq!(diary.take(), ["made", "connected"], "the second one is not slow");
    let done = sim.run_until(s(20), |sim| sim.elapsed() >= s(10)).unwrap();
    assert!(done);
    diary.take();
    sim.run_for(ms(50)).unwrap();
    assert!(diary.len() >= 2, "the first one comes after ten seconds");
    sim.finish().unwrap();
}

#[test]
fn a_name_may_come_to_mean_another_host() {
    let mut sim = Sim::new(1);
    let old = sim.bare_host("server");
    let new = sim.host("newcomer", |reactor| {
        reactor.listen("tcp:80", || Tells(Diary::default()))?;
        Ok(())
    });
    let diary = Diary::default();
    let told = diary.clone();
    sim.host("client", move |reactor| {
        again(reactor, "tcp:server:80", &told);
        Ok(())
    });
    sim.fault(ms(500), s(0), Fault::Rename(old, new));
    sim.run_for(ms(1400)).unwrap();
    let told = diary.take();
    assert!(told[0].starts_with("failed: "), "nobody listens there: {told:?}");
    assert_eq!(told[1..], ["made", "connected"]);
    sim.finish().unwrap();
}

/// Asks for so many jobs at once, and tells when each has run: in milliseconds.
fn jobs(sim: &mut Sim, count: u32, diary: &Diary) -> Host {
    let diary = diary.clone();
    sim.host("worker", move |reactor| {
        let started = reactor.now();
        for n in 0..count {
            let (diary, clock) = (diary.clone(), reactor.clone());
            let job = reactor.defer_to_thread(move || Ok(n * 2));
            let told: Deferred<()> = job.map(move |twice| {
                diary.add(format!("{twice} {}", (clock.now() - started).as_millis()));
            });
            told.detach();
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
    let told = diary.take();
    assert!(told[0].starts_with("0 50") && told.len() == 1, "{told:?}");
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
    assert_eq!(diary.len(), 0, "those of the first program never run");
    sim.run_for(s(100)).unwrap();
    assert_eq!(diary.len(), 20, "those of the second do");
    sim.finish().unwrap();
}
