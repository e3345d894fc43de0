//! [`Fault`]s, planned by a program or drawn by a [`Weather`] before the run.

use std::fmt::Write;
use std::time::Duration;

use couplet_core::driver::memory::Cut;

use super::Host;
use super::random::{Latency, Purpose, RandomStream, nanos};

/// A fault that lasts for some time, or happens at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// No packet passes between the two. Streams retransmit like TCP and give up after about 15
    /// minutes.
    Partition(Host, Host),
    /// No packet passes from the first to the second; the other direction works.
    OneWay(Host, Host),
    /// No packet passes to or from this host.
    BlackHole(Host),
    /// Adds this delay to each packet to or from this host.
    Delay(Host, Duration),
    /// This host sends at most this many bytes per second.
    Throttle(Host, u64),
    /// Resets one in this many of the host's connections, chosen at random, at both ends.
    /// Instantaneous.
    Reset(Host, u32),
    /// Connects to this host are refused.
    Refuse(Host),
    /// The accept queues of this host's ports are full: connects to it wait.
    FullQueue(Host),
    /// This host loses power, without notice to its peers; once restarted, it answers their
    /// packets with resets. The program restarts when the fault ends.
    Crash(Host),
    /// This host's program is killed. The system closes the program's sockets (with a reset where
    /// [requested](couplet_core::SocketOption::ResetUnlessClosed)), and the program restarts
    /// when the fault ends.
    Kill(Host),
    /// Another instance of this host's program takes over. Connections continue in it if their
    /// protocols [hand them over](couplet_core::ProtocolExtension::hand_over) and the host
    /// [takes them over](super::Sim::take_over). The others end with the program, which stops as by
    /// [`Reactor::stop`](couplet_core::Reactor::stop); then the next one starts. Ports stay open: connects wait
    /// for the next program to listen on the same address. Instantaneous; nothing happens to a host
    /// whose program does not run.
    Restart(Host),
    /// This host's program gets no CPU time; its system keeps running.
    Pause(Host),
    /// This host's clocks jump forward by this much, as after a suspend. Instantaneous.
    ClockForward(Host, Duration),
    /// This host's time of day jumps back by this much. Instantaneous.
    ClockBack(Host, Duration),
    /// This host has no descriptors left for new connections or ports.
    NoDescriptors(Host),
    /// This host's program reads at most this many bytes per second from each connection.
    SlowReader(Host, u64),
    /// Name lookups take this much longer on this host.
    SlowNames(Host, Duration),
    /// Name lookups fail on this host.
    NoNames(Host),
    /// The first host's name now resolves to the second host. Instantaneous and permanent.
    Rename(Host, Host),
    /// Blocking jobs take this much longer on this host.
    SlowJobs(Host, Duration),
    /// This many of 1000 datagrams to or from this host are lost.
    Loss(Host, u16),
}

impl Fault {
    /// The fault is instantaneous: it has no duration.
    pub(super) fn is_instantaneous(&self) -> bool {
        matches!(
            self,
            Fault::Reset(..)
                | Fault::Restart(..)
                | Fault::ClockForward(..)
                | Fault::ClockBack(..)
                | Fault::Rename(..)
        )
    }

    /// The host whose program the fault ends; the program restarts when the fault does.
    pub(super) fn ended_host(&self) -> Option<Host> {
        match self {
            Fault::Crash(host) | Fault::Kill(host) => Some(*host),
            _ => None,
        }
    }

