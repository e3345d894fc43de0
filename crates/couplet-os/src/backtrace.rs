//! Backtraces of other threads of this process.
//!
//! A signal (SIGURG, ignored unless handled) makes the thread record the addresses of its frames in
//! a static array; the requesting thread resolves their names. The handler only calls libgcc's
//! unwinder, which does not allocate. With glibc since 2.35 and GCC since 12 it takes no lock
//! either; earlier versions take the lock of the dynamic linker's list, which is recursive. So a
//! thread that hangs inside malloc, or that holds any lock, can be traced. The only exception is a
//! thread stopped for good while it changes the list or the unwinder's own tables.
//!
//! Other systems, and builds without the feature `backtrace`, have no backtraces:
//! [`Thread::current`] is `None`.
//!
//! Contract: 97a, 179.

#[cfg(not(all(feature = "backtrace", target_os = "linux", target_env = "gnu")))]
pub use none::{Thread, Trace};
#[cfg(all(feature = "backtrace", target_os = "linux", target_env = "gnu"))]
pub use signalled::{Thread, Trace};

#[cfg(all(feature = "backtrace", target_os = "linux", target_env = "gnu"))]
mod signalled {
    use std::ffi::{c_int, c_void};
    use std::fmt;
    use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
    use std::sync::{Mutex, OnceLock, PoisonError};
    use std::time::Duration;

    /// Maximum frames of a backtrace.
    const MAX_FRAMES: usize = 128;
    /// Time limit for an answer. A thread in an uninterruptible system call does not answer.
    const PATIENCE: Duration = Duration::from_millis(100);
    const WAIT: c_int = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    const WAKE: c_int = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;

    /// The thread asked to answer; 0 if idle, and [`ANSWERING`] while a thread answers.
    static ASKED: AtomicI32 = AtomicI32::new(0);
    const ANSWERING: i32 = -1;
    const ANSWERED: i32 = -2;
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    static FRAMES: [AtomicUsize; MAX_FRAMES] = [const { AtomicUsize::new(0) }; MAX_FRAMES];

    /// A thread of this process.
    #[derive(Clone, Copy, Debug)]
    pub struct Thread(libc::pid_t);

    /// The backtrace of a thread, innermost call first.
    #[derive(Debug)]
    pub struct Trace(Vec<usize>);

    impl Thread {
        /// The calling thread; `None` if the system has no backtraces.
        pub fn current() -> Option<Thread> {
            // SAFETY: no precondition.
            Some(Thread(unsafe { libc::gettid() }))
        }

        /// Interrupts the thread to get its backtrace. `None` if it does not answer within 100 ms,
        /// and in a program that handles SIGURG itself. A thread can't capture itself: it gets
        /// `None`.
        pub fn capture(self) -> Option<Trace> {
            self.capture_within(PATIENCE)
        }

