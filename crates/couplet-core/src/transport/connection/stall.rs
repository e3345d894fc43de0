//! Limits on stalls of open connections. The half-close timeout limits how long no byte moves in
//! either direction after the peer's end; the write timeout, how long the peer takes none of the
//! waiting output.
//!
//! Contract: 15d, 15e, 71d.

use std::time::{Duration, Instant};

use super::{Effects, Life};
use crate::driver::CloseMode;
use crate::error::Reason;
use crate::transport::cell::{ConnectionPhase, mode};

/// Checks of the progress within a limit: a stall is noticed at the limit, or up to a quarter later.
const CHECKS: u32 = 4;

/// The progress at the last check, kept while a limit applies, and until the next check.
#[derive(Clone, Copy)]
pub(crate) struct StallCheck {
    limit: Duration,
    at: Instant,
    moved: u64,
    /// The number of checks before that found the same.
    still: u32,
}

impl Life {
    /// Begins the checks if a limit applies: the peer's stream has ended, or output waits.
    pub(super) fn watch_stall(&mut self, now: Instant) {
        let Some(limit) = self.stall_limit() else { return };
        if self.cell().stall().is_none_or(|check| check.limit != limit) {
            let check = StallCheck { limit, at: now, moved: self.moved(), still: 0 };
            self.cell().set_stall(Some(check));
            self.order(Effects::DEADLINE);
        }
    }

    /// How long nothing may move.
    fn stall_limit(&self) -> Option<Duration> {
        let cell = self.cell();
        if !self.is_open() || self.is_opening() || cell.phase() >= ConnectionPhase::Closing {
            return None;
        }
        let ended = cell.has_mode(mode::PEER_ENDED).then(|| cell.half_close_timeout()).flatten();
        let waits = (cell.buffered() > 0).then(|| cell.write_timeout()).flatten();
        ended.into_iter().chain(waits).min()
    }

    /// A number that changes when a byte moves.
    fn moved(&self) -> u64 {
        let cell = self.cell();
        if cell.has_mode(mode::PEER_ENDED) {
            cell.shared_progress()
        } else {
            cell.output_progress()
        }
    }

    pub(super) fn stall_deadline(&self) -> Option<Instant> {
        let check = self.cell().stall().filter(|_| self.is_open())?;
        check.at.checked_add(check.limit / CHECKS)
    }

    /// Compares the progress if a check is due, and ends a connection that makes none.
    pub(super) fn check_stall(&mut self, now: Instant) {
        if self.stall_deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        let (limit, moved) = (self.stall_limit(), self.moved());
        let Some(check) = self.cell().stall().filter(|check| Some(check.limit) == limit) else {
            self.cell().set_stall(None);
            return self.watch_stall(now);
        };
        let still = if check.moved == moved { check.still + 1 } else { 0 };
        self.cell().set_stall(Some(StallCheck { at: now, moved, still, ..check }));
        if still == CHECKS {
            self.end(Reason::Timeout, CloseMode::Reset);
        }
    }
}
