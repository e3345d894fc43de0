//! Maps the driver's keys to the loop's resources. The driver's slots are dense, so the map is a
//! vector.
//!
//! Contract: 50.

use std::rc::Rc;

use crate::connector::ConnectorCell;
use crate::datagrams::DatagramCell;
use crate::driver::Key;
use crate::factory::{FactorySlot, Seat};
use crate::layers::Side;
use crate::panics::Contained;
use crate::reactor::adopting::OpeningAdoption;
use crate::reactor::dependents::DependentGuard;
use crate::reactor::drain::DrainOutcome;
use crate::reactor::port::PortCell;
use crate::reactor::sharing::Counted;
use crate::slots::Slots;
use crate::timers::TimerKey;
use crate::transport::cell::ConnectionCell;
use crate::transport::connection::Life;

pub(super) enum Resource {
    Port(Rc<PortCell>),
    Datagrams(Rc<DatagramCell>),
    Connection(Box<ConnectionEntry>),
}

/// One connection, as the loop holds it.
pub(super) struct ConnectionEntry {
    pub(super) life: Life,
    pub(super) origin: Origin,
    pub(super) drain_outcome: DrainOutcome,
    /// `Some` until the connection's layers are open.
    pub(super) opening: Option<Box<OpeningConnection>>,
    /// Fires at the connection's deadline or before.
    pub(super) timer: Option<TimerKey>,
    /// The connection is on the list of connections to write.
    pub(super) to_write: bool,
    /// The connection is on the list of records for the keeper.
    pub(super) to_keep: bool,
    /// The connection's due calls are queued.
    pub(super) queued: bool,
}

/// The origin of a connection.
pub(super) enum Origin {
    /// The port that accepted it.
    Port(Rc<PortCell>),
    /// The port that accepted it, if several loops share the port's socket.
    Shared(Box<(Rc<PortCell>, Counted)>),
    /// A connector that does not have the connection yet.
    Connecting,
    /// The connector that made the connection.
    Connector(Rc<ConnectorCell>),
    /// The user's own socket, with the program that ends with it, if any.
    Adopted(Option<Box<DependentGuard>>),
}

impl Origin {
    /// The port that accepted the connection.
    pub(super) fn port(&self) -> Option<&Rc<PortCell>> {
        match self {
            Origin::Port(port) => Some(port),
            Origin::Shared(shared) => Some(&shared.0),
            Origin::Connecting | Origin::Connector(_) | Origin::Adopted(_) => None,
        }
    }

    /// Whether another process can continue the connection: this program accepted it.
    pub(super) fn is_accepted(&self) -> bool {
        matches!(self, Origin::Port(_) | Origin::Shared(_) | Origin::Adopted(None))
    }
}

impl ConnectionEntry {
    pub(super) fn new(life: Life) -> ConnectionEntry {
        ConnectionEntry {
            life,
            origin: Origin::Connecting,
            drain_outcome: DrainOutcome::Finished,
            opening: None,
            timer: None,
            to_write: false,
            to_keep: false,
            queued: false,
        }
    }
}

/// The port, connector or adoption whose connection is opening.
pub(super) enum Opening {
    Port(Rc<PortCell>),
    Connector(Rc<ConnectorCell>),
    Adoption(OpeningAdoption),
}

impl Opening {
    pub(super) fn side(&self) -> Side {
        match self {
            Opening::Connector(_) => Side::Connected,
            Opening::Port(_) | Opening::Adoption(_) => Side::Accepted,
        }
    }

    /// The origin of the connection.
    pub(super) fn origin(&mut self) -> Origin {
        match self {
            Opening::Port(port) => Origin::Port(port.clone()),
            Opening::Connector(_) => Origin::Connecting,
            Opening::Adoption(adopting) => Origin::Adopted(adopting.attached.take().map(Box::new)),
        }
    }

