//! Responses before, during and after the body of their request, among all other frames. A checker
//! that shares no code with the [`Machine`] reads both directions.

use std::collections::BTreeMap;

use bytes::Bytes;
use couplet_testkit::checker::{Checker, Side};
use http::{HeaderMap, StatusCode};
use proptest::prelude::*;

use super::frame::{Chunk, Then};
use super::machine::{Event, Machine, ResponseHead};
use super::streams::Key;
use super::tests::LIMITS;
use crate::body::Content;
use crate::http2::Reason;

const STREAMS: [u32; 3] = [1, 3, 5];

/// One step of either side. The streams are numbers, and a step that its sender could not take is
/// left out.
#[derive(Clone, Copy, Debug)]
enum Step {
    // The client's.
    Get(u32),
    Post(u32),
    Data(u32, usize),
    /// DATA with END_STREAM.
    End(u32),
    Trailers(u32),
    Rst(u32),
    StreamWindow(u32, u32),
    Window(u32),
    Initial(u32),
    Acknowledge,
    Ping,
    GoAway,
    // The server's.
    Head(u32, Then),
    Send(u32, usize, Then),
    SendTrailers(u32),
    Reset(u32),
    /// The service drops the body.
    Abandon(u32),
    Read(u32),
    Continue(u32),
    Finish,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Response {
    Awaited,
    Begun,
    Ended,
}

/// A stream as the session and the client see it.
struct Exchange {
    /// `None` once the stream is closed.
    key: Option<Key>,
    response: Response,
    request_ended: bool,
    unread: usize,
    sent: Vec<u8>,
}

struct Conversation {
    machine: Machine,
    checker: Checker,
    exchanges: BTreeMap<u32, Exchange>,
    has_failed: bool,
}

impl Conversation {
    fn new() -> Conversation {
        let mut conversation = Conversation {
            machine: Machine::new(LIMITS),
            checker: Checker::new(
                Side::Server,
                LIMITS.connection_window.into(),
                LIMITS.stream_window.into(),
            ),
            exchanges: BTreeMap::new(),
            has_failed: false,
        };
        let hello = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(4, 0, 0, b"")[..]].concat();
        conversation.hear(0, &hello);
        conversation
    }

    /// Checks the frames that were sent.
    fn collect(&mut self) {
        let mut sent = Vec::new();
        self.machine.out().drain(|chunk| match chunk {
            Chunk::Bytes(bytes) => sent.extend_from_slice(bytes),
            Chunk::Payload(Content::Bytes(bytes)) => sent.extend_from_slice(&bytes),
            Chunk::Payload(Content::File(_)) => unreachable!("there are no files"),
        });
        self.checker.sent(&sent);
        assert!(self.checker.is_between_frames(), "half a frame");
    }

