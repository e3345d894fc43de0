//! socat, over TLS and over UNIX sockets, as the listening and as the connecting side.

use couplet::{By, ListenOptions, Reason, UnixAddress};

use crate::kit::{End, Ends, NAME, Program, Scene, VERSIONS, echo, has, quiet};

const WORDS: &str = "to and fro\n";

impl Scene {
    /// socat between its stdin and stdout and this address.
    fn socat(&self, address: &str) -> Program {
        Program::start(&mut self.command("socat", &["-d", "-d", "-t", "10", "-", address]))
    }

    /// socat sends a text, receives our echo, and closes.
    fn is_echoed(&mut self, mut socat: Program, ends: &Ends) {
        socat.tell(WORDS);
        self.until_said(&socat, WORDS);
        socat.close_stdin();
        assert!(self.ended(&mut socat), "{}", socat.said());
        let reason = self.until_lost(&ends.last());
        assert!(matches!(reason, Reason::Done(By::Peer)), "{reason}");
    }

    /// We send a text, receive socat's echo, and close.
    fn echoes(&mut self, mut socat: Program, end: &End) {
        self.until_made(end);
        end.transport().write(WORDS);
        self.until("our words", || end.has_received(WORDS.as_bytes()));
        end.transport().lose_connection();
        let reason = self.until_lost(end);
        assert!(matches!(reason, Reason::Done(By::Us)), "{reason}");
        assert!(self.ended(&mut socat), "{}", socat.said());
    }
}

#[test]
fn socat_connects_to_our_tls_port() {
    if !has("socat") {
        return;
    }
    let mut scene = Scene::new();
    let ends = Ends::new(echo);
    let port = scene.listen(&scene.server(scene.server_options()), &ends);
    for (version, _) in VERSIONS {
        let version = version.to_string().replace('v', "");
        let to = format!("OPENSSL:127.0.0.1:{port},cafile=ca.pem,commonname={NAME},snihost={NAME}");
        let only = format!("min-proto-version={version},openssl-max-proto-version={version}");
        let to = format!("{to},openssl-{only}");
        let socat = scene.socat(&to);
        scene.is_echoed(socat, &ends);
        assert_eq!(ends.last().tls().version.to_string().replace('v', ""), version);
    }
}

#[test]
fn we_connect_to_socats_tls_port() {
    if !has("socat") {
        return;
    }
    let mut scene = Scene::new();
    let tls = scene.client(scene.client_options());
    let address = "OPENSSL-LISTEN:0,bind=127.0.0.1,cert=server.pem,verify=0";
    let words = ["-d", "-d", "-t", "10", address, "EXEC:cat"];
    let server =
        scene.listening(&mut scene.command("socat", &words), "listening on AF=2 127.0.0.1:");
    let end = scene.connect(&tls, server.port, &Ends::new(quiet));
    scene.echoes(server.program, &end);
}

/// A socket in the file system, and an abstract one.
fn sockets(scene: &Scene) -> [(UnixAddress, String, String); 2] {
    let path = scene.path("socket");
    let name = path.replace('/', ".");
    [
        (path.as_str().into(), format!("UNIX-CONNECT:{path}"), format!("UNIX-LISTEN:{path}")),
        (
            format!("\0{name}").as_str().into(),
            format!("ABSTRACT-CONNECT:{name}"),
            format!("ABSTRACT-LISTEN:{name}"),
        ),
    ]
}

#[test]
fn socat_connects_to_our_unix_sockets() {
    if !has("socat") {
        return;
    }
    let mut scene = Scene::new();
    for (address, connect, _) in sockets(&scene) {
        let ends = Ends::new(echo);
        scene
            .reactor
            .listen((address, ListenOptions::default()), ends.factory())
            .expect("a name of ours");
        let socat = scene.socat(&connect);
        scene.is_echoed(socat, &ends);
    }
}

#[test]
fn we_connect_to_socats_unix_sockets() {
    if !has("socat") {
        return;
    }
    let mut scene = Scene::new();
    for (address, _, listen) in sockets(&scene) {
        let mut command = scene.command("socat", &["-d", "-d", "-t", "10", &listen, "EXEC:cat"]);
        let socat = Program::start(&mut command);
        scene.until_said(&socat, "listening on");
        let ends = Ends::new(quiet);
        scene.reactor.connect(address, ends.factory()).detach();
        scene.until("a connection", || ends.count() == 1);
        scene.echoes(socat, &ends.last());
    }
}
