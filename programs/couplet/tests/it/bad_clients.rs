//! Clients that send garbage, disconnect midway, or outnumber the descriptors.

use rustix::process::Signal;

use crate::kit::{Client, Server, is_well, misbehave, wait_until};

#[test]
fn clients_that_leave_at_any_step_do_an_echo_server_no_harm() {
    let server = Server::start(&["echo"]);
    let descriptors = server.descriptors();
    misbehave(&server);
    is_well(server, descriptors, |mut client| client.echoes(b"still there?"));
}

#[test]
fn a_server_without_descriptors_accepts_again_when_clients_leave() {
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
