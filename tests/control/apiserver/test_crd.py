"""The CRD as the API server sees it: accepted, served back unchanged, explained, and enforced."""

import copy

import pytest

from octavo_operator.core.crd import build_crd
from octavo_operator.core.errors import SpecError
from octavo_operator.core.spec import parse_spec

pytestmark = pytest.mark.apiserver

SCALED = {"maxReplicas": 3, "targets": {"waitingPerReplica": 2}}


def create(kube, spec, name="chat"):
    """The answer to a strict dry run."""
    base = {"model": {"source": {"pvc": {"claimName": "models"}}}}
    manifest = {"apiVersion": "octavo.dev/v1alpha1", "kind": "ModelServer", "metadata": {"name": name}}
    arguments = ("create", "--dry-run=server", "--validate=strict", "-o", "json", "-f", "-")
    return kube.run(*arguments, stdin=manifest | {"spec": merged(base, spec)}, check=False)


def merged(base, changes):
    out = copy.deepcopy(base)
    for key, value in changes.items():
        out[key] = merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


def test_it_is_served_back_as_it_was_written(kube):
    """What the API server rewrites would be out of sync for ever in a GitOps tool."""
    served, written = kube.get("crd", "modelservers.octavo.dev")["spec"], build_crd()["spec"]
    assert served["versions"] == written["versions"]
    assert {key: served[key] for key in written} == written


def test_every_path_is_explained(kube):
    text = kube.run("explain", "modelservers.octavo.dev.spec.autoscaling.targets.kvUtilizationPercent").stdout
    assert "percent of a replica's capacity" in text
    assert "stabilizationWindow" in kube.run("explain", "modelservers.spec", "--recursive").stdout


def test_short_name_and_category_work(kube):
    kube.server()
    assert "chat" in kube.run("get", "oms").stdout
    assert "chat" in kube.run("get", "octavo").stdout


def test_defaults_are_filled_in(kube):
    spec = kube.server(autoscaling=SCALED)["spec"]
    assert spec["drain"] == {"timeout": "120s", "preStopDelay": "5s"}
    assert spec["model"]["dtype"] == "auto"
    assert spec["autoscaling"]["minReplicas"] == 1
    assert spec["autoscaling"]["behavior"]["scaleDown"] == {"stabilizationWindow": "5m"}
    assert "replicas" not in spec


def test_the_scale_subresource_sets_replicas(kube):
    kube.server(replicas=1)
    kube.run("scale", "oms/chat", "--replicas=3")
    assert kube.get("modelserver")["spec"]["replicas"] == 3


def env(**variable):
    return {"runtime": {"env": [{"name": "A", **variable}]}}


def tolerated(**toleration):
    return {"accelerator": {"count": 0, "tolerations": [toleration]}}


def targets(**values):
    return {"autoscaling": SCALED | {"targets": values}}


def limited(kind, request, limit):
    return {"runtime": {"resources": {"requests": {kind: request}, "limits": {kind: limit}}}}


