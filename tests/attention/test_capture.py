"""What a CUDA graph asks of a decode step: the host reads no value, and a row of padding changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from conformance.tiny import save_tiny, tiny_config
from octavo_kernels.cpu import CPUBackend
from octavo_kernels.native import NativeBackend
from octavo_kernels.reference import ReferenceBackend
from octavo_kernels.triton import backend as triton_backend
from octavo_kernels.triton import neighbours
from octavo_kernels.triton.tiles import make_tiles
from octavo_runtime.core.batch import FlatBatch, SamplingRow
from octavo_runtime.model.info import read_model_info
from octavo_runtime.model.load import load_decoder
from octavo_runtime.model.outline import NOWHERE, outline
from octavo_runtime.runner.buffers import StepBuffers, StepShape
from octavo_runtime.runner.torch_runner import allocate_caches

ROWS, SEQUENCES = 8, 5
GREEDY = SamplingRow(temperature=0.0, top_p=1.0, top_k=0, seed=0, position=0)


class Launches:
    """In the place of a Triton kernel: notes its grids, and what it is compiled for."""

    def __init__(self):
        self.grids, self.variants = [], set()

    def __getitem__(self, grid):
        def launch(*arguments, **constants):
            self.grids.append(grid)
            types = tuple(argument.dtype if isinstance(argument, torch.Tensor) else argument for argument in arguments)
            self.variants.add((types, *sorted(constants.items())))

        return launch


@pytest.fixture
def kernels(monkeypatch):
    """The backend's kernels by name, none of which is launched."""
    launches = {}
    for module in (triton_backend, neighbours):
        for name in [name for name in vars(module) if name.endswith("_kernel")]:
            launches[name] = Launches()
            monkeypatch.setattr(module, name, launches[name])
    return launches


class MetaMemory:
    """A device whose memory has no values."""

    def host(self, size):
        return torch.zeros(size, dtype=torch.uint8)

    def device(self, size):
        return torch.empty(size, dtype=torch.uint8, device=NOWHERE)

    def start_copy(self, host, device):
        device.copy_(host)
        return lambda: None


