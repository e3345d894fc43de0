"""A variable or `python -m couplet_twisted` selects Couplet's reactor for programs that import the reactor first."""

import os
import pathlib
import tempfile
import unittest

from kit.cases import SUBJECT
from kit.running import ended

ASK = "from twisted.internet import reactor; print(type(reactor).__module__)\n"
COUPLETS, EPOLLS = "couplet_twisted.reactor\n", "twisted.internet.epollreactor\n"
LOG = "import sys; from twisted.python import log; log.startLogging(sys.stdout)\n"
# Logs as twistd does: buffered earlier events come first.
BUFFERED = "import sys; from twisted import logger as it; it.globalLogBeginner.beginLoggingTo([it.textFileLogObserver(sys.stdout)])\n"


@unittest.skipUnless(SUBJECT == "couplet", "the ways in of couplet_twisted")
class Variable(unittest.TestCase):
    """`TWISTED_REACTOR=couplet`."""

    def asked(self, program, value="couplet"):
        status, said = ended("-c", program, variables={"TWISTED_REACTOR": value})
        self.assertEqual(status, 0, said)
        return said

    def test_importing_the_reactor_installs_couplets(self):
        self.assertEqual(self.asked(ASK), COUPLETS)
        self.assertIn("ran", self.asked(f"{ASK}reactor.callLater(0, reactor.stop); reactor.run(); print('ran')"))

    def test_the_log_names_the_variable(self):
        self.assertIn("TWISTED_REACTOR: Couplet's reactor is installed", self.asked(LOG + ASK))
        self.assertIn("TWISTED_REACTOR: Couplet's reactor is installed", self.asked(ASK + BUFFERED))

    def test_without_the_variable_nothing_changes(self):
        self.assertEqual(ended("-c", ASK), (0, EPOLLS))
        self.assertEqual(self.asked(ASK, ""), EPOLLS)
        self.assertEqual(self.asked(ASK, "epoll"), EPOLLS)
        self.assertEqual(ended("-c", "import sys; print('couplet_twisted' in sys.modules)"), (0, "False\n"))

    def test_a_program_that_does_not_import_the_reactor_loads_nothing(self):
        said = self.asked("import sys; print('twisted' in sys.modules, 'couplet_twisted._couplet' in sys.modules)")
        self.assertEqual(said, "False False\n")

    def test_a_reactor_that_the_program_installs_wins(self):
        self.assertEqual(self.asked(f"from twisted.internet import epollreactor as it; it.install()\n{ASK}"), EPOLLS)
        self.assertEqual(self.asked(f"import couplet_twisted as it; it.install()\n{ASK}"), COUPLETS)

    def test_a_second_install_is_refused(self):
        said = self.asked(
            f"{ASK}from twisted.internet import error, epollreactor\n"
            "try: epollreactor.install()\n"
            "except error.ReactorAlreadyInstalledError: print('refused')"
        )
        self.assertEqual(said, f"{COUPLETS}refused\n")

    def test_twistd_without_an_option(self):
        with tempfile.TemporaryDirectory() as folder:
            text = (
                "from twisted.application import service, internet\n"
                "from twisted.internet import reactor\n"
                "application = service.Application('it')\n"
                "reactor.callLater(0, reactor.stop)\n"
            )
            pathlib.Path(folder, "it.tac").write_text(text)
            program = "from twisted.scripts import twistd; twistd.run()"
            command = ["-c", program, "-n", "--pidfile=", "--python=it.tac", "--no_save"]
            status, said = ended(*command, variables={"TWISTED_REACTOR": "couplet"}, folder=folder)
        self.assertIn("reactor class: couplet_twisted.reactor.CoupletReactor", said)
        self.assertEqual(status, 0, said)


@unittest.skipUnless(SUBJECT == "couplet", "the ways in of couplet_twisted")
class Module(unittest.TestCase):
    """`python -m couplet_twisted PROGRAM`."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        text = "import beside, sys; from twisted.internet import reactor\n"
        text += "print(__name__, sys.argv[1:], beside.NAME, type(reactor).__module__)\n"
        pathlib.Path(self.folder, "program.py").write_text(text)
        pathlib.Path(self.folder, "beside.py").write_text("NAME = 'beside'\n")

    def run_on(self, *arguments, **more):
        return ended("-m", "couplet_twisted", *arguments, **more)

    def test_a_file(self):
        expected = (0, f"__main__ ['-x', 'y'] beside {COUPLETS}")
        self.assertEqual(self.run_on(os.path.join(self.folder, "program.py"), "-x", "y"), expected)
        self.assertEqual(self.run_on("program.py", "-x", "y", folder=self.folder), expected)

    def test_a_module(self):
        expected = (0, f"__main__ ['-x', 'y'] beside {COUPLETS}")
        self.assertEqual(self.run_on("-m", "program", "-x", "y", folder=self.folder), expected)

    def test_a_name_on_the_path(self):
        status, said = self.run_on("twistd", "--version")
        self.assertEqual(status, 0, said)
        self.assertIn("twistd", said)

    def test_the_programs_that_it_starts(self):
        text = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ASK!r}])\n"
        pathlib.Path(self.folder, "launcher.py").write_text(text)
        self.assertEqual(self.run_on("launcher.py", folder=self.folder), (0, COUPLETS))

    def test_an_argument_that_names_no_python_program_is_an_error(self):
        pathlib.Path(self.folder, "script").write_text("#!/bin/sh\necho no\n")
        for arguments, text in (
            ([], "a program is missing"),
            (["-m"], "a program is missing"),
            (["nothing-of-this-name"], "there is no program 'nothing-of-this-name', neither here nor on the path"),
            (["script"], "script is no program of Python's"),
            (["sh"], "sh is no program of Python's"),
        ):
            status, said = self.run_on(*arguments, folder=self.folder)
            self.assertEqual(status, 2, said)
            self.assertIn(text, said)
            self.assertNotIn("Traceback", said)

    def test_the_command_has_help(self):
        status, said = self.run_on("--help")
        self.assertEqual(status, 0)
        self.assertIn("python -m couplet_twisted [--inspect ENDPOINT] PROGRAM", said)