    pub(super) fn factory(&self) -> &FactorySlot {
        match self {
            Opening::Port(port) => &port.factory,
            Opening::Connector(connector) => &connector.factory,
            Opening::Adoption(adopting) => &adopting.factory,
        }
    }
}

/// A connection that is opening, with its owner and the seat that it holds until it is open.
pub(super) struct OpeningConnection {
    pub(super) opening: Opening,
    pub(super) seat: Contained<Seat>,
}

/// Maximum number of connections kept for reuse.
const SPARES: usize = 64;

pub(super) struct Table {
    resources: Slots<Resource>,
    connections: usize,
    /// Closed connections without remaining handles; the next connections reuse their memory.
    // At most 64 closed connections, without their users' objects.
    #[expect(clippy::vec_box, reason = "it is the boxes that are reused")]
    spares: Vec<Box<ConnectionEntry>>,
    /// Connections and ports to write in step 7.
    to_write: Vec<Key>,
}

impl Table {
    pub(super) fn new() -> Table {
        Table { resources: Slots::new(), connections: 0, spares: Vec::new(), to_write: Vec::new() }
    }

    pub(super) fn put(&mut self, key: Key, resource: Resource) {
        self.connections += usize::from(matches!(resource, Resource::Connection(_)));
        self.resources.put(key, resource);
    }

    #[inline]
    pub(super) fn resource(&mut self, key: Key) -> Option<&mut Resource> {
        self.resources.get_mut(key)
    }

    #[inline]
    pub(super) fn connection(&mut self, key: Key) -> Option<&mut ConnectionEntry> {
        match self.resources.get_mut(key) {
            Some(Resource::Connection(entry)) => Some(entry),
            _ => None,
        }
    }

    /// Removes the key's resource.
    pub(super) fn take(&mut self, key: Key) -> Option<Resource> {
        let resource = self.resources.retire(key)?;
        self.connections -= usize::from(matches!(resource, Resource::Connection(_)));
        Some(resource)
    }

    /// Drops the user's objects of a removed connection, and keeps the memory for reuse.
    pub(super) fn retire(&mut self, mut entry: Box<ConnectionEntry>) {
        entry.life.retire();
        if self.spares.len() < SPARES && entry.life.cell_mut().is_some() {
            self.spares.push(entry);
        }
    }

    /// Creates a connection, if possible in the memory of a closed one.
    pub(super) fn new_entry(&mut self, cell: ConnectionCell) -> Box<ConnectionEntry> {
        if let Some(mut entry) = self.spares.pop()
            && let Some(place) = entry.life.cell_mut()
        {
            *place = cell;
            let life = Life::new(entry.life.cell().clone());
            *entry = ConnectionEntry::new(life);
            return entry;
        }
        Box::new(ConnectionEntry::new(Life::new(Rc::new(cell))))
    }

    pub(super) fn contains(&self, key: Key) -> bool {
        self.resources.get(key).is_some()
    }

    pub(super) fn connections(&self) -> usize {
        self.connections
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &Resource)> {
        self.resources.iter()
    }

    /// The open connections.
    pub(super) fn lives_mut(&mut self) -> impl Iterator<Item = &mut Life> {
        self.resources.values_mut().filter_map(|resource| match resource {
            Resource::Connection(entry) => Some(&mut entry.life),
            Resource::Port(_) | Resource::Datagrams(_) => None,
        })
    }

    pub(super) fn keys(&self, which: impl Fn(&Resource) -> bool) -> Vec<Key> {
        self.iter().filter(|(_, resource)| which(resource)).map(|(key, _)| key).collect()
    }

    /// Queues a connection or a datagram port for step 7, which its flag must not say already.
    #[inline]
    pub(super) fn queue_write(&mut self, key: Key) {
        self.to_write.push(key);
    }

    /// The number of connections and ports to write.
    pub(super) fn writes(&self) -> usize {
        self.to_write.len()
    }

    #[inline]
    pub(super) fn has_writes(&self) -> bool {
        !self.to_write.is_empty()
    }

