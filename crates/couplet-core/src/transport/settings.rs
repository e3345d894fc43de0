//! The settings and counters of a connection, which move with it to another process.

use std::time::{Duration, Instant};

use super::Transport;
use super::cell::{ConnectionCell, Watermarks};

/// The settings and counters of a connection. Times are in microseconds; [`NEVER`] stands for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TransportSettings {
    idle_timeout: u64,
    close_deadline: u64,
    low_mark: u64,
    high_mark: u64,
    cap: u64,
    modes: u64,
    /// 1 if the protocol has paused reading.
    is_paused: u64,
    /// The rest of a throttle.
    throttle: u64,
    received: u64,
    written: u64,
    /// Since the connection was made, and since its last bytes.
    age: u64,
    silence: u64,
}

const NEVER: u64 = u64::MAX;

impl TransportSettings {
    pub(crate) const NUMBERS: usize = 12;

    pub(crate) fn of(cell: &ConnectionCell, now: Instant) -> TransportSettings {
        let Watermarks { low, high } = cell.watermarks();
        let since = |then: Instant| micros(now.saturating_duration_since(then));
        let time = |time: Option<Duration>| time.map_or(NEVER, micros);
        TransportSettings {
            idle_timeout: time(cell.idle_timeout.get()),
            close_deadline: time(cell.close_deadline.get()),
            low_mark: low as u64,
            high_mark: high as u64,
            cap: cell.cap.get() as u64,
            modes: cell.modes().into(),
            // A producer, which is not taken along, may have paused it.
            is_paused: (cell.is_paused_by_user() && !cell.has_producer()).into(),
            throttle: cell.throttle_left(now).map_or(0, micros),
            received: cell.bytes_in.get(),
            written: cell.bytes_accepted(),
            age: since(cell.made_at.get()),
            silence: since(cell.received_at.get()),
        }
    }

    /// Gives them to a new connection, of which so many bytes will be written again.
    pub(crate) fn restore(&self, transport: &Transport, unsent: usize) {
        let (cell, now) = (&transport.cell, transport.reactor().now());
        let time = |micros| (micros != NEVER).then(|| Duration::from_micros(micros));
        let size = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
        let ago = |micros| now.checked_sub(Duration::from_micros(micros)).unwrap_or(now);
        transport.set_idle_timeout(time(self.idle_timeout));
        transport.set_close_deadline(time(self.close_deadline));
        cell.set_watermarks(Watermarks { low: size(self.low_mark), high: size(self.high_mark) });
        cell.cap.set(size(self.cap));
        cell.restore_modes(self.modes as u8);
        cell.bytes_in.set(self.received);
        cell.set_bytes_accepted(self.written.saturating_sub(unsent as u64));
        cell.made_at.set(ago(self.age));
        cell.received_at.set(ago(self.silence));
        if self.throttle > 0 {
            transport.throttle(Duration::from_micros(self.throttle));
        }
        if self.is_paused == 1 {
            transport.pause_producing();
        }
    }

    pub(crate) fn numbers(&self) -> [u64; TransportSettings::NUMBERS] {
        let TransportSettings {
            idle_timeout,
            close_deadline,
            low_mark,
            high_mark,
            cap,
            modes,
            is_paused,
            throttle,
            received,
            written,
            age,
            silence,
        } = *self;
        [
            idle_timeout,
            close_deadline,
            low_mark,
            high_mark,
            cap,
            modes,
            is_paused,
            throttle,
            received,
            written,
            age,
            silence,
        ]
    }

    pub(crate) fn from_numbers(numbers: [u64; TransportSettings::NUMBERS]) -> TransportSettings {
        let [
            idle_timeout,
            close_deadline,
            low_mark,
            high_mark,
            cap,
            modes,
            is_paused,
            throttle,
            received,
            written,
            age,
            silence,
        ] = numbers;
        TransportSettings {
            idle_timeout,
            close_deadline,
            low_mark,
            high_mark,
            cap,
            modes,
            is_paused,
            throttle,
            received,
            written,
            age,
            silence,
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(NEVER)
}
