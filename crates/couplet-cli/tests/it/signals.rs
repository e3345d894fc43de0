//! SIGINT, SIGTERM and SIGUSR1.

use std::io::ErrorKind;

use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::process::{Pid, Signal, kill_process};

use crate::kit::{
    Client, Running, Server, TempFile, Upstream, couplet, full_pipe, noise, serve_raw, wait_until,
};
use crate::needed::Folder;

/// An echo server with an idle client and one that does not read, and a poetry server with a client
/// that is draining, one that does not read 10 MB, and one in mid-poem.
fn busy_servers() -> Vec<(Server, Vec<Client>)> {
    let echo = Server::start(&["echo", "--drain", "0"]);
    let (mut idle, mut unread) = (echo.connect(), echo.connect());
    idle.send(b"x");
    idle.read_exact(1);
    unread.push(&noise(10_000_000));

    let poems = [&b"short"[..], &noise(10_000_000)].map(TempFile::new);
    let files = poems.each_ref().map(TempFile::path);
    let fast =
        Server::start(&[&["poetry", "serve", "--drain", "0", "--delay", "0"], &files[..]].concat());
    let mut draining = fast.connect();
    assert_eq!(draining.read_to_end().unwrap(), b"short");
    let mut unsent = fast.connect();
    unsent.read_exact(1000);

    let slow = Server::start(&["poetry", "serve", "--drain", "0"]);
    let mut waiting = slow.connect();
    waiting.read_exact(10);
    vec![(echo, vec![idle, unread]), (fast, vec![draining, unsent]), (slow, vec![waiting])]
}

#[test]
fn a_server_stops_cleanly_with_0_within_a_second_whatever_is_open() {
    for signal in [Signal::INT, Signal::TERM] {
        for (server, _clients) in busy_servers() {
            let ended = server.stop(signal);
            ended.quietly(0);
            assert!(ended.took.as_secs_f64() < 1.0, "{:?}", ended.took);
        }
    }
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
        client.send(text);
        assert_eq!(client.read_exact(3), text);
    }
    server.stop(Signal::INT).quietly(0);
}

#[test]
fn a_second_signal_is_no_harm() {
    for (mut server, _clients) in busy_servers() {
        server.running.signal(Signal::INT);
        let ended = server.stop(Signal::INT);
        ended.quietly(0);
        assert!(ended.took.as_secs_f64() < 1.0, "{:?}", ended.took);
    }
}

#[test]
fn a_server_that_stops_makes_no_whole_poem_of_a_part() {
    let poem = TempFile::new(b"the whole poem");
    let args = ["poetry", "serve", "-v", "--drain", "0.1", "--delay", "30", poem.path()];
    for signal in [Signal::INT, Signal::TERM] {
        let server = Server::start(&args);
        let mut client = server.connect();
        assert_eq!(client.read_exact(10), b"the whole ");
        let get = Running::start(&mut couplet(&["poetry", "get", &server.address()]));
        let begun = || server.running.told().matches("serving a poem").count();
        wait_until("both to be sent the poem", || begun() == 2);
        assert_eq!(server.stop(signal).code, Some(0));
        assert_eq!(client.read_to_end().unwrap_err().kind(), ErrorKind::ConnectionReset);
        let ended = get.ended();
        assert_eq!((ended.code, ended.text()), (Some(1), ""), "{}", ended.stderr);
    }
}

#[test]
fn a_sigterm_lets_connections_finish() {
    let poem = TempFile::new(b"a poem that takes a second");
    let poet =
        Server::start(&["poetry", "serve", "--delay", "0.2", "--num-bytes", "5", poem.path()]);
    let mut reader = poet.connect();
    let mut text = reader.read_exact(5);
    let (echo, chat) = (Server::start(&["echo"]), Server::start(&["chat"]));
    let (mut idle, mut member) = (echo.connect(), chat.connect());
    idle.send(b"x");
    idle.read_exact(1);
    assert!(member.read_line().contains("Welcome!"));

    let reading = std::thread::spawn(move || {
        text.extend(reader.read_to_end().unwrap());
        reader.finish();
        text
    });
    let stopped = [(poet, 5.0), (echo, 1.0), (chat, 1.0)]
        .map(|(server, longest)| std::thread::spawn(move || (server.stop(Signal::TERM), longest)));
    assert!(idle.read_to_end().unwrap().is_empty());
    let said = String::from_utf8(member.read_to_end().unwrap()).unwrap();
    assert!(said.ends_with("* The server is stopping. Goodbye.\n"), "{said}");
    drop((idle, member));
    assert_eq!(reading.join().unwrap(), b"a poem that takes a second");
    for stopped in stopped {
        let (ended, longest) = stopped.join().unwrap();
        ended.quietly(0);
        assert!(ended.took.as_secs_f64() < longest, "{:?}", ended.took);
    }
}

