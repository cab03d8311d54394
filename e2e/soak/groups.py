"""What the soak of LeaderWorkerSet needs beside the operator: LeaderWorkerSet's controller, and nodes that are played.

The controller runs as an administrator, with its webhooks under an address of this machine and a certificate of ours.
"""

from __future__ import annotations

import asyncio
import subprocess
from base64 import b64encode
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import yaml

from cluster.ports import free_ports
from cluster.processes import start_child
from soak.plane import PODS, certificates, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from cluster.lws import LeaderWorkerSet
    from kit.api_client import ApiClient
    from soak.plane import Raw

NO_ROOM: Final = "0/{rooms} nodes are available: {rooms} Insufficient nvidia.com/gpu."


@dataclass(frozen=True)
class Administrator:
    """All rights on one API server of this machine."""

    kubectl: Path
    kubeconfig: Path
    pki: Path
    """The folder with its certificates."""


class Nodes:
    """Nodes with room for one pod each. Pods are ready as soon as they have one."""

    def __init__(self, api: ApiClient) -> None:
        self.rooms = 0
        self._api = api
        self._taken: dict[str, str] = {}
        """By pod uid: its name."""
        self._numbers = iter(range(1, 1 << 16))

    async def play(self) -> None:
        while True:
            with suppress(aiohttp.ClientResponseError):  # a pod is gone already
                await self._look()
            await asyncio.sleep(0.2)

    async def _look(self) -> None:
        pods = {pod["metadata"]["uid"]: pod for pod in (await self._api.get(PODS))["items"]}
        self._taken = {uid: name for uid, name in self._taken.items() if uid in pods}
        for uid, pod in pods.items():
            path = f"{PODS}/{pod['metadata']['name']}"
            if "deletionTimestamp" in pod["metadata"]:
                await self._api.delete(path, {"gracePeriodSeconds": 0})
            elif uid not in self._taken and len(self._taken) < self.rooms:
                await self._api.patch(f"{path}/status", {"status": running(next(self._numbers))})
                self._taken[uid] = pod["metadata"]["name"]
            elif uid not in self._taken and not pod["status"].get("conditions"):
                words = NO_ROOM.format(rooms=self.rooms)
                waits = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}
                await self._api.patch(f"{path}/status", {"status": {"conditions": [waits]}})


@asynccontextmanager
async def played(api: ApiClient) -> AsyncIterator[Nodes]:
    nodes = Nodes(api)
    async with asyncio.TaskGroup() as group:
        playing = group.create_task(nodes.play())
        yield nodes
        playing.cancel()


@contextmanager
def controller(built: LeaderWorkerSet, api: Administrator, folder: Path) -> Iterator[None]:
    """Its process, its CRDs, and its webhooks under an address of this machine."""
    port, probes = free_ports(2)
    trusted = certificates(api.pki, folder / "certificates")
    kubectl = [str(api.kubectl), f"--kubeconfig={api.kubeconfig}"]
    manifests = [*(yaml.safe_load(path.read_text()) for path in built.crds), *_webhooks(built, port, trusted)]
    text, quiet = yaml.safe_dump_all(manifests), subprocess.DEVNULL
    subprocess.run([*kubectl, "apply", "--server-side", "-f", "-"], input=text, text=True, check=True, stdout=quiet)
    subprocess.run([*kubectl, "wait", "--for=condition=Established", "crd", "--all"], check=True, stdout=quiet)
    config = folder / "lws.yaml"
    config.write_text(yaml.safe_dump(_configuration(port, probes, trusted)))
    command = ["env", f"KUBECONFIG={api.kubeconfig}", str(built.manager), f"--config={config}"]
    child = start_child("lws", [*command, "--metrics-bind-address=0", "--leader-elect=false"], folder)
    try:
        yield
    finally:
        # Its webhooks, without it, would refuse every pod.
        subprocess.run(
            [*kubectl, "delete", "--ignore-not-found", "-f", "-"], input=text, text=True, check=False, stdout=quiet
        )
        child.kill()
        child.wait()


def _configuration(port: int, probes: int, trusted: Path) -> Raw:
    return {
        "apiVersion": "config.lws.x-k8s.io/v1alpha1",
        "kind": "Configuration",
        "webhook": {"host": "127.0.0.1", "port": port, "certDir": str(trusted)},
        "health": {"healthProbeBindAddress": f"127.0.0.1:{probes}"},
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False},
    }


def _webhooks(built: LeaderWorkerSet, port: int, trusted: Path) -> Iterator[dict[str, Any]]:
    """As its authors install them, but for where they are."""
    authority = b64encode((trusted / "ca.crt").read_bytes()).decode()
    for manifest in yaml.safe_load_all(built.webhooks.read_text()):
        for webhook in manifest["webhooks"]:
            path = webhook["clientConfig"]["service"]["path"]
            webhook["clientConfig"] = {"url": f"https://127.0.0.1:{port}{path}", "caBundle": authority}
        yield manifest
