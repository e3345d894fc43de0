//! A restart whose new process fails or hangs while the connections move.

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;

use rustix::process::{Pid, test_kill_process};

use super::restart::{Restarted, replace, services, start_linked};
use super::{echo, echoes};
use crate::kit::{Client, couplet, wait_until};

/// A new process that serves, until it gets a request that it was started to fail or to hang at.
const FALSE_HEIR: &str = r#"
import json, os, signal, socket, struct, sys
link = socket.socket(fileno=3)
signal.signal(signal.SIGTERM, signal.SIG_IGN if sys.argv[1] == "hangs" else signal.SIG_DFL)
def read(size):
    data = b""
    while len(data) < size:
        more = link.recv(size - len(data))
        if not more: sys.exit()
        data += more
    return data
while True:
    size, = struct.unpack(">I", read(4))
    request = json.loads(read(size).split(b"\n")[0])["request"]
    name = request if isinstance(request, str) else list(request)[0]
    open("requests", "a").write(name + " ")
    answer = {"Serves": {"kinds": ["couplet.echo"]}} if name == "Start" else "Done"
    if name in sys.argv[2:]:
        if sys.argv[1] == "hangs":
            open("new-pid", "w").write(str(os.getpid()))
            signal.pause()
        answer = {"Failed": "it refuses"}
    answer = json.dumps(answer).encode()
    link.sendall(struct.pack(">I", len(answer)) + answer)
"#;

/// A program whose next process does this, with a client that has been served.
fn before_false_heir(behaviour: &str) -> (Restarted, SocketAddr, Client) {
    let text = services(&[echo("a", "0", ""), echo("u", "unix:u", "")], "restart-within = 2");
    let text = text.replace("[runner]\n", "[runner]\nthreads = 3\n");
    let program = start_linked(&text);
    let port = program.port("a");
    program.server.line();
    program.wait_told("started");
    let mut client = Client::connect(port);
    echoes(&mut client);
    program.folder.write("heir.py", FALSE_HEIR);
    replace(&program, &format!("exec python3 heir.py {behaviour}"));
    (program, port, client)
}

#[test]
fn connections_stay_if_the_new_process_does_not_take_them() {
    needs!("python3");
    for (behaviour, wanted) in [
        ("hangs Connections", "Connections "),
        ("hangs Moved", "Connections Moved "),
        ("fails Connections", "Connections Forget "),
        ("fails Moved", "Connections Moved Forget "),
    ] {
        let (mut program, port, mut client) = before_false_heir(behaviour);
        program.ctl(&["restart"]).says(1, "has failed: ");
        let requests = program.read("requests");
        assert!(requests.ends_with(&format!("Start {wanted}")), "{behaviour}: {requests}");
        if let Ok(hangs) = program.read("new-pid").parse() {
            let hangs = Pid::from_raw(hangs).expect("a process");
            assert!(test_kill_process(hangs).is_err(), "it has ended before they continue");
        }
        echoes(&mut client);
        let mut more: Vec<Client> = (0..9).map(|_| Client::connect(port)).collect();
        more.iter_mut().for_each(echoes);
        let status = program.ctl(&["status", "--json"]);
        for number in 1..=3 {
            assert!(status.text().contains(&format!("\"id\":\"{number}.")), "{}", status.text());
        }
        UnixStream::connect(program.folder.path("u")).expect("its file is there");
        assert_eq!(program.ctl(&["stop"]).code, Some(0));
        wait_until("the end of the process", || !program.is_running());
        assert!(!program.folder.names().contains(&"u".to_owned()), "the file is removed");
    }
}

#[test]
fn restarts_that_fail_leave_everything_for_the_one_that_succeeds() {
    needs!("python3");
    let (program, port, mut client) = before_false_heir("fails Connections");
    let first = program.newest();
    let descriptors = program.server.descriptors();
    for behaviour in
        ["fails Connections", "fails Moved", "fails Start", "fails Socket", "fails PidFile"]
    {
        replace(&program, &format!("exec python3 heir.py {behaviour}"));
        for _ in 0..2 {
            let answer = program.ctl(&["restart"]);
            assert_eq!(answer.code, Some(1), "{behaviour}: {}", answer.text());
            assert_eq!((program.newest(), program.generations()), (first, (1, 0)), "{behaviour}");
            echoes(&mut client);
            echoes(&mut Client::connect(port));
        }
    }
    wait_until("the descriptors of the failed ones", || {
        program.server.descriptors() <= descriptors
    });
    replace(&program, &format!("exec {} \"$@\"", couplet(&[]).get_program().display()));
    for generation in [2, 3] {
        program.restart();
        assert_eq!(program.generations().0, generation);
        echoes(&mut client);
        echoes(&mut Client::connect(port));
        UnixStream::connect(program.folder.path("u")).expect("its file is there");
    }
    program.stop();
}

#[test]
fn a_new_process_that_refuses_to_forget_has_taken_over() {
    needs!("python3");
    let (mut program, _, _client) = before_false_heir("fails Moved Forget");
    let answer = program.ctl(&["restart"]);
    assert!(answer.text().contains("has taken over"), "{}", answer.stderr);
    wait_until("the end of the first", || !program.is_running());
    assert!(program.read("requests").ends_with("Start Connections Moved Forget "));
}
