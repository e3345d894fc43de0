//! The parser of a Redis server's bytes: the replies and the error are the same for any cut, and no
//! reply is larger than the limits.
//!
//! An input is a byte that chooses the cut, then the server's bytes.

use couplet::bus::redis::{Parser, Reply};

use crate::streams::{same_for_each_split, take_all};

pub(crate) const WORDS: &[&str] = &[
    "+OK\r\n",
    "-ERR no\r\n",
    ":-7\r\n",
    "$5\r\nhello\r\n",
    "$65\r\n",
    "$-1\r\n",
    "!5\r\nERR x\r\n",
    "=7\r\ntxt:abc\r\n",
    "_\r\n",
    ",1.5\r\n",
    ",nan\r\n",
    "#t\r\n",
    "(123456789012345678901\r\n",
    "*2\r\n",
    "*0\r\n",
    "~1\r\n",
    "%1\r\n",
    "|1\r\n",
    ">3\r\n$7\r\nmessage\r\n$1\r\na\r\n",
    "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n",
    "18446744073709551615",
    "\r\n",
];

const MAX_STRING: usize = 64;

/// Tries one input.
///
/// # Panics
///
/// If one of these properties is violated.
pub fn redis(data: &[u8]) {
    let Some(([choice], bytes)) = data.split_first_chunk() else { return };
    same_for_each_split(bytes, *choice, |pieces| {
        let mut parser = Parser::new(MAX_STRING);
        take_all(pieces, |data| parser.next(data), |reply| check(reply, 0))
    });
}

fn check(reply: &Reply, depth: usize) {
    assert!(depth <= 16, "the depth has a limit");
    match reply {
        // A text that came as a line has the limit of lines instead.
        Reply::Bytes(bytes) => {
            let most = if bytes.contains(&b'\n') { MAX_STRING } else { 64 * 1024 };
            assert!(bytes.len() <= most, "a string is too large");
        }
        Reply::Error(text) => assert!(text.len() <= 3 * 512),
        Reply::List(values) | Reply::Push(values) => {
            assert!(values.len() <= 64 * 1024);
            values.iter().for_each(|value| check(value, depth + 1));
        }
        _ => {}
    }
}
