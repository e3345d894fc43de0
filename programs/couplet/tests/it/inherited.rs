//! Inherited sockets: `fd:` and `systemd:`, from processes that open them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::Command;

use crate::kit::{Running, Server, couplet};
use crate::needed::Folder;
use crate::run::behind;

/// Listens on a free TCP port and on a UNIX socket, as descriptors 3 and 4, then executes the
/// program.
pub(crate) const PARENT: &str = "
import os, socket, sys
tcp = socket.create_server(('127.0.0.1', 0))
unix = socket.socket(socket.AF_UNIX)
unix.bind(sys.argv[1])
unix.listen()
for number, spare in enumerate([os.dup(tcp.fileno()), os.dup(unix.fileno())]):
    os.dup2(spare, 3 + number)
os.environ['LISTEN_PID'] = str(os.getpid())
os.environ['LISTEN_FDS'] = '2'
os.environ['LISTEN_FDNAMES'] = 'web:local'
os.environ.update(pair.split('=') for pair in sys.argv[2].split())
os.execv(sys.argv[3], sys.argv[3:])
";

/// The program as the child of such a parent, with changes to the environment.
fn below(path: &str, changes: &str, args: &[&str]) -> Command {
    behind(&["python3", "-c", PARENT, path, changes], &couplet(args))
}

pub(crate) fn echoes(mut stream: impl Read + Write) {
    stream.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello");
}

#[test]
fn sockets_of_the_parent_are_served_by_number_name_and_index() {
    needs!("python3");
    for [tcp, unix] in [
        ["fd:3", "fd:4"],
        ["systemd:web", "systemd:local"],
        ["systemd:0", "systemd:index=1"],
        ["systemd:domain=INET:index=0", "systemd:domain=UNIX:name=local"],
    ] {
        let folder = Folder::new();
        let path = &*folder.path("socket");
        let args = ["echo", "--listen", tcp, "--listen", unix];
        let server = Server::start_command(below(path, "", &args), 1);
        assert_eq!(server.line(), format!("listening on unix:{path}"), "{unix}");
        echoes(TcpStream::connect(server.ports[0]).expect(tcp));
        echoes(UnixStream::connect(path).unwrap());
    }
}

#[test]
fn sockets_that_were_not_passed_are_errors_with_their_place() {
    needs!("python3");
    for (changes, endpoint, said) in [
        ("", "systemd:other", "no socket with this name, only: web, local"),
        ("", "systemd:2", "the init system has passed 2 sockets"),
        ("LISTEN_FDS=1", "systemd:local", "no socket with this name"),
        ("LISTEN_FDNAMES=", "systemd:web", "no socket with this name"),
        ("LISTEN_PID=1", "systemd:web", "to another process: LISTEN_PID is not our process ID"),
        ("LISTEN_PID=x", "systemd:web", "LISTEN_PID is not a number"),
        ("LISTEN_FDS=-1", "systemd:web", "LISTEN_FDS is not a number"),
        ("LISTEN_FDS=4294967295", "systemd:web", "LISTEN_FDS is too large"),
        ("LISTEN_FDS=9", "systemd:7", "cannot use descriptor 10: "),
        ("", "systemd:domain=UNIX:index=0", "descriptor 3 is not a socket of the domain UNIX"),
        ("", "fd:1", "cannot use descriptor 1: "),
    ] {
        let folder = Folder::new();
        let path = &*folder.path("socket");
        let ended =
            Running::start(&mut below(path, changes, &["echo", "--listen", endpoint])).ended();
        ended.says(1, &format!("    {endpoint}\n"));
        let stderr = ended.stderr.to_lowercase();
        assert!(stderr.contains(&said.to_lowercase()), "{endpoint}: {}", ended.stderr);
    }
    let mut command = couplet(&["echo", "--listen", "systemd:web"]);
    command.env_remove("LISTEN_FDS").env_remove("LISTEN_PID");
    Running::start(&mut command).ended().says(1, "passed no sockets: LISTEN_FDS is not set");
}

#[test]
fn c145_systemd_activates_the_program() {
    const ACTIVATE: &str = "systemd-socket-activate";
    needs!(ACTIVATE);
    let folder = Folder::new();
    let path = &*folder.path("socket");
    let program = couplet(&["echo", "--listen", "systemd:web"]);
    let command = behind(&[ACTIVATE, "--listen", path, "--fdname=web"], &program);
    let server = Server::start_command(command, 0);
    server.wait_told("Listening on");
    // The server starts with the first connection, which is queued until then.
    echoes(UnixStream::connect(path).unwrap());
    assert_eq!(server.line(), format!("listening on unix:{path}"));
}
