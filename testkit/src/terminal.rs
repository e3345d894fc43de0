//! Pairs of pseudoterminals.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

/// The controlling side of a new terminal, and the path of the other.
pub fn pair() -> (OwnedFd, String) {
    let far = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    rustix::io::fcntl_setfd(&far, rustix::io::FdFlags::CLOEXEC).expect("a flag");
    grantpt(&far).expect("ours");
    unlockpt(&far).expect("ours");
    let path = ptsname(&far, Vec::new()).expect("its name").into_string().expect("ASCII");
    (far, path)
}

/// Opens the other side.
pub fn other_side(path: &str) -> OwnedFd {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    open(path, flags, Mode::empty()).expect("a terminal")
}

/// Both sides of a terminal in raw mode.
pub fn raw() -> (OwnedFd, OwnedFd) {
    let (far, path) = pair();
    let near = other_side(&path);
    let mut modes = tcgetattr(&near).expect("its modes");
    modes.make_raw();
    tcsetattr(&near, OptionalActions::Now, &modes).expect("ours");
    (far, near)
}
