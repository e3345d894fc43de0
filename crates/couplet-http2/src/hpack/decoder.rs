//! [`Decoder`]: reads the peer's field blocks.

use super::table::{Entry, Table};
use super::{CompressionError, huffman};
use crate::field::{Kind, is_valid, kind};
use crate::head::Builder;

/// The decoder of a connection.
#[derive(Debug)]
pub(crate) struct Decoder {
    table: Table,
    /// The largest size that the peer may give its table.
    max_table: usize,
    /// The peer has acknowledged a smaller size than its table has: the next block changes it.
    must_shrink: bool,
    /// Decoded Huffman codes, or a name from the table.
    // At most twice the block, by Huffman codes of five bits, or an entry of the table.
    literal: Vec<u8>,
}

/// A string: a part of the block, or the next bytes of [`Decoder::literal`].
#[derive(Clone, Copy)]
enum Text<'a> {
    Block(&'a [u8]),
    Literal(usize),
}

struct Reader<'a>(&'a [u8]);

impl Decoder {
    /// `max_table` is the largest size of the table that the peer may choose.
    pub(crate) fn new(max_table: usize) -> Decoder {
        let table = Table::new(INITIAL_TABLE);
        Decoder { table, max_table, must_shrink: false, literal: Vec::new() }
    }

    /// Applies a smaller maximum, because the peer has acknowledged it.
    pub(crate) fn shrink(&mut self, max_table: usize) {
        self.max_table = max_table;
        self.must_shrink = self.table.max_size() > max_table;
    }

    /// Decodes a complete block.
    ///
    /// # Errors
    ///
    /// If the bytes are not HPACK; then the table is unusable.
    pub(crate) fn decode(
        &mut self,
        block: &[u8],
        into: &mut Builder,
    ) -> Result<(), CompressionError> {
        // A long value is rare.
        self.literal.clear();
        self.literal.shrink_to(INITIAL_TABLE);
        let mut reader = Reader(block);
        self.resize(&mut reader)?;
        while let Some(&first) = reader.0.first() {
            if first & 0x80 != 0 {
                let index = reader.integer(7)?;
                into.add(self.table.get(index).ok_or(CompressionError)?.into());
            } else if first & 0x40 != 0 {
                self.literal(&mut reader, 6, into)?;
            } else if first & 0x20 != 0 {
                // Only the beginning of a block changes the size: RFC 7541, 4.2.
                return Err(CompressionError);
            } else {
                self.literal(&mut reader, 4, into)?;
            }
        }
        Ok(())
    }

    /// Reads the changes of the table's size at the beginning of a block, at most two: RFC 7541,
    /// 4.2.
    fn resize(&mut self, reader: &mut Reader<'_>) -> Result<(), CompressionError> {
        for _ in 0..2 {
            if reader.0.first().is_some_and(|first| first & 0xe0 == 0x20) {
                let size = reader.integer(5)?;
                if size > self.max_table {
                    return Err(CompressionError);
                }
                self.table.resize(size);
                self.must_shrink = false;
            }
        }
        if self.must_shrink { Err(CompressionError) } else { Ok(()) }
    }

    /// Reads a field with a literal value, and inserts it if its prefix has six bits: RFC 7541,
    /// 6.2.
    fn literal(
        &mut self,
        reader: &mut Reader<'_>,
        prefix: u32,
        into: &mut Builder,
    ) -> Result<(), CompressionError> {
        self.literal.clear();
        let (kind, name) = match reader.integer(prefix)? {
            0 => {
                let name = reader.string(&mut self.literal)?;
                (kind(name.resolve(&mut &self.literal[..])), name)
            }
            index => {
                let entry = self.table.get(index).ok_or(CompressionError)?;
                self.literal.extend_from_slice(entry.name);
                (entry.kind, Text::Literal(entry.name.len()))
            }
        };
        let value = reader.string(&mut self.literal)?;
        let mut literal = &self.literal[..];
        let (name, value) = (name.resolve(&mut literal), value.resolve(&mut literal));
        let entry = Entry { kind, is_valid: is_valid(kind, value), name, value };
        into.add(entry.into());
        if prefix == 6 {
            self.table.insert(entry);
        }
        Ok(())
    }

    /// The size of the dynamic table in bytes, and its number of entries.
    #[cfg(test)]
    pub(super) fn table(&self) -> (usize, usize) {
        (self.table.size(), self.table.len())
    }
}

/// The size of a table before any setting: RFC 9113, 6.5.2.
pub(crate) const INITIAL_TABLE: usize = 4096;

impl<'a> From<Entry<'a>> for crate::head::Field<'a> {
    #[inline]
    fn from(entry: Entry<'a>) -> Self {
        let kind = if entry.is_valid { entry.kind } else { Kind::Malformed };
        crate::head::Field { kind, name: entry.name, value: entry.value }
    }
}

impl<'a> Text<'a> {
    /// Returns the bytes; a literal is removed from `literal`.
    fn resolve(self, literal: &mut &'a [u8]) -> &'a [u8] {
        match self {
            Text::Block(bytes) => bytes,
            Text::Literal(length) => literal.split_off(..length).unwrap_or_default(),
        }
    }
}

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, CompressionError> {
        self.0.split_off_first().copied().ok_or(CompressionError)
    }

    /// Reads an integer whose first byte has `prefix` bits of it: RFC 7541, 5.1.
    #[inline]
    fn integer(&mut self, prefix: u32) -> Result<usize, CompressionError> {
        let max = (1 << prefix) - 1;
        let value = usize::from(self.byte()?) & max;
        if value < max { Ok(value) } else { self.continued(value) }
    }

    /// Reads the rest of an integer, of at most four bytes: more than any string or table has.
    fn continued(&mut self, mut value: usize) -> Result<usize, CompressionError> {
        for shift in [0, 7, 14, 21] {
            let byte = usize::from(self.byte()?);
            value += (byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(CompressionError)
    }

    /// Reads a string; a Huffman-coded one is appended to `literal`: RFC 7541, 5.2.
    fn string(&mut self, literal: &mut Vec<u8>) -> Result<Text<'a>, CompressionError> {
        let is_coded = self.0.first().is_some_and(|first| first & 0x80 != 0);
        let length = self.integer(7)?;
        let bytes = self.0.split_off(..length).ok_or(CompressionError)?;
        if !is_coded {
            return Ok(Text::Block(bytes));
        }
        let before = literal.len();
        huffman::decode(bytes, literal)?;
        Ok(Text::Literal(literal.len() - before))
    }
}
