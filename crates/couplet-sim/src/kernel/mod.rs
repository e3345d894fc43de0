//! The operating systems of all hosts and the network between them, in virtual time: one event
//! queue, and the effect of each event.
//!
//! Nothing here calls user code. The kernel behaves like Linux: a difference is a bug, and the tests in
//! `sim/parity` play the same scenes on both.

#[cfg(unix)]
mod children;
pub(super) mod datagrams;
mod hosts;
pub(super) mod stream;

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use couplet_core::driver::{Key, Ticket};
use couplet_core::hooks::Slots;
use couplet_core::layers::Pcap;

use super::Host;
use super::faults::{Fault, Link, Planned};
use super::random::{Latency, Purpose, RandomStream, fold_bytes, nanos};
use super::trace::{Label, Record, Trace, TraceEvent};
use super::trapped;
use super::wakers::WokenHosts;
#[cfg(unix)]
pub(super) use children::ChildOutcome;
pub(super) use hosts::{Extent, HostNotice, HostState, LastCallback, lookup_name};
use stream::{Buffers, Conn};

/// Identifies one end of a connection; the client is side 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EndId {
    pub(super) conn: Key,
    pub(super) side: u8,
}

impl EndId {
    fn other(self) -> EndId {
        EndId { side: 1 - self.side, ..self }
    }
}

/// A scheduled event, whose subject may no longer exist when it fires.
#[derive(Debug)]
pub(super) enum SimEvent {
    /// A host's loop turns.
    Turn(u32),
    /// The next packet from this end arrives at the other.
    Packet(EndId, u32),
    /// An acknowledgement arrives at this end.
    Ack(EndId, u32),
    /// A window update arrives at this end.
    WindowUpdate(EndId),
    /// This end sends a zero-window probe.
    WindowProbe(EndId),
    /// This end retransmits.
    Retransmit(EndId, u32),
    /// A reset arrives at this end.
    Reset(EndId),
    /// This end sends a keep-alive probe.
    KeepAlive(EndId),
    /// A slow reader may read again.
    SlowRead(EndId),
    /// A lookup completes.
    LookupDone(u32, u32, Ticket),
    /// A blocking job is due to run.
    Job(u32, u32, Ticket),
    FaultBegins(u32),
    FaultEnds(u32),
    /// The start of a program is retried.
    RetryStart(u32, u32),
    /// A datagram from the first host arrives at the second.
    Datagram(u32, u32, Box<datagrams::Datagram>),
    /// A child process starts running.
    #[cfg(unix)]
    StartChild(u32),
    /// A child process is killed.
    #[cfg(unix)]
    KillChild(u32, Extent),
}

impl SimEvent {
    /// Encodes the kind and subject of the event, for the trace hash.
    fn code(&self) -> u64 {
        let of = |what: u64, whose: u64| what << 56 ^ whose;
        let end = |id: &EndId| u64::from(id.conn.slot) << 1 | u64::from(id.side);
        match self {
            SimEvent::Turn(host) => of(1, u64::from(*host)),
            SimEvent::Packet(id, _) => of(2, end(id)),
            SimEvent::Ack(id, _) => of(3, end(id)),
            SimEvent::WindowUpdate(id) => of(4, end(id)),
            SimEvent::WindowProbe(id) => of(5, end(id)),
            SimEvent::Retransmit(id, _) => of(6, end(id)),
            SimEvent::Reset(id) => of(7, end(id)),
            SimEvent::KeepAlive(id) => of(8, end(id)),
            SimEvent::SlowRead(id) => of(9, end(id)),
            SimEvent::LookupDone(host, _, ticket) => of(10, u64::from(*host) << 32 ^ ticket.0),
            SimEvent::Job(host, _, ticket) => of(11, u64::from(*host) << 32 ^ ticket.0),
            SimEvent::FaultBegins(n) => of(12, u64::from(*n)),
            SimEvent::FaultEnds(n) => of(13, u64::from(*n)),
            SimEvent::RetryStart(host, _) => of(14, u64::from(*host)),
            SimEvent::Datagram(_, to, datagram) => {
                of(15, fold_bytes(u64::from(*to), &datagram.bytes) >> 8)
            }
            #[cfg(unix)]
            SimEvent::StartChild(host) => of(16, u64::from(*host)),
            #[cfg(unix)]
            SimEvent::KillChild(host, extent) => {
                of(17, u64::from(*host) << 1 | u64::from(*extent == Extent::Power))
            }
        }
    }
}

