//! [`Socket`]: the life of a WebSocket around tungstenite's state machine.
//!
//! ```text
//! Open → Closing (our Close has left) → Ending (theirs too) → Over
//!      ↘ Ending (theirs came, and ours with it)
//! ```
//!
//! Contract: 31, 105b, 175b.

use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use tungstenite::error::Error;
use tungstenite::protocol::frame::coding::Data;
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, WebSocketContext};

use super::alarm::Alarm;
use super::error::WebSocketError;
use super::message::{Close, Message, Text, code};
use super::options::WebSocketOptions;
use super::wire::{Wire, WireIo, WriteWhen};

/// Read size. For a message of known length, the state machine touches this much memory before the
/// bytes arrive.
const READ_BUFFER_SIZE: usize = 4 * 1024;

/// Bound on pongs that the peer does not take, in bytes. Only the last ping needs one: RFC 6455,
/// 5.5.3.
const MAX_CONTROL_BUFFER: usize = 1024;

/// After this long without input, a WebSocket drops its state machine, whose buffer is larger than
/// all its other state.
const IDLE: Duration = Duration::from_secs(5);

/// Until this many state machines were created in a row, each within [`IDLE`] of the last, a state
/// machine is dropped after each message.
const FEW: u8 = 3;

/// The longest payload of a ping or a close: RFC 6455, 5.5.
const MAX_CONTROL: usize = 125;

pub(super) struct Socket {
    wire: Wire,
    /// `None` while it is not needed: see [`IDLE`].
    context: Option<Box<WebSocketContext>>,
    role: Role,
    /// When it was created, and how many were created in a row, each within [`IDLE`] of the last.
    made: (Instant, u8),
    options: Rc<WebSocketOptions>,
    state: WebSocketStage,
    /// When the last byte arrived.
    last_received: Instant,
    /// When the peer was pinged for being silent.
    pinged: Option<Instant>,
    /// When a `send` began to wait without progress, and the bytes buffered then.
    blocked: Option<(Instant, usize)>,
    alarm: Alarm,
    /// The peer's close.
    pub(super) close: Option<Close>,
    /// The negotiated subprotocol.
    pub(super) protocol: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WebSocketStage {
    Open,
    /// Our Close was sent; the peer must answer by this time.
    Closing(Instant),
    /// Both were sent; a client waits until this time for the server to end the connection.
    Ending(Instant),
    Over,
}

impl Socket {
    pub(super) fn new(
        mut wire: Wire,
        role: Role,
        options: &Rc<WebSocketOptions>,
        protocol: Option<String>,
    ) -> Socket {
        wire.limit(options.max_message);
        let now = wire.reactor().now();
        Socket {
            context: None,
            role,
            made: (now, 0),
            options: options.clone(),
            state: WebSocketStage::Open,
            last_received: now,
            pinged: None,
            blocked: None,
            alarm: Alarm::default(),
            close: None,
            protocol,
            wire,
        }
    }

    pub(super) fn wire(&self) -> &Wire {
        &self.wire
    }

    fn make_context(&mut self) -> Box<WebSocketContext> {
        let (now, (last, count)) = (self.wire.reactor().now(), self.made);
        self.made = (now, if now < last + IDLE { count.saturating_add(1) } else { 0 });
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_SIZE)
            .write_buffer_size(0)
            .max_write_buffer_size(MAX_CONTROL_BUFFER)
            .max_message_size(Some(self.options.max_message))
            .max_frame_size(Some(self.options.max_frame));
        Box::new(WebSocketContext::new(self.role, Some(config)))
    }

    /// Runs the state machine.
    fn drive<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: WriteWhen,
        f: impl FnOnce(&mut WebSocketContext, &mut WireIo<'_, '_, '_>) -> T,
    ) -> T {
        if self.context.is_none() {
            self.context = Some(self.make_context());
        }
        let context = self.context.as_mut().expect("the context was just created");
        let mut wire_io = WireIo { wire: &mut self.wire, cx, write, received: 0 };
        let result = f(context, &mut wire_io);
        if wire_io.received > 0 {
            self.last_received = self.wire.reactor().now();
            self.pinged = None;
        }
        result
    }

