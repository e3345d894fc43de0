//! Ten thousand devices that send every 90 seconds, and a server that disconnects devices after 180
//! seconds of silence, and no others.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use couplet::sim::{Notes, Sim};
use couplet::transport::Timeout;
use couplet::{Address, Protocol, Reason, Transport};

const DEVICES: u32 = 10_000;
const SPEAKS: Duration = Duration::from_secs(90);
const SILENCE: Duration = Duration::from_secs(180);
/// How often the world is checked.
const STEP: Duration = Duration::from_secs(10);
/// After each message a device falls silent with a chance of one in this many.
const MUTE_ONE_IN: u64 = 200;

/// Observations of the server's host.
#[derive(Default)]
struct DeviceStats {
    connected: Cell<u32>,
    dropped: Cell<u64>,
    /// The world's time.
    now: Cell<Duration>,
    /// Silent devices that are still connected, by address, with the start of their silence.
    silent: RefCell<BTreeMap<String, Duration>>,
}

struct Server {
    seen: Rc<DeviceStats>,
    notes: Notes,
}

impl Protocol for Server {
    fn connection_made(&mut self, transport: &Transport) {
        self.seen.connected.set(self.seen.connected.get() + 1);
        transport.set_timeout(Timeout::Idle, Some(SILENCE));
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {}

    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        self.seen.connected.set(self.seen.connected.get() - 1);
        if matches!(reason, Reason::Timeout) {
            self.seen.dropped.set(self.seen.dropped.get() + 1);
            let peer = transport.peer().to_string();
            if self.seen.silent.borrow_mut().remove(&peer).is_none() {
                self.notes.fail(format!("{peer} was dropped although it was not silent"));
            }
        }
    }
}

/// Sends until it falls silent; reconnects after it was disconnected.
struct Device {
    seen: Rc<DeviceStats>,
    draw: u64,
}

impl Device {
    fn speak(&mut self, transport: &Transport) {
        self.draw = self.draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        transport.write("here I am");
        if (self.draw >> 33).is_multiple_of(MUTE_ONE_IN) {
            let host = transport.host().to_string();
            self.seen.silent.borrow_mut().insert(host, self.seen.now.get());
            return;
        }
        transport.connection::<Device>().call_later(SPEAKS, Device::speak);
    }
}

impl Protocol for Device {
    fn connection_made(&mut self, transport: &Transport) {
        self.speak(transport);
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {}

    fn connection_lost(&mut self, transport: &Transport, _: &Reason) {
        let reactor = transport.reactor().clone();
        if !reactor.is_stopping() {
            let (seen, draw) = (self.seen.clone(), self.draw);
            let again = reactor.clone();
            reactor.call_later(Duration::from_secs(1), move || connect(&again, seen, draw));
        }
    }
}

fn connect(reactor: &couplet::Reactor, seen: Rc<DeviceStats>, draw: u64) {
    let (inner, later) = (reactor.clone(), seen.clone());
    let device = move |_: &Address| Some(Device { seen: seen.clone(), draw });
    let connecting = reactor.connect("tcp:server:9000", device).add_errback(move |failure| {
        // The backlog is full, or the connect timed out.
        if !inner.is_stopping() {
            let again = inner.clone();
            inner.call_later(Duration::from_secs(10), move || connect(&again, later, draw));
        }
        Err(failure)
    });
    connecting.add_both(|_| Ok(())).detach();
}

/// Runs the world for `time` of virtual time.
pub(super) fn run(sim: &mut Sim, time: Duration) -> couplet::Result<()> {
    run_with(sim, DEVICES, time)
}

fn run_with(sim: &mut Sim, devices: u32, time: Duration) -> couplet::Result<()> {
    // The requested time is the only limit.
    sim.set_event_limit(None);
    sim.set_real_time_limit(None);
    let seen: Rc<DeviceStats> = Rc::default();
    let (shared, notes) = (seen.clone(), sim.notes());
    sim.host("server", move |reactor| {
        let (seen, notes) = (shared.clone(), notes.clone());
        let options = couplet::ListenOptions::default().backlog(1024);
        let any: std::net::SocketAddr = (std::net::Ipv6Addr::UNSPECIFIED, 9000).into();
        let make = move || Server { seen: seen.clone(), notes: notes.clone() };
        reactor.listen((any, options), make)?;
        Ok(())
    });
    for n in 0..devices {
        let seen = seen.clone();
        let draw = sim.seed().wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(u64::from(n) << 20);
        sim.host(&format!("device{n}"), move |reactor| {
            let (inner, seen) = (reactor.clone(), seen.clone());
            // Spread out, not all at the same moment.
            let at = Duration::from_millis(u64::from(n) * 9);
            reactor.call_later(at, move || connect(&inner, seen, draw));
            Ok(())
        });
    }
    while sim.elapsed() < time {
        sim.run_for(STEP)?;
        seen.now.set(sim.elapsed());
        let late = sim.elapsed().saturating_sub(SILENCE + STEP * 2);
        let late =
            seen.silent.borrow().iter().find(|(_, at)| **at < late).map(|(who, _)| who.clone());
        if let Some(who) = late {
            return sim
                .fail(format!("{who} is silent for longer than {SILENCE:?} and was not dropped"));
        }
    }
    let (connected, dropped) = (seen.connected.get(), seen.dropped.get());
    if time > SILENCE * 2 && (dropped == 0 || connected < devices / 10 * 9) {
        return sim.fail(format!("{connected} devices are connected, {dropped} were dropped"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use couplet::sim::{Trial, Weather};

    use super::*;

    #[test]
    fn devices_that_were_dropped_come_back() {
        // After an hour one device in five has been dropped.
        let world = |sim: &mut Sim| run_with(sim, 300, Duration::from_secs(3600));
        for seed in 1..4 {
            Trial::new(seed, Weather::Calm).examine(&world).unwrap();
        }
    }
}
