//! Each limit of the options, on both sides of its edge.

use couplet_http2::{Code, Event, Options, SendError};

use crate::kit::*;

fn announced(options: Options) -> Vec<(u16, u32)> {
    let output = frames(&Connection::server(options).take_output());
    let settings = output[0].payload.as_chunks::<6>().0.iter();
    settings.map(|[a, b, value @ ..]| (u16::from_be_bytes([*a, *b]), number(value))).collect()
}

#[test]
fn the_settings_are_announced() {
    let defaults = [(1, 4096), (4, 16_384), (5, 16_384), (6, 65_536), (3, 128), (8, 0)];
    assert_eq!(announced(Options::default()), defaults);
    let options = Options::default()
        .max_table(100)
        .max_streams(7)
        .stream_window(u32::MAX)
        .max_frame(1)
        .max_head(1000);
    let expected = [(1, 100), (4, (2 << 20) / 7), (5, 16_384), (6, 1000), (3, 7), (8, 0)];
    assert_eq!(announced(options), expected);
    assert_eq!(announced(Options::default().max_frame(u32::MAX))[2], (5, 0xff_ffff));
    for (window, update) in
        [(0, None), (65_535, None), (65_536, Some(1)), (u32::MAX, Some(0x7fff_0000))]
    {
        let options = Options::default().connection_window(window);
        let output = frames(&Connection::server(options).take_output());
        assert_eq!(output.get(1).map(|frame| number(&frame.payload)), update);
    }
}

#[test]
fn max_streams_refuses_further_ones() {
    let mut connection = server(Options::default().max_streams(2));
    assert_eq!(fine(&mut connection, &[get(1), get(3), get(5)].concat()).len(), 2);
    let output = sent(&mut connection);
    assert_eq!((kinds(&output), output[0].code()), (vec![(RST_STREAM, 5)], Code::REFUSED_STREAM.0));
    connection.respond(1, 200, NO_FIELDS, true).expect("it is open");
    assert_eq!(fine(&mut connection, &get(7)).len(), 1);
    connection.take_output();
    // Frames of the refused streams may be on their way.
    let refused = [9, 11, 13];
    assert_eq!(fine(&mut connection, &refused.map(post).concat()), []);
    assert_eq!(kinds(&sent(&mut connection)), refused.map(|stream| (RST_STREAM, stream)));
    let late = refused.map(|stream| frame(DATA, END_STREAM, stream, b"a")).concat();
    assert_eq!(fine(&mut connection, &late), []);
}

#[test]
fn max_frame_bounds_a_frame() {
    let mut connection = server(Options::default().max_frame(20_000));
    fine(&mut connection, &[post(1), frame(DATA, 0, 1, [0; 20_000])].concat());
    let error = broken(&mut connection, &frame(DATA, 0, 1, [0; 20_001])[..9]);
    assert_eq!(error.code, Code::FRAME_SIZE_ERROR);
}

#[test]
fn max_head_bounds_a_list_of_fields() {
    let size = |fields: &[(&str, &str)]| {
        fields.iter().map(|(name, value)| name.len() + value.len() + 32).sum::<usize>() as u32
    };
    let exact = size(&GET);
    let mut connection = server(Options::default().max_head(exact));
    assert_eq!(fine(&mut connection, &get(1)).len(), 1);
    let mut connection = server(Options::default().max_head(exact - 1));
    assert_eq!(fine(&mut connection, &get(1)), []);
    let output = sent(&mut connection);
    assert_eq!((kinds(&output), output[0].flags), (vec![(HEADERS, 1)], WHOLE));
    assert_eq!(output[0].payload, b"\x08\x03431");
    assert_eq!(fine(&mut connection, &post(3)), []);
    assert_eq!(kinds(&sent(&mut connection)), [(HEADERS, 3), (RST_STREAM, 3)]);
    assert_eq!(connection.respond(3, 200, NO_FIELDS, true), Err(SendError::Closed));
    // Its body may be on its way.
    let late = [frame(DATA, 0, 3, b"late"), frame(HEADERS, WHOLE, 3, block(&[("a", "b")]))];
    assert_eq!(fine(&mut connection, &late.concat()), []);
    // Trailers.
    let mut connection = server(Options::default().max_head(200));
    let trailers = frame(HEADERS, WHOLE, 1, block(&[("a", &"b".repeat(168))]));
    let seen = fine(&mut connection, &[post(1), trailers].concat());
    assert_eq!(seen[1..], [Event::Reset { stream: 1, code: Code::ENHANCE_YOUR_CALM }]);
}

