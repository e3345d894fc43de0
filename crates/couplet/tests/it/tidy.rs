//! The laws of ARCHITECTURE.md that a compiler can't keep, as tests over the sources. A failure
//! says which line breaks which rule, and what to do.

use std::fs;
use std::path::{Path, PathBuf};

struct Source {
    /// Below the workspace's root.
    path: String,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("crates/couplet").to_owned()
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> =
        fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

/// The Rust files below a folder of the workspace.
fn sources(below: &str) -> Vec<Source> {
    let root = root();
    let mut paths = Vec::new();
    walk(&root.join(below), &mut paths);
    paths
        .into_iter()
        .map(|path| Source {
            text: fs::read_to_string(&path).expect("a text"),
            path: path.strip_prefix(&root).expect("below it").to_string_lossy().replace('\\', "/"),
        })
        .collect()
}

/// The Rust files of the workspace and of the fuzzer beside it.
fn everything() -> Vec<Source> {
    ["crates", "fuzz/src", "fuzz/fuzz_targets"].into_iter().flat_map(sources).collect()
}

/// The lines of a source that are code, numbered from 1.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines()).filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn assert_none(broken: &[String], rule: &str) {
    assert!(broken.is_empty(), "{rule}\n  {}", broken.join("\n  "));
}

/// Who may know whom. `protocol`, `factory`, `transport` and `reactor` are one storey: a protocol
/// is told of its transport, which leads to its reactor. Below it lie the ground (`address`,
/// `error`, `defer`) and the seam (`driver`), which know nothing of it.
const MAY_KNOW: [(&str, &[&str]); 13] = [
    ("address", &[]),
    ("panics", &[]),
    ("defer", &["panics"]),
    ("error", &["address", "defer"]),
    ("driver", &["address", "transport::outbox"]),
    ("protocol", &["error", "transport"]),
    ("factory", &["panics", "address", "error", "protocol", "reactor", "transport"]),
    ("transport", &["panics", "address", "defer", "driver", "error", "protocol", "reactor"]),
    (
        "reactor",
        &["panics", "address", "defer", "driver", "error", "factory", "protocol", "transport"],
    ),
    ("task", &["panics", "defer", "reactor"]),
    (
        "endpoints",
        &["defer", "driver", "factory", "reactor", "transport", "address", "error", "protocol"],
    ),
    ("sim", &["panics", "address", "defer", "driver", "error", "protocol", "reactor", "transport"]),
    // Law 8: what a user can name. `tests/public_api.rs` has the compiler say so.
    ("protocols", &["defer", "driver", "endpoints"]),
];

#[test]
fn rooms_know_only_the_rooms_below_them() {
    let mut broken = Vec::new();
    for source in sources("crates/couplet/src") {
        let inside = source.path.trim_start_matches("crates/couplet/src/");
        let room = inside.split('/').next().unwrap_or_default().trim_end_matches(".rs");
        let Some((_, allowed)) = MAY_KNOW.iter().find(|(name, _)| *name == room) else { continue };
        let text = source.text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        for (number, line) in code(text) {
            for path in line.split("crate::").skip(1) {
                let known = path.split(|c: char| !(c.is_alphanumeric() || c == '_')).next();
                let known = known.unwrap_or_default();
                // `crate::{Protocol, Transport}`: what the root shows to users.
                let of_the_root = path.strip_prefix('{').is_some_and(|list| {
                    list.split(", ").all(|name| name.starts_with(char::is_uppercase))
                });
                let fine = known == room
                    || of_the_root
                    || known.starts_with(char::is_uppercase)
                    || allowed.iter().any(|allowed| path.starts_with(allowed));
                if !fine {
                    broken.push(format!("{}:{number} names crate::{known}", source.path));
                }
            }
        }
    }
    assert_none(&broken, "a room names one that it may not know (tests/it/tidy.rs, MAY_KNOW)");
}

#[test]
fn sockets_clocks_and_waits_live_below_driver() {
    let words =
        ["mio::", "socket2::", "std::net::Tcp", "std::net::Udp", "Instant::now", "thread::sleep"];
    let mut broken = Vec::new();
    for source in sources("crates/couplet/src") {
        if source.path.contains("/driver/")
            || source.path.contains("/sim/")
            || source.path.ends_with("tests.rs")
        {
            continue;
        }
        for (number, line) in code(&source.text) {
            if let Some(word) = words.iter().find(|word| line.contains(**word)) {
                broken.push(format!("{}:{number} names {word}", source.path));
            }
        }
    }
    assert_none(&broken, "law 3: time, waiting and sockets come from the driver alone");
}

