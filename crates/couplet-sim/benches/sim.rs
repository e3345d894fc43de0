//! Speed and memory of simulated worlds: events per second with chatty clients, and the memory of
//! 10 000 hosts.
//!
//! `cargo bench -p couplet-sim --bench sim`
#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::time::{Duration, Instant};

use couplet::sim::Sim;
use couplet::{Protocol, Transport};
use couplet_testkit_loops::doubles::Echo;

/// Sends 64 bytes, and echoes every byte that arrives.
struct Chatty;

impl Protocol for Chatty {
    fn connection_made(&mut self, transport: &Transport) {
        transport.write([0; 64]);
    }
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }
}

/// Sends a message every ten minutes.
struct Device;

impl Protocol for Device {
    fn connection_made(&mut self, transport: &Transport) {
        transport.write("here I am");
        let device = transport.connection::<Device>();
        device.call_later(Duration::from_secs(600), Device::connection_made);
    }
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

/// A server, and `clients` hosts with one connection each.
fn world<P: Protocol>(clients: u32, protocol: fn() -> P) -> Sim {
    let mut sim = Sim::new(1);
    sim.host("server", |reactor| {
        reactor.listen("tcp:8000", || Echo)?;
        Ok(())
    });
    for n in 0..clients {
        sim.host(&format!("client{n}"), move |reactor| {
            reactor.connect("tcp:server:8000", protocol).detach();
            Ok(())
        });
    }
    sim
}

fn main() {
    for clients in [1, 100, 1000] {
        let mut sim = world(clients, || Chatty);
        sim.run_for(Duration::from_millis(100)).expect("no invariant is violated");
        let (events, began) = (sim.events(), now());
        while began.elapsed() < Duration::from_secs(1) {
            sim.run_for(Duration::from_millis(20)).expect("no invariant is violated");
        }
        let events = sim.events() - events;
        let speed = events as f64 / began.elapsed().as_secs_f64() / 1e6;
        println!("{clients:>6} chatty clients: {speed:.2} million events per second");
    }
    let (before, began) = (resident(), now());
    let mut sim = world(10_000, || Device);
    sim.run_for(Duration::from_secs(3600)).expect("no invariant is violated");
    let events = sim.events();
    println!(
        " 10000 devices: an hour in {:.2} s, {events} events, {} MiB",
        began.elapsed().as_secs_f64(),
        resident().saturating_sub(before) / 1024
    );
}

fn now() -> Instant {
    Instant::now()
}

/// Resident memory of this process in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
