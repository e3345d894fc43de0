//! The limits of a loop on its connections and on their unsent output: [`LoadLimits`].
//!
//! Contract: 22e, 71b, 71c.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;

use super::core::Core;
use super::table::{ConnectionEntry, Resource};
use crate::driver::{Commands, Key};
use crate::reactor::capacity::Reserved;
use crate::reactor::options::{LoadLimits, high};
use crate::reactor::port::PortCell;
use crate::transport::cell::mode;
use crate::transport::connection::Life;

/// The limited resources of a loop: its connections and their unsent output.
pub(super) struct Load {
    limits: LoadLimits,
    /// Connections whose output the driver did not take at once.
    // Each connection once: `mode::WAITS`.
    waiting: Vec<Key>,
    /// Their output, in bytes, when it was last measured.
    buffered: usize,
    /// The ports with limits whose connections are among them.
    ports: Vec<Rc<PortCell>>,
    /// The connections that the loop's [`Capacity`](crate::reactor::capacity::Capacity) counts as its own.
    counted: usize,
}

/// The output of a connection.
struct Waiting {
    bytes: usize,
    key: Key,
    /// The groups that it belongs to.
    groups: [Option<Group>; 4],
}

/// Connections with a common limit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    Loop,
    Peer(IpAddr),
    Port(*const PortCell),
    PeerOfPort(*const PortCell, IpAddr),
}

/// The output of a group, in bytes.
struct GroupOutput {
    most: usize,
    all: usize,
    /// The output of connections that are not held back.
    moving: usize,
}

impl GroupOutput {
    fn is_above_limit(&self) -> bool {
        self.all > self.most
    }

    fn is_high(&self) -> bool {
        self.moving > high(self.most)
    }
}

type Outputs = BTreeMap<Group, GroupOutput>;

impl Load {
    pub(super) fn new(limits: LoadLimits) -> Load {
        let (waiting, ports) = (Vec::new(), Vec::new());
        Load { limits, waiting, buffered: 0, ports, counted: 0 }
    }

    /// Whether output waits that is to be counted at the end of the turn.
    #[inline]
    pub(super) fn is_counting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether the loop has so much output that it accepts no connections.
    fn is_high(&self) -> bool {
        self.limits.buffered.is_some_and(|most| self.buffered > high(most))
    }
}

/// The groups of a connection, with the limits on their output in bytes.
fn limits_of(limits: LoadLimits, entry: &ConnectionEntry) -> [Option<(Group, usize)>; 4] {
    let peer = entry.life.cell().peer.socket_addr().map(|address| address.ip());
    let port = entry.origin.port().map(|port| (Rc::as_ptr(port), port.options()));
    [
        Some((Group::Loop, limits.buffered.unwrap_or(usize::MAX))),
        limits.buffered_by_peer.and_then(|most| Some((Group::Peer(peer?), most))),
        port.and_then(|(port, options)| Some((Group::Port(port), options.buffered?))),
        port.and_then(|(port, options)| {
            Some((Group::PeerOfPort(port, peer?), options.buffered_by_peer?))
        }),
    ]
}

impl Core {
    /// Replaces the limits.
    pub(super) fn set_load_limits(&mut self, io: &mut dyn Commands, limits: LoadLimits) {
        self.load.limits = limits;
        if limits.counts_output() {
            // A port with a limit may have set this before.
            self.records.counts_output.set(true);
            self.find_waiting();
        }
        let counted = limits.connections.map_or(0, |_| self.table.connections());
        self.records.capacity.set_most(limits.connections);
        self.records.capacity.recount(self.load.counted, counted);
        self.load.counted = counted;
        self.apply_load(io);
    }

    /// Lists the connections whose output was not counted so far.
    fn find_waiting(&mut self) {
        for (key, resource) in self.table.iter() {
            let Resource::Connection(entry) = resource else { continue };
            let cell = entry.life.cell();
            if cell.unsent() > 0 && !cell.has_mode(mode::WAITS) {
                cell.set_mode(mode::WAITS, true);
                self.load.waiting.push(key);
            }
        }
    }

    /// A connection has output that waits for the driver.
    pub(super) fn add_waiting(&mut self, key: Key) {
        self.load.waiting.push(key);
    }