#[test]
fn unsafe_lives_in_couplet_os_with_a_safety_line_each() {
    let mut broken = Vec::new();
    for source in sources("crates") {
        let lines: Vec<&str> = source.text.lines().collect();
        for (number, line) in code(&source.text) {
            let is = ["unsafe {", "unsafe impl", "unsafe fn", "unsafe extern"]
                .iter()
                .any(|word| line.contains(word) && !line.contains('"'));
            if !is {
                continue;
            }
            // A counting allocator can't be written without it.
            let counts = source.path == "crates/couplet/tests/counting/mod.rs";
            if !(source.path.starts_with("crates/couplet-os/") || counts) {
                broken.push(format!("{}:{number} is unsafe outside couplet-os", source.path));
            }
            let above = &lines[number.saturating_sub(6)..number - 1];
            let said = above.iter().any(|line| line.contains("SAFETY:"));
            if !said && !line.contains("unsafe fn") {
                broken.push(format!("{}:{number} has no SAFETY line above it", source.path));
            }
        }
    }
    for library in ["crates/couplet/src/lib.rs", "crates/couplet-cli/src/main.rs"] {
        let text = fs::read_to_string(root().join(library)).expect("the crate's root");
        if !text.contains("#![forbid(unsafe_code)]") {
            broken.push(format!("{library} does not forbid unsafe code"));
        }
    }
    assert_none(&broken, "law 7: unsafe lives in couplet-os, with a SAFETY line each");
}

#[test]
fn every_file_says_what_lives_in_it() {
    let silent: Vec<String> = everything()
        .into_iter()
        .filter(|source| !source.text.trim_start().starts_with("//!"))
        .map(|source| source.path)
        .collect();
    assert_none(&silent, "a file opens with //!: what lives here, which law it keeps");
}

#[test]
fn nothing_is_left_undone_and_no_test_sleeps() {
    let words =
        ["todo!(", "unimplemented!(", "dbg!(", "#[ignore", "thread::sleep(", "time::sleep("];
    let mut broken = Vec::new();
    for source in everything() {
        if source.path.ends_with("tidy.rs") || source.path.contains("/benches/") {
            continue;
        }
        for (number, line) in code(&source.text) {
            if let Some(word) = words.iter().find(|word| line.contains(**word)) {
                broken.push(format!("{}:{number} has {word}", source.path));
            }
        }
    }
    assert_none(&broken, "finish it, or leave it out; wait for a condition, not for a time");
}

/// The names of the functions of a trait or of an impl block that begins in `text`.
fn functions(text: &str) -> Vec<&str> {
    let end = text.find("\n}").unwrap_or(text.len());
    text[..end]
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("fn "))
        .filter_map(|rest| rest.split(['(', '<']).next())
        .collect()
}

/// A default method makes a forgotten forward silent.
#[test]
fn every_wrapper_forwards_every_callback() {
    let mut broken = Vec::new();
    let mut wrappers = 0;
    let framing = root().join("crates/couplet/src/protocols/framing.rs");
    let framing = fs::read_to_string(framing).expect("the framers' file");
    let in_macro = functions(&framing[framing.find("macro_rules! forward").expect("the macro")..]);
    for (file, name) in [("protocol.rs", "Protocol"), ("factory.rs", "Factory")] {
        let path = root().join("crates/couplet/src").join(file);
        let text = fs::read_to_string(path).expect("the trait's file");
        let start = text.find(&format!("pub trait {name}")).expect("the trait");
        let callbacks = functions(&text[start..]);
        for source in sources("crates/couplet/src") {
            for (at, header) in source.text.match_indices(&format!(" {name} for ")) {
                let line = source.text[..at].rfind('\n').map_or(0, |newline| newline + 1);
                // `impl<P: Protocol> Protocol for Wrapper<P>`: it holds another one.
                let before = &source.text[line..at];
                let wraps = ["", "Line", "String"]
                    .iter()
                    .any(|kind| before.contains(&format!(": {kind}{name}")));
                if !before.starts_with("impl<") || !wraps {
                    continue;
                }
                wrappers += 1;
                let body = &source.text[at + header.len()..];
                let by_macro = body[..body.find("\n}").unwrap_or(0)].contains("forward_callbacks!");
                let forwarded = functions(body);
                let has = |name| forwarded.contains(name) || (by_macro && in_macro.contains(name));
                for missing in callbacks.iter().filter(|name| !has(name)) {
                    broken.push(format!("{}: {before} does not forward {missing}", source.path));
                }
            }
        }
    }
    assert!(wrappers >= 6, "the wrappers were not found; has their form changed?");
    assert_none(&broken, "a wrapper forwards every callback to what it wraps");
}

