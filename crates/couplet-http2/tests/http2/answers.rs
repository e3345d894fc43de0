//! Answers: heads, bodies, trailers, and misuse by the caller.

use bytes::Bytes;
use couplet_http2::{Code, Copied, Event, Options, SendError};

use crate::kit::*;

fn asked(bytes: &[u8]) -> Connection {
    let mut connection = server(Options::default());
    fine(&mut connection, bytes);
    connection
}

#[test]
fn an_answer_is_a_head_and_data_and_closes_its_stream() {
    let mut connection = asked(&get(1));
    assert_eq!(connection.respond(1, 200, [("Server", "couplet")], false), Ok(()));
    assert_eq!(connection.send(1, "hello", false), Ok(0));
    assert_eq!(connection.open_streams(), 1);
    assert_eq!(connection.send(1, Bytes::from(vec![b'!']), true), Ok(0));
    assert_eq!(connection.open_streams(), 0);
    let output = sent(&mut connection);
    assert_eq!(kinds(&output), [(HEADERS, 1), (DATA, 1), (DATA, 1)]);
    assert_eq!(
        output.iter().map(|frame| frame.flags).collect::<Vec<_>>(),
        [END_HEADERS, 0, END_STREAM]
    );
    assert_eq!(output[0].payload.first(), Some(&0x88), ":status: 200");
    assert_eq!(body(&output, 1), b"hello!");
    assert!(connection.take_output().is_empty());
}

#[test]
fn a_head_may_be_the_whole_answer_and_informational_ones_precede_it() {
    let mut connection = asked(&get(1));
    assert_eq!(connection.respond(1, 100, NO_FIELDS, true), Err(SendError::Order));
    assert_eq!(connection.respond(1, 101, NO_FIELDS, false), Err(SendError::Status));
    assert_eq!(connection.respond(1, 1000, NO_FIELDS, false), Err(SendError::Status));
    assert_eq!(connection.respond(1, 99, NO_FIELDS, false), Err(SendError::Status));
    assert_eq!(connection.respond(1, 103, [("link", "</a>")], false), Ok(()));
    assert_eq!(connection.respond(1, 100, NO_FIELDS, false), Ok(()));
    assert_eq!(connection.respond(1, 204, NO_FIELDS, true), Ok(()));
    let output = sent(&mut connection);
    let flags: Vec<_> = output.iter().map(|frame| frame.flags).collect();
    assert_eq!(flags, [END_HEADERS, END_HEADERS, WHOLE]);
    // A literal with the name of index 8, and a static status.
    assert_eq!(
        (&output[1].payload[..], &output[2].payload[..]),
        (&b"\x08\x03100"[..], &b"\x89"[..])
    );
}

#[test]
fn trailers_follow_the_body() {
    let mut connection = asked(&[get(1), get(3)].concat());
    connection.respond(1, 200, NO_FIELDS, false).expect("it is open");
    connection.send(1, "a", false).expect("it is open");
    assert_eq!(connection.trailers(1, [("a", "b\n")]), Err(SendError::Field));
    assert_eq!(connection.trailers(1, [("a", "b")]), Ok(()));
    assert_eq!(kinds(&sent(&mut connection)), [(HEADERS, 1), (DATA, 1), (HEADERS, 1)]);
    assert_eq!(connection.trailers(1, [("a", "b")]), Err(SendError::Closed));
    // Behind bytes that wait for the window.
    connection.respond(3, 200, NO_FIELDS, false).expect("it is open");
    assert_eq!(connection.send(3, vec![b'a'; 65_536], false), Ok(2));
    assert_eq!(connection.trailers(3, [("A b", "b")]), Err(SendError::Field));
    assert_eq!(connection.trailers(3, [("Ab", "c")]), Ok(()));
    assert_eq!(connection.send(3, "b", false), Err(SendError::Order));
    assert!(!kinds(&sent(&mut connection)[1..]).contains(&(HEADERS, 3)));
    fine(&mut connection, &[window_update(0, 2), window_update(3, 2)].concat());
    let output = sent(&mut connection);
    assert_eq!(kinds(&output), [(DATA, 3), (HEADERS, 3)]);
    assert_eq!((output[0].flags, output[1].flags), (0, WHOLE));
    assert_eq!(connection.open_streams(), 0);
}

