#!/usr/bin/env bash
# All tests, in lanes side by side: those that talk to an API server wait more than they compute. What is in which lane
# is a matter of when they end, about the same time.
# The last lane is shown as it goes, the others when they are over. Arguments go to every pytest.
set -uo pipefail
cd "$(dirname "$0")/.."
apiserver=tests/control/apiserver
long="$apiserver/test_faults.py $apiserver/test_external_scalers.py $apiserver/test_zero.py"
lanes=(
	"$long"
	"$apiserver $(printf -- '--ignore=%s ' $long)"
	"tests/control tests/cluster tests/attention --ignore=$apiserver"
	"tests --ignore=tests/control --ignore=tests/cluster --ignore=tests/attention"
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