/// Whether a loop takes the input of a port or connection. While it is paused, the system holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Intake {
    Open,
    Paused,
}

impl Intake {
    pub(super) fn new(is_open: bool) -> Intake {
        if is_open { Intake::Open } else { Intake::Paused }
    }
}

/// The part of an event left to the world, because it calls user code.
pub(super) enum WorldAction {
    Turn(u32),
    Job(u32, Ticket, couplet_core::driver::Job),
    /// The program of this host has ended; the world drops it and these jobs.
    DropProgram(u32, Vec<couplet_core::driver::Job>),
    /// The program of this host starts.
    StartProgram(u32),
    /// The program of this host hands its connections to the next one.
    Restart(u32),
    Nothing,
}

/// The order of the first event that is not the beginning of a fault.
const AFTER_FAULTS: u64 = 1 << 32;

struct Scheduled {
    at: u64,
    /// Order at the same time: the number of a fault that begins, others from [`AFTER_FAULTS`] on.
    order: u64,
    event: SimEvent,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Scheduled) -> bool {
        self.order == other.order
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Scheduled) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Scheduled) -> Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// The current path between two hosts.
pub(super) struct Route {
    latency: Latency,
    /// Delay added by faults, in nanoseconds.
    detour: u64,
}

impl Route {
    /// Draws the delay of one trip, in nanoseconds.
    pub(super) fn draw_delay(&self, random: &mut RandomStream) -> u64 {
        self.latency.draw(random).saturating_add(self.detour)
    }
}

pub(super) struct Kernel {
    pub(super) seed: u64,
    /// Seed that shuffles simultaneous timed calls and woken tasks; `None` keeps them in the order
    /// of the requests.
    pub(super) shuffled: Option<u64>,
    /// Nanoseconds since the world began.
    pub(super) now: u64,
    /// The epoch of all hosts' clocks.
    pub(super) started: Instant,
    queue: BinaryHeap<Reverse<Scheduled>>,
    order: u64,
    /// Events processed so far.
    pub(super) events: u64,
    pub(super) hosts: Vec<HostState>,
    /// Number of loops created so far.
    loops: u32,
    /// Number of running programs.
    pub(super) running: u32,
    by_address: BTreeMap<IpAddr, u32>,
    /// Addresses by host name, the same on all hosts.
    pub(crate) names: BTreeMap<String, Vec<IpAddr>>,
    conns: Slots<Box<Conn>>,
    pub(super) link: Link,
    links: BTreeMap<(u32, u32), Link>,
    pub(super) faults: Vec<Planned>,
    /// Indexes of the lasting faults now in effect; `None` once all faults were ended.
    active: Option<Vec<u32>>,
    pub(super) trace: Trace,
    pub(super) broken: Option<String>,
    /// Replaces the system's entropy for code outside any host's turn.
    #[cfg_attr(not(feature = "trap"), allow(dead_code, reason = "read only with the feature"))]
    pub(super) entropy: RandomStream,
    /// Capture file for new connections.
    pub(super) capture: Option<Pcap>,
    /// Output of the TLS key log.
    pub(super) keys: Option<Box<dyn Write>>,
    pub(super) woken_hosts: Arc<WokenHosts>,
    /// Socket buffer sizes for new connections.
    pub(super) buffers: Buffers,
    /// Programs that other programs can start, by name.
    #[cfg(unix)]
    pub(super) programs: BTreeMap<String, super::processes::Main>,
    /// Hosts of child processes started in this event; the world takes them after it.
    #[cfg(unix)]
    pub(super) new_children: Vec<u32>,
}

