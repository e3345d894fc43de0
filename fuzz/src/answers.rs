//! The clients of `poetry`: compares their result for any answer, however it is cut and
//! ended, with a parse of the whole answer.
//!
//! An input is four bytes that choose the client, the cut, its limit and the end, then the answer.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use couplet::endpoints::{ClientEndpoint, client_from_string};
use couplet::testing::{Manner, Memory, Network, Wire};
use couplet::{Deferred, Loop, LoopOptions, Reactor};
use couplet_command::endpoint::Peer;
use poetry::ask::{ask_poem, ask_titles};
use poetry::transforming::Transformer;

use crate::framers::{Event, netstrings};
use crate::streams::for_each_split;

pub(crate) const WORDS: &[&str] = &[
    "poem 5 Ode\r\nhello",
    "poem 0 x\n",
    "titles 2\r\na\r\nb\r\n",
    "titles 0\r\n",
    "error no\r\n",
    "\r\n",
    "\n",
    " ",
    "99999999999999999999 ",
    "5:hello,",
    "0:,",
    "05:",
    ",",
];

/// Tries one input.
///
/// # Panics
///
/// If a client accepts a wrong answer, or waits forever.
pub fn answers(data: &[u8]) {
    let Some(([which, choice, limit, end], stream)) = data.split_first_chunk() else { return };
    let limit = if *limit > 250 { 1 << 20 } else { usize::from(*limit) };
    let (client, want): (Client, _) = match which % 3 {
        0 => (poem_client, poem(stream, limit)),
        1 => (titles_client, titles(stream)),
        _ => (transform_client, transformed(stream, limit)),
    };
    for_each_split(stream, *choice, |pieces| {
        let got = converse(client, limit, pieces, *end);
        let text = got.as_ref().err().map(ToString::to_string).unwrap_or_default();
        assert!(!text.contains(char::is_control), "{text:?} has a control character");
        assert_eq!(got.ok(), want, "{pieces:?} ({text})");
    });
}

type Client = fn(&Reactor, Arc<dyn ClientEndpoint>, usize) -> Deferred<Vec<u8>>;

fn poem_client(
    reactor: &Reactor,
    from: Arc<dyn ClientEndpoint>,
    limit: usize,
) -> Deferred<Vec<u8>> {
    ask_poem(reactor, from, "Ode".into(), limit as u64, None)
}

fn titles_client(reactor: &Reactor, from: Arc<dyn ClientEndpoint>, _: usize) -> Deferred<Vec<u8>> {
    ask_titles(reactor, from)
}

fn transform_client(
    reactor: &Reactor,
    from: Arc<dyn ClientEndpoint>,
    limit: usize,
) -> Deferred<Vec<u8>> {
    let server = Peer { name: from.to_string(), endpoint: from };
    let name = "upper".to_owned();
    let transformer = Transformer { server, name, timeout: None, max_bytes: limit as u64 };
    transformer.transform(reactor, Bytes::from_static(b"a poem")).map(|poem| poem.to_vec())
}

/// The first line without its end, and the bytes after it.
fn line(stream: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = stream.iter().take(4098).position(|byte| *byte == b'\n')?;
    let line = &stream[..end];
    Some((line.strip_suffix(b"\r").unwrap_or(line), &stream[end + 1..]))
}

fn number(digits: &[u8]) -> Option<usize> {
    let all = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    all.then(|| std::str::from_utf8(digits).ok()?.parse().ok()).flatten()
}

/// The poem in a whole answer.
fn poem(stream: &[u8], limit: usize) -> Option<Vec<u8>> {
    let (line, rest) = line(stream)?;
    let words = line.strip_prefix(b"poem ")?;
    let space = words.iter().position(|byte| *byte == b' ')?;
    let length = number(&words[..space]).filter(|length| *length <= limit)?;
    rest.get(..length).map(<[u8]>::to_vec)
}

/// The titles in a whole answer.
fn titles(stream: &[u8]) -> Option<Vec<u8>> {
    let (line, rest) = line(stream)?;
    let count = number(line.strip_prefix(b"titles ")?)?;
    let lines: Vec<&[u8]> = rest.split_inclusive(|byte| *byte == b'\n').take(count).collect();
    let whole = lines.len() == count && lines.last().is_none_or(|line| line.ends_with(b"\n"));
    whole.then(|| lines.concat())
}

/// The poem in the first netstring of an answer.
fn transformed(stream: &[u8], limit: usize) -> Option<Vec<u8>> {
    match netstrings(stream, limit).into_iter().next() {
        Some(Event::Message(poem)) => Some(poem),
        _ => None,
    }
}

/// Makes the client connect, sends the pieces and the end; returns the client's result.
fn converse(client: Client, limit: usize, pieces: &[&[u8]], end: u8) -> couplet::Result<Vec<u8>> {
    let (driver, network) = Memory::new(Manner::Readiness, end.into());
    let mut l = Loop::with_driver(driver, LoopOptions::default());
    let port = network.listen(SocketAddr::from(([127, 0, 0, 1], 0)), 1).expect("a free port");
    let from = client_from_string(&port.to_string()).expect("an endpoint");
    let outcome = Rc::new(RefCell::new(None));
    let slot = outcome.clone();
    let fill = move |got| {
        slot.replace(Some(got));
        Ok(())
    };
    client(&l.reactor(), from, limit).add_both(fill).detach();
    turn(&mut l, 5);
    let wire = network.accept(port).expect("it has connected");
    for piece in pieces {
        // A client that has its answer reads nothing else.
        if wire.try_push(piece).is_ok() {
            turn(&mut l, 3);
        }
    }
    wire.take();
    match end % 3 {
        0 => wire.fin(),
        1 => wire.close(),
        _ => wire.reset(),
    }
    end_connection(&mut l, &network, &wire);
    outcome.take().expect("a client has its answer when the connection has ended")
}

fn turn(l: &mut Loop, times: usize) {
    for _ in 0..times {
        l.turn(Some(Duration::ZERO)).expect("memory does not fail");
    }
}

/// Checks that the loop ends with no objects left.
fn end_connection(l: &mut Loop, network: &Network, wire: &Wire) {
    turn(l, 3);
    network.advance(Duration::from_secs(31));
    turn(l, 5);
    let snapshot = l.snapshot();
    assert!(snapshot.connections.is_empty() && snapshot.pending_calls == 0, "{snapshot}");
    assert!(wire.is_closed() && network.slots_in_use() == 0, "the driver leaks a slot");
}
