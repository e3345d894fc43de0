//! `openssl s_server` as the server of our client.

use std::process::Command;

use couplet::layers::tls::TlsVersion;
use couplet::{By, Fault, Reason, TlsError, TlsProblem};

use crate::kit::{End, Ends, Program, Scene, VERSIONS, echo, has, quiet};

/// `s_server` and its port.
pub(crate) struct Server {
    pub(crate) program: Program,
    pub(crate) port: u16,
}

impl Scene {
    /// Starts `s_server` with the certificate in a file.
    pub(crate) fn s_server(&mut self, file: &str, more: &[&str]) -> Server {
        let words = ["s_server", "-accept", "127.0.0.1:0", "-cert", file, "-key", file];
        self.listening(&mut self.openssl(&[&words[..], more].concat()), "ACCEPT 127.0.0.1:")
    }

    /// Starts a server that prints its port after these words.
    pub(crate) fn listening(&mut self, command: &mut Command, words: &str) -> Server {
        let program = Program::start(command);
        let port = |said: &str| {
            let (line, _) = said.split_once(words)?.1.split_once('\n')?;
            line.trim().parse().ok()
        };
        self.until_said(&program, words);
        self.until("the end of the line", || port(&program.said()).is_some());
        Server { port: port(&program.said()).expect("it is there"), program }
    }

    /// Waits until the connection is established.
    pub(crate) fn until_made(&mut self, end: &End) {
        self.until("a connection", || end.is_made() || end.is_lost());
        assert!(end.is_made(), "{}", end.reason());
    }

    pub(crate) fn until_lost(&mut self, end: &End) -> Reason {
        self.until("the end of a connection", || end.is_lost());
        end.reason()
    }
}

fn each_version(scene: impl Fn(&mut Scene, TlsVersion, &str)) {
    if has("openssl") {
        for (version, option) in VERSIONS {
            scene(&mut Scene::new(), version, option);
        }
    }
}

#[test]
fn our_session_is_resumed_and_both_sides_report_the_same_parameters() {
    each_version(|scene, version, option| {
        let mut server = scene.s_server("server.pem", &[option, "-alpn", "x,echo"]);
        let options = scene.client_options().versions(version, version);
        let tls = scene.client(options.alpn(["h2", "echo"]));
        let ends = Ends::new(quiet);
        for resumed in [false, true] {
            let end = scene.connect(&tls, server.port, &ends);
            scene.until_made(&end);
            let text = format!("resumed: {resumed}\n");
            end.transport().write(&text);
            scene.until_said(&server.program, &text);
            // In 1.3 the tickets precede this text.
            server.program.tell(&text);
            scene.until("its answer", || end.has_received(text.as_bytes()));
            let info = end.tls();
            assert_eq!((info.version, info.resumed), (version, resumed));
            assert_eq!(info.alpn.as_deref(), Some(&b"echo"[..]));
            let expected = scene.identity("server.pem");
            assert_eq!(
                info.peer_certificates.first().map(|one| &**one),
                expected.certificates().next()
            );
            end.transport().lose_connection();
            let reason = scene.until_lost(&end);
            assert!(matches!(reason, Reason::Done(By::Us)), "{reason}");
        }
        let said = server.program.said();
        assert_eq!(said.matches("Reused session-id").count(), 1, "{said}");
        assert_eq!(said.matches("ALPN protocols selected: echo").count(), 2, "{said}");
        assert!(!said.contains("error"), "{said}");
    });
}

#[test]
fn our_certificate_is_known_and_a_missing_one_is_reported_on_both_sides() {
    each_version(|scene, version, option| {
        let verify = [option, "-CAfile", "ca.pem", "-Verify", "1", "-verify_return_error"];
        let server = scene.s_server("server.pem", &verify);
        scene.certificate("client.test", |_| {});
        let options = scene.client_options().versions(version, version);
        let tls = scene.client(options.clone().identity(scene.identity("client.test.pem")));
        let ends = Ends::new(echo);
        let end = scene.connect(&tls, server.port, &ends);
        scene.until_made(&end);
        end.transport().write("who am I\n");
        scene.until_said(&server.program, "who am I\n");
        assert!(server.program.said().contains("subject=CN = client.test"));
        end.transport().lose_connection();
        scene.until_lost(&end);

        let end = scene.connect(&scene.client(options), server.port, &ends);
        let reason = scene.until_lost(&end);
        let Reason::Tls(error) = &reason else { panic!("{reason}") };
        let (alert, told) = match version {
            TlsVersion::Tls13 => (116, "it requires a certificate from us"),
            _ => (40, "handshake_failure"),
        };
        assert_eq!((error.problem, error.fault), (TlsProblem::AlertReceived(alert), Fault::Ours));
        assert!(error.to_string().contains(told), "{error}");
        scene.until_said(&server.program, "peer did not return a certificate");
    });
}

