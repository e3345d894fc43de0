//! Parses the first line of a by-name server's answer. No I/O.

use std::fmt;

/// Longest line in bytes, without its end.
const MAX_LINE: usize = 4096;

/// The kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplyKind {
    Poem,
    Titles,
}

impl ReplyKind {
    /// The first word of the answer.
    fn word(self) -> &'static [u8] {
        match self {
            ReplyKind::Poem => b"poem ",
            ReplyKind::Titles => b"titles ",
        }
    }
}

const ERROR: &[u8] = b"error ";

/// Why the request has no answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AnswerError {
    /// The server refused, with this text.
    Refused(String),
    /// The received bytes are not an answer.
    Unrecognized(String),
}

impl AnswerError {
    fn unrecognized(bytes: &[u8]) -> AnswerError {
        const SHOWN: usize = 40;
        let text = String::from_utf8_lossy(bytes);
        let end = text.char_indices().nth(SHOWN).map_or(text.len(), |(end, _)| end);
        AnswerError::Unrecognized(text[..end].to_owned())
    }
}

impl fmt::Display for AnswerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Control characters would act on a terminal.
            AnswerError::Refused(text) => {
                write!(f, "the server says: {}", text.replace(char::is_control, "?"))
            }
            AnswerError::Unrecognized(text) => {
                write!(f, "{text:?} is not an answer; is that a `poetry serve --by-name`?")
            }
        }
    }
}

impl std::error::Error for AnswerError {}

/// Parses the line incrementally.
#[derive(Debug)]
pub(crate) struct FirstLine {
    kind: ReplyKind,
    held: Vec<u8>,
}

impl FirstLine {
    pub(crate) fn new(kind: ReplyKind) -> FirstLine {
        FirstLine { kind, held: Vec::new() }
    }

    /// Takes received bytes. Once the line is complete, returns its number and the bytes after the
    /// line. Fails at the first byte that cannot belong to an answer.
    pub(crate) fn feed<'a>(
        &mut self,
        data: &'a [u8],
    ) -> Result<Option<(u64, &'a [u8])>, AnswerError> {
        let end = data.iter().position(|byte| *byte == b'\n');
        let (line, rest) = data.split_at(end.unwrap_or(data.len()));
        // A CR may follow the longest line.
        let room = MAX_LINE + 1 - self.held.len();
        self.held.extend_from_slice(&line[..line.len().min(room)]);
        let begins = |word: &[u8]| self.held.iter().zip(word).all(|(came, wanted)| came == wanted);
        let possible = begins(self.kind.word()) || begins(ERROR);
        if !possible || line.len() > room {
            return Err(AnswerError::unrecognized(&self.held));
        }
        if end.is_none() {
            return Ok(None);
        }
        Ok(Some((self.number()?, &rest[1..])))
    }

    fn number(&self) -> Result<u64, AnswerError> {
        let line = self.held.strip_suffix(b"\r").unwrap_or(&self.held);
        if let Some(text) = line.strip_prefix(ERROR) {
            return Err(AnswerError::Refused(String::from_utf8_lossy(text).into_owned()));
        }
        let number = line.strip_prefix(self.kind.word()).and_then(|words| match self.kind {
            ReplyKind::Poem => {
                words.split(|byte| *byte == b' ').next().filter(|n| n.len() < words.len())
            }
            ReplyKind::Titles => Some(words),
        });
        number.and_then(decimal).ok_or_else(|| AnswerError::unrecognized(line))
    }
}

/// Parses a number of digits only; saturates, because a number beyond `u64` exceeds every limit.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let add = |sum: u64, digit: &u8| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    Some(digits.iter().fold(0, add))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(kind: ReplyKind, bytes: &[u8]) -> Result<Option<(u64, Vec<u8>)>, AnswerError> {
        let answer = FirstLine::new(kind).feed(bytes)?;
        Ok(answer.map(|(number, rest)| (number, rest.to_vec())))
    }

    /// Feeds the bytes singly; ignores those after the line.
    fn in_bytes(kind: ReplyKind, bytes: &[u8]) -> Result<Option<u64>, AnswerError> {
        let mut line = FirstLine::new(kind);
        for byte in bytes {
            if let Some((number, _)) = line.feed(&[*byte])? {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    #[test]
    fn a_line_is_a_number_and_later_bytes_are_left() {
        for (kind, bytes, number, rest) in [
            (ReplyKind::Poem, &b"poem 5 Ode\r\nhello"[..], 5, &b"hello"[..]),
            (ReplyKind::Poem, b"poem 0 two words\n", 0, b""),
            (ReplyKind::Titles, b"titles 2\r\na\r\n", 2, b"a\r\n"),
            (ReplyKind::Poem, b"poem 99999999999999999999999 x\r\n", u64::MAX, b""),
        ] {
            assert_eq!(whole(kind, bytes), Ok(Some((number, rest.to_vec()))));
            assert_eq!(in_bytes(kind, bytes), Ok(Some(number)));
        }
    }

    #[test]
    fn an_error_is_shown_without_control_characters() {
        let error = whole(ReplyKind::Poem, b"error no\x1b[2J such poem\r\n").unwrap_err();
        assert_eq!(error.to_string(), "the server says: no?[2J such poem");
    }

    #[test]
    fn an_answer_with_a_wrong_beginning_is_refused_immediately() {
        for (kind, bytes) in [
            (ReplyKind::Poem, &b"O"[..]),
            (ReplyKind::Poem, b"poems"),
            (ReplyKind::Poem, b"titles 3\r\n"),
            (ReplyKind::Poem, b"poem -1 x\r\n"),
            (ReplyKind::Poem, b"poem +1 x\r\n"),
            (ReplyKind::Poem, b"poem  x\r\n"),
            (ReplyKind::Poem, b"poem 5\r\n"),
            (ReplyKind::Titles, b"poem"),
            (ReplyKind::Titles, b"titles 3 x\r\n"),
            (ReplyKind::Titles, b"titles \r\n"),
            (ReplyKind::Poem, b"\n"),
            (ReplyKind::Poem, b"poem"),
        ] {
            let unrecognized = |error| matches!(error, AnswerError::Unrecognized(_));
            let is_beginning = bytes == b"poem" && kind == ReplyKind::Poem;
            assert_eq!(whole(kind, bytes).is_err_and(unrecognized), !is_beginning, "{bytes:?}");
            assert_eq!(in_bytes(kind, bytes).is_err_and(unrecognized), !is_beginning, "{bytes:?}");
        }
    }

    #[test]
    fn a_line_that_never_ends_is_refused_at_the_limit() {
        let longest = [b"poem 1 ", &[b'x'; MAX_LINE - 7][..], b"\r\n"].concat();
        assert_eq!(whole(ReplyKind::Poem, &longest), Ok(Some((1, Vec::new()))));
        let endless = [b"poem 1 ", &[b'x'; 2 * MAX_LINE][..]].concat();
        assert!(whole(ReplyKind::Poem, &endless).is_err());
        assert!(in_bytes(ReplyKind::Poem, &endless).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..<_>::default() })]

        #[test]
        fn however_it_is_cut_the_answer_is_the_same(
            bytes in "(poem |error |titles )?[0-9]{0,3}[ x]{0,3}(\r?\n)?.{0,5}",
        ) {
            for kind in [ReplyKind::Poem, ReplyKind::Titles] {
                let whole = whole(kind, bytes.as_bytes()).map(|answer| answer.map(|(n, _)| n));
                let cut = in_bytes(kind, bytes.as_bytes());
                prop_assert_eq!(whole.ok(), cut.ok());
            }
        }
    }
}
