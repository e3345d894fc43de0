//! `poetry serve --by-name`, with raw clients.

use std::time::Duration;

use rustix::process::Signal;

use crate::kit::{Client, Server, TempFile, noise, now, run};

const MIB: usize = 1024 * 1024;

/// Serves these files by name, at full speed.
fn serve(files: &[&TempFile]) -> Server {
    let files: Vec<&str> = files.iter().map(|file| file.path()).collect();
    Server::start(&[&["serve", "--by-name", "--delay", "0"], &files[..]].concat())
}

fn small() -> (TempFile, TempFile, Server) {
    let (ode, elegy) = (TempFile::named("Ode.txt", b"O!\n"), TempFile::named("elegy", b"Alas."));
    let server = serve(&[&ode, &elegy]);
    (ode, elegy, server)
}

/// Sends the lines and a FIN, and returns the whole answer.
fn asked(server: &Server, lines: &[u8]) -> String {
    let mut client = server.connect();
    client.send(lines);
    client.finish();
    String::from_utf8(client.read_to_end().unwrap()).unwrap()
}

#[test]
fn a_title_gets_its_poem_with_the_length_in_front() {
    let (_ode, _elegy, server) = small();
    let mut client = server.connect();
    for (line, answer) in [
        (&b"Ode\n"[..], &b"poem 3 Ode\r\nO!\n"[..]),
        (b"oDE\r\n", b"poem 3 Ode\r\nO!\n"),
        (b"ELEGY\r\n", b"poem 5 elegy\r\nAlas."),
        (b"\r\n", b"titles 2\r\nOde\r\nelegy\r\n"),
        (b"\n", b"titles 2\r\nOde\r\nelegy\r\n"),
        (b"?\r\n", b"titles 2\r\nOde\r\nelegy\r\n"),
        (b"ode", b""),
        (b".txt\n", b"error there is no poem \"ode.txt\"; an empty line gets the titles\r\n"),
    ] {
        client.send(line);
        assert_eq!(client.read_exact(answer.len()), answer);
    }
    client.finish();
    assert_eq!(client.read_to_end().unwrap(), b"");
    server.stop(Signal::TERM).quietly(0);
}

#[test]
fn pipelined_requests_are_answered_in_order_and_after_the_client_has_finished() {
    let (_ode, _elegy, server) = small();
    let round = "poem 3 Ode\r\nO!\npoem 5 elegy\r\nAlas.titles 2\r\nOde\r\nelegy\r\n";
    assert_eq!(asked(&server, &b"ode\nelegy\r\n?\n".repeat(1000)), round.repeat(1000));
    // An unfinished line is not a request.
    assert_eq!(asked(&server, b"ode\nelegy"), "poem 3 Ode\r\nO!\n");
    assert_eq!(asked(&server, b""), "");
}

#[test]
fn one_byte_at_a_time_is_a_line_as_well() {
    let (_ode, _elegy, server) = small();
    let mut client = server.connect();
    for byte in b"ode\r\n\r\nelegy\n" {
        client.send(&[*byte]);
    }
    client.finish();
    let expected = b"poem 3 Ode\r\nO!\ntitles 2\r\nOde\r\nelegy\r\npoem 5 elegy\r\nAlas.";
    assert_eq!(client.read_to_end().unwrap(), expected);
}

#[test]
fn nothing_of_a_request_breaks_out_of_an_error_line() {
    let (_ode, _elegy, server) = small();
    for strange in [
        &b"../../etc/passwd"[..],
        b"/etc/passwd",
        b"a\rb\rpoem 3 x",
        b"\0\x1b[2J\x7f",
        b"\xff\xfe",
        b"\xc2\x85\xe2\x80\xa8",
        &b"long ".repeat(200),
        b" ode",
        b"ode ",
        b"elegy.txt",
    ] {
        let answer = asked(&server, &[strange, b"\r\node\n"].concat());
        let (error, rest) = answer.split_once("\r\n").unwrap();
        assert!(error.starts_with("error there is no poem \""), "{error:?}");
        assert!(error.ends_with("; an empty line gets the titles"), "{error:?}");
        assert!(!error.contains(char::is_control) && error.len() < 1000, "{error:?}");
        assert_eq!(rest, "poem 3 Ode\r\nO!\n");
    }
}

