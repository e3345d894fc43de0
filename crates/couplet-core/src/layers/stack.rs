//! [`Layers`]: a stack of layers, driven by its connection through one function in each direction.
//!
//! ```text
//!   protocol      Up::Data ↑      ↓ above, the connection's own outbox
//!   level 1       up              down → its outbox, which is above for level 0
//!   level 0       up              down → bottom
//!   socket        bytes    ↑      ↓ bottom
//! ```
//!
//! A level's output is passed through all the levels above it before the next call, so nothing is
//! copied on the way up. Only if the receiver stops in the middle does each level keep the bytes
//! that it has not taken yet: at most one chunk.
//!
//! Contract: 72, 84.

#[cfg(feature = "testing")]
use std::any::TypeId;
use std::fmt;
use std::mem;
use std::ops::ControlFlow::{self, Break, Continue};
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;

use super::{Layer, LayerWaker, Opened, Outbox, ROOM, Up};
#[cfg(feature = "testing")]
use super::{ProxyReader, ProxyWriter};
use crate::defer::Failure;
use crate::error::Reason;
use crate::outbox::Spares;
use crate::panics::{Contained, discard, discard_all};
use crate::unread::Unread;

/// Plaintext arrived after the request to encrypt: an injection, or a peer that does not wait
/// (CVE-2011-0411). The connection is cut, and the plaintext is never delivered as part of the
/// encrypted stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("plaintext after STARTTLS: the peer sent unencrypted bytes after the request to encrypt")]
pub struct PlaintextAfterUpgrade;

/// The layers of one connection. Driven by the connection, or by a test.
///
/// ```
/// use std::ops::ControlFlow;
/// use std::rc::Rc;
/// use std::time::Instant;
///
/// use couplet::layers::{Layers, Outbox, PassThrough, SingleBytes, Spares, Up};
///
/// # #[expect(clippy::disallowed_methods, reason = "a test of its own")]
/// let now = Instant::now();
/// let spares = Rc::new(Spares::default());
/// let mut layers = Layers::new(PassThrough::default(), &spares);
/// let mut above = Outbox::new(spares.clone());
/// layers.push(SingleBytes::default(), &mut above, now).unwrap();
///
/// let mut pieces = Vec::new();
/// let flow = layers.feed(b"abc", now, |up| {
///     let Up::Data(piece) = up else { unreachable!() };
///     pieces.push(piece.to_vec());
///     ControlFlow::Continue(())
/// });
/// assert!(flow.is_continue());
/// assert_eq!(pieces, [b"a", b"b", b"c"]);
///
/// above.extend(b"answer");
/// layers.down(&mut above, now);
/// assert_eq!(layers.bottom().first(), b"answer");
/// ```
pub struct Layers {
    /// From the socket to the protocol; never empty.
    levels: Vec<Level>,
    state: StackState,
}

struct Level {
    layer: Box<dyn Layer>,
    /// Output of the layer on its way down.
    below: Outbox,
    /// Input of the layer, kept while the receiver is stopped. Law 9: one chunk of the level below.
    unread: Unread,
    stage: LevelStage,
    /// The layer's `close` was called.
    close_called: bool,
    /// The deadline last reported to the layer, until the layer is fed.
    reported_deadline: Option<Instant>,
}

impl Level {
    fn new(layer: Box<dyn Layer>, below: Outbox) -> Level {
        let unread = Unread::default();
        let (stage, close_called, reported_deadline) = (LevelStage::Open, false, None);
        Level { layer, below, unread, stage, close_called, reported_deadline }
    }

    /// Makes the first calls of a layer that was put on top of the others.
    fn begin(&mut self, state: &mut StackState) {
        if !self.layer.is_open() {
            self.stage = LevelStage::Opening;
            state.unopened += 1;
        }
    }

    /// A layer may leave an expired deadline to the next `up`, which waits during a pause. Until
    /// then the same deadline does not expire again.
    #[inline]
    fn deadline(&self) -> Option<Instant> {
        self.layer.deadline().filter(|deadline| self.reported_deadline != Some(*deadline))
    }
}

