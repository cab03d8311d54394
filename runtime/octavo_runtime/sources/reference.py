"""What the MODEL argument names. Pure, but for the question whether a path is there.

./folder, /folder, model.gguf        a local path
hf://org/name[@revision][/file.gguf] a repository of the hub; `org/name` alone too, where no such path exists
s3://bucket/prefix                   objects of S3-compatible storage
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from octavo_runtime.errors import InvalidArgument

_WORD: Final = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_HUB: Final = re.compile(rf"({_WORD}/{_WORD})(?:@([A-Za-z0-9][A-Za-z0-9._/-]*?))?(?:/([^/]+\.gguf))?")
_S3: Final = re.compile(r"([a-z0-9][a-z0-9.-]+[a-z0-9])(?:/(.*))?")


@dataclass(frozen=True, slots=True)
class HubModel:
    """`revision`: a branch, a tag or a commit. `file`: a GGUF file of a repository that has several."""

    repository: str
    revision: str = "main"
    file: str | None = None

    def __str__(self) -> str:
        return f"hf://{self.repository}@{self.revision}" + (f"/{self.file}" if self.file else "")

    @property
    def name(self) -> str:
        """What the API calls the model by default."""
        return self.repository if self.file is None else self.file.removesuffix(".gguf")


@dataclass(frozen=True, slots=True)
class S3Model:
    """`prefix`: a folder, or one GGUF object; without slashes at its ends."""

    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"

    @property
    def name(self) -> str:
        return (self.prefix.rpartition("/")[2] or self.bucket).removesuffix(".gguf")


Remote = HubModel | S3Model


def parse_model(text: str) -> Path | HubModel | S3Model:
    """Raises `InvalidArgument` for an address that is none."""
    if text.startswith("hf://"):
        return _parse_hub(text)
    if text.startswith("s3://"):
        return _parse_s3(text)
    if "://" in text:
        raise InvalidArgument(f"MODEL {text!r}: a path, hf://org/name[@revision] or s3://bucket/prefix is served")
    if re.fullmatch(rf"{_WORD}/{_WORD}", text) and not text.endswith(".gguf") and not Path(text).exists():
        return HubModel(text)
    return Path(text)


def _parse_hub(text: str) -> HubModel:
    match = _HUB.fullmatch(text.removeprefix("hf://"))
    if match is None or ".." in text:
        raise InvalidArgument(f"MODEL {text!r} is not like hf://org/name[@revision][/file.gguf]")
    return HubModel(match[1], match[2] or "main", match[3])


def _parse_s3(text: str) -> S3Model:
    match = _S3.fullmatch(text.removeprefix("s3://"))
    prefix = (match[2] or "").strip("/") if match else ""
    if match is None or not prefix:
        raise InvalidArgument(f"MODEL {text!r} is not like s3://bucket/prefix")
    return S3Model(match[1], prefix)
