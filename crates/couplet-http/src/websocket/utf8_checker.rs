//! [`Utf8Checker`]: detects invalid UTF-8 in a text before the end of its frame.

use std::io::Cursor;
use std::str::Utf8Error;

use tungstenite::protocol::Role;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::wire::MAX_HEAD;
use couplet_defer::bounded::{AtMost, Bounded};

/// Number of payload bytes unmasked at a time.
const PIECE: usize = 1024;

/// Follows the peer's frames alongside the state machine, which checks only the text of whole
/// frames, so that a slow or long text is refused at its first invalid byte. All other errors are
/// left to the state machine, so the result does not depend on how the bytes are split.
pub(super) struct Utf8Checker {
    /// Our role: a server's peer masks its frames.
    role: Role,
    /// Maximum length of a message, in bytes.
    max_length: u64,
    /// Length of the current message, including its current frame.
    length: u64,
    message: Message,
    /// The incomplete head of a frame.
    head: Bounded<Vec<u8>, AtMost<MAX_HEAD>>,
    frame: Frame,
    /// The first bytes of an incomplete character.
    partial_char: Bounded<Vec<u8>, AtMost<3>>,
}

/// The incomplete message, without the frame that is being received.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Message {
    None,
    Text,
    Binary,
    /// The frames are invalid; the state machine will report the error.
    Broken,
}

/// The frame whose payload is being received.
#[derive(Default)]
struct Frame {
    left: u64,
    /// The mask of a payload that is checked, rotated by the number of bytes received.
    mask: Option<[u8; 4]>,
}

impl Utf8Checker {
    pub(super) fn new(role: Role) -> Utf8Checker {
        Utf8Checker {
            role,
            max_length: u64::MAX,
            length: 0,
            message: Message::None,
            head: Bounded::default(),
            frame: Frame::default(),
            partial_char: Bounded::default(),
        }
    }

    /// Sets the maximum length of a message.
    pub(super) fn limit(&mut self, max_length: usize) {
        self.max_length = max_length as u64;
    }

    /// Whether only whole messages have arrived.
    pub(super) fn is_between_messages(&self) -> bool {
        self.head.is_empty() && self.frame.left == 0 && self.message == Message::None
    }

    /// Checks the next bytes from the peer.
    pub(super) fn check_bytes(&mut self, mut bytes: &[u8]) -> Result<(), Utf8Error> {
        while !bytes.is_empty() && self.message != Message::Broken {
            if self.frame.left == 0 {
                bytes = self.parse_head(bytes);
            }
            let n =
                usize::try_from(self.frame.left).map_or(bytes.len(), |left| left.min(bytes.len()));
            let (payload, after) = bytes.split_at(n);
            if let Some(mask) = self.frame.mask {
                self.check(payload, mask)?;
            }
            self.frame.left -= n as u64;
            bytes = after;
        }
        Ok(())
    }

