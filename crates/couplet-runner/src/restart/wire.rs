//! The messages between a program and its new process: requests of the old one, with descriptors,
//! each answered before the next. A message is length-prefixed: JSON and, after a line feed, the records
//! of connections.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use couplet::Failure;
use couplet::protocols::StringTransport;
use serde::{Deserialize, Serialize};

use crate::places::Place;

/// The version of these requests. A process that speaks another refuses the [`Hello`](Request::Hello).
pub(super) const VERSION: u32 = 1;

/// The longest string, which limits the unread and unsent bytes of a connection.
pub(super) const MOST: usize = 64 << 20;
/// The longest reason.
const MOST_WORDS: usize = 64 << 10;

/// A request, with the number of descriptors that came with it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Envelope {
    pub(super) descriptors: usize,
    pub(super) request: Request,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// The first: who asks. The new process becomes this generation.
    Hello { version: u32, generation: u32 },
    /// An older process that still runs, or the one that asks. The descriptor is readable when that
    /// process has ended.
    Generation { number: u32, pid: u32 },
    /// The socket of a port.
    Socket(Place),
    /// The locked pid file.
    PidFile,
    /// There are no more descriptors. Answered when the services have started.
    Start,
    /// Connections, with a descriptor for each; their records, of these lengths, are after the JSON.
    Connections { lengths: Vec<usize> },
    /// There are no more connections, and the old process accepts none: the new one is alone.
    Moved,
    /// The old process continues to serve, and keeps the connections that it has sent.
    Forget,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    Done,
    /// The answer to [`Start`](Request::Start): the services run, and connections of these kinds can
    /// move.
    Serves {
        kinds: Vec<String>,
    },
    Failed(String),
}

/// Sends a request with descriptors.
pub(super) fn send_request(
    transport: &StringTransport,
    request: Request,
    descriptors: Vec<OwnedFd>,
    record: &[u8],
) -> couplet::Result<()> {
    let envelope = Envelope { descriptors: descriptors.len(), request };
    for descriptor in descriptors {
        let sent = transport.send_descriptor(descriptor);
        sent.map_err(|_| Failure::msg("cannot send a descriptor to the new process"))?;
    }
    let mut string = json(&envelope);
    if !record.is_empty() {
        string.push(b'\n');
        string.extend_from_slice(record);
    }
    Ok(transport.send_string(string)?)
}

/// Sends a reply. One that is too long is cut.
pub(super) fn send_reply(transport: &StringTransport, reply: Reply) {
    let reply = match reply {
        Reply::Failed(mut words) => {
            words.truncate(words.floor_char_boundary(MOST_WORDS));
            Reply::Failed(words)
        }
        reply => reply,
    };
    // The connection may be lost, which its protocol learns.
    let _ = transport.send_string(json(&reply));
}

fn json(message: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(message).expect("it has only texts and numbers")
}

/// Reads a message, and the record after it.
pub(super) fn read<'a, T: Deserialize<'a>>(string: &'a [u8]) -> couplet::Result<(T, &'a [u8])> {
    let end = string.iter().position(|byte| *byte == b'\n');
    let (json, record) = end.map_or((string, &[][..]), |end| (&string[..end], &string[end + 1..]));
    let message = serde_json::from_slice(json)
        .map_err(|error| Failure::msg(format!("the other process sent an odd message: {error}")))?;
    Ok((message, record))
}

/// Takes the descriptors of a request, which came before it.
pub(super) fn take(
    received: &mut VecDeque<OwnedFd>,
    count: usize,
) -> couplet::Result<Vec<OwnedFd>> {
    if received.len() < count {
        return Err(Failure::msg("the descriptors of a message are missing"));
    }
    Ok(received.drain(..count).collect())
}