        /// Like [`capture`](Self::capture), with another time limit: for programs under a memory
        /// checker, for example, which answer slowly.
        pub fn capture_within(self, patience: Duration) -> Option<Trace> {
            static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
            let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
            // SAFETY: no precondition.
            let is_itself = unsafe { libc::gettid() } == self.0;
            if is_itself || !is_ours() {
                return None;
            }
            // Discards an answer that came too late.
            let _ = ASKED.compare_exchange(ANSWERED, 0, Ordering::SeqCst, Ordering::SeqCst);
            // An answer that never ended occupies the array for good.
            ASKED.compare_exchange(0, self.0, Ordering::SeqCst, Ordering::SeqCst).ok()?;
            // SAFETY: no pointers are passed; the kernel refuses a thread that has ended.
            let sent =
                unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), self.0, libc::SIGURG) };
            loop {
                let state = ASKED.load(Ordering::SeqCst);
                if state == ANSWERED {
                    break;
                }
                if sent != 0 || !wait_for_change(state, patience) {
                    // Withdrawn, unless an answer has begun.
                    let _ = ASKED.compare_exchange(self.0, 0, Ordering::SeqCst, Ordering::SeqCst);
                    return None;
                }
            }
            let count = COUNT.load(Ordering::SeqCst).min(MAX_FRAMES);
            let frames = FRAMES[..count].iter().map(|frame| frame.load(Ordering::SeqCst)).collect();
            ASKED.store(0, Ordering::SeqCst);
            Some(Trace(frames))
        }
    }

    /// Waits until [`ASKED`] is no longer `state`; false on a timeout.
    fn wait_for_change(state: i32, patience: Duration) -> bool {
        let longest = libc::timespec {
            tv_sec: libc::time_t::try_from(patience.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: patience.subsec_nanos() as libc::c_long,
        };
        // SAFETY: the futex is a static, and the time is on this stack.
        let woken = unsafe {
            libc::syscall(libc::SYS_futex, ASKED.as_ptr(), WAIT, state, &raw const longest)
        };
        woken == 0 || std::io::Error::last_os_error().raw_os_error() != Some(libc::ETIMEDOUT)
    }

    /// Installs the handler for good, unless the program has its own.
    fn is_ours() -> bool {
        static INSTALLED: OnceLock<bool> = OnceLock::new();
        *INSTALLED.get_or_init(|| {
            // The unwinder initializes itself at its first use, which should not happen in the
            // handler.
            let mut count = 0;
            unwind(&mut count);
            install().is_some()
        }) && handler() == Some(on_signal as *const () as usize)
    }

    /// The current handler of SIGURG.
    fn handler() -> Option<usize> {
        // SAFETY: an all-zero sigaction is a valid value, and the pointer is to one on this stack.
        unsafe {
            let mut present: libc::sigaction = std::mem::zeroed();
            (libc::sigaction(libc::SIGURG, std::ptr::null(), &raw mut present) == 0)
                .then_some(present.sa_sigaction)
        }
    }

    fn install() -> Option<()> {
        if ![libc::SIG_DFL, libc::SIG_IGN].contains(&handler()?) {
            return None;
        }
        // SAFETY: as above; the handler installed is async-signal-safe (see there).
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as *const () as libc::sighandler_t;
            action.sa_flags = libc::SA_RESTART;
            libc::sigemptyset(&raw mut action.sa_mask);
            (libc::sigaction(libc::SIGURG, &raw const action, std::ptr::null_mut()) == 0)
                .then_some(())
        }
    }

    extern "C" fn on_signal(_: c_int) {
        // SAFETY: gettid and the address of errno have no precondition; errno is this thread's, and
        // is kept. The futex is a static.
        unsafe {
            let errno = libc::__errno_location();
            let saved = *errno;
            let me = libc::gettid();
            if ASKED.compare_exchange(me, ANSWERING, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                let mut count = 0;
                unwind(&mut count);
                COUNT.store(count, Ordering::SeqCst);
                ASKED.store(ANSWERED, Ordering::SeqCst);
                libc::syscall(libc::SYS_futex, ASKED.as_ptr(), WAKE, 1);
            }
            *errno = saved;
        }
    }

    #[repr(C)]
    struct Context {
        _private: [u8; 0],
    }

    // SAFETY: the interface of the C++ ABI's unwinder, which std links.
    unsafe extern "C" {
        fn _Unwind_Backtrace(
            each: extern "C" fn(*mut Context, *mut c_void) -> c_int,
            data: *mut c_void,
        ) -> c_int;
        fn _Unwind_GetIPInfo(context: *mut Context, before: *mut c_int) -> usize;
    }

    /// Records the frames of this thread in [`FRAMES`], and counts them.
    fn unwind(count: &mut usize) {
        // SAFETY: `note` casts the pointer back to the same type, and is called only during this call.
        unsafe { _Unwind_Backtrace(note, std::ptr::from_mut(count).cast()) };
    }

    extern "C" fn note(context: *mut Context, count: *mut c_void) -> c_int {
        const NO_REASON: c_int = 0;
        const END_OF_STACK: c_int = 5;
        let mut before = 0;
        // SAFETY: the unwinder's own context, and the pointer that `unwind` passed.
        let (ip, count) =
            unsafe { (_Unwind_GetIPInfo(context, &raw mut before), &mut *count.cast::<usize>()) };
        let Some(frame) = FRAMES.get(*count).filter(|_| ip != 0) else { return END_OF_STACK };
        // A return address lies after its call, an interrupted frame's before the next instruction.
        frame.store(if before == 0 { ip - 1 } else { ip }, Ordering::SeqCst);
        *count += 1;
        NO_REASON
    }

    impl fmt::Display for Trace {
        /// One line per frame: its function, and its source location if known.
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            for (n, frame) in self.0.iter().enumerate() {
                if n > 0 {
                    f.write_str("\n")?;
                }
                write!(f, "{n:4}: {}", name(*frame))?;
            }
            Ok(())
        }
    }

    fn name(frame: usize) -> String {
        let mut names = Vec::new();
        backtrace::resolve(frame as *mut c_void, |symbol| {
            let name = symbol.name().map_or_else(String::new, |name| format!("{name:#}"));
            names.push(match (symbol.filename(), symbol.lineno()) {
                (Some(file), Some(line)) => format!("{name} ({}:{line})", file.display()),
                _ => name,
            });
        });
        if names.is_empty() { format!("{frame:#x}") } else { names.join("\n      ") }
    }
}

#[cfg(not(all(feature = "backtrace", target_os = "linux", target_env = "gnu")))]
mod none {
    use std::fmt;

    /// A thread of this process. This build has no backtraces, so the type has no values.
    #[derive(Clone, Copy, Debug)]
    pub enum Thread {}

    /// The backtrace of a thread.
    #[derive(Debug)]
    pub enum Trace {}

    impl Thread {
        /// The calling thread; `None` if the system has no backtraces.
        pub fn current() -> Option<Thread> {
            None
        }

        /// Interrupts the thread to get its backtrace.
        pub fn capture(self) -> Option<Trace> {
            match self {}
        }

        /// Like [`capture`](Self::capture), with another time limit.
        pub fn capture_within(self, _: std::time::Duration) -> Option<Trace> {
            match self {}
        }
    }

    impl fmt::Display for Trace {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            match *self {}
        }
    }
}
