"""A model divided over two nodes: two servers on loopback, one rank in each, weights of a few kilobytes."""

import json
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from cluster.ports import neighbouring_ports
from octavo_runtime.config import ServeConfig
from octavo_runtime.core.batch import SamplingParams
from octavo_runtime.engine.messages import Add
from octavo_runtime.engine.step import Engine
from octavo_runtime.model.identity import fingerprint
from octavo_runtime.model.info import read_model_info
from octavo_runtime.parallel.gathering import Gathering
from octavo_runtime.parallel.handshake import Doorkeeper, terms_of
from octavo_runtime.parallel.messages import Meeting

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
TOKEN = "between the two of us"
PROMPT = "hello"
GREEDY = {"prompt": PROMPT, "max_tokens": 60, "temperature": 0, "ignore_eos": True}
LONG = {"prompt": PROMPT, "max_tokens": 3000, "ignore_eos": True, "seed": 1, "stream": True}


@pytest.fixture(scope="module")
def model(sim_model, tmp_path_factory):
    """The tokenizer of the simulated model, with weights."""
    folder = shutil.copytree(sim_model, tmp_path_factory.mktemp("nodes") / "tiny")
    config = json.loads((folder / "config.json").read_text()) | SHAPE
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights(config["vocab_size"]), folder / "model.safetensors")
    return folder


def weights(vocab_size):
    draw = np.random.default_rng(7)
    hidden, heads, kv, inner = 32, 4 * 8, 2 * 8, 48
    shapes = {"model.embed_tokens": (vocab_size, hidden), "lm_head": (vocab_size, hidden), "model.norm": (hidden,)}
    for layer in range(2):
        name = f"model.layers.{layer}."
        shapes |= {f"{name}input_layernorm": (hidden,), f"{name}post_attention_layernorm": (hidden,)}
        shapes |= {f"{name}self_attn.{part}_proj": (kv, hidden) for part in "kv"}
        shapes |= {f"{name}self_attn.q_proj": (heads, hidden), f"{name}self_attn.o_proj": (hidden, heads)}
        shapes |= {f"{name}mlp.{part}_proj": (inner, hidden) for part in ("gate", "up")}
        shapes[f"{name}mlp.down_proj"] = (hidden, inner)
    return {
        f"{name}.weight": draw.normal(len(shape) == 1, 0.3, shape).astype(np.float32) for name, shape in shapes.items()
    }


