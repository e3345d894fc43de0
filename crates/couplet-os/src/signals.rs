//! Signals as bytes on a pipe, with the previous handlers put back at the end.
//!
//! A handler may do next to nothing, so ours writes the signal's number to a pipe, and the loop
//! reads it there. One [`Signals`] can live at a time in a process.
//!
//! A program that hangs reads nothing: where SIGINT or SIGTERM comes while one has waited for a
//! second, it does what it does without us, and ends the process.

#[cfg(unix)]
pub use unix::Signals;

/// SIGINT.
pub const INTERRUPT: i32 = 2;
/// SIGTERM.
pub const TERMINATE: i32 = 15;
/// SIGUSR1; 0 where there is none.
#[cfg(unix)]
pub const USER1: i32 = libc::SIGUSR1;
/// SIGUSR1; 0 where there is none.
#[cfg(not(unix))]
pub const USER1: i32 = 0;

#[cfg(unix)]
mod unix {
    use std::io::{self, PipeReader, PipeWriter, Read};
    use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

    use super::{INTERRUPT, TERMINATE};

    /// Made once and never closed: a handler that still runs in another thread writes to nothing
    /// else.
    static PIPE: OnceLock<(PipeReader, PipeWriter)> = OnceLock::new();
    static TAKEN: AtomicBool = AtomicBool::new(false);
    /// Since when a signal that ends programs waits to be read, in milliseconds; 0 when none does.
    static WAITS_SINCE: AtomicI64 = AtomicI64::new(0);
    /// Who has not read it by then hangs.
    const HANGS_AFTER: i64 = 1000;

    /// Signals that arrive, until it is dropped: then the previous handlers are back.
    pub struct Signals {
        reader: &'static PipeReader,
        previous: Vec<(i32, libc::sigaction)>,
    }

    impl std::fmt::Debug for Signals {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("Signals").finish_non_exhaustive()
        }
    }

    impl Signals {
        /// Takes these signals over.
        ///
        /// # Errors
        ///
        /// `AlreadyExists` when another `Signals` lives in this process, else what the system says.
        pub fn take(signals: &[i32]) -> io::Result<Signals> {
            if TAKEN.swap(true, Ordering::SeqCst) {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "another loop of this process has the signals",
                ));
            }
            Self::install(signals).inspect_err(|_| TAKEN.store(false, Ordering::SeqCst))
        }

        fn install(signals: &[i32]) -> io::Result<Signals> {
            let mut taken = Signals { reader: pipe()?, previous: Vec::new() };
            // What came for the one before is not ours.
            while taken.read().is_some() {}
            for &signal in signals {
                // On an error the drop of `taken` puts back what was replaced so far.
                taken.previous.push((signal, replace(signal)?));
            }
            Ok(taken)
        }

        /// The next signal that came, if there is one. Does not wait.
        pub fn read(&mut self) -> Option<i32> {
            let mut byte = [0];
            let Ok(1) = self.reader.read(&mut byte) else { return None };
            // Behind the read: so it is 0 when nothing waits.
            WAITS_SINCE.store(0, Ordering::SeqCst);
            Some(i32::from(byte[0]))
        }
    }

    impl AsFd for Signals {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.reader.as_fd()
        }
    }

    impl Drop for Signals {
        fn drop(&mut self) {
            for (signal, action) in self.previous.drain(..).rev() {
                // SAFETY: `action` is what sigaction gave us for this signal.
                unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
            }
            TAKEN.store(false, Ordering::SeqCst);
        }
    }

    /// The pipe of this process. Only who has [`TAKEN`] calls it.
    fn pipe() -> io::Result<&'static PipeReader> {
        if PIPE.get().is_none() {
            let (reader, writer) = io::pipe()?;
            nonblocking(reader.as_fd())?;
            nonblocking(writer.as_fd())?;
            PIPE.get_or_init(|| (reader, writer));
        }
        Ok(&PIPE.get().expect("it was made").0)
    }

    fn nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
        // SAFETY: fcntl with F_GETFL and F_SETFL touches only the open descriptor.
        let rc = unsafe {
            let flags = libc::fcntl(fd.as_raw_fd(), libc::F_GETFL);
            libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK)
        };
        if rc == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn replace(signal: i32) -> io::Result<libc::sigaction> {
        // SAFETY: an all-zero sigaction is a valid value; both pointers point to one, and the
        // handler installed is async-signal-safe (see there).
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            let mut previous: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as *const () as libc::sighandler_t;
            action.sa_flags = libc::SA_RESTART;
            libc::sigemptyset(&raw mut action.sa_mask);
            if libc::sigaction(signal, &raw const action, &raw mut previous) == -1 {
                return Err(io::Error::last_os_error());
            }
            Ok(previous)
        }
    }

    extern "C" fn on_signal(signal: libc::c_int) {
        // A look at what is set is one atomic load.
        let Some((_, writer)) = PIPE.get() else { return };
        let byte = signal as u8;
        // SAFETY: write, clock_gettime, signal and raise are async-signal-safe, errno is kept, and
        // the buffer is one byte on this stack. A full pipe is an error that is rightly ignored:
        // the signals before it are unread yet.
        unsafe {
            let errno = errno_location();
            let saved = *errno;
            if [INTERRUPT, TERMINATE].contains(&signal) && one_waits_too_long() {
                libc::signal(signal, libc::SIG_DFL);
                libc::raise(signal);
            }
            libc::write(writer.as_raw_fd(), (&raw const byte).cast(), 1);
            *errno = saved;
        }
    }

    /// A signal came: whether the one before it was not read for too long.
    #[allow(clippy::useless_conversion, reason = "not on every system")]
    fn one_waits_too_long() -> bool {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the pointer is to a timespec on this stack.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
        let now = (i64::from(now.tv_sec) * 1000 + i64::from(now.tv_nsec) / 1_000_000).max(1);
        let before = WAITS_SINCE.compare_exchange(0, now, Ordering::SeqCst, Ordering::SeqCst);
        before.is_err_and(|since| now - since >= HANGS_AFTER)
    }

    #[cfg(any(target_os = "linux", target_os = "emscripten", target_os = "hurd"))]
    fn errno_location() -> *mut libc::c_int {
        // SAFETY: gives the address of this thread's errno; no precondition.
        unsafe { libc::__errno_location() }
    }

    #[cfg(any(target_vendor = "apple", target_os = "freebsd", target_os = "dragonfly"))]
    fn errno_location() -> *mut libc::c_int {
        // SAFETY: gives the address of this thread's errno; no precondition.
        unsafe { libc::__error() }
    }

    #[cfg(any(target_os = "android", target_os = "netbsd", target_os = "openbsd"))]
    fn errno_location() -> *mut libc::c_int {
        // SAFETY: gives the address of this thread's errno; no precondition.
        unsafe { libc::__errno() }
    }
}