/// What a framer wraps hears of all that a protocol hears of.
#[test]
fn every_kind_of_protocol_has_every_callback() {
    let read = |file: &str| {
        fs::read_to_string(root().join("crates/couplet/src").join(file)).expect("the trait's file")
    };
    let callbacks = |file: &str, name: &str| {
        let text = read(file);
        let start = text.find(&format!("pub trait {name}:")).expect("the trait");
        functions(&text[start..]).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let mut broken = Vec::new();
    for (file, name) in
        [("protocols/line.rs", "LineProtocol"), ("protocols/string.rs", "StringProtocol")]
    {
        let has = callbacks(file, name);
        for callback in callbacks("protocol.rs", "Protocol") {
            if callback != "data_received" && !has.contains(&callback) {
                broken.push(format!("{file}: {name} has no {callback}"));
            }
        }
    }
    assert_none(&broken, "a framer passes on every callback, so what it wraps has a place for it");
}

/// The modules that a file is, from its crate's folder on: `src/driver/mio/mod.rs` is `src`,
/// `driver` and `mio`. The tests of a source file are a module more, which nobody need write.
fn modules(source: &Source) -> Vec<&str> {
    let path = source.path.trim_end_matches(".rs").split('/').skip(2);
    path.filter(|part| !["mod", "main", "lib"].contains(part)).chain(["tests"]).collect()
}

/// True when the first names stand among the others, in their order.
fn lead_through(names: &[&str], all: &[&str]) -> bool {
    let mut all = all.iter();
    names.iter().all(|name| all.any(|other| other == name))
}

/// The tests that `docs/contract.md` names: `module::name` in backquotes in the last column. Of the
/// modules that lead to it some may be left out.
#[test]
fn each_test_named_in_the_contract_table_exists() {
    let table = fs::read_to_string(root().join("docs/contract.md")).expect("the table");
    let tests: Vec<Source> = sources("crates/couplet/tests")
        .into_iter()
        .chain(sources("crates/couplet/src"))
        .chain(sources("crates/couplet-cli"))
        .collect();
    let mut broken = Vec::new();
    let mut named = 0;
    let rows = (1..).zip(table.lines()).filter(|(_, line)| {
        line.strip_prefix("| ").is_some_and(|row| row.starts_with(|c: char| c.is_ascii_digit()))
    });
    for (number, row) in rows {
        let column = row.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
        for name in column.split('`').skip(1).step_by(2) {
            // A word of the code, such as a method.
            let Some((path, function)) = name.rsplit_once("::") else { continue };
            named += 1;
            let path: Vec<&str> = path.split("::").collect();
            let definition = format!("fn {function}(");
            let exists = tests.iter().any(|source| {
                source.text.contains(&definition) && lead_through(&path, &modules(source))
            });
            if !exists {
                broken.push(format!("docs/contract.md:{number} names {name}"));
            }
        }
    }
    assert!(named > 300, "the table names {named} tests; has its form changed?");
    assert_none(&broken, "the contract table names a test that does not exist, or not there");
}

/// So that a row leads to its tests.
#[test]
fn each_test_with_a_number_is_named_in_the_contract_table() {
    let table = fs::read_to_string(root().join("docs/contract.md")).expect("the table");
    let mut unnamed = Vec::new();
    for source in sources("crates/couplet") {
        let functions =
            code(&source.text).filter_map(|(_, line)| line.split_once("fn c")?.1.split_once('('));
        let numbered = functions.filter(|(name, _)| name.starts_with(|c: char| c.is_ascii_digit()));
        for (name, _) in numbered {
            if !table.contains(&format!("::c{name}`")) {
                unnamed.push(format!("{}: c{name}", source.path));
            }
        }
    }
    assert_none(&unnamed, "a test carries the number of a row, and no row leads to it");
}

/// Law 4: one place hands bytes to a protocol, and one hands them to a driver.
#[test]
fn bytes_enter_and_leave_through_one_function() {
    let count = |pattern: &str, except: &[&str]| {
        sources("crates/couplet/src")
            .iter()
            .filter(|source| !except.iter().any(|except| source.path.contains(except)))
            .flat_map(|source| {
                code(&source.text).map(|(_, line)| line.to_owned()).collect::<Vec<_>>()
            })
            .filter(|line| line.contains(pattern))
            .count()
    };
    // Wrappers pass callbacks on.
    assert_eq!(
        count(".data_received(", &["/testing/", "/protocols/", "/sim/"]),
        1,
        "only Life::feed delivers bytes"
    );
    assert_eq!(count("life.feed(", &["/driver/"]), 1, "bytes reach it in one place of the turn");
    assert_eq!(count("life.wrote(", &[]), 1, "what was sent is told to Life::wrote in one place");
    assert_eq!(count("io.write(", &["/driver/"]), 1, "and there the loop writes");
}

/// The names in a folder of `fuzz/`, without their endings, in order.
fn names_in(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join("fuzz").join(folder)).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut names: Vec<_> =
        paths.map(|path| path.file_stem().unwrap_or_default().display().to_string()).collect();
    names.sort();
    names
}

