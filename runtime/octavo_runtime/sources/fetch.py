"""A remote model to a local path, with news on the way."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from octavo_runtime.errors import ModelFetchFailed
from octavo_runtime.model.info import check_config
from octavo_runtime.sources.choose import RemoteFile, choose_files
from octavo_runtime.sources.download import Download, Interrupted
from octavo_runtime.sources.reference import HubModel, S3Model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from octavo_runtime.sources.download import Remote

logger = logging.getLogger(__name__)

_NEWS_EVERY: Final = 0.5  # seconds
_LIST_TRIES: Final = 5


class News(Protocol):
    """Told of the bytes that are there, and of all there will be."""

    def __call__(self, done: int, total: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Fetched:
    """`path` is a folder or a GGUF file; `revision` pins what it holds."""

    path: Path
    revision: str


@dataclass(frozen=True, slots=True)
class _Plan:
    remote: Remote
    files: list[RemoteFile]
    folder: Path
    revision: str


def fetch_model(
    model: HubModel | S3Model, cache: Path, news: News, sleep: Callable[[float], None] = time.sleep
) -> Fetched:
    """Fetch `model` into the folder `cache`, unless it is there. Raises `StartError`.

    A commit that is there needs no storage. Neither does a branch when its storage cannot be reached: then the revision
    that was fetched last is taken, so that a pod restarts while the hub is down.
    """
    known = _recall(model, cache)
    if known is not None and isinstance(model, HubModel) and known.revision == model.revision:
        return known
    try:
        plan = _patiently(lambda: _plan(model, cache), sleep)
    except ModelFetchFailed as error:
        if known is None:
            raise
        logger.warning("%s; taking revision %s, which was fetched before", error, known.revision)
        return known
    fetched = _carry_out(plan, model, news, sleep)
    _remember(model, cache, fetched)
    return fetched


def _carry_out(plan: _Plan, model: HubModel | S3Model, news: News, sleep: Callable[[float], None]) -> Fetched:
    download = Download(
        plan.remote, plan.files, plan.folder, sleep, check=lambda config: check_config(config, f"{model}")
    )
    logger.info("%s is revision %s: %d files, %.1f MB", model, plan.revision, len(plan.files), download.total / 1e6)
    with _Reporter(download, news):
        folder = download.run()
    news(download.total, download.total)
    single = len(plan.files) == 1 and plan.files[0].name.endswith(".gguf")
    return Fetched(folder / plan.files[0].name if single else folder, plan.revision)


def _pointer(model: HubModel | S3Model, cache: Path) -> Path:
    """Says what `model` was when it was fetched last."""
    return cache / "last" / f"{hashlib.sha256(repr(model).encode()).hexdigest()[:16]}.json"


def _recall(model: HubModel | S3Model, cache: Path) -> Fetched | None:
    try:
        fields = json.loads(_pointer(model, cache).read_text(encoding="utf-8"))
        known = Fetched(cache / fields["path"], fields["revision"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return known if known.path.exists() else None


def _remember(model: HubModel | S3Model, cache: Path, fetched: Fetched) -> None:
    """A note that cannot be written is missed only when the storage is away."""
    pointer = _pointer(model, cache)
    text = json.dumps({"path": str(fetched.path.relative_to(cache)), "revision": fetched.revision})
    new = pointer.with_suffix(f".{os.getpid()}")
    try:
        pointer.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(text, encoding="utf-8")
        new.rename(pointer)
    except OSError as error:
        logger.warning("%s cannot be written: %s", pointer, error)


def _plan(model: HubModel | S3Model, cache: Path) -> _Plan:
    match model:
        case HubModel(repository, _, file):
            from octavo_runtime.sources.hub import Hub  # noqa: PLC0415  only the library that is needed

            hub = Hub(model)
            revision, listing = hub.list_files()
            files = choose_files(listing, file, f"hf://{repository}@{model.revision}")
            return _Plan(hub, files, _folder(cache / "hf", repository, revision[:12], files), revision)
        case S3Model(bucket, prefix):
            from octavo_runtime.sources.s3 import S3  # noqa: PLC0415

            storage = S3(model)
            single = prefix.rpartition("/")[2] if prefix.endswith(".gguf") else None
            files = choose_files(storage.list_files(), single, f"s3://{bucket}/{prefix}")
            revision = _fingerprint(files)
            return _Plan(storage, files, _folder(cache / "s3", f"{bucket}/{prefix}", "", files), revision)


def _folder(cache: Path, name: str, revision: str, files: Sequence[RemoteFile]) -> Path:
    """One folder per version and choice of files."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "--", name)[-100:]
    return cache / "-".join(part for part in (readable, revision, _fingerprint(files)) if part)


def _fingerprint(files: Sequence[RemoteFile]) -> str:
    return hashlib.sha256(repr([tuple(file) for file in files]).encode()).hexdigest()[:12]


def _patiently(ask: Callable[[], _Plan], sleep: Callable[[float], None]) -> _Plan:
    for tries in range(1, _LIST_TRIES + 1):
        try:
            return ask()
        except Interrupted as error:
            if tries == _LIST_TRIES:
                raise ModelFetchFailed(f"{error}; given up after {tries} tries") from error
            logger.warning("%s; trying again in %d s", error, 2 ** (tries - 1))
            sleep(2.0 ** (tries - 1))
    raise AssertionError("the last try returns or raises")


class _Reporter:
    """Tells the news every so often, from a thread."""

    def __init__(self, download: Download, news: News) -> None:
        self._download = download
        self._news = news
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fetch-news", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._news(self._download.done, self._download.total)
            if self._over.wait(_NEWS_EVERY):
                return
