//! `couplet echo`, `forward` and `connect` over UDP, with plain sockets and socat as peers.

use std::fmt::Display;
use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::process::{ChildStdin, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::kit::peer;
use crate::kit::{Client, PATIENCE, Running, Server, couplet, missing, run};

/// Starts a UDP server; returns it and its address.
fn start(args: &[&str]) -> (Server, SocketAddr) {
    let server = Server::start_command(couplet(args), 0);
    let line = server.line();
    let address = line.strip_prefix("listening on udp:").and_then(|host| host.parse().ok());
    (server, address.unwrap_or_else(|| panic!("this line has no port: {line:?}")))
}

pub(crate) fn socket() -> UdpSocket {
    socket_at("127.0.0.1:0")
}

pub(crate) fn socket_at(host: &str) -> UdpSocket {
    let socket = UdpSocket::bind(host).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

pub(crate) fn ask(socket: &UdpSocket, to: SocketAddr, sent: &[u8]) -> Vec<u8> {
    socket.send_to(sent, to).unwrap();
    let (answer, from) = receive(socket);
    assert_eq!(from, to);
    answer
}

pub(crate) fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut bytes = vec![0; 70_000];
    let (n, from) = socket.recv_from(&mut bytes).expect("a datagram");
    bytes.truncate(n);
    (bytes, from)
}

#[test]
fn each_datagram_comes_back_from_the_address_that_was_asked() {
    let (server, address) = start(&["echo", "--listen", "udp:0"]);
    let client = socket();
    for host in ["127.0.0.1", "127.0.0.2"] {
        let to = SocketAddr::new(host.parse().unwrap(), address.port());
        for length in [0, 1, 1400, 9000, 65_507] {
            let sent = vec![length as u8; length];
            assert!(ask(&client, to, &sent) == sent, "{length}");
        }
    }
    server.stop(Signal::TERM).quietly(0);
}

#[test]
fn a_forwarder_leads_each_client_to_the_server_and_its_answers_back() {
    let (echo, server) = start(&["echo", "--listen", "udp:127.0.0.1:0"]);
    let (forward, address) = start(&["forward", "udp:0", &format!("udp:{server}")]);
    let clients = [socket(), socket(), socket()];
    // Answers come from the address that the client asked last.
    for (round, host) in (0u8..).zip(["127.0.0.1", "127.0.0.2", "127.0.0.3"]) {
        let to = SocketAddr::new(host.parse().unwrap(), address.port());
        for (n, client) in (0u8..).zip(&clients) {
            assert_eq!(ask(client, to, &[round, n]), [round, n]);
        }
    }
    forward.stop(Signal::TERM).says(0, "3 clients, 9 datagrams to the server, 9 back");
    echo.stop(Signal::TERM).quietly(0);
}

#[test]
fn datagrams_are_spread_over_the_threads_and_a_client_stays_with_one() {
    let (mut echo, server) = start(&["echo", "--threads", "3", "--listen", "udp:127.0.0.1:0"]);
    let to = format!("udp:{server}");
    let threads = ["--threads", "2", "--max-connections", "30"];
    let (forward, address) = start(&[&["forward", "udp:127.0.0.1:0", &to], &threads[..]].concat());
    let clients: Vec<_> = (0..30).map(|_| socket()).collect();
    for round in 0..3u8 {
        for client in &clients {
            assert_eq!(ask(client, address, &[round]), [round]);
        }
    }
    echo.running.signal(Signal::USR1);
    crate::kit::wait_until("a snapshot", || {
        echo.running.told().matches("datagrams   ").count() == 3
    });
    let told = echo.running.told();
    let counts = told.lines().filter_map(|line| line.split_once(" in ")?.1.split(' ').next());
    let counts: Vec<u32> = counts.filter_map(|count| count.parse().ok()).collect();
    assert_eq!(counts.iter().sum::<u32>(), 90, "{told}");
    assert!(counts.iter().all(|count| *count > 0 && count % 3 == 0), "{told}");
    forward.stop(Signal::TERM).says(0, "30 clients, 90 datagrams to the server, 90 back");
    run(&["echo", "--threads", "2", "--listen", &to]).says(1, "in use");
    assert_eq!(echo.stop(Signal::TERM).code, Some(0));
}

#[test]
fn an_idle_client_makes_room_for_another() {
    let (_echo, server) = start(&["echo", "--listen", "udp:127.0.0.1:0"]);
    let to = format!("udp:{server}");
    let limits = ["--max-connections", "1", "--idle-timeout", "0.2"];
    let (forward, address) =
        start(&[&["forward", "udp:127.0.0.1:0", &to, "-v"], &limits[..]].concat());
    assert_eq!(ask(&socket(), address, b"one"), b"one");
    forward.wait_told("an idle client");
    assert_eq!(ask(&socket(), address, b"two"), b"two");
    forward.stop(Signal::TERM).says(0, "2 clients, 2 datagrams to the server, 2 back");
}

#[test]
fn stdin_goes_out_and_answers_are_printed() {
    let (_echo, server) = start(&["echo", "--listen", "udp:127.0.0.1:0"]);
    let to = format!("udp:{server}");
    let program = env!("CARGO_BIN_EXE_couplet");
    assert_eq!(peer(program, &["connect", &to], b"a line\n"), b"a line\n");
    assert_eq!(peer(program, &["connect", &to], b""), b"");
}

/// Starts `couplet connect` to this address, with these bytes on its stdin.
fn connect(to: impl Display, bytes: &[u8]) -> (Running, ChildStdin) {
    let mut command = couplet(&["connect", &format!("udp:{to}")]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut running = Running::start_with_stdout(&mut command);
    let mut stdin = running.stdin().unwrap();
    stdin.write_all(bytes).unwrap();
    (running, stdin)
}

/// The same to this socket, which receives a line. Returns the client's address too.
fn connected(server: &UdpSocket) -> (Running, ChildStdin, SocketAddr) {
    let (running, stdin) = connect(server.local_addr().unwrap(), b"a line\n");
    let (_, client) = server.recv_from(&mut [0; 16]).unwrap();
    (running, stdin, client)
}

#[test]
fn each_answer_gives_the_next_one_a_second_after_the_end_of_stdin() {
    let server = socket();
    let (running, stdin, client) = connected(&server);
    drop(stdin);
    // In short steps, longer than that second.
    let answers = "abcdefghijklmno";
    for answer in answers.as_bytes() {
        server.send_to(&[*answer], client).unwrap();
        std::thread::park_timeout(Duration::from_millis(100));
    }
    running.ended().prints(answers);
}

#[test]
fn before_the_end_of_stdin_the_silence_after_an_answer_has_no_limit() {
    let server = socket();
    let (running, mut stdin, client) = connected(&server);
    server.send_to(b"an answer", client).unwrap();
    // More than the second for which it waits after the end of stdin.
    std::thread::park_timeout(Duration::from_millis(1500));
    stdin.write_all(b"another\n").unwrap();
    assert_eq!(receive(&server).0, b"another\n");
    drop(stdin);
    running.ended().prints("an answer");
}

#[test]
fn interrupted_a_session_has_code_130_and_terminated_143() {
    let server = socket();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        // While it reads stdin, and in the second after the end of stdin.
        for has_ended in [false, true] {
            let (mut running, stdin, client) = connected(&server);
            server.send_to(b"an answer", client).unwrap();
            let stdin = (!has_ended).then_some(stdin);
            running.signal(signal);
            let ended = running.ended();
            drop(stdin);
            ended.quietly(code);
        }
    }
}

#[test]
fn a_datagram_to_a_closed_port_is_an_error() {
    let free = socket().local_addr().unwrap();
    let (running, _stdin) = connect(free, b"x");
    running.ended().says(1, &format!("no server listens on udp:{free}"));
}

#[test]
fn sending_to_an_unknown_name_fails_and_forwarding_to_it_begins_with_a_warning() {
    let said = "cannot find the host \"no-such-name.invalid\"";
    run(&["connect", "udp:no-such-name.invalid:9"]).says(1, said);
    let (forward, _) = start(&["forward", "udp:0", "udp:no-such-name.invalid:9"]);
    forward.wait_told(said);
    assert_eq!(forward.stop(Signal::TERM).code, Some(0));
}

/// `localhost` has an address of each family; one address refuses.
#[test]
fn c160i_a_name_with_several_addresses_leads_to_the_one_that_answers() {
    for host in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(server) = UdpSocket::bind(host) else { continue };
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let address = server.local_addr().unwrap();
        let mut addresses = ("localhost", address.port()).to_socket_addrs().unwrap();
        if !addresses.any(|known| known == address) {
            continue;
        }
        let name = format!("localhost:{}", address.port());
        let echo = || {
            let (sent, from) = receive(&server);
            assert_eq!(sent, b"hello");
            server.send_to(b"news", from).unwrap();
        };
        let (running, stdin) = connect(&name, b"hello");
        echo();
        drop(stdin);
        let ended = running.ended();
        assert_eq!((ended.code, &*ended.stdout), (Some(0), &b"news"[..]), "{}", ended.stderr);

        let (forward, to) = start(&["forward", "udp:127.0.0.1:0", &format!("udp:{name}")]);
        let client = socket();
        client.send_to(b"hello", to).unwrap();
        echo();
        assert_eq!(receive(&client).0, b"news");
        assert_eq!(forward.stop(Signal::TERM).code, Some(0));
    }
}

