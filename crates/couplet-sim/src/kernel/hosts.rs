//! One host: its clocks, ports, driver events, names and jobs, and the schedule of its loop.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use couplet_core::driver::{CloseMode, Job, Key, ListenOptions, Signal, Ticket};
use couplet_core::hooks::ascii_host;
use couplet_core::hooks::simulator::FileLocks;
use couplet_core::{Address, UnixAddress};

use super::datagrams::Socket;
use super::stream::EndStage;
use super::{EndId, Host, Intake, Kernel, SimEvent, WorldAction};
use crate::FIRST_DAY;
use crate::faults::Fault;
use crate::random::{Latency, Purpose, RandomStream};
use crate::trace::TraceEvent;

/// Minimum time between two turns of a loop, in nanoseconds: the cost of its work. Without it, a
/// loop that is always busy would stop virtual time.
pub(crate) const TURN: u64 = 1_000;

/// Delay before a program that failed to start is retried, in nanoseconds.
const START_AGAIN: u64 = 1_000_000_000;

/// Upper bound on the initial clock offset of a host, in nanoseconds.
const SKEW: u64 = 900_000_000_000;

/// Interval at which a job of a paused program checks whether the pause is over, in nanoseconds.
const PAUSED: u64 = 1_000_000;

/// Maximum lookups in flight per program; further ones fail immediately.
const LOOKUPS: usize = 1000;

/// Maximum concurrent jobs per host.
const JOBS: usize = 10;

/// The error of a system without free descriptors: `EMFILE`.
pub(super) fn no_descriptors() -> io::Error {
    #[cfg(unix)]
    return rustix::io::Errno::MFILE.into();
    #[cfg(not(unix))]
    return io::Error::other("no descriptors");
}

/// The name as lookups have it.
pub(crate) fn lookup_name(name: &str) -> String {
    ascii_host(name).unwrap_or(name.into()).into_owned()
}

/// An event queued for a host's driver.
pub(crate) enum HostNotice {
    End(EndId),
    Port(Address),
    Resolved(Ticket, Result<Vec<IpAddr>, io::ErrorKind>),
    JobDone(Ticket),
    Signal(Signal),
    /// A socket has datagrams, or a refusal, to read.
    Datagrams(Address),
}

pub(crate) struct Listener {
    // At most the backlog of the port and one, as on Linux.
    pub(crate) queue: VecDeque<EndId>,
    options: ListenOptions,
    state: ListenerState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ListenerState {
    /// Bound by the program; paused until its loop serves it.
    Bound(Intake),
    /// The program has left it to its successor.
    Left,
}

impl Listener {
    /// Whether this listener, bound to `at`, conflicts with a bind to `to`.
    fn conflicts_with(&self, (at, (to, to_dual)): (&Address, (&Address, bool))) -> bool {
        let (Some(at), Some(to)) = (at.socket_addr(), to.socket_addr()) else { return at == to };
        let covers = |at: SocketAddr, dual: bool, to: SocketAddr| {
            at.ip() == to.ip()
                || (at.ip().is_unspecified()
                    && (at.is_ipv4() == to.is_ipv4() || (at.is_ipv6() && dual)))
        };
        at.port() == to.port()
            && (covers(at, self.options.is_dual_stack(), to) || covers(to, to_dual, at))
    }
}

/// The state of a host's program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProgramState {
    /// Not started yet, or ended without a fault.
    Idle,
    Running,
    /// Ended by a fault. Restarts when the fault is over.
    Killed,
    /// Like `Killed`, on a host without power.
    PowerOff,
}

/// The part of a host that ends with its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Only the program: the system closes its sockets.
    Program,
    /// The system vanishes too.
    Power,
}

/// The last protocol callback of a host, with the clock reading at its beginning.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LastCallback {
    None,
    Running(Instant),
    Over(Instant),
}

impl LastCallback {
    pub(crate) fn began(self) -> Option<Instant> {
        match self {
            LastCallback::None => None,
            LastCallback::Running(at) | LastCallback::Over(at) => Some(at),
        }
    }

