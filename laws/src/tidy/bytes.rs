//! Law 4: bytes enter through one function and leave through one, on every driver.
//!
//! A table lists the functions that bytes pass through, and the callers of each. Calls are matched
//! by name and number of arguments, with any receiver (`driver.write(key, out)`, also through a
//! local), and so are paths (`Driver::write`, called or stored). An unrelated function with the
//! same name and arity needs a row too.

use std::collections::BTreeMap;

use super::source::{Code, assert_none, last_of, library, line, with_parsed_code};

/// A function that bytes pass through, and its callers.
struct Gate {
    method: &'static str,
    /// Not counting the receiver.
    arguments: usize,
    /// The effect of a call, for the error message.
    what: &'static str,
    /// `Type::function` with its number of calls.
    callers: &'static [(&'static str, usize)],
}

const GATES: [Gate; 15] = [
    Gate {
        method: "lent",
        arguments: 1,
        what: "a driver's bytes are accessed",
        callers: &[("A::lent", 1), ("Uring::lent", 1), ("Core::received", 1)],
    },
    Gate {
        method: "received",
        arguments: 2,
        what: "the turn hands bytes to a connection",
        callers: &[("D::turn", 1)],
    },
    Gate {
        method: "feed",
        arguments: 2,
        what: "received bytes enter a connection",
        callers: &[("Core::received", 1)],
    },
    Gate {
        method: "deliver",
        arguments: 2,
        what: "bytes go to the protocol of a connection",
        // `deliver_unread`: those that an upgrade, or layers that were dropped, left unread.
        callers: &[("Life::feed", 1), ("Life::deliver_unread", 1)],
    },
    Gate {
        method: "hand_data",
        arguments: 2,
        what: "bytes go to the protocol of a connection, with or without layers",
        callers: &[("Life::deliver", 1), ("ProtocolSink::data", 1)],
    },
    Gate {
        method: "data_received",
        arguments: 2,
        what: "bytes are delivered to a protocol",
        callers: &[
            ("Life::hand_data", 1),
            // Wrappers forward.
            ("Admitted::data_received", 1),
            ("Box::data_received", 1),
            ("CopyEnd::data_received", 1),
            ("Monitored::data_received", 1),
            // To a framer that splits a stream into messages.
            ("Framed::poll_message", 1),
            ("LimitMessages::data_received", 1),
            ("Watched::data_received", 1),
        ],
    },
    Gate {
        method: "outbox",
        arguments: 0,
        what: "written bytes leave a connection",
        callers: &[("Core::received", 1), ("Core::send", 1), ("take_written", 1)],
    },
    Gate {
        method: "write",
        arguments: 2,
        what: "bytes are handed to a driver",
        callers: &[
            ("transmit", 1),
            // A driver around another one forwards.
            ("A::write", 1),
            ("Uring::write_directly", 1),
            // Into the simulated kernel, and into the real one except on Linux.
            ("SimDriver::write", 1),
            ("StreamSlot::write_once", 1),
            // Into the state machine of a WebSocket.
            ("WireIo::write_message", 1),
        ],
    },
    // The closure of a user gets the socket, which can send and receive.
    Gate {
        method: "with_socket",
        arguments: 1,
        what: "a connection's socket is lent to a closure",
        // Asks for its positions, and duplicates it.
        callers: &[("Core::keep", 1), ("record", 1)],
    },
    Gate {
        method: "with_socket",
        arguments: 2,
        what: "a connection's socket is lent to a user's closure",
        callers: &[("A::with_socket", 1), ("Uring::with_socket", 1), ("set_option", 1)],
    },
    Gate {
        method: "datagram",
        arguments: 0,
        what: "a driver's datagram is accessed",
        callers: &[("A::datagram", 1), ("Uring::datagram", 1), ("Core::datagram_received", 1)],
    },
    Gate {
        method: "deliver",
        arguments: 1,
        what: "a datagram goes to the protocol of a port",
        callers: &[("Core::datagram_received", 1)],
    },
    Gate {
        method: "datagram_received",
        arguments: 2,
        what: "a datagram is delivered to a protocol",
        callers: &[("DatagramCell::deliver", 1)],
    },
    Gate {
        method: "send_datagrams",
        arguments: 2,
        what: "datagrams are handed to a driver, or the turn does that for one port",
        callers: &[
            ("Core::send_all_datagrams", 1),
            ("A::send_datagrams", 1),
            ("Uring::send_datagrams", 1),
            // Called by the turn.
            ("Core::answer", 1),
            ("Core::send", 1),
        ],
    },
    Gate {
        method: "wrote",
        arguments: 2,
        what: "the result of a write is reported to a connection",
        callers: &[("Core::received", 1), ("Core::send", 1)],
    },
];

/// The provided methods of `Driver`, with the drivers that may override them. An override is code
/// that no other driver, and so no simulation, exercises. The turn itself is a blanket
/// `impl Engine`, which no driver can override.
const PROVIDED: [(&str, &[&str]); 4] = [
    ("full_batch", &["A", "Mio", "Uring"]),
    ("has_more", &["A", "Mio", "Uring", "Memory"]),
    ("due", &["A", "Mio", "Uring"]),
    ("descriptor", &["A", "Mio", "Uring"]),
];

