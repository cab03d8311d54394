"""What Argo CD and Flux make of a ModelServer, state by state: objects as the operator writes them -> their words.

Argo CD runs the script of the chart's examples, here as there, without Lua's libraries. Flux asks kstatus, whose rules
for kinds that it does not know are `kstatus` here.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from lupa import lua51

from octavo_operator.core.conditions import Failure
from octavo_operator.core.crd import build_crd
from octavo_operator.core.desired import Scaler
from octavo_operator.core.memory import ScalerMemory
from octavo_operator.core.names import Reason
from octavo_operator.core.plan import Plan
from octavo_operator.core.proposal import Proposal, facts_of
from octavo_operator.core.server import parse_server, parse_status
from octavo_operator.core.startup import Progress
from octavo_operator.core.status import compute_status
from octavo_operator.core.status_model import ModelServerStatus
from octavo_operator.core.window import Signals

NOW = 1_800_000_000.0
EXAMPLE = Path(__file__).parents[2] / "charts/octavo/examples/argocd-cm.yaml"
KEY = "resource.customizations.health.octavo.dev_ModelServer"


def argo(server):
    """Argo CD's health and message of an object. Its Lua is 5.1 without libraries but `table` and the basic ones."""
    lua = lua51.LuaRuntime(unpack_returned_tuples=True)
    lua.execute('getmetatable("").__index = nil; string, math, io, debug, os, python = nil, nil, nil, nil, nil, nil')
    lua.globals().obj = lua.table_from(server, recursive=True)
    answer = lua.execute(yaml.safe_load(EXAMPLE.read_text())["data"][KEY])
    return answer["status"], answer["message"]


def kstatus(server):
    """kubernetes-sigs/cli-utils, pkg/kstatus/status: the generic rules, then Ready, then "it is current"."""
    metadata, status = server["metadata"], server.get("status", {})
    if metadata.get("deletionTimestamp"):
        return "Terminating"
    if "observedGeneration" in status and status["observedGeneration"] != metadata["generation"]:
        return "InProgress"
    for condition in status.get("conditions", ()):
        if condition["type"] in ("Reconciling", "Stalled") and condition["status"] == "True":
            return {"Reconciling": "InProgress", "Stalled": "Failed"}[condition["type"]]
    ready = [item["status"] for item in status.get("conditions", ()) if item["type"] == "Ready"]
    return "InProgress" if ready and ready[0] != "True" else "Current"


@pytest.fixture
def looked_at(raw_server: Callable):
    """A ModelServer with the status that the operator writes for these children and pods."""

    def build(deployment=None, pods=(), *, desired=1, failure=None, progress=None, **spec):
        server = raw_server(**spec)
        parsed = parse_server(server)
        proposal = Proposal(parsed, Plan(), desired, Scaler(None, ScalerMemory(0)), None, SIGNALS, None)
        children = {"Deployment": deployment} if deployment else {}
        facts = facts_of(proposal, failure, children, tuple(pods), ModelServerStatus(), progress=progress)
        status = compute_status(parsed.owner, parsed.spec, facts, signals=SIGNALS, decision=None, now=NOW)
        return server | {"status": status.wire()}

    return build


SIGNALS = Signals(ready=0, unknown=0)
FULL = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
PENDING = {"PodScheduled": {"status": "False", "message": FULL}}


