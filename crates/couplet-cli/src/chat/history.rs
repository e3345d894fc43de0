//! The lines that the chat keeps, as all loops see them: the link takes them from a log, and
//! publishes each with its number in a room whose history has the last ones.

use std::collections::VecDeque;

use couplet::bus::Position;
use couplet::rooms;

/// Lines that a person gets who joins.
const FIRST: usize = 20;

/// The kept lines.
#[derive(Default)]
pub(super) struct History {
    /// The position in the log of the last line, once the log was read.
    last: Option<Position>,
    /// The numbers of the lines in the room's history, and their places there.
    // Bound: `most`, 10 000 at most.
    places: VecDeque<(u64, rooms::Position)>,
    /// The most lines that are kept; 0 without a history.
    most: usize,
}

/// Where a person who says a position begins, and the answer.
pub(super) struct Begin {
    /// Where to begin in the room; `None` with nothing to send.
    pub(super) start: Option<rooms::Start>,
    pub(super) notice: Option<String>,
}

impl History {
    pub(super) fn new(most: usize) -> History {
        History { most, ..History::default() }
    }

    pub(super) fn is_kept(&self) -> bool {
        self.most > 0
    }

    /// The position of the last line.
    pub(super) fn last(&self) -> Option<Position> {
        self.last
    }

    /// The link has published a line.
    pub(super) fn add(&mut self, position: Position, place: rooms::Position) {
        self.last = Some(position);
        self.places.push_back((position.number(), place));
        if self.places.len() > self.most {
            self.places.pop_front();
        }
    }

    /// The log begins, perhaps anew, with this position.
    pub(super) fn begin_anew(&mut self, next: Position) {
        self.places.clear();
        self.last = Some(next.with_number(next.number().saturating_sub(1)));
    }

    /// Where a person who joins begins: with the last few lines.
    pub(super) fn first_start(&self) -> rooms::Start {
        match self.places.len().checked_sub(FIRST + 1) {
            Some(before) => rooms::Start::After(self.places[before].1),
            None if self.places.is_empty() => rooms::Start::Now,
            None => rooms::Start::Oldest,
        }
    }

    /// Where a person begins who has the lines up to `after`: a position, or a number of this log.
    /// `None` if it is neither.
    pub(super) fn start_after(&self, after: &str) -> Option<Begin> {
        let number: Option<u64> = match after {
            "" => Some(0),
            after if after.bytes().all(|byte| byte.is_ascii_digit()) => after.parse().ok(),
            _ => None,
        };
        let position = match number {
            Some(number) => self.last.map(|last| last.with_number(number)),
            None => Some(after.parse::<Position>().ok()?),
        };
        let (Some(last), Some(position)) = (self.last, position) else {
            let notice = Some("No lines are kept yet.".to_owned());
            return Some(Begin { start: None, notice });
        };
        if position.with_number(last.number()) != last {
            let notice = Some("The lines have begun anew since then.".to_owned());
            return Some(Begin { start: self.oldest(), notice });
        }
        let found = self.places.partition_point(|(number, _)| *number <= position.number());
        // Another server may have read further.
        if position.number() >= last.number() {
            let notice = Some("You have missed nothing.".to_owned());
            return Some(Begin { start: None, notice });
        }
        let missing = match self.places.get(found) {
            Some(_) if found > 0 => None,
            Some((first, _)) if position.number() + 1 == *first => None,
            Some((first, _)) => Some(first - 1),
            None => Some(last.number()),
        };
        let notice = missing
            .map(|to| format!("Lines {} to {to} are not kept any more.", position.number() + 1));
        let start = match found.checked_sub(1) {
            Some(before) => Some(rooms::Start::After(self.places[before].1)),
            None => self.oldest(),
        };
        Some(Begin { start, notice })
    }

    fn oldest(&self) -> Option<rooms::Start> {
        (!self.places.is_empty()).then_some(rooms::Start::Oldest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(number: u64) -> Position {
        format!("a1-{number}").parse().expect("a position")
    }

    fn place(number: u64) -> rooms::Position {
        format!("77-{number}").parse().expect("a position")
    }

    fn begin(history: &History, after: &str) -> Option<(Option<rooms::Start>, Option<String>)> {
        history.start_after(after).map(|begin| (begin.start, begin.notice))
    }

    #[test]
    fn c228_a_person_who_returns_gets_what_was_missed_or_learns_of_a_gap() {
        use rooms::Start::{After, Oldest};
        let mut history = History::new(3);
        let none = Some((None, Some("No lines are kept yet.".to_owned())));
        assert_eq!(begin(&history, "a1-1"), none);
        for number in 10..15 {
            history.add(at(number), place(number - 9));
        }
        let gone = |from, to| Some(format!("Lines {from} to {to} are not kept any more."));
        let missed_nothing = Some("You have missed nothing.".to_owned());
        let anew = Some("The lines have begun anew since then.".to_owned());
        for (after, start, notice) in [
            ("a1-11", Some(Oldest), None),
            ("11", Some(Oldest), None),
            ("12", Some(After(place(3))), None),
            ("a1-14", None, missed_nothing.clone()),
            ("a1-99", None, missed_nothing),
            ("10", Some(Oldest), gone(11, 11)),
            ("", Some(Oldest), gone(1, 11)),
            ("b2-12", Some(Oldest), anew),
        ] {
            assert_eq!(begin(&history, after), Some((start, notice)), "{after:?}");
        }
        for bad in ["x", "-1", "a1-", "a1", "99999999999999999999", "1 2", "é"] {
            assert_eq!(begin(&history, bad), None, "{bad:?}");
        }
        history.begin_anew("b2-1".parse().expect("a position"));
        assert_eq!(history.last().map(|last| last.to_string()).as_deref(), Some("b2-0"));
        assert!(matches!(begin(&history, "a1-14"), Some((None, Some(_)))));
        history.add("b2-4".parse().expect("a position"), place(9));
        assert_eq!(begin(&history, ""), Some((Some(Oldest), gone(1, 3))));
    }

    #[test]
    fn c228_a_person_who_joins_gets_the_last_lines() {
        let mut history = History::new(100);
        assert_eq!(history.first_start(), rooms::Start::Now);
        for number in 1..=FIRST as u64 {
            history.add(at(number), place(number));
            assert_eq!(history.first_start(), rooms::Start::Oldest);
        }
        history.add(at(99), place(21));
        assert_eq!(history.first_start(), rooms::Start::After(place(1)));
    }
}