    pub(super) fn describe(&self, names: &[String]) -> String {
        let of = |host: &Host| names.get(host.0 as usize).map_or("?", |name| name);
        match self {
            Fault::Partition(a, b) => {
                format!("{} and {} are cut off from each other", of(a), of(b))
            }
            Fault::OneWay(a, b) => format!("no packet passes from {} to {}", of(a), of(b)),
            Fault::BlackHole(h) => format!("no packet passes to or from {}", of(h)),
            Fault::Delay(h, by) => format!("packets to and from {} take {by:?} longer", of(h)),
            Fault::Throttle(h, n) => format!("{} sends {n} bytes a second", of(h)),
            Fault::Reset(h, n) => format!("one in {n} connections of {} is reset", of(h)),
            Fault::Refuse(h) => format!("{} refuses connects", of(h)),
            Fault::FullQueue(h) => format!("the queues of {} are full", of(h)),
            Fault::Crash(h) => format!("{} crashes", of(h)),
            Fault::Kill(h) => format!("{} is killed", of(h)),
            Fault::Restart(h) => format!("{} restarts", of(h)),
            Fault::Pause(h) => format!("{} is paused", of(h)),
            Fault::ClockForward(h, by) => format!("the clocks of {} go forward by {by:?}", of(h)),
            Fault::ClockBack(h, by) => format!("the time of day of {} goes back by {by:?}", of(h)),
            Fault::NoDescriptors(h) => format!("{} has no descriptors left", of(h)),
            Fault::SlowReader(h, n) => format!("{} reads {n} bytes a second", of(h)),
            Fault::SlowNames(h, by) => format!("lookups of {} take {by:?} longer", of(h)),
            Fault::NoNames(h) => format!("lookups of {} fail", of(h)),
            Fault::Rename(a, b) => format!("the name {} resolves to {}", of(a), of(b)),
            Fault::SlowJobs(h, by) => format!("jobs of {} take {by:?} longer", of(h)),
            Fault::Loss(h, n) => format!("{} loses {n} in 1000 datagrams", of(h)),
        }
    }
}

/// A fault with its start and duration.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Planned {
    /// Start of the fault, as time since the start of the world.
    pub at: Duration,
    /// Duration of the fault; [`Duration::MAX`] for the rest of the run.
    pub lasts: Duration,
    /// The fault.
    pub fault: Fault,
}

impl Planned {
    /// End of the fault; `None` if it lasts for the rest of the run.
    pub fn ends(&self) -> Option<Duration> {
        if self.fault.is_instantaneous() {
            return Some(self.at);
        }
        self.at.checked_add(self.lasts).filter(|_| self.lasts != Duration::MAX)
    }

    pub(super) fn describe(&self, names: &[String]) -> String {
        let mut text = format!("at {:?} ", self.at);
        text += &self.fault.describe(names);
        if !self.fault.is_instantaneous() {
            // Writing to a String cannot fail.
            let _ = match self.lasts {
                Duration::MAX => write!(text, ", permanently"),
                lasts => write!(text, ", for {lasts:?}"),
            };
        }
        text
    }
}

/// How the network and the hosts behave: which faults are drawn, and the default link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Weather {
    /// No faults. Latency is a constant 1 ms.
    #[default]
    Calm,
    /// Latencies of 1 to 30 ms, streams cut anywhere, and the occasional network fault.
    Breezy,
    /// Long-tailed latencies, streams cut small, lossy datagrams, and nearly every kind of fault,
    /// crashes included. ([`Restart`](Fault::Restart), [`Rename`](Fault::Rename),
    /// [`SlowJobs`](Fault::SlowJobs) and [`Loss`](Fault::Loss) are never drawn, only added by hand.)
    Storm,
}

impl std::str::FromStr for Weather {
    type Err = String;

    fn from_str(text: &str) -> Result<Weather, String> {
        match text {
            "calm" => Ok(Weather::Calm),
            "breezy" => Ok(Weather::Breezy),
            "storm" => Ok(Weather::Storm),
            _ => Err(format!("'{text}' is not calm, breezy or storm")),
        }
    }
}

impl std::fmt::Display for Weather {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Weather::Calm => "calm",
            Weather::Breezy => "breezy",
            Weather::Storm => "storm",
        })
    }
}

