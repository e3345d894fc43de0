//! The state shared by a stream and its protocol.
//!
//! Contract: 51d, 51e, 129b.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::ptr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use couplet_os::lend::Lent;

use super::Stream;
use crate::ConnectionLost;
use crate::Deferred;
use crate::HandOver;
use crate::Protocol;
use crate::Reason;
use crate::Transport;
use crate::defer::DeferredEvent;
use crate::reactor::{Executor, ReaderOf, TaskId, TaskRef};
use crate::unread::Unread;
use crate::{ConnectionId, ProtocolExtension};

/// The connection of a stream. Neither user code nor a foreign waker is called while `state` is
/// borrowed.
pub(super) struct SharedStream {
    pub(super) transport: Transport,
    /// Knows and polls the tasks that read.
    executor: Rc<Executor>,
    reader: Cell<Reader>,
    usual: UsualReader,
    pub(super) departure: Cell<Departure>,
    /// Bytes lent to the task that waits for them, as they arrive. The inbox is empty during the
    /// loan.
    lent: Lent,
    state: RefCell<SharedStreamState>,
}

/// The user's handle on a stream, shared by its halves. Dropping the last one closes the
/// connection.
pub(super) struct StreamHandle(pub(super) Rc<SharedStream>);

impl Drop for StreamHandle {
    fn drop(&mut self) {
        if self.0.state.borrow().reading != ReadSide::Released {
            self.0.transport.lose_connection();
        }
    }
}

/// The reader that waits for bytes.
#[derive(Default)]
enum Reader {
    #[default]
    None,
    /// A task of the loop, which is polled within `data_received`.
    Task(TaskId),
    /// Any other waker, such as one of a task that waits for several futures.
    Other(Waker),
}

/// The reader that waited last, if that was a task in [`SharedStream::poll_read`]: the protocol keeps it,
/// so that it neither registers nor is looked up when it waits again.
///
/// INVARIANT: while there is one, `SharedStream::reader` is [`Reader::None`]; while it waits, the inbox is
/// empty.
#[derive(Default)]
struct UsualReader {
    id: Cell<Option<TaskId>>,
    /// The address in its waker, or null.
    waker: Cell<*const ()>,
    waits: Cell<bool>,
}

impl UsualReader {
    fn set(&self, task: Option<&TaskRef>) {
        self.id.set(task.map(|task| task.id()));
        self.waker.set(task.map_or(ptr::null(), |task| task.waker().data()));
        self.waits.set(false);
    }

    /// Waits if this is its waker.
    #[inline(always)]
    fn wait(&self, waker: &Waker) -> bool {
        let is_usual = ptr::eq(self.waker.get(), waker.data());
        self.waits.set(is_usual);
        is_usual
    }
}

#[derive(Default)]
struct SharedStreamState {
    /// Bytes that arrived and were not read yet. Law 9: one read of the transport, which then
    /// pauses; for a pending read of a line or similar unit, up to the limit of that unit.
    inbox: Unread,
    reading: ReadSide,
    writing: WriteSide,
    /// The number of completed handshakes.
    handshakes: u32,
    lost: Option<Reason>,
    /// Waits until the buffer has room.
    room: Option<Box<Deferred<()>>>,
    /// Waits until the buffer is empty.
    flush: Option<Box<Deferred<()>>>,
    /// Set when the connection is asked to finish or is lost.
    draining: Option<DeferredEvent>,
    /// Waits for any other change: the end, our FIN, a handshake.
    watcher: Option<Waker>,
    /// Waits for the end of the peer's stream, perhaps in another task than the watcher.
    end_waker: Option<Waker>,
    /// The state that the task has left for another process.
    handed: Option<Box<HandOver>>,
}

