//! Endpoint strings: their meaning, their printed form, and the hints for mistakes.

use std::time::Duration;

#[cfg(any(feature = "tls", feature = "ring"))]
use couplet::Loop;
#[cfg(unix)]
use couplet::endpoints::ProcessClient;
use couplet::endpoints::{
    ClientEndpoint, EndpointError, Logged, ProxyServer, ServerEndpoint, TcpClient, TcpServer,
    Throttled, UnixClient, UnixServer, client_from_string, server_from_string,
};
#[cfg(any(feature = "tls", feature = "ring"))]
use couplet::endpoints::{TlsClient, TlsServer, quote};
use couplet::layers::LogForm;
#[cfg(unix)]
use couplet::process::{Command, WhenLost};
use couplet::{ConnectOptions, ListenOptions};
use proptest::prelude::*;

use crate::endpoints::print_the_same;
#[cfg(any(feature = "tls", feature = "ring"))]
use couplet_testkit_loops::doubles::Quiet;

fn server(text: &str) -> Result<String, EndpointError> {
    server_from_string(text).map(|endpoint| endpoint.to_string())
}

fn client(text: &str) -> Result<String, EndpointError> {
    client_from_string(text).map(|endpoint| endpoint.to_string())
}

type Read = fn(&str) -> Result<String, EndpointError>;

/// Asserts that each text prints as the second, which prints as itself.
fn mean(read: Read, texts: &[(&str, &str)]) {
    for (text, printed) in texts {
        assert_eq!(read(text).as_deref(), Ok(*printed), "{text}");
        assert_eq!(read(printed).as_deref(), Ok(*printed), "{text}");
    }
}

#[test]
#[cfg(any(feature = "tls", feature = "ring"))]
fn c145_twisteds_strings_are_understood() {
    let texts = [
        ("tcp:80:interface=127.0.0.1:backlog=20", "tcp:80:interface=127.0.0.1:backlog=20"),
        (r"tcp6:80:interface=\:\:1", "tcp:80:interface=[::1]:dual_stack=no"),
        ("tcp6:port=80", "tcp:80:dual_stack=no"),
        ("unix:address=/s:mode=660:lockfile=0", "unix:/s:mode=660:lockfile=no"),
        ("tls:/etc/certs", "tls:443:interface=127.0.0.1:sni=/etc/certs"),
        ("tls:/etc/certs:8443:interface=[::1]", "tls:8443:interface=[::1]:sni=/etc/certs"),
        (
            "haproxy:80:connections=3:buffered=64M:buffered_by_peer=1k:trusted=10.0.0.1",
            "haproxy:tcp:80:interface=127.0.0.1:connections=3:buffered=64000000:buffered_by_peer=1000:trusted=10.0.0.1/32",
        ),
        ("tls:path=certs:port=8443:backlog=9", "tls:8443:interface=127.0.0.1:backlog=9:sni=certs"),
        ("ssl:443:privateKey=k", "tls:443:interface=127.0.0.1:cert=k:key=k"),
        ("ssl::443:privateKey=k", "tls:tcp:443:cert=k:key=k"),
        (
            "ssl:port=443:privateKey=k:certKey=c:extraCertChain=x:dhParameters=d",
            "tls:443:interface=127.0.0.1:cert=c:key=k:chain=x",
        ),
        ("ssl:tcp:443:privateKey=k:sslmethod=TLS_METHOD", "tls:tcp:443:cert=k:key=k"),
        ("systemd:domain=INET:index=0", "systemd:domain=INET:index=0"),
        ("systemd:domain=UNIX:name=web", "systemd:domain=UNIX:name=web"),
        ("haproxy:tcp:8080", "haproxy:tcp:8080"),
        ("haproxy:unix:address=/s", "haproxy:unix:/s"),
    ];
    mean(server, &texts);
    let texts = [
        ("tcp:host=a:port=80:timeout=9", "tcp:a:80:timeout=9"),
        ("tcp:a:port=80:bindAddress=127.0.0.2", "tcp:a:80:bindAddress=127.0.0.2"),
        ("unix:path=/s:lockfile=1:timeout=9", "unix:/s:timeout=9"),
        ("ssl:host=a:port=443:caCertsDir=/certs:hostname=b", "tls:a:443:ca=/certs:servername=b"),
        ("ssl:a:443:privateKey=k:certKey=c", "tls:a:443:cert=c:key=k"),
        ("ssl:a:443:sslmethod=TLS_METHOD", "tls:a:443"),
        ("tls:a:443:certificate=c:privateKey=k:trustRoots=d", "tls:a:443:cert=c:key=k:ca=d"),
        (r"tls:a:443:endpoint=unix\:s", "tls:unix:s:servername=a"),
        (r"tls:host=a:port=443:endpoint=tcp\:b\:80", "tls:b:80:servername=a"),
        (r"tls:a:443:servername=c:endpoint=tcp\:b\:80", "tls:b:80:servername=c"),
        (r"tls:host=a:port=443:hostname=c:endpoint=unix\:s", "tls:unix:s:servername=c"),
    ];
    mean(client, &texts);
}

