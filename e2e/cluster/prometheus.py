"""A real Prometheus for tests, on a free loopback port, with its data in a folder of the test.

    with Prometheus(folder).start() as prometheus:
        prometheus.scrape([Target("default", "chat-1", "chat", "127.0.0.1:8000")])
        prometheus.query("octavo_requests_waiting")

It ends with the thread that started it, also when that is killed. Its targets are files instead of pods, but they carry
the labels that Kubernetes' discovery gives, and go through the relabelling that the Prometheus operator writes for a
PodMonitor (its `promcfg.go`), so series have the labels that they have in a cluster.
"""

import json
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from cluster.debian import prometheus_binaries
from cluster.errors import ClusterError
from cluster.layout import Layout, paths
from cluster.ports import free_ports
from cluster.processes import last_lines, start_child, wait_until
from cluster.progress import Progress

if TYPE_CHECKING:
    from types import TracebackType

_READY_SECONDS = 180.0
_DISCOVERED = "__meta_kubernetes_"


@dataclass(frozen=True)
class Target:
    """One pod of a ModelServer, as Kubernetes' discovery would show it; `address` is HOST:PORT."""

    namespace: str
    pod: str
    server: str
    address: str

    @property
    def group(self) -> dict[str, Any]:
        """As an entry of a file of targets."""
        labels = {
            f"{_DISCOVERED}namespace": self.namespace,
            f"{_DISCOVERED}pod_name": self.pod,
            f"{_DISCOVERED}pod_container_name": "runtime",
            f"{_DISCOVERED}pod_container_port_name": "http",
            f"{_DISCOVERED}pod_phase": "Running",
            f"{_DISCOVERED}pod_label_octavo_dev_modelserver": self.server,
        }
        return {"targets": [self.address], "labels": labels}


class Prometheus:
    """A Prometheus server; see the module's docstring. `interval` is that of scrapes and of rules; `relabel` replaces
    a PodMonitor's relabelling.
    """

    def __init__(
        self,
        folder: Path,
        *,
        interval: str = "500ms",
        rules: Iterable[Path] = (),
        relabel: list[dict[str, Any]] | None = None,
        layout: Layout | None = None,
    ) -> None:
        self.folder = folder
        self._server, self.promtool = prometheus_binaries(layout or paths(), Progress())
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self._child: subprocess.Popen[bytes] | None = None
        self.scrape(())
        self._config = folder / "prometheus.json"
        self._config.write_text(json.dumps(_config(folder, interval, rules, relabel or _pod_monitor())))

    def load(self, openmetrics: str) -> Self:
        """Takes in samples of the past, before the start; each with its time, and `# EOF` at the end."""
        text = self.folder / "past.txt"
        text.write_text(openmetrics)
        command = [
            str(self.promtool),
            "tsdb",
            "create-blocks-from",
            "openmetrics",
            str(text),
            str(self.folder / "data"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ClusterError(f"promtool cannot read {text}: {done.stderr.strip()[-300:]}")
        return self

    def start(self) -> Self:
        """Starts it, again too, on the same port with the same data; returns once it answers queries."""
        address = self.url.removeprefix("http://")
        data = self.folder / "data"
        options = [f"--config.file={self._config}", f"--storage.tsdb.path={data}", f"--web.listen-address={address}"]
        self._child = start_child("prometheus", [self._server, *options, "--log.level=warn"], self.folder)
        if not wait_until(self._answers, _READY_SECONDS):
            log = last_lines(self.folder / "logs" / "prometheus.log")
            self.stop()
            raise ClusterError(f"Prometheus is not ready after {_READY_SECONDS:.0f} s: {log}")
        return self

    def stop(self) -> None:
        """An outage: it is gone at once, its data stays."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    def scrape(self, targets: Iterable[Target]) -> None:
        """Scrapes these from now on, and no others."""
        path = self.folder / "targets.json"
        unfinished = path.with_suffix(".new")
        unfinished.write_text(json.dumps([target.group for target in targets]))
        unfinished.rename(path)

    def query(self, promql: str, at: float | None = None) -> list[dict[str, Any]]:
        """The result of an instant query."""
        parameters = {"query": promql, "time": str(at if at is not None else time.time())}
        answer = self._get(f"/api/v1/query?{urllib.parse.urlencode(parameters)}")
        result: list[dict[str, Any]] = json.loads(answer)["data"]["result"]
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        self.stop()

    def _answers(self) -> bool:
        if self._child is not None and self._child.poll() is not None:
            raise ClusterError(f"Prometheus ended: {last_lines(self.folder / 'logs' / 'prometheus.log')}")
        try:
            self._get("/-/ready")
        except OSError:
            return False
        return True

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=90) as answer:
            body: bytes = answer.read()
            return body


def _pod_monitor() -> list[dict[str, Any]]:
    """The relabelling that the Prometheus operator writes for a PodMonitor with our podTargetLabels."""
    named = {"namespace": "namespace", "pod_container_name": "container", "pod_name": "pod"}
    server = "octavo_dev_modelserver"
    return [
        *({"source_labels": [_DISCOVERED + source], "target_label": label} for source, label in named.items()),
        {"source_labels": [f"{_DISCOVERED}pod_label_{server}"], "target_label": server, "regex": "(.+)"},
        {"source_labels": ["namespace", server], "separator": "/", "target_label": "job"},
        {"target_label": "endpoint", "replacement": "http"},
    ]


def _config(folder: Path, interval: str, rules: Iterable[Path], relabel: list[dict[str, Any]]) -> dict[str, Any]:
    """Its configuration; JSON is YAML."""
    pods = {
        "job_name": "pods",
        "file_sd_configs": [{"files": [str(folder / "targets.json")], "refresh_interval": "1s"}],
        "relabel_configs": relabel,
    }
    times = {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval}
    return {"global": times, "rule_files": [str(path) for path in rules], "scrape_configs": [pods]}
