//! The parser of a NATS server's bytes: the operations and the error are the same for any cut, the
//! buffered bytes are bounded, and a parsed message has the declared size.
//!
//! An input is a byte that chooses the cut, then the server's bytes.

use couplet::bus::nats::{Op, Parser};

use crate::streams::{same_for_each_split, take_all};

pub(crate) const WORDS: &[&str] = &[
    "INFO {\"max_payload\":1,\"connect_urls\":[\"a:1\"]}\r\n",
    "PING\r\n",
    "PONG\r\n",
    "+OK\r\n",
    "-ERR 'Slow Consumer'\r\n",
    "MSG a 1 5\r\nhello\r\n",
    "MSG a 1 r 0\r\n\r\n",
    "HMSG a 1 12 14\r\nNATS/1.0\r\n\r\nhi\r\n",
    "NATS/1.0 503\r\n\r\n",
    "A: b\r\n",
    " 67108865",
    "\r\n",
];

const MAX_PAYLOAD: usize = 64;

/// Tries one input.
///
/// # Panics
///
/// If one of these properties is violated.
pub fn nats(data: &[u8]) {
    let Some(([choice], bytes)) = data.split_first_chunk() else { return };
    same_for_each_split(bytes, *choice, |pieces| {
        let mut parser = Parser::new(MAX_PAYLOAD);
        take_all(pieces, |data| parser.next(data), check)
    });
}

fn check(op: &Op) {
    match op {
        Op::Message { message, .. } => assert!(message.payload().len() <= MAX_PAYLOAD),
        Op::Oversized { size, .. } => assert!(*size > MAX_PAYLOAD as u64),
        _ => {}
    }
}
