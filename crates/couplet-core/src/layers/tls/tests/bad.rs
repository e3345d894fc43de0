//! Failing connections: bad certificates, alerts, garbage and truncated streams. Each reports its
//! error on both sides.

use super::*;
use crate::error::CertificateProblem;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, date_time_ymd};

/// The error of one side: problem, fault, alert sent.
type Told = (TlsProblem, Fault, Option<u8>);

fn told(end: &End) -> Told {
    let error = end.error();
    assert!(error.in_handshake, "{error}");
    assert!(matches!(end.failed, Some(Reason::Tls(_))), "{error}");
    (error.problem, error.fault, error.alert_sent)
}

#[test]
fn c75_c76_a_bad_certificate_is_the_reason_on_both_sides() {
    use CertificateProblem::*;
    let authority = Authority::new();
    type Change = fn(&mut CertificateParams);
    let change: [(&str, Change); 3] =
        [("expired", expired), ("not yet", not_yet_valid), ("for clients", for_clients)];
    let mut cases: Vec<(&str, Identity, CertificateProblem, u8)> = change
        .into_iter()
        .zip([(Expired, 45), (NotYetValid, 45), (WrongUsage, 43)])
        .map(|((name, change), (problem, alert))| {
            (name, authority.identity_with(NAME, change), problem, alert)
        })
        .collect();
    cases.push(("another name", authority.identity("other.test"), WrongName, 42));
    cases.push(("another issuer", Authority::new().identity(NAME), UnknownIssuer, 48));
    for (name, identity, problem, alert) in cases {
        let client = client(trusting(&authority));
        let server = server(ServerTlsOptions::new(identity));
        let mut two = two(&client, &server);
        two.client.above.extend(b"a secret");
        two.run(usize::MAX);
        let expected = (TlsProblem::Certificate(problem), Fault::Peer, Some(alert));
        assert_eq!(told(&two.client), expected, "{name}");
        let expected = (TlsProblem::AlertReceived(alert), Fault::Ours, None);
        assert_eq!(told(&two.server), expected, "{name}");
        assert!(!two.client.open && !two.server.open && two.server.received.is_empty());
        assert_eq!(two.client.above.len(), 8, "nothing was taken");
    }
}

#[test]
fn an_authoritys_certificate_is_refused_as_a_servers_and_the_error_says_so() {
    let authority = Authority::new();
    let itself = authority.identity_with(NAME, |params| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    });
    let client = client(trusting(&authority));
    let two = met(&client, &server(ServerTlsOptions::new(itself)));
    let problem = TlsProblem::Certificate(CertificateProblem::WrongUsage);
    assert_eq!(two.client.error().problem, problem);
    assert!(two.client.error().to_string().contains("(CA:TRUE)"), "{}", two.client.error());
}

#[test]
fn a_chain_longer_than_a_message_may_be_is_refused_with_bounded_memory() {
    let authority = Authority::new();
    let pem = authority.pem(NAME, |_| {});
    let (chain, key) = pem.split_at(pem.find("-----BEGIN PRIVATE").expect("a key"));
    let huge = Identity::from_pem(chain.repeat(400).as_bytes(), key.as_bytes()).expect("valid");
    let client = client(trusting(&authority));
    let mut two = two(&client, &server(ServerTlsOptions::new(huge)));
    let hello = two.client.sent();
    assert!(two.server.feed(&hello).is_continue());
    let flight = two.server.sent();
    assert!(flight.len() > 100_000);
    let mut most = 0;
    for piece in flight.chunks(1000) {
        assert!(two.client.feed(piece).is_continue());
        most = most.max(two.tls[0].borrow().received.capacity());
    }
    assert!(most <= 0xffff + 2 * LONGEST_RECORD, "{most}");
    assert_eq!(told(&two.client).0, TlsProblem::Misbehaved);
    // rustls sends no alert for it: the server only sees the stream end.
    two.run(usize::MAX);
    two.server.layers.ended();
    assert!(two.server.feed(b"").is_continue());
    assert_eq!(two.server.error().problem, TlsProblem::Truncated);
}

