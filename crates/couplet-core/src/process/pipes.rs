//! The pipes of a child. Each is a connection, whose protocol passes its bytes to the child's
//! protocol.
//!
//! Contract: 145h, 146, 146a, 153, 153b.

use super::{NotWritable, Process};
use crate::driver::ChildInput;
use crate::error::{By, Reason};
use crate::panics::contain;
use crate::protocol::Protocol;
use crate::transport::Transport;

/// A request made before the pipe is connected.
type EarlyRequest = Box<dyn FnOnce(&Transport)>;

pub(super) enum PipeState {
    Opening(Vec<EarlyRequest>),
    Open(Transport),
    /// Could not be connected; reported as lost once the other pipes are settled.
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

    /// Whether the pipe is the standard input too.
    fn is_joined(&self) -> bool {
        self.number == 1 && self.process.cell.is_joined()
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
            // The child's input is still writable.
            self.process.pipe_lost(self.number, &Reason::Done(By::Peer));
        } else {
            transport.lose_connection();
        }
    }

    fn write_closed(&mut self, transport: &Transport) {
        if self.is_joined() {
            let reason = transport.write_error().map_or(Reason::Done(By::Us), Reason::Lost);
            self.process.pipe_lost(0, &reason);
            if !self.process.has_pipe(self.number) {
                transport.lose_connection();
            }
        }
    }
}

impl Process {
    /// Writes to the child's standard input or terminal. If that is closed, the data is dropped.
    pub fn write(&self, data: impl AsRef<[u8]>) {
        if let Err(error) = self.write_to_child(0, data) {
            tracing::debug!(%error, "dropped a write to a process");
        }
    }

    /// Writes to a descriptor of the child. Twisted's `writeToChild`.
    ///
    /// # Errors
    ///
    /// [`NotWritable`] if the descriptor is not a pipe of ours, or is closed.
    pub fn write_to_child(&self, child_fd: i32, data: impl AsRef<[u8]>) -> Result<(), NotWritable> {
        let data = data.as_ref();
        match self.pipe(child_fd) {
            Some(transport) => {
                transport.write(data);
                Ok(())
            }
            None => {
                let data = data.to_vec();
                let is_early = self.queue_request(child_fd, move |transport| transport.write(data));
                if is_early { Ok(()) } else { Err(NotWritable(child_fd)) }
            }
        }
    }

    /// The connection at a descriptor of the child, until it is lost: for flow control, limits and
    /// closing. `None` before `connection_made`. A terminal is at both 0 and 1.
    pub fn pipe(&self, child_fd: i32) -> Option<Transport> {
        match self.cell.pipes.borrow().get(&self.number_of(child_fd)) {
            Some(PipeState::Open(transport)) => Some(transport.clone()),
            _ => None,
        }
    }

    /// Closes the pipe at a descriptor of the child once everything is written. Closing it again is
    /// harmless. Twisted's `closeChildFD`.
    pub fn close_child_fd(&self, child_fd: i32) {
        let close = match self.cell.is_joined() && child_fd == 0 {
            true => Transport::lose_write_connection,
            false => Transport::lose_connection,
        };
        match self.pipe(child_fd) {
            Some(transport) => close(&transport),
            None => {
                self.queue_request(child_fd, close);
            }
        }
    }

    /// Closes the child's standard input: the child reads all written bytes, then the end. A
    /// terminal stays open.
    pub fn close_stdin(&self) {
        if !self.cell.has_terminal() {
            self.close_child_fd(0);
        }
    }

    /// Closes the child's standard output.
    pub fn close_stdout(&self) {
        self.close_child_fd(1);
    }

    /// Closes the child's standard error.
    pub fn close_stderr(&self) {
        self.close_child_fd(2);
    }

    /// Closes all the child's pipes once everything is written. The child itself keeps running, but
    /// closing a terminal hangs up on it.
    pub fn lose_connection(&self) {
        let numbers: Vec<i32> = self.cell.pipes.borrow().keys().copied().collect();
        numbers.into_iter().for_each(|number| self.close_child_fd(number));
    }

    /// Closes all the child's pipes immediately and drops unwritten data. The child itself keeps
    /// running.
    pub fn abort_connection(&self) {
        let numbers: Vec<i32> = self.cell.pipes.borrow().keys().copied().collect();
        for number in numbers {
            match self.pipe(number) {
                Some(transport) => transport.abort_connection(),
                None => {
                    self.queue_request(number, Transport::abort_connection);
                }
            }
        }
    }

    /// The pipe's number: both directions of a terminal are at 1.
    fn number_of(&self, child_fd: i32) -> i32 {
        if child_fd == 0 && self.cell.has_terminal() { 1 } else { child_fd }
    }

    /// Records a request for a pipe that is still connecting; false if the pipe is in another
    /// state.
    fn queue_request(&self, child_fd: i32, f: impl FnOnce(&Transport) + 'static) -> bool {
        match self.cell.pipes.borrow_mut().get_mut(&self.number_of(child_fd)) {
            Some(PipeState::Opening(early)) => {
                early.push(Box::new(f));
                true
            }
            _ => false,
        }
    }

    /// Whether the child has a pipe with this number that is not lost.
    fn has_pipe(&self, number: i32) -> bool {
        let pipes = self.cell.pipes.borrow();
        !matches!(pipes.get(&number), None | Some(PipeState::Closed))
    }

    /// Records that a pipe is connected or failed to connect, and calls `begin` once all are
    /// settled.
    pub(super) fn record_pipe_outcome(&self, number: i32, made: Option<Transport>) {
        if number == 1 && self.cell.is_joined() {
            self.set_pipe_outcome(0, made.clone());
        }
        self.set_pipe_outcome(number, made);
        let pipes = self.cell.pipes.borrow();
        if pipes.values().any(|pipe| matches!(pipe, PipeState::Opening(_))) {
            return;
        }
        let failed = pipes.iter().filter(|(_, pipe)| matches!(pipe, PipeState::Failed));
        let failed = failed.map(|(number, _)| *number).collect();
        drop(pipes);
        self.begin(failed);
    }

    fn set_pipe_outcome(&self, number: i32, made: Option<Transport>) {
        let state = made.clone().map_or(PipeState::Failed, PipeState::Open);
        let before = self.cell.pipes.borrow_mut().insert(number, state);
        if let (Some(PipeState::Opening(early)), Some(transport)) = (before, made) {
            early.into_iter().for_each(|f| f(&transport));
        }
    }

    pub(super) fn pipe_lost(&self, number: i32, reason: &Reason) {
        self.cell.pipes.borrow_mut().insert(number, PipeState::Closed);
        if number == 1 && self.cell.has_terminal() {
            // Closing our last descriptor of the terminal makes it hang up.
            drop(self.cell.input.replace(ChildInput::Separate));
        }
        contain("child_connection_lost", || {
            self.call(|protocol| protocol.child_connection_lost(self, number, reason));
        });
        self.check_end();
    }
}
