//! Loops that handle signals.

use std::time::Duration;

use couplet::{Loop, LoopOptions};

use crate::exit::Exit;
use crate::output;

/// How long a call may hold the loop before `-v` logs it.
const STALL: Duration = Duration::from_secs(1);

/// Enables signals, the inspector if there is one, and stall reports if they would be logged.
pub fn signalled(options: LoopOptions) -> LoopOptions {
    let options = options.signals(true);
    #[cfg(feature = "inspect")]
    let options = crate::inspecting::inspected(options);
    if tracing::enabled!(tracing::Level::INFO) { options.stall_after(STALL) } else { options }
}

/// Creates a loop that handles signals: SIGINT and SIGTERM end the run, SIGUSR1 passes a snapshot
/// of open and pending objects to `tell`.
///
/// The loop lives as long as the process: dropping it would restore the default handlers, and a
/// second Ctrl-C would kill a program that is about to exit.
pub fn signalled_loop(
    options: LoopOptions,
    tell: impl Fn(&str) + 'static,
) -> Result<&'static mut Loop, Exit> {
    let mut l = Loop::with_options(signalled(options)).map_err(|error| {
        Exit::failed(format!("cannot start the loop: {}", output::plain(&error)))
    })?;
    l.on_snapshot(move |snapshot| tell(snapshot.to_string().trim_end()));
    Ok(Box::leak(Box::new(l)))
}
