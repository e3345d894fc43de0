//! The server of `poetry transform`: netstrings `NAME.POEM` in, netstrings with the
//! transformed poems out, in order.
//!
//! Contract: 71.

use std::rc::Rc;
use std::time::Duration;

use couplet::protocols::{NetstringReceiver, StringProtocol, StringTransport, encode_netstring};
use couplet::transport::Timeout;
use couplet::{Reason, Transport};

use crate::heap_trim::HeapTrim;
use crate::marks::MARKS;
use crate::transformations::{GROWTH, answer};

/// The factory: a request may have `max_length` bytes, and up to `idle_timeout` may pass before its
/// next piece or the next request arrives.
pub fn factory(
    max_length: usize,
    idle_timeout: Option<Duration>,
) -> impl Fn() -> NetstringReceiver<TransformServer> + Clone {
    let server = TransformServer::new(max_length, idle_timeout);
    move || NetstringReceiver::new(server.clone()).with_max_length(max_length)
}

/// Write capacity besides one answer, for the output that precedes it: the high mark, and the answers
/// to one read.
const WRITE_ROOM: usize = 1024 * 1024;

/// Most bytes of a netstring besides its string.
const FRAME: usize = 22;

/// Answers one client.
#[derive(Clone, Debug)]
pub struct TransformServer {
    max_length: usize,
    idle_timeout: Option<Duration>,
    heap: Rc<HeapTrim>,
    has_answered: bool,
    /// Reading pauses once all requests of this read are answered.
    will_pause: bool,
}

impl TransformServer {
    fn new(max_length: usize, idle_timeout: Option<Duration>) -> TransformServer {
        let heap = Rc::default();
        let (has_answered, will_pause) = (false, false);
        TransformServer { max_length, idle_timeout, heap, has_answered, will_pause }
    }

    /// Pauses reading until output has left. Called after the last request of a read; pausing
    /// earlier would copy the rest.
    fn pause_reading(&mut self, transport: &StringTransport) {
        self.will_pause = false;
        transport.pause_producing();
        // The freed request and earlier answers are holes in the heap.
        self.heap.pause(transport.reactor());
        let (paused, heap) = (Transport::clone(transport), self.heap.clone());
        let resume = move |_| {
            heap.resume();
            paused.resume_producing();
            Ok(())
        };
        transport.writable().add_both(resume).detach();
    }
}

impl StringProtocol for TransformServer {
    fn connection_made(&mut self, transport: &StringTransport) {
        // Law 9: the most bytes buffered for a client that does not read.
        let answer = self.max_length.saturating_mul(GROWTH);
        transport.set_write_cap(Some(answer.saturating_add(WRITE_ROOM)));
        // Reading resumes once an answer has left, so that its rest and the next one are not both
        // buffered.
        transport.set_write_marks(0, MARKS.1);
        // Bounds how long a client that announces a long request and sends little of it occupies
        // memory.
        transport.set_timeout(Timeout::Idle, self.idle_timeout);
        // While output is queued, reading pauses, and unread bytes may hide the end of the client's
        // stream.
        transport.set_timeout(Timeout::HalfClose, self.idle_timeout);
    }

    fn string_received(&mut self, transport: &StringTransport, request: &[u8]) {
        let poem = match answer(request) {
            Ok(poem) => poem,
            Err(bad) => return transport.fail(bad),
        };
        // One write: a comma after a long poem would be queued in a separate buffer.
        let mut frame = Vec::with_capacity(poem.len() + FRAME);
        encode_netstring(poem.as_bytes(), &mut frame);
        transport.write(frame);
        self.has_answered = true;
        if transport.is_draining() {
            transport.lose_connection();
        } else if transport.is_full() && !std::mem::replace(&mut self.will_pause, true) {
            transport.connection::<Self>().tell(Self::pause_reading);
        }
    }

    /// The first request of a new client is awaited.
    fn draining(&mut self, transport: &StringTransport) {
        if self.has_answered {
            transport.lose_connection();
        }
    }

    fn connection_lost(&mut self, transport: &StringTransport, reason: &Reason) {
        if let Reason::Failed(failure) = reason {
            tracing::info!(peer = %transport.peer(), "lost a client: {failure}");
        }
    }

    /// Called after every request has been answered. A slow reader is not disconnected, as long as it
    /// takes something within the idle timeout.
    fn read_closed(&mut self, transport: &StringTransport) {
        transport.set_timeout(Timeout::Idle, None);
        transport.set_timeout(Timeout::Close, self.idle_timeout);
        transport.lose_write_connection();
    }
}

#[cfg(test)]
mod tests {
    use couplet::testing::{Held, hold};

    use super::*;
    use crate::held::read_late;

    const IDLE: Duration = Duration::from_secs(300);
    const NEARLY: Duration = Duration::from_secs(299);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_incomplete_request_is_cut_after_the_idle_timeout() {
        for little in [&b""[..], b"99", b"99999:", b"99999:upper.x", b"7:upper.x,"] {
            let mut held = hold(factory(99_999, Some(IDLE))());
            held.push(little);
            held.wire.take();
            held.advance(NEARLY);
            assert!(!held.wire.saw_reset(), "{little:?}");
            held.advance(SECOND);
            assert!(held.wire.saw_reset(), "{little:?}");
        }
        let mut held = hold(factory(99_999, None)());
        held.push(b"99999:");
        held.advance(IDLE * 1000);
        assert!(!held.wire.saw_reset(), "without a timeout it waits forever");
    }

