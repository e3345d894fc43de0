//! A server process: start, measurements and end.
//!
//! Each server, and the tool that counts it, runs under a watch: a small process that ends it when
//! the pipe from the benchmark closes. So no server outlives the benchmark, however that ends. The
//! server does not watch the pipe, because a second thread would slow it: in a single-threaded
//! process the kernel skips reference counts and the C library skips cancellation points.

use std::fs;
use std::io::{self, BufRead, BufReader, Error, ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt::set_socket_reuseaddr;
use rustix::net::{AddressFamily, SocketType, bind, socket};
use rustix::process::{Pid, Signal, kill_process};

use crate::kind::{Kind, Manner};
use crate::options::Bench;
use crate::peers::{COUNTED, Launch};
use crate::{interrupt, pause};

/// The first argument of this program as a watch. A port (`-` for none) and the command follow.
pub(crate) const WATCH: &str = "@watch";
/// Time for a server to listen, and beyond its grace for a watch to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time for a server to end after SIGTERM: a tool writes its counts then.
const GRACE: Duration = Duration::from_secs(20);

/// Runs a command until our stdin closes. Prints where it listens: the first line of its output, or
/// this port once it accepts.
pub(crate) fn watch(port: Option<u16>, words: &[String]) -> io::Result<()> {
    let program = words.first().ok_or(ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command.args(&words[1..]).stdin(Stdio::null());
    // The pipe of stderr holds messages of the start, and errors of a server that exits on its own.
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| cannot_run(program, &error))?;
    // After any failure the command must be ended, so `println!`, which panics if the pipe is
    // closed, is not used.
    let place = match port {
        // The process may be a tool that has started the server.
        None => first_line(child.stdout.as_mut()).map(|line| (line, last_child(child.id()))),
        Some(port) => await_port(&mut child, port).map(|line| (line, child.id())),
    };
    let done = place
        .and_then(|(line, process)| writeln!(io::stdout(), "{line} as process {process}"))
        .and_then(|()| io::copy(&mut io::stdin(), &mut io::sink()));
    end(&mut child)?;
    done.map(drop)
}

/// Ends a process: by SIGTERM, and if that does not help by SIGKILL. Shows the errors of a process
/// that has exited on its own.
fn end(child: &mut Child) -> io::Result<()> {
    if child.try_wait()?.is_some() {
        let mut stderr = child.stderr.take().expect("stderr is piped");
        return io::copy(&mut stderr, &mut io::stderr()).map(drop);
    }
    // Fails if the process has ended already.
    let _ = kill_process(Pid::from_child(child), Signal::TERM);
    let patience = Instant::now() + GRACE;
    while child.try_wait()?.is_none() {
        if Instant::now() > patience {
            child.kill()?;
        }
        pause(Duration::from_millis(1));
    }
    Ok(())
}

/// Waits until the port accepts connections, without connecting: a relay would connect onwards.
fn await_port(child: &mut Child, port: u16) -> io::Result<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let patience = Instant::now() + PATIENCE;
    while Instant::now() < patience {
        if is_listening(address)? {
            return Ok(format!("listening on {address}"));
        }
        if child.try_wait()?.is_some() {
            return Err(Error::other("the server has ended"));
        }
        pause(Duration::from_millis(5));
    }
    Err(Error::new(ErrorKind::TimedOut, format!("nothing listens on {address}")))
}

/// Whether a socket listens there: only then another one can't have the address, if both allow it.
fn is_listening(address: SocketAddr) -> io::Result<bool> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    set_socket_reuseaddr(&socket, true)?;
    match bind(&socket, &address) {
        Err(Errno::ADDRINUSE) => Ok(true),
        result => Ok(result.map(|()| false)?),
    }
}

/// Starts a server, under `tool` (a program and its arguments) unless that is empty, and waits
/// until it listens.
pub(crate) fn start(
    bench: &Bench,
    kind: Kind,
    manner: Manner,
    tool: &[String],
) -> io::Result<Server> {
    let is_counted = !tool.is_empty();
    let Launch { words, port } =
        bench.programs.launch(kind, manner.role, &bench.folder, is_counted)?;
    let mut watch = Command::new(std::env::current_exe()?);
    let cpu = manner.cpu.map_or("-".into(), |cpu| cpu.to_string());
    let meek = if manner.meek { "meek" } else { "-" };
    let port = port.map_or("-".into(), |port| port.to_string());
    // The command inherits the watch's processor and scheduling.
    watch.args([WATCH, &cpu, meek, &port]).args(tool).args(words);
    if is_counted {
        watch.env(COUNTED, "yes");
    }
    // In a separate process group, so that Ctrl-C reaches only the benchmark, which ends its
    // watches.
    watch.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
    // From here on `Server::drop` ends the processes after any failure.
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut server = Server { watch: watch.spawn()?, address, process: 0 };
    let line = first_line(server.watch.stdout.as_mut())?;
    interrupt::check()?;
    (server.address, server.process) = understand(&line).ok_or_else(|| {
        Error::other(format!("the {kind} server said {line:?}, not where it listens"))
    })?;
    Ok(server)
}

