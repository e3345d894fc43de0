//! SIGHUP: the configuration is read again, and only changed services are touched.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use super::{FILE, Program, echo, echoes, is_refused};
use crate::kit::{Client, TempFile, wait_until};
use crate::needed::Folder;
use crate::tls::certificate;

const PROCESS: &str = "[runner]\ncontrol = \"ctl\"\nlog-level = \"info\"\n";

/// A configuration of these services.
fn services(services: &[String]) -> String {
    services.concat() + PROCESS
}

fn a() -> String {
    echo("a", "0", "")
}

#[test]
fn a_changed_service_starts_again_and_the_others_notice_nothing() {
    let mut program = Program::start(&services(&[a(), echo("b", "0", "")]));
    let port = program.port("a");
    let mut unchanged = Client::connect(port);
    echoes(&mut unchanged);
    let mut changed = program.connect("b");
    program.reload(&services(&["# words\n".to_owned(), a(), echo("b", "0", "idle-timeout = 9")]));
    program.connect("b");
    program.wait_told("reloaded: 1 services changed, 0 added, 0 removed");
    assert!(changed.read_to_end().unwrap().is_empty());
    echoes(&mut unchanged);
    echoes(&mut Client::connect(port));
    assert_eq!(program.stop(Signal::TERM).text(), "");
}

#[test]
fn a_removed_service_takes_the_file_of_its_socket_with_it() {
    let both = services(&[a(), echo("b", "unix:b.sock", "")]);
    let mut program = Program::start(&both);
    program.port("a");
    let file = program.folder.path("b.sock");
    wait_until("its file", || Path::new(&file).exists());
    program.reload(&services(&[a()]));
    program.wait_told("reloaded: 0 services changed, 0 added, 1 removed");
    assert!(!Path::new(&file).exists());
    program.reload(&both);
    program.wait_told("reloaded: 0 services changed, 1 added, 0 removed");
    assert!(Path::new(&file).exists());
    assert_eq!(program.stop(Signal::TERM).code, Some(0));
}

#[test]
fn a_port_in_use_changes_nothing() {
    // No other test gets these addresses when they are free again.
    let held = TcpListener::bind("127.0.71.1:0").unwrap();
    let held_udp = UdpSocket::bind("127.0.71.1:0").unwrap();
    let (tcp, udp) = (held.local_addr().unwrap(), held_udp.local_addr().unwrap());
    let udp = format!("udp:{}:interface={}", udp.port(), udp.ip());
    let folder = Folder::new();
    let _held_unix = UnixListener::bind(folder.path("taken.sock")).unwrap();
    for threads in [1, 2] {
        let services = |of: &[String]| services(of) + &format!("threads = {threads}\n");
        let before = [a(), echo("b", "0", ""), echo("c", "unix:c.sock", "")];
        let program = Program::start(&services(&before));
        let mut clients = [program.connect("a"), program.connect("b")];
        let names = program.folder.names();
        for taken in [&tcp.to_string(), &udp, &format!("unix:{}", folder.path("taken.sock"))] {
            let changed = [a(), echo("b", taken, ""), echo("d", "unix:d.sock", "")];
            let added = [a(), echo("c", "unix:e.sock", ""), echo("new", taken, "")];
            for (services, name) in [(services(&changed), "b"), (services(&added), "new")] {
                let answer = program.reload_by_ctl(&services);
                assert_eq!(answer.code, Some(1), "{}", answer.stderr);
                let words = format!("service {name}: cannot listen on ");
                assert!(answer.stderr.contains(&words), "{}", answer.stderr);
                clients.iter_mut().for_each(echoes);
                assert_eq!(program.folder.names(), names);
            }
        }
        assert!(!program.told().contains("service stopped"), "{}", program.told());
        assert_eq!(program.stop(Signal::TERM).code, Some(0));
    }
}

#[test]
fn a_new_service_gets_the_port_of_one_that_is_removed() {
    let program = Program::start(&services(&[echo("b", "tcp:0:interface=127.0.0.1", "")]));
    let port = program.port("b");
    let other = format!("127.0.71.3:{}", port.port());
    let new = [echo("c", &port.to_string(), ""), echo("d", &other, "")];
    let answer = program.reload_by_ctl(&services(&new));
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    echoes(&mut Client::connect(port));
    echoes(&mut Client::connect(other.parse().unwrap()));
}

