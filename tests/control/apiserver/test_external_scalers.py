"""Scalers that are not ours on the scale subresource: the examples of the chart, with a real HPA and a real Prometheus.

What stands in for prometheus-adapter is twenty lines here that answer with what its rule in the examples asks
Prometheus for; the HPA controller, the aggregation, Prometheus and the rules are real.
"""

import json
import ssl
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from cluster.prometheus import Prometheus, Target

pytestmark = pytest.mark.apiserver

CHART = Path(__file__).parents[3] / "charts/octavo"
SCALED = {"maxReplicas": 3, "targets": {"waitingPerReplica": 2}}


def example(name):
    return yaml.safe_load((CHART / "examples" / name).read_text())


class Adapter:
    """external.metrics.k8s.io by the rule of the examples."""

    def __init__(self, prometheus, certificate, key):
        (self.rule,) = example("prometheus-adapter.yaml")["rules"]["external"]
        self.prometheus, self.asked = prometheus, 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def objects(self):
        """How the API server is told of it."""
        name = "external-metrics"
        port = {"port": 443, "targetPort": self.port}
        service = {"type": "ExternalName", "externalName": "localhost", "ports": [port]}
        where = {"namespace": "octavo-system", "name": name, "port": self.port}
        registration = {
            "group": "external.metrics.k8s.io",
            "version": "v1beta1",
            "service": where,
            "insecureSkipTLSVerify": True,
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
        }
        metadata = {"name": name, "namespace": "octavo-system"}
        return [
            {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service},
            {
                "apiVersion": "apiregistration.k8s.io/v1",
                "kind": "APIService",
                "metadata": {"name": "v1beta1.external.metrics.k8s.io"},
                "spec": registration,
            },
        ]

    def answer(self, path):
        """Discovery, or the value of a metric."""
        url = urllib.parse.urlsplit(path)
        parts = url.path.strip("/").split("/")
        group = "external.metrics.k8s.io/v1beta1"
        if len(parts) < 6:
            kind = {"name": self.rule["name"]["as"], "namespaced": True, "kind": "ExternalMetricValueList"}
            return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group, "resources": [kind]}
        self.asked += 1
        namespace, metric = parts[4], parts[5]
        selector = urllib.parse.parse_qs(url.query)["labelSelector"][0].split(",")
        labels = {"namespace": namespace, **dict(item.split("=", 1) for item in selector)}
        matchers = ",".join(f'{key}="{value}"' for key, value in labels.items())
        query = self.rule["metricsQuery"].replace("<<.Series>>", self.rule["seriesQuery"].split("{")[0])
        found = self.prometheus.query(query.replace("<<.LabelMatchers>>", matchers))
        items = [
            {
                "metricName": metric,
                "metricLabels": {},
                "timestamp": "2026-01-01T00:00:00Z",
                "value": f"{float(each['value'][1]) * 1000:.0f}m",
            }
            for each in found
        ]
        return {"kind": "ExternalMetricValueList", "apiVersion": group, "metadata": {}, "items": items}

    def _handler(self):
        adapter = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                body = json.dumps(adapter.answer(self.path)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        return Handler


@pytest.fixture
def watched(tmp_path, kube, kubelet):
    """A Prometheus with our rules, and a function that makes every pod ready and lets it be scraped."""
    with Prometheus(tmp_path, rules=[CHART / "files/recording-rules.yaml"]).start() as prometheus:

        def serve():
            replicas = kubelet.serve()
            known = kubelet.replicas.items()
            prometheus.scrape([Target(kube.namespace, name, "chat", f"{it.address}:8000") for name, it in known])
            return replicas

        yield prometheus, serve


@pytest.fixture
def adapter(watched, plane, kube):
    pki, system = plane.folder / "pki", type(kube)(plane, "octavo-system")
    adapter = Adapter(watched[0], pki / "server.crt", pki / "server.key")
    listed = {"apiVersion": "v1", "kind": "List", "items": adapter.objects()}
    system.apply(listed)
    yield adapter
    # An API that nobody answers for would stop every namespace from being deleted.
    system.run("delete", "-f", "-", stdin=listed)
    adapter.close()


def here(kube, text):
    """An example's query for the test's namespace."""
    return text.replace('"team-a"', f'"{kube.namespace}"')


@pytest.mark.usefixtures("operator")
def test_the_queries_of_the_examples_give_the_load_and_nothing_of_half_of_it(kube, watched, wait):
    prometheus, serve = watched
    kube.server(replicas=2)
    first, second = wait(lambda: len(found := serve()) == 2 and found)
    first.waiting, second.waiting = 5, 2
    first.used, second.used = 900, 300
    queries = [here(kube, trigger["metadata"]["query"]) for trigger in example("keda.yaml")["spec"]["triggers"]]

    def values():
        found = [prometheus.query(query) for query in queries]
        return [float(item[0]["value"][1]) if item else None for item in found]

    wait(lambda: values() == [7, pytest.approx(1.2)])
    second.broken = True
    wait(lambda: values() == [None, None])
    assert {item["metadata"]["ignoreNullValues"] for item in example("keda.yaml")["spec"]["triggers"]} == {"false"}
    second.broken = False
    wait(lambda: values()[0] == 7)


@pytest.mark.usefixtures("operator")
def test_g15_an_hpa_scales_and_octavo_advises_and_nobody_flaps(kube, watched, adapter, wait):
    """G15: the HPA writes spec.replicas by the scale subresource, and the operator never does."""
    _, serve = watched
    kube.server(autoscaling=SCALED | {"mode": "Advisory"})
    kube.run("scale", "oms/chat", "--replicas=1")
    (first,) = wait(serve)
    first.waiting, first.running = 7, 4
    hpa = example("hpa.yaml")
    hpa["metadata"]["namespace"] = kube.namespace
    kube.apply(hpa)
    wait(lambda: kube.get("modelserver")["spec"].get("replicas") == 2)
    wait(lambda: len(serve()) == 2 and kube.get("deployment")["spec"]["replicas"] == 2)
    kube.server(autoscaling=SCALED | {"mode": "Advisory"})  # what Git does every few minutes
    assert kube.get("modelserver")["spec"]["replicas"] == 2
    managers = {
        entry["manager"]
        for entry in kube.get("modelserver")["metadata"]["managedFields"]
        if "f:replicas" in entry.get("fieldsV1", {}).get("f:spec", {})
    }
    assert managers <= {"kube-controller-manager", "kubectl"}
    assert wait(lambda: kube.get("modelserver")["status"]["scaling"]["lastDecision"])["mode"] == "Advisory"

    first.broken = True
    seen = adapter.asked

    def blind():
        conditions = kube.get("hpa")["status"].get("conditions", [])
        found = next((item for item in conditions if item["type"] == "ScalingActive"), {})
        return found.get("status") == "False"

    wait(blind)
    wait(lambda: adapter.asked >= seen + 2)
    assert kube.get("modelserver")["spec"]["replicas"] == 2

    # The one scaler: while Octavo scales, the HPA is refused, and says so.
    first.broken = False
    mode = {"op": "replace", "path": "/spec/autoscaling/mode", "value": "Active"}
    kube.patch("modelserver", "chat", [{"op": "remove", "path": "/spec/replicas"}, mode])
    for replica in serve():
        replica.waiting = 9

    def refused():
        conditions = kube.get("hpa")["status"].get("conditions", [])
        found = next((item for item in conditions if item["type"] == "AbleToScale"), {})
        return found.get("status") == "False" and found

    assert ".spec.replicas" in wait(refused)["message"]
    assert "replicas" not in kube.get("modelserver")["spec"]


def test_scaling_by_hand_is_refused_while_octavo_scales(kube):
    kube.server(autoscaling=SCALED)
    done = kube.run("scale", "oms/chat", "--replicas=3", check=False)
    assert done.returncode != 0
    assert "replicas and autoscaling exclude each other" in done.stderr
    kube.server(autoscaling=SCALED | {"mode": "Advisory"})
    kube.run("scale", "oms/chat", "--replicas=3")


def test_the_api_server_takes_the_hpa_of_the_examples(kube):
    hpa = example("hpa.yaml")
    hpa["metadata"]["namespace"] = kube.namespace
    kube.run("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=hpa)


def fields(required=(), **properties):
    return {"type": "object", "properties": properties, "required": list(required)}


TEXT, NUMBER = {"type": "string"}, {"type": "integer"}
KEDA_SPEC = fields(
    ["scaleTargetRef", "triggers"],
    scaleTargetRef=fields(["name"], apiVersion=TEXT, kind=TEXT, name=TEXT),
    pollingInterval=NUMBER,
    cooldownPeriod=NUMBER,
    minReplicaCount=NUMBER,
    maxReplicaCount=NUMBER,
    fallback=fields(
        ["failureThreshold", "replicas"],
        failureThreshold=NUMBER,
        replicas=NUMBER,
        behavior=TEXT | {"enum": ["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"]},
    ),
    advanced=fields(
        horizontalPodAutoscalerConfig=fields(
            behavior={"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        )
    ),
    triggers={
        "type": "array",
        "items": fields(
            ["type", "metadata"],
            type=TEXT,
            metricType=TEXT,
            metadata={"type": "object", "additionalProperties": TEXT},
        ),
    },
)
"""Of keda.sh/v1alpha1 (KEDA 2.20), what the example uses: every value of a trigger's metadata must be a text."""


def test_the_api_server_takes_the_scaled_object_of_the_examples(kube, wait):
    schema = {"openAPIV3Schema": fields(spec=KEDA_SPEC)}
    version = {"name": "v1alpha1", "served": True, "storage": True, "schema": schema}
    spec = {
        "group": "keda.sh",
        "scope": "Namespaced",
        "names": {"plural": "scaledobjects", "singular": "scaledobject", "kind": "ScaledObject"},
        "versions": [version],
    }
    name = "scaledobjects.keda.sh"
    kind = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": name}}
    kube.apply(kind | {"spec": spec})
    try:
        wait(lambda: kube.run("explain", "scaledobjects.keda.sh", check=False).returncode == 0)
        wanted = example("keda.yaml")
        wanted["metadata"]["namespace"] = kube.namespace
        kube.run("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=wanted)
        wanted["spec"]["triggers"][0]["metadata"]["threshold"] = 4
        refused = kube.run("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=wanted, check=False)
        assert "threshold" in refused.stderr
    finally:
        kube.run("delete", "crd", name)
