//! Child processes: the setup between fork and exec, and the notification of an exit.
//! `std::process::Command` starts them; this module adds the parts that std has no safe method for.
//!
//! Contract: 146a, 150a, 150b, 151, 154–154b.
#![cfg(unix)]

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The names of signals, without `SIG`, and their numbers on this system.
pub const SIGNALS: &[(&str, i32)] = &[
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("CHLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("SYS", libc::SIGSYS),
];

/// A resource of a process whose use is limited (`setrlimit(2)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resource {
    /// Bytes of address space.
    AddressSpace,
    /// Bytes of a core dump.
    CoreSize,
    /// Seconds of processor time.
    ProcessorTime,
    /// Bytes of the heap.
    DataSize,
    /// Bytes of each file that the process writes.
    FileSize,
    /// Open descriptors.
    Descriptors,
    /// Processes of the same user.
    Processes,
    /// Bytes of the stack.
    StackSize,
}

impl Resource {
    #[allow(clippy::useless_conversion, reason = "not on every system")]
    fn set(self, soft: u64, hard: u64) -> io::Result<()> {
        let resource = match self {
            Resource::AddressSpace => libc::RLIMIT_AS,
            Resource::CoreSize => libc::RLIMIT_CORE,
            Resource::ProcessorTime => libc::RLIMIT_CPU,
            Resource::DataSize => libc::RLIMIT_DATA,
            Resource::FileSize => libc::RLIMIT_FSIZE,
            Resource::Descriptors => libc::RLIMIT_NOFILE,
            Resource::Processes => libc::RLIMIT_NPROC,
            Resource::StackSize => libc::RLIMIT_STACK,
        };
        let limit = libc::rlimit {
            rlim_cur: soft.try_into().unwrap_or(libc::RLIM_INFINITY),
            rlim_max: hard.try_into().unwrap_or(libc::RLIM_INFINITY),
        };
        // SAFETY: the pointer is to an rlimit on this stack.
        check(unsafe { libc::setrlimit(resource, &raw const limit) })
    }
}

/// The setup of a child beyond `Command`.
#[derive(Debug, Default)]
pub struct Setup {
    /// Descriptors to open in the child under these numbers, all above 2.
    pub descriptors: Vec<(OwnedFd, RawFd)>,
    /// Which standard descriptors, 0 to 2, are closed in the child.
    pub closed: [bool; 3],
    /// The supplementary groups.
    pub groups: Option<Vec<u32>>,
    /// The group.
    pub gid: Option<u32>,
    /// The user. Without `groups`, root drops the supplementary groups.
    pub uid: Option<u32>,
    /// The file mode creation mask.
    pub umask: Option<u32>,
    /// The session and process group.
    pub session: Session,
    /// The signal sent to the child when the thread that started it ends. Linux only.
    pub death_signal: Option<i32>,
    /// Soft and hard limits.
    pub limits: Vec<(Resource, u64, u64)>,
}

/// The session and process group of a child.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Session {
    /// The session and process group of this process.
    #[default]
    Inherited,
    /// This group of our session; 0 creates a new one.
    Group(i32),
    /// A new session, which the child leads.
    New,
    /// A new session, whose controlling terminal is the child's descriptor 0.
    NewWithTerminal,
}

/// Starts a child with only the descriptors of `command` and `setup`. Signals that we ignore are
/// not ignored in the child, and none is blocked.
///
/// # Errors
///
/// The system's error, including errors in the child before it executes the program.
pub fn spawn(command: &mut Command, mut setup: Setup) -> io::Result<Child> {
    reap_left();
    // Duplicated above all target numbers, so that none is overwritten before it is used.
    let above = setup.descriptors.iter().map(|(_, number)| number + 1).max().unwrap_or(3);
    for (descriptor, _) in &mut setup.descriptors {
        *descriptor = duplicate_above(descriptor, above)?;
    }
    let numbers = Arc::new(Numbers::new(&setup)?);
    let (parent, seen) = (std::process::id(), numbers.clone());
    // SAFETY: between fork and exec these make only async-signal-safe calls: they allocate nothing,
    // take no lock and drop nothing.
    unsafe {
        command.pre_exec(move || {
            seen.check()?;
            prepare(&setup, parent)
        });
    }
    for _ in 0..MAX_ATTEMPTS {
        let reserved = numbers.reserve()?;
        let child = command.spawn();
        drop(reserved);
        if !child.as_ref().is_err_and(|error| error.raw_os_error() == Some(NUMBER_TAKEN)) {
            return child;
        }
    }
    Err(io::Error::from_raw_os_error(libc::EAGAIN))
}

