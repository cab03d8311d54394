"""What an upgrade of the operator does to replicas that run: nothing, unless somebody meant it and says so.

A pod template's hash is in its annotations, so whatever changes in it replaces every replica of every ModelServer like
this at the moment of the upgrade. `make soak SOAK_ARGS=upgrade` does the whole thing with an operator of before.
"""

from pathlib import Path

import pytest

from octavo_operator.core.manifest import Defaults, Owner
from octavo_operator.core.profiles import BUILT_IN, settle
from octavo_operator.core.render import render
from octavo_operator.core.spec import parse_spec

CHANGELOG = Path(__file__).parents[2] / "CHANGELOG.md"
PVC = {"source": {"pvc": {"claimName": "models", "path": "smol"}}}
SCALED = {"maxReplicas": 3, "targets": {"waitingPerReplica": 1}}

SPECS = {
    "a claim": {"model": PVC},
    "the hub": {"model": {"source": {"hub": {"repo": "org/model", "tokenSecretRef": {"name": "hub", "key": "token"}}}}},
    "S3 and a cache": {
        "model": {
            "source": {"s3": {"uri": "s3://models/smol", "credentialsSecretRef": {"name": "minio"}}},
            "cache": {"pvc": {"claimName": "cache"}},
        }
    },
    "an image": {"model": {"source": {"oci": {"image": "example.invalid/smol:1"}}}},
    "a GPU by name": {"model": PVC, "accelerator": {"profile": "H100"}},
    "four GPUs": {"model": PVC, "accelerator": {"count": 4, "nodeSelector": {"gpu": "a100"}}},
    "settings": {
        "model": PVC | {"servedName": "org/model", "maxModelLen": 2048, "dtype": "bfloat16"},
        "runtime": {
            "args": ["--block-size", "32"],
            "env": [{"name": "A", "value": "1"}],
            "maxNumSeqs": 8,
            "maxBatchedTokens": 512,
            "kvCache": {"size": "256Mi"},
            "resources": {"requests": {"cpu": "500m"}, "limits": {"memory": "4Gi"}},
        },
        "drain": {"timeout": "5m"},
        "podTemplate": {"spec": {"priorityClassName": "online"}},
    },
    "an activator": {"model": PVC, "autoscaling": SCALED | {"scaleToZero": {}}},
}

HISTORY: dict[str, tuple[str, ...]] = {
    "a claim": ("cb299327b413d0e0",),
    "the hub": ("75d4edfcc5640da3",),
    "S3 and a cache": ("713b4d4983e30135",),
    "an image": ("136ccb2bc0b8081d",),
    "a GPU by name": ("34295812ed0a4b30",),
    "four GPUs": ("6a53064abfe4fc8b",),
    "settings": ("30a27479a6b3b78d",),
    "an activator": ("7f1102c6a4a058be/cb299327b413d0e0",),
}
"""The hash of each one's pod template, and of that of its activator; a change adds one behind the others."""


def templates(raw):
    """The hashes of the pod templates of a ModelServer, by Deployment."""
    defaults = Defaults(runtime_image="example.invalid/runtime:1", activator_image="example.invalid/operator:1")
    spec, owner = settle(parse_spec(raw), BUILT_IN), Owner("default", "chat", "uid-1")
    children = render(spec, owner, 1, defaults, upstream="http://10.96.0.7")
    deployments = [child for child in children if child["kind"] == "Deployment"]
    return "/".join(
        child["spec"]["template"]["metadata"]["annotations"]["octavo.dev/template"] for child in deployments
    )


@pytest.mark.parametrize("name", SPECS)
def test_an_upgrade_replaces_no_replica_that_nobody_meant_to_replace(name):
    found, known = templates(SPECS[name]), HISTORY[name][-1]
    assert found == known, (
        f"every replica of a ModelServer with {name} would be replaced by an upgrade: its pod template is {found} and "
        f"was {known}. If that must be, add {found} to HISTORY and name it, and why, in CHANGELOG.md under 'Upgrading'"
    )


@pytest.mark.parametrize("name", SPECS)
def test_users_were_told_of_each_time_that_replicas_are_replaced(name):
    text = CHANGELOG.read_text()
    assert [template for template in HISTORY[name][1:] if template not in text] == []


def test_the_hash_speaks_of_the_template_alone():
    """Neither the number of replicas nor what stands beside the template replaces pods."""
    assert templates(SPECS["a claim"]) == templates(SPECS["a claim"] | {"replicas": 5, "disruption": {}})
    assert templates(SPECS["a claim"]) != templates(SPECS["settings"])
