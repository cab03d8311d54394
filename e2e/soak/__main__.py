"""Run the soaks, or one of them. Exit status 1 when a goal is missed."""

from __future__ import annotations

import argparse
import signal
import sys
from functools import partial
from typing import TYPE_CHECKING

from soak import (
    bursts,
    cancels,
    costs,
    deaf,
    drains,
    engine_kills,
    fleet,
    images,
    keda,
    longer,
    lws,
    memory,
    nodes,
    outage,
    ramps,
    schemas,
    spread,
    upgrade,
)
from soak.goals import report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from soak.goals import Goal

RUNNERS = ("sim", "torch")
SOAKS = (
    "kills", "cancels", "fleet", "api-kills", "api-faults", "deaf", "election", "costs", "traces", "outage",
    "upgrade", "schemas", "keda", "lws", "images", "spread", "ramps", "bursts", "drains", "memory",
    "nodes",
)  # fmt: skip


def main() -> int:
    options = _parse(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that servers are ended
    runners = RUNNERS if options.runner is None else (options.runner,)
    soaks: dict[str, list[Callable[[], Iterable[Goal]]]] = {
        "kills": [partial(engine_kills.run, runner, options.count or 50) for runner in runners],
        "cancels": [partial(cancels.run, runner, options.count or 2000) for runner in runners],
        "fleet": [partial(fleet.run, options.count or 1000, options.seconds or fleet.REST_SECONDS)],
        "api-kills": [longer.api_kills],
        "api-faults": [partial(longer.api_faults, options.seconds or 30)],
        "deaf": [partial(deaf.run, options.count or 2)],
        "election": [partial(longer.election, options.count or 20)],
        "costs": [costs.run],
        "traces": [partial(longer.traces, options.count or 10_000)],
        "outage": [partial(outage.run, (options.seconds,) if options.seconds else (60, 600))],
        "upgrade": [partial(upgrade.run, options.count or 20, options.earlier)],
        "schemas": [schemas.run],
        "keda": [keda.run],
        "lws": [lws.run],
        "images": [images.run],  # before what leaves a node up
        "spread": [spread.run],
        "ramps": [partial(ramps.run, options.count or 2)],
        "bursts": [partial(bursts.run, options.count or 3)],
        "drains": [drains.run],
        "memory": [memory.stalled_readers, memory.overhead],
        "nodes": [partial(nodes.run, options.count or 6)],
    }
    chosen = soaks if options.soak is None else {options.soak: soaks[options.soak]}
    met = [report(soak()) for group in chosen.values() for soak in group]
    return 0 if all(met) else 1


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("soak", nargs="?", choices=SOAKS, help="default: all of them")
    parser.add_argument("--runner", choices=RUNNERS, help="sim: no weights; torch: SmolLM2-135M; default: both")
    parser.add_argument(
        "--count",
        type=int,
        help="kills (default 50; nodes: 6), cancels (default 2000), ramps (default 2), bursts of each of ten "
        "ModelServers (default 3), ModelServers (default 1000; upgrade: 20), silences (deaf: 2), ends of a leader "
        "(election: 20), traces (default 10000)",
    )
    parser.add_argument(
        "--seconds", type=int, help="outage (default: one of 60 s, one of 600 s), api-faults (30), fleet: its rest"
    )
    parser.add_argument(
        "--earlier", default=upgrade.EARLIER, help="commit to upgrade from (default: %(default)s; needs a full clone)"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