    fn hear(&mut self, stream: u32, bytes: &[u8]) {
        self.checker.heard(bytes);
        self.machine.input(bytes);
        loop {
            match self.machine.next_event() {
                Ok(Some(Event::Request { key, then, .. })) => {
                    let request_ended = then == Then::End;
                    let (response, unread, sent) = (Response::Awaited, 0, Vec::new());
                    let exchange =
                        Exchange { key: Some(key), response, request_ended, unread, sent };
                    self.exchanges.insert(stream, exchange);
                }
                Ok(Some(Event::Data { range, .. })) => {
                    let exchange = self.exchanges.get_mut(&stream).expect("it is open");
                    exchange.unread += range.len();
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => {
                    self.machine.fail(&error);
                    self.has_failed = true;
                    break;
                }
            }
        }
        self.collect();
        self.drop_closed();
    }

    /// Returns the bytes of closed streams to the window of the connection, as the session does.
    fn drop_closed(&mut self) {
        let machine = &mut self.machine;
        for exchange in self.exchanges.values_mut() {
            if exchange.key.is_some_and(|key| !machine.is_open(key)) {
                exchange.key = None;
                machine.consume_connection(std::mem::take(&mut exchange.unread));
            }
        }
        self.collect();
    }

    fn take(&mut self, step: Step) {
        let mut numbers = STREAMS.iter().chain(&[7]);
        match step {
            Step::Get(id) | Step::Post(id) => {
                // A client's numbers grow.
                if numbers.any(|other| *other >= id && self.exchanges.contains_key(other)) {
                    return;
                }
                let flags = if matches!(step, Step::Get(_)) { 5 } else { 4 };
                self.hear(id, &frame(1, flags, id, &[0x82, 0x86, 0x84]));
            }
            Step::Data(id, length) => self.hear_open(id, 0, 0, &vec![b'u'; length]),
            Step::End(id) => self.hear_open(id, 0, 1, b"end"),
            Step::Trailers(id) => self.hear_open(id, 1, 5, b""),
            Step::Rst(id) if self.exchanges.contains_key(&id) => {
                self.hear(id, &frame(3, 0, id, &[0, 0, 0, 8]));
            }
            Step::StreamWindow(id, by) if self.exchanges.contains_key(&id) => {
                self.hear(id, &frame(8, 0, id, &by.to_be_bytes()));
            }
            Step::Window(by) => self.hear(0, &frame(8, 0, 0, &by.to_be_bytes())),
            Step::Initial(size) => {
                let entry = [&[0, 4], &size.to_be_bytes()[..]].concat();
                self.hear(0, &frame(4, 0, 0, &entry));
            }
            Step::Acknowledge => self.hear(0, &frame(4, 1, 0, b"")),
            Step::Ping => self.hear(0, &frame(6, 0, 0, b"12345678")),
            Step::GoAway => self.hear(0, &frame(7, 0, 0, &[0; 8])),
            Step::Rst(_) | Step::StreamWindow(..) => {}
            Step::Finish => self.machine.finish(),
            Step::Head(id, _)
            | Step::Send(id, ..)
            | Step::SendTrailers(id)
            | Step::Reset(id)
            | Step::Abandon(id)
            | Step::Read(id)
            | Step::Continue(id) => self.serve(id, step),
        }
        self.collect();
        self.drop_closed();
    }

    /// A client's frame on a stream whose request has not ended, as far as it knows.
    fn hear_open(&mut self, id: u32, kind: u8, flags: u8, payload: &[u8]) {
        if let Some(exchange) = self.exchanges.get_mut(&id)
            && !exchange.request_ended
        {
            exchange.request_ended |= flags & 1 != 0;
            self.hear(id, &frame(kind, flags, id, payload));
        }
    }

    fn serve(&mut self, id: u32, step: Step) {
        let Conversation { machine, exchanges, .. } = self;
        let Some(exchange) = exchanges.get_mut(&id) else { return };
        let Exchange { key, response, unread, sent, .. } = exchange;
        let Some(key) = *key else { return };
        match step {
            Step::Head(_, then) if *response == Response::Awaited => {
                let headers = HeaderMap::new();
                machine.send_head(key, &ResponseHead::new(StatusCode::OK, &headers), then);
                *response = if then == Then::End { Response::Ended } else { Response::Begun };
            }
            Step::Send(_, length, then) if *response == Response::Begun => {
                let count = length.min(machine.data_room(key));
                let begin = sent.len();
                sent.extend((begin..begin + count).map(|at| (at % 251) as u8));
                let data = Content::Bytes(Bytes::copy_from_slice(&sent[begin..]));
                machine.send_data(key, data, then);
                if then == Then::End {
                    *response = Response::Ended;
                }
            }
            Step::SendTrailers(_) if *response == Response::Begun => {
                machine.send_trailers(key, &HeaderMap::new());
                *response = Response::Ended;
            }
            Step::Reset(_) => machine.reset(key, Reason::INTERNAL_ERROR),
            Step::Abandon(_) => {
                machine.consume_connection(std::mem::take(unread));
                machine.abandon_request(key);
            }
            Step::Read(_) => {
                let count = std::mem::take(unread);
                machine.consume_connection(count);
                machine.consume_stream(key, count);
            }
            Step::Continue(_) if *response == Response::Awaited => machine.send_continue(key),
            _ => {}
        }
    }

    fn run(steps: impl IntoIterator<Item = Step>) {
        let mut conversation = Conversation::new();
        for step in steps {
            conversation.take(step);
            if conversation.has_failed {
                break;
            }
        }
        for (id, exchange) in &conversation.exchanges {
            assert_eq!(conversation.checker.body(*id), exchange.sent, "stream {id}");
        }
    }
}

/// Responses to a request of stream 1, by the moment at which they end.
fn answers() -> Vec<Vec<Step>> {
    use Step::*;
    let bodies: [&[Step]; 6] = [
        &[Head(1, Then::End)],
        &[Head(1, Then::More), Send(1, 0, Then::End)],
        &[Head(1, Then::More), Send(1, 13, Then::End)],
        &[Head(1, Then::More), Send(1, 5000, Then::More), Send(1, 9000, Then::End)],
        &[Head(1, Then::More), Send(1, 16_384, Then::End)],
        &[Head(1, Then::More), Send(1, 13, Then::More), SendTrailers(1)],
    ];
    let mut answers = Vec::new();
    for body in bodies {
        let (first, last) = body.split_at(body.len() / 2);
        for drops in [&[][..], &[Abandon(1)]] {
            let late = [Data(1, 100), Read(1), End(1)];
            // Before the body, during it, and after it.
            answers.push([&[Post(1)], drops, body, &late].concat());
            answers.push([&[Post(1)], body, drops, &late].concat());
            answers.push([&[Post(1)], &[Data(1, 9000)][..], first, drops, last, &late].concat());
            answers.push([&[Post(1), Continue(1), Data(1, 9000)], first, &late, last].concat());
            answers.push([&[Post(1)], &late[..], drops, body].concat());
        }
        answers.push([&[Get(1)], body].concat());
    }
    answers
}

#[test]
fn each_frame_may_come_at_each_moment_of_a_response() {
    use Step::*;
    let others: &[&[Step]] = &[
        &[],
        &[Rst(1)],
        &[Reset(1)],
        &[StreamWindow(1, 1)],
        &[StreamWindow(1, i32::MAX as u32)],
        &[StreamWindow(1, 0)],
        &[Window(100)],
        &[Window(0)],
        &[Initial(0)],
        &[Initial(10), Initial(20_000)],
        &[Acknowledge],
        &[Ping],
        &[GoAway],
        &[Finish],
        &[Finish, GoAway],
        &[Trailers(1)],
        &[Post(3), Head(3, Then::More), Send(3, 6000, Then::End), Abandon(3)],
        &[Post(3), Data(3, 16_384), Data(3, 16_384), Data(3, 16_384), Read(3)],
    ];
    for answer in answers() {
        for other in others {
            for at in 0..=answer.len() {
                let (before, after) = answer.split_at(at);
                let steps = [before, other, after].concat();
                let ran = std::panic::catch_unwind(|| Conversation::run(steps.clone()));
                assert!(ran.is_ok(), "{steps:?}");
            }
        }
    }
}

fn any_step() -> impl Strategy<Value = Step> {
    let stream = || prop::sample::select(&STREAMS[..]);
    let then = || prop_oneof![3 => Just(Then::More), 1 => Just(Then::End)];
    prop_oneof![
        stream().prop_map(Step::Get),
        stream().prop_map(Step::Post),
        (stream(), 0_usize..16_385).prop_map(|(id, n)| Step::Data(id, n)),
        stream().prop_map(Step::End),
        stream().prop_map(Step::Trailers),
        stream().prop_map(Step::Rst),
        (stream(), 0_u32..50_000).prop_map(|(id, by)| Step::StreamWindow(id, by)),
        (0_u32..50_000).prop_map(Step::Window),
        (0_u32..100_000).prop_map(Step::Initial),
        Just(Step::Acknowledge),
        Just(Step::Ping),
        Just(Step::GoAway),
        (stream(), then()).prop_map(|(id, then)| Step::Head(id, then)),
        (stream(), 0_usize..16_385, then()).prop_map(|(id, n, then)| Step::Send(id, n, then)),
        stream().prop_map(Step::SendTrailers),
        stream().prop_map(Step::Reset),
        stream().prop_map(Step::Abandon),
        stream().prop_map(Step::Read),
        stream().prop_map(Step::Continue),
        Just(Step::Finish),
    ]
}

proptest! {
    #[test]
    fn frames_are_in_order_in_random_conversations(
        steps in prop::collection::vec(any_step(), 1..80),
    ) {
        Conversation::run(steps);
    }
}
