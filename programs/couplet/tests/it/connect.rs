//! `couplet connect`.

use std::fs::File;
use std::io::{PipeWriter, Read, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use rustix::process::Signal;

use crate::http::Site;
use crate::kit::{
    Client, Running, Server, TempFile, Terminal, Upstream, couplet, noise, now, run, serve_raw,
    unused_port, wait_until,
};

const MIB: usize = 1024 * 1024;

fn connect(to: impl ToString) -> Command {
    couplet(&["connect", &to.to_string()])
}

/// Runs a command with these streams.
fn start(mut command: Command, stdin: impl Into<Stdio>, stdout: impl Into<Stdio>) -> Running {
    Running::spawn(command.stdin(stdin).stdout(stdout).stderr(Stdio::piped()))
}

/// Runs `couplet connect` with this stdin, and collects stdout.
fn with_stdin(to: impl ToString, stdin: impl Into<Stdio>) -> Running {
    start(connect(to), stdin, Stdio::piped())
}

/// The same with `--no-answer`.
fn no_answer(to: impl ToString, stdin: impl Into<Stdio>) -> Running {
    start(couplet(&["connect", "--no-answer", &to.to_string()]), stdin, Stdio::piped())
}

/// A stdin of these bytes.
fn file(bytes: &[u8]) -> File {
    File::open(TempFile::new(bytes).path()).unwrap()
}

/// A server that ends its stream immediately, and the bytes that it receives.
fn sink() -> (SocketAddr, Receiver<Vec<u8>>) {
    let (sender, received) = mpsc::channel();
    let sink = serve_raw(move |mut client| {
        client.finish();
        sender.send(client.read_to_end().unwrap()).unwrap();
    });
    (sink, received)
}

/// Runs `couplet connect` with these bytes on stdin, then EOF.
fn given(to: impl ToString, bytes: &[u8]) -> Running {
    let mut running = with_stdin(to, Stdio::piped());
    let (mut stdin, bytes) = (running.stdin().unwrap(), bytes.to_vec());
    // The write fails if the command ended before it read everything.
    std::thread::spawn(move || drop(stdin.write_all(&bytes)));
    running
}

#[test]
fn stdin_goes_to_the_server_and_its_bytes_to_stdout() {
    let server = Server::start(&["echo"]);
    for bytes in [&b""[..], b"a line\n", b"no end of a line", &noise(20 * MIB)] {
        for running in [given(server.address(), bytes), with_stdin(server.address(), file(bytes))] {
            let ended = running.ended();
            ended.quietly(0);
            assert!(ended.stdout == bytes, "{} bytes came back", ended.stdout.len());
        }
    }
}

#[test]
fn a_program_that_closes_its_input_is_printed_in_full() {
    let mut big = b"first\n".to_vec();
    big.resize(3 * MIB, b'x');
    for (program, printed) in [
        ("process:/usr/bin/head -n1", "first\n"),
        (
            "process:/bin/sh -c 'exec 0<&-; sleep 0.1; echo done; sleep 0.1; echo more'",
            "done\nmore\n",
        ),
    ] {
        for _ in 0..10 {
            let ended = with_stdin(program, file(&big)).ended();
            assert_eq!(ended.stdout, printed.as_bytes(), "{program}: {}", ended.stderr);
            assert_eq!((ended.code, &ended.stderr[..]), (Some(0), ""), "{program}");
        }
    }
    // More of stdin is not waited for.
    let mut running = with_stdin("process:/usr/bin/head -n1", Stdio::piped());
    let mut stdin = running.stdin().unwrap();
    let _ = stdin.write_all(&big[..MIB]);
    assert_eq!(running.ended().stdout, b"first\n");
    drop(stdin);
}

/// Whether the program has read all of its input, or answered, makes no difference.
#[test]
fn a_program_that_fails_is_a_failure_and_one_that_succeeds_is_not() {
    let inputs = [b"".to_vec(), b"a line\n".to_vec(), noise(3 * MIB)];
    for (command, printed, failure) in [
        ("true", "", None),
        ("cat >/dev/null", "", None),
        ("echo done", "done\n", None),
        ("exit 7", "", Some("the process exited with code 7")),
        ("cat >/dev/null; echo part; exit 7", "part\n", Some("the process exited with code 7")),
        ("echo part; kill -KILL $$", "part\n", Some("the process was ended by SIGKILL")),
    ] {
        let program = format!("process:/bin/sh -c '{command}'");
        for input in &inputs {
            let ended = with_stdin(&program, file(input)).ended();
            assert_eq!(ended.text(), printed, "{program}");
            let code = i32::from(failure.is_some());
            assert_eq!(ended.code, Some(code), "{program}: {}", ended.stderr);
            match failure {
                Some(failure) => assert!(ended.stderr.contains(failure), "{}", ended.stderr),
                None => assert_eq!(ended.stderr, "", "{program}"),
            }
        }
    }
}

#[test]
fn with_nothing_to_say_it_prints_a_whole_poem() {
    let poet = serve_raw(|mut client| {
        for part in noise(10_000).chunks(1000) {
            client.send(part);
            crate::kit::pause();
        }
    });
    let ended = with_stdin(poet, Stdio::null()).ended();
    ended.quietly(0);
    assert!(ended.stdout == noise(10_000));
}

#[test]
fn after_the_end_of_stdin_the_server_may_still_send() {
    let answering = serve_raw(|mut client| {
        let question = client.read_to_end().unwrap();
        for _ in 0..3 {
            client.send(&question);
        }
    });
    let ended = given(answering, b"again! ").ended();
    ended.prints("again! again! again! ");
}

#[test]
fn a_server_that_neither_reads_nor_ends_is_given_up() {
    // Clients stay in its queue.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port().to_string();
    for bytes in [0, 1, 30 * MIB] {
        let command = couplet(&["connect", &port, "--timeout", "0.2"]);
        start(command, file(&noise(bytes)), Stdio::piped()).ended().says(1, "timeout");
    }
}

#[test]
fn received_bytes_are_printed_immediately() {
    let server = Server::start(&["echo"]);
    let (mut shown, stdout) = std::io::pipe().unwrap();
    let mut running = start(connect(server.address()), Stdio::piped(), stdout);
    let mut stdin = running.stdin().unwrap();
    let mut read = |length| {
        let mut bytes = vec![0; length];
        shown.read_exact(&mut bytes).unwrap();
        bytes
    };
    for words in [&b"one"[..], b"two words\n", b"\0\xff"] {
        stdin.write_all(words).unwrap();
        assert_eq!(read(words.len()), words);
    }
    drop(stdin);
    running.ended().quietly(0);
}

#[test]
fn a_server_that_has_no_more_to_say_still_gets_all_of_stdin() {
    let (sink, received) = sink();
    let bytes = noise(30 * MIB);
    let mut from_pipe = no_answer(sink, Stdio::piped());
    let (mut stdin, piped) = (from_pipe.stdin().unwrap(), bytes.clone());
    std::thread::spawn(move || stdin.write_all(&piped).unwrap());
    for running in [from_pipe, no_answer(sink, file(&bytes))] {
        running.ended().quietly(0);
        assert!(received.recv().unwrap() == bytes);
    }
}

#[test]
fn each_piece_of_stdin_gives_the_next_one_a_second_after_the_servers_end_of_stream() {
    let (sink, received) = sink();
    let slowly = "for n in 1 2 3 4 5; do sleep 0.4; echo $n; done";
    let mut source =
        Command::new("sh").args(["-c", slowly]).stdout(Stdio::piped()).spawn().unwrap();
    no_answer(sink, source.stdout.take().unwrap()).ended().quietly(0);
    source.wait().unwrap();
    assert_eq!(received.recv().unwrap(), b"1\n2\n3\n4\n5\n");
}

#[test]
fn a_pipe_that_falls_silent_again_after_the_servers_end_of_stream_does_not_hold_it() {
    let server = Upstream::start();
    // A line, and more than the transport takes at a time.
    for bytes in [b"a line\n".to_vec(), noise(MIB)] {
        let mut running = no_answer(&server.address, Stdio::piped());
        let (mut stdin, mut client) = (running.stdin().unwrap(), server.accept());
        client.finish();
        running.wait_snapshot("half-closed");
        let receiving = std::thread::spawn(move || client.read_to_end().unwrap());
        // Fails if the second of silence is over already.
        let _ = stdin.write_all(&bytes);
        assert!(bytes.starts_with(&receiving.join().unwrap()));
        assert_eq!(running.ended().code, Some(0));
        drop(stdin);
    }
}

#[test]
fn a_server_that_closes_without_the_answer_that_was_awaited_is_a_failure() {
    let silent = serve_raw(|mut client| drop(client.read_to_end()));
    let leaving = serve_raw(|mut client| {
        client.read_exact(5);
        client.finish();
        drop(client.read_to_end());
    });
    let brief = serve_raw(|mut client| {
        client.send(b"x");
        drop(client.read_to_end());
    });
    for server in [silent, leaving] {
        let ended = given(server, b"words").ended();
        assert_eq!((ended.code, ended.text()), (Some(1), ""));
        let told = "the server closed the connection without an answer (--no-answer expects none)";
        assert_eq!(ended.stderr, format!("couplet: tcp:{server}: {told}\n"));
    }
    // One byte counts as an answer, and without a request none is awaited.
    given(brief, b"words").ended().quietly(0);
    given(silent, b"").ended().quietly(0);
    no_answer(silent, file(b"words")).ended().quietly(0);
}

#[test]
fn a_request_from_a_pipe_is_answered_by_an_http_server() {
    let body = noise(MIB);
    let site = Site::new(&[("file", &body)]);
    let server = site.serve();
    for _ in 0..20 {
        let request = b"GET /file HTTP/1.1\r\nHost: a\r\n\r\n";
        let ended = given(server.address(), request).ended();
        ended.quietly(0);
        assert!(ended.stdout.starts_with(b"HTTP/1.1 200 OK\r\n"));
        assert!(ended.stdout.ends_with(&body));
    }
}

#[test]
fn an_open_stdin_does_not_delay_the_exit_after_the_server_has_closed() {
    let poet = serve_raw(|mut client| client.send(b"a poem\n"));
    let mut running = with_stdin(poet, Stdio::piped());
    let stdin = running.stdin();
    running.ended().prints("a poem\n");
    drop(stdin);
}

/// Sends until the peer has taken nothing for a second.
fn push_until_full(client: &mut Client, bytes: &[u8]) -> usize {
    let (mut taken, mut full) = (0, now());
    while full.elapsed() < Duration::from_secs(1) {
        let more = client.push(&bytes[taken..]);
        taken += more;
        if more > 0 {
            full = now();
        }
    }
    taken
}

#[test]
#[ignore = "measures; run it alone"]
fn a_slow_reader_of_stdout_slows_the_server_and_gets_everything() {
    let (sender, sent) = mpsc::channel();
    let flood = serve_raw(move |mut client| {
        let bytes = noise(60 * MIB);
        let taken = push_until_full(&mut client, &bytes);
        sender.send(taken).unwrap();
        client.send(&bytes[taken..]);
    });
    let (mut shown, stdout) = std::io::pipe().unwrap();
    let running = start(connect(flood), Stdio::null(), stdout);
    let taken = sent.recv().unwrap();
    assert!(taken < 50 * MIB, "the server could send {taken} bytes");
    assert!(running.memory() < 30 * 1024, "{} KiB", running.memory());
    let mut bytes = Vec::new();
    shown.read_to_end(&mut bytes).unwrap();
    assert!(bytes == noise(60 * MIB), "{} bytes", bytes.len());
    running.ended().quietly(0);
}

/// Types until nothing has been taken for more than a second; returns the number of bytes taken.
fn type_until_full(typing: &mut PipeWriter, bytes: &[u8]) -> usize {
    rustix::io::ioctl_fionbio(&*typing, true).unwrap();
    let (mut typed, mut full) = (0, now());
    while full.elapsed() < Duration::from_millis(1200) {
        match typing.write(&bytes[typed..]) {
            Ok(n @ 1..) => (typed, full) = (typed + n, now()),
            _ => crate::kit::pause(),
        }
    }
    rustix::io::ioctl_fionbio(&*typing, false).unwrap();
    typed
}

#[test]
fn a_server_that_sends_its_end_of_stream_and_then_reads_slowly_gets_all_of_stdin() {
    let server = Upstream::start();
    let bytes = noise(60 * MIB);
    let (stdin, mut typing) = std::io::pipe().unwrap();
    let mut running = no_answer(&server.address, stdin);
    let mut client = server.accept();
    let mut typed = type_until_full(&mut typing, &bytes);
    client.finish();
    running.wait_snapshot("half-closed");
    // A stdin that is not read is not silent.
    typed += type_until_full(&mut typing, &bytes[typed..]);
    assert!(typed < 50 * MIB, "it took {typed} bytes");
    let reading = std::thread::spawn(move || client.read_to_end().unwrap());
    typing.write_all(&bytes[typed..]).unwrap();
    drop(typing);
    assert!(reading.join().unwrap() == bytes);
    assert_eq!(running.ended().code, Some(0));
}

#[test]
#[ignore = "measures; run it alone"]
fn a_server_that_reads_slowly_slows_stdin_and_gets_everything() {
    let (sender, received) = mpsc::channel();
    let (go_on, waiting) = mpsc::channel();
    let waiting = std::sync::Arc::new(std::sync::Mutex::new(waiting));
    let slow = serve_raw(move |mut client| {
        waiting.lock().unwrap().recv().unwrap();
        sender.send(client.read_to_end().unwrap()).unwrap();
    });
    let bytes = noise(60 * MIB);
    let (stdin, mut typing) = std::io::pipe().unwrap();
    let running = no_answer(slow, stdin);
    let typed = type_until_full(&mut typing, &bytes);
    assert!(typed < 50 * MIB, "it took {typed} bytes");
    assert!(running.memory() < 30 * 1024, "{} KiB", running.memory());
    go_on.send(()).unwrap();
    typing.write_all(&bytes[typed..]).unwrap();
    drop(typing);
    assert!(received.recv().unwrap() == bytes);
    running.ended().quietly(0);
}

#[test]
fn non_blocking_standard_streams_work() {
    let server = Server::start(&["echo"]);
    let bytes = noise(3 * MIB);
    let (stdin, mut typing) = std::io::pipe().unwrap();
    let (mut shown, stdout) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&stdin, true).unwrap();
    rustix::io::ioctl_fionbio(&stdout, true).unwrap();
    let running = start(connect(server.address()), stdin, stdout);
    let sent = bytes.clone();
    let sending = std::thread::spawn(move || typing.write_all(&sent));
    let mut got = Vec::new();
    shown.read_to_end(&mut got).unwrap();
    sending.join().unwrap().unwrap();
    running.ended().quietly(0);
    assert!(got == bytes);
}

