//! `poetry proxy`.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::Signal;

use crate::kit::{
    Client, Server, TempFile, Upstream, has, is_well, misbehave, noise, peer, program, run,
    serve_raw, unused_port, wait_until,
};
use crate::needed::Folder;
use crate::serve::poet;

fn proxy(upstream: &str, more: &[&str]) -> Server {
    Server::start(&[&["proxy", "--upstream", upstream], more].concat())
}

/// A server of a poem, and the count of its clients.
pub(crate) fn counted(poem: Vec<u8>) -> (String, Arc<AtomicUsize>) {
    let fetches = Arc::<AtomicUsize>::default();
    let counting = fetches.clone();
    let address = serve_raw(move |mut client| {
        counting.fetch_add(1, Ordering::Relaxed);
        client.send(&poem);
    });
    (address.to_string(), fetches)
}

/// A proxy for a poem, and the count of its fetches.
fn proxy_of(poem: Vec<u8>, more: &[&str]) -> (Server, Arc<AtomicUsize>) {
    let (upstream, fetches) = counted(poem);
    (proxy(&upstream, more), fetches)
}

#[test]
fn a_poem_is_fetched_once_and_served_to_all() {
    let bytes = noise(3_000_000);
    let (server, fetches) = proxy_of(bytes.clone(), &[]);
    assert_eq!(fetches.load(Ordering::Relaxed), 0, "nothing is fetched before somebody asks");
    for _ in 0..3 {
        assert!(server.connect().read_to_end().unwrap() == bytes);
    }
    assert_eq!(fetches.load(Ordering::Relaxed), 1);
    server.stop(Signal::TERM).quietly(0);
}

#[test]
fn a_failing_upstream_closes_clients_without_data_is_logged_and_tried_again() {
    let upstream = Upstream::start();
    let mut server = proxy(&upstream.address, &["--max-bytes", "10000"]);
    let idle = server.descriptors();
    let mut clients = [server.connect(), server.connect()];
    let mut cut = upstream.accept();
    cut.send(b"half a po");
    wait_until("two clients and one fetch", || server.descriptors() >= idle + 3);
    server.running.wait_snapshot(" open in 9 out 0 ");
    cut.reset();
    for client in &mut clients {
        assert_eq!(client.read_to_end().unwrap(), b"");
    }
    server.wait_told(&format!("WARN no poem: it was cut short after 9 bytes: connection lost: connection reset by peer upstream=tcp:{}", upstream.address));

    let mut client = server.connect();
    upstream.accept().push(&noise(20_000));
    assert_eq!(client.read_to_end().unwrap(), b"");
    server.wait_told("longer than 10000 bytes (--max-bytes sets the limit)");

    let mut client = server.connect();
    drop(upstream.accept());
    assert_eq!(client.read_to_end().unwrap(), b"");
    server.wait_told("the connection was closed without data");

    let mut client = server.connect();
    let mut whole = upstream.accept();
    whole.send(b"a whole poem");
    drop(whole);
    assert_eq!(client.read_to_end().unwrap(), b"a whole poem");
    assert_eq!(server.stop(Signal::TERM).code, Some(0));
}

#[test]
fn a_silent_upstream_is_given_up_after_the_timeout() {
    let upstream = Upstream::start();
    let server = proxy(&upstream.address, &["--timeout", "0.2"]);
    let mut client = server.connect();
    let _silent = upstream.accept();
    assert_eq!(client.read_to_end().unwrap(), b"");
    server.wait_told("it was incomplete after 0.2 s (--timeout)");
}

#[test]
#[ignore = "measures; run it alone"]
fn an_upstream_that_never_ends_costs_max_bytes_at_most() {
    let endless = serve_raw(|mut client| {
        client.push(&noise(50_000_000));
    });
    let server = proxy(&endless.to_string(), &["--max-bytes", "1000000"]);
    let before = server.memory();
    for _ in 0..5 {
        assert_eq!(server.connect().read_to_end().unwrap(), b"");
    }
    let grown = server.memory().saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB");
}

#[test]
fn a_client_that_resets_cancels_its_wait_and_the_last_one_the_fetch() {
    let upstream = Upstream::start();
    let server = proxy(&upstream.address, &[]);
    let idle = server.descriptors();
    let (one, mut two) = (server.connect(), server.connect());
    let mut fetch = upstream.accept();
    fetch.send(b"a ");
    let connected = idle + 3;
    wait_until("two clients and one fetch", || server.descriptors() >= connected);
    one.reset();
    wait_until("one client to leave", || server.descriptors() < connected);
    // A client that has sent its FIN still waits; once it disconnects, the fetch is aborted.
    two.finish();
    fetch.send(b"poem");
    two.reset();
    assert!(fetch.read().is_err(), "the fetch is aborted");
    let mut three = server.connect();
    let mut fetch = upstream.accept();
    fetch.send(b"another");
    drop(fetch);
    assert_eq!(three.read_to_end().unwrap(), b"another");
    server.stop(Signal::TERM).quietly(0);
}

