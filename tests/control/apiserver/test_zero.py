"""The whole life of a ModelServer that may have no replica: real operator, real activator as a process, played pods."""

import http.client
import json
import os
import subprocess
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cluster.prometheus import Target
from octavo_operator.core.autoscale import judge
from octavo_operator.core.record import from_record

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("operator")]

ZERO = {
    "minReplicas": 1,
    "maxReplicas": 2,
    "targets": {"kvUtilizationPercent": 70},
    "scaleToZero": {"idleAfter": "10s", "holdTimeout": "5m"},
}
LABEL = "octavo.dev/modelserver"
AWAKE, ASLEEP = {LABEL: "chat"}, {LABEL: "chat.activator"}
PID = os.getpid()


class Replica:
    """A runtime that counts: metrics with counters, and a streamed answer to every POST. While it is `busy` there is
    news whenever somebody looks, so that it does not fall asleep before the test wants it to.
    """

    def __init__(self, address):
        self.address, self.tokens, self.busy = address, 0, True
        self._server = None

    def start(self):
        replica = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                replica.tokens += 5 * replica.busy
                counters = {
                    "octavo_prompt_tokens_total": replica.tokens,
                    "octavo_generation_tokens_total": replica.tokens,
                }
                gauges = dict.fromkeys(
                    ("octavo_requests_running", "octavo_requests_waiting", "octavo_kv_tokens_used"), 0
                )
                values = gauges | {"octavo_kv_tokens_capacity": 1000} | counters
                self.send_response(200)
                self.end_headers()
                self.wfile.write("".join(f"{name} {value}\n" for name, value in values.items()).encode())

            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                replica.tokens += 5
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                self.wfile.write(b"data: hello\n\ndata: [DONE]\n\n")

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer((self.address, 8000), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self):
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


class Activator:
    """The real one. Its pod's address is a loopback address, and the replicas' Service is the only replica's."""

    def __init__(self, address, upstream, log):
        self.address, self._upstream, self._log = address, upstream, log
        self._process = None

    def start(self):
        command = [sys.executable, "-m", "octavo_operator", "activate", "--host", self.address, "--model", "chat"]
        with self._log.open("ab") as out:
            more = ["--upstream", f"http://{self._upstream}:8000", "--hold-timeout", "300", "--drain-timeout", "1"]
            self._process = subprocess.Popen([*command, *more], stdout=out, stderr=out)

    def serves(self):
        try:
            with urllib.request.urlopen(f"http://{self.address}:8001/readyz", timeout=30) as answer:
                return answer.status == 200
        except OSError:
            return False

    def held(self):
        """How many requests wait for a replica."""
        with urllib.request.urlopen(f"http://{self.address}:8001/held?seen=&wait=0", timeout=30) as answer:
            return json.load(answer)["held"]

    def kill(self):
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Client:
    """One streaming request, in a thread of its own."""

    def __init__(self, address):
        self.answer, self.error = None, None
        self._address = address
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def _ask(self):
        connection = http.client.HTTPConnection(self._address, 8000, timeout=600)
        try:
            connection.request("POST", "/v1/chat/completions", json.dumps({"model": "chat", "stream": True}))
            response = connection.getresponse()
            self.answer = (response.status, response.read())
        except OSError as error:
            self.error = error

    @property
    def done(self):
        return not self._thread.is_alive()


class World:
    """The parts, and what the cluster says."""

    def __init__(self, kube, kubelet, wait, folder):
        self.kube, self.kubelet, self.wait = kube, kubelet, wait
        self.replica = Replica(f"127.{90 + PID % 100}.{PID // 100 % 250}.201")
        activator = f"127.{90 + PID % 100}.{PID // 100 % 250}.202"
        self.activator = Activator(activator, self.replica.address, folder / "activator.log")

    def pods(self, label):
        return [pod["metadata"]["name"] for pod in self.kubelet.pods() if pod["metadata"]["labels"][LABEL] == label]

    def make_ready(self, label, address):
        """The node reports the pods with that label as ready."""
        found = self.wait(lambda: self.pods(label))
        for name in found:
            self.kubelet._report(name, address, {"running": {}}, ready=True)

    def wanted(self):
        return self.kube.get("deployment")["spec"]["replicas"]

    def leads_to(self):
        return self.kube.get("service")["spec"]["selector"]

    def last(self):
        return self.kube.get("modelserver")["status"].get("scaling", {}).get("lastDecision", {})

    def close(self):
        self.activator.kill()
        self.replica.stop()


@pytest.fixture
def world(kube, kubelet, wait, tmp_path):
    world = World(kube, kubelet, wait, tmp_path)
    yield world
    world.close()


