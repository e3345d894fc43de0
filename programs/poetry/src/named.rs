//! `poetry serve --by-name`: a client requests poems by title, one per line.
//!
//! The answer to a title is `poem BYTES TITLE` followed by that many bytes, or `error TEXT`; the
//! answer to an empty line or `?` is `titles N` and N lines. Requests may be pipelined; reading
//! pauses while an answer is in progress or the client does not read.
//!
//! Contract: 71.

use std::rc::Rc;
use std::time::Duration;

use couplet::protocols::{FramingError, LineProtocol, LineReceiver, LineTransport};
use couplet::transport::Timeout;
use couplet::{Reason, Transport};

use crate::catalogue::{Catalogue, Reply, header};
use crate::marks::{self, MARKS};
use crate::recital::{Next, Pace, Recital};

/// Longest line in bytes, without its end.
pub const MAX_LINE: usize = 1024;

/// The factory: each connection may request any poem of `catalogue`, and may be silent for
/// `idle_timeout` while no answer is in progress.
pub fn factory(
    catalogue: Catalogue,
    pace: Pace,
    idle_timeout: Option<Duration>,
) -> impl Fn() -> LineReceiver<NamedServer> + Clone {
    let catalogue = Rc::new(catalogue);
    move || {
        let catalogue = catalogue.clone();
        let server = NamedServer {
            catalogue,
            pace,
            idle_timeout,
            recital: None,
            has_answered: false,
            unfinished_line: Vec::new(),
        };
        LineReceiver::new(server).with_delimiter(b"\n").with_max_length(MAX_LINE)
    }
}

/// Law 9: the most bytes buffered for a client that does not read. Reading pauses long before, at
/// the high watermark plus one piece of a recital.
const WRITE_CAP: usize = 1024 * 1024;

/// Answers one client, line by line.
#[derive(Debug)]
pub struct NamedServer {
    catalogue: Rc<Catalogue>,
    pace: Pace,
    idle_timeout: Option<Duration>,
    /// The answer in progress; reading is paused until its end.
    recital: Option<Recital>,
    has_answered: bool,
    /// A line of exactly the maximum length, and a CR after it.
    unfinished_line: Vec<u8>,
}

impl NamedServer {
    fn answer(&mut self, transport: &Transport, line: &[u8]) {
        let catalogue = self.catalogue.clone();
        self.has_answered = true;
        let recital = match catalogue.reply(line) {
            Reply::Poem(poem) => {
                tracing::info!(peer = %transport.peer(), title = %poem.name, "a client requested a poem");
                transport.write(header(poem));
                Recital::new(poem.text.clone(), self.pace)
            }
            Reply::Titles(titles) => Recital::new(titles.clone(), Pace::FULL_SPEED),
            Reply::Error(text) => Recital::new(text.into(), Pace::FULL_SPEED),
        };
        self.recital = Some(recital);
        self.send_more(transport);
    }

    fn send_more(&mut self, transport: &Transport) {
        let Some(recital) = &mut self.recital else { return };
        let me = transport.connection::<Self>();
        match recital.send_more(transport) {
            Next::Drained => {
                transport.pause_producing();
                // Drained or lost; for a lost connection the call does nothing.
                let send_more = move |_| {
                    me.tell(Self::send_more);
                    Ok(())
                };
                transport.writable().add_both(send_more).detach();
            }
            Next::Later(delay) => {
                transport.pause_producing();
                me.call_later(delay, Self::begin_part);
            }
            Next::Over => {
                self.recital = None;
                if transport.is_draining() {
                    return transport.lose_connection();
                }
                transport.resume_producing();
            }
        }
    }

    fn begin_part(&mut self, transport: &Transport) {
        if let Some(recital) = &mut self.recital {
            recital.begin_part();
        }
        self.send_more(transport);
    }
}

impl LineProtocol for NamedServer {
    fn connection_made(&mut self, transport: &LineTransport) {
        transport.set_write_cap(Some(WRITE_CAP));
        transport.set_write_marks(MARKS.0, MARKS.1);
        transport.set_timeout(Timeout::Idle, self.idle_timeout);
        marks::be_patient(transport);
    }

    fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
        self.answer(transport, line.strip_suffix(b"\r").unwrap_or(line));
    }

    fn line_length_exceeded(&mut self, transport: &LineTransport, beginning: &[u8]) {
        match beginning.strip_suffix(b"\r") {
            Some(line) => {
                // The line is too long unless LF comes next.
                self.unfinished_line = line.to_vec();
                transport.set_raw_mode();
            }
            None => transport.fail(FramingError::LineTooLong { limit: MAX_LINE }),
        }
    }

    fn raw_data_received(&mut self, transport: &LineTransport, data: &[u8]) {
        match data.split_first() {
            Some((b'\n', rest)) => {
                transport.set_line_mode(rest);
                let line = std::mem::take(&mut self.unfinished_line);
                self.answer(transport, &line);
            }
            _ => transport.fail(FramingError::LineTooLong { limit: MAX_LINE }),
        }
    }

    fn connection_lost(&mut self, transport: &LineTransport, reason: &Reason) {
        if let Reason::Failed(failure) = reason {
            tracing::info!(peer = %transport.peer(), "lost a client: {failure}");
        }
    }

    /// Completes an answer in progress. A new client gets its first answer.
    fn draining(&mut self, transport: &LineTransport) {
        if self.recital.is_none() && self.has_answered {
            transport.lose_connection();
        }
    }

    /// Called after every request has been answered. A slow reader is not disconnected: the output
    /// may take any time to leave.
    fn read_closed(&mut self, transport: &LineTransport) {
        transport.set_timeout(Timeout::Idle, None);
        transport.lose_write_connection();
    }
}

