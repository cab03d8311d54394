"""What the MODEL argument may be, which files are fetched, and how progress is counted."""

from pathlib import Path

import pytest

from octavo_runtime.errors import InvalidArgument, ModelNotFound, ModelUnsupported
from octavo_runtime.sources.choose import RemoteFile, choose_files
from octavo_runtime.sources.meter import Meter
from octavo_runtime.sources.reference import HubModel, S3Model, parse_model


@pytest.mark.parametrize(
    ("text", "model", "name"),
    [
        ("hf://org/name", HubModel("org/name"), "org/name"),
        ("org/name", HubModel("org/name"), "org/name"),
        ("hf://org/name@v1.0", HubModel("org/name", "v1.0"), "org/name"),
        ("hf://org/name@refs/pr/3", HubModel("org/name", "refs/pr/3"), "org/name"),
        ("hf://org/name/a.Q4_0.gguf", HubModel("org/name", "main", "a.Q4_0.gguf"), "a.Q4_0"),
        ("hf://org/name@abc/a.gguf", HubModel("org/name", "abc", "a.gguf"), "a"),
        ("s3://bucket/a/b/", S3Model("bucket", "a/b"), "b"),
        ("s3://bucket/a/b.gguf", S3Model("bucket", "a/b.gguf"), "b"),
    ],
)
def test_addresses(text, model, name):
    assert parse_model(text) == model
    assert model.name == name


@pytest.mark.parametrize("text", ["/models/a", "./a/b", "a", "a/b/c", "../a/b", "a/b.gguf", "~/a"])
def test_paths_stay_paths(text):
    assert parse_model(text) == Path(text)


def test_a_path_that_exists_wins_over_the_hub(tmp_path, monkeypatch):
    (tmp_path / "org/name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert parse_model("org/name") == Path("org/name")


@pytest.mark.parametrize(
    "text", ["hf://name", "hf://a/b/c", "hf://a/b@", "hf://a/../b", "s3://bucket", "s3://bucket/", "gs://b/p", "s3://"]
)
def test_what_is_no_address_is_named(text):
    with pytest.raises(InvalidArgument, match="MODEL"):
        parse_model(text)


def chosen(*names, wanted=None):
    files = [RemoteFile(name, 1) for name in names]
    return {file.name for file in choose_files(files, wanted, "hf://org/name@main")}


def test_weights_configuration_and_tokenizer_are_fetched_and_nothing_else():
    wanted = {"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"}
    others = {"model.bin", "code.py", "README.md", "onnx/model.safetensors", ".gitattributes", "a.gguf", "tf_model.h5"}
    assert chosen(*wanted, *others) == wanted


def test_the_makers_own_copy_of_the_weights_is_left_out():
    assert chosen("model-1-of-2.safetensors", "model-2-of-2.safetensors", "consolidated.safetensors") == {
        "model-1-of-2.safetensors", "model-2-of-2.safetensors",
    }  # fmt: skip


def test_small_files_come_first():
    files = [RemoteFile("model.safetensors", 9), RemoteFile("config.json", 1)]
    assert [file.name for file in choose_files(files, None, "")] == ["config.json", "model.safetensors"]


def test_a_gguf_file_needs_nothing_beside_it():
    assert chosen("a.gguf", "config.json") == {"a.gguf"}
    assert chosen("a.gguf", "b.gguf", wanted="b.gguf") == {"b.gguf"}


@pytest.mark.parametrize(
    ("names", "wanted", "error", "words"),
    [
        (
            ["pytorch_model.bin", "config.json"],
            None,
            ModelUnsupported,
            "pytorch_model.bin.*run code.*nothing was fetch",
        ),
        (["config.json", "code.py"], None, ModelNotFound, "neither"),
        (["a.gguf", "b.gguf"], None, ModelUnsupported, "a.gguf, b.gguf"),
        (["a.gguf"], "c.gguf", ModelNotFound, "c.gguf; it has a.gguf"),
        (["../model.safetensors"], None, ModelNotFound, "neither"),
    ],
)
def test_what_cannot_be_served_is_refused_with_its_reason(names, wanted, error, words):
    with pytest.raises(error, match=words):
        chosen(*names, wanted=wanted)


def test_a_meter_counts_what_moves_now():
    meter = Meter(total=1000, done=500, now=0.0)
    assert (meter.share, meter.speed, meter.seconds_left) == (0.5, 0.0, None)
    meter.set(600, 1.0)
    assert (meter.speed, meter.seconds_left) == (100.0, 4.0)
    meter.set(620, 11.0)  # the first second is out of the window
    assert meter.speed == pytest.approx(2.0)
    assert "62%" in str(meter)


def test_a_meter_of_nothing_is_done():
    assert Meter(total=0, done=0, now=0.0).share == 1.0
