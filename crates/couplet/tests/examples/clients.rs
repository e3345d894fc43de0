//! The tutorial's clients, with poems that arrive one byte at a time, and with servers that are
//! down.

use std::io::Read;
use std::net::{Shutdown, SocketAddr};

use super::{
    POEM, Running, accept, example, listener, nobody, poet, poet_of, prints, read_all, recite, run,
    stderr, stdout,
};

#[test]
fn the_blocking_client_asks_one_server_after_the_other() {
    let (first, second, nobody) = (poet(1), poet(1), nobody());
    let output = run(example("clients").args([
        "blocking",
        &first.to_string(),
        &nobody.to_string(),
        &second.to_string(),
    ]));
    let all = stdout(&output);
    let (before, after) = all.split_once("task 2: no poem: ").expect("the second server was tried");
    assert_eq!(
        before,
        format!(
            "task 1: waiting for {first}\ntask 1: {} bytes of poetry\n{POEM}\n\
             task 2: waiting for {nobody}\n",
            POEM.len()
        )
    );
    let (_, after) = after.split_once('\n').expect("the OS error message");
    assert_eq!(
        after,
        format!("task 3: waiting for {second}\ntask 3: {} bytes of poetry\n{POEM}\n", POEM.len())
    );
}

#[cfg(unix)]
#[test]
fn polling_clients_see_every_byte_of_any_server() {
    for client in ["select", "v1_0"] {
        let (first, second) = (listener(), listener());
        let names = [client, &first.1.to_string(), &second.1.to_string()];
        let mut client = Running::start("clients", &names);
        let mut streams = [accept(&first.0), accept(&second.0)];
        for byte in POEM.chars() {
            for task in [2, 1] {
                recite(&mut streams[task - 1], &byte.to_string());
                assert_eq!(client.line(), format!("task {task}: 1 bytes of poetry"));
            }
        }
        let [one, two] = streams;
        for (task, stream) in [(2, two), (1, one)] {
            drop(stream);
            assert_eq!(client.line(), format!("task {task}: a poem of {} bytes", POEM.len()));
        }
        assert_eq!(client.rest(), "");
    }
}

#[cfg(unix)]
#[test]
fn the_broken_client_reads_one_server_after_the_other() {
    let (first, second) = (listener(), listener());
    let names = ["v1_0_broken", &first.1.to_string(), &second.1.to_string()];
    let mut client = Running::start("clients", &names);
    let mut streams = [accept(&first.0), accept(&second.0)];
    recite(&mut streams[0], "x");
    assert_eq!(client.line(), "task 1: 1 bytes of poetry");
    // The client blocks in the first server's read, and reads the second only after that one's end.
    recite(&mut streams[1], POEM);
    recite(&mut streams[0], "y");
    assert_eq!(client.line(), "task 1: 1 bytes of poetry");
    let [first, second] = streams;
    drop(first);
    assert_eq!(client.line(), "task 1: a poem of 2 bytes");
    drop(second);
    let rest = client.rest();
    assert!(rest.starts_with("task 2: ") && rest.ends_with(&format!("{} bytes\n", POEM.len())));
    assert!(!rest.contains("task 1"), "{rest}");
}

#[test]
fn client_2_0_sees_every_byte_as_it_arrives() {
    let (listener, poet) = listener();
    let nobody = nobody();
    let mut client = Running::start("clients", &["v2_0", &poet.to_string(), &nobody.to_string()]);
    assert_eq!(client.line(), format!("no connection with tcp:{nobody}: connection refused"));
    let mut stream = accept(&listener);
    for byte in POEM.chars() {
        recite(&mut stream, &byte.to_string());
        assert_eq!(client.line(), format!("task 1: a piece of 1 from tcp:{poet}"));
    }
    drop(stream);
    let length = POEM.len();
    assert_eq!(client.rest(), format!("task 1: a poem of {length}\npoems: 1 of 2\n"));
}

#[test]
fn client_2_1_prints_the_poems_once_all_have_arrived() {
    let (poet, nobody) = (poet(2).to_string(), nobody().to_string());
    let printed = format!("no connection with tcp:{nobody}: connection refused\n{POEM}{POEM}");
    prints("clients", &["v2_1", &poet, &nobody, &poet], &printed);
}

#[test]
fn client_3_0_prints_the_poems_and_waits_forever_for_a_missing_one() {
    let poet = poet(2).to_string();
    prints("clients", &["v3_0", &poet, &poet], &POEM.repeat(2));
    let (listener, poet) = listener();
    let mut client = Running::start("clients", &["v3_0", &nobody().to_string(), &poet.to_string()]);
    let mut stream = accept(&listener);
    recite(&mut stream, POEM);
    stream.shutdown(Shutdown::Write).expect("an open stream");
    assert_eq!(read_all(&mut stream), "");
    client.interrupt();
    assert_eq!(client.rest(), POEM);
}

