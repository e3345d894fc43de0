//! Help, versions, and messages about wrong arguments.

use crate::kit::{Server, assert_helpful, assert_hinted, assert_refused, run};

#[test]
fn every_command_has_a_help_with_an_example_and_a_version() {
    assert_helpful(&["demo", "serve", "get", "list", "transform", "proxy"]);
}

#[test]
fn bad_usage_exits_with_2_and_names_the_expected_value() {
    assert_refused(&[
        (&[], "Usage: poetry"),
        (&["sing"], "unrecognized subcommand 'sing'"),
        (&["get"], "<ADDRESS>"),
        (&["serve", "--delay", "soon"], "a number of seconds, 0 or more"),
        (&["serve", "--delay", "-1"], "a number of seconds, 0 or more"),
        (&["serve", "--delay", "inf"], "a number of seconds, 0 or more"),
        (&["serve", "--num-bytes", "0"], "1 or more"),
        (&["serve", "--num-bytes", "-1"], "1 or more"),
        (&["get", "1", "--timeout", "0"], "a number of seconds above 0"),
        (&["get", "1", "--timeout", "nan"], "a number of seconds above 0"),
        (&["get", "1", "--max-bytes", "lots"], "a number of bytes"),
        (&["get", "1", "--name", ""], "`poetry list` prints a server's titles"),
        (&["get", "1", "--name", "?"], "`poetry list` prints a server's titles"),
        (&["get", "1", "--name", "a\nb"], "a title has no control characters"),
        (&["get", "1", "--transform-name", "upper"], "--transform <ADDRESS>"),
        (&["get", "1", "--transform", "2", "--transform-name", "a.b"], "without a dot"),
        (&["get", "1", "--transform", "0"], "from 1 to 65535"),
        (&["list"], "<ADDRESS>"),
        (&["list", "1", "2"], "unexpected argument '2'"),
        (&["list", "1", "--timeout", "0"], "a number of seconds above 0"),
        (&["transform", "--max-length", "0"], "1 or more"),
        (&["transform", "upper"], "unexpected argument 'upper'"),
        (&["transform", "--idle-timeout", "soon"], "a number of seconds, 0 or more"),
        (&["serve", "--by-name", "--idle-timeout", "nan"], "a number of seconds, 0 or"),
        (&["serve", "--idle-timeout", "1"], "--by-name"),
        (&["demo", "please"], "unexpected argument 'please'"),
    ]);
}

#[test]
fn a_bad_endpoint_shows_the_place_with_a_caret() {
    assert_refused(&[
        (&["get", "localhost:http"], "localhost:http\n              ^"),
        (&["get", "tcp:localhost:http"], "tcp:localhost:http\n                  ^"),
        (&["get", "70000"], "70000\n    ^"),
        (&["get", "0"], "0\n    ^"),
        (&["get", "::1:80"], "::1:80\n    ^"),
        (&["get", "[::1:80"], "[::1:80\n    ^"),
        (&["get", "10000", "localhost"], "localhost\n             ^"),
        (&["get", r"tcp:a:80\"], "tcp:a:80\\\n            ^"),
        (&["serve", "--listen", "65536"], "65536\n    ^"),
        (&["serve", "--listen", "udp:53"], "udp:53\n    ^"),
    ]);
}

#[test]
fn a_bad_endpoint_is_reported_with_a_likely_correction() {
    assert_hinted(&[
        (&["get", "http://localhost:10000/"], "localhost:10000"),
        (&["list", ":10000"], "localhost:10000"),
    ]);
}

#[test]
fn a_command_that_is_likely_to_be_meant_is_suggested() {
    assert_refused(&[(&["serv"], "'serve'"), (&["lis"], "'list'"), (&["proxy-server"], "'proxy'")]);
    assert!(!run(&["frobnicate"]).stderr.contains("similar"));
}

#[cfg(not(feature = "tls"))]
#[test]
fn a_program_without_tls_names_the_feature_that_adds_it() {
    for args in [&["get", "tls:localhost:1"][..], &["serve", "--listen", "tls:0:cert=a"]] {
        let ended = run(args);
        // In a build of the workspace, other packages give TLS to the library.
        if ended.stderr.contains("localhost:1: connection refused")
            || ended.stderr.contains("cert=a")
        {
            continue;
        }
        assert_eq!(ended.code, Some(2), "{args:?}");
        let expected = "this program was built without TLS (feature `tls`)";
        assert!(ended.stderr.contains(expected), "{args:?}: {}", ended.stderr);
    }
}

#[cfg(not(feature = "cache"))]
#[test]
fn a_program_without_a_shared_cache_names_the_feature_that_adds_it() {
    let ended = run(&["proxy", "--upstream", "1", "--cache", "redis://localhost"]);
    assert_eq!(ended.code, Some(2));
    let expected = "poetry: --cache: this program was built without its feature cache\n";
    assert_eq!(ended.stderr, expected);
}

#[cfg(feature = "completions")]
mod completions {
    use crate::kit::{assert_completed, assert_completions_know};

    #[test]
    fn completions_for_each_shell_know_every_command() {
        assert_completions_know(&["demo", "serve", "get", "transform", "idle-timeout", "list"]);
    }

    #[test]
    fn bash_understands_its_completions_and_completes() {
        needs!("bash");
        assert_completed(&[
            (&["poetry", "tra"], &["transform"]),
            (&["poetry", "get", "--trans"], &["--transform", "--transform-name"]),
            (
                &["poetry", "get", "1", "--transform-name", ""],
                &["cummingsify", "upper", "reverse", "pirate"],
            ),
        ]);
    }
}

#[test]
fn the_first_poem_of_the_readme_takes_a_few_seconds() {
    let readme = include_str!("../../../../README.md");
    let line = |beginning: &str| {
        let line = readme.lines().find(|line| line.starts_with(beginning)).expect(beginning);
        line.trim_end_matches('&').split_whitespace().skip(1).map(|word| match word {
            "10000" => "0",
            word => word,
        })
    };
    let server = Server::start(&line("poetry serve").collect::<Vec<_>>());
    let get: Vec<&str> = line("poetry get").filter(|word| *word != "0").collect();
    let ended = run(&[&get[..], &[&*server.address()]].concat());
    assert_eq!(ended.code, Some(0));
    let delay: f64 =
        line("poetry serve").skip_while(|word| *word != "--delay").nth(1).unwrap().parse().unwrap();
    // Ten bytes at a time, unless the line says otherwise.
    let seconds = ended.stdout.len() as f64 / 10.0 * delay;
    assert!((0.5..6.0).contains(&seconds), "{seconds} s");
}