#[test]
fn services_that_cannot_start_run_with_their_old_configurations_each_time() {
    let held = ["127.0.72.6:0", "127.0.72.7:0"].map(|at| TcpListener::bind(at).unwrap());
    let taken = held.each_ref().map(|held| held.local_addr().unwrap());
    let old = [(8, taken[0]), (9, taken[1])];
    let old = old.map(|(ip, at)| SocketAddr::from(([127, 0, 72, ip], at.port())));
    let config = |[b, c]: [SocketAddr; 2], d: &str| {
        let changed = [("b", b), ("c", c)].map(|(name, at)| echo(name, &at.to_string(), ""));
        services(&[a(), changed.concat(), d.to_owned()])
    };
    let program = Program::start(&config(old, ""));
    let mut unchanged = program.connect("a");
    assert_eq!(["b", "c"].map(|name| program.port(name)), old);
    let mut added = None;
    for _ in 0..2 {
        let answer = program.reload_by_ctl(&config(taken, &echo("d", "0", "")));
        assert_eq!(answer.code, Some(1), "{}", answer.stderr);
        for name in ["b", "c"] {
            let words = format!("{name} runs with its old configuration");
            assert!(answer.stderr.contains(&words), "{}", answer.stderr);
        }
        assert_eq!(["b", "c"].map(|name| program.port(name)), old);
        old.iter().for_each(|port| echoes(&mut Client::connect(*port)));
        echoes(added.get_or_insert_with(|| program.connect("d")));
        echoes(&mut unchanged);
    }
    drop(held);
    let answer = program.reload_by_ctl(&config(taken, ""));
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    assert_eq!(["b", "c"].map(|name| program.port(name)), taken);
    taken.iter().for_each(|port| echoes(&mut Client::connect(*port)));
    assert!(old.into_iter().all(is_refused));
    echoes(&mut unchanged);
    assert_eq!(program.stop(Signal::TERM).code, Some(0));
}

#[test]
fn a_service_that_fails_in_a_reload_leaves_the_changes_of_others_complete() {
    let held = TcpListener::bind("127.0.71.6:0").unwrap();
    let taken = held.local_addr().unwrap();
    let old = format!("127.0.71.7:{}", taken.port());
    let changing = |number: u32| echo("c", "0", &format!("idle-timeout = {number}"));
    let text = |services: &[String]| services.concat() + PROCESS;
    let before = [a(), echo("b", &old, ""), changing(100), echo("e", "0", "")];
    let program = Program::start(&text(&before));
    let mut unchanged = program.connect("a");
    program.port("b");
    let (changed, mut removed) = (program.port("c"), program.port("e"));
    // Again, in one process.
    for (number, name) in [(200, "d"), (300, "e"), (400, "d")] {
        let new = [a(), echo("b", &taken.to_string(), ""), changing(number), echo(name, "0", "")];
        let answer = program.reload_by_ctl(&text(&new));
        assert_eq!(answer.code, Some(1), "{number}");
        for words in ["b runs with its old configuration", &taken.to_string()] {
            assert!(answer.stderr.contains(words), "{words}: {}", answer.stderr);
        }
        assert_eq!(program.port("b").to_string(), old);
        assert_eq!(program.port("c"), changed, "it keeps its socket");
        let added = program.port(name);
        assert!(is_refused(removed), "{number}");
        removed = added;
        echoes(&mut unchanged);
        for port in [changed, added, old.parse().unwrap()] {
            echoes(&mut Client::connect(port));
        }
        // Each service has the configuration that it runs with: nothing is left to change.
        let kept = [a(), echo("b", &old, ""), changing(number), echo(name, "0", "")];
        let answer = program.reload_by_ctl(&text(&kept));
        assert_eq!(answer.code, Some(0), "{}", answer.stderr);
        let words = "0 services changed, 0 added, 0 removed";
        assert!(answer.text().contains(words), "{}", answer.text());
    }
    drop(held);
    let new = [a(), echo("b", &taken.to_string(), ""), changing(400), echo("d", "0", "")];
    assert_eq!(program.reload_by_ctl(&text(&new)).code, Some(0));
    echoes(&mut Client::connect(taken));
    assert!(is_refused(old.parse().unwrap()));
    assert_eq!(program.stop(Signal::TERM).code, Some(0));
}

