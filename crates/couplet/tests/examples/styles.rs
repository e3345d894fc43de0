//! The clients in the style of other languages, the exercises, and the tutorial's test program.

use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;

use super::{
    POEM, Running, accept, example, listener, nobody, poet, poet_of, prints, read_all, recite, run,
    stderr,
};

#[test]
fn actors_send_the_main_process_their_poems_and_exits() {
    let (listener, poet) = listener();
    let servers = [nobody().to_string(), poet.to_string()];
    let mut client = Running::start("styles", &["actors", &servers[0], &servers[1]]);
    assert_eq!(client.line(), "task 1 went down: connection refused");
    let mut stream = accept(&listener);
    for byte in POEM.chars() {
        recite(&mut stream, &byte.to_string());
        assert_eq!(client.line(), format!("task 2: a piece of 1 from {poet}"));
    }
    drop(stream);
    assert_eq!(client.rest(), POEM);
}

#[test]
fn lazy_lines_are_printed_as_soon_as_each_is_complete() {
    let (listener, poet) = listener();
    let mut client = Running::start("styles", &["lazy_lines", &poet.to_string()]);
    let mut stream = accept(&listener);
    for line in POEM.lines() {
        recite(&mut stream, &format!("{line}\n"));
        assert_eq!(client.line(), format!("task 1: {line}"));
    }
    // Lines that arrive together are handed out one by one.
    stream.write_all(b"one\ntwo\nthree\n").expect("it reads");
    drop(stream);
    assert_eq!(client.rest(), "task 1: one\ntask 1: two\ntask 1: three\n");
    let refused = "task 1: no poem: connection refused\n";
    prints("styles", &["lazy_lines", &nobody().to_string()], refused);
}

#[test]
fn boxed_poems_are_printed_in_the_order_of_the_servers() {
    let (listener, first) = listener();
    let second = poet_of("Ash and ember\n", 1);
    let servers = [first, nobody(), second].map(|server| server.to_string());
    let mut client = Running::start("styles", &["in_order", &servers[0], &servers[1], &servers[2]]);
    let mut stream = accept(&listener);
    assert_eq!(client.line(), format!("({second} has finished)"));
    recite(&mut stream, POEM);
    drop(stream);
    assert_eq!(client.line(), format!("({first} has finished)"));
    assert_eq!(client.rest(), format!("{POEM}no poem: connection refused\nAsh and ember\n"));
}

#[test]
fn an_impatient_client_hangs_up_and_a_patient_one_gets_the_poem() {
    let (listener, slow) = listener();
    let mut client = Running::start("exercises", &["timeout", "20", &slow.to_string()]);
    let mut stream = accept(&listener);
    recite(&mut stream, "Hop");
    assert_eq!(read_all(&mut stream), "", "it hangs up with a FIN");
    drop(stream);
    let summary = client.line();
    assert!(summary.starts_with("after 20ms we had "), "{summary}");
    assert!(summary.ends_with(" bytes: connection closed by us"), "{summary}");
    prints("exercises", &["timeout", "3600000", &poet(1).to_string()], POEM);
    let refused = "no connection: connection refused\n";
    prints("exercises", &["timeout", "20", &nobody().to_string()], refused);
}

#[test]
fn callbacks_around_connection_lost_come_in_this_order() {
    let printed = format!(
        "\
factory: do_start
factory: started_connecting
factory: build_protocol
protocol: connection_made
protocol: data_received
protocol: read_closed, after {} bytes
protocol: connection_lost, connection closed by the peer
factory: client_connection_lost, connection closed by the peer
factory: do_stop
",
        POEM.len()
    );
    prints("exercises", &["sequence", &poet(1).to_string()], &printed);
    prints(
        "exercises",
        &["sequence", &nobody().to_string()],
        "\
factory: do_start
factory: started_connecting
factory: client_connection_failed, connection refused
factory: do_stop
",
    );
}

#[test]
fn the_talking_client_thanks_for_each_line_and_has_the_last_word() {
    let (listener, poet) = listener();
    let mut client = Running::start("exercises", &["talking", &poet.to_string()]);
    let mut stream = accept(&listener);
    let mut answers = BufReader::new(stream.try_clone().expect("a second handle"));
    for (number, line) in (1..).zip(POEM.lines()) {
        recite(&mut stream, &format!("{line}\n"));
        let mut answer = String::new();
        answers.read_line(&mut answer).expect("an answer");
        assert_eq!(answer, format!("thank you for line {number}\n"));
    }
    stream.shutdown(Shutdown::Write).expect("an open stream");
    assert_eq!(read_all(&mut stream), "is that all?\n");
    assert_eq!(client.rest(), format!("{POEM}2 lines; connection closed by the peer\n"));
}

#[test]
fn the_tutorials_test_of_a_server_and_its_client_passes() {
    prints(
        "testing",
        &[],
        "\
the poem comes whole, whatever the network does to it
a poem that breaks off is a failure: connection lost: connection reset
a refused connection is a failure too: connection refused
",
    );
}

#[test]
fn an_unknown_style_or_exercise_is_answered_with_the_list() {
    for (theme, words, expected) in [
        ("styles", &["prose"][..], "Error: which one? actors, lazy_lines or in_order\n"),
        (
            "styles",
            &["actors"],
            "Error: which servers? give their addresses, such as 127.0.0.1:10000\n",
        ),
        (
            "styles",
            &["actors", "x"],
            "Error: \"x\": expected a server address such as 127.0.0.1:10000\n",
        ),
        ("exercises", &["sequence"], "Error: which one? `timeout MILLISECONDS SERVER`, "),
        ("exercises", &["sequence", "x"], "Error: \"x\" is not a server address"),
        ("exercises", &["timeout", "x", "y"], "Error: \"x\" is not a number of milliseconds"),
    ] {
        let output = run(example(theme).args(words));
        assert!(!output.status.success());
        assert!(stderr(&output).starts_with(expected), "{}", stderr(&output));
    }
}
