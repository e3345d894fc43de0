//! [`FilesystemLock`]: mutual exclusion between processes. Twisted's `DeferredFilesystemLock`.
//!
//! Contract: 129a, 129b.

use std::any::Any;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::defer::{Deferred, Result};
use crate::recorder::Reactor;

/// The delay before the second attempt to lock.
const FIRST: Duration = Duration::from_millis(10);

/// The default longest delay between attempts.
const LONGEST: Duration = Duration::from_secs(1);

/// A lock with one holder at a time, across processes and within each. The lock is a file, which
/// its holder locks, and removes on unlocking.
///
/// The system releases the lock (flock(2)) when its process ends, however it ends, so a process
/// that died leaves a file but no lock. The file has the mode 0600, so all processes must run as
/// one user. On systems other than Unix, every attempt fails with
/// [`Unsupported`](io::ErrorKind::Unsupported). In the memory driver and the simulator, files exist
/// only as locks.
///
/// ```
/// use couplet::task::FilesystemLock;
///
/// # let folder = std::env::temp_dir().join(format!("couplet-lock-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # let path = folder.join("poems.lock");
/// couplet::run_until(|reactor| {
///     let lock = FilesystemLock::new(reactor, path);
///     reactor.spawn(async move {
///         let guard = lock.lock().await?;
///         assert!(lock.try_lock()?.is_none());
///         drop(guard);
///         assert!(lock.try_lock()?.is_some());
///         Ok(())
///     })
/// })?;
/// # std::fs::remove_dir(&folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct FilesystemLock {
    reactor: Reactor,
    path: PathBuf,
    longest: Duration,
}

/// A held [`FilesystemLock`]. Dropping it unlocks it and removes its file.
#[must_use = "dropping the guard unlocks"]
pub struct FilesystemGuard {
    path: PathBuf,
    _lock: Box<dyn Any>,
}

impl FilesystemLock {
    /// A lock at `path`, in an existing folder. Does not lock it.
    pub fn new(reactor: &Reactor, path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        // The process may change its working directory.
        let path = std::path::absolute(&path).unwrap_or(path);
        Self { reactor: reactor.clone(), path, longest: LONGEST }
    }

    /// Sets the longest delay between two attempts of [`lock`](Self::lock). Default: 1 s.
    #[must_use]
    pub fn longest_wait(mut self, time: Duration) -> Self {
        self.longest = time;
        self
    }

    /// Locks it; returns `None` if it is held.
    ///
    /// # Errors
    ///
    /// The system's error, with the path: no such folder, permission denied, …
    /// [`AlreadyExists`](io::ErrorKind::AlreadyExists) if the path is not a lock file: a file that
    /// is not empty, or a symbolic link. The existing file is not changed.
    pub fn try_lock(&self) -> io::Result<Option<FilesystemGuard>> {
        let guard = |lock| FilesystemGuard { path: self.path.clone(), _lock: lock };
        self.reactor.lock_file(&self.path).map(|lock| lock.map(guard)).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot lock {}: {error}", self.path.display()))
        })
    }

    /// Locks it: immediately if it is free. Otherwise it retries, first after 10 ms, then with a
    /// delay that doubles each time, but at least every second
    /// ([`longest_wait`](Self::longest_wait)). Waiters are not ordered.
    ///
    /// Fails like [`try_lock`](Self::try_lock), and with [`Cancelled`](crate::defer::Cancelled)
    /// when the loop ends. Cancelling it ends the attempts; [`add_timeout`](Deferred::add_timeout)
    /// limits them. Twisted's `deferUntilLocked`.
    #[track_caller]
    pub fn lock(&self) -> Deferred<FilesystemGuard> {
        match self.try_lock() {
            Ok(Some(guard)) => Deferred::succeed(guard),
            Ok(None) => self.reactor.spawn(self.clone().wait()),
            Err(error) => Deferred::fail(error),
        }
    }

    async fn wait(self) -> Result<FilesystemGuard> {
        let mut wait = FIRST.min(self.longest);
        loop {
            self.reactor.sleep(wait).await?;
            if let Some(guard) = self.try_lock()? {
                return Ok(guard);
            }
            wait = (2 * wait).min(self.longest);
        }
    }

    /// The absolute path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl fmt::Debug for FilesystemGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilesystemGuard").field("path", &self.path).finish_non_exhaustive()
    }
}