#[test]
fn a_service_moves_to_an_address_that_overlaps_its_old_one() {
    // Other tests' sockets with a port from the ephemeral range, on any address, would be in the
    // way of 0.0.0.0.
    let free = |port: &u16| TcpListener::bind(("0.0.0.0", *port)).is_ok();
    let port = (10_000..20_000).find(free).unwrap();
    let program = Program::start(&services(&[echo("b", &format!("127.0.0.1:{port}"), "")]));
    let old = program.port("b");
    let all = format!("0.0.0.0:{port}");
    let answer = program.reload_by_ctl(&services(&[echo("b", &all, "")]));
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    assert_eq!(program.port("b").to_string(), all);
    echoes(&mut Client::connect(old));
}

#[test]
fn limits_of_all_loops_change_with_a_reload() {
    let text = |limit: &str| services(&[a()]) + &format!("threads = 2\n{limit}");
    let program = Program::start(&text(""));
    let port = program.port("a");
    let mut clients: Vec<Client> = (0..3).map(|_| Client::connect(port)).collect();
    clients.iter_mut().for_each(echoes);
    // Those beyond the limit stay, and the next one waits.
    let answer = program.reload_by_ctl(&text("max-connections = 2\n"));
    assert_eq!(answer.text().trim(), "0 services changed, 0 added, 0 removed");
    let mut waiting = Client::connect(port);
    waiting.send(b"x");
    clients.drain(..2).for_each(Client::reset);
    assert_eq!(waiting.read_exact(1), b"x");
    let why = "2 threads need a max-connections of 2 at least";
    program.reload_by_ctl(&text("max-connections = 1\n")).says(1, why);
    let all = (0..3).map(|_| Client::connect(port)).collect::<Vec<_>>();
    assert_eq!(program.reload_by_ctl(&text("")).code, Some(0));
    all.into_iter().for_each(|mut client| echoes(&mut client));
}

#[test]
#[ignore = "measures; run it alone"]
fn reloads_leak_neither_descriptors_nor_memory() {
    let config = |seconds| {
        let more = format!("idle-timeout = {seconds}");
        services(&[a(), echo("b", "unix:b", &more)])
    };
    let mut program = Program::start(&config(1));
    let mut open = program.connect("a");
    for number in 2..=50 {
        reload_and_wait(&mut program, &config(number), number - 1);
    }
    let (descriptors, memory) = (program.server.descriptors(), program.server.memory());
    for number in 51..=250 {
        reload_and_wait(&mut program, &config(number), number - 1);
    }
    wait_until("descriptors", || program.server.descriptors() == descriptors);
    let more = program.server.memory().saturating_sub(memory);
    assert!(more < 500, "{more} KiB more than {memory}");
    echoes(&mut open);
    assert_eq!(program.stop(Signal::TERM).code, Some(0));
}

/// Reloads, and waits for the `number`th reload of a service.
fn reload_and_wait(program: &mut Program, text: &str, number: usize) {
    program.reload(text);
    wait_until("a reload", || {
        program.told().matches("reloaded: 1 services changed").count() == number
    });
}

#[test]
fn a_certificate_that_cannot_be_read_again_changes_no_level_of_the_log() {
    let folder = Folder::new();
    folder.write("cert.pem", std::fs::read(certificate().path()).unwrap());
    let text = |level: &str| {
        let tls = echo("a", "tls:127.0.0.1:0:cert=cert.pem", "");
        format!("{tls}[runner]\ncontrol = \"ctl\"\nlog-level = \"{level}\"\n")
    };
    let program = Program::start_with(folder, &text("error"), &[]);
    program.server.line();
    program.folder.write("cert.pem", "none");
    let refused = program.reload_by_ctl(&text("debug"));
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    program.ctl(&["status"]).quietly(0);
    assert!(!program.told().contains("DEBUG"), "{}", program.told());
}