#[test]
fn answers_to_a_peer_that_echoes_too_are_limited_by_udp_rate() {
    let rate = ["--udp-rate", "50"];
    let (echo, address) =
        start(&[&["echo", "--listen", "udp:0:interface=localhost"], &rate[..]].concat());
    let client = socket();
    client.set_read_timeout(Some(Duration::from_millis(1500))).unwrap();
    client.send_to(b"x", address).unwrap();
    let (mut answers, mut buffer) = (0, [0; 16]);
    // One new second may begin during the reads, but not two.
    while let Ok((n, from)) = client.recv_from(&mut buffer) {
        answers += 1;
        assert!(answers <= 100, "it would never end");
        client.send_to(&buffer[..n], from).unwrap();
    }
    assert!(answers >= 50, "{answers}");
    // In a later second the peer is answered again.
    client.send_to(b"y", address).unwrap();
    assert_eq!(client.recv_from(&mut buffer).unwrap().0, 1);
    let ended = echo.stop(Signal::TERM);
    assert_eq!(ended.stderr.matches("ignored a peer").count(), 1, "{}", ended.stderr);
}

#[test]
fn a_service_is_not_answered() {
    // A client run by root may have a service port too.
    let Some(service) = (600..1024).find_map(|port| UdpSocket::bind(("127.0.0.1", port)).ok())
    else {
        return missing("right to take a port below 1024");
    };
    let (echo, address) = start(&["echo", "--listen", "udp:127.0.0.1:0"]);
    for _ in 0..3 {
        service.send_to(b"x", address).unwrap();
    }
    echo.wait_told("ignored a peer");
    assert_eq!(ask(&socket(), address, b"y"), b"y");
    service.set_nonblocking(true).unwrap();
    assert!(service.recv_from(&mut [0; 16]).is_err());
    let ended = echo.stop(Signal::TERM);
    assert_eq!(ended.stderr.matches("ignored a peer").count(), 1, "{}", ended.stderr);
}