/// Wrappers, with the keywords that they need.
const WRAPPING: &[(&str, &str)] = &[
    ("", ""),
    ("haproxy:", ""),
    ("log:", ""),
    ("throttle:", ":read=1"),
    #[cfg(any(feature = "tls", feature = "ring"))]
    ("tls:", ":cert=a"),
    #[cfg(any(feature = "tls", feature = "ring"))]
    ("ssl:", ":privateKey=a"),
    ("log:throttle:haproxy:", ":write=1"),
];

#[test]
fn c145g_a_port_means_the_same_behind_each_wrapper_and_in_its_own_string() {
    for (wrapper, keywords) in WRAPPING {
        let forms = |inner: &str| {
            // `endpoint=` belongs to the outermost of several wrappers.
            let within = (wrapper.matches(':').count() == 1)
                .then(|| format!("{wrapper}endpoint={}{keywords}", quote(inner)));
            [Some(format!("{wrapper}{inner}{keywords}")), within]
        };
        for (inner, shown) in [
            ("8000", "8000:interface=127.0.0.1"),
            ("port=8000", "8000:interface=127.0.0.1"),
            ("localhost:8000", "8000:interface=127.0.0.1"),
            ("8000:interface=0.0.0.0", "8000:interface=0.0.0.0"),
            ("8000:interface=[::1]", "8000:interface=[::1]"),
            (":8000", "tcp:8000"),
            ("tcp:8000", "tcp:8000"),
            ("tcp:port=8000", "tcp:8000"),
            ("tcp6:8000", "tcp:8000:dual_stack=no"),
        ] {
            for text in forms(inner).iter().flatten() {
                let printed = server(text).expect(text);
                assert!(printed.contains(shown), "{text} is {printed}");
                let is_everywhere = !printed.contains("interface=");
                assert_eq!(is_everywhere, !shown.contains("interface="), "{text} is {printed}");
                assert_eq!(server(&printed).as_ref(), Ok(&printed), "{text}");
            }
        }
        for inner in ["8000", "127.0.0.1:8000"] {
            for text in forms(inner).iter().flatten() {
                let printed = client(text).expect(text);
                assert!(printed.contains("127.0.0.1:8000"), "{text} is {printed}");
                assert_eq!(client(&printed).as_ref(), Ok(&printed), "{text}");
            }
        }
    }
}

