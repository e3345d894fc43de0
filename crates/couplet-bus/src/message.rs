//! A message, and its headers.
//!
//! Contract: 204.

use bytes::{BufMut, Bytes, BytesMut};

use crate::error::PublishError;
use crate::subject::check_subject;

/// The first line of a block of headers.
pub(crate) const HEADERS: &[u8] = b"NATS/1.0";

/// A message: its subject, its headers, a payload, and perhaps a subject for replies.
///
/// ```
/// use couplet::bus::Message;
///
/// let message = Message::new("rooms.lobby", "hello").header("From", "ada");
/// assert_eq!(message.subject(), "rooms.lobby");
/// assert_eq!(message.find_header("from"), Some("ada"));
/// assert_eq!(message.payload(), "hello");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    subject: String,
    reply: Option<String>,
    headers: Vec<(String, String)>,
    status: Option<u16>,
    payload: Bytes,
    is_numbered: bool,
}

impl Message {
    /// A message without headers.
    pub fn new(subject: impl Into<String>, payload: impl Into<Bytes>) -> Message {
        let (subject, payload) = (subject.into(), payload.into());
        Message {
            subject,
            reply: None,
            headers: Vec::new(),
            status: None,
            payload,
            is_numbered: false,
        }
    }

    /// Adds a header. Names may repeat.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Message {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the subject for replies. [`Bus::request`](crate::Bus::request) sets it to its own.
    #[must_use]
    pub fn reply_to(mut self, subject: impl Into<String>) -> Message {
        self.reply = Some(subject.into());
        self
    }

    /// Numbers the message in a header, among the numbered messages of its bus to its subject. Each
    /// subscription without a group counts those that it has missed, and reports them with the next
    /// one: [`Event::Missed`](crate::Event::Missed).
    #[must_use]
    pub fn numbered(mut self) -> Message {
        self.is_numbered = true;
        self
    }

    /// The subject.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The subject for replies.
    pub fn reply(&self) -> Option<&str> {
        self.reply.as_deref()
    }

    /// The payload.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// The value of the first header with this name; upper and lower case are the same.
    pub fn find_header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The names and values of the headers, in order.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The status of a message that a NATS server made, such as 503 if a request has no responders.
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    /// Removes the headers with this name; returns the value of the first.
    pub(crate) fn take_header(&mut self, name: &str) -> Option<String> {
        let mut taken = self.headers.extract_if(.., |(known, _)| known.eq_ignore_ascii_case(name));
        let first = taken.next().map(|(_, value)| value);
        taken.for_each(drop);
        first
    }

    pub(crate) fn is_numbered(&self) -> bool {
        self.is_numbered
    }

    pub(crate) fn with_status(mut self, status: u16) -> Message {
        self.status = Some(status);
        self
    }

    pub(crate) fn has_headers(&self) -> bool {
        self.status.is_some() || !self.headers.is_empty()
    }

    /// Checks the subjects and headers.
    pub(crate) fn check(&self) -> Result<(), PublishError> {
        check_subject(&self.subject)?;
        self.reply.as_deref().map_or(Ok(()), check_subject)?;
        for (name, value) in &self.headers {
            let bad_name = |c: char| c == ':' || c.is_whitespace() || c.is_control();
            let ends_line = |c: char| matches!(c, '\r' | '\n');
            if name.is_empty() || name.contains(bad_name) || value.contains(ends_line) {
                return Err(PublishError::Header(name.clone()));
            }
        }
        Ok(())
    }

    /// The bytes of headers and payload on a wire.
    pub(crate) fn size(&self) -> usize {
        self.header_size() + self.payload.len()
    }

    pub(crate) fn header_size(&self) -> usize {
        match self.has_headers() {
            true => {
                let line = |(name, value): &(String, String)| name.len() + value.len() + 4;
                HEADERS.len() + 4 + self.headers.iter().map(line).sum::<usize>()
            }
            false => 0,
        }
    }

    /// Appends the block of headers, which has [`header_size`](Self::header_size) bytes.
    pub(crate) fn put_headers(&self, to: &mut BytesMut) {
        to.put_slice(HEADERS);
        to.put_slice(b"\r\n");
        self.put_header_lines(to);
    }

    /// Appends the lines of the headers, and the empty line behind them.
    pub(crate) fn put_header_lines(&self, to: &mut BytesMut) {
        for (name, value) in &self.headers {
            for part in [name, ": ", value, "\r\n"] {
                to.put_slice(part.as_bytes());
            }
        }
        to.put_slice(b"\r\n");
    }

    /// Adds the headers of a block. Returns `None` if it is malformed.
    pub(crate) fn with_block(mut self, block: &[u8]) -> Option<Message> {
        let text = String::from_utf8_lossy(block);
        let mut lines = text.strip_suffix("\r\n\r\n")?.split("\r\n");
        let status = lines.next()?.strip_prefix("NATS/1.0")?.trim();
        if !status.is_empty() {
            self.status = Some(status.split(' ').next()?.parse().ok()?);
        }
        self.with_header_lines(lines)
    }

    /// Adds headers. Returns `None` if a line is malformed.
    pub(crate) fn with_header_lines<'a>(
        mut self,
        lines: impl Iterator<Item = &'a str>,
    ) -> Option<Message> {
        for line in lines {
            let (name, value) = line.split_once(':')?;
            self.headers.push((name.to_owned(), value.trim().to_owned()));
        }
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(of: &Message) -> Vec<u8> {
        let mut bytes = BytesMut::new();
        of.put_headers(&mut bytes);
        assert_eq!(bytes.len(), of.header_size());
        bytes.to_vec()
    }

    #[test]
    fn c204_headers_survive_the_wire() {
        let sent = Message::new("a", "x").header("One", "1").header("one", "").header("B", "x: y");
        let received = Message::new("a", "x").with_block(&block(&sent)).expect("it is valid");
        assert_eq!(received, sent);
        assert_eq!(received.find_header("ONE"), Some("1"));
    }

    #[test]
    fn c204_a_status_and_malformed_blocks() {
        let status = |block: &[u8]| Some(Message::new("a", "").with_block(block)?.status());
        assert_eq!(status(b"NATS/1.0 503\r\n\r\n"), Some(Some(503)));
        assert_eq!(status(b"NATS/1.0 100 Idle Heartbeat\r\na:b\r\n\r\n"), Some(Some(100)));
        assert_eq!(status(b"NATS/1.0\r\n\r\n"), Some(None));
        for bad in
            ["", "NATS/1.0", "NATS/1.0\r\n", "HTTP/1.1 200\r\n\r\n", "NATS/1.0\r\nab\r\n\r\n"]
        {
            assert_eq!(status(bad.as_bytes()), None, "{bad:?}");
        }
        assert_eq!(status(b"NATS/1.0 x\r\n\r\n"), None);
    }

    #[test]
    fn c204_bad_headers_are_not_published() {
        for (name, value) in [("", "a"), ("a b", "c"), ("a:", "b"), ("a", "b\r\nc"), ("\n", "")] {
            let error = Message::new("a", "").header(name, value).check().unwrap_err();
            assert_eq!(error, PublishError::Header(name.to_owned()));
        }
        assert!(Message::new("a", "").reply_to("b c").check().is_err());
        assert!(Message::new("a", "").reply_to("b").header("a", "b:c").check().is_ok());
    }
}
