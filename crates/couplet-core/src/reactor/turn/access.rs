//! Access lines: an event for each connection that has ended. Their target is their switch, and
//! while it is off an end costs one comparison.

use std::time::Instant;

use super::table::{ConnectionEntry, Origin};
use crate::error::Reason;
use crate::panics::contain;

impl ConnectionEntry {
    /// Logs the end of the connection, if the subscriber wants such lines. Called while the socket,
    /// which provides the address, is still open.
    #[inline]
    pub(super) fn log_end(&self, now: Instant) {
        if is_logged() {
            self.log_access(now, Some(&self.life.reason()));
        }
    }

    /// Logs the end of a connection that got no protocol.
    #[inline]
    pub(super) fn log_rejected(&self, now: Instant) {
        if is_logged() {
            self.log_access(now, None);
        }
    }

    #[cold]
    fn log_access(&self, now: Instant, reason: Option<&Reason>) {
        // Printing a failure runs its user's code.
        contain("an access line", || self.emit_access(now, reason));
    }

    fn emit_access(&self, now: Instant, reason: Option<&Reason>) {
        let cell = self.life.cell();
        let age = now.saturating_duration_since(cell.made_at.get());
        tracing::debug!(
            target: "couplet::access::connection",
            connection = %cell.id(),
            peer = %cell.peer,
            host = %cell.host(),
            origin = self.origin.word(),
            bytes_in = cell.bytes_in.get(),
            bytes_out = cell.bytes_out(),
            seconds = age.as_secs_f64(),
            reason = reason.map_or("no protocol", Reason::word),
            error = reason.filter(|reason| !reason.is_clean()).map(tracing::field::display),
            "connection ended"
        );
    }
}

#[inline]
fn is_logged() -> bool {
    tracing::enabled!(target: "couplet::access::connection", tracing::Level::DEBUG)
}

impl Origin {
    fn word(&self) -> &'static str {
        match self {
            Origin::Port(_) | Origin::Shared(_) => "accepted",
            Origin::Connecting | Origin::Connector(_) => "connected",
            Origin::Adopted(_) => "adopted",
        }
    }
}