def looping(reason="Error", message=""):
    last = {"terminated": {"exitCode": 1, "reason": reason, "message": message}}
    return {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": last, "restartCount": 3}


def waits(reason):
    return {"state": {"waiting": {"reason": reason, "message": f"{reason} of an image"}}}


STARTS = {"state": {"running": {}}, "started": False}
NO_MODEL = '{"reason": "ModelNotFound", "message": "/models/smol does not exist"}'
ONE_STARTS = {"ready": 0}

STATES = {
    # deployment, pods, more -> Argo CD, kstatus, in the message
    "creating": (None, [], {}, "Progressing", "InProgress", "Creating"),
    "starting": (ONE_STARTS, [{"container": STARTS}], {}, "Progressing", "InProgress", "Starting: 0 of 1"),
    "loading": (
        ONE_STARTS,
        [{"container": STARTS}],
        {"progress": Progress("fetch", 40, None)},
        "Progressing",
        "InProgress",
        "40",
    ),
    "no node": (ONE_STARTS, [{"conditions": PENDING}], {}, "Progressing", "InProgress", FULL),
    "serving": ({}, [{"ready": True}], {}, "Healthy", "Current", "Ready: 1 of 1"),
    "rolling out": (
        {"replicas": 2, "updated": 1, "ready": 1},
        [{"ready": True}, {"name": "b", "container": STARTS}],
        {},
        "Progressing",
        "InProgress",
        "RollingOut",
    ),
    "crash loop": (ONE_STARTS, [{"container": looping()}], {}, "Degraded", "Failed", "CrashLoopBackOff"),
    "crash loop of a new revision": (
        {"replicas": 2, "updated": 1, "ready": 1, "revision": "r2"},
        [{"ready": True}, {"name": "b", "container": looping(), "revision": "r2"}],
        {},
        "Degraded",
        "Failed",
        "1 old replicas serve on",
    ),
    "image": (ONE_STARTS, [{"container": waits("ImagePullBackOff")}], {}, "Degraded", "Failed", "ImagePullBackOff"),
    "no model": (
        ONE_STARTS,
        [{"container": looping(message=NO_MODEL)}],
        {},
        "Degraded",
        "Failed",
        "ModelNotFound: /models/smol does not exist",
    ),
    "out of memory": (ONE_STARTS, [{"container": looping("OOMKilled")}], {}, "Degraded", "Failed", "OOMKilled"),
    "wrong spec": (None, [], {"failure": Failure(Reason.INVALID_SPEC, "spec.x: no")}, "Degraded", "Failed", "spec.x"),
    "paused": ({}, [{"ready": True}], {"paused": True}, "Suspended", "Current", "1 of 1"),
    "paused before anything": (None, [], {"paused": True}, "Suspended", "InProgress", "paused before"),
    "no replicas": ({"wanted": 0}, [], {"desired": 0}, "Healthy", "Current", "ScaledToZero"),
    "draining": (
        {"wanted": 0},
        [{"ready": True, "terminating": True}],
        {"desired": 0},
        "Progressing",
        "InProgress",
        "Draining",
    ),
}


@pytest.fixture(params=STATES)
def state(request, looked_at, raw_deployment, raw_pod):
    deployment, pods, more, *expected = STATES[request.param]
    children = None if deployment is None else raw_deployment(**deployment)
    return looked_at(children, [raw_pod(**pod) for pod in pods], **more), *expected


def test_what_argo_cd_and_flux_say(state):
    server, health, status, words = state
    assert argo(server)[0] == health
    assert words in argo(server)[1]
    assert kstatus(server) == status


def test_a_status_of_another_generation_says_nothing(state):
    server = state[0]
    newer = server | {"metadata": server["metadata"] | {"generation": 2}}
    assert argo(newer) == ("Progressing", "the operator has not looked at generation 2 yet")
    assert kstatus(newer) == "InProgress"
    half = newer | {"status": newer["status"] | {"observedGeneration": 2}}
    assert argo(half)[0] == "Progressing"


def test_an_object_that_nobody_has_looked_at_is_in_progress(raw_server):
    """As the API server hands it out: with the CRD's own default for a status."""
    version = build_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    server = raw_server() | {"status": version["properties"]["status"]["default"]}
    assert kstatus(raw_server()) == "Current"  # without that default
    assert kstatus(server) == "InProgress"
    assert argo(server)[0] == argo(raw_server())[0] == "Progressing"
    assert parse_status(server) == ModelServerStatus()


def test_an_object_that_goes_is_going(state):
    server = state[0]
    assert kstatus(server | {"metadata": server["metadata"] | {"deletionTimestamp": "2026-01-01"}}) == "Terminating"


def test_what_is_abnormal_is_there_only_while_true_and_never_twice(state):
    conditions = state[0]["status"]["conditions"]
    abnormal = [item for item in conditions if item["type"] in ("Reconciling", "Stalled")]
    assert len(abnormal) <= 1
    assert all(item["status"] == "True" for item in abnormal)
    assert all(item["observedGeneration"] == 1 for item in conditions)
