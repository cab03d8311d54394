"""KEDA itself with the example of the chart: a ModelServer goes up, stays while a replica is unseen, and goes down.

The operator, KEDA's operator and adapter, Prometheus, the HPA controller and the API server's aggregation are real; the
replicas are addresses that answer /metrics (`plane.py`). KEDA has an administrator's rights, and its adapter answers
anybody, because this API server has no certificate to call it as somebody. One number of the example is changed, so
that minutes do not pass: the window before a step down.
"""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
import time
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import yaml

from cluster import ControlPlane, Progress, paths, versions
from cluster.keda import Keda, keda
from cluster.ports import free_ports
from cluster.processes import start_child
from cluster.prometheus import Prometheus, Target
from kit.api_client import ApiClient
from soak.goals import Goal
from soak.plane import NAMESPACE, PODS, ROOT, SERVERS, Operator, certificates, install, kubelet, replicas, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from soak.plane import Raw

CHART: Final = ROOT / "charts/octavo"
SERVER: Final = f"{SERVERS}/chat"
SCALED: Final = f"/apis/keda.sh/v1alpha1/namespaces/{NAMESPACE}/scaledobjects"
HPA: Final = f"/apis/autoscaling/v2/namespaces/{NAMESPACE}/horizontalpodautoscalers/keda-hpa-chat"
FAILURES: Final = 24
"""Of KEDA's scaler while a replica is unseen: it fails twice in the 15 s of a pass of the HPA controller."""
WINDOW_SECONDS: Final = 30
SECONDS: Final = 600.0
METRICS_API: Final = f"""
{{ apiVersion: v1, kind: Service, metadata: {{ name: keda, namespace: {NAMESPACE} }},
  spec: {{ type: ExternalName, externalName: localhost, ports: [ {{ port: %(port)d }} ] }} }}
---
{{ apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {{ name: v1beta1.external.metrics.k8s.io }},
  spec: {{ group: external.metrics.k8s.io, version: v1beta1, groupPriorityMinimum: 100, versionPriority: 100,
          service: {{ name: keda, namespace: {NAMESPACE}, port: %(port)d }}, insecureSkipTLSVerify: true }} }}
---
{{ apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {{ name: keda }},
  rules: [ {{ nonResourceURLs: ["/apis/external.metrics.k8s.io/*"], verbs: [get] }},
           {{ apiGroups: [external.metrics.k8s.io], resources: ["*"], verbs: [get, list] }} ] }}
---
{{ apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {{ name: keda }},
  roleRef: {{ apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: keda }},
  subjects: [ {{ apiGroup: rbac.authorization.k8s.io, kind: User, name: "system:anonymous" }} ] }}
"""
"""KEDA's adapter behind a name that leads to this machine, open to whoever asks."""


class Load:
    """What the replicas say of themselves, by address."""

    def __init__(self) -> None:
        self.waiting: dict[str, int] = {}
        self.broken: set[str] = set()

    def metrics(self, address: str) -> str | None:
        if address in self.broken:
            return None
        used, waiting = 100, self.waiting.get(address, 0)
        return (
            f"octavo_requests_running 4\noctavo_requests_waiting {waiting}\n"
            f"octavo_kv_tokens_used {used}\noctavo_kv_tokens_capacity 1000\n"
        )


def run() -> Iterator[Goal]:
    """Builds KEDA the first time, and yields a goal for each thing it should do."""
    built = keda(paths(), Progress())
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="octavo-keda-")))
        plane = stack.enter_context(ControlPlane.start())
        install(plane)
        rules = [CHART / "files/recording-rules.yaml"]
        prometheus = stack.enter_context(Prometheus(folder, rules=rules).start())
        stack.enter_context(_running(built, plane, folder))
        yield from asyncio.run(_measure(plane, prometheus, folder))


async def _measure(plane: ControlPlane, prometheus: Prometheus, folder: Path) -> list[Goal]:
    load = Load()
    async with ApiClient(plane.kubeconfig) as api, replicas(load.metrics), kubelet(api), _scraped(api, prometheus):
        operator = Operator(plane.kubeconfig, folder / "operator.log")
        try:
            await operator.start()
            await api.post(SERVERS, _server())
            await api.post(SCALED, _scaled_object(prometheus.url))
            return [goal async for goal in _goals(api, load)]
        finally:
            await operator.stop()


async def _goals(api: ApiClient, load: Load) -> AsyncIterator[Goal]:
    name = f"KEDA {versions.KEDA} by the example of the chart"
    (first,) = await _addresses(api, 1)
    load.waiting[first] = 7
    took = await _scaled_to(api, 2)
    yield Goal(f"{name}: 7 waiting requests, 4 for a replica", "1 to 2 replicas", f"1 to 2 in {took:.0f} s", met=True)

    (second,) = set(await _addresses(api, 2)) - {first}
    load.broken.add(second)
    load.waiting.clear()
    seen = await _while_failing(api)
    words = f"{', '.join(map(str, sorted(seen)))}, up to {FAILURES} failures of its scaler"
    yield Goal(f"{name}: no load, and a replica that is not scraped", "2 replicas stay", words, seen == {2})

    load.broken.clear()
    took = await _scaled_to(api, 1)
    yield Goal(f"{name}: that replica is back", "2 to 1 replica", f"2 to 1 in {took:.0f} s", met=True)

    load.waiting[first] = 9
    active = {"mode": "Active", "maxReplicas": 3, "targets": {"waitingPerReplica": 2}}
    await api.patch(SERVER, {"spec": {"replicas": None, "autoscaling": active}})
    await until(lambda: _refused(api), SECONDS, "KEDA and its HPA cannot read the scale")
    free = "replicas" not in (await api.get(SERVER))["spec"]
    words = "ErrorGettingCurrentReplicas, AbleToScale False" + ("" if free else ", but it wrote replicas")
    yield Goal(f"{name}: autoscaling.mode Active", "KEDA refused", words, free)


