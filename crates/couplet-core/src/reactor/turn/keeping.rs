//! Connections that are kept for another process: their records leave at the end of the turn.
//!
//! Contract: 51e.

use std::io;
use std::time::Instant;

use couplet_os::tcp::{Positions, positions};

use super::core::Core;
use crate::driver::{Commands, Key};
use crate::panics::{Contained, contain};
use crate::reactor::handing::Record;
use crate::reactor::keeping::{Keeper, encode};
use crate::transport::cell::{ConnectionCell, mode};
use crate::transport::{ConnectionId, TransportSettings};

#[derive(Default)]
pub(super) struct Keeping {
    keeper: Option<Contained<Box<dyn Keeper>>>,
    /// Connections whose records are due.
    // Each connection once: `ConnectionEntry::to_keep`.
    due: Vec<Key>,
}

impl Keeping {
    #[inline]
    pub(super) fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    pub(super) fn add(&mut self, key: Key) {
        self.due.push(key);
    }

    pub(super) fn forget(&mut self, connection: ConnectionId) {
        if let Some(keeper) = &mut self.keeper {
            contain("a keeper", || keeper.forget(connection));
        }
    }
}

impl Core {
    pub(super) fn set_keeper(&mut self, keeper: impl Keeper + 'static) {
        let keeper: Box<dyn Keeper> = Box::new(keeper);
        self.keeping.keeper = Some(Contained::new(keeper));
        self.records.has_keeper.set(true);
    }

    /// Passes the due records to the keeper.
    pub(super) fn keep_all(&mut self, io: &mut dyn Commands) {
        let mut keys = std::mem::take(&mut self.keeping.due);
        for key in keys.drain(..) {
            self.keep(io, key);
        }
        // Only a keeper was called, so the list has no new entries, and keeps its capacity.
        self.keeping.due = keys;
    }

    fn keep(&mut self, io: &mut dyn Commands, key: Key) {
        let now = self.now();
        let Some(entry) = self.table.connection(key) else { return };
        entry.to_keep = false;
        let can_be_kept = entry.origin.is_accepted() && entry.life.can_be_kept();
        if can_be_kept && (!entry.life.is_kept_up() || !io.can_release(key)) {
            // The last record doesn't match the socket, and the next one follows more bytes.
            return;
        }
        let cell = entry.life.cell().clone();
        match (can_be_kept.then(|| record(&cell, now)), &mut self.keeping.keeper) {
            (Some(Ok(record)), Some(keeper)) => {
                cell.set_mode(mode::SHARED, true);
                cell.with_socket(|socket| {
                    contain("a keeper", || keeper.keep(cell.id(), socket, &record))
                });
            }
            _ if entry.life.end_keeping() => self.keeping.forget(cell.id()),
            _ => {}
        }
    }
}

/// The record of a connection without undelivered bytes.
///
/// # Errors
///
/// If nothing is kept, or the socket has no positions.
fn record(cell: &ConnectionCell, now: Instant) -> io::Result<Vec<u8>> {
    let settings = TransportSettings::of(cell, now);
    let mut kept = cell.kept().ok_or(io::ErrorKind::NotFound)?;
    let (received, accepted) = (cell.bytes_in.get(), cell.bytes_accepted());
    let offset = match kept.offset {
        Some(offset) => offset,
        None => {
            let kernel = cell.with_socket(|socket| positions(&*socket));
            let kernel = kernel.ok_or(io::ErrorKind::NotConnected)??;
            Positions {
                received: kernel.received.wrapping_sub(received),
                sent: kernel.sent.wrapping_sub(cell.bytes_out()),
            }
        }
    };
    kept.offset = Some(offset);
    let wanted = Positions {
        received: offset.received.wrapping_add(received),
        sent: offset.sent.wrapping_add(accepted),
    };
    let (kind, state, unread) = kept.state.clone().into_parts();
    let proxy = cell.to_proxy_header().ok_or(io::ErrorKind::Unsupported)?;
    let unsent = Vec::new();
    Ok(encode(wanted, &Record { kind, state, unread, unsent, settings, proxy }))
}
