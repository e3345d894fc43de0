#!/usr/bin/env python3
"""Builds wheels of couplet-twisted for Linux, and checks that they, and the sources, install and run.

Wheels are linked by zig against an old glibc, so a manylinux tag is honest without a container, and against musl.
Each wheel is audited and installed in a fresh environment of each --python of its machine and C library, and must
pass an echo test over the loopback interface there. So must the packages that pip builds from the source
distribution and from this folder. Each --refusing interpreter must refuse all of them. For macOS the sources are
compiled, but not linked.

Needs: Python 3.11 or later with venv, cargo and rustup, and a package index for Twisted, maturin, ziglang and
auditwheel. Results are in TARGET/python-wheels/dist, where TARGET is cargo's target folder.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "tests"))

from kit import environment  # noqa: E402
from kit.environment import PACKAGE, TARGET, Broken, say  # noqa: E402

WORK = TARGET / "python-wheels"
TOOLS = ["maturin[zig]>=1.9,<2", "auditwheel>=6"]
MODULES = "maturin, ziglang, auditwheel"
# The oldest C libraries that Rust supports, by target.
LINUX = {
    "x86_64-unknown-linux-gnu": "manylinux_2_17",
    "aarch64-unknown-linux-gnu": "manylinux_2_17",
    "x86_64-unknown-linux-musl": "musllinux_1_2",
    "aarch64-unknown-linux-musl": "musllinux_1_2",
}
MACOS = "aarch64-apple-darwin"
INSIDE = ["_couplet.abi3.so", *(path.name for path in (PACKAGE / "couplet_twisted").glob("*.py"))]
PLUGIN = "twisted/plugins/couplet_reactor.py"
STARTUP = "couplet_twisted.pth"
SYSTEM = "import platform, sysconfig; print(platform.machine(), sysconfig.get_config_var('HOST_GNU_TYPE'))"
# Messages of pip (about tags, about metadata), of our build script and of PyO3.
REFUSALS = [
    "is not a supported wheel on this platform",
    "requires a different Python",
    "was never tried on",
    "does not support the free-threaded build",
]
ECHO = """
import couplet_twisted; couplet_twisted.install()
from twisted.internet import endpoints, protocol, reactor
from twisted.plugin import getPlugins
from twisted.application.reactors import IReactorInstaller
from twisted.protocols.wire import Echo
class Client(protocol.Protocol):
    got = b""
    def connectionMade(self): self.transport.write(b"echo" * 50000)
    def dataReceived(self, data):
        self.got += data
        if len(self.got) == 200000: self.transport.loseConnection()
    def connectionLost(self, reason): reactor.stop()
port = reactor.listenTCP(0, protocol.Factory.forProtocol(Echo), interface="127.0.0.1")
client = Client()
endpoints.connectProtocol(endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port), client)
reactor.run()
assert client.got == b"echo" * 50000
assert "couplet" in [each.shortName for each in getPlugins(IReactorInstaller)]
print(type(reactor).__module__)
"""


def run(command, what, **more):
    """Runs a program that must succeed; its output is shown only if it fails."""
    try:
        return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **more)
    except FileNotFoundError as error:
        raise Broken(f"{what}: there is no {error.filename}") from error
    except subprocess.CalledProcessError as error:
        raise Broken(f"{what}: {' '.join(map(str, command))}\n{error.stdout}") from error


def has_target(target):
    """Whether Rust has the target's library. Installs it if possible."""
    have = run(["rustup", "target", "list", "--installed"], "cannot list Rust's targets", cwd=PACKAGE).stdout.split()
    if target in have:
        return True
    return not subprocess.run(["rustup", "target", "add", target], cwd=PACKAGE, capture_output=True).returncode


def build(python, target):
    """Builds the wheel for a target and returns its path."""
    if not has_target(target):
        raise Broken(f"rustup cannot install the target {target}: build without it, by --target")
    out = WORK / "dist"
    tag = LINUX[target]
    command = [python, "-m", "maturin", "build", "--profile", "dist", "--locked", "--zig", "--compatibility", tag]
    command += ["--target", target, "--manifest-path", PACKAGE / "Cargo.toml", "--out", out]
    # The environment provides zig.
    path = f"{python.parent}:{os.environ['PATH']}"
    run(command, f"cannot build for {target}", env={**os.environ, "PATH": path})
    return max(out.glob(f"*{tag}_{target.split('-')[0]}*.whl"), key=lambda wheel: wheel.stat().st_mtime)


def audit(python, wheel, tag):
    """Checks that the wheel is complete and fits its tags."""
    if "-cp311-abi3-" not in wheel.name or not wheel.name.endswith(f"{tag}.whl"):
        raise Broken(f"{wheel.name} is not tagged cp311-abi3 and {tag}")
    archive = zipfile.ZipFile(wheel)
    if tag.startswith("manylinux"):
        said = run([python, "-m", "auditwheel", "show", wheel], "auditwheel refuses the wheel").stdout
        if f'following platform tag:\n"{tag}"' not in said:
            raise Broken(f"{wheel.name} is not as compatible as its tag says:\n{said}")
    # auditwheel needs the machine's musl, which may be absent.
    elif b"GLIBC_" in archive.read(f"couplet_twisted/{INSIDE[0]}"):
        raise Broken(f"{wheel.name} wants glibc")
    there = set(archive.namelist())
    missing = {PLUGIN, STARTUP, *(f"couplet_twisted/{name}" for name in INSIDE)} - there
    if missing:
        raise Broken(f"{wheel.name} lacks {', '.join(sorted(missing))}")
    say(f"{wheel.name}: {wheel.stat().st_size // 1024} KiB, audited as {tag}")


