"""Burst to decision: from a load that jumps to the write of more replicas. One JSON line.

Run as `python operator/bench/burst.py [--servers 60] [--waiting 30] [--periodic]`. Fake replicas on loopback addresses,
one of each ModelServer; the real scraper, work queue and reconcile; a cluster in memory that takes every write at once.
After a rest of 12 s, which fills the windows and counts the writes of an operator with nothing to do, each ModelServer
has one burst, at random moments of 40 s. `--periodic` leaves out that the scraper tells of a jump, for comparison.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import copy
import json
import platform
import random
import time
from dataclasses import dataclass, field
from typing import Any

from octavo_operator.core import names
from octavo_operator.health import Health
from octavo_operator.metrics import Metrics
from octavo_operator.reconcile import Reconciler
from octavo_operator.recorder import Recorder
from octavo_operator.scraper import Scraper
from octavo_operator.settings import read_settings
from octavo_operator.store import Key, Store
from octavo_operator.workqueue import WorkQueue

REST_SECONDS, BURST_SECONDS, LAST_SECONDS = 12.0, 40.0, 20.0
BOUNDS = {"minReplicas": 1, "maxReplicas": 8, "targets": {"kvUtilizationPercent": 70, "waitingPerReplica": 3}}


@dataclass
class World:
    """What the replicas say, when each burst began, and when it was answered; a cluster of which the operator knows."""

    waiting: int
    began: dict[str, float] = field(default_factory=dict)
    decided: dict[str, float] = field(default_factory=dict)
    calls: int = 0

    def text(self, name: str) -> bytes:
        """The metrics of a ModelServer's replica."""
        load = (32, self.waiting, 90_000) if name in self.began else (1, 0, 3_000)
        kinds = (names.METRIC_RUNNING, names.METRIC_WAITING, names.METRIC_KV_USED)
        lines = [f"{kind} {value}" for kind, value in zip(kinds, load, strict=True)]
        return "\n".join([*lines, f"{names.METRIC_KV_CAPACITY} 100000", ""]).encode()

    async def get(self, *_: str) -> None:
        """Nothing is there that the store does not know."""
        self.calls += 1

    async def apply(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Takes a child, and the time of a Deployment's second replica."""
        name = manifest["metadata"]["name"]
        if manifest["kind"] == "Deployment" and manifest["spec"]["replicas"] > 1:
            self.decided.setdefault(name, time.monotonic())
        return self._stamped(manifest)

    async def apply_status(self, server: dict[str, Any], status: dict[str, Any]) -> dict[str, Any]:
        """Takes a status."""
        return self._stamped({**server, "status": status})

    async def create_event(self, *_: object) -> None:
        """Takes an event."""
        self.calls += 1

    def _stamped(self, raw: dict[str, Any]) -> dict[str, Any]:
        self.calls += 1
        raw = copy.deepcopy(raw)
        raw["metadata"]["resourceVersion"] = str(1000 + self.calls)
        return raw


def objects(name: str, address: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A ModelServer and its only pod, ready long since."""
    spec = {"model": {"source": {"pvc": {"claimName": "models"}}}, "autoscaling": BOUNDS}
    metadata = {"name": name, "namespace": "default", "uid": name, "resourceVersion": "1", "generation": 1}
    server = {"apiVersion": f"{names.GROUP}/{names.VERSION}", "kind": names.KIND, "metadata": metadata, "spec": spec}
    labels = {names.LABEL_MODEL_SERVER: name}
    condition = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    about = {"name": f"{name}-1", "namespace": "default", "uid": f"pod-{name}", "resourceVersion": "1"}
    status = {"phase": "Running", "podIP": address, "conditions": [condition]}
    return server, {"kind": "Pod", "metadata": {**about, "labels": labels}, "status": status}


async def serve(world: World, name: str, address: str) -> None:
    """One replica."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while await reader.readuntil(b"\r\n\r\n"):
                body = world.text(name)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    await asyncio.start_server(handle, address, names.PORT)


async def measure(servers: int, waiting: int, *, periodic: bool) -> dict[str, Any]:
    """Bursts and what they took, in seconds."""
    world, store, metrics, health = World(waiting), Store(), Metrics(), Health(time.monotonic)
    queue = WorkQueue(metrics, health)
    tell = (lambda _key, _delay: None) if periodic else queue.add
    settings = read_settings({"OCTAVO_RUNTIME_IMAGE": "example.invalid/runtime:1"})
    scraper = Scraper(store, metrics, health, settings.scrape_period, tell)
    recorder = Recorder(world, "bench")  # type: ignore[arg-type]  the calls of a Cluster that are made here
    parts = {"samples": scraper, "recorder": recorder, "metrics": metrics, "settings": settings}
    reconciler = Reconciler(world, store, **parts)  # type: ignore[arg-type]
    all_names = [f"chat-{number}" for number in range(servers)]
    for number, name in enumerate(all_names):
        address = f"127.77.{number // 250}.{number % 250 + 1}"
        await serve(world, name, address)
        for raw in objects(name, address):
            store.put(raw)
        queue.add(Key("default", name), random.uniform(0, settings.decide_period))
    work = [asyncio.create_task(queue.run(reconciler.reconcile, settings.workers)), asyncio.create_task(scraper.run())]
    await asyncio.sleep(REST_SECONDS)
    before = world.calls
    await asyncio.sleep(REST_SECONDS)
    at_rest = world.calls - before
    await asyncio.gather(*(burst(world, name) for name in all_names))
    await asyncio.sleep(LAST_SECONDS)
    for task in work:
        task.cancel()
    return {**quantiles(world), "calls_per_second_at_rest": round(at_rest / REST_SECONDS, 2)}


async def burst(world: World, name: str) -> None:
    """The load of a ModelServer jumps, some time."""
    await asyncio.sleep(random.uniform(0, BURST_SECONDS))
    world.began[name] = time.monotonic()


def quantiles(world: World) -> dict[str, Any]:
    """p50, p99 and the longest of the bursts that were answered, and how many were."""
    took = sorted(world.decided[name] - began for name, began in world.began.items() if name in world.decided)
    if not took:
        return {"decided": 0}
    at = {"p50_s": 0.5, "p99_s": 0.99, "max_s": 1.0}
    found = {name: round(took[max(0, -(-round(share * 100) * len(took) // 100) - 1)], 2) for name, share in at.items()}
    return {"decided": len(took), **found}


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=int, default=60)
    parser.add_argument("--waiting", type=int, default=30, help="requests in the queue of the replica from then on")
    parser.add_argument("--periodic", action="store_true")
    args = parser.parse_args()
    figures = asyncio.run(measure(args.servers, args.waiting, periodic=args.periodic))
    result = {"bench": "burst", **vars(args), **figures, "python": platform.python_version()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
