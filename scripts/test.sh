#!/usr/bin/env bash
# Runs the whole test suite, in two processes, and then what measures time, by itself. Makes its own environment first.
# All arguments go to pytest, which is then run once; paths among them are relative to the project.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_environment.sh"
prepare_environment dev
cd -- "$root"
# one thread each: more threads than cores slow OpenMP's steps of microseconds to milliseconds
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
if [ $# -gt 0 ]; then
  exec "$venv/bin/python" -m pytest -n 2 "$@"
fi
failed=0
"$venv/bin/python" -m pytest -n 2 -m "not alone" || failed=1
"$venv/bin/python" -m pytest -m alone || failed=1
exit "$failed"
