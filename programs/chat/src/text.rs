//! Sanitizes names and lines from members before others see them.

/// Longest name, in bytes.
pub(crate) const NAME_LENGTH: usize = 20;

/// True for a valid name. ASCII only: letters that look like others would allow impersonation.
pub(crate) fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=NAME_LENGTH).contains(&text.len()) && text.bytes().all(allowed)
}

/// The line as text that is safe to show on a terminal: bytes that are not UTF-8, and characters
/// that move the cursor or change colours or the direction of writing, become `?`. The text never
/// grows.
pub(crate) fn clean(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut text = String::with_capacity(line.len());
    for chunk in line.utf8_chunks() {
        text.extend(chunk.valid().chars().map(safe));
        if !chunk.invalid().is_empty() {
            text.push('?');
        }
    }
    text
}

fn safe(letter: char) -> char {
    match letter {
        '\t' => ' ',
        _ if letter.is_control() => '?',
        // Line separators, direction marks, and the byte order mark.
        '\u{2028}' | '\u{2029}' | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{feff}' => '?',
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '?',
        _ => letter,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_and_has_only_letters_digits_and_dashes() {
        for good in ["a", "Ada", "ada_2", "a-b", "x".repeat(NAME_LENGTH).as_str()] {
            assert!(is_name(good), "{good}");
        }
        let long = "x".repeat(NAME_LENGTH + 1);
        for bad in ["", " ", "a b", "a>", "<a", "*", "ad\u{430}", "a\u{1b}", "é", &long] {
            assert!(!is_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn text_stays_and_tricks_become_question_marks() {
        let cases: [(&[u8], &str); 10] = [
            (b"hello", "hello"),
            ("grüße 🎉".as_bytes(), "grüße 🎉"),
            (b"a line of telnet\r", "a line of telnet"),
            (b"fake\r<ada> bye", "fake?<ada> bye"),
            (b"\x1b[2J\x07", "?[2J?"),
            (b"a\tb\0c\x7f", "a b?c?"),
            (b"\xc2\x9b31m", "?31m"),
            (b"\x9b31m \xff\xfe", "?31m ??"),
            ("\u{202e}abc\u{2069}".as_bytes(), "?abc?"),
            ("a\u{2028}b".as_bytes(), "a?b"),
        ];
        for (line, shown) in cases {
            assert_eq!(clean(line), shown);
        }
    }

    #[test]
    fn no_bytes_make_a_control_character_or_a_longer_line() {
        for first in 0..=255 {
            for second in 0..=255 {
                let text = clean(&[first, second, b'x']);
                assert!(text.len() <= 3 && !text.contains(char::is_control), "{text:?}");
            }
        }
    }
}
