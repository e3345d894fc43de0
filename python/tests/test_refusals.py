"""Untested interpreters and systems are refused with a clear error, before native code is loaded."""

import os
import pathlib
import shutil
import tomllib
import unittest

from kit import reactors
from kit.cases import SUBJECT
from kit.running import ended

PACKAGE = pathlib.Path(__file__).resolve().parent.parent
FREE_THREADED = "a free-threaded build of Python: it needs one with the global interpreter lock"
INSTALL = "import couplet_twisted; couplet_twisted.install()\n"


@unittest.skipUnless(SUBJECT == "couplet", "what couplet_twisted refuses")
class Refusals(unittest.TestCase):
    """`install()` and the import of the package."""

    def test_untested_interpreters_and_systems(self):
        """Nothing native is loaded. Twisted is not imported before the refusal: on Windows it could not be."""
        for fake, text in (
            ("sys.implementation.name = 'pypy'", "pypy: it needs CPython"),
            ("sys.version_info = (3, 10, 9)", "Python 3.10: it needs 3.11 or later"),
            ("sysconfig.get_config_vars()['Py_GIL_DISABLED'] = 1", FREE_THREADED),
            ("sys.platform = 'win32'", "Windows: it needs Linux"),
        ):
            program = (
                f"import sys, sysconfig; {fake}\n"
                "try: import couplet_twisted.reactor\n"
                "except ImportError as why: print(why); print('couplet_twisted._couplet' in sys.modules, why.name)\n"
            )
            expected = f"couplet_twisted was never tried on {text}\nFalse couplet_twisted\n"
            self.assertEqual(ended("-c", program), (0, expected))

    def refused(self, text, *names):
        """Checks that a real interpreter with one of these names is refused."""
        python = next(filter(None, map(shutil.which, names)), None)
        if python is None:
            self.skipTest(f"there is no {' or '.join(names)}")
        variables = {"PYTHONPATH": str(PACKAGE), "PYTHONDONTWRITEBYTECODE": "1"}
        status, said = ended("-c", INSTALL, python=python, variables=variables)
        text = f"ImportError: couplet_twisted was never tried on {text}"
        self.assertEqual((status, said.splitlines()[-1]), (1, text), said)

    def test_a_real_pypy(self):
        if os.environ.get("CI"):
            self.assertTrue(shutil.which("pypy3"), "there is no pypy3")
        self.refused("pypy: it needs CPython", "pypy3")

    def test_a_real_free_threaded_python(self):
        self.refused(FREE_THREADED, "python3.14t", "python3.13t")

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

    def test_a_second_install(self):
        self.installed(INSTALL, "couplet_twisted.reactor.CoupletReactor")
        for name in ("epoll", "select", "asyncio"):
            module, path = reactors.REACTORS[name]
            self.installed(f"import {module} as first; first.install()", path)
        # The default one.
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
    """The requirements in `pyproject.toml` match the checks of the package."""

    def test_pyproject_requires_the_same_as_the_package(self):
        project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
        self.assertEqual(project["requires-python"], ">=3.11")
        classifiers = project["classifiers"]
        implementations = [each for each in classifiers if "Implementation ::" in each]
        self.assertEqual(implementations, ["Programming Language :: Python :: Implementation :: CPython"])
        systems = [each for each in classifiers if each.startswith("Operating System ::")]
        self.assertEqual(systems, ["Operating System :: POSIX :: Linux"])
        self.assertFalse([each for each in classifiers if "Free Threading" in each])
        self.assertIn("Programming Language :: Python :: 3 :: Only", classifiers)
