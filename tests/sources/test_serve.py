"""`octavo serve` of a model that is not here yet: what the probes say meanwhile, and how it fails."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Server:
    def __init__(self, model, folder, storage, *flags):
        self._log = folder / "log"
        self.termination_log = folder / "termination"
        self.termination_log.touch()
        own = {"HF_ENDPOINT": storage.url, "HF_HOME": str(folder), "OCTAVO_MODEL_CACHE": str(folder / "cache")}
        own |= {"OCTAVO_TERMINATION_LOG": str(self.termination_log), "TMPDIR": str(folder)}
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "octavo_runtime", "serve", model, "--runner", "sim", "--host", "127.0.0.1",
                 "--port", "0", "--drain-delay", "0", *flags],
                stderr=log, env=os.environ | own,
            )  # fmt: skip

    def log(self):
        return self._log.read_text()

    def listening(self, wait_for):
        found = wait_for(lambda: re.search(r"listening on .* port (\d+)", self.log()), "listening")
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{found[1]}", timeout=180, trust_env=False)
        return self

    def get(self, path):
        return self.client.get(path)

    def children(self):
        return [
            int(pid) for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        ]

    def close(self):
        if hasattr(self, "client"):
            self.client.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def serve(hub, tmp_path):
    """`serve(model, "--flag", …)` starts a server whose hub is `hub`."""
    servers = []

    def start(model, *flags):
        servers.append(Server(model, tmp_path, hub, *flags))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def test_a_remote_model_is_fetched_while_the_probes_tell_and_is_kept_by_restarts(hub, serve, wait_for):
    hub.stalls["model.safetensors"] = 900_000
    server = serve("hf://team/model").listening(wait_for)
    assert hub.reached.wait(180)
    found = wait_for(lambda: (body := server.get("/startupz").json())["progress"] > 0.5 and body, "progress")
    assert found["phase"] == "fetch"
    assert 0.5 < found["progress"] < 1
    assert 0 < found["bytes_done"] < found["bytes_total"]
    assert server.get("/startupz").status_code == server.get("/readyz").status_code == 503
    assert server.get("/livez").status_code == 200
    refused = server.client.post("/v1/completions", json={"prompt": "a"}).json()
    assert refused["error"]["code"] == "model_loading"
    assert "fetch" in refused["error"]["message"]
    hub.resume.set()
    wait_for(lambda: server.get("/readyz").status_code == 200, "ready")
    assert server.get("/version").json()["model_revision"] == COMMIT
    assert server.get("/v1/models").json()["data"][0]["id"] == "team/model"
    answer = server.client.post("/v1/completions", json={"prompt": "abc", "max_tokens": 3, "ignore_eos": True})
    assert answer.json()["usage"]["completion_tokens"] == 3
    assert COMMIT in server.log()

    asked = len(hub.requests)
    (engine,) = server.children()
    os.kill(engine, signal.SIGKILL)
    wait_for(lambda: server.children() not in ([], [engine]), "another engine")
    wait_for(lambda: server.get("/readyz").status_code == 200, "ready again")
    assert len(hub.requests) == asked


def test_sigterm_ends_a_fetch_at_once(hub, serve, wait_for):
    hub.stalls["model.safetensors"] = 100
    server = serve("hf://team/model").listening(wait_for)
    assert hub.reached.wait(180)
    (fetching,) = server.children()
    server.process.terminate()
    assert server.process.wait(180) == 0
    wait_for(lambda: not Path(f"/proc/{fetching}").exists(), "the fetching process is gone")


def test_a_killed_server_takes_its_fetch_along(hub, serve, wait_for):
    hub.stalls["model.safetensors"] = 100
    server = serve("hf://team/model").listening(wait_for)
    assert hub.reached.wait(180)
    (fetching,) = server.children()
    server.process.kill()
    server.process.wait()

    def gone():
        try:
            return Path(f"/proc/{fetching}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return True

    wait_for(gone, "the fetching process is gone")


def test_what_cannot_be_fetched_ends_the_start_with_its_reason(serve):
    server = serve("team/other")
    assert server.process.wait(180) == 2
    told = json.loads(server.termination_log.read_text())
    assert told["reason"] == "ModelNotFound"
    assert "team/other" in told["message"]
