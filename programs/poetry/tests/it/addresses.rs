//! The clients' ways to name a server.

use crate::kit::{Server, TempFile, has_ipv6, run};
use crate::serve::poet;

#[test]
fn clients_reach_the_printed_address_of_a_server_on_all_interfaces() {
    if !has_ipv6() {
        return;
    }
    let (_poem, server) = poet(b"a poem\n", &["--delay", "0", "-l", ":0"]);
    let ended = run(&["get", &format!("tcp:{}", server.address())]);
    assert_eq!((ended.code, ended.text()), (Some(0), "a poem\n"), "{}", ended.stderr);
}

#[test]
#[cfg(target_os = "linux")]
fn a_scope_is_an_interface_number_or_name() {
    if !has_ipv6() {
        return;
    }
    let poem = TempFile::new(b"a poem\n");
    let args = ["serve", "--delay", "0", poem.path(), "--listen", "[::1%lo]:0"];
    let port = Server::start(&args).ports[0].port();
    for endpoint in ["[fe80::ffff%lo]:0", "[fe80::ffff%1]:0"] {
        let ended = run(&["serve", "--listen", endpoint]);
        // The address parses, but the system does not have it.
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        assert!(ended.stderr.contains("[fe80::ffff%1]:0: cannot assign"), "{}", ended.stderr);
    }
    let server = Server::start(&args);
    assert_ne!(port, 0);
    for scope in ["lo", "1"] {
        let address = format!("[::1%{scope}]:{}", server.ports[0].port());
        let ended = run(&["get", &address]);
        assert_eq!((ended.code, ended.text()), (Some(0), "a poem\n"), "{}", ended.stderr);
    }
    run(&["get", "[fe80::1%no such]:80"]).says(2, "no interface \"no such\"");
}

#[test]
fn a_timeout_may_be_the_longest_time_that_there_is() {
    let (_poem, server) = poet(b"a poem\n", &["--delay", "0"]);
    let most = u64::MAX.to_string();
    let address = format!("{}:timeout={most}", server.address());
    let ended = run(&["get", &address, "--timeout", &most]);
    assert_eq!((ended.code, ended.text()), (Some(0), "a poem\n"), "{}", ended.stderr);
    for args in [["1:timeout=18446744073709551616", "2"], ["--timeout=18446744073709551616", "1"]] {
        run(&[&["get"][..], &args].concat()).says(2, "18446744073709551615");
    }
}

#[test]
fn a_client_names_a_server_in_every_form() {
    let (_poem, server) = poet(b"a poem\n", &["--delay", "0"]);
    let port = server.ports[0].port();
    for address in [
        format!("{port}"),
        format!("127.0.0.1:{port}"),
        format!("localhost:{port}"),
        format!("tcp:127.0.0.1:{port}"),
        format!("tcp:host=127.0.0.1:port={port}"),
        format!(r"tcp:\127.0.0.1:{port}"),
        format!("tcp:127.0.0.1:{port}:timeout=5"),
    ] {
        let ended = run(&["get", &address]);
        assert_eq!((ended.code, ended.text()), (Some(0), "a poem\n"), "{address}");
    }
}

#[test]
fn an_ipv6_address_stands_in_brackets() {
    let poem = TempFile::new(b"a poem\n");
    let args = ["serve", "--delay", "0", poem.path(), "-l", "tcp:0:interface=[::1]"];
    if !has_ipv6() {
        return;
    }
    let server = Server::start(&args);
    let port = server.ports[0].port();
    assert_eq!(server.ports[0].to_string(), format!("[::1]:{port}"));
    for address in
        [format!("[::1]:{port}"), format!("tcp:[::1]:{port}"), format!(r"tcp:\:\:1:{port}")]
    {
        let ended = run(&["get", &address]);
        assert_eq!((ended.code, ended.text()), (Some(0), "a poem\n"), "{address}");
        let named = format!("tcp:[::1]:{port}: a poem of 7 bytes");
        assert!(ended.stderr.contains(&named), "{}", ended.stderr);
    }
}
