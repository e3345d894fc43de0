//! Clients that send garbage, disconnect midway, or outnumber the descriptors.

use rustix::process::Signal;

#[cfg(target_os = "linux")]
use crate::kit::next_probe;
use crate::kit::{Client, Server, is_well, misbehave, wait_until};

fn echoes(mut client: Client) {
    client.send(b"still there?");
    client.finish();
    assert_eq!(client.read_to_end().unwrap(), b"still there?");
}

#[test]
fn clients_that_leave_at_any_step_do_an_echo_server_no_harm() {
    let server = Server::start(&["echo"]);
    let descriptors = server.descriptors();
    misbehave(&server);
    is_well(server, descriptors, echoes);
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
fn who_announces_much_and_sends_little_is_cut_after_the_idle_timeout() {
    {
        let (args, little) = (&["chat"][..], &b"half a li"[..]);
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

#[cfg(target_os = "linux")]
#[test]
fn a_client_that_may_have_vanished_is_probed() {
    let server = Server::start(&["chat"]);
    let client = server.connect();
    wait_until("a probe that is due", || {
        next_probe(&server, &client).is_some_and(|next| (1..=60).contains(&next))
    });
}
