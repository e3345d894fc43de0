//! RESP3, the protocol of a Redis server, without I/O: bytes in, replies out.
//! Source: <https://redis.io/docs/latest/develop/reference/protocol-spec/>.
//!
//! [`Parser`] finds the ends of replies and enforces the limits, in time linear in the bytes.
//! `redis_protocol` then decodes whole replies: that decoder has no limits, recurses as deep as the
//! input says, and begins anew with each piece of it.
//!
//! Contract: 217.

use bytes::{Bytes, BytesMut};
use couplet_defer::bounded::{AtMost, Bounded};
use redis_protocol::resp3::decode::complete::decode_bytes;
use redis_protocol::resp3::types::BytesFrame;

/// Maximum length of a line: a number, a length or an error.
const MAX_LINE: usize = 64 * 1024;
/// Maximum number of values in a reply.
const MAX_VALUES: usize = 64 * 1024;
/// Maximum depth of lists in a reply.
const MAX_DEPTH: usize = 16;
/// Bytes of a reply besides four strings of the limit.
const MAX_REST: usize = 1024 * 1024;
/// Maximum length of the text of an error that is kept.
const MAX_ERROR: usize = 512;

/// A reply of a server.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Reply {
    /// No value.
    Nil,
    /// A truth value.
    Bool(bool),
    /// An integer.
    Number(i64),
    /// A floating-point number.
    Double(f64),
    /// A string of any kind.
    Bytes(Bytes),
    /// An error, such as `ERR unknown command`.
    Error(String),
    /// A list or a set; the keys and values of a map.
    List(Vec<Reply>),
    /// Not the answer to a command: a message, or the confirmation of a subscription.
    Push(Vec<Reply>),
}

