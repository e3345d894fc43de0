//! The simulator's driver: the I/O seam between one host's loop and its simulated operating system.
//!
//! Readiness style: it reports readable connections, and a write immediately takes as much as fits.
//!
//! Contract: 88.

use std::any::Any;
use std::cell::{RefCell, RefMut};
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant, SystemTime};

use couplet_core::Address;
use couplet_core::driver::{
    self, Bound, CloseMode, Commands, ConnectOptions, DatagramOptions, DatagramQueue,
    DatagramsSent, Driver, Event, Group, Job, Key, ListenOptions, LocalEnd, Membership, Order,
    Outbox, Released, SocketKind, SocketOption, Ticket, World, WriteOutcome,
};
use couplet_core::hooks::Slots;

use super::detached;
use super::faults::Fault;
use super::kernel::datagrams::{Datagram, Taken};
use super::kernel::stream::Read;
use super::kernel::{EndId, HostNotice, Intake, Kernel};
use super::random::{self, Purpose};
use super::trace::TraceEvent;

/// Default limit on the bytes in one `Received`, and on those read from a connection per turn.
const READ_BUFFER: usize = 256 * 1024;
/// Maximum datagrams reported for one port in a round.
const BATCH: usize = 64;

/// The driver of one host's loop.
pub(super) struct SimDriver {
    system: System,
    slots: Slots<SlotEntry>,
    /// Slots closed in this round; reusable from the next.
    retired: Vec<u32>,
    lent: Vec<u8>,
    /// The datagram lent to the loop.
    datagram: Option<Datagram>,
    read_buffer: usize,
    round: u64,
}

enum SlotEntry {
    Port(PortGuard),
    Stream(SimStream),
    Datagrams(DatagramPort),
}

/// A port for UDP or UNIX datagrams.
struct DatagramPort {
    opened: SocketGuard,
    /// The round of the last datagram, and the number of datagrams in that round.
    received_in: (u64, usize),
}

struct SimStream {
    end: EndId,
    intake: Intake,
    reported: Reported,
    /// The round of the last read.
    read_in: u64,
}

/// The part of a stream's end that was reported to the loop.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reported {
    Nothing,
    /// The arrival of the peer's FIN, during a pause.
    PeerEnded,
    Ended,
}

/// The part of the simulated system that one program's handles use directly, until the program
/// ends.
#[derive(Clone)]
pub(super) struct System {
    pub(super) kernel: Rc<RefCell<Kernel>>,
    pub(super) host: u32,
    boot: u32,
    serial: u32,
    /// True if the driver's `wait` runs the world; false for the loops of a `Sim`.
    is_standalone: bool,
}

/// An open port; closed on drop.
struct PortGuard {
    system: System,
    address: Address,
}

impl Drop for PortGuard {
    fn drop(&mut self) {
        let System { kernel, host, boot, .. } = &self.system;
        kernel.borrow_mut().unbind(*host, *boot, &self.address);
    }
}

/// An open socket of datagrams; closed on drop.
struct SocketGuard {
    system: System,
    address: Address,
}

impl Drop for SocketGuard {
    fn drop(&mut self) {
        let System { kernel, host, boot, .. } = &self.system;
        kernel.borrow_mut().close_socket(*host, *boot, &self.address);
    }
}

impl System {
    pub(super) fn new(kernel: &Rc<RefCell<Kernel>>, host: u32) -> System {
        let boot = kernel.borrow().hosts[host as usize].boot;
        let serial = kernel.borrow_mut().next_loop();
        System { kernel: kernel.clone(), host, boot, serial, is_standalone: false }
    }

    /// The kernel, unless the program has ended.
    pub(super) fn running(&self) -> io::Result<RefMut<'_, Kernel>> {
        let kernel = self.kernel.borrow_mut();
        if kernel.hosts[self.host as usize].boot != self.boot {
            return Err(io::Error::other("the program of this reactor has ended"));
        }
        Ok(kernel)
    }
}

