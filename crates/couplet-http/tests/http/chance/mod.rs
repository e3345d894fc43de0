//! tokio's random choices come from the seed, in a program that is built with
//! `--cfg tokio_unstable`: a separate project, like a user's.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

const LIBRARY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../couplet");

/// Builds the program, and returns its path.
fn built(root: &Path) -> std::path::PathBuf {
    for folder in ["src", ".cargo"] {
        fs::create_dir_all(root.join(folder)).expect("a folder");
    }
    let manifest = format!(
        "[package]\nname = \"chance\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n\n\
         [profile.dev]\ndebug = false\n\n\
         [dependencies]\n\
         couplet = {{ path = {LIBRARY:?}, default-features = false, features = [\"sim-tokio\"] }}\n\
         tokio = {{ version = \"1\", features = [\"macros\", \"sync\"] }}\n"
    );
    let written = [
        ("Cargo.toml", manifest.as_str()),
        (".cargo/config.toml", "[build]\nrustflags = [\"--cfg\", \"tokio_unstable\"]\n"),
        ("src/main.rs", include_str!("world.rs")),
    ];
    for (name, text) in written {
        fs::write(root.join(name), text).expect("a file");
    }
    fs::copy(format!("{LIBRARY}/../../Cargo.lock"), root.join("Cargo.lock")).expect("a file");
    let mut cargo = Command::new(env!("CARGO"));
    // Every version is already here, because this test was built with them.
    cargo.args(["build", "--quiet", "--offline", "--target-dir", "target"]).current_dir(root);
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS").stdin(Stdio::null());
    let done = cargo.output().expect("cargo runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    root.join("target/debug/chance")
}

#[test]
#[ignore = "compiles tokio; run it alone"]
fn random_choices_of_tokio_come_from_the_seed() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("chance");
    let program = built(&folder);
    let said = [(), ()].map(|()| {
        let ran = Command::new(&program).args(["1", "1", "2"]).output().expect("it runs");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).expect("text")
    });
    assert_eq!(said[0], said[1], "each process has the same");
    let [one, again, two] = said[0].lines().collect::<Vec<_>>()[..] else { panic!("{}", said[0]) };
    assert_eq!(one, again, "as has each run in a process");
    for (one, two) in one.split(' ').zip(two.split(' ')) {
        assert_ne!(one, two, "and a seed has its own");
    }
}
