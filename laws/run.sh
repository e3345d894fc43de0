#!/usr/bin/env bash
# Breaks each law on purpose and expects its tests to fail.
#
#     laws/run.sh             # every break
#     laws/run.sh 3 9-a-row   # those whose names begin so
#     laws/run.sh --list      # only applies each edit, and prints its description
#
# A break is a file in breaks/: a description, an edit, and the tests that are expected to fail. It is
# applied to a copy of the working tree, must compile, and is reverted. The script fails if no test
# notices a break, and if an edit no longer applies.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here" && git rev-parse --show-toplevel)
work=${CARGO_TARGET_DIR:-$root/target}/laws
copy=$work/copy
log=$work/log
export CARGO_TARGET_DIR=$work/target CARGO_TERM_COLOR=never RUST_BACKTRACE=0

die() { echo "$*" >&2; exit 1; }

# Copies the working tree, uncommitted changes included, into a repository of its own.
take_copy() {
    mkdir -p "$copy"
    find "$copy" -mindepth 1 -maxdepth 1 -exec rm -rf {} +
    (cd "$root" && git ls-files -z --cached --others --exclude-standard | sort -zu |
        tar --null --ignore-failed-read -T - -cf - 2>/dev/null) | tar -xf - -C "$copy"
    cd "$copy"
    git init -q
    git add -A
    git -c user.name=laws -c user.email=laws@localhost commit -qm "as it is"
}

revert() {
    git reset -q --hard
    git clean -fdq
}

# The edits. A place is given by a Perl regular expression that must match exactly one line of the files
# below a path. So code can move without breaking the script.

place_of() { # PATH REGEX: prints the file
    local files
    files=$(find "$1" -type f -exec perl -ne '$n++ if /$ENV{PLACE}/; END { exit !$n }' {} \; -print)
    [ "$(printf '%s' "$files" | grep -c .)" = 1 ] || die "expected one file below $1 with: $2 [$files]"
    [ "$(perl -ne '$n++ if /$ENV{PLACE}/; END { print $n }' "$files")" = 1 ] ||
        die "expected one line in $files with: $2"
    printf '%s' "$files"
}

swap() { # PATH REGEX TEXT: replaces the match
    local file
    file=$(PLACE=$2 place_of "$1" "$2") || exit 1
    PLACE=$2 TEXT=$3 perl -pi -e 's/$ENV{PLACE}/$ENV{TEXT}/' "$file"
}

after() { # PATH REGEX TEXT: inserts lines after the matching one
    local file
    file=$(PLACE=$2 place_of "$1" "$2") || exit 1
    PLACE=$2 TEXT=$3 perl -pi -e '$_ .= "$ENV{TEXT}\n" if /$ENV{PLACE}/' "$file"
}

append() { # FILE TEXT: at the end of the file, or before its unit tests
    [ -f "$1" ] || die "there is no $1"
    TEXT=$2 perl -0pi -e 's/\n#\[cfg\(test\)\]\n(#\[path[^\n]*\n)?mod tests|\z/\n$ENV{TEXT}\n$&/' "$1"
}

# The tests. Those that read the sources need no rebuild.

reads() { # FILTERS: tests that read the sources, as built before the break
    cargo check -q -p couplet-core -p couplet-http -p couplet-sim -p couplet-cli || die "the break does not compile"
    (cd laws && "$binary" "$@")
}

runs() { # FILTERS: tests of tests/it, built with the break
    cargo test -q -p couplet-core --test it --no-run || die "the break does not compile"
    timeout 600 cargo test -p couplet-core --test it -- "$@"
}

runs_sim() { # FILTERS: tests of the simulator, built with the break
    cargo test -q -p couplet-sim --test sim --no-run || die "the break does not compile"
    timeout 600 cargo test -p couplet-sim --test sim -- "$@" | sed 's/^test /&sim::/'
}

runs_os() { # FILTERS: tests of couplet-os, built with the break
    cargo test -q -p couplet-os --lib --tests --no-run || die "the break does not compile"
    timeout 600 cargo test -p couplet-os --lib --tests --no-fail-fast -- "$@"
}

lints() { # PACKAGE: clippy, with warnings as errors
    cargo clippy -q -p "${1:-couplet-core}" -- -D warnings
}

build() {
    cargo test -q --manifest-path laws/Cargo.toml --no-run --message-format json >"$work/built"
    binary=$(sed -n 's/.*"name":"couplet_laws".*"executable":"\([^"]*\)".*/\1/p' "$work/built" | tail -n 1)
    [ -x "$binary" ] || die "couplet-laws was not built"
}

# The failed tests; a fact of the suite once, whatever the driver.
noticed() {
    sed -n 's/^test \([a-z0-9_:]*\) \.\.\. FAILED$/\1/p' "$log" |
        sed 's/^suite::\(mio\|sim\|memory_[a-z]*\)\(_unix\|_layered\|_in_bytes\|_tls\|_embedded\)*::/suite::/' | sort -u |
        paste -sd, | sed 's/,/, /g'
    if grep -q "disallowed\|hash-type\|hash_type\|undocumented\|unsafe-code" "$log"; then echo "clippy"; fi
}

plant() { # FILE: applies the break
    # shellcheck disable=SC1090
    source "$1"
    revert
    apply
    ! git diff --quiet || die "the edit changes nothing"
}

one() { # FILE: prints the tests that notice the break, or an error
    local broken by
    plant "$1"
    if (notice) >"$log" 2>&1; then die "no test fails: $broken"; fi
    ! grep -q "does not compile" "$log" || die "$(cat "$log")"
    by=$(noticed | grep . | paste -sd, | sed 's/,\([^ ]\)/, \1/g') || true
    [ -n "$by" ] || die "failed for another reason: $(tail -n 5 "$log")"
    echo "$by"
}

take_copy
if [ "${1:-}" = --list ]; then
    for file in "$here"/breaks/*.sh; do
        plant "$file"
        printf '%s: %s\n' "$(basename "$file" .sh)" "$broken"
    done
    exit
fi
build
(reads tidy) >"$log" 2>&1 || die "red before anything is broken: $(tail -n 20 "$log")"
tried=0
failed=0
mapfile -t breaks < <(printf '%s\n' "$here"/breaks/*.sh | sort -V)
for file in "${breaks[@]}"; do
    name=$(basename "$file" .sh)
    chosen=${1:+no}
    for prefix in "$@"; do case $name in "$prefix"*) chosen=yes ;; esac; done
    [ "$chosen" != no ] || continue
    tried=$((tried + 1))
    if by=$(one "$file" 2>&1); then
        printf '%s: %s\n' "$name" "$by"
    else
        printf '%s: FAILED: %s\n' "$name" "$by"
        failed=$((failed + 1))
    fi
done
revert
[ "$failed" = 0 ] || die "$failed breaks were not noticed or could not be applied"
echo "$tried breaks, each noticed"
