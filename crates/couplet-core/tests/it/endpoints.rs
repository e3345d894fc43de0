//! Endpoint strings: contract rows 144 and 145 (the TCP part), and 33.

use std::any::Any;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::Path;
use std::time::Duration;

use couplet::endpoints::{
    EndpointError, IntoEndpoint, TcpClient, TcpServer, UnixClient, UnixServer, client_from_string,
    quote, server_from_string,
};
use couplet::testing::{Manner, Memory, MemoryReactor, failure_of, no_result_yet, success_of};
use couplet::transport::SockRef;
use couplet::{
    Address, ConnectOptions, Connection, ListenError, ListenOptions, Loop, LoopOptions, UnixAddress,
};
use proptest::prelude::*;

use crate::needed::{Folder, has_ipv6, loopbacks};
use crate::suite::recorder::{A, Recorder, Script};
use couplet_testkit_loops::doubles::Quiet;

fn client(text: &str) -> Result<(String, u16), EndpointError> {
    let endpoint = client_from_string(text)?;
    let tcp: &TcpClient = cast(&*endpoint);
    Ok((tcp.host.clone(), tcp.port))
}

fn server(text: &str) -> Result<String, EndpointError> {
    let endpoint = server_from_string(text)?;
    let tcp: &TcpServer = cast(&*endpoint);
    Ok(tcp.address.to_string())
}

fn cast<T: Any>(endpoint: &dyn Any) -> &T {
    endpoint.downcast_ref().expect("an endpoint of this kind")
}

#[test]
fn c144_colons_separate_and_the_first_equals_sign_splits() {
    assert_eq!(client("tcp:example.com:80"), Ok(("example.com".into(), 80)));
    assert_eq!(client("tcp:host=example.com:port=80"), Ok(("example.com".into(), 80)));
    assert_eq!(client("tcp:port=80:host=a=b"), Ok(("a=b".into(), 80)));
    assert_eq!(client("tcp:[::1]:80"), Ok(("::1".into(), 80)));
    assert_eq!(server("tcp:80:interface=127.0.0.1"), Ok("127.0.0.1:80".into()));
    assert_eq!(server("tcp:port=80:interface=[::1]"), Ok("[::1]:80".into()));
}

#[test]
fn c144_a_backslash_escapes() {
    assert_eq!(server(r"tcp:80:interface=\:\:1"), Ok("[::1]:80".into()));
    assert_eq!(client(r"tcp:\e\xample.com:80"), Ok(("example.com".into(), 80)));
    assert_eq!(client(r"tcp:a\=b:80"), Ok(("a=b".into(), 80)));
    assert!(client("tcp:example.com:80\\").is_err());
}

#[test]
fn c144_quoting_protects_backslash_and_colon() {
    assert_eq!(quote(r"a\b:c=d"), r"a\\b\:c=d");
    let text = format!("tcp:{}:80", quote(r"a\b:c"));
    assert_eq!(client(&text), Ok((r"a\b:c".into(), 80)));
}

#[test]
fn an_error_contains_no_control_characters() {
    let error = client("tcp:host:80:\x1b[2J\n=x").unwrap_err();
    assert!(!error.problem().contains(char::is_control), "{error:?}");
    assert_eq!(error.to_string().lines().count(), 3);
    for text in ["tc\x1bp:80", "throttle:tc\x1bp:80:read=1", "[fe80::1%\x1b]:80"] {
        let error = server_from_string(text).unwrap_err();
        assert!(!error.to_string().replace('\n', "").contains(char::is_control), "{error:?}");
    }
}

#[test]
fn a_switch_is_yes_true_or_1_or_else_no_false_or_0() {
    for (words, printed) in [(["yes", "true", "1"], ":reuse_port=yes"), (["no", "false", "0"], "")]
    {
        for word in words {
            let text =
                server_from_string(&format!("tcp:80:reuse_port={word}")).unwrap().to_string();
            assert_eq!(text, format!("tcp:80{printed}"), "{word}");
        }
    }
    for word in ["Yes", "TRUE", "y", "2", "01", "on", ""] {
        let error = server_from_string(&format!("tcp:80:reuse_port={word}")).unwrap_err();
        assert_eq!((error.problem(), error.at()), ("expected yes or no", 18), "{word}");
    }
}

