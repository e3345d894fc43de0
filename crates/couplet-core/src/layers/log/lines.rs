//! A tap that writes lines: escaped text, or a hex dump.

use std::fmt::Write;
use std::time::Instant;

use super::{Direction, Tap};
use crate::bounded::{AtMost, Bounded};

/// Default limit on the logged bytes of a connection.
const LIMIT: u64 = 64 * 1024;
/// Maximum bytes of text per line.
const LONGEST_TEXT: usize = 256;
/// Maximum bytes of a line: its mark, and text whose bytes are all escaped.
const LONGEST_LINE: usize = 2 + 4 * LONGEST_TEXT;
/// Bytes per line of the hex dump.
const ROW: usize = 16;

/// The format of [`Lines`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogForm {
    /// `> GET / HTTP/1.1\r\n`: one line of output per line, with escapes.
    Text,
    /// `> 00000010  47 45 54 …  |GET …|`: 16 bytes per line, with their offset in the stream.
    Hex,
}

/// Passes log lines to a function. Our bytes are marked `<`, the peer's `>`, and everything else
/// `!`. Logs 64 KiB of a connection by default.
pub struct Lines<F> {
    form: LogForm,
    write: F,
    left: u64,
    /// Bytes seen so far, in and out.
    offsets: [u64; 2],
    line: Bounded<String, AtMost<LONGEST_LINE>>,
}

impl<F: FnMut(&str)> Lines<F> {
    /// Passes lines, without line endings, to `write`.
    pub fn new(form: LogForm, write: F) -> Lines<F> {
        Lines { form, write, left: LIMIT, offsets: [0; 2], line: Bounded::default() }
    }

    /// Limits the number of logged bytes.
    #[must_use]
    pub fn limit(mut self, bytes: u64) -> Lines<F> {
        self.left = bytes;
        self
    }

    fn write_line(&mut self, fill: impl FnOnce(&mut String)) {
        let mut line = self.line.take();
        line.clear();
        fill(&mut line);
        (self.write)(&line);
        *self.line.edit() = line;
    }

    fn text(&mut self, mark: char, bytes: &[u8]) {
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            for part in line.chunks(LONGEST_TEXT) {
                self.write_line(|text| {
                    let _ = write!(text, "{mark} {}", part.escape_ascii());
                });
            }
        }
    }

    fn hex(&mut self, mark: char, bytes: &[u8], offset: u64) {
        for (number, row) in bytes.chunks(ROW).enumerate() {
            self.write_line(|text| {
                let _ = write!(text, "{mark} {:08x} ", offset + (number * ROW) as u64);
                for column in 0..ROW {
                    let _ = match row.get(column) {
                        Some(byte) => write!(text, " {byte:02x}"),
                        None => write!(text, "   "),
                    };
                }
                text.push_str("  |");
                let shown = |&byte: &u8| match byte {
                    b' '..=b'~' => char::from(byte),
                    _ => '.',
                };
                text.extend(row.iter().map(shown));
                text.push('|');
            });
        }
    }
}

/// The mark and the index of a direction.
fn mark(direction: Direction) -> (char, usize) {
    match direction {
        Direction::In => ('>', 0),
        Direction::Out => ('<', 1),
    }
}

impl<F: FnMut(&str)> Tap for Lines<F> {
    fn passed(&mut self, direction: Direction, bytes: &[u8], _: Instant) {
        let (mark, number) = mark(direction);
        let offset = self.offsets[number];
        self.offsets[number] += bytes.len() as u64;
        if self.left == 0 {
            return;
        }
        let n = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        self.left -= n as u64;
        match self.form {
            LogForm::Text => self.text(mark, &bytes[..n]),
            LogForm::Hex => self.hex(mark, &bytes[..n], offset),
        }
        if self.left == 0 {
            self.write_line(|text| text.push_str("! the log has reached its limit"));
        }
    }

    fn ended(&mut self, direction: Direction, _: Instant) {
        let (mark, number) = mark(direction);
        let offset = self.offsets[number];
        self.write_line(|text| {
            let _ = write!(text, "! {mark} ended after {offset} bytes");
        });
    }
}

impl<F> std::fmt::Debug for Lines<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines").field("form", &self.form).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn an_end_counts_the_bytes_beyond_the_limit() {
        let mut said = Vec::new();
        let mut lines = Lines::new(LogForm::Text, |line: &str| said.push(line.to_owned())).limit(4);
        let now = Instant::now();
        lines.passed(Direction::In, b"abcdefgh", now);
        lines.passed(Direction::In, b"ij", now);
        lines.ended(Direction::In, now);
        drop(lines);
        let expected = ["> abcd", "! the log has reached its limit", "! > ended after 10 bytes"];
        assert_eq!(said, expected);
    }
}
