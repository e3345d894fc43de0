//! The envelope of messages that are more than a payload: they have headers, a subject for replies,
//! or a sender that wants no echo.
//!
//! ```text
//! COUPLET/1 <sender or -> <subject for replies or ->
//! <name>: <value>            for each header; the lines end with CR LF
//!                            an empty line, then the payload
//! ```
//!
//! Contract: 215.

use bytes::{BufMut, Bytes, BytesMut};

use crate::message::Message;
use crate::subject::{MAX_SUBJECT, check_subject};

const START: &[u8] = b"COUPLET/1 ";
/// The bytes of an envelope besides the headers: its first line and the empty one.
pub(super) const MAX_ENVELOPE: usize = MAX_SUBJECT + 128;

/// The bytes to publish: the payload, in an envelope if it needs one.
pub(super) fn wrap(message: &Message, sender: Option<&str>) -> Bytes {
    let payload = message.payload();
    let is_plain = sender.is_none() && message.reply().is_none() && !message.has_headers();
    if is_plain && !payload.starts_with(START) {
        return payload.clone();
    }
    let mut bytes = BytesMut::with_capacity(MAX_ENVELOPE + message.size());
    bytes.put_slice(START);
    let (sender, reply) = (sender.unwrap_or("-"), message.reply().unwrap_or("-"));
    bytes.put_slice(format!("{sender} {reply}\r\n").as_bytes());
    message.put_header_lines(&mut bytes);
    bytes.put_slice(payload);
    bytes.freeze()
}

/// The message, and its sender if it wants no echo. Bytes that are no envelope are a payload.
pub(super) fn unwrap(subject: &str, bytes: Bytes) -> (Message, Option<String>) {
    match open(subject, &bytes) {
        Some(opened) => opened,
        None => (Message::new(subject, bytes), None),
    }
}

fn open(subject: &str, bytes: &Bytes) -> Option<(Message, Option<String>)> {
    let rest = bytes.strip_prefix(START)?;
    let end = memchr::memmem::find(rest, b"\r\n\r\n")?;
    let (lines, payload) = (std::str::from_utf8(&rest[..end]).ok()?, &rest[end + 4..]);
    let (first, headers) = lines.split_once("\r\n").unwrap_or((lines, ""));
    let (sender, reply) = first.split_once(' ')?;
    let mut message = Message::new(subject, bytes.slice_ref(payload));
    if reply != "-" {
        check_subject(reply).ok()?;
        message = message.reply_to(reply);
    }
    if !headers.is_empty() {
        message = message.with_header_lines(headers.split("\r\n"))?;
    }
    Some((message, (sender != "-").then(|| sender.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c215_messages_survive_the_envelope_and_payloads_have_none() {
        let plain = Message::new("a", "hello\r\n\r\n");
        assert_eq!(wrap(&plain, None), "hello\r\n\r\n");
        let odd = Message::new("a", "COUPLET/1 - -\r\n\r\nhello");
        let full = Message::new("a", "\r\n\r\nx").header("One", "1").header("b", "x: y");
        for message in [plain, odd, full.clone(), full.reply_to("r.1"), Message::new("a", "")] {
            for sender in [None, Some("me")] {
                let opened = unwrap("a", wrap(&message, sender));
                assert_eq!(opened, (message.clone(), sender.map(str::to_owned)));
            }
        }
    }

    #[test]
    fn c215_bytes_that_are_no_envelope_are_a_payload() {
        for text in [
            "COUPLET/1 ",
            "COUPLET/1 - -",
            "COUPLET/1 -\r\n\r\n",
            "COUPLET/1 - a b\r\n\r\n",
            "COUPLET/1 - -\r\nno header\r\n\r\n",
            "COUPLET/2 - -\r\n\r\n",
        ] {
            assert_eq!(unwrap("a", text.into()), (Message::new("a", text), None), "{text:?}");
        }
    }
}