#[test]
fn c145_tcp_listens_on_both_families_unless_an_interface_narrows_it() {
    let mut l = Loop::new().unwrap();
    let reactor = l.reactor();
    for (text, is_narrow) in [("tcp:0", false), ("tcp:0:interface=127.0.0.1", true)] {
        let port = reactor.listen(text, || Quiet).unwrap();
        let number = port.host().port().unwrap();
        for ip in loopbacks() {
            let (host, is_v4) = (SocketAddr::new(ip, number), ip.is_ipv4());
            let connecting = reactor.connect(format!("tcp:{host}"), || Quiet);
            let connected = l.run_until(connecting);
            assert_eq!(connected.is_ok(), is_v4 || !is_narrow, "{text}, {host}");
            // An IPv4 peer appears as IPv4 on both sides.
            let peer = connected.map(|connection| connection.transport().peer().ip().unwrap());
            assert!(
                peer.is_ok_and(|peer| peer.is_ipv4() == is_v4) || is_narrow && !is_v4,
                "{host}"
            );
        }
    }
}

#[test]
fn c145_an_unknown_prefix_is_an_error() {
    for text in ["udp:80", "UNIX:80", "TLS:80", "TCP:80", "tcp4:80", "TCP4:80"] {
        for error in [server(text).unwrap_err(), client(text).unwrap_err()] {
            assert!(error.problem().contains("starts with tcp:"), "{text}: {error}");
            assert_eq!(error.at(), 0);
        }
    }
    assert_eq!(client("tcp:udp:80"), Ok(("udp".into(), 80)), "a host of that name");
}

#[test]
fn c145_tcp_may_be_left_out() {
    for (text, address) in [
        ("80", "127.0.0.1:80"),
        ("port=80", "127.0.0.1:80"),
        ("80:interface=[::1]:backlog=5", "[::1]:80"),
        (":80", "[::]:80"),
        ("localhost:80", "127.0.0.1:80"),
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("0.0.0.0:80", "0.0.0.0:80"),
        ("[::1]:80", "[::1]:80"),
        ("[::]:80:reuse_port=yes", "[::]:80"),
        ("host=localhost:port=80", "127.0.0.1:80"),
        ("tcp::80", "[::]:80"),
        ("tcp:localhost:80", "127.0.0.1:80"),
        ("tcp:host=127.0.0.1:port=80", "127.0.0.1:80"),
    ] {
        assert_eq!(server(text), Ok(address.into()), "{text}");
    }
    for (text, host) in [
        ("80", "127.0.0.1"),
        ("80:timeout=5", "127.0.0.1"),
        ("localhost:80", "localhost"),
        ("[::1]:80", "::1"),
        ("host=example.com:port=80", "example.com"),
        ("example.com:80:timeout=5", "example.com"),
    ] {
        assert_eq!(client(text), Ok((host.into(), 80)), "{text}");
    }
}

#[test]
fn c145_the_host_of_a_client_may_be_an_ipv6_address_in_brackets() {
    for (host, bare) in [
        ("[::1]", "::1"),
        ("[::1%1]", "::1%1"),
        ("::1", "::1"),
        ("[::1", "[::1"),
        ("[127.0.0.1]", "[127.0.0.1]"),
        ("[localhost]", "[localhost]"),
    ] {
        assert_eq!(TcpClient::new(host, 80).host, bare);
    }
    assert_eq!(TcpClient::new("[::1]", 80).to_string(), "tcp:[::1]:80");
}

#[test]
fn c145_a_ports_host_string_works_for_listen_and_connect() {
    let mut l = Loop::new().unwrap();
    let reactor = l.reactor();
    let of_ipv6 = if has_ipv6() { &["0", ":0", "tcp:0", "[::1]:0", "[::1%1]:0"][..] } else { &[] };
    for text in ["localhost:0", "127.0.0.1:0"].iter().chain(of_ipv6).copied() {
        let port = reactor.listen(text, || Quiet).unwrap_or_else(|error| panic!("{text}: {error}"));
        let host = port.host().to_string();
        let connecting = reactor.connect(&host, || Quiet);
        l.run_until(connecting).unwrap_or_else(|error| panic!("{host}: {error}"));
        let stopping = port.stop_listening().expect("it listens");
        l.run_until(stopping).unwrap();
        let again = reactor.listen(&host, || Quiet).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(again.host().to_string(), host);
    }
}

