//! Faults are a list drawn before the run: removing one changes neither the others nor anything
//! beyond its reach.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

use couplet::sim::{Cut, Fault, Host, Latency, Link, Planned, Sim, Trial, Weather};
use couplet::{Protocol, Reactor, Transport};
use couplet_testkit_loops::doubles::Echo;

use super::kit::{ms, s};

/// Writes 3000 bytes, and again 200 ms after all of them have been echoed.
struct Talks(u32);

impl Protocol for Talks {
    fn connection_made(&mut self, transport: &Transport) {
        transport.write(vec![b'x'; 3000]);
    }
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.0 += data.len() as u32;
        if self.0 >= 3000 {
            self.0 = 0;
            let connection = transport.connection::<Talks>();
            connection.call_later(ms(200), |_, transport| transport.write([b'y'; 3000]));
        }
    }
}

fn keep_talking(reactor: &Reactor, to: &'static str) {
    let inner = reactor.clone();
    let task = reactor.spawn(async move {
        loop {
            if let Ok(talk) = inner.connect(to, || Talks(0)).await {
                inner.sleep(s(3)).await?;
                talk.transport().lose_connection();
            }
            inner.sleep(s(1)).await?;
        }
    });
    // Cancelled when the program ends.
    task.add_both(|_: couplet::Result<()>| Ok(())).detach();
}

/// Two independent pairs of hosts: a and b, c and d.
fn two_pairs(seed: u64) -> (Sim, [Host; 4]) {
    let mut sim = Sim::new(seed);
    let serve = |reactor: &Reactor| reactor.listen("tcp:80", || Echo).map(drop);
    let a = sim.host("a", serve);
    let b = sim.host("b", |reactor| {
        keep_talking(reactor, "tcp:a:80");
        Ok(())
    });
    let c = sim.host("c", serve);
    let d = sim.host("d", |reactor| {
        keep_talking(reactor, "tcp:c:80");
        Ok(())
    });
    sim.set_default_link(
        Link::constant(Duration::ZERO)
            .latency(Latency::LongTail { usual: ms(10), most: s(1) })
            .cut(Cut::Random(500)),
    );
    sim.keep_trace();
    (sim, [a, b, c, d])
}

/// The trace lines of these hosts.
fn lines_of(sim: &Sim, hosts: &[Host]) -> Vec<String> {
    let names: Vec<String> = hosts.iter().map(|host| sim.name(*host)).collect();
    let trace = sim.trace();
    assert!(!trace.starts_with("..."), "no line is missing");
    let is_theirs = |line: &&str| {
        let host = line.split_whitespace().nth(1);
        host.is_some_and(|host| names.iter().any(|name| name == host))
    };
    trace.lines().filter(is_theirs).map(str::to_owned).collect()
}

/// Every kind of fault, on the first pair only.
fn faults(a: Host, b: Host) -> Vec<Fault> {
    vec![
        Fault::Partition(a, b),
        Fault::OneWay(b, a),
        Fault::BlackHole(a),
        Fault::Delay(b, ms(300)),
        Fault::Throttle(a, 2000),
        Fault::Reset(a, 1),
        Fault::Refuse(a),
        Fault::FullQueue(a),
        Fault::Crash(b),
        Fault::Kill(a),
        Fault::Pause(b),
        Fault::ClockForward(b, s(60)),
        Fault::ClockBack(a, s(60)),
        Fault::NoDescriptors(b),
        Fault::SlowReader(a, 500),
        Fault::SlowNames(b, s(2)),
        Fault::NoNames(b),
        Fault::Rename(a, b),
        Fault::SlowJobs(a, s(2)),
        Fault::Loss(a, 500),
    ]
}

#[test]
fn a_fault_changes_nothing_for_hosts_it_does_not_touch() {
    let (mut without, [a, b, c, d]) = two_pairs(11);
    without.run_for(s(60)).unwrap();
    let (touched, calm) = (lines_of(&without, &[a, b]), lines_of(&without, &[c, d]));
    assert!(calm.len() > 200, "{}", calm.len());
    for fault in faults(a, b) {
        let (mut sim, _) = two_pairs(11);
        sim.fault(s(21), s(10), fault.clone());
        sim.run_for(s(60)).unwrap();
        assert_eq!(lines_of(&sim, &[c, d]), calm, "{fault:?}");
        // These programs use no time of day, no jobs and no datagrams.
        let quiet = [Fault::ClockBack(a, s(60)), Fault::SlowJobs(a, s(2)), Fault::Loss(a, 500)];
        let has_an_effect = lines_of(&sim, &[a, b]) != touched;
        assert_eq!(has_an_effect, !quiet.contains(&fault), "{fault:?}");
    }
}

