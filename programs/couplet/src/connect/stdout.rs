//! Standard output, written by a thread.

use std::io;
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use bytes::Bytes;
use couplet::{ConnectionId, Remote, Transport};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::Session;
use crate::exit::Exit;
use crate::output::plain;

/// Queues pieces for the thread. After it is dropped, the thread writes the queued pieces and stops
/// the reactor.
// One read, received before the connection was paused.
pub(super) struct Stdout(Sender<(ConnectionId, Bytes)>);

/// The outcome of the printing thread.
// The one outcome of the thread that prints.
pub(super) struct PrintResult(Receiver<io::Result<()>>);

impl Stdout {
    pub(super) fn start(remote: Remote) -> Result<(Stdout, PrintResult), Exit> {
        let (stdout, pieces) = Stdout::new();
        let (outcome, printed) = channel();
        let thread = std::thread::Builder::new().name("couplet-stdout".into());
        let run = move || {
            // Both fail only after the run.
            let _ = outcome.send(print_all(&remote, &pieces));
            let _ = remote.call(|reactor| reactor.stop());
        };
        thread.spawn(run).map_err(|error| {
            Exit::failed(format!("cannot start a thread for stdout: {}", plain(&error)))
        })?;
        Ok((stdout, PrintResult(printed)))
    }

    /// Pieces come out of the receiver.
    pub(super) fn new() -> (Stdout, Receiver<(ConnectionId, Bytes)>) {
        let (stdout, pieces) = channel();
        (Stdout(stdout), pieces)
    }

    /// Queues bytes from the connection; once they are printed, calls its [`Session::printed`].
    pub(super) fn print(&self, connection: ConnectionId, bytes: Bytes) {
        // Fails only after an error on stdout, which ends the connection.
        let _ = self.0.send((connection, bytes));
    }
}

impl PrintResult {
    /// Blocks until everything is printed, or printing has failed.
    pub(super) fn wait(&self) -> io::Result<()> {
        self.0.recv().unwrap_or(Ok(()))
    }

    /// Like [`wait`](Self::wait), for at most `time`.
    #[expect(clippy::disallowed_methods, reason = "the loop has ended")]
    pub(super) fn wait_at_most(&self, time: Duration) {
        let _ = self.0.recv_timeout(time);
    }
}

fn print_all(remote: &Remote, pieces: &Receiver<(ConnectionId, Bytes)>) -> io::Result<()> {
    for (connection, bytes) in pieces {
        let printed = print(&bytes);
        let outcome = printed.as_ref().map(|()| bytes.len()).ok();
        // Fails if the loop was dropped; then the count is not needed.
        let _ = remote.tell(connection, move |session: &mut Session, transport: &Transport| {
            match outcome {
                Some(bytes) => session.printed(transport, bytes),
                None => transport.abort_connection(),
            }
        });
        printed?;
    }
    Ok(())
}

fn print(mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let n =
            until_ready(io::stdout(), PollFlags::OUT, || rustix::io::write(io::stdout(), bytes))?;
        bytes = bytes.get(n..).unwrap_or_default();
    }
    Ok(())
}

/// Repeats `f` after signals, and polls if another program made the stream non-blocking.
pub(super) fn until_ready(
    stream: impl AsFd,
    events: PollFlags,
    mut f: impl FnMut() -> rustix::io::Result<usize>,
) -> io::Result<usize> {
    loop {
        match f() {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => match poll(&mut [PollFd::new(&stream, events)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            },
            outcome => return outcome.map_err(io::Error::from),
        }
    }
}
