//! Each package is self-contained: its manifest has the keys that a registry shows, and licences,
//! README and contract are inside the package, as links to the workspace's files, which
//! `cargo package` follows.

use std::fs;

use super::source::{FOLDERS, assert_none, folder_of, read, root};

/// A package and the files that it shares with the workspace: path in the package, path in the
/// workspace.
const PACKAGES: [(&str, &[(&str, &str)]); 16] = [
    (
        "couplet",
        &[
            ("README.md", "README.md"),
            ("CHANGELOG.md", "CHANGELOG.md"),
            ("docs/contract.md", "docs/contract.md"),
        ],
    ),
    ("couplet-bus", &[]),
    ("couplet-core", &[]),
    ("couplet-defer", &[]),
    ("couplet-http", &[]),
    ("couplet-http2", &[]),
    ("couplet-inspect", &[]),
    ("couplet-os", &[]),
    ("couplet-rooms", &[]),
    ("couplet-sim", &[]),
    ("chat", &[]),
    ("couplet-bench", &[]),
    ("couplet-cli", &[]),
    ("couplet-command", &[]),
    ("couplet-runner", &[]),
    ("poetry", &[]),
];

/// Shared by all packages.
const LICENCES: [(&str, &str); 2] =
    [("LICENSE-MIT", "LICENSE-MIT"), ("LICENSE-APACHE", "LICENSE-APACHE")];

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

#[test]
fn every_package_of_the_folders_is_in_packages() {
    let found: Vec<&str> = FOLDERS.keys().map(String::as_str).collect();
    let mut known = PACKAGES.map(|(package, _)| package);
    known.sort();
    assert_eq!(found, known, "add the package to PACKAGES");
}

#[test]
fn every_manifest_has_the_keys_that_a_registry_shows() {
    let mut broken = Vec::new();
    for (package, _) in PACKAGES {
        let manifest = read(&format!("{}/Cargo.toml", folder_of(package)));
        for key in KEYS {
            let says = |line: &str| {
                line.strip_prefix(key).is_some_and(|rest| {
                    key.starts_with('[')
                        || rest.starts_with(" = ")
                        || rest.starts_with(".workspace")
                })
            };
            if !manifest.lines().any(says) {
                broken.push(format!("{package} has no {key}"));
            }
        }
    }
    assert_none(&broken, "a manifest has everything that a registry shows");
}

#[test]
fn licences_readme_and_contract_are_inside_the_packages() {
    let mut broken = Vec::new();
    for (package, files) in PACKAGES {
        for (inside, original) in files.iter().chain(&LICENCES) {
            let inside = format!("{}/{inside}", folder_of(package));
            match fs::read_to_string(root().join(&inside)) {
                Ok(text) if text == read(original) => {}
                Ok(_) => broken.push(format!("{inside} differs from {original}")),
                Err(error) => broken.push(format!("{inside}: {error}")),
            }
        }
        if !root().join(format!("{}/README.md", folder_of(package))).exists() {
            broken.push(format!("{package} has no README.md"));
        }
    }
    assert_none(
        &broken,
        "a package contains its licences and documents: link to the workspace's file",
    );
}
