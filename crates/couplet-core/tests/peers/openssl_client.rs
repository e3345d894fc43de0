//! `openssl s_client` as the client of our server.

use couplet::layers::tls::{ClientAuth, ServerTlsOptions, TlsVersion};
use couplet::{By, Reason, TlsError, TlsProblem};

use crate::kit::{Ends, NAME, Program, Scene, VERSIONS, echo, has};
use crate::logged::logged;

impl Scene {
    /// Starts `s_client` with a version's option, connected to our port.
    pub(crate) fn s_client(&self, port: u16, version: &str, more: &[&str]) -> Program {
        let to = format!("127.0.0.1:{port}");
        let words = ["s_client", "-connect", &to, "-servername", NAME, "-verify_hostname", NAME];
        let verify = ["-CAfile", "ca.pem", "-verify_return_error", version];
        Program::start(&mut self.openssl(&[&words[..], &verify, more].concat()))
    }
}

/// Runs a scene for each version.
fn each_version(scene: impl Fn(&mut Scene, TlsVersion, &str)) {
    if has("openssl") {
        for (version, option) in VERSIONS {
            scene(&mut Scene::new(), version, option);
        }
    }
}

#[test]
fn the_clients_session_is_resumed_and_both_sides_report_the_same_parameters() {
    each_version(|scene, version, option| {
        let tls = scene.server(scene.server_options().alpn(["h2", "echo"]));
        let ends = Ends::new(echo);
        let port = scene.listen(&tls, &ends);
        for (n, session) in ["-sess_out", "-sess_in"].into_iter().enumerate() {
            let more = ["-alpn", "x,echo", session, "session.pem"];
            let mut client = scene.s_client(port, option, &more);
            client.tell("to and fro\n");
            scene.until_said(&client, "to and fro\n");
            client.close_stdin();
            assert!(scene.ended(&mut client), "{}", client.said());
            scene.until("its close", || ends.have_ended(n + 1));
            let (end, said) = (ends.last(), client.said());
            let info = end.tls();
            assert_eq!((info.version, info.resumed), (version, n == 1), "{said}");
            assert_eq!(info.alpn.as_deref(), Some(&b"echo"[..]));
            assert_eq!(info.server_name.as_deref(), Some(NAME));
            let kind = if n == 1 { "Reused" } else { "New" };
            // For 1.3, OpenSSL's name of a suite is the registered name without its prefix.
            let cipher = info.cipher.replace("TLS13_", "TLS_");
            let cipher = if version == TlsVersion::Tls13 { cipher.as_str() } else { "ECDHE-" };
            assert!(said.contains(&format!("{kind}, {version}, Cipher is {cipher}")), "{said}");
            assert!(said.contains("ALPN protocol: echo"), "{said}");
            assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
            assert!(matches!(end.reason(), Reason::Done(By::Peer)), "{}", end.reason());
        }
    });
}

#[test]
fn the_clients_certificate_is_required_and_known_and_a_missing_one_is_reported_on_both_sides() {
    each_version(|scene, version, option| {
        let theirs = scene.certificate("client.test", |_| {});
        let auth = ClientAuth::Require(scene.authority.roots());
        let tls = scene.server(scene.server_options().client_auth(auth));
        let ends = Ends::new(echo);
        let port = scene.listen(&tls, &ends);
        let mut client = scene.s_client(port, option, &["-cert", &theirs, "-key", &theirs]);
        client.tell("who am I\n");
        scene.until_said(&client, "who am I\n");
        let info = ends.last().tls();
        let expected = scene.identity("client.test.pem");
        let first = info.peer_certificates.first().map(|one| &**one);
        assert_eq!(first, expected.certificates().next());

        let ((), log) = logged(|| {
            let mut client = scene.s_client(port, option, &["-ign_eof"]);
            scene.ended(&mut client);
            let alert = "alert certificate required";
            assert!(client.said().contains(alert), "{version}: {}", client.said());
            scene.until_not_opened(1);
        });
        assert_eq!(ends.count(), 1, "there is no protocol for it");
        let [line] = &log[..] else { panic!("{log:?}") };
        assert!(line.contains("the peer sent no certificate"), "{line}");
    });
}

