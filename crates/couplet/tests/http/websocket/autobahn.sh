#!/bin/sh
# autobahn.sh FOLDER: puts the Autobahn test suite into FOLDER, if it is missing there or incomplete.
# Prints the Python that runs it. It needs Python 2.7, which is exit status 3 where there is none.
set -eu
folder=$1

python=
for candidate in "${PYTHON27:-}" python2.7 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/2.7.*/bin/python2.7; do
    if [ -n "$candidate" ] && "$candidate" -c 'import pip' 2>/dev/null; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || { echo "there is no Python 2.7 with pip" >&2; exit 3; }

works() { PYTHONPATH=$folder "$python" -W ignore -c 'import autobahntestsuite.wstest' 2>/dev/null; }
if ! works; then
    rm -rf "$folder"
    "$python" -m pip install --quiet --retries 1 --disable-pip-version-check \
        --target "$folder" 'autobahntestsuite==0.8.2' >&2
    # Its packages share a namespace, which Python 2 makes only in its own folder.
    touch "$folder/zope/__init__.py"
    works || { echo "the Autobahn test suite does not start" >&2; exit 1; }
fi
command -v "$python"