impl Kernel {
    pub(super) fn new(seed: u64) -> Kernel {
        Kernel {
            seed,
            shuffled: None,
            now: 0,
            started: trapped::epoch(),
            queue: BinaryHeap::new(),
            order: AFTER_FAULTS,
            events: 0,
            hosts: Vec::new(),
            loops: 0,
            running: 0,
            by_address: BTreeMap::new(),
            names: BTreeMap::new(),
            conns: Slots::new(),
            link: Link::constant(Duration::from_millis(1)),
            links: BTreeMap::new(),
            faults: Vec::new(),
            active: Some(Vec::new()),
            trace: Trace::new(),
            broken: None,
            entropy: RandomStream::new(seed, Purpose::Entropy, &[]),
            capture: None,
            keys: None,
            woken_hosts: Arc::default(),
            buffers: Buffers { send: 128 * 1024, receive: 128 * 1024 },
            #[cfg(unix)]
            programs: BTreeMap::new(),
            #[cfg(unix)]
            new_children: Vec::new(),
        }
    }

    // Time.

    /// Schedules `event` after a delay in nanoseconds.
    pub(super) fn after(&mut self, delay: u64, event: SimEvent) {
        self.at(self.now.saturating_add(delay), event);
    }

    pub(super) fn at(&mut self, at: u64, event: SimEvent) {
        self.order += 1;
        self.queue.push(Reverse(Scheduled { at: at.max(self.now), order: self.order, event }));
    }

    pub(super) fn next_at(&self) -> Option<u64> {
        self.queue.peek().map(|Reverse(entry)| entry.at)
    }

    /// Advances to the next event and processes it, except for the calls into user code.
    pub(super) fn step(&mut self) -> WorldAction {
        let Some(Reverse(Scheduled { at, event, .. })) = self.queue.pop() else {
            return WorldAction::Nothing;
        };
        if at < self.now {
            self.violate("time went back");
        }
        self.now = at;
        self.events += 1;
        self.trace.step(at, event.code());
        match event {
            SimEvent::Turn(host) => return self.begin_turn(host),
            SimEvent::Packet(end, epoch) => self.deliver_next_packet(end, epoch),
            SimEvent::Ack(end, epoch) => self.receive_ack(end, epoch),
            SimEvent::WindowUpdate(end) => self.receive_window_update(end),
            SimEvent::WindowProbe(end) => self.send_window_probe(end),
            SimEvent::Retransmit(end, epoch) => self.retransmit(end, epoch),
            SimEvent::Reset(end) => self.receive_reset(end),
            SimEvent::KeepAlive(end) => self.check_keep_alive(end),
            SimEvent::SlowRead(end) => self.notify(end),
            SimEvent::LookupDone(host, boot, ticket) => self.finish_lookup(host, boot, ticket),
            SimEvent::Job(host, boot, ticket) => return self.take_due_job(host, boot, ticket),
            SimEvent::FaultBegins(n) => return self.fault_begins(n),
            SimEvent::FaultEnds(n) => return self.fault_ends(n),
            SimEvent::RetryStart(host, boot) => return self.retry_start(host, boot),
            SimEvent::Datagram(from, to, datagram) => self.deliver_datagram(from, to, *datagram),
            #[cfg(unix)]
            SimEvent::StartChild(host) => return self.start_child(host),
            #[cfg(unix)]
            SimEvent::KillChild(host, extent) => return self.kill_child(host, extent),
        }
        WorldAction::Nothing
    }

    /// Converts a host's clock reading to nanoseconds since the world began.
    pub(super) fn time_of(&self, host: u32, clock: Instant) -> u64 {
        let since = nanos(clock.saturating_duration_since(self.started));
        since.saturating_sub(self.hosts[host as usize].ahead)
    }

    /// The serial number of a new loop, part of its connections' ids.
    pub(super) fn next_loop(&mut self) -> u32 {
        self.loops += 1;
        self.loops
    }

