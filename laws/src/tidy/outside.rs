//! Law 3: time, waiting, names, sockets and randomness come only from the driver and its world.
//!
//! `clippy.toml` forbids most of these by type. This test also lists the permitted places, so that
//! an exemption can neither spread nor outlive its use.

use super::source::{Call, Code, assert_none, library};

/// A source of time, chance or I/O, and the files that may name it.
struct Outside {
    /// Consecutive segments of the full path.
    names: &'static [&'static str],
    /// The alternative, for the error message.
    instead: &'static str,
    /// Files, and folders with a trailing slash.
    places: &'static [&'static str],
}

const CLOCK: &str = "ask the reactor or the world for the time: `now()`";
const WALL_CLOCK: &str = "ask the world for the time of day: `wall_clock()`";
const NO_WAIT: &str = "only the driver waits: use `call_later` or `sleep`";
const CHANCE: &str = "ask the world for a random number: `random()`";
const SOCKET: &str = "sockets are the driver's";

const OUTSIDE: [Outside; 20] = [
    Outside {
        names: &["Instant", "now"],
        instead: CLOCK,
        places: &[
            "couplet-core/src/driver/mio/system.rs",
            // Measures how long a thread was held.
            "couplet-core/src/driver/stalls.rs",
            // The origin of virtual time.
            "couplet-core/src/driver/memory/network.rs",
            "couplet-core/src/sim/trapped.rs",
            // Measures the real time of a world.
            "couplet-core/src/sim/limits.rs",
            // The duration in a report.
            "couplet-cli/src/sim/mod.rs",
        ],
    },
    Outside { names: &["Instant", "elapsed"], instead: CLOCK, places: &[] },
    Outside {
        names: &["SystemTime"],
        instead: WALL_CLOCK,
        places: &["couplet-core/src/driver/", "couplet-core/src/sim/"],
    },
    Outside {
        names: &["SystemTime", "now"],
        instead: WALL_CLOCK,
        places: &["couplet-core/src/driver/mio/system.rs"],
    },
    Outside { names: &["SystemTime", "elapsed"], instead: WALL_CLOCK, places: &[] },
    Outside {
        names: &["RandomState"],
        instead: CHANCE,
        places: &["couplet-core/src/driver/mio/system.rs"],
    },
    Outside { names: &["DefaultHasher"], instead: CHANCE, places: &[] },
    Outside { names: &["thread", "sleep"], instead: NO_WAIT, places: &[] },
    Outside { names: &["thread", "sleep_until"], instead: NO_WAIT, places: &[] },
    Outside { names: &["thread", "park"], instead: NO_WAIT, places: &[] },
    Outside { names: &["thread", "park_timeout"], instead: NO_WAIT, places: &[] },
    Outside {
        names: &["Condvar"],
        instead: NO_WAIT,
        places: &[
            "couplet-core/src/driver/pool.rs",
            "couplet-core/src/driver/stalls.rs",
            // Waits for the other loops, before its own runs and after it has failed.
            "couplet-core/src/reactor/cluster.rs",
            "couplet-cli/src/output.rs",
        ],
    },
    Outside {
        names: &["mpsc"],
        instead: NO_WAIT,
        // `block_on_reactor`, stdin and stdout use other threads than the loop's.
        places: &["couplet-core/src/reactor/remote.rs", "couplet-cli/src/connect/"],
    },
    Outside {
        names: &["mio"],
        instead: SOCKET,
        // The second re-exports the module of this name.
        places: &["couplet-core/src/driver/mio/", "couplet-core/src/driver/mod.rs"],
    },
    Outside {
        names: &["socket2"],
        instead: SOCKET,
        // The first re-exports `SockRef`.
        places: &[
            "couplet-core/src/driver/mod.rs",
            "couplet-core/src/driver/mio/",
            "couplet-core/src/driver/socket.rs",
        ],
    },
    Outside {
        names: &["rustix", "net"],
        instead: SOCKET,
        places: &["couplet-core/src/driver/mio/", "couplet-core/src/driver/socket.rs"],
    },
    Outside {
        names: &["rustix", "event"],
        instead: SOCKET,
        places: &["couplet-core/src/driver/mio/", "couplet-cli/src/connect/"],
    },
    Outside {
        names: &["rustls"],
        instead: "one module knows the TLS library: `layers/tls/engine`",
        places: &["couplet-core/src/layers/tls/engine/"],
    },
    Outside {
        names: &["TcpListener"],
        instead: SOCKET,
        places: &["couplet-core/src/driver/mio/", "couplet-core/src/driver/socket.rs"],
    },
    Outside {
        names: &["TcpStream"],
        instead: SOCKET,
        places: &["couplet-core/src/driver/mio/", "couplet-core/src/driver/socket.rs"],
    },
];

/// Blocking methods, and the files that may call them.
const METHODS: [(&str, &[&str]); 5] = [
    ("wait_timeout", &["couplet-core/src/driver/pool.rs", "couplet-core/src/driver/stalls.rs"]),
    // For a slow reader of stdout, after the loop has ended; before a loop is created again.
    ("wait_timeout_while", &["couplet-cli/src/output.rs", "couplet-core/src/reactor/cluster.rs"]),
    ("wait_timeout_ms", &[]),
    // For a slow reader of stdout, after the loop has ended.
    ("recv_timeout", &["couplet-cli/src/connect/stdout.rs"]),
    ("to_socket_addrs", &["couplet-core/src/driver/names.rs"]),
];

