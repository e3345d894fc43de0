//! The tables of names and values: RFC 7541, 2.3.

use std::collections::VecDeque;
use std::sync::LazyLock;

use bytes::Bytes;
use couplet_defer::bounded::{AtMost, Bounded};
use couplet_http2::hpack::STATIC;
use http::{HeaderName, HeaderValue};

use super::super::machine::MAX_TABLE;
use super::{CompressionError, Field, Pseudo};

static FIELDS: LazyLock<[Field; 61]> = LazyLock::new(|| STATIC.map(static_field));

fn static_field((name, value): (&'static str, &'static str)) -> Field {
    match Pseudo::ALL.iter().find(|(text, _)| *text == name) {
        Some((_, name)) => Field::Pseudo(*name, Bytes::from_static(value.as_bytes())),
        None => Field::Regular(HeaderName::from_static(name), HeaderValue::from_static(value)),
    }
}

/// Maximum number of entries: each counts at least 32 bytes (RFC 7541, 4.1).
const MAX_ENTRIES: usize = MAX_TABLE / 32;

/// The dynamic table.
pub(super) struct Table {
    /// The newest is the first.
    entries: Bounded<VecDeque<Field>, AtMost<MAX_ENTRIES>>,
    size: usize,
    max_size: usize,
}

impl Table {
    pub(super) fn new(max_size: usize) -> Table {
        Table { entries: Bounded::default(), size: 0, max_size }
    }

    /// Returns the field of an index, which begins at 1 with the static table.
    pub(super) fn get(&self, index: usize) -> Result<&Field, CompressionError> {
        let at = index.checked_sub(1).ok_or(CompressionError)?;
        let field = match at.checked_sub(STATIC.len()) {
            None => FIELDS.get(at),
            Some(at) => self.entries.get(at),
        };
        field.ok_or(CompressionError)
    }

    /// Adds a field, which may be too large to stay: RFC 7541, 4.4.
    pub(super) fn insert(&mut self, field: Field) {
        let size = field.size();
        self.evict(self.max_size.saturating_sub(size));
        if size <= self.max_size {
            self.size += size;
            self.entries.edit().push_front(field);
        }
    }

    /// Changes the maximum size: RFC 7541, 4.3.
    pub(super) fn resize(&mut self, max_size: usize) {
        self.max_size = max_size;
        self.evict(max_size);
    }

    /// Removes the oldest fields until the size is at most `size`.
    fn evict(&mut self, size: usize) {
        while self.size > size
            && let Some(field) = self.entries.edit().pop_back()
        {
            self.size -= field.size();
        }
        if self.entries.is_empty() {
            self.entries.take();
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
}
