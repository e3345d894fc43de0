//! Compares the library's framers with decoders too simple to be wrong, for any cut of the stream
//! and any pauses.
//!
//! An input is four bytes that choose the framer, its limit, the pauses and the cut, then the
//! stream.

use couplet::Protocol;
use couplet::protocols::{IntReceiver, LineOnlyReceiver, LineReceiver, NetstringReceiver};

use crate::streams::for_each_split;
use couplet_testkit_loops::framing::bodies::Bodies;
use couplet_testkit_loops::framing::naive;
pub(crate) use couplet_testkit_loops::framing::naive::{cut, netstrings};
pub(crate) use couplet_testkit_loops::framing::notes::Event;
use couplet_testkit_loops::framing::notes::{Notes, events};

pub(crate) const WORDS: &[&str] = &[
    "\r\n",
    "\n",
    "\r",
    "\r\n.\r\n",
    "aab",
    "a\r\na\r",
    "0:,",
    "1:x,",
    "3:abc,",
    "12:",
    "99999:",
    "05:",
    ":",
    ",",
    "\0\x01x",
    "\0\0\0\x02ok",
    "\x01\u{1}",
    "3\r\nxyz",
    "0\r\n",
    "10\r\n",
];

/// Tries one input.
///
/// # Panics
///
/// If a framer's output differs from its naive decoder's.
pub fn framers(data: &[u8]) {
    let Some(([kind, limit, pauses, choice], stream)) = data.split_first_chunk() else { return };
    let check = Check { stream, limit: *limit, pauses: *pauses, choice: *choice };
    let delimiter = naive::DELIMITERS[usize::from(kind / 8) % naive::DELIMITERS.len()];
    let survives = *kind >= 128;
    match kind % 8 {
        0 => check.lines(delimiter, survives, |notes, limit| {
            LineReceiver::new(notes).with_max_length(limit).with_delimiter(delimiter)
        }),
        1 => check.lines(delimiter, survives, |notes, limit| {
            LineOnlyReceiver::new(notes).with_max_length(limit).with_delimiter(delimiter)
        }),
        2 | 3 => check.bodies(),
        4 => check.strings(netstrings, |notes, limit| {
            NetstringReceiver::new(notes).with_max_length(limit)
        }),
        5 => check.strings(
            |stream, limit| naive::strings(stream, 1, limit),
            |notes, limit| IntReceiver::<u8, _>::new(notes).with_max_length(limit),
        ),
        6 => check.strings(
            |stream, limit| naive::strings(stream, 2, limit),
            |notes, limit| IntReceiver::<u16, _>::new(notes).with_max_length(limit),
        ),
        _ => check.strings(
            |stream, limit| naive::strings(stream, 4, limit),
            |notes, limit| IntReceiver::<u32, _>::new(notes).with_max_length(limit),
        ),
    }
}

/// A parsed input.
struct Check<'a> {
    stream: &'a [u8],
    limit: u8,
    pauses: u8,
    choice: u8,
}

impl Check<'_> {
    /// The limit; a byte above 250 means the default, `unset`.
    fn limit(&self, unset: usize) -> usize {
        if self.limit > 250 { unset } else { self.limit.into() }
    }

    fn notes(&self, survives: bool) -> Notes {
        naive::pausing(u64::from_ne_bytes([self.pauses; 8]), survives)
    }

    fn lines<R: Protocol>(
        &self,
        delimiter: &[u8],
        survives: bool,
        wrap: impl Fn(Notes, usize) -> R,
    ) {
        let limit = self.limit(16_384);
        let want = naive::lines(self.stream, delimiter, limit, survives);
        for_each_split(self.stream, self.choice, |pieces| {
            let notes = self.notes(survives);
            let log = notes.log.clone();
            assert_eq!(events(wrap(notes, limit), &log, pieces), want, "{pieces:?}");
        });
    }

    fn strings<R: Protocol>(
        &self,
        naive: fn(&[u8], usize) -> Vec<Event>,
        wrap: impl Fn(Notes, usize) -> R,
    ) {
        let limit = self.limit(99_999);
        let want = naive(self.stream, limit);
        for_each_split(self.stream, self.choice, |pieces| {
            let notes = self.notes(false);
            let log = notes.log.clone();
            assert_eq!(events(wrap(notes, limit), &log, pieces), want, "{pieces:?}");
        });
    }

    fn bodies(&self) {
        let want = naive::bodies(self.stream);
        for_each_split(self.stream, self.choice, |pieces| {
            let bodies = Bodies::new(self.pauses % 2 == 1);
            let log = bodies.log();
            assert_eq!(events(LineReceiver::new(bodies), &log, pieces), want, "{pieces:?}");
        });
    }
}