/// How far a layer is on the way up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LevelStage {
    Opening,
    Open,
    /// The layer returned `Up::Closed`, or failed.
    Ended,
}

/// State shared by the levels on the way up.
struct StackState {
    /// Number of levels that are not open.
    unopened: usize,
    /// Shared with the connection.
    opened: Rc<Opened>,
    progress: Progress,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// The levels have passed on all that they can without new bytes from the socket.
    Even,
    /// A level may have more output without new bytes from the socket.
    Behind,
    /// Likewise, and level 0 has not been notified yet that the socket's stream has ended.
    BehindEnd,
    /// `Up::Failed` was returned on top, or the stack was cleared.
    Failed,
}

impl StackState {
    fn has_failed(&self) -> bool {
        self.progress == Progress::Failed
    }

    fn fall_behind(&mut self) {
        if self.progress == Progress::Even {
            self.progress = Progress::Behind;
        }
    }
}

/// Receives the output of the stack: a connection, or a closure.
pub(crate) trait Sink {
    fn data(&mut self, data: &[u8]) -> ControlFlow<()>;

    /// Receives anything but bytes.
    fn handle_event(&mut self, up: Up<'_>) -> ControlFlow<()>;
}

impl<F: FnMut(Up<'_>) -> ControlFlow<()>> Sink for F {
    fn data(&mut self, data: &[u8]) -> ControlFlow<()> {
        self(Up::Data(data))
    }

    fn handle_event(&mut self, up: Up<'_>) -> ControlFlow<()> {
        self(up)
    }
}

/// The parameters of one call of [`Layers::feed`].
struct Feed<'f, S> {
    state: &'f mut StackState,
    now: Instant,
    sink: &'f mut S,
}

impl Layers {
    /// A stack of one layer; [`push`](Self::push) adds more.
    pub fn new(layer: impl Layer + 'static, spares: &Rc<Spares>) -> Layers {
        Layers::boxed(Box::new(layer), spares)
    }

    /// Like [`new`](Self::new), for a boxed layer.
    pub fn boxed(layer: Box<dyn Layer>, spares: &Rc<Spares>) -> Layers {
        Layers::stack(vec![layer], spares)
    }

    /// A stack of several layers, from the socket up.
    pub(crate) fn stack(layers: Vec<Box<dyn Layer>>, spares: &Rc<Spares>) -> Layers {
        let mut layers = Layers::new_unstarted(layers, spares);
        layers.begin();
        layers
    }

    /// Like [`stack`](Self::stack), but calls no layer before [`begin`](Self::begin).
    ///
    /// # Panics
    ///
    /// If `layers` is empty.
    pub(crate) fn new_unstarted(layers: Vec<Box<dyn Layer>>, spares: &Rc<Spares>) -> Layers {
        assert!(!layers.is_empty(), "a stack has a layer");
        let levels = layers.into_iter().map(|layer| Level::new(layer, Outbox::new(spares.clone())));
        let state = StackState { unopened: 0, opened: Rc::default(), progress: Progress::Even };
        Layers { levels: levels.collect(), state }
    }

    /// Makes the first calls of each [placed](Self::new_unstarted) layer.
    pub(crate) fn begin(&mut self) {
        for level in &mut self.levels {
            level.begin(&mut self.state);
        }
    }

    /// The names of the layers, from the socket up, each with whether it has still to open.
    pub(crate) fn names(&self) -> impl Iterator<Item = (&'static str, bool)> {
        self.levels.iter().map(|level| (level.layer.name(), level.stage == LevelStage::Opening))
    }

    /// The types of the layers that change bytes, from the socket up. The two ends of the PROXY
    /// protocol count as one type.
    #[cfg(feature = "testing")]
    pub(crate) fn kinds(&self) -> Vec<TypeId> {
        let changing = self.levels.iter().filter(|level| !level.layer.is_transparent());
        let kinds = changing.map(|level| (*level.layer).type_id());
        let [writer, reader] = [TypeId::of::<ProxyWriter>(), TypeId::of::<ProxyReader>()];
        kinds.map(|kind| if kind == writer { reader } else { kind }).collect()
    }

