//! Certificates by name, from OpenSSL's point of view: which one it gets, which OCSP response is
//! stapled to it, and that a changed file affects the next client, but no connected one.

use couplet::layers::tls::{CertificateDirectory, ServerTlsOptions};

use crate::kit::{Ends, Program, Scene, echo, has};

impl Scene {
    /// A client that requests this name, or sends none.
    fn asking(&self, port: u16, name: &str, more: &[&str]) -> Program {
        let to = format!("127.0.0.1:{port}");
        let words = ["s_client", "-connect", &to, "-CAfile", "ca.pem"];
        let words = match name {
            "" => [&words[..], &["-noservername"]].concat(),
            name => [&words[..], &["-servername", name]].concat(),
        };
        Program::start(&mut self.openssl(&[&words, more].concat()))
    }

    /// The output of a client that requests this name.
    fn shown(&mut self, port: u16, name: &str, more: &[&str]) -> String {
        let mut client = self.asking(port, name, more);
        client.close_stdin();
        self.ended(&mut client);
        client.said()
    }

    /// Creates a folder with these certificates, and a port that chooses among them.
    fn choosing(&self, names: &[&str], ends: &Ends) -> (CertificateDirectory, u16) {
        for name in names {
            self.put(name);
        }
        let directory = CertificateDirectory::open(self.path("names")).expect("a folder");
        let options = ServerTlsOptions::from_directory(directory.clone());
        (directory, self.listen(&self.server(options), ends))
    }

    fn put(&self, name: &str) {
        let pem = self.authority.pem(&name.replace("_.", "*."), |_| {});
        self.write(&format!("names/{name}.pem"), pem);
    }
}

/// Extracts the certificate from a client's output.
fn certificate(said: &str) -> &str {
    let (_, rest) = said.split_once("-----BEGIN CERTIFICATE-----").expect("it was shown one");
    rest.split_once("-----END").expect("a whole one").0
}

#[test]
fn each_name_has_its_certificate() {
    if !has("openssl") {
        return;
    }
    let mut scene = Scene::new();
    let ends = Ends::new(echo);
    let names = ["one.test", "_.wild.test", "a.wild.test"];
    let (directory, port) = scene.choosing(&names, &ends);
    let shown = |scene: &mut Scene, name: &str| scene.shown(port, name, &[]);
    for (name, subject) in [
        ("one.test", "one.test"),
        ("ONE.test", "one.test"),
        ("a.wild.test", "a.wild.test"),
        ("b.wild.test", "*.wild.test"),
    ] {
        let said = shown(&mut scene, name);
        assert!(said.contains(&format!("subject=CN = {subject}\n")), "{name}: {said}");
        assert!(said.contains("Verify return code: 0 (ok)"), "{name}: {said}");
        let asked = ends.last().tls().server_name.clone().expect("it is known");
        assert!(asked.eq_ignore_ascii_case(name), "{asked}");
    }
    for name in ["unknown.test", "b.b.wild.test", ""] {
        let said = shown(&mut scene, name);
        assert!(said.contains("no peer certificate available"), "{name}: {said}");
        // An unknown name has its own alert (RFC 6066, 3).
        assert!(said.contains("alert"), "{name}: {said}");
    }
    scene.put("DEFAULT");
    directory.reload().expect("good certificates");
    for name in ["unknown.test", ""] {
        let said = shown(&mut scene, name);
        assert!(said.contains("subject=CN = DEFAULT\n"), "{name}: {said}");
    }
}

#[test]
fn a_changed_file_is_for_new_connections_and_drops_none() {
    if !has("openssl") {
        return;
    }
    let mut scene = Scene::new();
    let ends = Ends::new(echo);
    let (directory, port) = scene.choosing(&["one.test"], &ends);
    let mut early = scene.asking(port, "one.test", &[]);
    early.tell("before\n");
    scene.until_said(&early, "before\n");

    // Reloaded on demand.
    scene.put("one.test");
    assert_eq!(directory.reload().expect("good certificates"), 1);
    let second = scene.shown(port, "one.test", &[]);
    assert_ne!(certificate(&early.said()), certificate(&second));

    // Reloaded automatically: a client a second later gets the new one.
    scene.put("one.test");
    let late = scene.reactor.now() + std::time::Duration::from_secs(20);
    loop {
        let third = scene.shown(port, "one.test", &[]);
        if certificate(&third) != certificate(&second) {
            break;
        }
        assert!(scene.reactor.now() < late, "a change is not seen");
    }

    early.tell("behind\n");
    scene.until_said(&early, "behind\n");
}

#[test]
fn a_response_of_ocsp_is_stapled_from_its_file() {
    if !has("openssl") {
        return;
    }
    let mut scene = Scene::new();
    let ends = Ends::new(echo);
    let (directory, port) = scene.choosing(&["one.test"], &ends);
    let before = scene.shown(port, "one.test", &["-status"]);
    assert!(before.contains("OCSP response: no response sent"), "{before}");

    scene.write("index.txt", "");
    let words = "ocsp -index index.txt -CA ca.pem -rsigner ca.pem -rkey ca.pem -ndays 2 \
                 -issuer ca.pem -cert names/one.test.pem -respout names/one.test.ocsp";
    let words: Vec<&str> = words.split_whitespace().collect();
    let (success, said) = scene.run(&mut scene.openssl(&words));
    assert!(success, "{said}");
    directory.reload().expect("good certificates");
    let after = scene.shown(port, "one.test", &["-status", "-tls1_2"]);
    assert!(after.contains("OCSP Response Status: successful"), "{after}");
    assert!(after.contains("Responder Id: CN = the authority"), "{after}");
    let after = scene.shown(port, "one.test", &["-status", "-tls1_3"]);
    assert!(after.contains("OCSP Response Status: successful"), "{after}");
}
