//! [`Ring`]: an io_uring for streams. The ring owns all memory that the kernel may touch, so each of
//! its functions is safe: received bytes are in buffers of the ring, and a buffer given for sending
//! stays here until its completion.
//!
//! Sockets are named by [`Handle`]s. An operation is only recorded until the next
//! [`enter`](Ring::enter), which looks the descriptors up and submits them in one call: an operation
//! whose descriptor has been closed by then never starts. The kernel holds the file of a started
//! operation, even if its number is closed or reused.
#![cfg(all(target_os = "linux", feature = "uring"))]

mod buffers;
mod self_test;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use crate::owned::{Handle, Owner};
use buffers::Buffers;
pub use self_test::check;

/// The completions of cancellations: they need no answer.
const IGNORED: u64 = u64::MAX;
/// Set in the numbers of first attempts to send, and in no index: only their failures complete.
const ATTEMPT: u64 = 1 << 31;
/// The group of the ring's buffers.
const GROUP: u16 = 0;
/// Maximum operations submitted by one call of the system.
const SUBMISSIONS: u32 = 512;
/// Completions that the kernel queues without allocating.
const COMPLETIONS: u32 = 4096;
/// A send that is complete or fails, without waiting.
const ONCE: i32 = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT | libc::MSG_WAITALL;
/// How often, and how long, a ring that is dropped waits for its operations to end.
const REAP: (u32, Duration) = (10, Duration::from_millis(500));

/// The memory of a ring.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// The number of receive buffers, at most 32768; rounded up to a power of two.
    pub buffers: u16,
    /// The bytes of each.
    pub buffer: usize,
}

/// Names an operation until it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    index: u32,
    serial: u32,
}

impl Operation {
    fn number(self) -> u64 {
        u64::from(self.serial) << 32 | u64::from(self.index)
    }
}

/// The completion of an operation, which its caller knows by the `tag` that it gave.
#[derive(Debug)]
pub enum Completion {
    /// Bytes were received: [`Ring::lent`] holds them until the next call of
    /// [`next_completion`](Ring::next_completion) or [`enter`](Ring::enter).
    /// Unless `is_last`, the operation receives more.
    Received {
        /// The operation's tag.
        tag: u64,
        /// Whether the operation has ended.
        is_last: bool,
    },
    /// A receive operation has ended: with the peer's end of stream, or with an error.
    Ended {
        /// The operation's tag.
        tag: u64,
        /// `Ok` for the end of the stream.
        result: io::Result<()>,
    },
    /// A receive operation has ended though the stream has not: it was cancelled, or no buffer was
    /// free.
    Stopped {
        /// The operation's tag.
        tag: u64,
    },
    /// A send operation has ended.
    Sent {
        /// The operation's tag.
        tag: u64,
        /// Whether all bytes were sent.
        result: io::Result<()>,
        /// The operation's buffer.
        buffer: Vec<u8>,
    },
    /// The watched descriptor is readable. The next [`enter`](Ring::enter) watches it again.
    Watched,
}

struct Slot {
    serial: u32,
    tag: u64,
    /// Not yet known to the kernel.
    is_recorded: bool,
    state: OperationState,
}

enum OperationState {
    Free,
    Receive(Handle),
    Send(Sending),
    Watch,
    /// Cancelled before it was submitted.
    Abandoned,
}

struct Sending {
    socket: Handle,
    buffer: Vec<u8>,
    /// The bytes that were sent.
    sent: usize,
    progress: Progress,
}

/// The progress of a send.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// One attempt, which ends within the submission, and completes only if it fails.
    Attempt,
    /// The socket was full: the kernel sends when there is room, and completes.
    Waiting,
    /// With this result.
    Failed(i32),
}

impl Slot {
    fn is_attempt(&self) -> bool {
        matches!(&self.state, OperationState::Send(Sending { progress: Progress::Attempt, .. }))
    }
}

impl Sending {
    /// Adds the result of a submission. True if bytes are left and the socket may accept them later.
    fn note(&mut self, result: i32) -> bool {
        self.sent += outcome(result).unwrap_or(0);
        let is_full = matches!(-result, libc::EAGAIN | libc::EINTR);
        is_full || (result > 0 && self.sent < self.buffer.len())
    }
}

/// Notes the completion of an attempt to send, once.
#[cold]
fn note_failed(slots: &mut [Slot], entry: &cqueue::Entry) {
    let (index, serial) = (entry.user_data() & !ATTEMPT, (entry.user_data() >> 32) as u32);
    let Some(slot) = slots.get_mut(index as u32 as usize) else { return };
    if let OperationState::Send(sending) = &mut slot.state
        && sending.progress == Progress::Attempt
        && slot.serial == serial
    {
        let result = entry.result();
        let is_partial = sending.note(result);
        sending.progress = if is_partial { Progress::Waiting } else { Progress::Failed(result) };
    }
}