/// Whether the connection may leave for another process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Departure {
    /// No other process has asked for it.
    #[default]
    NotAsked,
    /// The task may [leave](super::guest::GuestStream::leave) in this poll.
    Now,
    /// The task did not leave when it could.
    Missed,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum ReadSide {
    #[default]
    Open,
    /// Reading is paused because no read is pending.
    Paused,
    /// The peer's stream has ended.
    Closed,
    /// The connection was passed to another protocol.
    Released,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum WriteSide {
    #[default]
    Open,
    /// `shutdown` has ended our side of the stream.
    Shut,
    /// All our output and the FIN have been sent.
    Closed,
}

impl SharedStreamState {
    /// Whether the peer's stream or the connection has ended.
    fn has_ended(&self) -> bool {
        self.reading == ReadSide::Closed || self.lost.is_some()
    }
}

/// A reader's decision about the bytes that have arrived.
pub(super) enum Decision<T> {
    /// Consumes this many bytes and returns the result.
    Taken(usize, T),
    /// More bytes are needed.
    More,
}

impl ReaderOf for SharedStream {
    fn reading_task(&self) -> Option<(TaskId, ConnectionId)> {
        let reader = self.take_reader();
        let task = match reader {
            Reader::Task(task) => Some(task),
            Reader::Other(_) | Reader::None => None,
        };
        self.put_back(reader);
        Some((task?, self.transport.id()))
    }
}

impl SharedStream {
    pub(super) fn new(transport: &Transport) -> Rc<SharedStream> {
        let shared = Rc::new(SharedStream {
            transport: transport.clone(),
            executor: transport.reactor().executor(),
            reader: Cell::default(),
            usual: UsualReader::default(),
            departure: Cell::default(),
            lent: Lent::default(),
            state: RefCell::default(),
        });
        transport.reactor().note_reader(&shared);
        shared
    }

    /// Reads with `decide`, which gets the unread bytes and whether the stream has ended after them;
    /// if so, `decide` must return `Taken`. Once all bytes are read, a connection that was not closed
    /// cleanly is an error.
    pub(super) fn poll_decision<T>(
        &self,
        cx: &mut Context<'_>,
        decide: impl FnOnce(&[u8], bool) -> io::Result<Decision<T>>,
    ) -> Poll<io::Result<T>> {
        if !self.lent.is_empty() {
            return self.poll_lent(cx, decide);
        }
        let mut state = self.state.borrow_mut();
        let ended = state.has_ended();
        if state.inbox.is_empty()
            && let Some(reason) = state.lost.as_ref().filter(|reason| !reason.is_clean())
        {
            return Poll::Ready(Err(lost_error(reason)));
        }
        // `decide` may fill a user's type of buffer, so nothing is borrowed here.
        let mut inbox = std::mem::take(&mut state.inbox);
        drop(state);
        let looked = decide(inbox.rest(), ended);
        let mut state = self.state.borrow_mut();
        let polled = match looked {
            Ok(Decision::Taken(n, taken)) => {
                inbox.take(n);
                Poll::Ready(Ok(taken))
            }
            Ok(Decision::More) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        };
        let is_drained = polled.is_pending() || inbox.is_empty();
        let resume = state.reading == ReadSide::Paused && is_drained;
        if resume {
            state.reading = ReadSide::Open;
        }
        state.inbox = inbox;
        drop(state);
        if polled.is_pending() {
            self.wait_for_bytes(cx);
        }
        if resume {
            self.transport.resume_producing();
        }
        polled
    }

    /// Reads bytes as they arrive: the stream has not ended and is not paused.
    fn poll_lent<T>(
        &self,
        cx: &Context<'_>,
        decide: impl FnOnce(&[u8], bool) -> io::Result<Decision<T>>,
    ) -> Poll<io::Result<T>> {
        let looked = self.lent.take(|arrived| match decide(arrived, false) {
            Ok(Decision::Taken(n, taken)) => (n, Poll::Ready(Ok(taken))),
            Ok(Decision::More) => (0, Poll::Pending),
            Err(error) => (0, Poll::Ready(Err(error))),
        });
        if looked.is_pending() {
            self.wait_for_bytes(cx);
        }
        looked
    }

    /// The most common read, of available bytes into a slice.
    #[inline]
    pub(super) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match self.lent.read(buffer) {
            Some(n) if n > 0 => Poll::Ready(Ok(n)),
            // The inbox is empty too.
            Some(_) if !buffer.is_empty() && self.usual.wait(cx.waker()) => Poll::Pending,
            _ => self.poll_read_slow(cx, buffer),
        }
    }

    fn wait_for_bytes(&self, cx: &Context<'_>) {
        let reader = match self.executor.polled_task(cx.waker()) {
            Some(task) => Reader::Task(task),
            None => Reader::Other(cx.waker().clone()),
        };
        self.usual.set(None);
        self.reader.set(reader);
    }

    /// Takes out the reader that waits for bytes.
    fn take_reader(&self) -> Reader {
        match self.usual.id.get() {
            Some(id) if self.usual.waits.take() => Reader::Task(id),
            _ => self.reader.take(),
        }
    }

    /// Puts back a reader that was taken out.
    fn put_back(&self, reader: Reader) {
        match reader {
            Reader::Task(id) if self.usual.id.get() == Some(id) => self.usual.waits.set(true),
            reader => self.reader.set(reader),
        }
    }

    /// Passes the connection on: this stream no longer closes it.
    pub(super) fn release(&self) {
        let mut state = self.state.borrow_mut();
        let before = std::mem::replace(&mut state.reading, ReadSide::Released);
        drop(state);
        if before == ReadSide::Paused {
            self.transport.resume_producing();
        }
    }

    /// Polls the task that waits for bytes, which may [`leave`](Self::leave).
    #[cold]
    fn hand_over(&self) -> Option<HandOver> {
        self.departure.set(Departure::Now);
        match self.take_reader() {
            reader @ Reader::Task(_) => self.wake(reader),
            other => self.put_back(other),
        }
        let handed = self.state.borrow_mut().handed.take();
        let Some(mut handed) = handed else {
            self.departure.set(Departure::Missed);
            return None;
        };
        let inbox = std::mem::take(&mut self.state.borrow_mut().inbox);
        handed.append_unread(&mut inbox.rest().to_vec());
        Some(*handed)
    }

    /// Leaves the connection to another process: this stream no longer closes it.
    pub(super) fn leave(&self, handed: HandOver) {
        self.release();
        self.state.borrow_mut().handed = Some(Box::new(handed));
    }

    /// Whether bytes have arrived that were not read.
    #[cfg(any(feature = "tls", feature = "ring"))]
    pub(super) fn has_unread(&self) -> bool {
        !self.lent.is_empty() || !self.state.borrow().inbox.is_empty()
    }

    /// Writes a part of `data`, at most [`CHUNK`], once the buffer has room.
    pub(super) fn poll_write(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let data = &data[..data.len().min(CHUNK)];
        if !self.write_at_once(data) {
            ready!(self.poll_room(cx))?;
            self.transport.write(data);
        }
        Poll::Ready(Ok(data.len()))
    }

    /// Writes a small piece if the buffer has room and no writer is waiting for it; otherwise returns
    /// false.
    #[inline(always)]
    pub(super) fn write_at_once(&self, data: &[u8]) -> bool {
        let cell = &self.transport.cell;
        data.len() <= CHUNK && !cell.awaits_room() && cell.write_with_room(data)
    }

    /// Whether the peer's stream or the connection has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.state.borrow().has_ended()
    }

    /// Whether the connection was lost, and not closed cleanly.
    pub(super) fn is_broken(&self) -> bool {
        self.state.borrow().lost.as_ref().is_some_and(|reason| !reason.is_clean())
    }

    /// Like [`poll_write`](Self::poll_write), with several slices.
    pub(super) fn poll_write_vectored(
        &self,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_room(cx))?;
        let mut room = CHUNK;
        for piece in pieces {
            let n = piece.len().min(room);
            self.transport.write(&piece[..n]);
            room -= n;
        }
        Poll::Ready(Ok(CHUNK - room))
    }

    /// Ready when at most the high mark is buffered; an error if nothing can be written any more.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_writable()?;
        ready!(self.poll_begun(cx, |state| &mut state.room));
        if self.transport.is_full() {
            let writable = ignore_failure(self.transport.writable());
            ready!(self.poll_buffer(cx, |state| &mut state.room, writable));
        }
        Poll::Ready(self.check_writable())
    }

    /// Ready when all output was handed to the system.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_write_error()?;
        ready!(self.poll_begun(cx, |state| &mut state.flush));
        let flushed = ignore_failure(self.transport.flushed());
        ready!(self.poll_buffer(cx, |state| &mut state.flush, flushed));
        self.check_write_error()?;
        Poll::Ready(match &self.state.borrow().lost {
            Some(reason) if !reason.is_clean() => Err(lost_error(reason)),
            _ => Ok(()),
        })
    }

    /// Polls the Deferred that an earlier poll stored in `place`. More output may have been written
    /// since it fired.
    fn poll_begun(
        &self,
        cx: &mut Context<'_>,
        place: impl Fn(&mut SharedStreamState) -> &mut Option<Box<Deferred<()>>>,
    ) -> Poll<()> {
        let begun = place(&mut self.state.borrow_mut()).take();
        match begun {
            Some(waiting) => self.poll_buffer(cx, place, *waiting),
            None => Poll::Ready(()),
        }
    }

    /// Polls a Deferred, and stores it in `place` while it is pending.
    fn poll_buffer(
        &self,
        cx: &mut Context<'_>,
        place: impl Fn(&mut SharedStreamState) -> &mut Option<Box<Deferred<()>>>,
        mut waiting: Deferred<()>,
    ) -> Poll<()> {
        match Pin::new(&mut waiting).poll(cx) {
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => {
                *place(&mut self.state.borrow_mut()) = Some(Box::new(waiting));
                Poll::Pending
            }
        }
    }

    /// Fails if a write error ended our side.
    fn check_write_error(&self) -> io::Result<()> {
        match self.transport.write_error() {
            Some(error) => Err(lost_error(&Reason::Lost(error))),
            None => Ok(()),
        }
    }

    fn check_writable(&self) -> io::Result<()> {
        self.check_write_error()?;
        let state = self.state.borrow();
        match &state.lost {
            Some(reason) => Err(lost_error(reason)),
            None if state.writing != WriteSide::Open || self.transport.is_closing() => {
                Err(io::Error::new(
                    io::ErrorKind::BrokenPipe,
                    "cannot write: our side of the stream has ended",
                ))
            }
            None => Ok(()),
        }
    }

    /// Ends our side of the stream; ready when the FIN has been sent.
    pub(super) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state.borrow_mut();
        if state.writing == WriteSide::Open {
            state.writing = WriteSide::Shut;
            drop(state);
            self.transport.lose_write_connection();
        } else {
            drop(state);
        }
        self.poll_watch(cx, |state| match &state.lost {
            _ if state.writing == WriteSide::Closed => Some(self.check_write_error()),
            Some(reason) if reason.is_clean() => Some(Ok(())),
            Some(reason) => Some(Err(lost_error(reason))),
            None => None,
        })
    }

    /// Ready when the connection is lost, with an error unless it ended cleanly.
    pub(super) fn poll_lost(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_watch(cx, |state| {
            let reason = state.lost.as_ref()?;
            Some(if reason.is_clean() { Ok(()) } else { Err(lost_error(reason)) })
        })
    }

    /// Ready when the peer's stream has ended, with the reason if the connection is lost. One task
    /// may wait for it, besides the one of [`poll_lost`](Self::poll_lost).
    pub(super) fn poll_peer_end(&self, cx: &mut Context<'_>) -> Poll<Option<Reason>> {
        let mut state = self.state.borrow_mut();
        if state.has_ended() {
            return Poll::Ready(state.lost.clone());
        }
        let before = state.end_waker.replace(cx.waker().clone());
        drop(state);
        drop(before);
        Poll::Pending
    }

    /// The reason of the loss.
    pub(super) fn loss(&self) -> Option<Reason> {
        self.state.borrow().lost.clone()
    }

    /// Ready when the connection is asked to finish, or is lost.
    pub(super) fn draining(&self) -> impl Future<Output = ()> + use<> {
        let mut state = self.state.borrow_mut();
        let is_over = self.transport.is_draining() || state.lost.is_some();
        let event = (!is_over).then(|| state.draining.get_or_insert_default().clone());
        async move {
            // The wait begins with the first poll: one dropped without being polled would stay in
            // the event's queue.
            if let Some(event) = event {
                let _ = event.wait().await;
            }
        }
    }

    /// Ready when the connection is asked to finish or is lost. One task may wait for it.
    pub(super) fn poll_draining(&self, cx: &mut Context<'_>) -> Poll<()> {
        let polled = self.poll_watch(cx, |state| {
            let is_over = self.transport.is_draining() || state.lost.is_some();
            is_over.then_some(Ok(()))
        });
        polled.map(drop)
    }

    /// The number of completed handshakes.
    #[cfg(any(feature = "tls", feature = "ring"))]
    pub(super) fn handshakes(&self) -> usize {
        self.state.borrow().handshakes as usize
    }

    /// Ready when more than `n` handshakes are complete.
    #[cfg(any(feature = "tls", feature = "ring"))]
    pub(super) fn poll_handshake(&self, cx: &mut Context<'_>, n: usize) -> Poll<io::Result<()>> {
        self.poll_watch(cx, |state| match &state.lost {
            _ if state.handshakes as usize > n => Some(Ok(())),
            Some(reason) => Some(Err(lost_error(reason))),
            None => None,
        })
    }

    fn poll_watch(
        &self,
        cx: &mut Context<'_>,
        ready: impl FnOnce(&SharedStreamState) -> Option<io::Result<()>>,
    ) -> Poll<io::Result<()>> {
        if let Some(result) = ready(&self.state.borrow()) {
            return Poll::Ready(result);
        }
        let mut state = self.state.borrow_mut();
        if !state.watcher.as_ref().is_some_and(|watcher| watcher.will_wake(cx.waker())) {
            let before = state.watcher.replace(cx.waker().clone());
            drop(state);
            drop(before);
        }
        Poll::Pending
    }

    #[inline]
    fn wake(&self, reader: Reader) {
        match reader {
            Reader::Task(id) => {
                if let Some(task) = self.executor.task(id) {
                    self.executor.poll_here(&task);
                }
            }
            Reader::Other(waker) => waker.wake(),
            Reader::None => {}
        }
    }

    /// Applies `change`; returns the readers to wake.
    fn apply_change(&self, change: impl FnOnce(&mut SharedStreamState)) -> [Reader; 2] {
        let mut state = self.state.borrow_mut();
        change(&mut state);
        let is_over = state.lost.is_some();
        let draining = state.draining.take_if(|_| is_over);
        let watcher = state.watcher.take().map_or(Reader::None, Reader::Other);
        let has_ended = state.has_ended();
        let end_waker = state.end_waker.take_if(|_| has_ended);
        drop(state);
        if let Some(end_waker) = end_waker {
            end_waker.wake();
        }
        if let Some(draining) = draining {
            draining.set();
        }
        [self.take_reader(), watcher]
    }

    fn apply_and_wake(&self, change: impl FnOnce(&mut SharedStreamState)) {
        self.apply_change(change).into_iter().for_each(|waiting| self.wake(waiting));
    }

    /// The protocol was dropped before `connection_lost`. This may happen in the middle of a task,
    /// so tasks are woken instead of polled.
    fn mark_abandoned(&self, reason: Reason) {
        for waiting in self.apply_change(|state| state.lost = Some(reason)) {
            match waiting {
                Reader::Task(task) => self.executor.wake_task(task),
                other => self.wake(other),
            }
        }
    }

    /// Polls the task with these bytes, which waits for them. The inbox is empty.
    #[inline(always)]
    fn lend(&self, task: &TaskRef, data: &[u8]) {
        let left = self.lent.lend(data, || self.executor.poll_here(task));
        if !left.is_empty() {
            self.queue_unread(left);
        }
    }

    /// Adds unread bytes to the inbox.
    #[cold]
    fn queue_unread(&self, data: &[u8]) {
        self.state.borrow_mut().inbox.keep(data);
        self.pause_unless_read();
    }

    /// Pauses the transport while the inbox has bytes and no read is pending.
    fn pause_unless_read(&self) {
        let reader = self.take_reader();
        let is_wanted = !matches!(reader, Reader::None);
        self.put_back(reader);
        let mut state = self.state.borrow_mut();
        if !is_wanted && !state.inbox.is_empty() && state.reading == ReadSide::Open {
            state.reading = ReadSide::Paused;
            drop(state);
            self.transport.pause_producing();
        }
    }
}