#[test]
fn a_block_without_an_end_is_bounded() {
    let mut connection = server(Options::default().max_head(1000));
    fine(&mut connection, &frame(HEADERS, END_STREAM, 1, [0x82; 1000]));
    fine(&mut connection, &frame(CONTINUATION, 0, 1, [0x82; 1001]));
    let error = broken(&mut connection, &frame(CONTINUATION, 0, 1, [0x82]));
    assert_eq!(error.code, Code::ENHANCE_YOUR_CALM);
}

/// A block of single bytes that each stand for a field of 4033 bytes is counted, and not expanded.
#[test]
fn a_bomb_of_indexes_is_a_large_head_or_ends_the_connection() {
    let entry = [&[0x40][..], &block(&[("a", &"b".repeat(4000))])[1..]].concat();
    let bomb = |stream, count| {
        let block = [&block(&GET)[..], &entry, &vec![0xbe; count]].concat();
        frame(HEADERS, WHOLE, stream, block)
    };
    let mut connection = server(Options::default());
    assert_eq!(fine(&mut connection, &bomb(1, 63)), []);
    assert_eq!(kinds(&sent(&mut connection)), [(HEADERS, 1)]);
    assert_eq!(broken(&mut connection, &bomb(3, 64)).code, Code::ENHANCE_YOUR_CALM);
}

#[test]
fn max_table_bounds_the_clients_table_once_it_is_acknowledged() {
    let resize = |stream, size: u8| {
        frame(HEADERS, WHOLE, stream, [&[0x20 | size][..], &block(&GET)].concat())
    };
    let mut connection = server(Options::default().max_table(10));
    assert_eq!(broken(&mut connection, &get(1)).code, Code::COMPRESSION_ERROR, "no change");
    let mut connection = server(Options::default().max_table(10));
    assert_eq!(fine(&mut connection, &resize(1, 10)).len(), 1);
    assert_eq!(broken(&mut connection, &resize(3, 11)).code, Code::COMPRESSION_ERROR);
    // Before the acknowledgement, the table has its initial size.
    let mut connection = Connection::server(Options::default().max_table(10));
    let early = [PREFACE, &settings(&[]), &get(1)].concat();
    assert_eq!(fine(&mut connection, &early).len(), 1);
    // A larger table.
    let larger = frame(HEADERS, WHOLE, 1, [&[0x3f, 0xe1, 0x3f][..], &block(&GET)].concat());
    let mut connection = server(Options::default().max_table(8192));
    assert_eq!(fine(&mut connection, &larger).len(), 1);
    assert_eq!(broken(&mut server(Options::default()), &larger).code, Code::COMPRESSION_ERROR);
}

#[test]
fn max_control_bounds_answers_that_are_not_taken() {
    let ping = frame(PING, 0, 0, [0; 8]);
    for (flood, length) in [(ping, 17), (settings(&[]), 9)] {
        let mut connection = server(Options::default().max_control(17 * 9));
        let count = 17 * 9 / length;
        fine(&mut connection, &flood.repeat(count));
        connection.take_output();
        fine(&mut connection, &flood.repeat(count));
        assert_eq!(broken(&mut connection, &flood).code, Code::ENHANCE_YOUR_CALM);
    }
    let mut connection = server(Options::default().max_control(13));
    fine(&mut connection, &frame(HEADERS, WHOLE, 1, []));
    let malformed = frame(HEADERS, WHOLE, 3, []);
    assert_eq!(broken(&mut connection, &malformed).code, Code::ENHANCE_YOUR_CALM);
    // Answers to requests with too many fields.
    let mut connection = server(Options::default().max_head(100).max_control(2 * 14));
    for stream in [1, 5] {
        fine(&mut connection, &[get(stream), get(stream + 2)].concat());
        assert_eq!(sent(&mut connection).len(), 2);
    }
    let three = [get(9), get(11), get(13)].concat();
    assert_eq!(broken(&mut connection, &three).code, Code::ENHANCE_YOUR_CALM);
}

