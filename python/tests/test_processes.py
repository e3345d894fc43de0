"""Child processes: they inherit the same as under the model."""

import os
import signal

from kit.cases import Cases
from test_pipes import Child, started

# The descriptors of a child, and the signals that it ignores.
LOOK = "ls /proc/self/fd; grep -E 'Sig(Ign|Blk)' /proc/self/status"


class Processes(Cases):
    """Children of `/bin/sh`."""

    async def test_a_child_gets_the_descriptors_that_it_was_promised_and_no_others(case):
        # One that every program executed here inherits.
        high, kept = os.dup2(1, 200, inheritable=True), os.dup2(1, 201, inheritable=True)
        for descriptors in (
            None,
            {0: "w", 1: "r", 2: "r", 3: "w", 7: "r"},
            {1: "r"},
            {0: 0, 1: "r", 2: 2},
            {1: "r", 2: high, high: 2},
            {1: "r", kept: 0, 9: kept},
        ):
            await started(case, LOOK, childFDs=descriptors).ended

    async def test_signals_have_their_default_actions_in_a_child(case):
        for number in (signal.SIGUSR1, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGUSR2, lambda *_: None)
        await started(case, LOOK).ended
        await started(case, "kill -USR1 $$").ended

    async def test_the_folder_and_the_environment_of_a_child(case):
        os.environ["COUPLET_SAID"] = "yes"
        for options in ({"path": "/"}, {"path": "."}, {"path": os.getcwd()}, {"env": None}, {"env": {"A": "b"}}):
            await started(case, "echo $COUPLET_SAID $A; test $PWD = / && echo root", **options).ended

    async def test_a_child_gets_the_environment_as_given(case):
        # Also the variables by which systemd addresses this process: a program may start the one that they are for.
        # Rust programs do not pass these on.
        names = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "A"]
        os.environ.update({name: f"our {name}" for name in names})
        given = {"NOTIFY_SOCKET": "given", "LISTEN_PID": "1", "A": ""}
        script = "; ".join(f'echo "${{{name}-unset}}"' for name in names)
        for env in (None, {}, given):
            # Each way to start a child: posix_spawn, a fork for another folder, and a terminal.
            for options in ({}, {"path": "/"}, {"usePTY": True}):
                await started(case, script, env=env, **options).ended

    async def test_a_program_that_does_not_exist(case):
        case.attempt("child", case.reactor.spawnProcess, Child(case), "/does/not/exist", ["x"], env={})
        await started(case, "exit 2").ended
