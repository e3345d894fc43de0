//! The search for the ends of lines, and the limit on what stands before them.

use std::borrow::Cow;

use memchr::{memchr, memmem};

use super::LINE_LIMIT;

/// What ends a line; at least one byte.
#[derive(Clone, Debug)]
pub(super) struct Delimiter {
    bytes: Cow<'static, [u8]>,
    search: Search,
}

/// The usual delimiters have a search that needs no look at their bytes elsewhere.
#[derive(Clone, Copy, Debug)]
enum Search {
    One(u8),
    Two(u8, u8),
    More,
}

impl Delimiter {
    pub(super) fn new(bytes: Cow<'static, [u8]>) -> Delimiter {
        let search = match *bytes {
            [] => panic!("a delimiter has at least one byte"),
            [byte] => Search::One(byte),
            [first, last] => Search::Two(first, last),
            _ => Search::More,
        };
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

    /// Where it first stands in `bytes`.
    #[inline]
    fn find(&self, bytes: &[u8]) -> Option<usize> {
        match self.search {
            Search::One(byte) => memchr(byte, bytes),
            Search::Two(first, last) => find_two(first, last, bytes),
            Search::More => memmem::find(bytes, &self.bytes),
        }
    }

    /// How many bytes of `more` end the first one that begins in `held`.
    fn find_across(&self, held: &[u8], more: &[u8]) -> Option<usize> {
        (1..self.len().min(more.len() + 1)).find(|&behind| {
            let (front, back) = self.bytes.split_at(self.len() - behind);
            held.ends_with(front) && more.starts_with(back)
        })
    }

    /// How many of the last bytes may be its beginning.
    fn begun(&self, bytes: &[u8]) -> usize {
        let first = (bytes.len() + 1).saturating_sub(self.len());
        (first..bytes.len())
            .find(|&at| self.bytes.starts_with(&bytes[at..]))
            .map_or(0, |at| bytes.len() - at)
    }
}

/// The second byte is looked for: in CRLF it is the one that ends lines by itself elsewhere, so
/// both cost the same.
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

/// What some bytes begin with.
pub(super) enum Next {
    /// A line of so many bytes, and its delimiter.
    Line(usize),
    /// So many bytes of a line that is longer than the limit.
    TooLong(usize),
    /// So many bytes of the rest of such a line; `ended`: its delimiter is among them.
    Rest { length: usize, ended: bool },
    /// The beginning of a line, or of a delimiter.
    Incomplete,
}

/// Lines, their limit, and the rest of a line that was longer.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) delimiter: Delimiter,
    /// Bytes that a line may have without its delimiter.
    pub(super) limit: usize,
    /// The line under way was too long: it is thrown away up to its end.
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
    pub(super) fn next(&self, bytes: &[u8]) -> Next {
        let window = bytes.len().min(self.bound());
        if !self.skipping
            && let Some(length) = self.delimiter.find(&bytes[..window])
        {
            return Next::Line(length);
        }
        self.next_without_end(bytes)
    }

    #[cold]
    fn next_without_end(&self, bytes: &[u8]) -> Next {
        if self.skipping {
            return match self.delimiter.find(bytes) {
                Some(end) => Next::Rest { length: end + self.delimiter.len(), ended: true },
                None => match bytes.len() - self.delimiter.begun(bytes) {
                    0 => Next::Incomplete,
                    length => Next::Rest { length, ended: false },
                },
            };
        }
        let may_fit = || bytes.len() - self.delimiter.begun(bytes) <= self.limit;
        if bytes.len() < self.bound() && may_fit() {
            Next::Incomplete
        } else {
            // No delimiter begins in these.
            Next::TooLong(self.limit + 1)
        }
    }

    /// Bytes that a line may have with its delimiter.
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
