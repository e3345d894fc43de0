"""The folders of a run, its Python environments, and the package under test in them."""

import hashlib
import os
import pathlib
import subprocess
import sys
import zipfile

TESTS = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = TESTS.parent
ROOT = PACKAGE.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve()
WORK = TARGET / "python-tests"

# With the packages that Twisted's own tests import.
PACKAGES = ["twisted[all-non-platform]>=26.10", "pyopenssl>=25.3", "service-identity>=24.2", "maturin>=1.9"]
MODULES = "twisted, OpenSSL, service_identity, maturin, h2, bcrypt, hamcrest, hypothesis, httpx"
# Programs for `programs`, as they come.
MORE_PACKAGES = PACKAGES + ["scrapy", "treq", "klein", "autobahn", "magic-wormhole", "magic-wormhole-mailbox-server"]
MORE_MODULES = MODULES + ", scrapy, treq, klein, autobahn, wormhole, wormhole_mailbox_server"


class Broken(Exception):
    """What a run needs and cannot have; its text is for the user."""


def environment(name, modules, packages):
    """The interpreter of an environment in the target folder, which is made unless it is complete."""
    folder = TARGET / name
    script = ROOT / "crates/couplet/tests/needed/venv.sh"
    made = subprocess.run(["sh", script, folder, modules, *packages], stdin=subprocess.DEVNULL)
    if made.returncode:
        raise Broken(f"cannot make a Python environment with {' '.join(packages)} in {folder}")
    return folder / "bin/python"


def standard():
    """The environment of most stages."""
    return environment("python-venv", MODULES, PACKAGES)


def programs():
    """The environment with other people's programs."""
    return environment("python-programs", MORE_MODULES, MORE_PACKAGES)


def build(python, profile):
    """The wheel of the package, as cargo's profile makes it."""
    if not (PACKAGE / "Cargo.toml").exists():
        raise Broken(f"there is no package to build in {PACKAGE}")
    wheels = WORK / "wheels"
    for old in wheels.glob("*.whl"):
        old.unlink()
    command = [python, "-m", "maturin", "build", "--quiet", "--profile", profile, "--interpreter", python]
    command += ["--manifest-path", PACKAGE / "Cargo.toml", "--out", wheels]
    # The build writes nothing next to the sources.
    if subprocess.run(command, env={**os.environ, "CARGO_TARGET_DIR": str(TARGET)}).returncode:
        raise Broken("cannot build the package")
    return next(wheels.glob("*.whl"))


def couplet(profile, is_built):
    """The program `couplet`, of the Rust side; built, unless one that is there shall do."""
    if is_built:
        command = ["cargo", "build", "--quiet", "--profile", profile, "-p", "couplet-cli"]
        if subprocess.run(command, cwd=ROOT).returncode:
            raise Broken("cannot build the program couplet")
    path = TARGET / ("debug" if profile == "dev" else profile) / "couplet"
    if not path.exists():
        raise Broken(f"there is no {path}: run without --no-build")
    return path


def install(python, wheel):
    """Installs the wheel, unless the same is there."""
    content = sorted((entry.filename, entry.CRC) for entry in zipfile.ZipFile(wheel).infolist())
    digest = hashlib.sha256(repr(content).encode()).hexdigest()
    stamp = python.parent.parent / "couplet-twisted"
    if stamp.exists() and stamp.read_text() == digest:
        return
    stamp.unlink(missing_ok=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--force-reinstall", wheel]
    if subprocess.run(pip).returncode:
        raise Broken(f"cannot install {wheel}")
    stamp.write_text(digest)


def variables():
    """The variables of a test's process: our modules are found, and nothing of the user's."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return {**kept, "PYTHONPATH": str(TESTS), "PYTHONHASHSEED": "0"}


def say(text):
    print(text, flush=True)


def fail(text):
    print(f"run: {text}", file=sys.stderr)
    sys.exit(2)
