//! `couplet echo`.

use std::time::Duration;

use rustix::process::Signal;

use crate::kit::{Client, Server, couplet, noise, now, wait_until};

const MIB: usize = 1024 * 1024;

#[test]
fn a_log_endpoint_logs_the_bytes_and_the_port_names_its_wrappers() {
    let endpoint = "log:throttle:127.0.0.1:0:write=1M";
    let server = Server::start_command(couplet(&["echo", "-v", "--listen", endpoint]), 0);
    let line = server.line();
    let at = line.strip_prefix("listening on log:throttle:").expect("both, in this order");
    server.wait_told("listening host=log:throttle:");
    let mut client = Client::connect(at.parse().expect("an address"));
    client.echoes(b"a line\n");
    server.wait_told(r"> a line\n");
    server.wait_told(r"< a line\n");
}

#[test]
fn every_byte_is_echoed_also_one_at_a_time() {
    let server = Server::start(&["echo"]);
    let (mut client, bytes) = (server.connect(), noise(500));
    for text in [&b"one"[..], b"two words", &[0, 255, 128, 10, 13]] {
        client.echoes(text);
    }
    bytes.iter().for_each(|byte| client.send(&[*byte]));
    client.finish();
    assert_eq!(client.read_to_end().unwrap(), bytes);
    server.stop(Signal::TERM).quietly(0);
}

#[test]
fn a_client_that_stops_sending_gets_the_rest_and_the_end() {
    let server = Server::start(&["echo"]);
    let bytes = noise(20 * MIB);
    let mut client = server.connect();
    let sending = client.sending(bytes.clone());
    assert!(client.read_to_end().unwrap() == bytes, "20 MiB come back unchanged");
    sending.join().unwrap();
}

#[test]
#[ignore = "measures; run it alone"]
fn c71_a_client_that_never_reads_costs_at_most_2_mib_and_is_not_cut() {
    const CLIENTS: usize = 4;
    let server = Server::start(&["echo"]);
    // More than fits into the kernel's buffers in both directions.
    let bytes = noise(40 * MIB);
    warm_up(&server, &bytes[..8 * MIB]);
    let before = server.memory();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| server.connect()).collect();
    let taken: Vec<_> = clients.iter_mut().map(|client| client.push(&bytes)).collect();
    assert!(taken.iter().all(|taken| (8 * MIB..40 * MIB).contains(taken)), "{taken:?}");
    let grown = server.memory().saturating_sub(before);
    assert!(grown <= CLIENTS as u64 * 2 * 1024, "{CLIENTS} clients cost {grown} KiB");
    // Another client is served normally, and the stalled clients get all their bytes when they
    // read.
    warm_up(&server, &bytes[..MIB]);
    for (client, taken) in clients.iter_mut().zip(taken) {
        assert!(client.read_exact(taken) == bytes[..taken]);
    }
    server.stop(Signal::TERM).quietly(0);
}

/// Echoes bytes to a reading client, so that the server's baseline memory is allocated.
fn warm_up(server: &Server, bytes: &[u8]) {
    let mut client = server.connect();
    let (mut sender, sent) = (client.another(), bytes.to_vec());
    let sending = std::thread::spawn(move || sender.send(&sent));
    assert!(client.read_exact(bytes.len()) == bytes);
    sending.join().unwrap();
}

#[test]
fn a_client_that_sends_nothing_for_the_idle_timeout_is_cut() {
    let server = Server::start(&["echo", "--idle-timeout", "3"]);
    let began = now();
    let mut silent = server.connect();
    let mut talking = server.connect();
    let heard = std::thread::spawn(move || silent.read_to_end());
    while !heard.is_finished() {
        // Each word restarts the timeout.
        talking.echoes(b"word");
    }
    assert!(began.elapsed() >= Duration::from_secs(3));
    assert!(heard.join().unwrap().is_err(), "a silent connection is reset");
    talking.echoes(b"word");
}

#[test]
fn a_client_that_reads_slowly_is_not_idle() {
    let server = Server::start(&["echo", "--idle-timeout", "0.5"]);
    let bytes = noise(40 * MIB);
    let mut client = server.connect();
    let (mut taken, mut full) = (client.push(&bytes), now());
    // Ends once the server has read nothing for twice the timeout.
    while full.elapsed() < Duration::from_secs(1) {
        let more = client.push(&bytes[taken..]);
        taken += more;
        if more > 0 {
            full = now();
        }
    }
    assert!(taken < bytes.len(), "the server pauses reading");
    client.finish();
    assert!(client.read_to_end().unwrap() == bytes[..taken]);
}

/// The stall detector's thread runs if stalls would be logged.
#[cfg(target_os = "linux")]
#[test]
fn the_stall_detector_runs_with_v() {
    let is_watched = |server: &Server| {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", server.running.pid())).unwrap();
        let name = |task: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_to_string(task.ok()?.path().join("comm")).ok()
        };
        tasks.filter_map(name).any(|name| name.trim() == "couplet stalls")
    };
    let silent = Server::start(&["echo"]);
    let talkative = Server::start(&["echo", "-v"]);
    wait_until("the thread", || is_watched(&talkative));
    assert!(!is_watched(&silent));
}
