"""A model without weights, and real servers on it: two processes, loopback, the sim runner."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from tokenizers import Tokenizer, decoders, models

ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,:;!?-\n"
TEMPLATE = """{%- for message in messages %}
{%- if message.role == 'system' and not loop.first %}{{ raise_exception('system must come first') }}{% endif %}
{{- message.role + ': ' + message.content + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}assistant: {% endif %}"""


@pytest.fixture(scope="session")
def sim_model(tmp_path_factory) -> Path:
    """A model folder with a configuration and a tokenizer of one token per character; its weights are never read."""
    folder = tmp_path_factory.mktemp("models") / "sim-model"
    folder.mkdir()
    vocab = {"<eos>": 0} | {character: index for index, character in enumerate(ALPHABET, start=1)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<eos>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": len(vocab),
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "max_position_embeddings": 4096,
        "eos_token_id": 0,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>", "chat_template": TEMPLATE}))
    (folder / "model.safetensors").touch()
    return folder


PATIENCE = 180.0  # seconds; a deadline costs nothing where it is kept, and four lanes of tests share the machine


def poll(condition, what, seconds=PATIENCE):
    """Poll until `condition()` is true, and return what it returned."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.01)
    return result


@pytest.fixture(scope="session")
def wait_for():
    """`wait_for(condition, what, seconds)` polls with a deadline."""
    return poll


class Gate:
    """A profile for `--sim-profile` that is a pipe: an engine that starts stands still before it, for as long as the
    test wants it to load.
    """

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        os.mkfifo(path)

    def open(self, step_time: dict[str, float]) -> None:
        """The engine that is there, or comes next, goes on with these times."""
        pipe = poll(self._reader, "an engine at the gate")
        os.write(pipe, json.dumps(step_time).encode())
        os.close(pipe)

    def _reader(self) -> int | None:
        try:
            return os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nobody reads
                return None
            raise


@pytest.fixture
def gate(tmp_path):
    return Gate(tmp_path / "gate")


class Process:
    """A process that is not our child."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def send(self, number: int) -> None:
        os.kill(self._pid, number)

    def is_gone(self) -> bool:
        try:
            state = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        return state == "Z"


class Server:
    """`octavo serve` as users run it."""

    def __init__(self, model: Path, folder: Path, *flags: str, tmpdir: Path | None = None) -> None:
        self._log = folder / "server.log"
        self.termination_log = folder / "termination.log"
        self.termination_log.touch()
        command = [sys.executable, "-m", "octavo_runtime", "serve", str(model), "--runner", "sim"]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", "0", *flags],
                stderr=log,
                env=os.environ | {"OCTAVO_TERMINATION_LOG": str(self.termination_log), "TMPDIR": str(tmpdir or folder)},
            )
        self.folder = tmpdir or folder
        self.client = None

    def listening(self) -> Server:
        found = poll(lambda: re.search(r"listening on .* port (\d+)", self.log()) or self.exited(), "listening")
        assert found is not self.process, f"the server ended:\n{self.log()}"
        self.url = f"http://127.0.0.1:{found[1]}"
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE, trust_env=False)
        return self

    def started(self, seconds=PATIENCE) -> Server:
        self.listening()
        poll(lambda: self.client.get("/startupz").status_code == 200 or self.exited(), "started", seconds)
        assert self.process.poll() is None, f"the server ended:\n{self.log()}"
        return self

    def exited(self):
        return self.process if self.process.poll() is not None else None

    def log(self) -> str:
        return self._log.read_text()

    def children(self) -> list[int]:
        return [
            int(pid) for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        ]

    def engine(self) -> Process:
        (child,) = self.children()
        return Process(child)

    def socket_folders(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if path.name.startswith("octavo-")]

    def metric(self, name: str, **labels: str) -> float:
        """The value of one sample; labels that are not given may have any value."""
        for line in self.client.get("/metrics").text.splitlines():
            match = re.fullmatch(r"([\w:]+)\{(.*)\} (\S+)", line)
            if match and match[1] == name and all(f'{key}="{value}"' in match[2] for key, value in labels.items()):
                return float(match[3])
        raise AssertionError(f"no metric {name}")

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def exit_status(self, seconds=PATIENCE) -> int:
        return self.process.wait(seconds)

    def close(self) -> None:
        if self.client is not None:
            self.client.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def launcher(model, folder):
    """Yields a function that starts servers, which end with the fixture."""
    servers = []

    def start(*flags, model=model, tmpdir=None):
        own = folder / f"server-{len(servers)}"
        own.mkdir()
        servers.append(Server(model, own, *flags, tmpdir=tmpdir))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def launch(sim_model, tmp_path):
    """`launch("--flag", …, model=…)` starts a server for one test."""
    yield from launcher(sim_model, tmp_path)


@pytest.fixture(scope="module")
def module_launch(sim_model, tmp_path_factory):
    """The same for servers that live as long as the module."""
    yield from launcher(sim_model, tmp_path_factory.mktemp("servers"))


@pytest.fixture(scope="module")
def start_server(module_launch):
    """`start_server("--flag", …)` starts a server that lives as long as the module, and waits until it is ready."""
    return lambda *flags: module_launch(*flags).started()


@pytest.fixture(scope="session")
def server(sim_model, tmp_path_factory):
    """One server for all tests that leave it as they found it."""
    server = Server(sim_model, tmp_path_factory.mktemp("server")).started()
    yield server
    server.close()


@pytest.fixture
def client(server):
    return server.client
