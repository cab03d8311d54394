"""What attention costs in a decode step, by a run's measurements: no GPU needed.

    python -m octavo_kernels.bench RUN.json --batch 32 --context 4096 --layers 36 --heads 32/8 --head-dim 128

RUN.json is what kernels/bench/gpu.py has written. Prints one JSON line; seconds.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from octavo_kernels.bench.estimate import cost_models, decode_shape
from octavo_kernels.bench.shapes import CACHES

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        shape = decode_shape(options.batch, options.context, options.heads, options.head_dim, options.cache)
    except ValueError as error:
        parser.error(str(error))
    try:
        models = cost_models(json.loads(options.run.read_text()))
    except (OSError, ValueError) as error:
        sys.exit(f"{options.run}: {error}")
    if options.cache not in models:
        sys.exit(f"{options.run}: no cost model of caches in {options.cache}; there are: {', '.join(models) or 'none'}")
    model = models[options.cache]
    layer = model.seconds(shape.bytes_moved)
    told = {"layer": layer, "step": options.layers * layer, "bytes": shape.bytes_moved, "worst_error": model.worst}
    print(json.dumps(told))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m octavo_kernels.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN.json")
    parser.add_argument("--batch", type=int, required=True, help="sequences")
    parser.add_argument("--context", type=int, required=True, help="tokens of each")
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--heads", default="32/8", metavar="QUERY/KV")
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--cache", choices=CACHES, default="bf16")
    return parser


if __name__ == "__main__":
    main()
