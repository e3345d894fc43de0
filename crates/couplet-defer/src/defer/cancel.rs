//! Cancellation: walks iteratively from the end of a chain up to the node that it is waiting for.
//!
//! Contract: 112, 116.

use std::cell::Cell;
use std::fmt;
use std::rc::{Rc, Weak};

use super::node::Node;

/// The nodes that a node waits for, as cancellation sees them.
pub(super) enum Upstream {
    /// None: the node has fired, or is the origin and has cancelled itself.
    Nothing,
    /// One other node.
    One(Rc<dyn Node>),
    /// The members of a list, gather or race.
    Many(Vec<Weak<dyn Node>>),
}

/// Cancels the origins that `start` waits for.
pub(super) fn cancel(start: Rc<dyn Node>) {
    cancel_each(vec![], Some(start));
}

/// Cancels the origins that `members` wait for, in order.
pub(super) fn cancel_all(mut members: Vec<Weak<dyn Node>>) {
    members.reverse();
    cancel_each(members, None);
}

fn cancel_each(mut pending: Vec<Weak<dyn Node>>, mut current: Option<Rc<dyn Node>>) {
    loop {
        if let Some(node) = current.take() {
            pending.extend(walk(node).into_iter().rev());
        }
        match pending.pop() {
            Some(member) => current = member.upgrade(),
            None => return,
        }
    }
}

/// Walks up from `start`; returns the members if the walk ends at a group.
///
/// A Deferred that waits for itself through others forms a cycle. As a Deferred has one consumer,
/// the cycle contains `start`.
fn walk(start: Rc<dyn Node>) -> Vec<Weak<dyn Node>> {
    let mut node = Rc::clone(&start);
    loop {
        match node.cancel() {
            Upstream::Nothing => return vec![],
            Upstream::Many(members) => return members,
            Upstream::One(above) if Rc::ptr_eq(&above, &start) => return vec![],
            Upstream::One(above) => node = above,
        }
    }
}

/// Cancels a chain from anywhere: see [`Deferred::canceller`](super::Deferred::canceller).
///
/// A canceller does not keep the chain alive. Clones cancel the same chain.
#[derive(Clone)]
pub struct Canceller(pub(super) Rc<OtherNode>);

impl Canceller {
    /// Cancels the Deferred that the chain is waiting for; does nothing if the chain has fired. See
    /// [`Deferred::cancel`](super::Deferred::cancel).
    pub fn cancel(&self) {
        if let Some(end) = self.0.get() {
            cancel(end);
        }
    }
}

impl fmt::Debug for Canceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Canceller").field("alive", &self.0.get().is_some()).finish()
    }
}

/// A node that is not kept alive: the one that a link waits for, or the end of a chain. The end
/// moves as links are added, so that a canceller created early also reaches the Deferreds that
/// later links wait for.
#[derive(Default)]
pub(super) struct OtherNode(Cell<Option<Weak<dyn Node>>>);

impl OtherNode {
    pub(super) fn set(&self, node: Option<Weak<dyn Node>>) {
        self.0.set(node);
    }

    pub(super) fn get(&self) -> Option<Rc<dyn Node>> {
        let held = self.0.take();
        let node = held.as_ref().and_then(Weak::upgrade);
        self.0.set(held);
        node
    }
}