    /// Applies the limits on unsent output: above three quarters of one, pauses the producers of the
    /// largest buffers; above the limit, ends the connections with the largest buffers.
    pub(super) fn relieve(&mut self, io: &mut dyn Commands) {
        if self.load.waiting.is_empty() && self.load.buffered == 0 {
            return;
        }
        let (mut waiting, mut outputs) = self.measure();
        if outputs.values().any(GroupOutput::is_high) {
            waiting.sort_by_key(|one| Reverse(one.bytes));
            for Waiting { bytes, key, groups } in waiting {
                let groups = groups.iter().flatten();
                let ends = groups.clone().any(|group| outputs[group].is_above_limit());
                let waits = groups.clone().any(|group| outputs[group].is_high());
                for group in groups {
                    let output = outputs.get_mut(group).expect("it was measured");
                    output.all -= if ends { bytes } else { 0 };
                    output.moving -= if ends || waits { bytes } else { 0 };
                }
                if ends {
                    self.shed(io, key, bytes);
                } else if waits {
                    self.with_life(io, key, Life::hold_back);
                }
            }
        }
        let output = |group| outputs.get(&group).map_or(0, |output| output.all);
        self.load.buffered = output(Group::Loop);
        self.load.ports.retain(|port| port.set_output(output(Group::Port(Rc::as_ptr(port)))));
        self.apply_load(io);
    }

    /// Measures the output of the connections that wait, and forgets those that no longer do.
    fn measure(&mut self) -> (Vec<Waiting>, Outputs) {
        let mut keys = std::mem::take(&mut self.load.waiting);
        let mut waiting = Vec::with_capacity(keys.len());
        let mut outputs = Outputs::new();
        keys.retain(|&key| {
            let Some(entry) = self.table.connection(key) else { return false };
            let cell = entry.life.cell();
            if cell.unsent() == 0 {
                cell.set_mode(mode::WAITS, false);
                return false;
            }
            let bytes = cell.held();
            let limits = limits_of(self.load.limits, entry);
            for (group, most) in limits.into_iter().flatten() {
                let output =
                    outputs.entry(group).or_insert(GroupOutput { most, all: 0, moving: 0 });
                output.all += bytes;
                output.moving += bytes;
            }
            if let Some(port) = entry.origin.port().filter(|port| port.limits_output())
                && !self.load.ports.iter().any(|other| Rc::ptr_eq(other, port))
            {
                self.load.ports.push(port.clone());
            }
            waiting.push(Waiting { bytes, key, groups: limits.map(|limit| Some(limit?.0)) });
            true
        });
        self.load.waiting = keys;
        (waiting, outputs)
    }

    #[cold]
    fn shed(&mut self, io: &mut dyn Commands, key: Key, bytes: usize) {
        let Some(entry) = self.table.connection(key) else { return };
        let cell = entry.life.cell();
        tracing::warn!(connection = %cell.id(), peer = %cell.peer, bytes, "too much output waits: a connection is ended");
        self.counters.shed += 1;
        self.with_life(io, key, Life::shed);
    }

    /// Has ports accept, or stop accepting, as the load says.
    pub(super) fn apply_load(&mut self, io: &mut dyn Commands) {
        let is_high = self.records.capacity.is_full() || self.load.is_high();
        if self.records.holds_ports.replace(is_high) == is_high {
            return;
        }
        tracing::debug!(held = is_high, "the load of a loop holds its ports");
        for key in self.table.keys(|resource| matches!(resource, Resource::Port(_))) {
            if let Some(Resource::Port(port)) = self.table.resource(key) {
                port.request_held();
                io.receive(key, !port.is_held());
            }
        }
    }

    /// The number of connections has changed.
    #[inline]
    pub(super) fn count_load(&mut self, io: &mut dyn Commands) {
        if self.load.limits.connections.is_some() {
            let now = self.table.connections();
            self.records.capacity.recount(self.load.counted, now);
            self.load.counted = now;
            self.apply_load(io);
        }
    }

    /// A connection from another loop has arrived, and keeps the place that was reserved for it.
    pub(super) fn count_arriving(&mut self, place: Option<Reserved>) {
        if let (Some(place), Some(_)) = (place, self.load.limits.connections) {
            place.keep();
            self.load.counted += 1;
        }
    }
}
