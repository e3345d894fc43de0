//! Random frames and random fields.

use couplet_http2::{Code, Copied, Event, Options, RequestLine};
use proptest::prelude::*;

use crate::kit::*;

/// A frame of any kind, often a valid one.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let stream = prop_oneof![8 => (0_u32..12).prop_map(|n| 2 * n + 1), 1 => 0_u32..30];
    let payload = prop_oneof![
        3 => Just(block(&GET)),
        3 => Just(block(&OK)),
        1 => Just(block(&[(":status", "100")])),
        1 => Just(block(&POST)),
        1 => Just(with(&[("content-length", "5")])),
        1 => Just(vec![0, 4, 0, 0, 0, 9]),
        1 => (0_u32..40_000).prop_map(|n| n.to_be_bytes().to_vec()),
        1 => Just(vec![0; 8]),
        2 => prop::collection::vec(any::<u8>(), 0..60),
        1 => (0_usize..17_000).prop_map(|length| vec![b'x'; length]),
    ];
    let flags = prop_oneof![Just(0), Just(1), Just(4), Just(5), Just(0xc), any::<u8>()];
    (0_u8..12, flags, stream, payload)
        .prop_map(|(kind, flags, stream, payload)| frame(kind, flags, stream, payload))
}

/// An action of the user.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Receive(Vec<u8>),
    Respond(u32, u16, bool),
    Ask(bool),
    Send(u32, usize, bool),
    Trailers(u32),
    Reset(u32),
    Release(u32, usize),
    Take,
    Drain,
}

pub(crate) fn act() -> impl Strategy<Value = Act> {
    let stream = || (0_u32..12).prop_map(|n| 2 * n + 1);
    prop_oneof![
        12 => any_frame().prop_map(Act::Receive),
        3 => (stream(), 90_u16..600, any::<bool>()).prop_map(|(s, status, e)| Act::Respond(s, status, e)),
        3 => any::<bool>().prop_map(Act::Ask),
        3 => (stream(), 0_usize..100_000, any::<bool>()).prop_map(|(s, n, e)| Act::Send(s, n, e)),
        1 => stream().prop_map(Act::Trailers),
        1 => stream().prop_map(Act::Reset),
        2 => (stream(), 0_usize..20_000).prop_map(|(s, n)| Act::Release(s, n)),
        3 => Just(Act::Take),
        1 => Just(Act::Drain),
    ]
}

/// The limits under test, small enough to be reached.
pub(crate) fn options() -> Options {
    Options::default().max_streams(5).connection_window(65_535).max_control(200).max_output(5000)
}

