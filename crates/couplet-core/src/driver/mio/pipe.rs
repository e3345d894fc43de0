//! Non-socket descriptors as one stream: a pipe, a FIFO, a terminal, a file; one to read from, one
//! to write to, or both. Twisted's `process.ProcessReader` and `ProcessWriter`, and `stdio`.
//!
//! Differences from a socket:
//!
//! - A write has no `MSG_NOSIGNAL`. Without a reader the system sends SIGPIPE, which Rust's runtime
//!   ignores from the start of the program; a program that restores the default is killed by it.
//! - After a terminal hangs up, a read fails with EIO, which is the end of its stream.
//! - The two descriptors fail independently: a write error closes the written one, and the other is
//!   read to its end.
//! - epoll refuses regular files and /dev/null (EPERM): these are always ready.
//! - `O_NONBLOCK` is shared with every holder of the descriptor, such as the shell that started the
//!   program: it is restored when the stream is closed.
//!
//! Contract: 51b, 60a, 107, 145c, 145h.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};

use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::fs::{FileType, OFlags, fcntl_getfl, fcntl_setfl, fstat};
use rustix::io::Errno;

use super::slots::{Kind, Registered};
use super::stream::{READ, ReadResult};
use super::{Mio, SEND_LIMIT};
use crate::address::Address;
use crate::driver::readiness::Readiness;
use crate::driver::serial::Modes;
use crate::driver::{Adopted, CloseMode, Event, Key, Outbox, Pipe, WriteOutcome};

pub(super) struct PipeSlot {
    reader: Option<End>,
    writer: Option<End>,
    pub(super) readiness: Readiness,
    /// A write error that was not reported yet; `writer` is closed.
    error: Option<io::Error>,
    /// The original modes of a serial line, restored on drop.
    modes: Option<Modes>,
}

/// One descriptor.
struct End {
    fd: OwnedFd,
    kind: FileType,
    /// The poll reports its readiness; otherwise it is always ready.
    is_polled: bool,
    /// The original flags, if they must be restored.
    flags: Option<OFlags>,
}

impl End {
    fn new(fd: OwnedFd) -> io::Result<End> {
        let kind = FileType::from_raw_mode(fstat(&fd)?.st_mode);
        let before = fcntl_getfl(&fd)?;
        let flags = (!before.contains(OFlags::NONBLOCK)).then_some(before);
        if flags.is_some() {
            fcntl_setfl(&fd, before | OFlags::NONBLOCK)?;
        }
        Ok(End { fd, kind, is_polled: false, flags })
    }

    fn register(&mut self, registry: &Registry, token: Token, what: Interest) -> io::Result<()> {
        match SourceFd(&self.fd.as_raw_fd()).register(registry, token, what) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::PERM) => Ok(()),
            registered => {
                registered?;
                self.is_polled = true;
                Ok(())
            }
        }
    }

    /// Other processes may hold the descriptor too, so closing it does not suffice.
    fn deregister(&mut self, registry: &Registry) {
        if self.is_polled {
            super::socket::deregister(&mut SourceFd(&self.fd.as_raw_fd()), registry);
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if let Some(flags) = self.flags
            && let Err(error) = fcntl_setfl(&self.fd, flags)
        {
            tracing::debug!(%error, "cannot make a descriptor blocking again");
        }
    }
}

/// Makes the user's descriptors non-blocking.
pub(super) fn adopted(pipe: Pipe) -> io::Result<Adopted> {
    let Pipe { name, reader, writer, modes } = pipe;
    let slot = PipeSlot {
        reader: reader.map(End::new).transpose()?,
        writer: writer.map(End::new).transpose()?,
        readiness: Readiness::NONE,
        error: None,
        modes,
    };
    let name = Address::Pipe(name);
    Ok(Adopted::new(name.clone(), name, slot))
}

