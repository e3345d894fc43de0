//! Children: what is done between fork and exec, and how the end of one is noticed. `std::process::Command`
//! starts them; this adds what it has no safe method for.
#![cfg(unix)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, PoisonError};

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
    /// Bytes of a file that it writes.
    FileSize,
    /// Open descriptors.
    Descriptors,
    /// Processes of its user.
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

/// What a child is, beyond what `Command` says.
#[derive(Debug, Default)]
pub struct Setup {
    /// Open in the child under these numbers, all above 2.
    pub descriptors: Vec<(OwnedFd, RawFd)>,
    /// Numbers from 0 to 2 that are not open in the child.
    pub closed: Vec<RawFd>,
    /// The supplementary groups.
    pub groups: Option<Vec<u32>>,
    /// The group.
    pub gid: Option<u32>,
    /// The user. Without `groups`, the supplementary ones are dropped where we may.
    pub uid: Option<u32>,
    /// The file mode creation mask.
    pub umask: Option<u32>,
    /// Leads a session of its own.
    pub new_session: bool,
    /// Its descriptor 0 becomes the terminal of its session.
    pub controls_terminal: bool,
    /// In this process group; 0 is one of its own.
    pub process_group: Option<i32>,
    /// Is sent this when the thread that started it ends. Linux only.
    pub death_signal: Option<i32>,
    /// Soft and hard limits.
    pub limits: Vec<(Resource, u64, u64)>,
}

/// Starts a child that has the descriptors of `command` and of `setup` and no others. Signals that we
/// ignore are not ignored in it, and none is blocked.
///
/// # Errors
///
/// The system's, also of what the child does before it executes the program.
pub fn spawn(command: &mut Command, mut setup: Setup) -> io::Result<Child> {
    reap_orphans();
    // Above all the numbers that they get, so that none is overwritten before it is used.
    let above = setup.descriptors.iter().map(|(_, number)| number + 1).max().unwrap_or(3);
    // The pipe by which std reports a failure must not get one of those numbers.
    let mut reserved = Vec::new();
    for (descriptor, number) in &mut setup.descriptors {
        reserved.push(duplicate_above(descriptor, *number)?);
        *descriptor = duplicate_above(descriptor, above)?;
    }
    let parent = std::process::id();
    // SAFETY: between fork and exec `prepare` makes only async-signal-safe calls: it allocates nothing,
    // takes no lock and drops nothing.
    unsafe { command.pre_exec(move || prepare(&setup, parent)) };
    let child = command.spawn();
    drop(reserved);
    child
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

/// In the child, before exec. Limits and groups come while it may still set them.
fn prepare(setup: &Setup, parent: u32) -> io::Result<()> {
    reset_ignored_signals();
    for (resource, soft, hard) in &setup.limits {
        resource.set(*soft, *hard)?;
    }
    set_session(setup)?;
    set_user(setup)?;
    // After the change of user, which clears it.
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
        // SAFETY: dup2 takes two numbers; the second is that of no descriptor of this function.
        check(unsafe { libc::dup2(descriptor.as_raw_fd(), *number) })?;
    }
    for number in &setup.closed {
        // SAFETY: this child uses none of these numbers any more.
        unsafe { libc::close(*number) };
    }
    Ok(())
}

