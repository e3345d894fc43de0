//! The pipes of a child: each is a connection, whose protocol passes its bytes to the child's.

use super::{NotWritable, Process};
use crate::error::{By, Reason};
use crate::panics::contain;
use crate::protocol::Protocol;
use crate::transport::Transport;

/// A request made before the pipe is connected.
type Early = Box<dyn FnOnce(&Transport)>;

pub(super) enum PipeState {
    /// Law 9: what the user asks for until the next turn.
    Opening(Vec<Early>),
    Open(Transport),
    /// Could not be connected: is lost as soon as the others are.
    Failed,
    Closed,
}

/// The protocol of one pipe.
pub(super) struct ChildPipe {
    process: Process,
    number: i32,
}

impl ChildPipe {
    pub(super) fn new(process: Process, number: i32) -> ChildPipe {
        ChildPipe { process, number }
    }

    /// It is the standard input too.
    fn is_joined(&self) -> bool {
        self.number == 1 && self.process.cell.is_joined
    }
}

impl Protocol for ChildPipe {
    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        let ChildPipe { process, number } = self;
        process.call(|protocol| protocol.child_data_received(process, *number, data));
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        let input = self.is_joined().then_some(0);
        for number in input.into_iter().chain([self.number]) {
            if self.process.has_pipe(number) {
                self.process.pipe_lost(number, reason);
            }
        }
    }

    fn read_closed(&mut self, transport: &Transport) {
        if self.is_joined() && self.process.has_pipe(0) {
            // Its input may still be written.
            self.process.pipe_lost(self.number, &Reason::Done(By::Peer));
        } else {
            transport.lose_connection();
        }
    }

    fn write_closed(&mut self, transport: &Transport) {
        if self.is_joined() {
            self.process.pipe_lost(0, &Reason::Done(By::Us));
            if !self.process.has_pipe(self.number) {
                transport.lose_connection();
            }
        }
    }
}

impl Process {
    /// Writes to its standard input, or its terminal. Where that is closed it is dropped.
    pub fn write(&self, data: impl AsRef<[u8]>) {
        if let Err(error) = self.write_to_child(0, data) {
            tracing::debug!(%error, "dropped what was written to a process");
        }
    }

    /// Writes to one of its descriptors. Twisted's `writeToChild`.
    ///
    /// # Errors
    ///
    /// [`NotWritable`] when it is no pipe of ours, or is closed.
    pub fn write_to_child(&self, child_fd: i32, data: impl AsRef<[u8]>) -> Result<(), NotWritable> {
        let data = data.as_ref();
        match self.pipe(child_fd) {
            Some(transport) => {
                transport.write(data);
                Ok(())
            }
            None => {
                let data = data.to_vec();
                let is_early = self.later(child_fd, move |transport| transport.write(data));
                if is_early { Ok(()) } else { Err(NotWritable(child_fd)) }
            }
        }
    }

    /// The connection at one of its descriptors, until that is lost: for its flow control, its limits and
    /// its close. None before `connection_made`. A terminal is at 0 and 1.
    pub fn pipe(&self, child_fd: i32) -> Option<Transport> {
        match self.cell.pipes.borrow().get(&self.number_of(child_fd)) {
            Some(PipeState::Open(transport)) => Some(transport.clone()),
            _ => None,
        }
    }

    /// Closes the pipe at one of its descriptors, once everything is written. Doing so again is harmless.
    /// Twisted's `closeChildFD`.
    pub fn close_child_fd(&self, child_fd: i32) {
        let close = match self.cell.is_joined && child_fd == 0 {
            true => Transport::lose_write_connection,
            false => Transport::lose_connection,
        };
        match self.pipe(child_fd) {
            Some(transport) => close(&transport),
            None => {
                self.later(child_fd, close);
            }
        }
    }

    /// Closes its standard input: it reads to the end of what was written. A terminal stays open.
    pub fn close_stdin(&self) {
        if self.cell.terminal.borrow().is_none() {
            self.close_child_fd(0);
        }
    }

    /// Closes its standard output.
    pub fn close_stdout(&self) {
        self.close_child_fd(1);
    }

    /// Closes its standard error.
    pub fn close_stderr(&self) {
        self.close_child_fd(2);
    }

    /// Closes all its pipes, once everything is written. The process itself is not ended by this; a
    /// terminal that is closed hangs up on it.
    pub fn lose_connection(&self) {
        let numbers: Vec<i32> = self.cell.pipes.borrow().keys().copied().collect();
        numbers.into_iter().for_each(|number| self.close_child_fd(number));
    }

    /// Closes all its pipes immediately; what is still to be written is dropped. The process itself is not
    /// ended by this.
    pub fn abort_connection(&self) {
        let numbers: Vec<i32> = self.cell.pipes.borrow().keys().copied().collect();
        for number in numbers {
            match self.pipe(number) {
                Some(transport) => transport.abort_connection(),
                None => {
                    self.later(number, Transport::abort_connection);
                }
            }
        }
    }

    /// A terminal is one connection.
    fn number_of(&self, child_fd: i32) -> i32 {
        let is_terminal = self.cell.terminal.borrow().is_some();
        if is_terminal && child_fd == 0 { 1 } else { child_fd }
    }

    /// Asks a pipe for something once it is connected; false if it is not about to be.
    fn later(&self, child_fd: i32, f: impl FnOnce(&Transport) + 'static) -> bool {
        match self.cell.pipes.borrow_mut().get_mut(&self.number_of(child_fd)) {
            Some(PipeState::Opening(early)) => {
                early.push(Box::new(f));
                true
            }
            _ => false,
        }
    }

    /// There is a pipe of this number that was not lost.
    fn has_pipe(&self, number: i32) -> bool {
        let pipes = self.cell.pipes.borrow();
        !matches!(pipes.get(&number), None | Some(PipeState::Closed))
    }

    /// A pipe is connected, or can't be.
    pub(super) fn settled(&self, number: i32, made: Option<Transport>) {
        if number == 1 && self.cell.is_joined {
            self.settle(0, made.clone());
        }
        self.settle(number, made);
        let pipes = self.cell.pipes.borrow();
        if pipes.values().any(|pipe| matches!(pipe, PipeState::Opening(_))) {
            return;
        }
        let failed = pipes.iter().filter(|(_, pipe)| matches!(pipe, PipeState::Failed));
        let failed = failed.map(|(number, _)| *number).collect();
        drop(pipes);
        self.begin(failed);
    }

    fn settle(&self, number: i32, made: Option<Transport>) {
        let state = made.clone().map_or(PipeState::Failed, PipeState::Open);
        let before = self.cell.pipes.borrow_mut().insert(number, state);
        if let (Some(PipeState::Opening(early)), Some(transport)) = (before, made) {
            early.into_iter().for_each(|f| f(&transport));
        }
    }

    pub(super) fn pipe_lost(&self, number: i32, reason: &Reason) {
        self.cell.pipes.borrow_mut().insert(number, PipeState::Closed);
        if number == 1 {
            // With this the terminal hangs up.
            drop(self.cell.terminal.take());
        }
        contain("child_connection_lost", || {
            self.call(|protocol| protocol.child_connection_lost(self, number, reason));
        });
        self.check_end();
    }
}
