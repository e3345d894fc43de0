//! The transformations of poems, and the parser of requests. No I/O.

use std::fmt;

/// A transformation: its name and its function.
pub type Transformation = (&'static str, fn(&str) -> String);

/// All transformations.
pub const TRANSFORMATIONS: [Transformation; 4] = [
    ("cummingsify", |text| text.to_lowercase()),
    ("upper", |text| text.to_uppercase()),
    ("reverse", reverse),
    ("pirate", pirate),
];

/// Most bytes that one byte of input can become.
pub(crate) const GROWTH: usize = 3;

/// Why a request cannot be answered.
#[derive(Debug, PartialEq, Eq)]
pub enum BadRequest {
    /// The request is not `NAME.POEM`.
    NoDot,
    /// No transformation has this name.
    UnknownName(String),
    /// The poem is not text.
    NoUtf8,
}

impl fmt::Display for BadRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadRequest::NoDot => write!(f, "the peer sent a request that is not NAME.POEM"),
            BadRequest::UnknownName(name) => {
                write!(f, "the peer requested an unknown transformation, {name:?}")
            }
            BadRequest::NoUtf8 => write!(f, "the peer sent a poem that is not UTF-8"),
        }
    }
}

impl std::error::Error for BadRequest {}

/// The answer to `NAME.POEM`.
///
/// # Errors
///
/// If the request cannot be answered.
pub fn answer(request: &[u8]) -> Result<String, BadRequest> {
    let dot = request.iter().position(|byte| *byte == b'.').ok_or(BadRequest::NoDot)?;
    let (name, poem) = (&request[..dot], &request[dot + 1..]);
    let known = TRANSFORMATIONS.iter().find(|(known, _)| known.as_bytes() == name);
    let Some((_, transform)) = known else {
        const SHOWN: usize = 40;
        let name = String::from_utf8_lossy(name).chars().take(SHOWN).collect();
        return Err(BadRequest::UnknownName(name));
    };
    std::str::from_utf8(poem).map(transform).map_err(|_| BadRequest::NoUtf8)
}

/// Reverses the order of the lines. Line ends keep their places, so a text without a final one
/// still has none.
fn reverse(text: &str) -> String {
    let (lines, ends): (Vec<&str>, Vec<&str>) = text.split_inclusive('\n').map(cut_end).unzip();
    let reversed = lines.iter().rev().zip(ends);
    let mut out = String::with_capacity(text.len());
    reversed.for_each(|(line, end)| out.extend([line, end]));
    out
}

/// Splits off the line end.
fn cut_end(line: &str) -> (&str, &str) {
    let without =
        line.strip_suffix('\n').map_or(line, |line| line.strip_suffix('\r').unwrap_or(line));
    line.split_at(without.len())
}

const PIRATE: [(&str, &str); 24] = [
    ("and", "an'"),
    ("are", "be"),
    ("am", "be"),
    ("before", "afore"),
    ("boy", "lad"),
    ("child", "lad"),
    ("ever", "e'er"),
    ("for", "fer"),
    ("friend", "matey"),
    ("girl", "lass"),
    ("hello", "ahoy"),
    ("is", "be"),
    ("king", "cap'n"),
    ("money", "doubloons"),
    ("my", "me"),
    ("never", "ne'er"),
    ("of", "o'"),
    ("over", "o'er"),
    ("the", "th'"),
    ("there", "thar"),
    ("to", "t'"),
    ("yes", "aye"),
    ("you", "ye"),
    ("your", "yer"),
];

/// Translates whole words and leaves all other text unchanged.
fn pirate(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let (word, behind) = split_where(rest, |c| !c.is_alphabetic());
        push_pirate(&mut out, word);
        let (other, behind) = split_where(behind, char::is_alphabetic);
        out.push_str(other);
        rest = behind;
    }
    out
}

fn split_where(text: &str, ends: fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(ends).unwrap_or(text.len()))
}

