//! [`Frames`]: the tables of an inspected loop as of earlier times, which its recordings replay.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::snapshot::Snapshot;

/// The limits of the tables of an inspected loop other than its connections, such as timed calls,
/// tasks and Deferreds, which are kept for recordings as of earlier times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableLimits {
    pub(super) every: Duration,
    pub(super) frames: usize,
    pub(super) rows: usize,
    pub(super) ended_deferreds: usize,
}

impl Default for TableLimits {
    fn default() -> TableLimits {
        let every = Duration::from_secs(1);
        TableLimits { every, frames: 64, rows: 20_000, ended_deferreds: 64 }
    }
}

impl TableLimits {
    /// Sets how often the tables are kept: once a second by default, in which the loop has a turn. The
    /// loop takes them in its own thread, at the beginning of a turn.
    #[must_use]
    pub fn interval(mut self, every: Duration) -> TableLimits {
        self.every = every;
        self
    }

    /// Sets how many times the tables are kept: 64 by default. The newest are as close as their
    /// [interval](Self::interval), and older ones are farther apart. With 0, a recording has only the
    /// tables of its end.
    #[must_use]
    pub fn kept(mut self, count: usize) -> TableLimits {
        self.frames = count;
        self
    }

    /// Sets the most rows in all kept tables: 20 000 by default. A table has at most a quarter of
    /// them, and a recording counts the rows that are left out.
    #[must_use]
    pub fn rows(mut self, count: usize) -> TableLimits {
        self.rows = count;
        self
    }

    /// Sets how many Deferreds the present table shows after their end: the last 64 by default, each
    /// with its history. A failure lives as long as a history that contains it.
    #[must_use]
    pub fn ended_deferreds(mut self, count: usize) -> TableLimits {
        self.ended_deferreds = count;
        self
    }
}

/// The tables of a loop at the beginning of a turn, without its connections, whose state is in the
/// ring.
#[derive(Debug)]
pub struct Frame {
    /// When it was taken, in ticks since the ring was made.
    pub ticks: u64,
    /// The loop at that time.
    pub snapshot: Snapshot,
    /// Rows that a limit left out.
    pub left_out: usize,
}

/// The last frames of a loop; older ones are farther apart. Written by the loop, and read by any
/// thread.
pub struct Frames {
    limits: TableLimits,
    kept: Mutex<VecDeque<Arc<Frame>>>,
}

impl Frames {
    /// Keeps none so far.
    pub fn new(limits: TableLimits) -> Frames {
        Frames { limits, kept: Mutex::default() }
    }

    /// The frames, oldest first.
    pub fn list(&self) -> Vec<Arc<Frame>> {
        self.kept().iter().cloned().collect()
    }

    /// The limit of rows of one kind in a frame.
    pub(super) fn rows(&self) -> usize {
        self.limits.rows / 4
    }

