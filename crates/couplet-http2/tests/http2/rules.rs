//! The rules of RFC 9113 for each frame, in the manner of h2spec: the section, the bytes behind the
//! beginning of a connection, and the outcome. Each input is fed at every split.

use couplet_core::testing::every_split;
use couplet_http2::{Code, Event, Options};

use crate::kit::*;

/// The outcome of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// The connection fails.
    Fails(Code),
    /// This stream is reset, and the next request is served.
    Resets(u32, Code),
    /// That many requests arrive, none is reset, and the next request is served.
    Serves(usize),
}
use Then::{Fails, Resets, Serves};

const BAD: Then = Fails(Code::PROTOCOL_ERROR);
const SIZE: Then = Fails(Code::FRAME_SIZE_ERROR);
const HPACK: Then = Fails(Code::COMPRESSION_ERROR);

/// The highest number that a client uses, for the request behind each input.
const LAST: u32 = 0x7fff_ffff;

fn outcome(connection: &mut Connection, pieces: &[&[u8]]) -> Then {
    for piece in pieces {
        if let Err(error) = connection.receive(piece) {
            let last = sent(connection).pop().expect("a GOAWAY");
            assert_eq!((last.kind, last.code()), (GOAWAY, error.code.0));
            return Fails(error.code);
        }
    }
    let seen = events(connection);
    let requests = seen.iter().filter(|event| matches!(event, Event::Request { .. })).count();
    let resets: Vec<_> = sent(connection).into_iter().filter(|it| it.kind == RST_STREAM).collect();
    let next = fine(connection, &get(LAST));
    assert!(matches!(next[..], [Event::Request { stream: LAST, ends: true, .. }]), "{next:?}");
    match &resets[..] {
        [] => Serves(requests),
        [reset] => Resets(reset.stream, Code(reset.code())),
        _ => panic!("several resets: {resets:?}"),
    }
}

/// Feeds each case at every split.
fn check(cases: Vec<(&str, Vec<u8>, Then)>) {
    for (name, input, expected) in cases {
        every_split(&input, |pieces| {
            let mut connection = server(Options::default());
            assert_eq!(outcome(&mut connection, pieces), expected, "{name}: {pieces:?}");
        });
    }
}

fn head(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, WHOLE, 1, block(fields))
}

/// A request whose block has no end yet.
fn begun() -> Vec<u8> {
    frame(HEADERS, END_STREAM, 1, block(&GET))
}