fn first_line(stdout: Option<&mut ChildStdout>) -> io::Result<String> {
    let mut line = String::new();
    BufReader::new(stdout.expect("stdout is piped")).read_line(&mut line)?;
    Ok(line.trim_end().into())
}

fn understand(line: &str) -> Option<(SocketAddr, u32)> {
    let told = line.strip_prefix("listening on ")?;
    let (address, process) = told.split_once(" as process ")?;
    // The address may be printed as an endpoint.
    let address = address.trim_start_matches("tcp:").trim_start_matches("tls:");
    Some((address.parse().ok()?, process.parse().ok()?))
}

/// The last descendant of a process.
fn last_child(process: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
    let child = children.ok().and_then(|list| list.split(' ').next()?.parse().ok());
    child.map_or(process, last_child)
}

fn cannot_run(program: &str, error: &Error) -> Error {
    Error::new(error.kind(), format!("cannot run {program}: {error}"))
}

/// A server process. Dropping it ends the process.
#[derive(Debug)]
pub(crate) struct Server {
    watch: Child,
    pub(crate) address: SocketAddr,
    process: u32,
}

/// The scheduler's accounting, in nanoseconds.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Schedule {
    pub(crate) ran: Duration,
    /// Time ready to run while another process had the processor.
    pub(crate) waited: Duration,
}

impl Schedule {
    /// The accounting of the calling thread.
    pub(crate) fn own() -> io::Result<Schedule> {
        Ok(Schedule::default().and(&fs::read_to_string("/proc/thread-self/schedstat")?))
    }

    fn and(self, schedstat: &str) -> Schedule {
        let [ran, waited] = numbers(schedstat, 0).map(Duration::from_nanos);
        Schedule { ran: self.ran + ran, waited: self.waited + waited }
    }
}

impl Server {
    /// Waits until every thread of the server sleeps: then it has no more work, and the scheduler's
    /// accounting is up to date.
    pub(crate) fn settle(&self) -> io::Result<()> {
        let patience = Instant::now() + Duration::from_secs(20);
        while Instant::now() < patience {
            interrupt::check()?;
            let states = self.threads("stat")?;
            if states.iter().all(|stat| after_name(stat).starts_with('S')) {
                return Ok(());
            }
            pause(Duration::from_micros(50));
        }
        Err(Error::new(ErrorKind::TimedOut, "the server is at work, but nothing is asked of it"))
    }

    /// The accounting of all threads together.
    pub(crate) fn schedule(&self) -> io::Result<Schedule> {
        let threads = self.threads("schedstat")?;
        Ok(threads.iter().fold(Schedule::default(), |sum, it| sum.and(it)))
    }

    /// Clock ticks in user code and in the kernel, sampled by the timer interrupt.
    pub(crate) fn ticks(&self) -> io::Result<[u64; 2]> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process))?;
        // utime and stime are the fields 14 and 15; the name is the second.
        Ok(numbers(after_name(&stat), 11))
    }

    /// Peak memory in KiB.
    pub(crate) fn memory(&self) -> io::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process))?;
        let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let most = most.and_then(|line| line.split_whitespace().next()?.parse().ok());
        most.ok_or_else(|| Error::other("the system does not tell the server's memory"))
    }

    /// The contents of a file under /proc for each thread; skips threads that end during the walk.
    fn threads(&self, file: &str) -> io::Result<Vec<String>> {
        let mut texts = Vec::new();
        for thread in fs::read_dir(format!("/proc/{}/task", self.process))? {
            match fs::read_to_string(thread?.path().join(file)) {
                Ok(text) => texts.push(text),
                Err(error) if ended(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(texts)
    }

    /// Makes the watch end the server, and waits for that with a limit.
    fn end(&mut self) -> io::Result<()> {
        drop(self.watch.stdin.take());
        let patience = Instant::now() + GRACE + PATIENCE;
        while self.watch.try_wait()?.is_none() {
            if Instant::now() > patience {
                self.watch.kill()?;
            }
            pause(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("cannot end server process {}: {error}", self.process);
        }
    }
}

/// True if an error from /proc means that the thread has ended.
fn ended(error: &Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::NOENT | Errno::SRCH))
}

/// The fields after the name in a `stat` file; the name may contain any character.
fn after_name(stat: &str) -> &str {
    stat.rsplit_once(") ").map_or("", |(_, rest)| rest)
}

fn numbers(line: &str, skip: usize) -> [u64; 2] {
    let mut fields = line.split(' ').skip(skip).map(|it| it.parse().unwrap_or(0));
    [fields.next().unwrap_or(0), fields.next().unwrap_or(0)]
}
