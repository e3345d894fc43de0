//! UDP ports of services: in restarts, in reloads, and together with TCP.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use super::restart::{Restarted, services};
use super::{FILE, Program, echo, echoes, poet, port_after, run_in};
use crate::datagrams::{ask, receive, socket, socket_at};
use crate::kit::{Client, wait_until};
use crate::needed::Folder;

fn forward(name: &str, listen: &str, connect: &str, more: &str) -> String {
    format!(
        "[services.{name}]\nkind = \"forward\"\nlisten = \"{listen}\"\nconnect = \"{connect}\"\n\
         {more}\n"
    )
}

/// The UDP port that is printed next, which is this service's.
fn udp_port(program: &Program, name: &str) -> SocketAddr {
    let line = program.server.line();
    line.strip_prefix(&format!("{name} listening on udp:"))
        .and_then(|host| host.parse().ok())
        .unwrap_or_else(|| panic!("{line:?} is no UDP port of {name}: {}", program.told()))
}

/// A server of any address of this machine.
fn server() -> (UdpSocket, u16) {
    let socket = socket_at("[::]:0");
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

/// A datagram comes back, from the address to which it was sent.
fn answers(socket: &UdpSocket, to: SocketAddr, word: &[u8]) {
    assert_eq!(ask(socket, to, word), word);
}

/// Sends numbered datagrams until `ends` is set, with a few unanswered at most; returns their
/// number.
fn number_for_ever(to: SocketAddr, ends: &AtomicBool) -> usize {
    let client = socket();
    client.connect(to).unwrap();
    let (mut next, mut open) = (0u64, BTreeSet::new());
    while !ends.load(Ordering::Relaxed) || !open.is_empty() {
        while open.len() < 8 && !ends.load(Ordering::Relaxed) {
            client.send(&next.to_be_bytes()).unwrap();
            open.insert(next);
            next += 1;
        }
        if !open.is_empty() {
            let (answer, _) = receive(&client);
            let number = u64::from_be_bytes(answer.try_into().unwrap());
            assert!(open.remove(&number), "{number} is answered again");
        }
    }
    client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let more = client.recv(&mut [0; 8]).expect_err("an answer too many");
    assert_eq!(more.kind(), ErrorKind::WouldBlock);
    next as usize
}

#[test]
fn c160h_each_datagram_is_answered_exactly_once_in_twenty_restarts() {
    // Of several threads, one has the port.
    for threads in ["", "threads = 3\n"] {
        let config = echo("e", "udp:0:interface=127.0.0.1", "udp-rate = 0");
        let text = services(&[config], "generations = 30");
        let text = text.replace("[runner]\n", &format!("[runner]\n{threads}"));
        assert!(text.contains(threads));
        let program = Restarted::start(&text);
        let port = udp_port(&program, "e");
        let ends = Arc::new(AtomicBool::new(false));
        let clients = [0, 1].map(|_| {
            let ends = ends.clone();
            std::thread::spawn(move || number_for_ever(port, &ends))
        });
        for _ in 0..10 {
            program.restart();
            assert_eq!(udp_port(&program, "e"), port);
        }
        ends.store(true, Ordering::Relaxed);
        for client in clients {
            let count = client.join().unwrap_or_else(|_| panic!("{}", program.told()));
            assert!(count > 50, "{count}");
        }
        program.stop();
    }
}

#[test]
fn c160h_a_forwarder_answers_across_a_restart() {
    let (server, number) = server();
    let to = format!("udp:localhost:{number}");
    let config = forward("f", "udp:0", &to, "");
    let mut program = Restarted::start(&services(&[config], ""));
    let port = udp_port(&program, "f");
    let (client, host) = (socket(), SocketAddr::from(([127, 0, 0, 2], port.port())));
    client.send_to(b"one", host).unwrap();
    let (one, old) = receive(&server);
    assert_eq!(one, b"one");
    program.restart();
    client.send_to(b"two", host).unwrap();
    let (two, new) = receive(&server);
    assert_eq!(two, b"two");
    assert_ne!(new, old, "it is another session");
    server.send_to(b"answer two", new).unwrap();
    assert_eq!(receive(&client), (b"answer two".to_vec(), host));
    // The old process waits for the server's answer.
    assert!(program.is_running());
    server.send_to(b"answer one", old).unwrap();
    assert_eq!(receive(&client), (b"answer one".to_vec(), host));
    wait_until("the end of the first", || !program.is_running());
    program.stop();
}

#[test]
fn c160h_an_old_process_whose_connections_finish_reads_no_datagram() {
    let (server, number) = server();
    let to = format!("udp:127.0.0.1:{number}");
    let all = [forward("f", "udp:0:interface=127.0.0.1", &to, ""), poet(9.0, 90.0)];
    let text = services(&all, "restart-drain = 90");
    let mut program = Restarted::start_poet(&text);
    let (port, poet) = (udp_port(&program, "f"), program.port("poet"));
    let mut reader = Client::connect(poet);
    reader.read_exact(5);
    let client = socket();
    client.send_to(b"one", port).unwrap();
    let (_, old) = receive(&server);
    program.restart();
    for number in 0..100u8 {
        client.send_to(&[number], port).unwrap();
        let (bytes, session) = receive(&server);
        assert_eq!((bytes, session == old), (vec![number], false));
    }
    // The session has ended for the client, but not for the server.
    server.send_to(b"answer one", old).unwrap();
    assert_eq!(receive(&client), (b"answer one".to_vec(), port));
    assert!(program.is_running());
    program.signal(Signal::TERM);
    wait_until("the end of the first", || !program.is_running());
    program.stop();
}

#[test]
fn c160h_a_reload_keeps_the_socket_and_its_queued_datagrams() {
    let (server, number) = server();
    let config = |idle: u32| {
        let (to, more) = (format!("udp:127.0.0.1:{number}"), format!("idle-timeout = {idle}"));
        services(&[forward("f", "udp:0:interface=127.0.0.1", &to, &more)], "")
    };
    let mut program = Program::start(&config(30));
    let port = udp_port(&program, "f");
    let client = socket();
    client.send_to(b"one", port).unwrap();
    let (_, old) = receive(&server);
    program.reload(&config(31));
    wait_until("its stop", || program.ctl(&["status"]).text().contains("stopping"));
    client.send_to(b"two", port).unwrap();
    server.send_to(b"answer one", old).unwrap();
    assert_eq!(receive(&client), (b"answer one".to_vec(), port));
    assert_eq!(udp_port(&program, "f"), port);
    let (two, new) = receive(&server);
    assert_eq!(two, b"two");
    server.send_to(b"answer two", new).unwrap();
    assert_eq!(receive(&client), (b"answer two".to_vec(), port));
    program.wait_told("reloaded: 1 services changed");
    assert_eq!(program.stop(Signal::TERM).code, Some(0));
}

#[test]
fn c160h_tcp_and_udp_on_one_number_stay_apart() {
    let free = TcpListener::bind("127.0.77.1:0").unwrap().local_addr().unwrap();
    let udp = format!("udp:{free}");
    let mixed = |more: &str| {
        let listen = format!("listen = [\"{free}\", \"{udp}\"]");
        services(&[format!("[services.e]\nkind = \"echo\"\n{listen}\n{more}\n")], "")
    };
    let program = Restarted::start(&mixed(""));
    let (client, mut open) = (socket(), None);
    let served = |program: &Program, names: [&str; 2]| {
        assert_eq!(program.port(names[0]), free);
        assert_eq!(udp_port(program, names[1]), free);
        answers(&client, free, b"a datagram");
        echoes(open.insert(Client::connect(free)));
    };
    let mut served = served;
    served(&program, ["e", "e"]);
    program.restart();
    served(&program, ["e", "e"]);
    assert_eq!(program.reload_by_ctl(&mixed("idle-timeout = 9")).code, Some(0));
    served(&program, ["e", "e"]);
    // The same addresses at other places.
    let apart = [echo("t", &free.to_string(), ""), echo("u", &udp, "")];
    program.folder.write(FILE, services(&apart, ""));
    program.restart();
    served(&program, ["t", "u"]);
    program.stop();
}

#[test]
fn a_restart_that_fails_leaves_the_old_process_reading() {
    let udp = echo("e", "udp:0:interface=127.0.0.1", "");
    let program = Restarted::start(&services(std::slice::from_ref(&udp), ""));
    let (client, port) = (socket(), udp_port(&program, "e"));
    let held = UdpSocket::bind("127.0.77.2:0").unwrap();
    let taken = format!("udp:{}", held.local_addr().unwrap());
    program.folder.write(FILE, services(&[udp.clone(), echo("z", &taken, "")], ""));
    let wanted = format!("cannot listen on {taken}: address already in use");
    program.ctl(&["restart"]).says(1, &wanted);
    answers(&client, port, b"still here");
    program.folder.write(FILE, services(&[udp], ""));
    program.restart();
    answers(&client, port, b"the new one");
    program.stop();
}

#[test]
fn a_udp_port_in_use_is_1_and_a_check_binds_nothing() {
    let held = UdpSocket::bind("127.0.77.3:0").unwrap();
    let taken = format!("udp:{}", held.local_addr().unwrap());
    let text = echo("a", "unix:first", "") + &echo("b", &taken, "");
    let folder = Folder::new();
    let ended = run_in(&folder, &text, &[]);
    assert_eq!(ended.code, Some(1));
    let wanted = format!("cannot listen on {taken}: address already in use");
    assert!(ended.stderr.contains(&wanted), "{}", ended.stderr);
    assert_eq!(folder.names(), [FILE], "nothing is left of the first");
    let checked = run_in(&folder, &text, &["--check"]);
    assert_eq!((checked.code, checked.text()), (Some(0), "a.toml: ok, 2 services\n"));
    for (wrong, wanted) in [
        (forward("f", "udp:0", "127.0.0.1:1", ""), "cannot forward between UDP and a stream"),
        (forward("f", "udp:0", "udp:1", "check = 1"), "cannot check a UDP server"),
        (echo("e", "udp:x", ""), "a.toml:3:10: "),
        (echo("e", "udp:0", "udp-rate = -1"), "a.toml:4:12: "),
    ] {
        run_in(&folder, &wrong, &["--check"]).says(2, wanted);
    }
}

#[test]
fn datagram_ports_are_in_the_status_and_in_the_metrics() {
    let process = "metrics = \"tcp:0:interface=127.0.0.1\"\ncontrol = \"ctl\"\n";
    let config = echo("e", "udp:0:interface=127.0.0.1", "udp-rate = 1") + "[runner]\n" + process;
    let program = Program::start_with(Folder::new(), &config, &["-v"]);
    let metrics = port_after("serving metrics and the health", &program);
    let (client, port) = (socket(), udp_port(&program, "e"));
    answers(&client, port, b"x");
    let status = program.ctl(&["status"]);
    let line = format!("datagrams   udp:{port} in 1 out 1 dropped 0");
    assert!(status.text().contains(&line), "{}", status.text());
    let json = program.ctl(&["status", "--json"]);
    let wanted = format!("{{\"host\":\"udp:{port}\",\"peer\":null,\"received\":1,\"sent\":1,");
    assert!(json.text().contains(&wanted), "{}", json.text());
    let counted = format!("couplet_datagrams_total{{port=\"udp:{port}\",outcome=\"received\"}} 1");
    let (_, body) = super::get(metrics, "/metrics");
    assert!(body.contains(&counted), "{body}");
    // The second answer of a second exceeds the limit; at most one second ends in between.
    (0..3).for_each(|_| assert_eq!(client.send_to(b"y", port).unwrap(), 1));
    program.wait_told("exceeds the rate limit");
    program.stop(Signal::TERM);
}