def flags(port, node_rank):
    return [
        "--runner", "torch", "--tensor-parallel-size", "2", "--nodes", "2", "--node-rank", str(node_rank),
        "--leader-address", "127.0.0.1", "--leader-port", str(port), "--threads", "1", "--kv-cache-memory", "2Mi",
        "--dtype", "float32", "--drain-delay", "0", "--max-engine-restarts", "0",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def pair(model, module_launch):
    """The leader and the other node."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OCTAVO_GROUP_TOKEN", TOKEN)
        port = neighbouring_ports()
        follower, leader = (module_launch(*flags(port, rank), model=model) for rank in (1, 0))
    return leader.started(600), follower.started(600)


@pytest.fixture(scope="module")
def text_of_one_process(model):
    """What the whole model answers to `GREEDY`."""
    from octavo_runtime.runner.build import build_runner
    from octavo_runtime.text.tokenizer import load_tokenizer

    info = read_model_info(model)
    config = ServeConfig(model, threads=1, dtype="float32", kv_cache_memory=4 << 20)
    engine = Engine(build_runner(config, info, lambda _phase, _done: None), max_num_seqs=1, max_num_batched_tokens=64)
    tokenizer = load_tokenizer(model, info)
    engine.add(Add(1, tokenizer.encode(PROMPT), SamplingParams(max_tokens=GREEDY["max_tokens"], temperature=0.0)))
    tokens = []
    while engine.has_work:
        for output in engine.step(now=0.0).each_output():
            tokens += output.tokens
    return tokenizer.decode(tokens, skip_special_tokens=True)


def test_two_nodes_answer_as_one_process_does(pair, text_of_one_process):
    leader, _ = pair
    answer = leader.client.post("/v1/completions", json=GREEDY)
    assert answer.json()["choices"][0]["text"] == text_of_one_process
    assert len(set(text_of_one_process)) > 5, "a text that says something"


def test_the_other_node_has_probes_and_metrics_and_no_api(pair):
    _, follower = pair
    for probe in ("/livez", "/readyz", "/startupz"):
        assert follower.client.get(probe).status_code == 200, probe
    assert follower.client.get("/startupz").json()["phase"] == "ready"
    assert follower.metric("octavo_node_ready") == 1
    assert follower.metric("octavo_node_messages_total") > 0
    assert follower.metric("octavo_draining") == 0
    assert follower.client.post("/v1/completions", json=GREEDY).status_code == 404


def test_a_node_that_is_told_to_end_computes_on_for_the_leaders_streams(pair, wait_for):
    leader, follower = pair
    with leader.client.stream("POST", "/v1/completions", json=LONG | {"max_tokens": 400}) as response:
        lines = response.iter_lines()
        next(lines)
        follower.terminate()
        wait_for(lambda: follower.client.get("/readyz").status_code == 503, "unready")
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert follower.client.get("/readyz").json()["reason"] == "draining"
    assert follower.metric("octavo_draining") == 1
    assert leader.client.post("/v1/completions", json=GREEDY).status_code == 200, "the leader was not told to end"


def test_a_node_that_is_killed_ends_the_engine_and_is_named(pair):
    """The last one: it ends both."""
    leader, follower = pair
    with leader.client.stream("POST", "/v1/completions", json=LONG) as response:
        lines = response.iter_lines()
        next(lines)
        follower.process.kill()
        error = json.loads([line for line in lines if line][-1].removeprefix("data: "))["error"]
    assert (error["code"], error["type"]) == ("engine_died", "server_error")
    assert leader.exit_status() == 2
    assert "node 1 (127.0.0.1) was lost" in json.loads(leader.termination_log.read_text())["message"]


class Leader:
    """A leader that takes a node in and has nothing to say."""

    def __init__(self, model):
        from importlib.metadata import version

        self.port = neighbouring_ports()
        self.config = ServeConfig(
            model, tensor_parallel_size=2, nodes=2, leader_address="127.0.0.1", dtype="float32", group_timeout=300.0
        )
        self.terms = terms_of(self.config, version("octavo-runtime"), fingerprint(read_model_info(model)))
        self.listener = socket.create_server(("127.0.0.1", self.port))

    def take_in(self):
        gathering = Gathering(self.listener, Doorkeeper(self.terms, 2, token=""))
        there = gathering.wait(300, lambda: None)
        gathering.welcome(Meeting("127.0.0.1", self.port + 1, "any"))
        return there[1].connection


@pytest.fixture
def silent_leader(model):
    leader = Leader(model)
    yield leader
    leader.listener.close()


def ranks_of(server):
    return [pid for pid in server.children() if "octavo_runtime.parallel" in Path(f"/proc/{pid}/cmdline").read_text()]


def test_a_node_whose_leader_dies_ends_with_its_ranks_and_a_status_that_says_so(launch, model, silent_leader, wait_for):
    node = launch(*flags(silent_leader.port, 1), model=model).listening()
    assert node.client.get("/readyz").status_code == node.client.get("/startupz").status_code == 503
    assert node.client.get("/livez").status_code == 200
    connection = silent_leader.take_in()
    (rank,) = wait_for(lambda: ranks_of(node), "its rank")
    connection.close()
    assert node.exit_status() == 2
    assert "the leader of this node has gone" in json.loads(node.termination_log.read_text())["message"]
    wait_for(lambda: not Path(f"/proc/{rank}").exists(), "its rank is gone")


def test_a_node_that_was_told_to_end_ends_well_when_its_leader_does(launch, model, silent_leader, wait_for):
    node = launch(*flags(silent_leader.port, 1), model=model).listening()
    connection = silent_leader.take_in()
    wait_for(lambda: ranks_of(node), "its rank")
    node.terminate()
    wait_for(lambda: "computing until the leader hangs up" in node.log(), "draining")
    connection.close()
    assert node.exit_status() == 0


def test_a_node_that_is_still_looking_for_its_leader_ends_at_once(launch, model):
    node = launch(*flags(neighbouring_ports(), 1), model=model).listening()
    node.terminate()
    assert node.exit_status() == 0
