//! A custom framing keeps the guarantees of the built-in ones.

use couplet::protocols::{FrameBuffer, Framer, FramingError};
use couplet::testing::{every_split, hold};
use couplet::{Protocol, ProtocolExtension, Reason, Transport};

use super::{Event, Notes, events, lost, message};

/// Messages that end with a semicolon. The grammar only finds the semicolon; the framer enforces
/// the limit.
pub(super) struct Semicolons {
    notes: Notes,
    buffer: FrameBuffer,
}

impl Semicolons {
    pub(super) fn new(notes: Notes) -> Semicolons {
        Semicolons { notes, buffer: FrameBuffer::default() }
    }
}

impl Framer for Semicolons {
    type Transport = Transport;

    fn step(&mut self, transport: &Transport, bytes: &[u8]) -> Option<usize> {
        assert!((1..=self.limit()).contains(&bytes.len()));
        let length = bytes.iter().position(|byte| *byte == b';')?;
        self.notes.message(transport, &bytes[..length]);
        Some(length + 1)
    }

    fn buffer(&mut self) -> &mut FrameBuffer {
        &mut self.buffer
    }

    fn limit(&self) -> usize {
        6
    }
}

impl Protocol for Semicolons {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.frame(transport, data);
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        self.notes.note(lost(reason));
    }

    fn read_closed(&mut self, transport: &Transport) {
        self.notes.note(Event::ReadClosed);
        transport.lose_connection();
    }

    fn reading_resumed(&mut self, transport: &Transport) {
        self.notes.note(Event::Resumed);
        self.frame_held(transport);
    }

    fn extension(&mut self) -> Option<&mut dyn ProtocolExtension> {
        Some(self)
    }
}

impl ProtocolExtension for Semicolons {
    fn find(&mut self, wanted: std::any::TypeId) -> Option<&mut dyn std::any::Any> {
        if wanted == std::any::TypeId::of::<Notes>() {
            return Some(&mut self.notes);
        }
        couplet::protocols::StringProtocol::find(&mut self.notes, wanted)
    }
}

#[test]
fn a_message_at_the_limit_passes_and_a_longer_one_closes_however_it_is_cut() {
    let too_long = || lost(FramingError::MessageTooLong { limit: 6 });
    for (input, want) in [
        (&b"a;;12345;b"[..], vec![message("a"), message(""), message("12345")]),
        (b"a;123456;b;", vec![message("a"), too_long()]),
        (b"a;123456", vec![message("a"), too_long()]),
        (b"123456789012345678901234567890", vec![too_long()]),
    ] {
        every_split(input, |pieces| {
            let notes = Notes::default();
            let got = events(Semicolons::new(notes.clone()), &notes.log, pieces);
            assert_eq!(got, want, "{input:?} as {pieces:?}");
        });
    }
}

#[test]
fn a_framer_may_pause_on_an_incomplete_message() {
    /// Pauses on the first step, although the bytes have already reached the limit.
    #[derive(Default)]
    struct Waits(FrameBuffer, usize);

    impl Framer for Waits {
        type Transport = Transport;

        fn step(&mut self, transport: &Transport, bytes: &[u8]) -> Option<usize> {
            self.1 += 1;
            if self.1 == 1 {
                transport.pause_producing();
                return None;
            }
            transport.write(bytes);
            Some(bytes.len())
        }
        fn buffer(&mut self) -> &mut FrameBuffer {
            &mut self.0
        }
        fn limit(&self) -> usize {
            2
        }
    }

    impl Protocol for Waits {
        fn data_received(&mut self, transport: &Transport, data: &[u8]) {
            self.frame(transport, data);
        }
        fn reading_resumed(&mut self, transport: &Transport) {
            self.frame_held(transport);
        }
    }

    let mut held = hold(Waits::default());
    held.push(b"ab");
    held.with(|_, transport| transport.resume_producing());
    assert_eq!(held.wire.take(), b"ab");
}
