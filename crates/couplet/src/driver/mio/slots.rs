//! The table of what a driver has open. A slot that was closed rests until the events of the last
//! wait are used up, so that none of them names what came into its place.

use mio::net::TcpStream;

use super::Mio;
use super::accepting::PortSlot;
use super::stream::StreamSlot;
use crate::driver::Key;

/// A table of fewer slots is not worth giving back.
const SHRINK: usize = 256;

pub(super) struct Slot {
    pub(super) generation: u32,
    /// Stands in the list of slots to look at in the next turn.
    pub(super) queued: bool,
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    Free,
    Port(Box<PortSlot>),
    Connecting(ConnectingSlot),
    Stream(StreamSlot),
}

pub(super) struct ConnectingSlot {
    pub(super) stream: TcpStream,
    /// The end of the stream, or an error, was announced together with the connection.
    pub(super) closing: bool,
}

impl Mio {
    /// The slot that the next [`insert`](Self::insert) takes.
    pub(super) fn next_slot_number(&self) -> usize {
        self.free.last().map_or(self.slots.len(), |slot| *slot as usize)
    }

    pub(super) fn insert(&mut self, kind: Kind) -> Key {
        self.generation = self.generation.wrapping_add(1);
        let entry = Slot { generation: self.generation, queued: false, kind };
        let slot = match self.free.pop() {
            Some(slot) => {
                let queued = self.slots[slot as usize].queued;
                self.slots[slot as usize] = Slot { queued, ..entry };
                slot
            }
            None => {
                self.slots.push(entry);
                (self.slots.len() - 1) as u32
            }
        };
        self.high_water = self.high_water.max(self.slots.len() - self.free.len());
        Key { slot, generation: self.generation }
    }

    /// The events of the last wait are used up: no more of them names a slot that was closed.
    #[inline(never)]
    pub(super) fn reuse_retired_slots(&mut self) {
        self.free.append(&mut self.retired);
        let used = self.slots.len() - self.free.len();
        if self.slots.len() >= SHRINK && used <= self.high_water / 2 {
            self.high_water = used;
            self.shrink();
        }
    }

    /// Gives back the room of connections that have left. What still named their slots is dropped.
    #[cold]
    pub(super) fn shrink(&mut self) {
        let used = |slot: &Slot| !matches!(slot.kind, Kind::Free);
        let len = self.slots.iter().rposition(used).map_or(0, |last| last + 1);
        if len <= self.slots.len() / 2 {
            let stays = |slot: &u32| (*slot as usize) < len;
            self.slots.truncate(len);
            self.slots.shrink_to_fit();
            self.free.retain(stays);
            self.free.shrink_to_fit();
            self.retired.shrink_to_fit();
            self.again.retain(stays);
            self.later.retain(stays);
            if let Some((_, ports)) = &mut self.retry {
                ports.retain(stays);
            }
        }
    }

    #[inline]
    pub(super) fn slot(&mut self, key: Key) -> Option<&mut Slot> {
        match self.slots.get_mut(key.slot as usize) {
            Some(slot) if slot.generation == key.generation => Some(slot),
            _ => None,
        }
    }

    #[inline]
    pub(super) fn stream(&mut self, key: Key) -> Option<&mut StreamSlot> {
        match &mut self.slot(key)?.kind {
            Kind::Stream(stream) => Some(stream),
            _ => None,
        }
    }

    pub(super) fn free_slot(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        entry.kind = Kind::Free;
        self.retired.push(slot);
    }

    /// Looks at the slot again in the next turn.
    pub(super) fn queue(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        if !entry.queued {
            entry.queued = true;
            self.later.push_back(slot);
        }
    }

    /// The next turn has begun: the slots that were queued for it.
    #[cold]
    pub(super) fn recall(&mut self) {
        for slot in self.later.drain(..) {
            self.slots[slot as usize].queued = false;
            self.again.push_back(slot);
        }
    }
}