#[test]
fn c145_c145a_a_scope_is_an_interface_number_or_name() {
    let scoped = |text: &str, scope| {
        let ip: Ipv6Addr = text.parse().unwrap();
        Ok(SocketAddr::from(SocketAddrV6::new(ip, 80, 0, scope)).to_string())
    };
    assert_eq!(server("[fe80::1%7]:80"), scoped("fe80::1", 7));
    assert_eq!(server("tcp:80:interface=[fe80::1%7]"), scoped("fe80::1", 7));
    assert_eq!(client("[fe80::1%7]:80"), Ok(("fe80::1%7".into(), 80)));
    if cfg!(target_os = "linux") {
        assert_eq!(server("[fe80::1%lo]:80"), scoped("fe80::1", 1));
        assert_eq!(client("[fe80::1%lo]:80"), Ok(("fe80::1%lo".into(), 80)));
    }
    let errors = ["[fe80::1%no such]:80", "80:interface=[fe80::1%\x07]"].map(server);
    for error in errors.map(Result::unwrap_err) {
        assert!(error.problem().contains("no interface"), "{error}");
        assert!(!error.to_string().contains('\x07'));
    }
    let error = client("[fe80::1%no such]:80").unwrap_err();
    assert_eq!((error.problem(), error.at()), ("no interface \"no such\" on this machine", 0));
}

#[test]
#[cfg(target_os = "linux")]
fn a_scope_is_passed_to_the_system() {
    if !has_ipv6() {
        return;
    }
    let mut l = Loop::new().unwrap();
    let reactor = l.reactor();
    // No interface has that address, but the error shows that the bind named the interface.
    let error = reactor.listen("[fe80::ffff%lo]:0", || Quiet).unwrap_err();
    let error = error.downcast_ref::<ListenError>().unwrap_or_else(|| panic!("{error}"));
    assert_eq!(error.address.to_string(), "tcp:[fe80::ffff%1]:0");
    let port = reactor.listen("[::1]:0", || Quiet).unwrap();
    let number = port.host().port().unwrap();
    for scope in ["lo", "1"] {
        let connecting = reactor.connect(format!("[::1%{scope}]:{number}"), || Quiet);
        l.run_until(connecting).unwrap_or_else(|error| panic!("{scope}: {error}"));
    }
    let connecting = reactor.connect("[fe80::ffff%lo]:9:timeout=0.1", || Quiet);
    let error = l.run_until(connecting).unwrap_err();
    assert!(
        !error.is::<EndpointError>() && !error.to_string().contains("find the host"),
        "{error}"
    );
}

#[test]
fn the_longest_time_is_a_timeout() {
    let most = u64::MAX;
    let endpoint = client_from_string(&format!("localhost:80:timeout={most}")).unwrap();
    let options = ConnectOptions::default().timeout(Duration::from_secs(most));
    assert_eq!(cast::<TcpClient>(&*endpoint).options, options);
    let mut l = Loop::new().unwrap();
    let port = l.reactor().listen("0", || Quiet).unwrap();
    let connecting = l.reactor().connect(format!("{}:timeout={most}", port.host()), || Quiet);
    l.run_until(connecting).unwrap();
    for bad in ["18446744073709551616", "1e300", "inf", "nan", "-1", "0", "0.0000000001", "", "1.x"]
    {
        let error = client(&format!("localhost:80:timeout={bad}")).unwrap_err();
        assert!(error.problem().contains("0.000000001 to 18446744073709551615"), "{bad}: {error}");
        assert_eq!(error.at(), 21, "{bad}");
    }
}