/// An io_uring for streams; see the [module](self).
pub struct Ring {
    io: IoUring,
    buffers: mem::ManuallyDrop<Buffers>,
    /// The buffer and the bytes of the last completion.
    lent: Option<(u16, usize)>,
    slots: mem::ManuallyDrop<Vec<Slot>>,
    free: Vec<u32>,
    /// Recorded operations.
    queue: VecDeque<u32>,
    /// Operations to cancel.
    cancels: Vec<u64>,
    /// Completions that were moved here from the kernel's queue.
    moved: VecDeque<cqueue::Entry>,
    /// Submitted attempts to send.
    attempts: Vec<u32>,
    /// Completions in the kernel's queue.
    ready: usize,
    in_flight: usize,
    watched: Owner,
    /// An operation watches it.
    is_watching: bool,
    /// A submission failed, so that descriptors may be in the queue that are closed later.
    is_broken: bool,
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}

impl Ring {
    /// A ring for the calling thread that also watches this descriptor.
    ///
    /// # Errors
    ///
    /// If the system has no io_uring, forbids it, or is older than Linux 6.1.
    pub fn new(size: Size, watched: OwnedFd) -> io::Result<Ring> {
        let io = IoUring::builder()
            .dontfork()
            .setup_cqsize(COMPLETIONS)
            .setup_submit_all()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(SUBMISSIONS)?;
        if !io.params().is_feature_ext_arg() || !io.params().is_feature_nodrop() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        // Saves a lookup a call; a process has few such places.
        let _ = io.submitter().register_ring_fd();
        let buffers = Buffers::new(&io, GROUP, size)?;
        let mut ring = Ring {
            io,
            buffers: mem::ManuallyDrop::new(buffers),
            lent: None,
            slots: mem::ManuallyDrop::new(Vec::new()),
            free: Vec::new(),
            queue: VecDeque::new(),
            cancels: Vec::new(),
            moved: VecDeque::new(),
            attempts: Vec::new(),
            ready: 0,
            in_flight: 0,
            watched: watched.into(),
            is_watching: false,
            is_broken: false,
        };
        ring.enter(Some(Duration::ZERO))?;
        Ok(ring)
    }

    /// Receives from a socket, in any number of completions, until the operation ends.
    pub fn receive(&mut self, tag: u64, socket: Handle) -> Operation {
        self.record(tag, OperationState::Receive(socket))
    }

    /// Sends a buffer's bytes from `sent` on. One at a time for each socket: the kernel keeps no
    /// order.
    ///
    /// Usually the socket accepts all of them while the send is submitted. The kernel then reports
    /// nothing, so that the same call can wait for other completions.
    pub fn send(&mut self, tag: u64, socket: Handle, buffer: Vec<u8>, sent: usize) -> Operation {
        let progress = Progress::Attempt;
        self.record(tag, OperationState::Send(Sending { socket, buffer, sent, progress }))
    }

    /// The buffer of a send that was not submitted yet.
    #[inline]
    pub fn recorded(&mut self, operation: Operation) -> Option<&mut Vec<u8>> {
        match self.slot_mut(operation)? {
            Slot { is_recorded: true, state: OperationState::Send(sending), .. } => {
                Some(&mut sending.buffer)
            }
            _ => None,
        }
    }

    /// Whether an operation was not submitted yet.
    pub fn is_recorded(&self, operation: Operation) -> bool {
        self.slot(operation).is_some_and(|slot| slot.is_recorded)
    }

    /// Takes back a send that was not submitted yet: its buffer, and how many bytes were sent.
    pub fn take_back(&mut self, operation: Operation) -> Option<(Vec<u8>, usize)> {
        self.recorded(operation)?;
        match mem::replace(&mut self.slot_mut(operation)?.state, OperationState::Abandoned) {
            OperationState::Send(Sending { buffer, sent, .. }) => Some((buffer, sent)),
            _ => None,
        }
    }

    /// The bytes of a send that were not sent yet.
    pub fn unsent(&self, operation: Operation) -> usize {
        match self.slot(operation).map(|slot| &slot.state) {
            Some(OperationState::Send(sending)) => sending.buffer.len() - sending.sent,
            _ => 0,
        }
    }