#[test]
fn at_a_terminal_lines_go_to_the_server_and_control_d_ends_them() {
    let server = serve_raw(|mut client| {
        client.send(b"Who are you?\n");
        let name = client.read_line();
        client.send(format!("Welcome, {name}!\n").as_bytes());
        let last = client.read_to_end().unwrap();
        client.send(&[b"Last words: ", &last[..]].concat());
    });
    let mut terminal = Terminal::start(80, 24, &mut connect(server));
    let shows = |terminal: &Terminal, text: &str| {
        wait_until(text, || terminal.shown().contains(text));
    };
    shows(&terminal, "Who are you?");
    terminal.press("ada\n");
    shows(&terminal, "Welcome, ada!");
    terminal.press("goodbye\n\x04");
    let ended = terminal.ended();
    assert_eq!(ended.code, Some(0));
    assert!(ended.text().ends_with("Last words: goodbye\r\n"), "{}", ended.text());
}

#[test]
fn at_a_terminal_the_command_ends_with_the_server_without_a_key() {
    let poet = serve_raw(|mut client| client.send(b"a poem\n"));
    let ended = Terminal::start(80, 24, &mut connect(poet)).ended();
    assert_eq!((ended.code, ended.text()), (Some(0), "a poem\r\n"));
}

#[test]
fn an_interrupt_exits_with_130_and_a_termination_with_143_after_printing_received_bytes() {
    let greeting = serve_raw(|mut client| {
        client.send(b"hello\n");
        drop(client.read_to_end());
    });
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let (mut shown, stdout) = std::io::pipe().unwrap();
        let mut running = start(connect(greeting), Stdio::piped(), stdout);
        shown.read_exact(&mut [0; 6]).unwrap();
        running.signal(signal);
        running.ended().quietly(code);
    }
    // The same if neither the peer nor the reader of stdout reads.
    let stuck = serve_raw(|mut client| {
        push_until_full(&mut client, &noise(60 * MIB));
        // Both streams stay unread.
        std::thread::park();
    });
    let (mut shown, stdout) = std::io::pipe().unwrap();
    let mut running = start(connect(stuck), file(&noise(60 * MIB)), stdout);
    shown.read_exact(&mut [0]).unwrap();
    running.wait_snapshot(" paused in ");
    running.signal(Signal::INT);
    assert_eq!(running.ended().code, Some(130));
}