    // The trace.

    pub(super) fn note(&mut self, host: impl Into<Option<u32>>, event: TraceEvent) {
        self.trace.add(Record { at: self.now, host: host.into(), event });
    }

    /// Records a violated invariant; only the first is kept.
    pub(super) fn violate(&mut self, text: impl Into<String>) {
        if self.broken.is_none() {
            let text = text.into();
            // A trace record is one line.
            let line = text.lines().next().unwrap_or_default();
            self.note(None, TraceEvent::Broken(line.to_owned()));
            self.broken = Some(text);
        }
    }

    /// Like [`violate`](Self::violate), naming the host and the connection.
    pub(super) fn violate_at(&mut self, host: u32, label: Label, text: &str) {
        let name = |host: u32| &self.hosts[host as usize].name;
        let (on, client) = (name(host), name(label.client));
        self.violate(format!("{on}, connection {client}#{}: {text}", label.ordinal));
    }

    // Paths.

    pub(super) fn set_link(&mut self, a: Host, b: Host, link: Link) {
        self.links.insert((a.0, b.0), link);
        self.links.insert((b.0, a.0), link);
    }

    pub(super) fn link(&self, from: u32, to: u32) -> Link {
        if self.links.is_empty() {
            return self.link;
        }
        self.links.get(&(from, to)).copied().unwrap_or(self.link)
    }

    /// The lasting faults currently in effect.
    pub(super) fn active_faults(&self) -> impl Iterator<Item = &Fault> {
        self.active.iter().flatten().map(|n| &self.faults[*n as usize].fault)
    }

    /// Whether exactly this fault is in effect.
    pub(super) fn is_in_effect(&self, fault: &Fault) -> bool {
        self.active_faults().any(|lasting| lasting == fault)
    }

    /// Whether a fault keeps this host's program down.
    fn is_down(&self, host: u32) -> bool {
        self.active_faults().any(|fault| fault.ended_host() == Some(Host(host)))
    }

    /// Sum of the delays that `by` returns for the faults in effect, in nanoseconds.
    fn added_delay(&self, by: impl Fn(&Fault) -> Option<Duration>) -> u64 {
        self.active_faults().filter_map(by).map(nanos).fold(0, u64::saturating_add)
    }

    /// Whether packets from one host currently reach the other.
    pub(super) fn can_reach(&self, from: u32, to: u32) -> bool {
        if to as usize >= self.hosts.len() || !self.hosts[to as usize].is_powered() {
            return false;
        }
        let (from, to) = (self.machine(from), self.machine(to));
        self.active.as_ref().is_none_or(Vec::is_empty)
            || from == to
            || !self.active_faults().any(|fault| match fault {
                Fault::Partition(a, b) => [(a.0, b.0), (b.0, a.0)].contains(&(from, to)),
                Fault::OneWay(a, b) => (a.0, b.0) == (from, to),
                Fault::BlackHole(host) => host.0 == from || host.0 == to,
                _ => false,
            })
    }

    /// The host that represents this one's machine: itself, or the ancestor of a child process.
    pub(super) fn machine(&self, host: u32) -> u32 {
        self.hosts.get(host as usize).map_or(host, |state| state.machine)
    }

    /// All hosts on this machine.
    fn hosts_of(&self, machine: Host) -> Vec<u32> {
        let all = 0..self.hosts.len() as u32;
        all.filter(|host| *host == machine.0 || self.machine(*host) == machine.0).collect()
    }

    /// The current path from one host to another.
    pub(super) fn route(&self, from: u32, to: u32) -> Route {
        // Loopback takes no time.
        if self.machine(from) == self.machine(to) {
            return Route { latency: Latency::Constant(Duration::ZERO), detour: 0 };
        }
        let detour = self.added_delay(|fault| match fault {
            Fault::Delay(host, by) if host.0 == from || host.0 == to => Some(*by),
            _ => None,
        });
        Route { latency: self.link(from, to).latency, detour }
    }

