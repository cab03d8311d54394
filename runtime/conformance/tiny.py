"""Tiny random models of any architecture that transformers knows, and whether Octavo gives transformers' tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from octavo_kernels.select import select_backend
from octavo_runtime.core.batch import SamplingParams
from octavo_runtime.engine.messages import Add
from octavo_runtime.engine.step import Engine
from octavo_runtime.model.info import read_model_info
from octavo_runtime.model.load import load_decoder
from octavo_runtime.runner.torch_runner import TorchRunner

if TYPE_CHECKING:
    from pathlib import Path

    from octavo_runtime.model.spec import ModelInfo

VOCAB: Final = 128
LENGTHS: Final = (1, 2, 3, 5, 8, 13, 21, 27, 33, 40)
CPU: Final = torch.device("cpu")
_BLOCK_SIZE: Final = 4
_NUM_BLOCKS: Final = 120  # less than half of what ten sequences of 40 + 64 tokens would fill
_STEP_TOKENS: Final = 24  # longer prompts are computed in chunks
_TIE: Final = 1e-4  # of the logits' range; closer than this, either of two tokens is right

# What makes a configuration small, by the names that transformers' architectures have for the same things. Only those
# that an architecture has are set.
_SIZES: Final[dict[int, tuple[str, ...]]] = {
    VOCAB: ("vocab_size", "vocab_size_per_layer_input"),
    64: ("hidden_size", "n_embd", "d_model", "dim", "embedding_size", "word_embed_proj_dim"),
    96: ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "intermediate_size_mlp"),
    48: ("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"),
    4: (
        "num_attention_heads", "n_head", "num_heads", "n_heads", "num_experts", "num_local_experts",
        "n_routed_experts", "moe_num_experts",
    ),
    2: ("num_key_value_heads", "num_experts_per_tok", "moe_k", "moe_topk", "num_global_key_value_heads"),
    1: ("first_k_dense_replace", "n_group", "topk_group", "n_shared_experts", "bos_token_id"),
    0: ("pad_token_id",),
    16: (
        "head_dim", "kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "v_head_dim", "hidden_size_per_layer_input",
        "global_head_dim",
    ),
    8: ("qk_rope_head_dim", "rotary_dim"),
    256: ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx"),
}  # fmt: skip
_LAYERS: Final = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_WINDOW: Final = 8
_MOST_PARAMETERS: Final = 5_000_000


@dataclass(frozen=True, slots=True)
class Outcome:
    served: bool
    path: str  # "own" or "transformers"
    distinct: int = 0  # different tokens in what was generated; a model that repeats itself shows little
    preemptions: int = 0
    wrong: tuple[str, ...] = ()


def tiny_config(config_class: Any, layers: int = 4, **changes: object) -> Any:  # noqa: ANN401  transformers is untyped
    """The architecture's default configuration, shrunk by the names in `_SIZES`, then changed by `changes`."""
    default = config_class()
    sizes = {name: size for size, names in _SIZES.items() for name in names if _has(default, name)}
    sizes |= {name: layers for name in _LAYERS if _has(default, name)}
    if getattr(default, "sliding_window", None):
        sizes["sliding_window"] = _WINDOW
    if "qk_rope_head_dim" in sizes:
        sizes.pop("head_dim", None)  # another name for the same
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]  # keys are made of a latent, each head its own
    return config_class(**{**sizes, "eos_token_id": 2, **changes})


def _has(config: Any, name: str) -> bool:  # noqa: ANN401
    """Whether it is a number there that may be set."""
    fixed = getattr(type(config), name, None)
    if isinstance(fixed, property) and fixed.fset is None:
        return False
    return hasattr(config, name) and not isinstance(getattr(config, name), (list, dict))


def save_tiny(model_class: Any, config: Any, folder: Path) -> None:  # noqa: ANN401
    """Save a random model whose logits lie well apart, as safetensors.

    Raises `ValueError` when it would not be small.
    """
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in model_class(config).parameters())
    if size > _MOST_PARAMETERS:
        raise ValueError(f"{size} parameters: parts of the configuration kept their size")
    torch.manual_seed(11)
    config._attn_implementation = "eager"  # noqa: SLF001  transformers' own way to say it for a model made from scratch
    model = model_class(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=1.4 / parameter.shape[-1] ** 0.5 if "embed" not in name else 0.1)
            else:  # fresh vectors are all 1 or 0, which would hide a mix-up
                parameter.add_(0.3 * torch.randn_like(parameter))
    with torch.inference_mode():
        model(input_ids=torch.tensor([[3, 4, 5]]), use_cache=False)  # sizes that do not fit each other show here
    model.save_pretrained(folder)


def prompts(vocab_size: int = VOCAB) -> list[list[int]]:
    """Ten prompts of different lengths, without the special tokens 0 to 2."""
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(3, vocab_size, (length,), generator=generator).tolist() for length in LENGTHS]


def make_engine(info: ModelInfo, num_blocks: int = _NUM_BLOCKS, backend: str = "cpu") -> Engine:
    decoder = load_decoder(info, select_backend(backend, CPU), device=CPU, dtype=torch.float32)
    runner = TorchRunner(decoder, num_blocks=num_blocks, block_size=_BLOCK_SIZE, device=CPU, dtype=torch.float32)
    return Engine(
        runner,
        max_num_seqs=len(LENGTHS),
        max_num_batched_tokens=_STEP_TOKENS,
        project_peak=False,  # admit what fits now, so that sequences preempt each other later
    )


def generate(engine: Engine, asked: list[list[int]], params: SamplingParams) -> list[list[int]]:
    """All at once, chunked and preempting each other as the engine sees fit."""
    for number, prompt in enumerate(asked):
        engine.add(Add(number, list(prompt), params))
    tokens: list[list[int]] = [[] for _ in asked]
    now = 0.0
    while engine.has_work:
        done = engine.step(now=now)
        now += 1.0
        if done.failed:
            raise RuntimeError(f"requests {done.failed} failed")
        for output in done.each_output():
            tokens[output.seq_id] += output.tokens
    return tokens


def compare(folder: Path, model_class: Any, count: int = 64) -> Outcome:  # noqa: ANN401
    """Generate greedily in one batch and hold every token against transformers' logits for each sequence alone.

    Its model is loaded from the same folder, in eager attention. Raises `ModelUnsupported` when the model is refused.
    """
    info = read_model_info(folder)
    engine = make_engine(info)
    asked = prompts(info.vocab_size)
    model = model_class.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    tokens = generate(engine, asked, SamplingParams(max_tokens=count, temperature=0.0))
    wrong = tuple(
        problem for prompt, new in zip(asked, tokens, strict=True) for problem in _differences(model, prompt, new)
    )
    distinct = len({token for new in tokens for token in new})
    path = "transformers" if info.decoder is None else "own"
    return Outcome(not wrong, path, distinct, engine.stats().preemptions, wrong)


def _differences(model: Any, prompt: list[int], new: list[int]) -> list[str]:  # noqa: ANN401
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([prompt + new]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    behind = logits.max(dim=-1).values - logits[torch.arange(len(new)), torch.tensor(new)]
    least = _TIE * (logits.max() - logits.min())
    return [
        f"prompt of {len(prompt)}: token {index} is {float(gap):.3g} behind the best"
        for index, gap in enumerate(behind)
        if not gap <= least
    ][:1]
