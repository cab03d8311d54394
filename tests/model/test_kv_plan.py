"""How a GPU's memory is measured and remembered: with a gauge that stands for the GPU, and real files."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from octavo_runtime.config import ServeConfig
from octavo_runtime.model.info import read_model_info
from octavo_runtime.runner.kv_cache import build_measured, largest_batch, measure_free
from octavo_runtime.runner.kv_plan import KvPlan, PlanKey, encode, file_name, judge, settings_of
from octavo_runtime.runner.plan_file import PlanFile, fingerprint, make_key, plan_folders, software

GIB = 1 << 30
KEY = PlanKey(
    model="f00",
    dtype="torch.bfloat16",
    cache_dtype="torch.float8_e4m3fn",
    device="GPU",
    device_memory=80 * GIB,
    versions={"torch": "2.15", "triton": "3.9"},
    settings={"max_num_seqs": 64, "max_model_len": None, "attention_backend": "auto"},
)
PLAN = KvPlan(KEY, free_before=60 * GIB, for_cache=55 * GIB)
OTHER = {
    "model": "f01",
    "dtype": "torch.float16",
    "cache_dtype": "torch.bfloat16",
    "device": "GPU 2",
    "device_memory": 40 * GIB,
    "versions": {"torch": "2.16", "triton": "3.9"},
    "settings": {"max_num_seqs": 65, "max_model_len": None, "attention_backend": "auto"},
}


def changed(**changes):
    return msgspec.structs.replace(KEY, **changes)


def test_a_plan_is_good_for_the_same_start():
    assert judge(encode(PLAN), KEY, 60 * GIB).for_cache == 55 * GIB


def test_what_is_free_beyond_the_plan_is_the_caches_too():
    """A neighbour that was there when it was measured does not cost anything for ever."""
    assert judge(encode(PLAN), KEY, 70 * GIB).for_cache == 65 * GIB


def test_with_less_free_memory_than_then_it_is_measured_anew():
    verdict = judge(encode(PLAN), KEY, 60 * GIB - 1)
    assert verdict.for_cache is None
    assert verdict.reason == f"{60 * 1024 - 1} MiB are free, and {60 * 1024} were when it was made"


@pytest.mark.parametrize("field", PlanKey.__struct_fields__)
def test_a_plan_for_anything_else_is_not_used_and_says_what_differs(field):
    verdict = judge(encode(PLAN), changed(**{field: OTHER[field]}), 60 * GIB)
    assert verdict.for_cache is None
    assert verdict.reason == f"it was made for other {field}"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"[]",
        b'{"for_cache": 1}',
        encode(PLAN)[:-20],
        encode(PLAN).replace(b'"for_cache": ', b'"for_cache": "'),
        encode(PLAN).replace(b'"free_before"', b'"free_after"'),
        encode(PLAN).replace(str(55 * GIB).encode(), b"-1"),
        encode(PLAN).replace(str(55 * GIB).encode(), str(61 * GIB).encode()),
        encode(PLAN).replace(str(55 * GIB).encode(), b"1e99"),
    ],
)
def test_a_broken_plan_is_none(text):
    verdict = judge(text, KEY, 60 * GIB)
    assert verdict.for_cache is None
    assert verdict.reason


@given(text=st.binary(max_size=300) | st.tuples(st.binary(max_size=5), st.integers(0, 600)).map(lambda cut: _cut(*cut)))
def test_no_bytes_are_an_error(text):
    verdict = judge(text, KEY, 60 * GIB)
    assert (verdict.for_cache is None) or (0 <= verdict.for_cache <= 60 * GIB)


def _cut(middle, at):
    whole = encode(PLAN)
    return whole[:at] + middle + whole[at + len(middle) :]


def test_each_key_has_a_file_of_its_own():
    names = {file_name(KEY), *(file_name(changed(**{field: OTHER[field]})) for field in OTHER)}
    assert len(names) == 1 + len(OTHER)
    reordered = changed(versions=dict(reversed(KEY.versions.items())))
    assert file_name(reordered) == file_name(KEY)


def test_settings_that_change_what_a_step_takes_are_in_the_key():
    config = ServeConfig(Path("m"))
    changes = {"max_num_seqs": 8, "max_num_batched_tokens": 99, "block_size": 32, "speculative_ngram": 3}
    assert all(settings_of(replace(config, **{name: value})) != settings_of(config) for name, value in changes.items())
    assert settings_of(replace(config, port=1)) == settings_of(config)


# --- files ------------------------------------------------------------------------------------------------------------


def blocked(tmp_path):
    """A folder that cannot be made, by whoever runs this."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "kv-plans"


