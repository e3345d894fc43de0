//! `tls:` with its keywords, and nested with other kinds.

use std::time::Duration;

use couplet::endpoints::{
    Sharing, TcpClient, TcpServer, TlsClient, TlsServer, register_client, server_from_string,
};
use couplet::layers::tls::TlsInfo;
use couplet::testing::{MemoryReactor, failure_of, no_result_yet};
use couplet::{Address, Loop, Port};

use super::{Echo, ask, echoing};
use crate::needed::Folder;
use couplet_testkit_loops::authority::Authority;

/// A folder with certificates of one authority.
fn files() -> Folder {
    let (folder, authority) = (Folder::new(), Authority::new());
    let (site, other) =
        (authority.pem("localhost", |_| {}), authority.pem("other.example", |_| {}));
    folder.write("ca.pem", authority.certificate());
    folder.write("site.pem", &site);
    folder.write("client.pem", authority.pem("client", |_| {}));
    folder.write("stranger.pem", Authority::new().pem("client", |_| {}));
    for (folder_name, file, text) in [
        ("sni", "localhost.pem", &*site),
        ("sni", "other.example.pem", &*other),
        ("cas", "one.pem", authority.certificate()),
        ("cas", "broken.pem", "not a certificate"),
        ("cas", "README", "nor this"),
    ] {
        folder.write(&format!("{folder_name}/{file}"), text);
    }
    folder
}

/// Listens on the first string and connects to the second; returns the server's protocol or the
/// error. `$` is the folder in both strings, `@` the port's address in the second.
fn try_with(folder: &Folder, listen: &str, connect: &str) -> Result<Echo, String> {
    let fill = |text: &str| text.replace('$', &format!("{}/", folder.display()));
    let (mut l, echo) = (Loop::new().unwrap(), Echo::default());
    let ours = echo.clone();
    let port = l.reactor().listen(fill(listen), move || ours.clone());
    let port = port.map_err(|error| error.to_string())?;
    let Address::Tcp(at) = port.host() else { panic!("a TCP port") };
    let answer = ask(&mut l, fill(connect).replace('@', &at.to_string()));
    assert_eq!(answer.map_err(|error| error.to_string())?, b"hello");
    Ok(echo)
}

#[test]
fn c145_tls_stands_before_another_endpoint_in_any_order() {
    let folder = files();
    const SITE: &str = "127.0.0.1:0:cert=$site.pem";
    const TRUST: &str = "@:ca=$ca.pem:servername=localhost";
    // The same order on both sides works, and the transport has the TLS details at any depth.
    for order in [
        "tls:",
        "haproxy:tls:",
        "tls:haproxy:",
        "throttle:tls:",
        "log:tls:throttle:haproxy:",
        "ssl:",
    ] {
        let limits = if order.contains("throttle") { ":read=1G" } else { "" };
        let (listen, connect) =
            (format!("{order}{SITE}{limits}"), format!("{order}{TRUST}{limits}"));
        let echo = try_with(&folder, &listen, &connect).unwrap_or_else(|e| panic!("{order}: {e}"));
        assert!(echo.transport().info::<TlsInfo>().is_some(), "{order}");
    }
    // The last wrapper is next to the socket, where the header is in clear or encrypted.
    for (order, is_clear) in [("tls:haproxy:log:", true), ("haproxy:tls:log:", false)] {
        let listen = format!("{order}{SITE}:file=$traffic");
        try_with(&folder, &listen, &format!("{order}{TRUST}")).unwrap();
        let log = std::fs::read_to_string(folder.path("traffic")).unwrap();
        assert_eq!(log.contains("PROXY TCP4 127.0.0.1"), is_clear, "{order}");
        std::fs::remove_file(folder.path("traffic")).unwrap();
    }
    // A different order is a different protocol.
    let (listen, connect) = (format!("tls:haproxy:{SITE}"), format!("haproxy:tls:{TRUST}"));
    let crossed =
        try_with(&folder, &format!("haproxy:tls:{SITE}"), &format!("tls:haproxy:{TRUST}"));
    assert!(crossed.is_err());
    assert!(try_with(&folder, &listen, &connect).is_err());
}