    #[test]
    fn each_piece_of_a_request_begins_the_idle_timeout_anew() {
        let mut held = hold(factory(99_999, Some(IDLE))());
        for piece in [&b"7"[..], b":", b"upper", b".", b"x", b","] {
            held.push(piece);
            held.advance(NEARLY);
        }
        assert_eq!(held.wire.take(), b"1:X,");
        assert!(!held.wire.saw_reset());
    }

    /// A client that sends `before` 100 ms before a drain begins, and `after` 500 ms after that. The
    /// bytes that it gets, whether its stream ends in order, and when, in milliseconds.
    fn drained(before: &'static str, after: &'static str) -> (Vec<u8>, bool, u128) {
        let ended = couplet::testing::run(move |reactor| {
            let port = reactor.listen("tcp:8000", factory(99_999, Some(IDLE)));
            let inner = reactor.clone();
            reactor.spawn(async move {
                let mut stream = inner.connect_stream("tcp:127.0.0.1:8000").await?;
                stream.write_all(before).await?;
                inner.sleep(SECOND / 10).await?;
                let (begun, draining) = (inner.now(), port?.drain(IDLE));
                if !after.is_empty() {
                    inner.sleep(SECOND / 2).await?;
                    stream.write_all(after).await?;
                }
                let mut got = Vec::new();
                let in_order = stream.read_to_end(&mut got, 1000).await.is_ok();
                let took = inner.now() - begun;
                drop(stream);
                draining.await?;
                Ok((got, in_order, took.as_millis()))
            })
        });
        ended.expect("it ends")
    }

    #[test]
    fn a_drain_answers_the_first_request_of_a_client_unless_it_is_idle() {
        let answer = b"1:X,".to_vec();
        for (before, after, expected) in [
            ("7:upper.x,", "", (answer.clone(), true, 0)),
            ("7:upper.x,7:upp", "", (answer.clone(), true, 0)),
            ("", "7:upper.x,", (answer.clone(), true, 500)),
            ("7:upp", "er.x,", (answer, true, 500)),
            // The idle timeout, or the end of the drain.
            ("", "", (Vec::new(), false, 299_900)),
            ("7:upp", "", (Vec::new(), false, 299_900)),
            ("7:up", "per", (Vec::new(), true, 300_000)),
        ] {
            let got = drained(before, after);
            assert_eq!(got, expected, "{before:?}, then {after:?}");
        }
    }

    #[test]
    fn a_client_that_asks_often_and_reads_late_is_paused_and_not_cut() {
        // The answers before a pause are many times as long as the longest.
        let mut held = hold(factory(7, None)());
        let requests = "7:upper.x,".repeat(50_000);
        let (mut rest, mut got, mut pauses) = (requests.as_bytes(), 0, 0);
        while !rest.is_empty() {
            let taken = held.wire.push(rest);
            rest = &rest[taken..];
            held.settle();
            if taken == 0 {
                let more = held.wire.take().len();
                assert!(more > 0 && !held.wire.saw_reset(), "cut off after {got} bytes");
                (got, pauses) = (got + more, pauses + 1);
                held.settle();
            }
        }
        held.wire.fin();
        assert_eq!(got + read_late(&mut held), 50_000 * "1:X,".len());
        assert!(pauses > 0);
    }

    fn push_all<P: couplet::Protocol>(held: &mut Held<P>, request: &str) {
        let mut rest = request.as_bytes();
        while !rest.is_empty() {
            rest = &rest[held.wire.push(rest)..];
            held.settle();
        }
    }

    #[test]
    fn a_client_counts_as_paused_until_its_answer_has_left_or_it_is_lost() {
        for is_lost in [false, true] {
            let server = TransformServer::new(99_999, Some(IDLE));
            let heap = server.heap.clone();
            let mut held = hold(NetstringReceiver::new(server));
            let request = format!("90006:upper.{},", "x".repeat(90_000));
            push_all(&mut held, &request);
            assert_eq!(heap.paused(), 1);
            if is_lost {
                held.wire.reset();
                held.settle();
            }
            while !is_lost && !held.wire.take().is_empty() {
                held.settle();
            }
            assert_eq!(heap.paused(), 0, "is it lost: {is_lost}");
        }
    }

    #[test]
    fn without_a_timeout_a_client_that_has_finished_and_reads_late_is_not_cut() {
        for length in [10_000, 80_000, 100_000, 130_000, 500_000] {
            let mut held = hold(factory(1_000_000, None)());
            let request = format!("{}:upper.{},", length + 6, "x".repeat(length));
            push_all(&mut held, &request);
            held.wire.fin();
            assert_eq!(read_late(&mut held), format!("{length}:,").len() + length);
        }
    }

    #[test]
    fn a_client_that_has_finished_has_the_idle_timeout_for_each_piece() {
        for (pause, is_cut) in [(NEARLY, false), (IDLE + SECOND, true)] {
            let mut held = hold(factory(1_000_000, Some(IDLE))());
            let request = format!("{}:upper.{},", 500_006, "x".repeat(500_000));
            push_all(&mut held, &request);
            held.wire.fin();
            held.settle();
            while !held.wire.saw_fin() && !held.wire.saw_reset() {
                held.advance(pause);
                held.wire.take();
            }
            assert_eq!(held.wire.saw_reset(), is_cut, "{pause:?}");
        }
    }
}
