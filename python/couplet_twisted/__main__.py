"""
Runs a program on Couplet's reactor: C{python -m couplet_twisted PROGRAM ...}.

The program is a Python file, the name of one on the path, such as C{twistd}, or C{-m MODULE}. With
C{--inspect ENDPOINT} before it, it has an inspector.
"""

import os
import runpy
import shutil
import sys

from couplet_twisted import startup

USAGE = (
    "usage: python -m couplet_twisted [--inspect ENDPOINT] PROGRAM [ARGUMENT ...]\n"
    "       python -m couplet_twisted [--inspect ENDPOINT] -m MODULE [ARGUMENT ...]"
)


def _fail(text):
    print(f"couplet_twisted: {text}", file=sys.stderr)
    sys.exit(2)


def _isPythons(path):
    """
    Whether a file is a Python program, not a binary or a script of another language.
    """
    if os.path.isdir(path) or path.endswith((".py", ".pyc", ".pyz")):
        return True
    with open(path, "rb") as file:
        begin = file.read(1024)
    # If the interpreter's path is long, the scripts that pip makes begin like a shell script.
    return b"\0" not in begin and (not begin.startswith(b"#!") or b"python" in begin)


def main():
    """
    Run the program that the arguments name.
    """
    arguments = sys.argv[1:]
    if arguments[:1] in (["-h"], ["--help"]):
        print(USAGE)
        return
    if arguments[:1] == ["--inspect"]:
        if len(arguments) == 1:
            _fail(f"--inspect: an endpoint is missing, such as 8099\n{USAGE}")
        startup.inspected = arguments[1]
        del arguments[:2]
    if not arguments or arguments == ["-m"]:
        _fail(f"a program is missing\n{USAGE}")
    startup.prepare("python -m couplet_twisted")
    startup.environ()
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        # As in Python's own -m.
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        return
    program = arguments[0]
    path = program if os.path.exists(program) else shutil.which(program)
    if path is None:
        _fail(f"there is no program {program!r}, neither here nor on the path")
    if not _isPythons(path):
        _fail(f"{path} is no program of Python's")
    sys.argv = [path, *arguments[1:]]
    sys.path[0] = os.path.dirname(os.path.abspath(path))
    runpy.run_path(path, run_name="__main__")


if __name__ == "__main__":
    main()