/// Maximum attempts to start a child while closes in other threads interfere.
const MAX_ATTEMPTS: usize = 64;
/// Reported by a child that finds another file under a number. No system call made there fails with
/// this error.
const NUMBER_TAKEN: i32 = libc::EXDEV;

/// The descriptor numbers of the child, and the files under them in this process. std reports a
/// failure through a pipe, which must not use one of these numbers. So they are occupied before the
/// pipe is made, by a duplicate of ours or by a descriptor of another thread. If that thread closes
/// its descriptor before then, the pipe may take the number: the child detects the different file.
struct Numbers {
    /// Each number, with the device and inode of its file.
    occupied: Vec<(RawFd, AtomicU64, AtomicU64)>,
    filler: OwnedFd,
}

impl Numbers {
    fn new(setup: &Setup) -> io::Result<Numbers> {
        let number =
            |(_, number): &(OwnedFd, RawFd)| (*number, AtomicU64::new(0), AtomicU64::new(0));
        let occupied = setup.descriptors.iter().map(number).collect();
        Ok(Numbers { occupied, filler: std::fs::File::open("/dev/null")?.into() })
    }

    /// Occupies the numbers until the result is dropped, and records their files.
    fn reserve(&self) -> io::Result<Vec<OwnedFd>> {
        let mut reserved = Vec::new();
        for (number, device, inode) in &self.occupied {
            reserved.push(duplicate_above(&self.filler, *number)?);
            let (of, at) = identity(*number).unwrap_or_default();
            device.store(of, Ordering::Relaxed);
            inode.store(at, Ordering::Relaxed);
        }
        Ok(reserved)
    }

    /// Called in the child: checks that no number has another file.
    fn check(&self) -> io::Result<()> {
        for (number, device, inode) in &self.occupied {
            let noted = (device.load(Ordering::Relaxed), inode.load(Ordering::Relaxed));
            if identity(*number).is_some_and(|found| found != noted) {
                return Err(io::Error::from_raw_os_error(NUMBER_TAKEN));
            }
        }
        Ok(())
    }
}

/// The device and inode of an open descriptor.
#[allow(clippy::unnecessary_cast, reason = "not on every system")]
fn identity(number: RawFd) -> Option<(u64, u64)> {
    // SAFETY: an all-zero stat is a valid value, and fstat writes only that, and refuses a number that
    // is not open.
    let (found, stat) = unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        (libc::fstat(number, &raw mut stat), stat)
    };
    (found == 0).then_some((stat.st_dev as u64, stat.st_ino as u64))
}

fn duplicate_above(descriptor: &OwnedFd, least: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl with F_DUPFD_CLOEXEC touches no memory of ours, and the descriptor is open.
    let number = unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_DUPFD_CLOEXEC, least) };
    check(number)?;
    // SAFETY: the call has just opened it, so nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Runs in the child before exec. Limits and groups are set while it still has the permission.
fn prepare(setup: &Setup, parent: u32) -> io::Result<()> {
    reset_ignored_signals();
    for (resource, soft, hard) in &setup.limits {
        resource.set(*soft, *hard)?;
    }
    set_session(setup)?;
    set_user(setup)?;
    // After the change of user, which clears the signal.
    #[cfg(target_os = "linux")]
    if let Some(signal) = setup.death_signal {
        // SAFETY: PR_SET_PDEATHSIG takes a number.
        check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_ulong) })?;
        // SAFETY: getppid has no precondition.
        if unsafe { libc::getppid() }.cast_unsigned() != parent {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
    }
    let _ = parent;
    if let Some(umask) = setup.umask {
        // SAFETY: umask takes a number.
        unsafe { libc::umask(umask as libc::mode_t) };
    }
    close_on_exec();
    for (descriptor, number) in &setup.descriptors {
        // SAFETY: dup2 takes two numbers; no descriptor of this function has the second.
        check(unsafe { libc::dup2(descriptor.as_raw_fd(), *number) })?;
    }
    for (number, _) in (0..).zip(setup.closed).filter(|(_, is_closed)| *is_closed) {
        // SAFETY: the standard descriptors belong only to this child, which no longer uses them;
        // std's pipe for an error has another number.
        unsafe { libc::close(number) };
    }
    Ok(())
}

