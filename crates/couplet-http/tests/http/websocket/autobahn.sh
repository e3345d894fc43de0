#!/bin/sh
# autobahn.sh FOLDER: installs the Autobahn test suite into FOLDER, unless it is complete there.
# Prints the Python that runs it. Without Python 2.7 the exit status is 3.
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
    # Its packages share a namespace, for which Python 2 needs this file outside site-packages.
    touch "$folder/zope/__init__.py"
    works || { echo "the Autobahn test suite does not start" >&2; exit 1; }
fi
command -v "$python"