/// Turns a failure into a success, since a failure without a waiter would be reported as unhandled.
/// Pollers check `SharedStreamState::lost` instead.
fn ignore_failure(waiting: Deferred<()>) -> Deferred<()> {
    waiting.recover(|_| Deferred::succeed(()))
}

/// The most that one write adds above the high mark, in bytes.
const CHUNK: usize = 64 * 1024;

/// The error of a lost connection.
pub(super) fn lost_error(reason: &Reason) -> io::Error {
    let kind = match reason {
        Reason::Lost(error) => error.kind(),
        Reason::Aborted => io::ErrorKind::ConnectionAborted,
        Reason::Timeout | Reason::CloseTimedOut => io::ErrorKind::TimedOut,
        Reason::Done(_) => io::ErrorKind::BrokenPipe,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, ConnectionLost(reason.clone()))
}

/// The protocol of a stream's connection.
pub(super) struct StreamProtocol {
    shared: Option<Rc<SharedStream>>,
    /// The task that was polled last, kept for the next time.
    task: Option<TaskRef>,
    /// Called with the stream when the connection is made.
    made: Option<Box<dyn FnOnce(Stream)>>,
}

impl StreamProtocol {
    /// For an open connection.
    pub(super) fn for_shared(shared: &Rc<SharedStream>) -> StreamProtocol {
        StreamProtocol { shared: Some(shared.clone()), task: None, made: None }
    }

