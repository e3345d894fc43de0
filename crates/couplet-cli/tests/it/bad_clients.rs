//! Clients that send garbage, disconnect midway, or outnumber the descriptors.

use rustix::process::Signal;

use crate::kit::{Client, Server, TempFile, noise, serve_raw, wait_until};

/// Asserts that a server serves the next client and holds no descriptors of earlier ones.
#[track_caller]
fn is_well(server: Server, descriptors: usize, served: impl Fn(Client)) {
    served(server.connect());
    wait_until("all descriptors to be closed", || server.descriptors() <= descriptors);
    server.stop(Signal::TERM).quietly(0);
}

fn echoes(mut client: Client) {
    client.send(b"still there?");
    client.finish();
    assert_eq!(client.read_to_end().unwrap(), b"still there?");
}

/// Clients that disconnect in different ways at each step of a connection's life.
fn misbehave(server: &Server) {
    let garbage = noise(200_000);
    let leave: [fn(Client); 3] = [drop, Client::reset, |mut client| client.finish()];
    for leave in leave {
        leave(server.connect());
        let mut client = server.connect();
        client.send(&garbage[..10]);
        leave(client);
        let mut client = server.connect();
        client.push(&garbage);
        leave(client);
        let mut client = server.connect();
        client.send(b"x");
        client.read().unwrap();
        leave(client);
        let mut client = server.connect();
        for byte in &garbage[..50] {
            client.send(&[*byte]);
        }
        leave(client);
    }
}

#[test]
fn clients_that_leave_at_any_step_do_an_echo_server_no_harm() {
    let server = Server::start(&["echo"]);
    let descriptors = server.descriptors();
    misbehave(&server);
    is_well(server, descriptors, echoes);
}

#[test]
fn clients_that_leave_at_any_step_do_a_poetry_server_no_harm() {
    let bytes = noise(300_000);
    let poem = TempFile::new(&bytes);
    for pace in [["--delay", "0", "--num-bytes", "10"], ["--delay", "0.01", "--num-bytes", "30000"]]
    {
        let args = [&["poetry", "serve", poem.path()], &pace[..]].concat();
        let server = Server::start(&args);
        let descriptors = server.descriptors();
        misbehave(&server);
        is_well(server, descriptors, |mut client| {
            assert!(client.read_to_end().unwrap() == bytes);
        });
    }
}

#[test]
fn clients_that_leave_at_any_step_do_a_server_by_name_no_harm() {
    let bytes = noise(300_000);
    let poem = TempFile::named("x", &bytes);
    for pace in [["--delay", "0", "--num-bytes", "10"], ["--delay", "0.01", "--num-bytes", "30000"]]
    {
        let args = [&["poetry", "serve", "--by-name", poem.path()], &pace[..]].concat();
        let server = Server::start(&args);
        let descriptors = server.descriptors();
        leave_at_each_step(&server, &[b"x", b"x\r", b"x\r\n", b"\n", b"x\nx\nx\n?\nno", b"\xff\n"]);
        is_well(server, descriptors, |mut client| {
            client.send(b"X\n");
            assert!(client.read_exact(300_015) == [b"poem 300000 x\r\n", &bytes[..]].concat());
        });
    }
}

#[test]
fn clients_that_leave_at_any_step_do_a_transformation_server_no_harm() {
    let server = Server::start(&["poetry", "transform"]);
    let descriptors = server.descriptors();
    let steps: [&[u8]; 7] =
        [b"7", b"7:", b"7:upper.a", b"7:upper.a,", b"7:upper.a,7:upp", b"x", b"7:upper.a,x"];
    leave_at_each_step(&server, &steps);
    is_well(server, descriptors, |mut client| {
        client.send(b"7:upper.a,");
        assert_eq!(client.read_exact(4), b"1:A,");
    });
}

/// Each client sends one of these steps, perhaps with garbage after it, and disconnects.
fn leave_at_each_step(server: &Server, steps: &[&[u8]]) {
    let leave: [fn(Client); 3] = [drop, Client::reset, |mut client| client.finish()];
    for leave in leave {
        for sent in steps.iter().copied().chain([&b""[..]]) {
            let mut client = server.connect();
            client.send(sent);
            leave(client);
            let mut client = server.connect();
            client.send(sent);
            client.push(&noise(100_000));
            leave(client);
        }
    }
}

#[test]
fn poets_do_not_listen() {
    let poem = TempFile::new(&noise(500_000));
    let server = Server::start(&["poetry", "serve", "--delay", "0", poem.path()]);
    let mut client = server.connect();
    // Unread input must not turn the close into a reset that destroys the poem.
    client.push(&noise(900_000));
    assert!(client.read_to_end().unwrap() == noise(500_000));
}