#[test]
fn a_fault_changes_nothing_before_it_begins() {
    let (mut calm, [a, b, ..]) = two_pairs(12);
    calm.run_for(s(20)).unwrap();
    for fault in faults(a, b) {
        let (mut sim, _) = two_pairs(12);
        sim.fault(s(20) + ms(1), s(10), fault.clone());
        sim.run_for(s(20)).unwrap();
        assert_eq!(sim.hash(), calm.hash(), "{fault:?}");
    }
}

#[test]
fn which_connections_a_reset_hits_depends_on_no_other_fault() {
    let reset = |others: &[Fault]| {
        let mut sim = Sim::new(5);
        let (a, b) = (sim.bare_host("a"), sim.bare_host("b"));
        let port = sim.listen(b, sim.at(b, 80), 200).unwrap();
        for fault in others {
            sim.fault(s(1), s(1), fault.clone());
        }
        sim.fault(s(5), s(0), Fault::Reset(a, 2));
        sim.run_for(s(3)).unwrap();
        let sockets: Vec<_> = (0..100).map(|_| sim.socket(a, port.address()).unwrap()).collect();
        sim.run_for(s(3)).unwrap();
        sockets.iter().map(|socket| socket.error().is_some()).collect::<Vec<_>>()
    };
    let (_, [a, b, ..]) = two_pairs(5);
    let alone = reset(&[]);
    assert!(alone.contains(&true) && alone.contains(&false));
    assert_eq!(reset(&[Fault::Delay(b, ms(1)), Fault::Partition(a, b)]), alone);
}

/// The faults that the weather draws for three hosts and 100 s.
fn drawn(seed: u64, weather: Weather) -> Vec<Planned> {
    let faults = RefCell::default();
    let report = Trial::new(seed, weather).run(&|sim| {
        for name in ["a", "b", "c"] {
            sim.bare_host(name);
        }
        sim.draw_faults(s(100));
        faults.replace(sim.faults());
        sim.run_for(s(200))?;
        assert_eq!(sim.faults(), *faults.borrow(), "none is drawn later");
        Ok(())
    });
    assert_eq!(report.failure, None);
    faults.into_inner()
}

#[test]
fn the_weather_draws_its_faults_only_from_the_seed_before_the_run() {
    let mut kinds = BTreeSet::new();
    for seed in 0..300 {
        let faults = drawn(seed, Weather::Storm);
        assert!((2..=16).contains(&faults.len()), "{faults:?}");
        assert!(faults.iter().all(|fault| fault.ends().is_some_and(|end| end <= s(100))));
        let names = faults.iter().map(|fault| format!("{:?}", fault.fault));
        kinds.extend(names.map(|text| text.split('(').next().unwrap_or_default().to_owned()));
    }
    assert_eq!(kinds.len(), 17, "{kinds:?}");
    assert_eq!(drawn(7, Weather::Storm), drawn(7, Weather::Storm));
    assert_ne!(drawn(7, Weather::Storm), drawn(8, Weather::Storm));
    assert!(drawn(7, Weather::Breezy).len() <= 4);
    assert_eq!(drawn(7, Weather::Calm), []);
}

#[test]
fn faults_that_are_drawn_later_begin_after_that() {
    let scenario = |sim: &mut Sim| {
        sim.host("a", |_| Ok(()));
        sim.host("b", |_| Ok(()));
        sim.draw_faults(s(10));
        sim.run_for(s(100))?;
        let before = sim.faults().len();
        sim.draw_faults(s(50));
        let later = sim.faults().split_off(before);
        assert!(!later.is_empty(), "a storm has some");
        for fault in later {
            let ends_in_time = fault.ends().is_some_and(|end| end <= s(150));
            assert!(fault.at >= s(100) && ends_in_time, "{fault:?}");
        }
        Ok(())
    };
    for seed in 0..20 {
        assert_eq!(Trial::new(seed, Weather::Storm).run(&scenario).failure, None);
    }
}

#[test]
fn each_draw_of_a_world_draws_other_faults() {
    let scenario = |sim: &mut Sim| {
        sim.bare_host("a");
        sim.bare_host("b");
        // At the same time, and for the same span.
        let mut draws = Vec::new();
        for _ in 0..3 {
            let before = sim.faults().len();
            sim.draw_faults(s(10));
            draws.push(sim.faults().split_off(before));
        }
        assert!(draws.iter().all(|drawn| !drawn.is_empty()), "a storm has some");
        for (first, second) in [(0, 1), (1, 2), (0, 2)] {
            assert_ne!(draws[first], draws[second], "{first}, {second}");
        }
        sim.run_for(s(20))
    };
    for seed in 0..20 {
        assert_eq!(Trial::new(seed, Weather::Storm).run(&scenario).failure, None);
    }
}
