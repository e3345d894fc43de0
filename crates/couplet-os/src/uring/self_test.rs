//! The self-test of the system's io_uring.
//!
//! Contract: 106b.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Completion, REAP, Ring, Size};
use crate::owned::Owner;

/// Checks, once in the process, that the system's io_uring meets the driver's needs: it receives
/// more than all buffers hold, in order, and continues after a lack of buffers; an attempt to send
/// to a full socket fails, and the rest is sent when there is room; and a cancelled receive ends.
///
/// # Errors
///
/// The system's error, or the difference; the next call checks again.
pub fn check() -> io::Result<()> {
    static HAS_PASSED: AtomicBool = AtomicBool::new(false);
    if !HAS_PASSED.load(Ordering::Relaxed) {
        self_test()?;
        HAS_PASSED.store(true, Ordering::Relaxed);
    }
    Ok(())
}

fn self_test() -> io::Result<()> {
    let (ours, peer) = UnixStream::pair()?;
    let (ours, peer) = (Owner::from(OwnedFd::from(ours)), Owner::from(OwnedFd::from(peer)));
    let (watched, _other) = UnixStream::pair()?;
    let mut ring = Ring::new(Size { buffers: 2, buffer: 16 * 1024 }, watched.into())?;
    // More than the socket's buffer holds.
    let bytes: Vec<u8> = (0..512 * 1024_u32).map(|n| (n % 251) as u8).collect();
    let mut receiving = ring.receive(1, ours.handle());
    ring.send(2, peer.handle(), bytes.clone(), 0);
    let (mut received, mut is_sent, mut enters) = (Vec::new(), false, 0);
    while received.len() < bytes.len() || !is_sent {
        match ring.next_completion() {
            Some(Completion::Received { is_last, .. }) => {
                received.extend_from_slice(ring.lent());
                if is_last {
                    receiving = ring.receive(1, ours.handle());
                }
            }
            Some(Completion::Stopped { .. }) => receiving = ring.receive(1, ours.handle()),
            Some(Completion::Sent { result, .. }) => {
                result?;
                is_sent = true;
            }
            Some(Completion::Ended { result, .. }) => return Err(differs(result)),
            Some(Completion::Watched) => {}
            None if enters >= 10_000 => return Err(differs("no end")),
            None => ring.enter(Some(REAP.1))?,
        }
        enters += 1;
    }
    if received != bytes {
        return Err(differs("the received bytes"));
    }
    match ring.stop(receiving)? {
        true => Ok(()),
        false => Err(differs("a cancelled receive")),
    }
}

fn differs(what: impl fmt::Debug) -> io::Error {
    io::Error::other(format!("the self-test of io_uring failed: {what:?}"))
}
