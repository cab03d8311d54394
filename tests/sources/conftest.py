"""A hub and a bucket on loopback, which can cut, stall and refuse, and the fetching process as a child of the test."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest
from huggingface_hub import close_session
from tokenizers import Tokenizer, models

from octavo_runtime.sources.fetch import Fetched, fetch_model
from octavo_runtime.sources.reference import parse_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = bytes(range(256)) * 4096  # 1 MiB


def model_files() -> dict[str, bytes]:
    """What a repository with a model for the sim runner holds, and what is not fetched."""
    config = {
        "architectures": ["LlamaForCausalLM"], "vocab_size": 27, "hidden_size": 8, "intermediate_size": 16,
        "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "max_position_embeddings": 512,
        "eos_token_id": 0, "torch_dtype": "float32",
    }  # fmt: skip
    vocab = {"<eos>": 0} | {character: index for index, character in enumerate("abcdefghijklmnopqrstuvwxyz", start=1)}
    return {
        "config.json": json.dumps(config).encode(),
        "tokenizer.json": Tokenizer(models.BPE(vocab=vocab, merges=[])).to_str().encode(),
        "model.safetensors": WEIGHTS,
        "README.md": b"read me",
        "modeling_own.py": b"raise SystemExit('run')",
        "pytorch_model.bin": b"pickle",
        "onnx/model.safetensors": b"another format",
        ".gitattributes": b"",
    }


@dataclass
class Storage:
    """Serves `files`. What it does besides is set by the tests."""

    files: dict[str, bytes] = field(default_factory=model_files)
    token: str | None = None  # needed when set
    status: list[int] = field(default_factory=list)  # answers to the next requests, before it works
    cuts: dict[str, list[int]] = field(default_factory=dict)  # file: bytes after which the next answers break off
    knows_ranges: bool = True
    missing: set[str] = field(default_factory=set)
    spoiled: set[str] = field(default_factory=set)  # files whose content is damaged once
    requests: list[tuple[str, str | None]] = field(default_factory=list)  # path, Range
    authorizations: list[str | None] = field(default_factory=list)  # of all requests
    tokens_elsewhere: list[str | None] = field(default_factory=list)  # what came to the other host
    resume: threading.Event = field(default_factory=threading.Event)  # ends a stall
    stalls: dict[str, int] = field(default_factory=dict)  # file: bytes after which it stalls
    reached: threading.Event = field(default_factory=threading.Event)  # a stall has begun
    url: str = ""

    def ranges_of(self, name: str) -> list[int]:
        """Where the requests for `name` began."""
        return [
            int((asked or "bytes=0-")[6:].partition("-")[0])
            for path, asked in self.requests
            if path.endswith("/" + name)
        ]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    storage: Storage

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        self.storage.requests.append((path, self.headers.get("Range")))
        self.storage.authorizations.append(self.headers.get("Authorization"))
        if self.storage.status:
            self._answer(self.storage.status.pop(0), b"")
        else:
            self.route(path, parse_qs(parts.query))

    def route(self, path: str, query: dict[str, list[str]]) -> None:
        raise NotImplementedError

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send_file(self, name: str, etag: str) -> None:
        storage, content = self.storage, self.storage.files[name]
        if name in storage.spoiled:
            storage.spoiled.remove(name)
            content = bytes(len(content))
        asked = self.headers.get("Range") if storage.knows_ranges else None
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", etag)
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        self._write(name, content[start:])

    def _write(self, name: str, body: bytes) -> None:
        cuts = self.storage.cuts.get(name)
        limit = cuts.pop(0) if cuts else self.storage.stalls.pop(name, None)
        self.wfile.write(body[:limit])
        if limit is None:
            return
        self.wfile.flush()
        self.close_connection = True
        if cuts is None:
            self.storage.reached.set()
            self.storage.resume.wait(600)


class HubHandler(Handler):
    """The endpoints of the hub that list a repository and send a file, the latter by way of another host."""

    def route(self, path: str, _: dict[str, list[str]]) -> None:
        storage = self.storage
        if path.startswith("/elsewhere/"):
            storage.tokens_elsewhere.append(self.headers.get("Authorization"))
            name = path.removeprefix("/elsewhere/")
            self._send_file(name, f'"{_sha256(storage.files[name])}"')
        elif storage.token is not None and self.headers.get("Authorization") != f"Bearer {storage.token}":
            given = self.headers.get("Authorization") is not None
            kind = {"X-Error-Code": "GatedRepo"} if given else {"X-Error-Code": "RepoNotFound"}
            self._answer(403 if given else 401, b"{}", **kind)
        elif not path.startswith(("/api/models/team/model/", "/team/model/")):
            self._answer(404, b"{}", **{"X-Error-Code": "RepoNotFound"})
        elif path.startswith("/api/"):
            self._list(path.rpartition("/")[2])
        else:
            self._resolve(path)

    def _list(self, revision: str) -> None:
        if revision not in {"main", "v1", COMMIT}:
            self._answer(404, b"{}", **{"X-Error-Code": "RevisionNotFound"})
            return
        siblings = [_sibling(name, content) for name, content in self.storage.files.items()]
        body = {"id": "team/model", "sha": COMMIT, "private": False, "tags": [], "siblings": siblings}
        self._answer(200, json.dumps(body).encode(), Content_Type="application/json")

    def _resolve(self, path: str) -> None:
        name = path.removeprefix(f"/team/model/resolve/{COMMIT}/")
        port = self.server.server_address[1]
        self._answer(302, b"", Location=f"http://localhost:{port}/elsewhere/{name}")


def _sibling(name: str, content: bytes) -> dict[str, object]:
    blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
    sibling: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": blob}
    if name.endswith((".safetensors", ".gguf", ".bin")):
        sibling["lfs"] = {"size": len(content), "sha256": _sha256(content), "pointerSize": 130}
    return sibling


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class S3Handler(Handler):
    """Two verbs of S3: list objects, and get one; by path, in bucket `bucket`, with all files below `models/small`."""

    def route(self, path: str, query: dict[str, list[str]]) -> None:
        storage = self.storage
        if storage.token is not None and storage.token not in (self.headers.get("Authorization") or ""):
            self._error(403, "AccessDenied")
        elif not path.startswith("/bucket"):
            self._error(404, "NoSuchBucket")
        elif "list-type" in query:
            self._list(query.get("prefix", [""])[0])
        else:
            name = path.removeprefix("/bucket/models/small/")
            etag = self._etag(name)
            if self.headers.get("If-Match") not in {None, etag}:
                self._error(412, "PreconditionFailed")
            else:
                self._send_file(name, etag)

    def _etag(self, name: str) -> str:
        return '"' + hashlib.md5(self.storage.files[name]).hexdigest() + '"'

    def _list(self, prefix: str) -> None:
        objects = "".join(
            f"<Contents><Key>models/small/{escape(name)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>{escape(self._etag(name))}</ETag><Size>{len(content)}</Size></Contents>"
            for name, content in self.storage.files.items()
            if f"models/small/{name}".startswith(prefix)
        )
        body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{objects}</ListBucketResult>"
        self._answer(200, body.encode(), Content_Type="application/xml")

    def _error(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode())


def _serve(kind: type[Handler]):
    storage = Storage()
    handler = type(kind.__name__, (kind,), {"storage": storage})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    storage.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield storage
    storage.resume.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def hub():
    """A hub with one repository, `team/model`."""
    yield from _serve(HubHandler)


@pytest.fixture
def bucket():
    """S3-compatible storage with `s3://bucket/models/small`."""
    yield from _serve(S3Handler)


def endpoints(storage: Storage) -> dict[str, str]:
    return {
        "HF_ENDPOINT": storage.url, "HF_HUB_DISABLE_TELEMETRY": "1", "AWS_ENDPOINT_URL": storage.url,
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "local",
    }  # fmt: skip


class Fetching:
    """A fetching process."""

    def __init__(self, model: str, cache: os.PathLike[str], environment: dict[str, str]) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "AWS_"))}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "octavo_runtime.sources", model, str(cache), str(os.getpid())],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=inherited | environment,
        )  # fmt: skip
        self.log = ""

    def lines(self, seconds: float = 180.0) -> list[dict[str, object]]:
        """All that it says until its end."""
        out, self.log = self.process.communicate(timeout=seconds)
        return [json.loads(line) for line in out.splitlines()]

    def end(self) -> dict[str, object]:
        """What it says last."""
        return self.lines()[-1]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            pipe.close()


@pytest.fixture
def start_fetch(tmp_path):
    """`start_fetch(model, storage, NAME=value)` starts a fetch into `tmp_path / "cache"`.

    Without a storage the variables that are given are all that it knows.
    """
    started: list[Fetching] = []

    def start(model: str, storage: Storage | None, **environment: str) -> Fetching:
        own = (endpoints(storage) if storage else {}) | {"HF_HOME": str(tmp_path / "home")}
        started.append(Fetching(model, tmp_path / "cache", own | environment))
        return started[-1]

    yield start
    for fetching in started:
        fetching.kill()


@pytest.fixture
def fetch(tmp_path, monkeypatch):
    """`fetch(model, storage, NAME=value)` fetches into `tmp_path / "cache"` in this process, and waits for nothing."""
    for name in [name for name in os.environ if name.startswith(("HF_", "AWS_"))]:
        monkeypatch.delenv(name)

    def run(model: str, storage: Storage, **environment: str) -> Fetched:
        for name, value in (endpoints(storage) | environment).items():
            monkeypatch.setenv(name, value)
        source = parse_model(model)
        assert not isinstance(source, Path)
        run.news.clear()
        return fetch_model(source, tmp_path / "cache", lambda *news: run.news.append(news), sleep=lambda _: None)

    run.news = []
    yield run
    close_session()


@pytest.fixture
def wait_for():
    """`wait_for(condition, what)` polls with a deadline."""

    def poll(condition, what, seconds=180.0):
        deadline = time.monotonic() + seconds
        while not (result := condition()):
            assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
            time.sleep(0.01)
        return result

    return poll
