"""A replica of three pods on the real node: LeaderWorkerSet's groups, CoreDNS' names, and our runtime in every pod.

One machine plays all nodes of a group. What the kubelet, the network and the names do is real, and so is the model:
three pods hold a third of it each.
"""

from __future__ import annotations

import json
import tempfile
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cluster import Progress, paths, versions
from cluster.coredns import coredns, corefile
from cluster.lws import leader_worker_set
from cluster.network import load_or_choose
from cluster.processes import start_child
from kit import install, prepare
from kit.kube import set_resource, wait_reachable, wait_until
from kit.load import Load
from soak.goals import Goal
from soak.groups import Administrator, controller

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kit.kube import Kube
    from kit.target import Target

NAMESPACE: Final = "octavo-spread"
NAME: Final = "spread"
NODES: Final = 3  # SmolLM2 has three KV heads
GPU: Final = "nvidia.com/gpu"  # counted by the scheduler, not there: the model runs on the CPU
SECONDS: Final = 900.0  # three ranks import torch at the same time, on one machine
TITLE: Final = f"LeaderWorkerSet {versions.LWS}, a replica of {NODES} pods on a node"


def run() -> Iterator[Goal]:
    """Builds what is missing the first time. The local node is brought up, and is left up."""
    progress = Progress()
    groups, names = leader_worker_set(paths(), progress), coredns(paths(), progress)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="octavo-spread-")))
        where, images = prepare.node()
        address = stack.enter_context(_names(names, where, folder))
        admin = Administrator(where.kube.bin_dir / "kubectl", where.kube.kubeconfig, paths().pki)
        stack.enter_context(controller(groups, admin, folder))
        stack.enter_context(_room(where.kube))
        install.install_chart(where.kube, operator_image=images.operator, runtime_image=images.runtime)
        stack.enter_context(prepare.demo_namespace(where, images, NAMESPACE))
        yield from _goals(where, _server(address))


def _goals(where: Target, server: dict[str, Any]) -> Iterator[Goal]:
    began = time.monotonic()
    where.kube.apply(server)
    prepare.wait_ready(where.kube, NAME, NAMESPACE, seconds=SECONDS)
    pods = _pods(where)
    words = f"{', '.join(sorted(pods))}; Ready after {time.monotonic() - began:.0f} s"
    yield Goal(f"{TITLE}: made", "a leader and two others, Ready", words, sorted(pods) == _expected(0))
    text = _answer(where)
    yield Goal(f"{TITLE}: a completion", "an answer", json.dumps(text), bool(text.strip()))

    where.kube.kubectl("delete", "pod", f"{NAME}-group-0-1", "-n", NAMESPACE, "--grace-period=0", "--force")
    wait_until("a group of new pods", lambda: _replaced(where, pods), seconds=SECONDS)
    again = _answer(where)
    yield Goal(f"{TITLE}: a worker is lost", "a new group, the same answer", json.dumps(again), again == text)

    old, url = _pods(where), where.url(NAME, NAMESPACE)
    with Load(url, NAME, users=1) as load:
        wait_until("a running stream", lambda: load.tally.pieces > 0, seconds=120)
        server["spec"]["runtime"]["maxNumSeqs"] = 3
        where.kube.apply(server)
        wait_until("a group of new pods", lambda: _replaced(where, old), seconds=SECONDS)
    lost, whole = len(load.tally.failed) + len(load.tally.cut), load.tally.finished
    words = f"{lost} of {whole + lost} lost"
    yield Goal(f"{TITLE}: a new spec under streams", "0 failed or cut", words, lost == 0 and whole > 0)

    where.kube.kubectl("delete", "modelserver", NAME, "-n", NAMESPACE)
    began = time.monotonic()
    wait_until("nothing to be left", lambda: not _pods(where) and not _groups(where), seconds=SECONDS)
    yield Goal(f"{TITLE}: deleted", "nothing left", f"nothing left after {time.monotonic() - began:.0f} s", met=True)


@contextmanager
def _names(program: Path, where: Target, folder: Path) -> Iterator[str]:
    """Cluster DNS on the node's own address, for the pods that ask there."""
    address = str(load_or_choose(paths().state).node)
    config = folder / "Corefile"
    config.write_text(corefile(address, Path("/etc/resolv.conf"), where.kube.kubeconfig))
    child = start_child("coredns", [program, "-conf", config], folder)
    try:
        yield address
    finally:
        child.kill()
        child.wait()


@contextmanager
def _room(kube: Kube) -> Iterator[None]:
    """GPUs for two groups."""
    set_resource(kube, GPU, 2 * NODES)
    try:
        yield
    finally:
        set_resource(kube, GPU, 0)


def _server(address: str) -> dict[str, Any]:
    """The demo's, spread; its pods ask the DNS at `address`, since the node's kubelet knows of none."""
    server = prepare.demo_server(NAME, NAMESPACE)
    spec = server["spec"]
    del spec["autoscaling"]
    searches = [f"{NAMESPACE}.svc.cluster.local", "svc.cluster.local", "cluster.local"]
    dns = {"nameservers": [address], "searches": searches, "options": [{"name": "ndots", "value": "5"}]}
    spec["replicas"] = 1
    spec["accelerator"] = {"count": 1, "nodes": NODES}
    spec["podTemplate"] = {"spec": {"dnsPolicy": "None", "dnsConfig": dns}}
    return server


def _expected(group: int) -> list[str]:
    return [f"{NAME}-group-{group}", *(f"{NAME}-group-{group}-{index}" for index in range(1, NODES))]


def _pods(where: Target) -> dict[str, str]:
    """The uids of the group's pods that are not going, by name."""
    items = where.kube.core.list_namespaced_pod(NAMESPACE).items
    return {pod.metadata.name: pod.metadata.uid for pod in items if pod.metadata.deletion_timestamp is None}


def _replaced(where: Target, old: dict[str, str]) -> bool:
    """Whether the group's pods are all new, and serve."""
    pods, view = _pods(where), where.kube.modelserver(NAME, NAMESPACE)
    fresh = len(pods) == NODES and not {*pods.values()} & {*old.values()}
    return fresh and view is not None and view.observed and view.ready


def _groups(where: Target) -> list[Any]:
    return list(json.loads(where.kube.kubectl("get", "leaderworkersets", "-n", NAMESPACE, "-o", "json"))["items"])


def _answer(where: Target) -> str:
    url = where.url(NAME, NAMESPACE)
    wait_reachable(url)
    body = {"model": NAME, "prompt": "The lighthouse keeper wrote", "max_tokens": 12, "temperature": 0}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return str(json.load(answer)["choices"][0]["text"])
