//! Non-socket descriptors, for [`Reactor::adopt_pipe`](crate::Reactor::adopt_pipe).
//!
//! Contract: 51b.

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::serial::Modes;

/// Non-socket descriptors, to be [adopted](crate::Reactor::adopt_pipe) as one connection: one to
/// read from, one to write to, or both. Pipes, FIFOs, terminals, serial lines, files.
///
/// ```
/// use couplet::transport::Pipe;
///
/// let (reader, writer) = std::io::pipe()?;
/// let loops_back = Pipe::both(reader, writer).named("a loop");
/// assert_eq!(loops_back.name(), "a loop");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Pipe {
    pub(super) name: Arc<str>,
    pub(super) reader: Option<OwnedFd>,
    pub(super) writer: Option<OwnedFd>,
    /// The original modes of a serial line, restored when the pipe is closed.
    pub(super) modes: Option<Modes>,
}

impl Pipe {
    fn from_parts(reader: Option<OwnedFd>, writer: Option<OwnedFd>) -> Pipe {
        Pipe { name: "pipe:".into(), reader, writer, modes: None }
    }

    /// A pipe that is only read. Writing ends the connection with an error.
    pub fn reader(reader: impl Into<OwnedFd>) -> Pipe {
        Pipe::from_parts(Some(reader.into()), None)
    }

    /// A pipe that is only written. When its last reader closes, that counts as the peer's end of
    /// stream.
    pub fn writer(writer: impl Into<OwnedFd>) -> Pipe {
        Pipe::from_parts(None, Some(writer.into()))
    }

    /// A pipe that reads one descriptor and writes the other; `lose_write_connection` closes the
    /// second. An error of the second ends only our direction
    /// ([`Transport::write_error`](crate::Transport::write_error)): the first is read to its end.
    pub fn both(reader: impl Into<OwnedFd>, writer: impl Into<OwnedFd>) -> Pipe {
        Pipe::from_parts(Some(reader.into()), Some(writer.into()))
    }

    /// A pipe that reads and writes one descriptor, such as a terminal, so that its halves can't be
    /// closed separately.
    ///
    /// # Errors
    ///
    /// If the descriptor can't be duplicated.
    pub fn duplex(descriptor: impl Into<OwnedFd>) -> io::Result<Pipe> {
        let reader = descriptor.into();
        let writer = reader.try_clone()?;
        Ok(Pipe::both(reader, writer))
    }

    /// Duplicates of standard input and standard output. Twisted's `StandardIO`.
    ///
    /// # Errors
    ///
    /// If they can't be duplicated.
    pub fn stdio() -> io::Result<Pipe> {
        let reader = io::stdin().as_fd().try_clone_to_owned()?;
        let writer = io::stdout().as_fd().try_clone_to_owned()?;
        Ok(Pipe::both(reader, writer).named("stdio:"))
    }

    /// A duplicate of an open descriptor, by number, with the same access mode.
    ///
    /// # Errors
    ///
    /// If the descriptor is not open.
    pub fn inherited(number: i32) -> io::Result<Pipe> {
        use rustix::fs::{OFlags, fcntl_getfl};
        let descriptor = couplet_os::descriptor::inherited(number)?;
        let mode = fcntl_getfl(&descriptor)? & OFlags::RWMODE;
        let pipe = match mode {
            OFlags::RDONLY => Pipe::reader(descriptor),
            OFlags::WRONLY => Pipe::writer(descriptor),
            _ => Pipe::duplex(descriptor)?,
        };
        Ok(pipe.named(format!("fd:{number}")))
    }

    /// Sets the name, shown by the connection's [`peer`](crate::Transport::peer) and in log lines.
    #[must_use]
    pub fn named(mut self, name: impl Into<Arc<str>>) -> Pipe {
        self.name = name.into();
        self
    }

    /// The pipe's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl From<PipeReader> for Pipe {
    fn from(reader: PipeReader) -> Pipe {
        Pipe::reader(reader)
    }
}

impl From<PipeWriter> for Pipe {
    fn from(writer: PipeWriter) -> Pipe {
        Pipe::writer(writer)
    }
}