fn flat(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

#[test]
fn section_3_the_preface() {
    #[rustfmt::skip]
    let cases = [
        ("3.4 a whole beginning", hello(), Ok(())),
        ("3.4 HTTP/1.1", b"GET / HTTP/1.1\r\n\r\n".to_vec(), Err(Code::PROTOCOL_ERROR)),
        ("3.4 the last byte differs", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\t".to_vec(), Err(Code::PROTOCOL_ERROR)),
        ("3.4 no SETTINGS", flat(&[PREFACE, &frame(PING, 0, 0, [0; 8])]), Err(Code::PROTOCOL_ERROR)),
        ("3.4 an acknowledgement first", flat(&[PREFACE, &frame(SETTINGS, ACK, 0, [])]), Err(Code::PROTOCOL_ERROR)),
        ("3.4 a request first", flat(&[PREFACE, &get(1)]), Err(Code::PROTOCOL_ERROR)),
    ];
    for (name, input, expected) in cases {
        every_split(&input, |pieces| {
            let mut connection = Connection::server(Options::default());
            let result = pieces.iter().try_for_each(|piece| connection.receive(piece));
            assert_eq!(result.map_err(|error| error.code), expected, "{name}: {pieces:?}");
        });
    }
}

#[test]
fn section_4_frames() {
    let large = [0; 16_385];
    #[rustfmt::skip]
    let cases = vec![
        ("4.1 an unknown type is ignored", frame(0xb, 0xff, 1, b"anything"), Serves(0)),
        ("4.1 unknown flags are ignored", frame(PING, 0xfe, 0, [0; 8]), Serves(0)),
        ("4.1 the reserved bit is ignored", frame(HEADERS, WHOLE, 0x8000_0001, block(&GET)), Serves(1)),
        ("4.3 an index beyond the tables", frame(HEADERS, WHOLE, 1, [0xff, 0x20]), HPACK),
        ("4.3 the index 0", frame(HEADERS, WHOLE, 1, [0x80]), HPACK),
        ("4.3 a field cut short", frame(HEADERS, WHOLE, 1, [0x00, 0x05, b'a']), HPACK),
        (
            "4.3 a block is decoded on a stream that ended",
            flat(&[&get(1), &frame(HEADERS, WHOLE, 1, [0x80])]),
            HPACK,
        ),
        ("4.3 another frame within a block", flat(&[&begun(), &frame(PING, 0, 0, [0; 8])]), BAD),
        ("4.3 another stream's HEADERS within a block", flat(&[&begun(), &get(3)]), BAD),
        ("4.3 an unknown type within a block", flat(&[&begun(), &frame(0xb, 0, 1, [])]), BAD),
    ];
    check(cases);
    // Fed whole, as only the head decides.
    for (name, input) in [
        ("4.2 DATA beyond SETTINGS_MAX_FRAME_SIZE", flat(&[&post(1), &frame(DATA, 0, 1, large)])),
        ("4.2 HEADERS beyond it", frame(HEADERS, WHOLE, 1, large)),
        ("4.2 an unknown type beyond it", frame(0xb, 0, 1, large)),
    ] {
        let mut connection = server(Options::default());
        let cut = input.len() - large.len();
        assert_eq!(outcome(&mut connection, &[&input[..cut]]), SIZE, "{name}");
    }
    let mut connection = server(Options::default());
    let exact = flat(&[&post(1), &frame(DATA, END_STREAM, 1, &large[1..])]);
    assert_eq!(outcome(&mut connection, &[&exact]), Serves(1));
}

#[test]
fn section_5_streams() {
    let reset = |stream| frame(RST_STREAM, 0, stream, Code::CANCEL.0.to_be_bytes());
    #[rustfmt::skip]
    let cases = vec![
        ("5.1 idle: DATA", frame(DATA, END_STREAM, 1, b"a"), BAD),
        ("5.1 idle: RST_STREAM", reset(1), BAD),
        ("5.1 idle: WINDOW_UPDATE", window_update(1, 1), BAD),
        ("5.1 idle: CONTINUATION", frame(CONTINUATION, END_HEADERS, 1, block(&GET)), BAD),
        ("5.1 idle: PRIORITY", frame(PRIORITY, 0, 1, [0; 5]), Serves(0)),
        ("5.1 half-closed: DATA", flat(&[&get(1), &frame(DATA, END_STREAM, 1, b"a")]), Resets(1, Code::STREAM_CLOSED)),
        ("5.1 half-closed: HEADERS", flat(&[&get(1), &get(1)]), Resets(1, Code::STREAM_CLOSED)),
        ("5.1 half-closed: WINDOW_UPDATE", flat(&[&get(1), &window_update(1, 1)]), Serves(1)),
        ("5.1 half-closed: RST_STREAM", flat(&[&get(1), &reset(1)]), Serves(1)),
        ("5.1 half-closed: PRIORITY", flat(&[&get(1), &frame(PRIORITY, 0, 1, [0; 5])]), Serves(1)),
        ("5.1 closed: DATA", flat(&[&get(1), &reset(1), &frame(DATA, 0, 1, b"a")]), Fails(Code::STREAM_CLOSED)),
        ("5.1 closed: HEADERS", flat(&[&get(1), &reset(1), &get(1)]), Fails(Code::STREAM_CLOSED)),
        ("5.1 closed: WINDOW_UPDATE", flat(&[&get(1), &reset(1), &window_update(1, 1)]), Serves(1)),
        ("5.1 closed: RST_STREAM", flat(&[&get(1), &reset(1), &reset(1)]), Serves(1)),
        ("5.1 closed: PRIORITY", flat(&[&get(1), &reset(1), &frame(PRIORITY, 0, 1, [0; 5])]), Serves(1)),
        (
            "5.1 reset by us: frames on their way",
            flat(&[
                &post(1),
                &frame(PRIORITY, 0, 1, [0; 4]),
                &frame(DATA, 0, 1, b"a"),
                &frame(HEADERS, WHOLE, 1, block(&[("a", "b")])),
                &window_update(1, 1),
            ]),
            Resets(1, Code::FRAME_SIZE_ERROR),
        ),
        ("5.1.1 an even number", frame(HEADERS, WHOLE, 2, block(&GET)), BAD),
        ("5.1.1 a number below an earlier one", flat(&[&get(5), &get(3)]), BAD),
        ("5.1.1 numbers may be skipped", flat(&[&get(1), &get(99)]), Serves(2)),
        ("5.1.1 DATA on a skipped stream", flat(&[&get(5), &frame(DATA, 0, 3, b"a")]), Fails(Code::STREAM_CLOSED)),
        ("5.3.2 a stream that depends on itself", flat(&[&get(1), &frame(PRIORITY, 0, 3, [0, 0, 0, 3, 1])]), Serves(1)),
        ("5.4.1 DATA on stream 0", frame(DATA, 0, 0, b"a"), BAD),
        ("5.5 an unknown frame on an idle stream", frame(0x7f, 0, 7, []), Serves(0)),
    ];
    check(cases);
}

#[test]
fn section_6_1_and_6_2_padding_and_priority() {
    let priority = [0, 0, 0, 0, 15];
    let padded = |padding: u8, body: &[u8]| flat(&[&[padding], body, &vec![0; padding.into()]]);
    #[rustfmt::skip]
    let cases = vec![
        ("6.1 padding", flat(&[&post(1), &frame(DATA, PADDED | END_STREAM, 1, padded(9, b"a"))]), Serves(1)),
        ("6.1 padding as long as the frame", flat(&[&post(1), &frame(DATA, PADDED, 1, [2, 0])]), BAD),
        ("6.1 padding without its length", flat(&[&post(1), &frame(DATA, PADDED, 1, [])]), SIZE),
        (
            "6.2 padding and priority",
            frame(
                HEADERS,
                WHOLE | PADDED | WITH_PRIORITY,
                1,
                padded(3, &flat(&[&priority, &block(&GET)])),
            ),
            Serves(1),
        ),
        (
            "6.2 padding longer than the block",
            frame(HEADERS, WHOLE | PADDED, 1, flat(&[&[200], &block(&GET)])),
            BAD,
        ),
        ("6.2 HEADERS on stream 0", frame(HEADERS, WHOLE, 0, block(&GET)), BAD),
        ("6.2 priority cut short", frame(HEADERS, WHOLE | WITH_PRIORITY, 1, [0; 4]), SIZE),
    ];
    check(cases);
}

#[test]
fn section_6_3_to_6_5_resets_and_settings() {
    #[rustfmt::skip]
    let cases = vec![
        ("6.3 PRIORITY on stream 0", frame(PRIORITY, 0, 0, [0; 5]), BAD),
        ("6.3 PRIORITY of a wrong length", flat(&[&get(1), &frame(PRIORITY, 0, 1, [0; 6])]), Resets(1, Code::FRAME_SIZE_ERROR)),
        ("6.4 RST_STREAM on stream 0", frame(RST_STREAM, 0, 0, [0; 4]), BAD),
        ("6.4 RST_STREAM of a wrong length", flat(&[&get(1), &frame(RST_STREAM, 0, 1, [0; 5])]), SIZE),
        ("6.5 SETTINGS on a stream", frame(SETTINGS, 0, 1, []), BAD),
        ("6.5 SETTINGS of a wrong length", frame(SETTINGS, 0, 0, [0; 5]), SIZE),
        ("6.5 an acknowledgement with a payload", frame(SETTINGS, ACK, 0, [0; 6]), SIZE),
        ("6.5.2 ENABLE_PUSH 2", settings(&[(2, 2)]), BAD),
        ("6.5.2 ENABLE_PUSH 1", settings(&[(2, 1)]), Serves(0)),
        ("6.5.2 a window beyond 2^31-1", settings(&[(4, 0x8000_0000)]), Fails(Code::FLOW_CONTROL_ERROR)),
        ("6.5.2 a frame size below 2^14", settings(&[(5, 16_383)]), BAD),
        ("6.5.2 a frame size of 2^24", settings(&[(5, 1 << 24)]), BAD),
        ("6.5.2 the bounds of frame sizes", settings(&[(5, 16_384), (5, (1 << 24) - 1)]), Serves(0)),
        ("6.5.2 an unknown setting", settings(&[(0xff, 1)]), Serves(0)),
    ];
    check(cases);
}

#[test]
fn section_6_6_to_6_8_pushes_pings_and_goaways() {
    check(vec![
        (
            "6.6 PUSH_PROMISE",
            flat(&[
                &get(1),
                &frame(PUSH_PROMISE, END_HEADERS, 1, flat(&[&[0, 0, 0, 2], &block(&GET)])),
            ]),
            BAD,
        ),
        ("6.7 PING on a stream", frame(PING, 0, 1, [0; 8]), BAD),
        ("6.7 PING of a wrong length", frame(PING, 0, 0, [0; 6]), SIZE),
        ("6.7 an answer that was not asked for", frame(PING, ACK, 0, [0; 8]), Serves(0)),
        ("6.8 GOAWAY on a stream", frame(GOAWAY, 0, 1, [0; 8]), BAD),
        ("6.8 GOAWAY of a wrong length", frame(GOAWAY, 0, 0, [0; 7]), SIZE),
        ("6.8 GOAWAY with debug data", frame(GOAWAY, 0, 0, b"\0\0\0\0\0\0\0\0bye"), Serves(0)),
    ]);
}

#[test]
fn section_6_9_windows() {
    #[rustfmt::skip]
    let cases = vec![
        ("6.9 WINDOW_UPDATE by 0", window_update(0, 0), BAD),
        ("6.9 WINDOW_UPDATE of a stream by 0", flat(&[&get(1), &window_update(1, 0)]), Resets(1, Code::PROTOCOL_ERROR)),
        ("6.9 WINDOW_UPDATE of a wrong length", frame(WINDOW_UPDATE, 0, 0, [0, 0, 1]), SIZE),
        ("6.9.1 a window beyond 2^31-1", window_update(0, 0x7fff_ffff), Fails(Code::FLOW_CONTROL_ERROR)),
        ("6.9.1 a stream's window beyond 2^31-1", flat(&[&get(1), &window_update(1, 0x7fff_ffff)]), Resets(1, Code::FLOW_CONTROL_ERROR)),
        ("6.9.1 the largest windows", flat(&[&get(1), &window_update(0, 0x7fff_0000), &window_update(1, 0x7fff_0000)]), Serves(1)),
        (
            "6.9.2 a setting widens a stream's window beyond 2^31-1",
            flat(&[&get(1), &window_update(1, 0x7fff_0000), &settings(&[(4, 65_536)])]),
            Fails(Code::FLOW_CONTROL_ERROR),
        ),
    ];
    check(cases);
}

#[test]
fn section_6_10_continuations() {
    check(vec![
        (
            "6.10 a block in three frames",
            flat(&[
                &frame(HEADERS, END_STREAM, 1, &block(&GET)[..9]),
                &frame(CONTINUATION, 0, 1, &block(&GET)[9..20]),
                &frame(CONTINUATION, END_HEADERS, 1, &block(&GET)[20..]),
            ]),
            Serves(1),
        ),
        (
            "6.10 a CONTINUATION of nothing",
            flat(&[&get(1), &frame(CONTINUATION, END_HEADERS, 1, [])]),
            BAD,
        ),
        (
            "6.10 a CONTINUATION of another stream",
            flat(&[&begun(), &frame(CONTINUATION, END_HEADERS, 3, [])]),
            BAD,
        ),
        (
            "6.10 a CONTINUATION on stream 0",
            flat(&[&begun(), &frame(CONTINUATION, END_HEADERS, 0, [])]),
            BAD,
        ),
    ]);
}

#[test]
fn section_8_1_trailers() {
    let malformed = Resets(1, Code::PROTOCOL_ERROR);
    #[rustfmt::skip]
    let cases = vec![
        (
            "8.1 HEADERS within a body, without END_STREAM",
            flat(&[&post(1), &frame(HEADERS, END_HEADERS, 1, block(&[("a", "b")]))]),
            malformed,
        ),
        ("8.1 trailers", flat(&[&post(1), &frame(HEADERS, WHOLE, 1, block(&[("a", "b")]))]), Serves(1)),
        ("8.1 a pseudo-header in trailers", flat(&[&post(1), &frame(HEADERS, WHOLE, 1, block(&[(":path", "/")]))]), malformed),
        ("8.1 an upper-case name in trailers", flat(&[&post(1), &frame(HEADERS, WHOLE, 1, block(&[("A", "b")]))]), malformed),
    ];
    check(cases);
}

#[test]
fn section_8_1_1_lengths() {
    let malformed = Resets(1, Code::PROTOCOL_ERROR);
    let data = |bytes: &[u8], flags| frame(DATA, flags, 1, bytes);
    let posted = |length: &'static str| {
        let fields = [&POST[..], &[("content-length", length)]].concat();
        frame(HEADERS, END_HEADERS, 1, block(&fields))
    };
    let get = |fields: &[(&'static str, &'static str)]| frame(HEADERS, WHOLE, 1, with(fields));
    #[rustfmt::skip]
    let cases = vec![
        ("8.1.1 a body shorter than Content-Length", flat(&[&posted("3"), &data(b"ab", END_STREAM)]), malformed),
        ("8.1.1 a body longer than Content-Length", flat(&[&posted("3"), &data(b"abcd", 0)]), malformed),
        ("8.1.1 a body in several frames, too long", flat(&[&posted("3"), &data(b"ab", 0), &data(b"cd", 0)]), malformed),
        ("8.1.1 a body as long as Content-Length", flat(&[&posted("3"), &data(b"ab", 0), &data(b"c", END_STREAM)]), Serves(1)),
        ("8.1.1 trailers before Content-Length", flat(&[&posted("3"), &frame(HEADERS, WHOLE, 1, block(&[("a", "b")]))]), malformed),
        ("8.1.1 a Content-Length without a body", get(&[("content-length", "3")]), malformed),
        ("8.1.1 a Content-Length of 0 without a body", get(&[("content-length", "0")]), Serves(1)),
        ("8.1.1 Content-Lengths that differ", get(&[("content-length", "0"), ("content-length", "1")]), malformed),
        ("8.1.1 a Content-Length that is not a number", get(&[("content-length", "+0")]), malformed),
        ("8.1.1 an empty Content-Length", get(&[("content-length", "")]), malformed),
        ("8.1.1 a Content-Length beyond 2^64", get(&[("content-length", "18446744073709551616")]), malformed),
    ];
    check(cases);
}

#[test]
fn section_8_2_1_names_and_values() {
    let malformed = Resets(1, Code::PROTOCOL_ERROR);
    let get = |fields: &[(&'static str, &'static str)]| frame(HEADERS, WHOLE, 1, with(fields));
    check(vec![
        ("8.2.1 an upper-case name", get(&[("X-A", "b")]), malformed),
        ("8.2.1 a name with a space", get(&[("x a", "b")]), malformed),
        ("8.2.1 a name with a colon", get(&[("x:a", "b")]), malformed),
        ("8.2.1 a name beyond ASCII", get(&[("x\u{e9}", "b")]), malformed),
        ("8.2.1 an empty name", get(&[("", "b")]), malformed),
        ("8.2.1 a value with NUL", get(&[("x", "a\0b")]), malformed),
        ("8.2.1 a value with CR", get(&[("x", "a\rb")]), malformed),
        ("8.2.1 a value with LF", get(&[("x", "a\nb: c")]), malformed),
        ("8.2.1 a value that begins with a space", get(&[("x", " a")]), malformed),
        ("8.2.1 a value that ends with a tab", get(&[("x", "a\t")]), malformed),
        (
            "8.2.1 an empty value, one beyond ASCII, one with spaces",
            get(&[("x", ""), ("y", "\u{e9}"), ("z", "a \tb")]),
            Serves(1),
        ),
    ]);
}

#[test]
fn section_8_2_2_fields_of_connections() {
    let malformed = Resets(1, Code::PROTOCOL_ERROR);
    let get = |fields: &[(&'static str, &'static str)]| frame(HEADERS, WHOLE, 1, with(fields));
    check(vec![
        ("8.2.2 Connection", get(&[("connection", "close")]), malformed),
        ("8.2.2 Proxy-Connection", get(&[("proxy-connection", "close")]), malformed),
        ("8.2.2 Keep-Alive", get(&[("keep-alive", "1")]), malformed),
        ("8.2.2 Transfer-Encoding", get(&[("transfer-encoding", "chunked")]), malformed),
        ("8.2.2 Upgrade", get(&[("upgrade", "h2c")]), malformed),
        ("8.2.2 TE other than trailers", get(&[("te", "gzip")]), malformed),
        ("8.2.2 TE: trailers", get(&[("te", "trailers")]), Serves(1)),
    ]);
}

#[test]
fn section_8_3_pseudo_headers() {
    let malformed = Resets(1, Code::PROTOCOL_ERROR);
    let get = |fields: &[(&'static str, &'static str)]| frame(HEADERS, WHOLE, 1, with(fields));
    #[rustfmt::skip]
    let cases = vec![
        ("8.3 an unknown pseudo-header", get(&[(":x", "a")]), malformed),
        ("8.3 a pseudo-header of responses", get(&[(":status", "200")]), malformed),
        ("8.3 a pseudo-header behind a field", head(&[&[("x", "a")], &GET[..]].concat()), malformed),
        ("8.3.1 no method", head(&GET[1..]), malformed),
        ("8.3.1 no scheme", head(&[GET[0], GET[2], GET[3]]), malformed),
        ("8.3.1 no path", head(&GET[..3]), malformed),
        ("8.3.1 no authority", head(&[GET[0], GET[1], GET[3]]), Serves(1)),
        ("8.3.1 an empty path", head(&[GET[0], GET[1], GET[2], (":path", "")]), malformed),
        ("8.3.1 a fragment", head(&[GET[0], GET[1], GET[2], (":path", "/a#b")]), malformed),
        ("8.3.1 a relative path", head(&[GET[0], GET[1], GET[2], (":path", "a")]), malformed),
        ("8.3.1 a path with a space", head(&[GET[0], GET[1], GET[2], (":path", "/a b")]), malformed),
        ("8.3.1 an empty authority", head(&[GET[0], GET[1], (":authority", ""), GET[3]]), malformed),
        ("8.3.1 an invalid method", head(&[(":method", "G T"), GET[1], GET[2], GET[3]]), malformed),
        ("8.3.1 an invalid scheme", head(&[GET[0], (":scheme", "1a"), GET[2], GET[3]]), malformed),
        ("8.3.1 two methods", head(&[&GET[..1], &GET[..]].concat()), malformed),
        ("8.3.1 two paths", head(&[&GET[3..], &GET[..]].concat()), malformed),
        ("8.3.1 two Hosts", head(&[GET[0], GET[1], GET[3], ("host", "a"), ("host", "a")]), malformed),
    ];
    check(cases);
}

#[test]
fn section_8_3_1_targets() {
    let malformed = Resets(1, Code::PROTOCOL_ERROR);
    let get = |fields: &[(&'static str, &'static str)]| frame(HEADERS, WHOLE, 1, with(fields));
    #[rustfmt::skip]
    let cases = vec![
        ("8.3.1 the path of OPTIONS", head(&[(":method", "OPTIONS"), GET[1], GET[2], (":path", "*")]), Serves(1)),
        ("8.3.1 the path * of GET", head(&[GET[0], GET[1], GET[2], (":path", "*")]), malformed),
        ("8.3.1 an authority with userinfo", head(&[GET[0], GET[1], (":authority", "a@b"), GET[3]]), malformed),
        ("8.3.1 a Host that differs", get(&[("host", "b.example")]), malformed),
        ("8.3.1 the same Host", get(&[("host", "A.example")]), Serves(1)),
        ("8.3.1 the same Host with the scheme's port", get(&[("host", "a.example:443")]), Serves(1)),
        ("8.3.1 the same Host with another port", get(&[("host", "a.example:80")]), malformed),
        ("8.3.1 an authority with a slash", head(&[GET[0], GET[1], (":authority", "a/b"), GET[3]]), malformed),
        ("8.3.1 an authority of IPv6", head(&[GET[0], GET[1], (":authority", "[::1]:80"), GET[3]]), Serves(1)),
    ];
    check(cases);
}

#[test]
fn section_8_5_connect() {
    let malformed = Resets(1, Code::PROTOCOL_ERROR);
    #[rustfmt::skip]
    let cases = vec![
        ("8.5 CONNECT", head(&[(":method", "CONNECT"), (":authority", "a:1")]), Serves(1)),
        ("8.5 CONNECT with a path", head(&[(":method", "CONNECT"), (":authority", "a:1"), GET[3]]), malformed),
        ("8.5 CONNECT with a scheme", head(&[(":method", "CONNECT"), (":authority", "a:1"), GET[1]]), malformed),
        ("8.5 CONNECT without a port", head(&[(":method", "CONNECT"), (":authority", "a")]), malformed),
        ("8.5 CONNECT without an authority", head(&[(":method", "CONNECT")]), malformed),
        (
            "RFC 8441 a protocol without the setting",
            head(&[(":method", "CONNECT"), (":protocol", "websocket"), GET[1], GET[2], GET[3]]),
            malformed,
        ),
    ];
    check(cases);
}
