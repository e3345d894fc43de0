//! Help, the version, and messages about wrong arguments and ports that are in use.

use crate::kit::{Server, assert_helpful, assert_hinted, assert_refused, run};

#[test]
fn the_help_has_an_example_and_the_program_a_version() {
    assert_helpful(&[]);
}

#[test]
fn bad_usage_exits_with_2_and_names_the_expected_value() {
    assert_refused(&[
        (&["--nope"], "unexpected argument '--nope' found"),
        (&["--threads", "-1"], "a number of threads, at most 1024, or auto"),
        (&["--idle-timeout", "-1"], "a number of seconds, 0 or more"),
        (&["--history", "0"], "0 is not in 1..=10000"),
        (&["--history", "10001"], "10001 is not in 1..=10000"),
        (&["--history", "x"], "invalid digit found in string"),
        (&["--web", "0"], "--history"),
        (&["--listen", "example.com:1"], "example.com:1\n    ^"),
    ]);
    assert_hinted(&[(&["--listen", "::1:7777"], "[::1]:7777")]);
}

#[test]
fn without_an_endpoint_a_server_takes_a_free_local_port_and_a_port_in_use_is_named() {
    let (one, two) = (Server::start(&[]), Server::start(&[]));
    assert!(one.ports[0].ip().is_loopback() && one.ports[0].is_ipv4());
    assert_ne!(one.ports, two.ports);
    let taken = one.ports[0].port().to_string();
    let ended = run(&["--listen", "0", "--listen", &taken]);
    let expected = format!(
        "chat: cannot listen on tcp:127.0.0.1:{taken}: address already in use (something listens \
         there already; choose another port, or 0 for a free one)\n"
    );
    assert_eq!((ended.code, &*ended.stderr, ended.text()), (Some(1), &*expected, ""));
}

#[cfg(not(feature = "bus"))]
#[test]
fn a_program_without_a_bus_names_the_feature_that_adds_it() {
    for (args, option) in [
        (&["--bus", "nats://ada:s3cret@localhost"][..], "--bus"),
        (&["--history"], "--history"),
        (&["--history", "--web", "0"], "--history"),
    ] {
        let ended = run(args);
        assert_eq!(ended.code, Some(2), "{args:?}");
        let expected = format!("chat: {option}: this program was built without its feature bus\n");
        assert_eq!(ended.stderr, expected, "{args:?}");
    }
}

#[cfg(all(feature = "bus", not(feature = "web")))]
#[test]
fn a_program_without_the_page_names_the_feature_that_adds_it() {
    let ended = run(&["--history", "--web", "0"]);
    assert_eq!(ended.code, Some(2));
    assert_eq!(ended.stderr, "chat: --web: this program was built without its feature web\n");
}

#[cfg(feature = "completions")]
mod completions {
    use crate::kit::{assert_completed, assert_completions_know, assert_helpful};

    #[test]
    fn completions_for_each_shell_know_the_options() {
        assert_completions_know(&["listen", "threads", "history", "completions"]);
        assert_helpful(&["completions"]);
    }

    #[test]
    fn bash_understands_its_completions_and_completes() {
        needs!("bash");
        assert_completed(&[
            (&["chat", "comp"], &["completions"]),
            (&["chat", "--hist"], &["--history"]),
            (&["chat", "completions", "ba"], &["bash"]),
        ]);
    }
}
