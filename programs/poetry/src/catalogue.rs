//! Poems by title, and the replies to request lines. No I/O.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Write;

use bytes::Bytes;

use crate::poems::Poem;

/// Requests the titles, like an empty line.
const LIST: &str = "?";
/// Most characters of a request that an error quotes.
const QUOTED: usize = 60;

/// Poems by title, case-insensitively.
#[derive(Clone, Debug)]
pub struct Catalogue {
    poems: BTreeMap<String, Poem>,
    /// The reply to a request for the titles, in the order of the files.
    titles: Bytes,
}

/// The reply to one line.
#[derive(Debug)]
pub enum Reply<'a> {
    /// The titles, with the line before them.
    Titles(&'a Bytes),
    /// This poem, after its [`header`].
    Poem(&'a Poem),
    /// There is no such poem; the line says so.
    Error(String),
}

impl Catalogue {
    /// Builds the catalogue. Fails if a title does not fit into a line or two titles are the same.
    pub fn new(poems: Vec<Poem>) -> Result<Catalogue, String> {
        let mut titles = format!("titles {}\r\n", poems.len());
        let mut by_title = BTreeMap::new();
        for poem in poems {
            let name = &poem.name;
            if name.is_empty() || name == LIST || name.contains(char::is_control) {
                return Err(format!("the title {name:?} cannot be requested; rename its file"));
            }
            let _ = write!(titles, "{name}\r\n");
            match by_title.entry(fold(name)) {
                Entry::Vacant(place) => place.insert(poem),
                Entry::Occupied(place) => {
                    let first: &Poem = place.get();
                    return Err(format!(
                        "two poems have the title {:?} and {name:?}, and case does not matter; \
                         give one of the files another name",
                        first.name
                    ));
                }
            };
        }
        Ok(Catalogue { poems: by_title, titles: titles.into() })
    }

    /// The reply to this line, which is passed without its end.
    pub fn reply(&self, line: &[u8]) -> Reply<'_> {
        let line = String::from_utf8_lossy(line);
        if line.is_empty() || line == LIST {
            return Reply::Titles(&self.titles);
        }
        match self.poems.get(&fold(&line)) {
            Some(poem) => Reply::Poem(poem),
            None => Reply::Error(format!(
                "error there is no poem {}; an empty line gets the titles\r\n",
                quoted(&line)
            )),
        }
    }
}

/// The line that precedes a poem.
pub fn header(poem: &Poem) -> String {
    format!("poem {} {}\r\n", poem.text.len(), poem.name)
}

/// Folds case: titles that differ only by case become equal.
fn fold(title: &str) -> String {
    title.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}

/// Quotes the text, with control characters escaped, and truncates it.
fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn poem(name: &str) -> Poem {
        let text = Bytes::from(format!("the poem {name}"));
        Poem { name: name.to_owned(), title: name.to_owned(), text }
    }

    fn catalogue(names: &[&str]) -> Result<Catalogue, String> {
        Catalogue::new(names.iter().copied().map(poem).collect())
    }

    fn found(catalogue: &Catalogue, line: &str) -> Option<String> {
        match catalogue.reply(line.as_bytes()) {
            Reply::Poem(poem) => Some(poem.name.clone()),
            Reply::Titles(_) | Reply::Error(_) => None,
        }
    }

    #[test]
    fn case_does_not_matter_in_any_script() {
        let catalogue = catalogue(&["Ode", "\u{c4}hre", "\u{3a3}\u{3af}\u{3c3}", "stra\u{df}e"]);
        let catalogue = catalogue.unwrap();
        for (asked, name) in [
            ("ode", "Ode"),
            ("ODE", "Ode"),
            ("\u{e4}HRE", "\u{c4}hre"),
            ("\u{3c3}\u{38a}\u{3c2}", "\u{3a3}\u{3af}\u{3c3}"),
            ("STRASSE", "stra\u{df}e"),
        ] {
            assert_eq!(found(&catalogue, asked).as_deref(), Some(name));
        }
        for unrecognized in ["od", "ode ", " ode", "ode.txt", "../ode", "/ode"] {
            assert_eq!(found(&catalogue, unrecognized), None, "{unrecognized}");
        }
    }

    #[test]
    fn titles_stand_in_the_order_of_the_files() {
        let catalogue = catalogue(&["b", "A", "c"]).unwrap();
        for line in [&b""[..], b"?"] {
            let Reply::Titles(titles) = catalogue.reply(line) else { panic!("no titles") };
            assert_eq!(titles, &b"titles 3\r\nb\r\nA\r\nc\r\n"[..]);
        }
    }

    #[test]
    fn titles_that_differ_only_in_case_and_unprintable_titles_are_refused() {
        let error = catalogue(&["Ode", "x", "oDE"]).unwrap_err();
        assert!(error.contains("\"Ode\" and \"oDE\""), "{error}");
        for bad in ["", "?", "a\nb", "a\rb", "a\0", "\u{85}"] {
            assert!(catalogue(&[bad]).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..<_>::default() })]

        #[test]
        fn an_error_is_one_line_and_a_short_one(line in prop::collection::vec(any::<u8>(), 1..1024)) {
            let catalogue = catalogue(&["ode"]).unwrap();
            if let Reply::Error(error) = catalogue.reply(&line) {
                prop_assert!(error.starts_with("error ") && error.ends_with("\r\n"));
                let text = &error[..error.len() - 2];
                prop_assert!(!text.contains(char::is_control), "{error:?}");
                prop_assert!(error.len() < 1024);
            }
        }

        #[test]
        fn every_title_is_found_in_every_case(name in "[^\\p{C}?]{1,20}") {
            let catalogue = catalogue(&[&name]).unwrap();
            for asked in [name.clone(), name.to_uppercase(), name.to_lowercase()] {
                // A change of case cannot be undone for every letter; such a title is found as
                // written.
                if fold(&asked) == fold(&name) {
                    prop_assert_eq!(found(&catalogue, &asked), Some(name.clone()));
                }
            }
            prop_assert_eq!(found(&catalogue, &name), Some(name));
        }
    }
}