#[test]
fn a_caller_out_of_order_gets_an_error_and_changes_nothing() {
    let mut connection = asked(&get(1));
    assert_eq!(connection.send(1, "a", false), Err(SendError::Order));
    assert_eq!(connection.trailers(1, NO_FIELDS), Err(SendError::Order));
    assert_eq!(connection.respond(3, 200, NO_FIELDS, true), Err(SendError::Closed));
    for (name, value) in
        [("a b", ""), ("", ""), (":status", "200"), ("a", "b\r\nc: d"), ("a", "\0")]
    {
        let fields = [("x-kept", "1"), (name, value)];
        assert_eq!(connection.respond(1, 200, fields, true), Err(SendError::Field));
    }
    assert!(connection.take_output().is_empty());
    connection.respond(1, 200, [("x-kept", "1")], false).expect("it is open");
    assert_eq!(connection.respond(1, 200, NO_FIELDS, false), Err(SendError::Order));
    // The table was forgotten with the invalid head: it is emptied, and the field is a literal.
    let output = sent(&mut connection);
    assert_eq!(output[0].payload[..6], [0x20, 0x3f, 0xe1, 0x1f, 0x88, 0x40]);
}

#[test]
fn an_answer_may_be_complete_before_its_request() {
    let mut connection = asked(&post(1));
    connection.respond(1, 200, NO_FIELDS, true).expect("it is open");
    assert_eq!(connection.open_streams(), 1);
    assert_eq!(connection.send(1, "a", true), Err(SendError::Order));
    let seen = fine(&mut connection, &frame(DATA, END_STREAM, 1, b"a"));
    assert_eq!(seen.len(), 2);
    assert_eq!(connection.open_streams(), 0);
    // Or the rest of the request is not needed.
    fine(&mut connection, &post(3));
    connection.respond(3, 413, NO_FIELDS, true).expect("it is open");
    connection.reset(3, Code::NO_ERROR);
    connection.reset(3, Code::NO_ERROR);
    connection.reset(99, Code::CANCEL);
    let output = sent(&mut connection);
    assert_eq!(kinds(&output), [(HEADERS, 1), (HEADERS, 3), (RST_STREAM, 3)]);
    assert_eq!(output[2].code(), 0);
    assert_eq!(fine(&mut connection, &frame(DATA, END_STREAM, 3, b"a")), []);
}

#[test]
fn a_long_head_needs_continuations() {
    let mut connection = asked(&get(1));
    let long = "~".repeat(40_000);
    connection.respond(1, 200, [("x", &long[..])], false).expect("it is open");
    connection.send(1, Copied(b"a"), true).expect("it is open");
    let output = sent(&mut connection);
    let expected = [(HEADERS, 1), (CONTINUATION, 1), (CONTINUATION, 1), (DATA, 1)];
    assert_eq!(kinds(&output), expected);
    let flags: Vec<_> = output.iter().map(|frame| frame.flags).collect();
    assert_eq!(flags, [0, 0, END_HEADERS, END_STREAM]);
    assert!(output.iter().all(|frame| frame.payload.len() <= 16_384));
}

#[test]
fn an_answer_to_a_stream_that_was_reset_is_an_error() {
    let mut connection = asked(&get(1));
    connection.respond(1, 200, NO_FIELDS, false).expect("it is open");
    connection.send(1, vec![0; 100_000], false).expect("it is open");
    connection.take_output();
    let seen = fine(&mut connection, &frame(RST_STREAM, 0, 1, [0, 0, 0, 8]));
    assert_eq!(seen, [Event::Reset { stream: 1, code: Code::CANCEL }]);
    assert_eq!(connection.send(1, "a", true), Err(SendError::Closed));
    assert_eq!(connection.unsent(1), 0);
    fine(&mut connection, &window_update(0, 100_000));
    assert!(connection.take_output().is_empty(), "its bytes were dropped");
}

#[test]
fn a_ping_has_an_answer() {
    let mut connection = server(Options::default());
    connection.ping(*b"12345678");
    assert_eq!(sent(&mut connection)[0].payload, b"12345678");
    let pong = frame(PING, ACK, 0, *b"12345678");
    let seen = fine(&mut connection, &[&pong[..], &pong].concat());
    assert_eq!(seen, [Event::Pong { payload: *b"12345678" }]);
}

#[test]
fn the_client_limits_the_table_of_our_encoder() {
    let mut connection = asked(&[settings(&[(1, 0)]), get(1), get(3)].concat());
    connection.take_output();
    for stream in [1, 3] {
        connection.respond(stream, 200, [("x-a", "b")], true).expect("it is open");
    }
    let output = sent(&mut connection);
    assert_eq!(output[0].payload[..3], [0x20, 0x88, 0x40]);
    assert_eq!(output[1].payload[..2], [0x88, 0x40], "the table has no entries");
}