#[test]
fn c144_an_endpoint_prints_with_its_options() {
    for text in [
        "tcp:80:backlog=500:reuse_port=yes:reuse_addr=no:dual_stack=no:no_delay=no",
        "tcp:80:interface=[fe80::1%7]:backlog=1",
        "tcp:80:backlog=4294967295",
        "unix:/run/app.sock:mode=660:owner=0:group=7:lockfile=no:backlog=5",
        r"unix:./a\:b\=c\[d\\e",
        "unix:@app",
    ] {
        assert_eq!(server_from_string(text).unwrap().to_string(), text);
    }
    for text in [
        "unix:/run/app.sock:timeout=5",
        "unix:@app",
        "tcp:a:80:timeout=0.05:bindAddress=127.0.0.1:bindPort=7:no_delay=no",
        "tcp:[fe80::1%7]:80:timeout=18446744073709551615:bindAddress=[::1]",
    ] {
        assert_eq!(client_from_string(text).unwrap().to_string(), text);
    }
    let any_port = "tcp:a:80:bindAddress=127.0.0.1:bindPort=0";
    let any_port = client_from_string(any_port).unwrap().to_string();
    assert_eq!(any_port, "tcp:a:80:bindAddress=127.0.0.1");
    let host = r"fe80::1%a]\b".to_owned();
    let endpoint = TcpClient::new(host, 80);
    assert_eq!(endpoint.to_string(), r"tcp:[fe80::1%a\]\\b]:80");
    assert_eq!(
        server_from_string("80:backlog=50").unwrap().to_string(),
        "tcp:80:interface=127.0.0.1"
    );
}

#[test]
fn a_socket_file_whose_path_begins_like_a_name_prints_as_a_path() {
    for (path, printed) in [("@app", "unix:./@app"), ("@", "unix:./@"), (r"@a:b", r"unix:./@a\:b")]
    {
        let (server, client) = (UnixServer::new(path), UnixClient::new(path));
        assert_eq!([server.to_string(), client.to_string()], [printed; 2]);
        let [server, client] = [
            cast::<UnixServer>(&*server_from_string(printed).unwrap()).path.clone(),
            cast::<UnixClient>(&*client_from_string(printed).unwrap()).path.clone(),
        ];
        let path = Path::new(".").join(path);
        assert_eq!([server.path(), client.path()], [Some(&*path); 2]);
    }
}

#[test]
fn a_port_has_the_options_of_its_string() {
    let mut l = Loop::new().unwrap();
    let reactor = l.reactor();
    let first = reactor.listen("127.0.0.1:0:reuse_port=yes", || Quiet).unwrap();
    let number = first.host().port().unwrap();
    for (switch, is_shared) in [("yes", true), ("no", false)] {
        let text = format!("127.0.0.1:{number}:reuse_port={switch}");
        assert_eq!(reactor.listen(&text, || Quiet).is_ok(), is_shared, "{text}");
    }
    for (switch, is_of_v6) in [("yes", false), ("no", true)] {
        // Such a port is of IPv4, or of addresses that nothing has.
        if is_of_v6 && !has_ipv6() {
            continue;
        }
        let port = reactor.listen(format!("tcp:0:dual_stack={switch}"), || Quiet).unwrap();
        let sockets = l.run_until(port.duplicate()).unwrap().into_descriptors().unwrap();
        let only_v6 = SockRef::from(&sockets[0]).only_v6();
        assert_eq!(only_v6.is_ok_and(|only| only), is_of_v6, "{switch}");
    }
}

#[cfg(unix)]
#[test]
fn a_socket_file_has_the_mode_and_the_lock_file_of_its_string() {
    use std::os::unix::fs::PermissionsExt;
    for (keywords, mode, names) in [
        ("", 0o666, &["socket", "socket.lock"][..]),
        (":mode=600", 0o600, &["socket", "socket.lock"]),
        (":lockfile=no", 0o666, &["socket"]),
        (":mode=640:lockfile=no", 0o640, &["socket"]),
    ] {
        let (folder, l) = (Folder::new(), Loop::new().unwrap());
        let text = format!("unix:{}{keywords}", folder.path("socket"));
        let _port = l.reactor().listen(&text, || Quiet).unwrap();
        let found = std::fs::metadata(folder.join("socket")).unwrap().permissions().mode();
        assert_eq!(found & 0o777, mode, "{text}");
        assert_eq!(folder.names(), names, "{text}");
    }
}

#[test]
fn a_client_waits_as_long_as_its_string_says() {
    for (text, limit) in [
        ("10.0.0.1:80", 30.0),
        ("10.0.0.1:80:timeout=2.5", 2.5),
        ("unix:/s", 30.0),
        ("unix:/s:timeout=2.5", 2.5),
    ] {
        let mut memory = MemoryReactor::new();
        let connecting = memory.reactor().connect(text, || Quiet);
        memory.advance(Duration::from_secs_f64(limit - 0.1));
        no_result_yet(&connecting);
        memory.advance(Duration::from_secs_f64(0.2));
        let failure = failure_of(connecting);
        let timed_out = format!("no answer within {:?}", Duration::from_secs_f64(limit));
        assert_eq!(failure.to_string(), timed_out, "{text}");
    }
}

