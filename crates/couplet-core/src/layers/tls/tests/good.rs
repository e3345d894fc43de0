//! Working connections: handshakes, data, names, resumption and close_notify.

use super::*;

const BOTH: [TlsVersion; 2] = [TlsVersion::Tls12, TlsVersion::Tls13];

#[test]
fn a_handshake_and_data_in_both_directions_however_they_are_cut() {
    for version in BOTH {
        let (client, server) = good_of(version);
        for piece in [1, 7, 1000, 1_000_000] {
            let mut two = two(&client, &server);
            two.client.above.extend(b"written before the handshake");
            two.run(piece);
            assert!(two.client.open && two.server.open, "{version} in pieces of {piece}");
            assert_eq!(two.server.received, b"written before the handshake");
            let long: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
            two.server.above.extend(&long);
            two.client.above.extend(b"short");
            two.run(piece);
            assert_eq!(two.client.received, long);
            assert!(two.server.received.ends_with(b"handshakeshort"));
            let info = two.client.info.expect("an open connection");
            assert_eq!((info.version, info.resumed), (version, piece != 1));
        }
    }
}

#[test]
fn a_handshake_message_may_have_several_records() {
    for version in BOTH {
        let authority = Authority::new();
        let pem = authority.pem(NAME, |_| {});
        let (chain, key) = pem.split_at(pem.find("-----BEGIN PRIVATE").expect("a key"));
        let long = Identity::from_pem(chain.repeat(80).as_bytes(), key.as_bytes()).expect("valid");
        let length: usize = long.certificates().map(<[u8]>::len).sum();
        assert!((20_000..60_000).contains(&length), "{length}");
        let client = client(trusting(&authority).versions(version, version));
        let server = server(ServerTlsOptions::new(long));
        for piece in [1000, usize::MAX] {
            let mut two = two(&client, &server);
            two.run(piece);
            assert!(two.client.open && two.server.open, "{version} {:?}", two.client.failed);
        }
    }
}

#[test]
fn the_first_data_may_come_with_the_last_of_the_handshake() {
    let (client, server) = good();
    let mut two = two(&client, &server);
    let hello = two.client.sent();
    assert!(two.server.feed(&hello).is_continue());
    let flight = two.server.sent();
    two.client.above.extend(b"data right behind");
    assert!(two.client.feed(&flight).is_continue());
    let finished_and_data = two.client.sent();
    // A receiver that stops when the layer opens gets the data later.
    let flow = two.server.feed_until(&finished_and_data, |_| Break(()));
    assert!(flow.is_break() && two.server.open && two.server.received.is_empty());
    assert!(two.server.feed(b"").is_continue());
    assert_eq!(two.server.received, b"data right behind");
}

#[test]
fn a_receiver_that_stops_between_records_can_write_and_gets_the_rest_later() {
    let mut two = open();
    let mut wire = Vec::new();
    for record in [b"one", b"two"] {
        two.client.above.extend(record);
        wire.extend(two.client.sent());
    }
    assert!(two.server.feed_until(&wire, |_| Break(())).is_break());
    assert_eq!(two.server.received, b"one");
    two.server.above.extend(b"answer");
    let answer = two.server.sent();
    assert!(two.client.feed(&answer).is_continue());
    assert_eq!(two.client.received, b"answer");
    assert!(two.server.feed(b"").is_continue());
    assert_eq!(two.server.received, b"onetwo");
}

#[test]
fn a_partial_record_survives_a_write() {
    let mut two = open();
    two.client.above.extend(b"in two parts");
    let wire = two.client.sent();
    let (before, after) = wire.split_at(9);
    assert!(two.server.feed(before).is_continue());
    two.server.above.extend(b"meanwhile");
    let meanwhile = two.server.sent();
    assert!(two.client.feed(&meanwhile).is_continue());
    assert!(two.server.feed(after).is_continue());
    assert_eq!(two.server.received, b"in two parts");
}

#[test]
fn a_goodbye_ends_the_stream_behind_all_data_and_is_answered() {
    for version in BOTH {
        let (client, server) = good_of(version);
        let mut two = met(&client, &server);
        two.client.above.extend(b"last");
        assert!(two.client.layers.close(&mut two.client.above, start()));
        let mut wire = two.client.sent();
        wire.extend_from_slice(b"\x17\x03\x03\x00\x04what follows");
        assert!(two.server.feed(&wire).is_continue());
        assert_eq!(two.server.received, b"last");
        assert!(two.server.closed && two.server.failed.is_none(), "{version}");
        // The other direction stays open until it is closed too (RFC 8446, 6.1).
        two.server.above.extend(b"still");
        two.run(usize::MAX);
        assert_eq!(two.client.received, b"still", "{version}");
        assert!(two.server.layers.close(&mut two.server.above, start()));
        two.run(usize::MAX);
        assert!(two.client.closed, "{version}");
        for end in [&mut two.client, &mut two.server] {
            end.layers.ended();
            assert!(end.feed(b"").is_continue());
            assert!(end.failed.is_none(), "the end was announced");
        }
    }
}

