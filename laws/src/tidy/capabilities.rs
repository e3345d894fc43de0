//! Law 3, by capability: the code that runs in simulated worlds (core, Deferreds and simulator) names
//! only those paths of other crates, `std` included, that a row permits for its file.
//!
//! A row without places is free. The others reach a clock, a thread, a socket, a file, the process or
//! chance. Types count like functions, so a file that may not name `Condvar` has none to wait for.
//! Programs and the crates above the core have `clippy.toml`, which judges methods by type.

use std::collections::BTreeSet;

use super::modules::{Modules, is_below};
use super::source::{Code, LIBRARY, Mention, assert_none};

const CRATES: [&str; 3] = ["crates/couplet-core/", "crates/couplet-defer/", "crates/couplet-sim/"];

/// Paths of other crates, and the files and folders that may name them: all without a list, and no file
/// if it is `nowhere`. `defer/` and `sim/` are crates, the rest are rooms of the core. The longest path
/// counts.
type Row = (&'static str, &'static str);

const ROWS: &[Row] = &[
    // Values, and crates without effects.
    (
        "std::any std::array std::borrow std::cell std::cmp std::collections std::convert std::error \
         std::f64 std::ffi std::fmt std::future std::hash::BuildHasher std::hash::Hasher std::io std::iter \
         std::marker std::mem std::num std::ops std::option std::path std::pin std::ptr std::rc \
         std::result std::slice std::str std::sync std::task std::vec std::net::IpAddr \
         std::net::Ipv4Addr std::net::Ipv6Addr std::net::SocketAddr std::net::SocketAddrV6 std::os::fd \
         std::os::unix::ffi std::panic::AssertUnwindSafe std::panic::Location std::panic::catch_unwind \
         std::process::ExitCode std::thread::LocalKey std::thread::panicking std::thread_local std::time::Duration \
         std::time::Instant std::time::UNIX_EPOCH rustix::io::Errno bytes diagnostic futures_core idna memchr tracing",
        "",
    ),
    // Clocks. The memory driver and the simulator need an origin of virtual time; the detector of stalls,
    // the limits on worlds and the wait for readers at the end of a program measure real time.
    (
        "std::time::Instant::now std::time::SystemTime::now",
        "driver/mio/system.rs driver/stalls.rs driver/memory/network.rs sim/trapped.rs sim/limits.rs \
         defer/backlog.rs",
    ),
    ("std::time::Instant::elapsed std::time::SystemTime::elapsed", "nowhere"),
    ("std::time::SystemTime", "driver/ sim/"),
    // Chance: hash tables have a `RandomState`, and an order that differs between processes.
    (
        "std::collections::HashMap std::collections::HashSet std::collections::hash_map \
         std::collections::hash_set",
        "nowhere",
    ),
    ("std::hash::RandomState", "driver/mio/system.rs"),
    (
        "std::thread::ThreadId std::thread::current",
        "driver/stalls.rs reactor/tasks.rs sim/determinism.rs",
    ),
    // Threads, and code that waits for one: the pool, the detector of stalls, the readers of logs, the
    // further loops of a cluster, `block_on_reactor`.
    (
        "std::thread::Builder std::thread::scope std::thread::available_parallelism",
        "driver/ reactor/turn/cluster.rs sim/determinism.rs defer/backlog.rs",
    ),
    ("std::sync::Barrier", "nowhere"),
    ("std::sync::Condvar", "driver/ reactor/turn/cluster.rs defer/backlog.rs"),
    ("std::sync::mpsc", "reactor/remote.rs"),
    // A write that has set the time of a file, and not yet its length.
    ("std::thread::yield_now", "outbox/file.rs"),
    // Sockets: `with_socket` and the keeper lend one.
    ("mio rustix serial2 socket2 std::net std::os", "driver/"),
    ("socket2::SockRef", "driver/ transport/ reactor/keeping.rs"),
    ("std::io::pipe std::io::PipeReader std::io::PipeWriter", "driver/"),
    // Files: those that are sent, recordings, and certificates.
    (
        "std::fs std::os::unix::fs std::os::windows::fs rustix::fs std::path::absolute",
        "driver/ outbox/file.rs endpoints/built_in/record_file.rs layers/tls/ task/filesystem_lock.rs \
         sim/determinism.rs",
    ),
    // The process: standard streams, descriptors from the init system, and the simulator's second process.
    ("std::io::stderr std::io::stdin std::io::stdout", "driver/pipe.rs defer/backlog.rs"),
    (
        "std::env std::process std::panic::resume_unwind",
        "driver/process.rs endpoints/built_in/inherited.rs sim/determinism.rs sim/trial.rs defer/backlog.rs",
    ),
    (
        "couplet_os",
        "driver/ stream/ address.rs endpoints/built_in/inherited.rs process/ reactor/keeping.rs \
         reactor/turn/keeping.rs transport/cell.rs sim/trapped.rs",
    ),
    // Guests, and TLS, each known to one room.
    ("futures_io tokio", "embed.rs reactor/turn/runtime.rs stream/ sim/paused_tokio.rs"),
    ("hyper", "stream/io.rs"),
    ("rustls rustls_platform_verifier", "layers/tls/engine/ layers/tls/mod.rs"),
];

