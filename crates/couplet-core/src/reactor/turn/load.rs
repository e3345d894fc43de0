//! The limits of a loop on its connections and on their unsent output: [`LoadLimits`].

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;

use super::core::Core;
use super::table::Resource;
use crate::driver::{Commands, Key};
use crate::reactor::options::LoadLimits;
use crate::reactor::room::Reserved;
use crate::transport::cell::mode;
use crate::transport::connection::Life;

/// The limited resources of a loop: its connections and their unsent output.
pub(super) struct Load {
    limits: LoadLimits,
    /// Connections whose output the driver did not take at once.
    // Bound: each connection once: `mode::WAITS`.
    waiting: Vec<Key>,
    /// Their output, in bytes, when it was last measured.
    buffered: usize,
    /// Number of connections that were ended.
    shed: u64,
    /// The connections that the loop's [`Room`](crate::reactor::room::Room) counts as its own.
    counted: usize,
}

/// The output of a connection.
struct Waiting {
    bytes: usize,
    key: Key,
    peer: Option<IpAddr>,
}

impl Load {
    pub(super) fn new(limits: LoadLimits) -> Load {
        Load { limits, waiting: Vec::new(), buffered: 0, shed: 0, counted: 0 }
    }

    pub(super) fn shed(&self) -> u64 {
        self.shed
    }

    /// Whether output waits that is to be counted at the end of the turn.
    #[inline]
    pub(super) fn is_counting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether the loop has so much output that it accepts no more connections.
    fn is_high(&self) -> bool {
        self.limits.buffered.is_some_and(|most| self.buffered > high(most))
    }
}

/// The part of a limit on bytes above which producers are paused.
fn high(most: usize) -> usize {
    most - most / 4
}

impl Core {
    /// Replaces the limits.
    pub(super) fn set_load_limits(&mut self, io: &mut dyn Commands, limits: LoadLimits) {
        let before = std::mem::replace(&mut self.load.limits, limits);
        self.records.counts_output.set(limits.counts_output());
        if limits.counts_output() && !before.counts_output() {
            self.find_waiting();
        }
        let counted = limits.connections.map_or(0, |_| self.table.connections());
        self.records.room.set_most(limits.connections);
        self.records.room.recount(self.load.counted, counted);
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
        let LoadLimits { buffered: most, buffered_by_peer: of_peer, .. } = self.load.limits;
        let mut waiting = self.measure();
        let mut by_peer: BTreeMap<IpAddr, usize> = BTreeMap::new();
        if of_peer.is_some() {
            for Waiting { bytes, peer, .. } in &waiting {
                if let Some(peer) = peer {
                    *by_peer.entry(*peer).or_default() += bytes;
                }
            }
        }
        let exceeds = |bytes: usize, most: Option<usize>| most.is_some_and(|most| bytes > most);
        let is_high = |bytes: usize, most: Option<usize>| exceeds(bytes, most.map(high));
        if is_high(self.load.buffered, most) || by_peer.values().any(|&n| is_high(n, of_peer)) {
            waiting.sort_by_key(|one| Reverse(one.bytes));
            // The output of connections that are neither ended nor held back.
            let mut moving = self.load.buffered;
            for Waiting { bytes, key, peer } in waiting {
                let mut unlisted = 0;
                let its = peer.and_then(|peer| by_peer.get_mut(&peer)).unwrap_or(&mut unlisted);
                if exceeds(self.load.buffered, most) || exceeds(*its, of_peer) {
                    self.load.buffered -= bytes;
                    moving -= bytes;
                    *its -= bytes.min(*its);
                    self.shed(io, key, bytes);
                } else if is_high(moving, most) || is_high(*its, of_peer) {
                    moving -= bytes;
                    self.with_life(io, key, Life::hold_back);
                }
            }
        }
        self.apply_load(io);
    }

    /// Measures the output of the connections that wait, and forgets those that no longer do.
    fn measure(&mut self) -> Vec<Waiting> {
        let mut keys = std::mem::take(&mut self.load.waiting);
        let mut waiting = Vec::with_capacity(keys.len());
        keys.retain(|&key| {
            let Some(entry) = self.table.connection(key) else { return false };
            let cell = entry.life.cell();
            let bytes = cell.unsent();
            if bytes == 0 {
                cell.set_mode(mode::WAITS, false);
                return false;
            }
            let peer = cell.peer.socket_addr().map(|address| address.ip());
            waiting.push(Waiting { bytes, key, peer });
            true
        });
        self.load.buffered = waiting.iter().map(|one| one.bytes).sum();
        self.load.waiting = keys;
        waiting
    }

    #[cold]
    fn shed(&mut self, io: &mut dyn Commands, key: Key, bytes: usize) {
        let Some(entry) = self.table.connection(key) else { return };
        let cell = entry.life.cell();
        tracing::warn!(connection = %cell.id(), peer = %cell.peer, bytes, "too much output waits: a connection is ended");
        self.load.shed += 1;
        self.with_life(io, key, Life::shed);
    }

    /// Has ports accept, or stop accepting, as the load says.
    pub(super) fn apply_load(&mut self, io: &mut dyn Commands) {
        let is_high = self.records.room.is_full() || self.load.is_high();
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
            self.records.room.recount(self.load.counted, now);
            self.load.counted = now;
            self.apply_load(io);
        }
    }

    /// A connection from another loop has arrived: its place is that of a connection of this one.
    pub(super) fn count_arriving(&mut self, place: Option<Reserved>) {
        if let (Some(place), Some(_)) = (place, self.load.limits.connections) {
            place.keep();
            self.load.counted += 1;
        }
    }
}