    /// Receives the next message; `None` once the WebSocket is over.
    pub(super) fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Message, WebSocketError>>> {
        loop {
            if self.state == WebSocketStage::Over {
                return Poll::Ready(None);
            }
            self.wire.push(cx);
            match self.drive(cx, WriteWhen::HasRoom, |context, wire_io| context.read(wire_io)) {
                Ok(tungstenite::Message::Text(text)) => {
                    return Poll::Ready(Some(Ok(Message::Text(Text(text)))));
                }
                Ok(tungstenite::Message::Binary(bytes)) => {
                    return Poll::Ready(Some(Ok(Message::Binary(bytes))));
                }
                Ok(tungstenite::Message::Close(frame)) => {
                    self.close = Some(Close::from_frame(frame));
                    self.state = WebSocketStage::Ending(self.close_deadline());
                }
                // The state machine has answered a ping.
                Ok(_) => {}
                Err(Error::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    if let Err(error) = ready!(self.poll_timeouts(cx)) {
                        return Poll::Ready(Some(Err(error)));
                    }
                }
                Err(Error::ConnectionClosed | Error::AlreadyClosed) => self.end(),
                Err(error) => {
                    if let Some(error) = self.fail(WebSocketError::from_tungstenite(error)) {
                        return Poll::Ready(Some(Err(error)));
                    }
                }
            }
        }
    }

