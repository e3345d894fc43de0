//! [`Connection`]: the state of a connection.
//!
//! Contract: 175c.

mod blocks;
mod receive;
mod send;
mod streams;

use std::collections::VecDeque;

use bytes::Bytes;

use crate::frame::{HEAD, MAX_SENT, Output, kind, setting};
use crate::head::Builder;
use crate::hpack::{Decoder, Encoder, INITIAL_TABLE};
use crate::window::{INITIAL_WINDOW, ReceiveWindow, SendWindow, Shares};
use crate::{Code, Error, Event, Options};
use blocks::Block;
use streams::{Closing, Inbound, Role, Stream, Streams};

/// Payload of the PING whose answer confirms that the client received a server's first GOAWAY.
const FAREWELL: [u8; 8] = *b"farewell";

/// The highest number of a stream.
const MAX_STREAM: u32 = 0x7fff_ffff;

/// Streams that a client opens before the server's settings arrive. Some servers end a connection
/// that exceeds their limit.
const INITIAL_STREAMS: u32 = 1;

const fn failed<T>(code: Code, why: &'static str) -> Result<T, Error> {
    Err(Error::new(code, why))
}

const fn protocol_error<T>(why: &'static str) -> Result<T, Error> {
    failed(Code::PROTOCOL_ERROR, why)
}

const fn calm<T>(why: &'static str) -> Result<T, Error> {
    failed(Code::ENHANCE_YOUR_CALM, why)
}

/// The beginning of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beginning {
    /// A client's, with the number of its bytes that arrived.
    Preface(usize),
    Settings,
    /// Our settings are not acknowledged.
    Unacknowledged,
    Complete,
}

/// How far the connection is from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GoawayPhase {
    Open,
    /// A server's first GOAWAY was sent, and its PING is not answered.
    Announced,
    /// Our last GOAWAY was sent: there are no new requests.
    Final,
    Failed(Error),
}

/// The bytes of a window that the user has.
fn held(window: ReceiveWindow) -> usize {
    usize::try_from(window.held()).unwrap_or(0)
}

/// One end of an HTTP/2 connection: a server's or a client's.
///
/// In each turn, [`receive`](Connection::receive) the bytes that arrived, take the
/// [events](Connection::next_event), answer or ask, and write
/// [`take_output`](Connection::take_output) to the transport, until it is empty or the transport is
/// full. Take no output for a full transport, and receive nothing while the output [is
/// full](Connection::is_full): then every byte that is kept for the peer counts in a limit of
/// [`Options`].
#[derive(Debug)]
pub struct Connection {
    options: Options,
    beginning: Beginning,
    phase: GoawayPhase,
    /// The code of the peer's GOAWAY.
    peer_left: Option<Code>,
    /// The beginning of a frame.
    partial: Vec<u8>,
    block: Option<Block>,
    decoder: Decoder,
    builder: Builder,
    encoder: Encoder,
    streams: Streams,
    send: SendWindow,
    receive: ReceiveWindow,
    /// The streams' shares of the receive window.
    shares: Shares,
    /// The peer's SETTINGS_INITIAL_WINDOW_SIZE.
    peer_window: i64,
    /// The peer's SETTINGS_MAX_CONCURRENT_STREAMS.
    peer_streams: u32,
    // The frames of one receive, if the user takes the events. Otherwise DATA within
    // `Options::connection_window`, requests within the limits of streams and resets, as many
    // responses as requests, and informational ones within the limit of idle frames.
    events: VecDeque<Event>,
    /// DATA of one stream, after all `events`.
    collected: Option<(u32, Vec<u8>)>,
    output: Output,
    /// Bytes of the output that the peer caused without a request or an answer.
    control: usize,
    /// Streams that can send when the connection can.
    turns: VecDeque<u32>,
    /// Resets beyond completed streams.
    resets: u32,
    idle_frames: u32,
    /// Our PINGs without an answer.
    pings: u32,
    /// The PING behind our first GOAWAY has no answer.
    awaits_farewell: bool,
}

/// Borrowed bytes of a body, which [`Connection::send`] copies if they must wait.
#[derive(Clone, Copy, Debug)]
pub struct Copied<'a>(pub &'a [u8]);

impl AsRef<[u8]> for Copied<'_> {
    fn as_ref(&self) -> &[u8] {
        self.0
    }
}