    /// The host's limit on outgoing bytes per second, if it has one.
    fn rate(&self, host: u32) -> Option<u64> {
        let rates = self.active_faults().filter_map(|fault| match fault {
            Fault::Throttle(of, rate) if of.0 == host => Some((*rate).max(1)),
            _ => None,
        });
        rates.chain(self.hosts[host as usize].bandwidth).min()
    }

    pub(super) fn set_bandwidth(&mut self, host: u32, bytes: Option<u64>) {
        let before = self.rate(host);
        self.host(host).bandwidth = bytes.map(|n| n.max(1));
        self.follow_rate(host, before);
    }

    /// Time at which bytes sent now leave the host, behind earlier ones.
    fn departure(&mut self, from: u32, bytes: usize) -> u64 {
        let Some(rate) = self.rate(from) else { return self.now };
        let takes = u128::from(bytes as u64) * 1_000_000_000 / u128::from(rate);
        let uplink = &mut self.hosts[from as usize].uplink_free;
        *uplink = (*uplink).max(self.now).saturating_add(takes as u64);
        *uplink
    }

    /// The host that owns this address, as seen from another host.
    fn host_of(&self, from: u32, to: SocketAddr) -> Option<u32> {
        if to.ip().is_loopback() || to.ip().is_unspecified() {
            return Some(from);
        }
        self.by_address.get(&to.ip()).copied()
    }

    // Faults.

    pub(super) fn plan(&mut self, planned: Planned) {
        let n = self.faults.len() as u32;
        // First at its time: a fault that another one follows has no gap between them.
        let (at, event) = (nanos(planned.at).max(self.now), SimEvent::FaultBegins(n));
        self.queue.push(Reverse(Scheduled { at, order: u64::from(n), event }));
        if let Some(end) = planned.ends()
            && !planned.fault.is_instantaneous()
        {
            self.at(nanos(end), SimEvent::FaultEnds(n));
        }
        self.faults.push(planned);
    }

    pub(super) fn are_faults_over(&self) -> bool {
        self.active.is_none()
    }

    /// Ends every fault and prevents further ones. Crashed hosts get their power back, but programs
    /// stay down.
    pub(super) fn end_all_faults(&mut self) {
        let hosts = 0..self.hosts.len() as u32;
        let rates: Vec<_> = hosts.clone().map(|host| self.rate(host)).collect();
        self.active = None;
        for (host, rate) in hosts.zip(rates) {
            let state = &mut self.hosts[host as usize];
            state.restore_power();
            state.paused = 0;
            self.follow_rate(host, rate);
            self.schedule_turn(host);
        }
    }

    fn fault_begins(&mut self, n: u32) -> WorldAction {
        if self.active.is_none() {
            return WorldAction::Nothing;
        }
        let fault = self.faults[n as usize].fault.clone();
        self.note(None, TraceEvent::FaultBegins(n));
        match &fault {
            Fault::Reset(host, one_in) => self.reset_some(*host, *one_in),
            Fault::ClockForward(host, by) => {
                for host in self.hosts_of(*host) {
                    let state = self.host(host);
                    state.ahead = state.ahead.saturating_add(nanos(*by));
                    self.schedule_turn(host);
                }
            }
            Fault::ClockBack(host, by) => {
                for host in self.hosts_of(*host) {
                    self.host(host).behind += nanos(*by);
                }
            }
            Fault::Rename(name, means) => {
                let name = lookup_name(&self.hosts[name.0 as usize].name);
                let means = self.hosts[means.0 as usize].addresses();
                self.names.insert(name, means);
            }
            Fault::Pause(host) => {
                self.hosts_of(*host).into_iter().for_each(|host| self.host(host).paused += 1);
            }
            _ => {}
        }
        if !fault.is_instantaneous() {
            self.change_active(n, |active| active.push(n));
        }
        match fault {
            Fault::Crash(host) => self.end_program(host.0, Extent::Power),
            Fault::Kill(host) => self.end_program(host.0, Extent::Program),
            Fault::Restart(host) => WorldAction::Restart(host.0),
            _ => WorldAction::Nothing,
        }
    }

