//! Flow control at its edges: RFC 9113, 5.2 and 6.9.

use std::collections::BTreeMap;

use couplet_http2::{Code, Event, Options};

use crate::kit::*;

/// A connection with open answers on these streams.
fn answering(options: Options, streams: &[u32]) -> Connection {
    let mut connection = server(options);
    for stream in streams {
        fine(&mut connection, &get(*stream));
        connection.respond(*stream, 200, NO_FIELDS, false).expect("it is open");
    }
    connection.take_output();
    connection
}

#[test]
fn data_waits_for_both_windows() {
    let mut connection = answering(Options::default(), &[1]);
    let bytes: Vec<u8> = (0..70_000).map(|n| n as u8).collect();
    assert_eq!(connection.send(1, bytes.clone(), true), Ok(70_000 - 65_535));
    let mut all = sent(&mut connection);
    assert!(all.iter().all(|frame| frame.payload.len() <= 16_384));
    assert_eq!(body(&all, 1).len(), 65_535);
    fine(&mut connection, &window_update(1, 100_000));
    assert_eq!(sent(&mut connection), [], "the window of the connection is closed");
    fine(&mut connection, &window_update(0, 100));
    all.extend(sent(&mut connection));
    assert_eq!(body(&all, 1).len(), 65_635);
    fine(&mut connection, &window_update(0, 100_000));
    all.extend(sent(&mut connection));
    assert_eq!(body(&all, 1), bytes);
    assert_eq!(all.last().map(|frame| frame.flags), Some(END_STREAM));
    assert_eq!(connection.open_streams(), 0);
}

#[test]
fn a_setting_makes_a_window_negative() {
    let mut connection = answering(Options::default(), &[1]);
    fine(&mut connection, &window_update(0, 1 << 20));
    assert_eq!(connection.send(1, vec![0; 60_000], false), Ok(0));
    connection.take_output();
    // 65 535 - 60 000 are left; then the window is 1000 - 60 000.
    fine(&mut connection, &settings(&[(4, 1000)]));
    assert_eq!(connection.send(1, vec![0; 10], true), Ok(10));
    fine(&mut connection, &window_update(1, 59_000));
    assert_eq!(body(&sent(&mut connection), 1), [], "the window is 0");
    fine(&mut connection, &settings(&[(4, 1005)]));
    assert_eq!(body(&sent(&mut connection), 1).len(), 5);
    // A smaller setting, then a larger one: the last one counts.
    fine(&mut connection, &settings(&[(4, 0), (4, 1010)]));
    let output = sent(&mut connection);
    assert_eq!(body(&output, 1).len(), 5);
    assert_eq!(output.last().map(|frame| frame.flags), Some(END_STREAM));
}

#[test]
fn a_setting_that_widens_the_windows_resumes_each_stream() {
    const STREAMS: [u32; 3] = [1, 3, 5];
    let mut connection = answering(Options::default(), &STREAMS);
    fine(&mut connection, &settings(&[(4, 10)]));
    for stream in STREAMS {
        assert_eq!(connection.send(stream, vec![0; 30], true), Ok(20));
    }
    connection.take_output();
    for window in [20, 30] {
        fine(&mut connection, &settings(&[(4, window)]));
        let output = sent(&mut connection);
        for stream in STREAMS {
            assert_eq!(body(&output, stream).len(), 10, "stream {stream}, window {window}");
        }
    }
    assert_eq!(connection.open_streams(), 0);
}

#[test]
fn a_new_stream_has_the_window_of_the_last_setting() {
    let mut connection = server(Options::default());
    fine(&mut connection, &[settings(&[(4, 3)]), get(1)].concat());
    connection.respond(1, 200, NO_FIELDS, false).expect("it is open");
    assert_eq!(connection.send(1, "hello", true), Ok(2));
    assert_eq!(body(&sent(&mut connection), 1), b"hel");
}

#[test]
fn released_bytes_are_returned_once_a_smaller_window_is_acknowledged() {
    let mut connection = Connection::server(Options::default().stream_window(1000));
    let early = [PREFACE, &settings(&[]), &post(1), &frame(DATA, 0, 1, [0; 10_000])].concat();
    fine(&mut connection, &early);
    connection.release(1, 10_000);
    let updates = |connection: &mut Connection| {
        let output = sent(connection).into_iter();
        let of_stream = output.filter(|it| (it.kind, it.stream) == (WINDOW_UPDATE, 1));
        of_stream.map(|it| number(&it.payload)).collect::<Vec<_>>()
    };
    assert_eq!(updates(&mut connection), []);
    fine(&mut connection, &frame(SETTINGS, ACK, 0, []));
    assert_eq!(updates(&mut connection), [10_000]);
    // A stream that has ended needs no window.
    let mut connection = Connection::server(Options::default().stream_window(100));
    let padded = frame(DATA, PADDED | END_STREAM, 1, [99; 100]);
    fine(&mut connection, &[PREFACE, &settings(&[]), &post(1), &padded].concat());
    fine(&mut connection, &frame(SETTINGS, ACK, 0, []));
    assert_eq!(updates(&mut connection), []);
}