impl World for System {
    fn now(&self) -> Instant {
        let kernel = self.kernel.borrow();
        kernel.started + kernel.hosts[self.host as usize].clock(kernel.now)
    }

    fn wall_clock(&self) -> SystemTime {
        let kernel = self.kernel.borrow();
        kernel.hosts[self.host as usize].wall_clock(kernel.now)
    }

    fn random(&self) -> u64 {
        self.kernel.borrow_mut().hosts[self.host as usize].choices.next()
    }

    fn serial(&self) -> Option<u32> {
        Some(self.serial)
    }

    fn order(&self) -> Option<Order> {
        let kernel = self.kernel.borrow();
        let key = [kernel.shuffled?, u64::from(self.host), u64::from(self.serial)];
        let mut stream = random::RandomStream::new(kernel.seed, Purpose::Order, &key);
        Some(Box::new(move |n| stream.below(n as u64) as usize))
    }

    fn bind(&self, address: &Address, options: &ListenOptions) -> io::Result<Bound> {
        let address = self.running()?.bind(self.host, address.clone(), options)?;
        let opened = PortGuard { system: self.clone(), address: address.clone() };
        Ok(Bound::new(address, opened))
    }

    fn bind_datagrams(&self, address: &Address, options: &DatagramOptions) -> io::Result<Bound> {
        let address = self.running()?.open_socket(self.host, address.clone(), options)?;
        let opened = SocketGuard { system: self.clone(), address: address.clone() };
        Ok(Bound::new(address, opened))
    }

    #[cfg(unix)]
    fn spawn(&self, command: &driver::Command) -> io::Result<driver::Spawned> {
        match self.is_standalone {
            true => Err(io::Error::new(io::ErrorKind::Unsupported, "this world runs no programs")),
            false => super::processes::spawn(self, command),
        }
    }

    #[cfg(unix)]
    fn inherited(&self, number: i32) -> Option<io::Result<driver::Adopted>> {
        Some(super::processes::inherited(self, number))
    }

    fn lock_file(&self, path: &Path) -> io::Result<Option<Box<dyn Any>>> {
        Ok(self.running()?.hosts[self.host as usize].files.lock(path))
    }
}

impl SimDriver {
    pub(super) fn new(kernel: &Rc<RefCell<Kernel>>, host: u32) -> SimDriver {
        SimDriver {
            system: System::new(kernel, host),
            slots: Slots::new(),
            retired: Vec::new(),
            lent: Vec::new(),
            datagram: None,
            read_buffer: READ_BUFFER,
            round: 0,
        }
    }

    /// A driver whose `wait` runs the world, for a single loop turned from outside.
    pub(super) fn standalone(
        kernel: &Rc<RefCell<Kernel>>,
        host: u32,
        read_buffer: usize,
    ) -> SimDriver {
        kernel.borrow_mut().mark_running(host);
        let mut standalone = SimDriver { read_buffer, ..SimDriver::new(kernel, host) };
        standalone.system.is_standalone = true;
        standalone
    }

