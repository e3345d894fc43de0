//! Bad certificates, presented by us to OpenSSL and by OpenSSL to us, by servers and by clients:
//! the side that refuses reports the problem, and the other one gets an alert.

use couplet::layers::tls::{ClientAuth, TlsVersion};
use couplet::{CertificateProblem, Fault, Reason, TlsError, TlsProblem};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, date_time_ymd};

use crate::kit::{Ends, NAME, Scene, VERSIONS, has, quiet};
use crate::logged::logged;
use couplet_testkit_loops::authority::Authority;

/// A bad certificate, and how each implementation reports it.
struct Bad {
    name: &'static str,
    change: fn(&mut CertificateParams),
    /// Our problem, and the alert that we send.
    problem: TlsProblem,
    alert: Option<u8>,
    /// OpenSSL's words, and the alert that it sends.
    words: &'static str,
    their_alert: u8,
}

fn nothing(_: &mut CertificateParams) {}

fn expired(params: &mut CertificateParams) {
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
}

fn not_yet_valid(params: &mut CertificateParams) {
    (params.not_before, params.not_after) = (date_time_ymd(2999, 1, 1), date_time_ymd(3000, 1, 1));
}

fn for_clients(params: &mut CertificateParams) {
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
}

fn for_servers(params: &mut CertificateParams) {
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
}

fn of_an_authority(params: &mut CertificateParams) {
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
}

/// Certificates in a chain that exceeds the byte limit of either side.
const LINKS: usize = 400;

impl Bad {
    /// Certificates that are bad for a server and for a client.
    fn always() -> Vec<Bad> {
        let bad = |name, change, problem, alert, words, their_alert| {
            let problem = TlsProblem::Certificate(problem);
            Bad { name, change, problem, alert: Some(alert), words, their_alert }
        };
        use CertificateProblem::*;
        vec![
            bad("expired", expired, Expired, 45, "certificate has expired", 45),
            bad("not yet", not_yet_valid, NotYetValid, 45, "certificate is not yet valid", 42),
            bad("stranger", nothing, UnknownIssuer, 48, "unable to get local issuer", 48),
            Bad {
                name: "huge",
                change: nothing,
                problem: TlsProblem::Misbehaved,
                alert: None,
                words: "excessive message size",
                their_alert: 47,
            },
        ]
    }

    /// A certificate for another usage.
    fn usage(change: fn(&mut CertificateParams)) -> Bad {
        Bad {
            name: "usage",
            change,
            problem: TlsProblem::Certificate(CertificateProblem::WrongUsage),
            alert: Some(43),
            words: "certificate purpose",
            their_alert: 43,
        }
    }

    fn of_a_server() -> Vec<Bad> {
        let name = Bad {
            name: "other.test",
            change: nothing,
            problem: TlsProblem::Certificate(CertificateProblem::WrongName),
            alert: Some(42),
            words: "hostname mismatch",
            their_alert: 42,
        };
        Bad::always().into_iter().chain([Bad::usage(for_clients), name]).collect()
    }

    fn of_a_client() -> Vec<Bad> {
        Bad::always().into_iter().chain([Bad::usage(for_servers)]).collect()
    }

    /// Writes the certificate to `bad.pem`, and the chain to `chain.pem`.
    fn write(&self, scene: &Scene) {
        let stranger = Authority::readable("a stranger");
        let authority = if self.name == "stranger" { &stranger } else { &scene.authority };
        let name = if self.name == "other.test" { self.name } else { NAME };
        let (certificate, key) = authority.signed(name, self.change);
        let times = if self.name == "huge" { LINKS } else { 1 };
        let chain = certificate.pem().repeat(times);
        scene.write("bad.pem", format!("{chain}{}", key.serialize_pem()));
        scene.write("chain.pem", chain);
    }

    /// OpenSSL's options to present the certificate.
    fn shown(&self) -> Vec<&str> {
        let words = ["-cert", "bad.pem", "-key", "bad.pem", "-cert_chain", "chain.pem"];
        words[..if self.name == "huge" { 6 } else { 4 }].to_vec()
    }

    /// Asserts that our side has refused the certificate for this reason.
    fn refused(&self, reason: &Reason) {
        let error = reason.downcast_ref::<TlsError>().unwrap_or_else(|| panic!("{reason}"));
        let told = (error.problem, error.fault, error.alert_sent);
        assert_eq!(told, (self.problem, Fault::Peer, self.alert), "{}: {error}", self.name);
        assert!(matches!(reason, Reason::Tls(_)) && error.in_handshake, "{reason}");
    }
}