#[test]
fn wrappers_print_as_strings_that_mean_the_same() {
    let texts = [
        ("haproxy:80", "haproxy:tcp:80:interface=127.0.0.1"),
        (
            "haproxy:80:trusted=10.0.0.0/8,192.0.2.1:header-timeout=0.5",
            "haproxy:tcp:80:interface=127.0.0.1:trusted=10.0.0.0/8:trusted=192.0.2.1/32:header-timeout=0.5",
        ),
        (r"haproxy:80:trusted=[fd00::/8]", "haproxy:tcp:80:interface=127.0.0.1:trusted=[fd00::/8]"),
        (
            r"haproxy:80:trusted=\:\:1,10.0.0.1",
            "haproxy:tcp:80:interface=127.0.0.1:trusted=[::1/128]:trusted=10.0.0.1/32",
        ),
        (
            r"haproxy:80:trusted=10.0.0.1,[\:\:1],[fd00\:\:]/8",
            "haproxy:tcp:80:interface=127.0.0.1:trusted=10.0.0.1/32:trusted=[::1/128]:trusted=[fd00::/8]",
        ),
        ("throttle:unix:s:read=64k:write=2M", "throttle:unix:s:read=64000:write=2000000"),
        (
            "throttle:80:write=1G:shared=yes",
            "throttle:tcp:80:interface=127.0.0.1:write=1000000000:shared=yes",
        ),
        ("throttle:80:write=5:shared=no", "throttle:tcp:80:interface=127.0.0.1:write=5"),
        ("log:80", "log:tcp:80:interface=127.0.0.1"),
        ("log:80:file=a.pcap", "log:tcp:80:interface=127.0.0.1:file=a.pcap"),
        (
            "log:80:form=hex:limit=9:file=a",
            "log:tcp:80:interface=127.0.0.1:file=a:form=hex:limit=9",
        ),
        // The keywords of all kinds may stand anywhere.
        (
            "log:limit=5:throttle:haproxy:trusted=10.0.0.1:80:read=1:backlog=9",
            "log:throttle:haproxy:tcp:80:interface=127.0.0.1:backlog=9:trusted=10.0.0.1/32:read=1:limit=5",
        ),
        (
            r"log:endpoint=log\:80\:file=in:file=out",
            r"log:endpoint=log\:tcp\:80\:interface\=127.0.0.1\:file\=in:file=out",
        ),
        ("fd:003", "fd:3"),
        ("systemd:0", "systemd:index=0"),
        ("systemd:web", "systemd:name=web"),
        ("systemd:name=7", "systemd:name=7"),
        ("systemd:my web", "systemd:name=my web"),
        (r"systemd:a\\b\=[c", r"systemd:name=a\\b\=\[c"),
        // A bracket inside a value is an ordinary character.
        ("unix:/a[b:mode=600", r"unix:/a\[b:mode=600"),
        ("unix:/a[b]:mode=600", r"unix:/a\[b]:mode=600"),
    ];
    mean(server, &texts);
    let texts = [
        ("haproxy:a:80", "haproxy:tcp:a:80"),
        ("haproxy:a:80:version=2", "haproxy:tcp:a:80:version=2"),
        ("throttle:unix:s:read=1", "throttle:unix:s:read=1"),
        ("log:throttle:a:80:write=1", "log:throttle:tcp:a:80:write=1"),
    ];
    mean(client, &texts);
}

#[test]
#[cfg(any(feature = "tls", feature = "ring"))]
fn a_wrapper_anywhere_around_its_own_kind_prints_as_a_string_that_means_the_same() {
    const KINDS: [(&str, &str); 4] =
        [("haproxy", ""), ("throttle", ":read=1"), ("log", ""), ("tls", ":cert=a:alpn=x")];
    let around = |(kind, keywords): (&str, &str), over: &str| {
        let over = quote(over);
        format!("{kind}:endpoint={over}{keywords}")
    };
    for outer in KINDS {
        for between in KINDS {
            let innermost = around(outer, "localhost:80");
            for text in [
                around(outer, &innermost),
                around(outer, &around(between, &innermost)),
                around(outer, &around(between, &around(("log", ""), &innermost))),
            ] {
                assert!(client(&text).is_ok() && server(&text).is_ok(), "{text}");
                print_the_same(&text);
            }
        }
    }
}

#[test]
#[cfg(any(feature = "tls", feature = "ring"))]
fn each_wrapper_has_the_host_of_the_endpoint_below() {
    let wrappers = [
        ("", ""),
        ("haproxy:", ""),
        ("throttle:", ":read=1"),
        ("log:", ""),
        ("log:throttle:haproxy:", ":write=1"),
    ];
    for (wrapper, keywords) in wrappers {
        for (over, host) in [("tcp:example.com:443", Some("example.com")), ("unix:s", None)] {
            let endpoint = client_from_string(&format!("{wrapper}{over}{keywords}"));
            assert_eq!(endpoint.expect("an endpoint").host(), host, "{wrapper}{over}");
            // This host is the name for the certificate.
            let secure = client(&format!("tls:{wrapper}{over}{keywords}"));
            assert_eq!(secure.is_ok(), host.is_some(), "{wrapper}{over}: {secure:?}");
        }
    }
    for (tls, host) in [("", "a"), (":servername=b", "b")] {
        let endpoint = client_from_string(&format!("haproxy:tls:a:443{tls}"));
        assert_eq!(endpoint.expect("an endpoint").host(), Some(host));
    }
}

