"""What operator and runtime both state is the same on both sides. Neither imports the other; this test does both."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from octavo_operator.activator import upstream
from octavo_operator.core import demand, names, render, startup
from octavo_operator.core.exposition import parse_sample
from octavo_operator.core.sources import model_argument
from octavo_operator.core.spec import parse_spec
from octavo_runtime import cli, errors, metrics, termination
from octavo_runtime.config import ServeConfig
from octavo_runtime.engine.state_page import EngineState, Phase
from octavo_runtime.runner.plan_file import plan_folders
from octavo_runtime.sources.reference import HubModel, S3Model, parse_model

ROOT = Path(__file__).parents[2]
FULL_SPEC: dict[str, Any] = {
    "model": {
        "source": {"pvc": {"claimName": "models", "path": "some/model"}},
        "servedName": "chat",
        "maxModelLen": 4096,
        "dtype": "float32",
    },
    "runtime": {
        "maxNumSeqs": 7,
        "maxBatchedTokens": 512,
        "kvCache": {"size": "256Mi", "dtype": "int8", "blockSize": 64},
        "prefixCaching": False,
        "args": ["--threads", "2"],
    },
    "drain": {"timeout": "90s"},
}


def container(spec: dict[str, Any] = FULL_SPEC) -> dict[str, Any]:
    owner = render.Owner(namespace="team", name="chat", uid="1")
    children = render.render(parse_spec(spec), owner, 1, render.Defaults(runtime_image="image"))
    (deployment,) = [child for child in children if child["kind"] == "Deployment"]
    (found,) = deployment["spec"]["template"]["spec"]["containers"]
    return dict(found)


def parsed_arguments(monkeypatch: pytest.MonkeyPatch, spec: dict[str, Any] = FULL_SPEC) -> ServeConfig:
    """What the runtime's own command line makes of the arguments that the operator renders."""
    seen: list[ServeConfig] = []
    monkeypatch.setattr(cli, "_serve", lambda config: seen.append(config) or 0)
    assert cli.main(container(spec)["args"]) == 0
    return seen[0]


@pytest.mark.parametrize(
    ("source", "model"),
    [
        ({"hub": {"repo": "org/model"}}, HubModel("org/model", "main")),
        (
            {"hub": {"repo": "org/model-1.0", "revision": "refs/pr/7", "file": "q8.gguf"}},
            HubModel("org/model-1.0", "refs/pr/7", "q8.gguf"),
        ),
        ({"s3": {"uri": "s3://models/team/smol/"}}, S3Model("models", "team/smol")),
    ],
    ids=["hub", "a revision and a file", "s3"],
)
def test_the_model_that_the_operator_names_is_the_one_that_the_runtime_fetches(
    source: dict[str, Any], model: HubModel | S3Model
) -> None:
    spec = parse_spec({"model": {"source": source}})
    assert parse_model(model_argument(spec.model)) == model


@pytest.mark.parametrize(
    ("model", "folders"),
    [
        ({"source": {"pvc": {"claimName": "models", "path": "m"}}}, ["/tmp/.cache/octavo/kv-plans"]),
        ({"source": {"hub": {"repo": "org/model"}}}, ["/models/kv-plans", "/tmp/.cache/octavo/kv-plans"]),
        (
            {"source": {"s3": {"uri": "s3://models/m"}}, "cache": {"pvc": {"claimName": "cache"}}},
            ["/models/kv-plans", "/tmp/.cache/octavo/kv-plans"],
        ),
    ],
    ids=["a claim, read-only", "an emptyDir", "a cache that outlives the pod"],
)
def test_a_rendered_pod_can_keep_a_plan_of_its_memory(
    monkeypatch: pytest.MonkeyPatch, model: dict[str, Any], folders: list[str]
) -> None:
    """Its root file system is read-only, so each place must lie on a volume that can be written."""
    rendered = container({"model": model})
    (home,) = [variable["value"] for variable in rendered["env"] if variable["name"] == "HOME"]
    monkeypatch.setenv("HOME", home)
    found = plan_folders(parsed_arguments(monkeypatch, {"model": model}))
    assert [str(folder) for folder in found] == folders
    writable = [Path(mount["mountPath"]) for mount in rendered["volumeMounts"] if not mount.get("readOnly")]
    assert all(any(mount in folder.parents for mount in writable) for folder in found)


def test_every_rendered_argument_means_to_the_runtime_what_the_spec_says(monkeypatch: pytest.MonkeyPatch) -> None:
    config = parsed_arguments(monkeypatch)
    assert config.model == Path("/models/some/model")
    assert (config.served_model_name, config.max_model_len, config.dtype) == ("chat", 4096, "float32")
    assert (config.max_num_seqs, config.max_num_batched_tokens) == (7, 512)
    assert config.kv_cache_memory == 256 * 2**20
    cache = {"kvCache": {"memoryPercent": 80}}
    assert parsed_arguments(monkeypatch, FULL_SPEC | {"runtime": cache}).kv_cache_memory == 0.8
    assert (config.kv_cache_dtype, config.block_size, config.prefix_caching) == ("int8", 64, False)
    assert (config.drain_timeout, config.drain_delay) == (90.0, names.DRAIN_DELAY_SECONDS)
    assert config.threads == 2
    assert config.port == names.PORT == container()["ports"][0]["containerPort"]


def runtime_metrics() -> str:
    state = EngineState(running=3, waiting=2, kv_tokens_used=64, kv_tokens_capacity=128)
    requests = metrics.RequestMetrics()
    collector = metrics.RuntimeCollector("chat", requests, lambda: state, lambda: None, lambda: True)
    return metrics.render(collector).decode()


def test_the_operator_reads_what_the_runtime_exports() -> None:
    sample = parse_sample(runtime_metrics(), now=1.0)
    assert sample is not None
    assert (sample.running, sample.waiting, sample.kv_used, sample.kv_capacity) == (3, 2, 64, 128)
    assert sample.draining


def test_the_operator_probes_paths_that_the_runtime_serves() -> None:
    source = (ROOT / "runtime/octavo_runtime/server/probes.py").read_text()
    served = set(re.findall(r'@router\.get\("([^"]+)"\)', source))
    rendered = container()
    probed = {rendered[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert probed | {names.PATH_METRICS} <= served


def test_the_operator_knows_every_reason_that_the_runtime_can_end_with() -> None:
    reasons = {kind.reason for kind in _subclasses(errors.StartError)}
    written = {
        node.args[0].value
        for path in (ROOT / "runtime/octavo_runtime").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") == termination.write_termination_message.__name__
        and isinstance(node.args[0], ast.Constant)
    }
    assert reasons | written == names.RUNTIME_REASONS


def _subclasses(kind: type[errors.StartError]) -> set[type[errors.StartError]]:
    return {kind}.union(*(_subclasses(child) for child in kind.__subclasses__()))


def test_the_activator_knows_a_replica_that_has_not_begun_and_what_one_runs_at_once() -> None:
    assert {errors.Draining().code, errors.ModelLoading("load").code} == upstream.NOT_BEGUN
    default = {field.name: field.default for field in fields(ServeConfig)}["max_num_seqs"]
    assert default == demand.DEFAULT_MAX_NUM_SEQS


def test_the_phases_of_a_start_are_the_runtimes() -> None:
    engines = [phase.name.lower() for phase in Phase if phase is not Phase.READY]
    assert set(startup.PHASES) == {*engines, "fetch", "tokenizer"}  # the API process's own two: server/service.py
    assert [phase for phase in startup.PHASES if phase in engines] == engines
