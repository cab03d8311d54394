"""The command line: quick, and clear about what is wrong."""

import json
import signal
import subprocess
import sys

import pytest

from octavo_runtime import cli
from octavo_runtime.config import ServeConfig
from octavo_runtime.engine.process import EngineArgs, decode_args, encode_args


@pytest.fixture
def parsed(monkeypatch):
    """`parsed("--flag", …)`: the configuration that `octavo serve m --flag …` would serve."""
    seen = []
    monkeypatch.setattr(cli, "_serve", lambda config: seen.append(config) or 0)

    def run(*flags):
        assert cli.main(["serve", "m", *flags]) == 0
        return seen[-1]

    return run


@pytest.fixture
def parsed_model(monkeypatch):
    """`parsed_model("MODEL", "--flag", …)`: the configuration that `octavo serve MODEL --flag …` would serve."""
    seen = []
    monkeypatch.setattr(cli, "_serve", lambda config: seen.append(config) or 0)

    def run(*arguments):
        assert cli.main(["serve", *arguments]) == 0
        return seen[-1]

    return run


def refused(capsys, *flags):
    """What is said about bad flags."""
    with pytest.raises(SystemExit) as end:
        cli.main(["serve", "m", *flags])
    assert end.value.code == 64
    return capsys.readouterr().err.splitlines()[-1]


def test_defaults_are_those_of_the_configuration(parsed):
    config = parsed()
    assert config == ServeConfig(config.model)
    assert str(config.model) == "m"


def test_flags_reach_the_configuration(parsed):
    config = parsed(
        "--port", "0", "--max-model-len", "100", "--dtype", "float32", "--drain-delay", "0.5", "--threads", "2"
    )
    assert (config.port, config.max_model_len, config.dtype, config.drain_delay, config.threads) == (
        0, 100, "float32", 0.5, 2,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "size"),
    [("1000", 1000), ("256Mi", 256 << 20), ("1.5Gi", 3 << 29), ("2G", 2 * 10**9), ("64Ki", 1 << 16), ("5k", 5000)],
)
def test_sizes(parsed, text, size):
    assert parsed("--kv-cache-memory", text).kv_cache_memory == size


def at_the_engine(config):
    """The configuration as the engine's process reads it."""
    return decode_args(encode_args(EngineArgs(config, config.model, 3, 1, 0.0)), EngineArgs).config


@pytest.mark.parametrize(("text", "share"), [("1%", 0.01), ("80%", 0.8), ("95%", 0.95)])
def test_the_cache_may_be_a_share_of_what_is_free(parsed, text, share):
    """A share survives the way to the engine's process as one: 80% must not arrive as 0 bytes, nor 1Ki as a share."""
    config = parsed("--kv-cache-memory", text)
    assert config.kv_cache_memory == share
    arrived = at_the_engine(config).kv_cache_memory
    assert (type(arrived), arrived) == (float, share)
    arrived = at_the_engine(parsed("--kv-cache-memory", "1Ki")).kv_cache_memory
    assert (type(arrived), arrived) == (int, 1024)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--kv-cache-memory", "0%"),
        ("--kv-cache-memory", "96%"),
        ("--kv-cache-memory", "1000%"),
        ("--kv-cache-memory", "12.5%"),
        ("--kv-cache-memory", "256MB"),
        ("--kv-cache-memory", "0"),
        ("--kv-cache-memory", "-5"),
        ("--max-body-size", ""),
        ("--port", "70000"),
        ("--port", "http"),
        ("--max-model-len", "0"),
        ("--max-num-seqs", "1.5"),
        ("--drain-timeout", "-1"),
        ("--drain-timeout", "nan"),
        ("--drain-timeout", "inf"),
        ("--stall-limit", "0"),
        ("--max-queued-tokens", "0"),
        ("--max-engine-restarts", "-1"),
        ("--dtype", "int8"),
        ("--runner", "jax"),
    ],
)
def test_a_bad_value_is_named_with_its_flag(capsys, flag, value):
    message = refused(capsys, flag, value)
    assert flag in message
    assert value in message