/// Resets ignored signals, which would stay ignored in the program.
fn reset_ignored_signals() {
    for signal in 1..=64 {
        // SAFETY: an all-zero sigaction is a valid value, and both calls write or read only their
        // arguments. Numbers that are no signals are refused.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            let found = libc::sigaction(signal, std::ptr::null(), &raw mut action);
            if found == 0 && action.sa_sigaction == libc::SIG_IGN {
                libc::signal(signal, libc::SIG_DFL);
            }
        }
    }
}

fn set_session(setup: &Setup) -> io::Result<()> {
    match setup.session {
        Session::Inherited => {}
        Session::New | Session::NewWithTerminal => {
            // SAFETY: setsid has no precondition.
            check(unsafe { libc::setsid() })?;
        }
        Session::Group(group) => {
            // SAFETY: setpgid takes numbers.
            check(unsafe { libc::setpgid(0, group) })?;
        }
    }
    if setup.session == Session::NewWithTerminal {
        // SAFETY: TIOCSCTTY takes a number, and descriptor 0 is open.
        check(unsafe { libc::ioctl(0, libc::TIOCSCTTY as _, 0) })?;
    }
    Ok(())
}

fn set_user(setup: &Setup) -> io::Result<()> {
    // SAFETY: geteuid has no precondition.
    let is_root = unsafe { libc::geteuid() } == 0;
    let groups = match &setup.groups {
        Some(groups) => Some(&groups[..]),
        None if is_root && setup.uid.is_some() => Some(&[][..]),
        None => None,
    };
    if let Some(groups) = groups {
        // SAFETY: the pointer is to as many groups as the first argument says.
        check(unsafe { libc::setgroups(groups.len() as _, groups.as_ptr()) })?;
    }
    if let Some(gid) = setup.gid {
        // SAFETY: setgid takes a number.
        check(unsafe { libc::setgid(gid) })?;
    }
    if let Some(uid) = setup.uid {
        // SAFETY: setuid takes a number.
        check(unsafe { libc::setuid(uid) })?;
    }
    Ok(())
}

/// Marks every descriptor above 2 close-on-exec, including those that other code opened without it.
fn close_on_exec() {
    #[cfg(target_os = "linux")]
    {
        const CLOEXEC: libc::c_uint = 4;
        // SAFETY: close_range with this flag closes nothing now, and takes numbers.
        let done = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, CLOEXEC) };
        if done == 0 {
            return;
        }
    }
    // SAFETY: sysconf takes a number.
    let open_max = unsafe { libc::sysconf(libc::_SC_OPEN_MAX) };
    for number in 3..open_max.clamp(256, 65_536) as RawFd {
        // SAFETY: fcntl with F_SETFD touches no memory, and refuses a number that is not open.
        unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// Sends a signal to a process, or with a negative number to a process group.
///
/// # Errors
///
/// The system's error, such as a missing process or missing permission.
pub fn send_signal(process: i32, signal: i32) -> io::Result<()> {
    // SAFETY: kill takes numbers.
    check(unsafe { libc::kill(process, signal) })
}

/// A child whose exit is not known yet. If dropped earlier, it keeps running, and is reaped when
/// another child is started, so that it does not stay a zombie forever.
#[derive(Debug)]
pub struct Running {
    child: Option<Child>,
    pid: u32,
}

impl Running {
    /// Wraps a started child.
    pub fn new(child: Child) -> Running {
        let pid = child.id();
        if is_init() {
            started().insert(pid);
        }
        Running { pid, child: Some(child) }
    }

    /// The process ID, which is not reused until [`end`](Self::end) has returned a status.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The status, once the child has exited. Does not block.
    ///
    /// # Errors
    ///
    /// `ECHILD` if other code has waited for the child, or if the program ignores SIGCHLD.
    pub fn end(&mut self) -> io::Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let status = child.try_wait();
        if !matches!(status, Ok(None)) {
            self.child = None;
            forget(self.pid);
        }
        status
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            if !matches!(child.try_wait(), Ok(None)) {
                return forget(self.pid);
            }
            LEFT.lock().unwrap_or_else(PoisonError::into_inner).push(child);
        }
    }
}

/// Children whose [`Running`] was dropped before their exit was known.
static LEFT: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// Reaps those that have exited.
pub(crate) fn reap_left() {
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    left.retain_mut(|child| {
        let runs = matches!(child.try_wait(), Ok(None));
        if !runs {
            forget(child.id());
        }
        runs
    });
}

