//! The size of a socket's send queue.
//!
//! Contract: 15, 15d.

/// Bytes in the send queue of a connected stream socket: unsent, or sent and not yet acknowledged.
/// `None` if the system does not report it.
///
/// TIOCOUTQ on Linux, SO_NWRITE on macOS.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn unsent(socket: &impl std::os::fd::AsFd) -> Option<usize> {
    use std::os::fd::AsRawFd;
    let mut count: libc::c_int = 0;
    // SAFETY: the descriptor is open while `socket` is borrowed, and TIOCOUTQ writes one c_int
    // through the pointer, which points to one.
    let rc = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    (rc == 0).then_some(count.max(0) as usize)
}

/// Bytes in the send queue of a connected stream socket (SO_NWRITE).
#[cfg(target_vendor = "apple")]
pub fn unsent(socket: &impl std::os::fd::AsFd) -> Option<usize> {
    use std::os::fd::AsRawFd;
    let mut count: libc::c_int = 0;
    let mut size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open while `socket` is borrowed; `count` and `size` live through
    // the call and `size` says how long `count` is.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NWRITE,
            (&raw mut count).cast(),
            &raw mut size,
        )
    };
    (rc == 0).then_some(count.max(0) as usize)
}

/// Always `None`: this system does not report it.
#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
pub fn unsent<S>(_socket: &S) -> Option<usize> {
    None
}