#[test]
fn a_server_without_our_protocol_refuses_us() {
    each_version(|scene, version, option| {
        let server = scene.s_server("server.pem", &[option, "-alpn", "h2"]);
        let options = scene.client_options().versions(version, version).alpn(["echo"]);
        let end = scene.connect(&scene.client(options), server.port, &Ends::new(echo));
        let reason = scene.until_lost(&end);
        let error = reason.downcast_ref::<TlsError>().expect("TLS failed");
        assert_eq!((error.problem, error.fault), (TlsProblem::AlertReceived(120), Fault::Ours));
        assert!(!end.is_made());
    });
}

#[test]
fn c78_a_clean_end_and_a_truncation_are_distinguished() {
    each_version(|scene, version, option| {
        for cut in [false, true] {
            let mut server = scene.s_server("server.pem", &[option, "-rev"]);
            let options = scene.client_options().versions(version, version);
            let end = scene.connect(&scene.client(options), server.port, &Ends::new(quiet));
            scene.until_made(&end);
            end.transport().write("lla\n");
            scene.until("its text", || end.has_received(b"all\n"));
            match cut {
                true => server.program.kill(),
                false => end.transport().write("CLOSE\n"),
            }
            let reason = scene.until_lost(&end);
            assert_eq!(end.is_read_closed(), !cut, "{reason}");
            let truncated = reason.downcast_ref::<TlsError>().map(|error| error.problem);
            match cut {
                true => assert!(matches!(reason, Reason::Lost(_)), "{reason}"),
                false => assert!(matches!(reason, Reason::Done(By::Peer)), "{reason}"),
            }
            assert_eq!(truncated, cut.then_some(TlsProblem::Truncated), "{reason}");
        }
    });
}

#[test]
fn renegotiation_and_plaintext_from_the_server_are_refused() {
    each_version(|scene, version, option| {
        for command in ["r\n", "P\n"] {
            // TLS 1.3 has no renegotiation.
            if version == TlsVersion::Tls13 && command == "r\n" {
                continue;
            }
            let mut server = scene.s_server("server.pem", &[option]);
            let options = scene.client_options().versions(version, version);
            let end = scene.connect(&scene.client(options), server.port, &Ends::new(quiet));
            scene.until_made(&end);
            server.program.tell("before\n");
            scene.until("its text", || end.has_received(b"before\n"));
            server.program.tell(command);
            let reason = scene.until_lost(&end);
            let error = reason.downcast_ref::<TlsError>().expect("TLS failed");
            // OpenSSL closes when its request is refused.
            let (problem, told) = match command {
                "r\n" => (TlsProblem::AlertReceived(40), "no renegotiation"),
                _ => (TlsProblem::Misbehaved, "tlsv1 alert decode error"),
            };
            assert_eq!((error.problem, error.fault), (problem, Fault::Peer), "{error}");
            assert!(!error.in_handshake && !error.to_string().contains("ciphers"), "{error}");
            scene.until_said(&server.program, told);
            assert!(end.has_received(b"before\n"));
        }
    });
}

#[test]
fn keys_are_updated_in_both_directions() {
    each_version(|scene, version, option| {
        if version == TlsVersion::Tls12 {
            return;
        }
        let mut server = scene.s_server("server.pem", &[option]);
        let end =
            scene.connect(&scene.client(scene.client_options()), server.port, &Ends::new(echo));
        scene.until_made(&end);
        let mut all = String::new();
        // OpenSSL updates its own keys, then requests an update of ours too.
        for (n, (command, text)) in
            [("", "before\n"), ("k\n", "between\n"), ("K\n", "behind\n")].into_iter().enumerate()
        {
            let before = scene.arrived();
            server.program.tell(command);
            if n > 0 {
                scene.until_more_arrived(before);
            }
            server.program.tell(text);
            // Waits for our echo.
            scene.until_said(&server.program, text);
            all.push_str(text);
        }
        assert!(end.has_received(all.as_bytes()));
    });
}
