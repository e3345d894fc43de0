//! Connections over TLS in a restart: they can't move, so they stay in the old process.

use super::reload::{TlsEcho, tls_echo};
use super::restart::{Restarted, services};
use super::{POEM, Program, echo, folder_with_poem, poet};
use crate::kit::{Client, wait_until};
use crate::tls::certificate;

const LISTEN: &str = "tls:127.0.0.1:0:cert=cert.pem";

fn start(all: &[String], more: &str) -> Restarted {
    let folder = folder_with_poem();
    folder.write("cert.pem", std::fs::read(certificate().path()).unwrap());
    Restarted(Program::start_with(folder, &services(all, more), &[]))
}

#[test]
fn a_poem_over_tls_is_finished_by_the_old_process() {
    needs!("openssl");
    let poet = poet(0.3, 9.0).replace("listen = \"0\"", &format!("listen = \"{LISTEN}\""));
    let mut program = start(&[poet], "drain = 0.1\nrestart-drain = 20");
    let port = program.wrapped_port();
    let mut reader = tls_echo(port);
    assert_eq!(reader.read_exact(5), &POEM[..5]);
    program.restart();
    assert_eq!(program.generations(), (2, 1));
    assert_eq!(reader.read_to_close(), &POEM[5..]);
    wait_until("the end of the first", || !program.is_running());
    assert_eq!(program.wrapped_port(), port);
    assert_eq!(tls_echo(port).read_to_close(), POEM);
    program.stop();
}

#[test]
fn an_echo_over_tls_is_closed_by_the_old_process() {
    needs!("openssl");
    let mut program = start(&[echo("a", LISTEN, "")], "restart-drain = 20");
    let port = program.wrapped_port();
    let mut clients = [tls_echo(port), tls_echo(port)];
    clients.iter_mut().for_each(|client| client.say("one"));
    program.restart();
    for client in clients {
        assert!(client.read_to_close().is_empty());
    }
    wait_until("the end of the first", || !program.is_running());
    tls_echo(port).say("two");
    program.stop();
}

#[test]
fn c105f_the_first_request_of_a_new_client_is_answered_by_the_old_process() {
    needs!("openssl");
    let folder = folder_with_poem();
    folder.write("cert.pem", std::fs::read(certificate().path()).unwrap());
    let site = format!("[services.s]\nkind = \"serve\"\nfolder = \".\"\nlisten = \"{LISTEN}\"\n");
    let by_name = format!("listen = \"{LISTEN}\"\nby-name = true");
    let poet = poet(0.0, 9.0).replace("listen = \"0\"", &by_name);
    let proxied = echo("p", "haproxy:tcp:0:interface=127.0.0.1", "");
    // In the order of the printed ports: by name.
    let all = [echo("a", LISTEN, ""), proxied, poet, site];
    let text = services(&all, "restart-drain = 90\ngenerations = 9");
    let program = Restarted(Program::start_with(folder, &text, &[]));
    let ports = all.each_ref().map(|_| program.wrapped_port());
    let [echo, proxied, poet, site] = ports;
    for _ in 0..3 {
        let mut clients = [site, site, poet, echo].map(tls_echo);
        let mut header = Client::connect(proxied);
        clients.iter_mut().for_each(TlsEcho::wait_open);
        program.restart();
        for _ in &ports {
            program.server.line();
        }
        let [mut web, mut late, mut lines, mut bytes] = clients;
        late.send("GET /poem HTTP/1.1\r");
        lines.send("poem");
        bytes.send("hello");
        web.send("GET /poem HTTP/1.1\r\nHost: localhost\r\n\r");
        late.send("Host: localhost\r\n\r");
        header.send(b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\nhello");
        for client in [web, late] {
            let got = client.read_to_close();
            assert!(got.starts_with(b"HTTP/1.1 200") && got.ends_with(POEM), "{got:?}");
        }
        assert_eq!(lines.read_to_close(), [b"poem 25 poem\r\n", POEM].concat());
        assert_eq!(bytes.read_to_close(), b"hello\n");
        assert_eq!(header.read_exact(5), b"hello");
    }
    program.stop();
}

#[test]
fn an_unfinished_answer_over_tls_is_closed_after_the_drain_of_a_restart() {
    needs!("openssl");
    let by_name = format!("listen = \"{LISTEN}\"\nby-name = true");
    let poet = poet(60.0, 9.0).replace("listen = \"0\"", &by_name);
    let mut program = start(&[poet], "drain = 60\nrestart-drain = 3");
    let port = program.wrapped_port();
    let mut reader = tls_echo(port);
    let beginning = b"poem 25 poem\r\n12345";
    reader.send("poem");
    assert_eq!(reader.read_exact(beginning.len()), beginning);
    program.restart();
    assert_eq!(program.generations(), (2, 1));
    assert!(reader.read_to_close().is_empty());
    wait_until("the end of the first", || !program.is_running());
    let mut next = tls_echo(port);
    next.send("poem");
    assert_eq!(next.read_exact(beginning.len()), beginning);
    program.stop();
}
