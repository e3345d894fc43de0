//! The watches of foreign descriptors, by id.

use std::rc::Rc;

use crate::driver::{Ready, WatchId, World};
use crate::recorder::Source;
use crate::sorted::SortedMap;

/// The watches of a loop, by id.
#[derive(Default)]
pub(super) struct Watches {
    next: usize,
    cells: SortedMap<WatchId, Rc<dyn AnyWatch>>,
}

impl Watches {
    pub(super) fn len(&self) -> usize {
        self.cells.len()
    }

    pub(super) fn get(&self, id: WatchId) -> Option<Rc<dyn AnyWatch>> {
        self.cells.get(&id).cloned()
    }

    pub(super) fn remove(&mut self, id: WatchId) -> Option<Rc<dyn AnyWatch>> {
        self.cells.remove(&id)
    }

    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Rc<dyn AnyWatch>> + use<> {
        std::mem::take(&mut self.cells).into_values()
    }

    pub(super) fn insert(&mut self, id: WatchId, watch: Rc<dyn AnyWatch>) {
        self.cells.insert(id, watch);
    }

    /// Returns an unused id.
    pub(super) fn new_id(&mut self) -> WatchId {
        self.next += 1;
        WatchId(self.next)
    }
}

/// A watch of any source type.
pub(super) trait AnyWatch {
    /// Calls the callback; returns false when the watch has ended.
    fn ready(&self, world: &dyn World, ready: Ready) -> bool;
    /// Ends the watch, at the end of the run.
    fn end(&self, world: &dyn World);
    /// The source location of the request.
    fn place(&self) -> Source;
}
