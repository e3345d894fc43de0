//! The accounts of a storm: for each message that a node did not get there is a report, of its
//! publisher's bus or of the node's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::RangeInclusive;

use couplet::bus::Position;

/// An event of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// The node's bus reported that this number of messages is missing before the next one.
    Missed(u64),
    /// The node got a message.
    Got { publisher: String, number: u64 },
    /// The node read a message of the log.
    Entry { position: Position, publisher: String, number: u64 },
    /// The log has the node's message of this number.
    Stored { number: u64, position: Position },
    /// Anything that must not happen.
    Broken(String),
    /// The node has a connection.
    Back,
    /// The connection was lost, with this number of unconfirmed messages; the node's last message
    /// has the number `last`.
    Away { unconfirmed: u64, last: u64 },
    /// The bus refused the node's message of this number.
    Refused(u64),
    /// The server has all the node's messages up to this one, except those reported as unconfirmed.
    Confirmed(u64),
    /// The node has a connection after a kill, and the server knows its subscription.
    Ready,
    /// The node published its last message, of this number, and the server has it.
    Finished(u64),
    /// The counters of the node's bus at the end.
    Report { lost: u64, unconfirmed: u64, missed: u64 },
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Line::Missed(count) => write!(f, "missed {count}"),
            Line::Got { publisher, number } => write!(f, "got {publisher} {number}"),
            Line::Entry { position, publisher, number } => {
                write!(f, "entry {position} {publisher} {number}")
            }
            Line::Stored { number, position } => write!(f, "stored {number} {position}"),
            Line::Broken(why) => write!(f, "broken {why}"),
            Line::Back => f.write_str("back"),
            Line::Away { unconfirmed, last } => write!(f, "away {unconfirmed} {last}"),
            Line::Refused(number) => write!(f, "refused {number}"),
            Line::Confirmed(number) => write!(f, "confirmed {number}"),
            Line::Ready => f.write_str("ready"),
            Line::Finished(number) => write!(f, "finished {number}"),
            Line::Report { lost, unconfirmed, missed } => {
                write!(f, "report {lost} {unconfirmed} {missed}")
            }
        }
    }
}

impl Line {
    /// Parses a line; `None` for one of the test's harness.
    pub(crate) fn parse(text: &str) -> Option<Line> {
        let words: Vec<&str> = text.split(' ').collect();
        let number = |at: usize| words.get(at)?.parse::<u64>().ok();
        Some(match words[0] {
            "missed" => Line::Missed(number(1)?),
            "got" => Line::Got { publisher: (*words.get(1)?).to_owned(), number: number(2)? },
            "entry" => Line::Entry {
                position: words.get(1)?.parse().ok()?,
                publisher: (*words.get(2)?).to_owned(),
                number: number(3)?,
            },
            "stored" => Line::Stored { number: number(1)?, position: words.get(2)?.parse().ok()? },
            "broken" => Line::Broken(words[1..].join(" ")),
            "back" => Line::Back,
            "away" => Line::Away { unconfirmed: number(1)?, last: number(2)? },
            "refused" => Line::Refused(number(1)?),
            "confirmed" => Line::Confirmed(number(1)?),
            "ready" => Line::Ready,
            "finished" => Line::Finished(number(1)?),
            "report" => {
                let (lost, unconfirmed, missed) = (number(1)?, number(2)?, number(3)?);
                Line::Report { lost, unconfirmed, missed }
            }
            _ => return None,
        })
    }
}

/// The events of one process of a node.
pub(crate) struct Story {
    pub(crate) name: String,
    pub(crate) lines: Vec<Line>,
}

impl Story {
    /// The last position that it has read.
    pub(crate) fn last_position(&self) -> Option<Position> {
        self.lines.iter().rev().find_map(|line| match line {
            Line::Entry { position, .. } => Some(*position),
            _ => None,
        })
    }

    pub(crate) fn of(name: &str) -> Story {
        Story { name: name.to_owned(), lines: Vec::new() }
    }
}

/// The messages of one publisher, as it knows them.
#[derive(Default)]
struct Published {
    refused: BTreeSet<u64>,
    /// The numbers among which messages are unconfirmed, and how many are.
    unconfirmed: Vec<(RangeInclusive<u64>, u64)>,
    confirmed: u64,
    /// The last one, if it ended in order.
    last: Option<u64>,
}

