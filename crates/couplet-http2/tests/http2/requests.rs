//! Requests as events: their heads, bodies and ends.

use couplet_core::testing::every_split;
use couplet_http2::{Code, Event, Head, Options};

use crate::kit::*;

/// The head of the only event.
fn head(events: &[Event]) -> &Head {
    match events {
        [Event::Request { head, .. }] => head,
        other => panic!("{other:?}"),
    }
}

fn fields(head: &Head) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    head.fields().map(|(name, value)| (text(name), text(value))).collect()
}

#[test]
fn a_head_has_the_parts_of_its_request() {
    let mut connection = server(Options::default());
    let block = with(&[("cookie", "a=1"), ("x-empty", ""), ("cookie", "b=2")]);
    let seen = fine(&mut connection, &frame(HEADERS, WHOLE, 1, block));
    assert!(matches!(seen[..], [Event::Request { stream: 1, ends: true, .. }]));
    let head = head(&seen);
    assert_eq!(head.method(), b"GET");
    assert_eq!(head.scheme(), Some(&b"https"[..]));
    assert_eq!(head.authority(), Some(&b"a.example"[..]));
    assert_eq!(head.path(), Some(&b"/"[..]));
    assert_eq!((head.protocol(), head.content_length()), (None, None));
    let expected = [("cookie", "a=1"), ("x-empty", ""), ("cookie", "b=2")];
    assert_eq!(fields(head), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(
        format!("{head:?}"),
        "Head { method: \"GET\", scheme: Some(\"https\"), authority: Some(\"a.example\"), \
         path: Some(\"/\"), protocol: None, \
         fields: {\"cookie\": \"a=1\", \"x-empty\": \"\", \"cookie\": \"b=2\"} }"
    );
}

#[test]
fn a_host_stands_in_for_an_authority() {
    let mut connection = server(Options::default());
    let block = block(&[GET[0], GET[1], GET[3], ("host", "b.example")]);
    let seen = fine(&mut connection, &frame(HEADERS, WHOLE, 1, block));
    assert_eq!(head(&seen).authority(), Some(&b"b.example"[..]));
    assert_eq!(fields(head(&seen)).len(), 1);
}

#[test]
fn a_connect_has_only_an_authority_and_an_extended_one_a_protocol() {
    let mut connection = server(Options::default().connect_protocol(true));
    let plain = block(&[(":method", "CONNECT"), (":authority", "a:1")]);
    let seen = fine(&mut connection, &frame(HEADERS, END_HEADERS, 1, plain));
    assert_eq!((head(&seen).scheme(), head(&seen).path()), (None, None));
    assert_eq!(head(&seen).authority(), Some(&b"a:1"[..]));
    let websocket = [&[(":method", "CONNECT"), (":protocol", "websocket")], &GET[1..]].concat();
    let seen = fine(&mut connection, &frame(HEADERS, END_HEADERS, 3, block(&websocket)));
    assert_eq!(head(&seen).protocol(), Some(&b"websocket"[..]));
    let without_method = [&[(":protocol", "websocket")], &GET[..]].concat();
    let seen = fine(&mut connection, &frame(HEADERS, WHOLE, 5, block(&without_method)));
    assert_eq!(seen, [], "a protocol needs CONNECT");
    assert_eq!(kinds(&sent(&mut connection)), [(RST_STREAM, 5)]);
    let settings =
        frames(&Connection::server(Options::default().connect_protocol(true)).take_output());
    assert!(settings[0].payload.as_chunks().0.contains(&[0, 8, 0, 0, 0, 1]));
}

/// A conversation with everything that makes events.
fn conversation() -> Vec<u8> {
    let long = with(&[("x", "y")]);
    [
        hello(),
        frame(PRIORITY, 0, 1, [0; 5]),
        post(1),
        frame(DATA, PADDED, 1, b"\x02abc\0\0"),
        frame(DATA, 0, 1, b""),
        frame(HEADERS, WITH_PRIORITY, 3, [&[0, 0, 0, 0, 9][..], &long[..7]].concat()),
        frame(CONTINUATION, 0, 3, &long[7..20]),
        frame(CONTINUATION, END_HEADERS, 3, &long[20..]),
        frame(DATA, END_STREAM, 1, b"def"),
        settings(&[(4, 10), (3, 7)]),
        frame(PING, 0, 0, *b"12345678"),
        frame(HEADERS, WHOLE, 3, block(&[("checksum", "1")])),
        get(5),
        frame(RST_STREAM, 0, 5, Code::CANCEL.0.to_be_bytes()),
        frame(0x50, 0, 9, b"unknown"),
        frame(GOAWAY, 0, 0, [0; 8]),
    ]
    .concat()
}

/// Events, with adjacent pieces of a body joined.
fn joined(seen: Vec<Event>) -> Vec<String> {
    let mut text: Vec<String> = Vec::new();
    let mut body = (0, Vec::new());
    for event in seen {
        match event {
            Event::Data { stream, bytes } if stream == body.0 => body.1.extend_from_slice(&bytes),
            Event::Data { stream, bytes } => body = (stream, bytes.to_vec()),
            other => {
                if body.0 != 0 {
                    text.push(format!("{body:?}"));
                    body = (0, Vec::new());
                }
                text.push(format!("{other:?}"));
            }
        }
    }
    text
}

#[test]
fn every_split_of_a_conversation_gives_the_same_events_and_output() {
    let mut whole = None;
    every_split(&conversation(), |pieces| {
        let mut connection = Connection::server(Options::default());
        let mut seen = Vec::new();
        for piece in pieces {
            connection.receive(piece).expect("it is valid");
            seen.extend(events(&mut connection));
        }
        let result = (joined(seen), connection.take_output());
        let whole = whole.get_or_insert_with(|| result.clone());
        assert_eq!(result, *whole, "{pieces:?}");
    });
    let (seen, output) = whole.expect("it was fed");
    let names: Vec<&str> =
        seen.iter().map(|it| it.split([' ', '(']).next().unwrap_or("")).collect();
    let expected =
        ["Request", "", "Request", "", "End", "Trailers", "End", "Request", "Reset", "GoneAway"];
    assert_eq!(names, expected, "{seen:#?}");
    let output = frames(&output);
    let sent: Vec<_> = output.iter().map(|frame| (frame.kind, frame.flags)).collect();
    let expected =
        [(SETTINGS, 0), (WINDOW_UPDATE, 0), (SETTINGS, ACK), (SETTINGS, ACK), (PING, ACK)];
    assert_eq!(sent, expected);
    assert_eq!(output[4].payload, b"12345678");
}

#[test]
fn frames_of_a_body_in_one_receive_make_one_event() {
    let mut connection = server(Options::default());
    let bytes = [
        post(1),
        frame(DATA, 0, 1, b"ab"),
        frame(DATA, 0, 1, b"cd"),
        post(3),
        frame(DATA, END_STREAM, 1, b"e"),
    ]
    .concat();
    let seen = fine(&mut connection, &bytes);
    let data = |event: &Event| match event {
        Event::Data { stream, bytes } => Some((*stream, bytes.to_vec())),
        _ => None,
    };
    let data: Vec<_> = seen.iter().filter_map(data).collect();
    assert_eq!(data, [(1, b"abcd".to_vec()), (1, b"e".to_vec())]);
    assert!(matches!(seen.last(), Some(Event::End { stream: 1 })));
}

#[test]
fn requests_before_a_fault_stay_queued_and_later_ones_are_not_read() {
    let mut connection = server(Options::default());
    let bytes = [get(1), frame(PING, 0, 1, [0; 8]), get(3)].concat();
    assert_eq!(broken(&mut connection, &bytes).code, Code::PROTOCOL_ERROR);
    assert!(matches!(events(&mut connection)[..], [Event::Request { stream: 1, .. }]));
    assert_eq!(connection.open_streams(), 0);
}

#[test]
fn a_reset_of_the_client_and_a_fault_are_events() {
    let mut connection = server(Options::default());
    let reset = frame(RST_STREAM, 0, 1, Code::CANCEL.0.to_be_bytes());
    let seen = fine(&mut connection, &[post(1), reset].concat());
    assert_eq!(seen[1..], [Event::Reset { stream: 1, code: Code::CANCEL }]);
    assert_eq!(sent(&mut connection), []);
    let seen = fine(&mut connection, &[post(3), window_update(3, 0)].concat());
    assert_eq!(seen[1..], [Event::Reset { stream: 3, code: Code::PROTOCOL_ERROR }]);
    assert_eq!(kinds(&sent(&mut connection)), [(RST_STREAM, 3)]);
    // A request that is malformed from the beginning is no event at all.
    let seen = fine(&mut connection, &frame(HEADERS, WHOLE, 5, block(&GET[1..])));
    assert_eq!(seen, []);
    assert_eq!(connection.open_streams(), 0);
}
