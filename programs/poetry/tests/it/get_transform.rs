//! `poetry get --transform`.

use rustix::process::Signal;

use crate::kit::{
    Client, Ended, Running, Server, noise, program, run, serve_raw, unused_port, wait_until,
};
use crate::serve::{poet, poet_named};

const FAST: [&str; 2] = ["--delay", "0"];

fn get(address: &str, transform: &str, args: &[&str]) -> Ended {
    run(&[&["get", address, "--transform", transform], args].concat())
}

/// A server that reads once on each connection, sends `bytes`, then runs `end`.
fn answers(bytes: &'static [u8], end: fn(Client)) -> String {
    serve_raw(move |mut client| {
        client.read().unwrap();
        client.send(bytes);
        end(client);
    })
    .to_string()
}

/// Keeps the connection, even after the peer's FIN.
fn hold(client: Client) {
    std::mem::forget(client);
}

#[test]
fn each_poem_is_transformed_and_printed_in_order() {
    let pace = ["--delay", "0.1", "--num-bytes", "4"];
    let (_first, slow) = poet("First \u{c4}\n".as_bytes(), &pace);
    let (_second, fast) = poet(b"Second\n", &FAST);
    let transform = Server::start(&["transform"]);
    let (first, second, transform) = (slow.address(), fast.address(), transform.address());
    let ended = get(&first, &transform, &[&second]);
    assert_eq!((ended.code, ended.text()), (Some(0), "first \u{e4}\nsecond\n"));
    assert!(ended.stderr.contains("2 of 2 poems, 16 bytes in "), "{}", ended.stderr);
    let ended = get(&first, &transform, &[&second, "--transform-name", "upper"]);
    assert_eq!((ended.code, ended.text()), (Some(0), "FIRST \u{c4}\nSECOND\n"));
}

#[test]
fn a_poem_is_transformed_as_it_arrives_and_does_not_wait_for_others() {
    let (_poem, server) = poet(b"One", &FAST);
    let transform = Server::start(&["transform", "-v"]);
    let silent = serve_raw(|mut client| drop(client.read_to_end())).to_string();
    let (address, transform) = (server.address(), transform.address());
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = program(&["get", &address, &silent, "--transform", &transform]);
    let mut running = Running::start_with_stdout(command.stdout(writer));
    drop(command);
    let mut printed = [0; 3];
    std::io::Read::read_exact(&mut &reader, &mut printed).unwrap();
    assert_eq!(&printed, b"one");
    running.signal(Signal::INT);
    assert_eq!(running.ended().code, Some(130));
}

#[test]
fn a_poem_that_does_not_leave_at_once_is_transformed_too() {
    const LENGTH: usize = 20_000_000;
    let (_poem, server) = poet(&vec![b'A'; LENGTH], &FAST);
    let transform = Server::start(&["transform", "--max-length", "30000000"]);
    let ended = get(&server.address(), &transform.address(), &[]);
    assert_eq!((ended.code, ended.stdout.len()), (Some(0), LENGTH), "{}", ended.stderr);
    assert!(ended.stdout.iter().all(|byte| *byte == b'a'));
}

#[test]
fn a_poem_by_name_is_transformed_too() {
    let (_poem, server) = poet_named("Ode.txt", b"1\n2\n3\n", &["--by-name", "--delay", "0"]);
    let transform = Server::start(&["transform"]);
    let args = ["--name", "ode", "--transform-name", "reverse"];
    let ended = get(&server.address(), &transform.address(), &args);
    assert_eq!((ended.code, ended.text()), (Some(0), "3\n2\n1\n"), "{}", ended.stderr);
}

#[test]
fn two_hundred_poems_are_transformed_at_once() {
    let (_poem, server) = poet(&b"Poem\n".repeat(1000), &FAST);
    let transform = Server::start(&["transform"]);
    let address = server.address();
    let args = [&["get", "--transform", &transform.address()], &[&*address; 200][..]];
    let ended = run(&args.concat());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.text() == "poem\n".repeat(200_000));
}

/// Asserts that the poem is printed untransformed, for this reason.
#[track_caller]
fn is_as_it_was(ended: &Ended, poem: &[u8], why: &str) {
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stdout == poem);
    assert!(ended.stderr.contains(" is printed untransformed: "), "{}", ended.stderr);
    assert!(ended.stderr.contains(why), "{}", ended.stderr);
    assert!(ended.stderr.ends_with(" s, 1 not transformed\n"), "{}", ended.stderr);
}

