//! Dependencies between the rooms, and law 8.
//!
//! Every path that starts with `crate`, `self` or `super` (in code, imports and macros) is resolved
//! to the module that defines its target, through re-exports: `crate::Transport` counts as
//! `crate::transport::Transport`.

use super::modules::Modules;
use super::source::{Code, Mention, assert_none, library, with_parsed_code};

/// The rooms that each room may name. `protocol`, `transport`, `datagrams` and `recorder` form one
/// layer: a protocol gets a transport, which leads to its reactor's handle. `factory` and
/// `connector` form the next one, and `reactor` is above both. The layer below, `address`, `error`,
/// `defer`, `timers`, `outbox`, the seam (`driver`) and `layers`, depends on none of them.
const MAY_KNOW: [(&str, &[&str]); 33] = [
    ("bounded", &[]),
    ("why", &[]),
    ("backlog", &[]),
    ("events", &["backlog"]),
    ("http2", &[]),
    ("address", &[]),
    ("slots", &[]),
    ("timers", &["slots"]),
    ("panics", &[]),
    ("unread", &[]),
    ("switches", &[]),
    ("outbox", &[]),
    ("defer", &["backlog", "panics"]),
    ("internals", &["defer"]),
    ("error", &["address", "defer"]),
    ("driver", &["panics", "address", "slots", "error", "outbox", "switches"]),
    ("layers", &["panics", "address", "defer", "error", "outbox", "switches", "unread"]),
    ("protocol", &["error", "transport"]),
    (
        "factory",
        &[
            "panics",
            "address",
            "connector",
            "driver",
            "error",
            "layers",
            "protocol",
            "recorder",
            "transport",
        ],
    ),
    (
        "transport",
        &[
            "panics",
            "address",
            "slots",
            "defer",
            "driver",
            "error",
            "internals",
            "layers",
            "outbox",
            "protocol",
            "recorder",
            "timers",
            "why",
        ],
    ),
    ("datagrams", &["panics", "address", "slots", "defer", "driver", "recorder"]),
    (
        "recorder",
        &[
            "panics",
            "datagrams",
            "outbox",
            "slots",
            "defer",
            "driver",
            "internals",
            "timers",
            "transport",
        ],
    ),
    (
        "connector",
        &[
            "address",
            "slots",
            "defer",
            "driver",
            "error",
            "factory",
            "recorder",
            "timers",
            "transport",
            "why",
        ],
    ),
    (
        "reactor",
        &[
            "backlog",
            "panics",
            "address",
            "datagrams",
            "slots",
            "defer",
            "driver",
            "error",
            "factory",
            "internals",
            "layers",
            "protocol",
            "transport",
            "connector",
            "outbox",
            "recorder",
            "switches",
            "timers",
            "why",
        ],
    ),
    ("task", &["panics", "defer", "reactor", "recorder"]),
    (
        "process",
        &[
            "panics",
            "address",
            "defer",
            "driver",
            "error",
            "factory",
            "internals",
            "protocol",
            "reactor",
            "recorder",
            "transport",
        ],
    ),
    (
        "endpoints",
        &[
            "backlog",
            "panics",
            "process",
            "defer",
            "driver",
            "factory",
            "layers",
            "reactor",
            "recorder",
            "transport",
            "address",
            "error",
            "protocol",
            "switches",
        ],
    ),
    // Law 8: the public API only. `tests/public_api.rs` has the compiler check it too.
    ("protocols", &[THE_ROOT, "defer", "driver", "endpoints", "layers"]),
    (
        "stream",
        &[THE_ROOT, "panics", "defer", "endpoints", "layers", "protocols", "reactor", "unread"],
    ),
    ("services", &[THE_ROOT, "defer", "endpoints", "layers", "reactor", "task"]),
    ("bus", &[THE_ROOT, "defer", "endpoints", "layers", "reactor", "services"]),
    ("rooms", &[THE_ROOT]),
    ("embed", &[THE_ROOT, "reactor"]),
];

/// Names re-exported at the crate root.
const THE_ROOT: &str = "crate";

/// A room that all others may name: a type for fields, without behaviour.
const EVERYWHERE: &str = "bounded";

/// Rooms without restrictions: the test kit, the hooks, and the crates `http` and `sim`, which have
/// only the core's public items.
const FREE: [&str; 5] = ["testing", "hooks", "http", "inspect", "sim"];

