//! The inputs that were kept.

use std::process::Command;

#[test]
fn each_input_of_the_corpus_is_still_fine() {
    let program = env!("CARGO_BIN_EXE_couplet-fuzz");
    let ran = Command::new(program).args(["--seconds", "0"]).output().expect("it runs");
    let said = [&ran.stdout[..], &ran.stderr[..]].map(String::from_utf8_lossy).concat();
    assert!(ran.status.success(), "{said}");
    let targets = Command::new(program).arg("--list").output().expect("it runs").stdout;
    for target in String::from_utf8_lossy(&targets).lines() {
        assert!(said.contains(&format!("{target}: ")), "{target}: {said}");
    }
}
