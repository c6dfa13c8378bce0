# Sourced by demo.sh, test.sh and .ci/run: the virtual environment that they share, made or brought up to date.
#
#   prepare_environment train|dev    then "$venv/bin/python" has the pinned dependencies and this package
#
# PYTHON    the Python to make it with (otherwise the first of python3, python3.14 … python3.10 that will do)
# TMB_VENV  where it is (otherwise .venv in the project)
# shellcheck shell=bash

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
venv=${TMB_VENV:-$root/.venv}
marker=$venv/.torch_manual_bp # tells our environment from one that somebody else made

say() { printf '%s\n' "$*" >&2; }
die() {
  say "error: $*"
  exit 1
}

# Whether a command is a Python ≥ 3.10 that can make environments; what it lacks goes to $lacks.
will_do() {
  local python=$1
  if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then
    lacks="Python 3.10 or later"
  elif ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
    lacks="$python's venv module (Debian, Ubuntu: apt install python3-venv)"
  else
    lacks=""
  fi
  [ -z "$lacks" ]
}

# Prints the Python to use.
find_python() {
  local lacks="" missing="" candidate
  if [ -n "${PYTHON:-}" ]; then
    will_do "$PYTHON" || die "PYTHON=$PYTHON will not do: missing $lacks"
    printf '%s\n' "$PYTHON"
    return
  fi
  for candidate in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python; do
    if command -v "$candidate" >/dev/null; then
      if will_do "$candidate"; then
        printf '%s\n' "$candidate"
        return
      fi
      # of several, the one that lacks only venv is the nearest to being mended
      case $lacks in *venv*) missing=$lacks ;; esac
    fi
  done
  die "missing ${missing:-Python 3.10 or later (or name one: PYTHON=/path/to/python)}"
}

# Prints the C++ compiler, or nothing.
find_compiler() {
  local candidate
  for candidate in ${CXX:+"$CXX"} c++ g++ clang++; do
    if command -v "${candidate%% *}" >/dev/null; then
      printf '%s\n' "$candidate"
      return
    fi
  done
}

make_venv() {
  if [ -e "$venv" ] && [ ! -e "$marker" ]; then
    die "$venv is there and was not made by this script; remove it, or choose another place: TMB_VENV=/path/to/folder"
  fi
  if [ -x "$venv/bin/python" ] && will_do "$venv/bin/python"; then
    return
  fi
  local python
  python=$(find_python)
  say "Making the environment $venv ($("$python" --version))"
  rm -rf -- "$venv"
  mkdir -p -- "$venv" 2>/dev/null || die "cannot write to $(dirname -- "$venv"); choose another place: TMB_VENV=/path/to/folder"
  touch -- "$marker"
  "$python" -m venv "$venv" || die "$python could not make the environment $venv"
}

# Runs a command that says little when all goes well; its last words are shown when it fails.
quietly() {
  local trouble=$1 log=$venv/setup.log
  shift
  if ! "$@" >"$log" 2>&1; then
    tail -n 15 -- "$log" >&2
    die "$trouble; all it said is in $log"
  fi
}

# A checksum of what the standard input lists, one file a line, with the words given.
stamp_of() {
  {
    printf '%s\n' "$@"
    while IFS= read -r file; do cat -- "$root/$file" 2>/dev/null || true; done
  } | cksum
}

# Runs a step unless its stamp says that it was done with the very same ingredients.
once() {
  local name=$1 stamp=$2
  shift 2
  if [ "$(cat -- "$venv/.done-$name" 2>/dev/null)" != "$stamp" ]; then
    rm -f -- "$venv/.done-$name"
    "$@"
    printf '%s\n' "$stamp" >"$venv/.done-$name"
  fi
}

install_pinned() {
  local offline="pip could not install the pinned dependencies (is this machine online?)"
  say "Installing the pinned dependencies (requirements/$1.txt); the first time this takes minutes"
  # torch by itself and first, so that pip's own settings decide which build of it (CPU, CUDA) is taken
  quietly "$offline" "$venv/bin/python" -m pip install --disable-pip-version-check -r "$root/requirements/torch.txt"
  quietly "$offline" "$venv/bin/python" -m pip install --disable-pip-version-check -r "$root/requirements/$1.txt"
}

build() {
  if [ -n "$1" ]; then
    say "Building the extension with $1"
  else
    say "No C++ compiler found (c++, g++, clang++): going on in plain Python, slower, with the same results."
    say "To get the fused kernels, install one (Debian, Ubuntu: apt install g++) and run this again."
  fi
  quietly "the extension could not be built" \
    env ${1:+CXX="$1"} "$venv/bin/python" -m pip install --disable-pip-version-check --no-build-isolation --no-deps -e "$root"
}

# The environment with what "train" or "dev" needs, and this package in it; nothing is done twice.
prepare_environment() {
  local group=$1 compiler sources pins
  make_venv
  if command -v flock >/dev/null; then # two scripts at once take turns
    exec 9>"$venv/.lock"
    flock 9
  fi
  pins=$(printf '%s\n' requirements/torch.txt "requirements/$group.txt")
  once "$group" "$(stamp_of "$group" <<<"$pins")" install_pinned "$group"
  # dev holds all that train holds, at the same versions
  if [ "$group" = dev ]; then
    once train "$(stamp_of train < <(printf '%s\n' requirements/torch.txt requirements/train.txt))" true
  fi
  compiler=$(find_compiler)
  sources=$(cd -- "$root" && { find csrc -type f | LC_ALL=C sort; printf '%s\n' setup.py pyproject.toml requirements/torch.txt; })
  once build "$(stamp_of "$root" "$compiler" "${TMB_FORCE_CUDA:-}" "$(command -v nvcc || true)" <<<"$sources")" \
    build "$compiler"
  if command -v flock >/dev/null; then
    exec 9>&-
  fi
}
