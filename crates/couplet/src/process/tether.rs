//! A program and its connection, which end together: see [`WhenLost`].
//!
//! The connection is over: the program reads the end of its input; then comes SIGTERM, and after the grace
//! SIGKILL, for its whole process group. The program has exited: its connection ends with what it has
//! written.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::{Process, ProcessEnd, ProcessProtocol, ProcessSignal};
use crate::driver::SocketOption;
use crate::error::Reason;
use crate::reactor::{Dependent, DependentId};
use crate::transport::Transport;

/// The time after which a program is killed, unless set otherwise.
const GRACE: Duration = Duration::from_secs(5);
/// The end of a run waits so long for a program that was killed: the system may be slow to end it.
const KILLED: Duration = Duration::from_secs(1);

/// The fate of a program whose connection is lost.
///
/// A program that has exited ends its connection in either case, once everything that it has written is
/// received, even if programs that it has started have its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenLost {
    /// It ends, and so does its process group, which it leads. A connection that was closed leaves it this
    /// time to read the end of its input and to exit; then, or immediately if the connection was aborted
    /// or broke off, comes SIGTERM; and after the same time again SIGKILL. Those of its group that are left
    /// when it has exited are killed.
    ///
    /// The end of a run waits for it. If the program of this loop dies, it is killed (on Linux). Since it is
    /// in a group of its own, it can't read from the terminal that we run in, such as a password.
    End(Duration),
    /// It runs until it exits, longer than the run if need be.
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
    stream: RefCell<Stream>,
    /// Among the programs that the end of the run waits for.
    id: Cell<Option<DependentId>>,
}

/// The connection of a program.
enum Stream {
    Opening,
    Open(Transport),
    Lost,
}

impl Tether {
    /// Ties a program that was just started.
    pub(super) fn new(process: &Process, when_lost: WhenLost) -> Rc<Tether> {
        let (stream, id) = (RefCell::new(Stream::Opening), Cell::new(None));
        let tether = Rc::new(Tether { process: process.clone(), when_lost, stream, id });
        if let WhenLost::End(_) = when_lost {
            process.cell.ends_group.set(process.cell.leads_group);
            tether.id.set(Some(process.reactor().add_dependent(tether.clone())));
        }
        tether
    }

    pub(super) fn process(&self) -> &Process {
        &self.process
    }

    /// Its connection is made.
    pub(super) fn connected(&self, transport: &Transport) {
        if let stream @ Stream::Opening = &mut *self.stream.borrow_mut() {
            *stream = Stream::Open(transport.clone());
        }
        if self.process.end().is_some() {
            self.end_stream();
        }
    }

    /// The program has exited, or the run is over.
    fn exited(&self) {
        self.forget();
        self.end_stream();
    }

    /// Ends the connection once its output is received. Input that the program has not read is lost.
    fn end_stream(&self) {
        if let Stream::Open(transport) = &*self.stream.borrow() {
            transport.lose_write_connection();
            transport.set_socket_option(SocketOption::EndsWhenRead);
        }
    }

    /// To the whole group, if it leads one.
    fn signal(&self, signal: ProcessSignal) {
        let sent = match self.process.cell.leads_group {
            true => self.process.signal_group(signal),
            false => self.process.signal_process(signal),
        };
        if let Err(error) = sent {
            tracing::debug!(%error, %signal, "a program was not sent a signal");
        }
    }

    /// Does this after a while, if the program has not exited by then.
    fn then(self: Rc<Self>, after: Duration, step: impl FnOnce(Rc<Tether>) + 'static) {
        let process = self.process.clone();
        process.set_next_step(after, move || step(self));
    }

    /// Asks it to end, and kills it after the grace.
    fn ask(self: Rc<Self>, grace: Duration) {
        self.signal(ProcessSignal::TERM);
        self.then(grace, |tether| {
            tether.signal(ProcessSignal::KILL);
            tether.then(KILLED, |tether| {
                let process = &tether.process;
                log_warn!(?process, "a program was killed, and does not end");
                tether.forget();
            });
        });
    }

    /// The end of the run waits for it no longer.
    fn forget(&self) {
        if let Some(id) = self.id.take() {
            self.process.reactor().remove_dependent(id);
        }
    }
}

impl Dependent for Tether {
    fn lost(self: Rc<Self>, reason: Option<&Reason>) {
        let before = self.stream.replace(Stream::Lost);
        let WhenLost::End(grace) = self.when_lost else { return };
        if matches!(before, Stream::Lost) || self.process.end().is_some() {
            return;
        }
        match reason.is_some_and(Reason::is_clean) {
            true => self.then(grace, move |tether| tether.ask(grace)),
            false => self.ask(grace),
        }
    }

    fn kill(&self) {
        self.stream.replace(Stream::Lost);
        self.signal(ProcessSignal::KILL);
    }
}

/// Ends the connection of a program that has exited.
#[derive(Clone, Default)]
pub(super) struct Exits(Rc<OnceCell<Weak<Tether>>>);

impl Exits {
    pub(super) fn of(&self, tether: &Rc<Tether>) {
        self.0.get_or_init(|| Rc::downgrade(tether));
    }
}

impl ProcessProtocol for Exits {
    fn process_exited(&mut self, _: &Process, _: &ProcessEnd) {
        if let Some(tether) = self.0.get().and_then(Weak::upgrade) {
            tether.exited();
        }
    }
}