def test_what_is_saved_is_found_by_the_next_start(tmp_path, caplog):
    folder = tmp_path / "not" / "there yet"
    with caplog.at_level(logging.INFO):
        PlanFile([folder], KEY).save(60 * GIB, 55 * GIB)
        assert PlanFile([folder], KEY).load(61 * GIB) == 56 * GIB
    assert [file.name for file in folder.iterdir()] == [file_name(KEY)]
    assert "nothing was measured" in caplog.text


def test_the_first_folder_that_can_be_written_is_taken(tmp_path, caplog):
    places = [blocked(tmp_path), tmp_path / "second", tmp_path / "third"]
    with caplog.at_level(logging.INFO):
        PlanFile(places, KEY).save(60 * GIB, 55 * GIB)
    assert not places[2].exists()
    assert PlanFile(places, KEY).load(60 * GIB) == 55 * GIB
    assert len(caplog.records) == 2, "where it is kept, and that it is used"


@pytest.mark.parametrize("home", [True, False])
def test_without_a_place_each_start_measures(tmp_path, caplog, home):
    plan = PlanFile([blocked(tmp_path)] if home else [], KEY)
    with caplog.at_level(logging.INFO):
        plan.save(60 * GIB, 55 * GIB)
        assert plan.load(60 * GIB) is None
    assert len([record for record in caplog.records if "measured at each start" in record.message]) == 1


def test_a_plan_that_is_of_no_use_is_told_once_and_the_next_one_tried(tmp_path, caplog):
    places = [tmp_path / "first", tmp_path / "second"]
    places[0].mkdir()
    (places[0] / file_name(KEY)).write_bytes(b"{")
    PlanFile(places[1:], KEY).save(60 * GIB, 55 * GIB)
    assert PlanFile(places, KEY).load(60 * GIB) == 55 * GIB
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert f"{places[0] / file_name(KEY)} is not used: it is no plan" in record.message


def test_what_cannot_be_read_is_told_once(tmp_path, caplog):
    (tmp_path / file_name(KEY)).mkdir()
    assert PlanFile([tmp_path], KEY).load(60 * GIB) is None
    (record,) = caplog.records
    assert "cannot be read" in record.message


def test_a_file_without_end_is_not_read_to_its_end(tmp_path):
    (tmp_path / file_name(KEY)).symlink_to("/dev/zero")
    assert PlanFile([tmp_path], KEY).load(60 * GIB) is None


def test_places_are_beside_what_was_fetched_and_in_the_users_cache(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("OCTAVO_MODEL_CACHE", raising=False)
    local, remote = ServeConfig(Path("m")), ServeConfig(Path("m"), remote="hf://org/name")
    own = Path("/home/me/.cache/octavo/kv-plans")
    assert plan_folders(local) == [own]
    assert plan_folders(remote) == [Path("/home/me/.cache/octavo/models/kv-plans"), own]
    assert plan_folders(replace(remote, download_dir=Path("/cache"))) == [Path("/cache/kv-plans"), own]
    monkeypatch.setenv("OCTAVO_MODEL_CACHE", "/shared")
    assert plan_folders(remote) == [Path("/shared/kv-plans"), own]


def test_a_fingerprint_is_of_the_model_and_not_of_its_place(make_model, tmp_path):
    folder = make_model("Llama")
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "README.md").write_text("beside the point")
    first = fingerprint(read_model_info(folder))
    assert fingerprint(read_model_info(copy)) == first
    with (copy / "model.safetensors").open("ab") as file:
        file.write(b"x")
    assert fingerprint(read_model_info(copy)) != first
    assert fingerprint(read_model_info(make_model("Llama", num_hidden_layers=2))) != first


def test_a_key_knows_the_software(make_model):
    info = read_model_info(make_model("Llama"))
    key = make_key(
        ServeConfig(info.path), info, dtype=torch.float16, cache_dtype=torch.float16, device=("GPU", 80 * GIB)
    )
    assert key.versions == software()
    assert key.versions["torch"] == torch.__version__.partition("+")[0] or key.versions["torch"] == torch.__version__
    assert key.versions["octavo-runtime"]


# --- measuring --------------------------------------------------------------------------------------------------------


class FakeGauge:
    """A GPU of 1,000 bytes: a runner's cache takes 10 a block while it is there, a step takes 300 at its worst."""

    def __init__(self):
        self.live = []

    def free(self):
        return 1000 - sum(10 * runner.num_blocks for runner in self.live)

    def peak_of(self, step):
        assert self.live, "the cache of the step is there, and none of its peak"
        step()
        return 300

    def make(self, num_blocks):
        gauge = self

        class Runner:
            def __init__(self):
                self.num_blocks = num_blocks
                self.batches = []
                gauge.live.append(self)

            def execute(self, batch):
                self.batches.append(batch)
                gauge.live.remove(self)  # nobody needs it after that

        return Runner()


