//! The machine without a session: split input, random input, and its bounds.

use couplet_core::testing::every_split;
use proptest::prelude::*;

use super::PREFACE;
use super::frame::{Chunk, FrameHead, FrameOutput, HEAD, Reason, Then, flag, kind};
use super::machine::{Event, Limits, Machine, ResponseHead};
use crate::body::Content;

pub(super) const LIMITS: Limits = Limits {
    max_streams: 10,
    stream_window: 256 * 1024,
    connection_window: 1024 * 1024,
    max_head: 1000,
};

/// GET of `/` on HPACK's static table: RFC 7541, Appendix A.
const GET: &[u8] = &[0x82, 0x86, 0x84];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = FrameOutput::default();
    out.write(kind, flags, stream, payload);
    taken(&mut out)
}

/// Takes the bytes of an output.
fn taken(out: &mut FrameOutput) -> Vec<u8> {
    let mut bytes = Vec::new();
    out.drain(|chunk| match chunk {
        Chunk::Bytes(part) => bytes.extend_from_slice(part),
        Chunk::Payload(Content::Bytes(part)) => bytes.extend_from_slice(&part),
        Chunk::Payload(Content::File(_)) => unreachable!("there are no files"),
    });
    bytes
}

/// The preface and empty settings.
fn hello() -> Vec<u8> {
    [PREFACE, &frame(kind::SETTINGS, 0, 0, b"")].concat()
}

fn get(stream: u32) -> Vec<u8> {
    frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, GET)
}

fn post(stream: u32) -> Vec<u8> {
    frame(kind::HEADERS, flag::END_HEADERS, stream, GET)
}

fn machine() -> Machine {
    let mut machine = Machine::new(LIMITS);
    taken(machine.out());
    machine
}

/// Feeds input, and describes the events, with the error that ends them. Requests are answered.
fn events(machine: &mut Machine, input: &[u8]) -> Vec<String> {
    machine.input(input);
    let mut events = Vec::new();
    loop {
        match machine.next_event() {
            Ok(Some(Event::Request { key, request, then, .. })) => {
                let ends = then == Then::End;
                events.push(format!("{key} {} {} {ends}", request.method(), request.uri()));
            }
            Ok(Some(Event::Data { key, range, then })) => {
                let ends = then == Then::End;
                let data = machine.data(range).to_vec();
                machine.consume_stream(key, data.len());
                machine.consume_connection(data.len());
                events.push(format!("{key} data {} {ends}", String::from_utf8_lossy(&data)));
            }
            Ok(Some(event)) => events.push(format!("{event:?}")),
            Ok(None) => return events,
            Err(error) => {
                events.push(error.reason.to_string());
                return events;
            }
        }
    }
}

/// The frames that a machine sent: kind, flags, stream.
fn sent(machine: &mut Machine) -> Vec<(u8, u8, u32)> {
    let out = taken(machine.out());
    let (mut rest, mut frames) = (&out[..], Vec::new());
    while let Some((head, after)) = rest.split_first_chunk::<HEAD>() {
        let head = FrameHead::parse(head);
        frames.push((head.kind, head.flags, head.stream));
        rest = &after[head.length..];
    }
    frames
}

/// Sends the head of a response without headers.
fn respond(machine: &mut Machine, key: usize, then: Then) {
    let headers = http::HeaderMap::new();
    machine.send_head(key, &ResponseHead::new(http::StatusCode::OK, &headers), then);
}

#[test]
fn each_split_of_the_input_gives_the_same_events() {
    let input = [
        hello(),
        get(1),
        post(3),
        frame(kind::DATA, 0, 3, b"hello"),
        frame(kind::HEADERS, flag::END_STREAM, 5, &GET[..1]),
        frame(kind::CONTINUATION, flag::END_HEADERS, 5, &GET[1..]),
        frame(kind::DATA, flag::END_STREAM | flag::PADDED, 3, b"\x02xy\0\0"),
        frame(kind::PING, 0, 0, b"12345678"),
    ]
    .concat();
    let joined = |pieces: &[&[u8]]| {
        let mut machine = machine();
        let all: Vec<String> =
            pieces.iter().flat_map(|piece| events(&mut machine, piece)).collect();
        (all, sent(&mut machine))
    };
    let whole = joined(&[&input]);
    assert_eq!(
        whole.0,
        ["0 GET / true", "1 GET / false", "1 data hello false", "2 GET / true", "1 data xy true"]
    );
    every_split(&input, |pieces| assert_eq!(joined(pieces), whole));
}

