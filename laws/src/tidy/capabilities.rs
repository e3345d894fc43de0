//! Law 3, by capability: each path into another crate that a file names is permitted for its room.
//!
//! `FREE` lists the paths without effects; the rows of `CAPABILITIES` list those that reach a clock, a
//! thread, a socket, a file, the process or chance, with the files that may name them. Any other path
//! fails the test. Types count like functions, so a file that may not name `Condvar` has none to wait
//! for; `clippy.toml` and `METHODS` cover methods of types that are free.

use std::collections::{BTreeMap, BTreeSet};

use super::modules::Modules;
use super::source::{Call, Code, PROGRAMS, assert_none, library, with_parsed_code};

/// Paths without effects. The longest prefix in both tables counts.
const FREE: &[&str] = &[
    // Values.
    "std::any",
    "std::array",
    "std::borrow",
    "std::cell",
    "std::cmp",
    "std::collections::BTreeMap",
    "std::collections::BTreeSet",
    "std::collections::BinaryHeap",
    "std::collections::VecDeque",
    "std::convert",
    "std::error",
    "std::f64",
    "std::ffi",
    "std::fmt",
    "std::future",
    "std::hash::Hasher",
    "std::hash::BuildHasher",
    "std::iter",
    "std::marker",
    "std::mem",
    "std::num",
    "std::ops",
    "std::option",
    "std::path",
    "std::pin",
    "std::ptr",
    "std::rc",
    "std::result",
    "std::slice",
    "std::str",
    "std::task",
    "std::vec",
    "std::io::Cursor",
    "std::io::Error",
    "std::io::ErrorKind",
    "std::io::IoSlice",
    "std::io::Read",
    "std::io::Result",
    "std::io::Write",
    "std::net::IpAddr",
    "std::net::Ipv4Addr",
    "std::net::Ipv6Addr",
    "std::net::SocketAddr",
    "std::net::SocketAddrV6",
    // Descriptors belong to their owners.
    "std::os::fd",
    "std::os::unix::ffi",
    "std::panic::AssertUnwindSafe",
    "std::panic::Location",
    "std::panic::catch_unwind",
    "std::process::ExitCode",
    "std::sync::Arc",
    "std::sync::LazyLock",
    "std::sync::PoisonError",
    "std::sync::Weak",
    "std::sync::atomic",
    "std::thread::LocalKey",
    "std::thread::panicking",
    "std::thread_local",
    "std::time::Duration",
    "std::time::Instant",
    "std::time::UNIX_EPOCH",
    // Crates without effects.
    "bytes",
    "futures_core",
    "idna",
    "memchr",
    // Attributes.
    "diagnostic",
    // Numbers of errors.
    "rustix::io::Errno",
    "tracing",
];

/// Paths with an effect, and the files that may name them.
struct Capability {
    paths: &'static [&'static str],
    /// The alternative, for the error message.
    instead: &'static str,
    /// Files, and folders with a trailing slash.
    places: &'static [&'static str],
}

const CLOCK: &str = "ask the reactor or the world for the time: `now()`, `wall_clock()`";
const NO_WAIT: &str = "only the driver waits: use `call_later`, `sleep` or `defer_to_thread`";
const NO_LOCK: &str = "a loop's state needs no lock: `Cell`, `RefCell`";
const CHANCE: &str = "ask the world for a random number: `random()`";
const SOCKET: &str = "sockets are the driver's";
const FILE: &str = "files block: `defer_to_thread`, or a room that opens files";
const PROCESS: &str = "the process and its environment belong to the driver and the program";
const EFFECT: &str = "it blocks, reaches a file or depends on chance";
const GUEST: &str = "one room knows this crate";