#[test]
fn tls_keywords_set_client_certificates_alpn_and_names() {
    let folder = files();
    const SITE: &str = "tls:127.0.0.1:0:cert=$site.pem";
    const TRUST: &str = "tls:@:ca=$ca.pem:servername=localhost";
    for (listen, connect, works) in [
        ("", "", true),
        // The client's certificate.
        (":client-ca=$ca.pem", "", false),
        (":client-ca=$ca.pem", ":cert=$client.pem", true),
        (":client-ca=$ca.pem", ":certKey=$client.pem:privateKey=$client.pem", true),
        (":client-ca=$ca.pem", ":cert=$stranger.pem", false),
        (":client-ca=$cas", ":cert=$client.pem", true),
        // The application protocol.
        (":alpn=h2,x", ":alpn=x", true),
        (":alpn=h2", ":alpn=x", false),
    ] {
        // The certificate may be in a file, in a folder or in both.
        for site in [SITE, "tls:127.0.0.1:0:sni=$sni", "tls:127.0.0.1:0:sni=$sni:cert=$site.pem"] {
            let (listen, connect) = (format!("{site}{listen}"), format!("{TRUST}{connect}"));
            let outcome =
                try_with(&folder, &listen, &connect).map(|echo| echo.transport().info::<TlsInfo>());
            assert_eq!(outcome.is_ok(), works, "{listen} {connect}: {outcome:?}");
            if let (Ok(info), true) = (&outcome, connect.contains("alpn=x")) {
                assert_eq!(info.as_ref().unwrap().alpn.as_deref(), Some(&b"x"[..]));
            }
        }
    }
    for (connect, works) in [
        ("tls:@:servername=localhost", false),
        ("tls:@:ca=$stranger.pem:servername=localhost", false),
        ("tls:@:ca=$cas:servername=localhost", true),
        ("tls:@:trustRoots=$cas:hostname=localhost", true),
        ("tls:@:ca=$sni:servername=localhost", false),
        ("tls:@:ca=$ca.pem", false),
        ("tls:@:ca=$ca.pem:servername=elsewhere", false),
    ] {
        let outcome = try_with(&folder, SITE, connect).map(|_| ());
        assert_eq!(outcome.is_ok(), works, "{connect}: {outcome:?}");
    }
    for (name, works) in [("localhost", true), ("other.example", true), ("third.example", false)] {
        let connect = format!("tls:@:ca=$ca.pem:servername={name}");
        for listen in ["tls:127.0.0.1:0:sni=$sni", "tls:$sni:0:interface=127.0.0.1"] {
            let outcome = try_with(&folder, listen, &connect).map(|_| ());
            assert_eq!(outcome.is_ok(), works, "{listen} {name}: {outcome:?}");
        }
    }
}

#[test]
fn a_client_whose_name_is_not_in_the_folder_gets_the_certificate_of_cert() {
    let folder = files();
    let authority = Authority::new();
    folder.write("beside-ca.pem", authority.certificate());
    folder.write("beside.pem", authority.pem("beside.example", |_| {}));
    folder.write("address.pem", authority.pem("127.0.0.1", |_| {}));
    // A client that connects to an IP address requests no name.
    for (cert, ca, name, works) in [
        ("beside", "ca", "localhost", true),
        ("beside", "ca", "other.example", true),
        ("beside", "beside-ca", "beside.example", true),
        ("beside", "beside-ca", "third.example", false),
        ("address", "beside-ca", "127.0.0.1", true),
    ] {
        let connect = format!("tls:@:ca=${ca}.pem:servername={name}");
        for listen in ["sni=$sni:cert=$", "cert=$"] {
            let is_beside = ca == "beside-ca";
            let listen = format!("tls:127.0.0.1:0:{listen}{cert}.pem");
            let works = works && (is_beside || listen.contains("sni="));
            let outcome = try_with(&folder, &listen, &connect).map(|_| ());
            assert_eq!(outcome.is_ok(), works, "{listen} {name}: {outcome:?}");
        }
    }
}

#[test]
fn an_empty_folder_of_certificates_is_an_error() {
    let folder = files();
    std::fs::create_dir_all(folder.path("none")).unwrap();
    for connect in ["tls:@:ca=$none", "tls:@:ca=$nowhere"] {
        let error = try_with(&folder, "tls:127.0.0.1:0:cert=$site.pem", connect).map(|_| ());
        let error = error.unwrap_err();
        assert!(error.contains("no certificate") || error.contains("cannot read"), "{error}");
    }
}

#[test]
fn a_chain_may_be_in_a_separate_file() {
    let folder = Folder::new();
    let root = Authority::new();
    let middle = root.middle();
    folder.write("ca.pem", root.certificate());
    folder.write("site.pem", middle.pem("localhost", |_| {}));
    folder.write("middle.pem", middle.certificate());
    const TRUST: &str = "tls:@:ca=$ca.pem:servername=localhost";
    const SITE: &str = "tls:127.0.0.1:0:cert=$site.pem";
    assert!(
        try_with(&folder, SITE, TRUST).is_err(),
        "without the chain there is no way to the root"
    );
    for chain in [":chain=$middle.pem", ":extraCertChain=$middle.pem"] {
        try_with(&folder, &format!("{SITE}{chain}"), TRUST).unwrap_or_else(|e| panic!("{e}"));
    }
    let error = try_with(&folder, &format!("{SITE}:chain=$nowhere.pem"), TRUST).map(|_| ());
    assert!(error.unwrap_err().contains("nowhere.pem"));
}

