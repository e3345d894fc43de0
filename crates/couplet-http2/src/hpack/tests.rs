//! The examples of RFC 7541, Appendix C, and the rules of HPACK.

use super::*;
use crate::head::{Builder, Fields};

/// Reads hexadecimal digits.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let byte = |pair: &[u8]| {
        u8::from_str_radix(str::from_utf8(pair).expect("digits"), 16).expect("digits")
    };
    digits.chunks(2).map(byte).collect()
}

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Builder, CompressionError> {
    let mut builder = Builder::new(1 << 20);
    decoder.decode(block, &mut builder).map(|()| builder)
}

/// Decodes a block of regular fields.
fn fields(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, CompressionError> {
    decode(decoder, block).map(|builder| texts(&builder.trailers().expect("they are valid")))
}

fn texts(fields: &Fields) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("it is ASCII");
    fields.iter().map(|(name, value)| (text(name), text(value))).collect()
}

fn pair(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

/// Decodes a request and compares it with its head in HTTP/1.1.
fn assert_request(decoder: &mut Decoder, block: &str, expected: &[&str], size: usize) {
    let head = decode(decoder, &hex(block)).expect("it is HPACK").request(false).expect("valid");
    let mut seen: Vec<String> = [head.method(), head.scheme().expect("a scheme")]
        .into_iter()
        .chain([head.path().expect("a path"), head.authority().expect("an authority")])
        .map(|bytes| bytes.escape_ascii().to_string())
        .collect();
    seen.extend(
        head.fields()
            .map(|(name, value)| format!("{}: {}", name.escape_ascii(), value.escape_ascii())),
    );
    assert_eq!(seen, expected);
    assert_eq!(decoder.table().0, size);
}

#[test]
fn c_2_representations_of_fields() {
    let mut decoder = Decoder::new(4096);
    let custom = hex("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572");
    let expected = vec![pair("custom-key", "custom-header")];
    assert_eq!(fields(&mut decoder, &custom), Ok(expected.clone()));
    assert_eq!(decoder.table(), (55, 1));
    assert_eq!(fields(&mut decoder, &[0xbe]), Ok(expected), "its index is 62");
    let secret = hex("1008 7061 7373 776f 7264 0673 6563 7265 74");
    assert_eq!(fields(&mut decoder, &secret), Ok(vec![pair("password", "secret")]));
    let without = hex("0f0d 0234 32");
    assert_eq!(fields(&mut decoder, &without), Ok(vec![pair("content-length", "42")]));
    assert_eq!(decoder.table(), (55, 1));
}

#[test]
fn c_3_and_c_4_requests_without_and_with_huffman_codes() {
    for blocks in [
        [
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ],
        [
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ],
    ] {
        let decoder = &mut Decoder::new(4096);
        let authority = "www.example.com";
        assert_request(decoder, blocks[0], &["GET", "http", "/", authority], 57);
        let cached = ["GET", "http", "/", authority, "cache-control: no-cache"];
        assert_request(decoder, blocks[1], &cached, 110);
        let custom = ["GET", "https", "/index.html", authority, "custom-key: custom-value"];
        assert_request(decoder, blocks[2], &custom, 164);
        assert_eq!(decoder.table().1, 3);
    }
}

/// The third answer of C.5 and C.6, without its status.
const COOKIE: &str = "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";

#[test]
fn c_5_and_c_6_answers_that_evict_entries() {
    // The status of each block is a pseudo-header of responses, which requests must not have.
    for blocks in [
        [
            "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "4803 3330 37c1 c0bf",
            "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
        ],
        [
            "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
            "4883 640e ffc1 c0bf",
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
        ],
    ] {
        let mut decoder = Decoder::new(4096);
        // The table of the examples has 256 bytes: its size is changed first.
        decode(&mut decoder, &hex("3f e1 01")).expect("it is HPACK");
        for (block, size, count) in [(blocks[0], 222, 4), (blocks[1], 222, 4), (blocks[2], 215, 3)]
        {
            let built = decode(&mut decoder, &hex(block)).expect("it is HPACK");
            assert!(built.trailers().is_err(), "a status is no field of requests");
            assert_eq!(decoder.table(), (size, count));
        }
        let rest = fields(&mut decoder, &[0xbe, 0xbf, 0xc0]).expect("three entries");
        let date = "Mon, 21 Oct 2013 20:13:22 GMT";
        let expected =
            [pair("set-cookie", COOKIE), pair("content-encoding", "gzip"), pair("date", date)];
        assert_eq!(rest, expected);
        assert_eq!(fields(&mut decoder, &[0xc1]), Err(CompressionError));
    }
}

#[test]
fn c_1_integers_at_their_limits() {
    let value = |block: &[u8]| fields(&mut Decoder::new(4096), block);
    // An index of 1337, as in C.1.2, in a prefix of seven bits: beyond the tables.
    assert_eq!(value(&[0xff, 0xba, 0x09]), Err(CompressionError));
    // More than four bytes, even of zeros; and an integer cut short.
    assert_eq!(value(&[0xff, 0x80, 0x80, 0x80, 0x80, 0x00]), Err(CompressionError));
    assert_eq!(value(&[0xff, 0x80]), Err(CompressionError));
    // 127 + 0: the string of 127 bytes.
    let long = [&[0x0f, 0x04, 0x7f, 0x00][..], &[b'a'; 127]].concat();
    assert_eq!(value(&long), Ok(vec![pair("accept", &"a".repeat(127))]));
    assert_eq!(value(&long[..130]), Err(CompressionError));
}

#[test]
fn a_table_changes_its_size_at_the_beginning_of_a_block_within_its_limit() {
    let mut decoder = Decoder::new(4096);
    let keep = hex("4001 6101 62");
    assert_eq!(fields(&mut decoder, &keep), Ok(vec![pair("a", "b")]));
    assert_eq!(
        fields(&mut decoder, &[0x20, 0x3f, 0xe1, 0x1f, 0xbe]),
        Err(CompressionError),
        "empty"
    );
    assert_eq!(decoder.table(), (0, 0));
    assert_eq!(fields(&mut decoder, &[0x20, 0x20, 0x20]), Err(CompressionError), "three changes");
    assert_eq!(fields(&mut decoder, &[0x82, 0x20]), Err(CompressionError), "behind a field");
    assert_eq!(fields(&mut decoder, &[0x3f, 0xe2, 0x1f]), Err(CompressionError), "4097");
    // A table that must become smaller.
    let mut decoder = Decoder::new(4096);
    decoder.shrink(100);
    assert_eq!(fields(&mut decoder, &[]), Err(CompressionError), "no change");
    assert_eq!(fields(&mut decoder, &[0x3f, 0x46]), Err(CompressionError), "101");
    assert_eq!(fields(&mut decoder, &[0x3f, 0x45]), Ok(vec![]), "100");
    assert_eq!(fields(&mut decoder, &[]), Ok(vec![]));
}

/// RFC 7541, 4.4: an entry that exceeds the table empties it.
#[test]
fn an_entry_larger_than_the_table_empties_it() {
    let mut decoder = Decoder::new(4096);
    fields(&mut decoder, &[&[0x3f, 0x45][..], &hex("4001 6101 62")].concat()).expect("HPACK");
    assert_eq!(decoder.table(), (34, 1));
    let large = [&[0x40, 0x01, b'a', 68][..], &[b'b'; 68]].concat();
    assert_eq!(fields(&mut decoder, &large), Ok(vec![pair("a", &"b".repeat(68))]));
    assert_eq!(decoder.table(), (0, 0));
}

#[test]
fn evicted_bytes_are_dropped() {
    let mut table = table::Table::new(4096);
    for n in 0..100_000_u32 {
        let value = n.to_string();
        let value = value.as_bytes();
        let entry =
            table::Entry { kind: crate::field::Kind::Plain, is_valid: true, name: b"n", value };
        table.insert(entry);
        assert!(table.size() <= 4096 && table.text_length() <= 2 * 4096);
        assert_eq!(table.dynamic(0).map(|entry| entry.value), Some(value));
        let oldest = table.dynamic(table.len() - 1).expect("an entry").value;
        let expected = n + 1 - table.len() as u32;
        assert_eq!(oldest, expected.to_string().as_bytes());
    }
}

#[test]
fn each_name_of_the_static_table_has_its_first_index() {
    for (name, _) in STATIC {
        let first = STATIC.iter().position(|(other, _)| *other == name).expect("it is there");
        assert_eq!(table::static_index(name.as_bytes()), first + 1, "{name}");
    }
    for name in ["", "a", "x-a", "accep", "accept-", "content-lengtg", "\u{ff}\u{ff}"] {
        assert_eq!(table::static_index(name.as_bytes()), 0, "{name}");
    }
}

/// Encodes a block of fields.
fn encode(encoder: &mut Encoder, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    encoder.begin(&mut out);
    for (name, value) in fields {
        encoder.field(&mut out, name.as_bytes(), value.as_bytes()).expect("it is valid");
    }
    out
}

#[test]
fn a_repeated_field_costs_a_byte_and_a_secret_one_is_never_kept() {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(4096));
    let answer = [("Server", "couplet"), ("X-A", " b "), ("content-type", "text/html")];
    let seen = vec![pair("server", "couplet"), pair("x-a", "b"), pair("content-type", "text/html")];
    let first = encode(&mut encoder, &answer);
    assert_eq!(fields(&mut decoder, &first).as_ref(), Ok(&seen));
    let second = encode(&mut encoder, &answer);
    assert_eq!((second.len(), fields(&mut decoder, &second)), (3, Ok(seen)));
    let named = encode(&mut encoder, &[("x-a", "c")]);
    // The index of the name does not fit into six bits.
    assert_eq!((named.len(), fields(&mut decoder, &named)), (4, Ok(vec![pair("x-a", "c")])));
    let size = decoder.table();
    let secret = encode(&mut encoder, &[("set-cookie", "a=b")]);
    assert_eq!(secret.first(), Some(&0x1f), "never indexed");
    let once = encode(&mut encoder, &[("content-length", "13"), ("etag", "\"a\"")]);
    assert!(fields(&mut decoder, &[secret, once].concat()).is_ok());
    assert_eq!(decoder.table(), size);
}