#[cfg(test)]
mod tests {
    use couplet::testing::{every_split, hold};
    use proptest::prelude::*;

    use super::*;
    use crate::held::read_late;
    use crate::poems::Poem;

    fn poem(name: &str, text: &str) -> Poem {
        let text = text.to_owned().into();
        Poem { name: name.to_owned(), title: name.to_owned(), text }
    }

    const IDLE: Duration = Duration::from_secs(300);

    fn server(poems: Vec<Poem>, pace: Pace) -> LineReceiver<NamedServer> {
        factory(Catalogue::new(poems).unwrap(), pace, Some(IDLE))()
    }

    fn served(pace: Pace, bytes: &[&[u8]]) -> Vec<u8> {
        let poems = vec![poem("a", "Alas!"), poem("b", ""), poem("big", &"x".repeat(200_000))];
        let mut held = hold(server(poems, pace));
        let mut out = Vec::new();
        for piece in bytes {
            held.push(piece);
            out.extend(held.wire.take());
        }
        held.wire.fin();
        held.settle();
        for _ in 0..1000 {
            out.extend(held.wire.take());
            if held.wire.saw_fin() {
                return out;
            }
            held.advance(pace.delay);
        }
        panic!("the end never comes");
    }

    const REQUESTS: &[u8] = b"a\r\n\nb\nc\r\r\nA\n?\r\na";
    const ANSWERS: &str = "poem 5 a\r\nAlas!titles 3\r\na\r\nb\r\nbig\r\npoem 0 b\r\n\
        error there is no poem \"c\\r\"; an empty line gets the titles\r\n\
        poem 5 a\r\nAlas!titles 3\r\na\r\nb\r\nbig\r\n";

    #[test]
    fn answers_are_the_same_however_requests_are_cut_and_poems_are_given() {
        let slow = Pace { num_bytes: 2, delay: Duration::from_secs(3600) };
        for pace in [Pace::FULL_SPEED, slow] {
            every_split(REQUESTS, |pieces| {
                assert_eq!(String::from_utf8(served(pace, pieces)).unwrap(), ANSWERS);
            });
        }
    }

    #[test]
    fn a_client_without_a_request_is_cut_after_the_idle_timeout() {
        for little in [&b""[..], b"a", b"a line without an end", b"a\n", b"c\n\n"] {
            let mut held = hold(server(vec![poem("a", "Alas!")], Pace::FULL_SPEED));
            held.push(little);
            held.wire.take();
            held.advance(IDLE - Duration::from_secs(1));
            assert!(!held.wire.saw_reset(), "{little:?}");
            held.advance(Duration::from_secs(1));
            assert!(held.wire.saw_reset(), "{little:?}");
        }
    }

    #[test]
    fn a_client_that_gets_a_poem_slowly_is_not_idle() {
        let pace = Pace { num_bytes: 1, delay: IDLE * 2 };
        let mut held = hold(server(vec![poem("a", "Alas!")], pace));
        held.push(b"a\n");
        let mut got = held.wire.take();
        for _ in 0..4 {
            held.advance(pace.delay);
            got.extend(held.wire.take());
        }
        assert_eq!(got, b"poem 5 a\r\nAlas!");
        held.push(b"a\n");
        assert!(held.wire.take().starts_with(b"poem 5"), "and may ask again");
    }

    #[test]
    fn a_drain_ends_with_the_answer_that_it_began_in() {
        let pace = Pace { num_bytes: 1, delay: Duration::from_secs(1) };
        let serving = factory(Catalogue::new(vec![poem("a", "Alas!")]).unwrap(), pace, Some(IDLE));
        let drained = couplet::testing::run(move |reactor| {
            let (port, inner) = (reactor.listen("tcp:8000", serving), reactor.clone());
            reactor.spawn(async move {
                let mut stream = inner.connect_stream("tcp:127.0.0.1:8000").await?;
                stream.write_all("a\n").await?;
                inner.sleep(Duration::from_millis(1500)).await?;
                let (begun, draining) = (inner.now(), port?.drain(Duration::from_secs(60)));
                let mut got = Vec::new();
                stream.read_to_end(&mut got, 1000).await?;
                drop(stream);
                assert_eq!(got, b"poem 5 a\r\nAlas!");
                assert_eq!(draining.await?.finished, 1);
                Ok(inner.now() - begun)
            })
        });
        let took = drained.expect("it ends in order");
        assert!(took < Duration::from_secs(5), "{took:?}");
    }

    #[test]
    fn a_client_that_has_finished_and_reads_late_is_not_cut() {
        for length in [10_000, 80_000, 100_000, 130_000, 500_000] {
            let poems = vec![poem("a", &"x".repeat(length))];
            let mut held = hold(server(poems, Pace::FULL_SPEED));
            held.push(b"a\n");
            held.wire.fin();
            assert_eq!(read_late(&mut held), length + format!("poem {length} a\r\n").len());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 50, failure_persistence: None, ..<_>::default() })]

        #[test]
        fn big_and_small_answers_come_in_order(asked in prop::collection::vec(0..3_usize, 0..20)) {
            let known = ["a\n", "big\r\n", "c\n"];
            let error = "error there is no poem \"c\"; an empty line gets the titles\r\n";
            let big = format!("poem 200000 big\r\n{}", "x".repeat(200_000));
            let answers = ["poem 5 a\r\nAlas!", &big, error];
            let requests: String = asked.iter().map(|n| known[*n]).collect();
            let expected: String = asked.iter().map(|n| answers[*n]).collect();
            prop_assert!(served(Pace::FULL_SPEED, &[requests.as_bytes()]) == expected.as_bytes());
        }
    }
}
