//! Each package is self-contained: its manifest has the keys that a registry shows, and licences and
//! documents are inside the package, as links to the workspace's files, which `cargo package` follows.

use std::fs;

use super::source::{CRATES, PROGRAMS, assert_none, folder_of, read, root};

/// Keys that a manifest must have; a key may be inherited from the workspace.
const KEYS: [&str; 8] = [
    "description",
    "license",
    "rust-version",
    "readme",
    "repository",
    "keywords",
    "categories",
    "[package.metadata.docs.rs]",
];

/// Files that a package shares with the workspace.
const SHARED: [&str; 2] = ["LICENSE-MIT", "LICENSE-APACHE"];

/// Further ones of the facade.
const DOCUMENTS: [&str; 3] = ["README.md", "CHANGELOG.md", "docs/contract.md"];

#[test]
fn every_package_has_what_a_registry_shows() {
    let mut broken = Vec::new();
    let others = ["couplet-os", "couplet-bench"].into_iter();
    let packages: Vec<_> = CRATES.into_iter().chain(others).chain(PROGRAMS).collect();
    for package in &packages {
        let folder = folder_of(package);
        let manifest = read(&format!("{folder}/Cargo.toml"));
        for key in KEYS {
            let says = |line: &str| {
                line.strip_prefix(key).is_some_and(|rest| {
                    rest.is_empty() || rest.starts_with(" = ") || rest.starts_with(".workspace")
                })
            };
            if !manifest.lines().any(says) {
                broken.push(format!("{package} has no {key}"));
            }
        }
        let documents = DOCUMENTS.iter().filter(|_| *package == "couplet");
        for file in SHARED.iter().chain(documents) {
            let inside = fs::read_to_string(root().join(&folder).join(file)).unwrap_or_default();
            if inside != read(file) {
                broken.push(format!("{folder}/{file} is not the workspace's: link to it"));
            }
        }
        if !root().join(&folder).join("README.md").exists() {
            broken.push(format!("{package} has no README.md"));
        }
    }
    for parent in ["crates", "programs"] {
        for entry in fs::read_dir(root().join(parent)).expect("a folder") {
            let folder = format!("{parent}/{}", entry.expect("an entry").file_name().display());
            if !packages.iter().any(|package| folder_of(package) == folder) {
                broken.push(format!(
                    "{folder} is not in CRATES or PROGRAMS (laws/src/tidy/source.rs)"
                ));
            }
        }
    }
    assert_none(&broken, "a package contains its licences and documents, and says what it is");
}