    fn kernel(&self) -> RefMut<'_, Kernel> {
        self.system.kernel.borrow_mut()
    }

    fn insert(&mut self, kind: SlotEntry) -> Key {
        let host = self.system.host as usize;
        self.kernel().hosts[host].keys += 1;
        self.slots.insert(kind)
    }

    fn insert_stream(&mut self, end: EndId) -> Key {
        let stream =
            SimStream { end, intake: Intake::Open, reported: Reported::Nothing, read_in: 0 };
        let key = self.insert(SlotEntry::Stream(stream));
        let host = self.system.host;
        let mut kernel = self.kernel();
        kernel.hosts[host as usize].set_end(key, end);
        if let Some(end) = kernel.end(end) {
            end.key = Some(key);
        }
        key
    }

    /// Frees a key, and returns its entry.
    fn free(&mut self, key: Key) -> Option<SlotEntry> {
        self.entry(key);
        let entry = self.slots.retire(key);
        self.retired.push(key.slot);
        let host = self.system.host as usize;
        let keys = self.kernel().hosts[host].keys.saturating_sub(1);
        self.kernel().hosts[host].keys = keys;
        entry
    }

    /// The entry of a command's key. Panics on a key used after its close.
    fn entry(&mut self, key: Key) -> &mut SlotEntry {
        let kind = self.slots.get_mut(key);
        kind.unwrap_or_else(|| panic!("a key was used after its close: {key:?}"))
    }

    fn stream(&mut self, key: Key) -> &mut SimStream {
        match self.entry(key) {
            SlotEntry::Stream(stream) => stream,
            SlotEntry::Port(_) | SlotEntry::Datagrams(_) => {
                panic!("{key:?} is not a connection")
            }
        }
    }

    fn datagram_port(&mut self, key: Key) -> &mut DatagramPort {
        match self.entry(key) {
            SlotEntry::Datagrams(port) => port,
            _ => panic!("{key:?} is not a datagram port"),
        }
    }

    fn end_of(&self, key: Key) -> Option<EndId> {
        match self.slots.get(key)? {
            SlotEntry::Stream(stream) => Some(stream.end),
            SlotEntry::Port(_) | SlotEntry::Datagrams(_) => None,
        }
    }

    /// The accepting port at this address.
    fn port_at(&self, address: &Address) -> Option<Key> {
        let (key, _) = self.slots.iter().find(
            |(_, kind)| matches!(kind, SlotEntry::Port(opened) if opened.address == *address),
        )?;
        self.kernel().is_accepting(self.system.host, address).then_some(key)
    }

    fn accept(&mut self, address: Address) -> Option<Event> {
        let port = self.port_at(&address)?;
        let host = self.system.host;
        if !self.kernel().has_descriptors(host) {
            self.reject_queued(&address);
            return None;
        }
        let (end, more) = {
            let mut kernel = self.kernel();
            let end = kernel.accept(host, &address)?;
            (end, kernel.hosts[host as usize].has_queued(&address))
        };
        if more {
            self.kernel().hosts[host as usize].ready.push_front(HostNotice::Port(address));
        }
        let key = self.insert_stream(end);
        let mut kernel = self.kernel();
        let label = kernel.label(end);
        kernel.note(host, TraceEvent::Accepts(label));
        kernel.queue_if_ready(end);
        let (local, peer) = kernel.addresses(end)?;
        Some(Event::Accepted { port, key, peer, host: LocalEnd::Known(local.into()) })
    }

    /// The next event of the datagram port at this address, within its share of this round.
    fn receive_datagram(&mut self, address: Address) -> Option<Event> {
        let (round, host) = (self.round, self.system.host);
        let kernel = self.system.kernel.clone();
        let key = self.slots.iter().find_map(|(key, kind)| match kind {
            SlotEntry::Datagrams(port) if port.opened.address == address => Some(key),
            _ => None,
        })?;
        let Some(SlotEntry::Datagrams(port)) = self.slots.get_mut(key) else { return None };
        let (in_round, count) = port.received_in;
        let count = if in_round == round { count } else { 0 };
        let mut kernel = kernel.borrow_mut();
        if !kernel.is_served(host, &address) {
            return None;
        }
        if count == BATCH {
            kernel.hosts[host as usize].later.push(HostNotice::Datagrams(address));
            return None;
        }
        match kernel.take_datagram(host, &address) {
            Taken::Nothing => None,
            Taken::Error(error) => {
                kernel.hosts[host as usize].ready.push_front(HostNotice::Datagrams(address));
                Some(Event::DatagramError(key, error.into()))
            }
            Taken::Datagram(datagram, left) => {
                port.received_in = (round, count + 1);
                if left > 0 {
                    kernel.hosts[host as usize].ready.push_front(HostNotice::Datagrams(address));
                }
                self.datagram = Some(datagram);
                Some(Event::Datagram { key, more: left > 0 && count + 1 < BATCH })
            }
        }
    }

    /// Out of descriptors: accepts every queued connection with the reserve descriptor and closes
    /// it.
    fn reject_queued(&mut self, address: &Address) {
        let host = self.system.host;
        let mut kernel = self.kernel();
        while let Some(end) = kernel.accept(host, address) {
            let label = kernel.label(end);
            kernel.note(host, TraceEvent::TurnsAway(label));
            kernel.close(end, CloseMode::Normal);
        }
    }

    /// The next event of a connection, if any. Bytes are read into `lent`.
    fn poll_stream(&mut self, id: EndId) -> Option<Event> {
        let (round, host) = (self.round, self.system.host);
        let kernel = self.system.kernel.clone();
        let mut kernel = kernel.borrow_mut();
        let kernel = &mut *kernel;
        let now = kernel.now;
        let room = kernel.has_room(id);
        let end = kernel.end(id)?;
        end.queued = false;
        let key = end.key?;
        let Some(SlotEntry::Stream(stream)) = self.slots.get_mut(key) else { return None };
        if end.take_outcome() {
            if let Some(error) = end.take_error() {
                stream.reported = Reported::Ended;
                return Some(Event::Failed(key, error.into()));
            }
            let local = end.local.clone();
            kernel.queue_if_ready(id);
            return Some(Event::Connected { key, host: local });
        }
        if end.blocked && room && end.error().is_none() {
            end.blocked = false;
            kernel.queue_if_ready(id);
            return Some(Event::Room(key));
        }
        if stream.intake == Intake::Paused || stream.reported == Reported::Ended {
            if let Some(error) = end.take_error() {
                stream.reported = Reported::Ended;
                return Some(Event::Failed(key, error.into()));
            }
            let is_news = end.fin && stream.reported == Reported::Nothing;
            if is_news {
                stream.reported = Reported::PeerEnded;
            }
            return is_news.then_some(Event::PeerEnded(key));
        }
        if stream.read_in == round && end.is_readable() {
            kernel.queue_for_next_round(id);
            return None;
        }
        if end.reads_at > now {
            return None;
        }
        let slowly = slow_reader(kernel, host);
        let most = slowly.map_or(self.read_buffer, |rate| (rate / 10).max(1) as usize);
        match kernel.read(id, most.min(self.read_buffer), &mut self.lent) {
            Read::Nothing => None,
            Read::Bytes => {
                stream.read_in = round;
                match slowly {
                    Some(rate) => kernel.schedule_read(id, self.lent.len() as u64, rate),
                    None => kernel.queue_if_ready(id),
                }
                Some(Event::Received(key))
            }
            Read::Fin => {
                stream.reported = Reported::Ended;
                Some(Event::Ended(key))
            }
            Read::Error(error) => {
                stream.reported = Reported::Ended;
                Some(Event::Failed(key, error.into()))
            }
        }
    }
}