    pub(super) fn take_writes(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.to_write)
    }

    /// Keeps the capacity of a list that was written: no protocol has been called since it was taken,
    /// so no writes were queued.
    pub(super) fn recycle_writes(&mut self, list: Vec<Key>) {
        debug_assert!(self.to_write.is_empty(), "a protocol wrote during step 7");
        debug_assert!(list.is_empty(), "output was left unsent");
        self.to_write = list;
    }

    /// Asserts the invariants at the end of a turn.
    #[cfg(debug_assertions)]
    pub(super) fn check(&self) {
        assert!(self.to_write.is_empty(), "output was left unsent");
        if self.connections > 64 {
            return;
        }
        let mut connections = 0;
        for (key, resource) in self.resources.iter() {
            let Resource::Connection(entry) = resource else { continue };
            connections += 1;
            assert!(!entry.to_write, "{key:?} is marked for writing but not listed");
        }
        assert_eq!(connections, self.connections, "the table counts its connections");
    }

    /// Frees the memory of removed connections.
    pub(super) fn shrink(&mut self) {
        self.resources.shrink();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::driver::{LocalEnd, SocketOption};
    use crate::{Loop, Protocol, Reactor, Transport};

    struct Nobody;

    impl Protocol for Nobody {
        fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    }

    #[test]
    fn a_stale_key_names_nothing_after_its_slot_is_reused() {
        let mut l = Loop::new().expect("a loop");
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        l.reactor().listen(any, || Nobody).expect("a free port");
        l.turn(Some(Duration::ZERO)).expect("it listens");
        let before = l.core.table.keys(|_| true)[0];
        let generation = before.generation.checked_add(1).expect("a small number");
        let now = Key { generation, ..before };
        let port = l.core.table.take(before).expect("the port");
        l.core.table.put(now, port);
        assert!(l.core.table.resource(before).is_none() && !l.core.table.contains(before));
        assert!(l.core.table.take(before).is_none());
        assert!(l.core.table.resource(now).is_some() && l.core.table.contains(now));
    }

    /// A connection without a loop.
    fn made(table: &mut Table) -> Box<ConnectionEntry> {
        let reactor = Reactor::without_a_loop();
        let key = Key { slot: 0, generation: std::num::NonZeroU32::MIN };
        let place = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        let cell = ConnectionCell::new(key, reactor, place.into(), LocalEnd::from(place));
        table.new_entry(cell)
    }

    #[test]
    fn a_connection_takes_the_memory_of_one_that_has_ended() {
        let mut table = Table::new();
        let mut first = made(&mut table);
        let memory = (&raw const *first, Rc::as_ptr(first.life.cell()));
        let transport = Transport { cell: first.life.cell().clone() };
        transport.set_option(SocketOption::ResetUnlessClosed(true));
        drop(transport);
        first.drain_outcome = DrainOutcome::Aborted;
        (first.to_write, first.to_keep, first.queued) = (true, true, true);
        table.retire(first);
        let second = made(&mut table);
        assert_eq!(second.drain_outcome, DrainOutcome::Finished);
        assert!(!second.to_write && !second.to_keep && !second.queued);
        assert_eq!((&raw const *second, Rc::as_ptr(second.life.cell())), memory);
        assert!(!second.life.cell().reset_unless_closed() && !second.life.cell().has_requests());
    }

    #[test]
    fn a_connection_whose_handle_was_kept_is_not_reused() {
        let mut table = Table::new();
        let first = made(&mut table);
        let kept = first.life.cell().clone();
        table.retire(first);
        let second = made(&mut table);
        assert!(!Rc::ptr_eq(second.life.cell(), &kept));
    }

    #[test]
    fn a_crowd_that_ends_leaves_a_bounded_number_for_reuse() {
        let mut table = Table::new();
        let crowd: Vec<_> = (0..2 * SPARES).map(|_| made(&mut table)).collect();
        crowd.into_iter().for_each(|entry| table.retire(entry));
        assert_eq!(table.spares.len(), SPARES);
    }
}
