//! [`Allowance`]: how much of an answer a service may fetch before the client takes it.

use std::fmt;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::watch::{Exchange, Watch};
use crate::stream::homing::Homing;

/// The bytes of an answer that may be in memory before the client takes them: in the extensions of a request,
/// where [`HttpOptions::allowance`](super::HttpOptions::allowance) is set.
///
/// A body that fetches its pieces, from a file or from another server, asks before each of them how many bytes
/// it may fetch. They count to [`max_unsent`](super::HttpOptions::max_unsent) from then on, not only once the
/// piece has come. A body of a whole in memory needs none.
///
/// ```
/// # use couplet::http::{Allowance, Body, Request};
/// fn next_piece(request: &Request<Body>) -> usize {
///     let allowance = request.extensions().get::<Allowance>();
///     allowance.map_or(64 * 1024, |allowance| allowance.reserve(64 * 1024))
/// }
/// ```
#[derive(Clone)]
pub struct Allowance(Arc<Homing<Weak<Exchange>>>);

impl Allowance {
    pub(super) fn new(watch: &Watch, exchange: &Rc<Exchange>) -> Allowance {
        let reactor = watch.transport().reactor();
        Allowance(Arc::new(Homing::new(reactor, Rc::downgrade(exchange))))
    }

    /// Reserves up to `most` bytes for the next piece of the answer, in place of an earlier reservation, and
    /// returns how many: fewer the less of the connection's share is left. The reservation ends when the body
    /// returns a frame, or with the answer.
    ///
    /// In a poll of the body, or before the answer's first piece, at least 2 KiB, or `most`. 0 in
    /// another thread than the loop's, and after the answer.
    pub fn reserve(&self, most: usize) -> usize {
        let exchange = self.0.get().and_then(Weak::upgrade);
        exchange.map_or(0, |exchange| exchange.reserve(most))
    }
}

impl fmt::Debug for Allowance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Allowance").finish_non_exhaustive()
    }
}
