//! The people on the other servers of a bus, as each server announces them.
//!
//! An announcement has the number of a server's people and their names, separated by spaces:
//! `3 ada bob eve`.

use std::collections::BTreeMap;

use crate::text::is_name;

/// Most servers on a bus that are known.
pub(crate) const SERVERS: usize = 256;
/// Most names in an announcement: at most 42 KB, far below the limit of a bus.
const NAMES: usize = 2000;
/// Most people that count for one server, even if it announces more.
const PEOPLE: usize = 100_000;

/// The other servers, and this server's place among them.
#[derive(Default)]
pub(crate) struct Others {
    /// By their ids.
    servers: BTreeMap<String, People>,
    /// This server's id, while it is on a bus.
    id: Option<String>,
    /// Whether the bus can't be reached.
    pub(crate) is_cut_off: bool,
    /// The people of this server who leave with it; announced until the end.
    leaving: Vec<String>,
}

/// The people of one server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct People {
    /// By the name in lower case.
    names: BTreeMap<String, String>,
    count: usize,
}

impl People {
    /// Parses an announcement. Words that are not names are left out: a bus may have other users.
    pub(crate) fn parse(announcement: &[u8]) -> People {
        let text = String::from_utf8_lossy(announcement);
        let mut words = text.split(' ');
        let count = words.next().and_then(|count| count.parse().ok()).unwrap_or(0);
        let names = words.filter(|name| is_name(name)).take(NAMES);
        let names: BTreeMap<String, String> =
            names.map(|name| (name.to_ascii_lowercase(), name.to_owned())).collect();
        let count = names.len().max(count).min(PEOPLE);
        People { names, count }
    }

    /// The announcement of these people.
    fn announce(names: &[&str]) -> String {
        let mut text = names.len().to_string();
        for name in names.iter().take(NAMES) {
            text.push(' ');
            text.push_str(name);
        }
        text
    }

    /// A sentence about these people, with a verb for one and for several; `None` without people.
    pub(crate) fn sentence(&self, [one, several]: [&str; 2], rest: &str) -> Option<String> {
        /// More are too many for a line.
        const FEW: usize = 5;
        let verb = if self.count == 1 { one } else { several };
        let who = match self.count {
            0 => return None,
            count if count > FEW || count > self.names.len() => format!("{count} people"),
            _ => self.names.values().cloned().collect::<Vec<_>>().join(", "),
        };
        Some(format!("{who} {verb} {rest}"))
    }
}

impl Others {
    /// Joins a bus, under this id.
    pub(crate) fn begin(&mut self, id: &str) {
        *self = Others { id: Some(id.to_owned()), ..Others::default() };
    }

    /// Leaves the bus.
    pub(crate) fn end(&mut self) {
        *self = Others::default();
    }

    /// A member leaves with this server.
    pub(crate) fn leave(&mut self, name: &str) {
        if self.id.is_some() {
            self.leaving.push(name.to_owned());
        }
    }

