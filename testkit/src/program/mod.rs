//! The kit of programs as users run them: [`program`] and [`run`] start the program, [`Server`] is a running server, [`Client`] a
//! raw client, [`Member`] one of a chat, [`serve_raw`] a server scripted by the test, [`Upstream`] a server whose connections
//! the test handles, and [`Terminal`] shows the program's output as users see it.
//!
//! No process outlives its test: each is killed by its id when dropped.

#![expect(clippy::disallowed_methods, reason = "tests of a program run in real time")]

mod leaving;
mod member;
mod process;
mod socket;
mod stopping;
mod terminal;
mod unread;
mod usage;

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[cfg(target_os = "linux")]
pub use leaving::next_probe;
pub use leaving::{assert_idle_is_cut, is_well, leave_at_each_step, misbehave};
pub use member::{GREETING, Member, kept_until, lines_until, renamed};
pub use process::{
    Ended, Running, Server, few_or_many, haproxy, open_page, peer, program, program as couplet, run,
};
pub use socket::{Client, Upstream, serve_on, serve_raw, unused_port};
pub use stopping::{assert_drain_briefly, assert_stop_at_once};
pub use terminal::Terminal;
pub use unread::{MIB, check, repeated, settled};
pub use usage::{
    assert_completed, assert_completions_know, assert_helpful, assert_hinted, assert_refused,
};

pub use crate::PATIENCE;
pub use crate::needed::{Folder, has, has_ipv6, missing, skipped};

pub fn now() -> Instant {
    Instant::now()
}

/// This process needs a descriptor for each client; the server keeps the usual limit of 1024. False, and
/// a visible skip, where the system allows only a small number.
#[must_use]
pub fn allow_a_crowd() -> bool {
    crate::apart::allow_descriptors(20_000)
}

/// Interval at which another process's state is polled.
pub fn pause() {
    std::thread::park_timeout(Duration::from_millis(5));
}

/// Waits until `done` returns true; fails the test if it does not within [`PATIENCE`].
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let began = now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "timed out waiting for {what}");
        pause();
    }
}

/// Sets the time of modification to 2020, and waits until the version of the file is certain: until
/// any further change would have another time.
pub fn age(path: &Path) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(1_577_836_800)).unwrap();
    wait_for_age(path, Duration::from_millis(100));
}

/// Waits until the file was last changed this long ago.
pub fn wait_for_age(path: &Path, age: Duration) {
    let metadata = path.metadata().unwrap();
    let changed = Duration::new(metadata.ctime() as u64, metadata.ctime_nsec() as u32);
    wait_until("the file's version is certain", || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        now.checked_sub(changed).is_some_and(|passed| passed > age)
    });
}

/// A full pipe: its reader and its writer.
pub fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, writer) = std::io::pipe().unwrap();
    fill(&writer);
    (reader, writer)
}

/// Fills a pipe. No other writer may write during the call.
pub fn fill(mut pipe: &PipeWriter) {
    rustix::io::ioctl_fionbio(pipe, true).unwrap();
    for chunk in [&[b'x'; 4096][..], b"x"] {
        while pipe.write(chunk).is_ok() {}
    }
    rustix::io::ioctl_fionbio(pipe, false).unwrap();
}

/// A file with these bytes in its own temporary folder; deleted when dropped.
pub struct TempFile {
    path: String,
    _folder: Folder,
}

impl TempFile {
    pub fn new(bytes: &[u8]) -> TempFile {
        TempFile::named("poem.txt", bytes)
    }

    pub fn named(name: &str, bytes: &[u8]) -> TempFile {
        let folder = Folder::new();
        TempFile { path: folder.write(name, bytes), _folder: folder }
    }

    pub fn path(&self) -> &str {
        &self.path
    }
}

/// Binary bytes that do not repeat nearby, so that a lost, doubled or moved piece is detected.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
