//! Law 4: bytes enter through one function and leave through one, on every driver.
//!
//! A table lists the functions that bytes pass through, and the callers of each. Calls are matched
//! by name and number of arguments, with any receiver (`driver.write(key, out)`, also through a
//! local), and so are paths (`Driver::write`, called or stored). An unrelated function with the
//! same name and arity needs a row too.
//!
//! The turn is a blanket `impl Engine for D`, so the compiler rejects one for a single driver.

use std::collections::{BTreeMap, BTreeSet};

use quote::ToTokens;
use syn::{Item, TraitItem};

use super::source::{Call, Code, LIBRARY, assert_none, functions_in, name_of, trait_of};

/// A function that bytes pass through, its number of arguments, the effect of a call, and the callers,
/// each of which calls it once.
type Gate = (&'static str, usize, &'static str, &'static str);

const GATES: [Gate; 15] = [
    ("lent", 1, "a driver's bytes are accessed", "A::lent Uring::lent Core::received"),
    ("received", 2, "the turn hands bytes to a connection", "D::turn"),
    ("feed", 2, "received bytes enter a connection", "Core::received"),
    // `deliver_unread`: bytes that an upgrade, or layers that were dropped, left unread.
    ("deliver", 2, "bytes go to a connection's protocol", "Life::feed Life::deliver_unread"),
    ("hand_data", 2, "bytes go to a connection's protocol", "Life::deliver ProtocolSink::data"),
    // Wrappers forward, and framers split a stream into messages.
    (
        "data_received",
        2,
        "bytes are delivered to a protocol",
        "Life::hand_data Admitted::data_received Box::data_received CopyEnd::data_received \
         Monitored::data_received Framed::poll_message LimitMessages::data_received \
         Watched::data_received",
    ),
    ("outbox", 0, "written bytes leave a connection", "Core::received Core::send take_written"),
    // Drivers around others forward. The rest write into the kernel, the simulated one, and a WebSocket.
    (
        "write",
        2,
        "bytes are handed to a driver",
        "transmit A::write Uring::write_directly SimDriver::write StreamSlot::write_once \
         WireIo::write_message",
    ),
    // The closure gets the socket, which can send and receive. These look at it, or duplicate it.
    ("with_socket", 1, "a connection's socket is lent to a closure", "Core::keep record"),
    (
        "with_socket",
        2,
        "a connection's socket is lent to a user's closure",
        "A::with_socket Uring::with_socket set_option",
    ),
    (
        "datagram",
        0,
        "a driver's datagram is accessed",
        "A::datagram Uring::datagram Core::datagram_received",
    ),
    ("deliver", 1, "a datagram goes to a port's protocol", "Core::datagram_received"),
    ("datagram_received", 2, "a datagram is delivered to a protocol", "DatagramCell::deliver"),
    (
        "send_datagrams",
        2,
        "datagrams are handed to a driver, or the turn does that for one port",
        "Core::send_all_datagrams A::send_datagrams Uring::send_datagrams Core::answer Core::send",
    ),
    ("wrote", 2, "the result of a write is reported to a connection", "Core::received Core::send"),
];

/// The methods that `Driver` provides and a driver overrides. An override is code that no other driver,
/// and so no simulation, exercises.
const OVERRIDES: &str = "A::descriptor A::due A::full_batch A::has_more Memory::has_more Mio::descriptor \
    Mio::due Mio::full_batch Mio::has_more Uring::descriptor Uring::due Uring::full_batch Uring::has_more";

/// Calls of a gate and paths to it: the enclosing function and the line.
fn uses(file: &Code, (method, arguments, ..): Gate) -> Vec<(&str, usize)> {
    let is_use = |call: &&Call| {
        call.name == method && call.arguments.is_none_or(|number| number == arguments)
    };
    file.calls.iter().filter(is_use).map(|call| (&*call.function, call.line)).collect()
}

#[test]
fn bytes_enter_and_leave_through_one_function() {
    let mut broken = Vec::new();
    for gate @ (method, _, what, callers) in GATES {
        let mut found: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for file in LIBRARY.iter() {
            for (function, line) in uses(file, gate) {
                found.entry(function).or_default().push(format!("{}:{line}", file.path));
            }
        }
        for caller in callers.split(' ') {
            let places = found.remove(caller).unwrap_or_default();
            if places.len() != 1 {
                let places = places.join(", ");
                broken.push(format!("{caller} does not call {method} once, but: {places}"));
            }
        }
        broken.extend(found.into_iter().map(|(function, places)| {
            format!("{}: {function} calls {method}, through which {what}", places.join(", "))
        }));
    }
    assert_none(
        &broken,
        "law 4: bytes enter through one function and leave through one. Use the existing path; if \
         the path itself changes, so does GATES (laws/src/tidy/bytes.rs)",
    );
}

#[test]
fn no_driver_overrides_a_shared_method() {
    let (mut provided, mut methods) = (BTreeSet::new(), Vec::new());
    let files = LIBRARY.iter().filter(|file| file.text.contains(" Driver"));
    for item in files.flat_map(|file| file.syntax().items) {
        match item {
            Item::Trait(of) if of.ident == "Driver" => {
                provided.extend(of.items.into_iter().filter_map(|it| match it {
                    TraitItem::Fn(method) if method.default.is_some() => {
                        Some(method.sig.ident.to_string())
                    }
                    _ => None,
                }))
            }
            Item::Impl(of) if trait_of(&of) == "Driver" => {
                let names = functions_in(of.to_token_stream()).into_iter();
                methods.extend(names.map(|name| (name_of(&of.self_ty), name)));
            }
            _ => {}
        }
    }
    let overrides = methods.iter().filter(|(_, name)| provided.contains(name));
    let overrides: BTreeSet<String> =
        overrides.map(|(driver, name)| format!("{driver}::{name}")).collect();
    let known: BTreeSet<String> = OVERRIDES.split(' ').map(str::to_owned).collect();
    assert_eq!(
        overrides, known,
        "law 4: all drivers share what Driver provides, so that tests in memory run the code that ships \
         (laws/src/tidy/bytes.rs, OVERRIDES)"
    );
}

#[test]
fn every_spelling_of_a_gate_call_is_found() {
    let gate = GATES.into_iter().find(|gate| gate.0 == "write").expect("a row");
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
