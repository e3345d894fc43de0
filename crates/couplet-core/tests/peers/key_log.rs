//! The key log, in a separate process, because an environment variable names it: its secrets equal
//! OpenSSL's.

use std::collections::BTreeSet;

use crate::apart::{again, told};
use crate::kit::{Ends, Scene, VERSIONS, echo, has};

const TEST: &str = "key_log::secrets_are_written_only_where_that_is_allowed";

#[test]
fn secrets_are_written_only_where_that_is_allowed() {
    if !has("openssl") {
        return;
    }
    // In the serving process: the folder for OpenSSL's secrets.
    if let Some(folder) = told() {
        return serve(&folder);
    }
    let mut scene = Scene::new();
    let mut serving = again(TEST, scene.path(""));
    let (success, said) = scene.run(serving.env("SSLKEYLOGFILE", scene.path("ours")));
    assert!(success, "{said}");
    let secrets = |name: &str| -> BTreeSet<String> {
        let text = scene.read(name);
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(str::to_lowercase).collect()
    };
    let (ours, theirs) = (secrets("ours"), secrets("theirs"));
    assert!(theirs.len() >= 5, "{theirs:?}");
    assert_eq!(ours, theirs);
}

/// Serves OpenSSL with a key log and without one.
fn serve(folder: &str) {
    let mut scene = Scene::new();
    for allowed in [true, false] {
        let options = scene.server_options();
        let options = if allowed { options.allow_key_log() } else { options };
        let port = scene.listen(&scene.server(options), &Ends::new(echo));
        for (_, option) in VERSIONS {
            let file = if allowed { format!("{folder}/theirs") } else { scene.path("others") };
            let mut client = scene.s_client(port, option, &["-keylogfile", &file]);
            client.close_stdin();
            assert!(scene.ended(&mut client), "{}", client.said());
        }
    }
    assert!(!scene.read("others").is_empty());
}
