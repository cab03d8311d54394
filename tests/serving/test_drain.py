"""SIGTERM: no answer is cut, and nothing new is taken when it is too late."""

import json
import signal
import threading

import httpx
import pytest

PATIENCE = 180.0  # seconds
STEP = ("--sim-step-time", "0.01")


def request(tokens):
    """A stream of exactly `tokens` characters."""
    return {"prompt": "hello", "max_tokens": tokens, "min_tokens": tokens, "seed": 1, "stream": True}


class Stream(threading.Thread):
    """A client that reads one stream to its end."""

    def __init__(self, url, tokens):
        super().__init__(daemon=True)
        self.url, self.tokens = url, tokens
        self.first = threading.Event()
        self.lines = []
        self.cut = None
        self.start()

    def run(self):
        try:
            self.read()
        except httpx.HTTPError as error:
            self.cut = error

    def read(self):
        url = f"{self.url}/v1/completions"
        with httpx.stream("POST", url, json=request(self.tokens), timeout=PATIENCE, trust_env=False) as response:
            for line in response.iter_lines():
                self.lines.append(line)
                self.first.set()

    def begun(self):
        assert self.first.wait(PATIENCE), "no first token"
        return self

    def events(self):
        self.join(PATIENCE)
        assert not self.is_alive()
        assert self.cut is None, "the connection was cut"
        return [line.removeprefix("data: ") for line in self.lines if line]

    def text(self):
        *chunks, done = self.events()
        assert done == "[DONE]"
        return "".join(json.loads(chunk)["choices"][0]["text"] for chunk in chunks)


def test_new_work_is_served_until_the_delay_is_over(launch, wait_for):
    server = launch("--drain-delay", "3600").started()
    server.terminate()
    wait_for(lambda: server.client.get("/readyz").status_code == 503, "unready")
    assert server.client.get("/livez").status_code == 200
    assert server.metric("octavo_draining") == 1
    served = server.client.post("/v1/completions", json=request(3) | {"stream": False})
    assert served.status_code == 200
    assert served.headers["connection"] == "close"


def test_after_the_delay_new_work_is_refused_and_a_running_stream_ends_whole(launch, wait_for):
    server = launch(*STEP, "--drain-delay", "0.1").started()
    stream = Stream(server.url, 100).begun()
    engine = server.engine()
    engine.send(signal.SIGSTOP)  # so that the stream, and with it the server, does not end meanwhile
    try:
        server.terminate()
        wait_for(lambda: "at most" in server.log(), "refusing new work")
        refused = server.client.post("/v1/completions", json=request(1) | {"stream": False})
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        assert refused.headers["connection"] == "close"
        assert refused.json()["error"]["code"] == "server_shutting_down"
        assert server.client.get("/readyz").status_code == 503
        assert server.client.get("/metrics").status_code == 200, "still true while it drains"
    finally:
        engine.send(signal.SIGCONT)
    assert len(stream.text()) == 100
    assert server.exit_status() == 0
    assert server.termination_log.read_text() == "", "nothing was cut"


def test_an_idle_server_ends_when_the_delay_is_over(launch):
    server = launch("--drain-delay", "0.1").started()
    server.terminate()
    assert server.exit_status() == 0
    assert not server.socket_folders(), "sockets are removed"
    assert server.termination_log.read_text() == "", "nothing was cut"


def test_what_is_not_finished_at_the_timeout_ends_with_an_error_event(launch):
    server = launch(*STEP, "--drain-delay", "0.1", "--drain-timeout", "0.5").started()
    stream = Stream(server.url, 4000).begun()
    server.terminate()
    error = json.loads(stream.events()[-1])["error"]
    assert error["code"] == "aborted"
    assert error["type"] == "server_error"
    assert server.exit_status() == 0
    told = json.loads(server.termination_log.read_text())
    assert (told["reason"], told["requests"]) == ("RequestsCut", 1)


def test_what_a_kill_in_the_drain_cuts_is_told_though_nobody_is_left_to_tell(launch, wait_for):
    """A spot instance's node gives seconds, whatever the pod asks for."""
    server = launch(*STEP, "--drain-delay", "3600").started()
    short, _long, _other = (Stream(server.url, tokens).begun() for tokens in (300, 4000, 4000))
    assert server.termination_log.read_text() == "", "nobody has asked it to end"
    server.terminate()
    wait_for(lambda: server.client.get("/readyz").status_code == 503, "draining")
    assert len(short.text()) == 300
    wait_for(lambda: '"requests": 2}' in server.termination_log.read_text(), "the two that are left")
    server.process.kill()
    server.process.wait(PATIENCE)
    told = json.loads(server.termination_log.read_text())
    assert (told["reason"], told["requests"]) == ("RequestsCut", 2)


def test_an_engine_that_dies_in_a_drain_tells_its_streams_and_is_not_waited_for(launch, wait_for):
    server = launch(*STEP, "--drain-delay", "0.1").started()
    stream = Stream(server.url, 4000).begun()
    engine = server.engine()
    server.terminate()
    wait_for(lambda: "at most" in server.log(), "refusing new work")
    engine.send(signal.SIGKILL)
    assert json.loads(stream.events()[-1])["error"]["code"] == "engine_died"
    assert server.exit_status() == 0
    assert "not starting it again" in server.log()
    assert "; starting it again" not in server.log()
    assert not server.socket_folders()


def test_ctrl_c_drains_without_the_delay(launch):
    server = launch("--drain-delay", "3600").started()
    server.process.send_signal(signal.SIGINT)
    assert server.exit_status() == 0


def test_a_second_signal_ends_at_once(launch, wait_for):
    server = launch(*STEP, "--drain-delay", "3600").started()
    Stream(server.url, 4000).begun()
    engine = server.engine()
    server.terminate()
    wait_for(lambda: "draining" in server.log(), "draining")
    server.terminate()
    assert server.exit_status() == 128 + signal.SIGTERM
    wait_for(engine.is_gone, "the engine is gone too")


def test_sigterm_while_loading_ends_it(launch, gate):
    server = launch("--drain-delay", "3600", "--sim-profile", gate.path).listening()
    server.terminate()
    assert server.exit_status() == 0


@pytest.mark.parametrize("count", [5])
def test_several_streams_and_whole_answers_survive(launch, count):
    server = launch(*STEP, "--drain-delay", "0.2").started()
    streams = [Stream(server.url, 100 + 20 * number) for number in range(count)]
    for stream in streams:
        stream.begun()
    server.terminate()
    assert [len(stream.text()) for stream in streams] == [100 + 20 * number for number in range(count)]
    assert server.exit_status() == 0
