"""Builders of raw objects, as the API server would hand them to the operator."""

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

GOLDEN = Path(__file__).parent / "golden"
UID = "0b0c7d5e-1111-4222-8333-444455556666"

Raw = dict[str, Any]


def merged(base: Raw, changes: Raw) -> Raw:
    """`base` with `changes` laid over it, dict by dict."""
    out = copy.deepcopy(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = merged(out[key], value) if both else copy.deepcopy(value)
    return out


@pytest.fixture
def raw_spec() -> Callable[..., Raw]:
    """The smallest spec, with changes laid over it."""
    base = {"model": {"source": {"pvc": {"claimName": "models", "path": "smol"}}}}
    return lambda **changes: merged(base, changes)


@pytest.fixture
def raw_server(raw_spec: Callable[..., Raw]) -> Callable[..., Raw]:
    """A raw ModelServer `default/chat` with that spec."""

    def build(generation: int = 1, status: Raw | None = None, **changes: Any) -> Raw:
        metadata = {
            "name": "chat",
            "namespace": "default",
            "uid": UID,
            "generation": generation,
            "resourceVersion": "100",
        }
        server = {"apiVersion": "octavo.dev/v1alpha1", "kind": "ModelServer", "metadata": metadata}
        return server | {"spec": raw_spec(**changes)} | ({"status": status} if status else {})

    return build


@pytest.fixture
def raw_deployment() -> Callable[..., Raw]:
    """A raw Deployment whose controller has seen everything and whose pods are as the counts say."""

    def build(
        wanted: int = 1,
        *,
        replicas: int | None = None,
        updated: int | None = None,
        ready: int | None = None,
        available: int | None = None,
        revision: str = "r1",
    ) -> Raw:
        replicas = wanted if replicas is None else replicas
        ready = replicas if ready is None else ready
        status = {
            "observedGeneration": 1,
            "replicas": replicas,
            "updatedReplicas": replicas if updated is None else updated,
            "readyReplicas": ready,
            "availableReplicas": ready if available is None else available,
        }
        metadata = {"name": "chat", "namespace": "default", "generation": 1, "resourceVersion": "101"}
        spec = {"replicas": wanted, "template": {"metadata": {"annotations": {"octavo.dev/template": revision}}}}
        return {"kind": "Deployment", "metadata": metadata, "spec": spec, "status": status}

    return build


@pytest.fixture
def raw_pod() -> Callable[..., Raw]:
    """A raw pod of `default/chat`; `container` is its container status, `conditions` its conditions by type."""

    def build(
        name: str = "chat-1",
        *,
        ready: bool = False,
        container: Raw | None = None,
        conditions: dict[str, Raw] | None = None,
        revision: str = "r1",
        created: str = "2026-01-01T00:00:00Z",
        terminating: bool = False,
    ) -> Raw:
        metadata = {
            "name": name,
            "namespace": "default",
            "uid": f"uid-{name}",
            "resourceVersion": "102",
            "creationTimestamp": created,
            "labels": {"octavo.dev/modelserver": "chat"},
            "annotations": {"octavo.dev/template": revision},
            **({"deletionTimestamp": "2026-01-01T00:01:00Z"} if terminating else {}),
        }
        known = {"Ready": {"status": "True" if ready else "False", "lastTransitionTime": "2026-01-01T00:00:30Z"}}
        listed = [{"type": kind, **condition} for kind, condition in (known | (conditions or {})).items()]
        statuses = [{"name": "runtime", **container}] if container else []
        status = {"phase": "Running", "podIP": "10.1.0.1", "conditions": listed, "containerStatuses": statuses}
        return {"kind": "Pod", "metadata": metadata, "status": status}

    return build


@pytest.fixture
def golden() -> Callable[[str, Any], None]:
    """Compares with golden/NAME.yaml; OCTAVO_UPDATE_GOLDEN=1 writes it instead."""

    def compare(name: str, value: Any) -> None:
        path = GOLDEN / f"{name}.yaml"
        if os.environ.get("OCTAVO_UPDATE_GOLDEN"):
            path.write_text(yaml.safe_dump(value, sort_keys=False, width=120))
        assert yaml.safe_load(path.read_text()) == value, f"{path.name} differs: OCTAVO_UPDATE_GOLDEN=1 rewrites it"

    return compare