#[test]
fn setters_clamp_their_numbers_to_valid_ones() {
    let tcp = || TcpServer::new(([127, 0, 0, 1], 80).into());
    for (endpoint, printed) in [
        (Throttled::new(tcp()).read(0).to_string(), "read=1"),
        (Throttled::new(tcp()).write(0).to_string(), "write=1"),
        (
            ProxyServer::new(tcp()).trust([10, 0, 0, 1].into(), 33).to_string(),
            "trusted=10.0.0.1/32",
        ),
        (ProxyServer::new(tcp()).trust([0; 16].into(), 255).to_string(), "trusted=[::/128]"),
    ] {
        assert!(endpoint.ends_with(&format!(":{printed}")), "{endpoint}");
        assert_eq!(server(&endpoint), Ok(endpoint.clone()));
    }
}

#[test]
fn c144_the_least_value_of_a_setter_prints_as_a_string_that_means_the_same() {
    let tcp = || TcpServer::new(([127, 0, 0, 1], 80).into());
    let listen = ListenOptions::default;
    let no_time = || ConnectOptions::default().timeout(Duration::ZERO);
    let servers: [(&dyn ServerEndpoint, &str); 13] = [
        (&tcp().options(listen().max_buffered(0)), "tcp:80:interface=127.0.0.1:buffered=1"),
        (
            &tcp().options(listen().max_buffered_by_peer(2000)),
            "tcp:80:interface=127.0.0.1:buffered_by_peer=2000",
        ),
        (&tcp().options(listen().backlog(0)), "tcp:80:interface=127.0.0.1:backlog=0"),
        (&tcp().options(listen().max_connections(9)), "tcp:80:interface=127.0.0.1:connections=9"),
        (&tcp().options(listen().max_connections(0)), "tcp:80:interface=127.0.0.1"),
        (
            &ProxyServer::new(tcp()).header_timeout(Duration::ZERO),
            "haproxy:tcp:80:interface=127.0.0.1:header-timeout=0.000000001",
        ),
        // A throttle without limits adds nothing to the endpoint.
        (&Throttled::new(tcp()), "tcp:80:interface=127.0.0.1"),
        (&Throttled::new(tcp()).shared(true), "tcp:80:interface=127.0.0.1"),
        (
            &Logged::new(Throttled::new(Logged::new(UnixServer::new("s")))),
            r"log:endpoint=log\:unix\:s",
        ),
        (&Logged::new(tcp()).limit(0), "log:tcp:80:interface=127.0.0.1:limit=0"),
        (
            &Logged::new(UnixServer::new("s")).pcap("a").limit(0),
            "log:unix:s:file=a:form=pcap:limit=0",
        ),
        (
            &UnixServer::new("s")
                .options(listen().mode(0).owner(0).group(0).backlog(0).max_connections(1)),
            "unix:s:mode=0:owner=0:group=0:backlog=0:connections=1",
        ),
        // To the system, the last number means "leave unchanged", and a mode has twelve bits.
        (
            &UnixServer::new("s").options(listen().mode(u32::MAX).owner(u32::MAX).group(u32::MAX)),
            "unix:s:mode=7777",
        ),
    ];
    for (endpoint, printed) in servers {
        assert_eq!(endpoint.to_string(), printed);
        assert_eq!(server(printed).as_deref(), Ok(printed));
    }
    let clients: [(&dyn ClientEndpoint, &str); 3] = [
        (&TcpClient::new("a", 80).options(no_time()), "tcp:a:80:timeout=0.000000001"),
        (&UnixClient::new("s").options(no_time()), "unix:s:timeout=0.000000001"),
        (&Throttled::new(UnixClient::new("s")), "unix:s"),
    ];
    for (endpoint, printed) in clients {
        assert_eq!(endpoint.to_string(), printed);
        assert_eq!(client(printed).as_deref(), Ok(printed));
    }
}

#[cfg(unix)]
#[test]
fn a_program_without_grace_prints_with_the_shortest_one() {
    let mut endpoint = ProcessClient::new(Command::new("/bin/cat"));
    endpoint.when_lost = WhenLost::End(Duration::ZERO);
    assert_eq!(endpoint.to_string(), "process:/bin/cat:kill=0.000000001");
    assert_eq!(client(&endpoint.to_string()), Ok(endpoint.to_string()));
}

#[test]
#[cfg(any(feature = "tls", feature = "ring"))]
fn a_chain_without_a_certificate_is_not_printed() {
    let tcp = TcpServer::new(([127, 0, 0, 1], 443).into());
    let server_side = TlsServer::new(tcp).chain("x").sni("certs").to_string();
    assert_eq!(server_side, "tls:443:interface=127.0.0.1:sni=certs");
    assert_eq!(server(&server_side), Ok(server_side.clone()));
    let client_side = TlsClient::new(TcpClient::new("a", 443)).chain("x").to_string();
    assert_eq!(client_side, "tls:a:443");
}