#[test]
fn a_line_has_at_most_1024_bytes_and_one_more_ends_the_connection() {
    let (_ode, _elegy, server) = small();
    let mut another = server.connect();
    for end in [&b"\n"[..], b"\r\n"] {
        let answer = asked(&server, &[&b"ode\n"[..], &[b'x'; 1024], end, b"ode", end].concat());
        assert!(answer.contains("error there is no poem \"xxx"), "{answer}");
        assert!(answer.starts_with("poem 3") && answer.ends_with("poem 3 Ode\r\nO!\n"));
    }
    let no_end = [b'x'; 1025];
    let cr_inside = [&[b'x'; 1024][..], b"\rx"].concat();
    let endless = vec![b'x'; 900_000];
    for too_long in [&no_end[..], &cr_inside, &[&no_end[..], b"\node\n"].concat(), &endless] {
        for before in [&b""[..], b"ode\n"] {
            let mut client = server.connect();
            client.send(&[before, too_long].concat());
            // The server fails the connection without waiting for the end of the line.
            let expected: &[u8] = if before.is_empty() { b"" } else { b"poem 3 Ode\r\nO!\n" };
            assert_eq!(client.read_to_end().unwrap(), expected);
        }
    }
    another.send(b"ode\n");
    assert_eq!(another.read_exact(15), b"poem 3 Ode\r\nO!\n");
}

#[test]
fn the_longest_line_may_come_in_any_pieces() {
    let (_ode, _elegy, server) = small();
    let line = [&[b'x'; 1024][..], b"\r\node\r\n"].concat();
    for cut in 1022..1028 {
        let mut client = server.connect();
        client.send(&line[..cut]);
        let answer = String::from_utf8(client.answered(&line[cut..])).unwrap();
        assert!(answer.starts_with("error ") && answer.ends_with("O!\n"), "{cut}: {answer}");
    }
}

#[test]
fn a_poem_comes_in_parts_with_the_delay_between_them_and_the_titles_at_once() {
    let poem = TempFile::named("abc.txt", b"abcdef");
    let start = |delay| {
        let pace = ["--num-bytes", "2", "--delay", delay, poem.path()];
        Server::start(&[&["serve", "--by-name"][..], &pace].concat())
    };
    // The titles and the first part come without delay.
    let (endless, server) = (start("3600"), start("0.3"));
    let mut clients = [endless.connect(), server.connect()];
    let began = now();
    for client in &mut clients {
        client.send(b"?\nabc\nabc\n");
        client.finish();
        assert_eq!(client.read_exact(15), b"titles 1\r\nabc\r\n");
        assert_eq!(client.read_exact(14), b"poem 6 abc\r\nab");
    }
    let [_, mut client] = clients;
    assert_eq!(client.read_exact(2), b"cd");
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
    assert_eq!(client.read_exact(2), b"ef");
    assert!(began.elapsed() >= Duration::from_millis(600), "{:?}", began.elapsed());
    assert_eq!(client.read_to_end().unwrap(), b"poem 6 abc\r\nabcdef");
    assert!(began.elapsed() >= Duration::from_millis(1200), "{:?}", began.elapsed());
}

#[test]
fn bytes_that_are_no_text_come_as_they_are_and_an_empty_poem_is_one() {
    let (big, empty) = (TempFile::named("big", &noise(3 * MIB)), TempFile::named("none.txt", b""));
    let server = serve(&[&big, &empty]);
    let mut client = server.connect();
    client.send(b"big\nnone\nbig\n");
    client.finish();
    let bytes = noise(3 * MIB);
    let poem = [b"poem 3145728 big\r\n", &bytes[..]].concat();
    assert!(client.read_to_end().unwrap() == [&poem[..], b"poem 0 none\r\n", &poem].concat());
    assert_eq!(server.stop(Signal::TERM).code, Some(0));
}