#[test]
fn a_drain_waits_for_clients_between_requests_no_longer_than_a_second() {
    let folder = std::env::temp_dir();
    let folder = folder.to_str().expect("a path in UTF-8");
    let servers: [(&[&str], &str); 5] = [
        (&["echo"], "a"),
        (&["poetry", "serve", "--by-name"], "\n"),
        (&["chat"], ""),
        (&["poetry", "transform"], "7:upper.a,"),
        (&["serve", folder], "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ];
    // A new client has the whole time of the drain for its first request.
    for (is_new, drain) in [(false, "600"), (true, "1")] {
        let stopped = servers.map(|(args, request)| {
            let server = Server::start(&[args, &["--drain", drain]].concat());
            let mut silent = server.connect();
            if !is_new {
                silent.send(request.as_bytes());
                silent.read_exact(1);
            }
            std::thread::spawn(move || (server.stop(Signal::TERM), silent))
        });
        for (stopped, (args, _)) in stopped.into_iter().zip(servers) {
            let (ended, _silent) = stopped.join().unwrap();
            assert_eq!(ended.code, Some(0), "{args:?} {}", ended.stderr);
            assert!(ended.took.as_secs_f64() < 300.0, "{args:?} {:?}", ended.took);
        }
    }
}

#[test]
fn a_drain_lasts_as_long_as_it_may_or_until_the_next_signal() {
    let poem = TempFile::new(b"the whole poem");
    let serve = |threads: &str, drain: &str| {
        let args = ["poetry", "serve", "-v", "--delay", "30", "--drain", drain, poem.path()];
        let server = Server::start(&[&args[..], &["--threads", threads]].concat());
        let mut client = server.connect();
        assert_eq!(client.read_exact(10), b"the whole ");
        (server, client)
    };
    for threads in ["1", "2"] {
        let (server, mut client) = serve(threads, "0.5");
        let ended = server.stop(Signal::TERM);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert!((0.5..2.0).contains(&ended.took.as_secs_f64()), "{threads}: {:?}", ended.took);
        assert_eq!(client.read_to_end().unwrap_err().kind(), ErrorKind::ConnectionReset);
    }

    let seconds = [Signal::INT, Signal::TERM];
    for (threads, second) in ["1", "2"].into_iter().flat_map(|n| seconds.map(|it| (n, it))) {
        let (mut server, mut client) = serve(threads, "60");
        server.running.signal(Signal::TERM);
        server.wait_told("draining");
        let ended = server.stop(second);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert!(ended.took.as_secs_f64() < 2.0, "{:?}", ended.took);
        assert_eq!(client.read_to_end().unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
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
fn sigusr1_counts_the_ports_as_soon_as_they_are_told_of() {
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
fn who_is_connected_to_a_server_that_stops_sees_an_end() {
    let server = Server::start(&["echo"]);
    let mut client = server.connect();
    client.send(b"x");
    client.read_exact(1);
    let ended = server.stop(Signal::TERM);
    ended.quietly(0);
    assert_eq!(client.read_to_end().unwrap(), b"");
}

#[test]
fn an_interrupted_get_has_code_130_and_a_terminated_one_143() {
    let poem = TempFile::new(b"a poem\n");
    let server = Server::start(&["poetry", "serve", "--delay", "0", poem.path()]);
    let silent = serve_raw(|mut client| drop(client.read_to_end())).to_string();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let args = ["poetry", "get", &server.address(), &silent];
        let mut running = Running::start(&mut couplet(&args));
        wait_until("the first poem", || running.told().contains("a poem of 7 bytes"));
        running.signal(signal);
        let ended = running.ended();
        assert_eq!((ended.code, ended.text()), (Some(code), "a poem\n"));
        assert!(ended.took.as_secs_f64() < 1.0, "{:?}", ended.took);
        let lines: Vec<_> = ended.stderr.lines().collect();
        assert_eq!(lines.len(), 2, "{}", ended.stderr);
        assert!(lines[1].starts_with("interrupted: 1 of 2 poems, 7 bytes"), "{}", ended.stderr);
    }
}

#[test]
fn sigusr1_prints_a_snapshot_and_the_server_goes_on() {
    let server = Server::start(&["echo"]);
    let mut client = server.connect();
    client.send(b"hello");
    client.read_exact(5);
    for times in 1..3 {
        kill_process(Pid::from_raw(server.running.pid() as i32).unwrap(), Signal::USR1).unwrap();
        let count = || server.running.told().matches("1 ports, 0 connectors, 1 conn").count();
        wait_until("a snapshot", || count() == times);
    }
    server.wait_told(&format!("port        tcp:{} accepted 1\n", server.address()));
    server.wait_told(" open in 5 out 5 buffered 0 ");
    client.send(b"hello");
    client.read_exact(5);
    assert_eq!(server.stop(Signal::TERM).code, Some(0));
}

#[test]
fn sigusr1_tells_what_a_get_waits_for() {
    let silent = serve_raw(|mut client| drop(client.read_to_end())).to_string();
    let mut running = Running::start(&mut couplet(&["poetry", "get", &silent, "-vv"]));
    wait_until("a connection", || running.told().contains("connection made"));
    running.signal(Signal::USR1);
    let line = format!("connector   tcp:{silent} connected\n");
    wait_until("a snapshot", || running.told().contains(&line));
    running.signal(Signal::INT);
    assert_eq!(running.ended().code, Some(130));
}

#[test]
fn sigusr1_is_no_harm_where_nobody_reads_stderr() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let silent = Upstream::start();
    let mut command = couplet(&["poetry", "get", &silent.address, "--timeout", "0.5"]);
    let mut running = Running::spawn(command.stdin(std::process::Stdio::null()).stderr(writer));
    // The signal handlers are installed before the connect.
    let _client = silent.accept();
    running.signal(Signal::USR1);
    assert_eq!(running.ended().code, Some(1), "it continues to its timeout");
}