/// Methods of free types that reach a file, and the files that may call them.
const LOOKS: Row = (
    "canonicalize exists is_dir is_file metadata read_dir read_link symlink_metadata try_exists",
    "driver/mio/lock.rs endpoints/built_in/record_file.rs endpoints/built_in/tls.rs layers/tls/directory.rs outbox/file.rs \
     defer/events.rs",
);

/// The place in a list that a file of [`CRATES`] is at or below.
fn place<'a>(places: &'a str, file: &str) -> Option<&'a str> {
    let file = file.replacen("/src/", "/", 1).replacen("crates/couplet-", "", 1);
    let file = file.trim_start_matches("core/");
    let mut places = places.split(' ');
    places.find(|place| *place == file || (place.ends_with('/') && file.starts_with(place)))
}

/// A path permitted nowhere, not even by a row.
const UNLISTED: Row = ("", "nowhere");

/// The row of a path; `None` for a module above rows, each path into which is judged.
fn row(path: &str) -> Option<Row> {
    let rows = ROWS.iter().flat_map(|row| row.0.split(' ').map(move |listed| (listed, *row)));
    let below =
        |above: &str, (listed, _): &(&str, Row)| is_below(listed, above) && *listed != above;
    // A glob needs a row for all that it may import.
    let module = path.trim_end_matches("::*");
    if module != path && rows.clone().any(|row| below(module, &row)) {
        return Some(UNLISTED);
    }
    let longest = rows.clone().filter(|(listed, _)| is_below(path, listed));
    let longest = longest.max_by_key(|(listed, _)| listed.len()).map(|(_, row)| row);
    let is_above = |(listed, row): (&str, Row)| {
        below(path, &(listed, row)) && (row.1.is_empty() || longest.is_none())
    };
    match longest {
        Some((_, "")) => longest,
        _ if rows.clone().any(is_above) => None,
        _ => longest.or(Some(UNLISTED)),
    }
}

/// The paths and methods that no row permits to a file, and the places of the rows that permit others.
fn look(file: &Code, modules: &Modules) -> (Vec<String>, BTreeSet<Row>) {
    let (mut broken, mut used) = (Vec::new(), BTreeSet::new());
    let mut judge = |name: &str, line: usize, row: Row| match place(row.1, &file.path) {
        _ if row.1.is_empty() => {}
        Some(place) => drop(used.insert((row.0, place))),
        None => broken.push(format!("{}:{line} names {name}", file.path)),
    };
    for Mention { path, line, .. } in &file.mentions {
        for path in modules.outside(file, path).iter().map(|path| path.join("::")) {
            if let Some(row) = row(&path) {
                judge(&path, *line, row);
            }
        }
    }
    for call in &file.calls {
        if LOOKS.0.split(' ').any(|method| method == call.name) {
            judge(&call.name, call.line, LOOKS);
        }
    }
    (broken, used)
}

#[test]
fn each_file_names_only_its_capabilities() {
    let modules = Modules::of(LIBRARY.iter());
    let files = LIBRARY.iter().filter(|it| CRATES.iter().any(|of| it.path.starts_with(of)));
    let files = files.map(|file| look(file, &modules));
    let (broken, used): (Vec<_>, Vec<_>) = files.unzip();
    let used: BTreeSet<Row> = used.into_iter().flatten().collect();
    // A place without a use would permit new ones.
    let places = ROWS.iter().chain([&LOOKS]).filter(|row| !["", "nowhere"].contains(&row.1));
    let places = places.flat_map(|row| row.1.split(' ').map(move |place| (row.0, place)));
    let unused = places.filter(|place| !used.contains(place));
    let unused = unused.map(|(paths, place)| format!("{place} names nothing of: {paths}"));
    assert_none(
        &broken.into_iter().flatten().chain(unused).collect::<Vec<_>>(),
        "law 3: time, waiting, sockets, files and chance come from the driver and its world \
         (`now`, `call_later`, `defer_to_thread`, `random`). If a room needs a capability, a row of \
         ROWS says so (laws/src/tidy/capabilities.rs); remove places without a use",
    );
}

