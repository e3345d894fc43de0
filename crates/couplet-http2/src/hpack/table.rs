//! The tables of names and values: RFC 7541, 2.3 and Appendix A.

use std::collections::VecDeque;

use super::ENTRY;
use crate::field::{Kind, kind};

/// The static table; its indexes begin at 1.
pub const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// A field as a table holds it, checked when it was inserted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    pub(super) kind: Kind,
    /// Whether the value is allowed for this kind.
    pub(super) is_valid: bool,
    pub(super) name: &'a [u8],
    pub(super) value: &'a [u8],
}

/// The kinds of the static table's entries.
static KINDS: [Kind; STATIC.len()] = {
    let mut kinds = [Kind::Plain; STATIC.len()];
    let mut at = 0;
    while at < kinds.len() {
        kinds[at] = kind(STATIC[at].0.as_bytes());
        at += 1;
    }
    kinds
};

/// Returns an entry of the static table, given its place.
#[inline]
fn static_entry(at: usize) -> Option<Entry<'static>> {
    let (&(name, value), &kind) = (STATIC.get(at)?, KINDS.get(at)?);
    // An empty path, method or length is malformed; such an entry is there for its name.
    let is_valid = !value.is_empty() || matches!(kind, Kind::Plain | Kind::Host);
    Some(Entry { kind, is_valid, name: name.as_bytes(), value: value.as_bytes() })
}

/// The dynamic table: RFC 7541, 2.3.2.
#[derive(Debug)]
pub(super) struct Table {
    /// Names and values, the oldest first.
    // Evicted bytes are at most as many as the others.
    text: Vec<u8>,
    /// Position of the first byte of `text`, modulo 2³².
    base: u32,
    entries: VecDeque<Place>,
    size: usize,
    max_size: usize,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    /// Position of the name, modulo 2³².
    begin: u32,
    name: u32,
    value: u32,
    kind: Kind,
    is_valid: bool,
}

impl Place {
    fn size(&self) -> usize {
        self.name as usize + self.value as usize + ENTRY
    }
}

impl Table {
    pub(super) fn new(max_size: usize) -> Table {
        Table { text: Vec::new(), base: 0, entries: VecDeque::new(), size: 0, max_size }
    }

    /// Returns the entry of an index of both tables.
    #[inline]
    pub(super) fn get(&self, index: usize) -> Option<Entry<'_>> {
        let at = index.checked_sub(1)?;
        match at.checked_sub(STATIC.len()) {
            None => static_entry(at),
            Some(age) => self.dynamic(age),
        }
    }

    /// Returns the entry after which `age` others were inserted.
    #[inline]
    pub(super) fn dynamic(&self, age: usize) -> Option<Entry<'_>> {
        let place = self.entries.get(self.entries.len().checked_sub(age + 1)?)?;
        let begin = place.begin.wrapping_sub(self.base) as usize;
        let (name, rest) = self.text.get(begin..)?.split_at_checked(place.name as usize)?;
        let value = rest.get(..place.value as usize)?;
        Some(Entry { kind: place.kind, is_valid: place.is_valid, name, value })
    }

    /// Inserts an entry, which may be too large to stay: RFC 7541, 4.4.
    pub(super) fn insert(&mut self, entry: Entry<'_>) {
        let size = entry.name.len() + entry.value.len() + ENTRY;
        self.evict(self.max_size.saturating_sub(size));
        if size > self.max_size {
            return;
        }
        let place = Place {
            begin: self.base.wrapping_add(self.text.len() as u32),
            name: entry.name.len() as u32,
            value: entry.value.len() as u32,
            kind: entry.kind,
            is_valid: entry.is_valid,
        };
        self.text.extend_from_slice(entry.name);
        self.text.extend_from_slice(entry.value);
        self.entries.push_back(place);
        self.size += size;
        let kept = self.entries.len() * ENTRY + self.text.len();
        debug_assert!(kept <= 2 * self.max_size, "law 9: {kept} bytes");
    }

    pub(super) fn max_size(&self) -> usize {
        self.max_size
    }

    /// Changes the maximum size: RFC 7541, 4.3.
    pub(super) fn resize(&mut self, max_size: usize) {
        self.max_size = max_size;
        self.evict(max_size);
    }

    /// Removes the oldest entries until the size is at most `size`.
    fn evict(&mut self, size: usize) {
        while self.size > size
            && let Some(place) = self.entries.pop_front()
        {
            self.size -= place.size();
        }
        match self.entries.front() {
            None => self.text.clear(),
            Some(oldest) => {
                let evicted = oldest.begin.wrapping_sub(self.base) as usize;
                if evicted > self.text.len() / 2 {
                    self.text.drain(..evicted);
                    self.base = oldest.begin;
                }
            }
        }
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.size
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    #[cfg(test)]
    pub(super) fn text_length(&self) -> usize {
        self.text.len()
    }
}

/// The number of slots of [`NAMES`].
const SLOTS: usize = 256;

/// The first index of each name of the static table, by the hash of the name and in the slots after
/// it.
static NAMES: [u8; SLOTS] = {
    let mut names = [0; SLOTS];
    let mut at = STATIC.len();
    while at > 0 {
        let name = STATIC[at - 1].0.as_bytes();
        let mut slot = name_hash(name);
        while names[slot] != 0 && !is_same(STATIC[names[slot] as usize - 1].0.as_bytes(), name) {
            slot = (slot + 1) % SLOTS;
        }
        names[slot] = at as u8;
        at -= 1;
    }
    names
};

#[inline]
const fn name_hash(name: &[u8]) -> usize {
    match name {
        [first, .., last] => {
            let middle = name[name.len() / 2] as usize;
            (*first as usize * 7 + *last as usize * 31 + middle * 3 + name.len() * 17) % SLOTS
        }
        _ => 0,
    }
}

const fn is_same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let mut at = 0;
    while at < one.len() {
        if one[at] != other[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// Returns the first index of a name in the static table, or 0.
#[inline]
pub(super) fn static_index(name: &[u8]) -> usize {
    let mut slot = name_hash(name);
    loop {
        let index = usize::from(NAMES[slot % SLOTS]);
        match index.checked_sub(1).and_then(|at| STATIC.get(at)) {
            None => return 0,
            Some((known, _)) if known.as_bytes() == name => return index,
            Some(_) => slot += 1,
        }
    }
}
