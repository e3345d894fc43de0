//! The loop's optional tokio runtime ([`LoopOptions::tokio`], feature `tokio`), entered around all
//! calls that the loop makes.

use std::io;

#[cfg(feature = "tokio")]
use crate::panics::catch_panic;
use crate::reactor::options::LoopOptions;
#[cfg(feature = "tokio")]
use crate::switches::Switch;

/// A runtime, if the options request one.
pub(super) struct Runtime {
    #[cfg(feature = "tokio")]
    tokio: Option<tokio::runtime::Runtime>,
}

#[cfg(feature = "tokio")]
impl Runtime {
    /// Starts the runtime that the options request.
    pub(super) fn start(options: &LoopOptions) -> io::Result<Runtime> {
        use tokio::runtime::Builder;
        let build = || {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(1).thread_name("couplet-tokio").enable_all().build()
        };
        // tokio panics when the system refuses the thread.
        let start = || catch_panic(build).unwrap_or_else(|text| Err(io::Error::other(text)));
        Ok(Runtime { tokio: options.switches.has(Switch::Tokio).then(start).transpose()? })
    }

    /// Enters the runtime until the result is dropped.
    pub(super) fn enter(&self) -> impl Sized {
        self.tokio.as_ref().map(tokio::runtime::Runtime::enter)
    }
}

#[cfg(feature = "tokio")]
impl Drop for Runtime {
    /// Does not wait: a loop may be dropped where blocking is not allowed.
    fn drop(&mut self) {
        if let Some(tokio) = self.tokio.take() {
            tokio.shutdown_background();
        }
    }
}

#[cfg(not(feature = "tokio"))]
impl Runtime {
    #[expect(clippy::unnecessary_wraps, reason = "with the feature `tokio` it may fail")]
    pub(super) fn start(_options: &LoopOptions) -> io::Result<Runtime> {
        Ok(Runtime {})
    }

    pub(super) fn enter(&self) -> impl Sized {}
}