#[test]
fn each_target_of_the_fuzzer_has_a_corpus_and_a_libfuzzer_binary() {
    let library = fs::read_to_string(root().join("fuzz/src/lib.rs")).expect("the targets");
    let table = library.split("pub const TARGETS").nth(1).expect("their table");
    let entry = "Target { name: \"";
    let mut targets: Vec<_> =
        table.split(entry).skip(1).filter_map(|rest| rest.split('"').next()).collect();
    targets.sort_unstable();
    assert!(targets.len() >= 5, "{targets:?}; has the form of the table changed?");
    assert_eq!(names_in("corpus"), targets, "a folder of fuzz/corpus for each target");
    assert_eq!(names_in("fuzz_targets"), targets, "a file of fuzz/fuzz_targets for each target");
    let manifest = fs::read_to_string(root().join("fuzz/Cargo.toml")).expect("the manifest");
    for target in targets {
        let binary = format!(
            "[[bin]]\nname = \"{target}\"\npath = \"fuzz_targets/{target}.rs\"\n\
             required-features = [\"libfuzzer\"]\n"
        );
        assert!(manifest.contains(&binary), "fuzz/Cargo.toml has no {binary}");
        let inputs = fs::read_dir(root().join("fuzz/corpus").join(target)).expect("the corpus");
        let sizes: Vec<u64> = inputs
            .map(|input| input.and_then(|input| input.metadata()).expect("an input").len())
            .collect();
        let (inputs, bytes) = (sizes.len(), sizes.iter().sum::<u64>());
        let small = (10..=40).contains(&inputs) && bytes <= 60_000;
        assert!(small, "the corpus of {target} has {inputs} inputs of {bytes} bytes in all");
    }
}

/// The examples are read by people in a hurry, and each is to work.
#[test]
fn each_example_is_short_and_listed_and_run_by_a_test() {
    let readme = fs::read_to_string(root().join("crates/couplet/examples/README.md"));
    let readme = readme.expect("the table of the examples");
    let tests: String = sources("crates/couplet/tests/it")
        .into_iter()
        .filter(|source| source.path.contains("/it/examples"))
        .map(|source| source.text)
        .collect();
    let mut broken = Vec::new();
    let examples = sources("crates/couplet/examples");
    for example in &examples {
        let path = example.path.trim_start_matches("crates/couplet/examples/");
        if example.text.lines().count() >= 80 {
            broken.push(format!("{path} has 80 lines or more"));
        }
        if !readme.contains(&format!("]({path})")) {
            broken.push(format!("{path} is not in examples/README.md"));
        }
        // What others are made of is run with them.
        if !example.text.contains("fn main(") {
            continue;
        }
        // `reactors/hello.rs` is run as `reactors hello`, and `reactors/main.rs` chooses.
        let words = path.trim_end_matches(".rs").split('/').filter(|word| *word != "main");
        for word in words.filter(|word| !tests.contains(&format!("\"{word}\""))) {
            broken.push(format!("{path}: no test in tests/it/examples runs {word:?}"));
        }
    }
    for link in readme.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        if !root().join("crates/couplet/examples").join(link).exists() {
            broken.push(format!("examples/README.md names {link}, which isn't there"));
        }
    }
    assert!(examples.len() > 30, "{} examples were found", examples.len());
    assert_none(&broken, "an example has less than 80 lines, a row in the table and a test");
}
