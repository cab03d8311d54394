"""One run of `octavo bench`: from the flags to a line of JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from octavo_runtime.bench.compare import comparison, summary
from octavo_runtime.bench.load import Load
from octavo_runtime.bench.prompts import Prompt, Synthetic, digest, make_prompts, parse_prompts, repeat
from octavo_runtime.bench.stamp import machine, versions
from octavo_runtime.bench.stats import Record, summarize
from octavo_runtime.errors import InvalidArgument, StartError
from octavo_runtime.sources.child import default_cache
from octavo_runtime.sources.reference import parse_model
from octavo_runtime.termination import EXIT_FAILED, EXIT_USAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from octavo_runtime.bench.prompts import Encoder
    from octavo_runtime.config import ServeConfig
    from octavo_runtime.model.spec import ModelInfo
    from octavo_runtime.text.tokenizer import Tokenizer

Options = dict[str, Any]

_DEFAULT_COUNT: Final = 100
_QUIET_SECONDS: Final = 10.0  # between two lines of progress where nobody is at a terminal


def run(options: Options, make_config: Callable[[Options], ServeConfig]) -> int:
    """Carry out what `options` (flags.py) say; `make_config` checks the engine's. Returns the exit status."""
    try:
        match options.pop("mode"):
            case "compare":
                return _compare(options)
            case "online":
                return _publish(_online(_Job.of(options), options))
            case "naive":
                return _publish(_naive(_Job.of(options), options))
            case _:
                return _publish(_offline(_Job.of(options), options, make_config))
    except StartError as error:
        sys.stderr.write(f"octavo: {error.reason}: {error}\n")
        return EXIT_USAGE if isinstance(error, InvalidArgument) else EXIT_FAILED


@dataclass(frozen=True, slots=True)
class _Job:
    """What all modes have in common: the load, its prompts, the price."""

    load: Load
    count: int | None
    seed: int
    file: Path | None
    shape: Synthetic
    ignore_eos: bool
    temperature: float
    cost_per_hour: float | None

    @classmethod
    def of(cls, options: Options) -> _Job:
        """Take the common options out of `options`."""
        file, ignore_eos = options.pop("prompts"), options.pop("ignore_eos")
        return cls(
            load=Load(options.pop("rate"), options.pop("concurrency")),
            count=options.pop("num_prompts"),
            seed=options.pop("seed"),
            file=file,
            shape=Synthetic(options.pop("input_len"), options.pop("output_len"), options.pop("shared_prefix_len")),
            ignore_eos=file is None if ignore_eos is None else ignore_eos,
            temperature=options.pop("temperature"),
            cost_per_hour=options.pop("cost_per_hour"),
        )

    def prompts(self, encoder: Encoder | None) -> list[Prompt]:
        if self.file is None:
            return make_prompts(self.shape, self.count or _DEFAULT_COUNT, self.seed, encoder)
        try:
            lines = self.file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidArgument(f"--prompts {self.file}: {error}") from error
        prompts = parse_prompts(lines, self.shape.output_len)
        return repeat(prompts, self.count or len(prompts))

    def result(self, bench: str, prompts: Sequence[Prompt], records: Sequence[Record], **settings: object) -> Options:
        """The whole line."""
        return {
            "bench": bench,
            "seed": self.seed,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": versions(),
            "machine": machine(),
            "settings": {
                **settings,
                "rate": self.load.rate,
                "concurrency": self.load.concurrency,
                "num_prompts": len(prompts),
                "prompts": str(self.file) if self.file else asdict(self.shape),
                "prompts_digest": digest(prompts),
                "temperature": self.temperature,
                "ignore_eos": self.ignore_eos,
                "cost_per_hour": self.cost_per_hour,
            },
            "results": summarize(records, self.cost_per_hour),
        }