#[test]
fn fields_of_connections_are_left_out_and_invalid_ones_refused() {
    let mut encoder = Encoder::new();
    let left_out = ["Connection", "keep-alive", "Proxy-Connection", "Transfer-Encoding", "UPGRADE"];
    assert_eq!(encode(&mut encoder, &left_out.map(|name| (name, "a"))), []);
    for (name, value) in
        [("", "a"), ("a b", ""), (":a", ""), ("a", "b\nc"), ("a", "\0"), ("\u{e9}", "")]
    {
        let mut out = Vec::new();
        let result = encoder.field(&mut out, name.as_bytes(), value.as_bytes());
        assert_eq!((result, out.len()), (Err(crate::SendError::Field), 0), "{name:?} {value:?}");
    }
}

/// RFC 7541, 4.2: the smallest size since the last block is announced, then the final one.
#[test]
fn the_client_limits_the_table_of_the_encoder() {
    let mut encoder = Encoder::new();
    encoder.resize(1 << 20);
    assert_eq!(encode(&mut encoder, &[]), [], "a larger table is not used");
    encoder.resize(0);
    encoder.resize(100);
    assert_eq!(encode(&mut encoder, &[]), [0x20, 0x3f, 0x45]);
    assert_eq!(encode(&mut encoder, &[]), []);
    encoder.resize(0);
    let twice = [encode(&mut encoder, &[("a", "b")]), encode(&mut encoder, &[("a", "b")])];
    assert_eq!(twice, [hex("20 4001 6101 62"), hex("4001 6101 62")], "nothing is kept");
    encoder.resize(4096);
    encode(&mut encoder, &[("a", "b")]);
    encoder.forget();
    assert_eq!(encode(&mut encoder, &[("a", "b")]), hex("20 3fe1 1f 4001 6101 62"));
}
