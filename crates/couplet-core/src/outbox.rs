//! The send queue of a connection: pieces, first in, first out.
//!
//! Borrowed bytes are copied once, into the open piece at the end; a [`Bytes`] is queued without a
//! copy, and so is a part of a file. A connection owns no buffer while its outbox is empty: a drained
//! buffer returns to its loop's [`Spares`], and the next write of any connection reuses it. An offset
//! at the front skips sent bytes, so a partial write moves nothing.
//!
//! Contract: 74a, 74c, 162.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice};
use std::mem;
#[cfg(unix)]
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use bytes::{Buf, Bytes};

#[cfg(unix)]
use crate::bounded::{AtMost, Bounded};

mod file;

pub use file::{FileChanged, FilePart, SharedFile, WeakFile};

/// Maximum size of a piece of copied bytes, and of a buffer kept for reuse.
const PIECE: usize = 512 * 1024;
/// An open piece grows up to this size; a larger one is sealed when full.
const MAX_OPEN: usize = 64 * 1024;
/// Total size of the buffers kept for reuse.
pub(crate) const SPARE_TOTAL: usize = 4 * 1024 * 1024;

/// One piece of an [`Outbox`], in the form it was written.
#[derive(Debug)]
#[non_exhaustive]
pub enum Piece {
    /// Copied by `write`.
    Copied(Vec<u8>),
    /// Passed to `write_bytes`.
    Bytes(Bytes),
    /// Passed to `send_file_range`.
    File(FilePart),
}

impl Piece {
    /// The bytes of a piece in memory; empty for a part of a file.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Piece::Copied(bytes) => bytes,
            Piece::Bytes(bytes) => bytes,
            Piece::File(_) => &[],
        }
    }

    fn len(&self) -> usize {
        match self {
            Piece::File(part) => part.len(),
            piece => piece.as_slice().len(),
        }
    }

    fn is_in_memory(&self) -> bool {
        !matches!(self, Piece::File(_))
    }

    #[cold]
    fn trim(&mut self, sent: usize) {
        match self {
            Piece::Copied(bytes) => drop(bytes.drain(..sent)),
            Piece::Bytes(bytes) => bytes.advance(sent),
            Piece::File(part) => part.advance(sent),
        }
    }
}

/// Drained buffers of a loop, kept for the next write.
///
/// Law 9: at most 4 MiB in all, each at most 512 KiB.
#[derive(Default)]
pub struct Spares {
    /// The most recently drained buffer, nearly always the next one needed.
    hot: RefCell<Vec<u8>>,
    others: RefCell<Vec<Vec<u8>>>,
    /// Total capacity of `others` in bytes.
    kept: Cell<usize>,
}

impl Spares {
    /// Takes an empty buffer: a drained one, or one without capacity.
    #[inline]
    pub fn take(&self) -> Vec<u8> {
        let mut buffer = Vec::new();
        self.swap(&mut buffer);
        buffer
    }

    /// Keeps a drained buffer for the next write, or frees it if enough are kept.
    #[inline]
    pub fn give(&self, mut buffer: Vec<u8>) {
        self.take_back(&mut buffer);
    }

    /// [`take`](Self::take) into `buffer`, which must have no capacity, so that nothing is dropped.
    #[inline]
    fn swap(&self, buffer: &mut Vec<u8>) {
        self.swap_used(buffer);
        buffer.clear();
    }

    /// [`swap`](Self::swap) without clearing the buffer: its old bytes need not be zeroed before
    /// they are overwritten.
    #[inline]
    fn swap_used(&self, buffer: &mut Vec<u8>) {
        mem::swap(buffer, &mut *self.hot.borrow_mut());
        if buffer.capacity() == 0 {
            self.take_other(buffer);
        }
    }

    #[cold]
    fn take_other(&self, buffer: &mut Vec<u8>) {
        *buffer = self.others.borrow_mut().pop().unwrap_or_default();
        self.kept.set(self.kept.get() - buffer.capacity());
    }

    /// [`give`](Self::give) by reference; leaves `buffer` without capacity. A part of each write, and
    /// a call would cost as much again.
    #[inline(always)]
    fn take_back(&self, buffer: &mut Vec<u8>) {
        if buffer.capacity() <= PIECE {
            mem::swap(buffer, &mut *self.hot.borrow_mut());
        }
        if buffer.capacity() > 0 {
            self.keep(mem::take(buffer));
        }
    }

