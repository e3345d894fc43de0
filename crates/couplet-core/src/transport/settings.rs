//! The settings and counters of a connection, which move with it to another process.
//!
//! Contract: 51d.

use crate::transport::Timeout;
use std::time::{Duration, Instant};

use super::Transport;
use super::cell::{ConnectionCell, Watermarks};

/// The settings and counters of a connection, in the order of [`of`](TransportSettings::of). Times are
/// in microseconds; [`NEVER`] means no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TransportSettings(pub(crate) [u64; TransportSettings::COUNT]);

const NEVER: u64 = u64::MAX;

impl TransportSettings {
    pub(crate) const COUNT: usize = 15;

    pub(crate) fn of(cell: &ConnectionCell, now: Instant) -> TransportSettings {
        let marks = cell.watermarks();
        let since = |then: Instant| micros(now.saturating_duration_since(then));
        let time = |time: Option<Duration>| time.map_or(NEVER, micros);
        // A producer, which does not move, may have paused reading.
        let is_paused = cell.is_paused_by_user() && !cell.has_producer();
        TransportSettings([
            time(cell.idle_timeout()),
            time(cell.close_deadline()),
            time(cell.fin_timeout()),
            time(cell.half_close_timeout()),
            time(cell.write_timeout()),
            marks.low() as u64,
            marks.high() as u64,
            cell.cap.get() as u64,
            cell.modes().into(),
            is_paused.into(),
            cell.timed_pause_left(now).map_or(0, micros),
            cell.bytes_in.get(),
            cell.bytes_accepted(),
            since(cell.made_at.get()),
            since(cell.received_at.get()),
        ])
    }

    /// Applies these settings to a new connection, whose protocol will write `unsent` bytes again.
    pub(crate) fn restore(self, transport: &Transport, unsent: usize) {
        let TransportSettings(numbers) = self;
        let [
            idle,
            close,
            fin,
            half_close,
            write,
            low,
            high,
            cap,
            modes,
            is_paused,
            pause,
            bytes_in,
            written,
            age,
            silence,
        ] = numbers;
        let (cell, now) = (&transport.cell, transport.reactor().now());
        let time = |micros| (micros != NEVER).then(|| Duration::from_micros(micros));
        let size = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
        let ago = |micros| now.checked_sub(Duration::from_micros(micros)).unwrap_or(now);
        transport.set_timeout(Timeout::Idle, time(idle));
        transport.set_timeout(Timeout::Close, time(close));
        transport.set_timeout(Timeout::Fin, time(fin));
        transport.set_timeout(Timeout::HalfClose, time(half_close));
        transport.set_timeout(Timeout::Write, time(write));
        cell.set_watermarks(Watermarks::new(size(low), size(high)));
        cell.cap.set(size(cap));
        cell.restore_modes(modes as u8);
        cell.bytes_in.set(bytes_in);
        cell.set_bytes_accepted(written.saturating_sub(unsent as u64));
        cell.made_at.set(ago(age));
        cell.received_at.set(ago(silence));
        // Bytes come in the next turn at the earliest: connections that are continued together may know
        // each other, and all have begun then.
        transport.read_again_after(Duration::from_micros(pause));
        if is_paused == 1 {
            transport.pause_producing();
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(NEVER)
}
