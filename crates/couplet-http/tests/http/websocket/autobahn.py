"""autobahn.py MODE SPEC: runs the Autobahn test suite, and prints a line with the result of each case.

MODE is fuzzingclient or fuzzingserver, SPEC a specification file of wstest. A fuzzing server runs until its
standard input ends.
"""
import glob
import json
import os
import subprocess
import sys

mode, spec = sys.argv[1:]
with open(spec) as file:
    outdir = json.load(file)["outdir"]
log = open(os.path.join(outdir, "log"), "w")
suite = subprocess.Popen(
    [sys.executable, "-W", "ignore", "-m", "autobahntestsuite.wstest", "-m", mode, "-s", spec, "-u", "0"],
    stdin=subprocess.PIPE, stdout=log, stderr=log)
if mode == "fuzzingserver":
    sys.stdin.read()
    suite.terminate()
suite.wait()
reports = glob.glob(os.path.join(outdir, "index.json"))
for report in reports:
    with open(report) as file:
        for agent in json.load(file).values():
            for case, found in agent.items():
                print("%s %s %s" % (case, found["behavior"].replace(" ", "-"), found["behaviorClose"].replace(" ", "-")))
if not reports:
    with open(log.name) as file:
        sys.exit(file.read())