#[test]
fn a_closed_pipe_ends_it_quietly() {
    let flood = serve_raw(|mut client| {
        client.push(&noise(20 * MIB));
        drop(client.read_to_end());
    });
    let (shown, stdout) = std::io::pipe().unwrap();
    drop(shown);
    // Stdin holds more bytes, which the command does not need.
    start(connect(flood), Stdio::piped(), stdout).ended().quietly(0);
}

#[test]
fn a_failure_exits_with_1_and_one_line_that_names_it() {
    let (unused, _guard) = unused_port();
    let resetting = serve_raw(Client::reset);
    let server = Server::start(&["echo"]);
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let null = || File::open("/dev/null").unwrap();
    #[rustfmt::skip]
    let cases: [(String, File, Option<File>, String); 5] = [
        (unused.to_string(), null(), None, format!("cannot connect to tcp:{unused}: connection refused")),
        ("no-such-host.invalid:80".into(), null(), None, "cannot connect to tcp:no-such-host.invalid:80: cannot find the host".into()),
        (resetting.to_string(), null(), None, format!("tcp:{resetting}: connection lost: connection reset by peer")),
        (server.address(), File::open("/").unwrap(), None, "cannot read stdin: is a directory".into()),
        (server.address(), file(b"words"), Some(full()), "cannot write to stdout: no space left on device".into()),
    ];
    for (to, stdin, stdout, expected) in cases {
        let stdout = stdout.map_or_else(Stdio::null, Stdio::from);
        let ended = start(connect(to), stdin, stdout).ended();
        assert_eq!(ended.code, Some(1), "{expected}: {}", ended.stderr);
        // A reset may arrive before the report of a successful connect.
        let early = expected.replace(": connection lost", "");
        let said = [&expected, &early.replacen("tcp:", "cannot connect to tcp:", 1)];
        let said = said.iter().any(|it| ended.stderr.starts_with(&format!("couplet: {it}")));
        assert!(said, "{}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    }
}

#[test]
fn v_logs_the_peer_and_the_help_has_examples() {
    let server = Server::start(&["echo"]);
    let mut running = Running::start(&mut couplet(&["connect", &server.address(), "-v"]));
    running.stdin();
    let ended = running.ended();
    assert!(ended.stderr.contains(&format!("connected peer=tcp:{}", server.address())));
    let ended = run(&["connect", "--help"]);
    let words = ["couplet connect 7777", "< /dev/null", "Exit codes: 0", "Ctrl-D", "--no-answer"];
    for word in words.into_iter().chain(["silent for a second"]) {
        assert!(ended.text().contains(word), "{word}");
    }
}
