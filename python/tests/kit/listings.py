"""The programs of Twisted's documentation, from its source distribution."""

import os
import pathlib
import subprocess
import sys
import tarfile
from importlib import metadata

from kit.environment import WORK, Broken


def folder():
    """The folder `docs` of the installed version's sources, which pip downloads once."""
    given = os.environ.get("COUPLET_TWISTED_DOCS")
    if given:
        return pathlib.Path(given)
    version = metadata.version("twisted")
    docs = WORK / f"twisted-{version}" / "docs"
    if not docs.exists():
        download(version)
    return docs


def download(version):
    """Unpacks the source distribution into the working folder."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-binary", ":all:", "--dest", WORK, f"twisted=={version}"]
    if subprocess.run(command, stdin=subprocess.DEVNULL).returncode:
        raise Broken(f"pip cannot download the sources of Twisted {version}; COUPLET_TWISTED_DOCS can name their docs/")
    with tarfile.open(WORK / f"twisted-{version}.tar.gz") as archive:
        members = [each for each in archive.getmembers() if each.name.startswith(f"twisted-{version}/docs/")]
        archive.extractall(WORK, members, filter="data")
