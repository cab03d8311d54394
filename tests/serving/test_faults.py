"""Processes that die or hang, and starts that fail."""

import json
import shutil
import signal
import threading
from pathlib import Path

import pytest

LONG = {"prompt": "hello", "max_tokens": 4000, "ignore_eos": True}
SHORT = {"prompt": "a", "max_tokens": 3, "ignore_eos": True}
STEP = ("--sim-step-time", "0.01")
STEP_TIME = {"base": 0.01, "per_prefill_token": 0.0, "per_decode": 0.0, "per_kv_token": 0.0}
TOTALS = ("octavo_engine_steps_total", "octavo_prompt_tokens_total", "octavo_generation_tokens_total")


def termination(server):
    return json.loads(server.termination_log.read_text())


def killed_mid_stream(server):
    """Kill the engine while a stream runs; return the stream's last line."""
    with server.client.stream("POST", "/v1/completions", json=LONG | {"stream": True}) as response:
        lines = response.iter_lines()
        next(lines)
        server.engine().send(signal.SIGKILL)
        return [line for line in lines if line][-1]


def assert_is_engine_died_event(line):
    error = json.loads(line.removeprefix("data: "))["error"]
    assert (error["code"], error["type"]) == ("engine_died", "server_error")


def footprint(server):
    """Everything of a server that could leak."""
    return {
        "children": len(server.children()),
        "descriptors": len(list(Path(f"/proc/{server.process.pid}/fd").iterdir())),
        "mappings of shared memory": Path(f"/proc/{server.process.pid}/maps").read_text().count("octavo-state"),
        "socket folders": len(server.socket_folders()),
        "threads": len(list(Path(f"/proc/{server.process.pid}/task").iterdir())),
    }


def test_a_killed_engine_is_replaced_and_every_stream_is_told(launch, wait_for):
    server = launch(*STEP).started()
    assert server.client.post("/v1/completions", json=SHORT).status_code == 200
    before = footprint(server)
    for kill in (1, 2, 3):
        totals = {name: server.metric(name) for name in TOTALS}
        assert_is_engine_died_event(killed_mid_stream(server))
        wait_for(lambda: server.client.get("/readyz").status_code == 200, "ready again")
        assert server.client.post("/v1/completions", json=SHORT).status_code == 200
        assert server.metric("octavo_engine_restarts_total") == kill
        assert server.metric("octavo_requests_total", finished_reason="error") == kill
        assert {name for name in TOTALS if server.metric(name) <= totals[name]} == set(), "totals grow over a restart"
        assert server.metric("octavo_kv_tokens_used") == server.metric("octavo_requests_running") == 0
    wait_for(lambda: footprint(server) == before, "nothing leaks")


def test_while_an_engine_is_replaced_new_work_is_put_off_and_probes_say_why(launch, gate, wait_for):
    server = launch("--sim-profile", gate.path, "--max-engine-restarts", "1000")
    gate.open(STEP_TIME)
    assert_is_engine_died_event(killed_mid_stream(server.started()))
    wait_for(lambda: server.client.get("/startupz").json()["phase"] == "warmup", "the next engine at the gate")
    assert server.client.get("/startupz").status_code == 503
    unready = server.client.get("/readyz")
    assert unready.status_code == 503
    assert "status -9" in unready.json()["reason"]
    refused = server.client.post("/v1/completions", json=SHORT)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_loading")
    assert int(refused.headers["retry-after"]) >= 1
    gate.open({})
    wait_for(lambda: "starts in a row" in server.log(), "a start that failed")
    assert server.client.get("/livez").status_code == 200
    assert server.metric("octavo_generation_tokens_total") > 0
    gate.open(STEP_TIME)
    wait_for(lambda: server.client.get("/readyz").status_code == 200, "ready again")
    assert server.client.get("/startupz").json()["phase"] == "ready"
    assert server.client.post("/v1/completions", json=SHORT).status_code == 200


def test_an_engine_that_dies_too_often_ends_the_server_with_a_reason(launch, wait_for):
    server = launch(*STEP, "--max-engine-restarts", "1").started()
    assert_is_engine_died_event(killed_mid_stream(server))
    wait_for(lambda: server.client.get("/readyz").status_code == 200, "ready again")
    assert_is_engine_died_event(killed_mid_stream(server))
    assert server.exit_status() == 2
    assert termination(server)["reason"] == "EngineFailed"
    assert "status -9; it ended 2 times within 600 s" in termination(server)["message"]
    assert not server.socket_folders()


