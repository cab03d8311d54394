"""Desired state: (spec, owner, replicas, defaults) -> the children's manifests, complete and deterministic.

Every field that the operator owns is written here, and nothing that it does not: what other managers add to a child
survives. Zero values that Kubernetes leaves out of its answers ("", 0, [], {}) are left out here too, so that the
plan can compare field by field.
"""

import math
import re
from typing import Final

from octavo_operator.core import groups, names
from octavo_operator.core.activator import make_activator
from octavo_operator.core.guards import (
    make_disruption_budget,
    make_network_policy,
    make_pod_monitor,
    make_service_account,
)
from octavo_operator.core.manifest import (
    Defaults,
    Manifest,
    Owner,
    child,
    restricted_container,
    restricted_pod,
    service_spec,
    with_hash,
    with_revision,
    without_empty,
)
from octavo_operator.core.pod_template import patched
from octavo_operator.core.profiles import PRODUCT_LABEL, Profile
from octavo_operator.core.routes import make_http_route, make_inference_pool
from octavo_operator.core.sources import (
    make_cache_claim,
    model_argument,
    model_volume,
    pull_seconds,
    shares_a_volume,
    source_env,
    startup_seconds,
)
from octavo_operator.core.spec import ModelServerSpec
from octavo_operator.core.spec_model import Accelerator
from octavo_operator.core.spec_runtime import EnvVar, KvCache, ResourceQuantities, Resources
from octavo_operator.core.units import parse_quantity

MIN_READY_SECONDS: Final = 2
"""Between "the pod is ready" and "the replica serves": kube-proxy on every node learns of it about a second later."""

SHARED_GIB_PER_GPU: Final = 2


def render(
    spec: ModelServerSpec,
    owner: Owner,
    replicas: int,
    defaults: Defaults,
    *,
    in_place: bool = False,
    to_activator: bool = False,
    upstream: str | None = None,
) -> tuple[Manifest, ...]:
    """All children of a ModelServer, in the order in which they are applied.

    The Service leads to the replicas, or to the activator; that one comes when `upstream` is known (activator.py).
    """
    children = (
        make_service_account(owner),
        make_network_policy(spec, owner, defaults),
        *make_activator(spec, owner, defaults, model=served_name(spec, owner.name), upstream=upstream),
        make_service(spec, owner, to_activator=to_activator),
        make_disruption_budget(spec, owner, replicas),
        make_cache_claim(spec.model, owner),
        *make_workload(spec, owner, replicas, defaults, in_place=in_place),
        make_pod_monitor(spec, owner, defaults),
        make_inference_pool(spec, owner, defaults),
        make_http_route(spec, owner, defaults),
    )
    return tuple(with_hash(manifest) for manifest in children if manifest is not None)


def make_service(spec: ModelServerSpec, owner: Owner, *, to_activator: bool) -> Manifest:
    """What clients ask: every ready replica, or the activator."""
    wanted = spec.networking.service
    selector = names.activator_selector(owner.name) if to_activator else names.selector(owner.name)
    manifest = child(owner, "Service", spec=service_spec(selector, kind=wanted.type, number=wanted.port))
    if wanted.annotations:
        manifest["metadata"]["annotations"] = dict(wanted.annotations)
    return manifest


def make_workload(
    spec: ModelServerSpec, owner: Owner, replicas: int, defaults: Defaults, *, in_place: bool
) -> tuple[Manifest, ...]:
    """The replicas, replaced one at a time: a new one serves before an old one goes, or an old one goes first."""
    pod = {"metadata": {"labels": names.labels(owner.name)}, "spec": make_pod_spec(spec, owner.name, defaults)}
    template = with_revision(patched(pod, spec.pod_template))
    if spec.nodes > 1:
        return groups.make_groups(owner, replicas, spec.nodes, template, in_place=in_place)
    return (_make_deployment(spec, owner, replicas, template, in_place=in_place),)


def _make_deployment(
    spec: ModelServerSpec, owner: Owner, replicas: int, template: Manifest, *, in_place: bool
) -> Manifest:
    deployment = {
        "replicas": replicas,
        "minReadySeconds": MIN_READY_SECONDS,
        "revisionHistoryLimit": 2,
        "progressDeadlineSeconds": pull_seconds(spec.model) + startup_seconds(spec.model) + _grace_seconds(spec) + 60,
        "selector": {"matchLabels": names.selector(owner.name)},
        "strategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxUnavailable": int(in_place), "maxSurge": int(not in_place)},
        },
        "template": template,
    }
    return child(owner, "Deployment", spec=deployment)


