"""Compile every kernel configuration for every GPU served, and hold the result to the budget.

    python -m octavo_kernels.aot                           compare; exit status 1 when something changed or is wrong
    python -m octavo_kernels.aot --update "a reason"       record what is measured now

Needs no GPU. Must not run with TRITON_INTERPRET set.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

import triton

from octavo_kernels.aot.budget import Budget, changes, missing, read_budget, violations, write_budget
from octavo_kernels.aot.configurations import ARCHITECTURES, configurations
from octavo_kernels.aot.figures import measure
from octavo_kernels.aot.neighbours import neighbours

if TYPE_CHECKING:
    from octavo_kernels.aot.budget import Key
    from octavo_kernels.aot.figures import Figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", metavar="REASON", help="record what is measured now, and why it may change")
    reason = parser.parse_args().update
    measured, wrong = _measure_all()
    if reason is not None and not wrong:
        write_budget(Budget(triton.__version__, reason, measured))
        return 0
    if reason is None:
        wrong += _compare(measured)
    print("\n".join(wrong) or "all within the budget")
    return 1 if wrong else 0


def _measure_all() -> tuple[dict[Key, Figures], list[str]]:
    measured: dict[Key, Figures] = {}
    wrong: list[str] = []
    with ProcessPoolExecutor() as pool:
        for figures, broken in pool.map(_measure, ARCHITECTURES):
            measured |= figures
            wrong += broken
    return measured, wrong


def _measure(architecture: int) -> tuple[dict[Key, Figures], list[str]]:
    measured: dict[Key, Figures] = {}
    wrong: list[str] = []
    for configuration in (*configurations(architecture), *neighbours(architecture)):
        figures = measure(configuration, architecture)
        measured[configuration.name, architecture] = figures
        print(_line(configuration.name, architecture, figures), file=sys.stderr, flush=True)
        where = f"{configuration.name} on sm_{architecture}: "
        broken = violations(
            configuration.kind,
            architecture,
            figures,
            copy_bits=configuration.copy_bits,
            programs=configuration.programs,
            boxes=configuration.boxes,
        )
        wrong += [where + words for words in broken]
    return measured, wrong


def _compare(measured: dict[Key, Figures]) -> list[str]:
    budget = read_budget()
    wrong = missing(budget, measured)
    if budget.triton != triton.__version__:
        wrong.append(f"the budget was recorded with Triton {budget.triton}; this is {triton.__version__}")
    for key, figures in measured.items():
        where = f"{key[0]} on sm_{key[1]}: "
        wrong += [where + words for words in changes(budget.figures.get(key), figures)]
    return wrong


def _line(name: str, architecture: int, found: Figures) -> str:
    return (
        f"{name:38} sm_{architecture:<4} {found.registers:3} registers {found.shared >> 10:4} KiB "
        f"{found.blocks_per_sm} blocks/SM {found.bytes_in_flight * found.blocks_per_sm >> 10:4} KiB in flight/SM "
        f"{found.instructions:5} instructions  {found.products} {found.async_copies} local {found.local}"
    )


if __name__ == "__main__":
    sys.exit(main())
