"""Where KV plans are kept, and what they are kept of. No file is ever a reason not to start."""

from __future__ import annotations

import hashlib
import logging
import secrets
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from octavo_runtime.runner.kv_plan import MOST_BYTES, KvPlan, PlanKey, encode, file_name, judge, settings_of
from octavo_runtime.sources.child import default_cache

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from octavo_runtime.config import ServeConfig
    from octavo_runtime.model.spec import ModelInfo

logger = logging.getLogger(__name__)

_FOLDER: Final = "kv-plans"
_SOFTWARE: Final = ("torch", "triton", "transformers", "octavo-kernels", "octavo-runtime")


def plan_folders(config: ServeConfig) -> list[Path]:
    """Where a plan may be, the best place first: beside what was fetched, which may outlive the pod, and in the user's
    cache, which in a rendered pod is the one folder that can always be written.
    """
    folders = [config.download_dir or default_cache()] if config.remote is not None else []
    with suppress(RuntimeError):  # a user without a home
        folders.append(Path.home() / ".cache" / "octavo")
    return [folder / _FOLDER for folder in folders]


class PlanFile:
    """The plan of one key."""

    def __init__(self, folders: Sequence[Path], key: PlanKey) -> None:
        self._places = [folder / file_name(key) for folder in folders]
        self._key = key

    def load(self, free: int) -> int | None:
        """Bytes for the cache where `free` bytes are free, by the first plan that is of use."""
        for place in self._places:
            try:
                with place.open("rb") as file:
                    verdict = judge(file.read(MOST_BYTES), self._key, free)
            except FileNotFoundError:
                continue
            except OSError as error:
                logger.warning("the KV plan %s cannot be read: %s", place, error)
                continue
            if verdict.for_cache is not None:
                logger.info("KV cache by the plan %s; nothing was measured", place)
                return verdict.for_cache
            logger.warning("the KV plan %s is not used: %s", place, verdict.reason)
        return None

    def save(self, free_before: int, for_cache: int) -> None:
        """In the first place that can be written."""
        plan, errors = encode(KvPlan(self._key, free_before, for_cache)), []
        for place in self._places:
            try:
                _write(place, plan)
            except OSError as error:
                errors.append(str(error))
                continue
            logger.info("what steps take of memory is kept in %s", place)
            return
        logger.info("what steps take of memory is measured at each start: %s", "; ".join(errors) or "there is no home")

    def discard(self) -> None:
        """It was wrong."""
        for place in self._places:
            with suppress(OSError):
                place.unlink()


def _write(place: Path, content: bytes) -> None:
    """Whole or not at all: replicas that share the folder may read and write at the same time."""
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_suffix(f".{secrets.token_hex(4)}")  # pods have the same process ids
    try:
        part.write_bytes(content)
        part.replace(place)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def make_key(
    config: ServeConfig, info: ModelInfo, *, dtype: torch.dtype, cache_dtype: torch.dtype, device: tuple[str, int]
) -> PlanKey:
    """`device` is its name and its bytes of memory."""
    return PlanKey(
        model=fingerprint(info),
        dtype=str(dtype),
        cache_dtype=str(cache_dtype),
        device=device[0],
        device_memory=device[1],
        versions=software(),
        settings=settings_of(config),
    )


def fingerprint(info: ModelInfo) -> str:
    """Changes with the model's configuration and with the size of its weights, not with where it lies."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr(replace(info, path=Path(), eos_token_ids=frozenset())).encode())
    for file in sorted(info.path.iterdir()) if info.path.is_dir() else [info.path]:
        if file.suffix in {".safetensors", ".gguf"}:
            digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        elif file.name == "config.json":
            digest.update(file.read_bytes())
    return digest.hexdigest()


def software() -> dict[str, str]:
    """Versions of what computes steps."""
    return {name: _version(name) for name in _SOFTWARE}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