    /// Total capacity of the kept buffers in bytes, excluding the most recently drained one.
    #[cfg(feature = "testing")]
    pub(crate) fn retained(&self) -> usize {
        self.kept.get()
    }

    #[cold]
    fn keep(&self, buffer: Vec<u8>) {
        let kept = self.kept.get() + buffer.capacity();
        if buffer.capacity() <= PIECE && kept + PIECE <= SPARE_TOTAL {
            self.kept.set(kept);
            self.others.borrow_mut().push(buffer);
        }
        debug_assert!(self.kept.get() <= SPARE_TOTAL, "law 9");
    }
}

impl fmt::Debug for Spares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spares").field("kept", &self.kept.get()).finish_non_exhaustive()
    }
}

/// The bytes queued for sending on one connection.
///
/// A [`Driver`](crate::driver::Driver) either sends from [`chunks`](Self::chunks) and removes the
/// sent bytes with [`advance`](Self::advance), or takes out whole pieces with
/// [`take_piece`](Self::take_piece). Before either it sends a [part of a file](Self::file) at the
/// front, or calls [`load`](Self::load). A [`Layer`](crate::layers::Layer) reads the outbox above it
/// with [`first`](Self::first) and `advance`, and adds to the one below with
/// [`extend`](Self::extend), [`push`](Self::push) and [`append`](Self::append).
pub struct Outbox {
    // At most PIECE, or one larger write.
    open: Vec<u8>,
    /// The pieces written before `open`, if any.
    sealed: Option<Box<Sealed>>,
    /// Sent bytes of the first piece, or of `open` if nothing is sealed.
    sent: usize,
    len: usize,
    spares: Rc<Spares>,
}

/// The part of an outbox that request-response traffic does not need; few connections allocate it.
#[derive(Default)]
struct Sealed {
    // Limited by `set_write_cap`, which is off by default; `is_full`, `writable` and producers are
    // the alternatives.
    pieces: VecDeque<Piece>,
    /// Foreign buffers that have been sent. Dropping them may run foreign code, so their holder
    /// drops them while nothing is borrowed.
    spent: Vec<Bytes>,
    /// Each descriptor goes with the first byte after the given number of bytes.
    #[cfg(unix)]
    descriptors: Bounded<VecDeque<(usize, OwnedFd)>, AtMost<DESCRIPTORS>>,
    /// The part of a file at the front can't be sent.
    failed: Option<io::Error>,
}

/// Maximum number of descriptors in one outbox; Twisted pauses a producer at the same number.
#[cfg(unix)]
pub(crate) const DESCRIPTORS: usize = 64;

impl Outbox {
    /// An empty outbox that reuses the buffers of `spares`.
    pub fn new(spares: Rc<Spares>) -> Outbox {
        Outbox { open: Vec::new(), sealed: None, sent: 0, len: 0, spares }
    }

    /// The number of queued bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when nothing is queued.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a copy of `data`.
    #[inline(always)]
    pub fn extend(&mut self, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        if self.open.capacity() == 0 {
            self.spares.swap(&mut self.open);
        }
        self.len += data.len();
        if self.open.capacity() - self.open.len() < data.len() {
            return self.extend_pieces(data);
        }
        self.open.extend_from_slice(data);
        self.check();
    }

    /// Appends the bytes that `fill` writes into a `size`-byte buffer; `fill` returns the count.
    /// The buffer's initial contents are unspecified.
    pub fn fill(&mut self, size: usize, fill: impl FnOnce(&mut [u8]) -> usize) {
        let mut at = self.open.len();
        if self.open.capacity() == 0 {
            self.spares.swap_used(&mut self.open);
        }
        if self.open.capacity() - at < size {
            self.open.truncate(at);
            if at + size > MAX_OPEN {
                self.seal();
                self.spares.swap_used(&mut self.open);
                at = 0;
                if self.open.capacity() < size {
                    self.open.clear();
                }
            }
        }
        self.open.resize(at + size, 0);
        let used = fill(&mut self.open[at..]);
        self.open.truncate(at + used);
        self.len += used;
        if self.open.is_empty() {
            self.spares.take_back(&mut self.open);
        }
        self.check();
    }