/// The most bytes that the host's program reads from a connection in a second, if it reads slowly.
fn slow_reader(kernel: &Kernel, host: u32) -> Option<u64> {
    let rates = kernel.active_faults().filter_map(|fault| match fault {
        Fault::SlowReader(h, rate) if h.0 == host => Some((*rate).max(1)),
        _ => None,
    });
    rates.min()
}

impl Driver for SimDriver {
    /// Begins a round. Waits only if this driver runs the world itself: otherwise the world turns
    /// the loop when it has events.
    fn wait(&mut self, until: Option<Instant>) -> io::Result<()> {
        self.round += 1;
        for slot in self.retired.drain(..) {
            self.slots.reuse(slot);
        }
        let host = self.system.host as usize;
        self.kernel().hosts[host].begin_round();
        if self.system.is_standalone {
            let until = until.map(|until| self.kernel().time_of(host as u32, until));
            super::sockets::run_world(&self.system.kernel, host as u32, until)?;
        }
        Ok(())
    }

    fn next(&mut self) -> Option<Event> {
        loop {
            let host = self.system.host as usize;
            let notice = self.kernel().hosts[host].ready.pop_front()?;
            let found = match notice {
                HostNotice::Signal(signal) => return Some(Event::Signal(signal)),
                HostNotice::JobDone(ticket) => return Some(Event::JobDone(ticket)),
                HostNotice::Resolved(ticket, answer) => {
                    return Some(Event::Resolved(ticket, answer.map_err(io::Error::from)));
                }
                HostNotice::Port(address) => match self.accept(address) {
                    Some(event) => return Some(event),
                    None => continue,
                },
                HostNotice::Datagrams(address) => match self.receive_datagram(address) {
                    Some(event) => return Some(event),
                    None => continue,
                },
                HostNotice::End(id) => self.poll_stream(id),
            };
            if found.is_some() {
                return found;
            }
        }
    }

