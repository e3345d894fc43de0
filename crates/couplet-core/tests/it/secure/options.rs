//! Each option of a TLS server and of a TLS client has an effect without the others. The key log is
//! tested in a separate process; `tests/peers` compares its secrets with OpenSSL's.

use std::rc::Rc;
use std::time::Duration;

use couplet::layers::tls::{
    CertificateDirectory, ClientAuth, ClientTls, ClientTlsOptions, Identity, Roots, ServerTls,
    ServerTlsOptions, TlsInfo, TlsVersion,
};
use couplet::testing::{Manner, failure_of};
use couplet::{ConnectError, Deferred, Reason, TlsProblem};

use super::{Connection, End, NAME, Rig};
use crate::apart::{again, told};
use crate::needed::Folder;
use crate::suite::kit::LOOPBACK;
use couplet_testkit_loops::authority::Authority;

const ALIAS: &str = "alias.test";

/// The issuers and the certificates of both sides.
struct World {
    authority: Authority,
    /// An issuer that neither side trusts.
    stranger: Authority,
    client: Identity,
    names: Folder,
}

impl World {
    fn new() -> World {
        let (authority, names) = (Authority::new(), Folder::new());
        let client = authority.identity("client.test");
        names.write(&format!("{NAME}.pem"), authority.pem(NAME, |_| {}));
        World { authority, stranger: Authority::new(), client, names }
    }

    fn server(&self) -> ServerTlsOptions {
        let names = self.authority.identity_with(NAME, |params| {
            let alias = ALIAS.try_into().expect("a name");
            params.subject_alt_names.push(rcgen::SanType::DnsName(alias));
        });
        ServerTlsOptions::new(names)
    }

    fn client(&self) -> ClientTlsOptions {
        ClientTlsOptions::default().roots(self.authority.roots())
    }
}

/// The parameters that the server and the client report after each of two handshakes, or the first
/// problem.
type Met = Result<[[Rc<TlsInfo>; 2]; 2], TlsProblem>;

fn meet(server: &ServerTlsOptions, client: &ClientTlsOptions) -> Met {
    let mut rig = Rig::new(Manner::Readiness);
    rig.server = ServerTls::new(server).expect("settings that work");
    rig.client = ClientTls::new(client).expect("settings that work");
    Ok([once(&mut rig)?, once(&mut rig)?])
}

fn once(rig: &mut Rig) -> Result<[Rc<TlsInfo>; 2], TlsProblem> {
    let (server, client) = (End::default(), End::default());
    let port = rig.listen(&server);
    let connecting = rig.connect(&port, &client);
    rig.turn();
    if !client.is_made() {
        return Err(problem_of(connecting));
    }
    connecting.detach();
    if server.is_lost() || client.is_lost() {
        let lost = if server.is_lost() { &server } else { &client };
        return Err(problem_in(&lost.reason()));
    }
    let known =
        [&server, &client].map(|end| end.transport().info::<TlsInfo>().expect("it is secure"));
    client.transport().lose_connection();
    rig.turn();
    Ok(known)
}

fn problem_of(connecting: Deferred<Connection<End>>) -> TlsProblem {
    let failure = failure_of(connecting);
    match failure.downcast_ref() {
        Some(ConnectError::NotOpened(reason)) => problem_in(reason),
        _ => panic!("{failure}"),
    }
}

fn problem_in(reason: &Reason) -> TlsProblem {
    match reason {
        Reason::Tls(error) => error.problem,
        _ => panic!("{reason}"),
    }
}

type SetServer = fn(ServerTlsOptions, &World) -> ServerTlsOptions;
type SetClient = fn(ClientTlsOptions, &World) -> ClientTlsOptions;

enum Set {
    Server(SetServer),
    Client(SetClient),
}

/// An option, the other settings of both sides, and the sign of its effect.
struct Effect {
    option: &'static str,
    beside: &'static [Set],
    set: Set,
    shows: fn(&Met, &World) -> bool,
}

fn first(met: &Met) -> Option<&[Rc<TlsInfo>; 2]> {
    met.as_ref().ok().map(|both| &both[0])
}

fn is_resumed(met: &Met) -> bool {
    met.as_ref().is_ok_and(|[_, second]| second.iter().all(|info| info.resumed))
}

fn is_version(met: &Met, version: TlsVersion) -> bool {
    first(met).is_some_and(|both| both.iter().all(|info| info.version == version))
}

fn has_protocol(met: &Met, protocol: &[u8]) -> bool {
    first(met).is_some_and(|both| both.iter().all(|info| info.alpn.as_deref() == Some(protocol)))
}