impl From<Copied<'_>> for Bytes {
    fn from(copied: Copied<'_>) -> Bytes {
        Bytes::copy_from_slice(copied.0)
    }
}

impl Connection {
    /// Creates a server's connection before the client's preface. The output begins with our
    /// SETTINGS.
    pub fn server(options: Options) -> Connection {
        Connection::new(Role::Server, options)
    }

    /// Creates a client's connection. The output begins with the preface and our SETTINGS. One
    /// [request](Connection::request) may follow immediately, and others once the server's settings
    /// have arrived.
    pub fn client(options: Options) -> Connection {
        Connection::new(Role::Client, options)
    }

    fn new(role: Role, options: Options) -> Connection {
        let (beginning, output) = match role {
            Role::Server => (Beginning::Preface(0), Output::default()),
            Role::Client => (Beginning::Settings, Output::with_preface()),
        };
        let Options { connection_window, max_streams, stream_window, .. } = options;
        let shares = match role {
            Role::Server => Shares::new(connection_window, max_streams, stream_window),
            // A client chooses its responses by its requests, and needs no shares.
            Role::Client => Shares::fixed(stream_window),
        };
        let mut connection = Connection {
            beginning,
            phase: GoawayPhase::Open,
            peer_left: None,
            partial: Vec::new(),
            block: None,
            decoder: Decoder::new((options.max_table as usize).max(INITIAL_TABLE)),
            builder: Builder::new(options.max_head as usize),
            encoder: Encoder::new(),
            streams: Streams::new(role, options.max_streams, options.max_resets),
            send: SendWindow::new(INITIAL_WINDOW),
            receive: ReceiveWindow::new(connection_window.into()),
            shares,
            peer_window: INITIAL_WINDOW,
            peer_streams: INITIAL_STREAMS,
            events: VecDeque::new(),
            collected: None,
            output,
            control: 0,
            turns: VecDeque::new(),
            resets: 0,
            idle_frames: 0,
            pings: 0,
            awaits_farewell: false,
            options,
        };
        connection.write_settings();
        connection
    }

