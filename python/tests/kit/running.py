"""Programs that run during a test: start, output and end."""

import gc
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import threading

# Seconds until a program that hangs is killed.
PATIENCE = 300


def unused(number):
    """Returns `number` free ports of the loopback interface.

    All are below the range of ephemeral ports, so the system assigns none of them to another socket.
    """
    least = int(pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    sockets = []
    while len(sockets) < number:
        try:
            sockets.append(socket.create_server(("127.0.0.1", random.randrange(least // 2, least))))
        except OSError:
            pass
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def plain(text, ports):
    """Output of programs, without the parts that differ between runs, and with the ports of the original program."""
    for theirs, ours in ports.items():
        text = re.sub(rf"\b{ours}\b", str(theirs), text)
    text = re.sub(r"(?m)^[\d-]{10}[T ][\d:+.]+ ", "", text)
    text = re.sub(r"\b(port=|127\.0\.0\.1', )\d+", r"\1?", text)
    text = re.sub(r"0x[0-9a-f]+", "0x", text)
    # Stack frames of reactors.
    text = re.sub(r'(?m)^ +File ".*/internet/(posixbase|tcp)\.py", .*\n.*\n', "", text)
    return re.sub(r"(?m)^.*(reactor class|starting up|rustls encrypts).*\n", "", text)


def ended(*command, python=sys.executable, variables=None, folder=None):
    """The status and the output of a Python program."""
    more = {"env": {**os.environ, **(variables or {})}, "cwd": folder, "timeout": PATIENCE}
    run = subprocess.run([python, *command], capture_output=True, text=True, **more)
    return run.returncode, run.stdout + run.stderr


def descriptors():
    """The number of open descriptors, after a collection."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


class Running:
    """A process. `text` is its output so far: only standard error, if standard output goes to the file `output`."""

    def __init__(self, test, command, sockets=0, folder=None, output=None):
        reads, writes = os.pipe()
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "COUPLET_LISTENING": str(writes)}
        more = {"env": environment, "cwd": folder, "stdin": subprocess.DEVNULL, "pass_fds": [writes]}
        says, said = os.pipe()
        with open(os.path.join(folder, output), "wb") if output else os.fdopen(os.dup(said), "wb") as to:
            self.process = subprocess.Popen(command, stdout=to, stderr=said, **more)
        os.close(said)
        os.close(writes)
        self.says = open(says, "rb")
        self.test, self.text = test, ""
        self.watchdog = threading.Timer(PATIENCE, self.process.kill)
        self.watchdog.start()
        test.addCleanup(self.kill)
        with open(reads, "rb", buffering=0) as listening:
            for _ in range(sockets):
                if not listening.read(1):
                    test.fail(f"{command} does not listen:\n{self.rest()}")

    def until(self, words):
        """Waits until the process has printed the words."""
        while words not in self.text:
            line = self.says.readline().decode(errors="replace")
            if not line:
                self.test.fail(f"{self.process.args} ended, and did not say {words!r}:\n{self.text}")
            self.text += line

    def port(self, words):
        """The port that the process prints after the words. The end of the test stops the process."""
        self.until(words)
        self.test.addCleanup(self.stop)
        return re.search(re.escape(words) + r"(\d+)", self.text)[1]

    def rest(self):
        """Waits for the end of the process. Returns its output."""
        self.text += self.says.read().decode(errors="replace")
        self.process.wait()
        return self.text

    def stop(self, number=signal.SIGTERM):
        """Ends the process by a signal, sent once it has a handler: some programs install theirs late."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status")
        while self.process.poll() is None:
            caught = re.search(r"SigCgt:\s*(\w+)", status.read_text())
            if caught and int(caught[1], 16) >> (number - 1) & 1:
                break
            # The process is still importing modules.
            threading.Event().wait(0.01)
        self.process.send_signal(number)
        return self.ended()

    def ended(self):
        """Waits for the end of the process. Returns its output and status."""
        self.rest()
        return self.text, self.process.returncode

    def kill(self):
        self.watchdog.cancel()
        if self.process.returncode is None:
            self.process.kill()
            self.process.wait()
        self.says.close()


def poetry(test, *words, **more):
    """Starts `poetry`."""
    return Running(test, [os.environ["POETRY"], *words], **more)


# Printed before the port.
COUPLET_LISTENS = "listening on tcp:127.0.0.1:"


def program(test, reactor, ports, file, *arguments, sockets=0, places=(), folder=None):
    """Starts a program unchanged under a reactor. `ports` and `places` map its ports and paths to the run's."""
    where = ",".join(f"{theirs}={ours}" for theirs, ours in [*ports.items(), *places])
    command = [sys.executable, "-m", "kit.program", reactor, where, file, *arguments]
    return Running(test, command, sockets, folder)


def answer(port, request, is_open=False):
    """Sends a request and returns the answer, until the server closes.

    `is_open` is for servers that keep a connection open: the client then closes its direction first.
    """
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        client.sendall(request)
        if is_open:
            client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(65536), b""))