    /// For a connection that is not made yet.
    pub(super) fn new(made: impl FnOnce(Stream) + 'static) -> StreamProtocol {
        StreamProtocol { shared: None, task: None, made: Some(Box::new(made)) }
    }

    /// Receives bytes for which another task than last time waits, or none.
    #[inline(never)]
    fn receive_slow(&mut self, data: &[u8]) {
        let Some(shared) = &self.shared else { return };
        match shared.take_reader() {
            Reader::Task(id) if shared.state.borrow().inbox.is_empty() => {
                if self.task.as_ref().is_none_or(|task| task.id() != id) {
                    self.task = shared.executor.task(id);
                }
                shared.usual.set(self.task.as_ref());
                let Some(task) = &self.task else { return shared.queue_unread(data) };
                shared.lend(task, data);
            }
            reader => {
                shared.state.borrow_mut().inbox.keep(data);
                shared.wake(reader);
                shared.pause_unless_read();
            }
        }
    }

    fn apply_and_wake(&self, change: impl FnOnce(&mut SharedStreamState)) {
        if let Some(shared) = &self.shared {
            shared.apply_and_wake(change);
        }
    }
}

impl Drop for StreamProtocol {
    /// Reports the loss if `connection_lost` was not called: the connection may end before an
    /// upgrade installs this protocol, or with its loop.
    fn drop(&mut self) {
        let Some(shared) = &self.shared else { return };
        if shared.state.borrow().lost.is_none() {
            let reason = shared.transport.cell.reason();
            shared.mark_abandoned(reason.unwrap_or(Reason::Aborted));
        }
    }
}

