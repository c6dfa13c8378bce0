#!/usr/bin/env bash
# Trains on the handwritten digits that come with scikit-learn, beside the same net by autograd, and writes what came of
# it to runs/digits in the current folder. Makes its own environment first. All arguments go to
# `python -m torch_manual_bp train` (see --help there): other data, another net, another folder.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_environment.sh"
prepare_environment train
exec "$venv/bin/python" -m torch_manual_bp train "$@"
