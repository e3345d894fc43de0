//! One connection over mio: its announced readiness that is not used up, and its reads and writes.
//!
//! Contract: 17, 17a, 55, 56, 57, 60a.

use std::io::{self, IoSlice, Write};
use std::time::Duration;

use socket2::SockRef;

#[cfg(target_os = "linux")]
use super::epoll::EventExt as _;
#[cfg(target_os = "linux")]
use super::sendfile;
use super::slots::ConnectingSlot;
use super::socket::Stream;
use super::unix::{self, Descriptor};
use super::{Polled, SEND_LIMIT};
use crate::driver::readiness::Readiness;
use crate::driver::{CloseMode, Outbox};

impl Readiness {
    pub(super) fn from_event(event: &Polled) -> Readiness {
        let bits = |is: bool, bits| if is { bits } else { 0 };
        Readiness(
            bits(event.is_readable(), Readiness::READABLE)
                | bits(event.is_writable(), Readiness::ROOM)
                | bits(event.is_read_closed(), Readiness::READABLE | Readiness::CLOSING)
                | bits(
                    event.is_error(),
                    Readiness::READABLE | Readiness::CLOSING | Readiness::ERROR,
                ),
        )
    }
}

/// Whether an event announces only bytes, neither an end of stream nor an error.
#[inline(always)]
pub(super) fn is_bytes(event: &Polled) -> bool {
    event.is_readable() && !event.is_error() && !event.is_read_closed()
}

pub(super) struct StreamSlot {
    pub(super) stream: Stream,
    pub(super) readiness: Readiness,
    /// The effect of closing the socket: for a reset, `SO_LINGER` has a time of 0.
    pub(super) close_mode: CloseMode,
    /// Other processes may hold the socket too.
    pub(super) is_adopted: bool,
    /// A `write` error that was not reported yet. INVARIANT: while it is set, `BLOCKED` is set.
    pub(super) error: Option<io::Error>,
}

impl StreamSlot {
    /// One read. On Linux it bypasses the C library, whose cost is measurable per message.
    #[inline(always)]
    pub(super) fn read_once(&self, buffer: &mut [u8]) -> io::Result<usize> {
        #[cfg(target_os = "linux")]
        return Ok(rustix::io::read(&self.stream, buffer)?);
        #[cfg(not(target_os = "linux"))]
        return io::Read::read(&mut &self.stream, buffer);
    }

    /// One write of one slice. A closed stream is an error, never a signal.
    #[inline(always)]
    pub(super) fn write_once(&self, bytes: &[u8]) -> io::Result<usize> {
        #[cfg(target_os = "linux")]
        return Ok(rustix::net::send(&self.stream, bytes, rustix::net::SendFlags::NOSIGNAL)?);
        #[cfg(not(target_os = "linux"))]
        return Write::write(&mut &self.stream, bytes);
    }

    pub(super) fn new(stream: Stream, readiness: Readiness) -> StreamSlot {
        StreamSlot {
            stream,
            readiness,
            close_mode: CloseMode::Normal,
            is_adopted: false,
            error: None,
        }
    }

    /// Deregisters the socket, if it is registered.
    pub(super) fn leave(&self, registry: &mio::Registry) {
        if !self.readiness.has(Readiness::IN_RING) {
            self.stream.leave(registry);
        }
    }

    /// Whether this is a UNIX socket.
    pub(super) fn is_local(&self) -> bool {
        self.readiness.has(Readiness::LOCAL)
    }

    /// Whether the socket is full and its writable events are not requested yet.
    pub(super) fn needs_writable_events(&self) -> bool {
        self.is_local() && !self.readiness.has(Readiness::WRITABLE_REQUESTED | Readiness::ROOM)
    }
}

impl ConnectingSlot {
    /// As [`StreamSlot::set_close_mode`], for a socket that may be connected by now.
    pub(super) fn set_close_mode(&self, mode: CloseMode) {
        if mode == CloseMode::Reset
            && !self.readiness.has(Readiness::LOCAL)
            && let Err(error) = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))
        {
            tracing::debug!(%error, "cannot reset; closing instead");
        }
    }
}

impl StreamSlot {
    /// Sets the effect of closing the socket, as the system does when a process dies.
    pub(super) fn set_close_mode(&mut self, mode: CloseMode) -> io::Result<()> {
        if self.is_local() {
            // The system resets a UNIX socket only if it closes with unread input.
            return Ok(());
        }
        let linger = (mode == CloseMode::Reset).then_some(Duration::ZERO);
        SockRef::from(&self.stream).set_linger(linger)?;
        self.close_mode = mode;
        Ok(())
    }

    /// Called before the stream ends on purpose, with everything written: closing then no longer
    /// resets.
    pub(super) fn set_normal_close(&mut self) {
        if self.close_mode == CloseMode::Reset
            && let Err(error) = self.set_close_mode(CloseMode::Normal)
        {
            tracing::debug!(%error, "the connection was lost before its close");
        }
    }
}

/// Maximum bytes in one read, unless much flows in both directions.
pub(super) const READ: usize = 64 * 1024;
/// Maximum bytes in one read while our own output is blocked.
const READ_BLOCKED: usize = 16 * 1024;

