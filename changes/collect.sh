#!/bin/sh
# Writes CHANGELOG.md from the notes in this folder; with --check, only checks that it is up to date.
set -eu
cd "$(dirname "$0")"
export LC_ALL=C # the same order of files everywhere

collect() {
    version=$(sed -n 's/^version = "\(.*\)"$/\1/p' ../Cargo.toml)
    printf '# Changelog\n\n'
    printf '<!-- Made by changes/collect.sh; edit the notes in changes/ instead. -->\n\n'
    printf '## %s, not released yet\n\n' "$version"
    cat about.md
    for kind in added changed fixed removed security; do
        set -- *."$kind".md
        [ -e "$1" ] || continue
        first=$(printf '%s' "$kind" | cut -c1 | tr a-z A-Z)
        printf '\n### %s%s\n\n' "$first" "${kind#?}"
        # The foundation notes come first.
        if [ -e "foundation.$kind.md" ]; then cat "foundation.$kind.md"; fi
        for note; do
            [ "$note" = "foundation.$kind.md" ] || cat "$note"
        done
    done
}

case ${1:-} in
--check)
    collect | cmp -s - ../CHANGELOG.md || {
        echo "CHANGELOG.md is out of date: run changes/collect.sh" >&2
        exit 1
    }
    ;;
*) collect >../CHANGELOG.md ;;
esac
