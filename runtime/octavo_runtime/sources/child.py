"""The fetching process as the API process sees it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from octavo_runtime.errors import ModelFetchFailed, start_error
from octavo_runtime.sources.meter import Meter

if TYPE_CHECKING:
    from octavo_runtime.config import ServeConfig

logger = logging.getLogger(__name__)

_LOG_EVERY: Final = 10.0  # seconds


class ModelFetch:
    """The fetch of one model. `meter` is there while it goes on, `revision` when it is done."""

    def __init__(self) -> None:
        self.meter: Meter | None = None
        self.revision: str | None = None

    async def run(self, config: ServeConfig) -> Path:
        """Where the model is, after fetching it if it is remote. Raises `StartError`."""
        if config.remote is None:
            return config.model
        self.meter = Meter(total=1, done=0, now=time.monotonic())  # until its size is known
        try:
            model, self.revision = await self._fetch(config.remote, config.download_dir or default_cache())
        finally:
            self.meter = None
        return model

    def facts(self) -> dict[str, object]:
        """What /startupz adds while the model is fetched."""
        if self.meter is None:
            return {}
        left = self.meter.seconds_left
        return {
            "bytes_done": self.meter.done,
            "bytes_total": self.meter.total,
            "seconds_left": None if left is None else round(left, 1),
        }

    async def _fetch(self, model: str, cache: Path) -> tuple[Path, str]:
        """Path and revision. When cancelled, the process is killed; what it has fetched stays."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "octavo_runtime.sources", model, str(cache), str(os.getpid()),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None, "a pipe"
        listener = _Listener(self)
        try:
            async for line in process.stdout:
                if (end := listener.hear(json.loads(line), time.monotonic())) is not None:
                    return end
            raise ModelFetchFailed(f"the fetching process ended with status {await process.wait()}")
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


def default_cache() -> Path:
    """$OCTAVO_MODEL_CACHE, or a folder of the user's."""
    named = os.environ.get("OCTAVO_MODEL_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "octavo" / "models"


class _Listener:
    """Makes progress and an end of what the process says."""

    def __init__(self, fetch: ModelFetch) -> None:
        self._fetch = fetch
        self._meter: Meter | None = None
        self._logged = 0.0

    def hear(self, fields: dict[str, object], now: float) -> tuple[Path, str] | None:
        match fields:
            case {"done": int(done), "total": int(total)}:
                self._measure(done, total, now)
            case {"path": str(path), "revision": str(revision)}:
                logger.info("fetched revision %s into %s", revision, path)
                return Path(path), revision
            case {"reason": str(reason), "message": str(message)}:
                raise start_error(reason, message, ModelFetchFailed)
        return None

    def _measure(self, done: int, total: int, now: float) -> None:
        if self._meter is None:
            self._meter = Meter(total, done, now)
        self._meter.set(done, now)
        self._fetch.meter = self._meter
        if now - self._logged >= _LOG_EVERY:
            logger.info("fetching: %s", self._meter)
            self._logged = now
