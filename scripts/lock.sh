#!/usr/bin/env bash
# Pins anew what the scripts install: requirements/train.txt and dev.txt, from the ranges in pyproject.toml, for every
# Python from 3.10 on. Needs uv (pip install uv). What torch pulls in for GPUs is left to torch's own wheel.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

command -v uv >/dev/null || { echo "error: uv is missing: pip install uv" >&2; exit 1; }

lock() {
  local name=$1
  {
    echo "# Made by scripts/lock.sh; change pyproject.toml and run it."
    uv pip compile --quiet --universal --python-version 3.10 --no-header --no-annotate --no-strip-markers \
      --constraint requirements/torch.txt "${@:2}" pyproject.toml requirements/build.in |
      grep -vE '^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)=='
  } >"requirements/$name.txt.new"
  mv -- "requirements/$name.txt.new" "requirements/$name.txt"
}

lock dev --extra train --extra dev --extra profile --extra curvature
lock train --extra train --constraint requirements/dev.txt