#[test]
fn the_options_of_a_program_hold_wherever_its_string_names_the_server() {
    let options = ListenOptions::default().backlog(7);
    for text in ["80", "unix:/s", "throttle:80:read=1", r"throttle:read=1:endpoint=tcp\:80"] {
        let server =
            IntoEndpoint::<dyn couplet::endpoints::ServerEndpoint>::into_endpoint((text, &options))
                .expect("an endpoint");
        assert!(format!("{server:?}").contains("backlog: 7"), "{server:?}");
    }
}

#[test]
#[cfg(feature = "idna")]
fn c144a_a_host_beyond_ascii_is_looked_up_in_ascii() {
    for name in ["bücher.test", "BÜCHER.test", "xn--bcher-kva.test", "bücher。test"] {
        let mut memory = MemoryReactor::new();
        let there: IpAddr = [192, 0, 2, 7].into();
        memory.network().set_name("xn--bcher-kva.test", Duration::ZERO, Ok(vec![there]));
        let found = memory.reactor().resolve(name);
        for text in [format!("{name}:80"), format!("tcp:{name}:80"), format!("log:{name}:80")] {
            let connecting = memory.reactor().connect(&*text, || Quiet);
            memory.settle();
            let attempt = memory.connecting().pop().expect("an attempt");
            assert_eq!(attempt.address().ip(), Some(there), "{text}");
            // The endpoint displays the name as written.
            let endpoint = client_from_string(&text).expect("an endpoint");
            assert!(endpoint.to_string().contains(name), "{endpoint}");
            connecting.detach();
        }
        assert_eq!(success_of(found), [there]);
    }
}

/// Twisted's `UNIXServerEndpoint` and `UNIXClientEndpoint`.
#[test]
fn c145_unix_names_a_socket() {
    for text in ["unix:/run/app.sock", "unix:address=/run/app.sock:mode=0666:lockfile=1"] {
        let endpoint = server_from_string(text).unwrap();
        let UnixServer { path, options, .. } = cast(&*endpoint);
        assert_eq!(path.path(), Some(Path::new("/run/app.sock")));
        assert_eq!(*options, ListenOptions::default().mode(0o666).lock_file(true));
    }
    let text = "unix:app.sock:mode=600:lockfile=0:owner=1:group=2:backlog=7";
    let endpoint = server_from_string(text).unwrap();
    let UnixServer { path, options, .. } = cast(&*endpoint);
    assert_eq!(path.path(), Some(Path::new("app.sock")));
    let expected = ListenOptions::default().mode(0o600).owner(1).group(2).backlog(7);
    assert_eq!(*options, expected.lock_file(false));
    for text in ["unix:/run/app.sock:timeout=5", "unix:path=/run/app.sock:timeout=5:lockfile=1"] {
        let endpoint = client_from_string(text).unwrap();
        let UnixClient { path, options, .. } = cast(&*endpoint);
        assert_eq!(path.path(), Some(Path::new("/run/app.sock")));
        assert_eq!(*options, ConnectOptions::default().timeout(Duration::from_secs(5)));
    }
    let endpoint = client_from_string("unix:@app").unwrap();
    assert_eq!(cast::<UnixClient>(&*endpoint).path, UnixAddress::Abstract((*b"app").into()));
}

#[test]
fn c145_an_error_in_a_unix_endpoint_shows_its_place() {
    for (text, at, problem) in [
        ("unix", 4, "missing path: expected unix:PATH"),
        ("unix:", 5, "missing path: expected unix:PATH"),
        ("unix:@", 5, "missing name after @"),
        ("unix:a\0b", 5, "the path of a socket must not contain a NUL"),
        ("unix:@a\0b", 5, "the path of a socket must not contain a NUL"),
        ("unix:a:mode=+660", 12, "expected permissions in octal, such as 660"),
        ("unix:a:mode=", 12, "expected permissions in octal, such as 660"),
        ("unix:a:mode=888", 12, "expected permissions in octal, such as 660"),
        ("unix:a:mode=17777", 12, "expected permissions in octal, such as 660"),
        ("unix:a:owner=root", 13, "expected a number from 0 to 4294967294"),
        ("unix:a:lockfile=maybe", 16, "expected yes or no"),
        ("unix:a:interface=::1", 7, "unknown keyword interface=; known keywords are path=, mode="),
        ("unix:a:b", 7, "expected nothing more"),
    ] {
        let error = server_from_string(text).unwrap_err();
        assert!(error.problem().starts_with(problem), "{text}: {error}");
        assert_eq!(error.at(), at, "{text}: {error}");
    }
    let error = client_from_string("unix:a:lockfile=maybe").unwrap_err();
    assert_eq!((error.problem(), error.at()), ("expected yes or no", 16));
    let error = client_from_string("unix:a:mode=600").unwrap_err();
    assert!(error.problem().ends_with("are path=, timeout= and lockfile="), "{error}");
}

