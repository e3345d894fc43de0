//! The command line of a program: help, versions, completions, and messages about wrong arguments.

use std::path::Path;
use std::process::Command;

use super::{program, run};
use crate::watched::program_under_test;

fn name() -> &'static str {
    Path::new(program_under_test())
        .file_name()
        .and_then(|name| name.to_str())
        .expect("a plain name")
}

/// Checks the help and the version of the program and of these commands.
#[track_caller]
pub fn assert_helpful(commands: &[&str]) {
    let (name, version) = (name(), env!("CARGO_PKG_VERSION"));
    for command in commands.iter().map(|command| vec![*command]).chain([vec![]]) {
        for flag in ["-h", "--help"] {
            let ended = run(&[&command[..], &[flag]].concat());
            ended.quietly(0);
            let (_, after) = ended.text().split_once("\nExample").expect("there is an example");
            assert!(after.contains(&format!("\n  {name} ")), "{command:?}: {after}");
            assert!(ended.text().lines().all(|line| line.len() <= 100), "{command:?}");
        }
        let ended = run(&[&command[..], &["--version"]].concat());
        ended.quietly(0);
        assert!(ended.text().starts_with(name), "{command:?}");
        assert!(ended.text().ends_with(&format!(" {version}\n")), "{command:?}");
    }
}

/// Asserts that arguments are usage errors whose message contains a text.
#[track_caller]
pub fn assert_refused(cases: &[(&[&str], &str)]) {
    for (args, expected) in cases {
        let ended = run(args);
        assert_eq!(ended.code, Some(2), "{args:?}");
        assert!(ended.stderr.contains(expected), "{args:?}: {}", ended.stderr);
        assert!(ended.stdout.is_empty(), "{args:?}");
    }
}

/// Asserts that wrong arguments are answered with a suggestion.
#[track_caller]
pub fn assert_hinted(cases: &[(&[&str], &str)]) {
    for (args, hint) in cases {
        assert_refused(&[(args, &format!("\n  did you mean {hint}?\n"))]);
    }
}

/// Asserts that the completions for each shell contain these words.
#[track_caller]
pub fn assert_completions_know(words: &[&str]) {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let ended = run(&["completions", shell]);
        ended.quietly(0);
        for word in words {
            assert!(ended.text().contains(word), "{shell}: {word}");
        }
    }
}

/// Asserts that Bash completes words with some others.
#[track_caller]
pub fn assert_completed(cases: &[(&[&str], &[&str])]) {
    for (words, expected) in cases {
        let completed = completed(words);
        for word in *expected {
            assert!(completed.iter().any(|known| known == word), "{words:?}: {completed:?}");
        }
    }
}

/// Bash's completions for these words.
fn completed(words: &[&str]) -> Vec<String> {
    let (name, last, before) = (name(), words.len() - 1, words[words.len() - 2]);
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let script = format!(
        "source <(\"$0\" completions bash)
        COMP_WORDS=({}) COMP_CWORD={last}; _{name} {name} '{}' '{before}'
        printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        quoted.join(" "),
        words[last]
    );
    let program = program(&[]);
    let mut bash = Command::new("bash");
    let output = bash.args(["--norc", "-c", &script]).arg(program.get_program()).output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}
