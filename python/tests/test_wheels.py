"""Supported interpreters accept the wheel; pip of any other refuses it."""

import email
import unittest
import zipfile

from kit import environment
from kit.cases import SUBJECT
from packaging.specifiers import SpecifierSet
from packaging.tags import compatible_tags, cpython_tags, generic_tags
from packaging.utils import parse_wheel_filename

# Minor releases of Python 3.
CPYTHON = [11, 12, 13, 14]
PYPY = [9, 10, 11]


@unittest.skipUnless(SUBJECT == "couplet", "the wheel of couplet_twisted")
class Wheels(unittest.TestCase):
    """The wheel under test, by the rules of `packaging`, of which pip has a copy."""

    @classmethod
    def setUpClass(cls):
        wheel = environment.built()
        cls.tags = parse_wheel_filename(wheel.name)[3]
        cls.platforms = [tag.platform for tag in cls.tags]
        with zipfile.ZipFile(wheel) as archive:
            name = next(each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
            cls.metadata = email.message_from_bytes(archive.read(name))
        cls.releases = SpecifierSet(cls.metadata["Requires-Python"])

    def fits(self, minor, own):
        """Whether an interpreter accepts the wheel: by its own tags, or by the tags of any Python of its release."""
        shared = compatible_tags((3, minor), platforms=self.platforms)
        return not self.tags.isdisjoint([*own, *shared])

    def test_only_supported_interpreters_accept_the_wheel(self):
        for minor, abi in [(10, ""), *((minor, "") for minor in CPYTHON), (13, "t"), (14, "t")]:
            with self.subTest(minor=minor, abi=abi):
                own = cpython_tags((3, minor), [f"cp3{minor}{abi}"], self.platforms)
                self.assertEqual(self.fits(minor, own), minor in CPYTHON and not abi)
        for minor in PYPY:
            with self.subTest(pypy=minor):
                self.assertFalse(self.fits(minor, generic_tags(f"pp3{minor}", [f"pypy3{minor}_pp73"], self.platforms)))

    def test_the_metadata_name_the_supported_releases(self):
        for minor in CPYTHON:
            self.assertIn(f"3.{minor}.0", self.releases)
        # Python 3.10's pip does not build the source distribution either.
        self.assertNotIn("3.10.99", self.releases)
        head = "Programming Language :: Python :: 3."
        named = [each.removeprefix(head) for each in self.metadata.get_all("Classifier") if each.startswith(head)]
        self.assertEqual(list(map(int, named)), CPYTHON)