def step(seed=0):
    """A padded decode step on the device without values."""
    lengths = [9, 1, 200, 64, 17 + seed]
    batch = FlatBatch(
        token_ids=[3] * SEQUENCES,
        positions=[length - 1 for length in lengths],
        slot_mapping=lengths,
        query_start_loc=list(range(SEQUENCES + 1)),
        seq_lens=lengths,
        block_tables=[[0] * -(-length // 16) for length in lengths],
        sample_rows=list(range(SEQUENCES)),
        sampling=[GREEDY] * SEQUENCES,
    )
    return StepBuffers(MetaMemory()).fill(batch, StepShape(ROWS, ROWS, 64, ROWS))


def describe(tmp_path, name):
    import transformers

    model_class = getattr(transformers, f"{name}ForCausalLM")
    save_tiny(model_class, tiny_config(model_class.config_class), tmp_path)
    return read_model_info(tmp_path)


def load(tmp_path, name):
    info = describe(tmp_path, name)
    decoder = load_decoder(info, triton_backend.TritonBackend(), device=NOWHERE, dtype=torch.bfloat16)
    caches = allocate_caches(decoder.cache_shapes, 64, 16, device=NOWHERE, dtype=torch.bfloat16)
    return info, lambda inputs: decoder.forward(
        inputs.token_ids, inputs.positions, inputs.batch, caches, inputs.sample_rows
    )


@pytest.mark.parametrize("name", ["Llama", "Gemma2", "Gemma3", "Qwen3", "Phi3", "Olmo2", "Granite", "SmolLM3"])
def test_a_decode_step_reads_no_value(tmp_path, kernels, name):
    """Nor does its launch depend on one: the grids follow from the padded shape alone."""
    info, forward = load(tmp_path, name)
    assert forward(step()).shape == (ROWS, info.vocab_size)
    grids = {kernel: list(launches.grids) for kernel, launches in kernels.items()}
    assert grids["paged_attention_kernel"]
    assert grids["rms_norm_kernel"]
    assert grids["gated_kernel"]
    assert grids["write_rotated_kernel"]
    forward(step(seed=100))
    assert {kernel: launches.grids for kernel, launches in kernels.items()} == {k: g + g for k, g in grids.items()}


@pytest.mark.parametrize("name", ["Llama", "Gemma2", "Gemma3", "Qwen3", "Phi3", "Olmo2"])
def test_an_outline_launches_what_the_model_does(tmp_path, kernels, name):
    """So what `octavo compile` compiles is what a GPU will be asked for."""

    def launched():
        found = {kernel: set(launches.variants) for kernel, launches in kernels.items()}
        for launches in kernels.values():
            launches.variants.clear()
        return found

    info, forward = load(tmp_path, name)
    forward(step())
    expected = launched()
    (decoder,) = outline(info, triton_backend.TritonBackend(), dtype=torch.bfloat16, ranks=1)
    caches = allocate_caches(decoder.cache_shapes, 64, 16, device=NOWHERE, dtype=torch.bfloat16)
    inputs = step()
    decoder.forward(inputs.token_ids, inputs.positions, inputs.batch, caches, inputs.sample_rows)
    assert launched() == expected


def test_experts_have_an_outline_of_each_of_their_widths(tmp_path, kernels):
    info = describe(tmp_path, "Qwen3Moe")
    widths = set()
    for decoder in outline(info, triton_backend.TritonBackend(), dtype=torch.bfloat16, ranks=1):
        caches = allocate_caches(decoder.cache_shapes, 64, 16, device=NOWHERE, dtype=torch.bfloat16)
        inputs = step()
        decoder.forward(inputs.token_ids, inputs.positions, inputs.batch, caches, inputs.sample_rows)
        widths |= {dict(variant[1:])["WIDTH"] for variant in kernels["gated_kernel"].variants}
    assert info.decoder.mixture.intermediate_size in widths


@pytest.mark.usefixtures("kernels")
def test_experts_are_chosen_by_the_host(tmp_path):
    """So such steps are not captured (`why_eager`), and the test above can fail."""
    _, forward = load(tmp_path, "Qwen3Moe")
    with pytest.raises((NotImplementedError, RuntimeError), match="Meta"):
        forward(step())


def padded(case, rows):
    """The case's batch as a graph takes it, and its queries with NaN where no sequence has any."""
    batch, more = case.batch, rows - len(case.batch.seq_lens)
    query = torch.cat([case.query, torch.full_like(case.query[:1], torch.nan).expand(more, -1, -1)])
    table = torch.cat([batch.block_table, torch.full_like(batch.block_table[:1], 1 << 30).expand(more, -1)])
    return query, replace(
        batch,
        query_start_loc=torch.cat([batch.query_start_loc, batch.query_start_loc[-1:].expand(more)]),
        seq_lens=torch.cat([batch.seq_lens, torch.zeros_like(batch.seq_lens[:1]).expand(more)]),
        block_table=table.contiguous(),
        slot_mapping=torch.cat([batch.slot_mapping, torch.full_like(batch.slot_mapping[:1], -1).expand(more)]),
    )


@pytest.mark.parametrize(
    "backend",
    [ReferenceBackend(), CPUBackend(), NativeBackend(), triton_backend.TritonBackend()],
    ids=lambda backend: backend.name,
)
def test_rows_of_padding(backend, make_case):
    """The sequences' results are what they are without, and the rest of the output is left alone."""
    case = make_case([(1, 1), (1, 40), (1, 16)])
    query, batch = padded(case, ROWS)
    out = torch.full_like(query, 7.0, memory_format=torch.contiguous_format)
    batch = backend.prepare(batch, case.key_cache, case.shape.num_heads)
    backend.attend(query, case.key_cache, case.value_cache, batch, scale=case.scale, out=out)
    torch.testing.assert_close(out[:3].double(), case.expected, rtol=1e-5, atol=1e-6)
    assert (out[3:] == 7).all()


@pytest.mark.parametrize("block_q", [1, 2, 4, 16])
def test_tiles_of_padding_are_none(make_case, block_q):
    case = make_case([(1, 1), (1, 40), (1, 16)])
    _, batch = padded(case, ROWS)
    tiles = make_tiles(batch, block_q)
    assert tiles.sequence.tolist()[:3] == [0, 1, 2]
    assert set(tiles.sequence.tolist()[3:]) == {-1}
    assert tiles.first_query.tolist()[:3] == [0, 0, 0]