    /// [`extend`](Self::extend) past the capacity of the open piece. A small piece grows; a large
    /// one is sealed, so that large pieces are never moved and memory fits the queued bytes.
    #[cold]
    fn extend_pieces(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let (len, room) = (self.open.len(), self.open.capacity() - self.open.len());
            if len == 0 && room < data.len().min(PIECE) {
                self.open.reserve_exact(data.len().min(PIECE));
            } else if len + data.len() <= MAX_OPEN {
                let capacity = (2 * self.open.capacity()).min(MAX_OPEN).max(len + data.len());
                self.open.reserve_exact(capacity - len);
            } else if room == 0 {
                self.seal();
                // A small remainder gets no spare: it may stay queued for long in a far too large
                // buffer.
                if data.len() >= MAX_OPEN {
                    self.spares.swap(&mut self.open);
                }
            }
            let n = data.len().min(self.open.capacity() - self.open.len());
            self.open.extend_from_slice(&data[..n]);
            data = &data[n..];
        }
        self.check();
    }

    /// Moves the remaining bytes to buffers of exactly their size; called when the driver is blocked,
    /// because they may stay queued for long. Copies, so it is called only after a partial send,
    /// not after every blocked write. A sealed piece, which is sent in many parts, is copied once less
    /// is left than was sent.
    #[cold]
    pub(crate) fn trim(&mut self) {
        let front = self.sealed.as_deref_mut().and_then(|sealed| sealed.pieces.front_mut());
        let sent = if front.is_none() { self.sent } else { 0 };
        self.sent -= trim_buffer(&mut self.open, sent, &self.spares);
        if let Some(Piece::Copied(first)) = front
            && first.len() < 2 * self.sent
        {
            self.sent -= trim_buffer(first, self.sent, &self.spares);
        }
        self.check();
    }

    /// Appends `bytes` without copying.
    pub fn push(&mut self, bytes: Bytes) {
        self.push_piece(Piece::Bytes(bytes));
    }

    /// Appends a piece unchanged.
    fn push_piece(&mut self, piece: Piece) {
        if piece.len() == 0 {
            return;
        }
        self.seal();
        self.len += piece.len();
        self.sealed.get_or_insert_default().pieces.push_back(piece);
        self.check();
    }

    /// Moves all bytes queued in `other` to the end of this queue. Copies at most small pieces and
    /// the remainder of a partly sent piece.
    #[inline]
    pub fn append(&mut self, other: &mut Outbox) {
        if self.is_empty() && self.is_plain() && other.is_plain() {
            mem::swap(&mut self.open, &mut other.open);
            self.sent = mem::take(&mut other.sent);
            self.len = mem::take(&mut other.len);
            self.check();
        } else if self.is_empty() && !self.has_spent() && !other.has_spent() && !self.has_attached()
        {
            mem::swap(&mut self.open, &mut other.open);
            mem::swap(&mut self.sealed, &mut other.sealed);
            self.sent = mem::take(&mut other.sent);
            self.len = mem::take(&mut other.len);
            self.check();
        } else if !other.is_empty() {
            self.append_pieces(other);
        }
    }

    #[cold]
    fn append_pieces(&mut self, other: &mut Outbox) {
        self.take_attached(other);
        while let Some(piece) = other.take_piece() {
            self.append_piece(piece);
        }
        self.check();
    }

    fn append_piece(&mut self, piece: Piece) {
        match piece {
            Piece::Copied(small) if small.len() <= MAX_OPEN => {
                self.extend(&small);
                self.spares.give(small);
            }
            piece => self.push_piece(piece),
        }
    }

    /// Appends a part of a file, which is read when it is sent.
    pub fn push_file(&mut self, part: FilePart) {
        self.push_piece(Piece::File(part));
    }

    /// The part of a file at the front, if there is one: the driver sends from it, or
    /// [loads](Self::load) it.
    #[inline]
    pub fn file(&self) -> Option<&FilePart> {
        match self.sealed.as_ref()?.pieces.front()? {
            Piece::File(part) => Some(part),
            Piece::Copied(_) | Piece::Bytes(_) => None,
        }
    }

    /// Whether a part of a file follows the first `chunks` chunks.
    #[cfg(target_os = "linux")]
    pub(crate) fn has_file_after(&self, chunks: usize) -> bool {
        self.pieces().nth(chunks).is_some_and(|piece| !piece.is_in_memory())
    }

    /// Whether a part of a file is queued.
    pub(crate) fn has_files(&self) -> bool {
        self.pieces().any(|piece| !piece.is_in_memory())
    }

    /// The number of queued bytes that are not in memory.
    pub(crate) fn len_in_files(&self) -> usize {
        self.pieces().filter(|piece| !piece.is_in_memory()).map(Piece::len).sum()
    }

    /// Brings bytes to the front: reads up to 64 KiB if a part of a file is there. Blocks if they
    /// are not in memory. Returns false if they can't be read, or the file has changed: nothing can
    /// be sent, and the connection ends.
    #[inline]
    pub fn load(&mut self) -> bool {
        self.file().is_none() || self.load_part()
    }

    #[cold]
    fn load_part(&mut self) -> bool {
        let mut buffer = Vec::new();
        self.spares.swap_used(&mut buffer);
        let Some(Sealed { pieces, failed: failed @ None, .. }) = self.sealed.as_deref_mut() else {
            self.spares.give(buffer);
            return false;
        };
        let Some(Piece::File(part)) = pieces.front_mut() else { return true };
        if let Err(error) = part.take(file::READ, &mut buffer) {
            *failed = Some(error);
            self.spares.give(buffer);
            return false;
        }
        if part.is_empty() {
            pieces.pop_front();
        }
        pieces.push_front(Piece::Copied(buffer));
        self.check();
        true
    }

    /// The part of a file at the front can't be sent: the connection ends.
    #[cold]
    pub fn fail(&mut self, error: io::Error) {
        self.sealed.get_or_insert_default().failed = Some(error);
    }

    /// The error of the part at the front.
    pub(crate) fn take_failure(&mut self) -> Option<io::Error> {
        self.sealed.as_deref_mut()?.failed.take()
    }

    /// Moves the bytes that are queued in `other` before its first part of a file.
    pub(crate) fn append_loaded(&mut self, other: &mut Outbox) {
        self.take_attached(other);
        while other.file().is_none()
            && let Some(piece) = other.take_piece()
        {
            self.append_piece(piece);
        }
        self.check();
    }

    /// Queues a descriptor, to go with the next byte queued; returns it when [`DESCRIPTORS`] are
    /// queued already.
    #[cfg(unix)]
    pub(crate) fn attach(&mut self, descriptor: OwnedFd) -> Result<(), OwnedFd> {
        let at = self.len;
        let descriptors = &mut self.sealed.get_or_insert_default().descriptors;
        if descriptors.is_full() {
            return Err(descriptor);
        }
        descriptors.edit().push_back((at, descriptor));
        Ok(())
    }

    /// Moves the descriptors of `other`; its bytes follow.
    #[cfg(unix)]
    fn take_attached(&mut self, other: &mut Outbox) {
        let Some(sealed) = other.sealed.as_deref_mut() else { return };
        for (at, descriptor) in sealed.descriptors.take() {
            let at = self.len + at;
            self.sealed.get_or_insert_default().descriptors.edit().push_back((at, descriptor));
        }
    }

    #[cfg(not(unix))]
    fn take_attached(&mut self, _: &mut Outbox) {}

    /// The descriptors that go with the first byte, and how many bytes may go with them: up to the
    /// next descriptor.
    #[cfg(unix)]
    pub(crate) fn attached(&self) -> (Vec<BorrowedFd<'_>>, usize) {
        let all = self.sealed.iter().flat_map(|sealed| &*sealed.descriptors);
        let first = all.clone().take_while(|(at, _)| *at == 0).map(|(_, fd)| fd.as_fd()).collect();
        (first, all.map(|(at, _)| *at).find(|at| *at > 0).map_or(self.len, |at| at.min(self.len)))
    }

    /// True when a descriptor is queued.
    #[cfg(unix)]
    pub(crate) fn has_attached(&self) -> bool {
        self.sealed.as_ref().is_some_and(|sealed| !sealed.descriptors.is_empty())
    }

    #[cfg(not(unix))]
    pub(crate) fn has_attached(&self) -> bool {
        false
    }

    /// Closes the descriptors among the `n` bytes sent from the front.
    #[cfg(unix)]
    fn detach(&mut self, n: usize) {
        let Some(Sealed { descriptors, .. }) = self.sealed.as_deref_mut() else { return };
        let mut descriptors = descriptors.edit();
        while descriptors.pop_front_if(|(at, _)| *at < n).is_some() {}
        descriptors.iter_mut().for_each(|(at, _)| *at -= n);
    }

    #[cfg(not(unix))]
    fn detach(&mut self, _: usize) {}

    fn seal(&mut self) {
        if !self.open.is_empty() {
            let piece = Piece::Copied(mem::take(&mut self.open));
            self.sealed.get_or_insert_default().pieces.push_back(piece);
        }
    }

    fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.sealed.iter().flat_map(|sealed| &sealed.pieces)
    }

    /// The first chunk of queued bytes; empty only when nothing is queued, or a
    /// [part of a file](Self::file) is at the front.
    #[inline]
    pub fn first(&self) -> &[u8] {
        match self.sealed.as_ref().and_then(|sealed| sealed.pieces.front()) {
            None => &self.open[self.sent..],
            Some(piece) => &piece.as_slice()[self.sent..],
        }
    }

    /// The chunks in memory, up to the first part of a file; none is empty.
    fn chunks_in_memory(&self) -> impl Iterator<Item = &[u8]> {
        let pieces = self.pieces().map(Some).chain(std::iter::once(None));
        let in_memory = pieces.take_while(|piece| piece.is_none_or(Piece::is_in_memory));
        in_memory.map(|piece| piece.map_or(&self.open[..], Piece::as_slice))
    }

    /// The queued chunks, from the front, up to the first part of a file; none is empty.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let mut sent = self.sent;
        self.chunks_in_memory()
            .map(move |piece| &piece[mem::take(&mut sent).min(piece.len())..])
            .filter(|chunk| !chunk.is_empty())
    }

    /// Fills `slices` with queued chunks, from the front, up to the first part of a file, and returns
    /// how many were filled.
    pub fn chunks<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut sent = self.sent;
        let mut count = 0;
        for piece in self.chunks_in_memory() {
            let chunk = &piece[mem::take(&mut sent)..];
            if chunk.is_empty() || count == slices.len() {
                break;
            }
            slices[count] = IoSlice::new(chunk);
            count += 1;
        }
        count
    }

    /// Removes `n` sent bytes from the front.
    ///
    /// # Panics
    ///
    /// When fewer bytes are queued, which is a bug in the driver.
    #[inline]
    pub fn advance(&mut self, n: usize) {
        if n == self.len && self.is_plain() {
            self.clear_plain();
        } else {
            self.advance_pieces(n);
        }
    }

    fn advance_pieces(&mut self, mut n: usize) {
        assert!(n <= self.len, "a driver sent more than was queued");
        self.len -= n;
        self.detach(n);
        if let Some(Sealed { pieces, spent, .. }) = self.sealed.as_deref_mut() {
            while let Some(piece) = pieces.front_mut() {
                let left = piece.len() - self.sent;
                if let (true, Piece::File(part)) = (n < left, &mut *piece) {
                    part.advance(mem::take(&mut n));
                }
                if n < left {
                    break;
                }
                n -= left;
                self.sent = 0;
                match pieces.pop_front() {
                    Some(Piece::Copied(buffer)) => self.spares.give(buffer),
                    Some(Piece::Bytes(bytes)) => spent.push(bytes),
                    Some(Piece::File(_)) | None => {}
                }
            }
        }
        self.sent += n;
        if self.len == 0 {
            self.emptied();
        }
        self.check();
    }

    fn emptied(&mut self) {
        self.recycle();
        if !self.has_spent() && !self.has_attached() {
            self.sealed = None;
        }
    }

    #[inline]
    fn recycle(&mut self) {
        self.sent = 0;
        if self.open.capacity() != 0 {
            self.spares.take_back(&mut self.open);
        }
    }

    /// All queued bytes, where the outbox [is plain](Self::is_plain).
    #[inline]
    pub(crate) fn plain(&self) -> &[u8] {
        debug_assert!(self.is_plain());
        &self.open[self.sent..]
    }

    /// Takes out all queued bytes, where the outbox is plain: a buffer, and the number of its first
    /// bytes that were sent already. The buffer returns to [`spares`](Self::spares) when it is sent.
    #[cfg(all(target_os = "linux", feature = "uring"))]
    #[inline]
    pub(crate) fn take_plain(&mut self) -> (Vec<u8>, usize) {
        debug_assert!(self.is_plain());
        self.len = 0;
        (mem::take(&mut self.open), mem::take(&mut self.sent))
    }

    /// [`clear`](Self::clear), where the outbox is plain.
    #[inline]
    pub(crate) fn clear_plain(&mut self) {
        debug_assert!(self.is_plain());
        self.len = 0;
        self.recycle();
    }

    /// True when only the open piece is in use: the queue is one chunk, and no foreign buffer needs
    /// dropping.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.sealed.is_none()
    }

    /// Takes out the first piece, without bytes that [`advance`](Self::advance) has removed, here
    /// or in an outbox that was [appended](Self::append). When done, the caller returns a `Copied`
    /// buffer to [`spares`](Self::spares), or the piece [to the outbox](Self::give_back).
    pub fn take_piece(&mut self) -> Option<Piece> {
        if self.pieces().next().is_none() {
            self.seal();
        }
        let mut piece = self.sealed.as_mut()?.pieces.pop_front()?;
        match mem::take(&mut self.sent) {
            0 => {}
            sent => piece.trim(sent),
        }
        self.len -= piece.len();
        // A driver that takes pieces does not pass descriptors.
        self.detach(piece.len());
        if self.len == 0 {
            self.emptied();
        }
        self.check();
        Some(piece)
    }

    /// Returns a piece that is no longer needed. A copied one is reused. A foreign buffer must not
    /// be dropped inside [`Commands::write`](crate::driver::Commands::write), where the outbox is
    /// borrowed: the connection drops it afterwards.
    pub fn give_back(&mut self, piece: Piece) {
        match piece {
            Piece::Copied(buffer) => self.spares.give(buffer),
            Piece::Bytes(bytes) => self.sealed.get_or_insert_default().spent.push(bytes),
            Piece::File(_) => {}
        }
    }

    #[inline]
    pub(crate) fn has_spent(&self) -> bool {
        self.sealed.as_ref().is_some_and(|sealed| !sealed.spent.is_empty())
    }

    /// Takes the foreign buffers that have been sent, to be dropped while nothing is borrowed.
    pub(crate) fn take_spent(&mut self) -> Vec<Bytes> {
        let spent = self.sealed.as_mut().map(|sealed| mem::take(&mut sealed.spent));
        if self.len == 0 && !self.has_attached() {
            self.sealed = None;
        }
        spent.unwrap_or_default()
    }

    /// The loop's drained buffers.
    pub fn spares(&self) -> &Rc<Spares> {
        &self.spares
    }

    /// Removes all queued bytes, and closes queued descriptors.
    #[inline]
    pub fn clear(&mut self) {
        self.advance(self.len);
        // Also closes descriptors that no byte follows.
        self.detach(usize::MAX);
    }

    /// Asserts the invariants between two calls, in debug builds.
    #[inline]
    fn check(&self) {
        #[cfg(debug_assertions)]
        self.assert_invariants();
    }

    #[cfg(debug_assertions)]
    fn assert_invariants(&self) {
        assert!(
            self.len > 0 || (self.sent == 0 && self.open.capacity() == 0),
            "an empty outbox keeps a buffer"
        );
        let has_front = self.file().is_some() || !self.first().is_empty();
        assert!(self.len == 0 || has_front, "a sent piece is still queued");
        // Long queues are not recounted at every write.
        if self.pieces().nth(15).is_none() {
            let pieces: usize = self.pieces().map(Piece::len).sum();
            assert_eq!(
                pieces + self.open.len() - self.sent,
                self.len,
                "the length is the sum of the pieces"
            );
            assert!(self.pieces().all(|piece| piece.len() > 0), "an empty piece");
        }
    }
}

/// Replaces a buffer by one for its bytes after the first `sent`, if that saves much. Returns the
/// number of bytes removed.
fn trim_buffer(buffer: &mut Vec<u8>, sent: usize, spares: &Spares) -> usize {
    if buffer.capacity() <= buffer.len() - sent + MAX_OPEN / 4 {
        return 0;
    }
    let rest = buffer[sent..].to_vec();
    spares.give(mem::replace(buffer, rest));
    sent
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox")
            .field("len", &self.len)
            .field("pieces", &(self.pieces().count() + usize::from(!self.open.is_empty())))
            .finish()
    }
}

#[cfg(test)]
mod tests;