class _Progress:
    """A line on stderr: over and over at a terminal, now and then in a log."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._start = time.monotonic()
        self._last = self._start

    def __call__(self, records: Sequence[Record]) -> None:
        now = time.monotonic()
        terminal = sys.stderr.isatty()
        if now - self._last < (0.1 if terminal else _QUIET_SECONDS):
            return
        self._last = now
        failed = sum(record.error is not None for record in records)
        tokens = sum(record.output_tokens for record in records)
        done = f"{len(records)} of {self._count} requests, {failed} failed, {tokens} tokens out"
        line = f"{now - self._start:6.1f} s: {done}"
        sys.stderr.write(f"\r{line}" if terminal else f"{line}\n")
        sys.stderr.flush()


def _publish(result: Options) -> int:
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()
    sys.stderr.write(("\r\n" if sys.stderr.isatty() else "") + summary(result) + "\n")
    return 0 if result["results"]["completed"] else EXIT_FAILED


def _online(job: _Job, options: Options) -> Options:
    import uvloop  # noqa: PLC0415  only what the mode needs

    from octavo_runtime.bench.http_client import HttpClient  # noqa: PLC0415
    from octavo_runtime.bench.online import Request, run_online  # noqa: PLC0415

    key = os.environ.get("OPENAI_API_KEY")
    tokenizer_of = options["tokenizer"]
    prompts = job.prompts(_read_model(tokenizer_of)[1] if tokenizer_of is not None else None)
    request = Request(
        model=options["model"],
        endpoint=options["endpoint"],
        ignore_eos=job.ignore_eos,
        temperature=job.temperature,
        timeout=options["timeout"],
        warmup=options["warmup"],
    )
    client = HttpClient(options["url"], {"Authorization": f"Bearer {key}"} if key else {})

    async def all_of_it() -> tuple[list[Record], Options]:
        try:
            return await run_online(client, prompts, request, job.load, seed=job.seed, progress=_Progress(len(prompts)))
        finally:
            client.close()

    records, server = uvloop.run(all_of_it())
    return job.result(
        "online", prompts, records,
        target=options["url"], server=server, endpoint=request.endpoint, timeout=request.timeout,
        warmup=request.warmup, tokenizer=tokenizer_of,
    )  # fmt: skip


def _offline(job: _Job, options: Options, make_config: Callable[[Options], ServeConfig]) -> Options:
    from octavo_runtime.bench.offline import load_engine, run_offline  # noqa: PLC0415
    from octavo_runtime.bench.tokens import encode_prompts  # noqa: PLC0415
    from octavo_runtime.engine.startup import resolve_max_model_len  # noqa: PLC0415

    target = options["model"]
    config = make_config(options)
    info, tokenizer = _read_model(target)
    config = replace(config, model=info.path)
    prompts = job.prompts(tokenizer)
    token_ids = encode_prompts(prompts, tokenizer, resolve_max_model_len(config, info))
    engine = load_engine(config, info)
    records = run_offline(
        engine, prompts, token_ids, job.load,
        seed=job.seed, temperature=job.temperature, progress=_Progress(len(prompts)),
        stop_token_ids=frozenset() if job.ignore_eos else tokenizer.eos_token_ids,
    )  # fmt: skip
    return job.result("offline", prompts, records, target=target, engine=_engine_settings(config))


def _naive(job: _Job, options: Options) -> Options:
    from octavo_runtime.bench.naive import load_naive, run_naive  # noqa: PLC0415
    from octavo_runtime.bench.tokens import encode_prompts  # noqa: PLC0415

    info, tokenizer = _read_model(options["model"])
    prompts = job.prompts(tokenizer)
    token_ids = encode_prompts(prompts, tokenizer, info.max_positions)
    generate, settings = load_naive(
        info, dtype=options["dtype"], threads=options["threads"],
        temperature=job.temperature, ignore_eos=job.ignore_eos,
    )  # fmt: skip
    generate(token_ids[0], 2)  # what is slow only the first time is not measured
    records = run_naive(generate, prompts, token_ids, job.load, seed=job.seed, progress=_Progress(len(prompts)))
    return job.result("naive", prompts, records, target=options["model"], **settings)


def _read_model(text: str) -> tuple[ModelInfo, Tokenizer]:
    """What MODEL names, fetched first if it is remote."""
    from octavo_runtime.model.info import read_model_info  # noqa: PLC0415
    from octavo_runtime.text.tokenizer import load_tokenizer  # noqa: PLC0415

    path = _local(text)
    info = read_model_info(path)
    return info, load_tokenizer(path, info)


def _local(text: str) -> Path:
    model = parse_model(text)
    if isinstance(model, Path):
        return model
    from octavo_runtime.sources.fetch import fetch_model  # noqa: PLC0415

    return fetch_model(model, default_cache(), lambda _done, _total: None).path


def _engine_settings(config: ServeConfig) -> Options:
    """The flags of the engine's group, as the run had them."""
    names = (
        "max_model_len", "dtype", "max_num_seqs", "max_num_batched_tokens", "kv_cache_memory", "kv_cache_dtype",
        "block_size", "attention_backend", "threads", "tensor_parallel_size", "runner",
    )  # fmt: skip
    return {name: getattr(config, name) for name in names}


def _compare(options: Options) -> int:
    a, b = (_read_result(options[name]) for name in ("a", "b"))
    sys.stdout.write(comparison(a, b, markdown=options["markdown"]) + "\n")
    return 0


def _read_result(file: Path) -> Options:
    """The last line of `file`."""
    try:
        result = json.loads(file.read_text(encoding="utf-8").strip().rpartition("\n")[2])
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{file}: {error}") from error
    if (
        not isinstance(result, dict)
        or not {"bench", "seed", "settings", "results", "machine", "versions"} <= result.keys()
    ):
        raise InvalidArgument(f"{file}: its last line is no result of octavo bench")
    return result
