//! `couplet forward` with several servers.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::Signal;

use crate::kit::{
    Client, Server, TempFile, Upstream, couplet, noise, run, serve_on, serve_raw, unused_port,
    wait_until,
};

const MIB: usize = 1024 * 1024;

/// Sends its name in a line, and then everything back.
fn named(name: &'static str) -> impl Fn(Client) + Clone + Send + 'static {
    move |mut client| {
        client.send(format!("{name}\n").as_bytes());
        while let Ok(bytes) = client.read()
            && !bytes.is_empty()
        {
            client.send(&bytes);
        }
    }
}

/// Makes the port of [`unused_port`] a named server.
fn open(socket: OwnedFd, name: &'static str) {
    rustix::net::listen(&socket, 64).unwrap();
    serve_on(TcpListener::from(socket), named(name));
}

fn forward(servers: &[SocketAddr], more: &[&str]) -> Server {
    let servers: Vec<String> = servers.iter().map(SocketAddr::to_string).collect();
    let servers: Vec<&str> = servers.iter().map(String::as_str).collect();
    Server::start(&[&["forward", "-v", "0"], &servers[..], more].concat())
}

/// The name of the client's server; ends the session.
fn name_for(mut client: Client) -> String {
    let name = client.read_line();
    client.finish();
    assert_eq!(client.read_to_end().unwrap(), b"");
    name
}

fn names(server: &Server, clients: usize) -> Vec<String> {
    (0..clients).map(|_| name_for(server.connect())).collect()
}

fn count(server: &Server, text: &str) -> usize {
    server.running.told().matches(text).count()
}

/// Stops the server once this many sessions have ended; returns the totals.
fn totals(server: Server, sessions: usize) -> Vec<String> {
    wait_until("the end of all sessions", || count(&server, "closed peer=") == sessions);
    let ended = server.stop(Signal::INT);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let lines = ended.stderr.lines().skip_while(|line| !line.contains("bytes sent"));
    lines.map(str::to_owned).collect()
}

#[test]
fn clients_take_turns_and_each_session_names_its_server() {
    let servers = ["a", "b", "c"].map(|name| serve_raw(named(name)));
    let server = forward(&servers, &[]);
    assert_eq!(names(&server, 7), ["a", "b", "c", "a", "b", "c", "a"]);
    wait_until("the lines", || count(&server, "closed peer=") == 7);
    for (address, sessions) in servers.iter().zip([3, 2, 2]) {
        assert_eq!(count(&server, &format!(" server=tcp:{address} sent=0")), sessions);
    }
    let expected = [
        "7 connections, 0 bytes sent, 14 received".to_owned(),
        format!("  tcp:{}: 3 connections, 0 failures", servers[0]),
        format!("  tcp:{}: 2 connections, 0 failures", servers[1]),
        format!("  tcp:{}: 2 connections, 0 failures", servers[2]),
    ];
    assert_eq!(totals(server, 7), expected);
}

#[test]
fn a_closed_port_costs_no_client_and_one_warning() {
    let (closed, _reserved) = unused_port();
    let servers = [serve_raw(named("a")), closed, serve_raw(named("c"))];
    let server = forward(&servers, &["--down-for", "600"]);
    assert_eq!(names(&server, 7), ["a", "c", "a", "c", "a", "c", "a"]);
    let warning = format!("server is down: connection refused server=tcp:{closed}");
    assert_eq!(count(&server, &warning), 1, "{}", server.running.told());
    assert_eq!(count(&server, "WARN"), 1, "{}", server.running.told());
    let lines = totals(server, 7);
    assert_eq!(lines[2], format!("  tcp:{closed}: 0 connections, 1 failure"));
}

#[test]
fn a_failed_server_keeps_its_turn_without_a_time() {
    let (closed, _reserved) = unused_port();
    let server = forward(&[closed, serve_raw(named("b"))], &["--down-for", "0"]);
    assert_eq!(names(&server, 3), ["b"; 3]);
    assert_eq!(count(&server, "server is down"), 1);
    let lines = totals(server, 3);
    assert_eq!(lines[1], format!("  tcp:{closed}: 0 connections, 3 failures"));
}

#[test]
fn a_server_that_comes_back_is_used_again() {
    let (closed, socket) = unused_port();
    let server = forward(&[closed, serve_raw(named("b"))], &["--down-for", "0.1"]);
    assert_eq!(names(&server, 2), ["b", "b"]);
    server.wait_told("server is down");
    open(socket, "a");
    wait_until("the first server", || name_for(server.connect()) == "a");
    server.wait_told(&format!("server is up again server=tcp:{closed}"));
    assert_eq!(names(&server, 4), ["b", "a", "b", "a"]);
    assert_eq!(count(&server, "server is down"), 1);
}

#[test]
fn a_client_is_reset_when_every_server_has_failed_it() {
    let (first, _reserved) = unused_port();
    let (second, _also_reserved) = unused_port();
    let server = forward(&[first, second], &[]);
    for _ in 0..2 {
        server.connect().read_to_end().unwrap_err();
    }
    let line = format!("cannot connect to any of 2 servers, at last tcp:{second}: connection");
    server.wait_told(&line);
    wait_until("two lines", || count(&server, "cannot connect to any of 2 servers") == 2);
    assert_eq!(count(&server, "server is down"), 2);
    let lines = totals(server, 0);
    assert_eq!(lines[0], "2 connections, 0 bytes sent, 0 received, 2 not connected");
    assert_eq!(lines[1], format!("  tcp:{first}: 0 connections, 2 failures"));
}

#[test]
fn a_client_keeps_its_server_and_only_clients_of_a_failed_one_move() {
    let (closed, socket) = unused_port();
    let servers = [serve_raw(named("a")), closed, serve_raw(named("c"))];
    let server = forward(&servers, &["--balance", "by-peer", "--down-for", "0.1"]);
    let name = |n: u8| name_for(Client::connect_from([127, 0, 0, n], server.ports[0]));
    let without: Vec<String> = (1..=40).map(name).collect();
    assert!(without.iter().all(|name| name != "b"));
    open(socket, "b");
    wait_until("a client of the second server", || (1..=40).map(name).any(|name| name == "b"));
    let with: Vec<String> = (1..=40).map(name).collect();
    for (before, after) in without.iter().zip(&with) {
        assert!(after == before || after == "b", "from {before} to {after}");
    }
    assert_eq!((1..=40).map(name).collect::<Vec<_>>(), with);
    for name in ["a", "b", "c"] {
        assert!(with.iter().any(|used| used == name), "no client uses {name}");
    }
}

#[test]
fn the_server_with_the_fewest_connections_is_used() {
    let servers = ["a", "b", "c"].map(|name| serve_raw(named(name)));
    let server = forward(&servers, &["--balance", "least-connections"]);
    let mut open: Vec<Client> = (0..3).map(|_| server.connect()).collect();
    let names: Vec<String> = open.iter_mut().map(Client::read_line).collect();
    assert_eq!(names, ["a", "b", "c"]);
    for freed in [1, 0, 2, 2] {
        let ended = count(&server, " sent=");
        drop(open.remove(freed));
        wait_until("the end of the session", || count(&server, " sent=") > ended);
        open.insert(freed, server.connect());
        assert_eq!(open[freed].read_line(), names[freed]);
    }
}

#[test]
fn a_check_finds_a_closed_port_before_a_client_does_and_its_return() {
    let (closed, socket) = unused_port();
    let checked = Upstream::start();
    let servers = [closed, checked.address.parse().unwrap()];
    let server = forward(&servers, &["--check", "0.05"]);
    server.wait_told(&format!("server is down: connection refused server=tcp:{closed}"));
    for _ in 0..3 {
        assert_eq!(checked.accept().read_to_end().unwrap(), b"", "a check closes cleanly");
    }
    open(socket, "a");
    server.wait_told(&format!("server is up again server=tcp:{closed}"));
    assert_eq!(name_for(server.connect()), "a");
    let lines = totals(server, 1);
    assert_eq!(lines[1], format!("  tcp:{closed}: 1 connection, 0 failures"));
}

#[test]
fn a_check_announces_itself_as_one() {
    for (version, header) in
        [(1, &b"PROXY UNKNOWN\r\n"[..]), (2, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0")]
    {
        let upstream = Upstream::start();
        let to = format!("haproxy:{}:version={version}", upstream.address);
        let server = Server::start(&["forward", "0", &to, "--check", "0.05"]);
        for _ in 0..2 {
            assert_eq!(upstream.accept().read_to_end().unwrap(), header);
        }
        drop(server);
    }
}

#[test]
fn a_port_behind_a_wrapper_is_on_this_machine() {
    let upstream = Upstream::start();
    let port = upstream.address.rsplit(':').next().unwrap().to_owned();
    let server = Server::start(&["forward", "0", &format!("haproxy:{port}")]);
    let near = server.connect();
    let line = upstream.accept().read_line();
    let (client, host) = (near.address().port(), server.ports[0].port());
    assert_eq!(line.trim_end(), format!("PROXY TCP4 127.0.0.1 127.0.0.1 {client} {host}"));
    for wrapper in ["", "log:", "haproxy:", "log:haproxy:"] {
        let server =
            Server::start_command(couplet(&["echo", "--listen", &format!("{wrapper}0")]), 0);
        let line = server.line();
        assert!(line.contains("127.0.0.1:"), "{wrapper}: {line}");
    }
}

#[test]
fn the_second_server_gets_the_address_of_the_client_too() {
    let (closed, _reserved) = unused_port();
    let upstream = Upstream::start();
    let (first, second) = (format!("haproxy:{closed}"), format!("haproxy:{}", upstream.address));
    let server = Server::start(&["forward", "0", &first, &second]);
    let mut near = server.connect();
    near.send(b"hello\n");
    let mut far = upstream.accept();
    let (client, port) = (near.address().port(), server.ports[0].port());
    assert_eq!(
        far.read_line().trim_end(),
        format!("PROXY TCP4 127.0.0.1 127.0.0.1 {client} {port}")
    );
    assert_eq!(far.read_line(), "hello");
}

#[test]
fn bytes_sent_before_a_failover_arrive_whole() {
    let (closed, _reserved) = unused_port();
    let server = forward(&[closed, serve_raw(named("b"))], &[]);
    let mut client = server.connect();
    let sending = client.sending(noise(MIB));
    assert_eq!(client.read_line(), "b");
    assert!(client.read_to_end().unwrap() == noise(MIB));
    sending.join().unwrap();
    let lines = totals(server, 1);
    assert_eq!(lines[0], "1 connection, 1048576 bytes sent, 1048578 received");
}

#[test]
fn each_thread_chooses_for_itself_and_all_count() {
    let (closed, _reserved) = unused_port();
    let servers = [serve_raw(named("a")), closed];
    let server = forward(&servers, &["--threads", "2"]);
    assert_eq!(names(&server, 20), ["a"; 20]);
    let lines = totals(server, 20);
    assert_eq!(lines[1], format!("  tcp:{}: 20 connections, 0 failures", servers[0]));
    assert_eq!(lines.len(), 3);
}

#[test]
fn servers_that_do_not_fit_are_usage_errors() {
    for (args, text) in [
        (&["0", "udp:1", "udp:2"][..], "between UDP and a stream"),
        (&["udp:0", "udp:1", "udp:2"], "cannot forward UDP to several servers: give one CONNECT"),
        (&["0", "1", "udp:2"], "between UDP and a stream"),
        (&["udp:0", "1", "udp:2"], "between UDP and a stream"),
        (&["udp:0", "udp:1", "--check", "1"], "cannot check a UDP server"),
        (&["0", "1", "process:/bin/cat", "--check", "1"], "cannot check process:/bin/cat"),
        (&["0", "log:process:/bin/cat", "--check", "1"], "cannot check log:process:/bin/cat"),
        (&["0", "1", "2", "--balance", "fair"], "round-robin, least-connections, by-peer"),
        (&["0", "1", "2", "--check", "0"], "a number of seconds above 0"),
        (&["0", "1", "2", "--down-for", "-1"], "a number of seconds, 0 or more"),
    ] {
        let ended = run(&[&["forward"], args].concat());
        assert_eq!((ended.code, ended.text()), (Some(2), ""), "{args:?}");
        assert!(ended.stderr.contains(text), "{args:?}: {}", ended.stderr);
    }
}

#[test]
fn a_configuration_has_one_server_or_a_list() {
    for (connect, code) in [
        (r#""127.0.0.1:1""#, 0),
        (r#"["127.0.0.1:1", "127.0.0.1:2"]"#, 0),
        (r#"["127.0.0.1:1", "nonsense:"]"#, 2),
        ("[]", 2),
    ] {
        let text = configuration(&format!("connect = {connect}\nbalance = \"by-peer\""));
        let file = TempFile::named("couplet.toml", text.as_bytes());
        let ended = run(&["run", file.path(), "--check"]);
        assert_eq!(ended.code, Some(code), "{connect}: {}", ended.stderr);
    }
}

fn configuration(front: &str) -> String {
    format!("[services.front]\nkind = \"forward\"\nlisten = \"127.0.0.1:0\"\n{front}\n")
}

#[test]
fn a_service_that_a_reload_removes_checks_nothing_afterwards() {
    let (one, other) = (Counter::start(), Counter::start());
    let file = TempFile::named("couplet.toml", configuration(&one.checked()).as_bytes());
    let mut server = Server::start_command(couplet(&["run", file.path()]), 0);
    one.wait_for(3);
    let text = configuration(&other.checked()).replace("services.front", "services.back");
    std::fs::write(file.path(), text).unwrap();
    server.running.signal(Signal::HUP);
    other.wait_for(5);
    let before = one.count();
    other.wait_for(45);
    let late = one.count() - before;
    assert!(late < 10, "the old server got {late} checks");
    let ended = server.stop(Signal::TERM);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

/// A server that counts its connections, and closes them.
struct Counter {
    address: SocketAddr,
    count: Arc<AtomicUsize>,
}

impl Counter {
    fn start() -> Counter {
        let count = Arc::<AtomicUsize>::default();
        let counting = count.clone();
        let address = serve_raw(move |_| {
            counting.fetch_add(1, Ordering::Relaxed);
        });
        Counter { address, count }
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    fn wait_for(&self, count: usize) {
        wait_until("checks", || self.count() >= count);
    }

    /// Lines of a configuration.
    fn checked(&self) -> String {
        format!("connect = [\"{}\"]\ncheck = 0.01", self.address)
    }
}