/// The properties of the path from one host to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Link {
    /// The one-way latency.
    pub latency: Latency,
    /// How streams are cut into packets, each of at most 64 KiB.
    pub cut: Cut,
    /// How many of 1000 datagrams are lost.
    pub loss: u16,
    /// How many of 1000 datagrams arrive twice.
    pub duplicates: u16,
    /// How many of 1000 datagrams are delayed by a second latency draw, so that later ones can
    /// overtake them. Without this, datagrams arrive in order.
    pub reordered: u16,
    /// How many of 1000 datagrams are truncated.
    pub truncated: u16,
    /// The MTU in bytes, including 28 bytes of headers. A longer datagram is fragmented, and lost
    /// if any fragment is. 1500 by default.
    pub mtu: usize,
}

impl Link {
    /// A reliable link with this constant latency.
    pub const fn constant(latency: Duration) -> Link {
        Link {
            latency: Latency::Constant(latency),
            cut: Cut::Whole,
            loss: 0,
            duplicates: 0,
            reordered: 0,
            truncated: 0,
            mtu: 1500,
        }
    }

    /// Sets the latency.
    #[must_use]
    pub const fn latency(mut self, latency: Latency) -> Link {
        self.latency = latency;
        self
    }

    /// Sets how streams are cut.
    #[must_use]
    pub const fn cut(mut self, cut: Cut) -> Link {
        self.cut = cut;
        self
    }

    /// Sets how many of 1000 datagrams are lost.
    #[must_use]
    pub const fn loss(mut self, loss: u16) -> Link {
        self.loss = loss;
        self
    }

    /// Sets how many of 1000 datagrams arrive twice.
    #[must_use]
    pub const fn duplicates(mut self, duplicates: u16) -> Link {
        self.duplicates = duplicates;
        self
    }

    /// Sets how many of 1000 datagrams are reordered.
    #[must_use]
    pub const fn reordered(mut self, reordered: u16) -> Link {
        self.reordered = reordered;
        self
    }

    /// Sets the MTU, in bytes.
    #[must_use]
    pub const fn mtu(mut self, bytes: usize) -> Link {
        self.mtu = bytes;
        self
    }

    /// Sets how many of 1000 datagrams are truncated.
    #[must_use]
    pub const fn truncated(mut self, truncated: u16) -> Link {
        self.truncated = truncated;
        self
    }
}

impl Weather {
    /// The default link of a world with this seed.
    pub(super) fn link(self, seed: u64) -> Link {
        let mut draw = RandomStream::new(seed, Purpose::Weather, &[0]);
        let ms = Duration::from_millis;
        let calm = Link::constant(ms(1));
        match self {
            Weather::Calm => calm,
            Weather::Breezy => Link {
                latency: Latency::Uniform(ms(1), ms(30)),
                cut: Cut::Random(8 * 1024),
                loss: 5,
                duplicates: 2,
                reordered: 10,
                ..calm
            },
            Weather::Storm => Link {
                latency: Latency::LongTail { usual: ms(draw.between(1, 50)), most: ms(3000) },
                cut: Cut::Random(1 << draw.between(3, 14)),
                loss: 50,
                duplicates: 20,
                reordered: 100,
                truncated: 10,
                ..calm
            },
        }
    }

    /// The faults of a world with this seed, each drawn from its own PRNG stream. All of them begin
    /// and end `within` this time.
    pub(super) fn draw(
        self,
        seed: u64,
        hosts: &[Host],
        all: u32,
        within: Duration,
        nth: u64,
    ) -> Vec<Planned> {
        let mut draw = RandomStream::new(seed, Purpose::Weather, &[1, nth]);
        let count = match self {
            Weather::Calm => 0,
            Weather::Breezy => draw.between(0, 4),
            Weather::Storm => draw.between(2, 16),
        };
        if hosts.is_empty() {
            return Vec::new();
        }
        let mut planned: Vec<Planned> = (0..count)
            .map(|n| {
                let mut draw = RandomStream::new(seed, Purpose::Weather, &[2, nth, n]);
                self.one(&mut draw, hosts, all, nanos(within))
            })
            .collect();
        planned.sort_by_key(|planned| planned.at);
        planned
    }

