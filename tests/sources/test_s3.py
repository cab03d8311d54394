"""`s3://`: storage on loopback that speaks the two verbs that are needed."""

import json
from pathlib import Path

import pytest

from octavo_runtime.errors import ModelAccessDenied, ModelFetchFailed, ModelNotFound, ModelUnsupported

MODEL = "s3://bucket/models/small"
FETCHED = {"config.json", "tokenizer.json", "model.safetensors"}


def contents(path):
    return {file.name: file.read_bytes() for file in Path(path).iterdir()}


def wanted(storage):
    return {name: storage.files[name] for name in FETCHED}


def test_the_objects_under_a_prefix_are_fetched(bucket, fetch):
    assert contents(fetch(MODEL, bucket).path) == wanted(bucket)


def test_a_single_gguf_object(bucket, fetch):
    bucket.files["a.gguf"] = b"GGUF a"
    assert fetch(f"{MODEL}/a.gguf", bucket).path.read_bytes() == b"GGUF a"


def test_a_killed_fetch_is_resumed(bucket, start_fetch, tmp_path, wait_for):
    bucket.stalls["model.safetensors"] = 1_040_000
    fetching = start_fetch(MODEL, bucket)
    assert bucket.reached.wait(180)
    cache = tmp_path / "cache" / "s3"
    wait_for(lambda: [part for part in cache.rglob("model.safetensors.part") if part.stat().st_size > 500_000], "bytes")
    fetching.kill()
    assert not [path for path in cache.iterdir() if path.is_dir() and path.suffix != ".part"]
    bucket.resume.set()
    assert contents(start_fetch(MODEL, bucket).end()["path"]) == wanted(bucket)
    assert bucket.ranges_of("model.safetensors")[-1] > 500_000


def test_a_broken_transfer_is_taken_up_where_it_broke(bucket, fetch):
    bucket.cuts["model.safetensors"] = [600_000]
    assert contents(fetch(MODEL, bucket).path) == wanted(bucket)
    assert max(bucket.ranges_of("model.safetensors")) > 200_000


def test_other_content_is_another_model(bucket, fetch):
    first = fetch(MODEL, bucket)
    bucket.files["config.json"] = bucket.files["config.json"].replace(b"float32", b"float16")
    second = fetch(MODEL, bucket)
    assert first.path != second.path
    assert first.revision != second.revision
    assert contents(second.path) == wanted(bucket)


@pytest.mark.parametrize("model", ["s3://other/models/small", "s3://bucket/nothing"])
def test_what_is_not_there_is_named(bucket, fetch, model):
    with pytest.raises(ModelNotFound, match=model):
        fetch(model, bucket)


def test_code_of_its_own_is_refused_before_the_weights_are_fetched(bucket, fetch):
    config = json.loads(bucket.files["config.json"]) | {"auto_map": {"AutoModel": "modeling_own.Own"}}
    bucket.files["config.json"] = json.dumps(config).encode()
    with pytest.raises(ModelUnsupported, match=f"{MODEL}: .*auto_map"):
        fetch(MODEL, bucket)
    assert not bucket.ranges_of("model.safetensors")


def test_credentials_that_are_refused(bucket, fetch):
    bucket.token = "Credential=right/"
    with pytest.raises(ModelAccessDenied, match="AWS"):
        fetch(MODEL, bucket)
    assert contents(fetch(MODEL, bucket, AWS_ACCESS_KEY_ID="right").path) == wanted(bucket)


def test_storage_that_is_away_is_asked_again_and_then_given_up(bucket, fetch):
    bucket.status = [503] * 100
    with pytest.raises(ModelFetchFailed, match="given up after 5 tries"):
        fetch(MODEL, bucket)
