//! The row of a process in the snapshots of its loop.
//!
//! Contract: 180a.

use std::rc::Rc;

use super::{PipeState, Process, ProcessCell, Progress};
use crate::reactor::notes::{Note, NoteRow};

/// Shows a process in the snapshots of its loop, among the `children`, until the note is dropped.
pub(super) fn note(process: &Process) -> Note {
    let cell = Rc::downgrade(&process.cell);
    process.cell.reactor.note_rows(move || cell.upgrade().as_deref().map(row).into_iter().collect())
}

fn row(cell: &ProcessCell) -> NoteRow {
    let open: Vec<String> = cell
        .pipes
        .borrow()
        .iter()
        .filter(|(_, pipe)| !matches!(pipe, PipeState::Closed))
        .map(|(number, _)| number.to_string())
        .collect();
    let open = open.join(", ");
    let (state, why) = match &*cell.progress.borrow() {
        Progress::Running => ("running", "waits for its exit".to_owned()),
        Progress::Exited(end) | Progress::Ended(end) => {
            ("exited", format!("exited ({end}); waits for its pipes to be closed: {open}"))
        }
    };
    NoteRow::new(
        "children",
        [
            ("pid", cell.handle.pid().to_string()),
            ("command", cell.name.clone()),
            ("state", state.to_owned()),
            ("open", open),
            ("why", why),
        ],
    )
}
