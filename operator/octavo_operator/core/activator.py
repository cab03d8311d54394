"""The children of a ModelServer that may have no replica: who takes the requests meanwhile, and how they go on.

client ──> Service NAME ──┬── while a replica is available ──> the replicas
                          └── else ──> the activator ──> Service NAME-replicas ──> the replicas

The activator is a Deployment of one pod from the operator's image (octavo_operator/activator). It asks the API server
nothing, and no DNS: where the second Service is, it is told, so it comes when that has its address. Whether there is a
replica it learns by connecting, and the operator asks it for what it holds.
"""

from typing import Final

from octavo_operator.core import names
from octavo_operator.core.demand import DEFAULT_MAX_NUM_SEQS
from octavo_operator.core.guards import make_activator_monitor, make_activator_policy
from octavo_operator.core.manifest import (
    Defaults,
    Manifest,
    Owner,
    child,
    restricted_container,
    restricted_pod,
    service_spec,
    with_revision,
)
from octavo_operator.core.spec import ModelServerSpec
from octavo_operator.core.spec_scaling import ScaleToZero

_RESOURCES: Final = {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}}
"""Python and aiohttp take 50 MiB, the bodies that are held at most 64 MiB (activator/ledger.py)."""


def make_activator(
    spec: ModelServerSpec, owner: Owner, defaults: Defaults, *, model: str, upstream: str | None
) -> tuple[Manifest | None, ...]:
    """All of them, where the spec allows for no replica.

    `model` is the name that clients ask for, `upstream` the host of the second Service, None while it has none.
    """
    zero = _zero(spec)
    if zero is None or why_none(spec, defaults):
        return ()
    return (
        make_activator_policy(spec, owner, defaults),
        child(owner, "Service", names.OF_REPLICAS, spec=service_spec(names.selector(owner.name))),
        _deployment(spec, zero, owner, defaults.activator_image, _flags(spec, zero, model, upstream))
        if upstream
        else None,
        make_activator_monitor(owner, defaults),
    )


def why_none(spec: ModelServerSpec, defaults: Defaults) -> str | None:
    """Why there can be no activator although one is needed."""
    if _zero(spec) is None or defaults.activator_image:
        return None
    return "the activator's image is not known, set OCTAVO_ACTIVATOR_IMAGE to the operator's own"


def _zero(spec: ModelServerSpec) -> ScaleToZero | None:
    return spec.autoscaling.scale_to_zero if spec.autoscaling else None


def _flags(spec: ModelServerSpec, zero: ScaleToZero, model: str, upstream: str) -> dict[str, str]:
    return {
        "--upstream": f"http://[{upstream}]" if ":" in upstream else f"http://{upstream}",
        "--model": model,
        "--max-held": str(zero.max_held_requests),
        "--share": str(spec.runtime.max_num_seqs or DEFAULT_MAX_NUM_SEQS),
        "--hold-timeout": str(zero.hold_timeout),
        "--drain-timeout": str(_longest(spec, zero)),
    }


def _longest(spec: ModelServerSpec, zero: ScaleToZero) -> int:
    """Seconds that a request may be on its way here, if its answer takes no longer than a replica's drain."""
    return zero.hold_timeout + spec.drain.timeout


def _deployment(spec: ModelServerSpec, zero: ScaleToZero, owner: Owner, image: str, flags: dict[str, str]) -> Manifest:
    """One pod; a new one is ready before the old one goes, and that one first finishes what it holds."""
    template = {
        "metadata": {"labels": names.activator_labels(owner.name)},
        "spec": _pod_spec(owner, image, flags, grace=_longest(spec, zero) + names.DRAIN_DELAY_SECONDS),
    }
    deployment = {
        "replicas": 1,
        "revisionHistoryLimit": 2,
        "selector": {"matchLabels": names.activator_selector(owner.name)},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "template": with_revision(template),
    }
    return child(owner, "Deployment", names.OF_ACTIVATOR, spec=deployment)


def _pod_spec(owner: Owner, image: str, flags: dict[str, str], *, grace: int) -> Manifest:
    """Fit for Pod Security "restricted"."""
    return restricted_pod(owner.name) | {
        "terminationGracePeriodSeconds": grace + names.KILL_MARGIN_SECONDS,
        "containers": [_container(image, flags)],
    }


def _container(image: str, flags: dict[str, str]) -> Manifest:
    ports = {names.PORT_NAME: names.PORT, names.CONTROL_PORT_NAME: names.CONTROL_PORT}
    return {
        "name": names.ACTIVATOR,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["octavo-operator", "activate"],
        "args": [word for flag, value in flags.items() for word in (flag, value)],
        "ports": [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in ports.items()],
        "readinessProbe": _probe(names.PATH_READY, period=1),
        "livenessProbe": _probe(names.PATH_LIVE, period=10),
        "resources": _RESOURCES,
        "securityContext": restricted_container(),
    }


def _probe(path: str, *, period: int) -> Manifest:
    get = {"path": path, "port": names.CONTROL_PORT_NAME, "scheme": "HTTP"}
    return {"httpGet": get, "periodSeconds": period, "timeoutSeconds": 5, "failureThreshold": 3}