#[test]
fn without_a_file_there_are_built_in_poems() {
    let server = Server::start(&["serve", "--by-name", "--delay", "0"]);
    let answer = asked(&server, b"?\nOZYMANDIAS\n");
    let titles =
        "titles 5\r\nozymandias\r\nthe-tyger\r\nder-panther\r\nhope\r\nwandrers-nachtlied\r\n";
    let (told, poem) = answer.split_at(titles.len());
    assert_eq!(told, titles);
    assert!(poem.starts_with("poem 6") && poem.contains("ozymandias\r\nOzymandias\n"), "{poem}");
}

#[test]
fn a_title_is_the_name_of_the_file_without_its_last_extension() {
    let names = ["no extension", ".hidden", "two.parts.txt", "\u{c4}hre.poem", "x."];
    let files = names.map(|name| TempFile::named(name, name.as_bytes()));
    let server = serve(&files.each_ref());
    let titles = ["no extension", ".hidden", "two.parts", "\u{c4}hre", "x"];
    let list = titles.map(|title| format!("{title}\r\n")).concat();
    assert_eq!(asked(&server, b"\n"), format!("titles 5\r\n{list}"));
    for (title, name) in titles.iter().zip(names) {
        let answer = asked(&server, format!("{}\n", title.to_uppercase()).as_bytes());
        assert_eq!(answer, format!("poem {} {title}\r\n{name}", name.len()));
    }
}

#[test]
fn ambiguous_or_unprintable_titles_are_bad_usage() {
    let ode = TempFile::named("Ode.txt", b"1");
    for name in ["ODE.poem", "Ode.txt", "?.txt", "a\nb.txt"] {
        let other = TempFile::named(name, b"2");
        let ended = run(&["serve", "--by-name", ode.path(), other.path()]);
        assert_eq!((ended.code, ended.text()), (Some(2), ""));
        let advice = ["another name\n", "rename its file\n"];
        assert!(advice.iter().any(|end| ended.stderr.ends_with(end)), "{}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        // Without --by-name equal titles do not matter.
        drop(Server::start(&["serve", ode.path(), other.path()]));
    }
}

#[test]
#[ignore = "measures; run it alone"]
fn a_client_that_never_reads_costs_at_most_1_mib_and_delays_no_client() {
    const CLIENTS: usize = 4;
    let big = TempFile::named("big", &noise(8 * MIB));
    let server = serve(&[&big]);
    let whole = [b"poem 8388608 big\r\n", &noise(8 * MIB)[..]].concat();
    let ask = |client: &mut Client| {
        client.send(b"big\n");
        assert!(client.read_exact(whole.len()) == whole);
    };
    ask(&mut server.connect());
    let before = server.memory();
    // Poems, lists and errors, in larger quantities than the server reads.
    for lines in [&b"big\n"[..], b"\n", b"no\n"] {
        let mut clients: Vec<Client> = (0..CLIENTS).map(|_| server.connect()).collect();
        let requests = lines.repeat(40 * MIB / lines.len());
        let taken: Vec<usize> = clients.iter_mut().map(|client| client.push(&requests)).collect();
        assert!(taken.iter().all(|taken| *taken < requests.len()), "{taken:?}");
        let grown = server.memory().saturating_sub(before);
        assert!(grown <= CLIENTS as u64 * 1024, "{CLIENTS} clients cost {grown} KiB");
        ask(&mut server.connect());
    }
    server.stop(Signal::TERM).quietly(0);
}

#[test]
fn a_late_reader_gets_all_requested_answers() {
    let big = TempFile::named("big", &noise(MIB));
    let server = serve(&[&big]);
    let mut client = server.connect();
    client.send(&b"big\n?\nno\n".repeat(20));
    client.finish();
    let error = b"error there is no poem \"no\"; an empty line gets the titles\r\n";
    let round =
        [b"poem 1048576 big\r\n", &noise(MIB)[..], b"titles 1\r\nbig\r\n", &error[..]].concat();
    for _ in 0..20 {
        assert!(client.read_exact(round.len()) == round);
    }
    assert_eq!(client.read_to_end().unwrap(), b"");
    server.stop(Signal::TERM).quietly(0);
}