#[test]
fn c145_a_unix_ports_host_string_works_for_listen_and_connect() {
    let (driver, _network) = Memory::new(Manner::Readiness, 0);
    let mut l = Loop::with_driver(driver, LoopOptions::default());
    let reactor = l.reactor();
    let port = reactor.listen(r"unix:/a\:b", || Quiet).unwrap();
    assert_eq!(port.host().to_string(), r"unix:/a\:b");
    let there = reactor.connect(port.host().to_string(), || Quiet);
    assert!(l.run_until(there).is_ok());
    assert!(reactor.listen(port.host().to_string(), || Quiet).is_err(), "it is taken");
}

#[test]
fn c33_an_error_suggests_the_string_probably_meant() {
    for (text, to_listen, to_connect) in [
        ("::1:8000", Some("[::1]:8000"), Some("[::1]:8000")),
        ("tcp:fe80::1%1:80", Some("tcp:[fe80::1%1]:80"), Some("tcp:[fe80::1%1]:80")),
        ("8000:interface=::1", Some("8000:interface=[::1]"), None),
        ("TCP:80", Some("tcp:80"), Some("localhost:80")),
        ("Tcp:localhost:80", Some("tcp:localhost:80"), Some("tcp:localhost:80")),
        ("http://localhost:8000/poem", Some("localhost:8000"), Some("localhost:8000")),
        ("/run/app.sock", Some("unix:/run/app.sock"), Some("unix:/run/app.sock")),
        ("./app.sock", Some("unix:./app.sock"), Some("unix:./app.sock")),
        ("Unix:app.sock", Some("unix:app.sock"), Some("unix:app.sock")),
        ("1:2:3:4:5:6:7:8:80", Some("[1:2:3:4:5:6:7:8]:80"), Some("[1:2:3:4:5:6:7:8]:80")),
        (":80", None, Some("localhost:80")),
        ("tcp:80", None, Some("localhost:80")),
        ("tcp:80:colour=red", None, None),
        ("localhost", None, None),
        ("::1:\x1b80", None, None),
        ("TCP:ho\x1bst:80", None, None),
    ] {
        let hint = |error: Option<EndpointError>| {
            error.and_then(|error| {
                let printed = error.to_string();
                let hint = error.hint().map(str::to_owned);
                assert_eq!(printed.contains("did you mean "), hint.is_some(), "{printed}");
                assert_eq!(printed.lines().count(), 3 + usize::from(hint.is_some()), "{printed}");
                hint
            })
        };
        assert_eq!(hint(server(text).err()).as_deref(), to_listen, "{text}");
        assert_eq!(hint(client(text).err()).as_deref(), to_connect, "{text}");
    }
}

/// (text, the caret's column, a word of the error message)
const BAD_TO_LISTEN: [(&str, usize, &str); 27] = [
    ("tcp:", 4, "port"),
    ("tcp", 3, "missing"),
    ("tcp:http", 4, "port"),
    ("tcp:65536", 4, "65535"),
    ("tcp:-1", 4, "port"),
    ("tcp:+80", 4, "port"),
    ("tcp: 80", 4, "port"),
    ("tcp:8\u{660}", 4, "port"),
    ("tcp:80:interface=here", 17, "IP address"),
    // As from an unset variable: the port must not be open to everybody.
    ("tcp:80:interface=", 17, "IP address"),
    ("80:interface=", 13, "IP address"),
    ("tcp6:80:interface=", 18, "IP address"),
    ("tcp:host=:port=80", 9, "IP address"),
    ("tcp:80:backlog=-1", 15, "connections"),
    ("tcp:80:backlog=+5", 15, "connections"),
    ("tcp:80:backlog=4294967296", 15, "4294967295"),
    ("tcp:80:colour=red", 7, "known"),
    ("tcp:80:81", 4, "IP address"),
    ("tcp:localhost:80:81", 17, "nothing more"),
    ("localhost:80:interface=[::1]", 13, "repeated"),
    ("", 0, "port"),
    ("http", 0, "port"),
    ("localhost", 9, "missing"),
    ("[::1]", 5, "missing"),
    ("example.com:80", 0, "IP address"),
    ("foo:80", 0, "localhost"),
    ("tcp=80", 6, "missing"),
];