    /// Consumes the head of a frame, or a part of it; returns the remaining bytes.
    fn parse_head<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let before = self.head.len();
        let joined;
        let head = if before == 0 {
            bytes
        } else {
            joined = [&self.head, &bytes[..bytes.len().min(MAX_HEAD)]].concat();
            &joined
        };
        let mut cursor = Cursor::new(head);
        match FrameHeader::parse(&mut cursor) {
            Ok(Some((header, length))) => {
                let rest = &bytes[cursor.position() as usize - before..];
                self.head.edit().clear();
                self.begin_frame(&header, length, rest.len());
                rest
            }
            Ok(None) => {
                self.head.edit().extend_from_slice(bytes);
                &[]
            }
            Err(_) => {
                self.message = Message::Broken;
                &[]
            }
        }
    }

    /// Begins a frame of this length; `there` bytes of its payload have arrived.
    fn begin_frame(&mut self, header: &FrameHeader, length: u64, there: usize) {
        self.frame = Frame { left: length, ..Frame::default() };
        let is_unexpected = match header.opcode {
            OpCode::Control(Control::Ping | Control::Pong) => return,
            // Nothing follows a Close.
            OpCode::Control(_) => return self.message = Message::Broken,
            OpCode::Data(Data::Continue) => self.message == Message::None,
            OpCode::Data(kind) => {
                let is_unexpected = self.message != Message::None;
                self.message = if kind == Data::Text { Message::Text } else { Message::Binary };
                self.partial_char.edit().clear();
                self.length = 0;
                is_unexpected
            }
        };
        self.length = self.length.saturating_add(length);
        let is_masked = header.mask.is_some();
        let is_broken = is_unexpected
            || is_masked != (self.role == Role::Server)
            || header.rsv1
            || header.rsv2
            || header.rsv3
            || self.length > self.max_length;
        // The state machine checks a message that has arrived whole.
        let is_first = header.opcode != OpCode::Data(Data::Continue);
        let is_whole = is_first && header.is_final && length <= there as u64;
        let is_checked = self.message == Message::Text && !is_whole && !is_broken;
        let mask = is_checked.then(|| header.mask.unwrap_or_default());
        self.frame = Frame { left: length, mask };
        if is_broken {
            self.message = Message::Broken;
        } else if header.is_final {
            self.message = Message::None;
        }
    }

    fn check(&mut self, payload: &[u8], mut mask: [u8; 4]) -> Result<(), Utf8Error> {
        let mut clear = Vec::with_capacity(self.partial_char.len() + payload.len().min(PIECE));
        for piece in payload.chunks(PIECE) {
            clear.clear();
            clear.append(&mut self.partial_char.edit());
            super::wire::masked(piece, mask, &mut clear);
            mask.rotate_left(piece.len() % 4);
            if let Err(error) = std::str::from_utf8(&clear) {
                if error.error_len().is_some() {
                    return Err(error);
                }
                self.partial_char.edit().extend_from_slice(&clear[error.valid_up_to()..]);
            }
        }
        self.frame.mask = Some(mask);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::wire::masked;
    use super::*;
    use couplet_core::testing::every_split;

    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    fn frame(kind: OpCode, is_final: bool, payload: &[u8]) -> Vec<u8> {
        let mask = Some(MASK);
        let header = FrameHeader { is_final, mask, opcode: kind, ..FrameHeader::default() };
        let mut frame = Vec::new();
        header.format(payload.len() as u64, &mut frame).expect("a vector takes everything");
        masked(payload, MASK, &mut frame);
        frame
    }

    /// Returns the number of bytes that were accepted before a piece was refused.
    fn refused(pieces: &[&[u8]]) -> Option<usize> {
        let mut utf8_checker = Utf8Checker::new(Role::Server);
        let mut taken = 0;
        for piece in pieces {
            if utf8_checker.check_bytes(piece).is_err() {
                return Some(taken);
            }
            taken += piece.len();
        }
        None
    }

    fn one_by_one(bytes: &[u8]) -> Option<usize> {
        refused(&bytes.chunks(1).collect::<Vec<_>>())
    }

    const TEXT: OpCode = OpCode::Data(Data::Text);
    const BINARY: OpCode = OpCode::Data(Data::Binary);
    const CONTINUE: OpCode = OpCode::Data(Data::Continue);
    const PING: OpCode = OpCode::Control(Control::Ping);

    #[test]
    fn texts_in_any_pieces_pass() {
        let conversation = [
            frame(TEXT, false, "κό".as_bytes()),
            frame(PING, true, b"\xff"),
            frame(CONTINUE, false, &"σμε".as_bytes()[..3]),
            frame(PING, true, b"in the middle of a character"),
            frame(CONTINUE, true, &"σμε".as_bytes()[3..]),
            frame(BINARY, false, b"\xff\xff"),
            frame(CONTINUE, true, b"\xff"),
            frame(TEXT, true, b""),
            frame(TEXT, true, "😀".repeat(40).as_bytes()),
        ];
        every_split(&conversation.concat(), |pieces| {
            assert_eq!(refused(pieces), None);
        });
    }

    #[test]
    fn the_first_wrong_byte_is_refused() {
        let text = [b"abc\xf4\x8f", &b"\x20 and more"[..]].concat();
        let head = 2 + 4;
        assert_eq!(one_by_one(&frame(TEXT, true, &text)), Some(head + 5));
        // Across frames.
        let first = frame(TEXT, false, &text[..5]);
        let second = frame(CONTINUE, true, &text[5..]);
        assert_eq!(one_by_one(&[&first[..], &second].concat()), Some(first.len() + head));
        // Beyond the first unmasked piece.
        let long = [&b"x".repeat(PIECE + 3)[..], b"\xff..."].concat();
        let at = 4 + 4 + PIECE + 3;
        assert_eq!(one_by_one(&frame(TEXT, true, &long)), Some(at));
        let frame = frame(TEXT, true, &long);
        assert_eq!(refused(&[&frame[..at], &frame[at..at + 1]]), Some(at));
    }

    #[test]
    fn each_message_may_be_as_long_as_the_limit() {
        let mut utf8_checker = Utf8Checker::new(Role::Server);
        utf8_checker.limit(10);
        let message = [frame(TEXT, false, b"12345"), frame(CONTINUE, true, b"67890")].concat();
        for _ in 0..3 {
            for byte in message.chunks(1) {
                assert!(utf8_checker.check_bytes(byte).is_ok());
            }
            assert!(utf8_checker.is_between_messages());
        }
        // The mask and the first byte of the payload.
        assert!(utf8_checker.check_bytes(&frame(TEXT, true, b"\xff...")[..7]).is_err());
    }

    #[test]
    fn other_faults_are_left_to_the_state_machine() {
        let masked = |kind, is_final| frame(kind, is_final, b"\xff...");
        let mut unmasked = Vec::new();
        let header = FrameHeader { opcode: TEXT, ..FrameHeader::default() };
        header.format(4, &mut unmasked).expect("a vector takes everything");
        unmasked.extend(b"\xff...");
        let mut reserved = masked(TEXT, true);
        reserved[0] |= 0x40;
        let close = OpCode::Control(Control::Close);
        for frames in [
            unmasked,
            reserved,
            masked(CONTINUE, true),
            [frame(TEXT, false, b"a"), masked(TEXT, true)].concat(),
            [frame(close, true, b""), masked(TEXT, true)].concat(),
        ] {
            assert_eq!(one_by_one(&frames), None, "{frames:x?}");
        }
        let mut utf8_checker = Utf8Checker::new(Role::Server);
        utf8_checker.limit(3);
        assert!(
            masked(TEXT, true).chunks(1).all(|byte| utf8_checker.check_bytes(byte).is_ok()),
            "it is too long"
        );
    }

    proptest! {
        /// The reference is the standard library's verdict on each prefix of the text.
        #[test]
        fn a_text_is_refused_at_its_first_invalid_byte(
            mut parts in prop::collection::vec(
                prop_oneof![
                    4 => "[a-zä☃😀]{0,9}".prop_map(String::into_bytes),
                    1 => prop::collection::vec(any::<u8>(), 0..4),
                ],
                1..6,
            ),
            cut in any::<prop::sample::Index>(),
        ) {
            let text = parts.concat();
            let cut = cut.index(text.len() + 1);
            parts = vec![text[..cut].to_vec(), text[cut..].to_vec()];
            let frames = [frame(TEXT, false, &parts[0]), frame(CONTINUE, true, &parts[1])];
            let wrong = (0..=text.len()).find(|&n| {
                std::str::from_utf8(&text[..n]).is_err_and(|error| error.error_len().is_some())
            });
            let head = 2 + 4;
            let at = wrong.map(|n| n - 1 + head + if n > cut { head } else { 0 });
            prop_assert_eq!(one_by_one(&frames.concat()), at);
        }
    }
}