/// Applies an action. Returns whether the connection survives.
pub(crate) fn apply(connection: &mut Connection, act: Act) -> bool {
    match act {
        Act::Receive(bytes) => return connection.receive(&bytes).is_ok(),
        Act::Respond(stream, status, ends) => {
            let _ = connection.respond(stream, status, [("a", "b")], ends);
        }
        Act::Ask(ends) => {
            let _ = connection.request(&RequestLine::get("a", "/"), NO_FIELDS, ends);
        }
        Act::Send(stream, count, ends) => {
            let _ = connection.send(stream, Copied(&vec![1; count]), ends);
        }
        Act::Trailers(stream) => {
            let _ = connection.trailers(stream, [("a", "b")]);
        }
        Act::Reset(stream) => connection.reset(stream, Code::CANCEL),
        Act::Release(stream, count) => connection.release(stream, count),
        Act::Take => {
            connection.take_output();
        }
        Act::Drain => connection.drain(),
    }
    true
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Nothing panics, output is whole frames, and held bytes stay within the limits.
    #[test]
    fn random_conversations_stay_within_their_limits(
        is_client: bool,
        acts in prop::collection::vec(act(), 1..60),
    ) {
        let mut connection = if is_client { client(options()) } else { server(options()) };
        let mut held = 0_usize;
        for act in acts {
            if let Act::Release(_, count) = &act {
                held = held.saturating_sub(*count);
            }
            let survives = apply(&mut connection, act);
            prop_assert!(connection.open_streams() <= 5);
            for event in events(&mut connection) {
                if let Event::Data { bytes, .. } = event {
                    prop_assert!(!bytes.is_empty());
                    held += bytes.len();
                }
            }
            prop_assert!(held <= 65_535, "{held} bytes are held");
            if !survives {
                break;
            }
        }
        for _ in 0..50 {
            frames(&connection.take_output());
        }
    }

    /// Random bytes behind the beginning never panic.
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut connection = server(options());
        let _ = connection.receive(&bytes);
        for mut connection in [
            client(options()),
            Connection::server(options()),
            Connection::client(options()),
        ] {
            let _ = connection.receive(&bytes);
        }
    }

    /// Data is neither lost, nor reordered, nor beyond a window.
    #[test]
    fn bodies_arrive_as_the_windows_allow(
        pieces in prop::collection::vec((0_usize..3, 0_usize..40_000), 1..10),
        updates in prop::collection::vec((0_u32..4, 1_u32..60_000), 0..20),
    ) {
        let mut connection = server(Options::default().max_output(30_000));
        let mut expected = [const { Vec::new() }; 3];
        let mut output = Vec::new();
        for stream in [1, 3, 5] {
            fine(&mut connection, &get(stream));
            connection.respond(stream, 200, NO_FIELDS, false).expect("it is open");
        }
        for (n, (which, length)) in pieces.into_iter().enumerate() {
            let bytes = vec![n as u8; length];
            expected[which].extend_from_slice(&bytes);
            connection.send(2 * which as u32 + 1, bytes, false).expect("it is open");
        }
        let mut windows = [65_535_i64; 4];
        let mut collect = |connection: &mut Connection, windows: &mut [i64; 4]| {
            loop {
                let bytes = connection.take_output();
                if bytes.is_empty() {
                    break;
                }
                for frame in frames(&bytes).into_iter().filter(|frame| frame.kind == DATA) {
                    for window in [0, (frame.stream as usize).div_ceil(2)] {
                        windows[window] -= frame.payload.len() as i64;
                        assert!(windows[window] >= 0);
                    }
                    output.push(frame);
                }
            }
        };
        collect(&mut connection, &mut windows);
        for (which, by) in updates {
            let stream = (2 * which).saturating_sub(1);
            fine(&mut connection, &window_update(stream, by));
            windows[which as usize] += i64::from(by);
            collect(&mut connection, &mut windows);
        }
        fine(&mut connection, &window_update(0, 1 << 24));
        windows[0] += 1 << 24;
        for (which, stream) in [(1, 1), (2, 3), (3, 5)] {
            connection.send(stream, "", true).expect("it is open");
            fine(&mut connection, &window_update(stream, 1 << 24));
            windows[which] += 1 << 24;
        }
        collect(&mut connection, &mut windows);
        for (which, stream) in [(0, 1), (1, 3), (2, 5)] {
            prop_assert_eq!(&body(&output, stream), &expected[which]);
        }
        prop_assert_eq!(connection.open_streams(), 0);
    }

    /// Our decoder reads the answers of our encoder unchanged. One of two connections
    /// reads the answers of the other as requests.
    #[test]
    fn fields_survive(
        heads in prop::collection::vec(
            prop::collection::vec(("[a-z][a-z0-9-]{0,12}", "[!-~]([ -~]{0,40}[!-~])?"), 0..8),
            1..12,
        ),
    ) {
        let (mut one, mut other) = (server(Options::default()), server(Options::default()));
        for (n, fields) in heads.into_iter().enumerate() {
            let stream = 2 * n as u32 + 1;
            let known = ["host", "te", "content-length", "connection", "upgrade", "keep-alive"];
            let fields: Vec<_> = fields.into_iter().filter(|it| !known.contains(&&*it.0)).collect();
            fine(&mut one, &get(stream));
            let sent_fields = fields.iter().map(|(name, value)| (name, value));
            one.respond(stream, 200, sent_fields, true).expect("it is open");
            let sent = sent(&mut one).pop().expect("a head");
            // The status, an index, is replaced by a request's pseudo-headers.
            prop_assert_eq!(sent.payload.first(), Some(&0x88));
            let block = [&block(&GET)[..], &sent.payload[1..]].concat();
            let seen = fine(&mut other, &frame(HEADERS, WHOLE, stream, block));
            let [Event::Request { head, .. }] = &seen[..] else { panic!("{seen:?}") };
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let decoded: Vec<_> =
                head.fields().map(|(name, value)| (text(name), text(value))).collect();
            prop_assert_eq!(decoded, fields);
        }
    }
}