def test_a_whole_answer_gets_a_500_when_the_engine_dies(launch, wait_for):
    server = launch(*STEP, "--max-engine-restarts", "0").started()
    answers = []
    client = threading.Thread(target=lambda: answers.append(server.client.post("/v1/completions", json=LONG)))
    client.start()
    wait_for(lambda: server.metric("octavo_requests_running") == 1, "running")
    server.engine().send(signal.SIGKILL)
    client.join(180)
    assert answers[0].status_code == 500
    assert answers[0].json()["error"]["code"] == "engine_died"
    assert server.exit_status() == 2
    assert "-9" in termination(server)["message"]


def test_sigterm_while_an_engine_is_replaced_ends_it(launch, sim_model, tmp_path, wait_for):
    model = tmp_path / "model"
    shutil.copytree(sim_model, model)
    server = launch("--drain-delay", "0", "--max-engine-restarts", "1000", model=model).started()
    model.rename(tmp_path / "away")
    server.engine().send(signal.SIGKILL)
    wait_for(lambda: server.client.get("/readyz").status_code == 503, "unready")
    server.terminate()
    assert server.exit_status() == 0
    assert not server.socket_folders()


def test_the_sockets_of_a_killed_server_are_removed_by_the_next_start(launch, wait_for):
    killed = launch().listening()
    wait_for(killed.socket_folders, "its sockets")
    alive = launch(tmpdir=killed.folder).started()
    assert len(alive.socket_folders()) == 2
    killed.process.kill()
    killed.process.wait()
    launch(tmpdir=alive.folder).started()
    assert len(alive.socket_folders()) == 2, "the new server's own, and that of the one who lives"
    assert alive.client.post("/v1/completions", json=SHORT).status_code == 200


def test_a_device_that_hangs_is_seen_also_when_steps_are_planned_ahead(launch, wait_for):
    server = launch("--sim-step-time", "3600", "--stall-limit", "1", "--async-scheduling").started()
    with server.client.stream("POST", "/v1/completions", json=SHORT | {"stream": True}):
        wait_for(lambda: server.metric("octavo_requests_running") == 1, "its first step")
        wait_for(lambda: server.client.get("/livez").status_code == 503, "liveness fails")
        assert "no sign of life" in server.client.get("/livez").json()["reason"]
        assert server.metric("octavo_requests_running") == 1
        assert server.metric("octavo_engine_steps_total") == 0


def test_a_hanging_engine_fails_liveness_while_metrics_stay_true(launch, wait_for):
    server = launch(*STEP, "--stall-limit", "1").started()
    engine = server.engine()
    with server.client.stream("POST", "/v1/completions", json=LONG | {"stream": True}) as response:
        lines = response.iter_lines()  # the connection is closed with the iterator
        next(lines)
        engine.send(signal.SIGSTOP)
        try:
            wait_for(lambda: server.client.get("/livez").status_code == 503, "liveness fails")
            assert "no sign of life" in server.client.get("/livez").json()["reason"]
            assert server.client.get("/readyz").status_code == 503
            assert server.metric("octavo_requests_running") == 1
            assert server.metric("octavo_kv_tokens_used") > 0
            assert server.metric("octavo_engine_silence_seconds") > 1
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


def test_the_port_is_open_while_the_model_loads_and_says_how_far_it_is(launch, gate, wait_for):
    server = launch("--sim-profile", gate.path).listening()
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
    wait_for(lambda: server.client.get("/startupz").json()["phase"] == "warmup", "its last phase")
    gate.open(STEP_TIME)
    wait_for(lambda: server.client.get("/readyz").status_code == 200, "ready")
    assert server.client.get("/startupz").json()["phase"] == "ready"


def test_a_start_that_hangs_fails_liveness_in_the_end(launch, gate, wait_for):
    server = launch("--sim-profile", gate.path, "--startup-stall-limit", "1").listening()
    wait_for(lambda: server.client.get("/livez").status_code == 503, "liveness fails")
    gate.open(STEP_TIME)
    wait_for(lambda: server.client.get("/livez").status_code == 200, "alive")


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