impl Published {
    fn of(story: &Story) -> Published {
        let mut published = Published::default();
        let (mut report, mut all, mut all_missed) = (None, 0, 0);
        for line in &story.lines {
            match line {
                Line::Refused(number) => drop(published.refused.insert(*number)),
                Line::Away { unconfirmed, last } => {
                    all += unconfirmed;
                    let first = published.confirmed + 1;
                    published.unconfirmed.push((first..=*last, *unconfirmed));
                }
                Line::Confirmed(number) => published.confirmed = *number,
                Line::Finished(number) => {
                    (published.confirmed, published.last) = (*number, Some(*number));
                }
                Line::Missed(count) => all_missed += count,
                Line::Report { lost, unconfirmed, missed } => {
                    report = Some((*lost, *unconfirmed, *missed));
                }
                _ => {}
            }
        }
        if let Some(report) = report {
            let events = (published.refused.len() as u64, all, all_missed);
            assert_eq!(report, events, "the counts of {} are those of its events", story.name);
        }
        published
    }
}

/// How many deliveries there were, and how many failed with which report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) delivered: u64,
    /// The publisher's bus refused the message.
    pub(crate) refused: u64,
    /// The publisher's bus counted it as unconfirmed.
    pub(crate) unconfirmed: u64,
    /// The receiver's bus reported that it was without a connection.
    pub(crate) away: u64,
}

/// Checks the stories of all nodes.
pub(crate) fn settle(stories: &[Story]) -> Result<Totals, String> {
    let published: BTreeMap<&str, Published> =
        stories.iter().map(|story| (story.name.as_str(), Published::of(story))).collect();
    let mut totals = Totals::default();
    for story in stories {
        Receiver { story, published: &published, last: BTreeMap::new(), used: BTreeMap::new() }
            .settle(&mut totals)?;
    }
    Ok(totals)
}

/// A node that receives.
struct Receiver<'a> {
    story: &'a Story,
    published: &'a BTreeMap<&'a str, Published>,
    /// The last message of each publisher, and the number of lost connections before it.
    last: BTreeMap<&'a str, (u64, usize)>,
    /// The messages that were missed for each loss of a publisher's connection.
    used: BTreeMap<(&'a str, usize), u64>,
}

impl<'a> Receiver<'a> {
    fn settle(mut self, totals: &mut Totals) -> Result<(), String> {
        let (mut aways, mut has_ended, mut reported) = (0, false, 0);
        for line in &self.story.lines {
            match line {
                Line::Missed(count) => reported += count,
                Line::Got { publisher, number } => {
                    totals.delivered += 1;
                    let missed = self.miss(publisher, *number, aways, totals)?;
                    if std::mem::take(&mut reported) != missed {
                        let name = &self.story.name;
                        return Err(format!("{name} misses {missed} before {publisher} {number}"));
                    }
                    self.last.insert(publisher, (*number, aways));
                }
                Line::Away { .. } => aways += 1,
                Line::Report { .. } => has_ended = true,
                _ => {}
            }
        }
        if !has_ended {
            return Ok(());
        }
        let (name, all) = (&self.story.name, self.published);
        for (publisher, published) in all {
            let last = self.last.get(publisher).map_or(0, |(last, _)| *last);
            match published.last {
                Some(wanted) if last != wanted => {
                    return Err(format!("{name} got {publisher} {last}, but not {wanted}"));
                }
                Some(_) => {}
                // The publisher was killed: only its confirmed messages are certain.
                None => {
                    self.miss(publisher, published.confirmed.max(last) + 1, aways, totals)?;
                }
            }
        }
        Ok(())
    }

    /// Accounts for the messages of a publisher between the last one and this one. Returns how many
    /// of them were published.
    fn miss(
        &mut self,
        publisher: &'a str,
        number: u64,
        aways: usize,
        totals: &mut Totals,
    ) -> Result<u64, String> {
        let Some((last, aways_before)) = self.last.get(publisher).copied() else { return Ok(0) };
        let name = &self.story.name;
        if number <= last {
            return Err(format!("{name} got {publisher} {number} after {last}"));
        }
        let published = &self.published[publisher];
        let mut count = 0;
        for missed in last + 1..number {
            if published.refused.contains(&missed) {
                totals.refused += 1;
                continue;
            }
            count += 1;
            // A receiver reports a whole gap, a publisher only a number of messages.
            if aways > aways_before {
                totals.away += 1;
                continue;
            }
            let mut windows = published.unconfirmed.iter().enumerate();
            let used = &mut self.used;
            let window = windows.find(|(at, (range, most))| {
                range.contains(&missed)
                    && used.get(&(publisher, *at)).is_none_or(|used| used < most)
            });
            let Some((at, _)) = window else {
                return Err(format!("{name} misses {publisher} {missed}, without a report"));
            };
            totals.unconfirmed += 1;
            *used.entry((publisher, at)).or_default() += 1;
        }
        Ok(count)
    }
}