#[test]
fn tls_takes_the_name_of_the_certificate_from_the_endpoint_below() {
    let folder = files();
    let file = |name: &str| folder.path(name);
    let mut l = Loop::new().unwrap();
    let server = TcpServer::new(([127, 0, 0, 1], 0).into());
    let server = TlsServer::new(server).identity(file("site.pem"), file("site.pem"));
    let server = server.client_ca(file("ca.pem")).alpn("x");
    let port = l.reactor().listen(server, Echo::default).unwrap();
    let number = port.host().port().unwrap();
    // Endpoints built as objects.
    let client = || TlsClient::new(TcpClient::new("127.0.0.1", number)).ca(file("ca.pem"));
    let client = || client().identity(file("client.pem"), file("client.pem")).alpn("x");
    let connecting = l.reactor().connect(client().server_name("localhost"), Echo::default);
    assert!(l.run_until(connecting).is_ok());
    let connecting = l.reactor().connect(client(), Echo::default);
    assert!(l.run_until(connecting).is_err(), "the certificate is for localhost");
    // A user's kind provides the host.
    register_client("named", move |_: &mut couplet::endpoints::Parts| {
        Ok(TcpClient::new("localhost", number))
    })
    .unwrap();
    let rest = format!("ca={0}/ca.pem:cert={0}/client.pem:alpn=x", folder.display());
    for text in ["tls:named", "tls:log:named", "tls:endpoint=named"] {
        assert_eq!(ask(&mut l, format!("{text}:{rest}")).unwrap(), b"hello", "{text}");
    }
    // Twisted's form: the host is only the name in the certificate.
    let text = format!(r"tls:localhost:1:endpoint=tcp\:127.0.0.1\:{number}:{rest}");
    assert_eq!(ask(&mut l, &text).unwrap(), b"hello");
    let text = format!(r"tls:elsewhere:1:endpoint=tcp\:127.0.0.1\:{number}:{rest}");
    assert!(ask(&mut l, &text).is_err());
}

#[test]
fn a_reload_reaches_every_port_through_each_wrapper_each_time() {
    let folder = Folder::new();
    let renew = || {
        let authority = Authority::new();
        folder.write("ca.pem", authority.certificate());
        folder.write("site.pem", authority.pem("localhost", |_| {}))
    };
    for order in ["tls:", "haproxy:tls:", "throttle:tls:", "log:tls:", "log:throttle:haproxy:tls:"]
    {
        let limits = if order.contains("throttle") { ":read=1G" } else { "" };
        let mut l = Loop::new().unwrap();
        let reactor = l.reactor();
        let endpoint = format!("{order}127.0.0.1:0:cert={}{limits}", renew());
        let endpoint = server_from_string(&endpoint).unwrap();
        // Two ports, one that several loops may share, and one that begins later.
        let mut ports: Vec<Port> =
            (0..2).map(|_| reactor.listen(&endpoint, Echo::default).unwrap()).collect();
        let [shared, later] = [(); 2].map(|()| endpoint.share(&Sharing::new(1)).unwrap());
        ports.push(shared.listen(&reactor, Echo::default).unwrap());
        for round in 0..4 {
            for port in &ports {
                let Address::Tcp(at) = port.host() else { panic!("a TCP port") };
                // Only the certificate of this round is accepted.
                let ca = folder.path("ca.pem");
                let to = format!("{order}{at}:ca={ca}:servername=localhost{limits}");
                let answer = ask(&mut l, &to);
                assert!(answer.is_ok(), "{order} after {round} reloads: {answer:?}");
            }
            renew();
            endpoint.reload().unwrap().apply();
            if round == 1 {
                ports.push(later.listen(&reactor, Echo::default).unwrap());
            }
        }
    }
}

#[test]
fn an_endpoint_forgets_its_ports_that_have_stopped() {
    let folder = files();
    let endpoint = format!("tls:7777:cert={}", folder.path("site.pem"));
    let endpoint = server_from_string(&endpoint).unwrap();
    for _ in 0..10 {
        drop(echoing(&endpoint));
    }
    // The last is forgotten when the next one begins.
    assert!(format!("{endpoint:?}").contains("OpenPorts(1)"), "{endpoint:?}");
}

#[test]
fn the_time_of_a_handshake_begins_with_each_connection() {
    let folder = files();
    let pass = |memory: &mut MemoryReactor, seconds| memory.advance(Duration::from_secs(seconds));
    for text in ["haproxy:7777".to_owned(), format!("tls:7777:cert={}", folder.path("site.pem"))] {
        let mut memory = echoing(&text);
        let not_opened = |memory: &mut MemoryReactor| memory.listening()[0].counters.not_opened;
        let _first = memory.connect(7777);
        pass(&mut memory, 6);
        let _second = memory.connect(7777);
        pass(&mut memory, 7);
        assert_eq!(not_opened(&mut memory), 1, "{text}");
        pass(&mut memory, 50);
        assert_eq!(not_opened(&mut memory), 2, "{text}");
        let _third = memory.connect(7777);
        pass(&mut memory, 9);
        assert_eq!(not_opened(&mut memory), 2, "{text}");
        pass(&mut memory, 4);
        assert_eq!(not_opened(&mut memory), 3, "{text}");
    }
    // Not with the connect.
    let mut memory = MemoryReactor::new();
    let to = format!("tls:10.0.0.1:443:ca={}:servername=localhost", folder.path("ca.pem"));
    let connecting = memory.reactor().connect(to, Echo::default);
    pass(&mut memory, 20);
    let _wire = memory.connecting()[0].complete();
    pass(&mut memory, 9);
    no_result_yet(&connecting);
    pass(&mut memory, 4);
    drop(failure_of(connecting));
}
