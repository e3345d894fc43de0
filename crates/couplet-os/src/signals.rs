//! Signals as bytes on a pipe; the previous handlers are restored on drop.
//!
//! A signal handler may do almost nothing, so ours writes the signal's number to a pipe, which the
//! loop reads. A process can have only one [`Signals`] at a time.
//!
//! A hanging program does not read the pipe: a SIGINT or SIGTERM that arrives while an earlier one
//! has been unread for a second takes its default action, and ends the process.
//!
//! A SIGINT that is ignored stays ignored: a shell starts programs in the background like that, so that
//! Ctrl-C spares them.
//!
//! Contract: 105, 105g.

use std::io;

#[cfg(unix)]
pub use unix::Signals;

/// SIGINT.
pub const INTERRUPT: i32 = 2;
/// SIGTERM.
pub const TERMINATE: i32 = 15;
/// SIGUSR1; 0 if the system does not have it.
#[cfg(unix)]
pub const USER1: i32 = libc::SIGUSR1;
/// SIGUSR1; 0 if the system does not have it.
#[cfg(not(unix))]
pub const USER1: i32 = 0;

/// A thread of this process that can be sent a signal, as long as it runs.
#[derive(Clone, Copy, Debug)]
pub struct SignalledThread(i32);

impl SignalledThread {
    /// The calling thread.
    pub fn current() -> SignalledThread {
        #[cfg(target_os = "linux")]
        // SAFETY: no precondition.
        return SignalledThread(unsafe { libc::gettid() });
        #[cfg(not(target_os = "linux"))]
        return SignalledThread(0);
    }

    /// Sends the thread a signal.
    ///
    /// # Errors
    ///
    /// The thread has ended, or the number is no signal's. On other systems than Linux: always.
    pub fn send(self, signal: i32) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        {
            // SAFETY: no pointers are passed; the kernel refuses a thread that has ended.
            let sent = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), self.0, signal) };
            if sent == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
        }
        #[cfg(not(target_os = "linux"))]
        {
            let _ = (self.0, signal);
            Err(io::ErrorKind::Unsupported.into())
        }
    }
}

#[cfg(unix)]
mod unix {
    use std::io::{self, PipeReader, PipeWriter, Read};
    use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

    use super::{INTERRUPT, TERMINATE};

    /// Created once and never closed: a handler that still runs in another thread must not write
    /// to a reused descriptor.
    static PIPE: OnceLock<(PipeReader, PipeWriter)> = OnceLock::new();
    static TAKEN: AtomicBool = AtomicBool::new(false);
    /// When the first unread SIGINT or SIGTERM arrived, in milliseconds; 0 if all are read.
    static WAITS_SINCE: AtomicI64 = AtomicI64::new(0);
    /// A program hangs if it has not read a signal for this many milliseconds.
    const HANGS_AFTER: i64 = 1000;