const CAPABILITIES: &[Capability] = &[
    Capability {
        paths: &["std::time::Instant::now"],
        instead: CLOCK,
        places: &[
            "couplet-core/src/driver/mio/system.rs",
            // Measures how long a thread was held.
            "couplet-core/src/driver/stalls.rs",
            // The origin of virtual time.
            "couplet-core/src/driver/memory/network.rs",
            "couplet-sim/src/trapped.rs",
            // Measures the real time of a world.
            "couplet-sim/src/limits.rs",
            // The duration in a report.
            "programs/couplet/src/sim/mod.rs",
            // Measures how long a loop is busy.
            "couplet-runner/src/metrics.rs",
            // Where the processor has no counter.
            "couplet-os/src/ticks.rs",
            // The wait for readers at the end of a program.
            "couplet-defer/src/backlog.rs",
        ],
    },
    Capability {
        paths: &["std::time::Instant::elapsed", "std::time::SystemTime::elapsed"],
        instead: CLOCK,
        places: &[],
    },
    Capability {
        paths: &["std::time::SystemTime"],
        instead: CLOCK,
        places: &["couplet-core/src/driver/", "couplet-sim/src/"],
    },
    Capability {
        paths: &["std::time::SystemTime::now"],
        instead: CLOCK,
        places: &["couplet-core/src/driver/mio/system.rs"],
    },
    Capability {
        paths: &["std::hash::RandomState"],
        instead: CHANCE,
        places: &["couplet-core/src/driver/mio/system.rs"],
    },
    // Each has a `RandomState` too. `hashed.rs` has a row for each field.
    Capability {
        paths: &["std::collections::HashMap", "std::collections::HashSet"],
        instead: "its order and its hasher differ between processes: use a BTreeMap",
        places: &["couplet-core/src/protocols/policies.rs", "programs/poetry/src/catalogue.rs"],
    },
    Capability {
        paths: &["std::fmt::Pointer"],
        instead: "addresses differ between processes",
        places: &[],
    },
    // The module has `RandomState` and `DefaultHasher` too.
    Capability { paths: &["std::collections::hash_map"], instead: CHANCE, places: &[] },
    Capability {
        paths: &["std::collections::hash_map::Entry"],
        instead: CHANCE,
        places: &["programs/poetry/src/catalogue.rs"],
    },
    // Threads, and code that waits for one.
    Capability {
        paths: &["std::thread::Builder"],
        instead: NO_WAIT,
        places: &[
            // Waits for the readers of logs.
            "couplet-defer/src/backlog.rs",
            "couplet-core/src/driver/pool.rs",
            "couplet-core/src/driver/serial.rs",
            "couplet-core/src/driver/stalls.rs",
            // A thread for each further loop.
            "couplet-core/src/reactor/turn/cluster.rs",
            "couplet-runner/src/workers.rs",
            // The inspector's loop.
            "couplet-inspect/src/thread.rs",
            "couplet-sim/src/determinism.rs",
            // A standard stream may be a file, which cannot be polled.
            "programs/couplet/src/connect/",
            "programs/poetry/src/printer.rs",
            "couplet-os/src/orphans.rs",
            "couplet-os/src/process.rs",
        ],
    },
    // The number of a thread differs between processes.
    Capability {
        paths: &["std::thread::ThreadId", "std::thread::current"],
        instead: CHANCE,
        places: &[
            "couplet-core/src/driver/stalls.rs",
            "couplet-core/src/reactor/tasks.rs",
            "couplet-sim/src/determinism.rs",
        ],
    },
    Capability {
        paths: &["std::thread::yield_now"],
        instead: NO_WAIT,
        // A write that has set the time of a file, and not yet its length.
        places: &["couplet-core/src/outbox/file.rs"],
    },
    Capability {
        paths: &["std::thread::scope", "std::thread::available_parallelism"],
        instead: NO_WAIT,
        places: &[
            "couplet-core/src/reactor/turn/cluster.rs",
            // One loop for each processor.
            "couplet-runner/src/options.rs",
            "couplet-sim/src/determinism.rs",
            "programs/couplet/src/sim/mod.rs",
        ],
    },
    Capability {
        paths: &[
            "rustix::thread::CpuSet",
            "rustix::thread::sched_getaffinity",
            "rustix::thread::sched_setaffinity",
        ],
        instead: NO_WAIT,
        places: &["couplet-core/src/driver/affinity.rs"],
    },
    Capability {
        paths: &["std::sync::Condvar"],
        instead: NO_WAIT,
        places: &[
            "couplet-defer/src/backlog.rs",
            "couplet-core/src/driver/pool.rs",
            "couplet-core/src/driver/stalls.rs",
            // Waits for the other loops, before its own runs and after it has failed.
            "couplet-core/src/reactor/turn/cluster.rs",
            "programs/poetry/src/printer.rs",
        ],
    },
    Capability {
        paths: &["std::sync::mpsc"],
        instead: NO_WAIT,
        // `block_on_reactor`, stdin and stdout use other threads than the loop's; a runner waits for its
        // further loops before the main one runs, and afterwards; so does an inspected loop.
        places: &[
            "couplet-core/src/reactor/remote.rs",
            "programs/couplet/src/connect/",
            "couplet-inspect/src/thread.rs",
            "couplet-runner/src/workers.rs",
        ],
    },
    Capability {
        paths: &["std::thread::JoinHandle"],
        instead: NO_WAIT,
        places: &["couplet-inspect/src/thread.rs"],
    },
    // The token of the inspector, in no simulated world.
    Capability {
        paths: &["getrandom"],
        instead: CHANCE,
        places: &["couplet-inspect/src/thread.rs"],
    },
    Capability { paths: &["std::arch"], instead: CLOCK, places: &["couplet-os/src/ticks.rs"] },
    Capability {
        paths: &["std::sync::Mutex", "std::sync::MutexGuard", "std::sync::RwLock"],
        instead: NO_LOCK,
        places: &[
            // Held for a few instructions, against other loops and threads.
            "couplet-runner/src/logging.rs",
            "couplet-runner/src/parts.rs",
            "couplet-runner/src/places.rs",
            "couplet-runner/src/places/opening.rs",
            "couplet-runner/src/repeats.rs",
            "programs/couplet/src/http/cache.rs",
            "programs/poetry/src/progress/screen.rs",
            "programs/poetry/src/proxy/shared.rs",
            "couplet-core/src/driver/pool.rs",
            "couplet-core/src/driver/ring.rs",
            "couplet-core/src/driver/stalls.rs",
            "couplet-core/src/endpoints/kinds.rs",
            "couplet-core/src/endpoints/record_file.rs",
            "couplet-core/src/endpoints/shared.rs",
            "couplet-core/src/endpoints/tls.rs",
            "couplet-core/src/layers/tls/directory.rs",
            "couplet-defer/src/backlog.rs",
            "couplet-defer/src/panics.rs",
            // A failure may be in another thread than its Deferreds.
            "couplet-defer/src/defer/failure.rs",
            "couplet-core/src/reactor/turn/cluster.rs",
            "couplet-core/src/reactor/frames.rs",
            "couplet-core/src/reactor/inbox.rs",
            "couplet-core/src/reactor/jobs.rs",
            "couplet-core/src/reactor/sync.rs",
            "couplet-core/src/reactor/sharing.rs",
            "couplet-sim/src/wakers.rs",
            "couplet-http/src/body.rs",
            "couplet-http/src/http2/bell.rs",
            "couplet-http/src/http2/inbox.rs",
            "couplet-http/src/http2/tunnel.rs",
            "couplet-inspect/src/inspector.rs",
            "couplet-bus/src/memory.rs",
            "couplet-rooms/src/hub.rs",
            "programs/chat/src/room.rs",
            "programs/couplet/src/datagrams/mod.rs",
            "programs/couplet/src/http/get.rs",
            "programs/couplet/src/http/listing.rs",
            "programs/poetry/src/printer.rs",
            "programs/couplet/src/sim/mod.rs",
            "couplet-os/src/backtrace.rs",
            "couplet-os/src/process.rs",
        ],
    },
    // `get_or_init` can wait for another thread.
    Capability {
        paths: &["std::sync::OnceLock"],
        instead: NO_LOCK,
        places: &[
            "couplet-core/src/driver/affinity.rs",
            "couplet-core/src/endpoints/log.rs",
            "couplet-core/src/layers/tls/engine/world.rs",
            "couplet-http/src/body.rs",
            "couplet-command/src/inspecting.rs",
            "programs/poetry/src/progress.rs",
            "couplet-command/src/server.rs",
            "couplet-os/src/",
        ],
    },
    // Sockets.
    Capability { paths: &["mio"], instead: SOCKET, places: &["couplet-core/src/driver/mio/"] },
    Capability {
        paths: &["socket2"],
        instead: SOCKET,
        places: &["couplet-core/src/driver/mio/", "couplet-core/src/driver/socket.rs"],
    },
    Capability {
        paths: &["socket2::SockRef"],
        instead: SOCKET,
        // The second hands it to `with_socket`, the third to a keeper.
        places: &[
            "couplet-core/src/driver/",
            "couplet-core/src/transport/",
            "couplet-core/src/reactor/keeping.rs",
            "couplet-runner/src/store.rs",
        ],
    },
    Capability {
        paths: &["std::net", "std::os::unix::net", "rustix::net"],
        instead: SOCKET,
        places: &[
            "couplet-runner/src/signals.rs",
            // Descriptors for its store.
            "couplet-runner/src/systemd.rs",
            // Between the processes of a program.
            "couplet-runner/src/restart/",
            "couplet-core/src/driver/mio/",
            "couplet-core/src/driver/socket.rs",
            // A pair for the self-test.
            "couplet-os/src/uring/self_test.rs",
            // A pair for a page and its member.
            "programs/chat/src/web.rs",
        ],
    },
    Capability {
        paths: &["rustix::net::sockopt"],
        instead: SOCKET,
        places: &[
            "couplet-core/src/driver/mio/",
            "couplet-core/src/driver/socket.rs",
            // On the socket that `with_socket` lends.
            "programs/poetry/src/proxy/mod.rs",
        ],
    },
    Capability {
        paths: &["std::net::ToSocketAddrs"],
        instead: "it blocks: names are looked up by the driver",
        places: &["couplet-core/src/driver/names.rs"],
    },
    Capability {
        paths: &["rustix::event"],
        instead: SOCKET,
        places: &["couplet-core/src/driver/mio/", "programs/couplet/src/connect/"],
    },
    Capability {
        paths: &["rustix::io", "rustix::buffer", "rustix::cmsg_space"],
        instead: SOCKET,
        places: &[
            "couplet-runner/src/systemd.rs",
            "couplet-core/src/driver/",
            "programs/couplet/src/connect/",
            "programs/couplet/src/http/beneath.rs",
        ],
    },
    Capability {
        paths: &[
            "rustix::pty",
            "rustix::termios",
            "serial2",
            "std::io::IoSliceMut",
            "std::io::PipeReader",
            "std::io::PipeWriter",
            "std::io::pipe",
            "std::os::linux::net",
            "std::os::windows",
        ],
        instead: SOCKET,
        places: &[
            // Abstract names.
            "couplet-runner/src/systemd.rs",
            "couplet-core/src/driver/",
            "couplet-os/src/process.rs",
            "couplet-os/src/signals.rs",
        ],
    },
    // Files.
    Capability {
        paths: &["std::fs", "std::os::unix::fs", "std::os::windows::fs", "rustix::fs"],
        instead: FILE,
        places: &[
            "couplet-core/src/driver/",
            // Parts of files that are sent.
            "couplet-core/src/outbox/file.rs",
            "couplet-core/src/endpoints/record_file.rs",
            // Checks, before or without a run; the working folder, in a thread of the pool.
            "couplet-runner/src/files.rs",
            "couplet-runner/src/directory.rs",
            "couplet-core/src/layers/tls/directory.rs",
            "couplet-core/src/layers/tls/settings.rs",
            // Two processes compare their traces.
            "couplet-sim/src/determinism.rs",
            "programs/couplet/src/cert.rs",
            // Recordings, before and after the loop, or in a thread of the pool.
            "programs/couplet/src/inspect/fetching.rs",
            "couplet-inspect/src/keeping.rs",
            // `/proc`.
            "programs/couplet/src/inspect/process.rs",
            // Served and downloaded files.
            "programs/couplet/src/http/",
            "programs/poetry/src/poems.rs",
            "programs/couplet/src/sim/mod.rs",
            // The configuration, the log and the pid file.
            "couplet-runner/src/config/mod.rs",
            "couplet-runner/src/logging.rs",
            "couplet-runner/src/pid_file.rs",
            // Records in memory.
            "couplet-runner/src/store.rs",
            // `/proc` and `/dev/null`.
            "couplet-os/src/descriptor.rs",
            "couplet-os/src/epoll.rs",
            "couplet-os/src/orphans.rs",
            "couplet-os/src/process.rs",
        ],
    },
    Capability {
        paths: &["std::io::BufReader", "std::io::BufWriter", "std::io::Seek", "std::io::SeekFrom"],
        instead: FILE,
        places: &[
            "couplet-core/src/endpoints/record_file.rs",
            "programs/couplet/src/inspect/fetching.rs",
            // The end of a log.
            "programs/couplet/src/inspect/process.rs",
            "programs/couplet/src/sim/mod.rs",
            "couplet-runner/src/pid_file.rs",
        ],
    },
    Capability {
        paths: &["std::path::absolute"],
        instead: FILE,
        places: &[
            "couplet-core/src/driver/mio/",
            "couplet-core/src/task/filesystem_lock.rs",
            "programs/couplet/src/http/beneath.rs",
            // The program's own file.
            "couplet-runner/src/restart/mod.rs",
        ],
    },
    // The process.
    Capability {
        paths: &["std::io::IsTerminal", "std::io::stderr", "std::io::stdin", "std::io::stdout"],
        instead: PROCESS,
        places: &[
            "couplet-defer/src/backlog.rs",
            // Standard streams as connections.
            "couplet-core/src/driver/pipe.rs",
            "programs/couplet/src/",
            "couplet-command/src/",
            "couplet-runner/src/logging.rs",
            "couplet-runner/src/runner.rs",
            "programs/poetry/src/",
        ],
    },
    Capability {
        paths: &["std::print", "std::println", "std::eprintln"],
        instead: PROCESS,
        places: &[
            "programs/couplet/src/connect/stdout.rs",
            "programs/couplet/src/datagrams/connect.rs",
            "programs/poetry/src/demo.rs",
            "couplet-command/src/output.rs",
        ],
    },
    Capability {
        paths: &["std::process", "std::os::unix::process"],
        instead: PROCESS,
        places: &[
            // Becomes another program.
            "programs/couplet/src/bench.rs",
            "couplet-core/src/driver/process.rs",
            "couplet-sim/src/determinism.rs",
            "couplet-os/src/process.rs",
        ],
    },
    Capability {
        paths: &["std::process::id", "std::os::unix::process::parent_id"],
        instead: PROCESS,
        places: &[
            // Another process has no thread of this one.
            "couplet-defer/src/backlog.rs",
            // `LISTEN_PID` names this process or another.
            "couplet-core/src/endpoints/inherited.rs",
            "couplet-sim/src/determinism.rs",
            "couplet-os/src/process.rs",
            "couplet-runner/src/control.rs",
            "couplet-runner/src/pid_file.rs",
            "couplet-runner/src/restart/",
            "couplet-runner/src/running.rs",
            "couplet-inspect/src/board.rs",
            // A forked process has no such thread.
            "couplet-inspect/src/thread.rs",
        ],
    },
    Capability {
        paths: &["std::env"],
        instead: PROCESS,
        places: &[
            "couplet-runner/src/directory.rs",
            "programs/couplet/src/bench.rs",
            "couplet-core/src/endpoints/inherited.rs",
            // `COUPLET_SEED`, and the second process.
            "couplet-sim/src/determinism.rs",
            "couplet-sim/src/trial.rs",
            "programs/couplet/src/inspect/screen/mod.rs",
            "couplet-command/src/logging.rs",
            "programs/poetry/src/progress.rs",
            "programs/couplet/src/sim/mod.rs",
            "couplet-runner/src/logging.rs",
            "couplet-runner/src/restart/",
            "couplet-runner/src/systemd.rs",
        ],
    },
    Capability {
        paths: &["std::panic::resume_unwind", "std::panic::set_hook"],
        instead: PROCESS,
        places: &["couplet-command/src/logging.rs", "couplet-sim/src/determinism.rs"],
    },
    Capability {
        paths: &["rustix::process"],
        instead: PROCESS,
        places: &[
            // SIGUSR1, for a snapshot.
            "programs/couplet/src/inspect/process.rs",
            // The limit on descriptors.
            "couplet-command/src/server.rs",
            "couplet-runner/src/running.rs",
        ],
    },
    Capability { paths: &["couplet_os"], instead: PROCESS, places: &["couplet-core/src/driver/"] },
    Capability {
        paths: &["couplet_os::heap"],
        instead: PROCESS,
        places: &[
            "programs/poetry/src/heap_trim.rs",
            "couplet-core/src/driver/mio/slots.rs",
            "couplet-http/src/warm.rs",
        ],
    },
    Capability {
        paths: &["couplet_os::huge"],
        instead: PROCESS,
        places: &["programs/couplet/src/http/cache.rs"],
    },
    Capability {
        paths: &["couplet_os::interfaces"],
        instead: PROCESS,
        places: &[
            // The scope of an IPv6 address.
            "couplet-core/src/address.rs",
        ],
    },
    Capability {
        paths: &["couplet_os::lend", "couplet_os::tethered"],
        instead: PROCESS,
        places: &["couplet-core/src/stream/"],
    },
    Capability {
        paths: &["couplet_os::process", "couplet_os::signals"],
        instead: PROCESS,
        places: &[
            "couplet-core/src/driver/mio/signals.rs",
            "couplet-core/src/driver/mod.rs",
            "couplet-core/src/driver/process.rs",
            // `Limit` names its resource.
            "couplet-core/src/process/mod.rs",
        ],
    },
    Capability {
        paths: &["couplet_os::tcp"],
        instead: PROCESS,
        places: &[
            "couplet-core/src/driver/mio/stream.rs",
            "couplet-core/src/reactor/keeping.rs",
            "couplet-core/src/reactor/turn/keeping.rs",
            "couplet-core/src/transport/cell.rs",
        ],
    },
    Capability {
        paths: &["couplet_os::unsent"],
        instead: PROCESS,
        places: &["couplet-core/src/driver/", "couplet-core/src/transport/cell.rs"],
    },
    Capability {
        paths: &["couplet_os::descriptor::take_inherited"],
        instead: PROCESS,
        // From the descriptor store of the init system.
        places: &["couplet-core/src/endpoints/inherited.rs"],
    },
    Capability {
        paths: &["couplet_os::trap"],
        instead: PROCESS,
        places: &["couplet-sim/src/trapped.rs"],
    },
    Capability {
        paths: &["io_uring"],
        instead: SOCKET,
        places: &["couplet-os/src/uring.rs", "couplet-os/src/uring/"],
    },
    Capability { paths: &["libc", "backtrace"], instead: PROCESS, places: &["couplet-os/src/"] },
    // Guests.
    Capability {
        paths: &["tokio::io", "futures_io"],
        instead: GUEST,
        places: &[
            "couplet-core/src/embed.rs",
            "couplet-core/src/stream/io.rs",
            "couplet-core/src/stream/send.rs",
            "couplet-http/src/client/decoding.rs",
        ],
    },
    Capability {
        paths: &["tokio::runtime", "tokio::task", "tokio::time"],
        instead: GUEST,
        places: &[
            "couplet-core/src/embed.rs",
            "couplet-core/src/reactor/turn/runtime.rs",
            "couplet-sim/src/paused_tokio.rs",
        ],
    },
    Capability {
        paths: &["hyper"],
        instead: GUEST,
        places: &["couplet-core/src/stream/io.rs", "couplet-http/src/"],
    },
    Capability {
        paths: &["async_compression", "h2", "pin_project_lite", "tower_service"],
        instead: GUEST,
        places: &["couplet-http/src/"],
    },
    Capability {
        paths: &["http", "http_body", "http_body_util", "httpdate"],
        instead: GUEST,
        places: &[
            "couplet-http/src/",
            "programs/chat/src/web.rs",
            "programs/couplet/src/http/",
            "couplet-inspect/src/actions.rs",
            "couplet-inspect/src/server.rs",
            "couplet-runner/src/web.rs",
        ],
    },
    Capability {
        paths: &["httparse", "tungstenite"],
        instead: GUEST,
        places: &["couplet-http/src/websocket/"],
    },
    Capability {
        paths: &["rustls", "rustls_platform_verifier"],
        instead: "one module knows the TLS library: `layers/tls/engine`",
        places: &["couplet-core/src/layers/tls/engine/"],
    },
    Capability {
        paths: &["rustls::Error"],
        instead: "one module knows the TLS library: `layers/tls/engine`",
        // As `engine::Error`.
        places: &["couplet-core/src/layers/tls/engine/", "couplet-core/src/layers/tls/mod.rs"],
    },
    Capability {
        paths: &["clap", "tracing_subscriber"],
        instead: GUEST,
        places: &[
            "programs/couplet/src/",
            "couplet-command/src/",
            "couplet-runner/src/",
            "programs/chat/src/",
            "programs/poetry/src/",
        ],
    },
    Capability {
        paths: &["clap_complete"],
        instead: GUEST,
        places: &["couplet-command/src/known.rs"],
    },
    Capability {
        paths: &["console"],
        instead: GUEST,
        places: &["programs/poetry/src/progress.rs", "programs/poetry/src/progress/screen.rs"],
    },
    Capability {
        paths: &["indicatif"],
        instead: GUEST,
        places: &[
            "programs/couplet/src/sim/mod.rs",
            "programs/poetry/src/progress.rs",
            "programs/poetry/src/progress/screen.rs",
        ],
    },
    Capability {
        paths: &["mime_guess", "rcgen", "tower"],
        instead: GUEST,
        places: &["programs/couplet/src/"],
    },
    // The parts that the command lines of programs share.
    Capability {
        paths: &["couplet_command"],
        instead: GUEST,
        places: &[
            "programs/couplet/src/",
            "couplet-runner/src/",
            "programs/chat/src/",
            "programs/poetry/src/",
        ],
    },
    // Their servers are kinds of services, and their worlds are simulated.
    Capability {
        paths: &["chat"],
        instead: GUEST,
        places: &[
            "programs/chat/src/main.rs",
            "programs/couplet/src/run/mod.rs",
            "programs/couplet/src/sim/mod.rs",
        ],
    },
    Capability {
        paths: &["couplet_cli"],
        instead: GUEST,
        places: &["programs/couplet/src/main.rs"],
    },
    Capability {
        paths: &["poetry"],
        instead: GUEST,
        places: &[
            "programs/couplet/src/run/mod.rs",
            "programs/couplet/src/sim/mod.rs",
            "programs/poetry/src/main.rs",
        ],
    },
    Capability {
        paths: &["percent_encoding"],
        instead: GUEST,
        places: &[
            "couplet-bus/src/redis/options.rs",
            "programs/chat/src/address.rs",
            "programs/couplet/src/",
        ],
    },
    Capability {
        paths: &["redis_protocol"],
        instead: GUEST,
        places: &["couplet-bus/src/redis/parser.rs"],
    },
    Capability {
        paths: &["couplet_runner"],
        instead: GUEST,
        places: &["programs/couplet/src/run/"],
    },
    // An address that is a place in a configuration.
    Capability {
        paths: &["couplet_runner::ListenUdp"],
        instead: GUEST,
        places: &[
            "programs/couplet/src/datagrams/",
            "programs/couplet/src/echo.rs",
            "programs/couplet/src/forward/options.rs",
        ],
    },
    Capability {
        paths: &["serde"],
        instead: GUEST,
        places: &[
            "couplet-bus/src/nats/",
            "programs/couplet/src/run/",
            "couplet-inspect/src/",
            "couplet-runner/src/",
        ],
    },
    // The crate reads and writes the terminal, too.
    Capability {
        paths: &["ratatui"],
        instead: GUEST,
        places: &["programs/couplet/src/inspect/screen/"],
    },
    Capability {
        paths: &["serde_json"],
        instead: GUEST,
        places: &[
            "couplet-bus/src/nats/",
            "programs/couplet/src/inspect/",
            "couplet-inspect/src/",
            "couplet-runner/src/",
        ],
    },
    Capability {
        paths: &["aws_lc_rs", "data_encoding", "ring"],
        instead: GUEST,
        places: &["couplet-bus/src/nats/nkey.rs"],
    },
    Capability {
        paths: &[
            "nix",
            "prometheus_client",
            "sd_notify",
            "serde_ignored",
            "signal_hook",
            "strsim",
            "toml",
        ],
        instead: GUEST,
        places: &["couplet-runner/src/"],
    },
];

