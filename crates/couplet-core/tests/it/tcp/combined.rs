//! Rows 49, 64, 64a and 161: the options of a port and of a connect, singly and in pairs, in each
//! family, read back from the system's sockets and files.
#![cfg(target_os = "linux")]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use couplet::testing::failure_of;
use couplet::transport::SockRef;
use couplet::{Address, ConnectError, ConnectOptions, ListenOptions, Port, UnixAddress, hooks};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, SockAddr, Socket, Type};

use super::options::duplicate;
use crate::needed::{Folder, has_ipv6};
use crate::suite::kit::{Kit, LOOPBACK, Rig, own_address};
use crate::suite::recorder::{A, Script};
use crate::unix::listening::others;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Ipv4,
    Ipv6,
    /// The IPv6 wildcard.
    Both,
    Unix,
}

use Family::{Both, Ipv4, Ipv6, Unix};

impl Family {
    fn domain(self) -> Domain {
        match self {
            Ipv4 => Domain::IPV4,
            Ipv6 | Both => Domain::IPV6,
            Unix => Domain::UNIX,
        }
    }

    /// An unused address.
    fn any(self, folder: &Folder) -> Address {
        match self {
            Ipv4 => LOOPBACK.into(),
            Ipv6 => SocketAddr::from((Ipv6Addr::LOCALHOST, 0)).into(),
            Both => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into(),
            Unix => UnixAddress::from(folder.join("port")).into(),
        }
    }
}

/// No value, each value, and each pair.
fn alone_and_in_pairs<T: Copy>(values: &[T]) -> Vec<Vec<T>> {
    let mut sets = vec![Vec::new()];
    for (at, first) in values.iter().enumerate() {
        sets.push(vec![*first]);
        sets.extend(values[at + 1..].iter().map(|second| vec![*first, *second]));
    }
    sets
}

/// An option of a port that is not at its default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PortOption {
    Backlog,
    Delay,
    Group,
    Ipv6Only,
    Mode,
    NoLock,
    NoReuse,
    Owner,
    Prepared,
    Shared,
}

use PortOption::{Backlog, Delay, Group, Ipv6Only, Mode, NoLock, NoReuse, Owner, Prepared, Shared};

const OF_PORTS: [PortOption; 10] =
    [Backlog, Delay, Group, Ipv6Only, Mode, NoLock, NoReuse, Owner, Prepared, Shared];

/// A mode with a bit that a later change of the owner would clear.
const MODE: u32 = 0o4600;

fn keep_alive(socket: SockRef<'_>) -> std::io::Result<()> {
    let at = socket.local_addr()?;
    assert!(at.as_socket().map_or(at.is_unnamed(), |at| at.port() == 0), "it is not bound yet");
    socket.set_keepalive(true)
}

fn options_of(set: &[PortOption]) -> ListenOptions {
    // The prepared ones turn it on.
    let none = ListenOptions::default().keep_alive(None);
    set.iter().fold(none, |options, option| match option {
        Backlog => options.backlog(0),
        Delay => options.no_delay(false),
        Group => options.group(others().1),
        Ipv6Only => options.dual_stack(false),
        Mode => options.mode(MODE),
        NoLock => options.lock_file(false),
        NoReuse => options.reuse_addr(false),
        Owner => options.owner(others().0),
        Prepared => options.prepare(keep_alive),
        Shared => options.reuse_port(true),
    })
}

/// Connects two clients without a turn of the loop, and asserts that the queue of the port has
/// room for the second one unless it holds a single connection.
fn fill(family: Family, port: &Port, has_room: bool) -> [Socket; 2] {
    let to = match port.host() {
        Address::Unix(name) => SockAddr::unix(name.path().expect("a path")).expect("a short path"),
        host if family == Both => {
            SocketAddr::from((Ipv6Addr::LOCALHOST, host.port().expect("TCP"))).into()
        }
        host => host.socket_addr().expect("TCP").into(),
    };
    [true, has_room].map(|has_room| {
        let socket = Socket::new(family.domain(), Type::STREAM, None).expect("a socket");
        socket.set_nonblocking(true).expect("an option");
        let connected = socket.connect(&to);
        if family == Unix {
            assert_eq!(connected.is_ok(), has_room, "{port}");
        } else {
            let patience = Timespec { tv_sec: if has_room { 10 } else { 0 }, tv_nsec: 0 };
            let mut polled = [PollFd::new(&socket, PollFlags::OUT)];
            assert_eq!(poll(&mut polled, Some(&patience)), Ok(usize::from(has_room)), "{port}");
        }
        socket
    })
}