/// The error about a path, if it breaks the rule.
fn wrong(mention: &Mention, room: &str, allowed: &[&str], modules: &Modules) -> Option<String> {
    // From `pub(super)`.
    if mention.path.len() == 1 {
        return None;
    }
    let path = mention.path.join("::");
    match mention.path.first().map(String::as_str) {
        Some("super") => {
            let out = path.trim_start_matches("super::");
            return Some(format!("`super::` leaves the room `{room}`: write `crate::{out}`"));
        }
        Some("crate") => {}
        _ => return None,
    }
    if mention.path.len() == 2 && mention.path[1] == "*" {
        return Some("a glob import of the crate root: import names".to_owned());
    }
    let steps = modules.steps(&mention.path);
    // A re-export at the root is judged by the room that it leads to.
    for step in steps.iter().filter(|step| step[0] == "crate" && step.len() > 1) {
        let inside = &step[1..];
        let of_the_root = !modules.has(&inside[..1]);
        if of_the_root && allowed.contains(&THE_ROOT) {
            return None;
        }
        let leads_on = of_the_root && step != steps.last().expect("at least one step");
        let inside = inside.join("::");
        if step[1] == EVERYWHERE {
            return None;
        }
        let within = |room: &&str| {
            inside.strip_prefix(*room).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        if !leads_on && !within(&room) && !allowed.iter().any(within) {
            let what = if *step == mention.path { String::new() } else { format!(" ({path})") };
            return Some(format!("`{room}` may not depend on crate::{inside}{what}"));
        }
    }
    None
}

/// The forbidden dependencies of a file.
fn broken_in(file: &Code, modules: &Modules) -> Vec<String> {
    let Some(room) = file.module.first() else { return Vec::new() };
    let row = MAY_KNOW.iter().find(|(name, _)| name == room);
    let Some((_, allowed)) = row else {
        let free = FREE.contains(&room.as_str());
        let missing = (!free).then(|| format!("{}: {room} has no row in MAY_KNOW", file.path));
        return missing.into_iter().collect();
    };
    let wrong = |mention: &Mention| wrong(mention, room, allowed, modules);
    let at = |mention: &Mention| format!("{}:{}", file.path, mention.line);
    let mentions = file.mentions.iter();
    mentions.filter_map(|m| wrong(m).map(|wrong| format!("{}: {wrong}", at(m)))).collect()
}

#[test]
fn rooms_know_only_the_rooms_below_them() {
    with_parsed_code(|| {
        let files = library("couplet");
        let modules = Modules::of(files);
        let mut broken: Vec<_> = files.iter().flat_map(|file| broken_in(file, &modules)).collect();
        broken.dedup();
        assert_none(
            &broken,
            "a room depends on one that it may not know. Move the code or invert the dependency; if the \
         order itself is wrong, change MAY_KNOW (laws/src/tidy/rooms.rs) and ARCHITECTURE.md",
        );
    });
}

/// The modules that record for the turn. None may name the turn, but `reactor` re-exports its
/// public items.
const RECORDING: [&str; 7] =
    ["protocol", "factory", "transport", "datagrams", "recorder", "connector", "reactor"];

/// The paths into the turn that a file of [`RECORDING`] names.
fn taken_from_the_turn(file: &Code, modules: &Modules) -> Vec<String> {
    let is_of_the_turn = |path: &[String]| path.starts_with(&["reactor", "turn"].map(String::from));
    let room = file.module.first().map(String::as_str).unwrap_or_default();
    let re_exports = file.module.len() == 1 && room == "reactor";
    if !RECORDING.contains(&room) || is_of_the_turn(&file.module) || re_exports {
        return Vec::new();
    }
    let taken = file.mentions.iter().filter(|mention| {
        let steps = modules.steps(&mention.path);
        steps.iter().any(|step| step.len() > 1 && is_of_the_turn(&step[1..]))
    });
    taken
        .map(|mention| format!("{}:{}: {}", file.path, mention.line, mention.path.join("::")))
        .collect()
}

#[test]
fn handles_do_not_know_the_turn() {
    with_parsed_code(|| {
        let files = library("couplet");
        let modules = Modules::of(files);
        let taken: Vec<_> =
            files.iter().flat_map(|file| taken_from_the_turn(file, &modules)).collect();
        assert_none(
            &taken,
            "handles record and the turn acts: a handle may not use crate::reactor::turn",
        );
        for text in
            ["use super::turn::Core;", "use crate::reactor::Loop;", "fn f(l: &crate::Loop) {}"]
        {
            let file = Code::of("reactor/port.rs", text);
            assert_eq!(taken_from_the_turn(&file, &modules).len(), 1, "{text}");
        }
    });
}

#[test]
fn every_spelling_of_a_forbidden_path_is_found() {
    with_parsed_code(|| {
        let modules = Modules::of(library("couplet"));
        let broken = |path: &str, text: &str| broken_in(&Code::of(path, text), &modules).len();
        for (path, text) in [
            ("defer/deferred.rs", "use crate::{Reactor, Transport as T};"),
            ("defer/mod.rs", "use crate::*;"),
            ("defer/mod.rs", "fn f() { g(crate::Reactor::new); }"),
            ("driver/mod.rs", "use crate::{Address, Protocol};"),
            ("driver/mio/mod.rs", "fn f(t: &crate::transport::Transport) {}"),
            ("driver/mio/mod.rs", "fn f() { assert!(is(crate::reactor::now())); }"),
            ("driver/mio/mod.rs", "macro_rules! m { () => { use crate::{Address, Reactor}; } }"),
            ("driver/mio/mod.rs", "mod inner { use super::super::super::reactor::Reactor; }"),
            ("protocols/line.rs", "use super::super::reactor::Reactor;"),
            ("protocols/line.rs", "use super::super::Transport;"),
            ("protocols/line.rs", "use crate::transport::cell::ConnectionCell;"),
            ("protocols/line.rs", "use couplet_defer::internals::new_quiet;"),
            ("services/client.rs", "use crate::panics::contain;"),
            ("address.rs", "use crate::Failure;"),
        ] {
            assert!(broken(path, text) > 0, "{path} may not say {text}");
        }
        for (path, text) in [
            ("driver/mio/mod.rs", "use crate::Address; use super::{Key, Sent};"),
            (
                "driver/mio/mod.rs",
                "/// [`crate::reactor::Reactor`]\nconst S: &str = \"crate::Reactor\";",
            ),
            ("driver/mio/mod.rs", "#[cfg(test)] mod tests { use crate::reactor::Reactor; }"),
            ("protocols/line.rs", "use crate::{Protocol, Transport}; use super::framing;"),
        ] {
            assert_eq!(broken(path, text), 0, "{path} may say {text}");
        }
    });
}
