//! Deaths by SIGKILL under a service manager with a descriptor store: connections survive.

use std::io::ErrorKind;
use std::net::SocketAddr;

use rustix::process::{Pid, Signal, kill_process};

use super::{Program, behind, echoes};
use crate::kit::{Client, has, wait_until};
use crate::needed::Folder;

/// Plays systemd: keeps descriptors by name, and starts the program again with them after a SIGKILL.
/// Writes the number of stored descriptors to a file.
const MANAGER: &str = "
import fcntl, os, signal, socket, sys
path, limit, program = os.path.abspath('notify'), sys.argv[1], sys.argv[2:]
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind(path)
notify.settimeout(0.01)
web = socket.create_server(('127.0.0.1', 0))
os.environ.update(NOTIFY_SOCKET=path, FDSTORE=limit)
store = []

def start():
    pid = os.fork()
    if pid:
        return pid
    passed = [('web', web.fileno())] + store[::-1]
    spares = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 500) for _, fd in passed]
    for number, spare in enumerate(spares):
        os.dup2(spare, 3 + number)
    names = ':'.join(name for name, _ in passed)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(passed)), LISTEN_FDNAMES=names)
    os.execv(program[0], program)

def receive():
    data, fds, _, _ = socket.recv_fds(notify, 4096, 2)
    for fd in fds:
        os.set_inheritable(fd, False)
    message = dict(line.split('=', 1) for line in data.decode().splitlines())
    if 'FDSTORE' in message:
        store.extend((message['FDNAME'], fd) for fd in fds)
    if 'FDSTOREREMOVE' in message:
        for one in [one for one in store if one[0] == message['FDNAME']]:
            store.remove(one)
            os.close(one[1])
    with open('stored', 'w') as file:
        file.write(str(len(store)))

def drain():
    try:
        while True:
            receive()
    except TimeoutError:
        pass

child = start()
while True:
    drain()
    dead, status = os.waitpid(child, os.WNOHANG)
    if dead:
        drain()
        if not os.WIFSIGNALED(status):
            sys.exit(os.waitstatus_to_exitcode(status))
        child = start()
";

const SERVICES: &str = "
[services.e]
kind = \"echo\"
listen = \"systemd:web\"
[services.c]
kind = \"chat\"
listen = \"0\"
[runner]
control = \"ctl\"
pid-file = \"pid\"
";

/// A program under a manager.
struct Managed(Program);

impl Managed {
    /// `None` without Python. `limit` is the store's.
    fn start(limit: u32) -> Option<Managed> {
        Managed::start_with(limit, &["-v"])
    }

    /// With these arguments of the program.
    fn start_with(limit: u32, arguments: &[&str]) -> Option<Managed> {
        has("python3").then(|| {
            let change =
                |program| behind(&["python3", "-c", MANAGER, &limit.to_string()], &program);
            Managed(Program::start_changed(Folder::new(), SERVICES, arguments, change))
        })
    }

    /// The next ports of the echo server and of the chat, which are printed in any order.
    fn ports(&self) -> [SocketAddr; 2] {
        let lines = [self.0.server.line(), self.0.server.line()];
        ["e", "c"].map(|name| {
            let prefix = format!("{name} listening on tcp:");
            let host = lines.iter().find_map(|line| line.strip_prefix(&prefix));
            host.unwrap_or_else(|| panic!("{lines:?}")).parse().expect("an address")
        })
    }

    /// Returns after the program has ended its turns with everything that was sent before.
    fn settle(&self) {
        for _ in 0..2 {
            assert_eq!(self.0.ctl(&["status"]).code, Some(0));
        }
    }

    fn pid(&self) -> Option<Pid> {
        Pid::from_raw(self.0.read("pid").trim().parse().ok()?)
    }

    fn kill(&self) {
        self.settle();
        let pid = self.pid().expect("a pid file");
        kill_process(pid, Signal::KILL).expect("it runs");
    }

    fn stores(&self, count: usize) {
        wait_until("the store", || self.0.read("stored") == count.to_string());
    }
}

impl Drop for Managed {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

fn expect_reset(mut client: Client) {
    let error = client.read_to_end().expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

/// A member of the chat, after its greeting.
fn member(port: SocketAddr) -> Client {
    let mut client = Client::connect(port);
    for _ in 0..3 {
        client.read_line();
    }
    client
}

#[test]
fn c51e_connections_survive_a_sigkill_with_their_state() {
    let Some(program) = Managed::start(100) else { return };
    let [echo, chat] = program.ports();
    let mut client = Client::connect(echo);
    echoes(&mut client);
    let mut ada = member(chat);
    ada.send(b"/nick ada\n");
    ada.read_line();
    let mut bob = member(chat);
    assert_eq!(ada.read_line(), "* guest-2 has joined");
    program.stores(6);
    for round in ["one", "two", "three"] {
        program.kill();
        // The next process reads these bytes from the kernel's queue.
        client.send(b"while nobody runs");
        ada.send(format!("{round}\n").as_bytes());
        assert_eq!(client.read_exact(17), b"while nobody runs");
        assert_eq!(bob.read_line(), format!("<ada> {round}"));
        bob.send(b"/who\n");
        assert_eq!(bob.read_line(), "* 2 here: ada, guest-2 (you)");
        let [again, _] = program.ports();
        assert_eq!(again, echo);
        echoes(&mut Client::connect(echo));
        program.stores(6);
    }
    drop((client, ada, bob));
    program.stores(0);
}

#[test]
fn connections_of_all_loops_survive_a_sigkill() {
    let Some(program) = Managed::start_with(100, &["-v", "--threads", "3"]) else { return };
    let [echo, _] = program.ports();
    let mut clients: Vec<Client> = (0..12).map(|_| Client::connect(echo)).collect();
    // A manager that is behind gets a connection with its next bytes.
    let mut all_are_stored = || {
        wait_until("the store", || {
            clients.iter_mut().for_each(echoes);
            program.0.read("stored") == "24"
        });
    };
    all_are_stored();
    program.kill();
    all_are_stored();
    program.ports();
}

#[test]
fn c51e_a_connection_with_a_half_read_line_is_reset_after_a_kill() {
    let Some(program) = Managed::start(100) else { return };
    let [_, chat] = program.ports();
    let (mut ada, mut bob) = (member(chat), member(chat));
    ada.read_line();
    ada.send(b"half a li");
    program.kill();
    ada.send(b"ne\nanother\n");
    expect_reset(ada);
    program.0.wait_told("continued connections of a process that died continued=1 reset=1");
    bob.send(b"/who\n");
    assert_eq!(bob.read_line(), "* 1 here: guest-2 (you)");
    program.stores(2);
}

#[test]
fn c51e_connections_that_the_store_has_no_room_for_end_with_the_process() {
    let Some(program) = Managed::start(3) else { return };
    let [echo, _] = program.ports();
    let (mut kept, mut other) = (Client::connect(echo), Client::connect(echo));
    echoes(&mut kept);
    echoes(&mut other);
    program.stores(2);
    program.kill();
    assert_eq!(other.read_to_end().expect("a clean end"), b"");
    echoes(&mut kept);
}
