//! Foreign servers for tests: each has its own folder, and stops on drop.

#[cfg(unix)]
pub(crate) mod postgres;
#[cfg(unix)]
pub(crate) mod redis;

#[cfg(unix)]
use std::io::{BufRead, BufReader, Read};
#[cfg(unix)]
use std::process::Child;

#[cfg(unix)]
use rustix::process::{Pid, Signal, getuid, kill_process};

/// The user and group for servers that refuse to run as root.
#[cfg(unix)]
fn unprivileged() -> Option<(u32, u32)> {
    if !getuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").expect("a list of users");
    let nobody =
        users.lines().find(|user| user.starts_with("nobody:")).expect("a user without rights");
    let mut numbers = nobody.split(':').skip(2).map(|number| number.parse().expect("a number"));
    numbers.next().zip(numbers.next())
}

/// Reads a server's log until the server is ready, then continues in a thread, so that the server
/// never blocks on a full pipe.
///
/// # Errors
///
/// The server's output, if it ends before it is ready.
#[cfg(unix)]
fn wait_for(ready: &str, log: impl Read + Send + 'static) -> Result<(), String> {
    let mut log = BufReader::new(log).lines();
    let mut said = Vec::new();
    let is_ready = log.by_ref().map_while(Result::ok).any(|line| {
        said.push(line);
        said.last().is_some_and(|line| line.contains(ready))
    });
    std::thread::spawn(move || log.for_each(drop));
    if is_ready { Ok(()) } else { Err(said.join("\n")) }
}

#[cfg(unix)]
fn signal(child: &Child, signal: Signal) {
    let _ = kill_process(Pid::from_child(child), signal);
}

/// Sends a signal to a server, and waits for its end.
#[cfg(unix)]
fn end(child: &mut Child, by: Signal) {
    // After a wait the process id is no longer valid.
    if let Ok(None) = child.try_wait() {
        signal(child, by);
        let _ = child.wait();
    }
}

/// A port without a listener at the moment.
#[cfg(unix)]
fn free_port() -> u16 {
    let bound = std::net::TcpListener::bind("127.0.0.1:0").and_then(|one| one.local_addr());
    bound.expect("a free port").port()
}

/// Starts a server on a free port; tries another one if the port was taken meanwhile.
#[cfg(unix)]
fn on_free_port<T>(start: impl Fn(u16) -> Result<T, String>) -> T {
    let mut said = String::new();
    for _ in 0..5 {
        match start(free_port()) {
            Ok(started) => return started,
            Err(instead) => said = instead,
        }
    }
    panic!("it does not start: {said}");
}
