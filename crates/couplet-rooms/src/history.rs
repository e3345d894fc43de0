//! The numbers and the last messages of a room. The caller passes the time.
//!
//! Contract: 190, 191.

use std::collections::VecDeque;
use std::time::Instant;

use couplet_core::Bytes;
use couplet_defer::bounded::Bounded;

use crate::link::Backlog;
use crate::options::RoomOptions;
use crate::position::Position;

/// The messages that a returning client missed.
#[derive(Debug)]
pub(crate) struct Missed {
    pub(crate) messages: Backlog,
    pub(crate) is_complete: bool,
}

impl Missed {
    pub(crate) fn nothing(is_complete: bool) -> Missed {
        Missed { messages: Backlog::new(), is_complete }
    }
}

/// Numbers the messages of a room, and keeps the last ones.
#[derive(Debug)]
pub(crate) struct History {
    epoch: u64,
    /// The number of the newest message.
    last: u64,
    kept: Bounded<VecDeque<(Instant, Bytes)>>,
    bytes: usize,
}

impl History {
    pub(crate) fn new(epoch: u64, options: &RoomOptions) -> History {
        History { epoch, last: 0, kept: Bounded::new(options.history_messages), bytes: 0 }
    }

    /// The position of the newest message.
    pub(crate) fn position(&self) -> Position {
        Position { epoch: self.epoch, number: self.last }
    }

    /// The position of the next message.
    pub(crate) fn next(&self) -> Position {
        Position { epoch: self.epoch, number: self.last + 1 }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// When the newest kept message was published.
    pub(crate) fn newest(&self) -> Option<Instant> {
        self.kept.back().map(|(at, _)| *at)
    }

    /// Numbers a message, and keeps it if the room has a history. Messages that no longer fit go to
    /// `removed`.
    pub(crate) fn add(
        &mut self,
        now: Instant,
        bytes: &Bytes,
        options: &RoomOptions,
        removed: &mut Vec<Bytes>,
    ) -> Position {
        self.last += 1;
        if options.history_messages > 0 {
            if self.kept.is_full() {
                removed.extend(self.remove_oldest());
            }
            self.kept.edit().push_back((now, bytes.clone()));
            self.bytes += bytes.len();
            while self.bytes > options.history_bytes {
                removed.extend(self.remove_oldest());
            }
        }
        self.position()
    }

    pub(crate) fn remove_oldest(&mut self) -> Option<Bytes> {
        let (_, bytes) = self.kept.edit().pop_front()?;
        self.bytes -= bytes.len();
        Some(bytes)
    }

    /// Removes the messages that are too old.
    pub(crate) fn expire(&mut self, now: Instant, options: &RoomOptions, removed: &mut Vec<Bytes>) {
        let is_old = |at: Instant| now.saturating_duration_since(at) > options.history_time;
        while self.kept.front().is_some_and(|(at, _)| is_old(*at)) {
            removed.extend(self.remove_oldest());
        }
    }

    /// All kept messages, with their numbers.
    pub(crate) fn all(&self) -> Missed {
        self.after(self.last - self.kept.len() as u64)
    }

    /// The messages after a position; none if there is a gap.
    pub(crate) fn since(&self, position: Position) -> Missed {
        let first = self.last - self.kept.len() as u64;
        let is_known =
            position.epoch == self.epoch && (first..=self.last).contains(&position.number);
        if is_known { self.after(position.number) } else { Missed::nothing(false) }
    }

    /// The messages after a number. The history still has all of them.
    fn after(&self, number: u64) -> Missed {
        let count = (self.last - number) as usize;
        let kept = self.kept.iter().skip(self.kept.len() - count);
        let messages = (number + 1..).zip(kept.map(|(_, bytes)| bytes.clone())).collect();
        Missed { messages, is_complete: true }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use couplet::testing::Clock;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A room's history to which `count` messages of one byte were added, a second apart, and the
    /// time of the last.
    fn history(options: &RoomOptions, count: u8) -> (History, Instant) {
        let mut now = Clock::new().reactor().now();
        let mut history = History::new(7, options);
        for n in 1..=count {
            now += SECOND;
            let mut removed = Vec::new();
            history.add(now, &Bytes::copy_from_slice(&[n]), options, &mut removed);
        }
        (history, now)
    }

    /// The numbers of the messages after a number, if there is no gap.
    fn numbers(history: &History, number: u64) -> Option<Vec<u64>> {
        let missed = history.since(Position { epoch: 7, number });
        for (number, bytes) in &missed.messages {
            assert_eq!(u64::from(bytes[0]), *number, "each number has its message");
        }
        missed.is_complete.then(|| missed.messages.iter().map(|(number, _)| *number).collect())
    }

    #[test]
    fn c191_a_returning_client_gets_the_missed_messages_or_a_gap() {
        let (history, _) = history(&RoomOptions::default().history(3, 100, SECOND * 100), 5);
        assert_eq!(numbers(&history, 5), Some(vec![]));
        assert_eq!(numbers(&history, 3), Some(vec![4, 5]));
        assert_eq!(numbers(&history, 2), Some(vec![3, 4, 5]));
        assert_eq!(numbers(&history, 1), None, "2 was removed");
        assert_eq!(numbers(&history, 6), None, "6 does not exist");
        assert_eq!(numbers(&history, u64::MAX), None);
        let of_another = history.since(Position { epoch: 8, number: 4 });
        assert!(!of_another.is_complete && of_another.messages.is_empty());
        assert_eq!(history.all().messages.len(), 3);
    }

    #[test]
    fn c191_a_history_is_bounded_by_count_bytes_and_time() {
        for (messages, bytes, kept) in [(0, 100, 0), (3, 100, 3), (100, 2, 2), (100, 0, 0)] {
            let options = RoomOptions::default().history(messages, bytes, SECOND * 100);
            let (history, _) = history(&options, 5);
            assert_eq!(history.all().messages.len(), kept, "{messages} {bytes}");
            assert_eq!(history.bytes(), kept);
            assert_eq!(numbers(&history, 5), Some(vec![]), "the position is known");
        }
        let options = RoomOptions::default().history(100, 100, SECOND * 2);
        let (mut history, now) = history(&options, 5);
        let mut removed = Vec::new();
        history.expire(now, &options, &mut removed);
        assert_eq!((removed.len(), numbers(&history, 2)), (2, Some(vec![3, 4, 5])));
        history.expire(now + SECOND * 3, &options, &mut removed);
        assert!(removed.len() == 5 && history.is_empty() && history.bytes() == 0);
        assert_eq!(numbers(&history, 4), None, "5 has expired");
        assert_eq!(history.next().number(), 6);
    }

    #[test]
    fn c191_a_room_has_no_history_by_default() {
        let (history, _) = history(&RoomOptions::default(), 5);
        assert!(history.is_empty() && history.bytes() == 0);
    }
}
