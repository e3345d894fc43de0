//! Limits on the connections of a program and on their unsent output.

use super::metrics::value;
use super::{Program, behind, echo, echoes, get, port_after};
use crate::kit::{Client, Server, wait_until};
use crate::needed::Folder;

/// The program with this configuration and a limit on descriptors.
fn start_with_descriptors(text: &str, descriptors: u32) -> Program {
    let limit = format!("ulimit -n {descriptors}; exec \"$0\" \"$@\"");
    let change = |program| behind(&["sh", "-c", &limit], &program);
    Program::start_changed(Folder::new(), text, &[], change)
}

#[test]
fn c48a_a_program_without_descriptors_answers_questions() {
    let text = echo("a", "0", "")
        + "[runner]\nlog-level = \"info\"\ncontrol = \"ctl\"\n\
           metrics = \"tcp:0:interface=127.0.0.1\"\n";
    let program = start_with_descriptors(&text, 64);
    let metrics = port_after("serving metrics and the health", &program);
    let port = program.port("a");
    // Again, after the first clients have left.
    for round in 1..=2 {
        let mut clients = Vec::new();
        let turned_away =
            || value(metrics, &format!("couplet_turned_away_total{{port=\"tcp:{port}\"}}"));
        let before = turned_away();
        wait_until("a client that is turned away", || {
            clients.push(Client::connect(port));
            turned_away() > before
        });
        for _ in 0..20 {
            assert_eq!(get(metrics, "/readyz").0, 200, "{round}");
            let status = program.ctl(&["status"]);
            assert!(status.code == Some(0) && status.text().contains("tcp"), "{status:?}");
        }
        echoes(&mut clients[0]);
        drop(clients);
        wait_until("the end of the clients", || {
            let name = format!("couplet_connections{{port=\"tcp:{port}\"");
            let (_, text) = get(metrics, "/metrics");
            text.lines().all(|line| !line.starts_with(&name) || line.ends_with(" 0"))
        });
    }
}

#[test]
fn c48a_limits_above_the_descriptors_are_reported_at_the_start() {
    let at = "tcp:0:interface=127.0.0.1";
    let forward = |listen: &str, connect: &str| {
        let kind = "[services.a]\nkind = \"forward\"\n";
        format!("{kind}listen = \"{at}{listen}\"\nconnect = \"{connect}\"\n")
    };
    let echo = |listen: &str| echo("a", &format!("{at}{listen}"), "");
    let echoing = Server::start(&["echo"]);
    let server = echoing.address();
    for (service, of_program, is_told) in [
        (echo(":connections=100"), "", true),
        (echo(":connections=20"), "", false),
        (echo(""), "", false),
        (echo(""), "max-connections = 100\n", true),
        (echo(":connections=100"), "max-connections = 20\n", false),
        // A session has two connections, or one and a program's three descriptors.
        (forward(":connections=40", &server), "", true),
        (forward(":connections=20", &server), "", false),
        (forward(":connections=20", "process:cat"), "", true),
        (forward(":connections=10", "process:cat"), "", false),
    ] {
        let text = service + "[runner]\nlog-level = \"info\"\n" + of_program;
        let program = start_with_descriptors(&text, 64);
        let mut client = Client::connect(program.port("a"));
        echoes(&mut client);
        if is_told {
            program.wait_told("may need more descriptors than the process has");
        } else {
            program.wait_told("started");
            echoes(&mut client);
            assert!(!program.told().contains("descriptors"), "{}", program.told());
        }
    }
}

#[test]
fn a_client_that_does_not_read_is_reset_for_the_others() {
    let folder = Folder::new();
    folder.write("long", "x".repeat(20_000_000));
    // Unlike a file, a poem is written in pieces, which stop while more than 16 KiB, up to 64 KiB,
    // wait in memory, as the system's buffers happen to end.
    let text = "[services.a]\nkind = \"poetry\"\nfiles = [\"long\"]\nlisten = \"0\"\ndelay = 0\n"
        .to_owned()
        + &echo("b", "0", "")
        + "[runner]\nmax-buffered = 15_000\nmetrics = \"tcp:0:interface=127.0.0.1\"\n\
           log-level = \"info\"\n";
    let program = Program::start_with(folder, &text, &[]);
    let metrics = port_after("serving metrics and the health", &program);
    let mut deaf = Client::connect(program.port("a"));
    program.wait_told("too much output waits: a connection is ended");
    let (_, text) = get(metrics, "/metrics");
    assert!(text.contains("couplet_shed_total 1"), "{text}");
    assert!(deaf.read_to_end().is_err(), "it is reset");
    program.connect("b");
}

#[test]
fn a_peer_with_more_output_than_its_share_is_reset_and_the_others_are_not() {
    let poem = "x".repeat(20_000_000);
    let folder = Folder::new();
    folder.write("poem", &poem);
    // A client that does not read has at most twice 64 KiB: each address may have one.
    let text = "[services.a]\nkind = \"poetry\"\nfiles = [\"poem\"]\nlisten = \"0\"\ndelay = 0\n\
                [runner]\nmax-buffered-by-peer = 131_072\nlog-level = \"info\"\nlog-repeats = 0\n\
                metrics = \"tcp:0:interface=127.0.0.1\"\n";
    let program = Program::start_with(folder, text, &[]);
    let metrics = port_after("serving metrics and the health", &program);
    let port = program.port("a");
    let mut others = Vec::new();
    wait_until("more output than one address may have", || {
        let last = 3 + u8::try_from(others.len()).expect("few are enough");
        others.push(Client::connect_from([127, 0, 0, last], port));
        value(metrics, "couplet_buffered_bytes") > 131_072
    });
    assert_eq!(value(metrics, "couplet_shed_total"), 0, "{}", program.told());
    let mut greedy = Vec::new();
    wait_until("a reset", || {
        greedy.push(Client::connect_from([127, 0, 0, 2], port));
        value(metrics, "couplet_shed_total") > 0
    });
    for client in &mut others {
        assert!(client.read_to_end().unwrap() == poem.as_bytes());
    }
    let resets = greedy.iter_mut().map(Client::read_to_end).filter(Result::is_err).count();
    assert!(resets >= 1, "{}", program.told());
    assert_eq!(value(metrics, "couplet_shed_total"), resets as u64);
    let words = "too much output waits: a connection is ended";
    wait_until("all of them in the log", || program.told().matches(words).count() == resets);
    let told = program.told();
    let mut ended = told.lines().filter(|line| line.contains(words));
    assert!(ended.all(|line| line.contains("peer=tcp:127.0.0.2:")), "{told}");
}
