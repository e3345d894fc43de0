//! Dependencies between the rooms, and law 8.
//!
//! Every path that starts with `crate`, `self` or `super` (in code, imports and macros) is resolved
//! to the module that defines its target, through re-exports: `crate::Transport` counts as
//! `crate::transport::Transport`.

use super::modules::{Modules, is_below};
use super::source::{Code, LIBRARY, Mention, assert_none};

/// The rooms that each room may name. `protocol`, `transport`, `datagrams` and `recorder` form one
/// layer: a protocol gets a transport, which leads to its reactor's handle. `factory` and
/// `connector` form the next one, and `reactor` is above both. The layer below, `address`, `error`,
/// `defer`, `timers`, `outbox`, the seam (`driver`) and `layers`, depends on none of them.
///
/// With `crate`, a room may name what the root exports: the public API (law 8), which
/// `tests/public_api.rs` has the compiler check too.
const MAY_KNOW: [(&str, &str); 35] = [
    ("bounded", ""),
    ("sorted", "bounded"),
    ("why", ""),
    ("backlog", ""),
    ("events", "backlog"),
    ("http2", ""),
    ("address", ""),
    ("counters", ""),
    ("slots", ""),
    ("timers", "slots"),
    ("panics", ""),
    ("unread", ""),
    ("switches", ""),
    ("outbox", ""),
    ("defer", "backlog panics"),
    ("internals", "defer"),
    ("error", "address defer"),
    ("driver", "panics address counters slots error outbox switches"),
    ("layers", "panics address defer error outbox switches unread"),
    ("protocol", "error transport"),
    ("factory", "panics address connector driver error layers protocol recorder transport"),
    (
        "transport",
        "panics address slots defer driver error internals layers outbox protocol recorder timers why",
    ),
    ("datagrams", "panics address counters slots defer driver recorder"),
    ("recorder", "panics datagrams outbox slots defer driver internals timers transport"),
    ("connector", "address slots defer driver error factory recorder timers transport why"),
    (
        "reactor",
        "backlog panics address counters datagrams slots defer driver error factory internals layers protocol \
         transport connector outbox recorder switches timers why",
    ),
    ("task", "panics defer reactor recorder"),
    (
        "process",
        "panics address defer driver error factory internals protocol reactor recorder transport",
    ),
    (
        "endpoints",
        "backlog panics process defer driver factory layers reactor recorder transport address error \
         protocol switches",
    ),
    ("protocols", "crate defer driver endpoints hooks layers"),
    ("stream", "crate panics defer endpoints layers protocols reactor unread"),
    ("services", "crate defer endpoints hooks layers reactor task"),
    ("bus", "crate defer endpoints hooks layers reactor services"),
    ("rooms", "crate hooks"),
    ("embed", "crate reactor"),
];

/// Rooms without restrictions: the test kit, the hooks, and the crates above the core.
const FREE: [&str; 5] = ["testing", "hooks", "http", "inspect", "sim"];

/// The modules that record for the turn. None may name the turn, whose public items `reactor` exports.
const RECORDING: [&str; 7] =
    ["protocol", "factory", "transport", "datagrams", "recorder", "connector", "reactor"];

/// The error about a path of a file in this room, if it breaks the rule.
fn wrong(mention: &Mention, file: &Code, allowed: &str, modules: &Modules) -> Option<String> {
    let (room, path) = (file.module[0].as_str(), mention.path.join("::"));
    match (mention.path[0].as_str(), &mention.path[1..]) {
        // From `pub(super)`.
        (_, []) => return None,
        ("super", out) => {
            let out = out.join("::");
            return Some(format!("`super::` leaves the room `{room}`: write `crate::{out}`"));
        }
        ("crate", [glob]) if glob == "*" => {
            return Some("a glob import of the crate root: import names".to_owned());
        }
        ("crate", _) => {}
        _ => return None,
    }
    let steps = modules.steps(&mention.path);
    let inside = |step: &[String], of: &str| is_below(&step.join("::"), of);
    let is_turn = |step: &[String]| inside(step, "reactor::turn");
    let records = RECORDING.contains(&room) && file.module != ["reactor"];
    if records && !is_turn(&file.module) && steps.iter().any(|step| is_turn(&step[1..])) {
        return Some(format!("handles record and the turn acts: {path} is of the turn"));
    }
    // A re-export at the root is judged by the room that it leads to.
    // Any room may name these: types for fields, without behaviour.
    let named = steps.iter().filter(|step| step[0] == "crate" && step.len() > 1);
    for step in named.filter(|step| !["bounded", "sorted"].contains(&&*step[1])) {
        let of_the_root = !modules.has(&step[1..2]);
        if of_the_root && allowed.split(' ').any(|room| room == "crate") {
            return None;
        }
        let leads_on = of_the_root && Some(step) != steps.last();
        let mut known = allowed.split(' ').chain([room]);
        if !leads_on && !known.any(|room| inside(&step[1..], room)) {
            return Some(format!("`{room}` may not depend on {} ({path})", step.join("::")));
        }
    }
    None
}

