//! Access lines: one for each connection that ends, on every driver.

use std::cell::Cell;
use std::rc::Rc;

use couplet::Address;
use couplet::testing::Manner;

use crate::logged::access_lines;
use crate::suite::kit::{Kit, Rig, Role};
use crate::suite::recorder::Script;
use crate::tcp::adopting::sockets;
use couplet_testkit_loops::doubles::Quiet;

const KITS: [Kit; 3] =
    [Kit::mio(), Kit::memory(Manner::Readiness), Kit::memory(Manner::Completion)];

/// The access lines of a program, whose loop is dropped after it.
fn access(kit: Kit, program: impl FnOnce(&mut Rig)) -> Vec<String> {
    let ((), lines) = access_lines(|| program(&mut kit.rig()));
    assert!(lines.iter().all(|line| line.starts_with("message=connection ended ")), "{lines:?}");
    lines
}

/// The value of a field.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let value = line.split_once(&format!(" {name}="))?.1;
    value.split([' ', '"']).find(|part| !part.is_empty())
}

#[test]
fn a_connection_that_ends_is_logged_once_with_its_bytes() {
    for kit in KITS {
        let lines = access(kit, |rig| {
            let (a, b) = rig.accept(Script::new());
            b.send(b"hello");
            rig.until("5 bytes", || a.received() == b"hello");
            a.transport().write("hi");
            a.transport().lose_connection();
            rig.until("2 bytes", || {
                b.take_all();
                b.got_len() == 2
            });
            b.fin();
            rig.until("the end", || a.is_lost());
            rig.turns(2);
        });
        assert_eq!(lines.len(), 1, "{lines:?}");
        for (name, wanted) in
            [("origin", "accepted"), ("bytes_in", "5"), ("bytes_out", "2"), ("reason", "done")]
        {
            assert_eq!(field(&lines[0], name), Some(wanted), "{lines:?}");
        }
        for name in ["connection", "peer", "host", "seconds"] {
            assert!(field(&lines[0], name).is_some(), "{name}: {lines:?}");
        }
        assert_eq!(field(&lines[0], "error"), None, "{lines:?}");
    }
}

#[test]
fn an_end_that_is_not_clean_has_its_error() {
    for kit in KITS {
        let lines = access(kit, |rig| {
            let (a, b) = rig.accept(Script::new());
            b.reset();
            rig.until("the end", || a.is_lost());
        });
        assert_eq!(field(&lines[0], "reason"), Some("lost"), "{lines:?}");
        assert!(lines[0].contains(" error=connection lost"), "{lines:?}");
    }
}

#[test]
fn a_connection_of_a_dropped_loop_is_logged_too() {
    for kit in KITS {
        let lines = access(kit, |rig| {
            let _open = rig.accept(Script::new());
        });
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert_eq!(field(&lines[0], "reason"), Some("shutdown"), "{lines:?}");
    }
}

#[test]
fn a_rejected_connection_is_logged_without_a_reason_of_an_end() {
    for kit in KITS {
        let lines = access(kit, |rig| {
            let reactor = rig.l.reactor();
            let closed = Rc::new(Cell::new(false));
            let port = reactor.listen("localhost:0", |_: &Address| None::<Quiet>).expect("a port");
            let (to, set) = (port.host().to_string(), closed.clone());
            let client = async move {
                let mut client = reactor.connect_stream(to).await?;
                set.set(client.read(&mut [0]).await? == 0);
                Ok(())
            };
            rig.l.reactor().spawn(client).detach();
            rig.until("the close", || closed.get());
        });
        let rejected = lines.iter().find(|line| field(line, "origin") == Some("accepted"));
        let rejected = rejected.unwrap_or_else(|| panic!("{lines:?}"));
        assert!(rejected.contains(" reason=\"no protocol\""), "{lines:?}");
    }
}

#[test]
fn the_origin_of_each_connection_is_logged() {
    let lines = access(Kit::mio(), |rig| {
        let (accepted, peer) = rig.accept(Script::new());
        let (connected, server) = rig.pair(Role::Client, Script::new());
        let (adopted, (ours, theirs)) = (rig.end(), sockets());
        rig.reactor.adopt(ours, adopted.maker(Script::new())).expect("a socket").detach();
        rig.until("connection_made", || adopted.is_made());
        for a in [&accepted, &connected, &adopted] {
            a.transport().abort_connection();
            rig.lost(a);
        }
        drop((peer, server, theirs));
    });
    let origins: Vec<_> = lines.iter().map(|line| field(line, "origin")).collect();
    assert_eq!(origins, ["accepted", "connected", "adopted"].map(Some));
}