#[test]
fn an_empty_end_needs_no_window() {
    let mut connection = answering(Options::default(), &[1, 3]);
    assert_eq!(connection.send(1, vec![0; 65_536], false), Ok(1));
    connection.take_output();
    assert_eq!(connection.send(3, "", false), Ok(0));
    assert_eq!(sent(&mut connection), []);
    assert_eq!(connection.send(3, "", true), Ok(0));
    assert_eq!(kinds(&sent(&mut connection)), [(DATA, 3)]);
    // Behind bytes that wait, the end waits too, and shares their last frame.
    assert_eq!(connection.send(1, "", true), Ok(1));
    assert_eq!(sent(&mut connection), []);
    fine(&mut connection, &[window_update(0, 1), window_update(1, 1)].concat());
    let output = sent(&mut connection);
    assert_eq!((output.len(), output[0].payload.len(), output[0].flags), (1, 1, END_STREAM));
}

#[test]
fn streams_take_turns() {
    let mut connection = answering(Options::default(), &[1, 3, 5]);
    assert_eq!(connection.send(1, vec![1; 100_000], true), Ok(34_465));
    assert_eq!(connection.send(3, vec![3; 40_000], true), Ok(40_000));
    assert_eq!(connection.send(5, vec![5; 10], true), Ok(10));
    connection.take_output();
    let open = [window_update(0, 1 << 20), window_update(1, 1 << 20)].concat();
    fine(&mut connection, &open);
    let order: Vec<u32> = sent(&mut connection).iter().map(|frame| frame.stream).collect();
    assert_eq!(order, [3, 5, 1, 3, 1, 3, 1]);
}

#[test]
fn one_output_is_bounded_and_the_next_continues() {
    let mut connection = answering(Options::default().max_output(20_000), &[1, 3]);
    let open = [window_update(0, 1 << 20), window_update(1, 1 << 20)].concat();
    fine(&mut connection, &open);
    assert_eq!(connection.send(1, vec![0; 100_000], true), Ok(100_000 - 2 * 16_384));
    assert!(connection.is_full());
    assert_eq!(connection.send(3, vec![0; 10], true), Ok(10), "it waits for its turn");
    let mut total = 0;
    let mut takes = 0;
    loop {
        let output = connection.take_output();
        if output.is_empty() {
            break;
        }
        assert!(output.len() < 20_000 + 16_384 + 100);
        total += frames(&output).iter().map(|frame| frame.payload.len()).sum::<usize>();
        takes += 1;
    }
    assert_eq!((total, takes), (100_010, 4));
    assert!(!connection.is_full());
}

#[test]
fn a_producer_pauses_and_continues_at_half() {
    let mut connection = answering(Options::default().max_unsent(1000), &[1]);
    fine(&mut connection, &window_update(0, 1 << 20));
    assert_eq!(connection.send(1, vec![0; 65_535], false), Ok(0));
    let widened = |connection: &mut Connection, by: u32| {
        fine(connection, &window_update(1, by));
        connection.take_output();
        (connection.unsent(1), events(connection))
    };
    assert_eq!(connection.send(1, vec![0; 999], false), Ok(999));
    assert_eq!(widened(&mut connection, 600), (399, vec![]), "the limit was not reached");
    assert_eq!(connection.send(1, vec![0; 601], false), Ok(1000));
    assert_eq!(widened(&mut connection, 499), (501, vec![]));
    assert_eq!(widened(&mut connection, 1), (500, vec![Event::Writable { stream: 1 }]));
    assert_eq!(widened(&mut connection, 1), (499, vec![]), "once");
    assert_eq!(connection.send(1, vec![0; 5000], true), Ok(5499));
    assert_eq!(widened(&mut connection, 5000), (499, vec![]), "the answer is complete");
}

#[test]
fn each_producer_that_pauses_continues_each_time() {
    const STREAMS: [u32; 3] = [1, 3, 5];
    let mut connection = answering(Options::default().max_unsent(1000), &STREAMS);
    fine(&mut connection, &settings(&[(4, 0)]));
    for round in 0..3 {
        for stream in STREAMS {
            assert_eq!(connection.send(stream, vec![0; 1000], false), Ok(1000), "{round}");
        }
        fine(&mut connection, &STREAMS.map(|stream| window_update(stream, 1000)).concat());
        connection.take_output();
        let writable = STREAMS.map(|stream| Event::Writable { stream });
        assert_eq!(events(&mut connection), writable, "{round}");
    }
}

