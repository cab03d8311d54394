"""What a compiled kernel needs and does, read off its machine code: no GPU and no driver take part.

The tools (ptxas, cuobjdump, nvdisasm) come with Triton's wheel. The idea and the list of figures: a load that is no
longer vectorised, a pipeline that has lost a stage or a register that has moved to memory halves a kernel's speed, and
nothing fails (triton-lang/triton#11373, #9757).
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import triton
from triton.backends.compiler import GPUTarget

if TYPE_CHECKING:
    from octavo_kernels.aot.configurations import Configuration

_TOOLS: Final = Path(triton.__file__).parent / "backends/nvidia/bin"
_INSTRUCTION: Final = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+\s+)?([A-Z][A-Z0-9_.]*)")
_RESOURCES: Final = re.compile(r"REG:(\d+) STACK:(\d+)")
_BUFFERS: Final = re.compile(r"ttg\.local_alloc : \(\) -> !ttg\.memdesc<(\d+)x(\d+)x(\d+)x(\w+), [^>]*mutable>")
_BYTES: Final = {"bf16": 2, "f16": 2, "f32": 4, "f8E4M3FN": 1, "i8": 1}
_LOAD_BITS: Final = {"128": 128, "64": 64, "U16": 16, "S16": 16, "U8": 8, "S8": 8}  # none of them: 32
_REGISTERS_PER_SM: Final = 65536
_WARPS_PER_SM: Final = {80: 64, 89: 48, 90: 64, 100: 64}
_SHARED_PER_SM: Final = {80: 164 << 10, 89: 100 << 10, 90: 228 << 10, 100: 228 << 10}
_SHARED_RESERVED: Final = 1 << 10  # bytes that the system takes of each block's
SHARED_PER_BLOCK: Final = {
    80: 163 << 10,
    89: 99 << 10,
    90: 227 << 10,
    100: 227 << 10,
}  # bytes, CUDA's programming guide


@dataclass(frozen=True, slots=True)
class Figures:
    """One kernel on one architecture."""

    registers: int  # per thread
    stack: int  # bytes per thread
    local: int  # instructions that load from or store to local memory: spilled registers
    shared: int  # bytes per block
    blocks_per_sm: int  # that fit beside each other
    instructions: int
    async_copies: dict[str, int]  # cp.async instructions by their bits; TMA's under "tma"
    products: dict[str, int]  # tensor-core instructions by family
    # Tiles of keys and values on their way while one is computed; with products that read shared memory (HGMMA and
    # UTCHMMA) that one is counted too.
    tiles_in_flight: int
    bytes_in_flight: int  # of keys and values, per block
    loads: dict[str, int] = field(default_factory=dict)  # from memory to registers, by bits; of "copy" and "scatter"


def measure(configuration: Configuration, architecture: int) -> Figures:
    """Compile for `architecture` (such as 90) and read the result. Raises what Triton raises when it cannot compile."""
    target = GPUTarget("cuda", architecture, 32)
    compiled = triton.compile(configuration.source, target=target, options=configuration.options)
    machine_code, resources = _disassemble(compiled.asm["cubin"])
    registers, stack = read_resources(resources)
    buffers = read_buffers(compiled.asm["ttgir"])
    operations = count_operations(machine_code)
    shared = int(compiled.metadata.shared)
    return Figures(
        registers=registers,
        stack=stack,
        local=sum(count for name, count in operations.items() if name.startswith(("STL", "LDL"))),
        shared=shared,
        blocks_per_sm=blocks_per_sm(architecture, registers, int(compiled.metadata.num_warps), shared),
        instructions=operations.total(),
        async_copies=_async_copies(operations),
        products=_products(operations),
        tiles_in_flight=max((stages for stages, _ in buffers), default=0),
        bytes_in_flight=max((stages * size for stages, size in buffers), default=0) * 2,
        loads=count_loads(operations) if configuration.kind in {"copy", "scatter"} else {},
    )


def read_resources(text: str) -> tuple[int, int]:
    """Registers per thread and stack bytes, of cuobjdump's report."""
    found = _RESOURCES.search(text)
    assert found, f"no resource usage in {text!r}"
    return int(found[1]), int(found[2])


def count_operations(machine_code: str) -> Counter[str]:
    """How often each instruction stands in nvdisasm's listing."""
    return Counter(found[1] for found in _INSTRUCTION.finditer(machine_code))


def read_buffers(ttgir: str) -> list[tuple[int, int]]:
    """(stages, bytes of one stage) of every ring buffer that the pipeliner has made. Keys' and values' are alike."""
    return [
        (int(stages), int(rows) * int(columns) * _BYTES[kind])
        for stages, rows, columns, kind in _BUFFERS.findall(ttgir)
    ]


def blocks_per_sm(architecture: int, registers: int, num_warps: int, shared: int) -> int:
    """Blocks that one multiprocessor holds at a time (CUDA's occupancy rules: registers go in units of 256 a warp)."""
    per_warp = -(-registers * 32 // 256) * 256
    by_registers = _REGISTERS_PER_SM // (per_warp * num_warps)
    by_warps = _WARPS_PER_SM[architecture] // num_warps
    by_shared = _SHARED_PER_SM[architecture] // (shared + _SHARED_RESERVED)
    return min(by_registers, by_warps, by_shared)


def _async_copies(operations: Counter[str]) -> dict[str, int]:
    copies: Counter[str] = Counter()
    for name, count in operations.items():
        if name.startswith("LDGSTS"):
            copies[name.rsplit(".", 1)[-1] if name[-1].isdigit() else "32"] += count
        elif name.startswith("UTMALDG"):
            copies["tma"] += count
    return dict(sorted(copies.items()))


def count_loads(operations: Counter[str]) -> dict[str, int]:
    """Loads from global memory by their width in bits, the narrowest first."""
    loads: Counter[int] = Counter()
    for name, count in operations.items():
        parts = name.split(".")
        if parts[0] == "LDG":
            loads[next((bits for part, bits in _LOAD_BITS.items() if part in parts), 32)] += count
    return {str(bits): loads[bits] for bits in sorted(loads)}


def _products(operations: Counter[str]) -> dict[str, int]:
    products: Counter[str] = Counter()
    for name, count in operations.items():
        family = name.split(".", 1)[0]
        if family.endswith("MMA"):
            products[family] += count
    return dict(sorted(products.items()))


def _disassemble(cubin: bytes) -> tuple[str, str]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return _run("nvdisasm", "-c", file.name), _run("cuobjdump", "--dump-resource-usage", file.name)


def _run(tool: str, *arguments: str) -> str:
    return subprocess.run([_TOOLS / tool, *arguments], check=True, capture_output=True, text=True).stdout