    fn lent(&self, _: Key) -> &[u8] {
        &self.lent
    }

    fn datagram(&self) -> driver::Datagram<'_> {
        let Datagram { from, to, bytes, cut, .. } =
            self.datagram.as_ref().expect("it was reported");
        let mut datagram = driver::Datagram::new(bytes, from);
        (datagram.to, datagram.cut) = (to.ip(), *cut);
        datagram
    }
}

impl Commands for SimDriver {
    fn world(&self) -> Rc<dyn World> {
        Rc::new(self.system.clone())
    }

    fn write(&mut self, key: Key, out: &mut Outbox) -> WriteOutcome {
        let end = self.stream(key).end;
        if self.kernel().write(end, out) { WriteOutcome::All } else { WriteOutcome::Blocked }
    }

    fn listen(&mut self, bound: Bound) -> io::Result<Key> {
        let host = self.system.host;
        match bound.socket.downcast::<PortGuard>() {
            Ok(opened) => {
                let address = opened.address.clone();
                let key = self.insert(SlotEntry::Port(*opened));
                self.kernel().serve(host, &address, Intake::Open);
                Ok(key)
            }
            Err(other) => {
                let opened = other.downcast::<SocketGuard>().map_err(|_| {
                    io::Error::new(
                        io::ErrorKind::InvalidInput,
                        "cannot serve a port of another driver's world",
                    )
                })?;
                let address = opened.address.clone();
                let port = DatagramPort { opened: *opened, received_in: (0, 0) };
                let key = self.insert(SlotEntry::Datagrams(port));
                self.kernel().serve_socket(host, &address, Intake::Open);
                Ok(key)
            }
        }
    }

    fn send_datagrams(&mut self, key: Key, out: &mut DatagramQueue) -> DatagramsSent {
        let host = self.system.host;
        let address = self.datagram_port(key).opened.address.clone();
        let mut kernel = self.system.kernel.borrow_mut();
        while let Some(first) = out.first() {
            let to = (first.to, first.from);
            if let Err(error) = kernel.send_datagram(host, &address, to, first.data) {
                return DatagramsSent::Failed(error);
            }
            out.pop(1);
        }
        DatagramsSent::All
    }

    fn set_membership(&mut self, key: Key, group: &Group, change: Membership) -> io::Result<()> {
        let host = self.system.host;
        let address = self.datagram_port(key).opened.address.clone();
        self.kernel().set_membership(host, &address, group, change)
    }

    fn connect(&mut self, to: &Address, options: &ConnectOptions) -> io::Result<Key> {
        let host = self.system.host;
        let end = self.kernel().connect(host, to.clone(), options.bind)?;
        Ok(self.insert_stream(end))
    }

    fn adopt(&mut self, adopted: driver::Adopted) -> io::Result<Key> {
        let end = detached::end_of(adopted, &self.system)?;
        let key = self.insert_stream(end);
        self.kernel().attach(end);
        Ok(key)
    }

    fn can_release(&self, key: Key) -> bool {
        self.end_of(key).is_some()
    }