    fn one(self, draw: &mut RandomStream, hosts: &[Host], all: u32, within: u64) -> Planned {
        let at = draw.below(within);
        // Mostly short, sometimes long.
        let reach = (within - at) >> draw.below(6);
        let lasts = draw.between(reach / 4, reach);
        let host = hosts[draw.below(hosts.len() as u64) as usize];
        let other = Host((host.0 + 1 + draw.below(u64::from(all).max(2) - 1) as u32) % all);
        let time =
            |draw: &mut RandomStream, most: u64| Duration::from_nanos(draw.below(most * 1_000_000));
        let kinds = if self == Weather::Storm { 19 } else { 7 };
        let fault = match draw.below(kinds) {
            0 => Fault::Partition(host, other),
            1 => Fault::OneWay(host, other),
            2 => Fault::Delay(host, time(draw, 500)),
            3 => Fault::Throttle(host, 1 << draw.between(9, 17)),
            4 => Fault::Reset(host, 1 + draw.below(4) as u32),
            5 => Fault::SlowNames(host, time(draw, 5_000)),
            6 => Fault::SlowReader(host, 1 << draw.between(8, 16)),
            7 => Fault::BlackHole(host),
            8 => Fault::Refuse(host),
            9 => Fault::FullQueue(host),
            10 | 11 => Fault::Crash(host),
            12 | 13 => Fault::Kill(host),
            14 => Fault::Pause(host),
            15 => Fault::ClockForward(host, time(draw, 60_000)),
            16 => Fault::ClockBack(host, time(draw, 60_000)),
            17 => Fault::NoDescriptors(host),
            _ => Fault::NoNames(host),
        };
        Planned { at: Duration::from_nanos(at), lasts: Duration::from_nanos(lasts), fault }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_has_its_description() {
        let (a, b) = (Host(0), Host(1));
        let (ms, names) = (Duration::from_millis(5), ["a".to_owned(), "b".to_owned()]);
        let described = [
            (Fault::Partition(a, b), "a and b are cut off from each other"),
            (Fault::OneWay(a, b), "no packet passes from a to b"),
            (Fault::BlackHole(a), "no packet passes to or from a"),
            (Fault::Delay(a, ms), "packets to and from a take 5ms longer"),
            (Fault::Throttle(a, 7), "a sends 7 bytes a second"),
            (Fault::Reset(a, 3), "one in 3 connections of a is reset"),
            (Fault::Refuse(a), "a refuses connects"),
            (Fault::FullQueue(a), "the queues of a are full"),
            (Fault::Crash(a), "a crashes"),
            (Fault::Kill(a), "a is killed"),
            (Fault::Restart(a), "a restarts"),
            (Fault::Pause(a), "a is paused"),
            (Fault::ClockForward(a, ms), "the clocks of a go forward by 5ms"),
            (Fault::ClockBack(a, ms), "the time of day of a goes back by 5ms"),
            (Fault::NoDescriptors(a), "a has no descriptors left"),
            (Fault::SlowReader(a, 7), "a reads 7 bytes a second"),
            (Fault::SlowNames(a, ms), "lookups of a take 5ms longer"),
            (Fault::NoNames(a), "lookups of a fail"),
            (Fault::Rename(a, b), "the name a resolves to b"),
            (Fault::SlowJobs(a, ms), "jobs of a take 5ms longer"),
            (Fault::Loss(b, 9), "b loses 9 in 1000 datagrams"),
        ];
        let at = Duration::from_secs(1);
        for (fault, text) in described {
            assert_eq!(fault.describe(&names), text);
            let lasting = |lasts, for_how_long: &str| {
                let is_moment = fault.is_instantaneous();
                let end = if is_moment { "" } else { for_how_long };
                let planned = Planned { at, lasts, fault: fault.clone() };
                assert_eq!(planned.describe(&names), format!("at 1s {text}{end}"));
                let ends = planned.ends();
                let until = if is_moment { Some(at) } else { at.checked_add(lasts) };
                assert_eq!(ends, until, "{text}");
            };
            lasting(ms, ", for 5ms");
            lasting(Duration::MAX, ", permanently");
        }
    }
}
