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

    #[cfg(test)]
    pub(crate) fn of_test(chunks: Vec<(usize, Vec<u8>)>) -> ReadContents {
        ReadContents { each: 100, chunks }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(record: usize, text: &str) -> (usize, Vec<u8>) {
        (record, text.as_bytes().to_vec())
    }

    fn received(time: u64) -> Record {
        Record { time, kind: Kind::Received, key: 7, value: 9 }
    }

    #[test]
    fn c184d_chunks_follow_their_events_when_the_first_ones_are_dropped() {
        let all = [chunk(0, "a"), chunk(2, "bb"), chunk(3, "ccc"), chunk(5, "dddd")];
        for (dropped, wanted) in [
            (0, [Some("a"), None, Some("bb"), Some("ccc"), None, Some("dddd")]),
            (2, [Some("bb"), Some("ccc"), None, Some("dddd"), None, None]),
            (3, [Some("ccc"), None, Some("dddd"), None, None, None]),
            (6, [None; 6]),
        ] {
            let mut read = ReadContents { each: 100, chunks: all.to_vec() };
            read.drop_first(dropped);
            let numbers: Vec<usize> = (0..6 - dropped).collect();
            let records: Vec<Record> = (0..6).map(received).collect();
            let kept = KeptContents::parse(&read.section(), 6 - dropped, &numbers, &records);
            let kept = kept.expect("our own");
            let found = [0, 1, 2, 3, 4, 5].map(|record| kept.of(record));
            assert_eq!(found, wanted.map(|text| text.map(str::as_bytes)), "{dropped}");
        }
    }

    #[test]
    fn c184d_the_chunks_of_unknown_events_are_left_out() {
        let all = [chunk(0, "a"), chunk(1, "unknown"), chunk(2, "bb"), chunk(3, "ccc")];
        let section = ReadContents { each: 100, chunks: all.to_vec() }.section();
        // The file has four records, and the second is of an unknown kind.
        let records = [0, 2, 3].map(received);
        let kept = KeptContents::parse(&section, 4, &[0, 2, 3], &records).expect("our own");
        let found = [0, 1, 2].map(|record| kept.of(record));
        assert_eq!(found, [&b"a"[..], b"bb", b"ccc"].map(Some));
    }
}
