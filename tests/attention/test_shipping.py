"""Kernels compiled beforehand: what a model launches is found in the folder, and nothing is compiled or written.

In processes of their own: in this one kernels are interpreted.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from octavo_kernels.shipping import launcher

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "num_hidden_layers": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
AGAIN = """
import os, sys
from pathlib import Path
from octavo_kernels.shipping.shipped import use_shipped
from octavo_runtime.config import ServeConfig
from octavo_runtime.runner import rehearsal
use_shipped(os.environ)
rehearsal.compile_kernels(ServeConfig(model=Path(sys.argv[1])), [90], Path(sys.argv[2]))
"""


def run(*command, **environment):
    kept = {key: value for key, value in os.environ.items() if not key.startswith("TRITON_")}
    return subprocess.run(command, env=kept | environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.fixture(scope="module")
def shipped(model, tmp_path_factory):
    """The folder, moved from where it was made, as into an image."""
    made = tmp_path_factory.mktemp("made") / "kernels"
    command = (
        sys.executable,
        "-m",
        "octavo_runtime",
        "compile",
        str(model),
        "--architecture",
        "90",
        "--out",
        str(made),
    )
    done = run(*command)
    assert done.returncode == 0, done.stderr
    return made.rename(made.with_name("moved"))


def test_every_kernel_of_a_step_is_there(shipped):
    found = {path.name.removesuffix("_kernel.cubin") for path in shipped.glob("*/*.cubin")}
    assert found == {"paged_attention", "merge", "write_rotated", "rms_norm", "gated", "draw", "adjust"}


def test_what_is_shipped_is_found_and_only_the_rest_is_compiled(shipped, model, tmp_path):
    lost = next(shipped.glob("*/gated_kernel.cubin")).parent
    lost.rename(tmp_path / lost.name)
    done = run(sys.executable, "-c", AGAIN, str(model), str(tmp_path / "cache"), OCTAVO_KERNELS=str(shipped))
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.name != launcher.NAME] == [lost.name]


def test_the_launcher_needs_only_the_driver(tmp_path):
    """Loaded with a driver that has the functions which are left open, as a GPU's machine has."""
    path = launcher.build(tmp_path)
    symbols = subprocess.run(["nm", "-D", "--undefined-only", path], capture_output=True, text=True, check=True).stdout
    functions = "".join(f"int {name}() {{ return 0; }}\n" for name in re.findall(r"\b(cu[A-Z]\w+)", symbols))
    (tmp_path / "driver.c").write_text(functions)
    driver = ["cc", "-shared", "-Wl,-soname,libcuda.so.1", tmp_path / "driver.c", "-o", tmp_path / "libcuda.so.1"]
    subprocess.run(driver, check=True)
    loads = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import cuda_utils; cuda_utils.load_binary"
    done = run(sys.executable, "-c", loads, LD_LIBRARY_PATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert run(sys.executable, "-c", loads).returncode != 0