def changes(kube, path):
    """A function of a check on a spec: the resource version that `chat` at that path had when it first held, from now
    on. Versions of different kinds count the same clock, so they tell what came first, however late one looks.
    """
    since = json.loads(kube.run("get", "--raw", path).stdout)["metadata"]["resourceVersion"]
    watch = f"{path}?watch=true&timeoutSeconds=2&fieldSelector=metadata.name=chat&resourceVersion={since}"

    def first(check):
        seen = [json.loads(line)["object"] for line in kube.run("get", "--raw", watch).stdout.splitlines()]
        return next((int(item["metadata"]["resourceVersion"]) for item in seen if check(item["spec"])), None)

    return first


@pytest.fixture
def scraped(prometheus):
    """A Prometheus that runs; without targets until the test names one."""
    yield prometheus.start()
    prometheus.scrape(())
    prometheus.stop()


@pytest.fixture
def asleep(world, kube, wait, scraped, request):
    """Created, served, idle, and gone to zero in the right order, by samples of the source that the test names."""
    kube.run("label", "namespace", kube.namespace, "pod-security.kubernetes.io/enforce=restricted")
    kube.server(autoscaling=ZERO | {"metrics": {"source": request.param}})
    wait(lambda: kube.find("deployment", "chat-activator") and kube.find("service"))
    assert world.leads_to() == AWAKE, "nobody leads to an activator that is not there"
    world.activator.start()
    wait(world.activator.serves)
    world.make_ready("chat.activator", world.activator.address)
    wait(lambda: world.leads_to() == ASLEEP)
    world.replica.start()
    world.make_ready("chat", world.replica.address)
    wait(lambda: world.leads_to() == AWAKE and kube.condition().get("status") == "True")
    (pod,) = world.pods("chat")  # the activator's is none of them
    scraped.scrape([Target(kube.namespace, pod, "chat", f"{world.replica.address}:8000")])

    services = changes(kube, f"/api/v1/namespaces/{kube.namespace}/services")
    deployments = changes(kube, f"/apis/apps/v1/namespaces/{kube.namespace}/deployments")
    world.replica.busy = False
    wait(lambda: world.wanted() == 0)
    assert world.leads_to() == ASLEEP
    led = wait(lambda: services(lambda spec: spec["selector"] == ASLEEP))
    ended = wait(lambda: deployments(lambda spec: spec["replicas"] == 0))
    assert led < ended, "the Service leads to the activator before the replica goes"
    world.replica.stop()
    world.replica.busy = True
    wait(lambda: kube.condition().get("reason") == "ScaledToZero")
    return world


@pytest.mark.parametrize("asleep", ["Direct"], indirect=True)
def test_it_sleeps_and_wakes_for_a_held_request_and_without_it_all_of_the_activator_goes(asleep, kube, wait):
    assert asleep.last()["reason"] == "Idle"
    assert judge(from_record(asleep.last()["record"])).replicas == 0
    assert kube.condition("ScalingActive")["reason"] == "AtZero"
    assert kube.get("modelserver")["status"]["desiredReplicas"] == 0

    client = Client(asleep.activator.address)
    wait(lambda: asleep.wanted() == 1)
    assert not client.done
    wait(lambda: asleep.last().get("reason") == "Woken")
    assert asleep.last()["inputs"]["held"] == 1
    assert judge(from_record(asleep.last()["record"])).replicas == 1
    assert asleep.leads_to() == ASLEEP

    asleep.replica.start()
    asleep.make_ready("chat", asleep.replica.address)
    wait(lambda: client.done)
    assert client.answer == (200, b"data: hello\n\ndata: [DONE]\n\n")
    wait(lambda: asleep.leads_to() == AWAKE and kube.condition().get("status") == "True")
    assert asleep.wanted() == 1

    assert kube.get("modelserver")["metadata"]["generation"] == 1

    kube.server(replicas=1)
    gone = (("deployment", "chat-activator"), ("service", "chat-replicas"), ("networkpolicy", "chat-activator"))
    wait(lambda: not any(kube.find(kind, name) for kind, name in gone))
    assert (asleep.leads_to(), asleep.wanted()) == (AWAKE, 1)


@pytest.mark.parametrize("asleep", ["Prometheus"], indirect=True)
def test_a_restarted_operator_wakes_and_a_dead_activator_loses_no_woken_replica(asleep, operator, wait):
    operator.stop()
    client = Client(asleep.activator.address)
    wait(lambda: asleep.activator.held() == 1)
    assert asleep.wanted() == 0
    operator.start()
    wait(lambda: asleep.wanted() == 1)
    assert not client.done

    asleep.activator.kill()
    wait(lambda: client.done)
    assert client.error is not None, "the client is told"
    operator.wait_for_resyncs(3)
    assert asleep.wanted() == 1
    asleep.replica.start()
    asleep.make_ready("chat", asleep.replica.address)
    wait(lambda: asleep.leads_to() == AWAKE)