#[test]
fn a_client_that_only_closes_its_sending_side_gets_the_whole_poem() {
    let (_poem, upstream) = poet(&noise(1000), &["--delay", "0.02", "--num-bytes", "100"]);
    let server = proxy(&upstream.address(), &[]);
    let mut client = server.connect();
    client.send(b"what a page!");
    client.finish();
    assert!(client.read_to_end().unwrap() == noise(1000));
    if has("nc") {
        let port = server.ports[0].port().to_string();
        assert!(peer("nc", &["-N", "127.0.0.1", &port], b"") == noise(1000));
    }
}

#[test]
fn several_upstreams_take_turns_and_the_dead_ones_are_skipped() {
    let (nobody, _taken) = unused_port();
    let poems = [&b"one"[..], b"two"].map(TempFile::new);
    let fast = |poem: &TempFile| Server::start(&["serve", "--delay", "0", poem.path()]);
    let servers = [fast(&poems[0]), fast(&poems[1])];
    let (one, two) = (servers[0].address(), servers[1].address());
    let nobody = nobody.to_string();
    let server = proxy(&one, &["-u", &nobody, "-u", &two, "--ttl", "0"]);
    let got: Vec<_> = (0..5).map(|_| server.connect().read_to_end().unwrap()).collect();
    assert_eq!(got, [&b"one"[..], b"two", b"one", b"two", b"one"]);
    let ended = server.stop(Signal::TERM);
    let told: Vec<&str> = ended.stderr.lines().collect();
    assert!(matches!(told[..], [line] if line.contains("connection refused")), "{told:?}");
}

#[test]
fn a_poem_is_fetched_anew_when_its_time_is_over() {
    let (server, fetches) = proxy_of(b"a poem".to_vec(), &["--ttl", "0.3"]);
    wait_until("a second fetch", || {
        assert_eq!(server.connect().read_to_end().unwrap(), b"a poem");
        fetches.load(Ordering::Relaxed) == 2
    });
}

#[test]
#[ignore = "measures; run it alone"]
fn a_client_that_never_reads_costs_little_beyond_the_poem_and_delays_no_client() {
    const CLIENTS: u64 = 50;
    let bytes = noise(20_000_000);
    let (server, _) = proxy_of(bytes.clone(), &[]);
    assert!(server.connect().read_to_end().unwrap() == bytes);
    let before = server.memory();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.read_exact(64 * 1024);
    }
    let grown = server.memory().saturating_sub(before);
    assert!(grown <= CLIENTS * 64, "{CLIENTS} clients cost {grown} KiB");
    assert!(server.connect().read_to_end().unwrap() == bytes);
    server.stop(Signal::TERM).quietly(0);
}

#[test]
fn clients_that_misbehave_at_any_step_do_no_harm() {
    if !crate::kit::allow_a_crowd() {
        return;
    }
    let bytes = noise(300_000);
    let (server, _) = proxy_of(bytes.clone(), &["--ttl", "0"]);
    let descriptors = server.descriptors();
    misbehave(&server);
    is_well(server, descriptors, |mut client| assert!(client.read_to_end().unwrap() == bytes));
}

#[test]
fn a_thousand_clients_share_one_fetch() {
    if !crate::kit::allow_a_crowd() {
        return;
    }
    let upstream = Upstream::start();
    let args = ["proxy", "--upstream", &upstream.address];
    let server = Server::start_limited(1100, &args);
    let clients: Vec<Client> = (0..1000).map(|_| server.connect()).collect();
    let mut fetch = upstream.accept();
    wait_until("all to be connected", || server.descriptors() > 1000);
    fetch.send(&noise(10_000));
    drop(fetch);
    for mut client in clients {
        assert!(client.read_to_end().unwrap() == noise(10_000));
    }
    assert!(upstream.is_unasked());
    server.stop(Signal::TERM).quietly(0);
}

#[test]
fn without_descriptors_no_client_gets_a_partial_poem_and_service_resumes_afterwards() {
    if !crate::kit::allow_a_crowd() {
        return;
    }
    let poem = noise(10_000);
    let bytes = poem.clone();
    let upstream = serve_raw(move |mut client| client.send(&bytes)).to_string();
    let args = ["proxy", "--ttl", "0", "--upstream", &upstream];
    let server = Server::start_limited(24, &args);
    let clients: Vec<Client> = (0..60).map(|_| server.connect()).collect();
    let got = clients.into_iter().filter_map(|mut client| client.read_to_end().ok());
    let got: Vec<Vec<u8>> = got.filter(|got| !got.is_empty()).collect();
    assert!(got.iter().all(|got| *got == poem));
    assert!(got.len() >= 8, "a descriptor is reserved for the fetch: {} were served", got.len());
    wait_until("a new client to be served", || {
        server.connect().read_to_end().is_ok_and(|got| got == poem)
    });
    let ended = server.stop(Signal::TERM);
    assert_eq!(ended.code, Some(0));
    let told = ended.stderr.matches("too few descriptors for all clients").count();
    assert!(told <= 1, "{}", ended.stderr);
}

