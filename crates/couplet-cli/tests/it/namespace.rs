//! Happy eyeballs over real sockets: a network namespace has addresses that answer, refuse, are
//! silent or unreachable.

use std::process::Command;

use crate::kit::{Running, has, missing};

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
