//! The runtime of tokio that a loop brings, if it is asked for one ([`LoopOptions::tokio`], feature
//! `tokio`): entered around whatever the loop calls.

use std::io;

use super::LoopOptions;
#[cfg(feature = "tokio")]
use crate::panics::caught;

/// A runtime, or none.
pub(super) struct Runtime {
    #[cfg(feature = "tokio")]
    tokio: Option<tokio::runtime::Runtime>,
}

#[cfg(feature = "tokio")]
impl Runtime {
    /// Starts the runtime that the options ask for.
    pub(super) fn start(options: &LoopOptions) -> io::Result<Runtime> {
        use tokio::runtime::Builder;
        let build = || {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(1).thread_name("couplet-tokio").enable_all().build()
        };
        // It panics when the system refuses the thread.
        let start = || caught(build).unwrap_or_else(|text| Err(io::Error::other(text)));
        Ok(Runtime { tokio: options.tokio.then(start).transpose()? })
    }

    /// Enters the runtime, until the result is dropped.
    pub(super) fn enter(&self) -> impl Sized {
        self.tokio.as_ref().map(tokio::runtime::Runtime::enter)
    }
}

#[cfg(feature = "tokio")]
impl Drop for Runtime {
    /// Waits for nothing: a loop may be dropped where blocking is not allowed.
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