    /// Provides the layers with wakers. A layer that is pushed later must be attached before the
    /// push.
    pub fn attach(&mut self, waker: &dyn Fn() -> LayerWaker) {
        self.levels.iter_mut().for_each(|level| level.layer.attach(waker));
    }

    /// Adds a layer on top, also on a live connection.
    ///
    /// Earlier output, `clear`, bypasses the new layer: it is sent in the clear even if the layer
    /// encrypts.
    ///
    /// # Errors
    ///
    /// If bytes have arrived that were not taken before the push ([`PlaintextAfterUpgrade`]), or a
    /// layer has failed. The connection must be cut.
    pub fn push(
        &mut self,
        layer: impl Layer + 'static,
        clear: &mut Outbox,
        now: Instant,
    ) -> Result<(), Reason> {
        self.push_boxed(Box::new(layer), clear, now)
    }

    /// Like [`push`](Self::push), for a boxed layer.
    ///
    /// # Errors
    ///
    /// As for [`push`](Self::push).
    pub fn push_boxed(
        &mut self,
        layer: Box<dyn Layer>,
        clear: &mut Outbox,
        now: Instant,
    ) -> Result<(), Reason> {
        self.push_contained(Contained::new(layer), clear, now)
    }

    /// Like [`push_boxed`](Self::push_boxed), for a layer whose drop may panic.
    pub(crate) fn push_contained(
        &mut self,
        layer: Contained<Box<dyn Layer>>,
        clear: &mut Outbox,
        now: Instant,
    ) -> Result<(), Reason> {
        let mut wrong = None;
        // Also finds bytes inside a level, such as a second record of one chunk.
        let _ = self.feed(&[], now, |up| match up {
            Up::Data(_) | Up::Last(_) => {
                wrong = Some(Reason::Failed(Failure::from(PlaintextAfterUpgrade)));
                Break(())
            }
            Up::Failed(reason) => {
                wrong = Some(reason);
                Break(())
            }
            Up::Nothing | Up::Open(_) | Up::Closed => Continue(()),
        });
        let unread = self.levels.iter().any(|level| !level.unread.is_empty());
        if unread && wrong.is_none() {
            wrong = Some(Reason::Failed(Failure::from(PlaintextAfterUpgrade)));
        }
        if let Some(reason) = wrong {
            self.state.progress = Progress::Failed;
            return Err(reason);
        }
        let mut below = Outbox::new(clear.spares().clone());
        below.append(clear);
        let has_ended = self.has_ended();
        self.levels.push(Level::new(layer.take(), below));
        if let Some(level) = self.levels.last_mut() {
            level.begin(&mut self.state);
            if has_ended {
                level.layer.ended();
                self.state.fall_behind();
            }
        }
        Ok(())
    }

    /// The way up: takes bytes of the socket, and passes the output on top to `sink`, which never
    /// gets [`Up::Nothing`] or [`Up::Last`].
    ///
    /// The sink gets [`Up::Open`] when the last layer has opened, with the information from all
    /// layers, and may return [`Break`] to stop (a pause, an upgrade). In that case, or when a layer
    /// is full, `feed` returns `Break`: the caller stops reading from the socket, and later calls
    /// `feed` without bytes to continue. Bytes fed before that are queued behind the others.
    ///
    /// Call it without bytes after [`ended`](Self::ended) and [`timed_out`](Self::timed_out) too.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        now: Instant,
        mut sink: impl FnMut(Up<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        self.feed_into(bytes, now, &mut sink)
    }

