//! Row 169: each framer against a decoder too simple to be wrong, over random streams, cuts and
//! pauses.

use couplet::protocols::{
    IntReceiver, LineOnlyReceiver, LineReceiver, NetstringReceiver, encode_int, encode_line,
    encode_netstring,
};
use proptest::prelude::*;

use super::{Event, events};
use couplet_testkit_loops::framing::bodies::Bodies;
use couplet_testkit_loops::framing::naive::{
    self, DELIMITERS, cut, lines, netstrings, pausing, strings,
};

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

/// Valid messages followed by random bytes.
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

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn c169_lines_agree_with_a_naive_decoder(
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
        prop_assert_eq!(&events(receiver, &notes.log, &pieces), &want);
        let receiver = LineOnlyReceiver::new(notes.clone())
            .with_max_length(limit)
            .with_delimiter(delimiter);
        prop_assert_eq!(&events(receiver, &notes.log, &pieces), &want);
    }

    #[test]
    fn c169_lines_that_were_encoded_come_out_again(
        sent in prop::collection::vec(from(b"ab\r c", 40), 0..20),
        cuts in cuts(),
        pauses in pauses(),
    ) {
        // Not "\r\n": a line's trailing carriage return would look like the delimiter's first half.
        let mut stream = Vec::new();
        sent.iter().for_each(|line| encode_line(line, b"\n", &mut stream));
        let notes = pausing(pauses, false);
        let receiver = LineReceiver::new(notes.clone()).with_delimiter(b"\n");
        let want: Vec<Event> = sent.into_iter().map(Event::Message).collect();
        prop_assert_eq!(events(receiver, &notes.log, &cut(&stream, &cuts)), want);
    }

    #[test]
    fn c164_raw_bytes_and_lines_agree_with_a_naive_decoder(
        stream in from(b"\r\n\r\n0123x", 200),
        cuts in cuts(),
        pauses in any::<bool>(),
    ) {
        let bodies = Bodies::new(pauses);
        let got = events(LineReceiver::new(bodies.clone()), &bodies.log(), &cut(&stream, &cuts));
        prop_assert_eq!(got, naive::bodies(&stream));
    }

    #[test]
    fn c169_netstrings_agree_with_a_naive_decoder(
        stream in good_then_bad(from(b"01:,x", 30), b"0123:,,x-", encode_netstring),
        limit in prop_oneof![1 => 0..30_usize, 2 => Just(99_999)],
        cuts in cuts(),
        pauses in pauses(),
    ) {
        let notes = pausing(pauses, false);
        let receiver = NetstringReceiver::new(notes.clone()).with_max_length(limit);
        let want = netstrings(&stream, limit);
        prop_assert_eq!(events(receiver, &notes.log, &cut(&stream, &cuts)), want);
    }

    #[test]
    fn c169_strings_with_a_prefix_agree_with_a_naive_decoder(
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
        prop_assert_eq!(events(receiver, &notes.log, &pieces), strings(&stream, 1, limit));
        let receiver = IntReceiver::<u16, _>::new(notes.clone()).with_max_length(limit);
        prop_assert_eq!(events(receiver, &notes.log, &pieces), strings(&stream, 2, limit));
        let receiver = IntReceiver::<u32, _>::new(notes.clone()).with_max_length(limit);
        prop_assert_eq!(events(receiver, &notes.log, &pieces), strings(&stream, 4, limit));
    }
}