/// The forbidden dependencies of a file.
fn broken_in(file: &Code, modules: &Modules) -> Vec<String> {
    let Some(room) = file.module.first() else { return Vec::new() };
    let Some((_, allowed)) = MAY_KNOW.iter().find(|(name, _)| name == room) else {
        let missing = format!("{}: {room} has no row in MAY_KNOW", file.path);
        return if FREE.contains(&room.as_str()) { Vec::new() } else { vec![missing] };
    };
    let wrong = |mention: &Mention| {
        let wrong = wrong(mention, file, allowed, modules)?;
        Some(format!("{}:{}: {wrong}", file.path, mention.line))
    };
    file.mentions.iter().filter_map(wrong).collect()
}

#[test]
fn rooms_know_only_the_rooms_below_them() {
    let modules = Modules::of(LIBRARY.iter());
    let mut broken: Vec<_> = LIBRARY.iter().flat_map(|file| broken_in(file, &modules)).collect();
    broken.dedup();
    assert_none(
        &broken,
        "a room depends on one that it may not know. Move the code or invert the dependency; if the \
         order itself is wrong, change MAY_KNOW (laws/src/tidy/rooms.rs) and ARCHITECTURE.md",
    );
    for (path, text, count) in SPELLINGS {
        assert_eq!(broken_in(&Code::of(path, text), &modules).len(), *count, "{path}: {text}");
    }
}

/// A file, its text, and the number of its forbidden paths.
const SPELLINGS: &[(&str, &str, usize)] = &[
    ("defer/deferred.rs", "use crate::{Reactor, Transport as T};", 2),
    ("defer/mod.rs", "use crate::*;", 1),
    ("defer/mod.rs", "fn f() { g(crate::Reactor::new); }", 1),
    ("driver/mod.rs", "use crate::{Address, Protocol};", 1),
    ("driver/mio/mod.rs", "fn f(t: &crate::transport::Transport) {}", 1),
    ("driver/mio/mod.rs", "fn f() { assert!(is(crate::reactor::now())); }", 1),
    ("driver/mio/mod.rs", "macro_rules! m { () => { use crate::{Address, Reactor}; } }", 1),
    ("driver/mio/mod.rs", "mod inner { use super::super::super::reactor::Reactor; }", 1),
    ("protocols/line.rs", "use super::super::reactor::Reactor;", 1),
    ("protocols/line.rs", "use super::super::Transport;", 1),
    ("protocols/line.rs", "use crate::transport::cell::ConnectionCell;", 1),
    ("protocols/line.rs", "use couplet_defer::internals::new_quiet;", 1),
    ("services/client.rs", "use crate::panics::contain;", 1),
    ("address.rs", "use crate::Failure;", 1),
    ("reactor/port.rs", "use super::turn::Core;", 1),
    ("reactor/port.rs", "use crate::reactor::Loop;", 1),
    ("reactor/port.rs", "fn f(l: &crate::Loop) {}", 1),
    ("driver/mio/mod.rs", "use crate::Address; use super::{Key, Sent};", 0),
    ("driver/mio/mod.rs", "/// [`crate::Reactor`]\nconst S: &str = \"crate::Reactor\";", 0),
    ("driver/mio/mod.rs", "#[cfg(test)] mod tests { use crate::reactor::Reactor; }", 0),
    ("protocols/line.rs", "use crate::{Protocol, Transport}; use super::framing;", 0),
];
