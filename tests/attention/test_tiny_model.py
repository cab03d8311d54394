"""The runtime on the Triton backend, in the interpreter: the same tokens as on the CPU's, with nothing else changed.
Attention, what stands around it and the choice of tokens are Triton's.
"""

from __future__ import annotations

import torch

from conformance.tiny import CPU, generate, save_tiny, tiny_config
from octavo_kernels.cpu import CPUBackend
from octavo_kernels.triton.backend import TritonBackend
from octavo_runtime.core.batch import SamplingParams
from octavo_runtime.engine.step import Engine
from octavo_runtime.model.info import read_model_info
from octavo_runtime.model.load import load_decoder
from octavo_runtime.runner.torch_runner import TorchRunner

PROMPTS = [[5, 99, 31], list(range(20, 33))]


def test_a_model_gives_the_same_tokens(tmp_path):
    """Chunked prefills beside decodes, in layers with and without a window, whose plan is the same."""
    import transformers

    model_class = transformers.Gemma2ForCausalLM
    save_tiny(model_class, tiny_config(model_class.config_class, layers=2), tmp_path)
    info = read_model_info(tmp_path)
    tokens = []
    for backend in (CPUBackend(), TritonBackend()):
        decoder = load_decoder(info, backend, device=CPU, dtype=torch.float32)
        kernels = backend if backend.name == "triton" else None
        runner = TorchRunner(decoder, num_blocks=20, block_size=4, device=CPU, dtype=torch.float32, kernels=kernels)
        engine = Engine(runner, max_num_seqs=2, max_num_batched_tokens=8)
        tokens.append(generate(engine, PROMPTS, SamplingParams(max_tokens=4, temperature=1.0, seed=5)))
    assert tokens[0] == tokens[1]
    assert len({token for new in tokens[0] for token in new}) > 4, "a model that repeats itself shows nothing"