/// Endpoints that setters can build and that can't work, with the error of using them and the error
/// of their string.
#[test]
#[cfg(any(feature = "tls", feature = "ring"))]
fn c144_an_endpoint_of_tls_that_lacks_a_part_is_refused_where_it_is_used_and_as_a_string() {
    let mut l = Loop::new().expect("a loop");
    let reactor = l.reactor();
    let tcp = || TcpServer::new(([127, 0, 0, 1], 0).into());
    let no_certificate = "a server needs a certificate: add cert=FILE";
    for (endpoint, used, parsed) in [
        (TlsServer::new(tcp()), no_certificate, "missing certificate"),
        (TlsServer::new(tcp()).client_ca("ca"), no_certificate, "missing certificate"),
        (TlsServer::new(UnixServer::new("s")).alpn("h2"), no_certificate, "missing certificate"),
    ] {
        let failure = reactor.listen(endpoint.clone(), || Quiet).expect_err("it can't listen");
        assert!(failure.to_string().contains(used), "{endpoint}: {failure}");
        let error = server(&endpoint.to_string()).expect_err("it is refused");
        assert!(error.problem().contains(parsed), "{endpoint}: {error}");
    }
    for (endpoint, used, parsed) in [
        (TlsClient::new(UnixClient::new("s")), "name", "missing servername"),
        (TlsClient::new(TcpClient::new("a", 443)).alpn("h2,"), "expected protocols", "protocols"),
    ] {
        let connecting = reactor.connect(endpoint.clone(), || Quiet);
        let failure = l.run_until(connecting).expect_err("it can't connect");
        assert!(failure.to_string().contains(used), "{endpoint}: {failure}");
        let error = client(&endpoint.to_string()).expect_err("it is refused");
        assert!(error.problem().contains(parsed), "{endpoint}: {error}");
    }
}

type Setter<E> = fn(E) -> E;

/// Asserts that these setters, called in every order, make an endpoint that prints as `printed`.
fn set<E: Clone + ToString>(endpoint: E, setters: &[Setter<E>], printed: &str) {
    if setters.is_empty() {
        return assert_eq!(endpoint.to_string(), printed);
    }
    for next in 0..setters.len() {
        let mut rest = setters.to_vec();
        let first = rest.remove(next);
        set(first(endpoint.clone()), &rest, printed);
    }
}

#[test]
fn setters_of_a_wrapper_may_be_called_in_any_order() {
    let tcp = || TcpServer::new(([127, 0, 0, 1], 80).into());
    let log = |setters: &[Setter<Logged<TcpServer>>], printed: &str| {
        set(Logged::new(tcp()), setters, &format!("log:tcp:80:interface=127.0.0.1:{printed}"));
    };
    log(&[|log| log.lines(LogForm::Hex), |log| log.limit(9)], "form=hex:limit=9");
    log(&[|log| log.file("a", LogForm::Hex), |log| log.limit(9)], "file=a:form=hex:limit=9");
    log(&[|log| log.pcap("a"), |log| log.limit(9)], "file=a:form=pcap:limit=9");
    set(
        Throttled::new(tcp()),
        &[|slow| slow.read(1), |slow| slow.write(2), |slow| slow.shared(true)],
        "throttle:tcp:80:interface=127.0.0.1:read=1:write=2:shared=yes",
    );
    set(
        ProxyServer::new(tcp()),
        &[
            |proxy| proxy.trust([10, 0, 0, 1].into(), 32),
            |proxy| proxy.header_timeout(Duration::from_millis(500)),
        ],
        "haproxy:tcp:80:interface=127.0.0.1:trusted=10.0.0.1/32:header-timeout=0.5",
    );
}

