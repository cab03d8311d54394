"""From a configuration to a decoder with its weights: our own where the family is known, else transformers' code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavo_runtime.model.decoder import Decoder
from octavo_runtime.model.loader import load_weights, open_weights

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from octavo_kernels.interface import KernelBackend
    from octavo_runtime.model.decoder import AnyDecoder
    from octavo_runtime.model.spec import ModelInfo


def load_decoder(
    info: ModelInfo,
    backend: KernelBackend,
    *,
    device: torch.device,
    dtype: torch.dtype,
    max_len: int | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> AnyDecoder:
    """Load `info`'s weights. `max_len` is the longest sequence that will be served, where it is less than the model's.

    Raises `ModelUnsupported` when the weights do not fit the configuration, or no code here computes the architecture.
    """
    if info.decoder is None:
        from octavo_runtime.model.transformers_load import load_transformers  # noqa: PLC0415  transformers takes seconds to import

        return load_transformers(info, backend, device=device, dtype=dtype, progress=progress)
    source = open_weights(info, info.decoder)
    weights = load_weights(info, info.decoder, source, device=device, dtype=dtype, max_len=max_len, progress=progress)
    return Decoder(info.decoder, weights, backend, dtype)
