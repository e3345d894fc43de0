//! Listening addresses, their printed form, and the clients' ways to name them.

use rustix::process::Signal;

use crate::kit::{Client, Running, Server, couplet, has_ipv6, missing, run, wait_until};

#[test]
fn without_an_endpoint_a_server_takes_a_free_port_of_this_machine() {
    let (one, two) = (Server::start(&["echo"]), Server::start(&["echo"]));
    assert!(one.ports[0].ip().is_loopback() && one.ports[0].is_ipv4());
    assert_ne!(one.ports[0].port(), 0);
    assert_ne!(one.ports, two.ports);
}

#[test]
fn a_host_and_a_port_are_where_to_listen() {
    // A bare port listens only on this machine.
    for (endpoint, ip) in [
        ("0", "127.0.0.1"),
        ("localhost:0", "127.0.0.1"),
        ("127.0.0.1:0", "127.0.0.1"),
        ("[::1]:0", "::1"),
        (":0", "::"),
    ] {
        if ip.contains(':') && !has_ipv6() {
            continue;
        }
        let server = Server::start(&["echo", "--listen", endpoint]);
        assert_eq!(server.ports[0].ip().to_string(), ip, "{endpoint}");
        // A second server accepts the printed address as its endpoint, and finds the port in use.
        let named = format!("tcp:{}", server.address());
        let taken = format!("couplet: cannot listen on {named}: address already in use");
        run(&["echo", "--listen", &named]).says(1, &taken);
    }
}

#[test]
fn a_name_to_listen_on_is_refused_even_where_the_port_is_wrong_too() {
    for (endpoint, port_is_wrong, is_name) in [
        ("nohost:99999", true, true),
        ("tcp:99999:interface=nohost", true, true),
        ("127.0.0.1:99999", true, false),
        ("[::1]:99999", true, false),
        ("localhost:99999", true, false),
        (":99999", true, false),
        ("nohost:80", false, true),
    ] {
        let ended = run(&["echo", "--listen", endpoint]);
        assert_eq!(ended.code, Some(2), "{endpoint}");
        let says = |text| ended.stderr.contains(text);
        let is_right = says("expected a port number from 0 to 65535") == port_is_wrong;
        assert!(is_right, "{}", ended.stderr);
        let refused = if port_is_wrong {
            "in place of \"nohost\": a port cannot listen on a name"
        } else {
            "an interface is an IP address, such as 127.0.0.1, [::1] or 0.0.0.0, or localhost"
        };
        assert_eq!(says(refused), is_name, "{}", ended.stderr);
    }
}

#[test]
fn each_port_has_its_line_and_serves() {
    let args = ["echo", "--listen", "0", "-l", "0", "--listen", "tcp:0:interface=127.0.0.1"];
    let server = Server::start_command(couplet(&args), 3);
    for port in &server.ports {
        let mut client = Client::connect(*port);
        client.echoes(b"hello");
    }
    server.stop(Signal::TERM).prints("");
}

#[test]
fn all_interfaces_are_ipv6_and_ipv4() {
    let server = Server::start(&["echo", "--listen", "tcp:0"]);
    let port = server.ports[0].port();
    assert!(server.ports[0].ip().is_unspecified());
    let mut client = Client::connect(([127, 0, 0, 1], port).into());
    client.echoes(b"four");
    if server.ports[0].is_ipv4() {
        return missing("IPv6");
    }
    let mut client = Client::connect(format!("[::1]:{port}").parse().unwrap());
    client.echoes(b"six");
}

#[test]
fn a_port_in_use_is_named_and_no_other_port_is_printed() {
    let first = Server::start(&["echo"]);
    let taken = first.ports[0].port().to_string();
    let ended = run(&["echo", "--listen", "0", "--listen", &taken]);
    let expected = format!(
        "couplet: cannot listen on tcp:127.0.0.1:{taken}: address already in use \
         (something listens there already; choose another port, or 0 for a free one)\n"
    );
    assert_eq!((ended.code, ended.text(), &ended.stderr), (Some(1), "", &expected));
}

#[test]
fn a_port_is_free_again_as_soon_as_its_server_has_ended() {
    let first = Server::start(&["echo"]);
    let port = first.ports[0].port().to_string();
    let mut client = first.connect();
    client.echoes(b"x");
    first.stop(Signal::TERM).quietly(0);
    let second = Server::start(&["echo", "--listen", &port]);
    assert_eq!(second.ports[0].port().to_string(), port);
}

#[test]
fn a_server_with_a_closed_stdout_serves() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = couplet(&["echo", "-v"]);
    let running = Running::start_with_stdout(command.stdout(writer));
    // Only the log shows the port.
    let mut port = None;
    wait_until("a port in the log", || {
        let told = running.told();
        let at = told.find("tcp:127.0.0.1:").map(|at| &told[at + "tcp:".len()..]);
        port = at.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        port.is_some()
    });
    let mut client = Client::connect(port.unwrap());
    client.echoes(b"hello");
}

#[test]
fn a_stdout_that_is_full_is_an_error() {
    for args in [&["echo"][..], &["completions", "bash"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let ended = Running::start_with_stdout(couplet(args).stdout(full)).ended();
        assert_eq!(ended.code, Some(1), "{args:?}");
        let expected = "couplet: cannot write to stdout: no space left on device\n";
        assert_eq!(ended.stderr, expected, "{args:?}");
    }
}