#[test]
fn a_stream_that_is_reset_leaves_its_turn_to_others() {
    let mut connection = answering(Options::default(), &[1, 3, 5, 7]);
    assert_eq!(connection.send(1, vec![0; 65_535], true), Ok(0), "the connection's window");
    for stream in [3, 5] {
        assert_eq!(connection.send(stream, "waits", true), Ok(5));
    }
    connection.take_output();
    connection.reset(3, Code::CANCEL);
    let reset = frame(RST_STREAM, 0, 5, [0, 0, 0, 8]);
    fine(&mut connection, &[reset, window_update(0, 100)].concat());
    assert_eq!(connection.send(7, "hello", true), Ok(0), "there is no other turn");
    assert_eq!(kinds(&sent(&mut connection)), [(RST_STREAM, 3), (DATA, 7)]);
}

#[test]
fn windows_are_opened_in_few_updates_as_bytes_are_released() {
    let options = Options::default().stream_window(1000).connection_window(100_000);
    let mut connection = server(options);
    fine(&mut connection, &post(1));
    fine(&mut connection, &frame(DATA, 0, 1, [0; 1000]));
    assert_eq!(sent(&mut connection), [], "nothing is released");
    connection.release(1, 400);
    assert_eq!(sent(&mut connection), frames(&window_update(1, 400)), "the window was closed");
    connection.release(1, 399);
    assert_eq!(sent(&mut connection), []);
    connection.release(1, 1);
    assert_eq!(sent(&mut connection), frames(&window_update(1, 400)));
    connection.release(1, 1_000_000);
    assert_eq!(sent(&mut connection), [], "no more than was received");
    for _ in 0..97 {
        fine(&mut connection, &frame(DATA, 0, 1, [0; 500]));
        connection.release(1, 500);
    }
    assert!(kinds(&sent(&mut connection)).iter().all(|(_, stream)| *stream == 1));
    fine(&mut connection, &frame(DATA, END_STREAM, 1, [0; 500]));
    connection.release(1, 500);
    assert_eq!(
        sent(&mut connection),
        frames(&window_update(0, 50_000)),
        "a stream that ended needs none"
    );
}

#[test]
fn padding_and_ignored_data_are_released_immediately() {
    let options = Options::default().stream_window(1000).connection_window(65_535);
    let mut connection = server(options);
    fine(&mut connection, &post(1));
    let padded = frame(DATA, PADDED, 1, [&[199][..], &[0; 200]].concat());
    for _ in 0..3 {
        fine(&mut connection, &padded);
    }
    // A byte of each frame is held; the padding and its length are released.
    assert_eq!(sent(&mut connection), frames(&window_update(1, 600)));
    connection.reset(1, Code::CANCEL);
    for _ in 0..33 {
        fine(&mut connection, &frame(DATA, 0, 1, [0; 1000]));
    }
    let output = sent(&mut connection);
    assert_eq!(kinds(&output), [(RST_STREAM, 1), (WINDOW_UPDATE, 0)]);
    assert_eq!(number(&output[1].payload), 600 + 33_000);
}

#[test]
fn more_than_a_window_is_refused() {
    let options = Options::default().stream_window(1000).connection_window(65_535);
    let mut connection = server(options.clone());
    fine(&mut connection, &post(1));
    let seen = fine(&mut connection, &frame(DATA, 0, 1, [0; 1001]));
    assert_eq!(seen, [Event::Reset { stream: 1, code: Code::FLOW_CONTROL_ERROR }]);
    let mut connection = server(options);
    for stream in (1..).step_by(2).take(65) {
        fine(&mut connection, &[post(stream), frame(DATA, 0, stream, [0; 1000])].concat());
    }
    fine(&mut connection, &[post(131), frame(DATA, 0, 131, [0; 535])].concat());
    let error = broken(&mut connection, &frame(DATA, 0, 131, [0; 1]));
    assert_eq!(error.code, Code::FLOW_CONTROL_ERROR);
}

/// RFC 9113, 6.9.2: until the client acknowledges a smaller window, it may use 65 535.
#[test]
fn a_smaller_window_counts_once_it_is_acknowledged() {
    const STREAMS: [u32; 3] = [1, 3, 5];
    let mut connection = Connection::server(Options::default().stream_window(1000));
    let uploads = STREAMS.map(|id| [post(id), frame(DATA, 0, id, [0; 2000])].concat()).concat();
    assert_eq!(fine(&mut connection, &[PREFACE, &settings(&[]), &uploads].concat()).len(), 6);
    fine(&mut connection, &frame(SETTINGS, ACK, 0, []));
    for stream in STREAMS {
        let seen = fine(&mut connection, &frame(DATA, 0, stream, [0; 1]));
        assert_eq!(seen, [Event::Reset { stream, code: Code::FLOW_CONTROL_ERROR }]);
    }
}

