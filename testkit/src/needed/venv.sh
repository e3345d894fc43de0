#!/bin/sh
# venv.sh FOLDER MODULES PACKAGE...: makes a throw-away Python environment with the packages in FOLDER,
# unless it has one from which the modules can be imported. The interpreter is FOLDER/bin/python.
set -eu
folder=$1 modules=$2
shift 2
# Another user may be using the environment with an interpreter that this one cannot run.
[ ! -e "$folder" ] || [ -O "$folder" ] || { echo "$folder belongs to another user" >&2; exit 1; }
# An environment with other packages is replaced.
if [ "$(cat "$folder/packages" 2>/dev/null)" = "$*" ]; then
    "$folder/bin/python" -c "import $modules" 2>/dev/null && exit 0
fi
python3 -m venv --clear "$folder"
"$folder/bin/python" -m pip install --quiet --retries 1 --disable-pip-version-check "$@"
echo "$*" >"$folder/packages"