/// The facts of a listening socket. `false` if it cannot be inspected.
fn has_options(family: Family, set: &[PortOption], port: &Port) -> bool {
    let Some(socket) = duplicate(port.descriptor()) else { return false };
    let case = format!("{family:?} {set:?}");
    let is = |option: PortOption| set.contains(&option);
    assert_eq!(socket.keepalive().expect("an option"), is(Prepared), "{case}");
    if family == Unix {
        return true;
    }
    assert_eq!(socket.reuse_address().expect("an option"), !is(NoReuse), "{case}");
    assert_eq!(socket.reuse_port().expect("an option"), is(Shared), "{case}");
    if family != Ipv4 {
        let only = family == Ipv6 || is(Ipv6Only);
        assert_eq!(socket.only_v6().expect("an option"), only, "{case}");
    }
    true
}

/// The facts of a socket file.
fn has_file(set: &[PortOption], folder: &Folder) {
    let ours = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let (theirs, is) = (others(), |option: PortOption| set.contains(&option));
    let file = std::fs::symlink_metadata(folder.join("port")).expect("a socket");
    let mode = file.permissions().mode() & 0o7777;
    assert_eq!(mode, if is(Mode) { MODE } else { 0o666 }, "{set:?}");
    assert_eq!(file.uid(), if is(Owner) { theirs.0 } else { ours.0 }, "{set:?}");
    assert_eq!(file.gid(), if is(Group) { theirs.1 } else { ours.1 }, "{set:?}");
    let names: &[&str] = if is(NoLock) { &["port"] } else { &["port", "port.lock"] };
    assert_eq!(folder.names(), names, "{set:?}");
}

#[test]
fn an_option_of_a_port_is_set_in_each_family_and_with_other_options() {
    if !has_ipv6() {
        return;
    }
    let mut rig = Kit::mio().rig();
    for family in [Ipv4, Ipv6, Both, Unix] {
        for set in alone_and_in_pairs(&OF_PORTS) {
            let (a, folder) = (rig.end(), Folder::new());
            let (to, options) = (family.any(&folder), options_of(&set));
            let port = rig.reactor.listen((to, options), a.once(Script::new()));
            let port = port.unwrap_or_else(|error| panic!("{family:?} {set:?}: {error}"));
            if !has_options(family, &set, &port) {
                return;
            }
            if family == Unix {
                has_file(&set, &folder);
            }
            let _clients = fill(family, &port, !set.contains(&Backlog));
            rig.until("connection_made", || a.is_made());
            let Some(accepted) = duplicate(hooks::descriptor(&a.transport())) else { return };
            if family != Unix {
                let case = format!("{family:?} {set:?}");
                let (delays, prepared) = (set.contains(&Delay), set.contains(&Prepared));
                assert_eq!(accepted.tcp_nodelay().expect("an option"), !delays, "{case}");
                assert_eq!(accepted.keepalive().expect("an option"), prepared, "{case}");
            }
            port.stop_listening().expect("it listens").detach();
            a.transport().abort_connection();
            rig.turns(2);
            assert!(folder.names().is_empty(), "{set:?}: {:?}", folder.names());
        }
    }
}

/// An option of a connect that is not at its default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConnectOption {
    Bind,
    Delay,
    Prepare,
    Timeout,
}