#[test]
fn a_stream_is_open_until_both_sides_are_done() {
    let mut machine = machine();
    events(&mut machine, &[hello(), get(1), post(3)].concat());
    respond(&mut machine, 0, Then::End);
    respond(&mut machine, 1, Then::More);
    machine.send_data(1, Content::Bytes(bytes::Bytes::new()), Then::End);
    assert_eq!((machine.is_open(0), machine.is_open(1)), (false, true));
    machine.abandon_request(1);
    assert!(!machine.is_open(1) && !machine.has_streams());
    assert_eq!(sent(&mut machine).last(), Some(&(kind::RST_STREAM, 0, 3)));
    // Frames that are still on their way are ignored.
    assert_eq!(events(&mut machine, &frame(kind::DATA, 0, 3, b"late")), [""; 0]);
    assert_eq!(events(&mut machine, &get(3)), [""; 0]);
    assert_eq!(sent(&mut machine), []);
}

#[test]
fn a_farewell_takes_requests_until_it_is_confirmed() {
    let mut machine = machine();
    events(&mut machine, &hello());
    machine.finish();
    let ping = *taken(machine.out()).last_chunk::<8>().expect("it ends with a PING");
    assert_eq!(events(&mut machine, &get(1)), ["0 GET / true"]);
    assert_eq!(events(&mut machine, &frame(kind::PING, flag::ACK, 0, &ping)), [""; 0]);
    assert_eq!(events(&mut machine, &get(3)), [""; 0]);
    assert!(!machine.is_over());
    respond(&mut machine, 0, Then::End);
    assert!(machine.is_over());
}

#[test]
fn a_block_of_fields_costs_a_bounded_amount() {
    let calm = [Reason::ENHANCE_YOUR_CALM.to_string()];
    let begun = || {
        let mut machine = machine();
        events(&mut machine, &hello());
        events(&mut machine, &frame(kind::HEADERS, 0, 1, GET));
        machine
    };
    // Frames without fields; a literal without an end; fields that are not kept.
    for piece in [&b""[..], b"x", b"\x82\x82\x82"] {
        let mut machine = begun();
        if piece == b"x" {
            events(&mut machine, &frame(kind::CONTINUATION, 0, 1, b"\x00\x7f\xff\xff\x7f"));
        }
        let more = frame(kind::CONTINUATION, 0, 1, piece);
        let count = (0..200).take_while(|_| events(&mut machine, &more).is_empty()).count();
        assert!(count < 130, "{piece:?}: {count} frames");
        assert_eq!(events(&mut begun(), &more.repeat(200)), calm, "{piece:?}");
    }
}

#[test]
fn completed_requests_make_up_for_resets() {
    let mut machine = machine();
    events(&mut machine, &hello());
    for n in 0..10_000 {
        assert_eq!(events(&mut machine, &get(4 * n + 1)).len(), 1);
        respond(&mut machine, 0, Then::End);
        let reset = frame(kind::RST_STREAM, 0, 4 * n + 3, &8_u32.to_be_bytes());
        assert_eq!(events(&mut machine, &[get(4 * n + 3), reset].concat()).len(), 2);
        taken(machine.out());
    }
}

/// A window is returned when half of it has been consumed: here with the last of these frames, if
/// all of them count.
#[test]
fn data_that_no_request_reads_returns_to_the_window_of_the_connection() {
    const SIZE: usize = 16 * 1024;
    let full = |stream, flags| frame(kind::DATA, flags, stream, &vec![0; SIZE]);
    // Content-Length: 1 (RFC 7541, 6.2.2).
    let declared = [GET, b"\x0f\x0d\x01", b"1"].concat();
    let declared = frame(kind::HEADERS, flag::END_HEADERS, 1, &declared);
    let padded = frame(kind::DATA, flag::PADDED, 1, &[&[255], &[0; SIZE - 1][..]].concat());
    let plain = full(1, 0);
    let ignore: fn(&mut Machine) = |_| {};
    let answer: fn(&mut Machine) = |machine| respond(machine, 0, Then::End);
    for (name, head, then, first) in [
        ("padding", post(1), ignore, &padded),
        ("a body that is not read", post(1), |machine| machine.abandon_request(0), &plain),
        ("a stream that was reset", post(1), |machine| machine.reset(0, Reason::CANCEL), &plain),
        ("a closed stream", get(1), answer, &plain),
        ("after the end", get(1), ignore, &plain),
        ("more than declared", declared, ignore, &plain),
    ] {
        let mut machine = machine();
        events(&mut machine, &[hello(), head].concat());
        then(&mut machine);
        events(&mut machine, first);
        events(&mut machine, &[post(3), full(3, 0).repeat(30)].concat());
        let updates = |machine: &mut Machine| {
            sent(machine).iter().filter(|sent| **sent == (kind::WINDOW_UPDATE, 0, 0)).count()
        };
        assert_eq!(updates(&mut machine), 0, "{name}");
        events(&mut machine, &full(3, 0));
        assert_eq!(updates(&mut machine), 1, "{name}");
    }
}