def make_pod_spec(spec: ModelServerSpec, name: str, defaults: Defaults) -> Manifest:
    """One replica, or one pod of its group, fit for Pod Security "restricted"."""
    pod = restricted_pod(name)
    pod["securityContext"] |= _group(spec)
    pod |= {
        "terminationGracePeriodSeconds": _grace_seconds(spec),
        "containers": [_container(spec, name, defaults)],
        "volumes": [
            model_volume(spec.model, name),
            {"name": "tmp", "emptyDir": {"sizeLimit": "2Gi"}},
            *_shared_memory(spec),
        ],
    }
    return pod | _pull_secret(spec) | _placement(spec.accelerator, defaults.profiles.of(spec.accelerator))


def _grace_seconds(spec: ModelServerSpec) -> int:
    """How long a replica may take to end; a new one in its place waits for that."""
    return spec.drain.pre_stop_delay + spec.drain.timeout + names.KILL_MARGIN_SECONDS


def url(owner: Owner, port: int = names.SERVICE_PORT) -> str:
    """Where clients inside the cluster reach the replicas; HTTP's own port, the Service's default, goes without."""
    return f"http://{owner.name}.{owner.namespace}.svc" + (f":{port}" if port != names.SERVICE_PORT else "")


def served_name(spec: ModelServerSpec, name: str) -> str:
    """The name that clients ask for."""
    return spec.model.served_name or name


def _container(spec: ModelServerSpec, name: str, defaults: Defaults) -> Manifest:
    return {
        "name": names.CONTAINER,
        "image": spec.runtime.image or defaults.runtime_image,
        "imagePullPolicy": "IfNotPresent",
        "args": _arguments(spec, name),
        "env": [
            {"name": "HOME", "value": names.HOME},
            *source_env(spec.model),
            *(_env(variable) for variable in spec.runtime.env),
        ],
        "ports": [{"name": names.PORT_NAME, "containerPort": names.PORT, "protocol": "TCP"}],
        **_resources(spec.runtime.resources, spec.accelerator, defaults.profiles.of(spec.accelerator)),
        **_probes(startup_seconds(spec.model)),
        "securityContext": restricted_container(),
        "volumeMounts": [
            {"name": "model", "mountPath": names.MODELS_FOLDER}
            | ({"readOnly": True} if not spec.model.source.is_fetched else {}),
            {"name": "tmp", "mountPath": names.HOME},
            *({"name": volume["name"], "mountPath": "/dev/shm"} for volume in _shared_memory(spec)),  # noqa: S108
        ],
    }


def _gpus(spec: ModelServerSpec) -> int:
    """Of one pod."""
    return spec.accelerator.gpus_on_a_node if spec.accelerator else 0


