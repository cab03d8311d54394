"""Processes that die or hang, and starts that fail."""

import json
import shutil
import signal
import threading

import pytest

LONG = {"prompt": "hello", "max_tokens": 4000, "ignore_eos": True}
STEP = ("--sim-step-time", "0.01")


def termination(server):
    return json.loads(server.termination_log.read_text())


def test_an_engine_that_is_killed_ends_streams_with_an_error_event_and_the_server_with_a_reason(launch):
    server = launch(*STEP).started()
    with server.client.stream("POST", "/v1/completions", json=LONG | {"stream": True}) as response:
        lines = response.iter_lines()
        next(lines)
        server.engine().send(signal.SIGKILL)
        last = [line for line in lines if line][-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_died"
    assert server.exit_status() == 2
    assert termination(server)["reason"] == "EngineFailed"
    assert "-9" in termination(server)["message"]
    assert not [path for path in server.folder.iterdir() if path.name.startswith("octavo-")]


def test_a_whole_answer_gets_a_500_when_the_engine_dies(launch, wait_for):
    server = launch(*STEP).started()
    answers = []
    client = threading.Thread(target=lambda: answers.append(server.client.post("/v1/completions", json=LONG)))
    client.start()
    wait_for(lambda: server.metric("octavo_requests_running") == 1, "running")
    server.engine().send(signal.SIGKILL)
    client.join(10)
    assert answers[0].status_code == 500
    assert answers[0].json()["error"]["code"] == "engine_died"
    assert server.exit_status() == 2


def test_a_hanging_engine_fails_liveness_while_metrics_stay_true(launch, wait_for):
    server = launch(*STEP, "--stall-limit", "1").started()
    engine = server.engine()
    with server.client.stream("POST", "/v1/completions", json=LONG | {"stream": True}) as response:
        next(response.iter_lines())
        engine.send(signal.SIGSTOP)
        try:
            wait_for(lambda: server.client.get("/livez").status_code == 503, "liveness fails", 6)
            assert "no sign of life" in server.client.get("/livez").json()["reason"]
            assert server.client.get("/readyz").status_code == 503
            assert server.metric("octavo_requests_running") == 1
            assert server.metric("octavo_kv_tokens_used") > 0
        finally:
            engine.send(signal.SIGCONT)
        wait_for(lambda: server.client.get("/livez").status_code == 200, "alive again")


def test_the_engine_does_not_survive_the_api_process(launch, wait_for):
    server = launch(*STEP).started()
    engine = server.engine()
    server.process.kill()
    wait_for(engine.is_gone, "the engine is gone")


def test_a_hanging_engine_does_not_survive_the_api_process_either(launch, wait_for):
    server = launch().started()
    engine = server.engine()
    engine.send(signal.SIGSTOP)
    server.process.kill()
    wait_for(engine.is_gone, "the engine is gone")


def test_the_engine_shrugs_off_signals_that_are_not_for_it(launch):
    server = launch().started()
    for number in (signal.SIGTERM, signal.SIGINT):
        server.engine().send(number)
    assert server.client.post("/v1/completions", json={"prompt": "a", "max_tokens": 3}).status_code == 200


def test_the_port_is_open_while_the_model_loads_and_says_how_far_it_is(launch, wait_for):
    server = launch().listening()
    engine = server.engine()
    engine.send(signal.SIGSTOP)
    try:
        startup = server.client.get("/startupz")
        assert startup.status_code == 503
        assert startup.json()["phase"] in {"process", "weights", "warmup", "tokenizer"}
        assert 0 <= startup.json()["progress"] <= 1
        assert server.client.get("/livez").status_code == 200
        assert server.client.get("/readyz").status_code == 503
        assert server.metric("octavo_requests_running") == 0
        refused = server.client.post("/v1/completions", json={"prompt": "a"})
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "model_loading"
        assert int(refused.headers["retry-after"]) >= 1
    finally:
        engine.send(signal.SIGCONT)
    wait_for(lambda: server.client.get("/readyz").status_code == 200, "ready")
    assert server.client.get("/startupz").json()["phase"] == "ready"


def test_a_start_that_hangs_fails_liveness_in_the_end(launch, wait_for):
    server = launch("--startup-stall-limit", "1").listening()
    engine = server.engine()
    engine.send(signal.SIGSTOP)
    try:
        wait_for(lambda: server.client.get("/livez").status_code == 503, "liveness fails")
    finally:
        engine.send(signal.SIGCONT)


def test_a_path_that_does_not_exist(launch, tmp_path):
    server = launch(model=tmp_path / "nowhere")
    assert server.exit_status() == 2
    assert termination(server)["reason"] == "ModelNotFound"
    assert "nowhere" in termination(server)["message"]


def test_a_length_that_the_model_does_not_have(launch):
    server = launch("--max-model-len", "5000")
    assert server.exit_status() == 64
    assert termination(server)["reason"] == "InvalidArgument"
    assert "--max-model-len 5000" in termination(server)["message"]


def test_a_cache_without_room_for_a_block(launch):
    server = launch("--kv-cache-memory", "100")
    assert server.exit_status() == 64
    assert "--kv-cache-memory 100" in termination(server)["message"]


def test_a_port_that_is_taken(launch, server):
    port = server.url.rpartition(":")[2]
    other = launch("--port", port)
    assert other.exit_status() == 64
    assert f"--port {port}" in termination(other)["message"]


@pytest.mark.parametrize("damage", ["tokenizer.json", "chat_template"])
def test_a_broken_tokenizer_or_template_is_found_at_the_start(launch, sim_model, tmp_path, damage):
    model = tmp_path / "broken"
    shutil.copytree(sim_model, model)
    if damage == "tokenizer.json":
        (model / "tokenizer.json").write_text("{")
    else:
        (model / "chat_template.jinja").write_text("{% if %}")
    server = launch(model=model)
    assert server.exit_status() == 2
    assert termination(server)["reason"] == "ModelUnsupported"
