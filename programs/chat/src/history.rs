//! The kept lines of the chat, shared by all loops: the link reads them from a log, and publishes
//! each with its number in a room whose history has the last ones.
//!
//! Contract: 228.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use couplet::bus::Position;
use couplet::rooms;

use crate::member::WRITE_CAP;

/// Lines sent to a member who joins.
const FIRST: usize = 20;
/// Most bytes of the kept lines: a member may get all of them at once, within its cap.
pub(crate) const KEPT_BYTES: usize = WRITE_CAP / 2;
/// Age at which a line is removed.
pub(crate) const AGE: Duration = Duration::from_secs(30 * 24 * 3600);

/// The kept lines.
#[derive(Default)]
pub(crate) struct History {
    /// The position in the log of the last line, once the log was read.
    last: Option<Position>,
    /// The lines in the room's history, which has the same limits, and their numbers.
    lines: VecDeque<(u64, Line)>,
    /// The bytes of `lines`.
    bytes: usize,
    /// The place before `lines`: of a line that is not kept any more, or of another beginning.
    before: Option<rooms::Position>,
    /// The most lines that are kept; 0 without a history.
    most: usize,
}

/// A line in the room's history.
#[derive(Clone, Copy)]
pub(crate) struct Line {
    pub(crate) place: rooms::Position,
    pub(crate) bytes: usize,
    pub(crate) at: Instant,
}

/// The first line to replay for a given position, and the reply.
pub(crate) struct Begin {
    /// The start in the room; `None` if there is nothing to send.
    pub(crate) start: Option<rooms::Start>,
    pub(crate) notice: Option<String>,
}

impl History {
    pub(crate) fn new(most: usize) -> History {
        History { most, ..History::default() }
    }

    pub(crate) fn is_kept(&self) -> bool {
        self.most > 0
    }

    /// The position of the last line.
    pub(crate) fn last(&self) -> Option<Position> {
        self.last
    }

    /// The link has published a line.
    pub(crate) fn add(&mut self, position: Position, line: Line) {
        self.last = Some(position);
        self.bytes += line.bytes;
        self.lines.push_back((position.number(), line));
        while self.lines.len() > self.most || self.bytes > KEPT_BYTES {
            self.remove_oldest();
        }
    }

    fn remove_oldest(&mut self) {
        if let Some((_, line)) = self.lines.pop_front() {
            self.bytes -= line.bytes;
            self.before = Some(line.place);
        }
    }

    /// Removes the lines that are too old.
    fn expire(&mut self, now: Instant) {
        let is_old = |line: &Line| now.saturating_duration_since(line.at) > AGE;
        while self.lines.front().is_some_and(|(_, line)| is_old(line)) {
            self.remove_oldest();
        }
    }

    /// The log begins, perhaps anew, with this position.
    pub(crate) fn begin_anew(&mut self, next: Position) {
        while !self.lines.is_empty() {
            self.remove_oldest();
        }
        self.last = Some(next.with_number(next.number().saturating_sub(1)));
    }

    /// The start of a member who joins: the last few lines.
    pub(crate) fn first_start(&mut self, now: Instant) -> rooms::Start {
        self.expire(now);
        match self.lines.len().checked_sub(FIRST + 1) {
            Some(before) => rooms::Start::After(self.lines[before].1.place),
            None => self.oldest().unwrap_or(rooms::Start::Now),
        }
    }

    /// The start of a member who has the lines up to `after`, which is a position or a number of
    /// this log; `None` if it is neither.
    pub(crate) fn start_after(&mut self, after: &str, now: Instant) -> Option<Begin> {
        self.expire(now);
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
        if position.number() >= last.number() {
            let notice = Some(nothing_after(position.number(), last.number()));
            return Some(Begin { start: None, notice });
        }
        let found = self.lines.partition_point(|(number, _)| *number <= position.number());
        let missing = match self.lines.get(found) {
            Some(_) if found > 0 => None,
            Some((first, _)) if position.number() + 1 == *first => None,
            Some((first, _)) => Some(first - 1),
            None => Some(last.number()),
        };
        let notice = missing
            .map(|to| format!("Lines {} to {to} are not kept any more.", position.number() + 1));
        let start = match found.checked_sub(1) {
            Some(before) => Some(rooms::Start::After(self.lines[before].1.place)),
            None => self.oldest(),
        };
        Some(Begin { start, notice })
    }

    fn oldest(&self) -> Option<rooms::Start> {
        let oldest = self.before.map_or(rooms::Start::Oldest, rooms::Start::After);
        (!self.lines.is_empty()).then_some(oldest)
    }
}

/// The answer to a member whose number is the newest, or a higher one: lines were lost, or another
/// server has read further.
fn nothing_after(number: u64, newest: u64) -> String {
    match (number == newest, newest) {
        (true, _) => "You have missed nothing.".to_owned(),
        (false, 0) => format!("There is no line {number}: no lines are kept yet."),
        (false, _) => format!("There is no line {number}; the newest is {newest}."),
    }
}

