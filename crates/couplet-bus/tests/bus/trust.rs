//! Claims of a NATS server before TLS, and the servers that it names: row 207a.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use couplet::bus::nats::{Auth, Options};
use couplet::bus::{Bus, PublishError};
use couplet::layers::tls::{ClientTls, ClientTlsOptions, ServerTls, ServerTlsOptions};
use couplet::{Loop, Port, Protocol, Transport};
use couplet_testkit_loops::authority::Authority;

const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// TLS of a client that trusts an authority.
fn client(authority: &Authority) -> ClientTls {
    ClientTls::new(&ClientTlsOptions::default().roots(authority.roots())).expect("valid settings")
}

/// TLS of a server with a certificate for this name.
fn server(authority: &Authority, name: &str) -> ServerTls {
    ServerTls::new(&ServerTlsOptions::new(authority.identity(name))).expect("valid settings")
}

/// A NATS server as far as a login needs it.
#[derive(Clone)]
struct Nats {
    tls: Option<ServerTls>,
    /// The INFO before TLS, and the INFO behind the login, if there is one.
    says: [String; 2],
    /// Ends the connection right after the login.
    breaks: bool,
    log: Rc<RefCell<Vec<String>>>,
    name: &'static str,
}

impl Nats {
    fn note(&self, what: &str) {
        self.log.borrow_mut().push(format!("{} {what}", self.name));
    }
}

impl Protocol for Nats {
    fn connection_made(&mut self, transport: &Transport) {
        self.note("connected");
        transport.write(format!("INFO {}\r\n", self.says[0]));
        if let Some(tls) = &self.tls {
            transport.start_tls(tls).expect("it begins");
        }
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        let text = String::from_utf8_lossy(data);
        if text.contains("secret") {
            self.note("got the password");
        }
        if text.ends_with("PING\r\n") {
            transport.write("PONG\r\n");
            if !self.says[1].is_empty() {
                transport.write(format!("INFO {}\r\n", self.says[1]));
            }
            if self.breaks {
                transport.lose_connection();
            }
        }
    }
}

struct Scene {
    l: Loop,
    authority: Authority,
    log: Rc<RefCell<Vec<String>>>,
    // Kept open.
    ports: Vec<Port>,
}

impl Scene {
    fn new() -> Scene {
        let l = Loop::new().expect("a loop");
        Scene { l, authority: Authority::new(), log: Rc::default(), ports: Vec::new() }
    }

    /// A server with a certificate for this host, if it has TLS; returns its port number.
    fn server(
        &mut self,
        name: &'static str,
        certificate: Option<&str>,
        says: [String; 2],
        breaks: bool,
    ) -> u16 {
        let tls = certificate.map(|host| server(&self.authority, host));
        let server = Nats { tls, says, breaks, log: self.log.clone(), name };
        let port = self.l.reactor().listen(LOOPBACK, move || server.clone());
        let port = port.expect("a port is free");
        let number = port.host().socket_addr().expect("a TCP port").port();
        self.ports.push(port);
        number
    }

    /// A bus of the server at localhost, with a password.
    fn bus(&self, port: u16) -> Bus {
        let options = Options::new([format!("localhost:{port}")]).expect("it is valid");
        let password = "secret".to_owned();
        let options = options.auth(Auth::Password { user: "ada".to_owned(), password });
        let options = options.tls(client(&self.authority));
        let options = options.back_off(Duration::from_millis(1), Duration::from_millis(2));
        Bus::nats(&self.l.reactor(), options)
    }

    /// Runs until the log has this many lines of a server.
    fn wait(&mut self, line: &str, times: usize) -> Vec<String> {
        let count = |log: &[String]| log.iter().filter(|noted| *noted == line).count();
        while count(&self.log.borrow()) < times {
            self.l.turn(Some(Duration::from_millis(10))).expect("a turn");
        }
        self.log.borrow().clone()
    }
}

