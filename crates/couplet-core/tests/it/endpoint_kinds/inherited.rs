//! `fd:` with sockets of this process. The program's tests cover `systemd:` and other processes.

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;

use couplet::endpoints::{EndpointError, FdServer, SystemdServer, take_passed};
use couplet::{Cluster, Loop};

use super::{Echo, ask};
use crate::apart;
use crate::needed::{Folder, inheritable, loopbacks};

#[test]
fn c145_fd_listens_on_an_inherited_socket_again_and_again() {
    let folder = Folder::new();
    let path = folder.path("socket");
    let (tcp, unix) =
        (TcpListener::bind("127.0.0.1:0").unwrap(), UnixListener::bind(&path).unwrap());
    let tcp_at = format!("tcp:{}", tcp.local_addr().unwrap());
    let unix_at = format!("unix:{path}");
    let mut l = Loop::new().unwrap();
    for (number, at) in [(inheritable(&tcp), tcp_at), (inheritable(&unix), unix_at)] {
        for _ in 0..2 {
            let port = l.reactor().listen(format!("fd:{number}"), Echo::default).unwrap();
            assert_eq!(port.to_string(), at);
            assert_eq!(ask(&mut l, &at).unwrap(), b"hello");
            let stopping = port.stop_listening().expect("it listens");
            l.run_until(stopping).unwrap();
        }
        let port = l.reactor().listen(format!("haproxy:fd:{number}"), Echo::default).unwrap();
        assert_eq!(ask(&mut l, format!("haproxy:{at}")).unwrap(), b"hello");
        l.run_until(port.stop_listening().expect("it listens")).unwrap();
    }
    assert!(tcp.local_addr().is_ok(), "the socket itself stays open");
}

#[test]
fn a_shared_port_of_an_inherited_socket_listens_again_after_all_loops_have_stopped() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let shared = Cluster::new(2).bind(format!("fd:{}", inheritable(&tcp))).unwrap();
    let mut l = Loop::new().unwrap();
    for _ in 0..2 {
        let port = shared.listen(&l.reactor(), Echo::default).unwrap();
        assert_eq!(ask(&mut l, shared.host().to_string()).unwrap(), b"hello");
        l.run_until(port.stop_listening().expect("it listens")).unwrap();
    }
}

#[test]
fn c145_fd_requires_an_inherited_listening_stream_socket() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let file = std::fs::File::open("/dev/null").unwrap();
    let own = TcpListener::bind("127.0.0.1:0").unwrap();
    let l = Loop::new().unwrap();
    for (number, problem) in [
        (inheritable(&connected), "not a listening stream socket"),
        (inheritable(&udp), "not a listening stream socket"),
        (inheritable(&file), "ocket"),
        (own.as_raw_fd(), "it was not inherited, but opened by this program"),
        (i32::MAX - 1, "ad file descriptor"),
    ] {
        let error = l.reactor().listen(FdServer::new(number), Echo::default).unwrap_err();
        let error = error.downcast_ref::<EndpointError>().expect("an error with a place");
        assert!(error.problem().contains(&format!("cannot use descriptor {number}: ")), "{error}");
        assert!(error.problem().contains(problem), "{error}");
        let text = format!("log:fd:{number}");
        let error = l.reactor().listen(&text, Echo::default).unwrap_err();
        let error = error.downcast_ref::<EndpointError>().expect("an error with a place");
        assert_eq!(error.at(), 7, "{error}");
    }
}

/// Runs a test again in an environment for passed sockets.
fn again_in(environment: &str, test: &str, told: &str) {
    let script = format!("unset LISTEN_FDS LISTEN_PID; export {environment}; exec \"$@\"");
    let ended = apart::again_by(&["/bin/sh", "-c", &script, "sh"], test, told).output();
    let ended = ended.expect("it starts");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{environment}: {said}");
}

