//! Each cycle twice, pairs in both orders, and limits on both sides.

use couplet_http2::{Code, Event, Options};

use crate::kit::*;

#[test]
fn each_of_several_pings_has_its_answer() {
    for side in [client, server] {
        let mut connection = side(Options::default());
        let payloads: Vec<[u8; 8]> = (1..=6).map(|n| [n; 8]).collect();
        let answer = |payload: &[u8; 8]| frame(PING, ACK, 0, payload);
        // One after the other, then pairs of them, answered together or apart.
        for on_their_way in [1, 1, 2, 2, 3] {
            for payload in &payloads[..on_their_way] {
                connection.ping(*payload);
            }
            assert_eq!(sent(&mut connection).len(), on_their_way);
            for payload in &payloads[..on_their_way] {
                let seen = fine(&mut connection, &answer(payload));
                assert_eq!(seen, [Event::Pong { payload: *payload }], "of {on_their_way}");
            }
            assert_eq!(fine(&mut connection, &answer(&payloads[5])), [], "of no PING");
        }
    }
}

/// Padding counts in both windows: a stream takes exactly its window, however much of it is padding.
#[test]
fn a_window_admits_exactly_its_bytes_of_bodies_and_padding() {
    const WINDOW: usize = 1000;
    // The bytes of the body and of the padding, with its length, in each frame.
    for (bytes, padding) in [(100, 0_usize), (50, 50), (90, 10), (1, 99), (0, 100)] {
        let (flags, head) = match padding {
            0 => (0, vec![]),
            _ => (PADDED, vec![padding as u8 - 1]),
        };
        let payload = [&head[..], &vec![0; bytes + padding.saturating_sub(1)]].concat();
        let mut connection = server(Options::default().stream_window(WINDOW as u32));
        fine(&mut connection, &post(1));
        let mut credit = WINDOW;
        // The peer may never send more than the window beyond the bytes that were released.
        let mut held = 0;
        for _ in 0..60 {
            if credit < payload.len() {
                break;
            }
            credit -= payload.len();
            for event in fine(&mut connection, &frame(DATA, flags, 1, &payload)) {
                let Event::Data { bytes, .. } = event else { panic!("{event:?}") };
                held += bytes.len();
            }
            for update in sent(&mut connection) {
                assert_eq!((update.kind, update.stream), (WINDOW_UPDATE, 1));
                credit += number(&update.payload) as usize;
            }
            assert!(credit + held <= WINDOW, "{bytes} and {padding}: {credit} and {held}");
        }
        // The rest of the window, which returns the padding, then one byte more.
        while credit > 0 {
            assert_eq!(fine(&mut connection, &frame(DATA, 0, 1, vec![0; credit])).len(), 1);
            held += credit;
            credit = sent(&mut connection).iter().map(|it| number(&it.payload) as usize).sum();
        }
        assert_eq!(held, WINDOW, "{bytes} and {padding}");
        let seen = fine(&mut connection, &frame(DATA, 0, 1, [0]));
        let reset = Event::Reset { stream: 1, code: Code::FLOW_CONTROL_ERROR };
        assert_eq!(seen, [reset], "{bytes} and {padding}");
    }
}

/// Output that was taken is no longer held, whether or not bodies wait for a window.
#[test]
fn answers_that_were_taken_do_not_count_in_max_control() {
    let ping = frame(PING, 0, 0, [0; 8]);
    for waits in [false, true] {
        let mut connection = server(Options::default().max_control(17 * 4));
        if waits {
            fine(&mut connection, &[get(1), window_update(1, 1 << 20)].concat());
            connection.respond(1, 200, NO_FIELDS, false).expect("it is open");
            assert_eq!(connection.send(1, vec![0; 70_000], true), Ok(70_000 - 65_535));
            while !connection.take_output().is_empty() {}
        }
        for _ in 0..3 {
            fine(&mut connection, &ping.repeat(4));
            assert_eq!(sent(&mut connection).len(), 4);
        }
        let error = broken(&mut connection, &ping.repeat(5));
        assert_eq!(error.code, Code::ENHANCE_YOUR_CALM);
    }
}