/// Checks the stories of nodes with a log; the processes of a node come in their order. Returns the
/// number of messages in the log.
pub(crate) fn settle_log(stories: &[Story]) -> Result<usize, String> {
    let mut log: BTreeMap<u64, (&str, u64)> = BTreeMap::new();
    // The next position of each node.
    let mut next: BTreeMap<&str, u64> = BTreeMap::new();
    for Story { name, lines } in stories {
        let node = name.split('-').next().unwrap_or_default();
        for line in lines {
            match line {
                Line::Entry { position, publisher, number } => {
                    let position = position.number();
                    let wanted = next.entry(node).or_insert(1);
                    if position != *wanted {
                        return Err(format!("{name} read {position} instead of {wanted}"));
                    }
                    *wanted += 1;
                    let entry = (publisher.as_str(), *number);
                    let known = *log.entry(position).or_insert(entry);
                    if known != entry {
                        return Err(format!("{name} read {entry:?} at {position}, not {known:?}"));
                    }
                }
                Line::Broken(why) => return Err(format!("{name}: {why}")),
                _ => {}
            }
        }
    }
    check_ends(stories, &next, log.len() as u64)?;
    check_numbers(stories, &log)?;
    Ok(log.len())
}

/// Checks that all nodes have read everything.
fn check_ends(stories: &[Story], next: &BTreeMap<&str, u64>, length: u64) -> Result<(), String> {
    let nodes = stories.iter().map(|story| story.name.split('-').next().unwrap_or_default());
    let behind = nodes
        .collect::<BTreeSet<_>>()
        .into_iter()
        .find(|node| next.get(node) != Some(&(length + 1)));
    behind.map_or(Ok(()), |node| Err(format!("{node} has not read all {length} messages")))
}

