//! The protocol of a NATS server as a state machine without I/O: bytes in, operations out.
//! Source: the client protocol, <https://docs.nats.io/reference/reference-protocols/nats-protocol>.
//!
//! Contract: 204, 211.

use bytes::Bytes;
use couplet_defer::bounded::{AtMost, Bounded};

use super::info::Info;
use crate::message::Message;

/// Maximum length of a control line, without its end: a server's default.
const MAX_LINE: usize = 4096;
/// Maximum length of an INFO, which lists the servers of a cluster.
const MAX_INFO: usize = 64 * 1024;
/// No server accepts larger payloads.
const MAX_SIZE: u64 = 64 * 1024 * 1024;

/// An operation of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Op {
    /// Describes the server: first, and whenever its cluster changes.
    Info(Box<Info>),
    /// A message to a subscription.
    Message {
        /// The subscription's number.
        id: u64,
        /// The message.
        message: Message,
    },
    /// A message that was larger than the limit, and was skipped.
    Oversized {
        /// The subscription's number.
        id: u64,
        /// The bytes of its headers and payload.
        size: u64,
    },
    /// Asks for a PONG.
    Ping,
    /// Confirms everything up to a PING.
    Pong,
    /// Confirms an operation, in verbose mode.
    Ok,
    /// An error, which may be the last operation.
    Err(String),
}

/// A server's bytes are not the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// A control line is longer than 4096 bytes, or 65 536 for INFO.
    #[error("cannot read from the server: a control line is too long")]
    LineTooLong,
    /// A control line is not one of the protocol; its beginning.
    #[error("cannot read from the server: {0:?} is not an operation")]
    BadLine(String),
    /// A payload is declared larger than 64 MiB.
    #[error("cannot read from the server: a payload of {0} bytes is too large")]
    TooLarge(u64),
    /// The bytes behind a payload are not the end of a line.
    #[error("cannot read from the server: a payload is longer than declared")]
    BadEnd,
    /// The headers of a message are malformed.
    #[error("cannot read from the server: malformed headers")]
    BadHeaders,
    /// The JSON of an INFO is malformed.
    #[error("cannot read from the server: malformed INFO: {0}")]
    BadInfo(String),
}

/// Parses the operations of a server.
///
/// ```
/// use couplet::bus::nats::{Op, Parser};
///
/// let mut parser = Parser::new(1024);
/// let mut bytes: &[u8] = b"MSG rooms.lobby 7 5\r\nhello\r\nPING\r\n";
/// let Some(Op::Message { id: 7, message }) = parser.next(&mut bytes)? else { panic!() };
/// assert_eq!(message.payload(), "hello");
/// assert_eq!(parser.next(&mut bytes)?, Some(Op::Ping));
/// assert_eq!(parser.next(&mut bytes)?, None);
/// # Ok::<(), couplet::Failure>(())
/// ```
#[derive(Debug)]
pub struct Parser {
    max_payload: usize,
    state: ParserState,
}

#[derive(Debug)]
enum ParserState {
    /// The beginning of a control line.
    Line(Bounded<Vec<u8>, AtMost<{ MAX_INFO + 2 }>>),
    /// The beginning of a payload, and the end of its line.
    Payload(Head, Bounded<Vec<u8>>),
    /// Bytes to skip of a payload that is too large.
    Skip(Head, u64),
}

/// The control line of a message.
#[derive(Clone, Debug)]
struct Head {
    subject: String,
    reply: Option<String>,
    id: u64,
    header_size: u64,
    size: u64,
}

impl Parser {
    /// A parser that skips messages whose headers and payload are larger than `max_payload` bytes.
    pub fn new(max_payload: usize) -> Parser {
        Parser { max_payload, state: ParserState::Line(Bounded::default()) }
    }

    /// The next operation; `None` if more bytes are needed. Consumed bytes are removed from `data`.
    ///
    /// # Errors
    ///
    /// If the bytes are not the protocol. The parser must not be used any further.
    pub fn next(&mut self, data: &mut &[u8]) -> Result<Option<Op>, ParseError> {
        loop {
            match std::mem::replace(&mut self.state, ParserState::Line(Bounded::default())) {
                ParserState::Line(mut begun) => match self.line(begun.take(), data)? {
                    Some(Line::Done(op)) => return Ok(Some(op)),
                    Some(Line::Head(head)) if head.size > self.max_payload as u64 => {
                        let left = head.size + 2;
                        self.state = ParserState::Skip(head, left);
                    }
                    Some(Line::Head(head)) => {
                        let whole = head.size as usize + 2;
                        self.state = ParserState::Payload(head, Bounded::new(whole));
                    }
                    None => return Ok(None),
                },
                ParserState::Payload(head, mut begun) => {
                    // A size is at most `max_payload`.
                    let whole = begun.most();
                    let missing = (whole - begun.len()).min(data.len());
                    if begun.is_empty() && missing == whole {
                        return head.finish(Bytes::copy_from_slice(take(data, whole))).map(Some);
                    }
                    begun.edit().extend_from_slice(take(data, missing));
                    if begun.is_full() {
                        return head.finish(begun.take().into()).map(Some);
                    }
                    self.state = ParserState::Payload(head, begun);
                    return Ok(None);
                }
                ParserState::Skip(head, left) => {
                    let skipped = left.min(data.len() as u64);
                    take(data, skipped as usize);
                    if skipped == left {
                        return Ok(Some(Op::Oversized { id: head.id, size: head.size }));
                    }
                    self.state = ParserState::Skip(head, left - skipped);
                    return Ok(None);
                }
            }
        }
    }

