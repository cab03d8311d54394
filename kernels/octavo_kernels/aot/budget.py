"""The budget: what each configuration may need, recorded beside the code, and what no configuration may do."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from octavo_kernels.aot.figures import SHARED_PER_BLOCK, Figures

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from octavo_kernels.aot.configurations import Kind

BUDGET_FILE: Final = Path(__file__).with_name("budget.json")
_INSTRUCTION_TOLERANCE: Final = 0.05  # a compiler's mood; a load that is no longer vectorised costs far more
_DECODE_TILES: Final = 2  # on their way while one is computed: one leaves the memory idle between tiles

_READ_SHARED: Final = {"HGMMA", "UTCHMMA", "UTCQMMA"}  # wgmma of sm_90, tcgen05 of sm_100

Key = tuple[str, int]  # a configuration's name, an architecture


@dataclass(frozen=True, slots=True)
class Budget:
    """What was recorded, with which Triton, and why it last changed."""

    triton: str
    reason: str
    figures: dict[Key, Figures]


def violations(
    kind: Kind, architecture: int, found: Figures, *, copy_bits: int = 128, programs: int = 0, boxes: bool = False
) -> Iterator[str]:
    """Rules that need no record: what is wrong on this architecture whatever it was before.

    `copy_bits` is the least width of an asynchronous copy: 64 for e4m3, which Triton lays out in shared memory by
    eights for products of 16-bit numbers; else 128. `programs` are launched per multiprocessor to run at once. `boxes`:
    keys and values come through tensor descriptors, not pointers.
    """
    if found.shared > SHARED_PER_BLOCK[architecture]:
        yield f"shared memory {found.shared} is more than the {SHARED_PER_BLOCK[architecture]} bytes of a block"
    if found.local or found.stack:
        yield f"registers spill: {found.local} local loads and stores, {found.stack} bytes of stack"
    if kind == "copy" and "128" not in found.loads:
        yield f"no load of 16 bytes: {found.loads}"
    if kind in {"copy", "scatter"}:
        return
    if not found.products and kind != "exact":
        yield "no tensor-core instruction"
    yield from _box_violations(found) if boxes else _pointer_violations(found, copy_bits)
    if kind == "decode":
        yield from _decode_violations(found, programs)


def _box_violations(found: Figures) -> Iterator[str]:
    """Where there is no such hardware, Triton makes descriptors' loads of ordinary ones without a word; and products
    that do not read shared memory themselves take each box through registers.
    """
    if set(found.async_copies) != {"tma"}:
        yield f"tensor descriptors, and copies other than the tensor memory accelerator's: {found.async_copies}"
    if not any(family in _READ_SHARED for family in found.products):
        yield f"tensor descriptors, and no product that reads shared memory: {found.products}"


def _pointer_violations(found: Figures, copy_bits: int) -> Iterator[str]:
    if not found.async_copies or "tma" in found.async_copies:
        yield f"pointers, and no asynchronous copy by threads: {found.async_copies}"
    elif any(int(bits) < copy_bits for bits in found.async_copies):
        yield f"asynchronous copies narrower than {copy_bits // 8} bytes: {found.async_copies}"


def _decode_violations(found: Figures, programs: int) -> Iterator[str]:
    if found.blocks_per_sm < programs:
        yield f"{found.blocks_per_sm} blocks run at once, with {found.registers} registers; {programs} are launched"
    if found.tiles_in_flight < _DECODE_TILES:
        yield f"{found.tiles_in_flight} tiles of keys and values in flight, at least {_DECODE_TILES} for decode"


def changes(before: Figures | None, after: Figures) -> Iterator[str]:
    """How `after` differs from what was recorded, in words with both numbers."""
    if before is None:
        yield "is not in the budget"
        return
    old, new = asdict(before), asdict(after)
    for name, value in new.items():
        if value != old[name] and not (name == "instructions" and _alike(old[name], value)):
            yield f"{name}: {old[name]} before, {value} now"


def _alike(before: int, after: int) -> bool:
    return abs(after - before) <= before * _INSTRUCTION_TOLERANCE


def read_budget(file: Path = BUDGET_FILE) -> Budget:
    content = json.loads(file.read_text())
    figures = {(entry.pop("name"), entry.pop("architecture")): Figures(**entry) for entry in content["figures"]}
    return Budget(content["triton"], content["reason"], figures)


def write_budget(budget: Budget, file: Path = BUDGET_FILE) -> None:
    """One line per configuration and architecture, so that a difference can be read."""
    head = {"triton": budget.triton, "reason": budget.reason}
    lines = [
        json.dumps({"name": name, "architecture": architecture, **_recorded(found)})
        for (name, architecture), found in sorted(budget.figures.items())
    ]
    file.write_text(json.dumps(head)[:-1] + ', "figures": [\n' + ",\n".join(lines) + "\n]}\n")


def _recorded(found: Figures) -> dict[str, object]:
    """Without the loads where they are not counted."""
    return {name: value for name, value in asdict(found).items() if name != "loads" or value}


def missing(budget: Budget, measured: Mapping[Key, Figures]) -> list[str]:
    """Configurations that the budget has and nobody compiles any more."""
    return [
        f"{name} on sm_{architecture} is in the budget only"
        for name, architecture in budget.figures.keys() - measured.keys()
    ]