    /// Handles the absence of input. Ready when the caller must read again or return an error.
    fn poll_timeouts(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WebSocketError>> {
        let now = self.wire.reactor().now();
        let deadline = match self.state {
            WebSocketStage::Open => {
                if self.wire.poll_draining(cx).is_ready() {
                    self.begin_close(code::GOING_AWAY, "going away");
                    return Poll::Ready(Ok(()));
                }
                match (self.pinged, self.options.ping_interval) {
                    (Some(pinged), _) => pinged + self.options.pong_timeout,
                    (None, Some(interval)) => self.last_received + interval,
                    (None, None) => {
                        if let Some(cools) = self.drop_idle_context(now) {
                            self.alarm.set(&self.wire.reactor().clone(), cools, cx);
                        }
                        return Poll::Pending;
                    }
                }
            }
            WebSocketStage::Closing(ref mut until) | WebSocketStage::Ending(ref mut until) => {
                let is_asked = self.wire.poll_draining(cx).is_ready();
                let patience =
                    couplet_core::hooks::drain_patience(self.wire.transport()).filter(|_| is_asked);
                if let Some(patience) = patience {
                    *until = (*until).min(now + patience);
                }
                *until
            }
            WebSocketStage::Over => return Poll::Ready(Ok(())),
        };
        if now < deadline {
            let cools = self.drop_idle_context(now);
            let next = cools.map_or(deadline, |cools| cools.min(deadline));
            self.alarm.set(&self.wire.reactor().clone(), next, cx);
            return Poll::Pending;
        }
        Poll::Ready(self.handle_timeout(cx, now))
    }

    /// Drops the state machine if it is idle and need not be kept for the next message. Returns the
    /// time to try again, if it is kept.
    fn drop_idle_context(&mut self, now: Instant) -> Option<Instant> {
        if self.state != WebSocketStage::Open || !self.wire.is_between_messages() {
            return None;
        }
        let due = self.last_received + IDLE;
        if self.made.1 >= FEW && now < due {
            return self.context.is_some().then_some(due);
        }
        self.context = None;
        None
    }

    /// Handles the deadline of the current state.
    fn handle_timeout(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<(), WebSocketError> {
        match self.state {
            WebSocketStage::Open if self.pinged.is_none() => {
                self.pinged = Some(now);
                let ping = tungstenite::Message::Ping(tungstenite::Bytes::new());
                // A ping that finds no room is not needed: the peer has enough to answer.
                let _ = self.drive(cx, WriteWhen::HasRoom, |context, wire_io| {
                    wire_io.write_message(context, ping)
                });
                Ok(())
            }
            WebSocketStage::Open => {
                self.abort();
                Err(WebSocketError::NoPong)
            }
            WebSocketStage::Closing(_) => {
                self.wire.give_up();
                self.end();
                Err(WebSocketError::NotClosed)
            }
            WebSocketStage::Ending(_) | WebSocketStage::Over => {
                self.end();
                Ok(())
            }
        }
    }

    /// Handles an error of the peer or the connection. Returns `None` if it no longer matters.
    fn fail(&mut self, error: WebSocketError) -> Option<WebSocketError> {
        let was = self.state;
        if let (WebSocketStage::Open, Some(code)) = (was, error.code()) {
            self.begin_close(code, "");
        }
        self.end();
        (!matches!(was, WebSocketStage::Ending(_) | WebSocketStage::Over)).then_some(error)
    }

    /// Sends our Close, unless one was sent or received.
    pub(super) fn begin_close(&mut self, code: u16, reason: &str) {
        if self.state != WebSocketStage::Open {
            return;
        }
        self.state = WebSocketStage::Closing(self.close_deadline());
        let frame = CloseFrame { code: code.into(), reason: reason.into() };
        // The last write never waits, and an error here recurs when the peer's Close is read.
        let mut cx = Context::from_waker(Waker::noop());
        let _ = self.drive(&mut cx, WriteWhen::Always, |context, wire_io| {
            context.flush(wire_io)?;
            context.close(wire_io, Some(frame))
        });
    }

    fn close_deadline(&self) -> Instant {
        self.wire.reactor().now() + self.options.close_timeout
    }

    /// Ends the connection after the buffered output.
    fn end(&mut self) {
        self.state = WebSocketStage::Over;
        self.wire.end(self.options.write_timeout);
    }

    fn abort(&mut self) {
        self.state = WebSocketStage::Over;
        self.wire.abort();
    }

    /// Ready when a message may be written.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WebSocketError>> {
        if self.state != WebSocketStage::Open {
            return Poll::Ready(Err(WebSocketError::Closed));
        }
        match self.wire.poll_room(cx) {
            Poll::Ready(room) => {
                self.blocked = None;
                Poll::Ready(room.map_err(WebSocketError::from))
            }
            Poll::Pending => self.poll_blocked(cx),
        }
    }

    /// Fails when the peer has taken none of the buffered output for too long.
    fn poll_blocked(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WebSocketError>> {
        let reactor = self.wire.reactor().clone();
        let (now, left) = (reactor.now(), self.wire.buffered());
        let since = match self.blocked {
            Some((since, before)) if before == left => since,
            _ => now,
        };
        self.blocked = Some((since, left));
        let deadline = since + self.options.write_timeout;
        if now < deadline {
            self.alarm.set(&reactor, deadline, cx);
            return Poll::Pending;
        }
        self.abort();
        Poll::Ready(Err(WebSocketError::NotTaken))
    }

    /// Writes a message; `poll_ready` must have returned ready.
    pub(super) fn send(&mut self, cx: &mut Context<'_>, message: Message) {
        match message {
            Message::Text(text) => self.wire.send(Data::Text, text.into()),
            Message::Binary(bytes) => self.wire.send(Data::Binary, bytes),
        }
        self.wire.push(cx);
    }

    /// Sends a ping; `poll_ready` must have returned ready.
    pub(super) fn ping(
        &mut self,
        cx: &mut Context<'_>,
        payload: tungstenite::Bytes,
    ) -> Result<(), WebSocketError> {
        if payload.len() > MAX_CONTROL {
            return Err(WebSocketError::Invalid("a ping has at most 125 bytes"));
        }
        let ping = tungstenite::Message::Ping(payload);
        let sent = self
            .drive(cx, WriteWhen::Always, |context, wire_io| wire_io.write_message(context, ping));
        self.wire.push(cx);
        sent.map_err(WebSocketError::from_tungstenite)
    }

    /// Sends a Close, if neither end did, and ends the connection without waiting.
    pub(super) fn hang_up(&mut self, code: u16) {
        if self.state == WebSocketStage::Over {
            return;
        }
        self.begin_close(code, "");
        self.end();
    }
}

/// Whether a close may have this code and this reason: RFC 6455, 5.5.1 and 7.4.
pub(super) fn check_close(code: u16, reason: &str) -> Result<(), WebSocketError> {
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(WebSocketError::Invalid("cannot send a close with this code"));
    }
    if reason.len() > MAX_CONTROL - 2 {
        return Err(WebSocketError::Invalid("the reason of a close has at most 123 bytes"));
    }
    Ok(())
}