    /// How long to wait for the next frame; zero if it is due.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        let last = self.kept().back().and_then(|frame| frame.snapshot.at);
        let passed = last.map_or(Duration::MAX, |at| now.saturating_duration_since(at));
        self.limits.every.saturating_sub(passed)
    }

    pub(super) fn add(&self, frame: Frame) {
        let mut kept = self.kept();
        kept.push_back(Arc::new(frame));
        let mut dropped = Vec::new();
        let mut rows: usize = kept.iter().map(|frame| frame.rows()).sum();
        while kept.len() > self.limits.frames || (rows > self.limits.rows && kept.len() > 1) {
            let least = least(&kept);
            dropped.extend(kept.remove(least));
            rows -= dropped.last().map_or(0, |frame| frame.rows());
        }
        // Frames may contain the user's objects, so the lock is released first.
        drop(kept);
        drop(dropped);
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Arc<Frame>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The frame that is missed least: its neighbours are close together, compared with its age. The first
/// and the last one stay.
fn least(kept: &VecDeque<Arc<Frame>>) -> usize {
    let last = kept.back().map_or(0, |frame| frame.ticks);
    let ticks = |at: usize| kept.get(at).map_or(0, |frame| frame.ticks);
    let missed = |at: &usize| {
        let gap = ticks(at + 1).saturating_sub(ticks(at.saturating_sub(1)));
        let age = last.saturating_sub(ticks(*at)).max(1);
        (u128::from(gap) << u32::BITS) / u128::from(age)
    };
    (1..kept.len().saturating_sub(1)).min_by_key(missed).unwrap_or(0)
}

impl Frame {
    /// A loop that has ended.
    pub(super) fn end(ticks: u64) -> Frame {
        Frame { ticks, snapshot: Snapshot::default(), left_out: 0 }
    }

    fn rows(&self) -> usize {
        self.snapshot.count()
    }
}

impl Snapshot {
    /// The rows of all kinds that a frame has.
    fn count(&self) -> usize {
        self.ports.len()
            + self.datagrams.len()
            + self.connectors.len()
            + self.pending.len()
            + self.deferreds.len()
            + self.locks.len()
            + self.rows.len()
    }

    /// Keeps at most `most` rows of each kind. Returns the number of rows that were left out.
    pub(super) fn truncate(&mut self, most: usize) -> usize {
        let all = self.count();
        self.ports.truncate(most);
        self.datagrams.truncate(most);
        self.connectors.truncate(most);
        self.pending.truncate(most);
        self.deferreds.truncate(most);
        self.locks.truncate(most);
        self.rows.truncate(most);
        all - self.count()
    }
}

impl fmt::Debug for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frames").field("count", &self.kept().len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::panic::Location;

    use super::*;
    use crate::reactor::notes::NoteRow;
    use crate::reactor::snapshot::ConnectorSnapshot;
    use crate::why::Why;

    const SECOND: u64 = 1_000_000_000;

    fn frame(second: u64, rows: usize) -> Frame {
        let row = NoteRow::new("numbers", [("number", second.to_string())]);
        let snapshot = Snapshot { rows: vec![row; rows], ..Snapshot::default() };
        Frame { ticks: second * SECOND, snapshot, left_out: 0 }
    }

    fn seconds(frames: &Frames) -> Vec<u64> {
        frames.list().iter().map(|frame| frame.ticks / SECOND).collect()
    }

    #[test]
    fn old_frames_are_far_apart_and_new_ones_close() {
        let frames = Frames::new(TableLimits::default().kept(16));
        (0..10_000).for_each(|second| frames.add(frame(second, 1)));
        let kept = seconds(&frames);
        assert_eq!(kept.len(), 16);
        assert_eq!(kept[13..], [9997, 9998, 9999]);
        let ages: Vec<_> = kept.iter().map(|second| 9999 - second).collect();
        assert!(ages[0] > 5000, "{ages:?}");
        for pair in ages.windows(2).filter(|pair| pair[1] > 2) {
            assert!(pair[0] <= 6 * pair[1], "{ages:?}");
        }
    }

    #[test]
    fn rows_are_bounded_and_one_frame_stays() {
        let limits = TableLimits::default().rows(100);
        assert_eq!((limits.every, limits.frames), (Duration::from_secs(1), 64));
        assert_eq!(TableLimits::default().rows, 20_000);
        let frames = Frames::new(limits);
        assert_eq!(frames.rows(), 25);
        (0..50).for_each(|second| frames.add(frame(second, 25)));
        assert_eq!(seconds(&frames).len(), 4);
        frames.add(frame(50, 1000));
        assert_eq!(seconds(&frames), [50]);
        let none = Frames::new(limits.kept(0));
        none.add(frame(1, 1));
        assert!(none.list().is_empty());
    }

    #[test]
    fn rows_beyond_the_limit_are_counted() {
        let Frame { mut snapshot, .. } = frame(1, 30);
        assert_eq!(snapshot.truncate(25), 5);
        assert_eq!((snapshot.rows.len(), snapshot.truncate(25)), (25, 0));
    }

    #[test]
    fn each_kind_of_rows_has_the_limit() {
        let Frame { mut snapshot, .. } = frame(1, 30);
        let (place, why) = (Location::caller(), Why::default());
        let connector = ConnectorSnapshot { target: String::new(), state: "", place, why };
        snapshot.connectors = vec![connector; 27];
        assert_eq!(snapshot.truncate(25), 5 + 2);
        assert_eq!((snapshot.rows.len(), snapshot.connectors.len()), (25, 25));
        assert_eq!((snapshot.count(), snapshot.truncate(20)), (50, 10));
    }
}
