//! The layers of a connection, with their panics caught.
//!
//! Layers are user code: each of their methods, and the drop of each, may panic.
//! [`GuardedLayers::call`] is the only way to call them. A panic becomes an error and drops all
//! layers, so that none is called again; their outboxes remain, empty. Between calls the connection
//! does not query its layers: it reads the values measured at the end of the last call.
//!
//! Contract: 44.

#[cfg(feature = "testing")]
use std::any::TypeId;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;

use crate::driver::{Outbox, Spares};
use crate::error::Reason;
use crate::layers::{Layer, LayerWaker, Layers, Opened};
use crate::panics::{Contained, catch_panic, log_text};

pub(super) struct GuardedLayers {
    layers: Layers,
    /// Bytes in the layers, excluding the bottom.
    above_bottom: usize,
    deadline: Option<Instant>,
    /// Whether the deadline moved since [`take_moved`](Self::take_moved).
    deadline_moved: bool,
}

impl GuardedLayers {
    /// Takes the layers from the socket up. The second value is the text of a panic.
    pub(super) fn new(
        layers: Vec<Box<dyn Layer>>,
        spares: &Rc<Spares>,
        waker: &dyn Fn() -> LayerWaker,
    ) -> (GuardedLayers, Result<(), String>) {
        let layers = Layers::new_unstarted(layers, spares);
        let mut guarded =
            GuardedLayers { layers, above_bottom: 0, deadline: None, deadline_moved: false };
        let begun = guarded.call(|layers| {
            layers.attach(waker);
            layers.begin();
        });
        (guarded, begun)
    }

    /// Calls the layers. The error is the text of a panic.
    #[inline(always)]
    pub(super) fn call<R>(&mut self, f: impl FnOnce(&mut Layers) -> R) -> Result<R, String> {
        let outcome = catch_panic(|| {
            let outcome = f(&mut self.layers);
            let (above_bottom, deadline) = self.layers.measure();
            self.above_bottom = above_bottom;
            if self.deadline != deadline {
                (self.deadline, self.deadline_moved) = (deadline, true);
            }
            outcome
        });
        if outcome.is_err() {
            self.clear_out();
        }
        outcome
    }

    /// Adds a layer on top of a live connection: [`Layers::push_boxed`].
    pub(super) fn push(
        &mut self,
        mut layer: Contained<Box<dyn Layer>>,
        waker: &dyn Fn() -> LayerWaker,
        clear: &mut Outbox,
        now: Instant,
    ) -> Result<Result<(), Reason>, String> {
        self.call(|layers| {
            layer.attach(waker);
            layers.push_contained(layer, clear, now)
        })
    }

    /// The names of the layers, from the socket up, and the name of the first that has still to open.
    /// Nothing if a layer panics.
    pub(super) fn names(&self) -> (Vec<&'static str>, Option<&'static str>) {
        let names = catch_panic(|| self.layers.names().collect::<Vec<_>>()).unwrap_or_default();
        let opening = names.iter().find(|(_, is_opening)| *is_opening);
        (names.iter().map(|(name, _)| *name).collect(), opening.map(|(name, _)| *name))
    }

    /// The kinds of the layers, unless one of them panics.
    #[cfg(feature = "testing")]
    pub(super) fn kinds(&self) -> Option<Vec<TypeId>> {
        catch_panic(|| self.layers.kinds()).ok()
    }

    #[cold]
    fn clear_out(&mut self) {
        self.layers.drop_layers();
        (self.above_bottom, self.deadline, self.deadline_moved) = (0, None, true);
    }

    /// Drops all bytes: [`Layers::clear`].
    #[cold]
    pub(super) fn clear(&mut self) {
        if let Err(text) = self.call(Layers::clear) {
            log_text("a layer", &text);
        }
    }

    /// The socket's stream has ended; the next feed reports that to the layers.
    pub(super) fn end(&mut self) {
        self.layers.ended();
    }

    /// Stops input from rising. The layers may still send the bytes that they hold.
    pub(super) fn fail(&mut self) {
        self.layers.fail();
    }

    pub(super) fn keep(&mut self, bytes: &[u8]) {
        self.layers.keep(bytes);
    }

    #[inline]
    pub(super) fn bottom(&mut self) -> &mut Outbox {
        self.layers.bottom()
    }

    /// Bytes in the layers, excluding the bottom.
    #[inline]
    pub(super) fn above_bottom(&self) -> usize {
        self.above_bottom
    }

    #[inline]
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether the deadline moved since the previous call.
    #[inline]
    pub(super) fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.deadline_moved)
    }

    #[inline]
    pub(super) fn is_open(&self) -> bool {
        self.layers.is_open()
    }

    pub(super) fn has_failed(&self) -> bool {
        self.layers.has_failed()
    }

    /// Whether [all have done their work](Layers::are_finished).
    pub(super) fn are_finished(&mut self) -> Result<bool, String> {
        self.call(|layers| layers.are_finished())
    }

    pub(super) fn take_unread(&mut self) -> Vec<u8> {
        self.layers.take_unread()
    }

    pub(super) fn opened(&self) -> Rc<Opened> {
        self.layers.shared_opened()
    }

    /// Whether the stream has ended on top: [`Layers::has_ended`].
    pub(super) fn has_ended(&self) -> bool {
        self.layers.has_ended()
    }

    pub(super) fn is_behind(&self) -> bool {
        self.layers.is_behind()
    }

    pub(super) fn has_spent(&self) -> bool {
        self.layers.has_spent()
    }

    #[inline]
    pub(super) fn has_spent_above_bottom(&self) -> bool {
        self.layers.has_spent_above_bottom()
    }

    pub(super) fn take_spent(&mut self) -> Vec<Bytes> {
        self.layers.take_spent()
    }
}
