//! [`Decoder`]: blocks of fields, in any fragments.

use bytes::Bytes;
use couplet_http2::hpack::decode_huffman;
use http::{HeaderName, HeaderValue};

use super::tables::Table;
use super::{CompressionError, Field, Pseudo};

/// Maximum number of bytes that continue an integer.
const MAX_CONTINUED: usize = 5;

/// A block may change the table's size this many times: RFC 7541, 4.2.
const MAX_RESIZES: u8 = 2;

pub(in crate::http2) struct Decoder {
    table: Table,
    /// The largest size of the table that we allow, in bytes.
    max_table: usize,
    /// How many times the block may still change the table's size.
    resizes: u8,
}

/// A name, from a table or a literal.
enum Name {
    Pseudo(Pseudo),
    Regular(HeaderName),
    Invalid { length: usize },
}

/// Bytes that may end within an integer or a string; then each method returns `None`.
struct Reader<'a>(&'a [u8]);

impl Decoder {
    /// `max_table` is our SETTINGS_HEADER_TABLE_SIZE, in bytes.
    pub(in crate::http2) fn new(max_table: usize) -> Decoder {
        Decoder { table: Table::new(max_table), max_table, resizes: 0 }
    }

    /// Begins a block of fields, which may first change the table's size.
    pub(in crate::http2) fn begin_block(&mut self) {
        self.resizes = MAX_RESIZES;
    }

    /// Decodes the complete fields at the beginning of `block`, the rest of the block that began
    /// last, and returns their length in bytes. Any bytes left are the beginning of a field.
    ///
    /// # Errors
    ///
    /// If the bytes are not HPACK; the decoder can't be used any more.
    pub(in crate::http2) fn decode(
        &mut self,
        block: &[u8],
        mut each: impl FnMut(&Field),
    ) -> Result<usize, CompressionError> {
        let mut reader = Reader(block);
        let mut left = block.len();
        while let Some(()) = self.decode_field(&mut reader, &mut each)? {
            left = reader.0.len();
        }
        Ok(block.len() - left)
    }

    fn decode_field(
        &mut self,
        reader: &mut Reader<'_>,
        each: &mut impl FnMut(&Field),
    ) -> Result<Option<()>, CompressionError> {
        let Some(&first) = reader.0.first() else { return Ok(None) };
        if first & 0x80 != 0 {
            let Some(index) = reader.integer(7)? else { return Ok(None) };
            each(self.table.get(index)?);
        } else if first & 0x40 != 0 {
            let Some(field) = self.literal(reader, 6)? else { return Ok(None) };
            each(&field);
            self.table.insert(field);
        } else if first & 0x20 != 0 {
            let Some(size) = reader.integer(5)? else { return Ok(None) };
            self.resizes = self.resizes.checked_sub(1).ok_or(CompressionError)?;
            if size > self.max_table {
                return Err(CompressionError);
            }
            self.table.resize(size);
            return Ok(Some(()));
        } else {
            let Some(field) = self.literal(reader, 4)? else { return Ok(None) };
            each(&field);
        }
        self.resizes = 0;
        Ok(Some(()))
    }

    /// Reads a field whose value is a literal: RFC 7541, 6.2.
    fn literal(
        &self,
        reader: &mut Reader<'_>,
        prefix: u32,
    ) -> Result<Option<Field>, CompressionError> {
        let Some(index) = reader.integer(prefix)? else { return Ok(None) };
        // A name is decoded only when its value is here too.
        let name = if index == 0 { reader.string()? } else { Some((false, &b""[..])) };
        let (Some(name), Some((is_coded, value))) = (name, reader.string()?) else {
            return Ok(None);
        };
        let name = match index {
            0 => Name::new(&unpacked(name)?),
            _ => Name::from_field(self.table.get(index)?),
        };
        let value = match is_coded {
            true => decoded(value)?.into(),
            false => Bytes::copy_from_slice(value),
        };
        Ok(Some(name.with(value)))
    }
}

fn unpacked(
    (is_coded, bytes): (bool, &[u8]),
) -> Result<std::borrow::Cow<'_, [u8]>, CompressionError> {
    Ok(if is_coded { decoded(bytes)?.into() } else { bytes.into() })
}

fn decoded(coded: &[u8]) -> Result<Vec<u8>, CompressionError> {
    let mut text = Vec::new();
    decode_huffman(coded, &mut text)?;
    Ok(text)
}

impl Name {
    fn new(name: &[u8]) -> Name {
        let pseudo = || Pseudo::ALL.iter().find(|(text, _)| text.as_bytes() == name);
        if name.first() == Some(&b':') {
            return pseudo()
                .map_or(Name::Invalid { length: name.len() }, |(_, name)| Name::Pseudo(*name));
        }
        HeaderName::from_lowercase(name).map_or(Name::Invalid { length: name.len() }, Name::Regular)
    }

    fn from_field(field: &Field) -> Name {
        match field {
            Field::Pseudo(name, _) => Name::Pseudo(*name),
            Field::Regular(name, _) => Name::Regular(name.clone()),
            Field::Invalid { name_length, .. } => Name::Invalid { length: *name_length },
        }
    }

    fn with(self, value: Bytes) -> Field {
        let value_length = value.len();
        let invalid = |name_length| Field::Invalid { name_length, value_length };
        match self {
            Name::Pseudo(name) => Field::Pseudo(name, value),
            Name::Invalid { length } => invalid(length),
            Name::Regular(name) => match HeaderValue::from_maybe_shared(value) {
                Ok(value) => Field::Regular(name, value),
                Err(_) => invalid(name.as_str().len()),
            },
        }
    }
}

impl<'a> Reader<'a> {
    /// Reads an integer whose first byte has `prefix` bits of it: RFC 7541, 5.1.
    fn integer(&mut self, prefix: u32) -> Result<Option<usize>, CompressionError> {
        let Some((&first, mut rest)) = self.0.split_first() else { return Ok(None) };
        let max = (1 << prefix) - 1;
        let mut value = u64::from(first) & max;
        if value == max {
            for n in 0.. {
                let Some((&byte, after)) = rest.split_first() else { return Ok(None) };
                if n == MAX_CONTINUED {
                    return Err(CompressionError);
                }
                rest = after;
                value += u64::from(byte & 0x7f) << (7 * n);
                if byte & 0x80 == 0 {
                    break;
                }
            }
        }
        self.0 = rest;
        usize::try_from(value).map(Some).map_err(|_| CompressionError)
    }

    /// Reads a string, and whether it is in Huffman codes: RFC 7541, 5.2.
    fn string(&mut self) -> Result<Option<(bool, &'a [u8])>, CompressionError> {
        let Some(&first) = self.0.first() else { return Ok(None) };
        let Some(length) = self.integer(7)? else { return Ok(None) };
        let Some((string, rest)) = self.0.split_at_checked(length) else { return Ok(None) };
        self.0 = rest;
        Ok(Some((first & 0x80 != 0, string)))
    }
}

#[cfg(test)]
impl Decoder {
    /// The size of the dynamic table in bytes, and its number of entries.
    pub(super) fn table(&self) -> (usize, usize) {
        (self.table.size(), self.table.len())
    }
}
