"""Untested interpreters and systems are refused with a clear error, before native code is loaded."""

import os
import pathlib
import shutil
import sys
import tomllib
import unittest

from kit import reactors
from kit.cases import SUBJECT
from kit.running import ended

PACKAGE = pathlib.Path(__file__).resolve().parent.parent
MODEL = reactors.REACTORS[reactors.MODEL][0]
INSTALL = "import couplet_twisted; couplet_twisted.install()\n"


@unittest.skipUnless(SUBJECT == "couplet", "what couplet_twisted refuses")
class Refusals(unittest.TestCase):
    """`install()` and the import of the package."""

    def refused(self, program, text, python=sys.executable, variables=None):
        """Checks that the program ends by an exception whose last line is the text."""
        status, said = ended("-c", program, python=python, variables=variables)
        self.assertEqual((status, said.splitlines()[-1]), (1, text), said)

    def untried(self, fake, text):
        """Checks the package's error after `fake` has run, and that nothing native was loaded."""
        program = (
            f"import sys, sysconfig; {fake}\n"
            "try: import couplet_twisted.reactor\n"
            "except ImportError as why: print(why); print('couplet_twisted._couplet' in sys.modules, why.name)\n"
        )
        expected = f"couplet_twisted was never tried on {text}\nFalse couplet_twisted\n"
        self.assertEqual(ended("-c", program), (0, expected))

    def test_another_implementation(self):
        self.untried("sys.implementation.name = 'pypy'", "pypy: it needs CPython")

    def test_an_old_python(self):
        self.untried("sys.version_info = (3, 10, 9)", "Python 3.10: it needs 3.11 or later")

    def test_a_free_threaded_python(self):
        self.untried(
            "sysconfig.get_config_vars()['Py_GIL_DISABLED'] = 1",
            "a free-threaded build of Python: it needs one with the global interpreter lock",
        )

    def test_windows(self):
        # Twisted is not imported before the refusal. It could not be: its modules for Windows are missing here.
        self.untried("sys.platform = 'win32'", "Windows: it needs Linux")

    def test_a_real_pypy(self):
        pypy = shutil.which("pypy3")
        if pypy is None:
            (self.fail if os.environ.get("CI") else self.skipTest)("there is no pypy3")
        text = "ImportError: couplet_twisted was never tried on pypy: it needs CPython"
        self.refused(INSTALL, text, pypy, {"PYTHONPATH": str(PACKAGE), "PYTHONDONTWRITEBYTECODE": "1"})

    def test_a_real_free_threaded_python(self):
        python = next(filter(None, map(shutil.which, ("python3.14t", "python3.13t"))), None)
        if python is None:
            self.skipTest("there is no python3.14t or python3.13t")
        text = "a free-threaded build of Python: it needs one with the global interpreter lock"
        text = f"ImportError: couplet_twisted was never tried on {text}"
        self.refused(INSTALL, text, python, {"PYTHONPATH": str(PACKAGE), "PYTHONDONTWRITEBYTECODE": "1"})

    def installed(self, first, path):
        """Checks that a second install is refused with the name of the installed reactor, which still works."""
        program = (
            f"{first}\nimport couplet_twisted, os\n"
            "from twisted.internet import error\n"
            "before = os.listdir('/proc/self/fd')\n"
            "try: couplet_twisted.install()\n"
            "except error.ReactorAlreadyInstalledError as why: print(why)\n"
            "assert os.listdir('/proc/self/fd') == before\n"
            "from twisted.internet import reactor\n"
            "reactor.callLater(0, reactor.stop); reactor.run(); print('ran')"
        )
        way_out = "call couplet_twisted.install() once, before anything imports twisted.internet.reactor"
        self.assertEqual(ended("-c", program), (0, f"{path} is already installed: {way_out}\nran\n"))

    def test_two_installs(self):
        self.installed(INSTALL, "couplet_twisted.reactor.CoupletReactor")

    def test_another_reactor(self):
        for name in ("epoll", "select", "asyncio"):
            module, path = reactors.REACTORS[name]
            self.installed(f"import {module} as first; first.install()", path)

    def test_the_default_reactor_that_an_import_installs(self):
        self.installed("from twisted.internet import reactor", reactors.REACTORS["epoll"][1])

    def test_twistd_says_why(self):
        program = (
            "import sys, twisted.internet.reactor\n"
            "from twisted.scripts.twistd import run\n"
            "sys.argv = ['twistd', '-n', '--pidfile=', '--reactor=couplet', 'web']; run()\n"
        )
        status, said = ended("-c", program)
        self.assertEqual(status, 1, said)
        self.assertIn("EPollReactor is already installed: call couplet_twisted.install()", said)


class Metadata(unittest.TestCase):
    """The requirements in `pyproject.toml` are those of the package."""

    def test_it_asks_for_what_the_package_asks_for(self):
        project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
        self.assertEqual(project["requires-python"], ">=3.11")
        classifiers = project["classifiers"]
        implementations = [each for each in classifiers if "Implementation ::" in each]
        self.assertEqual(implementations, ["Programming Language :: Python :: Implementation :: CPython"])
        systems = [each for each in classifiers if each.startswith("Operating System ::")]
        self.assertEqual(systems, ["Operating System :: POSIX :: Linux"])
        self.assertFalse([each for each in classifiers if "Free Threading" in each])
        self.assertIn("Programming Language :: Python :: 3 :: Only", classifiers)
