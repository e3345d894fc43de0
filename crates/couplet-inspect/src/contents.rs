//! The contents in a recording: the first bytes of the chunks that its connections received and wrote.
//!
//! Contract: 184d.

use couplet_core::hooks::inspector::{Contents, Kind, Record};
use serde::{Deserialize, Serialize};

use crate::recording::RecordingError;

/// The length of a chunk's head: the number of its record, and the count of its bytes.
const HEAD: usize = 8;

/// The contents of a loop, in its header.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ContentsHeader {
    /// The most bytes of a chunk.
    pub(crate) each: usize,
    /// The length of the section, in bytes.
    pub(crate) length: usize,
}

/// Contents that were read from a loop.
pub(crate) struct ReadContents {
    pub(crate) each: usize,
    /// The chunks, by the numbers of their records.
    chunks: Vec<(usize, Vec<u8>)>,
}

impl ReadContents {
    /// Reads the chunks of the events with these numbers.
    pub(crate) fn read(contents: &Contents, numbers: &[u64]) -> ReadContents {
        let mut chunks = Vec::new();
        contents.read(|event, bytes| {
            if let Ok(record) = numbers.binary_search(&event) {
                chunks.push((record, bytes.to_vec()));
            }
        });
        ReadContents { each: contents.each(), chunks }
    }

    /// The first records are dropped.
    pub(crate) fn drop_first(&mut self, count: usize) {
        let first = self.chunks.partition_point(|(record, _)| *record < count);
        self.chunks.drain(..first);
        self.chunks.iter_mut().for_each(|(record, _)| *record -= count);
    }

    /// The section of a file.
    pub(crate) fn section(&self) -> Vec<u8> {
        let mut section = Vec::new();
        for (record, bytes) in &self.chunks {
            section.extend((*record as u32).to_le_bytes());
            section.extend((bytes.len() as u32).to_le_bytes());
            section.extend_from_slice(bytes);
        }
        section
    }
}

/// The contents of a loop in a recording.
#[derive(Debug, Default)]
pub(crate) struct KeptContents {
    /// The places of records, and the ends of their bytes.
    chunks: Vec<(usize, usize)>,
    bytes: Vec<u8>,
}

impl KeptContents {
    /// Reads the section of a loop. The file has `count` of its records; `records` have known kinds, and
    /// `numbers` are their places among all.
    pub(crate) fn parse(
        section: &[u8],
        count: usize,
        numbers: &[usize],
        records: &[Record],
    ) -> Result<KeptContents, RecordingError> {
        let damaged = |text: &str| RecordingError::Contents(text.to_owned());
        let mut kept = KeptContents::default();
        let (mut rest, mut next) = (section, 0);
        while !rest.is_empty() {
            let (head, after) =
                rest.split_first_chunk::<HEAD>().ok_or_else(|| damaged("a chunk is cut off"))?;
            let [number, length] = [0, 4].map(|at| {
                u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize
            });
            let (bytes, after) =
                after.split_at_checked(length).ok_or_else(|| damaged("a chunk is cut off"))?;
            if number < next || number >= count {
                return Err(damaged("a chunk belongs to no event"));
            }
            (rest, next) = (after, number + 1);
            // Records of unknown kinds are left out.
            let Ok(place) = numbers.binary_search(&number) else { continue };
            let fits = records.get(place).is_some_and(|it| has_bytes(*it) >= length);
            if !fits || length == 0 {
                return Err(damaged("a chunk is longer than its event"));
            }
            kept.bytes.extend_from_slice(bytes);
            kept.chunks.push((place, kept.bytes.len()));
        }
        Ok(kept)
    }

    /// The first bytes of a record's chunk, if they were kept.
    pub(crate) fn of(&self, record: usize) -> Option<&[u8]> {
        let chunk = self.chunks.binary_search_by_key(&record, |(place, _)| *place).ok()?;
        let begin = chunk.checked_sub(1).and_then(|before| self.chunks.get(before));
        let begin = begin.map_or(0, |(_, end)| *end);
        self.bytes.get(begin..self.chunks.get(chunk)?.1)
    }
}

/// The length of a record's chunk.
fn has_bytes(record: Record) -> usize {
    match record.kind {
        Kind::Received | Kind::Wrote | Kind::Blocked => record.value as usize,
        _ => 0,
    }
}

/// Bytes as text: printable ASCII, and `\n`, `\r`, `\t`, `\\`, `\'`, `\"` or `\xNN` for all others.
pub(crate) fn escaped(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
