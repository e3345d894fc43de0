#!/usr/bin/env bash
# Looks up each link to docs.rs/couplet, with its anchor, in the output of
# `cargo doc` of the workspace. The argument is that folder: target/doc.
set -euo pipefail
built=${1:?usage: links.sh target/doc}
broken=0 links=0
while IFS=: read -r file link; do
    page=${link#latest/} anchor=
    case $page in *'#'*) anchor=${page#*#} page=${page%%#*} ;; esac
    case $page in */) page+=index.html ;; esac
    links=$((links + 1))
    if ! grep -qsF -- "${anchor:+id=\"$anchor\"}" "$built/$page"; then
        echo "$file: https://docs.rs/couplet/$link leads nowhere"
        broken=1
    fi
done < <(cd "$(dirname "$0")" && grep -oE 'https://docs\.rs/couplet/[^ )]+' ./*.md | sed 's|https://docs.rs/couplet/||' | sort -u)
[ "$links" -gt 300 ] || { echo "the guide has $links links to docs.rs; has their form changed?"; exit 1; }
exit $broken