def test_a_remote_model_is_named_after_its_address(parsed_model):
    config = parsed_model("hf://org/name@v1", "--download-dir", "/cache")
    assert (config.remote, config.served_model_name) == ("hf://org/name@v1", "org/name")
    assert str(config.download_dir) == "/cache"
    assert parsed_model("hf://org/name", "--served-model-name", "chat").served_model_name == "chat"
    assert parsed_model("/models/m").remote is None


def test_an_address_that_is_none_is_named(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["serve", "hf://team"])
    assert end.value.code == 64
    assert "hf://team" in capsys.readouterr().err


def test_an_unknown_flag_and_an_abbreviation_are_refused(capsys):
    assert "--tensor-parallel" in refused(capsys, "--tensor-parallel", "2")
    assert "--max-num" in refused(capsys, "--max-num", "2")


def test_a_budget_smaller_than_the_batch_is_refused(capsys):
    message = refused(capsys, "--max-num-seqs", "100", "--max-num-batched-tokens", "64")
    assert "--max-num-seqs 100" in message
    assert "--max-num-batched-tokens 64" in message


def test_a_model_without_layers_is_not_divided(capsys, parsed):
    assert parsed("--tensor-parallel-size", "4").tensor_parallel_size == 4
    assert "--tensor-parallel-size 4: --runner sim" in refused(capsys, "--runner", "sim", "--tensor-parallel-size", "4")


def test_several_nodes_are_started_by_the_flags_that_a_leader_worker_set_expands(capsys, parsed):
    several = ("--tensor-parallel-size", "16", "--nodes", "2", "--leader-address", "llm-0.llm.team")
    config = parsed(*several, "--node-rank", "1")
    assert (config.nodes, config.node_rank, config.leader_address, config.leader_port) == (
        2,
        1,
        "llm-0.llm.team",
        29500,
    )
    assert "--node-rank 2: with --nodes 2" in refused(capsys, *several, "--node-rank", "2")
    assert "--node-rank: '$(LWS_WORKER_INDEX)' is not a number" in refused(
        capsys, *several, "--node-rank", "$(LWS_WORKER_INDEX)"
    )


def test_graphs_and_none_at_once_are_refused(capsys, parsed):
    assert parsed("--enforce-eager").enforce_eager
    assert parsed("--max-cudagraph-capture-size", "16").max_cudagraph_capture_size == 16
    message = refused(capsys, "--enforce-eager", "--max-cudagraph-capture-size", "16")
    assert "--max-cudagraph-capture-size 16 makes no sense with --enforce-eager" in message


def test_planning_ahead_is_decided_by_the_device_unless_it_is_asked_for(capsys, parsed):
    assert parsed().async_scheduling is None
    assert parsed("--async-scheduling").async_scheduling is True
    assert parsed("--no-async-scheduling", "--tensor-parallel-size", "2").async_scheduling is False
    message = refused(capsys, "--async-scheduling", "--tensor-parallel-size", "2")
    assert "--async-scheduling" in message
    assert "--tensor-parallel-size 2" in message


def test_kubernetes_is_told_about_bad_flags(capsys, monkeypatch, tmp_path):
    log = tmp_path / "termination.log"
    log.touch()
    monkeypatch.setenv("OCTAVO_TERMINATION_LOG", str(log))
    refused(capsys, "--port", "x")
    message = json.loads(log.read_text())
    assert message["reason"] == "InvalidArgument"
    assert "--port" in message["message"]


def test_no_termination_log_is_no_error(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("OCTAVO_TERMINATION_LOG", str(tmp_path / "absent"))
    refused(capsys, "--port", "x")
    assert not (tmp_path / "absent").exists()


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from octavo_runtime.cli import main\n"
        "try: main(['serve', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'fastapi', 'zmq', 'tokenizers', 'pydantic', 'numpy'} & sys.modules.keys()\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--kv-cache-memory" in done.stdout


def test_a_sigterm_before_the_server_handles_it_is_not_dropped():
    """Process id 1 ignores a signal that has no handler, so one must be there before the slow imports."""
    code = (
        "import os, signal, sys\n"
        "from octavo_runtime import cli\n"
        "cli._serve = lambda _: signal.getsignal(signal.SIGTERM) is signal.SIG_DFL\n"
        "sys.argv = ['octavo', 'serve', 'model']\n"
        "assert not cli.entry(), 'no handler'\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 128 + signal.SIGTERM
