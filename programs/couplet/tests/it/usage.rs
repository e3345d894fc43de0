//! Help, versions, completions, and messages about wrong arguments.

use crate::kit::{
    Server, assert_completed, assert_completions_know, assert_helpful, assert_hinted,
    assert_refused, run,
};

#[test]
fn every_command_has_a_help_with_an_example_and_a_version() {
    assert_helpful(&["connect", "echo", "forward", "serve", "get", "sim", "completions"]);
}

#[test]
fn bad_usage_exits_with_2_and_names_the_expected_value() {
    assert_refused(&[
        (&[], "Usage: couplet"),
        (&["sing"], "unrecognized subcommand 'sing'"),
        (&["echo", "--idle-timeout", "0"], "a number of seconds above 0"),
        (&["echo", "--idle-timeout", "-1"], "a number of seconds above 0"),
        (&["echo", "--threads", "many"], "a number of threads, at most 1024, or auto"),
        (&["forward", "0", "1", "--threads", "-1"], "a number of threads, at most 1024, or auto"),
        (&["run", "a.toml", "--threads", "x"], "a number of threads, at most 1024, or auto"),
        (&["serve", "--threads", "1025"], "a number of threads, at most 1024, or auto"),
        (&["forward"], "<LISTEN> <CONNECT>"),
        (&["forward", "0"], "<CONNECT>"),
        (&["forward", "0", "0"], "from 1 to 65535"),
        (&["forward", "0", "1", "--max-connections", "0"], "1 or more"),
        (&["forward", "0", "1", "--idle-timeout", "0"], "a number of seconds above 0"),
        (&["forward", "0", "1", "--connect-timeout", "-1"], "a number of seconds above 0"),
        (&["connect"], "<ENDPOINT>"),
        (&["connect", "1", "2"], "unexpected argument '2'"),
        (&["connect", "localhost"], "missing port: expected HOST:PORT"),
        (&["forward", "0", "1", "--half-close-timeout", "-1"], "a number of seconds, 0 or more"),
        (&["echo", "--log", "=a=b"], "examples are warn, or couplet=debug,info"),
        (&["completions", "tcsh"], "possible values: bash"),
        (&["completions"], "<SHELL>"),
    ]);
}

#[test]
fn a_bad_endpoint_shows_the_place_with_a_caret() {
    assert_refused(&[
        (&["echo", "--listen", "tcp:80:interface=here"], "interface=here\n                     ^"),
        (&["echo", "--listen", "example.com:80"], "example.com:80\n    ^"),
        (&["forward", "localhost", "80"], "localhost\n             ^"),
        (&["forward", "0", "localhost:http"], "localhost:http\n              ^"),
        (&["echo", "--listen", "tcp:80:color=red"], "tcp:80:color=red\n           ^"),
    ]);
}

#[test]
fn a_bad_endpoint_is_reported_with_a_likely_correction() {
    assert_hinted(&[
        (&["echo", "--listen", "::1:7000"], "[::1]:7000"),
        (&["echo", "--listen", "7000:interface=::1"], "7000:interface=[::1]"),
        (&["echo", "--listen", "tsl:443"], "tls:443"),
        (&["echo", "--listen", "tls:443:crt=a"], "tls:443:cert=a"),
        (&["forward", "0", "haprox:unix:s"], "haproxy:unix:s"),
    ]);
}

#[test]
fn completions_for_each_shell_know_every_command() {
    assert_completions_know(&["serve", "get", "echo", "forward", "idle-timeout", "sim"]);
}

#[test]
fn completions_know_scenarios_and_weathers() {
    // The scripts for Elvish and PowerShell do not list values.
    for shell in ["bash", "fish", "zsh"] {
        let script = run(&["completions", shell]);
        for word in ["breezy", "storm", "reconnecting", "devices meters"] {
            assert!(script.text().contains(word), "{shell}: {word}");
        }
    }
}

#[test]
fn bash_understands_its_completions_and_completes() {
    needs!("bash");
    assert_completed(&[
        (&["couplet", "conn"], &["connect"]),
        (&["couplet", "forward", "--max"], &["--max-connections"]),
        (
            &["couplet", "sim", ""],
            &["poetry", "chat", "cluster", "reconnecting", "devices", "meters", "naive"],
        ),
        (&["couplet", "sim", "chat", "--weather", ""], &["calm", "breezy", "storm"]),
    ]);
}

#[test]
fn a_command_that_is_likely_to_be_meant_is_suggested() {
    assert_refused(&[(&["server"], "'serve'"), (&["ecko"], "'echo'")]);
    assert!(!run(&["frobnicate"]).stderr.contains("similar"));
}

#[test]
fn a_command_that_is_a_program_is_named_with_it() {
    for (args, programs) in [
        (&["poetry"][..], ["'poetry'", "'cargo run -p poetry -- …'"]),
        (&["poetry", "get", "10000"], ["'poetry'", "'cargo run -p poetry -- …'"]),
        (&["poetry", "--help"], ["'poetry'", "'cargo run -p poetry -- …'"]),
        (&["help", "poetry"], ["'poetry'", "'cargo run -p poetry -- …'"]),
        (&["demo"], ["'poetry demo'", "'cargo run -p poetry -- demo'"]),
        (&["chat", "--listen", "7777"], ["'chat'", "'cargo run -p chat -- …'"]),
        (&["chat", "--bus", "nats://a", "-v"], ["'chat'", "'cargo run -p chat -- …'"]),
    ] {
        let ended = run(args);
        assert_eq!(ended.code, Some(2), "{args:?}");
        for program in programs {
            assert!(ended.stderr.contains(program), "{args:?}: {}", ended.stderr);
        }
        assert!(!ended.stderr.contains("similar"), "{args:?}: {}", ended.stderr);
    }
}

#[test]
fn an_option_is_suggested_if_it_begins_alike() {
    run(&["echo", "--inspekt", "0"]).says(2, "a similar argument exists: '--inspect'");
    let ended = run(&["echo", "--nope"]);
    ended.says(2, "unexpected argument '--nope' found");
    assert!(!ended.stderr.contains("inspect"), "{}", ended.stderr);
}

#[test]
fn a_server_is_silent_unless_it_is_asked_to_tell_more() {
    let told = |flags: &[&str]| {
        let server = Server::start(&[&["echo"], flags].concat());
        let mut client = server.connect();
        client.echoes(b"a word");
        client.finish();
        client.read_to_end().unwrap();
        server.stop(rustix::process::Signal::TERM).stderr
    };
    assert_eq!(told(&[]), "");
    let more = told(&["-v"]);
    assert!(more.contains("INFO") && !more.contains("connection made"), "{more}");
    let most = told(&["-vv"]);
    assert!(most.contains("DEBUG") && most.contains("connection made"), "{most}");
    let chosen = told(&["--log", "couplet=debug"]);
    assert!(chosen.contains("connection made"), "{chosen}");
    assert_eq!(told(&["--log", "warn"]), "");
    assert!(!most.contains('\u{1b}'), "no colours outside a terminal: {most}");
}