    /// Cancels an operation: its last completion follows, which may be a success. False if no
    /// completion follows, because it was not submitted or has ended.
    pub fn cancel(&mut self, operation: Operation) -> bool {
        let slot =
            self.slot_mut(operation).filter(|slot| !matches!(slot.state, OperationState::Free));
        let Some(slot) = slot else { return false };
        if slot.is_recorded {
            slot.state = OperationState::Abandoned;
            return false;
        }
        self.cancels.push(operation.number());
        true
    }

    /// Cancels a receive operation and waits for its end. False if it has received something or
    /// its stream has ended: then its completions are still reported.
    ///
    /// # Errors
    ///
    /// See [`enter`](Self::enter).
    pub fn stop(&mut self, operation: Operation) -> io::Result<bool> {
        if !self.cancel(operation) {
            return Ok(true);
        }
        loop {
            let of_it = |entry: &&cqueue::Entry| entry.user_data() == operation.number();
            if self.moved.iter().filter(of_it).any(|entry| !cqueue::more(entry.flags())) {
                break;
            }
            self.submit(Some(REAP.1))?;
            let ready = mem::take(&mut self.ready);
            self.moved.extend(self.io.completion().take(ready));
        }
        let number = operation.number();
        let is_empty = |entry: &cqueue::Entry| is_stopped(entry.result());
        let is_unused = self.moved.iter().filter(|entry| entry.user_data() == number).all(is_empty);
        if is_unused {
            self.moved.retain(|entry| entry.user_data() != number);
            self.end(operation.index);
        }
        Ok(is_unused)
    }

    /// Submits the recorded operations, watches the descriptor, and waits up to `timeout` for a
    /// completion.
    ///
    /// # Errors
    ///
    /// The system's error, except for an interrupted wait, which just ends.
    #[inline]
    pub fn enter(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.take_back_lent();
        if !self.is_watching {
            self.is_watching = true;
            self.record(IGNORED, OperationState::Watch);
        }
        self.submit(if self.has_more() { Some(Duration::ZERO) } else { timeout })
    }

    /// Whether completions are left for [`next_completion`](Self::next_completion).
    #[inline]
    pub fn has_more(&self) -> bool {
        self.ready > 0 || !self.moved.is_empty() || !self.attempts.is_empty()
    }

    /// True if the ring is idle except for its watch.
    #[inline]
    pub fn is_idle(&self) -> bool {
        self.in_flight == usize::from(self.is_watching)
            && self.queue.is_empty()
            && self.cancels.is_empty()
            && !self.has_more()
    }

    /// Whether the next [`enter`](Self::enter) has something to submit.
    pub fn has_recorded(&self) -> bool {
        !self.is_watching || !self.queue.is_empty() || !self.cancels.is_empty()
    }

    /// Whether completions of an operation are left for [`next_completion`](Self::next_completion).
    pub fn has_completed(&self, operation: Operation) -> bool {
        let is_of_it = |entry: &cqueue::Entry| entry.user_data() == operation.number();
        self.peek(|queue| queue.any(|entry| is_of_it(&entry))) || self.moved.iter().any(is_of_it)
    }