#[test]
fn a_client_without_a_required_certificate_is_refused() {
    for version in [TlsVersion::Tls12, TlsVersion::Tls13] {
        let authority = Authority::new();
        let client = client(trusting(&authority).versions(version, version));
        let required = ClientAuth::Require(authority.roots());
        let server = server(certified(&authority).client_auth(required));
        let two = met(&client, &server);
        let missing = TlsProblem::Certificate(CertificateProblem::Missing);
        let (problem, fault, _) = told(&two.server);
        assert_eq!((problem, fault), (missing, Fault::Peer));
        let alert = two.client.error();
        assert_eq!(alert.fault, Fault::Ours, "{alert}");
        // A TLS 1.3 client is open before the server has seen its certificate.
        assert_eq!(two.client.open, version == TlsVersion::Tls13);
    }
}

#[test]
fn a_server_that_shows_an_empty_chain_is_refused() {
    let (client, _) = good_of(TlsVersion::Tls12);
    let mut end = End::new(client.layer(NAME, start()).expect("a name")).0;
    assert!(!end.sent().is_empty());
    let message = |kind: u8, body: &[u8]| [&[kind, 0, 0, body.len() as u8], body].concat();
    // No session, an ECDSA suite, no compression, no extensions.
    let hello = [&[3, 3][..], &[7; 32], &[0, 0xc0, 0x2b, 0]].concat();
    // A key for X25519, and a signature of one byte.
    let exchange = [&[3, 0, 0x1d, 32][..], &[9; 32], &[4, 3, 0, 1, 0]].concat();
    let flight = [(2, &hello[..]), (11, &[0, 0, 0]), (12, &exchange), (14, &[])];
    let flight = flight.map(|(kind, body)| message(kind, body)).concat();
    let record = [&[22, 3, 3, 0, flight.len() as u8], &flight[..]].concat();
    assert!(end.feed(&record).is_continue());
    let (problem, fault, _) = told(&end);
    let missing = TlsProblem::Certificate(CertificateProblem::Missing);
    assert_eq!((problem, fault), (missing, Fault::Peer));
}

#[test]
fn a_client_certificate_of_another_issuer_is_refused_even_if_none_is_required() {
    let authority = Authority::new();
    let stranger = Authority::new().identity("client.test");
    let client = client(trusting(&authority).identity(stranger));
    let server = server(certified(&authority).client_auth(ClientAuth::Ask(authority.roots())));
    let two = met(&client, &server);
    let unknown = TlsProblem::Certificate(CertificateProblem::UnknownIssuer);
    assert_eq!(told(&two.server), (unknown, Fault::Peer, Some(48)));
    assert_eq!(two.client.error().problem, TlsProblem::AlertReceived(48));
}

#[test]
fn ends_with_nothing_in_common_say_so() {
    let authority = Authority::new();
    let (options, of) = (|| trusting(&authority), || certified(&authority));
    let (old, new) = (TlsVersion::Tls12, TlsVersion::Tls13);
    for (ours, theirs, problem, alert) in [
        (options().versions(old, old), of().versions(new, new), TlsProblem::NothingInCommon, 70),
        (options().alpn(["h3"]), of().alpn(["h2"]), TlsProblem::NoApplicationProtocol, 120),
    ] {
        let two = met(&client(ours), &server(theirs));
        assert_eq!(told(&two.server).0, problem);
        assert_eq!(told(&two.client).0, TlsProblem::AlertReceived(alert), "{problem:?}");
    }
}