    /// Ends the callback, if it is running.
    pub(crate) fn end(&mut self) {
        if let LastCallback::Running(at) = *self {
            *self = LastCallback::Over(at);
        }
    }
}

pub(crate) struct HostState {
    pub(crate) name: String,
    /// The host that represents its machine: itself, or the ancestor of a child process.
    pub(super) machine: u32,
    /// Set if the host is a child process of another host's program.
    #[cfg(unix)]
    pub(crate) child: Option<super::children::Child>,
    /// The hosts of its program's child processes, those that have ended included until the program
    /// ends.
    #[cfg(unix)]
    pub(super) children: Vec<u32>,
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
    /// Generation counter, bumped when its program ends or its power fails.
    pub(crate) boot: u32,
    pub(crate) program: ProgramState,
    pub(crate) paused: u32,
    /// Offset of the host's clocks from the world's time, in nanoseconds.
    pub(crate) ahead: u64,
    /// Amount by which the time of day was set back, in nanoseconds.
    pub(crate) behind: u64,
    pub(crate) listeners: BTreeMap<Address, Listener>,
    /// File locks of the program.
    pub(crate) files: FileLocks,
    /// Connection ends held by the program or queued for accepting.
    pub(super) ends: BTreeSet<EndId>,
    next_port: u16,
    /// Connect attempts, in total and to each host.
    pub(super) attempts: u32,
    pub(super) attempts_to: BTreeMap<u32, u32>,
    pub(super) datagrams: u32,
    pub(crate) ready: VecDeque<HostNotice>,
    /// Driver events deferred to the next round.
    pub(crate) later: Vec<HostNotice>,
    /// The connection of each driver slot.
    ends_by_slot: Vec<Option<EndId>>,
    /// Number of open driver keys.
    pub(crate) keys: usize,
    pub(crate) callback: LastCallback,
    turn_at: Option<u64>,
    pub(crate) busy_until: u64,
    pub(super) uplink_free: u64,
    /// Limit on outgoing bytes per second.
    pub(crate) bandwidth: Option<u64>,
    jobs: BTreeMap<Ticket, Option<Job>>,
    jobs_waiting: VecDeque<Ticket>,
    lookups: BTreeMap<Ticket, Result<Vec<IpAddr>, io::ErrorKind>>,
    lookup_times: RandomStream,
    job_times: RandomStream,
    pub(crate) choices: RandomStream,
    /// Replaces the system's entropy.
    #[cfg_attr(
        not(any(feature = "trap", feature = "sim-tokio")),
        allow(dead_code, reason = "read only with these features")
    )]
    pub(crate) entropy: RandomStream,
    pub(super) sockets: BTreeMap<Address, Socket>,
}

impl HostState {
    pub(crate) fn is_running(&self) -> bool {
        self.program == ProgramState::Running
    }

    pub(crate) fn is_powered(&self) -> bool {
        self.program != ProgramState::PowerOff
    }

    /// Ends a power failure. The program stays down.
    pub(super) fn restore_power(&mut self) {
        if !self.is_powered() {
            self.program = ProgramState::Killed;
        }
    }

    /// The host's clock reading, as time since the epoch of all clocks.
    pub(crate) fn clock(&self, now: u64) -> Duration {
        Duration::from_nanos(now.saturating_add(self.ahead))
    }

    /// The host's time of day.
    pub(crate) fn wall_clock(&self, now: u64) -> SystemTime {
        let time = FIRST_DAY + self.clock(now);
        SystemTime::UNIX_EPOCH + time.saturating_sub(Duration::from_nanos(self.behind))
    }

