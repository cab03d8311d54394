#!/usr/bin/env bash
# Makes the developer's environment: bootstrap.sh VENV. Safe to run again at any time.
set -euo pipefail
venv=$1
here=$(cd "$(dirname "$0")/.." && pwd)

fail() { echo "setup: $*" >&2; exit 1; }
python=$(command -v python3) || fail "python3 is missing: apt-get install python3 python3-venv"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "python3 is $("$python" -V), 3.11 or newer is needed"

if [ ! -x "$venv/bin/pip" ]; then
  # One that was cut short is made anew; one that somebody filled without pip is not ours to clear.
  filled=$(compgen -G "$venv/lib/python*/site-packages/*.dist-info" | grep -v '/pip-' | head -n 1 || true)
  [ -z "$filled" ] || fail "$venv has packages and no pip, so it was not made by this script: move it away"
  if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    # Debian packs the venv module apart from python3.
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || fail "python3's venv module is missing: sudo apt-get install python3-venv"
    echo "setup: installing python3-venv"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null
  fi
  echo "setup: creating $venv"
  "$python" -m venv --clear "$venv"
fi
if ! command -v "${CXX:-g++}" >/dev/null && ! command -v c++ >/dev/null; then
  # For kernels/native. Without it everything works, but slower on a CPU.
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "setup: installing g++"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends g++ >/dev/null
  else
    echo "setup: no C++ compiler is here, so the CPU kernels are left out: sudo apt-get install g++"
  fi
fi
"$venv/bin/pip" install --quiet --require-hashes -r "$here/requirements/bootstrap.txt"
echo "setup: installing the locked dependencies (torch brings about 6 GB at the first time)"
VIRTUAL_ENV=$venv "$venv/bin/uv" pip sync --require-hashes "$here/requirements/dev.txt" "$here/requirements/bootstrap.txt"
VIRTUAL_ENV=$venv "$venv/bin/uv" pip install --quiet --no-deps --no-build-isolation \
  -e "$here/kernels" -e "$here/runtime" -e "$here/operator"