/// RFC 9113, 6.9.1: a setting may make a window negative, and an empty frame needs none.
#[test]
fn an_upload_may_end_while_its_window_is_negative() {
    let mut connection = Connection::server(Options::default().stream_window(1000));
    let bytes = [PREFACE, &settings(&[]), &post(1), &frame(DATA, 0, 1, [0; 2000])].concat();
    fine(&mut connection, &[bytes, frame(SETTINGS, ACK, 0, [])].concat());
    let seen = fine(&mut connection, &frame(DATA, END_STREAM, 1, []));
    assert_eq!(seen, [Event::End { stream: 1 }]);
}

/// A client that uploads as much as its windows allow.
struct Uploads {
    connection: Connection,
    /// The windows of the connection and of streams.
    windows: BTreeMap<u32, usize>,
}

impl Uploads {
    /// Sends a request with `length` bytes, which are released as they arrive or never. Returns how
    /// many the client may send.
    fn upload(&mut self, stream: u32, length: usize, is_read: bool) -> usize {
        fine(&mut self.connection, &post(stream));
        self.windows.insert(stream, 16 * 1024);
        self.go_on(stream, length, is_read)
    }

    fn go_on(&mut self, stream: u32, length: usize, is_read: bool) -> usize {
        let mut count_sent = 0;
        loop {
            let room = self.windows[&0].min(self.windows[&stream]).min(16_384);
            let count = room.min(length - count_sent);
            if count == 0 {
                return count_sent;
            }
            count_sent += count;
            for window in [0, stream] {
                *self.windows.get_mut(&window).expect("it is open") -= count;
            }
            fine(&mut self.connection, &frame(DATA, 0, stream, vec![0; count]));
            if is_read {
                self.connection.release(stream, count);
            }
            for update in sent(&mut self.connection) {
                assert_eq!(update.kind, WINDOW_UPDATE);
                *self.windows.entry(update.stream).or_default() += number(&update.payload) as usize;
            }
        }
    }
}

#[test]
fn c175c_uploads_that_are_not_read_leave_room_for_others() {
    let windows = BTreeMap::from([(0, 4 << 20)]);
    let mut uploads = Uploads { connection: server(Options::default()), windows };
    // All but the last two of the streams.
    for stream in (1..).step_by(2).take(126) {
        assert_eq!(uploads.upload(stream, 1 << 20, false), 16 * 1024);
    }
    assert_eq!(uploads.upload(253, 1 << 20, true), 1 << 20);
    assert!(uploads.windows[&253] > 128 << 10, "{:?}", uploads.windows);
    // Stream 253 keeps its share, and there is one for the last stream.
    assert_eq!(uploads.upload(255, 8 << 20, true), 8 << 20);
}

#[test]
fn c175c_an_upload_that_has_ended_keeps_its_share_until_it_is_read() {
    let windows = BTreeMap::from([(0, 4 << 20)]);
    let mut uploads = Uploads { connection: server(Options::default()), windows };
    let streams = || (1..).step_by(2).take(40);
    let mut unread = Vec::new();
    for stream in streams() {
        // The stream is read until its window is wide, and then no longer.
        assert_eq!(uploads.upload(stream, 1 << 20, true), 1 << 20);
        unread.push(uploads.go_on(stream, 1 << 20, false));
        fine(&mut uploads.connection, &frame(DATA, END_STREAM, stream, []));
    }
    assert!(unread[0] > 128 << 10, "{unread:?}");
    assert_eq!(uploads.upload(81, 1 << 20, true), 1 << 20, "{unread:?}");
    // Bytes that are read at last make room for others.
    for (stream, count) in streams().zip(unread) {
        uploads.connection.release(stream, count);
    }
    fine(&mut uploads.connection, &frame(DATA, END_STREAM, 81, []));
    for update in sent(&mut uploads.connection) {
        *uploads.windows.entry(update.stream).or_default() += number(&update.payload) as usize;
    }
    uploads.upload(83, 1 << 20, true);
    assert!(uploads.windows[&83] > 128 << 10, "{:?}", uploads.windows[&83]);
}

#[test]
fn bytes_of_a_stream_that_was_reset_are_still_to_be_released() {
    let options = Options::default().connection_window(65_535).max_streams(1);
    let mut connection = server(options);
    let bytes = frame(DATA, 0, 1, [0; 10_000]);
    let reset = frame(RST_STREAM, 0, 1, [0; 4]);
    fine(&mut connection, &[post(1), bytes.repeat(3), reset].concat());
    assert_eq!(sent(&mut connection), []);
    connection.release(1, 30_000);
    assert_eq!(sent(&mut connection), []);
    fine(&mut connection, &[post(3), frame(DATA, 0, 3, [0; 3000])].concat());
    connection.release(3, 3000);
    assert_eq!(sent(&mut connection), frames(&window_update(0, 33_000)));
}