/// A client that obeys `max_streams` may send DATA and trailers on each of its streams before it
/// learns of their resets.
#[test]
fn late_frames_of_all_open_streams_are_ignored_after_their_resets() {
    for max_streams in [1, 127, 128, 129, 1000] {
        let mut machine = Machine::new(Limits { max_streams, ..LIMITS });
        events(&mut machine, &hello());
        // The cycle runs twice.
        for round in 0..2 {
            let ids: Vec<u32> =
                (0..max_streams).map(|n| 2 * (n + round * max_streams) + 1).collect();
            for id in &ids {
                assert_eq!(events(&mut machine, &post(*id)).len(), 1, "{max_streams}, {id}");
            }
            (0..max_streams as usize).for_each(|key| machine.reset(key, Reason::CANCEL));
            taken(machine.out());
            for id in ids {
                let trailers = frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, id, b"");
                let late = [frame(kind::DATA, 0, id, b"late"), trailers].concat();
                assert_eq!(events(&mut machine, &late), [""; 0], "{max_streams}, {id}");
            }
            assert_eq!(sent(&mut machine), [], "{max_streams}");
        }
    }
}

#[test]
fn late_frames_of_refused_streams_are_ignored() {
    let mut machine = machine();
    events(&mut machine, &hello());
    let count = 1000;
    (0..count).for_each(|n| drop(events(&mut machine, &post(2 * n + 1))));
    taken(machine.out());
    for n in LIMITS.max_streams..count {
        let id = 2 * n + 1;
        let trailers = frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, id, b"");
        let late = [frame(kind::DATA, 0, id, b"late"), trailers].concat();
        assert_eq!(events(&mut machine, &late), [""; 0], "{id}");
    }
    assert_eq!(sent(&mut machine), []);
}

/// Unread uploads fill the first windows of their streams: half of the connection's window.
#[test]
fn unread_uploads_leave_half_of_the_window_of_the_connection() {
    let mut machine = machine();
    events(&mut machine, &[hello(), frame(kind::SETTINGS, flag::ACK, 0, b"")].concat());
    let first = LIMITS.connection_window / 2 / LIMITS.max_streams;
    let ids: Vec<u32> = (0..LIMITS.max_streams).map(|n| 2 * n + 1).collect();
    let data = |id, count: u32| -> Vec<u8> {
        let sizes = (0..count).step_by(16_384).map(|at| (count - at).min(16_384));
        sizes.flat_map(|size| frame(kind::DATA, 0, id, &vec![0; size as usize])).collect()
    };
    ids.iter().for_each(|id| machine.input(&[post(*id), data(*id, first)].concat()));
    let mut received = 0;
    while let Some(event) = machine.next_event().expect("the connection's window is wider") {
        if let Event::Data { range, .. } = event {
            received += range.len() as u32;
        }
    }
    assert_eq!(received, first * LIMITS.max_streams);
    for id in ids {
        machine.input(&data(id, 1));
        let event = machine.next_event();
        let is_reset =
            matches!(event, Ok(Some(Event::Reset { reason: Reason::FLOW_CONTROL_ERROR, .. })));
        assert!(is_reset, "{event:?}");
    }
}

/// Bytes that were consumed before the client knew of a smaller window may be half of that.
#[test]
fn an_upload_that_began_before_the_settings_were_known_continues() {
    for (count, consumed) in [(65_535, 65_535), (65_535, 30_000), (30_000, 30_000), (50_000, 0)] {
        let mut machine = Machine::new(Limits { stream_window: 10_000, ..LIMITS });
        taken(machine.out());
        let data = |count| frame(kind::DATA, 0, 1, &vec![0; count]);
        let sizes = (0..count).step_by(15_000).map(|at| data((count - at).min(15_000)));
        events(&mut machine, &[hello(), post(1)].concat());
        machine.input(&sizes.collect::<Vec<_>>().concat());
        while machine.next_event().expect("it is within the window").is_some() {}
        machine.consume_stream(0, consumed);
        events(&mut machine, &frame(kind::SETTINGS, flag::ACK, 0, b""));
        machine.consume_stream(0, count - consumed);
        let mut window = 10_000 - count as i64;
        let mut output = &taken(machine.out())[..];
        while let Some((head, rest)) = output.split_first_chunk::<HEAD>() {
            let head = FrameHead::parse(head);
            let (payload, rest) = rest.split_at(head.length);
            if (head.kind, head.stream) == (kind::WINDOW_UPDATE, 1) {
                let increment = payload.try_into().expect("four bytes");
                window += i64::from(u32::from_be_bytes(increment));
            }
            output = rest;
        }
        assert!((5_000..=10_000).contains(&window), "{window} after {count}, {consumed}");
        // An empty frame needs no window.
        let end = events(&mut machine, &frame(kind::DATA, flag::END_STREAM, 1, b""));
        assert_eq!(end.len(), 1, "{end:?}");
    }
}