#[test]
fn input_other_than_tls_gets_an_alert_and_the_error_guesses_its_protocol() {
    let (client, server) = good();
    for (input, guess) in [
        (&b"GET / HTTP/1.1\r\nHost: server.test\r\n\r\n"[..], "plain HTTP"),
        (b"PRI * HTTP/2.0\r\n\r\n", "plain HTTP"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "SSH"),
        (b"EHLO there\r\n", "SMTP"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n", "PROXY header"),
        (b"\x80\x2e\x01\x00\x02garbage", "does not speak TLS"),
    ] {
        every_split(input, |pieces| {
            let mut end = End::new(server.layer(start())).0;
            for piece in pieces {
                assert!(end.feed(piece).is_continue());
            }
            let error = end.error();
            assert_eq!((error.problem, error.fault), (TlsProblem::NotTls, Fault::Peer));
            assert!(error.to_string().contains(guess), "{error}");
            let alert = end.sent();
            assert_eq!(alert.len(), 7, "{alert:?}");
            assert_eq!((&alert[..2], alert[5]), (&[21, 3][..], 2), "a fatal alert");
            assert_eq!(error_alert(&end), Some(alert[6]));
        });
    }
    let mut end = End::new(client.layer(NAME, start()).expect("a name")).0;
    assert!(end.feed(b"220 mail.test ESMTP\r\n").is_continue());
    assert!(end.error().to_string().contains("it may expect STARTTLS"), "{}", end.error());
}

fn error_alert(end: &End) -> Option<u8> {
    end.error().alert_sent
}

#[test]
fn a_cut_stream_is_lost_and_says_when_it_was_cut() {
    let (client, server) = good();
    let mut two = two(&client, &server);
    let hello = two.client.sent();
    for cut in 0..hello.len() {
        let mut end = End::new(server.layer(start())).0;
        assert!(end.feed(&hello[..cut]).is_continue());
        end.layers.ended();
        assert!(end.feed(b"").is_continue());
        assert!(matches!(end.failed, Some(Reason::Lost(_))));
        let error = end.error();
        assert_eq!((error.problem, error.in_handshake), (TlsProblem::Truncated, true));
    }
    assert!(two.server.feed(&hello).is_continue());
    two.run(usize::MAX);
    two.client.above.extend(b"whole");
    let mut wire = two.client.sent();
    two.client.above.extend(b"cut off");
    wire.extend_from_slice(&two.client.sent()[..10]);
    assert!(two.server.feed(&wire).is_continue());
    two.server.layers.ended();
    assert!(two.server.feed(b"").is_continue());
    assert_eq!(two.server.received, b"whole");
    assert!(matches!(two.server.failed, Some(Reason::Lost(_))));
    let error = two.server.error();
    assert_eq!((error.problem, error.in_handshake), (TlsProblem::Truncated, false));
    assert_eq!(error.fault, Fault::Network);
}

#[test]
fn a_record_that_was_altered_or_is_too_long_ends_the_connection() {
    let too_long = [&[23, 3, 3, 0x48, 1], &[0; 18_433][..]].concat();
    // Our side cannot make more than 16 KiB of plaintext, but this much ciphertext can be sent.
    let barely = [&[23, 3, 3, 0x41, 1], &[0; 16_641][..]].concat();
    // Only a header, which already shows that its record is too long.
    let header = vec![23, 3, 3, 0x48, 1];
    let alter = |bytes: &mut Vec<u8>| bytes[20] ^= 1;
    for (name, change, problem) in [
        ("altered", None, TlsProblem::BadRecord),
        ("too long", Some(too_long), TlsProblem::Misbehaved),
        ("going to be too long", Some(header), TlsProblem::Misbehaved),
        ("longer than TLS 1.3 allows", Some(barely), TlsProblem::BadRecord),
    ] {
        let mut two = open();
        two.client.above.extend(b"a record that is altered");
        let mut wire = two.client.sent();
        match change {
            None => alter(&mut wire),
            Some(other) => wire = other,
        }
        assert!(two.server.feed(&wire).is_continue());
        let error = two.server.error();
        assert_eq!((error.problem, error.in_handshake), (problem, false), "{name}: {error}");
        // The alert is an encrypted record.
        two.run(usize::MAX);
        assert!(two.client.failed.is_some(), "{name}");
    }
}

#[test]
fn a_record_in_clear_of_more_than_16_kib_is_refused() {
    let (_, server) = good();
    for (length, refused) in [(RECORD, false), (RECORD + 1, true)] {
        let mut end = End::new(server.layer(start())).0;
        let [.., high, low] = (length as u64).to_be_bytes();
        // The beginning of a ClientHello of 60 000 bytes.
        let wire = [&[22, 3, 1, high, low, 1, 0, 0xea, 0x60][..], &vec![0; length - 4]].concat();
        assert!(end.feed(&wire).is_continue());
        assert_eq!(end.failed.is_some(), refused, "{length}: {:?}", end.failed);
        if refused {
            assert_eq!(told(&end), (TlsProblem::Misbehaved, Fault::Peer, Some(22)));
        }
    }
}

/// The beginning of a ClientHello of 60 000 bytes, in records of this length.
fn endless_hello(length: usize) -> Vec<u8> {
    let mut hello = vec![1, 0, 0xea, 0x60, 3, 3];
    hello.resize(60_000, 0);
    let [.., high, low] = (length as u64).to_be_bytes();
    let records = hello.chunks_exact(length);
    records.flat_map(|chunk| [&[22, 3, 1, high, low], chunk].concat()).collect()
}

#[test]
fn c77a_no_more_than_16_kib_are_kept_of_an_unfinished_hello() {
    let authority = Authority::new();
    let plain = || certified(&authority);
    let asking = plain().client_auth(ClientAuth::Require(authority.roots()));
    let mut layers = vec![server(plain()).layer(start()), server(asking).layer(start())];
    let later = server(ServerTlsOptions::chosen_later());
    layers.push(later.layer(start()).choosing(|_| panic!("it never comes")));
    for layer in layers {
        let (mut end, tls) = End::new(layer);
        let mut most = 0;
        for piece in endless_hello(1000).chunks(700) {
            assert!(end.feed(piece).is_continue());
            most = most.max(tls.borrow().received.capacity());
        }
        assert!(most <= RECORD + 2 * HEADER, "{most}");
        assert_eq!(told(&end), (TlsProblem::Misbehaved, Fault::Peer, Some(50)));
    }
}

#[test]
fn c77a_a_message_in_records_of_single_bytes_takes_no_more_memory_than_a_long_one() {
    let client = client(trusting(&Authority::new()));
    for (length, is_refused) in [(1, true), (5, true), (100, false)] {
        let (mut end, tls) = End::new(client.layer(NAME, start()).expect("a name"));
        end.sent();
        let mut hello = endless_hello(length);
        // A ServerHello.
        hello[HEADER] = 2;
        let mut most = 0;
        for piece in hello.chunks(700) {
            assert!(end.feed(piece).is_continue());
            most = most.max(tls.borrow().received.capacity());
        }
        assert!(most <= LONGEST_INPUT + HEADER, "{most}");
        assert_eq!(end.failed.is_some(), is_refused, "{length}: {:?}", end.failed);
        if is_refused {
            assert_eq!(told(&end), (TlsProblem::Misbehaved, Fault::Peer, None));
        }
    }
}

#[test]
fn a_handshake_has_a_deadline_of_ten_seconds_and_a_connection_none() {
    let (client, server) = good();
    let now = start();
    let ten = std::time::Duration::from_secs(10);
    let mut end = End::new(server.layer(now)).0;
    assert_eq!(end.layers.deadline(), Some(now + ten));
    end.layers.timed_out(now + ten - std::time::Duration::from_nanos(1));
    assert!(end.feed(b"\x16").is_continue());
    assert!(end.failed.is_none());
    end.layers.timed_out(now + ten);
    assert!(end.feed(b"").is_continue());
    assert_eq!(told(&end), (TlsProblem::HandshakeTimedOut, Fault::Peer, None));
    let two = met(&client, &server);
    assert_eq!([two.client.layers.deadline(), two.server.layers.deadline()], [None, None]);
}

#[test]
fn configurations_that_cannot_work_are_errors() {
    let authority = Authority::new();
    let (one, other) = (authority.pem(NAME, |_| {}), authority.pem(NAME, |_| {}));
    let identity = |chain: &str, key: &str| {
        Identity::from_pem(chain.as_bytes(), key.as_bytes())
            .expect_err("it cannot work")
            .to_string()
    };
    let begin = one.find("-----BEGIN PRIVATE").expect("a key");
    let (chain, key) = one.split_at(begin);
    for (wrong, text) in [
        (identity("", key), "cannot use the given PEM: there is no certificate"),
        (identity(chain, chain), "there is no private key"),
        (identity(chain, &other), "the private key does not match the certificate"),
        (Roots::from_pem(b"").expect_err("none").to_string(), "there is no certificate"),
        (
            Identity::from_pem_files("/nowhere/x.pem", "/nowhere/x.pem")
                .expect_err("none")
                .to_string(),
            "cannot read /nowhere/x.pem: no such file or directory",
        ),
        (
            CertificateDirectory::open("/nowhere").expect_err("none").to_string(),
            "cannot read /nowhere: no such file",
        ),
    ] {
        assert!(wrong.contains(text), "{wrong}");
    }
    let (client, _) = good();
    for (host, works) in [
        ("a.test", true),
        ("a.test.", true),
        ("127.0.0.1", true),
        ("[fe80::1%lo]", true),
        ("a b", false),
        ("", false),
    ] {
        assert_eq!(client.layer(host, start()).is_ok(), works, "{host:?}");
    }
}

/// Changes that make a certificate bad.
fn expired(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2021, 1, 1);
}

fn not_yet_valid(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(2999, 1, 1);
    params.not_after = date_time_ymd(3000, 1, 1);
}

fn for_clients(params: &mut CertificateParams) {
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
}