#[test]
fn max_resets_bounds_rapid_resets() {
    let reset = |stream| frame(RST_STREAM, 0, stream, [0, 0, 0, 8]);
    let mut connection = server(Options::default().max_resets(2));
    // An answer that has begun is no rapid reset.
    for stream in [1, 3, 5, 7] {
        fine(&mut connection, &get(stream));
        connection.respond(stream, 200, NO_FIELDS, false).expect("it is open");
        fine(&mut connection, &reset(stream));
    }
    fine(&mut connection, &[get(9), reset(9), get(11), reset(11)].concat());
    // A complete answer pays for a reset.
    fine(&mut connection, &get(13));
    connection.respond(13, 200, NO_FIELDS, true).expect("it is open");
    fine(&mut connection, &[get(15), reset(15)].concat());
    let error = broken(&mut connection, &[get(17), reset(17)].concat());
    assert_eq!(error.code, Code::ENHANCE_YOUR_CALM);
}

#[test]
fn max_resets_bounds_resets_that_the_client_provokes() {
    let mut connection = server(Options::default().max_resets(2));
    fine(&mut connection, &[get(1), window_update(1, 0), frame(HEADERS, WHOLE, 3, [])].concat());
    let error = broken(&mut connection, &[post(5), frame(HEADERS, END_HEADERS, 5, [])].concat());
    assert_eq!(error.code, Code::ENHANCE_YOUR_CALM);
    // Our resets don't count.
    let mut connection = server(Options::default().max_resets(0));
    for stream in [1, 3, 5] {
        fine(&mut connection, &get(stream));
        connection.reset(stream, Code::INTERNAL_ERROR);
    }
}

#[test]
fn max_idle_frames_bounds_frames_without_effect() {
    let closed = [get(1), frame(RST_STREAM, 0, 1, [0, 0, 0, 8])].concat();
    let part = frame(HEADERS, 0, 3, []);
    for (before, flood) in [
        (post(1), frame(DATA, 0, 1, [])),
        (post(1), frame(DATA, PADDED, 1, [2, 0, 0])),
        (part, frame(CONTINUATION, 0, 3, [])),
        (vec![], frame(PRIORITY, 0, 1, [0; 5])),
        (vec![], frame(0xb, 0, 0, [])),
        (vec![], frame(SETTINGS, ACK, 0, [])),
        (vec![], frame(PING, ACK, 0, [0; 8])),
        (frame(GOAWAY, 0, 0, [0; 8]), frame(GOAWAY, 0, 0, [0; 8])),
        (closed.clone(), window_update(1, 1)),
        (closed, frame(RST_STREAM, 0, 1, [0; 4])),
    ] {
        let mut connection = server(Options::default().max_idle_frames(10));
        fine(&mut connection, &before);
        fine(&mut connection, &flood.repeat(9));
        let code = broken(&mut connection, &flood.repeat(2)).code;
        assert_eq!(code, Code::ENHANCE_YOUR_CALM, "{flood:?}");
    }
    // Requests and bytes of bodies begin anew.
    let mut connection = server(Options::default().max_idle_frames(10));
    let idle = frame(0xb, 0, 0, []).repeat(10);
    fine(&mut connection, &[&idle[..], &post(1), &idle, &frame(DATA, 0, 1, b"a"), &idle].concat());
}
