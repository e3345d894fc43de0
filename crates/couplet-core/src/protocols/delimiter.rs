//! Finds line delimiters and enforces the line length limit.
//!
//! Contract: 163.

use std::borrow::Cow;

use memchr::{memchr, memmem};

use super::LINE_LIMIT;

/// A line delimiter; at least one byte.
#[derive(Clone, Debug)]
pub(super) struct Delimiter {
    bytes: Cow<'static, [u8]>,
    search: Search,
}

/// The common delimiters are stored inline, which saves an indirection in the search.
#[derive(Clone, Copy, Debug)]
enum Search {
    One(u8),
    Two(u8, u8),
    More,
}

impl Search {
    #[inline]
    fn for_delimiter(delimiter: &[u8]) -> Search {
        match *delimiter {
            [byte] => Search::One(byte),
            [first, last] => Search::Two(first, last),
            _ => Search::More,
        }
    }

    #[inline]
    fn find(self, bytes: &[u8], delimiter: &[u8]) -> Option<usize> {
        match self {
            Search::One(byte) => memchr(byte, bytes),
            Search::Two(first, last) => find_two(first, last, bytes),
            Search::More => memmem::find(bytes, delimiter),
        }
    }
}

/// The offset of the delimiter's first occurrence in `bytes`; `None` for an empty delimiter.
#[inline]
pub(super) fn find(bytes: &[u8], delimiter: &[u8]) -> Option<usize> {
    if delimiter.is_empty() {
        None
    } else {
        Search::for_delimiter(delimiter).find(bytes, delimiter)
    }
}

impl Delimiter {
    pub(super) fn new(bytes: Cow<'static, [u8]>) -> Delimiter {
        assert!(!bytes.is_empty(), "a delimiter needs at least one byte");
        let search = Search::for_delimiter(&bytes);
        Delimiter { bytes, search }
    }

    #[inline]
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        match self.search {
            Search::One(_) => 1,
            Search::Two(..) => 2,
            Search::More => self.bytes.len(),
        }
    }

    /// The offset of its first occurrence in `bytes`.
    #[inline]
    fn find(&self, bytes: &[u8]) -> Option<usize> {
        self.search.find(bytes, &self.bytes)
    }

    /// The number of bytes of `more` in the first delimiter that straddles `held` and `more`, if
    /// one does.
    fn find_across(&self, held: &[u8], more: &[u8]) -> Option<usize> {
        (1..self.len().min(more.len() + 1)).find(|&behind| {
            let (front, back) = self.bytes.split_at(self.len() - behind);
            held.ends_with(front) && more.starts_with(back)
        })
    }

    /// The number of trailing bytes that may be the start of a delimiter.
    fn partial_len(&self, bytes: &[u8]) -> usize {
        let first = (bytes.len() + 1).saturating_sub(self.len());
        (first..bytes.len())
            .find(|&at| self.bytes.starts_with(&bytes[at..]))
            .map_or(0, |at| bytes.len() - at)
    }
}

/// Searches for the second byte: in CRLF that is the LF, which ends lines without a CR too, so both
/// delimiters cost the same.
#[inline]
fn find_two(first: u8, last: u8, bytes: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = memchr(last, &bytes[from..]) {
        let at = from + at;
        if at > 0 && bytes[at - 1] == first {
            return Some(at - 1);
        }
        from = at + 1;
    }
    None
}

/// The first piece found in the bytes.
pub(super) enum NextPiece {
    /// A line of this many bytes, followed by its delimiter.
    Line(usize),
    /// A line exceeds the limit: the length of its beginning, in bytes.
    TooLong(usize),
    /// The length of the next piece of such a line, which continues.
    Rest(usize),
    /// The length of the last piece of such a line, with its delimiter.
    LastRest(usize),
    /// The start of a line or of a delimiter.
    Incomplete,
}

/// Splits bytes into lines, up to a limit, and skips the rest of a line that exceeds it.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) delimiter: Delimiter,
    /// The maximum line length in bytes, without the delimiter.
    pub(super) limit: usize,
    /// The current line was too long, and its remaining bytes are discarded.
    pub(super) skipping: bool,
}

impl Default for Lines {
    fn default() -> Lines {
        let delimiter = Delimiter::new(Cow::Borrowed(b"\r\n"));
        Lines { delimiter, limit: LINE_LIMIT, skipping: false }
    }
}

impl Lines {
    #[inline]
    pub(super) fn next(&self, bytes: &[u8]) -> NextPiece {
        let window = bytes.len().min(self.bound());
        if !self.skipping
            && let Some(length) = self.delimiter.find(&bytes[..window])
        {
            return NextPiece::Line(length);
        }
        self.next_without_end(bytes)
    }

    #[cold]
    fn next_without_end(&self, bytes: &[u8]) -> NextPiece {
        if self.skipping {
            return match self.delimiter.find(bytes) {
                Some(end) => NextPiece::LastRest(end + self.delimiter.len()),
                None => match bytes.len() - self.delimiter.partial_len(bytes) {
                    0 => NextPiece::Incomplete,
                    length => NextPiece::Rest(length),
                },
            };
        }
        let may_fit = || bytes.len() - self.delimiter.partial_len(bytes) <= self.limit;
        if bytes.len() < self.bound() && may_fit() {
            NextPiece::Incomplete
        } else {
            // No delimiter starts in these bytes.
            NextPiece::TooLong(self.limit + 1)
        }
    }

    /// The maximum line length in bytes, including the delimiter.
    #[inline]
    pub(super) fn bound(&self) -> usize {
        self.limit.saturating_add(self.delimiter.len())
    }

    /// See [`Framer::needs`](super::Framer::needs).
    pub(super) fn needs(&self, held: &[u8], more: &[u8]) -> usize {
        if self.skipping {
            return more.len().clamp(1, self.delimiter.len());
        }
        let room = self.bound().saturating_sub(held.len());
        let window = &more[..more.len().min(room)];
        let across = self.delimiter.find_across(held, window);
        let end = across.or_else(|| Some(self.delimiter.find(window)? + self.delimiter.len()));
        match end {
            Some(end) => end,
            None if held.len() + window.len() > self.limit => window.len(),
            None => more.len() + 1,
        }
    }
}