    /// The host's addresses, in the order of a lookup's answer.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        vec![self.v6.into(), self.v4.into()]
    }

    /// Whether programs of this host can bind to this address.
    pub(super) fn has_address(&self, ip: IpAddr) -> bool {
        ip.is_unspecified() || ip.is_loopback() || ip == self.v4 || ip == self.v6
    }

    pub(crate) fn begin_round(&mut self) {
        self.ready.extend(self.later.drain(..));
    }

    pub(crate) fn has_notices(&self) -> bool {
        !self.ready.is_empty() || !self.later.is_empty()
    }

    pub(crate) fn set_end(&mut self, key: Key, end: EndId) {
        let slot = key.slot as usize;
        if self.ends_by_slot.len() <= slot {
            self.ends_by_slot.resize(slot + 1, None);
        }
        self.ends_by_slot[slot] = Some(end);
    }

    /// The program no longer holds this connection.
    pub(crate) fn forget_end(&mut self, key: Key, end: EndId) {
        self.ends_by_slot[key.slot as usize] = None;
        self.ends.remove(&end);
    }

    /// The connection end of this driver key.
    pub(crate) fn end_of(&self, key: Key) -> Option<EndId> {
        self.ends_by_slot.get(key.slot as usize).copied().flatten()
    }

    /// Whether this port's accept queue holds a connection.
    pub(crate) fn has_queued(&self, port: &Address) -> bool {
        self.listeners.get(port).is_some_and(|listener| !listener.queue.is_empty())
    }
}

