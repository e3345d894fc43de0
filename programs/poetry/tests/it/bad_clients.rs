//! Clients that send garbage, disconnect midway, or outnumber the descriptors.

use rustix::process::Signal;

use crate::kit::{
    Client, Server, TempFile, assert_idle_is_cut, is_well, leave_at_each_step, misbehave, noise,
    wait_until,
};
#[cfg(target_os = "linux")]
use crate::kit::{next_probe, serve_raw};
use crate::serve::{poet, poet_named};

const PACES: [[&str; 4]; 2] =
    [["--delay", "0", "--num-bytes", "10"], ["--delay", "0.01", "--num-bytes", "30000"]];

#[test]
fn clients_that_leave_at_any_step_do_a_poetry_server_no_harm() {
    let bytes = noise(300_000);
    for pace in PACES {
        let (_poem, server) = poet(&bytes, &pace);
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
    for pace in PACES {
        let (_poem, server) = poet_named("x", &bytes, &[&["--by-name"], &pace[..]].concat());
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
    let server = Server::start(&["transform"]);
    let descriptors = server.descriptors();
    let steps: [&[u8]; 7] =
        [b"7", b"7:", b"7:upper.a", b"7:upper.a,", b"7:upper.a,7:upp", b"x", b"7:upper.a,x"];
    leave_at_each_step(&server, &steps);
    is_well(server, descriptors, |mut client| {
        client.send(b"7:upper.a,");
        assert_eq!(client.read_exact(4), b"1:A,");
    });
}

#[test]
fn unread_input_does_not_reset_a_poem() {
    let (_poem, server) = poet(&noise(500_000), &["--delay", "0"]);
    let mut client = server.connect();
    // Unread input must not turn the close into a reset that destroys the poem.
    client.push(&noise(900_000));
    assert!(client.read_to_end().unwrap() == noise(500_000));
}

#[test]
fn without_descriptors_servers_keep_answering_their_accepted_clients() {
    for (args, request, answer) in [
        (&["serve", "--by-name", "--delay", "0"][..], &b"no such\n"[..], &b"error "[..]),
        (&["transform"], b"9:upper.ode,", b"3:ODE,"),
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
    let args = [&["serve", poem.path()], &pace[..]].concat();
    let server = Server::start_limited(32, &args);
    let is_served = |mut client: Client| {
        // No client receives a truncated poem that looks whole.
        let got = client.read_to_end().unwrap_or_default();
        assert!(got.is_empty() || got == noise(1000));
        !got.is_empty()
    };
    let clients: Vec<Client> = (0..60).map(|_| server.connect()).collect();
    let whole = clients.into_iter().map(is_served).filter(|is_whole| *is_whole).count();
    assert!(whole >= 15, "{whole}");
    wait_until("a new client to be served", || is_served(server.connect()));
}

#[test]
fn an_incomplete_request_is_cut_after_the_idle_timeout() {
    assert_idle_is_cut(&["transform"], b"99999:upper.a");
    assert_idle_is_cut(&["serve", "--by-name"], b"a title without an e");
}

#[cfg(target_os = "linux")]
#[test]
fn a_client_that_may_have_vanished_is_probed() {
    let silent = serve_raw(|mut client| drop(client.read_to_end())).to_string();
    let server = Server::start(&["proxy", "--upstream", &silent]);
    let client = server.connect();
    // The interval is the port's, a minute, until the protocol has set its own.
    wait_until("a probe that is due", || {
        next_probe(&server, &client).is_some_and(|next| (1..=15).contains(&next))
    });
}
