//! Ends a program and its connection together: see [`WhenLost`].
//!
//! When the connection is lost, the program reads the end of its input; then its whole process
//! group gets SIGTERM, and after the grace period SIGKILL. When the program exits, its connection
//! ends after the program's remaining output.
//!
//! Contract: 145c, 145h.

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::{Group, Process, ProcessEnd, ProcessProtocol, ProcessSignal};
use crate::driver::SocketOption;
use crate::error::Reason;
use crate::reactor::{Dependent, DependentId};
use crate::transport::Transport;

/// The time before a program is killed, unless set otherwise.
const GRACE: Duration = Duration::from_secs(5);
/// How long the end of a run waits for a killed program, which the system may be slow to end.
const KILLED: Duration = Duration::from_secs(1);

/// The fate of a program whose connection is lost.
///
/// In both cases, a program that exits ends its connection once all its output is received, even if
/// programs that it started still hold the output open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenLost {
    /// The program and its process group, which it leads, are terminated. After a close, the
    /// program has this duration to read the end of its input and to exit. Then, or immediately if
    /// the connection was aborted or broke, it gets SIGTERM, and after the same duration again
    /// SIGKILL. A program that closes its input breaks nothing: its output is received to the end.
    /// Members of its group that remain when it has exited are killed.
    ///
    /// The end of a run waits for the program. If the process of this loop dies, the program is
    /// killed (on Linux). Since it is in its own process group, it can't read from our controlling
    /// terminal, for a password for example.
    End(Duration),
    /// The program runs until it exits, even beyond the end of the run.
    Keep,
}

impl Default for WhenLost {
    /// [`End`](WhenLost::End), with 5 s.
    fn default() -> WhenLost {
        WhenLost::End(GRACE)
    }
}

/// Ties a program to its connection.
pub(super) struct Tether {
    process: Process,
    when_lost: WhenLost,
    stream: RefCell<StreamState>,
    /// The tether's entry among the programs that the end of the run waits for.
    id: Cell<Option<DependentId>>,
}

/// The connection of a program.
enum StreamState {
    Opening,
    Open(Transport),
    Lost,
}

impl Tether {
    /// Ties a program that was just started.
    pub(super) fn new(process: &Process, when_lost: WhenLost) -> Rc<Tether> {
        let (stream, id) = (RefCell::new(StreamState::Opening), Cell::new(None));
        let tether = Rc::new(Tether { process: process.clone(), when_lost, stream, id });
        if let WhenLost::End(_) = when_lost {
            process.cell.end_group_with_child();
            tether.id.set(Some(process.reactor().add_dependent(tether.clone())));
        }
        tether
    }

    pub(super) fn process(&self) -> &Process {
        &self.process
    }

    /// Records that the connection is made.
    pub(super) fn connected(&self, transport: &Transport) {
        if let stream @ StreamState::Opening = &mut *self.stream.borrow_mut() {
            *stream = StreamState::Open(transport.clone());
        }
        if self.process.end().is_some() {
            self.end_stream();
        }
    }

    /// The program has exited, or the run is over.
    fn handle_exit(&self) {
        self.unregister();
        self.end_stream();
    }

    /// Ends the connection once the program's output is received. Input that the program has not
    /// read is lost.
    fn end_stream(&self) {
        if let StreamState::Open(transport) = &*self.stream.borrow() {
            transport.lose_write_connection();
            transport.set_option(SocketOption::EndsWhenRead);
        }
    }

    /// Sends a signal to the whole group, if the program leads one.
    fn signal(&self, signal: ProcessSignal) {
        let sent = match self.process.cell.group.get() {
            Group::Other => self.process.signal_process(signal),
            Group::Led | Group::Ending => self.process.signal_group(signal),
        };
        if let Err(error) = sent {
            tracing::debug!(%error, %signal, "cannot signal a program");
        }
    }

    /// Runs `step` after a delay, unless the program has exited by then.
    fn schedule(self: Rc<Self>, after: Duration, step: impl FnOnce(Rc<Tether>) + 'static) {
        let process = self.process.clone();
        process.set_next_step(after, move || step(self));
    }

    /// Sends SIGTERM, and SIGKILL after the grace period.
    fn terminate(self: Rc<Self>, grace: Duration) {
        self.signal(ProcessSignal::TERM);
        self.schedule(grace, |tether| {
            tether.signal(ProcessSignal::KILL);
            tether.schedule(KILLED, |tether| {
                let process = &tether.process;
                log_warn!(?process, "a killed program does not exit");
                tether.unregister();
            });
        });
    }

    /// Stops the end of the run from waiting for the program.
    fn unregister(&self) {
        if let Some(id) = self.id.take() {
            self.process.reactor().remove_dependent(id);
        }
    }
}

/// Whether the connection was closed, or ended by the program itself, which had closed its input.
fn is_orderly(reason: &Reason) -> bool {
    match reason {
        Reason::Lost(error) => error.kind() == io::ErrorKind::BrokenPipe,
        reason => reason.is_clean(),
    }
}

impl Dependent for Tether {
    fn lost(self: Rc<Self>, reason: Option<&Reason>) {
        let before = self.stream.replace(StreamState::Lost);
        let WhenLost::End(grace) = self.when_lost else { return };
        if matches!(before, StreamState::Lost) || self.process.end().is_some() {
            return;
        }
        match reason.is_some_and(is_orderly) {
            true => self.schedule(grace, move |tether| tether.terminate(grace)),
            false => self.terminate(grace),
        }
    }

    fn kill(&self) {
        self.stream.replace(StreamState::Lost);
        self.signal(ProcessSignal::KILL);
    }
}

/// Ends the connection when its program exits.
#[derive(Clone, Default)]
pub(super) struct ExitForwarder(Rc<OnceCell<Weak<Tether>>>);

impl ExitForwarder {
    pub(super) fn set_tether(&self, tether: &Rc<Tether>) {
        self.0.get_or_init(|| Rc::downgrade(tether));
    }
}

impl ProcessProtocol for ExitForwarder {
    fn process_exited(&mut self, _: &Process, _: &ProcessEnd) {
        if let Some(tether) = self.0.get().and_then(Weak::upgrade) {
            tether.handle_exit();
        }
    }
}
