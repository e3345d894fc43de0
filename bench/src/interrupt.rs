//! Ctrl-C and SIGTERM: the first one ends the run at the next wait, so that servers and files of the
//! run are removed; a second one ends the process immediately, and the servers' watches end them.

use std::io::{self, Error, ErrorKind};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// The number of the signal, 0 before it.
static SIGNAL: OnceLock<Arc<AtomicUsize>> = OnceLock::new();

/// Begins to catch both signals.
pub(crate) fn catch() -> io::Result<()> {
    let number = SIGNAL.get_or_init(Arc::default);
    let is_second = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal only arms the second.
        flag::register_conditional_shutdown(signal, 128 + signal, is_second.clone())?;
        flag::register(signal, is_second.clone())?;
        flag::register_usize(signal, number.clone(), signal as usize)?;
    }
    Ok(())
}

/// The signal's number, if one has come.
pub(crate) fn signal() -> Option<u8> {
    let number = SIGNAL.get().map_or(0, |number| number.load(Ordering::Relaxed));
    (number > 0).then_some(number as u8)
}

/// An error once a signal has come.
pub(crate) fn check() -> io::Result<()> {
    match signal() {
        None => Ok(()),
        Some(_) => Err(Error::new(ErrorKind::Interrupted, "interrupted")),
    }
}
