//! Row 169: each framer beside a decoder that is too simple to be wrong, over random streams, cuts
//! and pauses.

use couplet::protocols::{
    FramingError, IntReceiver, LineOnlyReceiver, LineReceiver, NetstringReceiver, encode_int,
    encode_line, encode_netstring,
};
use proptest::prelude::*;

use super::{Notes, Told, lost, told};

fn position(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    (0..bytes.len()).find(|&at| bytes[at..].starts_with(wanted))
}

/// The lines of a whole stream.
fn lines(mut rest: &[u8], delimiter: &[u8], limit: usize, survives: bool) -> Vec<Told> {
    let mut told = Vec::new();
    loop {
        let end = position(rest, delimiter);
        if let Some(end) = end.filter(|end| *end <= limit) {
            told.push(Told::Message(rest[..end].into()));
            rest = &rest[end + delimiter.len()..];
            continue;
        }
        let may_end = |at: usize| delimiter.starts_with(&rest[at..]);
        if end.is_none() && (0..=limit.min(rest.len())).any(may_end) {
            return told;
        }
        told.push(Told::Exceeded(rest[..=limit].into()));
        if !survives {
            told.push(lost(FramingError::LineTooLong { limit }));
            return told;
        }
        let Some(end) = position(&rest[limit + 1..], delimiter) else { return told };
        rest = &rest[limit + 1 + end + delimiter.len()..];
    }
}

/// The netstrings of a whole stream.
fn netstrings(mut rest: &[u8], limit: usize) -> Vec<Told> {
    let mut told = Vec::new();
    loop {
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        for n in 1..=digits {
            if n > 1 && rest[0] == b'0' {
                told.push(lost(FramingError::LeadingZero));
                return told;
            }
            let text = std::str::from_utf8(&rest[..n]).expect("digits");
            if text.parse::<u128>().map_or(true, |length| length > limit as u128) {
                told.push(lost(FramingError::StringTooLong { limit }));
                return told;
            }
        }
        let Some(&colon) = rest.get(digits) else { return told };
        if colon != b':' || digits == 0 {
            told.push(lost(FramingError::NoDigit(colon)));
            return told;
        }
        let text = std::str::from_utf8(&rest[..digits]).expect("digits");
        let length: usize = text.parse().expect("within the limit");
        rest = &rest[digits + 1..];
        let Some(&comma) = rest.get(length) else { return told };
        if comma != b',' {
            told.push(lost(FramingError::NoComma(comma)));
            return told;
        }
        told.push(Told::Message(rest[..length].into()));
        rest = &rest[length + 1..];
    }
}

/// The strings of a whole stream, with prefixes of so many bytes.
fn strings(mut rest: &[u8], size: usize, limit: usize) -> Vec<Told> {
    let mut told = Vec::new();
    while rest.len() >= size {
        let length = rest[..size].iter().fold(0, |length, byte| length * 256 + usize::from(*byte));
        if length > limit {
            told.push(lost(FramingError::StringTooLong { limit }));
            return told;
        }
        let Some(string) = rest.get(size..size + length) else { return told };
        told.push(Told::Message(string.into()));
        rest = &rest[size + length..];
    }
    told
}

/// Cuts `stream` by these lengths, over and over.
fn cut<'a>(mut stream: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
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

/// Pauses after those messages whose bit is set; some resume at once.
fn pausing(bits: u64, survives: bool) -> Notes {
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

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![3 => 1..6_usize, 1 => 6..200_usize], 1..12)
}

/// No pauses, some pauses, a pause after each message.
fn pauses() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), any::<u64>(), Just(u64::MAX)]
}

fn from(alphabet: &'static [u8], most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(alphabet), 0..most)
}