#[test]
fn the_domain_of_a_passed_socket_must_match_for_a_loop_and_for_a_cluster() {
    let test = "endpoint_kinds::inherited::\
                the_domain_of_a_passed_socket_must_match_for_a_loop_and_for_a_cluster";
    if let Some(told) = apart::told() {
        let (index, matching) = told.split_once(' ').expect("an index and a domain");
        let l = Loop::new().unwrap();
        for domain in ["INET", "INET6", "UNIX"] {
            let text = format!("systemd:domain={domain}:index={index}");
            let listening = l.reactor().listen(&text, Echo::default).map(drop);
            for bound in [listening, Cluster::new(2).bind(&text).map(drop)] {
                let error = bound.map_err(|error| error.to_string()).err();
                let of_domain = format!("is not a socket of the domain {domain}\n    {text}");
                assert_eq!(error.is_none(), domain == matching, "{text}: {error:?}");
                assert!(error.is_none_or(|error| error.contains(&of_domain)), "{text}");
            }
        }
        return;
    }
    let folder = Folder::new();
    let tcp: Vec<_> = loopbacks().iter().map(|ip| TcpListener::bind((*ip, 0)).unwrap()).collect();
    let unix = UnixListener::bind(folder.path("socket")).unwrap();
    let of_tcp = tcp.iter().map(inheritable).zip(["INET", "INET6"]);
    for (number, domain) in of_tcp.chain([(inheritable(&unix), "UNIX")]) {
        // The first passed socket has the number 3.
        let index = number - 3;
        let environment = format!("LISTEN_FDS={} LISTEN_PID=$$", index + 1);
        again_in(&environment, test, &format!("{index} {domain}"));
    }
}

#[test]
fn sockets_that_the_init_system_passed_to_another_process_are_not_used() {
    let test = "endpoint_kinds::inherited::\
                sockets_that_the_init_system_passed_to_another_process_are_not_used";
    if let Some(problem) = apart::told() {
        let l = Loop::new().unwrap();
        let error = l.reactor().listen(SystemdServer::at(7), Echo::default).unwrap_err();
        let error = error.downcast_ref::<EndpointError>().expect("an error with a place");
        return assert!(error.problem().contains(&problem), "{error}");
    }
    for (environment, problem) in [
        // The test replaces the shell and keeps its process ID.
        ("LISTEN_FDS=7 LISTEN_PID=$$", "has passed 7 sockets"),
        ("LISTEN_FDS=8 LISTEN_PID=$PPID", "to another process"),
        ("LISTEN_FDS=8 LISTEN_PID=1", "to another process"),
        ("LISTEN_FDS=8 LISTEN_PID=", "LISTEN_PID is not a number"),
        ("LISTEN_FDS=8", "LISTEN_PID is not set"),
        ("LISTEN_PID=$$", "LISTEN_FDS is not set"),
        ("LISTEN_FDS=-1 LISTEN_PID=$$", "LISTEN_FDS is not a number"),
        ("LISTEN_FDS=4294967295 LISTEN_PID=$$", "LISTEN_FDS is too large"),
    ] {
        again_in(environment, test, problem);
    }
}

#[test]
fn passed_descriptors_are_taken_once_by_the_prefix_of_their_names() {
    const COUNT: i32 = 5000;
    let test = "endpoint_kinds::inherited::\
                passed_descriptors_are_taken_once_by_the_prefix_of_their_names";
    if let Some(told) = apart::told() {
        let taken = take_passed("kept-");
        let seen = taken.iter().map(|(name, it)| format!("{name}={}", it.as_raw_fd()));
        assert_eq!(seen.collect::<Vec<_>>().join(" "), told);
        assert!(take_passed("kept-").is_empty());
        // The others are where they were.
        let l = Loop::new().unwrap();
        l.reactor().listen("systemd:other", Echo::default).unwrap();
        return;
    }
    let sockets = [(); 4].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let mut names = vec!["unknown"; COUNT as usize];
    let mut expected = Vec::new();
    // The second is not open in the other process.
    for (socket, name) in sockets.iter().zip(["kept-b", "kept-none", "kept-a", "other"]) {
        let number = if name == "kept-none" { socket.as_raw_fd() } else { inheritable(socket) };
        names[number as usize - 3] = name;
        expected.extend((name != "kept-none" && name != "other").then_some((number, name)));
    }
    expected.sort_unstable();
    let expected: Vec<_> = expected.iter().map(|(at, name)| format!("{name}={at}")).collect();
    let names = names.join(":");
    let environment = format!("LISTEN_FDS={COUNT} LISTEN_PID=$$ LISTEN_FDNAMES={names}");
    again_in(&environment, test, &expected.join(" "));
}
