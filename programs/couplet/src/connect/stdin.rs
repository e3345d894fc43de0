//! Standard input, read by a thread, one piece for each request.

use std::io::{self, IsTerminal};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::Bytes;
use couplet::{ConnectionId, Failure, Remote};
use rustix::event::PollFlags;

use super::Session;
use super::stdout::until_ready;
use crate::output;

/// Largest piece, in bytes.
const PIECE: usize = 64 * 1024;

/// The result of a read. Nothing follows an end or an error.
pub(super) enum Read {
    Bytes(Bytes),
    End,
    Failed(io::Error),
}

/// Requests pieces. After it is dropped, the thread ends with its current read.
pub(super) struct Stdin {
    // One request: the thread reads a piece only on request.
    asking: SyncSender<()>,
    is_requested: bool,
    is_terminal: bool,
}

impl Stdin {
    /// Starts the thread, which sends the pieces to the connection.
    pub(super) fn start(remote: Remote, connection: ConnectionId) -> couplet::Result<Stdin> {
        let (stdin, asked) = Stdin::new(io::stdin().is_terminal());
        let thread = std::thread::Builder::new().name("couplet-stdin".into());
        thread.spawn(move || read_all(&remote, connection, &asked)).map_err(|error| {
            Failure::msg(format!("cannot start a thread for stdin: {}", output::plain(&error)))
        })?;
        Ok(stdin)
    }

    /// Requests come out of the receiver.
    pub(super) fn new(is_terminal: bool) -> (Stdin, Receiver<()>) {
        let (asking, asked) = sync_channel(1);
        (Stdin { asking, is_requested: false, is_terminal }, asked)
    }

    /// Requests the next piece.
    pub(super) fn ask(&mut self) {
        // The thread ends only after EOF or an error.
        self.is_requested = self.asking.try_send(()).is_ok();
    }

    /// Records that no piece is requested.
    pub(super) fn hold(&mut self) {
        self.is_requested = false;
    }

    /// True while a piece is requested.
    pub(super) fn is_requested(&self) -> bool {
        self.is_requested
    }

    pub(super) fn is_terminal(&self) -> bool {
        self.is_terminal
    }
}

fn read_all(remote: &Remote, connection: ConnectionId, asked: &Receiver<()>) {
    let mut buffer = vec![0; PIECE];
    while asked.recv().is_ok() {
        let read = match until_ready(io::stdin(), PollFlags::IN, || {
            rustix::io::read(io::stdin(), &mut buffer[..])
        }) {
            Ok(0) => Read::End,
            Ok(n) => Read::Bytes(Bytes::copy_from_slice(&buffer[..n])),
            Err(error) => Read::Failed(error),
        };
        let handle_input = |session: &mut Session, transport: &couplet::Transport| {
            session.handle_input(transport, read);
        };
        if remote.tell(connection, handle_input).is_err() {
            return;
        }
    }
}
