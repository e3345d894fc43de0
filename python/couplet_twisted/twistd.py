"""
C{twistd --inspect ENDPOINT}: an application of twistd with an inspector, which opens when the reactor starts.

C{twistd --workers N}: an application of twistd in several processes.

The parent checks and writes the pid file, opens the log file, and becomes a daemon; it loads no application. Each
worker then runs all of twistd except for these steps, so a reload also reads a changed C{.tac} file. Workers change
their user and group, root and working directory as twistd does. The log names the worker in each line.
"""

import os
import sys

from twisted.application import app
from twisted.logger import (
    FileLogObserver,
    ILogObserver,
    LegacyLogObserverWrapper,
    Logger,
    LogPublisher,
    formatEventAsClassicLogText,
    textFileLogObserver,
)
from twisted.python import logfile, usage
from twisted.scripts import _twistd_unix

from couplet_twisted import startup, workers


def _bytes(text):
    """
    A number of bytes: C{500M}, C{2G}.
    """
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    unit = units.get(text[-1:].upper(), 1)
    return int(text if unit == 1 else text[:-1]) * unit


def _count(text):
    """
    A number of workers or of connections.
    """
    number = int(text)
    if number < 1:
        raise ValueError("it must be positive")
    return number


PARAMETERS = [
    ["workers", None, None, "Serve in this number of processes, on Couplet's reactor.", _count],
    ["inspect", None, None, "Show the program at this endpoint, such as 8099, on Couplet's reactor."],
    ["drain", None, 10, "Seconds that a worker has to finish its connections.", float],
    ["most-connections", None, None, "Replace a worker after about so many connections.", _count],
    ["most-memory", None, None, "Replace a worker that uses about so much memory, such as 500M.", _bytes],
]


def extend(twistd):
    """
    Add the options to twistd.

    @param twistd: The module L{twisted.scripts.twistd}.
    """
    options = twistd.ServerOptions
    options.optParameters = [*options.optParameters, *PARAMETERS]
    plain = twistd.run

    def run():
        asked = _Asked()
        try:
            asked.parseOptions()
        except usage.error:
            # Reports the error, or shows the help.
            asked = {}
        if asked.get("inspect") is not None:
            _inspect(asked)
        if asked.get("workers") is None:
            plain()
        else:
            _supervise(asked)

    twistd.run = run


class _Asked(_twistd_unix.ServerOptions):
    """
    The options before the name of a command. Neither a reactor nor an application is loaded.
    """

    subCommands = None

    def parseArgs(self, *args):
        pass

    def opt_reactor(self, name):
        """
        Only noted.
        """
        self["reactor"] = name

    opt_r = opt_reactor

    def opt_help(self):
        """
        Left to twistd.
        """
        raise usage.UsageError("help")


def _inspect(options):
    """
    Have the reactor inspected once it is installed.
    """
    if options.get("reactor", "couplet") != "couplet":
        raise SystemExit(f"twistd: --inspect needs Couplet's reactor: leave out --reactor={options['reactor']}")
    if options["workers"] is not None:
        raise SystemExit("twistd: --inspect and --workers exclude each other: inspect one process")
    startup.inspected = options["inspect"]
    startup.prepare("twistd --inspect")


def _supervise(options):
    """
    Run the parent.
    """
    if options.get("reactor", "couplet") != "couplet":
        raise SystemExit(f"twistd: --workers needs Couplet's reactor: leave out --reactor={options['reactor']}")
    if options["debug"]:
        raise SystemExit("twistd: --workers and --debug exclude each other: debug one process")
    _twistd_unix.checkPID(options["pidfile"])
    file, observer = _log(options)
    publisher = LogPublisher(observer)
    parent = workers.Parent(
        options["workers"],
        lambda worker: _serve(worker, options, file),
        options["drain"],
        options["most-connections"],
        options["most-memory"],
        Logger(namespace="couplet.workers", observer=publisher),
    )
    parent.logFile = file
    runner = _twistd_unix.UnixApplicationRunner(options)
    status = None
    if not options["nodaemon"]:
        # Without a reactor, because the parent has none.
        status = runner.daemonize(None)
        os.umask(0o077 if options["umask"] is None else options["umask"])
        parent.onReady = lambda: _report(status, b"0")
    if options["pidfile"]:
        with open(options["pidfile"], "w") as to:
            to.write(str(os.getpid()))
    try:
        parent.run()
    except SystemExit as e:
        if status is not None:
            _report(status, b"1 " + str(e).encode("ascii", "backslashreplace"))
        raise
    finally:
        if options["pidfile"]:
            runner.removePID(options["pidfile"])


def _report(status, text):
    """
    Report the start to the process that started the daemon, which ends after the first report.
    """
    try:
        os.write(status, text[:100])
        os.close(status)
    except OSError:
        pass


def _log(options):
    """
    The log file, if there is one, and the parent's observer.
    """
    name = options["logfile"]
    file = None
    if options["logger"] is not None:
        observer = options["logger"]()
    elif options["syslog"]:
        observer = _twistd_unix.UnixAppLogger(options)._getLogObserver()
    elif name == "-" or (options["nodaemon"] and not name):
        if not options["nodaemon"]:
            raise SystemExit("Daemons cannot log to stdout, exiting!")
        observer = textFileLogObserver(sys.stdout)
    else:
        file = logfile.LogFile.fromFullPath(name or "twistd.log")
        observer = textFileLogObserver(file)
    if not ILogObserver.providedBy(observer):
        observer = LegacyLogObserverWrapper(observer)
    return file, observer


def _serve(worker, asked, file):
    """
    In a worker: run twistd, without the parent's part.
    """
    startup.prepare("twistd --workers")
    options = _twistd_unix.ServerOptions()
    try:
        options.parseOptions()
    except usage.error as e:
        raise SystemExit(f"{e} (twistd --help lists the options)")
    if not asked["nodaemon"] and options["umask"] is None:
        options["umask"] = 0o077
    options.update(nodaemon=True, pidfile="", originalname=True, no_save=True)
    if file is not None:
        # Shares its position with the parent's, so that neither overwrites the other's lines.
        descriptor = file._file.fileno()
        # Errors before the log begins go there too, unless a terminal shows them.
        descriptor = os.dup(descriptor) if asked["nodaemon"] else os.dup2(descriptor, sys.stderr.fileno())
        worker.log = open(descriptor, "w", encoding="utf-8", errors="backslashreplace")
    from twisted.internet import reactor

    worker.attach(reactor)
    # In the first turn: the services have started by then.
    reactor.callWhenRunning(reactor.callLater, 0, worker.ready)
    _Runner(options, worker).run()


class _Runner(_twistd_unix.UnixApplicationRunner):
    """
    Runs the application in a worker.
    """

    def __init__(self, options, worker):
        super().__init__(options)
        if not options["syslog"]:
            self.logger._getLogObserver = lambda: _observer(worker)


def _observer(worker):
    """
    Observes the log of a worker, and names the worker in each event.
    """

    def formatEvent(event):
        text = formatEventAsClassicLogText(event)
        return text and text.replace(" [", f" [worker {worker.number}] [", 1)

    return FileLogObserver(worker.log or sys.stdout, formatEvent)


__all__ = ["extend"]