#[test]
fn a_poem_that_is_not_transformed_is_printed_unchanged() {
    let (_poem, server) = poet(b"A Poem\n", &FAST);
    let transform = Server::start(&["transform"]);
    let (address, transform) = (server.address(), transform.address());
    let failed = |to: &str, args: &[&str], why: &str| {
        is_as_it_was(&get(&address, to, args), b"A Poem\n", why);
    };
    failed(&transform, &["--transform-name", "nonsense"], "names of its --list");
    let (nobody, _guard) = unused_port();
    let why = format!("tcp:{nobody} did not transform it: connection refused\n");
    failed(&nobody.to_string(), &[], &why);
    failed("no..where:80", &[], "cannot find the host");
    failed(&answers(b"", drop), &[], "no answer arrived: connection closed by the peer");
    failed(&answers(b"7:a po", drop), &[], "no answer arrived: connection closed by the peer");
    failed(&answers(b"", Client::reset), &[], "connection reset by peer");
    failed(&answers(b"Ode", hold), &[], "'O' in its length");
    failed(&answers(b"99999999999:", hold), &[], "more than 67108864 bytes");
    failed(&answers(b"8:too long,", hold), &["--max-bytes", "7"], "more than 7 bytes");
    failed(&answers(b"7:a po", hold), &["--timeout", "0.4"], "within 0.4 s (--timeout)\n");
}

#[test]
fn a_server_without_transformations_causes_no_hang() {
    let (_poem, server) = poet(b"A poem of one line", &FAST);
    let by_name = Server::start(&["serve", "--by-name"]);
    let ended = get(&server.address(), &by_name.address(), &[]);
    is_as_it_was(&ended, b"A poem of one line", "no answer arrived: connection closed by the peer");
    let ended = get(&server.address(), &server.address(), &[]);
    is_as_it_was(&ended, b"A poem of one line", "'A' in its length");
}

#[test]
fn a_poem_too_long_for_the_server_or_not_text_is_printed_unchanged() {
    let transform = Server::start(&["transform"]);
    let transform = transform.address();
    // `cummingsify.` has 12 bytes.
    for (length, is_short) in [(99_987, true), (99_988, false), (20_000_000, false)] {
        let (_poem, server) = poet(&b"X".repeat(length), &FAST);
        let ended = get(&server.address(), &transform, &[]);
        if is_short {
            assert_eq!(ended.code, Some(0), "{}", ended.stderr);
            assert!(ended.stdout == b"x".repeat(length));
        } else {
            is_as_it_was(&ended, &b"X".repeat(length), "--max-length");
        }
    }
    let (_poem, server) = poet(&noise(5000), &FAST);
    is_as_it_was(&get(&server.address(), &transform, &[]), &noise(5000), "UTF-8");
}

#[test]
fn one_that_is_not_transformed_costs_the_others_nothing() {
    let ((_text, text), (_other, other)) = (poet(b"TEXT\n", &FAST), poet(b"\xff\n", &FAST));
    let transform = Server::start(&["transform"]);
    let (text, (nobody, _guard)) = (text.address(), unused_port());
    let args = [&*other.address(), &text, &nobody.to_string()];
    let ended = get(&text, &transform.address(), &args);
    assert_eq!((ended.code, &ended.stdout[..]), (Some(1), &b"text\n\xff\ntext\n"[..]));
    assert!(ended.stderr.contains("3 of 4 poems, 12 bytes in "), "{}", ended.stderr);
    assert!(ended.stderr.ends_with(", 1 not transformed\n"), "{}", ended.stderr);
}

#[test]
fn an_interrupt_ends_a_transformation_that_does_not() {
    let (_poem, server) = poet(b"A poem", &FAST);
    let silent = answers(b"", hold);
    let mut running =
        Running::start(&mut program(&["get", &server.address(), "--transform", &silent]));
    wait_until("the poem", || running.told().contains("a poem of 6 bytes"));
    running.signal(Signal::INT);
    let ended = running.ended();
    assert_eq!((ended.code, ended.text()), (Some(130), ""), "{}", ended.stderr);
    assert!(ended.stderr.contains("interrupted: 0 of 1 poems"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("printed untransformed"), "{}", ended.stderr);
}
