#!/usr/bin/env bash
# Compiles the locks: exact versions with hashes, and no address of an index, so that they install from any mirror.
set -euo pipefail
cd "$(dirname "$0")/.."

lock() {
  local out=$1; shift
  uv pip compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links \
    --python-version 3.11 --python-platform x86_64-unknown-linux-gnu \
    --no-emit-package octavo-kernels --no-emit-package octavo-runtime --no-emit-package octavo-operator \
    --custom-compile-command 'make lock' "$@" -o "requirements/$out"
  echo "requirements/$out: $(grep -c '==' "requirements/$out") packages"
}

lock bootstrap.txt requirements/bootstrap.in
lock operator.txt operator/pyproject.toml
lock runtime.txt runtime/pyproject.toml kernels/pyproject.toml
lock dev.txt operator/pyproject.toml runtime/pyproject.toml kernels/pyproject.toml requirements/dev.in