impl PipeSlot {
    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        if let Some(reader) = &mut self.reader {
            reader.register(registry, token, Interest::READABLE)?;
            self.readiness.set(Readiness::READABLE, !reader.is_polled);
        }
        if let Some(writer) = &mut self.writer {
            writer.register(registry, token, Interest::WRITABLE)?;
        }
        Ok(())
    }

    pub(super) fn deregister(&mut self, registry: &Registry) {
        for end in self.reader.iter_mut().chain(&mut self.writer) {
            end.deregister(registry);
        }
    }

    /// Records an event of either descriptor. An error on a pipe concerns the writer: the last
    /// reader has closed. If the pipe is blocked, the next write reports the error; if it is only
    /// written, this is its end. An error on a terminal is a hang-up.
    pub(super) fn record_readiness(&mut self, event: Readiness) {
        let gone = event.has(Readiness::ERROR);
        let is_blocked = self.readiness.has(Readiness::BLOCKED) && self.writer.is_some();
        let room = is_blocked && (event.has(Readiness::ROOM) || event.has(Readiness::CLOSING));
        let is_written_alone = self.reader.is_none();
        let is_end = is_written_alone || !gone || self.is_terminal();
        self.readiness.add(event, Readiness::READABLE);
        if is_end {
            self.readiness.add(event, Readiness::CLOSING);
        }
        if room {
            self.readiness.set(Readiness::ROOM, true);
        }
    }

    fn is_terminal(&self) -> bool {
        self.reader.as_ref().is_some_and(|reader| reader.kind == FileType::CharacterDevice)
    }

    fn read(&mut self, buffer: &mut [u8]) -> ReadResult {
        let Some(reader) = &self.reader else {
            // The peer has closed its reading end, or we have closed our writing end.
            return self.ended();
        };
        loop {
            match rustix::io::read(&reader.fd, &mut *buffer) {
                Ok(0) => return self.ended(),
                Ok(n) => {
                    // A short read of a terminal is a line, and of a file one call: more bytes may
                    // follow.
                    let is_drained = reader.kind == FileType::Fifo && n < buffer.len();
                    let more = !is_drained || self.readiness.has(Readiness::CLOSING);
                    self.readiness.set(Readiness::READABLE, more);
                    return ReadResult::Bytes(n);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if self.readiness.has(Readiness::ENDS_WHEN_READ) => {
                    return self.ended();
                }
                Err(Errno::AGAIN) => {
                    self.readiness.set(Readiness::READABLE, false);
                    return ReadResult::Nothing;
                }
                Err(Errno::IO) if reader.kind == FileType::CharacterDevice => return self.ended(),
                Err(error) => {
                    self.readiness.set(Readiness::READABLE, false);
                    self.readiness.set(Readiness::ENDED, true);
                    return ReadResult::End(Some(error.into()));
                }
            }
        }
    }

    /// Bytes that were written but not read yet.
    pub(super) fn unsent(&self) -> Option<usize> {
        let writer = self.writer.as_ref()?;
        match writer.kind {
            FileType::Fifo => rustix::io::ioctl_fionread(&writer.fd).ok().map(|n| n as usize),
            FileType::CharacterDevice => couplet_os::unsent::unsent(&writer.fd),
            _ => None,
        }
    }

    fn ended(&mut self) -> ReadResult {
        self.readiness.set(Readiness::READABLE, false);
        self.readiness.set(Readiness::ENDED | Readiness::CLOSING, true);
        ReadResult::End(None)
    }

    /// Closes the writing descriptor. A pipe that is only written ends with it.
    fn close_writer(&mut self, registry: &Registry) {
        if let Some(mut writer) = self.writer.take() {
            writer.deregister(registry);
            if self.reader.is_none() {
                self.readiness.set(Readiness::READABLE, true);
            }
        }
    }

    /// A write failed: nothing more can be written. A pipe that is only read has no writing end, and
    /// ends once the bytes that have arrived are read.
    fn fail_writing(&mut self, error: io::Error, registry: &Registry) {
        if self.writer.is_none() {
            self.end_when_read();
        }
        self.close_writer(registry);
        self.error = Some(error);
    }

    fn end_when_read(&mut self) {
        let bits = Readiness::READABLE | Readiness::CLOSING | Readiness::ENDS_WHEN_READ;
        self.readiness.set(bits, true);
    }

    /// Writes as much as the system accepts; true if the outbox is empty.
    fn write(&mut self, out: &mut Outbox) -> io::Result<bool> {
        let Some(writer) = &self.writer else {
            let text = "cannot write: the descriptor is read-only, or was closed for writing";
            return Err(io::Error::new(io::ErrorKind::NotConnected, text));
        };
        let mut budget = SEND_LIMIT;
        while !out.is_empty() {
            if !out.load() {
                return Ok(false);
            }
            let mut slices = [IoSlice::new(&[]); 32];
            let count = out.chunks(&mut slices);
            match rustix::io::writev(&writer.fd, &slices[..count]) {
                Ok(n) => {
                    out.advance(n);
                    budget = budget.saturating_sub(n);
                }
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
            if budget == 0 && !out.is_empty() {
                self.readiness.set(Readiness::ROOM, true);
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Mio {
    pub(super) fn adopt_pipe(&mut self, mut pipe: Box<PipeSlot>) -> io::Result<Key> {
        let token = Token(self.slots.next_key().slot as usize);
        if let Err(error) = pipe.register(&self.world.registry, token) {
            pipe.deregister(&self.world.registry);
            return Err(error);
        }
        let is_ready = pipe.readiness.has(Readiness::READABLE);
        let key = self.insert(Kind::Pipe(pipe));
        if is_ready {
            self.queue(key.slot);
        }
        Ok(key)
    }

    fn pipe(&mut self, key: Key) -> Option<&mut PipeSlot> {
        match self.kind(key)? {
            Kind::Pipe(pipe) => Some(pipe),
            _ => None,
        }
    }

    /// The next event of a pipe: like a stream's, but without descriptors.
    pub(super) fn next_from_pipe(&mut self, slot: u32) -> Option<Event> {
        let key = self.slots.key_at(slot);
        let Some(Registered { kind: Kind::Pipe(pipe), .. }) = self.slots.get_mut(key) else {
            return None;
        };
        if let Some(error) = pipe.error.take() {
            if pipe.reader.is_none() {
                return Some(Event::Failed(key, error));
            }
            self.again.push_front(slot);
            return Some(Event::WriteFailed(key, error));
        }
        if pipe.readiness.has(Readiness::ROOM) {
            pipe.readiness.set(Readiness::ROOM | Readiness::BLOCKED, false);
            self.again.push_front(slot);
            return Some(Event::Room(key));
        }
        if pipe.readiness.has(Readiness::ENDED | Readiness::PAUSED) {
            let has_arrived = pipe.readiness.has(Readiness::CLOSING);
            return pipe
                .readiness
                .take_unreported_end(has_arrived)
                .then_some(Event::PeerEnded(key));
        }
        if !pipe.readiness.has(Readiness::READABLE) {
            return None;
        }
        let most = self.buffer.len().min(READ);
        match pipe.read(&mut self.buffer[..most]) {
            ReadResult::Nothing => None,
            ReadResult::End(error) => Some(Event::end_of(key, error)),
            ReadResult::Bytes(n) => {
                self.lent = n;
                if pipe.readiness.has(Readiness::READABLE) {
                    self.queue(slot);
                }
                Some(Event::Received(key))
            }
        }
    }

    #[cold]
    pub(super) fn write_to_pipe(&mut self, key: Key, out: &mut Outbox) -> WriteOutcome {
        let Mio { poll, slots, .. } = self;
        let Some(Registered { kind: Kind::Pipe(pipe), .. }) = slots.get_mut(key) else {
            return WriteOutcome::Blocked;
        };
        if pipe.readiness.has(Readiness::BLOCKED) {
            return WriteOutcome::Blocked;
        }
        match pipe.write(out) {
            Ok(true) => return WriteOutcome::All,
            Ok(false) => {}
            Err(error) => pipe.fail_writing(error, poll.registry()),
        }
        pipe.readiness.set(Readiness::BLOCKED, true);
        if pipe.readiness.has(Readiness::ROOM) || pipe.error.is_some() {
            self.queue(key.slot);
        }
        WriteOutcome::Blocked
    }

    /// See [`SocketOption::EndsWhenRead`](crate::driver::SocketOption::EndsWhenRead).
    #[cold]
    pub(super) fn end_when_read(&mut self, key: Key) {
        let Some(pipe) = self.pipe(key) else { return };
        pipe.end_when_read();
        self.queue(key.slot);
    }

    /// When a serial line is reset, discards its unsent output, so that its close does not wait.
    #[cold]
    pub(super) fn discard(&mut self, key: Key, mode: CloseMode) {
        if mode == CloseMode::Reset
            && let Some(modes) = self.pipe(key).and_then(|pipe| pipe.modes.as_ref())
        {
            modes.discard();
        }
    }

    /// Ends our direction.
    pub(super) fn shut_pipe(&mut self, key: Key) {
        let Mio { poll, slots, .. } = self;
        let Some(Registered { kind: Kind::Pipe(pipe), .. }) = slots.get_mut(key) else { return };
        pipe.close_writer(poll.registry());
        if pipe.readiness.has(Readiness::READABLE) {
            self.queue(key.slot);
        }
    }
}
