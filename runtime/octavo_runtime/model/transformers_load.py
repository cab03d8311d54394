"""Any other decoder-only architecture: built by transformers, and refused by name where its pages would be wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from octavo_kernels.interface import PagedBatch
from octavo_runtime.errors import ModelUnsupported
from octavo_runtime.model.decoder import LayerCache

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from octavo_kernels.interface import KernelBackend
    from octavo_runtime.model.decoder import AnyDecoder
    from octavo_runtime.model.spec import ModelInfo
    from octavo_runtime.model.transformers_decoder import TransformersDecoder

_PAGED_LAYERS: Final = {"full_attention", "sliding_attention", "chunked_attention"}
_CHECK_LENGTHS: Final = (9, 6)
_CHECK_CHUNKS: Final = ((5, 6), (4, 0))  # tokens of each sequence in each step
_CHECK_BLOCK: Final = 4
_TOLERANCE: Final = {torch.float32: 1e-3}  # of the logits' spread; other dtypes round, and a router may tip over
_ROUNDED_TOLERANCE: Final = 0.1


def load_transformers(
    info: ModelInfo,
    backend: KernelBackend,
    *,
    device: torch.device,
    dtype: torch.dtype,
    progress: Callable[[float], None],
) -> AnyDecoder:
    """Raises `ModelUnsupported` with the reason when transformers is not installed or does not know the architecture,
    when weights are missing or left over, or when the model on our pages does not compute what it computes by itself.
    """
    try:
        import transformers  # noqa: PLC0415  takes seconds
    except ModuleNotFoundError as error:
        raise ModelUnsupported(
            f"{info.architecture} is served by transformers' code, and transformers is not installed"
        ) from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = _load(transformers, info, dtype).to(device)
    progress(0.9)
    try:
        decoder = _on_pages(info, model, backend)
    except ModelUnsupported as error:
        raise ModelUnsupported(f"{info.path}: {info.architecture} has {error}, which is not served") from error
    _self_check(info, model, decoder, dtype)
    progress(1.0)
    return decoder


def _load(transformers: Any, info: ModelInfo, dtype: torch.dtype) -> Any:  # noqa: ANN401  transformers is untyped
    model_class = _model_class(transformers, info)
    try:
        model, report = model_class.from_pretrained(
            info.path,
            dtype=dtype,
            attn_implementation="eager",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        raise ModelUnsupported(f"{info.path}: transformers cannot load it: {error}") from error
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if left := sorted(map(str, report.get(kind) or ())):
            some = ", ".join(left[:3]) + (", …" if len(left) > 3 else "")
            raise ModelUnsupported(f"{info.path}: {len(left)} weights are {kind.partition('_')[0]}: {some}")
    return model.eval()


def _model_class(transformers: Any, info: ModelInfo) -> Any:  # noqa: ANN401
    try:
        config = transformers.AutoConfig.from_pretrained(info.path, local_files_only=True, trust_remote_code=False)
    except (ValueError, KeyError, OSError) as error:
        raise ModelUnsupported(f"{info.path}: transformers does not know {info.architecture}: {error}") from error
    model_class = transformers.MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if model_class is None or model_class.__name__ != info.architecture:
        raise ModelUnsupported(f"{info.path}: {info.architecture} is no causal language model of transformers")
    _refuse_by_config(info, config)
    return model_class


def _refuse_by_config(info: ModelInfo, config: Any) -> None:  # noqa: ANN401
    if getattr(config, "is_encoder_decoder", False) or getattr(config, "add_cross_attention", False):
        raise ModelUnsupported(
            f"{info.path}: {info.architecture} attends to an encoder; decoder-only models are served"
        )
    others = sorted(set(getattr(config, "layer_types", None) or ()) - _PAGED_LAYERS)
    if others:
        raise ModelUnsupported(
            f"{info.path}: {info.architecture} has layers of type {', '.join(others)}; attention over the whole "
            "context or a window is served"
        )


def _on_pages(info: ModelInfo, model: Any, backend: KernelBackend) -> TransformersDecoder:  # noqa: ANN401
    """Raises `ModelUnsupported` with what the model has that pages cannot do, as a noun phrase."""
    from octavo_runtime.model.transformers_attention import TRACE, Trace, register  # noqa: PLC0415
    from octavo_runtime.model.transformers_decoder import TransformersDecoder, run_flat  # noqa: PLC0415

    if getattr(model, "_is_stateful", False):
        raise ModelUnsupported("a recurrent state")
    if not model._can_set_attn_implementation():  # noqa: SLF001  the only way to ask
        raise ModelUnsupported("attention outside transformers' attention interface")
    register(info.max_positions)
    model.set_attn_implementation(TRACE)
    trace = Trace()
    tokens = torch.arange(3, device=model.device) % info.vocab_size
    try:
        with torch.inference_mode():
            run_flat(model, tokens, torch.arange(3, device=model.device), trace, tokens[:1] * 0)
    except (TypeError, AttributeError, ValueError, RuntimeError, IndexError) as error:
        if "TracedMask" in str(error):
            raise ModelUnsupported("attention masks of its own") from error
        raise ModelUnsupported(f"a forward pass that cannot be traced ({type(error).__name__}: {error})") from error
    if not trace.calls:
        raise ModelUnsupported("no attention that goes through transformers' attention interface")
    return TransformersDecoder(model, trace.calls, backend)


def _self_check(info: ModelInfo, model: Any, decoder: TransformersDecoder, dtype: torch.dtype) -> None:  # noqa: ANN401
    """Two short sequences, in chunks and side by side, must give the logits that the model gives for each by itself.

    A state beside attention's keys and values, a bias on scores or positions counted otherwise than by `position_ids`
    show here, whatever they are called in the code.
    """
    generator = torch.Generator().manual_seed(5)
    prompts = [torch.randint(info.vocab_size, (length,), generator=generator) for length in _CHECK_LENGTHS]
    paged = _paged_logits(decoder, [prompt.to(model.device) for prompt in prompts], model.device, dtype)
    own = _own_logits(model, prompts)
    difference = (paged - own).abs().max() / (own.max() - own.min())
    if not difference <= _TOLERANCE.get(dtype, _ROUNDED_TOLERANCE):
        raise ModelUnsupported(
            f"{info.path}: {info.architecture} computes something else on pages than by itself (logits differ by "
            f"{float(difference):.2g} of their range): it keeps more than keys and values between steps"
        )


def _own_logits(model: Any, prompts: Sequence[Tensor]) -> Tensor:  # noqa: ANN401
    from octavo_runtime.model.transformers_attention import PAGED  # noqa: PLC0415

    model.set_attn_implementation("eager")
    with torch.inference_mode():
        logits = [model(input_ids=prompt.to(model.device)[None], use_cache=False).logits[0] for prompt in prompts]
    model.set_attn_implementation(PAGED)
    return torch.cat(logits).float()


def _paged_logits(
    decoder: TransformersDecoder, prompts: Sequence[Tensor], device: torch.device, dtype: torch.dtype
) -> Tensor:
    """All logits of `prompts`, sequence after sequence, computed in `_CHECK_CHUNKS`."""
    num_blocks = len(prompts) * 4
    caches = [
        LayerCache(
            torch.empty(num_blocks, shape.num_kv_heads, _CHECK_BLOCK, shape.head_dim, device=device, dtype=dtype),
            torch.empty(num_blocks, shape.num_kv_heads, _CHECK_BLOCK, shape.head_dim, device=device, dtype=dtype),
        )
        for shape in decoder.cache_shapes
    ]
    done = [0] * len(prompts)
    logits: list[list[Tensor]] = [[] for _ in prompts]
    for chunk in _CHECK_CHUNKS:
        spans = [(i, done[i], done[i] + length) for i, length in enumerate(chunk) if length]
        tokens = torch.cat([prompts[i][start:end] for i, start, end in spans])
        positions = torch.cat([torch.arange(start, end, device=device) for _, start, end in spans])
        rows = decoder.forward(
            tokens, positions, _batch(spans, device), caches, torch.arange(len(tokens), device=device)
        )
        for (i, _, end), part in zip(spans, torch.split(rows, [end - start for _, start, end in spans]), strict=True):
            done[i] = end
            logits[i].append(part)
    return torch.cat([part for parts in logits for part in parts])


def _batch(spans: list[tuple[int, int, int]], device: torch.device) -> PagedBatch:
    """Sequence i has the blocks 3 + 4 i down to 4 i, so that their order is not that of the positions."""
    starts = [0]
    for _, start, end in spans:
        starts.append(starts[-1] + end - start)
    tables = [[3 + 4 * i, 2 + 4 * i, 1 + 4 * i, 4 * i] for i, _, _ in spans]
    slots = [
        tables[row][position // _CHECK_BLOCK] * _CHECK_BLOCK + position % _CHECK_BLOCK
        for row, (_, start, end) in enumerate(spans)
        for position in range(start, end)
    ]
    return PagedBatch(
        query_start_loc=torch.tensor(starts, dtype=torch.int32, device=device),
        seq_lens=torch.tensor([end for _, _, end in spans], dtype=torch.int32, device=device),
        block_table=torch.tensor(tables, dtype=torch.int32, device=device),
        slot_mapping=torch.tensor(slots, device=device),
        max_query_len=max(end - start for _, start, end in spans),
        max_seq_len=max(end for _, _, end in spans),
    )
