"""ModelServers that an earlier chart and operator have made, and then today's: whose replicas are replaced?"""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cluster import ControlPlane
from kit.api_client import ApiClient
from soak import chart
from soak.goals import Goal
from soak.plane import (
    DEPLOYMENTS,
    ROOT,
    SERVERS,
    Operator,
    all_ready,
    create,
    kubelet,
    make_namespace,
    pods_by_server,
    replicas,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from soak.plane import Raw

EARLIER: Final = "35b4993"
"""No chart is released yet: a commit that somebody may run."""

_PVC: Final = {"source": {"pvc": {"claimName": "models", "path": "smol"}}}
SPECS: Final[tuple[Raw, ...]] = (
    {"replicas": 1, "model": _PVC},
    {"replicas": 2, "model": {"source": {"hub": {"repo": "org/model"}}}},
    {"model": {"source": {"s3": {"uri": "s3://models/smol"}}, "cache": {"pvc": {"claimName": "cache"}}}},
    {
        "model": _PVC,
        "accelerator": {"count": 1, "nodeSelector": {"gpu": "h100"}, "tolerations": [{"operator": "Exists"}]},
        "autoscaling": {"maxReplicas": 3, "targets": {"waitingPerReplica": 2}},
    },
    {
        "model": _PVC | {"servedName": "org/model", "maxModelLen": 2048, "dtype": "bfloat16"},
        "runtime": {
            "image": "example.invalid/own:2",
            "args": ["--block-size", "32"],
            "env": [{"name": "PLAIN", "value": "1"}],
            "maxNumSeqs": 8,
            "kvCache": {"size": "256Mi"},
            "resources": {"requests": {"cpu": "500m", "memory": "1024Mi"}, "limits": {"memory": "4Gi"}},
        },
        "drain": {"timeout": "5m"},
    },
)
"""What the earlier CRD has fields for: each source, a GPU, autoscaling, the runtime's settings."""


def run(count: int, earlier: str) -> Iterator[Goal]:
    """What an upgrade from the commit `earlier` does to `count` ModelServers whose specs do not change."""
    with ControlPlane.start() as plane, tempfile.TemporaryDirectory(prefix="octavo-upgrade-") as folder:
        old = Path(folder) / "earlier"
        _take_out(earlier, old)
        yield from asyncio.run(_measure(plane, count, old, Path(folder)))


def _take_out(commit: str, folder: Path) -> None:
    """The operator and the chart of a commit; needs a clone that has it."""
    folder.mkdir()
    command = ["git", "-C", str(ROOT), "archive", commit, "operator", "charts"]
    archive = subprocess.run(command, capture_output=True, check=True).stdout
    subprocess.run(["tar", "--extract", "--directory", str(folder)], input=archive, check=True)


async def _measure(plane: ControlPlane, count: int, old: Path, folder: Path) -> list[Goal]:
    async with ApiClient(plane.kubeconfig) as api, replicas(), kubelet(api):
        earlier = await _installed(plane, old / "charts/octavo", folder / "earlier", code=old / "operator")
        today: Operator | None = None
        try:
            make_namespace(plane)
            await earlier.start()
            await create(api, count, SPECS)
            await until(lambda: all_ready(api, count), 600, f"{count} ModelServers are ready")
            await earlier.stop()
            before = await _state(api)
            today = await _installed(plane, ROOT / "charts/octavo", folder / "today")
            await today.start()
            await until(lambda: today.total('reconciles_total{result="ok"}', at_least=count), 300, "all are looked at")
            lists = await today.number("resyncs_total")
            await until(
                lambda: today.total("resyncs_total", at_least=lists + 1), 300, "everything was listed once more"
            )
            await until(lambda: all_ready(api, count), 300, "all are ready")
            return list(_goals(f"{count} ModelServers after an upgrade", before, await _state(api)))
        finally:
            await earlier.stop()
            if today is not None:
                await today.stop()


async def _installed(plane: ControlPlane, folder: Path, scratch: Path, code: Path | None = None) -> Operator:
    """The operator with the rights and the settings of the chart in `folder`, which is installed or upgraded."""
    kubeconfig, environment = await asyncio.to_thread(chart.install, plane, folder, scratch)
    return Operator(kubeconfig, scratch / "operator.log", code=code, environment=environment)


async def _state(api: ApiClient) -> dict[str, tuple[Raw, set[str], int]]:
    """Of each ModelServer: the pod template, the pods, and the generation."""
    pods = await pods_by_server(api)
    templates = {item["metadata"]["name"]: item["spec"]["template"] for item in (await api.get(DEPLOYMENTS))["items"]}
    servers = (await api.get(SERVERS))["items"]
    names = [(item["metadata"]["name"], item["metadata"]["generation"]) for item in servers]
    return {name: (templates[name], pods[name], generation) for name, generation in names}


def _goals(name: str, before: Raw, after: Raw) -> Iterator[Goal]:
    for index, what in enumerate(("pod templates changed", "ModelServers with replaced pods", "specs changed")):
        changed = sorted(server for server in before if before[server][index] != after[server][index])
        words = f"{len(changed)} of {len(before)}" + (f" ({', '.join(changed[:5])})" if changed else "")
        yield Goal(f"{name}: {what}", "0", words, not changed)
