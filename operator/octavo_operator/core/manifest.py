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


def child(owner: Owner, kind: str, **content: Any) -> Manifest:  # noqa: ANN401  any JSON value
    """A child of the ModelServer, under its name."""
    resource = names.RESOURCES[kind]
    return {"apiVersion": resource.api_version, "kind": kind, "metadata": _metadata(owner), **content}


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


def _metadata(owner: Owner) -> Manifest:
    reference = {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "name": owner.name,
        "uid": owner.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "name": owner.name,
        "namespace": owner.namespace,
        "labels": names.labels(owner.name),
        "ownerReferences": [reference],
    }