    /// This server's announcement: the people who are here, and those who leave with it.
    pub(crate) fn announce<'a>(&'a self, here: impl Iterator<Item = &'a str>) -> String {
        let names = here.chain(self.leaving.iter().map(String::as_str));
        People::announce(&names.collect::<Vec<_>>())
    }

    /// Another server has announced its people.
    pub(crate) fn update(&mut self, id: String, people: People) {
        self.servers.insert(id, people);
    }

    /// Another server has left.
    pub(crate) fn remove(&mut self, id: &str) {
        self.servers.remove(id);
    }

    /// The number of people on the other servers.
    pub(crate) fn count(&self) -> usize {
        self.servers.values().map(|people| people.count).sum()
    }

    /// The known names, which are not all if a server has very many people.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.servers.values().flat_map(|people| people.names.values()).map(String::as_str)
    }

    /// Whether another server has this name, in lower case.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.servers.values().any(|people| people.names.contains_key(name))
    }

    /// Whether a server that precedes this one has this name, in lower case. The earlier server
    /// keeps a name that two servers gave before either knew the other.
    pub(crate) fn claims(&self, name: &str) -> bool {
        let Some(own) = &self.id else { return false };
        let mut earlier = self.servers.range::<String, _>(..own);
        earlier.any(|(_, people)| people.names.contains_key(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(announcement: &str) -> (usize, Vec<String>) {
        let people = People::parse(announcement.as_bytes());
        (people.count, people.names.into_values().collect())
    }

    #[test]
    fn an_announcement_is_read_as_it_was_written() {
        for list in [&[][..], &["ada"], &["Ada", "bob-2", "eve_"]] {
            let text = People::announce(list);
            assert_eq!(names(&text), (list.len(), list.iter().map(|&n| n.to_owned()).collect()));
        }
    }

    #[test]
    fn invalid_parts_of_an_announcement_are_ignored() {
        for (text, expected) in [
            ("", (0, &[][..])),
            ("x", (0, &[])),
            ("-1", (0, &[])),
            ("1 \u{1b}[31m a\nb <ada> ada", (1, &["ada"])),
            ("99999999999999999999 ada Ada", (1, &["Ada"])),
            ("18446744073709551615", (PEOPLE, &[])),
        ] {
            let (count, known) = names(text);
            assert_eq!(
                (count, known.iter().map(String::as_str).collect()),
                (expected.0, expected.1.to_vec()),
                "{text:?}"
            );
        }
        assert_eq!(People::parse(b"\xff\xfe \xff").count, 0);
    }

    #[test]
    fn the_names_of_a_server_are_bounded_and_its_people_count() {
        let all: Vec<String> = (0..NAMES + 10).map(|n| format!("n{n}")).collect();
        let text = People::announce(&all.iter().map(String::as_str).collect::<Vec<_>>());
        let (count, known) = names(&text);
        assert_eq!((count, known.len()), (NAMES + 10, NAMES));
        let (_, known) = names(&format!("1 {}", all.join(" ")));
        assert_eq!(known.len(), NAMES);
    }

    #[test]
    fn the_earlier_server_keeps_a_name_that_both_gave() {
        let mut others = Others::default();
        assert!(!others.claims("ada"));
        others.begin("b");
        others.update("a".to_owned(), People::parse(b"1 Ada"));
        others.update("c".to_owned(), People::parse(b"1 bob"));
        assert!(others.contains("ada") && others.contains("bob") && !others.contains("Ada"));
        assert!(others.claims("ada"));
        assert!(!others.claims("bob"), "that server comes later");
        assert_eq!((others.count(), others.names().collect::<Vec<_>>()), (2, vec!["Ada", "bob"]));
        others.remove("a");
        assert!(!others.contains("ada") && !others.claims("ada"));
        others.end();
        assert_eq!(others.count(), 0);
    }

    #[test]
    fn people_who_leave_with_their_server_are_announced_until_its_end() {
        let mut others = Others::default();
        others.leave("ada");
        assert_eq!(others.announce(std::iter::empty()), "0", "there is no bus");
        others.begin("a");
        others.leave("ada");
        assert_eq!(others.announce(["bob"].into_iter()), "2 bob ada");
        others.end();
        others.begin("b");
        assert_eq!(others.announce(["bob"].into_iter()), "1 bob");
    }

    #[test]
    fn a_few_people_are_named_and_many_are_counted() {
        for (text, said) in [
            ("0", None),
            ("1 bob", Some("bob has left")),
            ("2 bob ada", Some("ada, bob have left")),
            ("6 a b c d e f", Some("6 people have left")),
            ("3 a b", Some("3 people have left")),
        ] {
            let people = People::parse(text.as_bytes());
            assert_eq!(people.sentence(["has", "have"], "left").as_deref(), said, "{text}");
        }
    }
}
