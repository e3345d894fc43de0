//! Sends parts of immutable files with sendfile(2): the bytes go from the system's memory of the file to the
//! socket, without a copy.
//!
//! Contract: 74a, 74b.

use std::io::{self, IoSlice};

use rustix::fs::sendfile;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};

use super::socket::Stream;
use crate::driver::{FileChanged, Outbox};

/// Most bytes in one call: more than the limit of other writes in a turn, because nothing is copied.
const LIMIT: usize = 2 * 1024 * 1024;

/// Sends from the part of a file at the front. Returns the number of bytes sent, and the result.
/// `None` if the outbox must [load](Outbox::load) the front: no file is there, its part is not
/// [sent from the file](crate::driver::FilePart::is_sent_from_file), or its file system lacks the call.
pub(super) fn send(stream: &Stream, out: &mut Outbox) -> Option<(usize, io::Result<usize>)> {
    // A descriptor goes with bytes in memory.
    let part = out.file().filter(|part| part.is_sent_from_file() && !out.has_attached())?;
    let count = part.len().min(LIMIT);
    if let Err(error) = part.check() {
        return Some(fail(out, error));
    }
    let mut offset = part.offset();
    match sendfile(stream, part.file().file(), Some(&mut offset), count) {
        Ok(0) => Some(fail(out, FileChanged.into())),
        // A short count does not mean that the socket is full: the system may have stopped where it must
        // read more from the disk. The next call finds out.
        Ok(n) => Some((n, Ok(n))),
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => None,
        Err(error @ Errno::IO) => Some(fail(out, error.into())),
        Err(error) => Some((count, Err(error.into()))),
    }
}

#[cold]
fn fail(out: &mut Outbox, error: io::Error) -> (usize, io::Result<usize>) {
    out.fail(error);
    (0, Err(io::ErrorKind::WouldBlock.into()))
}

/// Writes the pieces before a part of a file, whose first bytes may leave in the same packet.
pub(super) fn write_before(stream: &Stream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    let flags = SendFlags::NOSIGNAL | SendFlags::MORE;
    Ok(sendmsg(stream, slices, &mut SendAncillaryBuffer::default(), flags)?)
}
