//! Compiler errors for likely mistakes name the remedy.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::SystemTime;

const BEGINNING: &str = "
#![allow(unused)]
use couplet::protocols::{LineProtocol, LineTransport, StringProtocol, StringTransport};
use couplet::{Address, Reactor};
struct Lines;
impl LineProtocol for Lines {
    fn line_received(&mut self, _: &LineTransport, _: &[u8]) {}
}
struct Strings;
impl StringProtocol for Strings {
    fn string_received(&mut self, _: &StringTransport, _: &[u8]) {}
}
#[derive(Default)]
struct Echo(Vec<u8>);
impl couplet::Protocol for Echo {
    fn data_received(&mut self, _: &couplet::Transport, _: &[u8]) {}
}
fn mistake(reactor: Reactor) {
";

/// The library that this test is linked with, or a newer build.
fn library() -> PathBuf {
    let test = std::env::current_exe().expect("a test runs from a file");
    let deps = test.parent().expect("it is in target/…/deps");
    let entries = fs::read_dir(deps).expect("a folder").map(|entry| entry.expect("an entry"));
    let libraries = entries.filter(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with("libcouplet-") && name.ends_with(".rlib")
    });
    let built = |entry: &fs::DirEntry| {
        entry.metadata().and_then(|about| about.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
    };
    libraries.max_by_key(built).expect("a test is linked with the library").path()
}

/// The compiler's errors for `mistake`, which is not empty.
fn errors(mistake: &str) -> String {
    let errors = compiled(mistake);
    assert!(!errors.is_empty(), "this compiles: {mistake}");
    errors
}

/// The compiler's errors, if any, for code in a function that has a `reactor`.
fn compiled(code: &str) -> String {
    let library = library();
    let mut program = Command::new("rustc");
    program.args(["-", "--edition=2024", "--crate-type=lib", "--emit=metadata", "-o", "-"]);
    program.arg(format!("--extern=couplet={}", library.display()));
    program.arg(format!("-Ldependency={}", library.parent().expect("a folder").display()));
    // The paths of sources, which errors show, are relative to the workspace.
    program.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut compiler = program.spawn().expect("rustc comes with cargo");
    let mut stdin = compiler.stdin.take().expect("it is piped");
    let text = format!("{BEGINNING}{code}\n}}");
    std::io::Write::write_all(&mut stdin, text.as_bytes()).expect("rustc reads stdin");
    drop(stdin);
    let output = compiler.wait_with_output().expect("rustc ends");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_framed_protocol_without_its_framer_gets_an_error_that_names_it() {
    needs!("rustc");
    assert_eq!(compiled(""), "", "the code around the mistakes compiles");
    for (mistake, remedy) in [
        ("reactor.listen(\"tcp:1\", || Lines);", "LineReceiver::new"),
        ("reactor.listen(\"tcp:1\", |_: &Address| Some(Lines));", "LineReceiver::new"),
        ("reactor.listen(\"tcp:1\", Lines);", "LineReceiver::new"),
        ("reactor.connect(\"tcp:h:1\", || Lines);", "LineReceiver::new"),
        ("reactor.connect_protocol(\"tcp:h:1\", Lines);", "LineReceiver::new"),
        ("couplet::testing::hold(Lines);", "LineReceiver::new"),
        ("reactor.listen(\"tcp:1\", || Strings);", "NetstringReceiver::new"),
        ("reactor.connect_protocol(\"tcp:h:1\", Strings);", "IntReceiver::new"),
    ] {
        let errors = errors(mistake);
        assert!(errors.contains("E0277") && errors.contains(remedy), "{mistake}\n{errors}");
    }
}

#[test]
fn the_likeliest_mistakes_get_errors_that_name_the_way_out() {
    needs!("rustc");
    for (mistake, remedy) in [
        // A closure that returns the wrong type.
        ("reactor.listen(\"tcp:1\", || 5);", "a closure `|| MyProtocol`"),
        (
            "reactor.listen(\"tcp:1\", || Some(Echo::default()));",
            "`|peer: &Address| Some(MyProtocol)`",
        ),
        // Data of one thread in another.
        (
            "let count = std::rc::Rc::new(1); reactor.defer_to_thread(move || Ok(*count)).detach();",
            "owned data or an `Arc`",
        ),
        (
            "reactor.remote().call(move |_| reactor.stop());",
            "for calls into the loop `reactor.remote()`",
        ),
        // One protocol for many connections.
        (
            "let echo = Echo::default(); reactor.listen(\"tcp:1\", move || echo);",
            "a new protocol for each connection: `|| Echo::new()`",
        ),
    ] {
        let errors = errors(mistake);
        assert!(errors.contains(remedy), "{mistake}\n{errors}");
    }
    // A forgotten feature, where the library was built without it.
    for feature in ["bus", "http", "inspect", "rooms", "sim", "testing"] {
        let errors = compiled(&format!("use couplet::{feature};"));
        let remedy = format!("gated behind the `{feature}` feature");
        assert!(errors.is_empty() || errors.contains(&remedy), "{errors}");
    }
}