const EFFECTS: &[Effect] = &[
    Effect {
        option: "a client's roots",
        beside: &[],
        set: Set::Client(|client, world| client.roots(world.stranger.roots())),
        shows: |met, _| matches!(met, Err(TlsProblem::Certificate(_))),
    },
    Effect {
        option: "a client that accepts any certificate",
        beside: &[Set::Client(|client, world| client.roots(world.stranger.roots()))],
        set: Set::Client(|client, _| client.dangerously_accept_any_server_certificate()),
        shows: |met, _| met.is_ok(),
    },
    Effect {
        option: "a client's certificate",
        beside: &[Set::Server(|server, world| {
            server.client_auth(ClientAuth::Ask(world.authority.roots()))
        })],
        set: Set::Client(|client, world| client.identity(world.client.clone())),
        shows: |met, world| {
            let ours: Vec<&[u8]> = world.client.certificates().collect();
            first(met).is_some_and(|[server, _]| {
                server.peer_certificates.iter().map(|one| &one[..]).eq(ours)
            })
        },
    },
    Effect {
        option: "the name of the server",
        beside: &[],
        set: Set::Client(|client, _| client.server_name(ALIAS)),
        shows: |met, _| {
            first(met).is_some_and(|both| {
                both.iter().all(|info| info.server_name.as_deref() == Some(ALIAS))
            })
        },
    },
    Effect {
        option: "a name that the certificate is not for",
        beside: &[],
        set: Set::Client(|client, _| client.server_name("other.test")),
        shows: |met, _| matches!(met, Err(TlsProblem::Certificate(_))),
    },
    Effect {
        option: "a client's protocols",
        beside: &[Set::Server(|server, _| server.alpn(["h2", "http/1.1"]))],
        set: Set::Client(|client, _| client.alpn(["http/1.1"])),
        shows: |met, _| has_protocol(met, b"http/1.1"),
    },
    Effect {
        option: "a client's versions",
        beside: &[],
        set: Set::Client(|client, _| client.versions(TlsVersion::Tls12, TlsVersion::Tls12)),
        shows: |met, _| is_version(met, TlsVersion::Tls12),
    },
    Effect {
        option: "a client's oldest version",
        beside: &[Set::Server(|server, _| server.versions(TlsVersion::Tls12, TlsVersion::Tls12))],
        set: Set::Client(|client, _| client.versions(TlsVersion::Tls13, TlsVersion::Tls13)),
        shows: |met, _| met.is_err(),
    },
    Effect {
        option: "a client that resumes no session",
        beside: &[],
        set: Set::Client(|client, _| client.resumption(false)),
        shows: |met, _| met.is_ok() && !is_resumed(met),
    },
    Effect {
        option: "a server's certificate",
        beside: &[Set::Server(|_, _| ServerTlsOptions::chosen_later())],
        set: Set::Server(|server, world| server.identity(world.authority.identity(NAME))),
        shows: |met, _| met.is_ok(),
    },
    Effect {
        option: "a server's folder of certificates",
        beside: &[Set::Server(|_, _| ServerTlsOptions::chosen_later())],
        set: Set::Server(|server, world| {
            let names = CertificateDirectory::open(world.names.join("")).expect("a certificate");
            server.directory(names)
        }),
        shows: |met, _| met.is_ok(),
    },
    Effect {
        option: "a server that asks for a certificate",
        beside: &[Set::Client(|client, world| client.identity(world.client.clone()))],
        set: Set::Server(|server, world| {
            server.client_auth(ClientAuth::Ask(world.authority.roots()))
        }),
        shows: |met, _| first(met).is_some_and(|[server, _]| !server.peer_certificates.is_empty()),
    },
    Effect {
        option: "a server that requires a certificate",
        beside: &[Set::Server(|server, world| {
            server.client_auth(ClientAuth::Ask(world.authority.roots()))
        })],
        set: Set::Server(|server, world| {
            server.client_auth(ClientAuth::Require(world.authority.roots()))
        }),
        shows: |met, _| met.is_err(),
    },
    Effect {
        option: "a server's protocols",
        beside: &[Set::Client(|client, _| client.alpn(["http/1.1", "h2"]))],
        set: Set::Server(|server, _| server.alpn(["h2"])),
        shows: |met, _| has_protocol(met, b"h2"),
    },
    Effect {
        option: "a server's versions",
        beside: &[],
        set: Set::Server(|server, _| server.versions(TlsVersion::Tls12, TlsVersion::Tls12)),
        shows: |met, _| is_version(met, TlsVersion::Tls12),
    },
    Effect {
        option: "a server's oldest version",
        beside: &[Set::Client(|client, _| client.versions(TlsVersion::Tls12, TlsVersion::Tls12))],
        set: Set::Server(|server, _| server.versions(TlsVersion::Tls13, TlsVersion::Tls13)),
        shows: |met, _| met.is_err(),
    },
    Effect {
        option: "a server that resumes no session",
        beside: &[],
        set: Set::Server(|server, _| server.resumption(false)),
        shows: |met, _| met.is_ok() && !is_resumed(met),
    },
];

