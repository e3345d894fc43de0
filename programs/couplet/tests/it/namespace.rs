//! Happy eyeballs over real sockets: a network namespace has addresses that answer, refuse, are
//! silent or unreachable.

use std::process::Command;

use rustix::process::Signal;

use crate::kit::{Running, Server, has, missing, wait_until};

/// The children of a process, zombies included.
pub(crate) fn children_of(parent: &str) -> Vec<String> {
    let stat = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().into_string().ok());
    let is_child = |pid: &String| {
        let stat = stat(pid).unwrap_or_default();
        let after = stat.rsplit(')').next().unwrap_or_default();
        after.split_ascii_whitespace().nth(1) == Some(parent)
    };
    pids.filter(|pid| pid.parse::<u32>().is_ok()).filter(is_child).collect()
}

#[test]
fn c154e_process_1_reaps_orphans() {
    if !has_namespaces() {
        return;
    }
    // The shell's child becomes an orphan, and is killed with its group, or leaves it and exits.
    for child in ["sleep 1000", "setsid sleep 0.1"] {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.args([env!("CARGO_BIN_EXE_couplet"), "forward", "0"]);
        command.arg(format!("process:/bin/sh -c '{child} >/dev/null 2>&1 & echo ready'"));
        let mut server = Server::start_command(command, 1);
        let process_1 = children_of(&server.running.pid().to_string()).remove(0);
        for _ in 0..2 {
            for _ in 0..5 {
                let mut client = server.connect();
                assert_eq!(client.read_to_end().unwrap(), b"ready\n");
            }
            wait_until("no child is left", || children_of(&process_1).is_empty());
        }
        server.running.signal(Signal::KILL);
    }
}

/// True if namespaces can be created here; CI requires them.
fn has_namespaces() -> bool {
    if !["unshare", "ip", "python3"].into_iter().all(has) {
        return false;
    }
    let made =
        Command::new("unshare").args(["--net", "--mount", "--pid", "--fork", "true"]).output();
    let can = made.is_ok_and(|made| made.status.success());
    if !can {
        missing("right to make namespaces");
    }
    can
}

#[test]
fn c140_a_name_is_reached_by_whichever_of_its_addresses_answers() {
    if !has_namespaces() {
        return;
    }
    let (script, resolver) =
        (include_str!("namespace/hosts.sh"), include_str!("namespace/resolver.py"));
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.args(["sh", "-c", script, "hosts.sh", env!("CARGO_BIN_EXE_couplet"), resolver]);
    let ended = Running::start(&mut command).ended();
    let said = String::from_utf8(ended.stdout).unwrap();
    assert_eq!(ended.code, Some(0), "{said}{}", ended.stderr);
    let expected = [
        "both: 0: six",
        "silent: 0: four",
        "refused: 0: four",
        "forbidden: 0: four",
        "last: 0: six",
        "nobody: 1: couplet: cannot connect to tcp:nobody:7000: no address answered: \
         tcp:[2001:db8::2]:7000: connection refused; tcp:192.0.2.2:7000: connection refused; \
         tcp:203.0.113.8:7000: invalid argument",
        "late: 0: six",
        "datagrams: out and back",
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected, "{}", ended.stderr);
}
