"""What scraping many replicas costs: fake replicas on loopback addresses in a process of their own. One JSON line.

Run as `python operator/bench/scrape.py [--replicas 500] [--rounds 10]`. The processor time is the scraper's alone, so a
busy machine changes it little.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import platform
import time
from typing import Any

import aiohttp
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from octavo_operator.core import names
from octavo_operator.health import Health
from octavo_operator.metrics import Metrics
from octavo_operator.scraper import Scraper
from octavo_operator.store import Key, Store

PERIOD = 2.0


def exposition() -> bytes:
    """As long as a runtime's: gauges, counters and four histograms, each under two names."""
    registry = CollectorRegistry()
    for prefix in ("octavo_", "vllm:"):
        for name in ("requests_running", "requests_waiting", "waiting_tokens", "kv_tokens_used", "draining"):
            Gauge(prefix + name, "Text.", ["model_name"], registry=registry).labels("chat").set(3)
        Gauge(prefix + "kv_tokens_capacity", "Text.", ["model_name"], registry=registry).labels("chat").set(100_000)
        for name in ("prompt_tokens", "generation_tokens", "preemptions", "engine_steps"):
            Counter(prefix + name, "Text.", ["model_name"], registry=registry).labels("chat").inc(1e6)
        for name in ("time_to_first_token", "inter_token_latency", "e2e_request_latency", "request_queue_time"):
            bounds = [0.005 * 2**step for step in range(16)]
            one = Histogram(f"{prefix}{name}_seconds", "Text.", ["model_name"], buckets=bounds, registry=registry)
            one.labels("chat").observe(0.3)
    return generate_latest(registry)


def serve(addresses: list[str], ready: Any) -> None:  # noqa: ANN401  multiprocessing's event
    """The replicas."""
    body = exposition()
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(answer)

    async def main() -> None:
        for address in addresses:
            await asyncio.start_server(handle, address, names.PORT)
        ready.set()
        await asyncio.Event().wait()

    asyncio.run(main())


def pod(address: str) -> dict[str, Any]:
    """A ready pod with that address."""
    labels = {names.LABEL_MODEL_SERVER: "chat"}
    condition = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    metadata = {"name": address, "namespace": "default", "uid": address, "resourceVersion": "1", "labels": labels}
    status = {"phase": "Running", "podIP": address, "conditions": [condition]}
    return {"kind": "Pod", "metadata": metadata, "status": status}


async def measure(addresses: list[str], rounds: int) -> dict[str, float]:
    """Processor seconds of the scraper per round, after one round that opens the connections."""
    store = Store()
    metadata = {"name": "chat", "namespace": "default", "uid": "1", "resourceVersion": "1"}
    scaled = {"autoscaling": {"mode": "Active", "maxReplicas": len(addresses), "targets": {"waitingPerReplica": 4}}}
    store.put({"kind": names.KIND, "metadata": metadata, "spec": scaled})  # what nobody scales is asked seldom
    for address in addresses:
        store.put(pod(address))
    scraper = Scraper(store, Metrics(), Health(time.monotonic), PERIOD, lambda _key, _delay: None)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=512)) as session:
        await scraper._scrape_all(session)  # noqa: SLF001  one round without the loop's pause
        start, spent = time.perf_counter(), time.process_time()
        for _ in range(rounds):
            await scraper._scrape_all(session)  # noqa: SLF001
        wall, spent = (time.perf_counter() - start) / rounds, (time.process_time() - spent) / rounds
    found = sum(1 for window in scraper.windows(Key("default", "chat")).values() if window.samples)
    return {"answered": found, "cpu_ms": round(1000 * spent), "wall_ms": round(1000 * wall)}


def main() -> None:
    """Prints the figures; `cores` is the share of one core at a scrape every 2 s."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    addresses = [f"127.77.{number // 250}.{number % 250 + 1}" for number in range(args.replicas)]
    ready = multiprocessing.Event()
    replicas = multiprocessing.Process(target=serve, args=(addresses, ready), daemon=True)
    replicas.start()
    ready.wait(30)
    try:
        figures = asyncio.run(measure(addresses, args.rounds))
    finally:
        replicas.terminate()
    cores = round(figures["cpu_ms"] / 1000 / PERIOD, 3)
    result = {"bench": "scrape", "replicas": args.replicas, **figures, "cores": cores}
    print(json.dumps(result | {"python": platform.python_version()}))


if __name__ == "__main__":
    main()
