//! The inputs that were kept, and the binaries that try others.

use std::fs;
use std::process::Command;

use couplet_fuzz::TARGETS;

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

#[test]
fn each_target_has_a_corpus_and_a_libfuzzer_binary() {
    let mut targets = TARGETS.map(|target| target.name.to_owned());
    targets.sort();
    assert_eq!(stems("corpus"), targets, "a folder of corpus for each target");
    assert_eq!(stems("fuzz_targets"), targets, "a file of fuzz_targets for each target");
    let manifest = fs::read_to_string("Cargo.toml").expect("the manifest");
    for target in targets {
        let path =
            format!("\npath = \"fuzz_targets/{target}.rs\"\nrequired-features = [\"libfuzzer\"]\n");
        assert!(manifest.contains(&path), "Cargo.toml has no {path}");
        let inputs = fs::read_dir(format!("corpus/{target}")).expect("the corpus");
        let sizes = inputs.map(|it| it.and_then(|it| it.metadata()).expect("an input").len());
        let (inputs, bytes) = sizes.fold((0, 0), |(n, bytes), size| (n + 1, bytes + size));
        let small = (10..=40).contains(&inputs) && bytes <= 60_000;
        assert!(small, "the corpus of {target} has {inputs} inputs with {bytes} bytes in total");
    }
}

/// The names in a folder of this package, without endings, sorted.
fn stems(folder: &str) -> Vec<String> {
    let paths = fs::read_dir(folder).expect("a folder").map(|it| it.expect("an entry").path());
    let stems = paths.map(|path| path.file_stem().unwrap_or_default().display().to_string());
    let mut stems: Vec<_> = stems.collect();
    stems.sort();
    stems
}