#[test]
fn every_way_out_of_the_library_is_found() {
    let broken = |text: &str| {
        let file = Code::of("reactor/turn.rs", text);
        !look(&file, &Modules::of(LIBRARY.iter().chain([&file]))).0.is_empty()
    };
    for text in FORBIDDEN.lines().map(str::trim) {
        assert!(broken(text), "this passes: {text}");
    }
    for text in PERMITTED.lines().map(str::trim) {
        assert!(!broken(text), "this is permitted: {text}");
    }
}

/// Each line breaks law 3 in the turn.
const FORBIDDEN: &str = r#"fn f() { std::time::Instant::now(); }
    use std::time::Instant as Clock; fn f() { Clock::now(); }
    use std as s; use s::time as t; fn f() { t::Instant::now(); }
    type Clock = std::time::Instant; fn f() { Clock::now(); }
    impl Now for std::time::Instant { fn f() { Self::now(); } }
    fn f() { <std::time::Instant>::now(); }
    mod took { use std::time::Instant as Clock; const T: fn(&Clock) -> D = Clock::elapsed; }
    mod a { pub use std::time::Instant as Clock; } fn f() { a::Clock::now(); }
    mod a { pub mod b { pub use std::fs as disk; } } fn f() { a::b::disk::read(p); }
    use std::time::*;
    use std::time::SystemTime;
    fn f() { std::thread::spawn(|| 1).join(); }
    fn f() { use std::thread as t; t::spawn(g); }
    mod a { use crate::slots as thread; } use std::thread; fn f() { thread::spawn(g); }
    use std::thread::park_timeout as wait;
    fn f() { vec![std::thread::sleep(D); 1]; }
    fn f(b: &std::sync::Barrier) { b.wait(); }
    use std::sync::{Arc, Condvar};
    use std::sync::*;
    fn f(r: &std::sync::mpsc::Receiver<u8>) { r.recv(); }
    fn f() -> String { format!("{:?}", std::thread::current().id()) }
    use rustix::thread; fn f() { thread::clock_nanosleep_relative(id, &t); }
    use std::net::{IpAddr, UdpSocket};
    use std::os; fn f() { os::unix::net::UnixListener::bind(p); }
    fn f(poll: ::mio::Poll) {}
    use crate::driver::SockRef;
    extern crate libc;
    fn f() { couplet_os::unsent::unsent(fd); }
    fn f() { std::io::pipe(); }
    use std::{fmt, fs as disk, io}; fn f() { disk::read_to_string("/proc/self/stat"); }
    fn f(p: &Path) { p.exists(); }
    fn f(p: &std::path::Path) { std::path::Path::exists(p); }
    use std::path::Path; fn f(p: Option<&Path>) { p.is_some_and(Path::is_file); }
    fn f() { std::process::id(); }
    use std::io; fn f() { io::stdout(); }
    fn f() { println!("a line"); }
    include!("../hidden.rs");
    use std::hash::{BuildHasher, RandomState};
    use std::collections::HashMap as Map; fn f() { Map::<u8, u8>::new().hasher().hash_one(0); }
    fn f() -> std::collections::HashSet<u8> { g() }
    #[cfg_attr(all(), tokio::main)] async fn main() {}
    macro_rules! m { ($a:ident, $b:ident) => { std::$a::$b("/etc/hosts") } }
    macro_rules! m { ($t:ident) => { std::time::$t::now() } }
    macro_rules! m { () => { println!("a line") } }
    macro_rules! m { () => { $crate::f(std::process::id()) } }
    fn f() { rand::random(); }"#;

const PERMITTED: &str = r#"const S: &str = "thread::sleep"; // Instant::now()
    #[cfg(test)] mod tests { fn f() { std::time::Instant::now(); } }
    #[cfg(all(test, unix))] mod tests { fn f() { std::fs::read(p); } }
    use std::time::{Duration, Instant}; fn f(now: Instant) {}
    use std::{io, thread}; fn f() -> io::Result<bool> { Ok(thread::panicking()) }
    use std::net; fn f(a: net::SocketAddr, b: net::IpAddr) {}
    mod fs { pub fn read() {} } fn f() { fs::read(); }
    fn f() { u8::from(true); <[u8]>::to_vec(&x); }
    macro_rules! m { ($x:expr, $t:ident) => { $x.$t = $crate::Key::$t } }"#;
