#!/usr/bin/env bash
# Draws mutants of the library by a seed, compiles them into one copy of it, and runs the tests with
# each of them: the tests that reach it, in the order of the time that they take, until one fails.
#
#     laws/mutants/run.sh --list               # what can be drawn
#     laws/mutants/run.sh --seed 1 --count 250
#     laws/mutants/run.sh --only 'outbox.rs | Outbox::seal'
#     laws/mutants/run.sh --room http --room python --count 20
#     laws/mutants/run.sh --quick --count 3 --within 240   # whole binaries, for a few of one room;
#                                                                # fails if three or more live and none is killed
#     laws/mutants/run.sh --planted FILE       # those of a file in the form of named.txt, and no others
#     laws/mutants/run.sh … --again            # those that lived the last time
#     laws/mutants/run.sh … --program          # the program's tests too, for those that live
#
# Those that live are listed at the end, with their reasons in reasons.txt. Those of named.txt belong to
# each draw of all rooms; the script fails if one of them lives.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here" && git rev-parse --show-toplevel)
work=${CARGO_TARGET_DIR:-$root/target}/laws/mutants
mkdir -p "$work"
export CARGO_TERM_COLOR=never RUST_BACKTRACE=0
CARGO_TARGET_DIR=$work/tool cargo build --quiet --locked --manifest-path "$here/Cargo.toml"
cd "$root"
# The dependencies are those of the tree.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}
WORK=$work exec "$work/tool/debug/couplet-mutants" "$@"
