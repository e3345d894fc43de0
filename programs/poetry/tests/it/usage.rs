//! Help, versions, and messages about wrong arguments.

#[cfg(feature = "completions")]
use crate::kit::program;
use crate::kit::{Server, run};

const COMMANDS: [&[&str]; 6] =
    [&["demo"], &["serve"], &["get"], &["list"], &["transform"], &["proxy"]];

#[test]
fn every_help_has_an_example() {
    for command in COMMANDS.into_iter().chain([&[][..]]) {
        for flag in ["-h", "--help"] {
            let ended = run(&[command, &[flag]].concat());
            ended.quietly(0);
            let (_, after) = ended.text().split_once("\nExample").expect("there is an example");
            assert!(after.contains("\n  poetry "), "{command:?}: {after}");
            assert!(ended.text().lines().all(|line| line.len() <= 100), "{command:?}");
        }
    }
}

#[test]
fn every_command_tells_its_version() {
    let version = env!("CARGO_PKG_VERSION");
    for command in COMMANDS.into_iter().chain([&[][..]]) {
        let ended = run(&[command, &["--version"]].concat());
        ended.quietly(0);
        assert!(ended.text().starts_with("poetry"), "{command:?}");
        assert!(ended.text().ends_with(&format!(" {version}\n")), "{command:?}");
    }
}

#[test]
fn without_a_command_the_help_comes_and_the_code_is_2() {
    let ended = run(&[]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("Usage: poetry"), "{}", ended.stderr);
}

#[test]
fn bad_usage_has_code_2_and_says_what_is_expected() {
    let cases: [(&[&str], &str); 25] = [
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
        (&["get", "1", "--name", ""], "`poetry list` prints those of a server"),
        (&["get", "1", "--name", "?"], "`poetry list` prints those of a server"),
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
    ];
    for (args, expected) in cases {
        let ended = run(args);
        assert_eq!(ended.code, Some(2), "{args:?}");
        assert!(ended.stderr.contains(expected), "{args:?}: {}", ended.stderr);
        assert!(ended.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn a_bad_endpoint_shows_the_place_with_a_caret() {
    let cases: [(&[&str], &str); 10] = [
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
    ];
    for (args, expected) in cases {
        let ended = run(args);
        assert_eq!(ended.code, Some(2), "{args:?}");
        assert!(ended.stderr.contains(expected), "{args:?}: {}", ended.stderr);
    }
}

#[test]
fn a_bad_endpoint_is_told_with_the_one_that_is_likely_to_be_meant() {
    for (args, hint) in [
        (&["get", "http://localhost:10000/"][..], "localhost:10000"),
        (&["list", ":10000"], "localhost:10000"),
    ] {
        let ended = run(args);
        assert_eq!(ended.code, Some(2), "{args:?}");
        let hint = format!("\n  did you mean {hint}?\n");
        assert!(ended.stderr.contains(&hint), "{args:?}: {}", ended.stderr);
    }
}

#[test]
fn a_command_that_is_likely_to_be_meant_is_suggested() {
    for (args, suggested) in
        [(&["serv"][..], "'serve'"), (&["lis"], "'list'"), (&["proxy-server"], "'proxy'")]
    {
        let ended = run(args);
        assert_eq!(ended.code, Some(2), "{args:?}");
        assert!(ended.stderr.contains(suggested), "{args:?}: {}", ended.stderr);
    }
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
    use super::*;
    use crate::kit::has;

    #[test]
    fn completions_for_each_shell_know_every_command() {
        for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
            let ended = run(&["completions", shell]);
            ended.quietly(0);
            for word in ["demo", "serve", "get", "transform", "idle-timeout", "list"] {
                assert!(ended.text().contains(word), "{shell}: {word}");
            }
        }
    }

    /// Bash's completions for these words.
    fn completed(words: &[&str]) -> Vec<String> {
        let (last, before) = (words.len() - 1, words[words.len() - 2]);
        let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let script = format!(
            "source <(\"$0\" completions bash)
            COMP_WORDS=({}) COMP_CWORD={last}; _poetry poetry '{}' '{before}'
            printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            quoted.join(" "),
            words[last]
        );
        let program = program(&[]);
        let mut bash = std::process::Command::new("bash");
        let output =
            bash.args(["--norc", "-c", &script]).arg(program.get_program()).output().unwrap();
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn bash_understands_its_completions_and_completes() {
        if !has("bash") {
            return;
        }
        let cases: [(&[&str], &[&str]); 3] = [
            (&["poetry", "tra"], &["transform"]),
            (&["poetry", "get", "--trans"], &["--transform", "--transform-name"]),
            (
                &["poetry", "get", "1", "--transform-name", ""],
                &["cummingsify", "upper", "reverse", "pirate"],
            ),
        ];
        for (words, expected) in cases {
            let completed = completed(words);
            for word in expected {
                assert!(completed.iter().any(|known| known == word), "{words:?}: {completed:?}");
            }
        }
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
    assert!(ended.took.as_secs_f64() < 6.0, "{:?}", ended.took);
}