#[test]
#[cfg(any(feature = "tls", feature = "ring"))]
fn setters_of_tls_may_be_called_in_any_order() {
    set(
        TlsServer::new(TcpServer::new(([127, 0, 0, 1], 443).into())),
        &[
            |tls| tls.identity("c", "k"),
            |tls| tls.chain("x"),
            |tls| tls.alpn("h2"),
            |tls| tls.sni("certs"),
            |tls| tls.client_ca("ca"),
        ],
        "tls:443:interface=127.0.0.1:cert=c:key=k:chain=x:alpn=h2:sni=certs:client-ca=ca",
    );
    set(
        TlsClient::new(TcpClient::new("a", 443)),
        &[
            |tls| tls.identity("c", "k"),
            |tls| tls.chain("x"),
            |tls| tls.alpn("h2"),
            |tls| tls.ca("ca"),
            |tls| tls.server_name("b"),
        ],
        "tls:a:443:cert=c:key=k:chain=x:alpn=h2:ca=ca:servername=b",
    );
}

/// (text, the position of the error, a part of the message, the hint)
type Mistake = (&'static str, usize, &'static str, Option<&'static str>);

fn check(read: Read, mistakes: &[Mistake]) {
    for (text, at, problem, hint) in mistakes {
        let error = read(text).unwrap_err();
        assert!(error.problem().contains(problem), "{text}: {error}");
        assert_eq!((error.at(), error.hint()), (*at, *hint), "{error}");
    }
}

#[test]
fn c145_a_wrong_port_of_a_name_is_reported_with_the_name() {
    let hosts = [
        ("nohost", true),
        ("127.0.0.1", false),
        ("[::1]", false),
        ("localhost", false),
        ("", false),
    ];
    for (host, is_name) in hosts {
        for text in [format!("{host}:99999"), format!("tcp:99999:interface={host}")] {
            let error = server(&text).expect_err("no such port").to_string();
            assert!(error.contains("expected a port number from 0 to 65535"), "{error}");
            assert_eq!(error.contains("a port cannot listen on a name"), is_name, "{error}");
        }
    }
}

#[test]
#[cfg(any(feature = "tls", feature = "ring"))]
fn a_second_name_of_a_keyword_repeats_it() {
    let keywords: &[(Read, &str, &[&str])] = &[
        (server, "tls:443:key=a", &["cert", "certKey", "certificate"]),
        (server, "tls:443:cert=a", &["key", "privateKey"]),
        (server, "tls:443:cert=a", &["chain", "extraCertChain"]),
        (client, "tls:a:443", &["ca", "trustRoots", "caCertsDir"]),
        (client, "tls:a:443", &["servername", "hostname"]),
        (server, "unix", &["path", "address"]),
        (client, "unix", &["path", "address"]),
    ];
    for (read, text, names) in keywords {
        for first in *names {
            let text = format!("{text}:{first}=b");
            assert!(read(&text).is_ok(), "{text}");
            for second in *names {
                let error = read(&format!("{text}:{second}=c")).unwrap_err();
                assert!(error.problem().starts_with("repeated keyword "), "{error}");
            }
        }
    }
}

#[test]
#[cfg(any(feature = "tls", feature = "ring"))]
fn c145_a_mistake_in_a_kind_or_a_keyword_is_shown_with_a_suggestion() {
    let mistakes: &[Mistake] = &[
        (
            "tsl:443",
            0,
            "there is no tsl: to listen; an endpoint to listen starts with tcp:",
            Some("tls:443"),
        ),
        ("tsl:443:cert=a", 0, "there is no tsl:", Some("tls:443:cert=a")),
        ("haprox:tcp:8080", 0, "there is no haprox:", Some("haproxy:tcp:8080")),
        ("haproxy:tsl:443:cert=a", 8, "there is no tsl:", Some("haproxy:tls:443:cert=a")),
        ("haprox:tsl:443:cert=a", 0, "there is no haprox:", Some("haproxy:tls:443:cert=a")),
        ("sytemd:web", 0, "there is no sytemd:", Some("systemd:web")),
        // Two mistakes are likely only in a longer word.
        ("sysemdd:web", 0, "there is no sysemdd:", Some("systemd:web")),
        ("tcp:80:bakcog=5", 7, "unknown keyword bakcog=", Some("tcp:80:backlog=5")),
        ("trl:443:cert=a", 0, "an interface is an IP address", None),
        ("TLS:443:cert=a", 0, "there is no TLS:", Some("tls:443:cert=a")),
        ("udp:80", 0, "an endpoint to listen starts with tcp:", None),
        ("stdio:", 0, "an endpoint to listen starts with tcp:", None),
        (
            "tls:443:crt=a:key=b",
            8,
            "unknown keyword crt=; known keywords are cert=, key=",
            Some("tls:443:cert=a:key=b"),
        ),
        ("tls:443:crt=a", 8, "unknown keyword crt=", Some("tls:443:cert=a")),
        ("tls:443:crt=a:kye=b", 8, "unknown keyword crt=", Some("tls:443:cert=a:key=b")),
        ("tls:443:cert=a:client_ca=b", 15, "unknown keyword", Some("tls:443:cert=a:client-ca=b")),
        ("tls:443:cert=a:colour=red", 15, "alpn=, sni=, client-ca=, endpoint=, host=, port=", None),
        ("tcp:80:bcklog=5", 7, "unknown keyword bcklog=", Some("tcp:80:backlog=5")),
        ("haproxy:80:trusted=me", 19, "expected IP addresses", None),
        // As from an unset variable: an empty list must not trust all peers.
        ("haproxy:80:trusted=", 19, "expected IP addresses", None),
        ("haproxy:80:trusted=10.0.0.1,", 19, "expected IP addresses", None),
        ("haproxy:80:trusted=10.0.0.0/33", 19, "expected IP addresses", None),
        ("haproxy:80:trusted=10.0.0.0/", 19, "expected IP addresses", None),
        ("haproxy:80:header-timeout=0", 26, "expected a number of seconds", None),
        ("haproxy:80:version=1", 11, "unknown keyword version=; known keywords are trusted=", None),
        ("throttle:80", 11, "missing limit: expected read=N or write=N, in bytes per second", None),
        ("throttle:80:raed=5", 12, "unknown keyword raed=", Some("throttle:80:read=5")),
        ("throttle:80:read=0", 17, "expected bytes per second", None),
        ("throttle:80:read=1T", 17, "expected bytes per second", None),
        ("throttle:80:read=99999999999G", 17, "expected bytes per second", None),
        ("log:80:form=xml", 12, "expected text, hex or pcap", None),
        ("log:80:form=pcap", 12, "a capture needs file=FILE", None),
        ("log:80:limit=-1", 13, "expected bytes from 0", None),
        (
            "log:log:80",
            4,
            "a second log: needs a separate string for its keywords: log:endpoint=…",
            None,
        ),
        ("log:throttle:log:80:read=1", 13, "a second log: needs a separate string", None),
        (r"log:endpoint=tpc\:80", 13, "there is no tpc:", None),
        ("log:endpoint=80:90", 16, "expected nothing more", None),
        ("fd:", 3, "expected the number of a descriptor from 0", None),
        ("fd", 2, "missing number: expected fd:N", None),
        ("fd:-1", 3, "expected the number of a descriptor", None),
        ("fd:2147483647", 3, "expected the number of a descriptor from 0 to 2147483646", None),
        ("fd:3:backlog=5", 5, "unknown keyword backlog=", None),
        ("systemd", 7, "missing name: expected systemd:NAME or INDEX", None),
        ("systemd:index=x", 14, "expected an index", None),
        ("systemd:65536", 8, "expected an index from 0 to 65535", None),
        ("systemd:index=0:name=a", 21, "not both", None),
        ("systemd:domain=IPX:index=0", 15, "expected INET, INET6 or UNIX", None),
        ("systemd:\u{e4}", 8, "expected the FileDescriptorName=", None),
        ("tcp6:127.0.0.1:80", 5, "tcp6: listens on an IPv6 address", None),
        ("tls:443:chain=a", 14, "a chain belongs to a certificate", None),
        ("ssl:443:privateKey=k:sslmethod=SSLv3_METHOD", 31, "TLS 1.2 and 1.3 are offered", None),
    ];
    check(server, mistakes);
    let mistakes: &[Mistake] = &[
        ("tsl:example.com:443", 0, "there is no tsl: to connect", Some("tls:example.com:443")),
        ("systemd:web", 0, "an endpoint to connect starts with", None),
        ("tls:a:443:servename=b", 10, "unknown keyword servename=", Some("tls:a:443:servername=b")),
        ("tls:unix:s", 10, "missing servername", None),
        (r"tls:a:http:endpoint=unix\:s", 6, "expected a port number from 1 to 65535", None),
        (r"tls:a:0:endpoint=unix\:s", 6, "expected a port number from 1 to 65535", None),
        ("tls:unix:s:server-name=a", 11, "unknown keyword", Some("tls:unix:s:servername=a")),
        ("haproxy:a:80:version=3", 21, "expected 1 or 2", None),
        ("haproxy:a:80:trusted=::1", 13, "unknown keyword trusted=", None),
        ("tcp:hst=a:port=80", 17, "missing host", Some("tcp:host=a:port=80")),
    ];
    check(client, mistakes);
    // A host name may resemble a kind.
    assert_eq!(client("tsl:443").as_deref(), Ok("tcp:tsl:443"));
    let error = client("top:http").unwrap_err();
    assert_eq!((error.at(), error.hint()), (4, None), "{error}");
}

#[test]
#[cfg(any(feature = "tls", feature = "ring"))]
fn the_name_of_an_application_protocol_has_1_to_255_bytes() {
    let text = |names: &[usize]| {
        let names: Vec<String> = names.iter().map(|length| "x".repeat(*length)).collect();
        format!("tls:a:443:alpn={}", names.join(","))
    };
    for lengths in [&[1][..], &[255], &[2, 255]] {
        assert_eq!(client(&text(lengths)), Ok(text(lengths)));
    }
    for lengths in [&[0][..], &[256], &[2, 256], &[2, 0]] {
        let error = client(&text(lengths)).unwrap_err();
        assert!(error.problem().starts_with("expected protocols such as"), "{error}");
    }
}

#[test]
fn the_name_of_a_passed_socket_has_at_most_255_characters() {
    let text = |length: usize| format!("systemd:name={}", "x".repeat(length));
    assert_eq!(server(&text(255)), Ok(text(255)));
    let error = server(&text(256)).unwrap_err();
    assert!(error.problem().starts_with("expected the FileDescriptorName="), "{error}");
}

/// A kind and some of its keywords.
type Piece = (&'static str, &'static [&'static str]);

const WRAPPERS: [Piece; 8] = [
    ("", &[]),
    ("", &["crt=a", "colour=red"]),
    ("haproxy:", &["trusted=10.0.0.0/8,1.2.3.4", "trusted=[::1]", "header-timeout=1.5"]),
    ("haproxy:", &["version=2", "trusted=::1"]),
    ("throttle:", &["read=1k", "write=7", "shared=yes"]),
    ("log:", &["file=f.pcap", "form=hex", "limit=9"]),
    ("tls:", &["cert=a", "key=b", "alpn=h2", "sni=e", "client-ca=d", "chain=x"]),
    ("ssl:", &["privateKey=b", "caCertsDir=c", "servername=d", "certKey=a"]),
];

const INNERMOST: [Piece; 9] = [
    ("80", &["backlog=3", "reuse_port=yes", "interface=[::1]"]),
    ("a:80", &["timeout=3", "bindAddress=127.0.0.1"]),
    ("tcp6:80", &["dual_stack=yes"]),
    ("unix:/s", &["mode=600", "timeout=3"]),
    ("unix", &["path=p"]),
    ("fd:3", &[]),
    ("systemd", &["name=web", "index=1", "domain=UNIX"]),
    ("udp:80", &[]),
    ("", &[r"endpoint=tcp\:a\:1", r"endpoint=log\:80\:file\=a", "port=80", "host=a"]),
];

/// Endpoint strings, most of them valid.
fn pieces() -> impl Strategy<Value = String> {
    let wrapper = || prop::sample::select(&WRAPPERS[..]);
    let innermost = prop::sample::select(&INNERMOST[..]);
    (wrapper(), wrapper(), innermost, any::<u16>()).prop_map(|(outer, inner, innermost, some)| {
        let kinds = [outer.0, inner.0, innermost.0].concat();
        let keywords = [outer.1, inner.1, innermost.1].concat();
        let chosen = keywords.iter().enumerate().filter(|(at, _)| some & (1 << at) != 0);
        chosen.fold(kinds, |text, (_, keyword)| format!("{text}:{keyword}"))
    })
}

proptest! {
    #[test]
    fn an_endpoint_of_any_kind_prints_as_a_string_that_means_the_same(text in pieces()) {
        print_the_same(&text);
    }

    /// Following hints ends at a valid string, or at an error without a hint.
    #[test]
    fn a_chain_of_hints_ends(text in pieces(), at in 0usize..20, letter in "[a-z:=]") {
        let mut text = text;
        let at = (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.insert_str(at, &letter);
        for read in [server as Read, client] {
            let (mut text, mut hints) = (text.clone(), 0);
            while let Err(error) = read(&text) {
                let Some(hint) = error.hint() else { break };
                text = hint.to_owned();
                hints += 1;
                prop_assert!(hints < 10, "{}", text);
            }
        }
    }
}