RULES = {
    # rule: (accepted, refused, field in the answer, words in the answer)
    "one scaler": ({"replicas": 2}, {"replicas": 2, "autoscaling": SCALED}, "spec.replicas", "remove spec.replicas"),
    "min <= max": (
        {"autoscaling": SCALED | {"minReplicas": 3}},
        {"autoscaling": SCALED | {"minReplicas": 4}},
        "spec.autoscaling.minReplicas",
        "maxReplicas",
    ),
    "min >= 1": (
        {"autoscaling": SCALED | {"minReplicas": 1}},
        {"autoscaling": SCALED | {"minReplicas": 0}},
        "spec.autoscaling.minReplicas",
        "greater than or equal to 1",
    ),
    "a target": (targets(kvUtilizationPercent=70), targets(), "spec.autoscaling.targets", "set kvUtilizationPercent"),
    "reachable target": (
        targets(kvUtilizationPercent=90),
        targets(kvUtilizationPercent=91),
        "spec.autoscaling.targets.kvUtilizationPercent",
        "at most 90",
    ),
    "one source": (
        {"model": {"source": {"pvc": {"claimName": "m"}}}},
        {"model": {"source": {"pvc": None}}},
        "spec.model.source",
        "exactly one source",
    ),
    "relative path": (
        {"model": {"source": {"pvc": {"path": "a/b..c"}}}},
        {"model": {"source": {"pvc": {"path": "/a"}}}},
        "spec.model.source.pvc.path",
        "leading /",
    ),
    "a gateway": (
        {"networking": {"httpRoute": {"parentRefs": [{"name": "public"}], "hostnames": ["*.example.org"]}}},
        {"networking": {"httpRoute": {"parentRefs": []}}},
        "spec.networking.httpRoute.parentRefs",
        "at least 1",
    ),
    "a picker": (
        {"networking": {"inferencePool": {"endpointPickerRef": {"name": "picker"}}}},
        {"networking": {"inferencePool": {"endpointPickerRef": {"name": "picker", "port": 0}}}},
        "spec.networking.inferencePool.endpointPickerRef.port",
        "greater than or equal to 1",
    ),
    "no cache beside an image": (
        {"model": {"source": {"pvc": None, "oci": {"image": "a/b:1", "path": "c"}}}},
        {"model": {"source": {"pvc": None, "oci": {"image": "a/b:1"}}, "cache": {"sizeLimit": "1Gi"}}},
        "spec.model.cache",
        "read where they are",
    ),
    "path inside": (
        {"model": {"source": {"pvc": {"path": "a/...b"}}}},
        {"model": {"source": {"pvc": {"path": "a/../../b"}}}},
        "spec.model.source.pvc.path",
        "'..'",
    ),
    "flags only": (
        {"runtime": {"args": ["--block-size", "32"]}},
        {"runtime": {"args": ["other-model"]}},
        "spec.runtime.args",
        "begin with a flag",
    ),
    "unique env": (
        {"runtime": {"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "1"}]}},
        {"runtime": {"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}},
        "spec.runtime.env[1]",
        "Duplicate value",
    ),
    "value or valueFrom": (
        env(value=""),
        env(value="1", valueFrom={"fieldRef": {"fieldPath": "status.podIP"}}),
        "spec.runtime.env[0]",
        "exactly one of value and valueFrom",
    ),
    "a value": (env(value="1"), env(), "spec.runtime.env[0]", "exactly one of value and valueFrom"),
    "one value source": (
        env(valueFrom={"secretKeyRef": {"name": "s", "key": "k"}}),
        env(valueFrom={"secretKeyRef": {"name": "s", "key": "k"}, "configMapKeyRef": {"name": "c", "key": "k"}}),
        "spec.runtime.env[0].valueFrom",
        "exactly one of secretKeyRef",
    ),
    "home": (
        {"runtime": {"env": [{"name": "HOMES", "value": "x"}]}},
        {"runtime": {"env": [{"name": "HOME", "value": "x"}]}},
        "spec.runtime.env[0]",
        "only writable folder",
    ),
    "steps hold all sequences": (
        {"runtime": {"maxNumSeqs": 8, "maxBatchedTokens": 8}},
        {"runtime": {"maxNumSeqs": 9, "maxBatchedTokens": 8}},
        "spec.runtime.maxBatchedTokens",
        "at least maxNumSeqs",
    ),
    "cache in memory": (
        {"runtime": {"kvCache": {"size": "1023Mi"}, "resources": {"limits": {"memory": "1Gi"}}}},
        {"runtime": {"kvCache": {"size": "1024Mi"}, "resources": {"limits": {"memory": "1Gi"}}}},
        "spec.runtime.kvCache.size",
        "less than resources.limits.memory",
    ),
    "some cache": (
        {"runtime": {"kvCache": {"dtype": "auto"}}},
        {"runtime": {"kvCache": {}}},
        "spec.runtime.kvCache",
        "set size or memoryPercent, dtype",
    ),
    "a share of memory": (
        {"runtime": {"kvCache": {"memoryPercent": 95}}},
        {"runtime": {"kvCache": {"memoryPercent": 96}}},
        "spec.runtime.kvCache.memoryPercent",
        "less than or equal to 95",
    ),
    "a share of something": (
        {"runtime": {"kvCache": {"memoryPercent": 1}}},
        {"runtime": {"kvCache": {"memoryPercent": 0}}},
        "spec.runtime.kvCache.memoryPercent",
        "greater than or equal to 1",
    ),
    "one size of the cache": (
        {"runtime": {"kvCache": {"memoryPercent": 40}, "resources": {"limits": {"memory": "1Gi"}}}},
        {"runtime": {"kvCache": {"memoryPercent": 40, "size": "256Mi"}}},
        "spec.runtime.kvCache.memoryPercent",
        "remove one of them",
    ),
    "a small cache dtype beside a large memory": (
        {"runtime": {"kvCache": {"dtype": "int8"}, "resources": {"limits": {"memory": "1Gi"}}}},
        {"runtime": {"kvCache": {"dtype": "fp8_e5m2"}}},
        "spec.runtime.kvCache.dtype",
        "fp8_e4m3",
    ),
    "a compiled size of blocks": (
        {"runtime": {"kvCache": {"blockSize": 128}}},
        {"runtime": {"kvCache": {"blockSize": 48}}},
        "spec.runtime.kvCache.blockSize",
        "must be 16, 32, 64 or 128",
    ),
    "blocks of a size that is no flag too": (
        {"runtime": {"kvCache": {"dtype": "int8"}, "args": ["--block-size", "32"]}},
        {"runtime": {"kvCache": {"blockSize": 32}, "args": ["--block-size", "32"]}},
        "spec.runtime.args",
        "kvCache.blockSize sets --block-size: leave it out of args",
    ),
    "a cache dtype that is no flag too": (
        {"runtime": {"kvCache": {"blockSize": 32}, "args": ["--kv-cache-dtype=int8"]}},
        {"runtime": {"kvCache": {"dtype": "auto"}, "args": ["--kv-cache-dtype=int8"]}},
        "spec.runtime.args",
        "kvCache.dtype sets --kv-cache-dtype: leave it out of args",
    ),
    "caching that is no flag too": (
        {"runtime": {"args": ["--no-prefix-caching"]}},
        {"runtime": {"prefixCaching": True, "args": ["--no-prefix-caching"]}},
        "spec.runtime.args",
        "prefixCaching sets --no-prefix-caching: leave it out of args",
    ),
    "positive size": (
        {"runtime": {"kvCache": {"size": 1}}},
        {"runtime": {"kvCache": {"size": "-1Mi"}}},
        "spec.runtime.kvCache.size",
        "positive quantity such as 256Mi",
    ),
    "size is a quantity": (
        {"runtime": {"kvCache": {"size": "1e9"}}},
        {"runtime": {"kvCache": {"size": "much"}}},
        "spec.runtime.kvCache.size",
        "positive quantity such as 256Mi",
    ),
    "positive cpu": (
        {"runtime": {"resources": {"limits": {"cpu": "250m"}}}},
        {"runtime": {"resources": {"limits": {"cpu": 0}}}},
        "spec.runtime.resources.limits.cpu",
        "positive quantity such as 500m",
    ),
    "cpu request": (
        limited("cpu", "1", 1),
        limited("cpu", "1001m", 1),
        "spec.runtime.resources.requests.cpu",
        "not be greater than limits.cpu",
    ),
    "memory request": (
        limited("memory", "1024Mi", "1Gi"),
        limited("memory", "2Gi", "1Gi"),
        "spec.runtime.resources.requests.memory",
        "not be greater than limits.memory",
    ),
    "toleration value": (
        tolerated(key="a", operator="Equal", value="b"),
        tolerated(key="a", operator="Exists", value="b"),
        "spec.accelerator.tolerations[0]",
        "takes no value",
    ),
    "toleration key": (
        tolerated(operator="Exists"),
        tolerated(value="b"),
        "spec.accelerator.tolerations[0]",
        "set operator to Exists",
    ),
    "toleration time": (
        tolerated(key="a", effect="NoExecute", tolerationSeconds=5),
        tolerated(key="a", tolerationSeconds=5),
        "spec.accelerator.tolerations[0]",
        "needs effect NoExecute",
    ),
    "duration": ({"drain": {"timeout": "1m30s"}}, {"drain": {"timeout": "90"}}, "spec.drain.timeout", "such as 90s"),
    "no empty duration": (
        {"drain": {"timeout": "1s"}},
        {"drain": {"timeout": ""}},
        "spec.drain.timeout",
        "such as 90s",
    ),
    "longest delay": (
        {"drain": {"preStopDelay": "0s"}},
        {"drain": {"preStopDelay": "6m"}},
        "spec.drain.preStopDelay",
        "0s and 5m",
    ),
    "longest drain": ({"drain": {"timeout": "1h"}}, {"drain": {"timeout": "61m"}}, "spec.drain.timeout", "1s and 1h"),
    "shortest drain": ({"drain": {"timeout": "1s"}}, {"drain": {"timeout": "0s"}}, "spec.drain.timeout", "1s and 1h"),
    "longest window": (
        {"autoscaling": SCALED | {"behavior": {"scaleUp": {"stabilizationWindow": "0s"}}}},
        {"autoscaling": SCALED | {"behavior": {"scaleUp": {"stabilizationWindow": "2h"}}}},
        "spec.autoscaling.behavior.scaleUp.stabilizationWindow",
        "between 0s and 1h",
    ),
    "no negative replicas": ({"replicas": 0}, {"replicas": -1}, "spec.replicas", "greater than or equal to 0"),
    "no negative length": (
        {"model": {"maxModelLen": 1}},
        {"model": {"maxModelLen": -1}},
        "spec.model.maxModelLen",
        "greater than or equal to 1",
    ),
    "known dtype": ({"model": {"dtype": "auto"}}, {"model": {"dtype": "int3"}}, "spec.model.dtype", "float32"),
    "known field": ({"paused": True}, {"pause": True}, "spec.pause", "unknown field"),
    "served name": (
        {"model": {"servedName": "org/model:v1"}},
        {"model": {"servedName": "a b"}},
        "spec.model.servedName",
        "should match",
    ),
}


VARIABLES_WITH_A_FIELD = {
    "HF_TOKEN": "hub.tokenSecretRef",
    "HF_ENDPOINT": "hub.endpoint",
    "AWS_ENDPOINT_URL": "s3.endpoint",
    "AWS_REGION": "s3.region",
    "AWS_ACCESS_KEY_ID": "s3.credentialsSecretRef",
    "AWS_SECRET_ACCESS_KEY": "s3.credentialsSecretRef",
    "AWS_SESSION_TOKEN": "s3.credentialsSecretRef",
    "AWS_SKIP_SIGNATURE": "s3.credentialsSecretRef",
}
RULES |= {
    f"a field for {name}": (
        env(name=f"{name}_2", value="x"),
        env(name=name, value="x"),
        "spec.runtime.env[0]",
        f"set spec.model.source.{field} instead of {name}",
    )
    for name, field in VARIABLES_WITH_A_FIELD.items()
}


def slo(**values):
    return {"autoscaling": SCALED | {"slo": values}}


def metrics(**values):
    return {"autoscaling": SCALED | {"metrics": values}}


def budgeted(**values):
    return {"autoscaling": SCALED | {"budget": {"maxCostPerHour": "5.00", "replicaCostPerHour": "2.5"}} | values}


def zero(**values):
    return {"autoscaling": SCALED | {"scaleToZero": {"idleAfter": "1m"}} | values}


OFFICE_HOURS = {"start": "45 7 * * 1-5", "end": "0 20 * * 1-5"}


def scheduled(**values):
    return {"autoscaling": SCALED | {"schedules": [{"name": "day", "from": "08:00", "to": "20:00", **values}]}}


def policy(**values):
    return {"networking": {"networkPolicy": values}}


def outside(**more):
    return {"networking": {"service": {"type": "LoadBalancer"}} | more}


def source(**member):
    """Over the base's pvc, which a test of another source takes out."""
    return {"model": {"source": {"pvc": None} | member}}


def cached(**cache):
    return {"model": {"source": {"pvc": None, "hub": {"repo": "org/model"}}, "cache": cache}}


RULES |= {
    "only one source": (
        source(hub={"repo": "org/model"}),
        source(hub={"repo": "org/model"}, s3={"uri": "s3://models/smol"}),
        "spec.model.source",
        "set exactly one source: hub, oci, pvc or s3",
    ),
    "a repository": (
        source(hub={"repo": "org/model-1.0_a"}),
        source(hub={"repo": "model"}),
        "spec.model.source.hub.repo",
        "should match",
    ),
    "a repository's path": (
        source(hub={"repo": "org/a.b", "revision": "refs/pr/1"}),
        source(hub={"repo": "org/a..b"}),
        "spec.model.source.hub",
        "must not contain '..'",
    ),
    "a revision": (
        source(hub={"repo": "org/model", "revision": "v1", "file": "model.gguf"}),
        source(hub={"repo": "org/model", "revision": "model.gguf"}),
        "spec.model.source.hub.revision",
        "write a .gguf file into file",
    ),
    "a mirror": (
        source(hub={"repo": "org/model", "endpoint": "http://mirror.models.svc:8080"}),
        source(hub={"repo": "org/model", "endpoint": "http://mirror:70000"}),
        "spec.model.source.hub.endpoint",
        "should match",
    ),
    "a bucket and a folder": (
        source(s3={"uri": "s3://models/smol"}),
        source(s3={"uri": "s3://models"}),
        "spec.model.source.s3.uri",
        "should match",
    ),
    "a cache for what is fetched": (
        cached(sizeLimit="20Gi"),
        {"model": {"cache": {"sizeLimit": "20Gi"}}},
        "spec.model.cache",
        "remove cache",
    ),
    "one cache": (
        cached(pvc={"claimName": "cache"}),
        cached(claim={"size": "20Gi"}, sizeLimit="20Gi"),
        "spec.model.cache",
        "exactly one of claim, pvc and sizeLimit",
    ),
    "how a claim is shared": (
        cached(claim={"size": "20Gi", "accessMode": "ReadWriteOnce"}),
        cached(claim={"size": "20Gi", "accessMode": "ReadOnlyMany"}),
        "spec.model.cache.claim.accessMode",
        "ReadWriteMany",
    ),
    "the cache is the operator's": (
        {"runtime": {"args": ["--block-size", "32"]}},
        {"runtime": {"args": ["--download-dir=/tmp"]}},
        "spec.runtime.args",
        "--download-dir belongs to the operator",
    ),
    "a peer": (
        policy(allowedFrom=[{"namespaceSelector": {}, "podSelector": {}}]),
        policy(allowedFrom=[{}]),
        "spec.networking.networkPolicy.allowedFrom[0]",
        "either ipBlock, or namespaceSelector",
    ),
    "one kind of peer": (
        policy(allowedFrom=[{"ipBlock": {"cidr": "10.0.0.0/8"}}]),
        policy(allowedFrom=[{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]),
        "spec.networking.networkPolicy.allowedFrom[0]",
        "either ipBlock, or namespaceSelector",
    ),
    "a network": (
        policy(allowedFrom=[{"ipBlock": {"cidr": "2001:db8::/32"}}]),
        policy(allowedFrom=[{"ipBlock": {"cidr": "10.0.0.1/8"}}]),
        "spec.networking.networkPolicy.allowedFrom[0].ipBlock.cidr",
        "such as 10.0.0.0/8",
    ),
    "no address": (
        policy(allowedFrom=[{"ipBlock": {"cidr": "10.0.0.1/32"}}]),
        policy(allowedFrom=[{"ipBlock": {"cidr": "10.0.0.1"}}]),
        "spec.networking.networkPolicy.allowedFrom[0].ipBlock.cidr",
        "such as 10.0.0.0/8",
    ),
    "no idle list": (
        policy(enabled=False),
        policy(enabled=False, allowedFrom=[{"podSelector": {}}]),
        "spec.networking.networkPolicy.allowedFrom",
        "remove one of them",
    ),
    "a latency": (slo(ttftP95="2s"), slo(), "spec.autoscaling.slo", "set ttftP95, itlP95, queueWait"),
    "the wait alone": (
        slo(queueWait="10ms"),
        slo(queueWait="9ms"),
        "spec.autoscaling.slo.queueWait",
        "between 10ms and 600s",
    ),
    "form of a latency": (
        slo(ttftP95="500ms"),
        slo(ttftP95="1m"),
        "spec.autoscaling.slo.ttftP95",
        "milliseconds or seconds",
    ),
    "longest first token": (
        slo(ttftP95="600s"),
        slo(ttftP95="601s"),
        "spec.autoscaling.slo.ttftP95",
        "between 10ms and 600s",
    ),
    "longest gap": (slo(itlP95="60s"), slo(itlP95="61s"), "spec.autoscaling.slo.itlP95", "between 1ms and 60s"),
    "budget of the fewest": (
        budgeted(minReplicas=2),
        budgeted(minReplicas=3),
        "spec.autoscaling.budget",
        "does not pay for minReplicas",
    ),
    "a price": (
        budgeted(minReplicas=1),
        {"autoscaling": SCALED | {"budget": {"maxCostPerHour": "ten", "replicaCostPerHour": "1"}}},
        "spec.autoscaling.budget.maxCostPerHour",
        "positive quantity such as '2.5'",
    ),
    "staleness of prometheus": (
        metrics(source="Prometheus", staleAfter="45s"),
        metrics(staleAfter="45s"),
        "spec.autoscaling.metrics.staleAfter",
        "direct samples are stale after 10 s",
    ),
    "staleness within bounds": (
        metrics(source="Prometheus", staleAfter="10s"),
        metrics(source="Prometheus", staleAfter="61s"),
        "spec.autoscaling.metrics.staleAfter",
        "between 10s and 1m",
    ),
    "a known source": (
        metrics(source="Direct"),
        metrics(source="Datadog"),
        "spec.autoscaling.metrics.source",
        "Direct",
    ),
    "schedule within bounds": (
        scheduled(minReplicas=3),
        scheduled(minReplicas=4),
        "spec.autoscaling.schedules",
        "must not be greater than maxReplicas",
    ),
    "a schedule's time said once": (
        {"autoscaling": SCALED | {"schedules": [{"name": "day", "minReplicas": 2, "cron": OFFICE_HOURS}]}},
        scheduled(minReplicas=2, cron=OFFICE_HOURS),
        "spec.autoscaling.schedules[0]",
        "set from and to, or cron",
    ),
    "a price for the budget": (
        {"autoscaling": SCALED | {"budget": {"maxCostPerHour": "9"}}, "accelerator": {"profile": "H100"}},
        {"autoscaling": SCALED | {"budget": {"maxCostPerHour": "9"}}, "accelerator": {"count": 1}},
        "spec.autoscaling.budget",
        "a budget needs a price",
    ),
    "a budget of something": (
        {"autoscaling": SCALED | {"budget": {"maxGPUs": 4}}, "accelerator": {"count": 1}},
        {"autoscaling": SCALED | {"budget": {"replicaCostPerHour": "2"}}, "accelerator": {"count": 1}},
        "spec.autoscaling.budget",
        "set maxCostPerHour, maxGPUs or both",
    ),
    "GPUs for the budget": (
        {"autoscaling": SCALED | {"budget": {"maxGPUs": 4}}, "accelerator": {"profile": "H100"}},
        {"autoscaling": SCALED | {"budget": {"maxGPUs": 4}}, "accelerator": {"count": 0}},
        "spec.autoscaling.budget.maxGPUs",
        "a replica has none",
    ),
    "GPUs of the fewest": (
        {
            "autoscaling": SCALED | {"minReplicas": 2, "budget": {"maxGPUs": 16}},
            "accelerator": {"count": 4, "nodes": 2},
        },
        {
            "autoscaling": SCALED | {"minReplicas": 2, "budget": {"maxGPUs": 15}},
            "accelerator": {"count": 4, "nodes": 2},
        },
        "spec.autoscaling.budget.maxGPUs",
        "less than minReplicas take",
    ),
    "some hardware": (
        {"accelerator": {"profile": "H100"}},
        {"accelerator": {"nodeSelector": {"a": "b"}}},
        "spec.accelerator",
        "set profile, count or both",
    ),
    "a profile has GPUs": (
        {"accelerator": {"profile": "H100", "count": 1}},
        {"accelerator": {"profile": "H100", "count": 0}},
        "spec.accelerator.profile",
        "set count to at least 1 or remove profile",
    ),
    "a KV cache on a GPU": (
        {
            "accelerator": {"count": 1},
            "runtime": {"kvCache": {"size": "9Gi"}, "resources": {"limits": {"memory": "1Gi"}}},
        },
        {
            "accelerator": {"count": 0},
            "runtime": {"kvCache": {"size": "9Gi"}, "resources": {"limits": {"memory": "1Gi"}}},
        },
        "spec.runtime.kvCache.size",
        "must be less than resources.limits.memory",
    ),
    "most GPUs": (
        {"accelerator": {"count": 8}},
        {"accelerator": {"count": 9}},
        "spec.accelerator.count",
        "less than or equal to 8",
    ),
    "most nodes": (
        {"accelerator": {"count": 8, "nodes": 8}},
        {"accelerator": {"count": 8, "nodes": 9}},
        "spec.accelerator.nodes",
        "less than or equal to 8",
    ),
    "a node at least": (
        {"accelerator": {"profile": "H100", "nodes": 1}},
        {"accelerator": {"profile": "H100", "nodes": 0}},
        "spec.accelerator.nodes",
        "greater than or equal to 1",
    ),
    "nodes have GPUs": (
        {"accelerator": {"count": 1, "nodes": 2}},
        {"accelerator": {"count": 0, "nodes": 2}},
        "spec.accelerator.nodes",
        "set count to at least 1 or remove nodes",
    ),
    "a replica is divided once": (
        {"accelerator": {"count": 0}, "runtime": {"args": ["--tensor-parallel-size", "2"]}},
        {"accelerator": {"count": 2}, "runtime": {"args": ["--tensor-parallel-size=2"]}},
        "spec.runtime.args",
        "accelerator.count sets --tensor-parallel-size",
    ),
    "a price of GPUs": (
        {"accelerator": {"count": 1, "costPerHour": "2.5"}},
        {"accelerator": {"count": 0, "costPerHour": "2.5"}},
        "spec.accelerator.costPerHour",
        "remove costPerHour",
    ),
    "somebody wakes a pool": (
        {"networking": {"inferencePool": {"endpointPickerRef": {"name": "p"}}}, "autoscaling": SCALED},
        {"networking": {"inferencePool": {"endpointPickerRef": {"name": "p"}}}} | zero(),
        "spec.networking.inferencePool",
        "wakes nobody",
    ),
    "zero needs somebody who wakes": (
        zero(),
        zero(mode="Advisory"),
        "spec.autoscaling.scaleToZero",
        "scaleToZero needs mode Active",
    ),
    "shortest idleness": (
        zero(scaleToZero={"idleAfter": "10s"}),
        zero(scaleToZero={"idleAfter": "9s"}),
        "spec.autoscaling.scaleToZero.idleAfter",
        "between 10s and 24h",
    ),
    "longest hold": (
        zero(scaleToZero={"holdTimeout": "1h"}),
        zero(scaleToZero={"holdTimeout": "61m"}),
        "spec.autoscaling.scaleToZero.holdTimeout",
        "between 1s and 1h",
    ),
    "some are held": (
        zero(scaleToZero={"maxHeldRequests": 1}),
        zero(scaleToZero={"maxHeldRequests": 0}),
        "spec.autoscaling.scaleToZero.maxHeldRequests",
        "greater than or equal to 1",
    ),
    "who comes from outside is let in": (
        outside(networkPolicy={"allowedFrom": [{"podSelector": {}}, {"ipBlock": {"cidr": "10.0.0.0/8"}}]}),
        outside(networkPolicy={"allowedFrom": [{"podSelector": {}}]}),
        "spec.networking.service.type",
        "kept out by the NetworkPolicy",
    ),
    "nobody keeps them out": (
        outside(networkPolicy={"enabled": False}),
        outside(),
        "spec.networking.service.type",
        "set networkPolicy.enabled: false",
    ),
    "a kind of service": (
        {"networking": {"service": {"type": "ClusterIP", "port": 65535}}},
        {"networking": {"service": {"type": "ExternalName"}}},
        "spec.networking.service.type",
        "ClusterIP",
    ),
    "a port": (
        {"networking": {"service": {"port": 1}}},
        {"networking": {"service": {"port": 65536}}},
        "spec.networking.service.port",
        "less than or equal to 65535",
    ),
    "annotations of others": (
        {"networking": {"service": {"annotations": {"example.com/octavo.dev": ""}}}},
        {"networking": {"service": {"annotations": {"octavo.dev/applied": "x"}}}},
        "spec.networking.service.annotations",
        "annotations of octavo.dev are the operator's",
    ),
    "somebody is allowed": (
        policy(allowedFrom=[{"podSelector": {}}]),
        policy(allowedFrom=[]),
        "spec.networking.networkPolicy.allowedFrom",
        "at least 1",
    ),
    "one goes at a time": (
        {"disruption": {"maxUnavailable": 1}},
        {"disruption": {"maxUnavailable": 0}},
        "spec.disruption.maxUnavailable",
        "greater than or equal to 1",
    ),
}
RULES |= {
    flag: ({"runtime": {"args": [f"{flag}x"]}}, {"runtime": {"args": ["--x", *given]}}, "spec.runtime.args", word)
    for flag, given, word in [
        ("--port", ["--port", "1"], "belongs to the operator"),
        ("--drain-delay", ["--drain-delay=1"], "spec.drain.preStopDelay"),
        ("--group-timeout", ["--group-timeout=1"], "belongs to the operator"),
        ("--served-model-name", ["--served-model-name", "x"], "spec.model.servedName"),
        ("--max-model-len", ["--max-model-len=5"], "spec.model.maxModelLen"),
        ("--dtype", ["--dtype", "auto"], "spec.model.dtype"),
        ("--max-num-seqs", ["--max-num-seqs", "5"], "spec.runtime.maxNumSeqs"),
        ("--max-num-batched-tokens", ["--max-num-batched-tokens=5"], "spec.runtime.maxBatchedTokens"),
        ("--kv-cache-memory", ["--kv-cache-memory", "1Gi"], "spec.runtime.kvCache.size"),
        ("--drain-timeout", ["--drain-timeout=5"], "spec.drain.timeout"),
        ("--nodes", ["--nodes=2"], "spec.accelerator.nodes"),
        ("--node-rank", ["--node-rank", "1"], "spec.accelerator.nodes"),
        ("--leader-address", ["--leader-address=a"], "spec.accelerator.nodes"),
    ]
}


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_accepts_the_good_and_names_the_field_of_the_bad(anywhere, rule):
    accepted, refused, field, words = RULES[rule]
    good = create(anywhere, accepted)
    assert good.returncode == 0, good.stderr
    bad = create(anywhere, refused)
    assert bad.returncode != 0
    assert field in bad.stderr
    assert words in bad.stderr


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_holds_without_an_api_server_too(rule):
    """An object in a file, or one that is older than the rule."""
    accepted, refused, *_ = RULES[rule]
    base = {"model": {"source": {"pvc": {"claimName": "models"}}}}
    parse_spec(merged(base, accepted))
    with pytest.raises(SpecError):
        parse_spec(merged(base, refused))


@pytest.mark.parametrize("name", ["a" * 53, "1a", "a.b"])
def test_a_name_that_no_service_could_have_is_refused(anywhere, name):
    answer = create(anywhere, {}, name)
    assert answer.returncode != 0
    assert "metadata.name becomes the name of a Service" in answer.stderr


def test_the_longest_name_is_accepted(anywhere):
    assert create(anywhere, {}, "a" * 52).returncode == 0


def test_a_name_that_no_group_could_have_is_refused(anywhere):
    grouped = {"accelerator": {"count": 1, "nodes": 2}}
    assert create(anywhere, grouped, "a" * 41).returncode == 0
    assert "becomes that of each group" in create(anywhere, grouped, "a" * 42).stderr
    assert create(anywhere, {"accelerator": {"count": 1}}, "a" * 42).returncode == 0


def test_every_rule_of_the_schema_has_a_case():
    """A rule that is added without a case fails here."""
    messages = []

    def collect(node):
        messages.extend(rule["message"] for rule in node.get("x-kubernetes-validations", []))
        for child in [*node.get("properties", {}).values(), node.get("items")]:
            if child:
                collect(child)

    collect(build_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"])
    words = [case[3] for case in RULES.values()]
    assert [message for message in set(messages) if not any(word in message for word in words)] == []
