"""`hf://`: a hub on loopback; killed and configured as in a pod where that matters."""

import json
from pathlib import Path

import pytest

from octavo_runtime.errors import ModelAccessDenied, ModelNotFound, ModelUnsupported

MODEL = "hf://team/model"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FETCHED = {"config.json", "tokenizer.json", "model.safetensors"}


def contents(path):
    return {file.name: file.read_bytes() for file in Path(path).iterdir()}


def wanted(storage):
    return {name: storage.files[name] for name in FETCHED}


def test_a_repository_is_fetched_at_the_commit_that_its_branch_names(hub, fetch):
    fetched = fetch(MODEL, hub)
    assert fetched.revision == COMMIT
    assert contents(fetched.path) == wanted(hub)
    total = sum(map(len, wanted(hub).values()))
    assert fetch.news[-1] == (total, total)
    asked = {path.rpartition("/")[2] for path, _ in hub.requests if "/elsewhere/" in path}
    assert asked == FETCHED


def test_a_broken_transfer_is_taken_up_where_it_broke(hub, fetch, caplog):
    hub.cuts["model.safetensors"] = [300_000, 200_000]
    assert contents(fetch(MODEL, hub).path) == wanted(hub)
    first, *others = sorted(set(hub.ranges_of("model.safetensors")))
    assert first == 0
    assert all(0 < start <= 500_000 for start in others)
    assert others
    assert "trying again" in caplog.text


def test_a_mirror_without_ranges_serves_too(hub, fetch):
    hub.knows_ranges = False
    hub.cuts["model.safetensors"] = [300_000]
    assert contents(fetch(MODEL, hub).path) == wanted(hub)


def test_a_killed_fetch_leaves_nothing_that_looks_whole_and_is_resumed(hub, start_fetch, tmp_path, wait_for):
    hub.stalls["model.safetensors"] = 600_000
    fetching = start_fetch(MODEL, hub)
    assert hub.reached.wait(180)
    cache = tmp_path / "cache" / "hf"
    wait_for(lambda: [part for part in cache.rglob("model.safetensors.part") if part.stat().st_size > 100_000], "bytes")
    fetching.kill()
    assert not [path for path in cache.iterdir() if path.is_dir() and path.suffix != ".part"]
    hub.resume.set()
    assert contents(start_fetch(MODEL, hub).end()["path"]) == wanted(hub)
    assert hub.ranges_of("model.safetensors")[-1] > 100_000


def test_content_that_is_not_what_the_hub_announced_is_fetched_again(hub, fetch, caplog):
    hub.spoiled = {"model.safetensors", "config.json"}
    assert contents(fetch(MODEL, hub).path) == wanted(hub)
    assert caplog.text.count("not what the storage announced") == 2


def test_an_overloaded_hub_is_asked_again(hub, fetch):
    hub.status = [503, 429]
    assert fetch(MODEL, hub).revision == COMMIT


def test_the_token_goes_to_the_hub_and_not_to_where_it_sends_us(hub, fetch):
    hub.token = "hf_secret"
    assert contents(fetch(MODEL, hub, HF_TOKEN="hf_secret").path) == wanted(hub)
    assert set(hub.tokens_elsewhere) == {None}


def test_a_token_from_a_file(hub, start_fetch, tmp_path):
    hub.token = "hf_secret"
    (tmp_path / "token").write_text("hf_secret\n")
    assert start_fetch(MODEL, hub, HF_TOKEN_PATH=str(tmp_path / "token")).end()["revision"] == COMMIT


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("hf://team/other", "hf://team/other@main"),
        ("hf://team/model@v9", "revision"),
        ("hf://team/model/a.gguf", "a.gguf"),
    ],
)
def test_what_is_not_there_is_named(hub, fetch, model, words):
    with pytest.raises(ModelNotFound, match=words):
        fetch(model, hub)


def test_a_token_that_is_not_good_enough(hub, fetch):
    hub.token = "hf_secret"
    with pytest.raises(ModelAccessDenied, match="HF_TOKEN"):
        fetch(MODEL, hub, HF_TOKEN="hf_wrong")


def test_without_a_token_the_hub_does_not_say_that_a_private_repository_exists(hub, fetch):
    hub.token = "hf_secret"
    with pytest.raises(ModelNotFound, match=r"is private and \$HF_TOKEN"):
        fetch(MODEL, hub)


def test_a_repository_of_pickles_is_refused_before_anything_is_fetched(hub, fetch, tmp_path):
    del hub.files["model.safetensors"]
    with pytest.raises(ModelUnsupported, match=r"pytorch_model\.bin"):
        fetch(MODEL, hub)
    assert not [path for path, _ in hub.requests if "resolve" in path]
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("key", "value"), [("auto_map", {"AutoModel": "modeling_own.Own"}), ("quantization_config", {"quant_method": "x"})]
)
def test_what_the_configuration_says_is_not_served_is_refused_before_its_weights_are_fetched(hub, fetch, key, value):
    served = hub.files["config.json"]
    hub.files["config.json"] = json.dumps(json.loads(served) | {key: value}).encode()
    with pytest.raises(ModelUnsupported, match=rf"hf://team/model@main: .*{value.get('quant_method', key)}"):
        fetch(MODEL, hub)
    assert {path.rpartition("/")[2] for path, _ in hub.requests if "resolve" in path} == {"config.json"}


def test_one_gguf_file_of_several(hub, fetch):
    hub.files = {"a.gguf": b"GGUF a", "b.gguf": b"GGUF b"}
    assert fetch("hf://team/model/b.gguf", hub).path.read_bytes() == b"GGUF b"
    with pytest.raises(ModelUnsupported, match="name one"):
        fetch(MODEL, hub)


def test_a_pinned_commit_that_is_there_needs_no_hub(hub, fetch):
    pinned = f"{MODEL}@{COMMIT}"
    first = fetch(pinned, hub)
    asked = len(hub.requests)
    assert fetch(pinned, hub) == first
    assert len(hub.requests) == asked


def test_a_restart_while_the_hub_is_away_takes_what_was_fetched_last(hub, fetch, caplog):
    first = fetch(MODEL, hub)
    hub.status = [503] * 5
    assert fetch(MODEL, hub) == first
    assert "fetched before" in caplog.text


def test_a_hub_that_may_not_be_asked_is_said(hub, start_fetch):
    end = start_fetch(MODEL, hub, HF_HUB_OFFLINE="1").end()
    assert end["reason"] == "ModelFetchFailed"
    assert "HF_HUB_OFFLINE" in end["message"]
