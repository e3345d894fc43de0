//! Hooks for `couplet-inspect`, which looks at loops from a thread of its own.

use std::sync::Arc;

use crate::LoopOptions;
pub use crate::driver::ring::{Kind, Record, Ring};
pub use crate::driver::stalls::UserCall;
pub use crate::reactor::inspect::{InspectedLoop, Inspector, Observing};
pub use crate::why::{short_type, size, time};

/// Has the loops with these options inspected. They keep the places of timed calls, tasks and jobs.
#[must_use]
pub fn inspect(options: LoopOptions, inspector: Arc<dyn Inspector>) -> LoopOptions {
    options.inspected_by(inspector)
}
