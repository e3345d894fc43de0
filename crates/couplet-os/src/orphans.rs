//! Reaps orphans where this process is process 1, as in a container. The kernel makes process 1 the
//! parent of each process whose parent has ended, and such a process stays a zombie until process 1
//! waits for it.
//!
//! The kernel does not tell an orphan from a child that this process has started. Children of
//! [`process`] are known, and left to their owners. Other code may also start children
//! and wait for them later: a zombie in our process group, where they usually are, has a minute.
//!
//! Contract: 154e.
#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::process;

/// Time between two looks at the zombies.
const INTERVAL: libc::c_int = 500;
/// Time until the next look while there are no children, in milliseconds.
const WITHOUT_CHILDREN: libc::c_int = 2000;
/// Looks after which a zombie is reaped.
const LOOKS: u32 = 2;
/// The same, for a zombie in our process group.
const LOOKS_IN_GROUP: u32 = 120;

/// Starts the thread that reaps orphans, once, if this process is process 1.
///
/// # Errors
///
/// The thread could not be started.
pub fn reap_as_init() -> io::Result<()> {
    static STARTED: AtomicBool = AtomicBool::new(false);
    if process::is_init() && !STARTED.swap(true, Ordering::Relaxed) {
        std::thread::Builder::new().name("couplet-orphans".into()).spawn(reap)?;
    }
    Ok(())
}

/// A process as `/proc` shows it.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    state: char,
    parent: i32,
    group: i32,
}

impl Entry {
    /// Of the text of `/proc/PID/stat`. The name in it may contain anything.
    fn of(stat: &str) -> Option<Entry> {
        let (_, after) = stat.rsplit_once(')')?;
        let mut fields = after.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let mut number = || fields.next()?.parse().ok();
        Some(Entry { state, parent: number()?, group: number()? })
    }
}

/// The zombies among our children that this process did not start, with their process groups.
fn foreign_zombies() -> BTreeMap<i32, i32> {
    let Ok(all) = std::fs::read_dir("/proc") else { return BTreeMap::new() };
    let numbers = all.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let zombie = |pid: i32| {
        let entry = Entry::of(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
        let is_ours = entry.parent == 1 && entry.state == 'Z';
        (is_ours && !process::is_started_here(pid.cast_unsigned())).then_some((pid, entry.group))
    };
    numbers.filter_map(zombie).collect()
}

fn reap() {
    // SAFETY: getpgrp has no precondition.
    let our_group = unsafe { libc::getpgrp() };
    let mut looks: BTreeMap<i32, u32> = BTreeMap::new();
    loop {
        wait_for_zombie();
        process::reap_left();
        let zombies = foreign_zombies();
        looks.retain(|pid, _| zombies.contains_key(pid));
        for (pid, group) in zombies {
            let count = looks.entry(pid).or_default();
            *count += 1;
            if *count >= if group == our_group { LOOKS_IN_GROUP } else { LOOKS } {
                // SAFETY: the pointer may be null, and the call does not block.
                unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) };
            }
        }
        pause(INTERVAL);
    }
}

/// Blocks until a child has exited, and leaves it to be reaped.
fn wait_for_zombie() {
    // SAFETY: an all-zero siginfo is a valid value, and the pointer is to one on this stack.
    let waited = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        libc::waitid(libc::P_ALL, 0, &raw mut info, libc::WEXITED | libc::WNOWAIT)
    };
    if waited == -1 {
        pause(WITHOUT_CHILDREN);
    }
}

fn pause(milliseconds: libc::c_int) {
    // SAFETY: no descriptors are passed, so the pointer may be null.
    unsafe { libc::poll(std::ptr::null_mut(), 0, milliseconds) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c154e_an_entry_is_read_behind_any_name() {
        let entry = |state, parent, group| Some(Entry { state, parent, group });
        for (stat, expected) in [
            ("7 (sh) Z 1 7 7 0 -1", entry('Z', 1, 7)),
            ("7 (a) Z 9 9 (b) S 1 6 7", entry('S', 1, 6)),
            ("7 (sh", None),
            ("7 (sh) Z", None),
            ("7 (sh) Z x 7", None),
            ("", None),
        ] {
            assert_eq!(Entry::of(stat), expected, "{stat}");
        }
    }

    #[test]
    fn c154e_another_process_than_process_1_has_no_thread_for_orphans() {
        assert!(!process::is_init(), "tests are not process 1");
        reap_as_init().expect("nothing is started");
        let names = std::fs::read_dir("/proc/self/task").expect("Linux has it").flatten();
        let mut names = names.map(|task| std::fs::read_to_string(task.path().join("comm")));
        assert!(!names.any(|name| name.is_ok_and(|name| name.trim() == "couplet-orphans")));
    }
}