const BAD_TO_CONNECT: [(&str, usize, &str); 21] = [
    ("tcp:80", 6, "missing"),
    ("tcp::80", 4, "missing"),
    ("tcp:host:http", 9, "port"),
    ("tcp:[::1:80", 4, "unclosed"),
    ("tcp:[localhost]:80", 4, "IPv6"),
    ("tcp:two words:80", 4, "host name"),
    ("a/b:80", 0, "neither a host name"),
    ("a]:80", 0, "neither a host name"),
    ("tcp:a[b:80", 4, "neither a host name"),
    ("tcp:host:80:timeout=soon", 20, "seconds"),
    ("tcp:host:80:timeout=1:timeout=2", 22, "repeated"),
    (r"tcp:host:80:\c\olour=red", 12, "known"),
    ("", 0, "port"),
    ("host", 0, "port"),
    ("localhost", 9, "missing"),
    ("0", 0, "from 1 to 65535"),
    ("host:0", 5, "from 1 to 65535"),
    ("tcp:port=80", 11, "missing host"),
    ("tcp:host=a", 10, "missing port"),
    ("host:80:bindPort=7", 18, "bindAddress"),
    ("host:80:no_delay=maybe", 17, "yes or no"),
];

#[test]
fn c33_a_malformed_endpoint_is_an_error_at_once_that_shows_the_place() {
    let to_listen =
        BAD_TO_LISTEN.map(|(text, at, word)| (text, at, word, server(text).unwrap_err()));
    let to_connect =
        BAD_TO_CONNECT.map(|(text, at, word)| (text, at, word, client(text).unwrap_err()));
    for (text, at, word, error) in to_listen.into_iter().chain(to_connect) {
        assert!(error.problem().contains(word), "{text}: {error}");
        let printed = error.to_string();
        let lines: Vec<&str> = printed.lines().collect();
        assert_eq!(lines[1].trim_start(), text);
        assert_eq!(lines[2].find('^'), Some(4 + at), "{printed}");
    }
}

#[test]
fn the_caret_is_under_the_character_of_the_error() {
    for (text, under) in [
        ("unix:/gedichte/\u{fc}ber/\u{e4}:mode=888", "888"),
        ("unix:\u{8a69}\u{6b4c}:colour=red", "colour=red"),
        ("unix:\u{8a69}:a\u{e4}", "a\u{e4}"),
    ] {
        let error = server_from_string(text).unwrap_err();
        assert_eq!(&text[error.at()..], under);
        let printed = error.to_string();
        let lines: Vec<&str> = printed.lines().collect();
        let before = lines[1].strip_suffix(under).expect("the string is printed");
        assert_eq!(lines[2], format!("{}^", " ".repeat(before.chars().count())), "{printed}");
    }
}

#[test]
fn connecting_to_an_invalid_endpoint_returns_a_failed_deferred() {
    let mut l = Loop::new().unwrap();
    let connecting = l.reactor().connect("tcp:localhost", || Quiet);
    let failure = l.run_until(connecting).unwrap_err();
    assert!(failure.is::<EndpointError>(), "{failure}");
}

#[test]
fn one_protocol_object_connects_without_a_factory() {
    let mut l = Loop::new().unwrap();
    let port = l.reactor().listen("tcp:0:interface=127.0.0.1", || Quiet).unwrap();
    let a = A::default();
    let object = a.plays(Script::new());
    let connecting = l.reactor().connect_protocol(port.host().to_string(), object);
    let connection: Connection<Recorder> = l.run_until(connecting).unwrap();
    let waits = connection.ask(|_, transport| transport.abort_connection());
    l.run_until(waits).unwrap();
    l.turn(Some(Duration::ZERO)).unwrap();
    assert_eq!(a.log.entries(), ["made", "lost(Aborted)"], "it is the object passed in");
}