/// The result of a read.
pub(super) enum ReadResult {
    Nothing,
    Bytes(usize),
    End(Option<io::Error>),
}

impl StreamSlot {
    /// Reads, unless `already` holds the result, and updates the readiness. Descriptors received
    /// with the bytes of a UNIX socket are appended to `descriptors`.
    pub(super) fn read(
        &mut self,
        buffer: &mut [u8],
        mut already: Option<io::Result<usize>>,
        descriptors: &mut Vec<Descriptor>,
    ) -> ReadResult {
        loop {
            let read = already.take().unwrap_or_else(|| match self.is_local() {
                true => unix::receive(&self.stream, buffer, descriptors),
                false => self.read_once(buffer),
            });
            match read {
                Ok(0) => {
                    self.readiness.set(Readiness::READABLE, false);
                    self.readiness.set(Readiness::ENDED | Readiness::CLOSING, true);
                    return ReadResult::End(self.pending_error());
                }
                Ok(n) => {
                    // On Windows only WouldBlock uses up the edge.
                    // A read of a UNIX socket stops after bytes that carry descriptors.
                    let more = cfg!(windows) || n == buffer.len() || !descriptors.is_empty();
                    self.readiness
                        .set(Readiness::READABLE, more || self.readiness.has(Readiness::CLOSING));
                    return ReadResult::Bytes(n);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readiness.set(Readiness::READABLE, false);
                    return match self.error.take() {
                        Some(error) => ReadResult::End(Some(error)),
                        None => ReadResult::Nothing,
                    };
                }
                Err(error) => {
                    self.readiness.set(Readiness::READABLE | Readiness::ERROR, false);
                    self.readiness.set(Readiness::ENDED, true);
                    return ReadResult::End(Some(self.error.take().unwrap_or(error)));
                }
            }
        }
    }

    /// The maximum of one read into a buffer of `len` bytes. Input may become output immediately, of
    /// this connection or of another, and one that never reads costs this much memory, plus the high
    /// mark. So only a stream whose peer reads about as much as it sends gets the whole buffer.
    pub(super) fn read_limit(&self, len: usize) -> usize {
        if self.readiness.has(Readiness::BLOCKED) {
            return len.min(READ_BLOCKED);
        }
        let is_answered = || couplet_os::tcp::is_answered(&self.stream, READ);
        if len > READ && self.readiness.has(Readiness::BULK) && is_answered() {
            len
        } else {
            len.min(READ)
        }
    }

    /// Whether the stream is not paused, blocked or ended, and has no pending readiness.
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        self.readiness == Readiness::NONE
    }

    /// A write error that ends only our direction: the peer of a UNIX socket has stopped reading, and
    /// may still send.
    pub(super) fn take_half_error(&mut self) -> Option<io::Error> {
        let is_broken = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
        let is_half = self.is_local()
            && self.error.as_ref().is_some_and(is_broken)
            && unix::may_receive(&self.stream);
        if is_half { self.error.take() } else { None }
    }

    /// The pending error, if any. Reports a reset while reading is paused and after the peer's end
    /// of stream.
    pub(super) fn pending_error(&mut self) -> Option<io::Error> {
        if let Some(error) = self.error.take() {
            return Some(error);
        }
        if self.readiness.take(Readiness::ERROR) {
            return match self.stream.take_error() {
                Ok(Some(error)) | Err(error) => Some(error),
                Ok(None) => None,
            };
        }
        None
    }

    /// One vectored write of the first pieces, or of a part of a file. Returns the number of bytes
    /// passed, and the result.
    pub(super) fn write_pieces(&self, out: &mut Outbox) -> (usize, io::Result<usize>) {
        #[cfg(target_os = "linux")]
        if let Some(sent) = sendfile::send(&self.stream, out) {
            return sent;
        }
        if !out.load() {
            return (0, Err(io::ErrorKind::WouldBlock.into()));
        }
        let mut slices = [IoSlice::new(&[]); 32];
        let count = out.chunks(&mut slices);
        let slices = &slices[..count];
        #[cfg(unix)]
        if out.has_attached() {
            return unix::send(&self.stream, out, slices);
        }
        let length = slices.iter().map(|slice| slice.len()).sum();
        #[cfg(target_os = "linux")]
        if out.has_file_after(count) {
            return (length, sendfile::write_before(&self.stream, slices));
        }
        (length, (&self.stream).write_vectored(slices))
    }

    /// Continues after a first write. True if the outbox is empty.
    pub(super) fn continue_write(
        &mut self,
        out: &mut Outbox,
        mut result: (usize, io::Result<usize>),
    ) -> io::Result<bool> {
        let mut budget = SEND_LIMIT;
        loop {
            match result {
                (asked, Ok(n)) => {
                    out.advance(n);
                    budget = budget.saturating_sub(n);
                    if out.is_empty() {
                        return Ok(true);
                    }
                    // A short write: the socket is full, and an edge follows once it is writable.
                    if n < asked && !cfg!(windows) {
                        return Ok(false);
                    }
                    if budget == 0 {
                        self.readiness.set(Readiness::ROOM, true);
                        return Ok(false);
                    }
                }
                (_, Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                (_, Err(error)) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                (_, Err(error)) => return Err(error),
            }
            result = self.write_pieces(out);
        }
    }
}
