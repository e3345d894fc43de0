//! Decoders too simple to be wrong: each gets a complete stream.

use couplet::protocols::FramingError;

use super::notes::{Event, Notes, lost};

pub const DELIMITERS: [&[u8]; 6] = [b"\r\n", b"\n", b"\n\n", b"aab", b"a\r\na\r", b"\r\n.\r\n"];

fn position(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    (0..bytes.len()).find(|&at| bytes[at..].starts_with(wanted))
}

/// The lines of a complete stream.
pub fn lines(mut rest: &[u8], delimiter: &[u8], limit: usize, survives: bool) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        let end = position(rest, delimiter);
        if let Some(end) = end.filter(|end| *end <= limit) {
            events.push(Event::Message(rest[..end].into()));
            rest = &rest[end + delimiter.len()..];
            continue;
        }
        let may_end = |at: usize| delimiter.starts_with(&rest[at..]);
        if end.is_none() && (0..=limit.min(rest.len())).any(may_end) {
            return events;
        }
        events.push(Event::Exceeded(rest[..=limit].into()));
        if !survives {
            events.push(lost(FramingError::LineTooLong { limit }));
            return events;
        }
        let Some(end) = position(&rest[limit + 1..], delimiter) else { return events };
        rest = &rest[limit + 1 + end + delimiter.len()..];
    }
}

/// The netstrings of a complete stream.
pub fn netstrings(mut rest: &[u8], limit: usize) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        for n in 1..=digits {
            if n > 1 && rest[0] == b'0' {
                events.push(lost(FramingError::LeadingZero));
                return events;
            }
            let text = std::str::from_utf8(&rest[..n]).expect("digits");
            if text.parse::<u128>().map_or(true, |length| length > limit as u128) {
                events.push(lost(FramingError::StringTooLong { limit }));
                return events;
            }
        }
        let Some(&colon) = rest.get(digits) else { return events };
        if colon != b':' || digits == 0 {
            events.push(lost(FramingError::NoDigit(colon)));
            return events;
        }
        let text = std::str::from_utf8(&rest[..digits]).expect("digits");
        let length: usize = text.parse().expect("within the limit");
        rest = &rest[digits + 1..];
        let Some(&comma) = rest.get(length) else { return events };
        if comma != b',' {
            events.push(lost(FramingError::NoComma(comma)));
            return events;
        }
        events.push(Event::Message(rest[..length].into()));
        rest = &rest[length + 1..];
    }
}

/// The strings of a complete stream, with length prefixes of `size` bytes.
pub fn strings(mut rest: &[u8], size: usize, limit: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while rest.len() >= size {
        let length = rest[..size].iter().fold(0, |length, byte| length * 256 + usize::from(*byte));
        if length > limit {
            events.push(lost(FramingError::StringTooLong { limit }));
            return events;
        }
        let Some(string) = rest.get(size..size + length) else { return events };
        events.push(Event::Message(string.into()));
        rest = &rest[size + length..];
    }
    events
}

/// The lines of a complete stream, each number among them followed by that many raw bytes: the
/// events of [`Bodies`](super::bodies::Bodies) with the default line limit and delimiter.
pub fn bodies(mut rest: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(end) = position(rest, b"\r\n") {
        events.push(Event::Message(rest[..end].into()));
        let number = std::str::from_utf8(&rest[..end]).ok().and_then(|text| text.parse().ok());
        rest = &rest[end + 2..];
        if let Some(length) = number {
            let Some((body, behind)) = rest.split_at_checked(length) else { return events };
            if !body.is_empty() || !behind.is_empty() {
                events.push(Event::Raw(body.into()));
            }
            rest = behind;
        }
    }
    events
}

/// Cuts `stream` into pieces of these lengths, cycling through them.
pub fn cut<'a>(mut stream: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for &length in lengths.iter().cycle() {
        if stream.is_empty() {
            break;
        }
        let (piece, rest) = stream.split_at(length.min(stream.len()));
        pieces.push(piece);
        stream = rest;
    }
    pieces
}

/// Pauses after each message whose bit is set; sometimes resumes immediately.
pub fn pausing(bits: u64, survives: bool) -> Notes {
    let notes = Notes::then(move |n, transport| {
        if bits >> (n % 64) & 1 == 1 {
            transport.pause_producing();
        }
        if bits >> ((n + 7) % 64) & 3 == 3 {
            transport.resume_producing();
        }
    });
    Notes { survives, ..notes }
}
