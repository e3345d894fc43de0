//! [`Encoder`]: writes field blocks.

use super::decoder::INITIAL_TABLE;
use super::huffman;
use super::table::{Entry, Table, static_index};
use crate::SendError;
use crate::field::{Kind, is_of_connection, lower_case, trimmed};

/// Number of the slots that find entries.
const SLOTS: usize = 128;

/// Length of cookies that are kept, in bytes: as long as nghttp2's.
const SHORT_COOKIE: usize = 20;

/// The index of `:status`, and of its values.
const STATUS: usize = 8;

/// The encoder of a connection.
#[derive(Debug)]
pub(crate) struct Encoder {
    table: Table,
    /// The number of the last entry with this hash, by the hash of its name and of the whole field.
    slots: Vec<u32>,
    /// Number of insertions, modulo 2³².
    inserted: u32,
    /// The smallest size since the last block, which the next one must announce: RFC 7541, 4.2.
    announce: Option<usize>,
    /// The name of the current field, in lower case.
    name: Vec<u8>,
}

/// Whether a field is worth an entry, or must not be kept: RFC 7541, 6.2 and 7.1.3.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Keep,
    /// The field's values differ from message to message.
    Once,
    /// The field is secret.
    Never,
}

impl Encoder {
    pub(crate) fn new() -> Encoder {
        Encoder {
            table: Table::new(INITIAL_TABLE),
            slots: Vec::new(),
            inserted: 0,
            announce: None,
            name: Vec::new(),
        }
    }

    /// Applies the peer's SETTINGS_HEADER_TABLE_SIZE; a larger table is not used.
    pub(crate) fn resize(&mut self, max_table: usize) {
        let size = max_table.min(INITIAL_TABLE);
        if size != self.table.max_size() {
            self.announce = Some(self.announce.unwrap_or(size).min(size));
            self.table.resize(size);
        }
    }

    /// Forgets the table, because the block that was being written is not sent.
    pub(crate) fn forget(&mut self) {
        let size = self.table.max_size();
        self.table.resize(0);
        self.table.resize(size);
        self.announce = Some(0);
    }

    /// Begins a block.
    pub(crate) fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some(smallest) = self.announce.take() {
            if smallest < self.table.max_size() {
                integer(out, 0x20, 5, smallest);
            }
            integer(out, 0x20, 5, self.table.max_size());
        }
    }

    /// Appends a valid pseudo-header of a request.
    pub(crate) fn pseudo(&mut self, out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
        let index = match (name, value) {
            (b":method", b"GET") => 2,
            (b":method", b"POST") => 3,
            (b":path", b"/") => 4,
            (b":scheme", b"http") => 6,
            (b":scheme", b"https") => 7,
            _ => {
                self.name.clear();
                self.name.extend_from_slice(name);
                return self.append(out, value);
            }
        };
        out.push(0x80 | index);
    }

    /// Appends a field, unless it belongs to connections.
    ///
    /// # Errors
    ///
    /// If the name or the value is invalid; nothing is appended.
    pub(crate) fn field(
        &mut self,
        out: &mut Vec<u8>,
        name: &[u8],
        value: &[u8],
    ) -> Result<(), SendError> {
        let value = trimmed(value).ok_or(SendError::Field)?;
        if !lower_case(name, &mut self.name) {
            return Err(SendError::Field);
        }
        if !is_of_connection(&self.name) {
            self.append(out, value);
        }
        Ok(())
    }

    /// Appends a field with the current name.
    fn append(&mut self, out: &mut Vec<u8>, value: &[u8]) {
        let static_name = static_index(&self.name);
        match usage(&self.name, value.len()) {
            Use::Keep => self.kept(out, static_name, value),
            Use::Once => self.literal(out, (0, 4), static_name, value),
            Use::Never => self.literal(out, (0x10, 4), static_name, value),
        }
    }

    /// Appends a field by its index, or as a literal that gets one.
    fn kept(&mut self, out: &mut Vec<u8>, static_name: usize, value: &[u8]) {
        let of_name = hash(0, &self.name);
        let of_field = hash(of_name, value);
        if let Some((index, _)) = self.find(of_field).filter(|(_, entry)| entry.value == value) {
            return integer(out, 0x80, 7, index);
        }
        let name = match static_name {
            0 => self.find(of_name).map_or(0, |(index, _)| index),
            index => index,
        };
        self.literal(out, (0x40, 6), name, value);
        let entry = Entry { kind: Kind::Plain, is_valid: true, name: &self.name, value };
        self.table.insert(entry);
        self.slots.resize(SLOTS, 0);
        self.inserted = self.inserted.wrapping_add(1);
        for hash in [of_name, of_field] {
            if let Some(slot) = self.slots.get_mut(slot(hash)) {
                *slot = self.inserted;
            }
        }
    }

    /// Returns the entry of a slot and its index, if it has the current name.
    fn find(&self, hash: u64) -> Option<(usize, Entry<'_>)> {
        let number = *self.slots.get(slot(hash))?;
        let age = self.inserted.wrapping_sub(number) as usize;
        let entry = self.table.dynamic(age)?;
        (entry.name == self.name).then_some((age + super::table::STATIC.len() + 1, entry))
    }

    fn literal(&self, out: &mut Vec<u8>, (first, prefix): (u8, u32), name: usize, value: &[u8]) {
        integer(out, first, prefix, name);
        if name == 0 {
            string(out, &self.name);
        }
        string(out, value);
    }
}

