//! `poetry get --name` and `poetry list`.

use rustix::process::Signal;

use crate::kit::{
    Client, Ended, Running, Server, TempFile, noise, program, run, serve_raw, unused_port,
    wait_until,
};
use crate::serve::{poet, poet_named};

/// A server that reads a line, sends `bytes`, then runs `end`.
fn answers(bytes: Vec<u8>, end: fn(Client)) -> String {
    serve_raw(move |mut client| {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.extend(client.read_exact(1));
        }
        client.send(&bytes);
        end(client);
    })
    .to_string()
}

/// Keeps the connection until the peer closes it.
fn hold(mut client: Client) {
    let _ = client.read_to_end();
}

fn get(title: &str, args: &[&str]) -> Ended {
    run(&[&["get", "--name", title], args].concat())
}

/// Asserts that the command failed for this reason and printed nothing.
#[track_caller]
fn failed(ended: &Ended, why: &str) {
    assert_eq!((ended.code, ended.text()), (Some(1), ""), "{}", ended.stderr);
    assert!(ended.stderr.contains(why), "{}", ended.stderr);
}

#[test]
fn a_poem_comes_by_its_title_from_each_server() {
    let poem = TempFile::named("Noise.bin", &noise(5000));
    let pace = ["--delay", "0.01", "--num-bytes", "1000"];
    let args = [&["serve", "--by-name", poem.path()], &pace[..]].concat();
    let server = Server::start(&args);
    let address = server.address();
    let ended = get("NOISE", &[&address, &address, &address]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stdout == noise(5000).repeat(3));
    assert!(ended.stderr.contains("3 of 3 poems, 15000 bytes in "), "{}", ended.stderr);
    let error = "the server says: there is no poem \"ode\"; an empty line gets the titles\n";
    failed(&get("ode", &[&address]), error);
    server.stop(Signal::TERM).quietly(0);
}

#[test]
fn the_poem_ends_where_its_length_says_and_the_connection_is_not_waited_for() {
    let held = answers(b"poem 3 x\r\nO!\nand more".to_vec(), hold);
    let ended = get("x", &[&held]);
    assert_eq!((ended.code, ended.text()), (Some(0), "O!\n"), "{}", ended.stderr);
    let empty = answers(b"poem 0 x\n".to_vec(), hold);
    assert_eq!(get("x", &[&empty]).code, Some(0));
}

#[test]
fn a_poem_that_was_cut_is_known_for_sure() {
    let cut = answers(b"poem 10 x\r\nhalf".to_vec(), drop);
    let why = "it was cut short after 4 of 10 bytes: connection closed by the peer\n";
    failed(&get("x", &[&cut]), why);
    failed(&get("x", &[&answers(b"poem 10 x\r\n".to_vec(), drop)]), "after 0 of 10 bytes");
    failed(
        &get("x", &[&answers(b"poem 10".to_vec(), drop)]),
        "no answer arrived: connection closed",
    );
    failed(&get("x", &[&answers(b"".to_vec(), Client::reset)]), "connection reset by peer");
    let slow = answers(b"poem 10 x\r\nhalf".to_vec(), hold);
    failed(&get("x", &[&slow, "--timeout", "0.3"]), "it was incomplete after 0.3 s (--timeout)\n");
}

#[test]
fn a_server_that_is_killed_in_the_middle_does_not_leave_a_whole_poem() {
    let (_poem, server) =
        poet_named("slow.txt", b"0123456789", &["--by-name", "--delay", "60", "--num-bytes", "4"]);
    let args = ["get", &server.address(), "--name", "slow", "-vv"];
    let mut running = Running::start(&mut program(&args));
    wait_until("a connection", || running.told().contains("connection made"));
    running.wait_snapshot(" open in 18 out 6 ");
    server.stop(Signal::KILL);
    failed(
        &running.ended(),
        "it was cut short after 4 of 10 bytes: connection closed by the peer\n",
    );
}

#[test]
fn a_length_over_the_limit_is_refused_before_it_comes() {
    let why = "it is longer than 100 bytes (--max-bytes sets the limit)\n";
    for length in ["101", "18446744073709551615", "99999999999999999999999999"] {
        let server = answers(format!("poem {length} x\r\n").into(), hold);
        failed(&get("x", &[&server, "--max-bytes", "100"]), why);
        failed(&get("x", &[&answers(b"poem 99999999999 x\r\n".to_vec(), hold)]), "67108864 bytes");
    }
    let exact = answers([b"poem 100 x\r\n", &noise(100)[..]].concat(), hold);
    assert!(get("x", &[&exact, "--max-bytes", "100"]).stdout == noise(100));
}

