//! Replaces an epoll that processes have shared since a fork with one of this process's own.
//!
//! Contract: 106a.

use std::fs::{read_link, read_to_string};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Replaces `epoll`, under its number, with a new epoll that has the same registrations. Duplicates
/// of the descriptor and other processes keep the old one. The registration with the data `waker` is
/// an eventfd, which is replaced as well.
///
/// A registration whose descriptor has been closed is omitted, even if its number was reused. A
/// ready registration raises an edge.
///
/// # Errors
///
/// The system's error: a limit on descriptors, or a missing `/proc`, which lists the registrations.
/// `InvalidInput` if the descriptor is not an epoll.
pub fn renew(epoll: BorrowedFd<'_>, waker: u64) -> io::Result<()> {
    check(epoll)?;
    let listed = read_to_string(format!("/proc/self/fdinfo/{}", epoll.as_raw_fd()))?;
    // SAFETY: the call takes a flag, and touches no memory of ours.
    let fresh = owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
    for (number, mut event) in listed.lines().filter_map(registration) {
        if !is_registered(epoll, number) {
            continue;
        }
        if event.u64 == waker && is(number, "eventfd") {
            // SAFETY: the call takes two numbers, and touches no memory of ours.
            let own = owned(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
            // SAFETY: it is the eventfd that was registered with this data, and stays one.
            unsafe { replace(number, &own) }?;
        }
        // SAFETY: `event` is an event; a number without an open descriptor makes the call fail with
        // EBADF.
        unsafe { libc::epoll_ctl(fresh.as_raw_fd(), libc::EPOLL_CTL_ADD, number, &mut event) };
    }
    // SAFETY: it is an epoll, and stays one.
    unsafe { replace(epoll.as_raw_fd(), &fresh) }
}

/// Replaces the epoll `target` with a duplicate of the epoll `by`.
///
/// # Errors
///
/// The system's error; `InvalidInput` if one of them is not an epoll.
pub fn share(target: BorrowedFd<'_>, by: BorrowedFd<'_>) -> io::Result<()> {
    check(target)?;
    check(by)?;
    // SAFETY: it is an epoll, and stays one.
    unsafe { replace(target.as_raw_fd(), &by) }
}

/// # Safety
///
/// The target is open, and of the same kind as its replacement.
unsafe fn replace(target: RawFd, by: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: the call takes numbers, and touches no memory of ours.
    if unsafe { libc::dup3(by.as_raw_fd(), target, libc::O_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn owned(number: RawFd) -> io::Result<OwnedFd> {
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a call has just opened it, so nothing else knows or owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Refuses every descriptor that is not an epoll.
fn check(descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let is_epoll = is(descriptor.as_raw_fd(), "eventpoll");
    if is_epoll { Ok(()) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// Whether the descriptor that has this number now is registered: an epoll lists a descriptor that
/// was closed, while a duplicate is open.
fn is_registered(epoll: BorrowedFd<'_>, number: RawFd) -> bool {
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    // SAFETY: `event` is an event; the call takes numbers, and refuses one that is not open.
    let added =
        unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, number, &mut event) == 0 };
    if !added {
        return io::Error::last_os_error().kind() == io::ErrorKind::AlreadyExists;
    }
    // SAFETY: as above.
    unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_DEL, number, &mut event) };
    false
}

fn is(number: RawFd, kind: &str) -> bool {
    let link = read_link(format!("/proc/self/fd/{number}"));
    link.is_ok_and(|link| link.to_string_lossy().contains(kind))
}

/// Parses a line such as `tfd:        5 events:       19 data:                5  pos:0 …`.
fn registration(line: &str) -> Option<(RawFd, libc::epoll_event)> {
    let mut words = line.strip_prefix("tfd:")?.split_whitespace();
    let number = words.next()?.parse().ok()?;
    let events = words.nth(1)?;
    let data = words.nth(1)?;
    let events = u32::from_str_radix(events, 16).ok()?;
    Some((number, libc::epoll_event { events, u64: u64::from_str_radix(data, 16).ok()? }))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    use super::*;

    fn epoll() -> OwnedFd {
        // SAFETY: as above.
        owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }).expect("an epoll")
    }

    fn control(epoll: &OwnedFd, what: i32, number: RawFd, data: u64) -> i32 {
        let events = (libc::EPOLLIN | libc::EPOLLET) as u32;
        let mut event = libc::epoll_event { events, u64: data };
        // SAFETY: `event` is an event, and the descriptors are open.
        unsafe { libc::epoll_ctl(epoll.as_raw_fd(), what, number, &mut event) }
    }

    /// The data of the ready registrations.
    fn ready(epoll: &OwnedFd) -> Vec<u64> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 8];
        // SAFETY: there is room for eight events.
        let n = unsafe { libc::epoll_wait(epoll.as_raw_fd(), events.as_mut_ptr(), 8, 0) };
        let mut data: Vec<u64> = events[..n as usize].iter().map(|event| event.u64).collect();
        data.sort_unstable();
        data
    }

    #[test]
    fn only_an_epoll_is_replaced() {
        let (epoll, file) = (epoll(), File::open("/dev/null").expect("a device"));
        for refused in [
            renew(file.as_fd(), 0),
            share(file.as_fd(), epoll.as_fd()),
            share(epoll.as_fd(), file.as_fd()),
        ] {
            assert_eq!(refused.map_err(|error| error.kind()), Err(io::ErrorKind::InvalidInput));
        }
    }

    #[test]
    fn a_renewed_epoll_has_the_registrations_and_does_not_change_the_shared_one() {
        let shared = epoll();
        let ours = shared.try_clone().expect("a duplicate");
        let (reader, mut writer) = io::pipe().expect("a pipe");
        assert_eq!(control(&ours, libc::EPOLL_CTL_ADD, reader.as_raw_fd(), u64::MAX - 7), 0);
        renew(ours.as_fd(), 0).expect("it is renewed");
        writer.write_all(b"x").expect("room");
        assert_eq!((ready(&ours), ready(&shared)), (vec![u64::MAX - 7], vec![u64::MAX - 7]));
        assert_eq!(control(&ours, libc::EPOLL_CTL_DEL, reader.as_raw_fd(), 0), 0);
        writer.write_all(b"x").expect("room");
        assert_eq!((ready(&ours), ready(&shared)), (vec![], vec![u64::MAX - 7]));
    }

    #[test]
    fn the_eventfd_of_the_waker_is_a_new_one() {
        let shared = epoll();
        let ours = shared.try_clone().expect("a duplicate");
        // SAFETY: as above.
        let event = owned(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK) }).expect("an eventfd");
        let theirs = event.try_clone().expect("a duplicate");
        assert_eq!(control(&ours, libc::EPOLL_CTL_ADD, event.as_raw_fd(), 5), 0);
        renew(ours.as_fd(), 5).expect("it is renewed");
        let (mut theirs, mut event) = (File::from(theirs), File::from(event));
        theirs.write_all(&1u64.to_ne_bytes()).expect("room");
        assert_eq!((ready(&ours), ready(&shared)), (vec![], vec![5]));
        event.write_all(&1u64.to_ne_bytes()).expect("room");
        assert_eq!((ready(&ours), ready(&shared)), (vec![5], vec![]));
    }

    #[test]
    fn a_closed_descriptor_is_left_out() {
        let ours = epoll();
        let (reader, writer) = io::pipe().expect("a pipe");
        let kept = reader.try_clone().expect("a duplicate");
        assert_eq!(control(&ours, libc::EPOLL_CTL_ADD, reader.as_raw_fd(), 3), 0);
        drop(reader);
        drop(writer);
        assert_eq!(ready(&ours), [3], "its file is open under another number");
        renew(ours.as_fd(), 0).expect("it is renewed");
        drop(kept);
        assert_eq!(ready(&ours), []);
    }

    /// The system lists the registrations of one file by their numbers.
    #[test]
    fn every_open_descriptor_is_renewed_beside_closed_ones_and_again() {
        let ours = epoll();
        let (reader, mut writer) = io::pipe().expect("a pipe");
        let mut duplicates: Vec<Option<io::PipeReader>> =
            (0..6).map(|_| Some(reader.try_clone().expect("a duplicate"))).collect();
        for (data, duplicate) in (10..).zip(&duplicates) {
            let number = duplicate.as_ref().expect("it is open").as_raw_fd();
            assert_eq!(control(&ours, libc::EPOLL_CTL_ADD, number, data), 0);
        }
        writer.write_all(b"x").expect("room");
        let all: Vec<u64> = (10..16).collect();
        assert_eq!(ready(&ours), all);
        assert_eq!(ready(&ours), [], "they are edges");
        for (closed, left) in [(vec![0, 3], vec![11, 12, 14, 15]), (vec![1, 4, 5], vec![12])] {
            closed.into_iter().for_each(|at: usize| duplicates[at] = None);
            renew(ours.as_fd(), 0).expect("it is renewed");
            assert_eq!(ready(&ours), left, "each raises an edge, and no other does");
            assert_eq!(ready(&ours), []);
            writer.write_all(b"x").expect("room");
            assert_eq!(ready(&ours), left);
        }
    }

    #[test]
    fn a_number_that_was_reused_is_left_alone() {
        /// Above the numbers that other tests of this process use, and below the smallest limit.
        const HIGH: RawFd = 200;
        let high = |descriptor: &OwnedFd| {
            // SAFETY: the call takes two numbers, and touches no memory of ours.
            owned(unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_DUPFD_CLOEXEC, HIGH) })
                .expect("a duplicate")
        };
        // SAFETY: the call takes two numbers, and touches no memory of ours.
        let eventfd =
            || owned(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK) }).expect("an eventfd");
        let (epoll, registered, other) = (epoll(), eventfd(), eventfd());
        let closed = high(&registered);
        assert_eq!(control(&epoll, libc::EPOLL_CTL_ADD, closed.as_raw_fd(), 9), 0);
        let number = closed.as_raw_fd();
        drop(closed);
        let mut reused = File::from(high(&other));
        assert_eq!(reused.as_raw_fd(), number);
        renew(epoll.as_fd(), 9).expect("an epoll");
        reused.write_all(&1_u64.to_ne_bytes()).expect("room");
        assert_eq!(ready(&epoll), [], "the other eventfd is not registered");
        let mut count = [0; 8];
        File::from(other).read_exact(&mut count).expect("it is the same eventfd still");
    }
}