/// Preserves an initial capital, and all capitals.
fn push_pirate(out: &mut String, word: &str) {
    let Some((_, said)) = PIRATE.iter().find(|(plain, _)| plain.eq_ignore_ascii_case(word)) else {
        return out.push_str(word);
    };
    let mut letters = said.chars();
    match word.bytes().filter(u8::is_ascii_uppercase).count() {
        0 => out.push_str(said),
        1 => {
            out.extend(letters.next().map(|first| first.to_ascii_uppercase()));
            out.extend(letters);
        }
        _ => out.extend(letters.map(|letter| letter.to_ascii_uppercase())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_transformation_gives_the_expected_text() {
        for (request, expected) in [
            (
                "cummingsify.Look ON my \u{c4}RA \u{3a3}\u{3a3}",
                "look on my \u{e4}ra \u{3c3}\u{3c2}",
            ),
            ("upper.stra\u{df}e \u{e9}", "STRASSE \u{c9}"),
            ("reverse.one\ntwo\nthree\n", "three\ntwo\none\n"),
            ("reverse.one\ntwo", "two\none"),
            ("reverse.one\r\ntwo\r\n", "two\r\none\r\n"),
            ("reverse.one\r\ntwo", "two\r\none"),
            ("reverse.\n\na\n", "a\n\n\n"),
            ("pirate.You and the King of Kings: IS it?", "Ye an' th' Cap'n o' Kings: BE it?"),
            ("pirate.theatre, youth; your-my", "theatre, youth; yer-me"),
        ] {
            assert_eq!(answer(request.as_bytes()).as_deref(), Ok(expected), "{request}");
        }
    }

    #[test]
    fn the_first_dot_ends_the_name_and_an_empty_poem_stays_empty() {
        assert_eq!(answer(b"upper.a.b.").as_deref(), Ok("A.B."));
        for (name, _) in TRANSFORMATIONS {
            assert_eq!(answer(format!("{name}.").as_bytes()).as_deref(), Ok(""), "{name}");
        }
    }

    #[test]
    fn invalid_requests_are_refused() {
        use BadRequest::{NoDot, NoUtf8, UnknownName};
        for (request, error) in [
            (&b""[..], NoDot),
            (b"upper", NoDot),
            (b".x", UnknownName(String::new())),
            (b"Upper.x", UnknownName("Upper".into())),
            (b" upper.x", UnknownName(" upper".into())),
            (b"\xff.x", UnknownName("\u{fffd}".into())),
            (b"upper.\xff", NoUtf8),
            (b"upper.abc\xc3", NoUtf8),
        ] {
            assert_eq!(answer(request), Err(error), "{request:?}");
        }
    }

    #[test]
    fn no_letter_grows_beyond_the_factor() {
        for letter in ('\0'..=char::MAX).map(String::from) {
            for (name, transform) in TRANSFORMATIONS {
                assert!(transform(&letter).len() <= GROWTH * letter.len(), "{name} {letter:?}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..<_>::default() })]

        #[test]
        fn no_request_is_too_strange(request in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Err(error) = answer(&request) {
                prop_assert!(!error.to_string().contains(char::is_control));
            }
        }

        #[test]
        fn reversing_twice_changes_nothing(text in "([a-z]{1,3}\r?\n){0,5}[a-z]{0,3}") {
            let reversed = reverse(&text);
            prop_assert_eq!(reversed.len(), text.len());
            prop_assert_eq!(reverse(&reversed), text);
        }

        #[test]
        fn no_text_grows_beyond_the_factor(text in "(\\PC|you|is|\n| ){0,50}") {
            for (name, transform) in TRANSFORMATIONS {
                let made = transform(&text);
                prop_assert!(made.len() <= GROWTH * text.len(), "{}", name);
                let ends = |text: &str| text.matches('\n').count();
                prop_assert_eq!(ends(&made), ends(&text), "{}", name);
            }
        }

        #[test]
        fn words_unknown_at_sea_stay_unchanged(text in "([b-e]{1,4}[ .,\n']){0,20}") {
            prop_assert_eq!(pirate(&text), text);
        }
    }
}