#[cfg(test)]
mod tests {
    use couplet::testing::hold;

    use super::*;
    use crate::held::Nobody;

    fn at(number: u64) -> Position {
        format!("a1-{number}").parse().expect("a position")
    }

    fn place(number: u64) -> rooms::Position {
        format!("77-{number}").parse().expect("a position")
    }

    /// A history, and the present time.
    struct Scene {
        history: History,
        now: Instant,
    }

    impl Scene {
        fn new(most: usize) -> Scene {
            Scene { history: History::new(most), now: hold(Nobody).reactor().now() }
        }

        fn add(&mut self, position: Position, number: u64, bytes: usize) {
            let line = Line { place: place(number), bytes, at: self.now };
            self.history.add(position, line);
        }

        fn begin(&mut self, after: &str) -> Option<(Option<rooms::Start>, Option<String>)> {
            let begin = self.history.start_after(after, self.now);
            begin.map(|begin| (begin.start, begin.notice))
        }
    }

    fn gone(from: u64, to: u64) -> Option<String> {
        Some(format!("Lines {from} to {to} are not kept any more."))
    }

    #[test]
    fn c228_a_returning_member_gets_the_missed_lines_or_a_notice_of_the_gap() {
        use rooms::Start::{After, Oldest};
        let mut scene = Scene::new(3);
        let oldest = Some(After(place(2)));
        let none = Some((None, Some("No lines are kept yet.".to_owned())));
        assert_eq!(scene.begin("a1-1"), none);
        for number in 10..15 {
            scene.add(at(number), number - 9, 50);
        }
        let missed_nothing = Some("You have missed nothing.".to_owned());
        let lost = Some("There is no line 99; the newest is 14.".to_owned());
        let anew = Some("The lines have begun anew since then.".to_owned());
        for (after, start, notice) in [
            ("a1-11", oldest, None),
            ("11", oldest, None),
            ("12", Some(After(place(3))), None),
            ("a1-14", None, missed_nothing.clone()),
            ("14", None, missed_nothing.clone()),
            ("a1-99", None, lost.clone()),
            ("99", None, lost),
            ("10", oldest, gone(11, 11)),
            ("", oldest, gone(1, 11)),
            ("b2-12", oldest, anew),
        ] {
            assert_eq!(scene.begin(after), Some((start, notice)), "{after:?}");
        }
        for bad in ["x", "-1", "a1-", "a1", "99999999999999999999", "1 2", "é"] {
            assert_eq!(scene.begin(bad), None, "{bad:?}");
        }
        scene.history.begin_anew("b2-1".parse().expect("a position"));
        assert_eq!(scene.history.last().map(|last| last.to_string()).as_deref(), Some("b2-0"));
        assert!(matches!(scene.begin("a1-14"), Some((None, Some(_)))));
        assert_eq!(scene.begin("0"), Some((None, missed_nothing)));
        let none = Some("There is no line 14: no lines are kept yet.".to_owned());
        assert_eq!(scene.begin("14"), Some((None, none)));
        scene.add("b2-4".parse().expect("a position"), 9, 50);
        // Not with the lines of the old log, which the room still has.
        assert_eq!(scene.begin(""), Some((Some(After(place(5))), gone(1, 3))));
        assert_eq!(scene.history.first_start(scene.now), After(place(5)));
        let mut first = Scene::new(3);
        first.add(at(1), 1, 50);
        assert_eq!(first.begin(""), Some((Some(Oldest), None)));
    }

    #[test]
    fn c228_kept_lines_are_limited_in_bytes_and_age_like_the_rooms() {
        let mut scene = Scene::new(1000);
        for number in 1..=101 {
            scene.add(at(number), number, KEPT_BYTES / 100);
        }
        let kept = Some(rooms::Start::After(place(1)));
        assert_eq!(scene.begin(""), Some((kept, gone(1, 1))));
        scene.now += AGE;
        scene.add(at(102), 102, 1);
        assert_eq!(scene.begin(""), Some((kept, gone(1, 1))));
        scene.now += Duration::from_millis(1);
        let kept = Some(rooms::Start::After(place(101)));
        assert_eq!(scene.begin(""), Some((kept, gone(1, 101))));
        scene.now += AGE;
        assert_eq!(scene.begin("50"), Some((None, gone(51, 102))));
        assert_eq!(scene.history.first_start(scene.now), rooms::Start::Now);
    }

    #[test]
    fn c228_a_person_who_joins_gets_the_last_lines() {
        let mut scene = Scene::new(100);
        assert_eq!(scene.history.first_start(scene.now), rooms::Start::Now);
        for number in 1..=FIRST as u64 {
            scene.add(at(number), number, 50);
            assert_eq!(scene.history.first_start(scene.now), rooms::Start::Oldest);
        }
        scene.add(at(99), 21, 50);
        assert_eq!(scene.history.first_start(scene.now), rooms::Start::After(place(1)));
    }
}
