//! Row 64: the effect of options on the system's socket. The tests inspect the library's
//! own socket through a duplicate descriptor.
#![cfg(target_os = "linux")]

use std::io::Write;
use std::os::fd::RawFd;
use std::time::Duration;

use couplet::transport::SockRef;
use couplet::{ConnectOptions, ListenOptions, SocketOption, Transport, hooks};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use socket2::Socket;

use crate::logged::logged;
use crate::suite::kit::{BOTH_ROLES, Kit, LOOPBACK, Rig};
use crate::suite::recorder::{A, Script};

/// A duplicate of a connection's socket. `None` where the system does not allow one.
fn socket_of(transport: &Transport) -> Option<Socket> {
    let socket = duplicate(hooks::descriptor(transport))?;
    let peer = socket.peer_addr().expect("it is connected").as_socket();
    assert_eq!(peer, transport.peer().socket_addr());
    Some(socket)
}

/// A duplicate of a socket of the library. `None` where the system does not allow one: a visible
/// skip, and an error in CI.
pub(super) fn duplicate(descriptor: Option<RawFd>) -> Option<Socket> {
    let number = descriptor.expect("the driver has sockets");
    let doubled = pidfd_open(getpid(), PidfdFlags::empty())
        .and_then(|pidfd| pidfd_getfd(pidfd, number, PidfdGetfdFlags::empty()));
    match doubled {
        Ok(fd) => Some(Socket::from(fd)),
        Err(error @ (Errno::PERM | Errno::NOSYS)) => {
            assert!(std::env::var_os("CI").is_none(), "no duplicate descriptor in CI: {error}");
            // Not with `eprintln`, which the harness captures when a test passes.
            let _ = writeln!(std::io::stderr(), "skipped: pidfd_getfd is not allowed: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// A server and its client, joined with these options.
fn joined(rig: &mut Rig, listen: ListenOptions, connect: ConnectOptions) -> [A; 2] {
    let (server, client) = (rig.end(), rig.end());
    let port = rig.reactor.listen((LOOPBACK, listen), server.once(Script::new()));
    let to = port.expect("a free port can be opened").host().port().expect("a number");
    hooks::connector(&rig.reactor, ("127.0.0.1", to), connect, client.once(Script::new()));
    rig.until("connection_made", || server.is_made() && client.is_made());
    [server, client]
}

#[test]
fn c64_c64c_an_option_reaches_the_socket() {
    let mut rig = Kit::mio().rig();
    for role in BOTH_ROLES {
        let (a, _b) = rig.pair(role, Script::new());
        let transport = a.transport();
        let Some(socket) = socket_of(&transport) else { return };
        for on in [false, true] {
            transport.set_option(SocketOption::NoDelay(on));
            rig.turn();
            assert_eq!(socket.tcp_nodelay().expect("an option"), on);
        }
        assert!(socket.keepalive().expect("an option"));
        assert_eq!(socket.tcp_keepalive_time().expect("an option"), Duration::from_secs(60));
        assert_eq!(socket.tcp_keepalive_interval().expect("an option"), Duration::from_secs(15));
        for idle in [3600, 60, 8].map(Duration::from_secs) {
            transport.set_option(SocketOption::KeepAlive(Some(idle)));
            rig.turn();
            assert!(socket.keepalive().expect("an option"));
            assert_eq!(socket.tcp_keepalive_time().expect("an option"), idle);
            assert_eq!(socket.tcp_keepalive_interval().expect("an option"), idle / 4);
        }
        transport.set_option(SocketOption::KeepAlive(None));
        rig.turn();
        assert!(!socket.keepalive().expect("an option"));
        #[cfg(target_os = "linux")]
        {
            socket.set_tcp_quickack(false).expect("an option");
            assert!(!socket.tcp_quickack().expect("an option"));
            transport.set_option(SocketOption::Acknowledge);
            rig.turn();
            assert!(socket.tcp_quickack().expect("an option"));
        }
        // Linux doubles the requested size.
        for bytes in [32 * 1024, 64 * 1024] {
            transport.set_option(SocketOption::ReceiveBuffer(bytes));
            rig.turn();
            assert_eq!(socket.recv_buffer_size().expect("an option"), 2 * bytes);
            transport.set_option(SocketOption::SendBuffer(bytes + 1024));
            rig.turn();
            assert_eq!(socket.send_buffer_size().expect("an option"), 2 * (bytes + 1024));
            assert_eq!(socket.recv_buffer_size().expect("an option"), 2 * bytes);
        }
    }
}

#[test]
fn c64a_an_error_or_a_panic_in_prepare_fails_the_listen_or_the_connect() {
    let mut rig = Kit::mio().rig();
    let errors: [fn(SockRef<'_>) -> std::io::Result<()>; 2] =
        [|_| Err(std::io::Error::other("by wish")), |_| panic!("by wish")];
    for prepare in errors {
        let (_, lines) = logged(|| {
            let a = rig.end();
            let options = ListenOptions::default().prepare(prepare);
            let port = rig.reactor.listen((LOOPBACK, options), a.once(Script::new()));
            port.map(drop).expect_err("it is not prepared");
            let options = ConnectOptions::default().prepare(prepare);
            let port = rig.peer_port().address().port().expect("TCP");
            let maker = a.maker(Script::new());
            hooks::connector(&rig.reactor, ("127.0.0.1", port), options, maker);
            rig.until("the failure", || a.log.has("client_connection_failed"));
        });
        assert!(lines.iter().all(|line| line.contains("by wish")), "{lines:?}");
    }
    rig.still_echoes();
}

#[test]
fn c64a_an_error_or_a_panic_in_with_socket_is_logged() {
    let (mut rig, a, b) = Kit::mio().accept(Script::new());
    let ((), lines) = logged(|| {
        a.transport().with_socket(|_| Err(std::io::Error::other("an error by wish")));
        a.transport().with_socket(|_| panic!("a panic by wish"));
        rig.turns(2);
    });
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains("an error by wish") && lines[1].contains("a panic by wish"));
    rig.sends(&a, &b, b"x");
}

#[test]
fn c64c_ports_and_connects_have_keep_alive_probes_of_their_options() {
    for silence in [None, Some(1), Some(2), Some(60), Some(3600)] {
        let silence = silence.map(Duration::from_secs);
        let mut rig = Kit::mio().rig();
        let listen = ListenOptions::default().keep_alive(silence);
        let connect = ConnectOptions::default().keep_alive(silence);
        for end in joined(&mut rig, listen, connect) {
            let Some(socket) = socket_of(&end.transport()) else { return };
            assert_eq!(socket.keepalive().expect("an option"), silence.is_some());
            let Some(silence) = silence else { continue };
            assert_eq!(socket.tcp_keepalive_time().expect("an option"), silence);
            let again = (silence / 4).max(Duration::from_secs(1));
            assert_eq!(socket.tcp_keepalive_interval().expect("an option"), again);
        }
    }
}