/// Checks that the log has the messages of each publisher once and in order: all messages of one
/// that has finished, the confirmed messages of a killed one.
fn check_numbers(stories: &[Story], log: &BTreeMap<u64, (&str, u64)>) -> Result<(), String> {
    let mut numbers: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for (publisher, number) in log.values() {
        numbers.entry(publisher).or_default().push(*number);
    }
    for Story { name, lines } in stories {
        let has = numbers.remove(name.as_str()).unwrap_or_default();
        if !has.is_sorted_by(|one, next| one < next) {
            return Err(format!("the log has messages of {name} twice or in another order"));
        }
        let (has, mut refused): (BTreeSet<u64>, BTreeSet<u64>) =
            (has.into_iter().collect(), BTreeSet::new());
        for line in lines {
            match line {
                Line::Refused(number) => drop(refused.insert(*number)),
                Line::Stored { number, position }
                    if log.get(&position.number()) != Some(&(name.as_str(), *number)) =>
                {
                    return Err(format!("the log lacks {name} {number} at {position}"));
                }
                Line::Finished(last) => {
                    let lost =
                        (1..=*last).find(|number| has.contains(number) == refused.contains(number));
                    if let Some(lost) = lost {
                        return Err(format!("{name} {lost} is neither stored nor refused"));
                    }
                }
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn story(name: &str, lines: &str) -> Story {
        let lines = lines.split(", ").map(|line| Line::parse(line).expect("a line"));
        Story { name: name.to_owned(), lines: lines.collect() }
    }

    /// The totals of a publisher's and a receiver's story.
    fn totals(publisher: &str, receiver: &str) -> Result<[u64; 4], String> {
        let totals = settle(&[story("a", publisher), story("b", receiver)])?;
        Ok([totals.delivered, totals.refused, totals.unconfirmed, totals.away])
    }

    #[test]
    fn each_line_is_read_as_it_is_written() {
        for text in
            ["got a 1", "back", "away 3 7", "refused 2", "confirmed 9", "report 1 2 3", "missed 3"]
        {
            assert_eq!(Line::parse(text).expect("a line").to_string(), text);
        }
        for text in ["entry 5f-1 a 2", "stored 2 5f-1", "broken by a b", "ready", "finished 7"] {
            assert_eq!(Line::parse(text).expect("a line").to_string(), text);
        }
        assert_eq!(Line::parse("running 1 test"), None);
    }

    #[test]
    fn reported_losses_are_counted() {
        let got = "got a 1, got a 4, report 0 0 0";
        assert_eq!(totals("refused 2, refused 3, finished 4", got), Ok([2, 2, 0, 0]));
        let missed = "got a 1, missed 2, got a 4, report 0 0 2";
        assert_eq!(totals("confirmed 1, away 2 3, back, finished 4", missed), Ok([2, 0, 2, 0]));
        let away = "got a 1, away 0 0, back, missed 2, got a 4, report 0 0 2";
        assert_eq!(totals("finished 4", away), Ok([2, 0, 0, 2]));
        // The receiver's report leaves the publisher's for the later loss.
        let both = "got a 1, away 0 0, back, missed 2, got a 4, missed 1, got a 6, report 0 0 3";
        assert_eq!(totals("confirmed 1, away 1 5, back, finished 6", both), Ok([3, 0, 1, 2]));
    }

    #[test]
    fn a_loss_without_a_report_is_found() {
        let silent = Err("b misses a 2, without a report".to_owned());
        assert_eq!(totals("finished 3", "got a 1, missed 1, got a 3"), silent);
        // Confirmed before the connection was lost.
        assert_eq!(totals("confirmed 2, away 1 3, back, finished 3", "got a 1, got a 3"), silent);
        // Fewer were unconfirmed.
        let few = totals("confirmed 1, away 1 3, back, finished 4", "got a 1, got a 4");
        assert_eq!(few, Err("b misses a 3, without a report".to_owned()));
        // The receiver was away at another time.
        assert_eq!(totals("finished 3", "away 0 0, back, got a 1, got a 3"), silent);
        // Another number was reported.
        let wrong = Err("b misses 2 before a 4".to_owned());
        let away = "got a 1, away 0 0, back, missed 1, got a 4, report 0 0 1";
        assert_eq!(totals("finished 4", away), wrong);
        // A killed publisher had confirmed it.
        assert_eq!(totals("confirmed 2", "got a 1, report 0 0 0"), silent);
        assert_eq!(totals("confirmed 1", "got a 1, report 0 0 0"), Ok([1, 0, 0, 0]));
        let end = totals("finished 4", "got a 1, away 0 0, report 0 0 0");
        assert_eq!(end, Err("b got a 1, but not 4".to_owned()));
        let deaf = totals("finished 4", "away 0 0, back, report 0 0 0");
        assert_eq!(deaf, Err("b got a 0, but not 4".to_owned()));
    }

    #[test]
    fn doubled_and_reordered_messages_are_found() {
        let doubled = Err("b got a 2 after 2".to_owned());
        assert_eq!(totals("finished 2", "got a 2, away 0 0, back, got a 2"), doubled);
        assert_eq!(totals("finished 2", "got a 2, got a 1"), Err("b got a 1 after 2".to_owned()));
    }

    /// Checks the stories of a writer and of a reader.
    fn of_log(writer: &str, reader: &str) -> Result<usize, String> {
        settle_log(&[story("a-0", writer), story("b-0", reader)])
    }

    #[test]
    fn a_log_has_all_messages_once_and_in_one_order() {
        let read = "entry 1-1 a-0 1, entry 1-2 a-0 3";
        let wrote = format!("stored 1 1-1, refused 2, stored 3 1-2, finished 3, {read}");
        assert_eq!(of_log(&wrote, read), Ok(2));
        // Killed before the confirmation.
        assert_eq!(of_log(read, read), Ok(2));
        for (writer, reader, error) in [
            (&*wrote, "entry 1-1 a-0 1", "b has not read all 2 messages"),
            (&wrote, "entry 1-2 a-0 3", "b-0 read 2 instead of 1"),
            (&wrote, "entry 1-1 a-0 1, entry 1-1 a-0 1", "b-0 read 1 instead of 2"),
            (
                &wrote,
                "entry 1-1 a-0 1, entry 1-2 a-0 2",
                "b-0 read (\"a-0\", 2) at 2, not (\"a-0\", 3)",
            ),
            (&wrote, "broken by a gap", "b-0: by a gap"),
            ("stored 2 1-1, entry 1-1 a-0 1", "entry 1-1 a-0 1", "the log lacks a-0 2 at 1-1"),
            (
                "finished 2, entry 1-1 a-0 1",
                "entry 1-1 a-0 1",
                "a-0 2 is neither stored nor refused",
            ),
        ] {
            assert_eq!(of_log(writer, reader), Err(error.to_owned()));
        }
        let twice = "entry 1-1 a-0 1, entry 1-2 a-0 1";
        let error = "the log has messages of a-0 twice or in another order";
        assert_eq!(of_log(twice, twice), Err(error.to_owned()));
    }
}
