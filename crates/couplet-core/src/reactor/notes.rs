//! [`Note`]: a line of a program's own in the snapshots of its loop.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

use super::snapshot::Snapshot;
use crate::panics::{contain, discard, discard_all};
use crate::recorder::Reactor;
use crate::sorted::SortedMap;

/// A line in the [snapshots](Reactor::snapshot) of a loop, until this is dropped.
pub struct Note {
    notes: Rc<Notes>,
    number: u64,
}

/// The lines of a loop's snapshots.
#[derive(Default)]
pub(super) struct Notes {
    next: Cell<u64>,
    lines: RefCell<SortedMap<u64, String>>,
    rows: RefCell<SortedMap<u64, MakeRows>>,
    revise: RefCell<Option<Revise>>,
}

/// Changes a snapshot before it is delivered.
type Revise = Rc<dyn Fn(&mut Snapshot)>;

/// Makes the present rows. User code.
type MakeRows = Rc<dyn Fn() -> Vec<NoteRow>>;

/// A row of a program's own in a [`Snapshot`](super::Snapshot): see
/// [`hooks::note_rows`](crate::hooks::note_rows).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NoteRow {
    /// The kind of row.
    pub view: &'static str,
    /// The names and values of its columns.
    pub fields: Vec<(&'static str, String)>,
}

impl fmt::Display for NoteRow {
    /// The view, the first value, and the others with their names.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<11}", self.view)?;
        for (number, (name, value)) in self.fields.iter().enumerate() {
            match number {
                0 => write!(f, " {value}")?,
                _ => write!(f, " {name} {value}")?,
            }
        }
        Ok(())
    }
}

impl Notes {
    pub(super) fn lines(&self) -> Vec<String> {
        self.lines.borrow().values().filter(|line| !line.is_empty()).cloned().collect()
    }

    /// Calls user code; a panic leaves out its rows.
    pub(super) fn rows(&self) -> Vec<NoteRow> {
        let makers: Vec<MakeRows> = self.rows.borrow().values().cloned().collect();
        let mut rows = Vec::new();
        for make in makers {
            contain("rows of a snapshot", || rows.extend(make()));
        }
        rows
    }

    /// Has the guest's function change a snapshot; a panic ends its changes.
    pub(super) fn revise(&self, snapshot: &mut Snapshot) {
        let revise = self.revise.borrow().clone();
        if let Some(revise) = revise {
            contain("revision of a snapshot", || revise(snapshot));
        }
    }

    /// The loop is dropped: drops the functions that make rows, which may refer to it.
    pub(super) fn end(&self) {
        discard("drop of the revision of a snapshot", self.revise.take());
        discard_all("drop of the rows of a snapshot", self.rows.take().into_values());
    }

    fn number(&self) -> u64 {
        self.next.replace(self.next.get() + 1)
    }
}

impl NoteRow {
    /// A row: names and values of its columns. The first column identifies the row in its view.
    pub fn new(
        view: &'static str,
        fields: impl IntoIterator<Item = (&'static str, String)>,
    ) -> NoteRow {
        NoteRow { view, fields: fields.into_iter().collect() }
    }
}

impl Reactor {
    /// Has `revise` change each snapshot before it is delivered.
    pub(crate) fn revise_snapshots(&self, revise: impl Fn(&mut Snapshot) + 'static) {
        let before = match self.is_dropped() {
            true => None,
            false => self.records().notes.revise.replace(Some(Rc::new(revise))),
        };
        discard("drop of the revision of a snapshot", before);
    }

    /// See [`hooks::note`](crate::hooks::note).
    pub(crate) fn note(&self) -> Note {
        let notes = self.records().notes.clone();
        Note { number: notes.number(), notes }
    }

    /// See [`hooks::note_rows`](crate::hooks::note_rows).
    pub(crate) fn note_rows(&self, rows: impl Fn() -> Vec<NoteRow> + 'static) -> Note {
        let note = self.note();
        if !self.is_dropped() {
            note.notes.rows.borrow_mut().insert(note.number, Rc::new(rows));
        }
        note
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
        let rows = self.notes.rows.borrow_mut().remove(&self.number);
        discard("drop of the rows of a snapshot", rows);
        self.notes.lines.borrow_mut().remove(&self.number);
    }
}

impl fmt::Debug for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Note").field(&self.notes.lines.borrow().get(&self.number)).finish()
    }
}