    fn line(&mut self, mut begun: Vec<u8>, data: &mut &[u8]) -> Result<Option<Line>, ParseError> {
        let end = memchr::memchr(b'\n', data);
        let part = take(data, end.map_or(data.len(), |end| end + 1));
        let length = begun.len() + part.len();
        let first = begun.first().or(part.first());
        let most = if matches!(first, Some(b'I' | b'i')) { MAX_INFO } else { MAX_LINE };
        if length > most + 2 {
            return Err(ParseError::LineTooLong);
        }
        if end.is_none() {
            begun.extend_from_slice(part);
            self.state = ParserState::Line(begun.into());
            return Ok(None);
        }
        if begun.is_empty() {
            return parse_line(part).map(Some);
        }
        begun.extend_from_slice(part);
        parse_line(&begun).map(Some)
    }
}

/// Removes bytes from the front. There are at least `count`.
fn take<'a>(data: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = data.split_at(count);
    *data = rest;
    taken
}

enum Line {
    Done(Op),
    Head(Head),
}

fn parse_line(line: &[u8]) -> Result<Line, ParseError> {
    let bad = || {
        let start = line.get(..64).unwrap_or(line);
        ParseError::BadLine(String::from_utf8_lossy(start).trim_end().to_owned())
    };
    let text = line.strip_suffix(b"\r\n").and_then(|line| std::str::from_utf8(line).ok());
    let text = text.ok_or_else(bad)?;
    let (name, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    let op = match name.to_ascii_uppercase().as_str() {
        "MSG" => return head(rest, false).ok_or_else(bad).and_then(Head::check),
        "HMSG" => return head(rest, true).ok_or_else(bad).and_then(Head::check),
        "INFO" => {
            let info = serde_json::from_str(rest);
            Op::Info(info.map_err(|error| ParseError::BadInfo(error.to_string()))?)
        }
        "PING" => Op::Ping,
        "PONG" => Op::Pong,
        "+OK" => Op::Ok,
        "-ERR" => Op::Err(rest.trim().trim_matches('\'').to_owned()),
        _ => return Err(bad()),
    };
    Ok(Line::Done(op))
}

/// Parses the arguments of MSG: subject, number, perhaps a subject for replies, size. HMSG has the
/// size of the headers before the total size.
fn head(arguments: &str, has_headers: bool) -> Option<Head> {
    let mut words = arguments.split([' ', '\t']).filter(|word| !word.is_empty());
    let (subject, id) = (words.next()?.to_owned(), words.next()?.parse().ok()?);
    let rest: [Option<&str>; 4] = std::array::from_fn(|_| words.next());
    let (reply, header_size, size) = match (has_headers, rest) {
        (false, [Some(size), None, ..]) => (None, "0", size),
        (false, [reply, Some(size), None, _]) => (reply, "0", size),
        (true, [Some(header_size), Some(size), None, _]) => (None, header_size, size),
        (true, [reply, Some(header_size), Some(size), None]) => (reply, header_size, size),
        _ => return None,
    };
    let (header_size, size) = (header_size.parse().ok()?, size.parse().ok()?);
    let reply = reply.map(str::to_owned);
    (header_size <= size).then_some(Head { subject, reply, id, header_size, size })
}

impl Head {
    fn check(self) -> Result<Line, ParseError> {
        match self.size > MAX_SIZE {
            true => Err(ParseError::TooLarge(self.size)),
            false => Ok(Line::Head(self)),
        }
    }

    /// The message of a payload with its end.
    fn finish(self, mut body: Bytes) -> Result<Op, ParseError> {
        if !body.ends_with(b"\r\n") {
            return Err(ParseError::BadEnd);
        }
        body.truncate(body.len() - 2);
        // At most the size of the body: `head` has compared them.
        let headers = body.split_to(self.header_size as usize);
        let mut message = Message::new(self.subject, body);
        if let Some(reply) = self.reply {
            message = message.reply_to(reply);
        }
        if !headers.is_empty() {
            message = message.with_block(&headers).ok_or(ParseError::BadHeaders)?;
        }
        Ok(Op::Message { id: self.id, message })
    }
}
