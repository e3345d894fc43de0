//! `couplet forward`.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};
use rustix::process::{Pid, Signal, kill_process};

use crate::kit::allow_a_crowd;
use crate::kit::peer;
use crate::kit::{
    Client, Running, Server, Upstream, couplet, haproxy, noise, now, run, serve_raw, unused_port,
    wait_until,
};
use crate::namespace::children_of;
use crate::needed::Folder;

const MIB: usize = 1024 * 1024;

fn forward(to: &str, more: &[&str]) -> Server {
    Server::start(&[&["forward", "0", to], more].concat())
}

/// A forwarder with one session: a client, and the server that it reaches.
struct Scene {
    server: Server,
    upstream: Upstream,
    near: Client,
    far: Client,
}

impl Scene {
    fn new(more: &[&str]) -> Scene {
        let upstream = Upstream::start();
        let server = forward(&upstream.address, more);
        let near = server.connect();
        let far = upstream.accept();
        Scene { server, upstream, near, far }
    }

    /// Runs the scene with the client's side first, then with the server's side first: the same
    /// facts hold for both.
    fn each(more: &[&str], scene: impl Fn(&Server, Client, Client)) {
        for turned in [false, true] {
            let Scene { server, upstream, near, far } = Scene::new(more);
            let (one, other) = if turned { (far, near) } else { (near, far) };
            scene(&server, one, other);
            drop(upstream);
        }
    }
}

/// Stops the server, and returns the totals that it printed last.
fn totals(server: Server) -> String {
    let ended = server.stop(Signal::INT);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    ended.stderr.lines().last().unwrap().to_owned()
}

#[test]
fn a_side_that_stops_sending_still_receives() {
    Scene::each(&[], |_, mut one, mut other| {
        one.send(b"the last words");
        one.finish();
        assert_eq!(other.read_to_end().unwrap(), b"the last words");
        other.send(b"heard");
        assert_eq!(one.read_exact(5), b"heard");
        other.send(&noise(MIB));
        other.finish();
        assert!(one.read_to_end().unwrap() == noise(MIB));
    });
}