/// Receivers whose `elapsed()` is virtual time.
const VIRTUAL: [&str; 3] = ["network", "sim", "self"];

fn holds(places: &[&str], file: &str) -> bool {
    let file = file.trim_start_matches("crates/");
    let is = |place: &&str| file == *place || (place.ends_with('/') && file.starts_with(*place));
    places.iter().any(is)
}

/// True when the path contains these segments in a row.
fn contains_segments(path: &[String], names: &[&str]) -> bool {
    path.windows(names.len()).any(|window| window == names)
}

fn named(file: &Code) -> Vec<String> {
    let mut broken = Vec::new();
    for mention in &file.mentions {
        let path = file.meaning(&mention.path);
        // `crate::driver::mio` is not the library of that name.
        if path[0] == "crate" {
            continue;
        }
        for outside in OUTSIDE {
            if contains_segments(&path, outside.names) && !holds(outside.places, &file.path) {
                let (path, line) = (path.join("::"), mention.line);
                broken.push(format!("{}:{line} names {path}: {}", file.path, outside.instead));
            }
        }
    }
    broken
}

fn reads_a_clock(call: &Call) -> bool {
    let whose = call.receiver.last().map_or("", String::as_str);
    call.name == "elapsed" && !VIRTUAL.contains(&whose)
}

fn called(file: &Code) -> Vec<String> {
    let mut broken = Vec::new();
    for call in &file.calls {
        let (name, line) = (&call.name, call.line);
        let excepted = METHODS.iter().find(|(method, _)| method == name);
        if excepted.is_some_and(|(_, places)| !holds(places, &file.path)) {
            broken.push(format!("{}:{line} calls {name}: {NO_WAIT}", file.path));
        }
        if reads_a_clock(call) {
            broken.push(format!("{}:{line} calls {name}: {CLOCK}", file.path));
        }
    }
    broken
}

fn broken_in(file: &Code) -> Vec<String> {
    [named(file), called(file)].concat()
}

fn files() -> Vec<Code> {
    ["couplet", "couplet-cli"].into_iter().flat_map(library).collect()
}

#[test]
fn sockets_clocks_and_waits_live_below_driver() {
    let broken: Vec<String> = files().iter().flat_map(broken_in).collect();
    assert_none(&broken, "law 3: time, waiting, sockets and chance come from the driver alone");
}

/// An unused exemption would permit new uses.
#[test]
fn every_exemption_is_used() {
    let files = files();
    let mut unused = Vec::new();
    let mut look = |what: &str, places: &[&str], used: &dyn Fn(&Code) -> bool| {
        for place in places {
            if !files.iter().any(|file| holds(&[place], &file.path) && used(file)) {
                unused.push(format!("{place} does not name {what}"));
            }
        }
    };
    for Outside { names, places, .. } in OUTSIDE {
        look(&names.join("::"), places, &|file| {
            let mut paths = file.mentions.iter().map(|mention| file.meaning(&mention.path));
            paths.any(|path| contains_segments(&path, names))
        });
    }
    for (method, places) in METHODS {
        look(method, places, &|file| file.calls.iter().any(|call| call.name == *method));
    }
    assert_none(&unused, "law 3: remove these places from the tables (laws/src/tidy/outside.rs)");
}

#[test]
fn every_spelling_of_a_clock_or_a_wait_is_found() {
    let broken = |text: &str| broken_in(&Code::of("reactor/turn.rs", text)).len();
    for text in [
        "fn f() { std::time::Instant::now(); }",
        "use std::time::Instant; fn f() { g(Instant::now) }",
        "use std::time::Instant as Clock; fn f() { Clock::now(); }",
        "use std::time; fn f() { time::Instant::now(); }",
        "fn f() { <std::time::Instant>::now(); }",
        "fn f(began: Instant) { began.elapsed(); }",
        "fn f(me: &Me) { warn!(took = ?me.began.elapsed()); }",
        "fn f(began: Instant) { Instant::elapsed(&began); }",
        "use std::time::SystemTime;",
        "use std::hash::{BuildHasher, RandomState};",
        "use std::thread::park_timeout;",
        "use std::thread; fn f() { thread::park_timeout(D); }",
        "fn f() { vec![std::thread::sleep(D); 1]; }",
        "fn f(condition: &C) { condition.wait_timeout(held, D); }",
        "use std::net::TcpStream;",
        "fn f(poll: ::mio::Poll) {}",
    ] {
        assert!(broken(text) > 0, "this passes: {text}");
    }
    for text in [
        "fn f(n: &Network) { n.network.elapsed(); }",
        "// Instant::now()\nconst S: &str = \"thread::sleep\";",
        "#[cfg(test)] mod tests { fn f() { std::time::Instant::now(); } }",
        "use std::time::{Duration, Instant}; fn f(now: Instant) {}",
    ] {
        assert_eq!(broken(text), 0, "this fails: {text}");
    }
}