/// Each end of a stream leaves the connection's window complete: bytes on their way, padding, and
/// bytes that the user has. The whole window is used and returned several times.
#[test]
fn a_stream_that_fails_returns_all_of_the_connections_window() {
    const FRAME: usize = 10_000;
    let reset = |stream| frame(RST_STREAM, 0, stream, [0, 0, 0, 8]);
    type Failure = fn(u32) -> Vec<u8>;
    let failures: [(&str, Option<Failure>); 4] = [
        ("the user resets it", None),
        ("the peer resets it", Some(|stream| frame(RST_STREAM, 0, stream, [0, 0, 0, 8]))),
        ("an update by zero", Some(|stream| window_update(stream, 0))),
        ("a second head", Some(|stream| frame(HEADERS, END_HEADERS, stream, []))),
    ];
    let options = Options::default().connection_window(65_535).max_streams(1).max_resets(100);
    for (name, failure) in failures {
        let mut connection = server(options.clone());
        let mut credit = 65_535;
        for stream in (1..40).step_by(2) {
            let data = frame(DATA, 0, stream, [0; FRAME]);
            fine(&mut connection, &post(stream));
            let mut held = 0;
            for n in 0..3 {
                credit -= FRAME as i64;
                assert!(credit >= 0, "{name}: the window is used up at {stream}");
                if n == 2 {
                    // The others are unread when the stream fails; the last one comes too late.
                    match failure {
                        Some(failure) => drop(fine(&mut connection, &failure(stream))),
                        None => connection.reset(stream, Code::CANCEL),
                    }
                    if name == "the peer resets it" {
                        credit += FRAME as i64;
                        break;
                    }
                }
                for event in fine(&mut connection, &data) {
                    if let Event::Data { bytes, .. } = event {
                        held += bytes.len();
                    }
                }
            }
            assert_eq!(held, 2 * FRAME, "{name}");
            connection.release(stream, held);
            let updates = sent(&mut connection);
            let updates = updates.iter().filter(|it| (it.kind, it.stream) == (WINDOW_UPDATE, 0));
            credit += updates.map(|it| i64::from(number(&it.payload))).sum::<i64>();
            // Less than half of a window is returned later.
            assert!((32_768..=65_535).contains(&credit), "{name}: {credit} at {stream}");
        }
        assert_eq!(fine(&mut connection, &[get(101), reset(101)].concat()).len(), 2, "{name}");
    }
}

/// A farewell may be repeated, with the same code or another one, and each refuses its streams.
#[test]
fn each_farewell_refuses_the_streams_beyond_its_last_one() {
    let refused = |stream| Event::Reset { stream, code: Code::REFUSED_STREAM };
    for codes in [[0, 0, 0], [0, 1, 1], [1, 0, 1]] {
        let mut connection = client(Options::default());
        let streams: Vec<u32> = (0..4).map(|_| ask(&mut connection)).collect();
        assert_eq!(streams, [1, 3, 5, 7]);
        for (last, code) in [5, 3, 1_u32].into_iter().zip(codes) {
            let farewell = [last.to_be_bytes(), u32::to_be_bytes(code)].concat();
            let seen = fine(&mut connection, &frame(GOAWAY, 0, 0, farewell));
            let expected = [refused(last + 2), Event::GoneAway { code: Code(code) }];
            assert_eq!(seen, expected, "{codes:?}");
        }
        assert_eq!(connection.open_streams(), 1);
        assert_eq!(fine(&mut connection, &response(1, WHOLE, &OK)).len(), 1);
        connection.take_output();
        assert!(connection.is_drained());
    }
}

/// Hints before each of many responses are no flood.
#[test]
fn each_response_ends_a_row_of_frames_without_effect() {
    let hints = |stream, count| response(stream, END_HEADERS, &[(":status", "103")]).repeat(count);
    let mut connection = client(Options::default().max_idle_frames(10));
    for _ in 0..3 {
        let stream = ask(&mut connection);
        let answer = [hints(stream, 10), response(stream, WHOLE, &OK)].concat();
        assert_eq!(fine(&mut connection, &answer).len(), 11);
    }
    let stream = ask(&mut connection);
    fine(&mut connection, &hints(stream, 10));
    assert_eq!(broken(&mut connection, &hints(stream, 1)).code, Code::ENHANCE_YOUR_CALM);
}

/// DATA for which its stream is reset returns to the connection's window, each time.
#[test]
fn data_that_fails_its_stream_returns_to_the_connections_window() {
    const FRAME: usize = 15_000;
    fn declared(stream: u32) -> Vec<u8> {
        let fields = [&POST[..], &[("content-length", "3")]].concat();
        frame(HEADERS, END_HEADERS, stream, block(&fields))
    }
    type Head = fn(u32) -> Vec<u8>;
    let cases: [(&str, u32, Head); 3] =
        [("window", 1000, post), ("length", 60_000, declared), ("end", 60_000, get)];
    for (name, window, head) in cases {
        let options = Options::default().connection_window(65_535).max_streams(1);
        let mut connection = server(options.stream_window(window).max_resets(100));
        let mut credit = 65_535;
        for stream in (1..40).step_by(2) {
            credit -= FRAME as i64;
            assert!(credit >= 0, "beyond its {name}: the window is used up at {stream}");
            let data = frame(DATA, 0, stream, [0; FRAME]);
            let seen = fine(&mut connection, &[head(stream), data].concat());
            assert!(matches!(seen.last(), Some(Event::Reset { .. })), "{name}: {seen:?}");
            let updates = sent(&mut connection);
            let updates = updates.iter().filter(|it| (it.kind, it.stream) == (WINDOW_UPDATE, 0));
            credit += updates.map(|it| i64::from(number(&it.payload))).sum::<i64>();
        }
    }
}