#[test]
fn names_protocols_and_certificates_are_known_on_both_sides() {
    let authority = Authority::new();
    let ours: Identity = authority.identity("client.test");
    let client = client(trusting(&authority).identity(ours.clone()).alpn(["h3", "h2"]));
    let required = ClientAuth::Require(authority.roots());
    let server = server(certified(&authority).client_auth(required).alpn(["http/1.1", "h2"]));
    let mut two = two(&client, &server);
    assert!(two.tls[0].borrow().info().is_none());
    two.run(usize::MAX);
    let (c, s) = (two.client.info.expect("open"), two.server.info.expect("open"));
    for info in [&c, &s] {
        assert_eq!(info.alpn.as_deref(), Some(&b"h2"[..]));
        assert_eq!(info.server_name.as_deref(), Some(NAME));
        assert_eq!(info.cipher, c.cipher);
        assert!(info.cipher.starts_with("TLS13_AES"), "{}", info.cipher);
    }
    let ours: Vec<&[u8]> = ours.certificates().collect();
    assert_eq!(s.peer_certificates.iter().map(|one| &one[..]).collect::<Vec<_>>(), ours);
    assert_eq!(c.peer_certificates.len(), 1);
}

#[test]
fn sessions_are_resumed_unless_that_is_off() {
    for version in BOTH {
        for on in [true, false] {
            let authority = Authority::new();
            let client = client(trusting(&authority).versions(version, version));
            let server = server(certified(&authority).resumption(on));
            for again in [false, true] {
                // Clones share their sessions.
                let two = met(&client.clone(), &server.clone());
                let (c, s) = (two.client.info.expect("open"), two.server.info.expect("open"));
                assert_eq!((c.resumed, s.resumed), (on && again, on && again), "{version} {on}");
                assert_eq!(s.server_name.as_deref(), Some(NAME), "also of a resumed session");
            }
        }
    }
}

#[test]
fn output_beyond_a_batch_stays_above_until_there_is_room() {
    let mut two = open();
    let End { layers, above, .. } = &mut two.client;
    above.extend(&[7; 20 * BATCH]);
    layers.down(above, start());
    let (below, left) = (layers.bottom().len(), above.len());
    assert!((BATCH..2 * BATCH + ROOM).contains(&below), "{below}");
    layers.down(above, start());
    assert_eq!((layers.bottom().len(), above.len()), (below, left));
    two.run(usize::MAX);
    assert_eq!(two.server.received.len(), 20 * BATCH);
}

#[test]
fn protocols_are_offered_unless_others_are_set() {
    let authority = Authority::new();
    let client = client(trusting(&authority).alpn(["a", "b"]));
    let set = |own: &[&str]| server(certified(&authority).alpn(own));
    for (server, chosen) in [
        (set(&["b"]).offering(&["a"]), Some("b")),
        (set(&[]).offering(&["b"]), Some("b")),
        (set(&[]).offering(&["b", "a"]), Some("b")),
        (set(&[]).offering(&[]), None),
        (set(&["a"]).offering(&[]), Some("a")),
    ] {
        let info = met(&client, &server).server.info.expect("open");
        assert_eq!(info.alpn.as_deref(), chosen.map(str::as_bytes));
    }
}

#[test]
fn an_idle_connection_holds_no_buffer() {
    let (client, server) = good();
    let mut two = two(&client, &server);
    for round in 1..=3 {
        two.client.above.extend(&[1; 50_000]);
        two.server.above.extend(&[2; 50_000]);
        two.run(1000);
        let received = [&two.client, &two.server].map(|end| end.received.len());
        assert_eq!(received, [round * 50_000; 2]);
        for tls in &two.tls {
            let tls = tls.borrow();
            let held = [&*tls.received, &tls.plain, &tls.pending, &tls.first].map(Vec::capacity);
            assert_eq!(held, [0; 4]);
        }
    }
}

