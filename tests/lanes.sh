#!/usr/bin/env bash
# All tests, in lanes side by side: those that talk to an API server wait more than they compute.
# The last lane is shown as it goes, the others when they are over. Arguments go to every pytest.
set -uo pipefail
cd "$(dirname "$0")/.."
faults=tests/control/apiserver/test_faults.py
lanes=(
	"$faults"
	"tests/control/apiserver --ignore=$faults"
	"tests/control tests/cluster --ignore=tests/control/apiserver"
	"tests --ignore=tests/control --ignore=tests/cluster"
)

run() { .venv/bin/python -m pytest $1 "${@:2}"; }  # the lane is several words

logs=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null; rm -rf "$logs"' EXIT
for lane in "${!lanes[@]}"; do
	((lane == ${#lanes[@]} - 1)) && break
	run "${lanes[$lane]}" "$@" >"$logs/$lane" 2>&1 &
	pids+=($!)
done
run "${lanes[-1]}" "$@"
status=$?
for lane in "${!pids[@]}"; do
	echo "waiting for ${lanes[$lane]}"
	wait "${pids[$lane]}" || status=1
	cat "$logs/$lane"
done
exit "$status"
