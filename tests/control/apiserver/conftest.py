"""A real kube-apiserver with controllers and no node, the operator as a process, and pods that the test plays.

The operator runs under the chart's own ServiceAccount and ClusterRole, so a right that is missing there fails here.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import pytest

from cluster import ControlPlane
from cluster.ports import free_ports
from cluster.prometheus import Prometheus
from kit.chart import account_kubeconfig, rendered

SECONDS = 180.0
"""A deadline costs nothing where it is kept: this one is for busy machines."""
CASES = count(1)
ADDRESSES = count(1)

Raw = dict[str, Any]
T = TypeVar("T")


class Kube:
    """kubectl as an administrator, in one namespace."""

    def __init__(self, plane: ControlPlane, namespace: str = "default") -> None:
        self.plane = plane
        self.namespace = namespace

    def run(self, *args: str, stdin: Any = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        text = stdin if isinstance(stdin, str | None) else json.dumps(stdin)
        command = [self.plane.kubectl, f"--kubeconfig={self.plane.kubeconfig}", f"--namespace={self.namespace}", *args]
        done = subprocess.run(command, input=text, text=True, capture_output=True, check=False, timeout=2 * SECONDS)
        assert not check or done.returncode == 0, f"kubectl {' '.join(args)}: {done.stderr}"
        return done

    def apply(self, manifest: Any) -> None:
        self.run("apply", "--server-side", "--force-conflicts", "--field-manager=test", "-f", "-", stdin=manifest)

    def get(self, kind: str, name: str = "chat") -> Raw:
        answer: Raw = json.loads(self.run("get", kind, name, "-o", "json", "--show-managed-fields").stdout)
        return answer

    def find(self, kind: str, name: str = "chat") -> Raw | None:
        text = self.run("get", kind, name, "-o", "json", "--ignore-not-found").stdout
        return json.loads(text) if text else None

    def list(self, kind: str) -> list[Raw]:
        items: list[Raw] = json.loads(self.run("get", kind, "-o", "json").stdout)["items"]
        return items

    def patch(self, kind: str, name: str, patch: Any, *, subresource: str | None = None) -> None:
        kind_of_patch = "json" if isinstance(patch, list) else "merge"
        more = [f"--subresource={subresource}"] if subresource else []
        self.run("patch", kind, name, f"--type={kind_of_patch}", "-p", json.dumps(patch), *more)

    def server(self, **spec: Any) -> Raw:
        """Creates or changes the ModelServer `chat`."""
        base = {"model": {"source": {"pvc": {"claimName": "models", "path": "smol"}}}}
        manifest = {"apiVersion": "octavo.dev/v1alpha1", "kind": "ModelServer", "metadata": {"name": "chat"}}
        self.apply(manifest | {"spec": base | spec})
        return self.get("modelserver")

    def condition(self, kind: str = "Ready") -> Raw:
        status = self.get("modelserver").get("status", {})
        return next((item for item in status.get("conditions", []) if item["type"] == kind), {})


def eventually(check: Callable[[], T], seconds: float = SECONDS) -> T:
    """The first truthy answer of `check`. A failed assertion inside, and a field that is not there, count as "not yet"
    and are shown at the end.
    """
    deadline, answer, last = time.monotonic() + seconds, None, None
    while time.monotonic() < deadline:
        try:
            answer = check()
        except (AssertionError, LookupError) as error:
            last = error
        if answer:
            return answer
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds:.0f} s; last answer {answer!r}") from last


class Operator:
    """`octavo-operator run` as a process."""

    def __init__(self, kubeconfig: Path, log: Path, **environment: str) -> None:
        self.kubeconfig, self.log = kubeconfig, log
        (self.port,) = free_ports(1)
        self._environment = os.environ | {
            "KUBECONFIG": str(kubeconfig),
            "OCTAVO_RUNTIME_IMAGE": "octavo.local/runtime:dev",
            "OCTAVO_ACTIVATOR_IMAGE": "octavo.local/operator:dev",
            "OCTAVO_HTTP_PORT": str(self.port),
            "OCTAVO_SCRAPE_PERIOD": "0.3",
            "OCTAVO_DECIDE_PERIOD": "0.5",
            "OCTAVO_RESYNC_PERIOD": "1",
            "OCTAVO_LEASE_DURATION": "6",
            "OCTAVO_PROFILES_CONFIGMAP": "octavo-operator-profiles",
            "POD_NAMESPACE": "octavo-system",
            "POD_NAME": log.stem,
            **environment,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as out:
            command = [sys.executable, "-m", "octavo_operator", "run"]
            self._process = subprocess.Popen(command, env=self._environment, stdout=out, stderr=out)
        eventually(lambda: self.http("/readyz") == "ok")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        if self._process is None:
            return 0
        self._process.send_signal(how)
        status = self._process.wait(timeout=SECONDS)
        self._process = None
        return status

    def pause(self) -> None:
        """Stands still, as in a machine that is starved or migrated."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def http(self, path: str) -> str | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
                text: str = answer.read().decode()
                return text
        except OSError:
            return None

    def requests(self, verbs: str) -> float:
        """Requests to the API server with one of these verbs (a regular expression) since the start."""
        pattern = re.compile(rf'^octavo_operator_api_requests_total{{.*verb="(?:{verbs})"}} (\S+)$', re.MULTILINE)
        return sum(float(number) for number in pattern.findall(self.metrics()))

    def wait_for_silence(self, verbs: str) -> float:
        """Returns their number when none was sent while everything was listed twice more: what was going on is over,
        events too.
        """

        def silent() -> bool:
            before = self.requests(verbs)
            self.wait_for_resyncs(2)
            return self.requests(verbs) == before

        eventually(silent)
        return self.requests(verbs)

    def metrics(self) -> str:
        """What it counts, when it says so: nothing read is not nothing counted."""
        return eventually(lambda: self.http("/metrics")) or ""

    def wait_for_resyncs(self, number: int) -> None:
        """Returns when everything was listed that many times more."""
        start = self._resyncs()
        eventually(lambda: self._resyncs() >= start + number)

    def _resyncs(self) -> float:
        found = re.search(r'^octavo_operator_resyncs_total{result="ok"} (\S+)$', self.metrics(), re.MULTILINE)
        return float(found.group(1)) if found else 0.0