/// Runs a scene for each certificate and each version.
fn each(bad: fn() -> Vec<Bad>, scene: impl Fn(&mut Scene, &Bad, (TlsVersion, &str))) {
    if !has("openssl") {
        return;
    }
    for version in VERSIONS {
        for bad in bad() {
            let mut fresh = Scene::new();
            bad.write(&fresh);
            scene(&mut fresh, &bad, version);
        }
    }
}

#[test]
fn our_client_refuses_the_certificate_of_openssl() {
    each(Bad::of_a_server, |scene, bad, (version, option)| {
        let server = scene.s_server("server.pem", &[&bad.shown()[..], &[option]].concat());
        let options = scene.client_options().versions(version, version);
        let end = scene.connect(&scene.client(options), server.port, &Ends::new(quiet));
        let reason = scene.until_lost(&end);
        bad.refused(&reason);
        assert!(!end.is_made());
        let alert = match bad.alert {
            Some(alert) => format!("SSL alert number {alert}"),
            None => "ERROR".to_owned(),
        };
        scene.until_said(&server.program, &alert);
    });
}

#[test]
fn our_client_refuses_the_certificate_of_an_authority() {
    if !has("openssl") {
        return;
    }
    let mut scene = Scene::new();
    scene.certificate("bad", of_an_authority);
    let server = scene.s_server("bad.pem", &[]);
    let end = scene.connect(&scene.client(scene.client_options()), server.port, &Ends::new(quiet));
    let reason = scene.until_lost(&end);
    assert!(reason.to_string().contains("a CA certificate (CA:TRUE)"), "{reason}");
}

#[test]
fn openssl_refuses_our_servers_certificate() {
    each(Bad::of_a_server, |scene, bad, (_, option)| {
        let options = scene.server_options().identity(scene.identity("bad.pem"));
        let port = scene.listen(&scene.server(options), &Ends::new(quiet));
        let ((), log) = logged(|| {
            let mut client = scene.s_client(port, option, &[]);
            assert!(!scene.ended(&mut client), "{}: {}", bad.name, client.said());
            assert!(client.said().contains(bad.words), "{}: {}", bad.name, client.said());
            scene.until_idle();
        });
        told_by_an_alert(bad, &log);
    });
}

/// Asserts that our server has logged the alert of its client.
fn told_by_an_alert(bad: &Bad, log: &[String]) {
    let name = match bad.their_alert {
        42 => "bad_certificate",
        43 => "unsupported_certificate",
        45 => "certificate_expired",
        47 => "illegal_parameter",
        _ => "unknown_ca",
    };
    let [line] = log else { panic!("{}: {log:?}", bad.name) };
    assert!(line.contains(&format!("the peer sent the alert {name}")), "{}: {line}", bad.name);
}

#[test]
fn our_server_refuses_the_certificate_of_openssl() {
    each(Bad::of_a_client, |scene, bad, (_, option)| {
        let auth = ClientAuth::Require(scene.authority.roots());
        let tls = scene.server(scene.server_options().client_auth(auth));
        let ends = Ends::new(quiet);
        let port = scene.listen(&tls, &ends);
        let ((), log) = logged(|| {
            let mut client = scene.s_client(port, option, &bad.shown());
            scene.ended(&mut client);
            if let Some(alert) = bad.alert {
                let alert = format!("SSL alert number {alert}");
                assert!(client.said().contains(&alert), "{}: {}", bad.name, client.said());
            }
            scene.until_idle();
        });
        assert_eq!(ends.count(), 0, "there is no protocol for it");
        let [line] = &log[..] else { panic!("{}: {log:?}", bad.name) };
        let words = match bad.problem {
            TlsProblem::Misbehaved => "violated the TLS protocol",
            _ => "the peer's certificate was rejected",
        };
        assert!(line.contains(words), "{}: {line}", bad.name);
    });
}

#[test]
fn openssl_refuses_our_clients_certificate() {
    each(Bad::of_a_client, |scene, bad, (version, option)| {
        let verify = ["-CAfile", "ca.pem", "-Verify", "1", "-verify_return_error", option];
        let server = scene.s_server("server.pem", &verify);
        let options = scene.client_options().versions(version, version);
        let tls = scene.client(options.identity(scene.identity("bad.pem")));
        let end = scene.connect(&tls, server.port, &Ends::new(quiet));
        let reason = scene.until_lost(&end);
        let error = reason.downcast_ref::<TlsError>().unwrap_or_else(|| panic!("{reason}"));
        assert_eq!(
            error.problem,
            TlsProblem::AlertReceived(bad.their_alert),
            "{}: {error}",
            bad.name
        );
        scene.until_said(&server.program, bad.words);
    });
}