    /// Shows the kernel's queue, whose entries stay there.
    fn peek<T>(&self, look: impl FnOnce(&mut cqueue::CompletionQueue<'_>) -> T) -> T {
        // SAFETY: the only other view of the queue is made, used and dropped within calls that borrow
        // this ring mutably.
        let mut queue = unsafe { self.io.completion_shared() };
        let found = look(&mut queue);
        // A drop of the queue would mark the entries as seen.
        mem::forget(queue);
        found
    }

    /// The next completion; `None` when it is time for the next [`enter`](Self::enter).
    #[inline]
    pub fn next_completion(&mut self) -> Option<Completion> {
        self.take_back_lent();
        while let Some(index) = self.attempts.pop() {
            let completion = self.attempted(index);
            if completion.is_some() {
                return completion;
            }
        }
        loop {
            let entry = if self.moved.is_empty() {
                self.ready = self.ready.checked_sub(1)?;
                self.io.completion().next()?
            } else {
                self.moved.pop_front()?
            };
            if entry.user_data() & ATTEMPT == 0
                && let Some(completion) = self.complete(&entry)
            {
                return Some(completion);
            }
        }
    }

    /// The bytes of the last completion.
    #[inline]
    pub fn lent(&self) -> &[u8] {
        match self.lent {
            Some((id, len)) => self.buffers.bytes(id, len),
            None => &[],
        }
    }

    /// The bytes of one receive buffer.
    pub fn buffer_size(&self) -> usize {
        self.buffers.size()
    }

    fn record(&mut self, tag: u64, state: OperationState) -> Operation {
        let index = self.free.pop().unwrap_or_else(|| {
            let slot = Slot { serial: 0, tag: 0, is_recorded: false, state: OperationState::Free };
            self.slots.push(slot);
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        slot.serial = slot.serial.wrapping_add(1);
        (slot.tag, slot.is_recorded, slot.state) = (tag, true, state);
        self.queue.push_back(index);
        Operation { index, serial: slot.serial }
    }

    fn slot(&self, operation: Operation) -> Option<&Slot> {
        let slot = self.slots.get(operation.index as usize);
        slot.filter(|slot| slot.serial == operation.serial)
    }

    fn slot_mut(&mut self, operation: Operation) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(operation.index as usize);
        slot.filter(|slot| slot.serial == operation.serial)
    }

    /// Frees the slot of an operation that the kernel has ended.
    fn free(&mut self, index: u32) -> OperationState {
        self.free.push(index);
        mem::replace(&mut self.slots[index as usize].state, OperationState::Free)
    }

    /// Frees the slot of an operation whose last completion has arrived.
    fn end(&mut self, index: u32) -> OperationState {
        self.in_flight -= 1;
        self.free(index)
    }

    #[inline]
    fn take_back_lent(&mut self) {
        if let Some((id, _)) = self.lent.take() {
            self.buffers.give(id);
        }
    }

    #[inline]
    fn submit(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if self.is_broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let submitted = self.fill().and_then(|()| self.wait(timeout));
        self.ready = self.io.completion().len();
        self.is_broken = submitted.is_err() || !self.io.submission().is_empty();
        submitted?;
        if !self.attempts.is_empty() {
            self.find_failed_attempts()?;
        }
        Ok(())
    }

    /// Attempts to send have ended with the submission: the kernel has queued the failures.
    #[inline]
    fn find_failed_attempts(&mut self) -> io::Result<()> {
        while self.io.submission().cq_overflow() {
            let ready = mem::take(&mut self.ready);
            self.moved.extend(self.io.completion().take(ready));
            self.wait(Some(Duration::ZERO))?;
            self.ready = self.io.completion().len();
        }
        // SAFETY: no other view of the queue exists, as in `peek`.
        let mut queue = unsafe { self.io.completion_shared() };
        let queued = queue.by_ref().chain(self.moved.iter().cloned());
        for entry in queued.filter(|entry| entry.user_data() & ATTEMPT != 0) {
            note_failed(&mut self.slots, &entry);
        }
        mem::forget(queue);
        Ok(())
    }

    /// The completion of an attempt; `None` if the socket was full: its rest is sent when there is
    /// room.
    #[inline]
    fn attempted(&mut self, index: u32) -> Option<Completion> {
        let slot = &mut self.slots[index as usize];
        let tag = slot.tag;
        let OperationState::Send(sending) = &slot.state else { return None };
        let result = match sending.progress {
            Progress::Attempt => Ok(()),
            Progress::Failed(result) => outcome(result).map(drop),
            Progress::Waiting => {
                self.record_again(index);
                return None;
            }
        };
        match self.end(index) {
            OperationState::Send(Sending { buffer, .. }) => {
                Some(Completion::Sent { tag, result, buffer })
            }
            _ => None,
        }
    }

    /// Records the rest of a send whose submission has ended.
    fn record_again(&mut self, index: u32) {
        self.slots[index as usize].is_recorded = true;
        self.in_flight -= 1;
        self.queue.push_back(index);
    }

    /// Moves the recorded operations into the kernel's queue.
    ///
    /// INVARIANT: `wait` follows, and nothing that closes descriptors comes between.
    fn fill(&mut self) -> io::Result<()> {
        while let Some(number) = self.cancels.pop() {
            let entry = opcode::AsyncCancel::new(number).build();
            self.push(&entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(IGNORED))?;
        }
        while let Some(index) = self.queue.pop_front() {
            let Some(entry) = self.entry(index) else {
                self.free(index);
                continue;
            };
            self.in_flight += 1;
            let slot = &mut self.slots[index as usize];
            slot.is_recorded = false;
            let mut number = Operation { index, serial: slot.serial }.number();
            if slot.is_attempt() {
                self.attempts.push(index);
                number |= ATTEMPT;
            }
            self.push(&entry.user_data(number))?;
        }
        Ok(())
    }

    /// The entry of a recorded operation; `None` if its descriptor has been closed.
    fn entry(&self, index: u32) -> Option<squeue::Entry> {
        let number = |socket: Handle| socket.ask(|socket| Fd(socket.as_raw_fd()));
        match &self.slots[index as usize].state {
            OperationState::Receive(socket) => {
                Some(opcode::RecvMulti::new(number(*socket)?, GROUP).build())
            }
            OperationState::Send(Sending { socket, buffer, sent, progress }) => {
                let bytes = &buffer[*sent..];
                let len = bytes.len().min(u32::MAX as usize) as u32;
                let send = opcode::Send::new(number(*socket)?, bytes.as_ptr(), len);
                Some(match progress {
                    // A part is a failure to send all, and reported.
                    Progress::Attempt => {
                        send.flags(ONCE).build().flags(squeue::Flags::SKIP_SUCCESS)
                    }
                    _ => send.flags(libc::MSG_NOSIGNAL).build(),
                })
            }
            OperationState::Watch => {
                let watched = Fd(self.watched.as_fd().as_raw_fd());
                Some(opcode::PollAdd::new(watched, libc::POLLIN as u32).build())
            }
            OperationState::Abandoned | OperationState::Free => None,
        }
    }

    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        if self.io.submission().is_full() {
            self.io.submit()?;
        }
        // SAFETY: the memory that the entry points to is a buffer in `slots`, which neither moves nor
        // is freed before the completion; an attempt to send ends within its submission, because
        // MSG_DONTWAIT forbids the kernel to wait or to use another thread. The entry's descriptor was
        // open when it was built, and stays open until the submission, because only calls of this
        // module come between.
        unsafe { self.io.submission().push(entry) }.map_err(|_| io::ErrorKind::WouldBlock.into())
    }

    #[inline]
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        // With deferred task work a wait for no completions would run none of it.
        let waited = match timeout {
            None => self.io.submit_and_wait(1),
            Some(timeout) => {
                let time = Timespec::from(timeout);
                self.io.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&time))
            }
        };
        match waited {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME) => Ok(()),
                // The process may have been stopped while completions came.
                Some(libc::EINTR) => self.wait(Some(Duration::ZERO)),
                _ => Err(error),
            },
        }
    }

    #[inline]
    fn complete(&mut self, entry: &cqueue::Entry) -> Option<Completion> {
        let index = entry.user_data() as u32;
        let tag = self.slots.get(index as usize)?.tag;
        let result = entry.result();
        if let Some(id) = cqueue::buffer_select(entry.flags()) {
            self.buffers.take(id);
            let is_last = !cqueue::more(entry.flags());
            if is_last {
                self.end(index);
            }
            if result > 0 {
                self.lent = Some((id, result as usize));
                return Some(Completion::Received { tag, is_last });
            }
            self.buffers.give(id);
            return is_last.then_some(Completion::Ended { tag, result: outcome(result).map(drop) });
        }
        self.complete_other(index, tag, result)
    }

    fn complete_other(&mut self, index: u32, tag: u64, result: i32) -> Option<Completion> {
        let slot = &mut self.slots[index as usize];
        if let OperationState::Send(sending) = &mut slot.state
            && sending.note(result)
        {
            self.record_again(index);
            return None;
        }
        match self.end(index) {
            OperationState::Receive(_) if is_stopped(result) => Some(Completion::Stopped { tag }),
            OperationState::Receive(_) => {
                Some(Completion::Ended { tag, result: outcome(result).map(drop) })
            }
            OperationState::Send(Sending { buffer, .. }) => {
                Some(Completion::Sent { tag, result: outcome(result).map(drop), buffer })
            }
            OperationState::Watch => {
                self.is_watching = false;
                Some(Completion::Watched)
            }
            OperationState::Abandoned | OperationState::Free => None,
        }
    }

    /// Cancels all operations, and waits for their ends.
    fn reap(&mut self) {
        self.cancels.clear();
        for _ in 0..REAP.0 {
            // The unsent rests are dropped.
            self.queue.clear();
            if self.in_flight == 0 || self.is_broken {
                return;
            }
            let entry = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
            if self.push(&entry.user_data(IGNORED)).is_err() || self.submit(Some(REAP.1)).is_err() {
                return;
            }
            while self.next_completion().is_some() {}
        }
    }
}

impl AsFd for Ring {
    /// Readable while a completion is ready.
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring is open while it is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.io.as_raw_fd()) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.reap();
        if self.in_flight == 0 {
            // SAFETY: no operation is left that could use them, and nothing uses the fields after the
            // drop.
            unsafe {
                mem::ManuallyDrop::drop(&mut self.buffers);
                mem::ManuallyDrop::drop(&mut self.slots);
            }
        }
    }
}

fn outcome(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

/// Whether a receive operation with this result has ended before its stream.
fn is_stopped(result: i32) -> bool {
    matches!(-result, libc::ECANCELED | libc::ENOBUFS | libc::EINTR | libc::EAGAIN)
}