/// Names with numbers of arguments, and the files that may call them.
type Methods = (&'static [(&'static str, usize)], &'static [&'static str]);

/// Methods of free types that block, reach a file or depend on chance, by name and number of arguments, and the files
/// that may call them. (Types whose paths are permitted nowhere else can still be returned.)
const METHODS: &[Methods] = &[
    // A cast of a pointer to a number counts as a call of `addr`.
    (
        &[("addr", 0), ("expose_provenance", 0)],
        &[
            // Compares places in one buffer.
            "couplet-core/src/protocols/line.rs",
            "couplet-os/src/backtrace.rs",
            "couplet-os/src/signals.rs",
        ],
    ),
    (&[("canonicalize", 0), ("read_dir", 0), ("read_link", 0), ("try_exists", 0)], &[]),
    (
        &[("exists", 0), ("is_dir", 0), ("is_file", 0), ("metadata", 0), ("symlink_metadata", 0)],
        &[
            "couplet-core/src/driver/mio/lock.rs",
            "couplet-core/src/outbox/file.rs",
            "couplet-core/src/endpoints/record_file.rs",
            "couplet-core/src/endpoints/tls.rs",
            "couplet-runner/src/config/mod.rs",
            "couplet-runner/src/directory.rs",
            "couplet-runner/src/files.rs",
            "couplet-runner/src/pid_file.rs",
            // Of an event.
            "couplet-defer/src/events.rs",
            "couplet-runner/src/logging.rs",
            "couplet-runner/src/repeats.rs",
            "couplet-core/src/layers/tls/directory.rs",
            "programs/couplet/src/cert.rs",
            "programs/couplet/src/inspect/process.rs",
            "programs/couplet/src/http/",
        ],
    ),
    (&[("to_socket_addrs", 0)], &["couplet-core/src/driver/names.rs"]),
    (
        &[("join", 0), ("recv", 0)],
        &[
            "couplet-core/src/reactor/remote.rs",
            "couplet-sim/src/determinism.rs",
            // A future, of a message.
            "couplet-http/src/websocket/mod.rs",
            "programs/chat/src/web.rs",
            "programs/couplet/src/connect/",
            "programs/couplet/src/inspect/screen/feed.rs",
            "couplet-inspect/src/live.rs",
            // Before the main loop runs.
            "couplet-runner/src/workers.rs",
            // Before the inspected loop runs, and when it is dropped.
            "couplet-inspect/src/thread.rs",
        ],
    ),
    // For a slow reader of stdout or of the log, or further loops, after the loop has ended.
    (
        &[("recv_timeout", 1)],
        &[
            "programs/couplet/src/connect/stdout.rs",
            "couplet-inspect/src/thread.rs",
            "couplet-runner/src/workers.rs",
        ],
    ),
    (
        &[
            ("wait_timeout", 2),
            ("wait_timeout_ms", 2),
            ("wait_timeout_while", 3),
            ("wait_while", 2),
        ],
        &[
            "couplet-defer/src/backlog.rs",
            "couplet-core/src/driver/pool.rs",
            "couplet-core/src/driver/stalls.rs",
            // Before a loop is created again.
            "couplet-core/src/reactor/turn/cluster.rs",
            "programs/poetry/src/printer.rs",
        ],
    ),
];

