//! Buffers of HTTP/1.1 connections. They are freed soon after the last response, so that the memory
//! of idle connections is contiguous, and the heap is trimmed after many were in use.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use super::watch::Watch;
use couplet_core::{DelayedCall, Reactor};

/// A connection without a request keeps hyper's state and buffers for one to two times this long.
const WARM: Duration = Duration::from_millis(50);

/// If this many connections had buffers at the same time, trim the heap once half of them have
/// freed theirs: the allocator keeps free memory between the parts still in use.
const WORTH_TRIMMING: usize = 64;

/// Delay before trimming, so that more connections can free their buffers first.
const UNTRIMMED: Duration = Duration::from_secs(5);

/// Connections with buffers.
pub(super) struct Warm {
    reactor: Reactor,
    /// Law 9: at most one entry for each connection with buffers.
    noted: RefCell<Vec<Rc<Watch>>>,
    /// Number of connections with buffers.
    count: Cell<usize>,
    /// Maximum of `count` since the heap was last trimmed.
    most: Cell<usize>,
    sweep: Cell<Option<DelayedCall>>,
    trim: Cell<Option<DelayedCall>>,
    is_trimming: Cell<bool>,
}

impl Warm {
    pub(super) fn new(reactor: &Reactor) -> Rc<Warm> {
        Rc::new(Warm {
            reactor: reactor.clone(),
            noted: RefCell::default(),
            count: Cell::default(),
            most: Cell::default(),
            sweep: Cell::default(),
            trim: Cell::default(),
            is_trimming: Cell::default(),
        })
    }

    fn call_later(self: &Rc<Warm>, delay: Duration, call: fn(&Rc<Warm>)) -> Option<DelayedCall> {
        let weak = Rc::downgrade(self);
        Some(self.reactor.call_later(delay, move || {
            if let Some(warm) = weak.upgrade() {
                call(&warm);
            }
        }))
    }

    #[cold]
    fn add(self: &Rc<Warm>, watch: &Rc<Watch>) -> usize {
        let mut noted = self.noted.borrow_mut();
        if noted.is_empty() {
            self.sweep.set(self.call_later(WARM, Warm::sweep));
        }
        noted.push(watch.clone());
        noted.len() - 1
    }

    fn remove(&self, at: usize) {
        let mut noted = self.noted.borrow_mut();
        let watch = noted.swap_remove(at);
        if let Some(moved) = noted.get(at) {
            moved.set_place(Some(at));
        }
        if noted.is_empty() {
            cancel(&self.sweep);
        }
        drop(noted);
        watch.set_place(None);
    }

    /// Asks the connections without a request to free their buffers.
    fn sweep(self: &Rc<Warm>) {
        self.noted.borrow().iter().for_each(|watch| watch.cool(WARM));
        self.sweep.set(self.call_later(WARM, Warm::sweep));
    }

    fn trim(self: &Rc<Warm>) {
        self.is_trimming.set(false);
        self.most.set(self.count.get());
        couplet_os::heap::trim();
    }
}

fn cancel(call: &Cell<Option<DelayedCall>>) {
    if let Some(call) = call.take() {
        call.cancel();
    }
}

impl Drop for Warm {
    fn drop(&mut self) {
        cancel(&self.sweep);
        cancel(&self.trim);
    }
}

/// Counts a connection that holds hyper's state and buffers.
pub(super) struct Buffers<'a> {
    warm: &'a Rc<Warm>,
    watch: &'a Rc<Watch>,
}

impl<'a> Buffers<'a> {
    pub(super) fn new(warm: &'a Rc<Warm>, watch: &'a Rc<Watch>) -> Buffers<'a> {
        warm.count.set(warm.count.get() + 1);
        warm.most.set(warm.most.get().max(warm.count.get()));
        Buffers { warm, watch }
    }

    /// Frees the buffers unless a request arrives soon.
    #[inline]
    pub(super) fn note_idle(&self) {
        if self.watch.place().is_none() {
            let place = self.warm.add(self.watch);
            self.watch.set_place(Some(place));
        }
    }
}

impl Drop for Buffers<'_> {
    fn drop(&mut self) {
        if let Some(at) = self.watch.place() {
            self.warm.remove(at);
        }
        let Warm { count, most, is_trimming, .. } = &**self.warm;
        count.set(count.get() - 1);
        let is_worth = most.get() >= WORTH_TRIMMING && count.get() <= most.get() / 2;
        if is_worth && !is_trimming.replace(true) {
            self.warm.trim.set(self.warm.call_later(UNTRIMMED, Warm::trim));
        }
    }
}
