//! [`FilesystemLock`]: one of several processes at a time. Twisted's `DeferredFilesystemLock`.

use std::any::Any;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::defer::{Deferred, Result};
use crate::reactor::Reactor;

/// The first wait for a lock that is held.
const FIRST: Duration = Duration::from_millis(10);

/// The longest wait.
const LONGEST: Duration = Duration::from_secs(1);

/// A lock that one process, and one holder in it, has at a time. It is a file, which the holder has
/// locked, and removes when it unlocks.
///
/// The system ends a lock (flock(2)) with its process, however that ends, so a process that died
/// leaves a file but no lock. The file has the mode 0600: all processes must be of one user.
/// On other systems than Unix every attempt is an error, [`Unsupported`](io::ErrorKind::Unsupported).
/// In the memory driver and the simulator files exist only as locks.
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
    /// The lock of this file, in a folder that exists. Takes nothing yet.
    pub fn new(reactor: &Reactor, path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        // The process may change its folder.
        let path = std::path::absolute(&path).unwrap_or(path);
        Self { reactor: reactor.clone(), path, longest: LONGEST }
    }

    /// Sets the longest time between two attempts of [`lock`](Self::lock): 1 s unless set.
    #[must_use]
    pub fn longest_wait(mut self, time: Duration) -> Self {
        self.longest = time;
        self
    }

    /// Locks it, unless it is held: then it returns `None`.
    ///
    /// # Errors
    ///
    /// The system's error, with the path: no such folder, permission denied, …
    /// [`AlreadyExists`](io::ErrorKind::AlreadyExists) if there is something that is no lock file: a
    /// file that is not empty, or a symbolic link. It is left as it is.
    pub fn try_lock(&self) -> io::Result<Option<FilesystemGuard>> {
        let guard = |lock| FilesystemGuard { path: self.path.clone(), _lock: lock };
        self.reactor.lock_file(&self.path).map(|lock| lock.map(guard)).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot lock {}: {error}", self.path.display()))
        })
    }

    /// Locks it: immediately if it is free. Otherwise it tries again, after 10 ms first, then after
    /// twice the time of the last wait, and at least every second
    /// ([`longest_wait`](Self::longest_wait)). There is no order among those who wait.
    ///
    /// Fails like [`try_lock`](Self::try_lock), and with [`Cancelled`](crate::defer::Cancelled) when
    /// the loop ends. Cancelling it ends the attempts; [`add_timeout`](Deferred::add_timeout) limits
    /// them. Twisted's `deferUntilLocked`.
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

    /// The path of the file, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl fmt::Debug for FilesystemGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilesystemGuard").field("path", &self.path).finish_non_exhaustive()
    }
}