#[test]
fn the_certificate_is_chosen_by_name_and_read_again_when_it_changes() {
    let authority = Authority::new();
    let folder = std::env::temp_dir().join(format!("couplet-sni-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).expect("a file");
    write("one.test.pem", &authority.pem("one.test", |_| {}));
    write("_.wild.test.pem", &authority.pem("*.wild.test", |_| {}));
    write("DEFAULT.pem", &authority.pem("else.test", |_| {}));
    write("notes.txt", "not a certificate");
    let directory = CertificateDirectory::open(&folder).expect("certificates");
    let server = server(ServerTlsOptions::from_directory(directory.clone()));
    let client = client(trusting(&authority).resumption(false));
    let now = start();
    let peer_at = |name: &str, now: Instant| {
        let mut two = Two::new(client.layer(name, now).expect("a name"), server.layer(now));
        two.run(usize::MAX);
        two.client.info.map(|info| info.peer_certificates[0].clone())
    };
    let first = peer_at("one.test", now).expect("accepted");
    assert!(peer_at("ONE.test", now).is_some());
    assert!(peer_at("a.wild.test", now).is_some());
    assert!(peer_at("a.b.wild.test", now).is_none(), "one level only");
    assert!(peer_at("else.test", now).is_some());

    write("one.test.pem", &authority.pem("one.test", |_| {}));
    write("two.test.pem", &authority.pem("two.test", |_| {}));
    assert_eq!(peer_at("one.test", now).as_ref(), Some(&first), "not checked again so soon");
    let later = now + std::time::Duration::from_secs(1);
    let second = peer_at("one.test", later).expect("accepted");
    assert_ne!(first, second);
    assert!(peer_at("two.test", later).is_some());
    // The next check comes a second after this one. The file has another length: the clock of a
    // file system may be coarse.
    write("one.test.pem", &format!("{}\n", authority.pem("one.test", |_| {})));
    let early = later + std::time::Duration::from_millis(999);
    assert_eq!(peer_at("one.test", early), Some(second.clone()), "not checked again so soon");
    let later = later + std::time::Duration::from_secs(1);
    let third = peer_at("one.test", later).expect("accepted");
    assert_ne!(second, third);

    write("one.test.pem", "broken");
    std::fs::remove_file(folder.join("two.test.pem")).expect("it was there");
    for _ in 0..2 {
        let wrong = directory.reload().expect_err("a broken file").to_string();
        assert!(wrong.contains("one.test.pem: there is no certificate"), "{wrong}");
    }
    assert_eq!(peer_at("one.test", later), Some(third), "the one before stays");
    assert!(peer_at("two.test", later).is_none());
    // Broken files keep no other from being read.
    for n in 0..4 {
        write(&format!("broken-{n}.test.pem"), "broken");
        write(&format!("good-{n}.test.pem"), &authority.pem(&format!("good-{n}.test"), |_| {}));
    }
    directory.reload().expect_err("broken files");
    for n in 0..4 {
        assert!(peer_at(&format!("good-{n}.test"), later).is_some(), "{n}");
    }
    assert!(peer_at("a.wild.test", later).is_some());
    std::fs::remove_dir_all(&folder).expect("it was there");
}

#[test]
fn a_name_finds_its_own_file_then_its_parents_and_then_the_default() {
    let authority = Authority::new();
    let folder = std::env::temp_dir().join(format!("couplet-names-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let write = |name: &str| {
        let pem = authority.pem(NAME, |_| {});
        std::fs::write(folder.join(format!("{name}.pem")), &pem).expect("a file");
        let identity = Identity::from_pem(pem.as_bytes(), pem.as_bytes()).expect("our own");
        identity.certificates().next().expect("it has one").to_vec()
    };
    let [own, parent, top] = ["one.wild.test", "_.wild.test", "_.test"].map(write);
    let find = |name: Option<&str>| {
        let directory = CertificateDirectory::open(&folder).expect("certificates");
        let found = directory.find(name)?;
        found.chain().next().map(<[u8]>::to_vec)
    };
    let cases = [
        (Some("one.wild.test"), Some(&own)),
        (Some("ONE.Wild.Test"), Some(&own)),
        (Some("two.wild.test"), Some(&parent)),
        (Some("wild.test"), Some(&top)),
        (Some("a.two.wild.test"), None),
        (Some("test"), None),
        (Some(""), None),
        (None, None),
    ];
    for (name, found) in cases {
        assert_eq!(find(name).as_ref(), found, "{name:?}");
    }
    let default = write("DEFAULT");
    for (name, found) in cases {
        assert_eq!(find(name).as_ref(), found.or(Some(&default)), "{name:?}");
    }
    std::fs::remove_dir_all(&folder).expect("it was there");
}

#[test]
fn each_file_of_a_name_is_read_again_when_only_that_file_changes() {
    let authority = Authority::new();
    let folder = std::env::temp_dir().join(format!("couplet-ocsp-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let write = |end: &str, bytes: &[u8]| {
        std::fs::write(folder.join(format!("{NAME}.{end}")), bytes).expect("a file");
    };
    let first = authority.pem(NAME, |_| {});
    write("pem", first.as_bytes());
    let directory = CertificateDirectory::open(&folder).expect("a certificate");
    let found = || {
        directory.reload().expect("files that can be read");
        let found = directory.find(Some(NAME)).expect("its name");
        let chain: Vec<Vec<u8>> = found.chain().map(<[u8]>::to_vec).collect();
        (chain, found.ocsp().map(<[u8]>::to_vec))
    };
    let (chain, _) = found();
    // Responses of other lengths: the clock of a file system may be coarse.
    for response in [&b"good"[..], b"still good"] {
        write("ocsp", response);
        assert_eq!(found(), (chain.clone(), Some(response.to_vec())));
    }
    write("pem", format!("{}\n", authority.pem(NAME, |_| {})).as_bytes());
    let (renewed, response) = found();
    assert_ne!(renewed, chain);
    assert_eq!(response.as_deref(), Some(&b"still good"[..]));
    std::fs::remove_file(folder.join(format!("{NAME}.ocsp"))).expect("it was there");
    assert_eq!(found(), (renewed, None));
    std::fs::remove_dir_all(&folder).expect("it was there");
}

/// A world with a single random number.
struct Fixed(u64);

impl TlsWorld for Fixed {
    fn random(&self) -> u64 {
        self.0
    }

    fn unix_time(&self) -> std::time::Duration {
        std::time::Duration::from_secs(4_000_000_000)
    }
}

/// The random bytes of a new client's first message.
fn client_random(client: &ClientTls) -> Vec<u8> {
    let mut end = End::new(client.layer(NAME, start()).expect("a name")).0;
    end.sent()[11..43].to_vec()
}

#[test]
fn clients_in_equal_worlds_send_the_same_random() {
    let (client, server) = good_of(TlsVersion::Tls12);
    let random = || client_random(&client);
    let in_it = || in_world(Rc::new(Fixed(4)), random);
    assert_eq!(in_it(), in_it());
    assert_ne!(random(), random());
    // The certificates of rcgen are still valid in the year 2096.
    in_world(Rc::new(Fixed(4)), || {
        let two = met(&client, &server);
        assert!(two.client.open);
    });
}

#[test]
fn a_world_inside_another_ends_without_ending_the_outer_one_even_by_a_panic() {
    let (client, _) = good_of(TlsVersion::Tls12);
    let is_in = |number: u64| client_random(&client) == number.to_le_bytes().repeat(4);
    in_world(Rc::new(Fixed(4)), || {
        in_world(Rc::new(Fixed(5)), || assert!(is_in(5)));
        assert!(is_in(4));
        let panics = || in_world(Rc::new(Fixed(6)), || std::panic::resume_unwind(Box::new(())));
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).expect_err("it panics");
        assert!(is_in(4));
    });
    assert!(!is_in(4) && !is_in(5) && !is_in(6));
}

#[test]
fn the_name_that_a_client_requests_does_not_reach_the_next_connection() {
    let server = server(certified(&Authority::new()));
    let options = ClientTlsOptions::default().dangerously_accept_any_server_certificate();
    let client = client(options.resumption(false));
    for (host, name) in
        [("one.test", Some("one.test")), ("two.test", Some("two.test")), ("127.0.0.1", None)]
    {
        let client = client.layer(host, start()).expect("a name or an address");
        let mut two = Two::new(client, server.layer(start()));
        // The ClientHello comes in several records.
        let hello = two.client.sent();
        for part in hello[5..].chunks(100) {
            let record = [&[22, 3, 1, 0, part.len() as u8], part].concat();
            assert!(two.server.feed(&record).is_continue());
        }
        two.run(usize::MAX);
        assert_eq!(two.server.info.expect("open").server_name.as_deref(), name);
    }
}

#[test]
fn issuers_and_a_response_are_added_to_an_identity_in_either_order() {
    let authority = Authority::new();
    let middle = authority.middle();
    let with_ocsp = |identity: Identity| identity.with_ocsp(b"a response".to_vec());
    let with_chain = |Identity(pair): Identity| {
        Identity(pair.with_chain(middle.certificate().as_bytes(), "here").expect("a certificate"))
    };
    let identity = || middle.identity(NAME);
    for identity in [with_chain(with_ocsp(identity())), with_ocsp(with_chain(identity()))] {
        assert_eq!(identity.0.ocsp(), Some(&b"a response"[..]));
        // The client trusts only the issuer of the issuer.
        let two = met(&client(trusting(&authority)), &server(ServerTlsOptions::new(identity)));
        assert!(two.client.open, "{:?}", two.client.failed);
    }
}
