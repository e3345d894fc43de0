"""The folders and the Python environments of a run; builds and installs the package under test."""

import hashlib
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile

TESTS = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = TESTS.parent
ROOT = PACKAGE.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve()
WORK = TARGET / "python-tests"
WHEELS = WORK / "wheels"

# Includes the packages that Twisted's own tests import.
PACKAGES = ["twisted[all-non-platform]>=26.10", "pyopenssl>=25.3", "service-identity>=24.2", "maturin>=1.9"]
# Pinned, because `_webklein.py` knows these releases.
PACKAGES += ["klein==24.8.0", "werkzeug>=3.1,<3.2"]
MODULES = "twisted, OpenSSL, service_identity, maturin, h2, bcrypt, hamcrest, hypothesis, httpx, klein"
# Programs for the stage `programs`.
MORE_PACKAGES = PACKAGES + ["scrapy", "treq", "autobahn", "magic-wormhole", "magic-wormhole-mailbox-server"]
MORE_PACKAGES += ["daphne"]
MORE_MODULES = MODULES + ", scrapy, treq, autobahn, wormhole, wormhole_mailbox_server, daphne"
# Programs whose own tests the stage `suites` runs. Pinned, because each release changes its tests.
SUITES = [
    "twisted[http2,tls]==26.10.0",
    "treq==26.7.0",
    "klein==24.8.0",
    "matrix-synapse==1.163.2",
    "parameterized==0.9.0",
    "scrapy==2.19.0",
    "crochet==2.1.1",
    "testtools==2.9.1",
    "django==5.2.19",
    "fixtures==4.3.2",
    "httpbin==0.10.4",
    "foolscap==24.9.0",
    "txi2p-tahoe==0.3.7",
    "txtorcon==26.6.0",
    "autobahn==26.10.2",
    # Autobahn's tests of TLS need it.
    "base58==2.1.1",
    "ldaptor==21.2.0",
    "magic-wormhole==0.24.0",
    "magic-wormhole-mailbox-server==0.8.0",
    "magic-wormhole-transit-relay==0.5.0",
    "noiseprotocol==0.3.1",
    "carbon==1.1.10",
    "whisper==1.1.10",
    "protobuf==3.20.3",
    "mmh3==5.3.1",
    "tahoe-lafs==1.20.0",
    "hypothesis==6.170.15",
    "html5lib==1.1",
    "beautifulsoup4==4.15.0",
    "mock==5.2.0",
    "buildbot==4.3.0",
    "buildbot-www==4.3.0",
    "buildbot-worker==4.3.0",
    "buildbot-pkg==4.3.0",
    "evalidate==2.1.7",
    "zstandard==0.25.0",
    "hvac==2.4.0",
    # Later releases warn, and Buildbot's tests treat warnings as errors.
    "alembic==1.13.3",
    "sqlalchemy==2.0.36",
    # Scrapy's tests need pytest.
    "pytest==8.4.2",
    "pytest-twisted==1.14.3",
    "pytest-rerunfailures==16.7",
    "pyftpdlib==2.2.0",
    "testfixtures==12.4.0",
    "pexpect==4.9.0",
    "maturin>=1.9",
]
SUITE_MODULES = (
    "treq, klein, synapse, scrapy, crochet, testtools, django, httpbin, foolscap, autobahn, base58, allmydata, buildbot, "
    "buildbot_worker, pytest_twisted, ldaptor, wormhole, wormhole_mailbox_server, wormhole_transit_relay, carbon"
)
# Crossbar needs other releases of many packages.
CROSSBAR = ["crossbar==26.10.1", "mock==5.2.0", "pytest==8.4.2"]
# Evennia needs an older Twisted.
EVENNIA = ["evennia==5.0.1", "twisted==24.11.0"]


class Broken(Exception):
    """Something that a run needs is unavailable; the text is for the user."""


def environment(name, modules, packages):
    """The interpreter of an environment in the target folder. An incomplete environment is made first."""
    folder = TARGET / name
    script = ROOT / "testkit/src/needed/venv.sh"
    made = subprocess.run(["sh", script, folder, modules, *packages], stdin=subprocess.DEVNULL)
    if made.returncode:
        raise Broken(f"cannot make a Python environment with {' '.join(packages)} in {folder}")
    return folder / "bin/python"


def standard():
    """The environment of most stages."""
    return environment("python-venv", MODULES, PACKAGES)


def programs():
    """The environment with third-party programs."""
    return environment("python-programs", MORE_MODULES, MORE_PACKAGES)