#[test]
fn an_address_for_datagrams_is_an_endpoint_whose_mistakes_are_shown() {
    for (args, hint) in [
        (&["echo", "--listen", "udp:9000:inteface=127.0.0.1"][..], "unknown keyword"),
        (&["echo", "--listen", "udp:nobody:9"], "an interface is an IP address"),
        (&["echo", "--listen", "udp:::1:9"], "did you mean udp:[::1]:9?"),
        (&["connect", "udp:localhost:http"], "expected a port number from 1 to 65535"),
        (&["connect", "log:udp:localhost:9"], "udp: has datagrams but no streams"),
        (&["forward", "udp:9000", "9000"], "give udp: on both sides or on neither"),
        (&["forward", "9000", "udp:9000"], "give udp: on both sides or on neither"),
        (&["connect", "udp:no body:9"], "udp:no body:9"),
        (&["connect", "udp:0"], "from 1 to 65535"),
    ] {
        run(args).says(2, hint);
    }
}

#[test]
fn connections_and_datagrams_are_echoed_together() {
    let endpoints = ["udp:127.0.0.1:0", "0", "udp:127.0.0.1:0", "0"];
    for threads in ["1", "3"] {
        let mut args = vec!["echo", "--threads", threads];
        args.extend(endpoints.iter().flat_map(|endpoint| ["--listen", endpoint]));
        let server = Server::start_command(couplet(&args), 0);
        let lines = [(); 4].map(|()| server.line());
        for line in &lines {
            let (kind, at) = line.strip_prefix("listening on ").unwrap().split_once(':').unwrap();
            let at: SocketAddr = at.parse().unwrap();
            if kind == "udp" {
                assert_eq!(ask(&socket(), at, b"hello"), b"hello", "{line}");
                continue;
            }
            let mut client = Client::connect(at);
            client.echoes(b"hello");
        }
        assert_eq!(lines.iter().filter(|line| line.contains("udp:")).count(), 2, "{lines:?}");
        server.stop(Signal::TERM).quietly(0);
    }
}

#[test]
fn socat_is_answered_and_answers() {
    needs!("socat");
    let (_echo, server) = start(&["echo", "--listen", "udp:127.0.0.1:0"]);
    let to = format!("UDP:{server}");
    assert_eq!(peer("socat", &["-t", "1", "-", &to], b"to couplet"), b"to couplet");
}
