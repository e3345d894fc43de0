//! Row 145f: `udp:`, for datagrams, in the same grammar.

use couplet::endpoints::{UdpClient, UdpServer, client_from_string, server_from_string};

#[test]
fn c145f_an_address_to_receive_at_is_a_port_and_an_interface() {
    for (typed, address, printed) in [
        ("udp:9000", "[::]:9000", "udp:9000"),
        ("udp::9000", "[::]:9000", "udp:9000"),
        ("udp:0", "[::]:0", "udp:0"),
        ("udp:9000:interface=localhost", "127.0.0.1:9000", "udp:9000:interface=127.0.0.1"),
        ("udp:127.0.0.1:9000", "127.0.0.1:9000", "udp:9000:interface=127.0.0.1"),
        ("udp:9000:interface=[::1]", "[::1]:9000", "udp:9000:interface=[::1]"),
        ("udp:port=9000:host=[::1]", "[::1]:9000", "udp:9000:interface=[::1]"),
        ("udp:[fe80::1%7]:9000", "[fe80::1%7]:9000", "udp:9000:interface=[fe80::1%7]"),
    ] {
        let local: UdpServer = typed.parse().expect(typed);
        assert_eq!(
            (local.address.to_string(), local.to_string()),
            (address.into(), printed.into())
        );
        assert_eq!(printed.parse(), Ok(local));
    }
}

#[test]
fn c145f_an_address_to_send_to_is_a_host_and_a_port() {
    for (typed, host, address, printed) in [
        ("udp:9000", "127.0.0.1", Some("127.0.0.1:9000"), "udp:127.0.0.1:9000"),
        ("udp:ns.example:9000", "ns.example", None, "udp:ns.example:9000"),
        ("udp:[::1]:9000", "::1", Some("[::1]:9000"), "udp:[::1]:9000"),
        ("udp:[fe80::1%7]:9000", "fe80::1%7", Some("[fe80::1%7]:9000"), "udp:[fe80::1%7]:9000"),
        (
            "udp:port=9000:host=[fe80::1%7]",
            "fe80::1%7",
            Some("[fe80::1%7]:9000"),
            "udp:[fe80::1%7]:9000",
        ),
    ] {
        let peer: UdpClient = typed.parse().expect(typed);
        assert_eq!((&*peer.host, peer.port, &*peer.to_string()), (host, 9000, printed));
        let at = peer.address().map(|address| address.to_string());
        assert_eq!(at.as_deref(), address, "{typed}");
        assert_eq!(printed.parse(), Ok(peer));
    }
}

#[test]
fn c145f_mistakes_are_pointed_at() {
    for (typed, at, problem, hint) in [
        ("udp", 3, "missing port: expected udp:PORT or HOST:PORT", None),
        ("udp:", 4, "expected a port number from 0 to 65535", None),
        ("udp:70000", 4, "expected a port number from 0 to 65535", None),
        ("udp:nobody:9", 4, "an interface is an IP address", None),
        ("udp:::1:9", 5, "expected a port number from 0 to 65535", Some("udp:[::1]:9")),
        ("udp:9:interface=", 16, "an interface is an IP address", None),
        ("udp:9:interface=::1", 17, "expected a port number", Some("udp:9:interface=[::1]")),
        ("udp:9:inteface=[::1]", 6, "unknown keyword inteface=", Some("udp:9:interface=[::1]")),
        ("tcp:9", 0, "a datagram address starts with udp:", None),
        ("9", 0, "a datagram address starts with udp:", None),
    ] {
        let error = typed.parse::<UdpServer>().expect_err(typed);
        assert!(error.problem().contains(problem), "{typed}: {error}");
        assert_eq!((error.at(), error.hint()), (at, hint), "{error}");
    }
    let error = "udp:host:0".parse::<UdpClient>().expect_err("no port to send to");
    assert_eq!(error.at(), 9, "{error}");
}

#[test]
fn c145f_where_a_stream_is_expected_udp_is_refused_at_its_place() {
    for (typed, at) in [("udp:9", 0), ("log:udp:9", 4), ("throttle:haproxy:udp:9:read=1", 17)] {
        let errors = [server_from_string(typed).map(drop), client_from_string(typed).map(drop)];
        for error in errors {
            let error = error.expect_err(typed);
            assert_eq!(error.at(), at, "{error}");
            assert!(error.problem().starts_with("udp: has datagrams"), "{error}");
        }
    }
}
