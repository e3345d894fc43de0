//! The rooms that are mutated, and the tests that judge each one.

use crate::places::Mutant;

/// The crate of a room.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Crate {
    Core,
    Defer,
    Http,
    Sim,
    Http2,
    Rooms,
    Bus,
    Inspect,
    Runner,
    /// The parts that the command lines of programs share.
    Command,
    /// The servers of the program `couplet`.
    Servers,
    /// The program `couplet`.
    Program,
    /// The program `chat`.
    Chat,
    /// The program `poetry`.
    Poetry,
    /// The native half of the package for Python.
    Python,
}

pub struct Room {
    pub name: &'static str,
    pub is_of: Crate,
    /// A folder of the crate's sources, or a file without its extension.
    pub path: &'static str,
    /// The tests in addition to those that judge every room.
    tests: &'static [&'static str],
}

const fn of_library(name: &'static str, tests: &'static [&'static str]) -> Room {
    Room { name, is_of: Crate::Core, path: name, tests }
}

const fn of_defer(name: &'static str) -> Room {
    Room { name, is_of: Crate::Defer, path: name, tests: &["defer", "defer_allocations", "memory"] }
}

const fn of_guest(name: &'static str, is_of: Crate, tests: &'static [&'static str]) -> Room {
    Room { name, is_of, path: "", tests }
}

pub const ROOMS: [Room; 39] = [
    of_library("transport", &["inbox", "memory", "signals", "public_api", "datagrams"]),
    of_library("reactor", &["inbox", "memory", "signals", "cluster", "stall", "datagrams"]),
    of_library("recorder", &["memory", "signals"]),
    of_library("connector", &["memory"]),
    of_library("timers", &["memory"]),
    of_library("outbox", &["memory"]),
    of_library("slots", &["memory"]),
    of_defer("defer"),
    of_library("protocols", &["framing_memory", "public_api"]),
    of_library("driver", &["memory", "signals", "datagrams", "cluster", "stall"]),
    Room { name: "sim", is_of: Crate::Sim, path: "", tests: &[SIM, "http"] },
    Room {
        name: "http",
        is_of: Crate::Http,
        path: "",
        tests: &[HTTP, "http", "http_memory", "http_resident", "sim"],
    },
    of_library("layers", &["tls_memory", "http"]),
    of_library("stream", &["stream_memory", "tokio_io", "hyper"]),
    of_library("task", &[]),
    of_library("process", &["signals"]),
    of_library("datagrams", &["datagrams", "memory"]),
    of_library("endpoints", &["cluster"]),
    of_library("services", &[]),
    of_defer("panics"),
    of_library("embed", &["tokio"]),
    of_library("factory", &[]),
    of_library("address", &["public_api"]),
    of_library("error", &["public_api"]),
    of_library("hooks", &["http"]),
    of_library("protocol", &["public_api"]),
    of_library("testing", &["public_api"]),
    of_library("unread", &["inbox"]),
    of_guest("http2", Crate::Http2, &["couplet-http2 --lib", "couplet-http2 http2"]),
    of_guest("rooms", Crate::Rooms, &["couplet-rooms --lib", "couplet-rooms rooms"]),
    of_guest("bus", Crate::Bus, &["couplet-bus --lib", "couplet-bus bus", "couplet-bus storms"]),
    of_guest(
        "inspect",
        Crate::Inspect,
        &["couplet-inspect --lib", "couplet-inspect inspect", "couplet-inspect diagnosis"],
    ),
    Room { name: "runner", is_of: Crate::Runner, path: "", tests: &[] },
    Room { name: "command", is_of: Crate::Command, path: "", tests: &[] },
    Room { name: "servers", is_of: Crate::Servers, path: "", tests: &[] },
    Room { name: "cli", is_of: Crate::Program, path: "", tests: &[] },
    of_guest("chat", Crate::Chat, &["chat --lib", "chat it"]),
    of_guest("poetry", Crate::Poetry, &["poetry --lib", "poetry it"]),
    Room { name: "python", is_of: Crate::Python, path: "", tests: &[] },
];

/// The unit tests of crates.
pub const CORE: &str = "--lib couplet_core";
pub const HTTP: &str = "--lib couplet_http";
pub const SIM: &str = "--lib couplet_sim";

/// The tests that judge the rooms of the core, Deferreds and the simulator.
const ALWAYS: [&str; 3] = [CORE, "it", "sim"];
/// The tests that judge the program and the crates below it: the beginning of the line of cargo, and a
/// part of the binary's name.
pub const PROGRAM: [(&str, (&str, &str)); 6] = [
    ("program command", ("unittests src/lib.rs (", "couplet_command-")),
    ("program servers", ("unittests src/lib.rs (", "couplet_servers-")),
    ("program runner", ("unittests src/lib.rs (", "couplet_runner-")),
    ("program fastpoetry", ("tests/fastpoetry.rs (", "")),
    ("program units", ("unittests src/lib.rs (", "couplet_cli-")),
    ("program it", ("tests/it/main.rs (", "")),
];

impl Crate {
    pub fn sources(self) -> &'static str {
        match self {
            Crate::Core => "crates/couplet-core/src",
            Crate::Defer => "crates/couplet-defer/src",
            Crate::Http => "crates/couplet-http/src",
            Crate::Sim => "crates/couplet-sim/src",
            Crate::Http2 => "crates/couplet-http2/src",
            Crate::Rooms => "crates/couplet-rooms/src",
            Crate::Bus => "crates/couplet-bus/src",
            Crate::Inspect => "crates/couplet-inspect/src",
            Crate::Runner => "crates/couplet-runner/src",
            Crate::Command => "crates/couplet-command/src",
            Crate::Servers => "programs/servers/src",
            Crate::Program => "programs/couplet/src",
            Crate::Chat => "programs/chat/src",
            Crate::Poetry => "programs/poetry/src",
            Crate::Python => "python/src",
        }
    }

    /// The prefix of the crate's file names.
    pub fn prefix(self) -> &'static str {
        match self {
            Crate::Core | Crate::Defer => "",
            Crate::Http => "http/",
            Crate::Sim => "sim/",
            Crate::Http2 => "http2/",
            Crate::Rooms => "rooms/",
            Crate::Bus => "bus/",
            Crate::Inspect => "inspect/",
            Crate::Runner => "runner/",
            Crate::Command => "command/",
            Crate::Servers => "servers/",
            Crate::Program => "cli/",
            Crate::Chat => "chat/",
            Crate::Poetry => "poetry/",
            Crate::Python => "python/",
        }
    }

    pub const ALL: [Crate; 15] = [
        Crate::Core,
        Crate::Defer,
        Crate::Http,
        Crate::Sim,
        Crate::Http2,
        Crate::Rooms,
        Crate::Bus,
        Crate::Inspect,
        Crate::Runner,
        Crate::Command,
        Crate::Servers,
        Crate::Program,
        Crate::Chat,
        Crate::Poetry,
        Crate::Python,
    ];

    /// True for the program `couplet` and the crates that are tested with it.
    pub fn is_of_program(self) -> bool {
        matches!(self, Crate::Command | Crate::Runner | Crate::Servers | Crate::Program)
    }

    /// The package of a crate above the core whose tests are built only for it.
    pub fn guest(self) -> Option<&'static str> {
        match self {
            Crate::Http2 => Some("couplet-http2"),
            Crate::Rooms => Some("couplet-rooms"),
            Crate::Bus => Some("couplet-bus"),
            Crate::Inspect => Some("couplet-inspect"),
            Crate::Chat => Some("chat"),
            Crate::Poetry => Some("poetry"),
            _ => None,
        }
    }

    /// The arguments of cargo for a guest. Programs are built with all their features, so that all
    /// their files are mutated.
    pub fn selection(self) -> Option<Vec<&'static str>> {
        let features = matches!(self, Crate::Chat | Crate::Poetry).then_some("--all-features");
        Some(["-p", self.guest()?].into_iter().chain(features).collect())
    }

    /// The crate of a file with this name, and the file's path in that crate's sources.
    pub fn of(file: &str) -> (Crate, &str) {
        let room = room_of(file);
        (room.is_of, file.strip_prefix(room.is_of.prefix()).expect("its crate's prefix"))
    }
}

/// The room of a file, whose name begins with the room's.
fn room_of(file: &str) -> &'static Room {
    file.split(['/', '.']).next().and_then(named).expect("a room")
}

pub fn named(name: &str) -> Option<&'static Room> {
    ROOMS.iter().find(|room| room.name == name)
}

/// The test binaries that judge mutants of the file's room.
pub fn targets_of(mutant: &Mutant) -> Vec<&'static str> {
    let room = room_of(&mutant.file);
    match room.is_of {
        Crate::Core | Crate::Defer | Crate::Sim => [&ALWAYS[..], room.tests].concat(),
        Crate::Http
        | Crate::Http2
        | Crate::Rooms
        | Crate::Bus
        | Crate::Inspect
        | Crate::Chat
        | Crate::Poetry => room.tests.to_vec(),
        Crate::Command | Crate::Runner | Crate::Servers | Crate::Program => {
            PROGRAM.map(|(target, _)| target).to_vec()
        }
        Crate::Python => Vec::new(),
    }
}