# --- looks ---


async def _addresses(api: ApiClient, count: int) -> list[str]:
    """Of the ready pods, once there are that many."""
    found: list[str] = []

    async def there() -> bool:
        found[:] = [address for pod in (await api.get(PODS))["items"] if (address := pod["status"].get("podIP"))]
        return len(found) == count

    await until(there, SECONDS, f"{count} pods")
    return found


async def _scaled_to(api: ApiClient, wanted: int) -> float:
    """Seconds until KEDA's HPA has written that many replicas."""
    began = time.monotonic()

    async def there() -> bool:
        return bool((await api.get(SERVER))["spec"]["replicas"] == wanted)

    await until(there, SECONDS, f"{wanted} replicas")
    return time.monotonic() - began


async def _while_failing(api: ApiClient) -> set[int]:
    """The numbers of replicas that were seen until there were two, or KEDA's first scaler has failed often enough."""
    seen: set[int] = set()

    async def enough() -> bool:
        seen.add((await api.get(SERVER))["spec"]["replicas"])
        health = (await api.get(f"{SCALED}/chat"))["status"].get("health", {})
        await asyncio.sleep(0.5)
        return len(seen) > 1 or health.get("s0-prometheus", {}).get("numberOfFailures", 0) >= FAILURES

    await until(enough, SECONDS, f"{FAILURES} failures of KEDA's scaler")
    return seen


async def _refused(api: ApiClient) -> bool:
    await asyncio.sleep(0.5)
    ready = _condition(await api.get(f"{SCALED}/chat"), "Ready")
    able = _condition(await api.get(HPA), "AbleToScale")
    return bool(ready.get("reason") == "ErrorGettingCurrentReplicas" and able.get("status") == "False")


def _condition(item: Raw, kind: str) -> Raw:
    found = (each for each in item.get("status", {}).get("conditions", []) if each["type"] == kind)
    return next(found, {})


# --- what is there ---


def _server() -> Raw:
    return {
        "apiVersion": "octavo.dev/v1alpha1",
        "kind": "ModelServer",
        "metadata": {"name": "chat"},
        "spec": {"replicas": 1, "model": {"source": {"pvc": {"claimName": "models"}}}},
    }


def _scaled_object(prometheus: str) -> Raw:
    text = (CHART / "examples/keda.yaml").read_text().replace("team-a", NAMESPACE)
    found: Raw = yaml.safe_load(text.replace("http://prometheus-operated.monitoring.svc:9090", prometheus))
    behavior = found["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    behavior["scaleDown"]["stabilizationWindowSeconds"] = WINDOW_SECONDS
    return found


@asynccontextmanager
async def _scraped(api: ApiClient, prometheus: Prometheus) -> AsyncIterator[None]:
    """Lets Prometheus scrape the pods that there are."""

    async def follow() -> None:
        while True:
            named = {pod["metadata"]["name"]: pod["status"].get("podIP") for pod in (await api.get(PODS))["items"]}
            prometheus.scrape(Target(NAMESPACE, pod, "chat", f"{ip}:8000") for pod, ip in named.items() if ip)
            await asyncio.sleep(1)

    async with asyncio.TaskGroup() as group:
        following = group.create_task(follow())
        yield
        following.cancel()


@contextmanager
def _running(built: Keda, plane: ControlPlane, folder: Path) -> Iterator[None]:
    """KEDA's two processes, its CRDs, and the metrics API that the adapter answers for."""
    grpc, secure, plain, metrics, probes = free_ports(5)
    manifests = "---\n".join([*(path.read_text() for path in built.crds), METRICS_API % {"port": secure}])
    kubectl = [str(plane.kubectl), f"--kubeconfig={plane.kubeconfig}"]
    quiet = subprocess.DEVNULL
    subprocess.run(
        [*kubectl, "apply", "--server-side", "-f", "-"], input=manifests, text=True, check=True, stdout=quiet
    )
    subprocess.run([*kubectl, "wait", "--for=condition=Established", "crd", "--all"], check=True, stdout=quiet)
    certs = certificates(plane.folder / "pki", folder / "certificates")
    operator = [
        str(built.operator),
        f"--cert-dir={certs}",
        f"--metrics-service-bind-address=127.0.0.1:{grpc}",
        f"--metrics-bind-address=127.0.0.1:{metrics}",
        f"--health-probe-bind-address=127.0.0.1:{probes}",
    ]
    adapter = [
        str(built.adapter),
        f"--cert-dir={certs}",
        f"--tls-cert-file={certs / 'tls.crt'}",
        f"--tls-private-key-file={certs / 'tls.key'}",
        f"--metrics-service-address=127.0.0.1:{grpc}",
        "--bind-address=127.0.0.1",
        f"--secure-port={secure}",
        f"--port={plain}",
        *(f"--{of}-kubeconfig={plane.kubeconfig}" for of in ("lister", "authentication", "authorization")),
    ]
    named = {"KUBECONFIG": plane.kubeconfig, "WATCH_NAMESPACE": "", "KEDA_CLUSTER_OBJECT_NAMESPACE": NAMESPACE}
    environment = ["env", *(f"{name}={value}" for name, value in named.items())]
    both = {"keda-operator": operator, "keda-adapter": adapter}
    children = [start_child(name, [*environment, *command], folder) for name, command in both.items()]
    try:
        yield
    finally:
        for child in children:
            child.kill()
            child.wait()
