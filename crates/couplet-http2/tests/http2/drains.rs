//! The end of a connection: RFC 9113, 6.8.

use couplet_http2::{Code, Event, Options, SendError};

use crate::kit::*;

#[test]
fn a_drain_has_two_steps() {
    let mut connection = server(Options::default());
    fine(&mut connection, &get(1));
    connection.drain();
    connection.drain();
    let output = sent(&mut connection);
    assert_eq!(kinds(&output), [(GOAWAY, 0), (PING, 0)]);
    assert_eq!(number(&output[0].payload[..4]), 0x7fff_ffff);
    assert_eq!(output[0].code(), 0);
    // A request that was on its way is served.
    assert_eq!(fine(&mut connection, &get(3)).len(), 1);
    let answer = frame(PING, ACK, 0, &output[1].payload);
    assert_eq!(fine(&mut connection, &answer), []);
    let output = sent(&mut connection);
    assert_eq!(kinds(&output), [(GOAWAY, 0)]);
    assert_eq!((number(&output[0].payload[..4]), output[0].code()), (3, 0));
    // Later ones are not, whatever their frames, but their blocks change the table.
    let kept = [&block(&GET)[..], &[0x40, 1, b'a', 1, b'b']].concat();
    let late = [
        frame(HEADERS, END_HEADERS, 5, kept),
        frame(DATA, END_STREAM, 5, b"a"),
        window_update(5, 1),
        frame(RST_STREAM, 0, 5, [0; 4]),
        frame(HEADERS, WHOLE, 7, [0xbe]),
    ]
    .concat();
    assert_eq!(fine(&mut connection, &late), []);
    assert!(!connection.is_drained());
    connection.respond(1, 200, NO_FIELDS, true).expect("it is open");
    connection.respond(3, 200, NO_FIELDS, true).expect("it is open");
    assert!(!connection.is_drained(), "the output is not taken");
    connection.take_output();
    assert!(connection.is_drained());
}

#[test]
fn an_idle_connection_drains_once_its_ping_is_answered() {
    let mut connection = server(Options::default());
    connection.drain();
    let ping = sent(&mut connection).pop().expect("a PING");
    assert!(!connection.is_drained());
    fine(&mut connection, &frame(PING, ACK, 0, ping.payload));
    connection.take_output();
    assert!(connection.is_drained());
}

#[test]
fn a_caller_ends_a_drain_that_gets_no_answer() {
    let mut connection = server(Options::default());
    fine(&mut connection, &get(1));
    connection.drain();
    connection.take_output();
    connection.go_away(Code::NO_ERROR, "bye");
    let output = sent(&mut connection);
    assert_eq!(output[0].payload, b"\0\0\0\x01\0\0\0\0bye");
    connection.drain();
    assert_eq!(sent(&mut connection), [], "no announcement follows the last GOAWAY");
    assert_eq!(fine(&mut connection, &get(3)), []);
    connection.reset(1, Code::CANCEL);
    connection.take_output();
    assert!(connection.is_drained());
}

#[test]
fn a_client_that_leaves_is_served_to_its_last_stream() {
    let mut connection = server(Options::default());
    let leaving = [get(1), frame(GOAWAY, 0, 0, [0, 0, 0, 0, 0, 0, 0, 2])].concat();
    let seen = fine(&mut connection, &leaving);
    assert_eq!(seen[1..], [Event::GoneAway { code: Code::INTERNAL_ERROR }]);
    assert!(!connection.is_drained());
    connection.respond(1, 200, NO_FIELDS, true).expect("it is open");
    connection.take_output();
    assert!(connection.is_drained());
}

#[test]
fn a_failed_connection_sends_nothing_but_its_goaway() {
    let mut connection = server(Options::default().connection_window(65_535));
    let uploads = || (3..83).step_by(2);
    let upload = |id| [post(id), frame(DATA, 0, id, [0; 1000])].concat();
    fine(&mut connection, &[get(1), uploads().flat_map(upload).collect()].concat());
    connection.respond(1, 200, NO_FIELDS, false).expect("it is open");
    connection.send(1, vec![0; 100_000], true).expect("it is open");
    connection.take_output();
    broken(&mut connection, &frame(PING, 0, 1, [0; 8]));
    assert_eq!(connection.send(1, "a", true), Err(SendError::Closed));
    uploads().for_each(|id| connection.release(id, 1000));
    connection.go_away(Code::NO_ERROR, "");
    connection.drain();
    assert!(connection.take_output().is_empty());
}

/// Whether or not the last GOAWAY waited for the answer to the first.
#[test]
fn a_ping_behind_the_announcement_has_its_own_answer() {
    for is_over in [false, true] {
        let mut connection = server(Options::default());
        fine(&mut connection, &get(1));
        connection.drain();
        connection.ping([7; 8]);
        if is_over {
            connection.go_away(Code::NO_ERROR, "");
        }
        let pings = sent(&mut connection).into_iter().filter(|it| it.kind == PING);
        let answers: Vec<_> = pings.map(|it| frame(PING, ACK, 0, it.payload)).collect();
        assert_eq!(answers.len(), 2);
        assert_eq!(fine(&mut connection, &answers[0]), [], "{is_over}");
        let seen = fine(&mut connection, &answers[1]);
        assert_eq!(seen, [Event::Pong { payload: [7; 8] }], "{is_over}");
    }
}