impl Kernel {
    pub(crate) fn add_host(&mut self, name: &str) -> u32 {
        let index = self.hosts.len() as u32;
        let [high, low] = [(index / 250) as u16, (index % 250) as u16 + 1];
        let v4 = Ipv4Addr::new(10, (high >> 8) as u8, high as u8, low as u8);
        let v6 = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, high, low);
        let mut birth = RandomStream::new(self.seed, Purpose::Birth, &[u64::from(index)]);
        self.hosts.push(HostState {
            name: name.to_owned(),
            machine: index,
            #[cfg(unix)]
            child: None,
            #[cfg(unix)]
            children: Vec::new(),
            v4,
            v6,
            boot: 0,
            program: ProgramState::Idle,
            paused: 0,
            ahead: birth.below(SKEW),
            behind: 0,
            listeners: BTreeMap::new(),
            files: FileLocks::default(),
            ends: BTreeSet::new(),
            next_port: 32_768,
            attempts: 0,
            attempts_to: BTreeMap::new(),
            datagrams: 0,
            ready: VecDeque::new(),
            later: Vec::new(),
            ends_by_slot: Vec::new(),
            keys: 0,
            callback: LastCallback::None,
            turn_at: None,
            busy_until: 0,
            uplink_free: 0,
            bandwidth: None,
            jobs: BTreeMap::new(),
            jobs_waiting: VecDeque::new(),
            lookups: BTreeMap::new(),
            lookup_times: RandomStream::new(self.seed, Purpose::Work, &[u64::from(index), 1]),
            job_times: RandomStream::new(self.seed, Purpose::Work, &[u64::from(index), 2]),
            choices: RandomStream::new(self.seed, Purpose::World, &[u64::from(index)]),
            entropy: RandomStream::new(self.seed, Purpose::Entropy, &[u64::from(index)]),
            sockets: BTreeMap::new(),
        });
        let addresses = self.hosts[index as usize].addresses();
        self.by_address.extend(addresses.iter().map(|ip| (*ip, index)));
        self.names.insert(lookup_name(name), addresses);
        index
    }

    pub(super) fn host(&mut self, index: u32) -> &mut HostState {
        &mut self.hosts[index as usize]
    }

    // Turns.

    /// Schedules a turn of this host's loop at the earliest permitted time.
    pub(crate) fn schedule_turn(&mut self, host: u32) {
        let at = self.now.max(self.hosts[host as usize].busy_until);
        self.schedule_turn_at(host, at);
    }

    /// Schedules a turn of the host's loop no later than `at`.
    pub(crate) fn schedule_turn_at(&mut self, host: u32, at: u64) {
        let state = &mut self.hosts[host as usize];
        if state.is_running() && state.turn_at.is_none_or(|planned| at < planned) {
            state.turn_at = Some(at);
            self.at(at, SimEvent::Turn(host));
        }
    }

    pub(super) fn begin_turn(&mut self, host: u32) -> WorldAction {
        let now = self.now;
        let state = self.host(host);
        // An earlier turn may have replaced this event.
        if state.turn_at != Some(now) {
            return WorldAction::Nothing;
        }
        state.turn_at = None;
        // A paused host becomes runnable again when the pause ends.
        if !state.is_running() || state.paused > 0 {
            return WorldAction::Nothing;
        }
        state.busy_until = now + TURN;
        WorldAction::Turn(host)
    }

    /// Queues an event for a host's driver.
    pub(super) fn queue_notice(&mut self, host: u32, notice: HostNotice) {
        self.host(host).ready.push_back(notice);
        self.schedule_turn(host);
    }

    // Down and up.

    /// Marks the program as running.
    pub(crate) fn mark_running(&mut self, host: u32) {
        self.host(host).program = ProgramState::Running;
        self.running += 1;
    }

    /// Ends the program, by a power loss of the host or by a kill. After a kill, the system closes
    /// the program's sockets.
    pub(super) fn end_program(&mut self, host: u32, extent: Extent) -> WorldAction {
        let (event, ended) = match (self.host(host).program, extent) {
            (ProgramState::PowerOff, _)
            | (ProgramState::Idle | ProgramState::Killed, Extent::Program) => {
                return WorldAction::Nothing;
            }
            (ProgramState::Running, Extent::Program) => (TraceEvent::Killed, ProgramState::Killed),
            (_, Extent::Power) => (TraceEvent::Crashes, ProgramState::PowerOff),
        };
        self.note(host, event);
        let jobs = self.close_all(host, extent);
        self.host(host).program = ended;
        WorldAction::DropProgram(host, jobs)
    }

    /// Closes everything that the host's program has open, or lets the whole system vanish.
    /// Returns the program's jobs for the caller to drop.
    #[must_use]
    pub(crate) fn close_all(&mut self, host: u32, extent: Extent) -> Vec<Job> {
        if extent == Extent::Power {
            for end in self.ends_known_to(host) {
                self.vanish(end);
            }
            let state = self.host(host);
            state.listeners.clear();
            state.uplink_free = 0;
        }
        let left = self.queued_on_left_ports(host);
        for end in self.ends_of(host).into_iter().filter(|end| !left.contains(end)) {
            let mode = match self.end(end) {
                Some(end) if end.stage == EndStage::Queued => CloseMode::Reset,
                Some(end) => end.close_on_kill,
                None => CloseMode::Normal,
            };
            self.close(end, mode);
        }
        let state = self.host(host);
        state.boot += 1;
        let ran = state.is_running();
        if ran {
            state.program = ProgramState::Idle;
        }
        state.listeners.retain(|_, listener| listener.state == ListenerState::Left);
        state.files = FileLocks::default();
        state.sockets.clear();
        state.ready.clear();
        state.later.clear();
        state.ends_by_slot.clear();
        state.keys = 0;
        state.jobs_waiting.clear();
        state.lookups.clear();
        state.turn_at = None;
        state.callback.end();
        let jobs = std::mem::take(&mut state.jobs).into_values().flatten().collect();
        self.running -= u32::from(ran);
        #[cfg(unix)]
        self.kill_children(host, extent);
        jobs
    }

    /// Ends a crash or kill of this host: the program restarts, unless another such fault is still
    /// in effect.
    pub(super) fn restore_host(&mut self, host: u32) -> WorldAction {
        let without_power = self.is_in_effect(&Fault::Crash(Host(host)));
        #[cfg(unix)]
        let is_child = self.hosts[host as usize].child.is_some();
        #[cfg(not(unix))]
        let is_child = false;
        // Only its parent can start a process again.
        let without_program = self.is_down(host) || is_child;
        let state = self.host(host);
        if !without_power {
            state.restore_power();
        }
        if without_program || state.program != ProgramState::Killed {
            return WorldAction::Nothing;
        }
        state.program = ProgramState::Idle;
        if state.paused > 0 {
            self.start_later(host);
            return WorldAction::Nothing;
        }
        WorldAction::StartProgram(host)
    }

    /// Schedules a retry of a program that failed to restart, like a service manager.
    pub(crate) fn start_later(&mut self, host: u32) {
        let boot = self.host(host).boot;
        self.after(START_AGAIN, SimEvent::RetryStart(host, boot));
    }

    pub(super) fn retry_start(&mut self, host: u32, boot: u32) -> WorldAction {
        let waits = self.is_down(host);
        let are_faults_over = self.are_faults_over();
        let state = self.host(host);
        // The host may have crashed or restarted in the meantime.
        if state.boot != boot || state.is_running() || are_faults_over {
            return WorldAction::Nothing;
        }
        if waits || state.paused > 0 {
            self.start_later(host);
            return WorldAction::Nothing;
        }
        WorldAction::StartProgram(host)
    }

    // Descriptors and ports.

    pub(crate) fn has_descriptors(&self, host: u32) -> bool {
        !self.is_in_effect(&Fault::NoDescriptors(Host(host)))
    }

    pub(super) fn free_port(&mut self, host: u32) -> u16 {
        let state = self.host(host);
        loop {
            let port = state.next_port;
            state.next_port = port.checked_add(1).unwrap_or(32_768);
            let mut taken = state.listeners.keys().filter_map(Address::port);
            if !taken.any(|taken| taken == port)
                && !state.sockets.keys().any(|address| address.port() == Some(port))
            {
                return port;
            }
        }
    }

    pub(crate) fn is_accepting(&self, host: u32, port: &Address) -> bool {
        let listener = self.hosts[host as usize].listeners.get(port);
        listener.is_some_and(|listener| listener.state == ListenerState::Bound(Intake::Open))
    }

    /// Pauses or resumes accepting for a port.
    pub(crate) fn serve(&mut self, host: u32, port: &Address, intake: Intake) {
        let listener = self.host(host).listeners.get_mut(port);
        let bound = listener.filter(|listener| listener.state != ListenerState::Left);
        let Some(listener) = bound else { return };
        listener.state = ListenerState::Bound(intake);
        if intake == Intake::Open && self.host(host).has_queued(port) {
            self.queue_notice(host, HostNotice::Port(port.clone()));
        }
    }

    pub(crate) fn bind(
        &mut self,
        host: u32,
        mut address: Address,
        options: &ListenOptions,
    ) -> io::Result<Address> {
        if !self.has_descriptors(host) {
            return Err(no_descriptors());
        }
        match &mut address {
            Address::Tcp(address) | Address::Udp(address) => {
                if !self.hosts[host as usize].has_address(address.ip()) {
                    return Err(io::ErrorKind::AddrNotAvailable.into());
                }
                if address.port() == 0 {
                    address.set_port(self.free_port(host));
                }
            }
            Address::Unix(name) if *name != UnixAddress::Unnamed => {}
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        }
        let state = self.host(host);
        if let Some(left) = state.listeners.get_mut(&address)
            && left.state == ListenerState::Left
        {
            left.options = options.clone();
            left.state = ListenerState::Bound(Intake::Paused);
            self.note(host, TraceEvent::Listens(address.clone()));
            return Ok(address);
        }
        let another = (&address, options.is_dual_stack());
        if state.listeners.iter().any(|(at, port)| port.conflicts_with((at, another))) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let listener = Listener {
            queue: VecDeque::new(),
            options: options.clone(),
            state: ListenerState::Bound(Intake::Paused),
        };
        state.listeners.insert(address.clone(), listener);
        self.note(host, TraceEvent::Listens(address.clone()));
        Ok(address)
    }

    /// Closes a port opened in this boot of the host; queued connections are reset.
    pub(crate) fn unbind(&mut self, host: u32, boot: u32, address: &Address) {
        let state = self.host(host);
        let is_left = |listener: &Listener| listener.state == ListenerState::Left;
        if state.boot == boot && !state.listeners.get(address).is_some_and(is_left) {
            self.close_port(host, address);
        }
    }

    fn close_port(&mut self, host: u32, address: &Address) {
        let listener = self.host(host).listeners.remove(address);
        for end in listener.into_iter().flat_map(|listener| listener.queue) {
            self.close(end, CloseMode::Reset);
        }
    }

    /// Leaves the program's ports to its successor. Until then, connects are queued.
    pub(crate) fn leave_ports(&mut self, host: u32) {
        let listeners = self.host(host).listeners.values_mut();
        listeners.for_each(|listener| listener.state = ListenerState::Left);
    }

    /// Closes the ports that a successor has not bound again.
    pub(crate) fn close_left_ports(&mut self, host: u32) {
        let left: Vec<_> = self.left_ports(host).map(|(address, _)| address.clone()).collect();
        for address in left {
            self.close_port(host, &address);
        }
    }

    fn left_ports(&self, host: u32) -> impl Iterator<Item = (&Address, &Listener)> {
        let listeners = self.hosts[host as usize].listeners.iter();
        listeners.filter(|(_, listener)| listener.state == ListenerState::Left)
    }

    /// Connections that wait for the successor of a host's program.
    fn queued_on_left_ports(&self, host: u32) -> BTreeSet<EndId> {
        self.left_ports(host).flat_map(|(_, listener)| listener.queue.iter().copied()).collect()
    }

    /// The listener that receives connects to this address.
    pub(super) fn listener_for(&self, host: u32, to: &Address) -> Option<Address> {
        let listeners = &self.hosts[host as usize].listeners;
        if listeners.contains_key(to) {
            return Some(to.clone());
        }
        let to = to.socket_addr()?;
        let any = |ip: IpAddr| Address::from(SocketAddr::new(ip, to.port()));
        let v4 = any(Ipv4Addr::UNSPECIFIED.into());
        if to.is_ipv4() && listeners.contains_key(&v4) {
            return Some(v4);
        }
        let v6 = any(Ipv6Addr::UNSPECIFIED.into());
        let dual = |listener: &Listener| to.is_ipv6() || listener.options.is_dual_stack();
        listeners.get(&v6).is_some_and(dual).then_some(v6)
    }

    /// Whether the port's accept queue has room for one more connection.
    pub(super) fn has_backlog_room(&self, host: u32, port: &Address) -> bool {
        let listener = self.hosts[host as usize].listeners.get(port);
        // Like Linux, accepts one more than the backlog.
        let room = |listener: &Listener| listener.queue.len() <= listener.options.backlog as usize;
        listener.is_some_and(room) && !self.is_in_effect(&Fault::FullQueue(Host(host)))
    }

    /// Puts a connection into a port's accept queue.
    pub(super) fn enqueue(&mut self, host: u32, port: Address, end: EndId) {
        let Some(listener) = self.host(host).listeners.get_mut(&port) else { return };
        listener.queue.push_back(end);
        if listener.state == ListenerState::Bound(Intake::Open) {
            self.queue_notice(host, HostNotice::Port(port));
        }
    }

    /// Takes the next connection from a port's accept queue.
    pub(crate) fn accept(&mut self, host: u32, port: &Address) -> Option<EndId> {
        let end = self.host(host).listeners.get_mut(port)?.queue.pop_front()?;
        self.set_stage(end, EndStage::Open);
        Some(end)
    }

    // Names.

    pub(crate) fn resolve(&mut self, host: u32, ticket: Ticket, name: &str) {
        let answer = self.addresses_of(host, name);
        let takes = Latency::Uniform(Duration::from_micros(200), Duration::from_millis(5))
            .draw(&mut self.host(host).lookup_times);
        let longer = self.added_delay(|fault| match fault {
            Fault::SlowNames(h, by) if h.0 == host => Some(*by),
            _ => None,
        });
        let state = self.host(host);
        let (answer, takes) = if state.lookups.len() < LOOKUPS {
            (answer, takes.saturating_add(longer))
        } else {
            (Err(io::ErrorKind::QuotaExceeded), 0)
        };
        state.lookups.insert(ticket, answer);
        let boot = state.boot;
        self.after(takes, SimEvent::LookupDone(host, boot, ticket));
        self.note(host, TraceEvent::Name(name.to_owned()));
    }

    fn addresses_of(&self, host: u32, name: &str) -> Result<Vec<IpAddr>, io::ErrorKind> {
        if name == "localhost" {
            return Ok(vec![Ipv4Addr::LOCALHOST.into()]);
        }
        if self.is_in_effect(&Fault::NoNames(Host(host))) {
            return Err(io::ErrorKind::TimedOut);
        }
        self.names.get(name).cloned().ok_or(io::ErrorKind::NotFound)
    }

    pub(super) fn finish_lookup(&mut self, host: u32, boot: u32, ticket: Ticket) {
        if self.hosts[host as usize].boot == boot
            && let Some(answer) = self.host(host).lookups.remove(&ticket)
        {
            self.queue_notice(host, HostNotice::Resolved(ticket, answer));
        }
    }

    pub(crate) fn forget_lookup(&mut self, host: u32, ticket: Ticket) {
        self.host(host).lookups.remove(&ticket);
    }

    // Jobs.

    pub(crate) fn run_blocking(&mut self, host: u32, ticket: Ticket, job: Job) {
        self.host(host).jobs.insert(ticket, Some(job));
        self.host(host).jobs_waiting.push_back(ticket);
        self.begin_jobs(host);
    }

    /// Starts queued jobs while threads are free.
    fn begin_jobs(&mut self, host: u32) {
        loop {
            let state = self.host(host);
            let running = state.jobs.len() - state.jobs_waiting.len();
            if running >= JOBS {
                return;
            }
            let Some(ticket) = state.jobs_waiting.pop_front() else {
                return;
            };
            let boot = state.boot;
            let takes = Latency::LongTail {
                usual: Duration::from_micros(500),
                most: Duration::from_millis(500),
            }
            .draw(&mut state.job_times);
            let longer = self.added_delay(|fault| match fault {
                Fault::SlowJobs(h, by) if h.0 == host => Some(*by),
                _ => None,
            });
            self.after(takes.saturating_add(longer), SimEvent::Job(host, boot, ticket));
        }
    }

    pub(super) fn take_due_job(&mut self, host: u32, boot: u32, ticket: Ticket) -> WorldAction {
        let state = self.host(host);
        if state.boot != boot {
            return WorldAction::Nothing;
        }
        if state.paused > 0 {
            self.after(PAUSED, SimEvent::Job(host, boot, ticket));
            return WorldAction::Nothing;
        }
        let job = state.jobs.remove(&ticket).flatten();
        self.begin_jobs(host);
        match job {
            Some(job) => {
                self.note(host, TraceEvent::Job);
                WorldAction::Job(host, ticket, job)
            }
            None => WorldAction::Nothing,
        }
    }

    /// Reports a finished job to the host's driver.
    pub(crate) fn job_done(&mut self, host: u32, ticket: Ticket) {
        if self.host(host).is_running() {
            self.queue_notice(host, HostNotice::JobDone(ticket));
        }
    }

    /// Cancels a job and returns it for the caller to drop; a job that has begun keeps its thread
    /// busy.
    pub(crate) fn forget_job(&mut self, host: u32, ticket: Ticket) -> Option<Job> {
        let state = self.host(host);
        if let Some(at) = state.jobs_waiting.iter().position(|waiting| *waiting == ticket) {
            state.jobs_waiting.remove(at);
            return state.jobs.remove(&ticket).flatten();
        }
        state.jobs.get_mut(&ticket).and_then(Option::take)
    }

    pub(crate) fn signal(&mut self, host: u32, signal: Signal) {
        if self.host(host).is_running() {
            self.queue_notice(host, HostNotice::Signal(signal));
        }
    }

    /// Describes the resources that the host's system still holds for an ended program.
    pub(crate) fn leftovers_of(&self, host: u32) -> Vec<String> {
        let state = &self.hosts[host as usize];
        // A cancelled job that had already begun (`None`) does not count.
        let jobs = state.jobs.values().flatten().count();
        // A test's own sockets have no key.
        let of_program = |id: &&EndId| self.held_by_program(**id);
        let connections = state.ends.iter().filter(of_program).count();
        let counts = [
            ("keys of its driver", state.keys),
            ("ports", state.listeners.len() - self.left_ports(host).count()),
            ("lookups", state.lookups.len()),
            ("jobs", jobs),
            ("connections", connections),
        ];
        let held = counts.into_iter().filter(|(_, count)| *count > 0);
        held.map(|(what, count)| format!("{} ended but still holds {count} {what}", state.name))
            .collect()
    }
}