#[test]
fn an_invalid_answer_is_reported_immediately_without_control_characters() {
    let (_poem, plain) = poet(b"poetry without a name", &["--num-bytes", "5"]);
    let why = "\"poetr\" is not an answer; is that a `poetry serve --by-name`?\n";
    failed(&get("x", &[&plain.address()]), why);
    failed(&run(&["list", &plain.address()]), why);
    let transform = Server::start(&["transform"]);
    failed(&get("x", &[&transform.address()]), "no answer arrived: connection closed by the peer");
    let endless = answers([b"poem 1 ", &[b'x'; 100_000][..]].concat(), hold);
    failed(&get("x", &[&endless]), "is not an answer");
    let coloured = answers(b"error \x1b[31mno\r\n".to_vec(), hold);
    failed(&get("x", &[&coloured]), "the server says: ?[31mno\n");
    let strange = answers(b"\x1b[31m\r\n".to_vec(), hold);
    failed(&get("x", &[&strange]), "\"\\u{1b}[31m\\r\" is not an answer");
}

#[test]
fn a_get_without_a_name_gets_a_hint_if_the_server_expects_one() {
    let server = Server::start(&["serve", "--by-name"]);
    let address = server.address();
    let ended = run(&["get", &address, "--timeout", "0.3"]);
    failed(&ended, "it was incomplete after 0.3 s (--timeout)\n");
    let hint = " yet; a server started with --by-name expects --name\n";
    assert!(ended.stderr.contains(hint), "{}", ended.stderr);
    // Without a timeout the hint is printed as well.
    let mut running = Running::start(&mut program(&["get", &address]));
    wait_until("the hint", || running.told().contains(hint));
    running.signal(Signal::INT);
    assert_eq!(running.ended().code, Some(130));
    // With --name there is no hint.
    let silent = serve_raw(hold).to_string();
    let ended = get("x", &[&silent, "--timeout", "0.3"]);
    assert!(!ended.stderr.contains("--name"), "{}", ended.stderr);
    // Nor for a server that has closed already.
    let closing = serve_raw(drop).to_string();
    let ended = run(&["get", &closing, &silent, "--timeout", "0.3"]);
    failed(&ended, &format!("no data from tcp:{silent}{hint}"));
    assert_eq!(ended.stderr.matches("no data from ").count(), 1, "{}", ended.stderr);
    // Nor after the first bytes of a poem.
    let begun = serve_raw(|mut client| {
        client.send(b"a poem");
        hold(client);
    });
    let ended = run(&["get", &begun.to_string(), "--timeout", "0.3"]);
    failed(&ended, "it was incomplete after 0.3 s (--timeout)\n");
    assert!(!ended.stderr.contains("--name"), "{}", ended.stderr);
}

#[test]
fn titles_are_printed_a_line_each() {
    let files = ["b.txt", "A.txt", "\u{fc}"].map(|name| TempFile::named(name, b"x"));
    let paths = files.each_ref().map(TempFile::path);
    let server = Server::start(&[&["serve", "--by-name"], &paths[..]].concat());
    run(&["list", &server.address()]).prints("b\nA\n\u{fc}\n");
    let many = format!("titles 100000\r\n{}", "a title\r\n".repeat(100_000));
    run(&["list", &answers(many.into(), hold)]).prints(&"a title\n".repeat(100_000));
    run(&["list", &answers(b"titles 1\n\x1b[2J\x07\n\n".to_vec(), hold)]).prints("?[2J?\n");
    run(&["list", &answers(b"titles 0\r\n".to_vec(), hold)]).quietly(0);
}

#[test]
fn titles_that_do_not_all_come_are_an_error() {
    let list = |bytes: &[u8], end, why: &str| {
        failed(&run(&["list", &answers(bytes.to_vec(), end), "--timeout", "1"]), why);
    };
    list(b"titles 3\r\na\r\nb\r\n", drop, "one title is missing: connection closed by the peer\n");
    list(b"titles 3\r\na\r\nb\r\n", hold, "it was incomplete after 1 s (--timeout)\n");
    list(b"titles 99999999999999999999\r\n", hold, "the titles have more than 16777216 bytes\n");
    list(b"error busy\r\n", hold, "the server says: busy\n");
    list(b"poem 1 x\r\n", hold, "is that a `poetry serve --by-name`?\n");
    list(b"", drop, "no answer arrived: connection closed by the peer;");
    let (nobody, _guard) = unused_port();
    let ended = run(&["list", &nobody.to_string()]);
    let why = format!("poetry: no titles from tcp:{nobody}: connection refused\n");
    assert_eq!((ended.code, &*ended.stderr), (Some(1), &*why));
}

#[test]
fn an_interrupted_list_has_code_130() {
    let silent = serve_raw(hold).to_string();
    let mut running = Running::start(&mut program(&["list", &silent, "-vv"]));
    wait_until("a connection", || running.told().contains("connection made"));
    running.signal(Signal::INT);
    let ended = running.ended();
    assert_eq!((ended.code, ended.text()), (Some(130), ""));
}