/// Good messages, and behind them anything.
fn good_then_bad(
    good: impl Strategy<Value = Vec<u8>>,
    alphabet: &'static [u8],
    encode: fn(&[u8], &mut Vec<u8>),
) -> impl Strategy<Value = Vec<u8>> {
    (prop::collection::vec(good, 0..8), from(alphabet, 24)).prop_map(move |(good, bad)| {
        let mut stream = Vec::new();
        good.iter().for_each(|string| encode(string, &mut stream));
        stream.extend_from_slice(&bad);
        stream
    })
}

const DELIMITERS: [&[u8]; 6] = [b"\r\n", b"\n", b"\n\n", b"aab", b"a\r\na\r", b"\r\n.\r\n"];

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn c169_lines_are_those_of_a_naive_decoder(
        stream in from(b"\r\n\r\naab.", 200),
        delimiter in prop::sample::select(&DELIMITERS[..]),
        limit in 0..20_usize,
        survives in any::<bool>(),
        cuts in cuts(),
        pauses in pauses(),
    ) {
        let want = lines(&stream, delimiter, limit, survives);
        let pieces = cut(&stream, &cuts);
        let notes = pausing(pauses, survives);
        let receiver = LineReceiver::new(notes.clone())
            .with_max_length(limit)
            .with_delimiter(delimiter);
        prop_assert_eq!(&told(receiver, &notes.log, &pieces), &want);
        let receiver = LineOnlyReceiver::new(notes.clone())
            .with_max_length(limit)
            .with_delimiter(delimiter);
        prop_assert_eq!(&told(receiver, &notes.log, &pieces), &want);
    }

    #[test]
    fn c169_lines_that_were_encoded_come_out_again(
        sent in prop::collection::vec(from(b"ab\r c", 40), 0..20),
        cuts in cuts(),
        pauses in pauses(),
    ) {
        // A carriage return at the end of a line would be part of the delimiter's first half.
        let mut stream = Vec::new();
        sent.iter().for_each(|line| encode_line(line, b"\n", &mut stream));
        let notes = pausing(pauses, false);
        let receiver = LineReceiver::new(notes.clone()).with_delimiter(b"\n");
        let want: Vec<Told> = sent.into_iter().map(Told::Message).collect();
        prop_assert_eq!(told(receiver, &notes.log, &cut(&stream, &cuts)), want);
    }

    #[test]
    fn c169_netstrings_are_those_of_a_naive_decoder(
        stream in good_then_bad(from(b"01:,x", 30), b"0123:,,x-", encode_netstring),
        limit in prop_oneof![1 => 0..30_usize, 2 => Just(99_999)],
        cuts in cuts(),
        pauses in pauses(),
    ) {
        let notes = pausing(pauses, false);
        let receiver = NetstringReceiver::new(notes.clone()).with_max_length(limit);
        let want = netstrings(&stream, limit);
        prop_assert_eq!(told(receiver, &notes.log, &cut(&stream, &cuts)), want);
    }

    #[test]
    fn c169_strings_with_a_prefix_are_those_of_a_naive_decoder(
        stream in good_then_bad(from(b"\0\x01\x02x", 300), b"\0\0\0\x01\x02\xff", |string, out| {
            encode_int::<u16>(string, out).expect("short");
        }),
        limit in prop_oneof![1 => 0..300_usize, 1 => Just(99_999)],
        cuts in cuts(),
        pauses in pauses(),
    ) {
        let pieces = cut(&stream, &cuts);
        let notes = pausing(pauses, false);
        let receiver = IntReceiver::<u8, _>::new(notes.clone()).with_max_length(limit);
        prop_assert_eq!(told(receiver, &notes.log, &pieces), strings(&stream, 1, limit));
        let receiver = IntReceiver::<u16, _>::new(notes.clone()).with_max_length(limit);
        prop_assert_eq!(told(receiver, &notes.log, &pieces), strings(&stream, 2, limit));
        let receiver = IntReceiver::<u32, _>::new(notes.clone()).with_max_length(limit);
        prop_assert_eq!(told(receiver, &notes.log, &pieces), strings(&stream, 4, limit));
    }
}
