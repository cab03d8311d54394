"""From a configuration to a decoder with its weights: our own where the family is known, else transformers' code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavo_runtime.model.collectives import Alone
from octavo_runtime.model.decoder import Decoder
from octavo_runtime.model.loader import load_weights, open_weights
from octavo_runtime.model.shard import WHOLE, shard_spec

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from octavo_kernels.interface import KernelBackend
    from octavo_runtime.model.collectives import Collectives
    from octavo_runtime.model.decoder import AnyDecoder
    from octavo_runtime.model.shard import Shard
    from octavo_runtime.model.spec import ModelInfo


def load_decoder(
    info: ModelInfo,
    backend: KernelBackend,
    *,
    device: torch.device,
    dtype: torch.dtype,
    max_len: int | None = None,
    shard: Shard = WHOLE,
    group: Collectives | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> AnyDecoder:
    """Load `info`'s weights. `max_len` is the longest sequence that will be served, where it is less than the model's.

    With a `shard` of more than one rank, which `check_divisible` has allowed, `group` joins it with the others.
    Raises `ModelUnsupported` when the weights do not fit the configuration, or no code here computes the architecture.
    """
    if info.decoder is None:
        from octavo_runtime.model.transformers_load import load_transformers  # noqa: PLC0415  transformers takes seconds to import

        return load_transformers(info, backend, device=device, dtype=dtype, progress=progress)
    source = open_weights(info, info.decoder)
    weights = load_weights(
        info, info.decoder, source, device=device, dtype=dtype, max_len=max_len, shard=shard, progress=progress
    )
    return Decoder(shard_spec(info.decoder, shard), weights, backend, dtype, group or Alone())
