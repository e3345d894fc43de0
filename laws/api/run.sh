#!/usr/bin/env bash
# Compares the public items of the library's crates with those of the last release, in laws/api/CRATE.txt.
#
#     laws/api/run.sh            # fails if CHANGELOG.md does not name what was removed or changed
#     laws/api/run.sh --accept   # for a release: replaces the lists
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
# The libraries are those that `.ci/run` has checked for the documentation.
RUSTDOC=$here/rustdoc RUSTDOCFLAGS="-Zunstable-options --output-format json" \
    cargo doc --quiet --workspace --no-deps --lib --example echo --features couplet-sim/trap
cargo run --quiet --locked --manifest-path "$here/Cargo.toml" -- "${CARGO_TARGET_DIR:-target}" "$@"
