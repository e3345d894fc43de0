//! [`Allowance`]: the response bytes that a service may fetch before the client takes them.
//!
//! Contract: 175a.

use std::fmt;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::monitor::{Exchange, Monitor};
use couplet_core::hooks::LoopOwned;

/// Limits the response bytes held in memory until the client takes them. A request carries it as an
/// extension if [`HttpOptions::allowance`](super::HttpOptions::allowance) is set.
///
/// A body that fetches its pieces from a file or another server reserves bytes before each fetch.
/// Reserved bytes count towards [`max_unsent`](super::HttpOptions::max_unsent) immediately, before
/// the piece arrives. A body that is already in memory needs no allowance.
///
/// ```
/// # use couplet::http::{Allowance, Body, Request};
/// fn next_piece(request: &Request<Body>) -> usize {
///     let allowance = request.extensions().get::<Allowance>();
///     allowance.map_or(64 * 1024, |allowance| allowance.reserve(64 * 1024))
/// }
/// ```
#[derive(Clone)]
pub struct Allowance(Arc<LoopOwned<Weak<Exchange>>>);

impl Allowance {
    pub(super) fn new(monitor: &Monitor, exchange: &Rc<Exchange>) -> Allowance {
        let reactor = monitor.transport().reactor();
        Allowance(Arc::new(LoopOwned::new(reactor, Rc::downgrade(exchange))))
    }

    /// Reserves up to `most` bytes for the next piece of the response and returns the number
    /// reserved, which shrinks as the connection's share fills up. Replaces any earlier
    /// reservation. The reservation ends when the body returns a frame or the response ends.
    ///
    /// While the body is being polled, at least 2 KiB are granted, or `most` if that is less. At other
    /// times the result is 0 once the share is used up: the body then reserves when it is polled. The
    /// result is also 0 on any thread but the loop's, and after the response.
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