    fn write_settings(&mut self) {
        let Options { max_table, max_streams, max_frame, max_head, .. } = self.options;
        let of_server = [
            (setting::MAX_CONCURRENT_STREAMS, max_streams),
            (setting::ENABLE_CONNECT_PROTOCOL, self.options.connect_protocol.into()),
        ];
        let of_role = match self.streams.role {
            Role::Server => &of_server[..],
            Role::Client => &[(setting::ENABLE_PUSH, 0)],
        };
        let settings = [
            (setting::HEADER_TABLE_SIZE, max_table),
            (setting::INITIAL_WINDOW_SIZE, self.shares.first()),
            (setting::MAX_FRAME_SIZE, max_frame),
            (setting::MAX_HEADER_LIST_SIZE, max_head),
        ];
        let mut payload = Vec::with_capacity(6 * (settings.len() + of_role.len()));
        for (name, value) in settings.iter().chain(of_role) {
            payload.extend_from_slice(&name.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        self.output.write(kind::SETTINGS, 0, 0, &payload);
        if let Some(wider @ 1..) = self.options.connection_window.checked_sub(INITIAL_WINDOW as u32)
        {
            self.update_window(0, wider);
        }
    }

    /// Receives bytes of the peer, in any pieces, and queues their events. An incomplete frame is
    /// kept.
    ///
    /// # Errors
    ///
    /// If the peer broke the protocol in a way that ends the connection, or exceeded a limit. The
    /// events before that stay queued, all streams are closed, and the output ends with a GOAWAY.
    /// Each further call returns the same error.
    pub fn receive(&mut self, data: &[u8]) -> Result<(), Error> {
        if let GoawayPhase::Failed(error) = self.phase {
            return Err(error);
        }
        self.receive_all(data).inspect_err(|error| {
            self.go_away(error.code, error.why);
            self.phase = GoawayPhase::Failed(*error);
            self.flush_collected();
            self.streams.clear();
            self.turns.clear();
            (self.partial, self.block) = (Vec::new(), None);
        })?;
        self.check();
        Ok(())
    }

    /// Law 9. Each bound depends on several fields, so debug builds check them together.
    #[inline]
    fn check(&self) {
        let options = &self.options;
        let frame = HEAD + options.max_frame as usize;
        debug_assert!(self.partial.len() <= frame, "law 9: an incomplete frame");
        let block = self.block.as_ref().map_or(0, Block::len);
        debug_assert!(block <= frame + 2 * options.max_head as usize, "law 9: a field block");
        let collected = self.collected.as_ref().map_or(0, |(_, bytes)| bytes.len() as i64);
        let window = INITIAL_WINDOW.max(options.connection_window.into());
        debug_assert!(collected <= window, "law 9: DATA");
        debug_assert!(self.turns.len() <= self.streams.len(), "law 9: turns");
        self.streams.check();
    }

    /// Returns the next event. Take all of them after each [`receive`](Connection::receive) and
    /// each [`take_output`](Connection::take_output).
    #[inline]
    pub fn next_event(&mut self) -> Option<Event> {
        if self.events.is_empty() {
            self.flush_collected();
        }
        self.events.pop_front()
    }

    #[inline]
    fn push_event(&mut self, event: Event) {
        self.flush_collected();
        self.events.push_back(event);
    }

    #[inline]
    fn flush_collected(&mut self) {
        if let Some((stream, bytes)) = self.collected.take() {
            self.events.push_back(Event::Data { stream, bytes: bytes.into() });
        }
    }

    /// Resets a stream, and drops its unsent bytes. No [`Event::Reset`] follows, but events that
    /// are queued stay. Does nothing for a closed stream.
    ///
    /// A server's code is [`Code::NO_ERROR`] after a complete answer to a request whose body is not
    /// needed: RFC 9113, 8.1. A client's is [`Code::CANCEL`] for a response that is not needed.
    pub fn reset(&mut self, stream: u32, code: Code) {
        if self.streams.get(stream).is_some() {
            self.close(stream, Closing::Reset);
            self.output.write(kind::RST_STREAM, 0, stream, &code.0.to_be_bytes());
        }
    }

    /// Returns bytes of [`Event::Data`] to the peer's windows, once they were used. Call it for
    /// each received byte, even after the end or a reset of its stream.
    pub fn release(&mut self, stream: u32, count: usize) {
        if let GoawayPhase::Failed(_) = self.phase {
            return;
        }
        self.consume_connection(count.min(held(self.receive)));
        if let Some(open) = self.streams.get(stream) {
            let count = count.min(held(open.receive));
            self.consume_stream(stream, count);
        }
    }

    /// Returns bytes to the connection's window.
    fn consume_connection(&mut self, count: usize) {
        if self.receive.consume(count)
            && let Some(increment) = self.receive.update(self.receive.size())
        {
            self.update_window(0, increment);
        }
    }

    /// Returns bytes to the window of a stream, and gives that its share of the connection's window.
    fn consume_stream(&mut self, id: u32, count: usize) {
        let first = self.first_window();
        let Some(stream) = self.streams.get_mut(id) else { return };
        if !stream.receive.consume(count) || stream.inbound == Inbound::Ended {
            return;
        }
        let others = self.streams.iter().filter(|other| other.id != id);
        let size = self.shares.wider(first, others.map(Stream::claim));
        if let Some(stream) = self.streams.get_mut(id)
            && let Some(increment) = stream.receive.update(size)
        {
            self.update_window(id, increment);
        }
    }

    /// The receive window of a new stream, for a peer that may not know our settings.
    fn first_window(&self) -> i64 {
        match self.beginning {
            Beginning::Complete => self.shares.first().into(),
            _ => INITIAL_WINDOW,
        }
    }

    fn update_window(&mut self, stream: u32, increment: u32) {
        self.output.write(kind::WINDOW_UPDATE, 0, stream, &increment.to_be_bytes());
    }

    /// Sends a PING; its answer is [`Event::Pong`].
    pub fn ping(&mut self, payload: [u8; 8]) {
        self.pings += 1;
        self.output.write(kind::PING, 0, 0, &payload);
    }

    /// Begins to end the connection, in two steps: RFC 9113, 6.8. A GOAWAY announces the end, with
    /// a PING behind it. The answer to the PING confirms that no request from before is on its way;
    /// then a second GOAWAY names the last stream. Requests up to there are served, until
    /// [`is_drained`](Connection::is_drained).
    ///
    /// For a client that does not answer in time, call [`go_away`](Connection::go_away). A client
    /// ends its own connection in one step, like `go_away`.
    pub fn drain(&mut self) {
        if self.streams.role == Role::Client {
            self.go_away(Code::NO_ERROR, "");
        } else if self.phase == GoawayPhase::Open {
            self.write_go_away(MAX_STREAM, Code::NO_ERROR, "");
            self.output.write(kind::PING, 0, 0, &FAREWELL);
            self.awaits_farewell = true;
            self.phase = GoawayPhase::Announced;
        }
    }

    /// Sends the last GOAWAY immediately, with a reason as its debug data. There are no later
    /// requests: a server ignores them, and a client refuses to send them. Open streams continue.
    pub fn go_away(&mut self, code: Code, why: &str) {
        if !matches!(self.phase, GoawayPhase::Failed(_)) {
            // A server of ours opens no streams.
            let last = match self.streams.role {
                Role::Server => self.streams.refuse_new(),
                Role::Client => 0,
            };
            self.write_go_away(last, code, why);
            self.phase = GoawayPhase::Final;
        }
    }

    fn write_go_away(&mut self, last: u32, code: Code, why: &str) {
        let why = why.as_bytes().get(..MAX_SENT - 8).unwrap_or(why.as_bytes());
        self.output.write_with(kind::GOAWAY, 0, 0, |payload| {
            payload.extend_from_slice(&last.to_be_bytes());
            payload.extend_from_slice(&code.0.to_be_bytes());
            payload.extend_from_slice(why);
        });
    }

    /// Whether the connection can be closed: it failed, or one side sent its last GOAWAY and no
    /// stream is open; and the output was taken.
    pub fn is_drained(&self) -> bool {
        let is_over = match self.phase {
            GoawayPhase::Failed(_) => true,
            GoawayPhase::Final => self.streams.len() == 0,
            _ => self.peer_left.is_some() && self.streams.len() == 0,
        };
        is_over && self.output.is_empty()
    }

    /// Returns the number of open streams.
    pub fn open_streams(&self) -> usize {
        self.streams.len()
    }

    /// Returns how many bytes of a stream wait for the peer's windows or
    /// [`take_output`](Connection::take_output).
    pub fn unsent(&self, stream: u32) -> usize {
        self.streams.get(stream).map_or(0, |stream| stream.unsent.len())
    }

    /// Whether the output has at least [`Options::max_output`] bytes: take it before the next
    /// [`receive`](Connection::receive).
    pub fn is_full(&self) -> bool {
        self.output.len() >= self.options.max_output
    }

    /// Returns the bytes for the peer, and queues [`Event::Writable`]. Streams take turns, a
    /// frame each. Beyond about [`Options::max_output`] bytes, the next call returns more.
    pub fn take_output(&mut self) -> Vec<u8> {
        self.take_turns();
        self.control = 0;
        self.output.take()
    }

    /// Writes a frame that the peer caused without a request or an answer.
    fn write_control(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
    ) -> Result<(), Error> {
        let before = self.output.len();
        self.output.write(kind, flags, stream, payload);
        self.count_control(self.output.len() - before)
    }

    fn count_control(&mut self, length: usize) -> Result<(), Error> {
        self.control += length;
        if self.control > self.options.max_control {
            return calm("the peer causes answers that it does not read");
        }
        Ok(())
    }

    /// Resets a stream for a fault of the peer: RFC 9113, 5.4.2.
    fn fail_stream(&mut self, id: u32, code: Code) -> Result<(), Error> {
        if self.close(id, Closing::Reset) {
            self.push_event(Event::Reset { stream: id, code });
        }
        self.write_control(kind::RST_STREAM, 0, id, &code.0.to_be_bytes())?;
        self.count_reset()
    }

    fn count_reset(&mut self) -> Result<(), Error> {
        self.resets += 1;
        if self.resets > self.options.max_resets {
            return calm("too many streams were reset");
        }
        Ok(())
    }

    /// Both sides of a stream have ended.
    fn complete(&mut self, id: u32) {
        self.close(id, Closing::Ended);
        self.resets = self.resets.saturating_sub(1);
    }

    /// Closes a stream. Returns whether it was open.
    fn close(&mut self, id: u32, closing: Closing) -> bool {
        let closed = self.streams.close(id, closing);
        if closed.as_ref().is_some_and(|stream| stream.has_turn) {
            self.turns.retain(|turn| *turn != id);
        }
        closed.is_some()
    }
}