def _shared_memory(spec: ModelServerSpec) -> list[Manifest]:
    """GPUs of one node exchange through /dev/shm where they have no direct way; a container's own has 64 MiB.

    A bound, not a reservation: pages count into the pod's memory as they are used.
    """
    if _gpus(spec) < 2:
        return []
    return [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{SHARED_GIB_PER_GPU * _gpus(spec)}Gi"}}]


def _pull_secret(spec: ModelServerSpec) -> Manifest:
    secret = spec.model.source.oci.pull_secret_ref if spec.model.source.oci else None
    return {"imagePullSecrets": [{"name": secret.name}]} if secret else {}


def _group(spec: ModelServerSpec) -> Manifest:
    """A new volume belongs to root: the first replica that mounts a cache makes it writable to our group."""
    if not shares_a_volume(spec.model):
        return {}
    return {"fsGroup": names.USER_ID, "fsGroupChangePolicy": "OnRootMismatch"}


def _arguments(spec: ModelServerSpec, name: str) -> list[str]:
    flags: dict[str, object] = {
        "--port": names.PORT,
        "--download-dir": names.MODELS_FOLDER if spec.model.source.is_fetched else None,
        "--served-model-name": served_name(spec, name),
        "--dtype": spec.model.dtype,
        "--max-model-len": spec.model.max_model_len,
        "--max-num-seqs": spec.runtime.max_num_seqs,
        "--max-num-batched-tokens": spec.runtime.max_batched_tokens,
        **(_cache_flags(spec.runtime.kv_cache) if spec.runtime.kv_cache else {}),
        "--tensor-parallel-size": spec.accelerator.gpus if spec.accelerator and spec.accelerator.gpus > 1 else None,
        **(groups.arguments(spec.nodes, startup_seconds(spec.model)) if spec.nodes > 1 else {}),
        "--drain-timeout": spec.drain.timeout,
        "--drain-delay": spec.drain.pre_stop_delay,
    }
    words = [word for flag, value in flags.items() if value is not None for word in (flag, str(value))]
    switches = ["--no-prefix-caching"] if spec.runtime.prefix_caching is False else []
    return ["serve", model_argument(spec.model), *words, *switches, *spec.runtime.args]


def _cache_flags(cache: KvCache) -> dict[str, object]:
    share = f"{cache.memory_percent}%" if cache.memory_percent else None
    return {
        "--kv-cache-memory": _bytes(cache.size) if cache.size else share,
        "--kv-cache-dtype": cache.dtype if cache.dtype != "auto" else None,
        "--block-size": cache.block_size,
    }


def _bytes(quantity: str) -> str:
    """A quantity in the notation that the runtime reads; the rarer ones (1e9, 100m, 2Ei) as plain bytes."""
    common = re.fullmatch(r"[1-9]\d*(k|M|G|Ki|Mi|Gi)?", quantity)
    return quantity if common else str(math.floor(parse_quantity(quantity)))


def _env(variable: EnvVar) -> Manifest:
    return without_empty(variable.model_dump(by_alias=True, exclude_none=True))


def _resources(resources: Resources | None, accelerator: Accelerator | None, profile: Profile | None) -> Manifest:
    asked = resources or Resources()
    resource = profile.resource if profile else names.GPU_RESOURCE
    count = accelerator.gpus_on_a_node if accelerator else 0
    gpus = {resource: str(count)} if count else {}
    requests, limits = _quantities(asked.requests), _quantities(asked.limits)
    if count and profile and profile.memory and "memory" not in requests | limits:
        requests["memory"] = str(math.ceil(parse_quantity(profile.memory) * count))
    filled = {kind: amounts for kind, amounts in (("requests", requests | gpus), ("limits", limits | gpus)) if amounts}
    return {"resources": filled} if filled else {}


def _quantities(amounts: ResourceQuantities | None) -> dict[str, str]:
    pairs = {"cpu": amounts.cpu, "memory": amounts.memory} if amounts else {}
    return {name: amount for name, amount in pairs.items() if amount is not None}


def _probes(startup: int) -> Manifest:
    """Started: the model is loaded. Ready: asked every second, a drain is seen at once. Live: a minute of patience."""

    def get(path: str, **timing: int) -> Manifest:
        return {"httpGet": {"path": path, "port": names.PORT_NAME, "scheme": "HTTP"}, **timing}

    return {
        "startupProbe": get(names.PATH_STARTUP, periodSeconds=1, timeoutSeconds=5, failureThreshold=startup),
        "readinessProbe": get(names.PATH_READY, periodSeconds=1, timeoutSeconds=3, failureThreshold=3),
        "livenessProbe": get(names.PATH_LIVE, periodSeconds=10, timeoutSeconds=5, failureThreshold=6),
    }


def _placement(accelerator: Accelerator | None, profile: Profile | None) -> Manifest:
    """Where a replica may go: as the spec says, else as its profile does."""
    if accelerator is None:
        return {}
    told = accelerator.node_selector
    tolerations = accelerator.tolerations or (profile.tolerations if profile else ())
    return without_empty(
        {
            "nodeSelector": dict(told or (profile.node_selector if profile else {})),
            "tolerations": [without_empty(item.model_dump(by_alias=True, exclude_none=True)) for item in tolerations],
            "affinity": _products(profile.products) if profile and profile.products and not told else {},
        }
    )


def _products(products: tuple[str, ...]) -> Manifest:
    """Nodes whose GPU is one of these: the same kind of GPU has several names."""
    wanted = {"key": PRODUCT_LABEL, "operator": "In", "values": list(products)}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [wanted]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
