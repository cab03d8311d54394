"""The Hugging Face hub, or a mirror ($HF_ENDPOINT), by huggingface_hub.

The library lists, builds addresses, names errors and signs requests with the token of $HF_TOKEN or of the file that
$HF_TOKEN_PATH names. The bytes we take ourselves: the library's own download writes to a file with a random name and
removes it when it ends, so a killed pod would start a large model from zero.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import httpx2
from huggingface_hub import HfApi, get_session, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]  # it has no __all__

from octavo_runtime.errors import ModelAccessDenied, ModelFetchFailed, ModelNotFound
from octavo_runtime.sources.choose import RemoteFile
from octavo_runtime.sources.download import Interrupted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from octavo_runtime.sources.reference import HubModel

_SILENCE: Final = 60.0  # seconds without a byte after which a connection is given up


class Hub:
    """Implements `Remote` for one repository."""

    def __init__(self, model: HubModel) -> None:
        self._model = model
        self._revision = model.revision
        self._endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None

    def list_files(self) -> tuple[str, list[RemoteFile]]:
        """The commit that the revision names now, which later reads keep to, and its files."""
        with _errors_named(self._model):
            info = HfApi(self._endpoint).model_info(
                self._model.repository, revision=self._model.revision, files_metadata=True, timeout=_SILENCE
            )
        if info.sha is None:
            raise ModelFetchFailed(f"hf://{self._model.repository}: the hub names no commit")
        self._revision = info.sha
        return info.sha, [
            RemoteFile(
                name=file.rfilename,
                size=file.size or 0,
                etag=file.blob_id or "",
                digest=f"sha256:{file.lfs.sha256}" if file.lfs else f"git:{file.blob_id}" if file.blob_id else "",
            )
            for file in info.siblings or []
        ]

    def read(self, file: RemoteFile, start: int) -> Iterator[bytes]:
        url = hf_hub_url(self._model.repository, file.name, revision=self._revision, endpoint=self._endpoint)
        headers = build_hf_headers() | {"Accept-Encoding": "identity", "Range": f"bytes={start}-"}
        with (
            _errors_named(self._model),
            get_session().stream("GET", url, headers=headers, timeout=_SILENCE) as response,
        ):
            hf_raise_for_status(response)
            skip = 0 if response.status_code == httpx2.codes.PARTIAL_CONTENT else start  # a mirror that knows no ranges
            for data in response.iter_bytes():
                if len(data) > skip:
                    yield data[skip:]
                skip = max(0, skip - len(data))


@contextmanager
def _errors_named(model: HubModel) -> Iterator[None]:
    where = f"hf://{model.repository}@{model.revision}"
    try:
        yield
    except GatedRepoError as error:
        raise ModelAccessDenied(f"{where} is gated, and the token of $HF_TOKEN has no access to it") from error
    except RepositoryNotFoundError as error:
        message = f"{where}: the repository does not exist, or is private and $HF_TOKEN holds no token for it"
        raise ModelNotFound(message) from error
    except RevisionNotFoundError as error:
        raise ModelNotFound(f"{where}: the repository has no such revision") from error
    except RemoteEntryNotFoundError as error:
        raise ModelNotFound(f"{where}: a file is gone: {error}") from error
    except HfHubHTTPError as error:
        raise _of_status(where, error) from error
    except OfflineModeIsEnabled as error:
        raise ModelFetchFailed(f"{where}: $HF_HUB_OFFLINE forbids to ask the hub") from error
    except httpx2.HTTPError as error:
        raise Interrupted(f"{where}: {type(error).__name__}: {error}") from error


def _of_status(where: str, error: HfHubHTTPError) -> Exception:
    status = error.response.status_code
    if status in {401, 403}:
        return ModelAccessDenied(f"{where}: the hub refuses the token of $HF_TOKEN (status {status})")
    if status in {408, 429} or status >= 500:
        return Interrupted(f"{where}: status {status}")
    return ModelFetchFailed(f"{where}: status {status}: {error.server_message or error}")
