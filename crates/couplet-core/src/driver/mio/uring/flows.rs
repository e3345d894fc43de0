//! The TCP connections of the driver: where their bytes are moved, and their operations.

use couplet_os::uring::Operation;

use crate::driver::Key;

/// Where a connection's bytes are moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// An operation of the ring receives, or will after the next wait has begun.
    Ring,
    /// The ring stops receiving once its operation has ended.
    Leaving,
    /// The mio driver reads when epoll reports bytes; `calm` small reads in a row so far.
    Epoll { calm: u8 },
    /// The connection enters the ring at the next wait, if it is still idle.
    Entering,
}

/// Output that the driver holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sending {
    pub(super) operation: Operation,
    pub(super) then: Then,
}

/// The next step once held output was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    Nothing,
    /// The loop has more.
    Room,
    /// A FIN.
    Fin,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Flow {
    key: Option<Key>,
    pub(super) place: Place,
    pub(super) receiving: Option<Operation>,
    pub(super) sending: Option<Sending>,
    /// The round of the last bytes, and how many bytes it has reported.
    round: u64,
    pub(super) share: usize,
}

impl Flow {
    pub(super) fn new(place: Place) -> Flow {
        Flow { key: None, place, receiving: None, sending: None, round: 0, share: 0 }
    }

    /// Begins a new share in another round.
    #[inline(always)]
    pub(super) fn begin_round(&mut self, round: u64) {
        if self.round != round {
            (self.round, self.share) = (round, 0);
        }
    }
}

/// The connections, by the slots of their keys.
#[derive(Debug, Default)]
pub(super) struct Flows {
    flows: Vec<Flow>,
    /// Connections from which nothing receives, or that enter the ring.
    unplaced: Vec<Key>,
}

impl Flows {
    #[inline(always)]
    pub(super) fn at(&mut self, key: Key) -> Option<&mut Flow> {
        self.flows.get_mut(key.slot as usize).filter(|flow| flow.key == Some(key))
    }

    #[inline(always)]
    pub(super) fn get(&self, key: Key) -> Option<&Flow> {
        self.flows.get(key.slot as usize).filter(|flow| flow.key == Some(key))
    }

    pub(super) fn insert(&mut self, key: Key, flow: Flow) {
        let at = key.slot as usize;
        if self.flows.len() <= at {
            self.flows.resize_with(at + 1, || Flow::new(Place::Ring));
        }
        self.flows[at] = Flow { key: Some(key), ..flow };
    }

    /// Removes a connection, with its operations.
    pub(super) fn remove(&mut self, key: Key) -> Option<Flow> {
        let flow = std::mem::replace(self.at(key)?, Flow::new(Place::Ring));
        while self.flows.pop_if(|last| last.key.is_none()).is_some() {}
        if self.flows.len() < self.flows.capacity() / 4 {
            self.flows.shrink_to(self.flows.len() * 2);
        }
        Some(flow)
    }

    /// No operation receives from the connection any more.
    pub(super) fn receive_ended(&mut self, key: Key) {
        if let Some(flow) = self.at(key) {
            flow.receiving = None;
            self.unplaced.push(key);
        }
    }

    /// The mio driver has read from the connection: `is_calm` after a small read that left nothing.
    /// After `enough` of them it enters the ring.
    pub(super) fn note_read(&mut self, key: Key, is_calm: bool, enough: u8) {
        let Some(flow) = self.at(key) else { return };
        let Place::Epoll { calm } = &mut flow.place else { return };
        *calm = if is_calm { *calm + 1 } else { 0 };
        if is_calm && *calm >= enough {
            self.enter(key);
        }
    }

    /// The connection enters the ring at the next wait.
    pub(super) fn enter(&mut self, key: Key) {
        if let Some(flow) = self.at(key) {
            flow.place = Place::Entering;
            self.unplaced.push(key);
        }
    }

    #[inline(always)]
    pub(super) fn next_unplaced(&mut self) -> Option<Key> {
        self.unplaced.pop()
    }

    pub(super) fn has_unplaced(&self) -> bool {
        !self.unplaced.is_empty()
    }
}