@pytest.fixture
def info(make_model):
    return read_model_info(make_model("Llama"))  # 256 positions


def test_the_cache_gets_what_the_largest_step_leaves(info):
    gauge = FakeGauge()
    batch = largest_batch(ServeConfig(Path("m"), max_num_seqs=4, max_num_batched_tokens=100), info, step_tokens=0)
    assert measure_free(gauge, gauge.make, batch) == 700


settings_of_steps = st.builds(
    lambda seqs, more, block, length, drafts: {
        "max_num_seqs": seqs,
        "max_num_batched_tokens": seqs + more,
        "block_size": block,
        "max_model_len": length,
        "speculative_ngram": drafts,
    },
    st.integers(1, 40),
    st.integers(0, 400),
    st.sampled_from([1, 4, 16]),
    st.none() | st.integers(1, 256),
    st.integers(0, 5),
)


@given(settings=settings_of_steps)
def test_the_largest_step_is_as_large_as_a_step_may_be(info_once, settings):
    config = ServeConfig(Path("m"), **settings)
    batch = largest_batch(config, info_once, step_tokens=0)
    longest = config.max_model_len or 256
    count = len(batch.seq_lens)
    assert len(batch.token_ids) == min(config.max_num_batched_tokens, config.max_num_seqs * longest)
    assert count == config.max_num_seqs
    assert max(batch.seq_lens) <= longest
    assert len(batch.sampling) == sum(min(length, 1 + config.speculative_ngram) for length in batch.seq_lens)
    blocks = [block for table in batch.block_tables for block in table]
    assert blocks == list(range(len(blocks))), "each sequence has its own, so that all are written"
    assert len(set(batch.slot_mapping)) == len(batch.token_ids)
    starts = batch.query_start_loc
    for sequence, table in enumerate(batch.block_tables):
        slots = batch.slot_mapping[starts[sequence] : starts[sequence + 1]]
        assert slots == [
            table[at // config.block_size] * config.block_size + at % config.block_size for at in range(len(slots))
        ]


@pytest.fixture(scope="module")
def info_once(make_model):
    return read_model_info(make_model("Llama"))


def test_without_a_budget_the_devices_is_taken(info_once):
    assert len(largest_batch(ServeConfig(Path("m")), info_once, step_tokens=500).token_ids) == 500
    assert len(largest_batch(ServeConfig(Path("m"), max_num_seqs=900), info_once, step_tokens=500).token_ids) == 900


def test_a_runner_computes_the_largest_step(make_model, runner_of):
    """With every row scored and described, whatever a request may ask for."""
    folder = make_model("Llama")
    config = ServeConfig(folder, max_num_seqs=5, max_num_batched_tokens=70, block_size=4, speculative_ngram=2)
    batch = largest_batch(config, read_model_info(folder), step_tokens=0)
    result = runner_of(folder, num_blocks=batch.block_tables[-1][-1] + 1).execute(batch)
    assert len(result.tokens) == len(result.logprobs) == 15
    assert len(result.scores) == 64


class Starts:
    """Starts of one server, on a GPU where a cache may take `most` bytes."""

    def __init__(self, folder, most=700):
        self.measured = 0
        self.built = []
        self._most = most
        self._plan = PlanFile([folder], KEY) if folder else None

    def measure(self):
        self.measured += 1
        return 700

    def build(self, free):
        self.built.append(free)
        if free > self._most:
            raise torch.OutOfMemoryError("no memory")
        return f"a runner with {free}"

    def start(self):
        return build_measured(FakeGauge(), self._plan, self.measure, self.build)


def test_the_second_start_does_not_measure(tmp_path):
    starts = Starts(tmp_path)
    assert starts.start() == starts.start() == "a runner with 700"
    assert starts.measured == 1


def test_a_plan_that_promised_too_much_is_measured_anew_and_forgotten(tmp_path, caplog):
    PlanFile([tmp_path], KEY).save(1000, 800)
    starts = Starts(tmp_path)
    assert starts.start() == "a runner with 700"
    assert starts.built == [800, 700]
    assert "promised too much" in caplog.text
    assert PlanFile([tmp_path], KEY).load(1000) == 700, "the new one"


def test_what_does_not_fit_as_measured_is_an_error(tmp_path):
    with pytest.raises(torch.OutOfMemoryError):
        Starts(tmp_path, most=600).start()


def test_without_a_plan_each_start_measures():
    starts = Starts(None)
    assert starts.start() == starts.start()
    assert starts.measured == 2
