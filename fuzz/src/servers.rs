//! The servers of `poetry`: compares their answers to any stream of requests, however it is
//! cut, paced and read, with a parse of the whole stream.
//!
//! An input is four bytes that choose the server, the cut, how much the client reads at a time and
//! how often the stream is repeated, then the stream.

use std::time::Duration;

use bytes::Bytes;
use couplet::Protocol;
use couplet::protocols::encode_netstring;
use couplet::testing::{Held, hold};
use poetry::catalogue::{Catalogue, Reply, header};
use poetry::poems::Poem;
use poetry::recital::Pace;
use poetry::transformations::answer;
use poetry::{named, transform_server};

use crate::framers::{Event, netstrings};
use crate::streams::for_each_split;

pub(crate) const WORDS: &[&str] = &[
    "a\n",
    "A\r\n",
    "b\n",
    "big\n",
    "\n",
    "\r\n",
    "?\n",
    "?\r\r\n",
    "\u{c4}hre\n",
    "7:upper.x,",
    "8:pirate.,",
    "16:reverse.a\nb\r\nc\n,",
    "cummingsify.",
    "pirate.The King and you",
    "13:upper.\u{df},",
];

/// Most bytes of answers, with a lower limit for slow poems: more would take too long.
const MOST: usize = 1 << 18;
const MOST_SLOWLY: usize = 2000;
/// Approximate maximum number of reads by the client.
const READS: usize = 1000;

/// Tries one input.
///
/// # Panics
///
/// If a server gives a wrong answer or does not finish.
pub fn servers(data: &[u8]) {
    let Some(([which, choice, reads, times], stream)) = data.split_first_chunk() else { return };
    let stream = stream.repeat(if *times > 250 { 40 } else { 1 });
    let reads = if *reads > 250 { usize::MAX } else { 1 + usize::from(*reads) * 300 };
    let slow = Pace { num_bytes: 2, delay: Duration::from_secs(3600) };
    match which % 4 {
        0 => by_name(&stream, *choice, reads, Pace::FULL_SPEED),
        1 => by_name(&stream, *choice, reads, slow),
        2 => transform(&stream, *choice, reads, 99_999),
        _ => transform(&stream, *choice, reads, 20),
    }
}

fn by_name(stream: &[u8], choice: u8, reads: usize, pace: Pace) {
    let big = if pace.delay.is_zero() { 70_000 } else { 70 };
    let make = || Catalogue::new(poems(big)).expect("distinct titles");
    let (want, failed) = expected_answers(&make(), stream);
    if want.len() > if pace.delay.is_zero() { MOST } else { MOST_SLOWLY } {
        return;
    }
    let reads = reads.max(want.len() / READS);
    for_each_split(stream, choice, |pieces| {
        let held = hold(named::factory(make(), pace, None)());
        let got = converse(held, pieces, reads, pace.delay);
        assert!(got == want, "{pieces:?} is answered\n{got:?}, not\n{want:?} (failed: {failed})");
    });
}

fn poems(big: usize) -> Vec<Poem> {
    let poem = |name: &str, text: String| Poem {
        name: name.to_owned(),
        title: name.to_owned(),
        text: Bytes::from(text),
    };
    let texts = [("a", "Alas!".into()), ("b", String::new()), ("\u{c4}hre", "\u{c4}\n".into())];
    let big = ("big", "x".repeat(big));
    texts.into_iter().chain([big]).map(|(name, text)| poem(name, text)).collect()
}

/// The answers to a whole stream, and whether it fails after them.
fn expected_answers(catalogue: &Catalogue, mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut out = Vec::new();
    let too_long = |line: &[u8]| line.strip_suffix(b"\r").unwrap_or(line).len() > named::MAX_LINE;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let line = &rest[..end];
        if too_long(line) {
            return (out, true);
        }
        match catalogue.reply(line.strip_suffix(b"\r").unwrap_or(line)) {
            Reply::Poem(poem) => {
                out.extend_from_slice(header(poem).as_bytes());
                out.extend_from_slice(&poem.text);
            }
            Reply::Titles(titles) => out.extend_from_slice(titles),
            Reply::Error(text) => out.extend_from_slice(text.as_bytes()),
        }
        rest = &rest[end + 1..];
    }
    (out, too_long(rest))
}

fn transform(stream: &[u8], choice: u8, reads: usize, limit: usize) {
    let want = transformed(stream, limit);
    if want.len() > MOST {
        return;
    }
    let reads = reads.max(want.len() / READS);
    for_each_split(stream, choice, |pieces| {
        let held = hold(transform_server::factory(limit, None)());
        let got = converse(held, pieces, reads, Duration::ZERO);
        assert!(got == want, "{pieces:?} is answered\n{got:?}, not\n{want:?}");
    });
}

fn transformed(stream: &[u8], limit: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for event in netstrings(stream, limit) {
        let Event::Message(request) = event else { break };
        let Ok(poem) = answer(&request) else { break };
        encode_netstring(poem.as_bytes(), &mut out);
    }
    out
}

/// Sends the pieces and a FIN, and reads up to the server's FIN; returns the bytes read.
fn converse<P: Protocol>(
    mut held: Held<P>,
    pieces: &[&[u8]],
    reads: usize,
    delay: Duration,
) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() && !held.connection.transport().is_closing() {
            let Ok(n) = held.wire.try_push(rest) else { break };
            rest = &rest[n..];
            held.settle();
            out.extend(held.wire.take_most(reads));
            if n == 0 {
                held.advance(delay);
            }
        }
    }
    held.wire.fin();
    held.settle();
    // Each round reads some bytes, or waits for a part of two bytes.
    for _ in 0..MOST {
        out.extend(held.wire.take_most(reads));
        if held.connection.is_lost() && held.wire.waiting() == 0 {
            return out;
        }
        held.advance(delay);
    }
    panic!("the end never comes");
}