/// An address to connect from. For IPv6 a port number makes it unique, because IPv6 has only one
/// loopback address.
fn local(family: Family) -> SocketAddr {
    if family == Ipv4 {
        return own_address(64, 0);
    }
    // Below the numbers that the system chooses, so that no other socket takes it before the test.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id() % 10_000;
    let number = || 20_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
    let bind = |number: u32| TcpListener::bind((Ipv6Addr::LOCALHOST, number as u16)).ok();
    let free = (0..1000).find_map(|_| bind(number())).expect("a free port");
    free.local_addr().expect("it is bound")
}

/// A server with the default options.
fn server(rig: &Rig, family: Family, folder: &Folder) -> (A, Port) {
    let a = rig.end();
    let factory = a.once(Script::new());
    let port = rig.reactor.listen((family.any(folder), ListenOptions::default()), factory);
    (a, port.expect("a free port can be opened"))
}

#[test]
fn an_option_of_a_connect_is_set_in_each_family_and_with_other_options() {
    if !has_ipv6() {
        return;
    }
    let mut rig = Kit::mio().rig();
    let all =
        [ConnectOption::Bind, ConnectOption::Delay, ConnectOption::Prepare, ConnectOption::Timeout];
    let three = all.map(|left| all.into_iter().filter(|of| *of != left).collect());
    for family in [Ipv4, Ipv6, Unix] {
        let sets = alone_and_in_pairs(&all).into_iter().chain(three.clone());
        for set in sets.chain([all.to_vec()]) {
            let (case, folder) = (format!("{family:?} {set:?}"), Folder::new());
            let (from, client) = (local(family), rig.end());
            let none = ConnectOptions::default().keep_alive(None);
            let options = set.iter().fold(none, |options, of| match of {
                ConnectOption::Bind => options.bind(from),
                ConnectOption::Delay => options.no_delay(false),
                ConnectOption::Prepare => options.prepare(keep_alive),
                ConnectOption::Timeout => options.timeout(Duration::from_secs(600)),
            });
            let (server, port) = server(&rig, family, &folder);
            hooks::connector(&rig.reactor, port.host(), options, client.once(Script::new()));
            rig.until("connection_made", || server.is_made() && client.is_made());
            let Some(socket) = duplicate(hooks::descriptor(&client.transport())) else { return };
            let is = |of: ConnectOption| set.contains(&of);
            assert_eq!(
                socket.keepalive().expect("an option"),
                is(ConnectOption::Prepare),
                "{case}"
            );
            if family == Unix {
                continue;
            }
            assert_eq!(
                socket.tcp_nodelay().expect("an option"),
                !is(ConnectOption::Delay),
                "{case}"
            );
            let came = server.transport().peer().socket_addr().expect("TCP");
            assert_eq!(client.transport().host().socket_addr(), Some(came), "{case}");
            let is_from = came.ip() == from.ip() && [0, came.port()].contains(&from.port());
            assert_eq!(is_from, is(ConnectOption::Bind), "{case}: {came}, not {from}");
        }
    }
}

#[test]
fn a_local_address_that_is_taken_fails_a_connect_in_each_family() {
    if !has_ipv6() {
        return;
    }
    let mut rig = Kit::mio().rig();
    for ip in [Ipv4Addr::LOCALHOST.into(), std::net::IpAddr::from(Ipv6Addr::LOCALHOST)] {
        let [holder, to] = [(); 2].map(|()| TcpListener::bind((ip, 0)).expect("a free port"));
        let at = to.local_addr().expect("it is bound");
        let taken = holder.local_addr().expect("it is bound");
        let bound = ConnectOptions::default().bind(taken);
        for options in [bound.clone(), bound.clone().no_delay(false), bound.prepare(keep_alive)] {
            let factory = rig.end().once(Script::new());
            let connecting = rig.reactor.connect((at, options), factory);
            rig.until("the failure", || connecting.has_fired());
            let failure = failure_of(connecting);
            let Some(ConnectError::LocalBind { address, source }) = failure.downcast_ref() else {
                panic!("{failure:?}")
            };
            assert_eq!(address, &taken.into());
            assert_eq!(source.kind(), std::io::ErrorKind::AddrInUse);
        }
    }
}