class Replica:
    """A pod's /metrics, on a loopback address of its own and the runtime's port."""

    def __init__(self) -> None:
        pid = os.getpid()
        self.address = f"127.{50 + pid % 200}.{pid // 200 % 250}.{next(ADDRESSES)}"
        self.running, self.waiting, self.used, self.capacity = 0, 0, 0, 1000
        self.broken = False
        self.visits = 0
        self.visitors: set[str] = set()
        """The programs that have asked, without their versions."""
        self._server = ThreadingHTTPServer((self.address, 8000), self._handler())
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def text(self) -> str:
        values = {
            "octavo_requests_running": self.running,
            "octavo_requests_waiting": self.waiting,
            "octavo_kv_tokens_used": self.used,
            "octavo_kv_tokens_capacity": self.capacity,
        }
        return "".join(f'{name}{{model_name="chat"}} {value}\n' for name, value in values.items())

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        replica = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                replica.visits += 1
                replica.visitors.add(self.headers.get("User-Agent", "").split("/")[0])
                self.send_response(500 if replica.broken or self.path != "/metrics" else 200)
                self.end_headers()
                self.wfile.write(replica.text().encode())

            def log_message(self, *_: object) -> None:
                pass

        return Handler


class Kubelet:
    """Plays the node: gives pods an address and a state, since nothing runs them."""

    def __init__(self, kube: Kube) -> None:
        self.kube = kube
        self.replicas: dict[str, Replica] = {}

    def pods(self) -> list[Raw]:
        return [pod for pod in self.kube.list("pods") if "deletionTimestamp" not in pod["metadata"]]

    def serve(self) -> list[Replica]:
        """Makes every pod ready, and returns the replicas behind those that there are now."""
        pods = self.pods()
        for pod in pods:
            name = pod["metadata"]["name"]
            if name not in self.replicas:
                self.replicas[name] = Replica()
                self._report(name, self.replicas[name].address, {"running": {}}, ready=True)
        return [self.replicas[pod["metadata"]["name"]] for pod in pods]

    def schedule(self, gpus: int) -> list[Raw]:
        """Makes pods ready as far as there are GPUs, one for each, and says of the others what a scheduler would."""
        pods = self.pods()
        free = gpus - sum(1 for pod in pods if pod["metadata"]["name"] in self.replicas)
        for pod in pods:
            name = pod["metadata"]["name"]
            if name in self.replicas:
                continue
            if free > 0:
                free -= 1
                self.replicas[name] = Replica()
                self._report(name, self.replicas[name].address, {"running": {}}, ready=True)
            elif not pod["status"].get("conditions"):
                message = f"0/1 nodes are available: 1 Insufficient nvidia.com/gpu. {gpus} in use."
                homeless = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
                self.kube.patch("pod", name, {"status": {"conditions": [homeless]}}, subresource="status")
        return pods

    def fail(self, state: Raw, *, restarts: int = 0, last: Raw | None = None) -> None:
        """Gives the container of every pod that is not ready that state."""
        for pod in self.pods():
            if pod["metadata"]["name"] not in self.replicas:
                self._report(pod["metadata"]["name"], "10.9.9.9", state, ready=False, restarts=restarts, last=last)

    def close(self) -> None:
        for replica in self.replicas.values():
            replica.close()

    def _report(
        self, name: str, address: str, state: Raw, *, ready: bool, restarts: int = 0, last: Raw | None = None
    ) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": now}
        container = {
            "name": "runtime",
            "ready": ready,
            "started": ready,
            "restartCount": restarts,
            "image": "x",
            "imageID": "x",
            "state": state,
            "lastState": last or {},
        }
        status = {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": [condition],
            "containerStatuses": [container],
        }
        self.kube.patch("pod", name, {"status": status}, subresource="status")


