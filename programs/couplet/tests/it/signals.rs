//! SIGINT, SIGTERM and SIGUSR1.

use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::process::{Pid, Signal, kill_process};

use crate::kit::{
    Client, Running, Server, assert_drain_briefly, assert_stop_at_once, couplet, full_pipe, noise,
    wait_until,
};
use crate::needed::Folder;

/// An echo server with an idle client and one that does not read.
fn busy_servers() -> Vec<(Server, Vec<Client>)> {
    let echo = Server::start(&["echo", "--drain", "0"]);
    let (mut idle, mut unread) = (echo.connect(), echo.connect());
    idle.echoes(b"x");
    unread.push(&noise(10_000_000));
    vec![(echo, vec![idle, unread])]
}

#[test]
fn a_server_with_open_connections_exits_with_0_within_a_second_also_at_a_second_signal() {
    assert_stop_at_once(busy_servers);
}

/// The system interrupts the wait of a process that continues.
#[test]
fn a_server_that_is_stopped_and_continued_still_serves() {
    let mut server = Server::start(&["echo"]);
    let mut client = server.connect();
    for text in [b"one", b"two"] {
        server.running.signal(Signal::STOP);
        let stat = format!("/proc/{}/stat", server.running.pid());
        let is_stopped = || std::fs::read_to_string(&stat).unwrap().contains(") T ");
        wait_until("it to be stopped", is_stopped);
        server.running.signal(Signal::CONT);
        wait_until("it to continue", || !is_stopped());
        client.echoes(text);
    }
    server.stop(Signal::INT).quietly(0);
}

#[test]
fn a_sigterm_lets_connections_finish() {
    let echo = Server::start(&["echo", "--drain", "600"]);
    let mut idle = echo.connect();
    idle.echoes(b"x");
    let stopped = std::thread::spawn(move || echo.stop(Signal::TERM));
    assert!(idle.read_to_end().unwrap().is_empty());
    drop(idle);
    let ended = stopped.join().unwrap();
    ended.quietly(0);
}

#[test]
fn a_drain_waits_for_clients_between_requests_no_longer_than_a_second() {
    let folder = std::env::temp_dir();
    let folder = folder.to_str().expect("a path in UTF-8");
    let servers: [(&[&str], &str); 2] =
        [(&["echo"], "a"), (&["serve", folder], "GET / HTTP/1.1\r\nHost: a\r\n\r\n")];
    assert_drain_briefly(&servers);
}

fn wait_until_it_takes(signal: Signal, pid: u32) {
    let status = format!("/proc/{pid}/status");
    wait_until("its signal handlers", || {
        let text = std::fs::read_to_string(&status).unwrap();
        let caught = text.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        let caught = u64::from_str_radix(caught.trim(), 16).unwrap();
        caught >> (signal.as_raw() - 1) & 1 == 1
    });
}

#[test]
fn a_program_that_hangs_is_ended_by_the_signals_after_the_first() {
    use std::os::unix::process::ExitStatusExt;
    let folder = Folder::new();
    let certificate = folder.path("certificate");
    mkfifoat(CWD, &certificate, Mode::RUSR | Mode::WUSR).unwrap();
    for signal in [Signal::INT, Signal::TERM] {
        // The server reads from a pipe that nothing writes to.
        let listen = format!("tls:0:cert={certificate}");
        let mut child = couplet(&["echo", "--listen", &listen]).spawn().unwrap();
        wait_until_it_takes(signal, child.id());
        let mut ended = None;
        wait_until("its end", || {
            kill_process(Pid::from_child(&child), signal).unwrap();
            ended = child.try_wait().unwrap();
            ended.is_some()
        });
        assert_eq!(ended.unwrap().signal(), Some(signal.as_raw()));
    }
}

#[test]
fn sigusr1_counts_ports_before_their_address_is_printed() {
    let (mut reader, full) = full_pipe();
    let args = ["echo", "--listen", "0", "--listen", "0"];
    let mut running = Running::start_with_stdout(couplet(&args).stdout(full));
    // The server listens, and blocks while it prints the address. The signal arrives before its
    // first turn.
    wait_until_it_takes(Signal::USR1, running.pid());
    wait_until("its ports", || running.sockets() >= 2);
    running.signal(Signal::USR1);
    let reading = std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
    wait_until("a snapshot", || !running.told().is_empty());
    assert!(running.told().starts_with("2 ports, 0 connectors"), "{}", running.told());
    running.signal(Signal::TERM);
    assert_eq!(running.ended().code, Some(0));
    reading.join().unwrap().unwrap();
}

#[test]
fn sigusr1_prints_a_snapshot_and_the_server_keeps_running() {
    let server = Server::start(&["echo"]);
    let mut client = server.connect();
    client.echoes(b"hello");
    for times in 1..3 {
        kill_process(Pid::from_raw(server.running.pid() as i32).unwrap(), Signal::USR1).unwrap();
        let count = || server.running.told().matches("1 ports, 0 connectors, 1 conn").count();
        wait_until("a snapshot", || count() == times);
    }
    server.wait_told(&format!("port        tcp:{} accepted 1\n", server.address()));
    server.wait_told(" open in 5 out 5 buffered 0 ");
    client.echoes(b"hello");
    assert_eq!(server.stop(Signal::TERM).code, Some(0));
}
