"""What all children have in common: their owner, name and labels, and the hash of what was applied."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from octavo_operator.core import names
from octavo_operator.core.profiles import BUILT_IN, Profiles

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Owner:
    """The ModelServer that the children belong to."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the installation and the cluster decide where the spec does not."""

    runtime_image: str
    operator_namespace: str = ""
    """Where the operator's pod is, which scrapes the replicas; empty outside of a cluster."""
    prometheus_namespace: str = ""
    """Whose pods may scrape the replicas; empty: nobody's."""
    pod_monitors: bool = False
    """Whether PodMonitors are wanted, and the cluster has the kind."""
    pod_monitor_labels: Mapping[str, str] = field(default_factory=dict)
    profiles: Profiles = BUILT_IN
    served: frozenset[str] = frozenset()
    """The optional kinds that the cluster has."""
    activator_image: str = ""
    """The operator's own; empty: not known, and nothing can be scaled to zero."""


def child(owner: Owner, kind: str, suffix: str = "", **content: Any) -> Manifest:  # noqa: ANN401  any JSON value
    """A child of the ModelServer, under its name and a suffix of `names.CHILDREN`."""
    resource = names.RESOURCES[kind]
    return {"apiVersion": resource.api_version, "kind": kind, "metadata": _metadata(owner, suffix), **content}


def slot(manifest: Mapping[str, Any], owner: str) -> str:
    """Which child of the ModelServer `owner` it is: `Deployment`, or `Deployment-activator`."""
    return f"{manifest['kind']}{manifest['metadata']['name'].removeprefix(owner)}"


def service_spec(selector: Mapping[str, str], *, kind: str = "ClusterIP", number: int = names.SERVICE_PORT) -> Manifest:
    """A Service with port `number` for the port `http` of the selected pods.

    What Kubernetes assigns (addresses, node ports) is not said, and so nobody's business.
    """
    port = {
        "name": names.PORT_NAME,
        "protocol": "TCP",
        "appProtocol": "http",
        "port": number,
        "targetPort": names.PORT_NAME,
    }
    return {"type": kind, "selector": dict(selector), "ports": [port]}


def restricted_pod(account: str) -> Manifest:
    """What makes a pod fit for Pod Security "restricted", beside `restricted_container` in its containers."""
    return {
        "serviceAccountName": account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": names.USER_ID,
            "runAsGroup": names.USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


def restricted_container() -> Manifest:
    """The security context of their containers."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def without_empty(node: Manifest) -> Manifest:
    """Without the values that the API server leaves out of its answers."""
    return {key: value for key, value in node.items() if value not in ("", [], {})}


def with_hash(manifest: Manifest) -> Manifest:
    """Adds a hash of the manifest to its own annotations: when a field is no longer rendered, nothing else differs."""
    return _annotated(manifest, names.ANNOTATION_APPLIED)


def with_revision(template: Manifest) -> Manifest:
    """Adds a hash of a pod template to its annotations, from where every pod of it has it."""
    return _annotated(template, names.ANNOTATION_TEMPLATE)


def _annotated(manifest: Manifest, annotation: str) -> Manifest:
    text = json.dumps(manifest, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    annotations = manifest["metadata"].get("annotations", {})
    return manifest | {"metadata": manifest["metadata"] | {"annotations": {**annotations, annotation: digest}}}


def _metadata(owner: Owner, suffix: str) -> Manifest:
    reference = {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "name": owner.name,
        "uid": owner.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "name": f"{owner.name}{suffix}",
        "namespace": owner.namespace,
        "labels": names.labels(owner.name),
        "ownerReferences": [reference],
    }
