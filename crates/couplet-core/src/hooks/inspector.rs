//! Hooks for `couplet-inspect`, which inspects loops from its own thread.

use std::any::Any;
use std::sync::Arc;

pub use crate::driver::connection_log::LoggedConnection;
pub use crate::driver::contents::Contents;
pub use crate::driver::ring::{Kind, Record, Ring};
pub use crate::driver::stalls::UserCall;
pub use crate::events::redirect;
pub use crate::internals::{Chain, ChainResult, ChainState, ChainStep, chain};
pub use crate::layers::segment::{ACK, FIN, LONGEST, PSH, RST, SEGMENT, SYN, Segment, same_family};
use crate::reactor::Snapshot;
pub use crate::reactor::frames::{Frame, Frames, TableLimits};
pub use crate::reactor::inspect::{InspectedLoop, Inspector, Observing};
pub use crate::reactor::snapshot::{DeferredSnapshot, LockSnapshot, PendingSnapshot, WaitRef};
pub use crate::why::{Why, WhyPart, short_type, size, time};
use crate::{LoopOptions, Reactor, Transport};

/// Has the loops with these options inspected, which makes them keep the places of timed calls, tasks
/// and jobs.
#[must_use]
pub fn inspect(options: LoopOptions, inspector: Arc<dyn Inspector>) -> LoopOptions {
    options.inspected_by(inspector)
}

/// Has `revise` change each snapshot of the loop before it is delivered, in place of the function
/// set before: for guests in another language, which know types and places that the loop does not.
/// Called in the loop's thread, and dropped with the loop.
pub fn revise_snapshots(reactor: &Reactor, revise: impl Fn(&mut Snapshot) + 'static) {
    reactor.revise_snapshots(revise);
}

/// Renames the protocol of a connection in the events of an inspected loop, when the protocol of a
/// guest in another language is built. Called in the loop's thread.
pub fn name_protocol(transport: &Transport, name: &'static str) {
    transport.reactor().name_protocol(transport.cell.key(), name);
}

/// Records a call into a guest in another language until the result is dropped, among the calls of
/// an inspected loop. `kind` is its kind, such as `timed call`, and `name` its function. `None` in a
/// loop without an observer. Called in the loop's thread.
#[must_use]
pub fn enter(
    reactor: &Reactor,
    kind: &'static str,
    name: impl FnOnce() -> Arc<str>,
) -> Option<Box<dyn Any>> {
    reactor.enter_guest(kind, name)
}