#[test]
fn a_server_without_descriptors_goes_on_when_others_have_left() {
    let server = Server::start_limited(32, &["echo"]);
    let mut clients: Vec<Client> = (0..60).map(|_| server.connect()).collect();
    // The accepted clients are served; the others are turned away, not left hanging.
    let served = |client: &mut Client| {
        let mut sender = client.another();
        sender.push(b"word") == 4 && client.read().is_ok_and(|word| word == b"word")
    };
    let (mut taken, mut turned_away) = (Vec::new(), 0);
    for mut client in clients.drain(..) {
        match served(&mut client) {
            true => taken.push(client),
            false => turned_away += 1,
        }
    }
    assert!(taken.len() >= 15 && turned_away >= 28, "{} and {turned_away}", taken.len());
    assert!(taken.iter_mut().all(served), "accepted clients stay connected");
    drop(taken.split_off(taken.len() / 2));
    wait_until("a new client to be served", || served(&mut server.connect()));
    assert!(taken.iter_mut().all(served), "accepted clients stay connected");
    let ended = server.stop(Signal::TERM);
    assert_eq!(ended.code, Some(0));
    let lines: Vec<_> = ended.stderr.lines().collect();
    assert!(matches!(&lines[..], [line] if line.contains("cannot accept")), "{}", ended.stderr);
}

#[test]
fn servers_that_are_asked_answer_whom_they_took_when_descriptors_run_out() {
    for (args, request, answer) in [
        (&["poetry", "serve", "--by-name", "--delay", "0"][..], &b"no such\n"[..], &b"error "[..]),
        (&["poetry", "transform"], b"9:upper.ode,", b"3:ODE,"),
    ] {
        let server = Server::start_limited(32, args);
        let served = |client: &mut Client| {
            let mut sender = client.another();
            sender.push(request) == request.len()
                && client.read().is_ok_and(|got| got.starts_with(answer))
        };
        let clients: Vec<Client> = (0..60).map(|_| server.connect()).collect();
        let mut taken: Vec<Client> =
            clients.into_iter().filter_map(|mut one| served(&mut one).then_some(one)).collect();
        assert!((15..=32).contains(&taken.len()), "{args:?}: {}", taken.len());
        assert!(taken.iter_mut().all(served), "{args:?}: who is in stays in");
        drop(taken);
        wait_until("a new client to be served", || served(&mut server.connect()));
        assert_eq!(server.stop(Signal::TERM).code, Some(0));
    }
}

#[test]
fn a_poetry_server_without_descriptors_gives_every_client_that_it_took_a_whole_poem() {
    let poem = TempFile::new(&noise(1000));
    let pace = ["--delay", "0.05", "--num-bytes", "100"];
    let args = [&["poetry", "serve", poem.path()], &pace[..]].concat();
    let server = Server::start_limited(32, &args);
    let clients: Vec<Client> = (0..60).map(|_| server.connect()).collect();
    let mut whole = 0;
    for mut client in clients {
        // No client receives a truncated poem that looks whole.
        match client.read_to_end() {
            Ok(bytes) if bytes.is_empty() => {}
            Ok(bytes) => {
                assert!(bytes == noise(1000));
                whole += 1;
            }
            Err(_) => {}
        }
    }
    assert!(whole >= 15, "{whole}");
    assert!(server.connect().read_to_end().unwrap() == noise(1000));
}

#[test]
fn who_announces_much_and_sends_little_is_cut_after_the_idle_timeout() {
    for (args, little) in [
        (&["poetry", "transform"][..], &b"99999:upper.a"[..]),
        (&["poetry", "serve", "--by-name"], b"a title without an e"),
        (&["chat"], b"half a li"),
    ] {
        let server = Server::start(&[args, &["--idle-timeout", "0.3"]].concat());
        let mut client = server.connect();
        client.send(little);
        let end = client.read_to_end();
        assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset, "{args:?}");
        server.stop(Signal::TERM).quietly(0);
        // 0 means no timeout: the client stays while others come and go.
        let server = Server::start(&[args, &["--idle-timeout", "0"]].concat());
        let client = server.connect();
        for mut client in std::iter::repeat_with(|| server.connect()).take(3).chain([client]) {
            client.send(little);
            client.finish();
            assert!(client.read_to_end().is_ok(), "{args:?}");
        }
    }
}

/// The time until the kernel's next probe of this connection, in seconds, if it will send one.
#[cfg(target_os = "linux")]
fn next_probe(server: &Server, client: &Client) -> Option<u64> {
    let ends = [server.ports[0].port(), client.address().port()].map(|port| format!(":{port:04X}"));
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = rows.find(|row| row[1].ends_with(&ends[0]) && row[2].ends_with(&ends[1]))?;
    // The timer 2 is that of probes. It counts hundredths of a second.
    let hundredths = row[5].strip_prefix("02:")?;
    Some(u64::from_str_radix(hundredths, 16).unwrap() / 100)
}

#[cfg(target_os = "linux")]
#[test]
fn a_client_that_may_have_vanished_is_probed() {
    let silent = serve_raw(|mut client| drop(client.read_to_end())).to_string();
    for (args, seconds) in [(&["chat"][..], 60), (&["poetry", "proxy", "--upstream", &silent], 15)]
    {
        let server = Server::start(args);
        let client = server.connect();
        // The port's own time, a minute, until the protocol has set its.
        wait_until("a probe that is due", || {
            next_probe(&server, &client).is_some_and(|next| (1..=seconds).contains(&next))
        });
    }
}