def suites():
    """The environment with third-party programs and the packages that their tests need."""
    return environment("python-suites", SUITE_MODULES, SUITES)


def evennia():
    """The environment with Evennia."""
    return environment("python-evennia", "evennia", EVENNIA)


def crossbar():
    """The environment with Crossbar."""
    return environment("python-crossbar", "crossbar, mock, pytest", CROSSBAR)


def version(name):
    """The version of a package whose tests run."""
    return next(pin.partition("==")[2] for pin in SUITES + CROSSBAR if pin.startswith(f"{name}=="))


def source(python, name, part):
    """A folder from which the tests of a package of `suites` are imported: `part` of its source distribution, without
    the rest, or all of it (`.`).
    """
    requirement = f"{name}=={version(name)}"
    folder = WORK / "sources" / f"{requirement}-{part}"
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=WORK) as fresh:
            fresh = pathlib.Path(fresh)
            pip = [python, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", name, "--dest", fresh]
            if subprocess.run([*pip, requirement]).returncode:
                raise Broken(f"cannot download the source of {requirement}")
            with tarfile.open(next(fresh.glob("*.tar.gz"))) as archive:
                archive.extractall(fresh / "all", filter="data")
            whole = next((fresh / "all").iterdir())
            folder.parent.mkdir(exist_ok=True)
            if part == ".":
                whole.rename(folder)
            else:
                folder.mkdir()
                (whole / part).rename(folder / part)
    return folder


def built():
    """The last wheel built."""
    wheel = next(WHEELS.glob("*.whl"), None)
    if wheel is None:
        raise Broken(f"no wheel was built yet: there is none in {WHEELS}")
    return wheel


def build(python, profile):
    """Builds the wheel with a cargo profile and returns its path."""
    maturin(python, PACKAGE, profile, WHEELS)
    return built()


def extension(name):
    """The folder of an example's extension module, which is built first, with the profile of the wheel."""
    folder = WORK / "examples" / name
    maturin(sys.executable, PACKAGE / "examples" / name, os.environ["COUPLET_PROFILE"], folder)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder)
    return folder


def maturin(python, package, profile, wheels):
    """Builds a package; its wheel replaces those in the folder."""
    if not (package / "Cargo.toml").exists():
        raise Broken(f"there is no package to build in {package}")
    for old in wheels.glob("*.whl"):
        old.unlink()
    command = [python, "-m", "maturin", "build", "--quiet", "--profile", profile, "--interpreter", python]
    command += ["--manifest-path", package / "Cargo.toml", "--out", wheels]
    # The build writes nothing next to the sources.
    if subprocess.run(command, env={**os.environ, "CARGO_TARGET_DIR": str(TARGET)}).returncode:
        raise Broken(f"cannot build the package in {package}")


def poetry(profile, is_built):
    """The path of the program `poetry`, which is built first if `is_built`."""
    if is_built:
        command = ["cargo", "build", "--quiet", "--profile", profile, "-p", "poetry"]
        if subprocess.run(command, cwd=ROOT).returncode:
            raise Broken("cannot build the program poetry")
    path = TARGET / ("debug" if profile == "dev" else profile) / "poetry"
    if not path.exists():
        raise Broken(f"there is no {path}: run without --no-build")
    return path


def install(python, wheel):
    """Installs the wheel, unless the same one is already installed."""
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
    """The environment variables of a test's process: it finds our modules, and ignores the user's Python settings."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return {**kept, "PYTHONPATH": str(TESTS), "PYTHONHASHSEED": "0", "LC_ALL": "C"}


def unprivileged():
    """The prefix for a command: if root runs it, it runs as `nobody` and cannot change /dev.

    As root, `twisted.test.test_logfile.LogFileTests.test_cantChangeFileMode` changes the mode of /dev/null to 0555,
    and other users can't write there any more. Tests of permissions are skipped, or fail. Outside its user namespace
    this `nobody` is root: it reads root's files as their owner, so the environment may be in root's home.
    """
    if os.geteuid():
        return []
    script = 'mount -o remount,bind,ro /dev && exec unshare --user --map-user=65534 --map-group=65534 "$@"'
    prefix = ["unshare", "--mount", "sh", "-c", script, "sh"]
    try:
        subprocess.run([*prefix, "true"], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Broken("root must not run all of Twisted's tests, and cannot be `nobody` here; be a user") from error
    return prefix


def say(text):
    print(text, flush=True)


def fail(text):
    print(f"run: {text}", file=sys.stderr)
    sys.exit(2)
