#!/usr/bin/env bash
# What no linter looks at: files that would shadow the standard library, and text that must not be committed.
set -euo pipefail
cd "$(dirname "$0")/.."
bad=0
say() { echo "check: $*" >&2; bad=1; }

inits=$(git ls-files --cached --others --exclude-standard 'operator/__init__.py' 'runtime/__init__.py' 'kernels/__init__.py' 'tests/*__init__.py')
[ -z "$inits" ] || say "these files would shadow the standard library or break collection: $inits"

[ -z "$(git ls-files 'uv.lock' '*/uv.lock')" ] || say "uv.lock names a registry; requirements/*.txt are the locks"

# Index options in any file, and addresses in the locks.
hosts=$(git grep -nIE '(^|[^-a-z])(--index-url|--extra-index-url|--find-links)[ =]+https?:' -- . ':!e2e/check_repository.sh' || true)
[ -z "$hosts" ] || say "a registry is named: $hosts"
locks=$(grep -nE '^[^#]*https?://' requirements/*.txt || true)
[ -z "$locks" ] || say "a lock names an address: $locks"

exit $bad
