//! Breaks descriptors under their owners, to test their reactions.
#![expect(unsafe_code, reason = "takes descriptors from their owners")]

use std::mem::ManuallyDrop;
use std::os::fd::AsFd;

/// Makes the waits of all loops of this process fail: replaces each epoll by a file that can't
/// wait.
pub(crate) fn break_loops() {
    let descriptors = std::fs::read_dir("/proc/self/fd").expect("a process has a list of these");
    let is_poll = |path: &std::path::Path| {
        std::fs::read_link(path).is_ok_and(|to| to.to_string_lossy().contains("[eventpoll]"))
    };
    let polls = descriptors.flatten().filter(|entry| is_poll(&entry.path()));
    let numbers = polls.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let nothing = std::fs::File::open("/dev/null").expect("a device");
    for number in numbers.collect::<Vec<_>>() {
        // SAFETY: the descriptor is not kept: its loop owns it and closes it. Breaking it is the
        // point of this test.
        let poll = unsafe { couplet_os::descriptor::take(number) }.expect("it is open");
        rustix::io::dup2(nothing.as_fd(), &mut ManuallyDrop::new(poll)).expect("a duplicate");
    }
}
