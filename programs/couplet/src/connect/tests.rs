//! A session in memory, whose stdin is the test.

use std::any::{Any, TypeId};
use std::sync::mpsc::Receiver;

use couplet::ProtocolExtension;
use couplet::testing::{Held, hold};

use super::*;

/// A session with this stdin.
struct Piped(Session, Option<Stdin>);

impl Protocol for Piped {
    fn connection_made(&mut self, transport: &Transport) {
        self.0.stdin = self.1.take();
        self.0.request_input(transport);
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.0.data_received(transport, data);
    }

    fn read_closed(&mut self, transport: &Transport) {
        self.0.read_closed(transport);
    }

    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        self.0.connection_lost(transport, reason);
    }

    fn extension(&mut self) -> Option<&mut dyn ProtocolExtension> {
        Some(self)
    }
}

impl ProtocolExtension for Piped {
    fn find(&mut self, wanted: TypeId) -> Option<&mut dyn Any> {
        (wanted == TypeId::of::<Session>()).then_some(&mut self.0 as &mut dyn Any)
    }
}

struct Scene {
    held: Held<Piped>,
    asked: Receiver<()>,
    end: End,
}

impl Scene {
    fn new(is_terminal: bool) -> Scene {
        let (stdin, asked) = Stdin::new(is_terminal);
        let end = End::default();
        let session = Session {
            stdin: None,
            stdout: Some(Stdout::new().0),
            unprinted: 0,
            peer: PeerStream::Open,
            answer: Answer::Unasked,
            timeout: None,
            end: end.clone(),
        };
        Scene { held: hold(Piped(session, Some(stdin))), asked, end }
    }

    /// Stdin has this for the session, which must have requested it.
    fn read(&mut self, read: Read) {
        self.asked.try_recv().expect("a piece is requested");
        self.held.with(|piped, transport| piped.0.handle_input(transport, read));
        self.held.settle();
    }

    fn type_word(&mut self) {
        self.read(Read::Bytes(Bytes::from_static(b"word")));
        assert_eq!(self.held.wire.take(), b"word");
    }
}

const MOMENT: Duration = Duration::from_millis(1);

#[test]
fn after_the_servers_end_each_silence_of_stdin_has_a_second() {
    let mut scene = Scene::new(false);
    scene.type_word();
    scene.held.advance(SILENCE * 3);
    scene.held.wire.fin();
    for _ in 0..5 {
        scene.held.advance(SILENCE - MOMENT);
        assert!(!scene.held.wire.saw_fin());
        scene.type_word();
    }
    scene.held.advance(SILENCE - MOMENT);
    assert!(!scene.held.wire.saw_fin());
    scene.held.advance(MOMENT);
    assert!(scene.held.wire.saw_fin());
}

#[test]
fn after_the_servers_end_the_end_of_stdin_closes_and_so_does_a_terminal() {
    let mut scene = Scene::new(false);
    scene.held.wire.fin();
    scene.held.settle();
    scene.type_word();
    assert!(!scene.held.wire.saw_fin());
    scene.read(Read::End);
    assert!(scene.held.wire.saw_fin());
    let mut scene = Scene::new(true);
    scene.type_word();
    scene.held.wire.fin();
    scene.held.settle();
    assert!(scene.held.wire.saw_fin());
}

#[test]
fn only_a_close_before_the_first_answer_is_a_failure() {
    for is_answered in [false, true] {
        let mut scene = Scene::new(false);
        scene.type_word();
        if is_answered {
            scene.held.push(b"answer");
        }
        // Another request.
        scene.type_word();
        scene.held.wire.fin();
        scene.held.settle();
        scene.read(Read::End);
        let end = scene.end.take();
        let is_expected = match is_answered {
            false => matches!(end, Some(Outcome::Unanswered)),
            true => matches!(end, Some(Outcome::Lost(Reason::Done(_)))),
        };
        assert!(is_expected, "answered: {is_answered}");
    }
}