impl Reply {
    /// The string; `None` if it is something else.
    pub fn as_bytes(&self) -> Option<&Bytes> {
        match self {
            Reply::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The integer; `None` if it is something else.
    pub fn as_number(&self) -> Option<i64> {
        match self {
            Reply::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// The values of a list; `None` if it is something else.
    pub fn as_list(&self) -> Option<&[Reply]> {
        match self {
            Reply::List(values) => Some(values),
            _ => None,
        }
    }
}

/// A server's bytes are not the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// A line is longer than 65 536 bytes.
    #[error("cannot read from the server: a line is too long")]
    LineTooLong,
    /// A line is not one of the protocol; its beginning.
    #[error("cannot read from the server: {0:?} is not a reply")]
    BadLine(String),
    /// A reply has more than 65 536 values, lists within lists deeper than 16, or too many bytes.
    #[error("cannot read from the server: a reply is too large")]
    TooLarge,
    /// The bytes behind a string are not its end.
    #[error("cannot read from the server: a string is longer than declared")]
    BadEnd,
    /// A value is malformed.
    #[error("cannot read from the server: malformed reply: {0}")]
    BadValue(String),
}

/// Parses the replies of a server. A string that is larger than the limit is skipped, and becomes
/// an [error](Reply::Error) in its place: `TOOLARGE 1048577`.
///
/// ```
/// use couplet::bus::redis::{Parser, Reply};
///
/// let mut parser = Parser::new(1024);
/// let mut bytes: &[u8] = b"*2\r\n:7\r\n$5\r\nhello\r\n+PONG\r\n";
/// let list = vec![Reply::Number(7), Reply::Bytes("hello".into())];
/// assert_eq!(parser.next(&mut bytes)?, Some(Reply::List(list)));
/// assert_eq!(parser.next(&mut bytes)?, Some(Reply::Bytes("PONG".into())));
/// assert_eq!(parser.next(&mut bytes)?, None);
/// # Ok::<(), couplet::Failure>(())
/// ```
#[derive(Debug)]
pub struct Parser {
    max_string: usize,
    reply: BytesMut,
    /// The values that each list still lacks, the innermost last.
    lists: Bounded<Vec<usize>, AtMost<MAX_DEPTH>>,
    /// The values of this reply.
    values: usize,
    state: ReplyState,
}

#[derive(Clone, Copy, Debug)]
enum ReplyState {
    /// In a line that begins here.
    Line(usize),
    /// In a string, with this many bytes to come.
    String(usize),
    /// In a string that is too large.
    Skip(u64),
}

impl Parser {
    /// A parser that skips strings of more than `max_string` bytes, and refuses replies of more
    /// than four of them and 1 MiB.
    pub fn new(max_string: usize) -> Parser {
        Parser {
            max_string,
            reply: BytesMut::new(),
            lists: Bounded::default(),
            values: 0,
            state: ReplyState::Line(0),
        }
    }

    /// The next reply; `None` if more bytes are needed. Consumed bytes are removed from `data`.
    ///
    /// # Errors
    ///
    /// If the bytes are not the protocol. The parser must not be used any further.
    pub fn next(&mut self, data: &mut &[u8]) -> Result<Option<Reply>, ParseError> {
        loop {
            let is_value = match self.state {
                ReplyState::Line(start) => {
                    let end = memchr::memchr(b'\n', data);
                    let part = take(data, end.map_or(data.len(), |end| end + 1));
                    if self.reply.len() - start + part.len() > MAX_LINE {
                        return Err(ParseError::LineTooLong);
                    }
                    self.check_size(part.len())?;
                    self.reply.extend_from_slice(part);
                    if end.is_none() {
                        return Ok(None);
                    }
                    self.line(start)?
                }
                ReplyState::String(left) => {
                    let part = take(data, left.min(data.len()));
                    self.reply.extend_from_slice(part);
                    self.state = ReplyState::String(left - part.len());
                    if part.len() < left {
                        return Ok(None);
                    }
                    if !self.reply.ends_with(b"\r\n") {
                        return Err(ParseError::BadEnd);
                    }
                    true
                }
                ReplyState::Skip(left) => {
                    let skipped = left.min(data.len() as u64);
                    take(data, skipped as usize);
                    self.state = ReplyState::Skip(left - skipped);
                    if skipped < left {
                        return Ok(None);
                    }
                    true
                }
            };
            if is_value {
                self.state = ReplyState::Line(self.reply.len());
                if self.ends_reply() {
                    return self.decode().map(Some);
                }
            }
        }
    }

    /// Reads the line that begins at `start`. Returns whether it ends a value.
    fn line(&mut self, start: usize) -> Result<bool, ParseError> {
        let line = &self.reply[start..];
        let bad = || {
            let start = line.get(..64).unwrap_or(line);
            ParseError::BadLine(String::from_utf8_lossy(start).trim_end().to_owned())
        };
        let text = line.strip_suffix(b"\r\n").ok_or_else(bad)?;
        let (kind, rest) = text.split_first().ok_or_else(bad)?;
        if matches!(kind, b'+' | b'-' | b':' | b',' | b'#' | b'_' | b'(') {
            return Ok(true);
        }
        let size = std::str::from_utf8(rest).ok().filter(|rest| !rest.starts_with('+'));
        let size: u64 = size.and_then(|size| size.parse().ok()).ok_or_else(bad)?;
        match kind {
            b'$' | b'!' | b'=' => self.string(start, size).map(|()| false),
            b'*' | b'>' => self.list(size),
            b'~' => self.flatten(start, size),
            b'%' => self.flatten(start, size.saturating_mul(2)),
            _ => Err(bad()),
        }
    }

    /// Makes a list of a set or a map, whose decoder would hash the values and forget their order.
    fn flatten(&mut self, start: usize, size: u64) -> Result<bool, ParseError> {
        self.reply.truncate(start);
        self.reply.extend_from_slice(format!("*{size}\r\n").as_bytes());
        self.list(size)
    }

    fn string(&mut self, start: usize, size: u64) -> Result<(), ParseError> {
        match usize::try_from(size) {
            Ok(size) if size <= self.max_string => {
                self.check_size(size)?;
                self.state = ReplyState::String(size.saturating_add(2));
            }
            _ => {
                self.reply.truncate(start);
                self.reply.extend_from_slice(format!("-TOOLARGE {size}\r\n").as_bytes());
                self.state = ReplyState::Skip(size.saturating_add(2));
            }
        }
        Ok(())
    }

    /// Checks that the reply may grow.
    fn check_size(&self, by: usize) -> Result<(), ParseError> {
        let most = self.max_string.saturating_mul(4).saturating_add(MAX_REST);
        match self.reply.len().saturating_add(by) > most {
            true => Err(ParseError::TooLarge),
            false => Ok(()),
        }
    }

    fn list(&mut self, size: u64) -> Result<bool, ParseError> {
        let size = usize::try_from(size).ok().filter(|size| *size <= MAX_VALUES - self.values);
        let size = size.ok_or(ParseError::TooLarge)?;
        self.values += size;
        self.state = ReplyState::Line(self.reply.len());
        if size == 0 {
            return Ok(true);
        }
        if self.lists.is_full() {
            return Err(ParseError::TooLarge);
        }
        self.lists.edit().push(size);
        Ok(false)
    }

    /// Counts a value. Returns whether the reply is complete.
    fn ends_reply(&mut self) -> bool {
        let mut lists = self.lists.edit();
        while let Some(left) = lists.last_mut() {
            *left -= 1;
            if *left > 0 {
                return false;
            }
            lists.pop();
        }
        true
    }

    fn decode(&mut self) -> Result<Reply, ParseError> {
        (self.values, self.state) = (0, ReplyState::Line(0));
        let bytes = self.reply.split().freeze();
        match decode_bytes(&bytes) {
            Ok(Some((frame, length))) if length == bytes.len() => reply(frame),
            Ok(_) => Err(ParseError::BadValue("its length is wrong".to_owned())),
            Err(error) => Err(ParseError::BadValue(error.to_string())),
        }
    }
}

/// Removes bytes from the front. There are at least `count`.
fn take<'a>(data: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = data.split_at(count);
    *data = rest;
    taken
}

fn reply(frame: BytesFrame) -> Result<Reply, ParseError> {
    let list = |values: Vec<BytesFrame>| values.into_iter().map(reply).collect::<Result<_, _>>();
    Ok(match frame {
        BytesFrame::Null => Reply::Nil,
        BytesFrame::Boolean { data, .. } => Reply::Bool(data),
        BytesFrame::Number { data, .. } => Reply::Number(data),
        BytesFrame::Double { data, .. } => Reply::Double(data),
        BytesFrame::SimpleString { data, .. }
        | BytesFrame::BlobString { data, .. }
        | BytesFrame::BigNumber { data, .. }
        | BytesFrame::VerbatimString { data, .. } => Reply::Bytes(data),
        BytesFrame::SimpleError { data, .. } => Reply::Error(error(data.as_bytes())),
        BytesFrame::BlobError { data, .. } => Reply::Error(error(&data)),
        BytesFrame::Array { data, .. } => Reply::List(list(data)?),
        BytesFrame::Push { data, .. } => Reply::Push(list(data)?),
        frame => return Err(ParseError::BadValue(format!("{frame:?} is not expected"))),
    })
}

fn error(text: &[u8]) -> String {
    String::from_utf8_lossy(text.get(..MAX_ERROR).unwrap_or(text)).into_owned()
}

/// Encodes a command.
pub(super) fn command<P: AsRef<[u8]>>(parts: &[P]) -> Bytes {
    let size: usize = parts.iter().map(|part| part.as_ref().len() + 16).sum();
    let mut bytes = Vec::with_capacity(size + 16);
    bytes.extend_from_slice(format!("*{}\r\n", parts.len()).as_bytes());
    for part in parts.iter().map(AsRef::as_ref) {
        bytes.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        bytes.extend_from_slice(part);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.into()
}
