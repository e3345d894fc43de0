//! Meters that report by UDP to a collector, in a storm: no reading is lost or counted twice.
//!
//! A meter numbers its readings and repeats each one until the collector acknowledges it. The
//! collector counts a reading if it is the meter's next, and acknowledges a counted one again, in
//! case the first acknowledgement was lost. Both keep their numbers on disk, so they survive a
//! crash.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use couplet::sim::Sim;
use couplet::{Datagram, DatagramProtocol, DatagramTransport, DelayedCall};

const METERS: u32 = 20;
const READINGS: u32 = 30;
const PORT: u16 = 9000;
/// Interval between an acknowledgement and the meter's next reading.
const PACE: Duration = Duration::from_secs(1);
/// Interval between repeats of a reading.
const AGAIN: Duration = Duration::from_secs(3);
const STORM: Duration = Duration::from_secs(120);
/// Bounds the time for all readings, with 10 of them repeated, and the slowest packets of the
/// storm's links.
const PROMISED: Duration = Duration::from_secs(180);

/// A meter, and the number of a reading.
type Numbers = (u32, u32);

fn value(meter: u32, number: u32) -> u32 {
    meter * 1000 + number * 7
}

/// The collector's state on disk.
#[derive(Default)]
struct Ledger {
    /// The number of the next reading of each meter.
    next: BTreeMap<u32, u32>,
    counted: Vec<(Numbers, u32)>,
}

struct Collector {
    ledger: Rc<RefCell<Ledger>>,
}

impl DatagramProtocol for Collector {
    fn datagram_received(&mut self, transport: &DatagramTransport, datagram: &Datagram<'_>) {
        let Some([meter, number, value]) = words(datagram) else { return };
        let mut ledger = self.ledger.borrow_mut();
        let next = ledger.next.entry(meter).or_default();
        if number > *next {
            return;
        }
        if number == *next {
            *next += 1;
            ledger.counted.push(((meter, number), value));
        }
        // A full queue has the same effect as a lost datagram.
        transport.answer(datagram, bytes([meter, number])).ok();
    }
}

struct Meter {
    number: u32,
    collector: SocketAddr,
    /// Number of acknowledged readings, on disk.
    acknowledged: Rc<Cell<u32>>,
    timer: Option<DelayedCall>,
}

impl Meter {
    /// Sends the next reading, and repeats it until it is acknowledged.
    fn report(&mut self, transport: &DatagramTransport) {
        let reading = self.acknowledged.get();
        if reading < READINGS {
            let reading = [self.number, reading, value(self.number, reading)];
            transport.send_to(bytes(reading), self.collector).ok();
            self.report_after(AGAIN, transport);
        }
    }

    fn report_after(&mut self, delay: Duration, transport: &DatagramTransport) {
        let next = transport.port::<Meter>().call_later(delay, Meter::report);
        if let Some(last) = self.timer.replace(next) {
            last.cancel();
        }
    }
}

impl DatagramProtocol for Meter {
    fn start_protocol(&mut self, transport: &DatagramTransport) {
        self.report(transport);
    }

    fn datagram_received(&mut self, transport: &DatagramTransport, datagram: &Datagram<'_>) {
        let reading = self.acknowledged.get();
        if words(datagram) == Some([self.number, reading]) {
            self.acknowledged.set(reading + 1);
            self.report_after(PACE, transport);
        }
    }
}

fn bytes<const N: usize>(words: [u32; N]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// The words of a datagram, if it has exactly `N`.
fn words<const N: usize>(datagram: &Datagram<'_>) -> Option<[u32; N]> {
    let (words, rest) = datagram.data.as_chunks();
    let words: &[[u8; 4]; N] = words.try_into().ok()?;
    (rest.is_empty() && !datagram.cut).then(|| words.map(u32::from_be_bytes))
}

pub(super) fn run(sim: &mut Sim) -> couplet::Result<()> {
    let ledger: Rc<RefCell<Ledger>> = Rc::default();
    let kept = ledger.clone();
    let collector = sim.host("collector", move |reactor| {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
        reactor.listen_datagrams(any, Collector { ledger: kept.clone() })?;
        Ok(())
    });
    let collector = SocketAddr::new(sim.address(collector), PORT);
    let mut disks = Vec::new();
    for number in 0..METERS {
        let acknowledged: Rc<Cell<u32>> = Rc::default();
        disks.push(acknowledged.clone());
        sim.host(&format!("meter{number}"), move |reactor| {
            let acknowledged = acknowledged.clone();
            let meter = Meter { number, collector, acknowledged, timer: None };
            reactor.listen_datagrams(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), meter)?;
            Ok(())
        });
    }
    sim.draw_faults(STORM);
    sim.run_for(STORM)?;
    let done = sim.run_until(PROMISED, |_| disks.iter().all(|disk| disk.get() == READINGS))?;
    if !done {
        let late = disks.iter().position(|disk| disk.get() < READINGS).unwrap_or_default();
        let text = format!("meter{late} is not done {PROMISED:?} after the storm is over");
        return sim.fail(text);
    }
    let mut counted = ledger.take().counted;
    counted.sort_unstable();
    let all = (0..METERS).flat_map(|meter| (0..READINGS).map(move |number| (meter, number)));
    let all: Vec<_> = all.map(|(meter, number)| ((meter, number), value(meter, number))).collect();
    if counted != all {
        let text =
            format!("{} readings were counted, and not the {} sent", counted.len(), all.len());
        return sim.fail(text);
    }
    Ok(())
}
