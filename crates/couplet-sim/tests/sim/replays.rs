//! The same seed gives the same trace, byte for byte, in this process and in another; randomness
//! from outside the simulation is detected.

use std::net::{Ipv4Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use couplet::sim::{Sim, Trial, Weather, check_determined};
use couplet::transport::Timeout;
use couplet::{
    Datagram, DatagramEndpoint, DatagramProtocol, DatagramTransport, Protocol, Result, Transport,
    hooks,
};
use couplet_testkit_loops::doubles::Echo;

use super::kit::{ms, s};

struct Counts(u32);

impl Protocol for Counts {
    fn connection_made(&mut self, transport: &Transport) {
        transport.set_timeout(Timeout::Idle, Some(s(3)));
        self.count(transport);
    }
    fn data_received(&mut self, transport: &Transport, _: &[u8]) {
        if self.0 > 50 {
            transport.lose_connection();
        }
    }
}

impl Counts {
    fn count(&mut self, transport: &Transport) {
        self.0 += 1;
        transport.write(vec![self.0 as u8; self.0 as usize * 100]);
        let pause = ms(50 + hooks::random(transport.reactor()) % 100);
        transport.connection::<Self>().call_later(pause, Self::count);
    }
}

/// Names, jobs, timers, tasks, datagrams and connections, in bad weather.
fn everything(sim: &mut Sim) -> Result<()> {
    sim.host("server", |reactor| reactor.listen("tcp:80", || Echo).map(drop));
    for name in ["one", "two"] {
        sim.host(name, |reactor| {
            let inner = reactor.clone();
            let task = reactor.spawn(async move {
                loop {
                    if let Ok(talk) = inner.connect("tcp:server:80", || Counts(0)).await {
                        inner.sleep(s(4)).await?;
                        talk.transport().lose_connection();
                    }
                    inner.defer_to_thread(|| Ok(1)).await?;
                    inner.sleep(ms(hooks::random(&inner) % 1000)).await?;
                }
            });
            task.add_both(|_: Result<()>| Ok(())).detach();
            Ok(())
        });
    }
    sim.draw_faults(s(40));
    sim.run_for(s(60))
}

fn trace_of(seed: u64) -> String {
    let report = Trial::new(seed, Weather::Storm).whole_trace().run(&everything);
    assert_eq!(report.failure, None);
    format!("{:016x} {}\n{}", report.hash, report.events, report.trace.join("\n"))
}

#[test]
fn the_same_seed_gives_the_same_trace_in_another_process() {
    assert!(trace_of(1).lines().count() > 300);
    check_determined([1, 2], Weather::Storm, everything);
}

#[test]
fn each_check_of_one_place_is_compared_with_its_own_run_in_the_other_process() {
    for seed in [1, 2] {
        check_determined([seed], Weather::Calm, |sim| noting(sim, String::new));
    }
}

/// The difference that the check reports between two runs of this world.
fn difference(world: impl Fn(&mut Sim) -> Result<()> + Sync) -> String {
    let check = || check_determined([5], Weather::Calm, world);
    let outcome = catch_unwind(AssertUnwindSafe(check));
    *outcome.expect_err("it is found").downcast::<String>().unwrap()
}

/// A world whose program notes `says` a second after its start.
fn noting(sim: &mut Sim, says: fn() -> String) -> Result<()> {
    let notes = sim.notes();
    sim.host("host", move |reactor| {
        let notes = notes.clone();
        reactor.call_later(s(1), move || {
            notes.note("the same in each run");
            notes.note(says());
        });
        Ok(())
    });
    sim.run_for(s(2))
}

#[test]
fn a_difference_between_processes_is_found() {
    let text = difference(|sim| noting(sim, || format!("process {}", std::process::id())));
    assert!(text.starts_with("seed 5, weather calm: the runs of two processes differ"), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    let [.., same, first, second] = lines[..] else { panic!("{text}") };
    assert!(same.ends_with("note: the same in each run"), "{text}");
    let ours =
        format!("  first:       1.000000000            note: process {}", std::process::id());
    assert!(first == ours && second.contains(" note: process "), "{text}");
}

#[test]
fn a_static_counter_is_found() {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let says = || format!("run {}", RUNS.fetch_add(1, Ordering::Relaxed));
    let text = difference(move |sim| noting(sim, says));
    assert!(text.contains("two runs differ"), "{text}");
    assert!(text.contains("note: run 0\n  second: ") && text.ends_with("note: run 1"), "{text}");
}

#[test]
fn another_seed_gives_a_different_trace() {
    assert_ne!(trace_of(1), trace_of(2));
}

#[test]
#[expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "the test is about it")]
fn a_program_that_iterates_over_a_hash_map_is_detected() {
    let walks = |sim: &mut Sim| {
        let notes = sim.notes();
        sim.host("walker", move |reactor| {
            let notes = notes.clone();
            reactor.call_later(s(1), move || {
                notes.note("the same in each run");
                let map: std::collections::HashMap<u32, ()> = (0..100).map(|n| (n, ())).collect();
                let order: Vec<String> = map.keys().map(u32::to_string).collect();
                notes.note(order.join(" "));
            });
            Ok(())
        });
        sim.run_for(s(2))
    };
    let trial = Trial::new(5, Weather::Calm);
    let text = trial.compare(&trial.run(&walks), &walks).unwrap_err();
    assert!(text.starts_with("seed 5, weather calm: two runs differ"), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    let [.., same, first, second] = lines[..] else { panic!("{text}") };
    assert!(same.starts_with("  both: ") && same.ends_with("the same in each run"), "{text}");
    assert!(first.starts_with("  first: ") && second.starts_with("  second: "), "{text}");
    assert_ne!(first.split_once("note"), second.split_once("note"));
}

/// Answers each datagram with the system's time.
struct Clock;

impl DatagramProtocol for Clock {
    #[expect(clippy::disallowed_methods, reason = "the test is about it")]
    fn datagram_received(&mut self, transport: &DatagramTransport, asked: &Datagram<'_>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
        let sent = transport.send_to(now.as_nanos().to_be_bytes(), asked.from.clone());
        sent.expect("there is room");
    }
}

/// Asks for the time after a second.
struct Asks;

impl DatagramProtocol for Asks {
    fn start_protocol(&mut self, transport: &DatagramTransport) {
        transport.port::<Self>().call_later(s(1), |_, transport| {
            transport.send("what time is it?").expect("there is room");
        });
    }
    fn datagram_received(&mut self, _: &DatagramTransport, _: &Datagram<'_>) {}
}

#[test]
fn a_world_of_datagrams_that_reads_the_real_clock_is_located() {
    let text = difference(|sim| {
        let clock = sim.host("clock", |reactor| {
            reactor.listen_datagrams(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 37)), Clock)?;
            Ok(())
        });
        let at = sim.at(clock, 37);
        sim.host("asks", move |reactor| {
            reactor.listen_datagrams(DatagramEndpoint::to(at), Asks)?;
            Ok(())
        });
        sim.run_for(s(2))
    });
    let lines: Vec<&str> = text.lines().collect();
    let [.., same, first, second] = lines[..] else { panic!("{text}") };
    assert!(same.contains(" clock ") && same.contains(" asks~1 datagram_received 16 "), "{text}");
    for line in [first, second] {
        assert!(line.contains("     1.00") && line.contains(" clock "), "{text}");
        assert!(line.contains(" clock~1 sends 16 bytes "), "{text}");
    }
}