fn usage(name: &[u8], value_length: usize) -> Use {
    match name {
        b"set-cookie" | b"authorization" | b"proxy-authorization" => Use::Never,
        // A short one could be guessed.
        b"cookie" if value_length < SHORT_COOKIE => Use::Never,
        b"age" | b"content-length" | b"content-range" | b"etag" | b"expires" | b"last-modified"
        | b"content-location" | b"location" | b":path" | b"if-modified-since"
        | b"if-none-match" | b"range" => Use::Once,
        _ if name.len() + value_length > INITIAL_TABLE / 4 => Use::Once,
        _ => Use::Keep,
    }
}

fn slot(hash: u64) -> usize {
    (hash >> (u64::BITS - SLOTS.ilog2())) as usize
}

/// A hash for slots: a collision costs compression, and nothing else.
fn hash(seed: u64, bytes: &[u8]) -> u64 {
    let mix =
        |hash: u64, word: u64| (hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    let (words, rest) = bytes.as_chunks();
    let hash = words.iter().fold(seed, |hash, word| mix(hash, u64::from_le_bytes(*word)));
    let rest = rest.iter().fold(bytes.len() as u64, |rest, &byte| rest << 8 | u64::from(byte));
    mix(hash, rest)
}

/// Appends a string, in Huffman codes if they are shorter: RFC 7541, 5.2.
fn string(out: &mut Vec<u8>, text: &[u8]) {
    let coded = huffman::coded_length(text);
    if coded < text.len() {
        integer(out, 0x80, 7, coded);
        huffman::encode(text, out);
    } else {
        integer(out, 0, 7, text.len());
        out.extend_from_slice(text);
    }
}

/// Appends the status of an answer.
pub fn status(out: &mut Vec<u8>, status: u16) {
    let index = match status {
        200 => 8,
        204 => 9,
        206 => 10,
        304 => 11,
        400 => 12,
        404 => 13,
        500 => 14,
        _ => {
            integer(out, 0, 4, STATUS);
            let digit = |unit| b'0' + (status / unit % 10) as u8;
            return out.extend_from_slice(&[3, digit(100), digit(10), digit(1)]);
        }
    };
    out.push(0x80 | index);
}

/// Appends an integer behind the bits of `first`: RFC 7541, 5.1.
pub fn integer(out: &mut Vec<u8>, first: u8, prefix: u32, value: usize) {
    let max = (1 << prefix) - 1;
    if value < max {
        return out.push(first | value as u8);
    }
    out.push(first | max as u8);
    let mut rest = value - max;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