    fn fault_ends(&mut self, n: u32) -> WorldAction {
        if !self.active.as_ref().is_some_and(|active| active.contains(&n)) {
            return WorldAction::Nothing;
        }
        self.note(None, TraceEvent::FaultEnds(n));
        self.change_active(n, |active| active.retain(|active| *active != n));
        if let Fault::Pause(host) = self.faults[n as usize].fault {
            for host in self.hosts_of(host) {
                self.host(host).paused -= 1;
                self.schedule_turn(host);
            }
        }
        match self.faults[n as usize].fault.ended_host() {
            Some(host) => self.restore_host(host.0),
            None => WorldAction::Nothing,
        }
    }

    /// Adds a lasting fault to those in effect, or removes it.
    fn change_active(&mut self, n: u32, change: impl FnOnce(&mut Vec<u32>)) {
        let throttled = match self.faults[n as usize].fault {
            Fault::Throttle(host, _) => Some((host.0, self.rate(host.0))),
            _ => None,
        };
        change(self.active.get_or_insert_default());
        if let Some((host, before)) = throttled {
            self.follow_rate(host, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use couplet_core::Address;
    use couplet_core::driver::CloseMode;

    fn world() -> (Kernel, EndId) {
        let mut kernel = Kernel::new(1);
        let (a, b) = (kernel.add_host("a"), kernel.add_host("b"));
        let to = Address::from(SocketAddr::new(kernel.hosts[b as usize].v4.into(), 80));
        kernel.bind(b, to.clone(), &couplet_core::driver::ListenOptions::default()).unwrap();
        let end = kernel.connect(a, to, None).unwrap();
        (kernel, end)
    }

    fn run(kernel: &mut Kernel) {
        while kernel.next_at().is_some() {
            kernel.step();
        }
    }

    #[test]
    fn time_that_goes_back_is_noticed() {
        let (mut kernel, _) = world();
        kernel.now = u64::MAX;
        kernel.step();
        assert_eq!(kernel.broken.as_deref(), Some("time went back"));
    }

    #[test]
    fn more_bytes_than_a_window_allows_are_noticed() {
        let (mut kernel, end) = world();
        run(&mut kernel);
        kernel.send(end, &[0; 100]).unwrap();
        assert_eq!(kernel.broken, None);
        kernel.narrow(end, 50);
        run(&mut kernel);
        let text = kernel.broken.unwrap_or_default();
        assert_eq!(text, "a system holds more unread bytes than its window allows");
    }

    #[test]
    fn leftovers_of_a_program_are_reported() {
        let (mut kernel, end) = world();
        run(&mut kernel);
        assert_eq!(kernel.leftovers_of(0), [""; 0], "sockets of the test do not count");
        let key = Key { slot: 0, generation: std::num::NonZeroU32::MIN };
        kernel.end(end).expect("it is open").key = Some(key);
        assert_eq!(kernel.leftovers_of(0), ["a ended but still holds 1 connections"]);
        kernel.close(end, CloseMode::Normal);
        assert_eq!(kernel.leftovers_of(0), [""; 0]);
        kernel.resolve(0, Ticket(1), "b");
        kernel.run_blocking(0, Ticket(2), Box::new(|| ()));
        kernel.hosts[0].keys = 3;
        let expected = ["3 keys of its driver", "1 lookups", "1 jobs"];
        assert_eq!(
            kernel.leftovers_of(0),
            expected.map(|what| format!("a ended but still holds {what}"))
        );
        assert_eq!(kernel.leftovers_of(1), ["b ended but still holds 1 ports"]);
    }

    /// Runs a connect from host 0 to host 1, ended at `at` by a close or by the crash of a host,
    /// during the fault `silence`. Returns the connections that the network still holds afterwards.
    fn left_of_a_connect(
        silence: Planned,
        at: Duration,
        how: CloseMode,
        crashes: Option<u32>,
    ) -> Vec<String> {
        let (mut kernel, end) = world();
        kernel.plan(silence);
        while kernel.next_at().is_some_and(|next| next < nanos(at)) {
            kernel.step();
        }
        match crashes {
            None => kernel.close(end, how),
            Some(host) => drop(kernel.end_program(host, Extent::Power)),
        }
        run(&mut kernel);
        while let Some(end) = kernel.hosts[1].ends.first().copied() {
            kernel.close(end, CloseMode::Normal);
            run(&mut kernel);
        }
        kernel.close(end, how);
        run(&mut kernel);
        kernel.held_connections()
    }

    #[test]
    fn a_connect_leaks_nothing_however_it_ends() {
        let [a, b] = [Host(0), Host(1)];
        let silences = [Fault::OneWay(a, b), Fault::OneWay(b, a), Fault::BlackHole(b)];
        let ends = [CloseMode::Normal, CloseMode::Reset]
            .into_iter()
            .flat_map(|how| [None, Some(0), Some(1)].map(|crashes| (how, crashes)));
        let ends: Vec<_> = ends.collect();
        // A one-way trip takes 1 ms, so these times fall between the steps of the handshake.
        let moments = (0..8).map(|n| Duration::from_micros(n * 500 + 250));
        let moments: Vec<_> =
            moments.clone().flat_map(|from| moments.clone().map(move |at| (from, at))).collect();
        for (fault, (from, at)) in
            silences.iter().flat_map(|fault| moments.iter().map(move |both| (fault, *both)))
        {
            let silence = Planned { at: from, lasts: Duration::from_secs(9), fault: fault.clone() };
            for &(how, crashes) in &ends {
                let left = left_of_a_connect(silence.clone(), at, how, crashes);
                assert_eq!(left, [""; 0], "{silence:?}, {at:?}, {how:?}, {crashes:?}");
            }
        }
    }

    /// Distinct codes make the hash of a run distinguish the events.
    #[test]
    fn each_event_has_its_own_code() {
        let end =
            |slot, side| EndId { conn: Key { slot, generation: std::num::NonZeroU32::MIN }, side };
        let datagram = |bytes: &[u8]| {
            let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
            let (from, to) = (Address::udp(nowhere), Address::udp(nowhere));
            let label = Label { client: 0, ordinal: 0 };
            Box::new(datagrams::Datagram { label, from, to, bytes: bytes.to_vec(), cut: false })
        };
        let mut events = Vec::new();
        for id in [end(0, 0), end(0, 1), end(1, 0), end(1, 1)] {
            events.extend([
                SimEvent::Packet(id, 0),
                SimEvent::Ack(id, 0),
                SimEvent::WindowUpdate(id),
                SimEvent::WindowProbe(id),
                SimEvent::Retransmit(id, 0),
                SimEvent::Reset(id),
                SimEvent::KeepAlive(id),
                SimEvent::SlowRead(id),
            ]);
        }
        for n in 0..3 {
            events.extend([
                SimEvent::Turn(n),
                SimEvent::FaultBegins(n),
                SimEvent::FaultEnds(n),
                SimEvent::RetryStart(n, 0),
                SimEvent::Datagram(0, n, datagram(b"a")),
                SimEvent::Datagram(0, n, datagram(b"b")),
            ]);
            #[cfg(unix)]
            events.extend([
                SimEvent::StartChild(n),
                SimEvent::KillChild(n, Extent::Program),
                SimEvent::KillChild(n, Extent::Power),
            ]);
            for ticket in 0..3 {
                events.push(SimEvent::LookupDone(n, 0, Ticket(ticket)));
                events.push(SimEvent::Job(n, 0, Ticket(ticket)));
            }
        }
        let codes: std::collections::BTreeSet<u64> = events.iter().map(SimEvent::code).collect();
        assert_eq!(codes.len(), events.len());
    }
}