#[test]
fn an_idle_connection_remembers_the_streams_that_it_has_reset() {
    let mut machine = machine();
    events(&mut machine, &[hello(), post(1)].concat());
    machine.reset(0, Reason::CANCEL);
    machine.free_memory();
    sent(&mut machine);
    let trailers = frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, b"");
    let late = [frame(kind::DATA, 0, 1, b"late"), trailers].concat();
    assert_eq!(events(&mut machine, &late), [""; 0]);
    assert_eq!(sent(&mut machine), []);
}

#[test]
fn an_idle_connection_keeps_its_table_its_windows_and_its_numbers() {
    let mut machine = machine();
    let window = frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 10]);
    let ask = |id, field: &[u8]| {
        let fields = [GET, field].concat();
        frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, id, &fields)
    };
    // A field that enters the table: RFC 7541, 6.2.1.
    let first = ask(5, b"\x40\x01a\x01b");
    assert_eq!(events(&mut machine, &[hello(), window, first].concat()).len(), 1);
    respond(&mut machine, 0, Then::End);
    for id in [7, 9] {
        // The beginning of a request has arrived.
        let next = ask(id, b"\xbe");
        assert_eq!(events(&mut machine, &next[..11]), [""; 0]);
        machine.free_memory();
        assert_eq!(events(&mut machine, &next[11..]), ["0 GET / true"]);
        assert_eq!(machine.data_room(0), 10);
        respond(&mut machine, 0, Then::End);
    }
    machine.free_memory();
    assert_eq!(events(&mut machine, &get(5)), [Reason::PROTOCOL_ERROR.to_string()]);
}

#[test]
fn a_long_head_is_sent_in_continuations() {
    let mut machine = machine();
    events(&mut machine, &[hello(), get(1)].concat());
    taken(machine.out());
    let mut headers = http::HeaderMap::new();
    headers.insert("a", http::HeaderValue::try_from("x".repeat(40_000)).expect("it is ASCII"));
    machine.send_head(0, &ResponseHead::new(http::StatusCode::OK, &headers), Then::End);
    let frames = sent(&mut machine);
    assert_eq!(
        frames,
        [
            (kind::HEADERS, flag::END_STREAM, 1),
            (kind::CONTINUATION, 0, 1),
            (kind::CONTINUATION, flag::END_HEADERS, 1)
        ]
    );
}

/// Frames that are often valid.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        Just(GET.to_vec()),
        Just(vec![0, 0, 0, 8]),
        Just(vec![0, 4, 0, 0, 0xff, 0xff]),
        prop::collection::vec(any::<u8>(), 0..20),
    ];
    (0_u8..11, any::<u8>(), 0_u32..12, payload)
        .prop_map(|(kind, flags, stream, payload)| frame(kind, flags, stream, &payload))
}

proptest! {
    #[test]
    fn random_frames_keep_the_bounds(frames in prop::collection::vec(any_frame(), 0..60)) {
        let mut machine = machine();
        events(&mut machine, &hello());
        for frame in frames {
            machine.input(&frame);
            loop {
                match machine.next_event() {
                    Ok(Some(Event::Request { key, .. } | Event::TooLarge { key })) => {
                        prop_assert!(key < 10 && machine.is_open(key));
                        if key % 2 == 0 {
                            respond(&mut machine, key, Then::End);
                        }
                    }
                    Ok(Some(Event::Data { key, range, .. })) => {
                        let count = machine.data(range).len();
                        machine.consume_stream(key, count);
                        machine.consume_connection(count);
                        let room = machine.data_room(key).min(3);
                        machine.send_data(key, Content::Bytes(vec![0; room].into()), Then::More);
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(error) => {
                        machine.fail(&error);
                        sent(&mut machine);
                        return Ok(());
                    }
                }
            }
        }
        sent(&mut machine);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut machine = machine();
        events(&mut machine, &hello());
        events(&mut machine, &bytes);
    }
}