/// The certificate that a server shows, as OpenSSL prints it.
fn shown_certificate(port: SocketAddr) -> Vec<u8> {
    let to = port.to_string();
    let mut openssl = Command::new("openssl");
    openssl.args(["s_client", "-connect", &to, "-servername", "localhost", "-showcerts"]);
    let shown = openssl.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    let begin = text.find("-----BEGIN").unwrap_or_else(|| panic!("no certificate: {text}"));
    text.as_bytes()[begin..text.rfind("-----END").unwrap()].to_vec()
}

#[test]
fn new_certificates_are_shown_and_connections_notice_nothing() {
    needs!("openssl");
    let folder = Folder::new();
    let install = |folder: &Folder, file: &TempFile| {
        folder.write("cert.pem", std::fs::read(file.path()).unwrap());
    };
    let certificates = [certificate(), certificate()];
    install(&folder, &certificates[0]);
    let text = echo("a", "throttle:tls:127.0.0.1:0:cert=cert.pem:read=1M", "") + PROCESS;
    let program = Program::start_with(folder, &text, &[]);
    let line = program.server.line();
    let port: SocketAddr = line.rsplit("tls:").next().unwrap().trim().parse().expect(&line);
    let first = shown_certificate(port);
    // The handshake ends before the reload, with the old certificate.
    let mut open = tls_echo(port);
    open.say("one");
    // A wrong file changes nothing.
    program.folder.write("cert.pem", "nonsense");
    program.reload_by_ctl(&text).says(1, "cert.pem");
    assert_eq!(shown_certificate(port), first);
    install(&program.folder, &certificates[1]);
    assert_eq!(program.reload_by_ctl(&text).text(), "0 services changed, 0 added, 0 removed\n");
    let second = shown_certificate(port);
    assert_ne!(second, first);
    open.say("two");
    // A service that is started again has the new one too.
    let changed = text.replace("listen", "idle-timeout = 9\nlisten");
    assert_eq!(program.reload_by_ctl(&changed).code, Some(0));
    assert_eq!(shown_certificate(port), second);
    drop(open);
    program.terminated();
}

/// A client of an echo over TLS.
pub(super) struct TlsEcho(Child);

pub(super) fn tls_echo(port: SocketAddr) -> TlsEcho {
    let mut openssl = Command::new("openssl");
    // With the alerts on stderr.
    openssl.args(["s_client", "-connect", &port.to_string(), "-quiet", "-state"]);
    openssl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    TlsEcho(openssl.spawn().unwrap())
}

impl TlsEcho {
    pub(super) fn say(&mut self, word: &str) {
        self.send(word);
        assert_eq!(self.read_exact(word.len() + 1), format!("{word}\n").as_bytes());
    }

    pub(super) fn send(&mut self, line: &str) {
        // At once, so that it leaves in one record.
        self.0.stdin.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    pub(super) fn read_exact(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.stdout.as_mut().unwrap().read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Waits for the end of the handshake.
    pub(super) fn wait_open(&mut self) {
        let (mut told, mut byte) = (Vec::new(), [0]);
        while !told.ends_with(b"write finished") {
            self.0.stderr.as_mut().unwrap().read_exact(&mut byte).unwrap();
            told.push(byte[0]);
        }
    }

    /// Reads to the end of the connection, which has to be a close_notify.
    pub(super) fn read_to_close(mut self) -> Vec<u8> {
        let (mut bytes, mut told) = (Vec::new(), String::new());
        self.0.stdout.as_mut().unwrap().read_to_end(&mut bytes).unwrap();
        self.0.stderr.as_mut().unwrap().read_to_string(&mut told).unwrap();
        assert!(told.contains("alert read:warning:close notify"), "{told}");
        bytes
    }
}

impl Drop for TlsEcho {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_configuration_that_became_a_pipe_blocks_neither_a_reload_nor_a_restart() {
    let text = services(&[a()]);
    let program = Program::start(&text);
    let mut client = program.connect("a");
    for _ in 0..2 {
        let file = program.folder.path(FILE);
        std::fs::remove_file(&file).unwrap();
        assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
        for order in ["reload", "restart"] {
            program.ctl(&[order]).says(1, "it is not a file");
            echoes(&mut client);
        }
        std::fs::remove_file(&file).unwrap();
        assert_eq!(program.reload_by_ctl(&text).code, Some(0));
    }
    assert_eq!(program.stop(Signal::TERM).code, Some(0));
}
