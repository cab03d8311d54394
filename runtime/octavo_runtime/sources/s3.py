"""S3-compatible storage, by obstore: credentials, region and endpoint from the usual AWS_* variables."""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import obstore
from obstore import exceptions
from obstore.store import S3Store

from octavo_runtime.errors import ModelAccessDenied, ModelFetchFailed, ModelNotFound
from octavo_runtime.sources.choose import RemoteFile
from octavo_runtime.sources.download import Interrupted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from octavo_runtime.sources.reference import S3Model

_SILENCE: Final = timedelta(seconds=60)  # without a byte, after which a connection is given up
_CHUNK: Final = 1 << 18  # bytes; what of a chunk has come is lost when the line breaks
# A listing's errors have no kinds of their own in the library, only words.
_REFUSED: Final = re.compile("status code: 40[13]|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch")
_MISSING: Final = re.compile("status code: 404|NoSuchBucket|InvalidBucketName")


class S3:
    """Implements `Remote` for the objects under one prefix. Our own retries count, so the library makes few."""

    def __init__(self, model: S3Model) -> None:
        self._model = model
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        self._store = S3Store(
            model.bucket,
            client_options={"allow_http": endpoint.startswith("http://"), "read_timeout": _SILENCE, "timeout": "24h"},
            retry_config={"max_retries": 1, "retry_timeout": timedelta(seconds=20)},
        )

    def list_files(self) -> list[RemoteFile]:
        """The objects under the prefix, by their names relative to it; a single object by its own name."""
        prefix = self._model.prefix
        folder = prefix.rpartition("/")[0] if prefix.endswith(".gguf") else prefix
        found = []
        with _errors_named(self._model):
            for batch in obstore.list(self._store, prefix=folder or None):
                found += [
                    RemoteFile(item["path"].removeprefix(folder).lstrip("/"), item["size"], item["e_tag"] or "")
                    for item in batch
                ]
        if not found:
            raise ModelNotFound(f"s3://{self._model.bucket}/{prefix}: there is no object under it")
        return found

    def read(self, file: RemoteFile, start: int) -> Iterator[bytes]:
        prefix = self._model.prefix
        path = prefix if prefix.endswith(".gguf") else f"{prefix}/{file.name}"
        with _errors_named(self._model):
            options: obstore.GetOptions = {"range": {"offset": start}}
            if file.etag:
                options["if_match"] = file.etag  # an object that was replaced meanwhile is another one
            for data in obstore.get(self._store, path, options=options).stream(min_chunk_size=_CHUNK):
                yield bytes(data)


@contextmanager
def _errors_named(model: S3Model) -> Iterator[None]:
    where = f"s3://{model.bucket}/{model.prefix}"
    try:
        yield
    except exceptions.PreconditionError as error:
        raise ModelFetchFailed(f"{where}: an object was replaced while it was fetched; start again") from error
    except (exceptions.BaseError, FileNotFoundError) as error:
        raise _named(where, error) from error


def _named(where: str, error: Exception) -> Exception:
    text = str(error).partition("\n")[0][:400]
    refused = isinstance(error, (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError))
    if refused or _REFUSED.search(text):
        return ModelAccessDenied(f"{where}: the credentials of $AWS_* have no access: {text}")
    if isinstance(error, (exceptions.NotFoundError, FileNotFoundError)) or _MISSING.search(text):
        return ModelNotFound(f"{where}: {text}")
    return Interrupted(f"{where}: {text}")
