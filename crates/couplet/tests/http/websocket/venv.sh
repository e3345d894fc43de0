#!/bin/sh
# venv.sh FOLDER: makes a throw-away venv with Python's websockets in FOLDER if it is missing or incomplete.
# Prints nothing on stdout; the interpreter is FOLDER/bin/python.
set -eu
folder=$1
"$folder/bin/python" -c 'import websockets.sync.client, websockets.sync.server' 2>/dev/null && exit 0
python3 -m venv --clear "$folder"
"$folder/bin/python" -m pip install --quiet --retries 1 --disable-pip-version-check 'websockets>=13'
