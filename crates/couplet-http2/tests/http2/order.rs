//! Answers before, during and after the body of their request, among all other frames. The checker
//! reads both directions.

use couplet_http2::Options;
use proptest::prelude::*;

use crate::kit::*;
use crate::random::{Act, act, apply, options};
use couplet_testkit::checker::{Checker, Side};

/// The defaults of `Options::connection_window` and `Options::stream_window`.
const WINDOW: i64 = 4 << 20;
const STREAM_WINDOW: i64 = 256 << 10;

/// Runs a conversation, and returns its checker.
fn run(is_client: bool, options: Options, window: i64, acts: &[Act]) -> Checker {
    let (mut connection, side) = match is_client {
        true => (Connection::client(options), Side::Client),
        false => (Connection::server(options), Side::Server),
    };
    let mut checker = Checker::new(side, window, STREAM_WINDOW);
    let take = |connection: &mut Connection, checker: &mut Checker| {
        loop {
            let output = connection.take_output();
            checker.sent(&output);
            if output.is_empty() {
                break;
            }
        }
        assert!(checker.is_between_frames(), "half a frame");
    };
    let hello = if is_client { settings(&[]) } else { [PREFACE, &settings(&[])].concat() };
    for act in std::iter::once(&Act::Receive(hello)).chain(acts) {
        if let Act::Receive(bytes) = act {
            // The frames from before are on their way.
            take(&mut connection, &mut checker);
            checker.heard(bytes);
        }
        let survives = match act {
            Act::Take => {
                take(&mut connection, &mut checker);
                true
            }
            act => apply(&mut connection, act.clone()),
        };
        events(&mut connection);
        if !survives {
            break;
        }
    }
    take(&mut connection, &mut checker);
    checker
}

/// Answers to a request of stream 1, by the moment at which they end.
fn answers() -> Vec<Vec<Act>> {
    let data = |flags, length| Act::Receive(frame(DATA, flags, 1, vec![b'u'; length]));
    let bodies: [&[Act]; 5] = [
        &[Act::Respond(1, 204, true)],
        &[Act::Respond(1, 200, false), Act::Send(1, 0, true)],
        &[Act::Respond(1, 200, false), Act::Send(1, 13, true)],
        &[Act::Respond(1, 103, false), Act::Respond(1, 200, false), Act::Send(1, 90_000, true)],
        &[Act::Respond(1, 200, false), Act::Send(1, 20_000, false), Act::Trailers(1)],
    ];
    let mut answers = Vec::new();
    for body in bodies {
        let (first, last) = body.split_at(body.len() / 2);
        let post = [Act::Receive(post(1))];
        let piece = [data(0, 9000)];
        let late = [data(0, 100), Act::Release(1, 9100), data(END_STREAM, 3)];
        answers.push([&post, body, &late].concat());
        answers.push([&post, body, &[Act::Reset(1)], &late].concat());
        answers.push([&post, &piece[..], first, last, &late].concat());
        answers.push([&post, &piece[..], first, &late, last].concat());
        answers.push([&post, &piece[..], &late, body].concat());
        answers.push([&[Act::Receive(get(1))], body].concat());
    }
    answers
}

#[test]
fn each_frame_may_come_at_each_moment_of_an_answer() {
    let heard = |bytes: Vec<u8>| vec![Act::Receive(bytes)];
    let others = [
        Vec::new(),
        heard(frame(RST_STREAM, 0, 1, [0, 0, 0, 8])),
        vec![Act::Reset(1)],
        heard(window_update(1, 1)),
        heard(window_update(1, i32::MAX as u32)),
        heard(window_update(1, 0)),
        heard(window_update(0, 100)),
        heard(window_update(0, 0)),
        heard(settings(&[(4, 0)])),
        heard([settings(&[(4, 10)]), settings(&[(4, 20_000)])].concat()),
        heard(frame(SETTINGS, ACK, 0, [])),
        heard(frame(PING, 0, 0, [1; 8])),
        heard(frame(GOAWAY, 0, 0, [0; 8])),
        vec![Act::Drain],
        vec![Act::Take],
        heard(frame(HEADERS, WHOLE, 1, [])),
        [heard(post(3)), vec![Act::Respond(3, 200, false), Act::Send(3, 70_000, true)]].concat(),
        [heard(post(3)), heard(frame(DATA, 0, 3, [0; 16_384])), vec![Act::Release(3, 1 << 20)]]
            .concat(),
    ];
    for answer in answers() {
        for other in &others {
            for at in 0..=answer.len() {
                let (before, after) = answer.split_at(at);
                let acts = [before, other, after].concat();
                let ran = std::panic::catch_unwind(|| {
                    run(false, Options::default(), WINDOW, &acts);
                });
                assert!(ran.is_ok(), "{acts:?}");
            }
        }
    }
}

#[test]
fn an_answer_is_whole_before_during_and_after_its_request() {
    for acts in answers() {
        let open = [window_update(1, 1 << 20), window_update(0, 1 << 20)].concat();
        let begun = [&acts[..1], &[Act::Receive(open)], &acts[1..]].concat();
        let checker = run(false, Options::default(), WINDOW, &begun);
        let length =
            acts.iter().map(|act| if let Act::Send(1, count, _) = act { *count } else { 0 });
        let length: usize = length.sum();
        assert!(
            checker.has_ended(1) || acts.iter().any(|act| matches!(act, Act::Reset(_))),
            "{acts:?}"
        );
        assert_eq!(checker.body(1), vec![1; length], "{acts:?}");
    }
}

/// An action that often has an effect: on few streams, in few sizes.
fn likely_act() -> impl Strategy<Value = Act> {
    let id = || prop::sample::select(&[1_u32, 3, 5][..]);
    let size = || prop::sample::select(&[0_usize, 13, 5000, 16_384, 40_000][..]);
    let heard = || {
        prop_oneof![
            1 => id().prop_map(get),
            4 => id().prop_map(post),
            4 => id().prop_map(|id| response(id, END_HEADERS, &OK)),
            4 => (id(), any::<bool>()).prop_map(|(id, ends)| frame(DATA, ends.into(), id, [0; 9000])),
            1 => id().prop_map(|id| frame(HEADERS, WHOLE, id, [])),
            1 => id().prop_map(|id| frame(RST_STREAM, 0, id, [0, 0, 0, 8])),
            1 => (id(), 1_u32..40_000).prop_map(|(id, by)| window_update(id, by)),
            2 => (1_u32..100_000).prop_map(|by| window_update(0, by)),
            1 => (0_u32..100_000).prop_map(|size| settings(&[(4, size)])),
            1 => Just(frame(SETTINGS, ACK, 0, [])),
            1 => Just(frame(PING, 0, 0, [1; 8])),
        ]
    };
    prop_oneof![
        8 => heard().prop_map(Act::Receive),
        4 => (id(), any::<bool>()).prop_map(|(id, ends)| Act::Respond(id, 200, ends)),
        2 => any::<bool>().prop_map(Act::Ask),
        4 => (id(), size(), any::<bool>()).prop_map(|(id, n, ends)| Act::Send(id, n, ends)),
        1 => id().prop_map(Act::Trailers),
        1 => id().prop_map(Act::Reset),
        3 => (id(), size()).prop_map(|(id, n)| Act::Release(id, n)),
        1 => Just(Act::Take),
        1 => act(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn frames_are_in_order_in_random_conversations(
        is_client: bool,
        acts in prop::collection::vec(likely_act(), 1..80),
    ) {
        run(is_client, options(), 65_535, &acts);
    }
}