fn tls(urls: &[u16]) -> String {
    let urls: Vec<String> = urls.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
    format!(r#"{{"tls_required":true,"headers":true,"connect_urls":[{}]}}"#, urls.join(","))
}

#[test]
fn c207a_servers_that_an_info_names_before_tls_are_never_tried() {
    // The named server has no valid certificate, or a valid one.
    for certificate in ["a.example", "localhost"] {
        let mut scene = Scene::new();
        let evil = scene.server("evil", Some("localhost"), [tls(&[]), tls(&[])], false);
        let says = [tls(&[evil]), tls(&[])];
        let port = scene.server("named", Some(certificate), says, true);
        let bus = scene.bus(port);
        let log = scene.wait("named connected", 5);
        assert!(!log.iter().any(|line| line.starts_with("evil")), "{log:?}");
        let has_login = log.iter().any(|line| line == "named got the password");
        assert_eq!(has_login, certificate == "localhost");
        bus.close();
    }
}

#[test]
fn c207a_a_learned_server_gets_the_password_only_with_a_certificate_for_the_given_name() {
    for (certificate, is_trusted) in [("127.0.0.1", false), ("localhost", true)] {
        let mut scene = Scene::new();
        let says = [tls(&[]), tls(&[])];
        let learned = scene.server("learned", Some(certificate), says, false);
        let port = scene.server("named", Some("localhost"), [tls(&[]), tls(&[learned])], true);
        let bus = scene.bus(port);
        if is_trusted {
            scene.wait("learned got the password", 1);
        } else {
            let log = scene.wait("learned connected", 3);
            assert!(!log.iter().any(|line| line == "learned got the password"), "{log:?}");
        }
        bus.close();
    }
}

#[test]
fn c207a_a_learned_server_without_tls_gets_no_password() {
    let mut scene = Scene::new();
    let plain = scene.server("plain", None, ["{}".to_owned(), "{}".to_owned()], false);
    let port = scene.server("named", Some("localhost"), [tls(&[]), tls(&[plain])], true);
    let bus = scene.bus(port);
    let log = scene.wait("plain connected", 3);
    assert!(!log.iter().any(|line| line == "plain got the password"), "{log:?}");
    bus.close();
}

#[test]
fn c207a_a_limit_counts_if_it_comes_inside_tls() {
    let small = r#"{"tls_required":true,"max_payload":5}"#.to_owned();
    for (says, most) in [([small.clone(), tls(&[])], None), ([tls(&[]), small], Some(5))] {
        let mut scene = Scene::new();
        let port = scene.server("named", Some("localhost"), says, false);
        let bus = scene.bus(port);
        scene.l.run_until(bus.flush()).expect("it logs in");
        // The INFO follows the PONG of the login, which the flush is behind.
        let published = bus.publish("a", "123456");
        let expected = most.map(|most| PublishError::TooLarge { size: 6, most });
        assert_eq!(published.err(), expected);
        bus.close();
    }
}

#[test]
fn c207a_the_limit_of_a_lost_connection_does_not_hold_for_the_next() {
    let mut scene = Scene::new();
    let named = |name, says: &str, breaks| Nats {
        tls: Some(server(&scene.authority, "localhost")),
        says: [tls(&[]), says.to_owned()],
        breaks,
        log: scene.log.clone(),
        name,
    };
    let small = r#"{"tls_required":true,"max_payload":5}"#;
    let (mut first, second) = (Some(named("first", small, true)), named("second", "", false));
    let factory = move || first.take().unwrap_or_else(|| second.clone());
    let port = scene.l.reactor().listen(LOOPBACK, factory).expect("a port is free");
    let bus = scene.bus(port.host().socket_addr().expect("a TCP port").port());
    scene.wait("second connected", 1);
    scene.l.run_until(bus.flush()).expect("it logs in");
    assert_eq!(bus.publish("a", "123456"), Ok(()));
    bus.close();
}
