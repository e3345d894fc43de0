//! [`Note`]: a line of a program's own in the snapshots of its loop.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use crate::recorder::Reactor;

/// A line in the [snapshots](Reactor::snapshot) of a loop, until this is dropped.
pub struct Note {
    notes: Rc<Notes>,
    number: u64,
}

/// The lines of a loop's snapshots.
#[derive(Default)]
pub(super) struct Notes {
    next: Cell<u64>,
    // Bound: one for each `Note`; owned by the user.
    lines: RefCell<BTreeMap<u64, String>>,
}

impl Notes {
    pub(super) fn lines(&self) -> Vec<String> {
        self.lines.borrow().values().filter(|line| !line.is_empty()).cloned().collect()
    }
}

impl Reactor {
    /// Adds a line to the [snapshots](Self::snapshot) of this loop, such as the number of members of
    /// a chat. It is empty, and not shown, until it is [set](Note::set).
    ///
    /// ```
    /// # couplet::run_until(|reactor| {
    /// let members = reactor.note();
    /// members.set("members     12");
    /// # reactor.snapshot().map(move |snapshot| {
    /// #     assert_eq!(snapshot.notes, ["members     12"]);
    /// #     drop(members);
    /// # })
    /// # })?;
    /// # Ok::<(), couplet::Failure>(())
    /// ```
    pub fn note(&self) -> Note {
        let notes = self.records().notes.clone();
        let number = notes.next.get();
        notes.next.set(number + 1);
        Note { notes, number }
    }
}

impl Note {
    /// Sets the line, in place of the one before.
    pub fn set(&self, line: impl Into<String>) {
        let line = line.into().replace('\n', " ");
        self.notes.lines.borrow_mut().insert(self.number, line);
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        self.notes.lines.borrow_mut().remove(&self.number);
    }
}

impl fmt::Debug for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Note").field(&self.notes.lines.borrow().get(&self.number)).finish()
    }
}