/// Receivers whose `elapsed()` is virtual time.
const VIRTUAL: [&str; 3] = ["network", "sim", "self"];

/// True when a file is one of the places, or in one of the folders.
fn is_in(places: &[&str], file: &str) -> bool {
    let file = file.trim_start_matches("crates/");
    let is = |place: &&str| file == *place || (place.ends_with('/') && file.starts_with(*place));
    places.iter().any(is)
}

/// The row of a path.
enum Row {
    Free(&'static str),
    Restricted(&'static Capability),
    /// A module with only some parts listed: each path into it is looked up.
    Above,
    Missing,
}

/// Both tables, by segments.
struct Table {
    rows: BTreeMap<Vec<&'static str>, (&'static str, Option<&'static Capability>)>,
    /// The modules above a row, and whether one of their rows is free.
    above: BTreeMap<Vec<&'static str>, bool>,
}

impl Table {
    fn new() -> Table {
        let mut table = Table { rows: BTreeMap::new(), above: BTreeMap::new() };
        let free = FREE.iter().map(|&row| (row, None));
        let restricted =
            CAPABILITIES.iter().flat_map(|of| of.paths.iter().map(move |&row| (row, Some(of))));
        for (row, of) in free.chain(restricted) {
            let path: Vec<_> = row.split("::").collect();
            for length in 1..path.len() {
                *table.above.entry(path[..length].to_vec()).or_default() |= of.is_none();
            }
            table.rows.insert(path, (row, of));
        }
        table
    }

    fn row(&self, path: &[String]) -> Row {
        let path: Vec<_> = path.iter().map(String::as_str).collect();
        // A glob needs a row for all that it may import.
        if let Some(("*", module)) = path.split_last().map(|(last, module)| (*last, module))
            && self.above.contains_key(module)
        {
            return Row::Missing;
        }
        if self.above.get(&path[..]) == Some(&true)
            && !matches!(self.rows.get(&path[..]), Some((_, None)))
        {
            return Row::Above;
        }
        match (1..=path.len()).rev().find_map(|length| self.rows.get(&path[..length])) {
            Some((row, None)) => Row::Free(row),
            Some((_, Some(of))) => Row::Restricted(of),
            None if self.above.contains_key(&path[..]) => Row::Above,
            None => Row::Missing,
        }
    }
}

fn named(file: &Code, modules: &Modules, table: &Table) -> Vec<String> {
    let mut broken = Vec::new();
    for mention in &file.mentions {
        for path in modules.outside(file, &mention.path) {
            let reason = match table.row(&path) {
                Row::Free(_) | Row::Above => continue,
                Row::Restricted(row) if is_in(row.places, &file.path) => continue,
                Row::Restricted(row) => row.instead,
                Row::Missing => "no capability lists it",
            };
            let (path, line) = (path.join("::"), mention.line);
            broken.push(format!("{}:{line} names {path}: {reason}", file.path));
        }
    }
    broken.dedup();
    broken
}

fn reads_a_clock(call: &Call) -> bool {
    let whose = call.receiver.last().map_or("", String::as_str);
    call.name == "elapsed" && !VIRTUAL.contains(&whose)
}

fn is_one(call: &Call, methods: &[(&str, usize)]) -> bool {
    methods.contains(&(call.name.as_str(), call.arguments))
}

fn called(file: &Code) -> Vec<String> {
    let mut broken = Vec::new();
    for call in &file.calls {
        let (name, line) = (&call.name, call.line);
        let row = METHODS.iter().find(|(methods, _)| is_one(call, methods));
        if row.is_some_and(|(_, places)| !is_in(places, &file.path)) {
            broken.push(format!("{}:{line} calls {name}: {EFFECT}", file.path));
        }
        if reads_a_clock(call) {
            broken.push(format!("{}:{line} calls {name}: {CLOCK}", file.path));
        }
        if name.starts_with('$') {
            broken.push(format!("{}:{line} calls {name}: a macro hides no method", file.path));
        }
    }
    // `Path::exists`, called or stored.
    for mention in &file.mentions {
        let [.., owner, name] = &mention.path[..] else { continue };
        let is_type = owner.starts_with(|c: char| c.is_uppercase() || c == '$');
        let row = METHODS.iter().find(|(methods, _)| methods.iter().any(|(of, _)| of == name));
        if is_type && row.is_some_and(|(_, places)| !is_in(places, &file.path)) {
            let line = mention.line;
            broken.push(format!("{}:{line} names {name}: {EFFECT}", file.path));
        }
    }
    broken
}

fn broken_in(file: &Code, modules: &Modules, table: &Table) -> Vec<String> {
    [named(file, modules, table), called(file)].concat()
}

/// The files of the library and of the program, and the modules that their paths lead through.
fn files() -> [(&'static [Code], Modules); 7] {
    let facade = library("couplet");
    let [chat, cli, command, runner, poetry] = PROGRAMS;
    ["couplet", "couplet-os", chat, cli, command, runner, poetry].map(|name| {
        let files = library(name);
        let modules = match name {
            "couplet" | "couplet-os" => Modules::of(files),
            _ => Modules::of(facade.iter().chain(files)),
        };
        (files, modules)
    })
}

#[test]
fn each_file_names_only_its_capabilities() {
    with_parsed_code(|| {
        let (files, table) = (files(), &Table::new());
        let broken = files.iter().flat_map(|(files, modules)| {
            files.iter().flat_map(|file| broken_in(file, modules, table))
        });
        let broken: Vec<String> = broken.collect();
        assert_none(
            &broken,
            "law 3: time, waiting, sockets, files and chance come from the driver and its world. If a room \
         needs a capability, its row in CAPABILITIES says so (laws/src/tidy/capabilities.rs)",
        );
    });
}

/// An unused exemption would permit new uses.
#[test]
fn every_exemption_is_used() {
    with_parsed_code(|| {
        let (files, table) = (files(), Table::new());
        let mut unused: BTreeSet<(&str, &str)> = BTreeSet::new();
        let all = CAPABILITIES
            .iter()
            .flat_map(|row| row.places.iter().map(|place| (row.paths[0], *place)));
        unused.extend(all);
        unused.extend(
            METHODS.iter().flat_map(|(of, places)| places.iter().map(|place| (of[0].0, *place))),
        );
        unused.extend(FREE.iter().map(|row| (*row, "no file")));
        let files =
            files.iter().flat_map(|(files, modules)| files.iter().map(move |file| (file, modules)));
        for (file, modules) in files {
            for path in
                file.mentions.iter().flat_map(|mention| modules.outside(file, &mention.path))
            {
                match table.row(&path) {
                    Row::Free(row) => drop(unused.remove(&(row, "no file"))),
                    Row::Restricted(row) => {
                        unused.retain(|(of, place)| {
                            *of != row.paths[0] || !is_in(&[place], &file.path)
                        });
                    }
                    Row::Above | Row::Missing => {}
                }
            }
            for call in &file.calls {
                let row = METHODS.iter().find(|(methods, _)| is_one(call, methods));
                let name = row.map_or("", |(methods, _)| methods[0].0);
                unused.retain(|(of, place)| *of != name || !is_in(&[place], &file.path));
            }
        }
        let unused: Vec<_> = unused.iter().map(|(row, place)| format!("{row}: {place}")).collect();
        assert_none(&unused, "law 3: remove these from the tables (laws/src/tidy/capabilities.rs)");
    });
}

#[test]
fn every_way_out_of_the_library_is_found() {
    with_parsed_code(|| {
        let (library, table) = (library("couplet"), Table::new());
        let broken = |text: &str| {
            let file = Code::of("reactor/turn.rs", text);
            broken_in(&file, &Modules::of(library.iter().chain([&file])), &table)
        };
        let passes = FORBIDDEN.iter().filter(|text| broken(text).is_empty());
        assert_eq!(passes.collect::<Vec<_>>(), Vec::<&&str>::new(), "these pass");
        let fails: Vec<_> = PERMITTED.iter().flat_map(|text| broken(text)).collect();
        assert_none(&fails, "these are permitted");
    });
}

/// Each breaks law 3 in the turn.
const FORBIDDEN: &[&str] = &[
    // Clocks.
    "fn f() { std::time::Instant::now(); }",
    "use std::time::Instant; fn f() { g(Instant::now) }",
    "use std::time::Instant as Clock; fn f() { Clock::now(); }",
    "use std::time; fn f() { time::Instant::now(); }",
    "use std as s; use s::time as t; fn f() { t::Instant::now(); }",
    "extern crate std as s; fn f() { s::time::Instant::now(); }",
    "type Clock = std::time::Instant; fn f() { Clock::now(); }",
    "impl Now for std::time::Instant { fn f() { Self::now(); } }",
    "fn f() { <std::time::Instant>::now(); }",
    "fn f(began: Instant) { began.elapsed(); }",
    "fn f(me: &Me) { warn!(took = ?me.began.elapsed()); }",
    "fn f(began: std::time::Instant) { std::time::Instant::elapsed(&began); }",
    "mod took { use std::time::Instant as Clock; const T: fn(&Clock) -> D = Clock::elapsed; }",
    "use std::time::SystemTime;",
    "fn f() { tokio::time::Instant::now(); }",
    "use std::time::*;",
    "use std::*;",
    // Threads and waits.
    "fn f() { std::thread::spawn(|| 1).join(); }",
    "use std::thread::{self as threads}; fn f() { threads::spawn(g); }",
    "fn f() { use std::thread as t; t::spawn(g); }",
    "mod a { use crate::slots as thread; } use std::thread; fn f() { thread::spawn(g); }",
    "fn f() { std::thread::Builder::new().spawn(g); }",
    "use std::thread::*;",
    "fn f(h: Handle) { h.join(); }",
    "use std::thread::park_timeout as wait;",
    "use std::thread; fn f() { thread::park(); }",
    "fn f() { std::thread::yield_now(); }",
    "fn f() { vec![std::thread::sleep(D); 1]; }",
    "fn f(b: &std::sync::Barrier) { b.wait(); }",
    "use std::sync::{Arc, Condvar};",
    "fn f(condition: &C) { condition.wait_timeout(held, D); }",
    "fn f(r: &std::sync::mpsc::Receiver<u8>) { r.recv(); }",
    "fn f(r: &R) { r.recv(); }",
    "use std::sync::Mutex;",
    "fn f() { rustix::thread::nanosleep(&t); }",
    "use rustix::thread; fn f() { thread::clock_nanosleep_relative(id, &t); }",
    "fn f() { tokio::task::spawn_blocking(g); }",
    // Sockets.
    "use std::net::TcpStream;",
    "use std::net::{IpAddr, UdpSocket};",
    "fn f() { std::os::unix::net::UnixStream::connect(p); }",
    "use std::os::unix::net::UnixDatagram;",
    "use std::os; fn f() { os::unix::net::UnixListener::bind(p); }",
    "fn f(poll: ::mio::Poll) {}",
    "fn f() { mio::Poll::new(); }",
    "fn f() { socket2::Socket::new(a, b, c); }",
    "use crate::driver::SockRef;",
    "fn f() { rustix::net::socket(a, b, c); }",
    "use rustix::net::*;",
    "fn f() { rustix::io::read(fd, b); }",
    "fn f() { libc::send(fd, b, n, 0); }",
    "fn f() { couplet_os::unsent::unsent(fd); }",
    "fn f() { std::io::pipe(); }",
    "fn f(a: &str) { a.to_socket_addrs(); }",
    // Files.
    "fn f() { std::fs::read(p); }",
    "fn f() { std::fs::File::open(p); }",
    "use std::{fmt, fs as disk, io}; fn f() { disk::read_to_string(\"/proc/self/stat\"); }",
    "fn f(fd: OwnedFd) { std::fs::File::from(fd); }",
    "fn f(p: &std::path::Path) { p.exists(); }",
    "fn f(p: &Path) { p.read_dir(); }",
    "use rustix::fs::open;",
    // The process, and chance.
    "fn f() { std::process::id(); }",
    "fn f() { std::process::Command::new(p); }",
    "fn f() { std::env::var(name); }",
    "fn f() { std::io::stdin().read_line(&mut line); }",
    "use std::io; fn f() { io::stdout(); }",
    "fn f() { println!(\"a line\"); }",
    "fn f() { std::eprintln!(\"a line\"); }",
    "use std::hash::{BuildHasher, RandomState};",
    "fn f() { std::hash::DefaultHasher::new(); }",
    "use std::collections::hash_map::RandomState;",
    "use std::collections::hash_map::DefaultHasher;",
    "fn f() { getrandom::fill(&mut b); }",
    "fn f() { std::panic::set_hook(b); }",
    "use std::collections::HashMap as Map; fn f() { Map::<u8, u8>::new().hasher().hash_one(0); }",
    "fn f() -> std::collections::HashSet<u8> { g() }",
    "mod a { pub use std::collections::HashMap as Map; } fn f(m: &a::Map<u8, u8>) {}",
    "fn f() -> String { format!(\"{:?}\", std::thread::current().id()) }",
    "fn f(x: *const u8) -> usize { x.addr() }",
    "fn f(x: &u8) -> usize { std::ptr::from_ref(x) as usize }",
    "fn f(x: &u8) -> usize { x as *const u8 as usize }",
    "fn f(x: &u8) -> String { format!(\"{x:p}\") }",
    // Other spellings.
    "mod a { pub use std::time::Instant as Clock; } fn f() { a::Clock::now(); }",
    "mod a { pub mod b { pub use std::fs as disk; } } fn f() { a::b::disk::read(p); }",
    "fn f(p: &Path) { p.r#exists(); }",
    "fn f(p: &std::path::Path) { std::path::Path::exists(p); }",
    "use std::path::Path; fn f(p: Option<&Path>) { p.is_some_and(Path::is_file); }",
    "fn f(o: &std::sync::OnceLock<u8>) { o.wait(); }",
    "include!(\"../hidden.rs\");",
    "#[cfg_attr(all(), tokio::main)] async fn main() {}",
    "extern crate libc;",
    // In macros.
    "macro_rules! m { ($a:ident, $b:ident) => { std::$a::$b(\"/etc/hosts\") } }",
    "macro_rules! m { ($t:ident) => { std::time::$t::now() } }",
    "macro_rules! m { ($t:ty) => { <$t>::exists(p) } }",
    "macro_rules! m { ($x:expr, $f:ident) => { $x.$f() } }",
    "macro_rules! m { () => { println!(\"a line\") } }",
    "macro_rules! m { () => { include!(\"../hidden.rs\"); } }",
    // Another crate.
    "#[tokio::main] async fn main() {}",
    "macro_rules! m { () => { $crate::f(std::process::id()) } }",
    "fn f() { rand::random(); }",
];

const PERMITTED: &[&str] = &[
    "fn f(n: &Network) { n.network.elapsed(); }",
    "// Instant::now()\nconst S: &str = \"thread::sleep\";",
    "#[cfg(test)] mod tests { fn f() { std::time::Instant::now(); } }",
    "#[cfg(all(test, unix))] mod tests { fn f() { std::fs::read(p); } }",
    "use std::time::{Duration, Instant}; fn f(now: Instant) {}",
    "use std::{io, thread}; fn f() -> io::Result<bool> { Ok(thread::panicking()) }",
    "use std::net; fn f(a: net::SocketAddr, b: net::IpAddr) {}",
    "mod fs { pub fn read() {} } fn f() { fs::read(); }",
    "fn f(parts: &[&str]) { parts.join(\"\"); }",
    "fn f() { u8::from(true); <[u8]>::to_vec(&x); }",
    "macro_rules! m { ($x:expr, $t:ident) => { $x.$t = $crate::Key::$t } }",
    "fn f(n: u64) -> usize { n as usize }",
];
