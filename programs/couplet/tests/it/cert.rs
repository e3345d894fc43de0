//! `couplet cert`, and TLS between two processes with its certificates.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::kit::{Ended, Server, couplet, peer, run};
use crate::needed::Folder;

const OURS: &str = env!("CARGO_BIN_EXE_couplet");

/// A folder that does not exist yet.
struct Certs(Folder);

impl Certs {
    fn new() -> Certs {
        Certs(Folder::new())
    }

    fn path(&self, name: &str) -> String {
        self.0.path(&format!("certs/{name}"))
    }
}

fn cert(folder: &Certs, rest: &[&str]) -> Ended {
    run(&[&["cert", &*folder.path("")], rest].concat())
}

fn mode(path: &str) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// The port in "listening on tls:127.0.0.1:PORT".
fn tls_port(server: &Server) -> u16 {
    let line = server.line();
    let port = line.strip_prefix("listening on tls:127.0.0.1:");
    port.unwrap_or_else(|| panic!("{line:?}")).parse().unwrap()
}

/// Asserts that a `couplet connect` does not succeed.
#[track_caller]
fn refused(to: &str) {
    run(&["connect", to]).says(1, "certificate");
}

#[test]
fn certificates_that_were_made_serve_an_echo_over_tls() {
    let folder = Certs::new();
    let ended = cert(&folder, &["localhost", "127.0.0.1", "::1", "localhost"]);
    ended.quietly(0);
    let (ca, site) = (folder.path("ca.pem"), folder.path("localhost"));
    for name in ["ca", "localhost", "127.0.0.1", "__1", "client"] {
        let (pem, key) = (folder.path(&format!("{name}.pem")), folder.path(&format!("{name}.key")));
        assert_eq!((mode(&pem) & 0o600, mode(&key)), (0o600, 0o600), "{name}");
        assert!(ended.text().contains(&format!("{pem} and {key}: ")), "{}", ended.text());
    }
    assert!(ended.text().contains("For tests only"));
    // Runs the two commands that `couplet cert` prints, on a free port.
    let endpoint = format!("tls:127.0.0.1:0:cert={site}.pem:key={site}.key");
    let shown = endpoint.replace("127.0.0.1:0", "7000");
    assert!(ended.text().contains(&format!("couplet echo --listen {shown}\n")), "{}", ended.text());
    let server = Server::start_command(couplet(&["echo", "--listen", &endpoint]), 0);
    let to = format!("tls:localhost:{}:ca={ca}", tls_port(&server));
    assert_eq!(peer(OURS, &["connect", &to], b"a line\n"), b"a line\n");
    // A certificate by another authority, or for another name, is refused.
    let other = Certs::new();
    cert(&other, &["localhost"]).quietly(0);
    refused(&to.replace(&ca, &other.path("ca.pem")));
    refused(&to.replace("localhost", "127.0.0.1"));
}

#[test]
fn a_server_that_wants_certificates_of_clients_gets_them() {
    let folder = Certs::new();
    cert(&folder, &["127.0.0.1"]).quietly(0);
    let (ca, site, client) =
        (folder.path("ca.pem"), folder.path("127.0.0.1"), folder.path("client"));
    let endpoint = format!("tls:127.0.0.1:0:cert={site}.pem:key={site}.key:client-ca={ca}");
    let server = Server::start_command(couplet(&["echo", "--listen", &endpoint]), 0);
    let to = format!("tls:127.0.0.1:{}:ca={ca}", tls_port(&server));
    let with = format!("{to}:cert={client}.pem:key={client}.key");
    assert_eq!(peer(OURS, &["connect", &with], b"a line\n"), b"a line\n");
    refused(&to);
    // The server's own certificate is not valid for a client.
    refused(&format!("{to}:cert={site}.pem:key={site}.key"));
}

#[test]
fn existing_files_are_replaced_only_with_force() {
    let folder = Certs::new();
    cert(&folder, &["localhost"]).quietly(0);
    let read = |name: &str| std::fs::read_to_string(folder.path(name)).unwrap();
    let before = read("ca.pem");
    cert(&folder, &["localhost"]).says(1, "ca.pem exists; --force replaces it");
    assert_eq!(read("ca.pem"), before);
    // All files are written, or none.
    std::fs::remove_file(folder.path("ca.pem")).unwrap();
    assert_eq!(cert(&folder, &["localhost"]).code, Some(1));
    assert!(!Path::new(&folder.path("ca.pem")).exists());
    // Programs that could read the old key cannot read the new one.
    let key = folder.path("localhost.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    cert(&folder, &["--force", "localhost"]).quietly(0);
    assert_eq!(mode(&key), 0o600);
    assert_ne!(read("ca.pem"), before);
}

#[test]
fn a_bad_name_or_folder_is_an_error() {
    let folder = Certs::new();
    for bad in ["a b", "", "../x", "ca"] {
        let ended = cert(&folder, &["localhost", bad]);
        assert_eq!(ended.code, Some(2), "{bad:?}: {}", ended.stderr);
        assert!(!folder.0.join("certs").exists());
    }
    assert_eq!(cert(&folder, &[]).code, Some(2));
    run(&["cert", "/dev/null/certs", "localhost"]).says(1, "cannot create /dev/null/certs: ");
}
