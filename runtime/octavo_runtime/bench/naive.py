"""The naive path: transformers' own `generate`, one request at a time, in order of arrival.

What somebody has who loads the model in a notebook and puts a queue before it. The queue is worked out, not waited in:
a request starts when it has arrived and the one before it is done, so its waiting counts in its latencies and costs no
time.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from octavo_runtime.bench.load import one_server_arrival, poisson_arrivals
from octavo_runtime.bench.stats import Record
from octavo_runtime.errors import ModelUnsupported, OutOfMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from octavo_runtime.bench.load import Load
    from octavo_runtime.bench.prompts import Prompt
    from octavo_runtime.model.spec import ModelInfo


def load_naive(
    info: ModelInfo, *, dtype: str, threads: int | None, temperature: float, ignore_eos: bool
) -> tuple[Callable[[list[int], int], tuple[list[float], float]], dict[str, Any]]:
    """A function that generates, and how it computes. The dtype and the threads are those that Octavo would take.

    Raises `ModelUnsupported` when transformers is missing or cannot load the model, `OutOfMemory` when it does not fit.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as ours (runner/build.py), or busy cores favour us
    import torch  # noqa: PLC0415  seconds

    from octavo_runtime.runner.machine import choose_device, choose_dtype, choose_threads  # noqa: PLC0415

    device = choose_device()
    chosen = choose_dtype(dtype, info, device)
    torch.set_num_threads(threads or choose_threads())
    try:
        model = _load_model(info, chosen).to(device)
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise OutOfMemory(f"{info.path} does not fit on {device}: {error}") from error
    options: dict[str, Any] = {"do_sample": temperature > 0, "use_cache": True}
    if temperature > 0:
        options["temperature"] = temperature
    settings = {"device": str(device), "dtype": str(chosen).removeprefix("torch."), "threads": torch.get_num_threads()}

    def generate(prompt: list[int], max_tokens: int) -> tuple[list[float], float]:
        times = _Times()
        ids = torch.tensor([prompt], device=device)
        shortest = max_tokens if ignore_eos else 0
        with torch.inference_mode():
            times.start()
            model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, min_new_tokens=shortest,
                streamer=times, pad_token_id=0, **options,
            )  # fmt: skip
        return times.seconds, times.elapsed()

    return generate, settings


def _load_model(info: ModelInfo, dtype: Any) -> Any:  # noqa: ANN401  torch and transformers are loaded late
    try:
        from transformers import AutoModelForCausalLM  # noqa: PLC0415  seconds, and may be missing

        if info.path.is_file():
            return _load_gguf(info, dtype).eval()
        return AutoModelForCausalLM.from_pretrained(info.path, dtype=dtype, local_files_only=True).eval()
    except (ImportError, ValueError, OSError, RuntimeError) as error:
        raise ModelUnsupported(f"transformers cannot load {info.path}: {error}") from error


def _load_gguf(info: ModelInfo, dtype: Any) -> Any:  # noqa: ANN401
    """The model of transformers with the weights as Octavo decodes them: its own reader needs yet another package."""
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415

    from octavo_runtime.model.loader import open_weights  # noqa: PLC0415

    config = AutoConfig.from_pretrained(info.path.parent, gguf_file=info.path.name, local_files_only=True)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    assert info.decoder is not None, "a GGUF file is served by our own decoder"
    source = open_weights(info, info.decoder)
    loaded = model.load_state_dict({name: source.load(name).to(dtype) for name in source.names}, strict=False)
    if loaded.unexpected_keys or set(loaded.missing_keys) - {"lm_head.weight"}:
        raise ValueError(f"weights differ: {loaded}")
    model.tie_weights()
    return model


class _Times:
    """A streamer of transformers (`put`, `end`) that notes when tokens come; the prompt is put first."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start = 0.0
        self._prompt_seen = False

    def start(self) -> None:
        self._start = time.perf_counter()

    def put(self, _: object) -> None:
        if self._prompt_seen:
            self.seconds.append(self.elapsed())
        self._prompt_seen = True

    def end(self) -> None:
        """Nothing is held back."""

    def elapsed(self) -> float:
        return time.perf_counter() - self._start


def run_naive(
    generate: Callable[[list[int], int], tuple[list[float], float]],
    prompts: Sequence[Prompt],
    token_ids: Sequence[list[int]],
    load: Load,
    *,
    seed: int,
    progress: Callable[[Sequence[Record]], None],
) -> list[Record]:
    """Serve `prompts`, given also as `token_ids`, one after the other."""
    schedule = poisson_arrivals(load.rate, len(prompts), seed) if load.rate is not None else None
    records: list[Record] = []
    ends: list[float] = []
    for index, (prompt, ids) in enumerate(zip(prompts, token_ids, strict=True)):
        arrival = one_server_arrival(load, index, schedule, ends)
        start = max(arrival, ends[-1] if ends else 0.0)
        times, seconds = generate(ids, prompt.max_tokens)
        ends.append(start + seconds)
        records.append(
            Record(
                arrival=arrival,
                piece_times=[start + moment for moment in times],
                end=start + seconds,
                input_tokens=len(ids),
                output_tokens=len(times),
            )
        )
        progress(records)
    return records