/// Whether this process is process 1: the parent of all orphans.
pub fn is_init() -> bool {
    std::process::id() == 1
}

/// The children that were started here and are not reaped, in process 1.
fn started() -> MutexGuard<'static, BTreeSet<u32>> {
    static STARTED: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());
    STARTED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn forget(pid: u32) {
    if is_init() {
        started().remove(&pid);
    }
}

/// Whether a child of process 1 was started here.
#[cfg(target_os = "linux")]
pub(crate) fn is_started_here(pid: u32) -> bool {
    started().contains(&pid)
}

/// A descriptor that becomes readable when a child of ours has exited: a pidfd, or, if the system
/// has none, a pipe closed by a thread that waits for this child only and leaves it to be reaped.
///
/// # Errors
///
/// The system's error.
pub fn end_descriptor(pid: u32) -> io::Result<OwnedFd> {
    #[cfg(target_os = "linux")]
    if let Some(descriptor) = pidfd(pid) {
        return Ok(descriptor);
    }
    wait_in_thread(pid)
}

#[cfg(target_os = "linux")]
fn pidfd(pid: u32) -> Option<OwnedFd> {
    // SAFETY: pidfd_open takes numbers.
    let number = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    // SAFETY: the call has just opened it, close-on-exec, so nothing else owns it.
    (number >= 0).then(|| unsafe { OwnedFd::from_raw_fd(number as RawFd) })
}