impl Protocol for StreamProtocol {
    fn connection_made(&mut self, transport: &Transport) {
        if let Some(made) = self.made.take() {
            let shared = SharedStream::new(transport);
            self.shared = Some(shared.clone());
            made(Stream::from_shared(shared));
        }
    }

    #[inline]
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        // The program may read the bytes at any time, and no state accounts for them.
        transport.cell.set_in_message(true);
        let Some(shared) = &self.shared else { return };
        match &self.task {
            Some(task) if shared.usual.waits.take() => shared.lend(task, data),
            _ => self.receive_slow(data),
        }
    }

    fn read_closed(&mut self, _: &Transport) {
        self.apply_and_wake(|state| {
            if state.reading != ReadSide::Released {
                state.reading = ReadSide::Closed;
            }
        });
    }

    fn write_closed(&mut self, _: &Transport) {
        self.apply_and_wake(|state| state.writing = WriteSide::Closed);
    }

    fn draining(&mut self, _: &Transport) {
        let Some(shared) = &self.shared else { return };
        let mut state = shared.state.borrow_mut();
        let (draining, watcher) = (state.draining.take(), state.watcher.take());
        drop(state);
        if let Some(draining) = draining {
            draining.set();
        }
        if let Some(watcher) = watcher {
            watcher.wake();
        }
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        self.apply_and_wake(|state| state.lost = Some(reason.clone()));
    }

    fn extension(&mut self) -> Option<&mut dyn ProtocolExtension> {
        Some(self)
    }
}

impl ProtocolExtension for StreamProtocol {
    fn handshake_completed(&mut self, _: &Transport) {
        self.apply_and_wake(|state| state.handshakes += 1);
    }

    fn upgraded(&mut self, next: Box<dyn Protocol>, unread: &mut Vec<u8>) -> Box<dyn Protocol> {
        if let Some(shared) = &self.shared {
            let inbox = std::mem::take(&mut shared.state.borrow_mut().inbox);
            unread.extend_from_slice(inbox.rest());
        }
        next
    }

    fn hand_over(&mut self) -> Option<HandOver> {
        self.shared.as_ref()?.hand_over()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::hold;

    #[test]
    fn a_wait_for_a_drain_that_is_never_polled_leaves_nothing() {
        // A panic in the closure fails this test.
        hold(StreamProtocol::new(|stream| {
            for _ in 0..3 {
                drop(stream.draining());
            }
            let state = stream.shared().state.borrow();
            assert_eq!(state.draining.as_ref().map_or(0, DeferredEvent::waiting), 0);
        }));
    }
}