/// Asserts that the endpoints of this text print as strings that mean the same.
pub(crate) fn print_the_same(text: &str) {
    if let Ok(endpoint) = server_from_string(text) {
        let again = server_from_string(&endpoint.to_string()).unwrap();
        assert_eq!(format!("{again:?}"), format!("{endpoint:?}"), "{endpoint}");
    }
    if let Ok(endpoint) = client_from_string(text) {
        let again = client_from_string(&endpoint.to_string()).unwrap();
        assert_eq!(format!("{again:?}"), format!("{endpoint:?}"), "{endpoint}");
    }
}

proptest! {
    #[test]
    fn any_text_is_an_endpoint_or_an_error_and_never_a_panic(text in ".{0,60}") {
        let _ = server_from_string(&text).map_err(|error| error.to_string());
        let _ = client_from_string(&text).map_err(|error| error.to_string());
        let _ = client(&format!("tcp:{text}")).map_err(|error| error.to_string());
    }

    #[test]
    fn quoting_round_trips(host in "[a-z:\\\\.-]{1,20}", port in 1u16..) {
        // No `=`, which would split the part.
        let read = client(&format!("tcp:{}:{port}", quote(&host)));
        prop_assert_eq!(read, Ok((host, port)));
    }

    #[test]
    fn a_server_endpoint_prints_as_a_string_that_means_the_same(
        (ip, port, scope) in any::<(IpAddr, u16, u32)>(),
        (backlog, on) in any::<(u32, [bool; 4])>(),
    ) {
        let address = match ip {
            IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, scope).into(),
            IpAddr::V4(ip) => SocketAddr::from((ip, port)),
        };
        let options = ListenOptions::default().backlog(backlog.max(1)).reuse_addr(on[0]);
        let options = options.reuse_port(on[1]).dual_stack(on[2]).no_delay(on[3]);
        let endpoint = TcpServer::new(address).options(options);
        let again = server_from_string(&endpoint.to_string()).unwrap();
        prop_assert_eq!(format!("{again:?}"), format!("{endpoint:?}"));
    }

    #[test]
    fn a_client_endpoint_prints_with_all_its_options(
        host in "[a-z0-9=:\\\\.-]{1,20}|[0-9a-f]{1,4}::[0-9]{1,4}(%[0-9]{1,4})?",
        port in 1u16..,
        (seconds, nanos) in (0u64.., 1u32..1_000_000_000),
        bind: Option<(IpAddr, u16)>,
        no_delay: bool,
    ) {
        let options = ConnectOptions::default().timeout(Duration::new(seconds, nanos)).no_delay(no_delay);
        let options = match bind {
            Some(bind) => options.bind(bind.into()),
            None => options,
        };
        let endpoint = TcpClient::new(host, port).options(options);
        let again = client_from_string(&endpoint.to_string()).unwrap();
        prop_assert_eq!(format!("{again:?}"), format!("{endpoint:?}"));
    }

    #[test]
    fn a_parsed_endpoint_prints_as_a_string_that_means_the_same(
        text in "(tcp:)?(|[0-9]{1,4}|\\[?(::1|fe80::1(%[0-9a-z]{1,3})?)\\]?|[a-z]{1,3}|127.0.0.1|(host=)?localhost):?(port=)?[0-9]{1,4}(:(timeout|backlog|no_delay|interface|bindAddress)=(1|yes|::1|0.25))?"
    ) {
        print_the_same(&text);
    }
}

#[test]
fn the_url_of_an_address_names_localhost_for_all_interfaces_of_either_family() {
    for (address, host) in [
        ("0.0.0.0:8000", "localhost:8000"),
        ("[::]:8000", "localhost:8000"),
        ("10.0.0.1:8000", "10.0.0.1:8000"),
        ("[::1]:8000", "[::1]:8000"),
        ("[::ffff:10.0.0.1]:8000", "10.0.0.1:8000"),
    ] {
        let socket: SocketAddr = address.parse().expect("an address");
        for address in [Address::from(socket), Address::udp(socket)] {
            assert_eq!(address.url("http"), Some(format!("http://{host}")), "{address}");
            assert_eq!(address.is_wildcard(), host.starts_with("localhost"), "{address}");
        }
    }
    assert_eq!(Address::from(UnixAddress::from("/run/app.sock")).url("http"), None);
}