/// An ignored signal would stay ignored in the program.
fn reset_ignored_signals() {
    for signal in 1..=64 {
        // SAFETY: an all-zero sigaction is a valid value, and both calls write or read only what they
        // are given. Numbers that are no signals are refused.
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
    if setup.new_session {
        // SAFETY: setsid has no precondition.
        check(unsafe { libc::setsid() })?;
    }
    if setup.controls_terminal {
        // SAFETY: TIOCSCTTY takes a number, and descriptor 0 is open.
        check(unsafe { libc::ioctl(0, libc::TIOCSCTTY as _, 0) })?;
    }
    if let Some(group) = setup.process_group {
        // SAFETY: setpgid takes numbers.
        check(unsafe { libc::setpgid(0, group) })?;
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

/// Marks every descriptor above 2: those too that other code has opened without it.
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
/// The system's, such as that there is none, or that we may not.
pub fn send_signal(process: i32, signal: i32) -> io::Result<()> {
    // SAFETY: kill takes numbers.
    check(unsafe { libc::kill(process, signal) })
}

/// A child, until its end is known. Dropped before, it is left to run, and its end is looked for when
/// other children are started, so that it does not stay a zombie for good.
#[derive(Debug)]
pub struct Running {
    child: Option<Child>,
    pid: u32,
}

impl Running {
    /// This child.
    pub fn new(child: Child) -> Running {
        Running { pid: child.id(), child: Some(child) }
    }

    /// Its number. It is that of no other process until [`end`](Self::end) has returned a status.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The status, once it has ended. Does not block.
    ///
    /// # Errors
    ///
    /// `ECHILD` when something else has waited for it, or the program ignores SIGCHLD.
    pub fn end(&mut self) -> io::Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let status = child.try_wait();
        if !matches!(status, Ok(None)) {
            self.child = None;
        }
        status
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take()
            && matches!(child.try_wait(), Ok(None))
        {
            ORPHANS.lock().unwrap_or_else(PoisonError::into_inner).push(child);
        }
    }
}

/// Children that nobody waits for any more.
static ORPHANS: Mutex<Vec<Child>> = Mutex::new(Vec::new());

fn reap_orphans() {
    let mut orphans = ORPHANS.lock().unwrap_or_else(PoisonError::into_inner);
    orphans.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
}

/// A descriptor that becomes readable when this child of ours has ended: a pidfd, or where the system has
/// none a pipe that a thread closes, which waits for this child alone and leaves it to be reaped.
///
/// # Errors
///
/// The system's.
pub fn end_descriptor(pid: u32) -> io::Result<OwnedFd> {
    #[cfg(target_os = "linux")]
    if let Some(descriptor) = pidfd(pid) {
        return Ok(descriptor);
    }
    end_by_thread(pid)
}

#[cfg(target_os = "linux")]
fn pidfd(pid: u32) -> Option<OwnedFd> {
    // SAFETY: pidfd_open takes numbers.
    let number = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    // SAFETY: the call has just opened it, close-on-exec, so nothing else owns it.
    (number >= 0).then(|| unsafe { OwnedFd::from_raw_fd(number as RawFd) })
}

fn end_by_thread(pid: u32) -> io::Result<OwnedFd> {
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
        // The shell itself reads the directory by one.
        let text = text_of("for fd in /proc/$$/fd/*; do echo ${fd##*/}; done", Setup::default(), 5);
        assert_eq!(text, "");
        let text = text_of("exec 2>&-; ls /proc/self/fd >&5", Setup::default(), 5);
        let numbers: Vec<&str> = text.split_whitespace().collect();
        // The last is the directory that ls reads.
        assert!(numbers.len() <= 4 && numbers.contains(&"5"), "{numbers:?}");
        drop(writer);
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error_even_if_all_low_numbers_are_taken() {
        let mut setup = Setup::default();
        for number in 3..20 {
            let (reader, _) = io::pipe().expect("a pipe");
            setup.descriptors.push((reader.into(), number));
        }
        let error = spawn(&mut Command::new("/nonexistent/program"), setup).expect_err("none");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn umask_limits_and_session_are_those_of_the_setup() {
        let setup = || Setup {
            umask: Some(0o027),
            limits: vec![(Resource::Descriptors, 33, 44)],
            new_session: true,
            ..Setup::default()
        };
        assert_eq!(text_of("umask; ulimit -n; ulimit -Hn", setup(), 1), "0027\n33\n44\n");
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
        let ended = end_by_thread(running.pid()).expect("a thread");
        let mut reader = io::PipeReader::from(ended);
        assert_eq!(reader.read(&mut [0]).expect("its end"), 0);
        assert_eq!(running.end().expect("ours").and_then(|status| status.code()), Some(7));
        assert_eq!(running.end().expect("said once"), None);
    }

    #[test]
    fn a_child_that_was_given_up_is_reaped_when_another_starts() {
        let child = spawn(Command::new("/bin/sh").args(["-c", "exit 0"]), Setup::default());
        let running = Running::new(child.expect("it starts"));
        let pid = running.pid();
        let ended = end_descriptor(pid).expect("it");
        drop(running);
        // It has ended when its descriptor is readable.
        let mut poll = libc::pollfd { fd: ended.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: the pointer is to one pollfd on this stack.
        unsafe { libc::poll(&raw mut poll, 1, -1) };
        status_of(&mut Command::new("/bin/true"), Setup::default());
        let error = send_signal(pid.cast_signed(), 0).expect_err("it is no zombie");
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
    }
}
