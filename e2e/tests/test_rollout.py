"""G13 on a real node: a rollout under streams finishes with 0, 1 and many free GPUs, and cuts none.

The node has no GPU: an extended resource of that name is written into its status, which scheduler and kubelet count
like one of a device plugin. Replicas run the simulated runner, so nothing computes on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from kit import figures
from kit.kube import set_resource, wait_reachable, wait_until
from kit.load import Load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kit.kube import Kube
    from kit.target import Target

NAME = "rolled"
GPU = "nvidia.com/gpu"
REPLICAS = 2
RUNTIME = {
    "args": ["--runner", "sim", "--sim-step-time", "0.02"],
    "maxNumSeqs": 4,
    "kvCache": {"size": "128Mi"},
    "resources": {"requests": {"cpu": "50m", "memory": "256Mi"}},
}


@pytest.fixture(scope="module")
def gpus(where: Target) -> Iterator[Callable[[int], None]]:
    """Sets their number; none are left behind."""
    if not where.kube.on_this_machine:
        pytest.skip("writes a made-up GPU into the node's status, which is for a node of one's own")
    yield lambda number: set_resource(where.kube, GPU, number)
    set_resource(where.kube, GPU, 0)


@pytest.fixture(scope="module")
def server(make: Callable[..., dict[str, Any]], namespace: str) -> Callable[[str], dict[str, Any]]:
    """The ModelServer; another word in its environment makes another revision."""

    def build(word: str) -> dict[str, Any]:
        runtime = RUNTIME | {"env": [{"name": "OCTAVO_E2E", "value": word}]}
        return make(NAME, namespace, replicas=REPLICAS, accelerator={"count": 1}, runtime=runtime)

    return build


@pytest.fixture(scope="module")
def url(
    where: Target, namespace: str, gpus: Callable[[int], None], server: Callable[[str], dict[str, Any]]
) -> Iterator[str]:
    gpus(REPLICAS)
    where.kube.apply(server("first"))
    wait_until("Ready", lambda: is_ready(where.kube, namespace), seconds=300)
    found = where.url(NAME, namespace)
    wait_reachable(found)
    yield found
    where.kube.kubectl("delete", "modelserver", NAME, "-n", namespace, "--wait=false")


def is_ready(kube: Kube, namespace: str) -> bool:
    view = kube.modelserver(NAME, namespace)
    return view is not None and view.ready


def pods(kube: Kube, namespace: str) -> set[str]:
    return {pod.metadata.name for pod in kube.pods(NAME, namespace)}


def surge(kube: Kube, namespace: str) -> int:
    deployment = kube.get("deployment", NAME, namespace)
    assert deployment is not None
    return int(deployment["spec"]["strategy"]["rollingUpdate"]["maxSurge"])


@pytest.mark.parametrize("free", [0, 1, 4])
def test_g13_a_rollout_finishes_and_cuts_no_stream(
    url: str,
    kube: Kube,
    namespace: str,
    gpus: Callable[[int], None],
    server: Callable[[str], dict[str, Any]],
    *,
    free: int,
) -> None:
    wait_until("the replicas alone", lambda: len(pods(kube, namespace)) == REPLICAS, seconds=180)
    gpus(REPLICAS + free)
    old, surges = pods(kube, namespace), set[int]()
    with Load(url, "smollm2", users=4) as load:
        wait_until("a running stream", lambda: load.tally.pieces > 0, seconds=180)
        kube.apply(server(f"with-{free}-free"))

        def rolled() -> bool:
            surges.add(surge(kube, namespace))
            found = pods(kube, namespace)
            return len(found) == REPLICAS and not found & old and is_ready(kube, namespace)

        wait_until("the new pods alone", rolled, seconds=600)
        before = load.tally.finished
        wait_until("streams from the new pods", lambda: load.tally.finished >= before + 4, seconds=180)
    load.tally.assert_whole()
    assert (0 in surges) == (free == 0), "in place where no GPU is free, and only there"
    wait_until("the next rollout to begin with a surge", lambda: surge(kube, namespace) == 1, seconds=180)
    figures.record(
        f"streams lost in a rollout with {free} free GPUs (counted, not real)",
        goal="0",
        value=f"0 of {load.tally.started}",
    )