#[test]
fn each_option_has_an_effect_that_does_not_occur_without_it() {
    let world = World::new();
    for Effect { option, beside, set, shows } in EFFECTS {
        let with = |sets: &[&Set]| {
            let (mut server, mut client) = (world.server(), world.client());
            for set in sets {
                match set {
                    Set::Server(set) => server = set(server, &world),
                    Set::Client(set) => client = set(client, &world),
                }
            }
            meet(&server, &client)
        };
        let mut sets: Vec<&Set> = beside.iter().collect();
        let met = with(&sets);
        assert!(!shows(&met, &world), "without {option}: {met:?}");
        sets.push(set);
        let met = with(&sets);
        assert!(shows(&met, &world), "{option}: {met:?}");
    }
}

#[test]
fn the_issuers_in_each_file_of_a_folder_are_trusted_whatever_their_last_line() {
    let (world, folder) = (World::new(), Folder::new());
    let authorities = [(); 4].map(|()| Authority::new());
    for (authority, name) in authorities.iter().zip(["a.pem", "b.pem", "c.PEM", "d.txt"]) {
        folder.write(name, authority.certificate().trim_end());
    }
    folder.write("broken.pem", "no certificate");
    let roots = Roots::from_pem_directory(&*folder).expect("certificates");
    for (n, authority) in authorities.iter().enumerate() {
        let server = ServerTlsOptions::new(authority.identity(NAME));
        let met = meet(&server, &world.client().roots(roots.clone()));
        assert_eq!(met.is_ok(), n < 3, "{n}: {met:?}");
    }
}

#[test]
fn a_file_of_more_than_16_mib_is_refused_unread() {
    let (world, folder) = (World::new(), Folder::new());
    let path = folder.join("long.pem");
    let long = std::fs::File::create(&path).expect("a file");
    long.set_len((16 << 20) + 1).expect("a sparse file");
    let ours = || -> Identity { world.authority.identity(NAME) };
    for refused in [
        Roots::from_pem_file(&path).map(drop),
        Identity::from_pem_files(&path, &path).map(drop),
        ours().with_chain_file(&path).map(drop),
        ours().with_ocsp_file(&path).map(drop),
        CertificateDirectory::open(folder.join("")).map(drop),
    ] {
        let text = refused.expect_err("it is too long").to_string();
        assert!(text.contains("long.pem: the file is longer than 16 MiB"), "{text}");
    }
}

/// `refused.rs` tests the server's deadline.
#[test]
fn a_client_has_a_deadline_of_the_handshake() {
    let (set, short) = (Duration::from_secs(3), Duration::from_millis(2900));
    for mut rig in Rig::both() {
        let options = ClientTlsOptions::default().roots(rig.authority.roots());
        rig.client = ClientTls::new(&options.handshake_timeout(set)).expect("settings that work");
        let silent = rig.network.listen(LOOPBACK, 1).expect("a free port");
        let connecting = rig.connect(&silent, &End::default());
        rig.turn();
        rig.advance(short);
        assert_eq!(rig.l.snapshot().connections[0].state, "opening");
        rig.advance(set - short);
        // The second that its peer has to notice the failure.
        rig.advance(Duration::from_secs(1));
        assert_eq!(problem_of(connecting), TlsProblem::HandshakeTimedOut);
    }
}

/// In a separate process, because an environment variable names the file.
#[test]
fn secrets_are_written_by_each_side_that_allows_it_and_by_no_other() {
    if told().is_some() {
        return write_secrets();
    }
    let folder = Folder::new();
    let test = "secure::options::secrets_are_written_by_each_side_that_allows_it_and_by_no_other";
    let mut writing = again(test, "");
    let output = writing.env(KEY_LOG, folder.join("secrets")).output().expect("it can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

const KEY_LOG: &str = "SSLKEYLOGFILE";

fn write_secrets() {
    let (world, file) = (World::new(), std::env::var(KEY_LOG).expect("it was set"));
    // There is no file until a side may write.
    let lines = || std::fs::read_to_string(&file).map_or(0, |text| text.lines().count());
    let written = |by_server, by_client| {
        let (mut server, mut client, before) = (world.server(), world.client(), lines());
        if by_server {
            server = server.allow_key_log();
        }
        if by_client {
            client = client.allow_key_log();
        }
        let met = meet(&server, &client);
        assert!(met.is_ok(), "{met:?}");
        lines() - before
    };
    assert_eq!(written(false, false), 0);
    let (server, client) = (written(true, false), written(false, true));
    assert!(server >= 5 && client >= 5, "{server} and {client} secrets");
    assert_eq!(written(true, true), server + client);
    assert_eq!(written(false, false), 0);
}
