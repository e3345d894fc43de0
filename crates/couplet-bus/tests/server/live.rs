//! The client and a server without faults.

use couplet::bus::nats::{Auth, Nkey};
use couplet::bus::{Limit, Pattern};
use couplet::layers::tls::{ClientTls, ClientTlsOptions, Roots};
use couplet::services::Health;

use crate::needed::{Folder, SelfSigned};
use crate::server::{Client, Server, Serves};

#[test]
fn c202_the_server_shares_messages_among_the_members_of_a_group() {
    let Some(server) = Server::start(&[]) else { return };
    let mut client = Client::new();
    // A group may have several patterns.
    let members = ["jobs", "*", "jobs"].map(|pattern| {
        let (bus, pattern) = (client.bus(server.options()), Pattern::new(pattern).group("workers"));
        let worker = bus.messages(pattern, Limit::default()).expect("it is valid");
        (bus, worker)
    });
    let buses = members.each_ref().map(|(bus, _)| bus.clone());
    for bus in &buses {
        client.finish(bus.flush()).expect("it is connected");
    }
    (0..300).for_each(|_| buses[0].publish("jobs", "").expect("there is room"));
    for bus in buses.iter().chain(&buses) {
        client.finish(bus.flush()).expect("it is connected");
    }
    let shares = members.map(|(_, worker)| worker.len());
    assert_eq!(shares.iter().sum::<usize>(), 300);
    assert!(shares.iter().all(|share| *share > 10), "{shares:?}");
}

#[test]
fn c208_tokens_passwords_and_nkeys_log_in_and_wrong_ones_do_not() {
    let key = Nkey::from_seed("SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY");
    let key = key.expect("it is valid");
    let other = Nkey::from_seed("SUAAAAICAMCAKBQHBAEQUCYMBUHA6EARCIJRIFIWC4MBSGQ3DQOR4H776Y");
    let users = format!("authorization: {{ users: [ {{ nkey: {} }} ] }}", key.public());
    let password =
        |password: &str| Auth::Password { user: "ada".to_owned(), password: password.to_owned() };
    let token = |token: &str| Auth::Token(token.to_owned());
    let cases = [
        ("authorization: { token: \"s3cret\" }", token("s3cret"), token("wrong")),
        ("authorization: { user: ada, password: \"pa ss\" }", password("pa ss"), password("pass")),
        (&*users, Auth::Nkey(key), Auth::Nkey(other.expect("it is valid"))),
    ];
    for (configuration, right, wrong) in cases {
        let Some(server) = Server::start_with(configuration, &[]) else { return };
        let mut client = Client::new();
        let bus = client.bus(server.options().auth(right));
        assert_eq!(bus.health(), Health::Ready);
        client.log();
        for wrong in [wrong, Auth::None] {
            let refused = client.begin(server.options().auth(wrong));
            let log = client.until("failed: ");
            assert!(log[0].contains("Authorization Violation"), "{log:?}");
            assert!(matches!(refused.health(), Health::Degraded(_)));
            refused.close();
            client.log();
        }
    }
}

#[test]
fn c208_tls_begins_after_info_and_verifies_the_server() {
    let configuration = "tls: { cert_file: \"FOLDER/cert\", key_file: \"FOLDER/key\" }";
    let files = SelfSigned::new("localhost");
    let folder = Folder::new();
    folder.write("cert", &files.certificate);
    folder.write("key", &files.key);
    let configuration = configuration.replace("FOLDER/", &folder.path(""));
    let Some(server) = Server::start_with(&configuration, &[]) else { return };
    let url = format!("localhost:{}", server.port);
    let options = couplet::bus::nats::Options::new([url]).expect("it is valid");
    let trusting = ClientTlsOptions::default()
        .roots(Roots::from_pem(files.certificate.as_bytes()).expect("a certificate"));
    let tls = ClientTls::new(&trusting).expect("it is valid");
    let mut client = Client::new();
    let bus = client.bus(options.clone().tls(tls));
    let _subscription = client.subscribe(&bus, "a");
    bus.publish("a", "encrypted").expect("there is room");
    client.until("a encrypted");

    let stranger = SelfSigned::new("localhost");
    let stranger = Roots::from_pem(stranger.certificate.as_bytes()).expect("a certificate");
    let tls = ClientTls::new(&ClientTlsOptions::default().roots(stranger)).expect("it is valid");
    let refused = client.begin(options.clone().tls(tls));
    let log = client.until("failed: ");
    assert!(log[0].contains("certificate"), "{log:?}");
    refused.close();
    let plain = client.begin(options);
    let log = client.until("failed: ");
    assert_eq!(
        log.last().map(String::as_str),
        Some("failed: cannot log in: the server requires TLS, which `Options::tls` turns on")
    );
    plain.close();
}
