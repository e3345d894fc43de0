//! Programs at the other end of adopted connections that must end with them. The end of a run waits
//! for them to exit, and kills the remaining ones.
//!
//! Contract: 145c.

use std::any::Any;
use std::rc::Rc;

use crate::error::Reason;
use crate::panics::contain;
use crate::sorted::SortedMap;

/// A program at the other end of an adopted connection.
pub(crate) trait Dependent: Any {
    /// Called when the program's connection is lost, with the reason if the connection was made.
    /// Called at least once.
    fn lost(self: Rc<Self>, reason: Option<&Reason>);

    /// The run is over: the program must end.
    fn kill(&self);
}

/// Identifies a dependent of a loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DependentId(u64);

/// The dependents of a loop that have not exited.
#[derive(Default)]
pub(super) struct Dependents {
    next: u64,
    running: SortedMap<DependentId, Rc<dyn Dependent>>,
}

impl Dependents {
    pub(super) fn add(&mut self, dependent: Rc<dyn Dependent>) -> DependentId {
        self.next += 1;
        let id = DependentId(self.next);
        self.running.insert(id, dependent);
        id
    }

    pub(super) fn remove(&mut self, id: DependentId) -> Option<Rc<dyn Dependent>> {
        self.running.remove(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.running.len()
    }

    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Rc<dyn Dependent>> + use<> {
        std::mem::take(&mut self.running).into_values()
    }
}

/// Reports the loss of a connection to its dependent, even if the connection is never made.
pub(super) struct DependentGuard(pub(super) Rc<dyn Dependent>);

impl Drop for DependentGuard {
    fn drop(&mut self) {
        contain("the loss of a program's connection", || self.0.clone().lost(None));
    }
}