@pytest.fixture(scope="session")
def plane() -> Iterator[ControlPlane]:
    """A control plane with the chart in it, but for the operator's Deployment: CRD, ServiceAccount and roles."""
    with ControlPlane.start() as plane:
        kube = Kube(plane, "octavo-system")
        kube.run("create", "namespace", "octavo-system")
        wanted = [manifest for manifest in rendered() if manifest["kind"] != "Deployment"]
        kube.apply({"apiVersion": "v1", "kind": "List", "items": wanted})
        kube.run("wait", "--for=condition=Established", "crd/modelservers.octavo.dev", "--timeout=180s")
        # The API server publishes the schema a moment after it serves the resource.
        eventually(lambda: kube.run("explain", "modelservers.octavo.dev", check=False).returncode == 0)
        yield plane


@pytest.fixture(scope="session")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """The Prometheus that the operator knows; a test that needs it starts and stops it."""
    prometheus = Prometheus(tmp_path_factory.mktemp("prometheus"))
    yield prometheus
    prometheus.stop()


@pytest.fixture(scope="session")
def operator(
    plane: ControlPlane, prometheus: Prometheus, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operator]:
    """The running operator, with the rights of the chart's ServiceAccount. A test that stops it starts it again."""
    folder = tmp_path_factory.mktemp("operator")
    kubeconfig = account_kubeconfig(plane, "octavo-operator", folder)
    operator = Operator(kubeconfig, folder / "operator.log", OCTAVO_PROMETHEUS_URL=prometheus.url)
    operator.start()
    yield operator
    operator.stop()
    # What kopf says about an outage, and about an end in the middle of its start.
    kopfs = re.compile("will retry|will re-authenticate|(never retrieved|closing of asynchronous) .*kopf/_cogs")
    lines = operator.log.read_text().splitlines()
    assert [line for line in lines if ("raceback" in line or " ERROR " in line) and not kopfs.search(line)] == []


@pytest.fixture(scope="session")
def operator_with() -> type[Operator]:
    """Makes an operator of a kubeconfig, a log file and more environment."""
    return Operator


@pytest.fixture
def anywhere(plane: ControlPlane) -> Kube:
    """The default namespace, for what leaves nothing behind."""
    return Kube(plane)


@pytest.fixture
def kube(plane: ControlPlane) -> Iterator[Kube]:
    """A namespace of the test's own. Its ModelServers go with the test, so the operator is idle afterwards."""
    kube = Kube(plane, f"case-{next(CASES)}")
    Kube(plane).run("create", "namespace", kube.namespace)
    yield kube
    kube.run("delete", "modelservers", "--all", "--wait=false")


@pytest.fixture
def kubelet(kube: Kube) -> Iterator[Kubelet]:
    kubelet = Kubelet(kube)
    yield kubelet
    kubelet.close()


@pytest.fixture
def chart() -> Callable[..., list[Raw]]:
    """Renders the chart with these options of helm."""
    return rendered


@pytest.fixture
def namespaced_operator(plane: ControlPlane, kube: Kube, operator: Operator, tmp_path: Path) -> Iterator[Operator]:
    """An operator for the test's namespace alone, with a Role there and no other right; the other one rests."""
    manifests = rendered(f"--set=watchNamespaces={{{kube.namespace}}}", "--set=crds.install=false")
    system = Kube(plane, "octavo-system")
    for manifest in manifests:
        if manifest["kind"] in ("Role", "RoleBinding") and manifest["metadata"]["namespace"] == kube.namespace:
            kube.apply(manifest)
    system.run("create", "serviceaccount", "narrow")
    system.run(
        "create", "rolebinding", "narrow", "--role=octavo-operator-lease", "--serviceaccount=octavo-system:narrow"
    )
    subject = {"kind": "ServiceAccount", "name": "narrow", "namespace": "octavo-system"}
    kube.patch("rolebinding", "octavo-operator", {"subjects": [subject]})
    operator.stop()
    kubeconfig = account_kubeconfig(plane, "narrow", tmp_path)
    narrow = Operator(kubeconfig, tmp_path / "operator.log", OCTAVO_WATCH_NAMESPACES=kube.namespace)
    try:
        narrow.start()
        yield narrow
    finally:
        narrow.stop()
        system.run("delete", "serviceaccount/narrow", "rolebinding/narrow")
        operator.start()


@pytest.fixture
def wait() -> Callable[..., Any]:
    return eventually