    /// Like [`feed`](Self::feed), with any sink. Optimized for the usual case: one level that
    /// outputs only bytes.
    #[inline(always)]
    pub(crate) fn feed_into(
        &mut self,
        mut bytes: &[u8],
        now: Instant,
        sink: &mut impl Sink,
    ) -> ControlFlow<()> {
        let StackState { progress: Progress::Even, .. } = self.state else {
            return self.feed_slow(bytes, now, sink);
        };
        let [Level { layer, stage: stage @ (LevelStage::Opening | LevelStage::Open), .. }] =
            &mut self.levels[..]
        else {
            return self.feed_slow(bytes, now, sink);
        };
        loop {
            let mut rest = bytes;
            let flow = match layer.up(&mut rest, now) {
                Up::Last(data) if rest.is_empty() => match sink.data(data) {
                    Continue(()) => return Continue(()),
                    flow => flow,
                },
                Up::Data(data) | Up::Last(data) => sink.data(data),
                Up::Nothing if rest.is_empty() => return Continue(()),
                other => {
                    let mut feed = Feed { state: &mut self.state, now, sink };
                    let handled = feed.handle(other, stage, &mut []);
                    let rest = &bytes[bytes.len() - rest.len()..];
                    return feed.continue_feed(&mut self.levels, rest, handled);
                }
            };
            bytes = &bytes[bytes.len() - rest.len()..];
            if flow.is_break() {
                return Feed { state: &mut self.state, now, sink }
                    .keep_rest(&mut self.levels, bytes);
            }
        }
    }

    #[inline(never)]
    fn feed_slow(&mut self, bytes: &[u8], now: Instant, sink: &mut impl Sink) -> ControlFlow<()> {
        let mut feed = Feed { state: &mut self.state, now, sink };
        if bytes.is_empty() || feed.state.progress != Progress::Even {
            return feed.feed_pending(&mut self.levels, bytes);
        }
        feed.continue_feed(&mut self.levels, bytes, Some(Continue(())))
    }

    /// Keeps bytes, and any further output of the layers, for the next [`feed`](Self::feed).
    pub(crate) fn keep(&mut self, bytes: &[u8]) {
        if !self.state.has_failed() {
            self.state.fall_behind();
            self.levels[0].unread.keep(bytes);
        }
    }

    /// The socket's stream has ended: the next [`feed`](Self::feed) notifies level 0, after all
    /// unread bytes.
    pub fn ended(&mut self) {
        if !self.state.has_failed() {
            self.state.progress = Progress::BehindEnd;
        }
    }

    /// The way down: takes from `above` as much as the layers accept, and appends their output to
    /// [`bottom`](Self::bottom). Call it when bytes were written above, while [`held`](Self::held)
    /// is not 0, and when bytes have left the bottom.
    #[inline]
    pub fn down(&mut self, above: &mut Outbox, now: Instant) {
        if let [Level { layer, below, .. }] = &mut self.levels[..]
            && below.is_empty()
        {
            return layer.down(above, below, now);
        }
        let mut above = above;
        for level in self.levels.iter_mut().rev() {
            if level.below.len() < ROOM {
                level.layer.down(above, &mut level.below, now);
            }
            above = &mut level.below;
        }
    }

    /// Output for the socket.
    #[inline]
    pub fn bottom(&mut self) -> &mut Outbox {
        &mut self.levels[0].below
    }

    /// Ends the stream: calls each layer's `close` once, from the top, as soon as everything above
    /// the layer has been sent down. Returns true when all output is in the
    /// [`bottom`](Self::bottom); the FIN follows it. Until then, call it again when bytes have left
    /// the bottom or layers have opened.
    pub fn close(&mut self, above: &mut Outbox, now: Instant) -> bool {
        let mut above = above;
        for level in self.levels.iter_mut().rev() {
            if level.below.len() < ROOM {
                level.layer.down(above, &mut level.below, now);
            }
            if !above.is_empty() || level.layer.held() > 0 {
                return false;
            }
            if !mem::replace(&mut level.close_called, true) {
                level.layer.close(&mut level.below);
            }
            above = &mut level.below;
        }
        true
    }