/// A server, and a client's expected stdout and stderr.
type Case<'a> = (fn() -> SocketAddr, &'a str, &'a str);

fn prints_each(client: &str, cases: &[Case<'_>]) {
    for (poet, printed, expected) in cases {
        let poet = poet().to_string();
        let output = run(example("clients").args([client, &poet]));
        assert_eq!(stdout(&output), *printed, "{client}");
        assert_eq!(stderr(&output).replace(&poet, "POET"), *expected, "{client}");
        assert!(output.status.success(), "{client}");
    }
}

#[test]
fn client_4_0_prints_each_poem_and_names_servers_without_one() {
    prints_each(
        "v4_0",
        &[(|| poet(1), POEM, ""), (nobody, "", "no poem from POET: connection refused\n")],
    );
    let (poet, nobody) = (poet(2).to_string(), nobody().to_string());
    prints("clients", &["v4_0", &poet, &nobody, &poet], &POEM.repeat(2));
}

#[test]
fn clients_5_whisper_poems_and_report_lines_that_cannot_be_whispered() {
    let gibberish = "no poem from POET: this is gibberish\n";
    let exclaims = "not whispered: there are too many exclamation marks\n";
    prints_each(
        "v5_0",
        &[
            (|| poet(1), &POEM.to_lowercase(), ""),
            (|| poet_of("Fog!!\n", 1), "Fog!!\n", exclaims),
            (|| poet_of("Fog ## fog\n", 1), "", gibberish),
            (nobody, "", "no poem from POET: connection refused\n"),
        ],
    );
    let gibberish = "no poem from POET: not whispered: this is gibberish\n";
    prints_each(
        "v5_1",
        &[
            (|| poet(1), &POEM.to_lowercase(), ""),
            (|| poet_of("Fog!!\n", 1), "Fog!!\n", exclaims),
            (|| poet_of("Fog ## fog\n", 1), "", gibberish),
            (nobody, "", "no poem from POET: connection refused\n"),
        ],
    );
}

/// A transform server that answers one request, one byte at a time.
fn transformer(answer: &'static str) -> SocketAddr {
    let (listener, address) = listener();
    std::thread::spawn(move || {
        let mut stream = accept(&listener);
        let request = format!("{}:whisper.{POEM},", "whisper.".len() + POEM.len());
        let mut got = vec![0; request.len()];
        stream.read_exact(&mut got).expect("a request");
        assert_eq!(String::from_utf8_lossy(&got), request);
        recite(&mut stream, answer);
    });
    address
}

#[test]
fn clients_6_and_7_let_a_server_whisper_the_poem() {
    for client in ["v6_0", "v7_0"] {
        let transformer = transformer("8:hush now,").to_string();
        prints("clients", &[client, &transformer, &poet(1).to_string()], "hush now");
        let mut server = Running::start("servers", &["transform", "tcp:0:interface=127.0.0.1"]);
        let poet = poet(2).to_string();
        let whispered = POEM.to_lowercase().repeat(2);
        prints("clients", &[client, &server.address(), &poet, &poet], &whispered);
    }
}

#[test]
fn clients_6_and_7_print_the_poem_unchanged_when_the_transform_fails() {
    let refused = "not whispered: connection refused\n";
    let cut = "not whispered: connection closed by the peer\n";
    for client in ["v6_0", "v7_0"] {
        for (transformer, expected) in [(nobody(), refused), (transformer("8:hush"), cut)] {
            let servers = [transformer.to_string(), poet(1).to_string()];
            let output = run(example("clients").arg(client).args(servers));
            assert_eq!(stdout(&output), POEM);
            assert_eq!(stderr(&output), expected);
        }
        let (transformer, poet) = (nobody().to_string(), nobody().to_string());
        let output = run(example("clients").args([client, &transformer, &poet]));
        assert_eq!(stderr(&output), format!("no poem from {poet}: connection refused\n"));
    }
}

#[test]
fn clients_report_missing_names_and_addresses() {
    for (words, expected) in [
        (&["v9_9"][..], "Error: which one? blocking, select, "),
        (&["v2_0"], "Error: which servers? give their addresses, such as 127.0.0.1:10000\n"),
        (
            &["v2_0", "10000"],
            "Error: \"10000\": expected a server address such as 127.0.0.1:10000\n",
        ),
    ] {
        let output = run(example("clients").args(words));
        assert!(!output.status.success());
        assert!(stderr(&output).starts_with(expected), "{}", stderr(&output));
    }
}