#[test]
fn a_killed_client_truncates_the_stream() {
    each_version(|scene, _, option| {
        let ends = Ends::new(echo);
        let port = scene.listen(&scene.server(scene.server_options()), &ends);
        let mut client = scene.s_client(port, option, &[]);
        client.tell("half of it\n");
        scene.until_said(&client, "half of it\n");
        client.kill();
        scene.until("the end of the stream", || ends.last().is_lost());
        let reason = ends.last().reason();
        assert!(matches!(reason, Reason::Lost(_)), "{reason}");
        let error = reason.downcast_ref::<TlsError>().expect("it says that it was cut");
        assert_eq!(error.problem, TlsProblem::Truncated);
    });
}

#[test]
fn the_clients_renegotiation_is_refused() {
    each_version(|scene, version, option| {
        if version == TlsVersion::Tls13 {
            return;
        }
        let ends = Ends::new(echo);
        let port = scene.listen(&scene.server(scene.server_options()), &ends);
        let mut client = scene.s_client(port, option, &[]);
        client.tell("before\n");
        scene.until_said(&client, "before\n");
        client.tell("R\n");
        assert!(!scene.ended(&mut client), "{}", client.said());
        assert!(client.said().contains("no renegotiation"), "{}", client.said());
        scene.until("its end", || ends.last().is_lost());
        assert_eq!(ends.last().received(), b"before\n");
    });
}

#[test]
fn keys_are_updated_in_both_directions() {
    each_version(|scene, version, option| {
        if version == TlsVersion::Tls12 {
            return;
        }
        let ends = Ends::new(echo);
        let port = scene.listen(&scene.server(scene.server_options()), &ends);
        let mut client = scene.s_client(port, option, &[]);
        // OpenSSL updates its own keys, then requests an update of ours too.
        for (n, (command, text)) in
            [("", "before\n"), ("k\n", "between\n"), ("K\n", "behind\n")].into_iter().enumerate()
        {
            client.tell(command);
            scene.until_said_times(&client, "KEYUPDATE", n);
            client.tell(text);
            scene.until_said(&client, text);
        }
        client.close_stdin();
        assert!(scene.ended(&mut client), "{}", client.said());
        scene.until("its close", || ends.last().is_lost());
        assert!(ends.last().reason().is_clean(), "{}", ends.last().reason());
    });
}

#[test]
fn c83_tls_1_2_is_the_oldest_version_accepted_unless_set_otherwise() {
    if !has("openssl") {
        return;
    }
    let mut scene = Scene::new();
    let only = |scene: &Scene, version| scene.server_options().versions(version, version);
    let (old, new) = (TlsVersion::Tls12, TlsVersion::Tls13);
    let cases: [(ServerTlsOptions, [bool; 4]); 3] = [
        (scene.server_options(), [false, false, true, true]),
        (only(&scene, old), [false, false, true, false]),
        (only(&scene, new), [false, false, false, true]),
    ];
    for (options, accepted) in cases {
        let ends = Ends::new(echo);
        let port = scene.listen(&scene.server(options), &ends);
        for (option, accepted) in
            ["-tls1", "-tls1_1", "-tls1_2", "-tls1_3"].into_iter().zip(accepted)
        {
            // Otherwise OpenSSL itself refuses the old versions.
            let more = ["-cipher", "ALL:@SECLEVEL=0"];
            let ((), log) = logged(|| {
                let mut client = scene.s_client(port, option, &more);
                client.close_stdin();
                assert_eq!(scene.ended(&mut client), accepted, "{option}: {}", client.said());
                let alerts = ["alert protocol version", "alert handshake failure"];
                let alert = alerts.iter().any(|alert| client.said().contains(alert));
                assert_eq!(alert, !accepted, "{option}: {}", client.said());
                scene.until_idle();
            });
            let told = log.iter().any(|line| {
                line.contains(
                    "no common parameters with the peer: it has no version of TLS that we accept",
                )
            });
            assert_eq!(told, !accepted, "{option}: {log:?}");
        }
    }
}