#[test]
fn a_signal_stops_the_server_cleanly_with_open_connections() {
    for signal in [Signal::INT, Signal::TERM] {
        let upstream = Upstream::start();
        let server = proxy(&upstream.address, &["--drain", "0"]);
        let mut waiting = server.connect();
        let mut fetch = upstream.accept();
        fetch.send(b"half a po");
        let ended = server.stop(signal);
        ended.quietly(0);
        assert_eq!(waiting.read_to_end().unwrap_or_default(), b"", "not even a part");
    }
}

#[test]
fn a_proxy_that_is_killed_in_mid_poem_resets_its_client() {
    let poem = noise(40_000_000);
    let (server, _) = proxy_of(poem.clone(), &[]);
    let mut client = server.connect();
    assert!(client.read_exact(1000) == poem[..1000]);
    server.stop(Signal::KILL);
    assert_eq!(client.read_to_end().unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_proxy_of_a_proxy_takes_no_failure_for_a_poem() {
    let (nobody, _taken) = unused_port();
    let inner = proxy(&nobody.to_string(), &[]);
    let outer = proxy(&inner.address(), &[]);
    for _ in 0..2 {
        assert_eq!(outer.connect().read_to_end().unwrap(), b"");
    }
    let told = outer.stop(Signal::TERM).stderr;
    assert_eq!(told.matches("the connection was closed without data").count(), 2, "{told}");
}

#[test]
fn its_help_has_an_example_and_bad_usage_is_explained() {
    let ended = run(&["proxy", "--help"]);
    ended.quietly(0);
    assert!(ended.text().contains("\n  poetry proxy --upstream 10000"), "{}", ended.text());
    assert!(ended.text().lines().all(|line| line.len() <= 100));
    let cases: [(&[&str], &str); 7] = [
        (&[], "--upstream <ADDRESS>"),
        (&["--upstream", "localhost:http"], "localhost:http\n              ^"),
        (&["--upstream", "0"], "from 1 to 65535"),
        (&["-u", "1", "--ttl", "-1"], "a number of seconds, 0 or more"),
        (&["-u", "1", "--timeout", "0"], "a number of seconds above 0"),
        (&["-u", "1", "--max-bytes", "lots"], "a number of bytes"),
        (&["-u", "1", "--listen", "example.com:1"], "example.com:1\n    ^"),
    ];
    for (args, expected) in cases {
        run(&[&["proxy"], args].concat()).says(2, expected);
    }
    let first = Server::start_command(program(&["serve"]), 1);
    let taken = first.ports[0].port().to_string();
    let ended = run(&["proxy", "-u", "1", "--listen", &taken]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("address already in use (something listens there already"));
}

/// The server's own descriptor of the connection to this client.
#[cfg(target_os = "linux")]
fn descriptor(server: &Server, client: &Client) -> std::os::fd::OwnedFd {
    use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
    let pid = server.running.pid();
    let process = Pid::from_raw(pid as i32).unwrap();
    let process = pidfd_open(process, PidfdFlags::empty()).unwrap();
    let names = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let numbers = names.filter_map(|name| name.unwrap().file_name().to_str()?.parse().ok());
    let mut all =
        numbers.filter_map(|number| pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).ok());
    let is_its = |it: &std::os::fd::OwnedFd| {
        let peer = rustix::net::getpeername(it).ok().flatten();
        peer.is_some_and(|peer| std::net::SocketAddr::try_from(peer) == Ok(client.address()))
    };
    all.find(is_its).expect("the connection")
}

#[cfg(target_os = "linux")]
#[test]
fn a_client_that_has_vanished_is_noticed_within_a_minute_and_a_half() {
    use rustix::net::sockopt;
    let silent = Upstream::start();
    let server = proxy(&silent.address, &[]);
    let client = server.connect();
    let _fetch = silent.accept();
    let socket = descriptor(&server, &client);
    assert!(sockopt::socket_keepalive(&socket).unwrap());
    let (idle, interval) = (sockopt::tcp_keepidle(&socket), sockopt::tcp_keepintvl(&socket));
    let probes = sockopt::tcp_keepcnt(&socket).unwrap();
    let noticed = idle.unwrap() + interval.unwrap() * probes;
    assert_eq!(noticed.as_secs(), 90);
    let help = run(&["proxy", "--help"]);
    assert!(help.text().contains("within a minute and a half"), "{}", help.text());
}

#[test]
fn over_a_unix_socket_there_are_no_probes_to_set() {
    let (upstream, _) = proxy_of(b"a poem".to_vec(), &[]);
    let folder = Folder::new();
    let listen = format!("unix:{}", folder.path("socket"));
    let args = ["proxy", "--upstream", &upstream.address(), "--listen", &listen, "-v"];
    let server = Server::start_command(program(&args), 0);
    server.line();
    let mut client = UnixStream::connect(folder.path("socket")).unwrap();
    let mut poem = String::new();
    client.read_to_string(&mut poem).unwrap();
    assert_eq!(poem, "a poem");
    assert!(!server.running.told().contains("WARN"), "{}", server.running.told());
}