    fn release(&mut self, key: Key) -> io::Result<Released> {
        let end = self.stream(key).end;
        let (local, peer) = self.kernel().addresses(end).ok_or(io::ErrorKind::InvalidInput)?;
        self.free(key);
        self.kernel().detach(key, end);
        Ok(Released::InWorld(detached::adopted(&self.system, end, peer, local)))
    }

    fn receive(&mut self, key: Key, on: bool) {
        let (host, intake) = (self.system.host, Intake::new(on));
        match self.entry(key) {
            SlotEntry::Port(opened) => {
                let address = opened.address.clone();
                self.kernel().serve(host, &address, intake);
            }
            SlotEntry::Datagrams(port) => {
                let address = port.opened.address.clone();
                self.kernel().serve_socket(host, &address, intake);
            }
            SlotEntry::Stream(stream) => {
                stream.intake = intake;
                let end = stream.end;
                if on {
                    self.kernel().queue_if_ready(end);
                }
            }
        }
    }

    fn shut_write(&mut self, key: Key) {
        let end = self.stream(key).end;
        self.kernel().shut_write(end);
    }

    fn close(&mut self, key: Key, mode: CloseMode) {
        if let Some(SlotEntry::Stream(stream)) = self.free(key) {
            self.kernel().close(stream.end, mode);
        }
    }

    fn peer_has_ended(&self, key: Key) -> bool {
        let end = self.end_of(key);
        end.is_some_and(|end| self.kernel().end(end).is_some_and(|end| end.fin))
    }

    fn unsent(&self, key: Key) -> Option<usize> {
        self.end_of(key).map(|end| self.kernel().unsent(end))
    }

    fn set_option(&mut self, key: Key, option: SocketOption) -> io::Result<()> {
        let SlotEntry::Stream(stream) = self.entry(key) else { return Ok(()) };
        let end = stream.end;
        let is_local = self.kernel().addresses(end).is_some_and(|(at, _)| at.unix().is_some());
        let kind = if is_local { SocketKind::Unix } else { SocketKind::Tcp };
        match option {
            _ if !option.applies_to(kind) => {}
            SocketOption::KeepAlive(Some(Duration::ZERO)) => {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            SocketOption::KeepAlive(idle) => self.kernel().keep_alive(end, idle),
            SocketOption::ResetUnlessClosed(on) => {
                let mode = if on { CloseMode::Reset } else { CloseMode::Normal };
                self.kernel().set_close_on_kill(end, mode);
            }
            _ => {}
        }
        Ok(())
    }

    fn resolve(&mut self, ticket: Ticket, name: &str) {
        let host = self.system.host;
        self.kernel().resolve(host, ticket, name);
    }

    fn forget(&mut self, ticket: Ticket) {
        let host = self.system.host;
        self.kernel().forget_lookup(host, ticket);
    }

    fn run_blocking(&mut self, ticket: Ticket, job: Job) {
        let host = self.system.host;
        self.kernel().run_blocking(host, ticket, job);
    }

    fn forget_job(&mut self, ticket: Ticket) {
        let host = self.system.host;
        // Dropping the job runs user code, so no borrow may be held.
        let job = self.kernel().forget_job(host, ticket);
        drop(job);
    }

    fn waker(&self) -> Waker {
        self.kernel().woken_hosts.waker(self.system.host)
    }

    fn watch_signals(&mut self, _: bool) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::*;

    #[test]
    fn the_open_keys_of_a_host_are_counted() {
        let kernel = Rc::new(RefCell::new(Kernel::new(1)));
        let host = kernel.borrow_mut().add_host("a");
        let mut driver = SimDriver::standalone(&kernel, host, 1024);
        let keys = [80, 81, 82].map(|port| {
            let address = Address::from(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
            let bound = driver.system.bind(&address, &ListenOptions::default());
            driver.listen(bound.expect("a free port")).expect("a key")
        });
        driver.close(keys[1], CloseMode::Normal);
        assert_eq!(kernel.borrow().hosts[host as usize].keys, 2);
    }
}