    /// Whether the stream has ended on top.
    pub(crate) fn has_ended(&self) -> bool {
        let top = self.levels.last();
        !self.state.has_failed() && top.is_some_and(|top| top.stage == LevelStage::Ended)
    }

    /// Whether every layer is open.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.state.unopened == 0
    }

    /// Whether every layer has [done its work](Layer::is_finished), and no output is left in the stack.
    pub(crate) fn are_finished(&self) -> bool {
        let is_finished = |level: &Level| {
            level.stage == LevelStage::Open
                && level.below.is_empty()
                && !level.below.has_spent()
                && level.layer.is_finished()
        };
        let is_ending = matches!(self.state.progress, Progress::BehindEnd | Progress::Failed);
        !is_ending && self.levels.iter().all(is_finished)
    }

    /// Takes the received bytes that no receiver has taken, in their order, from
    /// [finished](Self::are_finished) layers.
    pub(crate) fn take_unread(&mut self) -> Vec<u8> {
        let held = self.levels.iter_mut().rev().map(|level| mem::take(&mut level.unread));
        held.flat_map(|unread| unread.rest().to_vec()).collect()
    }

    /// Information that the layers obtained while they opened.
    pub fn opened(&self) -> &Opened {
        &self.state.opened
    }

    pub(crate) fn shared_opened(&self) -> Rc<Opened> {
        self.state.opened.clone()
    }

    /// Number of bytes that have left the outbox above and not yet the [`bottom`](Self::bottom), as
    /// encoded by the layers.
    #[inline]
    pub fn held(&self) -> usize {
        self.levels.iter().map(|level| level.layer.held() + level.below.len()).sum()
    }

    /// [`held`](Self::held) without the [`bottom`](Self::bottom), and the
    /// [`deadline`](Self::deadline).
    #[inline(always)]
    pub(crate) fn measure(&mut self) -> (usize, Option<Instant>) {
        match &mut self.levels[..] {
            [level] if !self.state.has_failed() => (level.layer.held(), level.deadline()),
            _ => (self.held() - self.bottom().len(), self.deadline()),
        }
    }

    /// Whether bytes or an end are pending for the next [`feed`](Self::feed).
    pub fn is_behind(&self) -> bool {
        matches!(self.state.progress, Progress::Behind | Progress::BehindEnd)
    }

    /// The earliest time at which to call [`timed_out`](Self::timed_out).
    pub fn deadline(&self) -> Option<Instant> {
        let deadlines = self.levels.iter().filter_map(Level::deadline);
        if self.state.has_failed() { None } else { deadlines.min() }
    }

    /// The last deadline of the layers that have still to open.
    pub(crate) fn opening_deadline(&self) -> Option<Instant> {
        let opening = self.levels.iter().filter(|level| level.stage == LevelStage::Opening);
        opening.filter_map(Level::deadline).max()
    }

    /// Notifies the layers whose deadline has passed. Call [`feed`](Self::feed) and
    /// [`down`](Self::down) next.
    pub fn timed_out(&mut self, now: Instant) {
        let due = |level: &&mut Level| level.deadline().is_some_and(|due| due <= now);
        for level in self.levels.iter_mut().filter(due) {
            level.reported_deadline = level.layer.deadline();
            level.layer.timed_out(now);
            self.state.fall_behind();
        }
    }

    /// Drops all bytes in both directions, for a connection that is cut. Later bytes are dropped
    /// too.
    pub fn clear(&mut self) {
        self.state.progress = Progress::Failed;
        for level in &mut self.levels {
            level.below.clear();
            level.unread = Unread::default();
        }
    }

    /// Like [`clear`](Self::clear), but also drops the layers, so that none is called again after a
    /// panic.
    pub(crate) fn drop_layers(&mut self) {
        self.clear();
        for level in &mut self.levels {
            discard("drop of a layer", mem::replace(&mut level.layer, Box::new(DroppedLayer)));
        }
    }

    /// Stops all output on top, as after [`Up::Failed`].
    pub(crate) fn fail(&mut self) {
        self.state.progress = Progress::Failed;
    }

    /// Whether [`Up::Failed`] was returned on top, or the layers were [cleared](Self::clear).
    pub(crate) fn has_failed(&self) -> bool {
        self.state.has_failed()
    }

    /// Whether [`take_spent`](Self::take_spent) has foreign buffers to take.
    pub(crate) fn has_spent(&self) -> bool {
        self.levels.iter().any(|level| level.below.has_spent())
    }

    /// Like [`has_spent`](Self::has_spent), without the bottom, whose spent buffers the send
    /// reports.
    #[inline]
    pub(crate) fn has_spent_above_bottom(&self) -> bool {
        self.levels.len() > 1 && self.has_spent()
    }

    /// Takes the foreign buffers that have left all outboxes, to be dropped while nothing is
    /// borrowed.
    pub fn take_spent(&mut self) -> Vec<Bytes> {
        let mut spent = Vec::new();
        for level in self.levels.iter_mut().filter(|level| level.below.has_spent()) {
            spent.append(&mut level.below.take_spent());
        }
        spent
    }
}

