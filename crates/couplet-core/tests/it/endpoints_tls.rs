//! Endpoint strings of TLS: contract row 85.

use couplet::Loop;
use couplet::endpoints::{EndpointError, client_from_string, quote, server_from_string};

use crate::needed::{Folder, SelfSigned};
use couplet_testkit_loops::doubles::Quiet;

/// A folder with a certificate for localhost, its key, and another key.
struct Files(Folder);

impl Files {
    fn new() -> Files {
        let (folder, pair) = (Folder::new(), SelfSigned::new("localhost"));
        folder.write("cert.pem", pair.certificate);
        folder.write("key.pem", pair.key);
        folder.write("other.pem", SelfSigned::new("localhost").key);
        Files(folder)
    }

    /// Replaces each `$` with the folder.
    fn fill(&self, text: &str) -> String {
        text.replace('$', &quote(&self.0.path("")))
    }
}

#[test]
fn a_tls_endpoint_prints_as_a_string_that_means_the_same() {
    for (text, printed) in [
        ("tls:443:cert=a:key=b", "tls:443:interface=127.0.0.1:cert=a:key=b"),
        ("ssl:443:privateKey=b:certKey=a", "tls:443:interface=127.0.0.1:cert=a:key=b"),
        ("tls::443:cert=a", "tls:tcp:443:cert=a:key=a"),
        ("tls:127.0.0.1:443:sni=d", "tls:443:interface=127.0.0.1:sni=d"),
        (
            "tls:unix:s:cert=a:alpn=h2,x:client-ca=c",
            "tls:unix:s:cert=a:key=a:alpn=h2,x:client-ca=c",
        ),
    ] {
        let endpoint = server_from_string(text).unwrap();
        assert_eq!(endpoint.to_string(), printed, "{text}");
        let again = server_from_string(printed).unwrap();
        assert_eq!(format!("{again:?}"), format!("{endpoint:?}"));
    }
    for (text, printed) in [
        ("tls:a:443", "tls:a:443"),
        ("ssl:host=a:port=443:ca=b:timeout=5", "tls:a:443:timeout=5:ca=b"),
        ("tls:tcp:unix:443", "tls:tcp:unix:443"),
        (r"tls:unix:s:servername=x\:y", r"tls:unix:s:servername=x\:y"),
    ] {
        let endpoint = client_from_string(text).unwrap();
        assert_eq!(endpoint.to_string(), printed, "{text}");
        let again = client_from_string(printed).unwrap();
        assert_eq!(format!("{again:?}"), format!("{endpoint:?}"));
    }
}

#[test]
fn an_error_in_a_tls_endpoint_shows_its_place() {
    for (text, at, problem) in [
        ("tls:443", 7, "missing certificate"),
        ("tls:443:cert=a:alpn=h2,,x", 20, "expected protocols"),
        ("tls:tls:443:cert=a", 4, "a second tls:"),
        ("tls:443:cert=a:cert=b", 15, "repeated keyword cert="),
    ] {
        let error = server_from_string(text).unwrap_err();
        assert!(error.problem().contains(problem) && error.at() == at, "{error}");
    }
    let error = client_from_string("tls:unix:s").unwrap_err();
    assert!(error.problem().contains("missing servername"), "{error}");
}

#[test]
fn c85_a_tls_configuration_that_cannot_work_fails_the_listen_or_the_connect() {
    let files = Files::new();
    let mut l = Loop::new().unwrap();
    let reactor = l.reactor();
    let good = files.fill("tls:0:interface=127.0.0.1:cert=$cert.pem:key=$key.pem");
    let port = reactor.listen(&good, || Quiet).unwrap();
    for (bad, part) in [
        ("tls:0:cert=$none.pem:key=$key.pem", "$none.pem"),
        ("tls:0:cert=$cert.pem:key=$none.pem", "$none.pem"),
        ("tls:0:cert=$cert.pem:key=$other.pem", "$other.pem"),
        ("tls:0:sni=$none", "$none"),
        ("tls:0:cert=$cert.pem:key=$key.pem:client-ca=$key.pem", "key=$key.pem:client-ca=$"),
    ] {
        let text = files.fill(bad);
        let failure = reactor.listen(&text, || Quiet).unwrap_err();
        let error = failure.downcast_ref::<EndpointError>().expect("an error with a place");
        let at = match part.ends_with('$') {
            true => bad.rfind('=').unwrap() + 1,
            false => bad.find(part).unwrap(),
        };
        assert_eq!(error.at(), files.fill(&bad[..at]).len(), "{error}");
    }
    let to = format!("tls:127.0.0.1:{}", port.host().port().unwrap());
    for bad in [":ca=$none.pem", ":ca=$cert.pem:servername=a b", ":cert=$cert.pem:key=$other.pem"] {
        let text = files.fill(&format!("{to}{bad}"));
        let failure = l.run_until(reactor.connect(&text, || Quiet)).unwrap_err();
        let error = failure.downcast_ref::<EndpointError>().expect("an error with a place");
        assert_eq!(error.at(), text.rfind('=').unwrap() + 1, "{error}");
    }
    // The loop and the good port still work.
    let text = files.fill(&format!("{to}:ca=$cert.pem:servername=localhost"));
    assert!(l.run_until(reactor.connect(&text, || Quiet)).is_ok());
    let text = files.fill(&format!("{to}:ca=$cert.pem:servername=elsewhere"));
    assert!(l.run_until(reactor.connect(&text, || Quiet)).is_err());
}
