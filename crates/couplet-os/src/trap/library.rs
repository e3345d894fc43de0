//! The functions of the C library, under their names. Programs link them by calling [`set`].

use std::ffi::{CStr, c_int, c_uint, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::Duration;

use super::{Answers, Clock};

static ANSWERS: OnceLock<Answers> = OnceLock::new();

/// Sets the answers, for the rest of the program. Later calls change nothing.
///
/// The functions must not panic, and must not request time or entropy themselves.
pub fn set(answers: Answers) {
    let _ = ANSWERS.set(answers);
}

/// Fills the bytes if this thread simulates.
fn fill_random(bytes: &mut [u8]) -> bool {
    let Some(answers) = ANSWERS.get() else { return false };
    for chunk in bytes.chunks_mut(8) {
        let Some(random) = (answers.random)() else { return false };
        chunk.copy_from_slice(&random.to_le_bytes()[..chunk.len()]);
    }
    // With nothing to fill, the system decides whether the call succeeds.
    !bytes.is_empty()
}

fn simulated_time(clock: libc::clockid_t) -> Option<Duration> {
    let clock = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE | libc::CLOCK_TAI => Clock::Realtime,
        libc::CLOCK_MONOTONIC
        | libc::CLOCK_MONOTONIC_COARSE
        | libc::CLOCK_MONOTONIC_RAW
        | libc::CLOCK_BOOTTIME => Clock::Monotonic,
        _ => return None,
    };
    (ANSWERS.get()?.clock)(clock)
}

/// The C library's function behind the one here with the same name.
struct NextSymbol(&'static CStr, AtomicPtr<c_void>);

impl NextSymbol {
    const fn new(name: &'static CStr) -> NextSymbol {
        NextSymbol(name, AtomicPtr::new(std::ptr::null_mut()))
    }

    /// The address of the function; null if the C library has none with this name.
    fn address(&self) -> *mut c_void {
        let known = self.1.load(Ordering::Relaxed);
        if !known.is_null() {
            return known;
        }
        // SAFETY: a name that ends with a zero byte; dlsym may be called from any thread.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.0.as_ptr()) };
        self.1.store(found, Ordering::Relaxed);
        found
    }
}

/// Sets `errno` to ENOSYS, and returns -1, as C functions do.
fn missing_symbol() -> c_int {
    // SAFETY: errno of this thread, which is valid as long as the thread is.
    unsafe { *libc::__errno_location() = libc::ENOSYS };
    -1
}

static CLOCK_GETTIME: NextSymbol = NextSymbol::new(c"clock_gettime");

/// clock_gettime(3).
///
/// # Safety
///
/// As in C: `time` points to a `timespec` that may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> c_int {
    if let Some(now) = simulated_time(clock) {
        let (tv_sec, tv_nsec) = (now.as_secs() as libc::time_t, now.subsec_nanos().into());
        // SAFETY: the caller's promise.
        unsafe { time.write(libc::timespec { tv_sec, tv_nsec }) };
        return 0;
    }
    type Real = unsafe extern "C" fn(libc::clockid_t, *mut libc::timespec) -> c_int;
    // SAFETY: null, or the address of the C library's function of this name, which has this type; the
    // rest is the caller's promise.
    unsafe {
        match std::mem::transmute::<*mut c_void, Option<Real>>(CLOCK_GETTIME.address()) {
            Some(real) => real(clock, time),
            None => missing_symbol(),
        }
    }
}

/// gettimeofday(2). The obsolete time zone is left unchanged.
///
/// # Safety
///
/// As in C: `time` is null, or points to a `timeval` that may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gettimeofday(time: *mut libc::timeval, _zone: *mut c_void) -> c_int {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec on this stack.
    let outcome = unsafe { clock_gettime(libc::CLOCK_REALTIME, &raw mut now) };
    if outcome == 0 && !time.is_null() {
        let (tv_sec, tv_usec) = (now.tv_sec, now.tv_nsec / 1000);
        // SAFETY: the caller's promise.
        unsafe { time.write(libc::timeval { tv_sec, tv_usec }) };
    }
    outcome
}

/// time(2).
///
/// # Safety
///
/// As in C: `seconds` is null, or points to a `time_t` that may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn time(seconds: *mut libc::time_t) -> libc::time_t {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec on this stack.
    if unsafe { clock_gettime(libc::CLOCK_REALTIME, &raw mut now) } != 0 {
        return -1;
    }
    if !seconds.is_null() {
        // SAFETY: the caller's promise.
        unsafe { seconds.write(now.tv_sec) };
    }
    now.tv_sec
}

static GETRANDOM: NextSymbol = NextSymbol::new(c"getrandom");

/// getrandom(2).
///
/// # Safety
///
/// As in C: `length` bytes at `buffer` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(
    buffer: *mut c_void,
    length: libc::size_t,
    flags: c_uint,
) -> libc::ssize_t {
    if !buffer.is_null() && length > 0 && ANSWERS.get().is_some() {
        // SAFETY: the caller's promise; a slice of zeros, so that no byte of it is uninitialized.
        let bytes = unsafe {
            buffer.cast::<u8>().write_bytes(0, length);
            std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length)
        };
        if fill_random(bytes) {
            return length as libc::ssize_t;
        }
    }
    type Real = unsafe extern "C" fn(*mut c_void, libc::size_t, c_uint) -> libc::ssize_t;
    // SAFETY: as in `clock_gettime`.
    unsafe {
        match std::mem::transmute::<*mut c_void, Option<Real>>(GETRANDOM.address()) {
            Some(real) => real(buffer, length, flags),
            None => missing_symbol() as libc::ssize_t,
        }
    }
}

/// getentropy(3).
///
/// # Safety
///
/// As in C: `length` bytes at `buffer` may be written; at most 256.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getentropy(buffer: *mut c_void, length: libc::size_t) -> c_int {
    if length > 256 {
        // SAFETY: errno of this thread.
        unsafe { *libc::__errno_location() = libc::EIO };
        return -1;
    }
    // SAFETY: the caller's promise. So few bytes are filled completely, or not at all.
    match unsafe { getrandom(buffer, length, 0) } {
        count if count == length as libc::ssize_t => 0,
        _ => -1,
    }
}
