//! Connections that survive the death of their process: [`Keeper`] and [`HandedOver::kept`].
//!
//! The kernel's counters decide. A record holds the positions in both streams that its state
//! describes; if the process read or wrote anything after that, the socket's positions differ.
//!
//! Contract: 51e.

#[cfg(unix)]
use std::io;
#[cfg(unix)]
use std::os::fd::OwnedFd;
#[cfg(unix)]
use std::time::Duration;

use couplet_os::tcp::Positions;

#[cfg(unix)]
use super::handing::HandedOver;
use super::handing::Record;
use crate::driver::SockRef;
use crate::transport::ConnectionId;

/// Keeps connections for another process, in case this one dies: it stores a duplicate of each
/// socket and its latest record outside this process. Set by
/// [`Loop::keep_connections`](super::Loop::keep_connections).
///
/// A close of a kept connection sends a FIN although a duplicate of the socket is open. A reset is
/// sent when the last duplicate is closed.
///
/// ```
/// use std::collections::BTreeMap;
///
/// use couplet::ConnectionId;
/// use couplet::transport::SockRef;
/// use couplet::reactor::{Keeper, Loop};
///
/// /// Keeps records in memory, which helps no other process.
/// #[derive(Default)]
/// struct Records(BTreeMap<ConnectionId, Vec<u8>>);
///
/// impl Keeper for Records {
///     fn keep(&mut self, connection: ConnectionId, _socket: SockRef<'_>, record: &[u8]) {
///         self.0.insert(connection, record.to_owned());
///     }
///     fn forget(&mut self, connection: ConnectionId) {
///         self.0.remove(&connection);
///     }
/// }
///
/// # fn main() -> std::io::Result<()> {
/// let mut l = Loop::new()?;
/// l.keep_connections(Records::default());
/// # Ok(())
/// # }
/// ```
pub trait Keeper {
    /// Stores a connection's record in place of its last one. The socket is always the same. Called by
    /// the turn, at its end.
    ///
    /// A record that is stored only in part must not be used.
    fn keep(&mut self, connection: ConnectionId, socket: SockRef<'_>, record: &[u8]);

    /// Removes a connection, which has ended, begins to close, was handed over, or is not kept any
    /// more, and closes the duplicate of its socket. Called by the turn, and when the loop is dropped.
    fn forget(&mut self, connection: ConnectionId);
}

/// The record in bytes, with the positions that it describes.
pub(super) fn encode(positions: Positions, record: &Record) -> Vec<u8> {
    let Positions { received, sent } = positions;
    [&received.to_be_bytes()[..], &sent.to_be_bytes(), &record.encode()].concat()
}

#[cfg(unix)]
fn decode(bytes: &[u8]) -> Option<(Positions, Record)> {
    let (received, rest) = bytes.split_first_chunk()?;
    let (sent, rest) = rest.split_first_chunk()?;
    let (received, sent) = (u64::from_be_bytes(*received), u64::from_be_bytes(*sent));
    Some((Positions { received, sent }, Record::decode(rest)?))
}

#[cfg(unix)]
impl HandedOver {
    /// A connection of a process that has died, from the socket and the record that its [`Keeper`]
    /// stored. [`Reactor::take_over`](super::Reactor::take_over) continues it.
    ///
    /// `None` if the process has read or written bytes that the record does not describe: the
    /// connection is reset. Bytes that wait in the kernel's queues are not lost.
    ///
    /// # Errors
    ///
    /// [`InvalidData`](io::ErrorKind::InvalidData) if the record is not one of this version; the
    /// system's error, for example for a socket other than TCP. The connection is reset.
    pub fn kept(socket: OwnedFd, record: &[u8]) -> io::Result<Option<HandedOver>> {
        let matching = decode(record).ok_or(io::ErrorKind::InvalidData.into());
        let matching = matching.and_then(|(positions, record)| {
            let is_same = couplet_os::tcp::positions(&socket)? == positions;
            Ok(is_same.then_some(record))
        });
        match matching {
            Ok(Some(record)) => Ok(Some(HandedOver::of(socket, record))),
            other => {
                SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
                other.map(|_| None)
            }
        }
    }
}