def tried(python, source, name):
    """Installs the source by pip in a fresh environment of the interpreter, and runs the echo test."""
    folder = WORK / "fresh"
    shutil.rmtree(folder, ignore_errors=True)
    run([python, "-m", "venv", folder], f"cannot make an environment of {python}")
    fresh = folder / "bin/python"
    pip = [fresh, "-m", "pip", "install", "--disable-pip-version-check", "--no-cache-dir", source]
    run(pip, f"pip cannot install {source}")
    variables = environment.variables()
    del variables["PYTHONPATH"]
    said = run([fresh, "-c", ECHO], "the echo fails", cwd=folder, env=variables, timeout=60).stdout
    if said != "couplet_twisted.reactor\n":
        raise Broken(f"the echo said {said!r}")
    version = run([fresh, "-V"], "no version").stdout.strip()
    say(f"{name}: installed and echoes under {version}")


def system(python):
    """The target for the interpreter's machine and C library."""
    told = run([python, "-c", SYSTEM], f"{python} does not tell its system").stdout.strip()
    machine, _, triple = told.partition(" ")
    return f"{machine}-unknown-linux-{'musl' if 'musl' in triple else 'gnu'}"


def refused(python, source):
    """Checks that pip of an unsupported interpreter refuses the package and gives a reason."""
    pip = [python, "-m", "pip", "install", "--no-cache-dir", "--no-deps", "--target", WORK / "refused", source]
    ended = subprocess.run(pip, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    why = next((line for line in ended.stdout.splitlines() if any(reason in line for reason in REFUSALS)), None)
    if not ended.returncode or why is None:
        raise Broken(f"pip of {python} does not refuse {source}:\n{ended.stdout}")
    say(f"{pathlib.Path(source).name}: {python} refuses it: {why.strip()}")


def source_distribution(python):
    """Makes a source distribution that includes the crates, and returns its path."""
    out = WORK / "dist"
    command = [python, "-m", "maturin", "sdist", "--manifest-path", PACKAGE / "Cargo.toml", "--out", out]
    run(command, "cannot make a source distribution")
    made = max(out.glob("*.tar.gz"), key=lambda file: file.stat().st_mtime)
    with tarfile.open(made) as archive:
        there = {name.partition("/")[2] for name in archive.getnames()}
    needed = ["python/Cargo.lock", "crates/couplet/src/lib.rs", "crates/couplet-core/src/lib.rs", "crates/couplet-defer/src/lib.rs", "crates/couplet-os/src/lib.rs", PLUGIN, STARTUP, "PKG-INFO"]
    missing = [each for each in needed if each not in there]
    if missing:
        raise Broken(f"{made.name} lacks {', '.join(missing)}")
    say(f"{made.name}: {made.stat().st_size // 1024} KiB")
    return made


def macos():
    """Checks that the sources compile for macOS, without linking or running them."""
    if not has_target(MACOS):
        return say(f"{MACOS}: skipped, rustup cannot install the target")
    command = ["cargo", "check", "--profile", "dist", "--locked", "--target", MACOS, "--manifest-path", PACKAGE / "Cargo.toml"]
    run(command, f"the sources do not compile for {MACOS}", cwd=PACKAGE)
    say(f"{MACOS}: compiles; not linked, not run")


def parsed():
    parser = argparse.ArgumentParser(
        prog="wheels.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", action="append", choices=LINUX, help="build for this one (default: all)")
    parser.add_argument(
        "--python", action="append", metavar="PROGRAM", help="an interpreter to try wheels in (default: this one)"
    )
    parser.add_argument(
        "--refusing", action="append", metavar="PROGRAM", help="an interpreter that must refuse them, such as pypy3"
    )
    parser.add_argument("--no-sources", action="store_true", help="neither the source distribution nor the folder")
    options = parser.parse_args()
    for each in (options.python or []) + (options.refusing or []):
        if shutil.which(each) is None:
            parser.error(f"there is no {each}")
    return options


def main():
    options = parsed()
    tools = environment.environment("python-wheels/tools", MODULES, TOOLS)
    if shutil.which("rustup") is None or shutil.which("cargo") is None:
        raise Broken("there is no rustup, or no cargo: get them from rustup.rs")
    shutil.rmtree(WORK / "dist", ignore_errors=True)
    interpreters = options.python or [sys.executable]
    for target in options.target or LINUX:
        wheel = build(tools, target)
        audit(tools, wheel, f"{LINUX[target]}_{target.split('-')[0]}")
        fitting = [python for python in interpreters if system(python) == target]
        for python in fitting:
            tried(python, wheel, wheel.name)
        if not fitting:
            say(f"{wheel.name}: not run, no --python is for {target}")
        # On another platform, pip would refuse the platform instead.
        for python in options.refusing or []:
            if system(python) == target:
                refused(python, wheel)
    if not options.no_sources:
        made = source_distribution(tools)
        for source, name in ((made, made.name), (PACKAGE, "the folder")):
            tried(interpreters[0], source, name)
            for python in options.refusing or []:
                refused(python, source)
        macos()
    say(f"all is in {WORK / 'dist'}")


if __name__ == "__main__":
    try:
        main()
    except Broken as broken:
        print(f"wheels.py: {broken}", file=sys.stderr)
        sys.exit(1)