#[test]
fn a_reset_becomes_a_reset() {
    Scene::each(&[], |_, mut one, mut other| {
        one.send(b"half a");
        assert_eq!(other.read_exact(6), b"half a");
        one.reset();
        let error = other.read_to_end().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_reset_behind_a_whole_answer_costs_nothing_of_it() {
    for turned in [false, true] {
        let Scene { mut server, upstream, near, far } = Scene::new(&[]);
        let (mut one, mut other) = if turned { (near, far) } else { (far, near) };
        let (bytes, descriptors) = (noise(300_000), server.descriptors());
        one.send(&bytes);
        one.finish();
        server.running.wait_snapshot("half-closed");
        one.reset();
        wait_until("the end of its connection", || server.descriptors() < descriptors);
        // Only now does the other one read.
        assert!(other.read_to_end().unwrap() == bytes);
        drop(upstream);
    }
}

/// Most bytes that the system's buffers hold between the two ends of a connection.
fn most_in_sockets() -> usize {
    let most = |limits| {
        let text = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{limits}")).unwrap();
        text.split_whitespace().last().and_then(|most| most.parse().ok()).unwrap_or(0)
    };
    most("tcp_rmem") + most("tcp_wmem")
}

#[test]
#[ignore = "measures; run it alone"]
fn a_slow_reader_slows_the_sender_and_costs_little() {
    Scene::each(&[], |server, mut one, mut other| {
        // After this the program has allocated its baseline memory.
        let bytes = noise(2 * most_in_sockets() + 8 * MIB);
        let (mut sender, sent) = (one.another(), bytes[..8 * MIB].to_vec());
        let sending = std::thread::spawn(move || sender.send(&sent));
        assert!(other.read_exact(8 * MIB) == bytes[..8 * MIB]);
        sending.join().unwrap();
        let before = server.memory();
        let taken = one.push(&bytes);
        assert!(taken < bytes.len(), "what the reader does not take is not taken");
        let grown = server.memory().saturating_sub(before);
        // The loop keeps up to 4 MiB of drained buffers.
        assert!(grown <= 4 * 1024, "it costs {grown} KiB");
        one.finish();
        assert!(other.read_to_end().unwrap() == bytes[..taken]);
    });
}

/// A listener that accepts nothing because its queue is full, as long as the guard lives.
fn deaf() -> (SocketAddr, impl Sized) {
    let listener = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&listener, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    listen(&listener, 0).unwrap();
    let address = SocketAddr::try_from(getsockname(&listener).unwrap()).unwrap();
    (address, (Client::connect(address), listener))
}

#[test]
fn a_reset_of_the_client_cancels_its_connect() {
    let (address, _queue) = deaf();
    let server = forward(&address.to_string(), &["-v", "--connect-timeout", "600"]);
    server.connect().reset();
    server.wait_told("broken on the client's side: ");
    assert!(!server.running.told().contains("cannot connect"));
    assert_eq!(totals(server), "1 connection, 0 bytes sent, 0 received, 1 broken");
}

#[test]
#[ignore = "measures; run it alone"]
fn a_client_is_not_read_before_its_server_is_connected() {
    let (address, _queue) = deaf();
    let bytes = noise(40 * MIB);
    let server = forward(&address.to_string(), &["--connect-timeout", "4"]);
    let mut client = server.connect();
    let before = server.memory();
    let taken = client.push(&bytes);
    assert!(taken < 40 * MIB);
    let grown = server.memory().saturating_sub(before);
    assert!(!server.running.told().contains("cannot connect"), "it was measured too late");
    assert!(grown <= 512, "{taken} bytes taken by the system cost {grown} KiB");
    client.read_to_end().unwrap_err();
    server.wait_told(&format!("cannot connect to tcp:{address}: "));
    assert!(server.running.told().contains("4s"), "{}", server.running.told());
    assert_eq!(totals(server), "1 connection, 0 bytes sent, 0 received, 1 not connected");
}

#[test]
fn a_refused_connection_is_one_line_in_the_log_and_resets_the_client() {
    let (nobody, _taken) = unused_port();
    let server = forward(&nobody.to_string(), &["-v"]);
    for _ in 0..3 {
        server.connect().read_to_end().unwrap_err();
    }
    let line = format!("cannot connect to tcp:{nobody}: connection refused");
    wait_until("three lines", || server.running.told().matches(&line).count() == 3);
    let about_clients = |line: &&str| line.contains("peer=tcp:");
    assert_eq!(server.running.told().lines().filter(about_clients).count(), 3);
    assert_eq!(totals(server), "3 connections, 0 bytes sent, 0 received, 3 not connected");
}

#[test]
fn a_session_in_which_nothing_moves_is_reset() {
    Scene::each(&["--idle-timeout", "2"], |server, mut one, mut other| {
        let (began, mut silent) = (now(), now());
        // Activity in one direction is enough.
        while began.elapsed() < Duration::from_secs(3) {
            silent = now();
            one.send(b"x");
            other.read_exact(1);
            crate::kit::pause();
        }
        one.read_to_end().unwrap_err();
        other.read_to_end().unwrap_err();
        assert!(silent.elapsed() >= Duration::from_millis(1900), "{:?}", silent.elapsed());
        assert_eq!(server.running.told(), "");
    });
}

#[test]
fn a_slow_reader_is_not_idle() {
    let Scene { server, upstream: _upstream, mut near, far } = Scene::new(&["--idle-timeout", "1"]);
    let bytes = noise(16 * MIB);
    let (mut sender, sent) = (far, bytes.clone());
    let sending = std::thread::spawn(move || {
        sender.send(&sent);
        sender.finish();
        sender
    });
    let (began, mut got) = (now(), Vec::new());
    while began.elapsed() < Duration::from_millis(2500) {
        // A rate that a busy machine does not lower: the kernel opens its window in steps, and must make
        // progress well within the timeout.
        while got.len() < 5 * MIB * began.elapsed().as_millis() as usize / 1000 {
            got.extend(near.read_exact(32 * 1024));
        }
        crate::kit::pause();
    }
    near.finish();
    got.extend(near.read_to_end().unwrap());
    assert!(got == bytes);
    drop(sending.join().unwrap());
    assert_eq!(totals(server), "1 connection, 0 bytes sent, 16777216 received");
}

#[test]
fn with_v_there_is_a_line_for_each_connection_at_its_end() {
    let Scene { server, upstream, mut near, mut far } = Scene::new(&["-v"]);
    near.send(b"12345");
    near.finish();
    assert_eq!(far.read_to_end().unwrap(), b"12345");
    far.send(b"123");
    assert!(!server.running.told().contains("sent="));
    far.finish();
    near.read_to_end().unwrap();
    server.wait_told("closed peer=tcp:127.0.0.1:");
    server.wait_told(" sent=5 received=3 seconds=\"0.");
    let mut broken = server.connect();
    broken.send(b"1");
    let mut far = upstream.accept();
    far.read_exact(1);
    far.reset();
    server.wait_told("broken on the server's side: connection lost");
    let sides = server.connect();
    let _far = upstream.accept();
    sides.reset();
    server.wait_told("broken on the client's side: connection lost");
    assert_eq!(totals(server), "3 connections, 6 bytes sent, 3 received, 2 broken");
}

#[test]
fn a_client_above_the_limit_is_turned_away_until_another_leaves() {
    let Scene { server, upstream, near, far } = Scene::new(&["--max-connections", "1"]);
    for _ in 0..2 {
        assert_eq!(server.connect().read_to_end().unwrap_or_default(), b"");
    }
    let told = "too many connections; turning some away";
    server.wait_told(told);
    assert!(upstream.is_unasked());
    drop((near, far));
    wait_until("a client to be served", || {
        drop(server.connect());
        !upstream.is_unasked()
    });
    assert_eq!(server.running.told().matches(told).count(), 1);
    server.stop(Signal::TERM);
}

#[test]
fn a_thousand_clients_reach_each_their_own_server() {
    if !allow_a_crowd() {
        return;
    }
    let upstream = serve_raw(|mut far| {
        let words = far.read_line();
        far.send(format!("you said {words}").as_bytes());
    });
    let server = Server::start_limited(4096, &["forward", "0:backlog=1024", &upstream.to_string()]);
    let descriptors = server.descriptors();
    let mut clients: Vec<Client> = (0..1000).map(|_| server.connect()).collect();
    wait_until("two sockets for each", || server.running.sockets() > 2000);
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(format!("{n:03}\n").as_bytes());
    }
    for (n, mut client) in clients.into_iter().enumerate() {
        let words = client.read_to_end().unwrap();
        assert_eq!(words, format!("you said {n:03}").as_bytes());
    }
    wait_until("all descriptors to be closed", || server.descriptors() <= descriptors);
    assert_eq!(totals(server), "1000 connections, 4000 bytes sent, 12000 received");
}

#[test]
fn a_stop_or_kill_resets_unfinished_connections() {
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        let Scene { server, upstream: _upstream, mut near, mut far } =
            Scene::new(&["--drain", "0"]);
        far.send(b"half a");
        assert_eq!(near.read_exact(6), b"half a");
        let ended = server.stop(signal);
        if signal != Signal::KILL {
            let told = "1 connection, 0 bytes sent, 6 received, 1 cut off at the end\n";
            assert_eq!((ended.code, &*ended.stderr), (Some(0), told));
        }
        for mut side in [near, far] {
            assert_eq!(side.read_to_end().unwrap_err().kind(), ErrorKind::ConnectionReset);
        }
    }
}

#[test]
fn a_failed_listen_is_reported() {
    let first = Server::start(&["echo"]);
    let ended = run(&["forward", &first.address(), "1"]);
    assert_eq!((ended.code, ended.text()), (Some(1), ""));
    assert!(ended.stderr.starts_with("couplet: cannot listen on tcp:"), "{}", ended.stderr);
}

#[test]
fn socat_speaks_through_it_to_socat_over_unix_sockets_and_tcp() {
    needs!("socat");
    let bytes = noise(2_000_000);
    let (inner, outer) = (Folder::new(), Folder::new());
    // TCP to a UNIX socket of a second forwarder, which connects to a TCP port of a third one,
    // which connects to socat's UNIX socket.
    let mut socat = Command::new("socat");
    socat.args(["-t", "10", &format!("UNIX-LISTEN:{}", inner.path("socket")), "EXEC:cat"]);
    let socat = Running::start_with_stdout(&mut socat);
    wait_until("socat to listen", || std::fs::exists(inner.path("socket")).unwrap());
    let last = forward(&format!("unix:{}", inner.path("socket")), &[]);
    let listen = format!("unix:{}", outer.path("socket"));
    let middle = Server::start_command(couplet(&["forward", &listen, &last.address()]), 0);
    assert_eq!(middle.line().trim_end(), format!("listening on {listen}"));
    let first = forward(&listen, &[]);
    let to = format!("TCP:{}", first.address());
    assert!(peer("socat", &["-t", "10", "-", &to], &bytes) == bytes);
    assert_eq!(socat.ended().code, Some(0));
    let expected = "1 connection, 2000000 bytes sent, 2000000 received";
    for server in [first, middle, last] {
        assert_eq!(totals(server), expected);
    }
}

#[test]
fn each_connection_may_be_joined_to_a_program() {
    let server = forward("process:/usr/bin/tr a-z A-Z", &[]);
    for _ in 0..2 {
        let mut client = server.connect();
        assert_eq!(client.answered(b"rose is a rose"), b"ROSE IS A ROSE");
    }
    assert!(totals(server).starts_with("2 connections, 28 bytes sent, 28 received"));
    let server = forward("process:/nonexistent/program", &[]);
    let mut client = server.connect();
    assert!(client.read_to_end().is_err(), "the client is reset");
    server.stop(Signal::INT).says(0, "cannot start /nonexistent/program");
}

/// True if this process runs. A zombie does not.
fn runs(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap_or_default().trim_start().chars().next();
    state.is_some_and(|state| state != 'Z')
}

#[test]
fn a_program_ends_with_its_connection_and_with_the_forwarder() {
    let server = forward("process:/bin/sh -c 'echo $$; exec sleep 1000'", &[]);
    let descriptors = server.descriptors();
    let mut pids = Vec::new();
    for _ in 0..30 {
        let mut client = server.connect();
        pids.push(client.read_line());
        client.reset();
    }
    wait_until("the end of all programs", || !pids.iter().any(|pid| runs(pid)));
    wait_until("all descriptors to be closed", || server.descriptors() <= descriptors);
    // Programs that still run when the server is stopped.
    let mut clients: Vec<_> = (0..3).map(|_| server.connect()).collect();
    let pids: Vec<_> = clients.iter_mut().map(Client::read_line).collect();
    assert!(pids.iter().all(|pid| runs(pid)));
    totals(server);
    assert!(!pids.iter().any(|pid| runs(pid)));
    // The same when the server is killed.
    let mut server = forward("process:/bin/sh -c 'echo $$; exec sleep 1000'", &[]);
    let pid = server.connect().read_line();
    server.running.signal(Signal::KILL);
    wait_until("the end of its program", || !runs(&pid));
}

/// A program's input that is longer than all buffers on the way.
fn big() -> Vec<u8> {
    let mut big = b"first\n".to_vec();
    big.resize(3_000_000, b'x');
    big
}

#[test]
fn a_program_that_closes_its_input_answers_in_full() {
    let cases: [(&str, &[u8]); 4] = [
        ("/usr/bin/head -n1", b"first\n"),
        ("/bin/sh -c 'exec 0<&-; sleep 0.2; echo done; sleep 0.2; echo more'", b"done\nmore\n"),
        ("/bin/sh -c 'read a; exec 0<&-; head -c 1000000 /dev/zero'", &[0; 1_000_000]),
        ("/bin/grep -q first", b""),
    ];
    for (command, answer) in cases {
        let server = forward(&format!("process:{command}"), &[]);
        for _ in 0..3 {
            let mut client = TcpStream::connect(server.address()).unwrap();
            let mut writer = client.try_clone().unwrap();
            // The forwarder discards the rest, and may close before it has read all of it.
            let writing = std::thread::spawn(move || drop(writer.write_all(&big())));
            let mut got = Vec::new();
            client.read_to_end(&mut got).unwrap();
            assert!(got == answer, "{command}");
            writing.join().unwrap();
        }
        server.stop(Signal::INT);
    }
}

#[test]
fn programs_whose_clients_have_left_end_and_give_their_places_back() {
    let sleeping = "process:/bin/sh -c 'echo $$; exec sleep 1000'";
    let more = ["--half-close-timeout", "1", "--max-connections", "40"];
    let server = forward(sleeping, &more);
    let descriptors = server.descriptors();
    for _ in 0..2 {
        let pids: Vec<_> = (0..40).map(|_| server.connect().read_line()).collect();
        wait_until("the end of all programs", || !pids.iter().any(|pid| runs(pid)));
        wait_until("all descriptors to be closed", || server.descriptors() <= descriptors);
    }
    let mut client = server.connect();
    assert!(runs(&client.read_line()), "its client stays");
}

#[test]
fn programs_of_clients_that_close_at_once_end_and_give_their_places_back() {
    for leave in [drop, Client::reset] {
        let server = forward("process:/bin/cat", &[]);
        let descriptors = server.descriptors();
        // Their programs do not run yet.
        (0..200).for_each(|_| leave(server.connect()));
        wait_until("all descriptors to be closed", || server.descriptors() <= descriptors);
        let own = server.running.pid().to_string();
        wait_until("the end of all programs", || children_of(&own).is_empty());
        assert!(totals(server).starts_with("200 connections, 0 bytes sent"));
        let server = forward("process:/bin/cat", &["--max-connections", "5"]);
        (0..5).for_each(|_| leave(server.connect()));
        wait_until("a free place", || {
            let mut client = server.connect();
            client.push(b"word") == 4 && client.read().is_ok_and(|word| word == b"word")
        });
    }
}

#[test]
fn a_program_counts_until_it_has_exited() {
    let stubborn = r"trap : TERM; echo $$; while true; do sleep 0.05; done";
    let to = format!(r"process:/bin/sh -c '{}':kill=2", stubborn.replace(':', r"\:"));
    let server = forward(&to, &["--max-connections", "1", "-v"]);
    let mut client = server.connect();
    let pid = client.read_line();
    client.reset();
    // The program's place becomes free when it has exited, and not before.
    wait_until("a free place", || {
        let before = runs(&pid);
        let served = server.connect().read().is_ok_and(|said| !said.is_empty());
        assert!(!(before && served && runs(&pid)), "two at once");
        served
    });
    assert!(!runs(&pid));
    server.wait_told("too many connections; turning some away");
    totals(server);
}

#[test]
fn a_program_that_has_exited_ends_the_session_of_a_silent_client() {
    // A daemon in its own session holds the output open for longer than the forwarder's session.
    let daemon = r"exec 3>&1; pid\=$(setsid sh -c 'echo $$; exec sleep 60 >&3 2>&-' &); echo $pid";
    let server = forward(&format!("process:/bin/sh -c \"{daemon}\""), &["-v"]);
    let descriptors = server.descriptors();
    let mut clients: Vec<_> = (0..5).map(|_| server.connect()).collect();
    let mut daemons = Vec::new();
    for client in &mut clients {
        let line = String::from_utf8(client.read_to_end().unwrap()).unwrap();
        daemons.push(Pid::from_raw(line.trim().parse().unwrap()).unwrap());
    }
    wait_until("all descriptors to be closed", || server.descriptors() <= descriptors);
    for daemon in daemons {
        kill_process(daemon, Signal::KILL).unwrap();
    }
    drop(clients);
    assert!(totals(server).starts_with("5 connections, 0 bytes sent"));
}

#[test]
fn the_server_gets_the_address_of_the_client() {
    let upstream = Upstream::start();
    let first = forward(&format!("haproxy:{}", upstream.address), &[]);
    let mut near = first.connect();
    near.send(b"hello\n");
    let mut far = upstream.accept();
    let (client, port) = (near.address().port(), first.ports[0].port());
    let expected = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {client} {port}");
    assert_eq!(far.read_line().trim_end(), expected);
    assert_eq!(far.read_line(), "hello");
    // PROXY version 2.
    let second = forward(&format!("haproxy:{}:version=2", upstream.address), &[]);
    let near = second.connect();
    let header = upstream.accept().read_exact(28);
    assert_eq!(header[..14], *b"\r\n\r\n\0\r\nQUIT\n\x21\x11");
    assert_eq!(header[16..24], [127, 0, 0, 1, 127, 0, 0, 1]);
    let ports = [near.address().port().to_be_bytes(), second.ports[0].port().to_be_bytes()];
    assert_eq!(header[24..28], ports.concat());
}

#[test]
fn a_client_on_a_unix_socket_has_no_address_to_announce() {
    let upstream = Upstream::start();
    for (version, header) in
        [(1, &b"PROXY UNKNOWN\r\n"[..]), (2, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0")]
    {
        let folder = Folder::new();
        let listen = format!("unix:{}", folder.path("socket"));
        let to = format!("haproxy:{}:version={version}", upstream.address);
        let server = Server::start_command(couplet(&["forward", &listen, &to]), 0);
        server.line();
        let _near = std::os::unix::net::UnixStream::connect(folder.path("socket")).unwrap();
        assert_eq!(upstream.accept().read_exact(header.len()), header);
    }
}

#[test]
fn c145e_haproxy_gets_the_client_and_passes_it_on() {
    needs!("haproxy");
    let upstream = Upstream::start();
    for version in [1, 2] {
        let folder = Folder::new();
        let file = format!("{}.cfg", folder.path("socket"));
        let config = format!(
            "defaults\n  mode tcp\n  timeout connect 20s\n  timeout client 20s\n  \
             timeout server 20s\nlisten all\n  bind fd@0 accept-proxy\n  \
             server ours {} send-proxy\n",
            upstream.address
        );
        std::fs::write(&file, config).unwrap();
        let (_haproxy, at) = haproxy(&file, &[]);
        let server = forward(&format!("haproxy:{at}:version={version}"), &[]);
        let mut near = server.connect();
        near.send(b"hello\n");
        let mut far = upstream.accept();
        let (client, port) = (near.address().port(), server.ports[0].port());
        let expected = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {client} {port}");
        assert_eq!(far.read_line().trim_end(), expected);
        assert_eq!(far.read_line(), "hello");
    }
}