/// Drops every byte. Replaces layers that were dropped.
struct DroppedLayer;

impl Layer for DroppedLayer {
    fn up<'a>(&'a mut self, below: &mut &'a [u8], _: Instant) -> Up<'a> {
        *below = &[];
        Up::Nothing
    }

    fn down(&mut self, above: &mut Outbox, _: &mut Outbox, _: Instant) {
        above.clear();
    }

    fn ended(&mut self) {}
}

impl Drop for Layers {
    /// A panic while one of the user's layers is dropped does not stop the drop of the others.
    fn drop(&mut self) {
        discard_all("drop of a layer", self.levels.drain(..).map(|level| level.layer));
    }
}

impl<S: Sink> Feed<'_, S> {
    /// Passes bytes to the first of these levels, and its output to the others. Leaves the untaken
    /// bytes in `bytes`.
    fn rise(&mut self, levels: &mut [Level], bytes: &mut &[u8]) -> ControlFlow<()> {
        let Some((level, above)) = levels.split_first_mut() else {
            return self.sink.data(mem::take(bytes));
        };
        while level.stage != LevelStage::Ended {
            let mut rest = *bytes;
            let up = level.layer.up(&mut rest, self.now);
            let is_last = matches!(up, Up::Last(_)) && rest.is_empty();
            let handled = self.handle(up, &mut level.stage, above);
            *bytes = &bytes[bytes.len() - rest.len()..];
            match handled {
                Some(Continue(())) if !is_last => {}
                Some(flow) => return flow,
                // Leftover bytes mean that the layer is full.
                None => return if bytes.is_empty() { Continue(()) } else { Break(()) },
            }
        }
        *bytes = &[];
        Continue(())
    }

    /// Continues after the first output of a level.
    #[cold]
    fn continue_feed(
        &mut self,
        levels: &mut [Level],
        mut bytes: &[u8],
        handled: Option<ControlFlow<()>>,
    ) -> ControlFlow<()> {
        let flow = match handled {
            Some(Continue(())) => self.rise(levels, &mut bytes),
            Some(flow) => flow,
            None if bytes.is_empty() => Continue(()),
            None => Break(()),
        };
        match flow {
            Continue(()) => flow,
            Break(()) => self.keep_rest(levels, bytes),
        }
    }

    /// Forwards one item upward from a level at this stage. `None` for `Up::Nothing`.
    #[inline]
    fn handle(
        &mut self,
        up: Up<'_>,
        stage: &mut LevelStage,
        above: &mut [Level],
    ) -> Option<ControlFlow<()>> {
        Some(match up {
            Up::Nothing => return None,
            Up::Data(data) | Up::Last(data) => self.pass_up(above, data),
            Up::Open(info) => self.opened(stage, info),
            Up::Closed => {
                *stage = LevelStage::Ended;
                self.end(above)
            }
            Up::Failed(reason) => {
                *stage = LevelStage::Ended;
                self.fail(reason)
            }
        })
    }

    /// Passes bytes to the levels above, which keep the untaken ones.
    #[inline]
    fn pass_up(&mut self, above: &mut [Level], mut data: &[u8]) -> ControlFlow<()> {
        debug_assert!(!data.is_empty(), "a layer returned empty data");
        if above.is_empty() {
            return self.sink.data(data);
        }
        let flow = self.rise(above, &mut data);
        if flow.is_break() && !data.is_empty() {
            above[0].unread.keep(data);
        }
        flow
    }

    #[cold]
    fn opened(&mut self, stage: &mut LevelStage, info: Option<Box<Opened>>) -> ControlFlow<()> {
        self.state.unopened -=
            usize::from(mem::replace(stage, LevelStage::Open) == LevelStage::Opening);
        if let Some(info) = info {
            Rc::make_mut(&mut self.state.opened).add(*info);
        }
        if self.state.unopened > 0 {
            return Continue(());
        }
        self.sink.handle_event(Up::Open(Some(Box::new(Opened::clone(&self.state.opened)))))
    }

    /// Handles the end of the stream below these levels.
    #[cold]
    fn end(&mut self, levels: &mut [Level]) -> ControlFlow<()> {
        let Some(level) = levels.first_mut() else {
            return self.sink.handle_event(Up::Closed);
        };
        level.layer.ended();
        self.rise(levels, &mut &[][..])
    }

    /// Reports a failure and stops all output on top.
    #[cold]
    fn fail(&mut self, reason: Reason) -> ControlFlow<()> {
        self.state.progress = Progress::Failed;
        let _ = self.sink.handle_event(Up::Failed(reason));
        Break(())
    }

    /// The slow path: processes unread input first, then `bytes`, then the end.
    #[cold]
    fn feed_pending(&mut self, levels: &mut [Level], bytes: &[u8]) -> ControlFlow<()> {
        let has_ended = self.state.progress == Progress::BehindEnd;
        if !self.state.has_failed() {
            self.state.progress = Progress::Even;
        }
        levels.iter_mut().for_each(|level| level.reported_deadline = None);
        let flow = self.feed_unread(levels, bytes);
        if !has_ended || self.state.has_failed() {
            return flow;
        }
        if flow.is_break() {
            self.state.progress = Progress::BehindEnd;
            return flow;
        }
        match self.end(levels) {
            Continue(()) => Continue(()),
            Break(()) => self.keep_rest(levels, &[]),
        }
    }

    /// Processes the unread input of each level, from the top, then `bytes`.
    fn feed_unread(&mut self, levels: &mut [Level], mut bytes: &[u8]) -> ControlFlow<()> {
        for at in (0..levels.len()).rev() {
            if self.state.has_failed() {
                return Continue(());
            }
            let mut unread = mem::take(&mut levels[at].unread);
            let mut rest = unread.rest();
            let flow = self.rise(&mut levels[at..], &mut rest);
            let (left, all) = (rest.len(), unread.rest().len());
            unread.take(all - left);
            if !unread.is_empty() {
                levels[at].unread = unread;
            }
            if flow.is_break() {
                return self.keep_rest(levels, bytes);
            }
        }
        if !bytes.is_empty() && self.rise(levels, &mut bytes).is_break() {
            return self.keep_rest(levels, bytes);
        }
        Continue(())
    }

    /// Keeps leftover bytes after the receiver or a layer has stopped.
    #[cold]
    fn keep_rest(&mut self, levels: &mut [Level], bytes: &[u8]) -> ControlFlow<()> {
        if self.state.has_failed() {
            return Continue(());
        }
        self.state.progress = Progress::Behind;
        levels[0].unread.keep(bytes);
        Break(())
    }
}

impl fmt::Debug for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unread: usize = self.levels.iter().map(|level| level.unread.rest().len()).sum();
        f.debug_struct("Layers")
            .field("levels", &self.levels.len())
            .field("open", &self.is_open())
            .field("held", &self.held())
            .field("unread", &unread)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
