#!/usr/bin/env bash
# Makes .venv and installs Nexus into it: `venv.sh run` for users, `venv.sh dev` with the tools for tests.
set -euo pipefail
cd "$(dirname "$0")/.."
role=${1:?usage: scripts/venv.sh run|dev}
python=${PYTHON:-python3}

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "Nexus needs Python 3.11 or newer; '$python' is $("$python" --version 2>&1 || echo missing). Install one and run: make PYTHON=/path/to/python3.11 $role" >&2
  exit 2
fi
if [ ! -x .venv/bin/python ] || ! .venv/bin/python -c 'import pip' 2>/dev/null; then
  echo "making .venv with $("$python" --version)"
  rm -rf .venv
  if ! "$python" -m venv .venv; then
    rm -rf .venv
    echo "'$python' cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2
    exit 2
  fi
fi
# `--group` needs pip 25.1.
if ! .venv/bin/python -c 'import pip, sys; sys.exit(tuple(map(int, pip.__version__.split(".")[:2])) < (25, 1))'; then
  .venv/bin/python -m pip install --quiet --upgrade "pip>=25.1"
fi
echo "installing Nexus and what it needs into .venv (a minute the first time)"
arguments=(--quiet --disable-pip-version-check --constraint constraints.txt --editable ".[cli]")
[ "$role" = dev ] && arguments+=(--group dev)
.venv/bin/python -m pip install "${arguments[@]}"
