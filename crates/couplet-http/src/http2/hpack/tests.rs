//! HPACK by the examples of RFC 7541, by an encoder with all features, and by random input.

use couplet_http2::hpack::{STATIC, encode_huffman};
use proptest::prelude::*;

use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("hex"), 16);
    digits.chunks(2).map(|pair| byte(pair).expect("hex")).collect()
}

fn text(field: &Field) -> (String, String) {
    let string = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match field {
        Field::Pseudo(name, value) => {
            let (name, _) = Pseudo::ALL.iter().find(|(_, it)| it == name).expect("it is known");
            ((*name).to_owned(), string(value))
        }
        Field::Regular(name, value) => (name.to_string(), string(value.as_bytes())),
        Field::Invalid { name_length, value_length } => {
            ("invalid".to_owned(), format!("{name_length} {value_length}"))
        }
    }
}

fn decoded(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, CompressionError> {
    let mut fields = Vec::new();
    decoder.begin_block();
    let count = decoder.decode(block, |field| fields.push(text(field)))?;
    if count == block.len() { Ok(fields) } else { Err(CompressionError) }
}

/// Blocks of RFC 7541, Appendix C, for one connection: the bytes, the fields, and the size of the
/// table afterwards.
type Example = (&'static str, &'static [(&'static str, &'static str)], usize);

#[rustfmt::skip]
const REQUESTS: [Example; 3] = [
    ("8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
     &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")], 57),
    ("8286 84be 5808 6e6f 2d63 6163 6865",
     &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com"), ("cache-control", "no-cache")], 110),
    ("8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
     &[(":method", "GET"), (":scheme", "https"), (":path", "/index.html"), (":authority", "www.example.com"), ("custom-key", "custom-value")], 164),
];

/// The same in Huffman codes.
const CODED_REQUESTS: [&str; 3] = [
    "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
    "8286 84be 5886 a8eb 1064 9cbf",
    "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
];

#[rustfmt::skip]
const RESPONSES: [Example; 3] = [
    ("4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
     &[(":status", "302"), ("cache-control", "private"), ("date", "Mon, 21 Oct 2013 20:13:21 GMT"), ("location", "https://www.example.com")], 222),
    ("4803 3330 37c1 c0bf",
     &[(":status", "307"), ("cache-control", "private"), ("date", "Mon, 21 Oct 2013 20:13:21 GMT"), ("location", "https://www.example.com")], 222),
    ("88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
     &[(":status", "200"), ("cache-control", "private"), ("date", "Mon, 21 Oct 2013 20:13:22 GMT"), ("location", "https://www.example.com"), ("content-encoding", "gzip"), ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1")], 215),
];

const CODED_RESPONSES: [&str; 3] = [
    "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d \
     29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
    "4883 640e ffc1 c0bf",
    "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d \
     d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 \
     3d50 07",
];

#[test]
fn the_examples_of_the_rfc_are_decoded() {
    for (examples, coded, max) in
        [(REQUESTS, CODED_REQUESTS, 4096), (RESPONSES, CODED_RESPONSES, 256)]
    {
        let mut decoders = [Decoder::new(max), Decoder::new(max)];
        for ((plain, fields, size), coded) in examples.iter().zip(coded) {
            let fields = fields.iter().map(|(name, value)| ((*name).into(), (*value).into()));
            let fields: Vec<(String, String)> = fields.collect();
            for (decoder, block) in decoders.iter_mut().zip([plain, coded]) {
                assert_eq!(decoded(decoder, &bytes(block)), Ok(fields.clone()), "{block}");
                assert_eq!(decoder.table().0, *size, "{block}");
            }
        }
    }
}

#[test]
fn each_fault_is_an_error() {
    for block in [
        "80",
        "be",
        "ff8001",
        "7e0178",
        "ffffffffffff01",
        "ffffffffffffffff7f",
        "007fffffffffff7f",
        // Huffman: padding of eight bits, of zeros, the end of a string, and a cut code.
        "0001 61 821fff",
        "0001 61 8118",
        "0001 61 84ffffffff",
        "0001 61 81fe",
        // The table's size: behind a field, too large, and three times.
        "8220",
        "3fe21f",
        "202020",
    ] {
        assert_eq!(
            decoded(&mut Decoder::new(4096), &bytes(block)),
            Err(CompressionError),
            "{block}"
        );
    }
    for block in ["3fe11f 82", "20 3fe11f 82", "0f 8000 01 78", "0001 61 811f", "0001 61 80"] {
        assert!(decoded(&mut Decoder::new(4096), &bytes(block)).is_ok(), "{block}");
    }
}

#[test]
fn invalid_fields_enter_the_table_too() {
    let mut decoder = Decoder::new(4096);
    let block = [&b"\x40\x01A\x01b"[..], b"\x40\x01a\x02b\n", b"\x40\x02:x\x00"].concat();
    let invalid = |lengths: &str| ("invalid".to_owned(), lengths.to_owned());
    let fields = Ok(vec![invalid("1 1"), invalid("1 2"), invalid("2 0")]);
    assert_eq!(decoded(&mut decoder, &block), fields);
    assert_eq!(decoder.table(), (34 + 35 + 34, 3));
    // A field by the name of an invalid one.
    assert_eq!(decoded(&mut decoder, b"\xc0\x7e\x01x"), Ok(vec![invalid("1 1"), invalid("2 1")]));
}

#[test]
fn an_entry_may_push_out_the_one_that_names_it() {
    let mut decoder = Decoder::new(80);
    assert!(decoded(&mut decoder, b"\x40\x03abc\x01d").is_ok());
    let long = [&b"\x7e\x1e"[..], &[b'x'; 30]].concat();
    assert_eq!(decoded(&mut decoder, &long), Ok(vec![("abc".into(), "x".repeat(30))]));
    assert_eq!(decoder.table(), (65, 1));
    // Larger than the table: it is emptied.
    let longer = [&b"\x7e\x32"[..], &[b'x'; 50]].concat();
    assert!(decoded(&mut decoder, &longer).is_ok());
    assert_eq!(decoder.table(), (0, 0));
}

/// An encoder with all features, for tests.
#[derive(Default)]
struct Encoder {
    /// The newest is the last.
    table: Vec<(String, String)>,
    out: Vec<u8>,
}

impl Encoder {
    fn integer(&mut self, first: u8, prefix: u32, value: usize) {
        let max = (1 << prefix) - 1;
        self.out.push(first | value.min(max) as u8);
        let mut rest = value.checked_sub(max);
        while let Some(left) = rest {
            self.out.push((left & 0x7f) as u8 | if left >= 0x80 { 0x80 } else { 0 });
            rest = (left >= 0x80).then_some(left >> 7);
        }
    }

    fn string(&mut self, text: &str, is_coded: bool) {
        if !is_coded {
            self.integer(0, 7, text.len());
            self.out.extend(text.bytes());
            return;
        }
        let mut coded = Vec::new();
        encode_huffman(text.as_bytes(), &mut coded);
        self.integer(0x80, 7, coded.len());
        self.out.extend(coded);
    }

    fn index(&self, is_it: impl Fn(&str, &str) -> bool) -> Option<usize> {
        let fixed = STATIC.iter().position(|(name, value)| is_it(name, value)).map(|at| at + 1);
        let newest = || self.table.iter().rev().position(|(name, value)| is_it(name, value));
        fixed.or_else(|| Some(newest()? + 62))
    }

    /// `kind` chooses among the representations.
    fn field(&mut self, (name, value): (&str, &str), kind: u8) {
        if let Some(index) = self.index(|n, v| (n, v) == (name, value)) {
            return self.integer(0x80, 7, index);
        }
        let (first, prefix) = [(0x40, 6), (0x00, 4), (0x10, 4)][usize::from(kind % 3)];
        let index = self.index(|n, _| n == name).unwrap_or(0);
        self.integer(first, prefix, index);
        if index == 0 {
            self.string(name, kind & 4 != 0);
        }
        self.string(value, kind & 8 != 0);
        if first == 0x40 {
            self.table.push((name.to_owned(), value.to_owned()));
            self.shrink(4096);
        }
    }

    fn shrink(&mut self, most: usize) {
        let size = |table: &[(String, String)]| {
            table.iter().map(|(name, value)| name.len() + value.len() + 32).sum::<usize>()
        };
        while size(&self.table) > most {
            self.table.remove(0);
        }
    }
}

fn any_field() -> impl Strategy<Value = (String, String, u8)> {
    let name = prop_oneof!["[a-e]{1,3}", Just(":path".to_owned()), Just("cookie".to_owned())];
    (name, "[ -~]{0,20}|[a-c]{0,2}|x{500}", any::<u8>())
}

proptest! {
    #[test]
    fn fields_survive_each_encoding_and_fragmentation(
        blocks in prop::collection::vec(prop::collection::vec(any_field(), 0..20), 1..6),
        resized in any::<bool>(),
        step in 1_usize..40,
    ) {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::new(4096));
        for fields in blocks {
            encoder.out.clear();
            if resized {
                encoder.out.extend(bytes("20 3fe11f"));
                encoder.table.clear();
            }
            for (name, value, kind) in &fields {
                encoder.field((name, value), *kind);
            }
            // Fragments that grow until a field is complete.
            let (mut got, mut begin, mut end) = (Vec::new(), 0, 0);
            decoder.begin_block();
            while end < encoder.out.len() {
                end = encoder.out.len().min(end + step);
                let fragment = &encoder.out[begin..end];
                let count = decoder.decode(fragment, |field| got.push(text(field)));
                begin += count.expect("it is HPACK");
            }
            prop_assert_eq!(begin, encoder.out.len());
            let sent: Vec<_> = fields.into_iter().map(|(name, value, _)| (name, value)).collect();
            prop_assert_eq!(got, sent);
            let (size, count) = decoder.table();
            prop_assert!(size <= 4096 && count == encoder.table.len());
        }
    }

    #[test]
    fn random_bytes_never_panic(block in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut decoder = Decoder::new(4096);
        let _ = decoded(&mut decoder, &block);
        prop_assert!(decoder.table().0 <= 4096);
    }

    #[test]
    fn an_encoded_head_is_decoded_to_the_same(
        status in 100_u16..1000,
        fields in prop::collection::vec(("[a-z-]{1,30}|date|etag", "[!-~]{0,300}", any::<bool>()), 0..10),
    ) {
        let mut out = Vec::new();
        encode_no_table(&mut out);
        encode_status(&mut out, http::StatusCode::from_u16(status).expect("it has three digits"));
        for (name, value, is_sensitive) in &fields {
            let name = HeaderName::from_lowercase(name.as_bytes()).expect("it is valid");
            let mut value = HeaderValue::try_from(value).expect("it is valid");
            value.set_sensitive(*is_sensitive);
            encode_field(&mut out, &name, &value);
        }
        let mut decoder = Decoder::new(4096);
        let got = decoded(&mut decoder, &out).expect("it is HPACK");
        prop_assert_eq!(&got[0], &(":status".to_owned(), status.to_string()));
        let sent: Vec<_> = fields.into_iter().map(|(name, value, _)| (name, value)).collect();
        prop_assert_eq!(&got[1..], &sent[..]);
        prop_assert_eq!(decoder.table(), (0, 0));
    }
}