fn wait_in_thread(pid: u32) -> io::Result<OwnedFd> {
    let (reader, writer) = io::pipe()?;
    let wait = move || {
        let _writer = writer;
        loop {
            // SAFETY: an all-zero siginfo is a valid value, and the pointer is to one on this stack.
            let waited = unsafe {
                let mut info: libc::siginfo_t = std::mem::zeroed();
                libc::waitid(libc::P_PID, pid, &raw mut info, libc::WEXITED | libc::WNOWAIT)
            };
            let error = io::Error::last_os_error();
            if waited == 0 || error.kind() != io::ErrorKind::Interrupted {
                return;
            }
        }
    };
    std::thread::Builder::new().name("couplet-child".to_owned()).spawn(wait)?;
    Ok(reader.into())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::Stdio;

    use super::*;

    fn status_of(command: &mut Command, setup: Setup) -> ExitStatus {
        spawn(command, setup).expect("it starts").wait().expect("our child")
    }

    fn text_of(script: &str, mut setup: Setup, number: RawFd) -> String {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        if number == 1 {
            command.stdout(Stdio::from(OwnedFd::from(writer)));
        } else {
            setup.descriptors.push((writer.into(), number));
        }
        let mut child = spawn(&mut command, setup).expect("it starts");
        drop(command);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("its end");
        child.wait().expect("our child");
        text
    }

    #[test]
    fn a_child_has_the_descriptors_that_it_was_given_under_their_numbers() {
        for number in [3, 4, 7, 9] {
            let script = format!("echo rose >&{number}");
            assert_eq!(text_of(&script, Setup::default(), number), "rose\n", "{number}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_child_has_no_other_descriptor_even_one_that_was_opened_without_the_flag() {
        let (reader, writer) = io::pipe().expect("a pipe");
        // SAFETY: F_SETFD touches no memory, and the descriptor is open.
        let kept = unsafe { libc::fcntl(reader.as_raw_fd(), libc::F_SETFD, 0) };
        assert_eq!(kept, 0);
        // The shell itself opens the directory to read it.
        let text = text_of("for fd in /proc/$$/fd/*; do echo ${fd##*/}; done", Setup::default(), 5);
        assert_eq!(text, "");
        let text = text_of("exec 2>&-; ls /proc/self/fd >&5", Setup::default(), 5);
        let numbers: Vec<&str> = text.split_whitespace().collect();
        // The last is the directory that ls reads.
        assert!(numbers.len() <= 4 && numbers.contains(&"5"), "{numbers:?}");
        drop(writer);
    }

    #[test]
    fn spawning_a_missing_program_fails_while_other_threads_open_and_close_descriptors() {
        let is_over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        drop([io::pipe(), io::pipe()]);
                    }
                });
            }
            for _ in 0..50 {
                let mut setup = Setup::default();
                for number in 3..20 {
                    let (reader, _) = io::pipe().expect("a pipe");
                    setup.descriptors.push((reader.into(), number));
                }
                let error = spawn(&mut Command::new("/nonexistent/program"), setup);
                let error = error.map_err(|error| error.kind());
                if !matches!(error, Err(io::ErrorKind::NotFound | io::ErrorKind::WouldBlock)) {
                    is_over.store(true, Ordering::Relaxed);
                    panic!("{error:?}");
                }
            }
            is_over.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn umask_limits_and_session_follow_the_setup() {
        let setup = || Setup {
            umask: Some(0o027),
            // Not a limit on descriptors, which valgrind counts itself.
            limits: vec![(Resource::ProcessorTime, 33, 44)],
            session: Session::New,
            ..Setup::default()
        };
        assert_eq!(text_of("umask; ulimit -t; ulimit -Ht", setup(), 1), "0027\n33\n44\n");
        let text = text_of("echo $$ $(ps -o sid= -p $$)", setup(), 1);
        if let [pid, session] = text.split_whitespace().collect::<Vec<_>>()[..] {
            assert_eq!(pid, session);
        }
    }

    #[test]
    fn a_thread_notices_the_end_where_there_is_no_pidfd() {
        let mut running = Running::new(
            spawn(Command::new("/bin/sh").args(["-c", "exit 7"]), Setup::default()).expect("it"),
        );
        let ended = wait_in_thread(running.pid()).expect("a thread");
        let mut reader = io::PipeReader::from(ended);
        assert_eq!(reader.read(&mut [0]).expect("its end"), 0);
        assert_eq!(running.end().expect("ours").and_then(|status| status.code()), Some(7));
        assert_eq!(running.end().expect("said once"), None);
    }

    /// A child that exits when the writer is closed, and the descriptor of its end.
    fn waiting() -> (Running, OwnedFd, io::PipeWriter) {
        let (reader, writer) = io::pipe().expect("a pipe");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "read line; exit 0"]).stdin(Stdio::from(OwnedFd::from(reader)));
        let running = Running::new(spawn(&mut command, Setup::default()).expect("it starts"));
        let ended = end_descriptor(running.pid()).expect("it");
        (running, ended, writer)
    }

    /// Blocks until a child has exited: its descriptor is readable.
    fn wait_for(ended: &OwnedFd) {
        let mut poll = libc::pollfd { fd: ended.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: the pointer is to one pollfd on this stack.
        unsafe { libc::poll(&raw mut poll, 1, -1) };
    }

    /// A zombie counts: its number is in use.
    fn is_there(pid: u32) -> bool {
        send_signal(pid.cast_signed(), 0).is_ok()
    }

    #[test]
    fn children_that_were_given_up_are_reaped_when_another_starts_and_they_have_exited() {
        let children: Vec<_> = (0..4).map(|_| waiting()).collect();
        let pids: Vec<u32> = children.iter().map(|(running, ..)| running.pid()).collect();
        let mut writers: Vec<_> = children
            .into_iter()
            .map(|(running, ended, writer)| {
                drop(running);
                (ended, Some(writer))
            })
            .collect();
        // One that runs holds up none that was given up after it.
        for (exiting, left) in [(&[0, 2, 3][..], &[1][..]), (&[1], &[])] {
            for at in exiting {
                writers[*at].1 = None;
                wait_for(&writers[*at].0);
            }
            status_of(&mut Command::new("/bin/true"), Setup::default());
            let there: Vec<usize> = (0..4).filter(|at| is_there(pids[*at])).collect();
            assert_eq!(there, left);
        }
    }

    #[test]
    fn a_child_that_other_code_has_waited_for_ends_with_an_error_once() {
        for is_given_up in [false, true] {
            let (mut running, ended, writer) = waiting();
            drop(writer);
            wait_for(&ended);
            let pid = running.pid().cast_signed();
            // SAFETY: the pointer may be null.
            assert_eq!(unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) }, pid);
            if !is_given_up {
                let error = running.end().expect_err("it was reaped");
                assert_eq!(error.raw_os_error(), Some(libc::ECHILD));
                assert_eq!(running.end().expect("said once"), None);
            }
            drop(running);
            let left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
            assert!(left.iter().all(|child| child.id() != pid.cast_unsigned()));
        }
    }

    #[test]
    fn a_child_that_has_exited_is_reaped_when_it_is_given_up() {
        let (running, ended, writer) = waiting();
        let pid = running.pid();
        drop(writer);
        wait_for(&ended);
        drop(running);
        assert!(!is_there(pid));
    }
}