    /// The signals that arrive. Dropping it restores the previous handlers.
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
        /// Installs handlers for these signals, except a SIGINT that is ignored. From then on process 1
        /// also reaps [orphans](crate::orphans).
        ///
        /// # Errors
        ///
        /// `AlreadyExists` if this process has another `Signals`, otherwise the system's error.
        pub fn take(signals: &[i32]) -> io::Result<Signals> {
            if TAKEN.swap(true, Ordering::SeqCst) {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "another loop in this process handles the signals",
                ));
            }
            Self::install(signals).inspect_err(|_| TAKEN.store(false, Ordering::SeqCst))
        }

        fn install(signals: &[i32]) -> io::Result<Signals> {
            let mut taken = Signals { reader: pipe()?, previous: Vec::new() };
            // Discards signals that arrived for a previous `Signals`.
            while taken.read().is_some() {}
            #[cfg(target_os = "linux")]
            crate::orphans::reap_as_init()?;
            for &signal in signals {
                if signal == INTERRUPT && is_ignored(signal) {
                    continue;
                }
                // On an error dropping `taken` restores the handlers replaced so far.
                taken.previous.push((signal, replace(signal)?));
            }
            Ok(taken)
        }

        /// The next signal, if one has arrived. Does not block.
        pub fn read(&mut self) -> Option<i32> {
            let mut byte = [0];
            let Ok(1) = self.reader.read(&mut byte) else { return None };
            // After the read, so that it is 0 while nothing is unread.
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
                // SAFETY: `action` is what sigaction returned for this signal.
                unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
            }
            TAKEN.store(false, Ordering::SeqCst);
        }
    }

    /// The pipe of this process. Called only by the holder of [`TAKEN`].
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

    fn is_ignored(signal: i32) -> bool {
        // SAFETY: an all-zero sigaction is a valid value, and the pointer is to one on this stack.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            let found = libc::sigaction(signal, std::ptr::null(), &raw mut action);
            found == 0 && action.sa_sigaction == libc::SIG_IGN
        }
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
        // Reading an initialized `OnceLock` is one atomic load.
        let Some((_, writer)) = PIPE.get() else { return };
        let byte = signal as u8;
        // SAFETY: write, clock_gettime, signal and raise are async-signal-safe, errno is kept, and
        // the buffer is one byte on this stack. A full pipe is ignored: earlier signals are still
        // unread.
        unsafe {
            let errno = errno_location();
            let saved = *errno;
            if [INTERRUPT, TERMINATE].contains(&signal) && is_loop_hung() {
                libc::signal(signal, libc::SIG_DFL);
                libc::raise(signal);
            }
            libc::write(writer.as_raw_fd(), (&raw const byte).cast(), 1);
            *errno = saved;
        }
    }

    /// Records the arrival of a signal; true if an earlier one has been unread for too long.
    #[allow(clippy::useless_conversion, reason = "not on every system")]
    fn is_loop_hung() -> bool {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the pointer is to a timespec on this stack.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
        let now = (i64::from(now.tv_sec) * 1000 + i64::from(now.tv_nsec) / 1_000_000).max(1);
        let before = WAITS_SINCE.compare_exchange(0, now, Ordering::SeqCst, Ordering::SeqCst);
        before.is_err_and(|since| now - since >= HANGS_AFTER)
    }

    #[cfg(any(target_os = "linux", target_os = "emscripten", target_os = "hurd"))]
    fn errno_location() -> *mut libc::c_int {
        // SAFETY: returns the address of this thread's errno; no precondition.
        unsafe { libc::__errno_location() }
    }

    #[cfg(any(target_vendor = "apple", target_os = "freebsd", target_os = "dragonfly"))]
    fn errno_location() -> *mut libc::c_int {
        // SAFETY: returns the address of this thread's errno; no precondition.
        unsafe { libc::__error() }
    }

    #[cfg(any(target_os = "android", target_os = "netbsd", target_os = "openbsd"))]
    fn errno_location() -> *mut libc::c_int {
        // SAFETY: returns the address of this thread's errno; no precondition.
        unsafe { libc::__errno() }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::ErrorKind;

    use super::Signals;

    fn raise(signal: i32) {
        // SAFETY: no pointers are passed.
        assert_eq!(unsafe { libc::raise(signal) }, 0);
    }

    fn set(signal: i32, action: libc::sighandler_t) {
        // SAFETY: the action is not a function of the program.
        assert_ne!(unsafe { libc::signal(signal, action) }, libc::SIG_ERR);
    }

    /// The present actions of both signals.
    fn actions() -> [libc::sighandler_t; 2] {
        [libc::SIGUSR2, libc::SIGWINCH].map(|signal| {
            // SAFETY: an all-zero sigaction is a valid value, and the pointer is to one on this stack.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                assert_eq!(libc::sigaction(signal, std::ptr::null(), &raw mut action), 0);
                action.sa_sigaction
            }
        })
    }

    /// One test, because a process has one `Signals` at a time.
    #[test]
    fn c105_signals_are_read_in_order_and_given_back_also_after_a_failure() {
        let all = [libc::SIGUSR2, libc::SIGWINCH];
        set(libc::SIGUSR2, libc::SIG_IGN);
        let before = [libc::SIG_IGN, libc::SIG_DFL];
        for _ in 0..2 {
            // No handler can have the last one: the others are given back.
            let failed = Signals::take(&[all[0], all[1], libc::SIGKILL]).map(drop);
            assert_eq!(failed.map_err(|error| error.kind()), Err(ErrorKind::InvalidInput));
            assert_eq!(actions(), before);

            let mut signals = Signals::take(&all).expect("they are free");
            assert_eq!(signals.read(), None);
            let other = Signals::take(&all).map(drop);
            assert_eq!(other.map_err(|error| error.kind()), Err(ErrorKind::AlreadyExists));
            for signal in [libc::SIGUSR2, libc::SIGWINCH, libc::SIGUSR2] {
                raise(signal);
            }
            let read = [(); 4].map(|()| signals.read());
            let [second, first] = [libc::SIGWINCH, libc::SIGUSR2].map(Some);
            assert_eq!(read, [first, second, first, None]);

            // What was left unread is not for the next one.
            raise(libc::SIGWINCH);
            raise(libc::SIGUSR2);
            drop(signals);
            assert_eq!(actions(), before);
        }
        assert_eq!(Signals::take(&all).expect("they are free").read(), None);
        set(libc::SIGUSR2, libc::SIG_DFL);
    }
}