/// Calls of a gate and paths to it: the enclosing function and the line.
fn uses(file: &Code, gate: &Gate) -> Vec<(String, usize)> {
    let calls = file
        .calls
        .iter()
        .filter(|call| call.name == gate.method && call.arguments == gate.arguments);
    let calls = calls.map(|call| (call.function.clone(), call.line));
    let paths = file.mentions.iter().filter(|mention| {
        let [.., owner, name] = &mention.path[..] else { return false };
        // `framing::feed` is a free function; types start with a capital letter.
        name == gate.method && owner.starts_with(char::is_uppercase)
    });
    calls.chain(paths.map(|mention| (mention.function.clone(), mention.line))).collect()
}

#[test]
fn bytes_enter_and_leave_through_one_function() {
    with_parsed_code(|| {
        let files = library("couplet");
        let mut broken = Vec::new();
        for gate in GATES {
            let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for file in files {
                for (function, line) in uses(file, &gate) {
                    found.entry(function).or_default().push(format!("{}:{line}", file.path));
                }
            }
            for (caller, count) in gate.callers {
                let places = found.remove(*caller).unwrap_or_default();
                if places.len() != *count {
                    broken.push(format!(
                        "{caller} calls {} {} times instead of {count}: {}",
                        gate.method,
                        places.len(),
                        places.join(", ")
                    ));
                }
            }
            for (function, places) in found {
                let (places, method, what) = (places.join(", "), gate.method, gate.what);
                broken.push(format!("{places}: {function} calls {method}, through which {what}"));
            }
        }
        assert_none(
            &broken,
            "law 4: bytes enter through one function and leave through one. Use the existing path; if \
         the path itself changes, so does GATES (laws/src/tidy/bytes.rs)",
        );
    });
}

/// The turn is one provided function for all drivers: the compiler rejects a second `impl Engine`
/// for a driver while there is one for every `D: Driver`.
#[test]
fn no_driver_has_its_own_turn() {
    with_parsed_code(|| {
        let engines: Vec<String> = library("couplet-core")
            .iter()
            .flat_map(|file| file.syntax.items.iter())
            .filter_map(|item| match item {
                syn::Item::Impl(item) => Some(item),
                _ => None,
            })
            .filter(|item| item.trait_.as_ref().is_some_and(|(path, ..)| last_of(path) == "Engine"))
            .map(|item| super::source::name_of(&item.self_ty))
            .collect();
        assert_eq!(
            engines,
            ["D"],
            "law 4: the turn is compiled for each driver, and written for none"
        );
    });
}

#[test]
fn no_driver_overrides_a_shared_method() {
    with_parsed_code(|| {
        let mut broken = Vec::new();
        let mut provided = Vec::new();
        for file in library("couplet") {
            for item in &file.syntax.items {
                match item {
                    syn::Item::Trait(item) if item.ident == "Driver" => {
                        provided.extend(item.items.iter().filter_map(|item| match item {
                            syn::TraitItem::Fn(function) if function.default.is_some() => {
                                Some(function.sig.ident.to_string())
                            }
                            _ => None,
                        }));
                    }
                    syn::Item::Impl(item) => broken.extend(overridden(file, item)),
                    _ => {}
                }
            }
        }
        for method in &provided {
            if !PROVIDED.iter().any(|(known, _)| known == method) {
                broken.push(format!("Driver::{method} is provided and has no row in PROVIDED"));
            }
        }
        for (method, _) in PROVIDED {
            if !provided.iter().any(|known| known == method) {
                broken.push(format!(
                    "Driver::{method} is not provided: remove its row from PROVIDED"
                ));
            }
        }
        assert_none(
            &broken,
            "law 4: all drivers share the provided methods of Driver, so that tests in memory run the \
         code that ships (laws/src/tidy/bytes.rs, PROVIDED)",
        );
    });
}

/// The provided methods that an `impl Driver for …` overrides without permission.
fn overridden(file: &Code, item: &syn::ItemImpl) -> Vec<String> {
    let is_driver = item.trait_.as_ref().is_some_and(|(path, ..)| last_of(path) == "Driver");
    if !is_driver {
        return Vec::new();
    }
    let driver = super::source::name_of(&item.self_ty);
    let functions = item.items.iter().filter_map(|item| match item {
        syn::ImplItem::Fn(function) => Some(&function.sig.ident),
        _ => None,
    });
    functions
        .filter(|name| {
            let row = PROVIDED.iter().find(|(method, _)| *name == method);
            row.is_some_and(|(_, drivers)| !drivers.contains(&driver.as_str()))
        })
        .map(|name| format!("{}:{} {driver} overrides {name}", file.path, line(name.span())))
        .collect()
}

#[test]
fn every_spelling_of_a_gate_call_is_found() {
    let gate = GATES.iter().find(|gate| gate.method == "write").expect("a row");
    let found = |text: &str| uses(&Code::of("reactor/turn.rs", text), gate).len();
    for call in [
        "fn f(l: &mut Loop) { l.driver.write(key, &mut out); }",
        "fn f(l: &mut Loop) { let d = &mut l.driver; d.write(key, out); }",
        "fn f(l: &mut Loop) { Driver::write(&mut l.driver, key, out); }",
        "fn f(l: &mut Loop) { let send = Mio::write; send(l, key, out); }",
        "fn f(l: &mut Loop) { <dyn Driver>::write(l, key, out); }",
        "fn f(l: &mut Loop) { <Mio as Driver>::write(l, key, out); }",
        "fn f(l: &mut Loop) { assert_eq!(l.driver.write(key, out), WriteOutcome::All); }",
        "fn f(l: &mut Loop) { let WriteOutcome::All = select! { x => l.driver.write(key, out) }; }",
    ] {
        assert!(found(call) > 0, "{call} is not found");
    }
    assert_eq!(found("fn f(t: &Transport) { t.write(data); io::write(a, b); }"), 0);
}
