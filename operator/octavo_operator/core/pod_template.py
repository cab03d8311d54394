"""`podTemplate`: a patch over the pod template that the operator renders, for what the API has no field for.

It is merged as Kubernetes merges a patch of a pod: objects field by field; containers, env, volumes, mounts and ports
by their keys; tolerations and envFrom are added; every other value takes the place of the rendered one. What a replica
cannot do without, or what has a field of its own, is refused by name. Everything else is the API server's to judge,
whose words end in the condition Ready (ApplyRejected).
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from octavo_operator.core import names
from octavo_operator.core.spec_runtime import VARIABLES_WITH_A_FIELD

Refusal = tuple[str, str]
"""A path in the patch, and what to do instead."""

_KEYS: Final = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "ports": "containerPort",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "resourceClaims": "name",
}
_ADDED: Final = frozenset({"tolerations", "envFrom"})

_RESTRICTED: Final = "replicas keep to the restricted Pod Security profile: leave it away"
_PROBED: Final = "the operator's own, since it knows what the runtime answers: leave it away"
_OF_THE_POD: Final = {
    "terminationGracePeriodSeconds": "set spec.drain.timeout",
    "serviceAccount": "write serviceAccountName, its name of today",
    "restartPolicy": "a replica is always restarted: leave it away",
    "hostNetwork": _RESTRICTED,
    "hostPID": _RESTRICTED,
    "hostIPC": _RESTRICTED,
}
_OF_THE_RUNTIME: Final = {
    "image": "set spec.runtime.image",
    "command": "the image's own takes the operator's arguments: leave it away",
    "args": "set spec.runtime.args",
    "ports": "the operator's own, since Service and probes use it: leave it away",
    "startupProbe": _PROBED,
    "readinessProbe": _PROBED,
    "livenessProbe": _PROBED,
    "lifecycle": "the runtime drains on SIGTERM by itself: leave it away",
    "terminationMessagePath": _PROBED,
    "terminationMessagePolicy": _PROBED,
}
_ONLY: Final[Mapping[str, tuple[Any, ...]]] = {
    "runAsNonRoot": (True,),
    "privileged": (False,),
    "allowPrivilegeEscalation": (False,),
    "readOnlyRootFilesystem": (True,),
}
_ADDED_RIGHTS: Final = frozenset({"NET_BIND_SERVICE"})
_DEEPEST: Final = 32
"""Levels of objects and lists in a patch. A pod has half as many; the API server takes ten thousand."""


def patched(template: dict[str, Any], patch: Mapping[str, Any] | None) -> dict[str, Any]:
    """The template with the patch merged into it."""
    merged: dict[str, Any] = _merged(template, patch or {}, "")
    return merged


def check_patch(patch: Mapping[str, Any]) -> Mapping[str, Any]:
    """The patch itself. ValueError names the first path in it that is refused."""
    if _is_deeper(patch, _DEEPEST):
        raise ValueError(f"nested deeper than {_DEEPEST} levels, which no pod is: leave the inner ones away")
    for path, instead in _refusals(patch):
        raise ValueError(f"{path}: {instead}")
    return patch


def _is_deeper(patch: object, levels: int) -> bool:
    """Level by level: a recursion, as in the rest of this module, is only for what is not deep."""
    layer = [patch]
    for _ in range(levels):
        layer = [inner for node in layer for inner in _members(node)]
    return bool(layer)


def _members(node: object) -> Iterable[object]:
    if isinstance(node, Mapping):
        return node.values()
    return node if isinstance(node, list) else ()


def _merged(base: Any, patch: Any, field: str) -> Any:  # noqa: ANN401  any JSON value
    if isinstance(base, dict) and isinstance(patch, Mapping):
        return base | {key: _merged(base.get(key), value, key) for key, value in patch.items()}
    if isinstance(base, list) and isinstance(patch, list):
        if field in _ADDED:
            return base + [item for item in patch if item not in base]
        if field in _KEYS:
            return _merged_by(_KEYS[field], base, patch)
    return patch


def _merged_by(key: str, base: list[Any], patch: list[Any]) -> list[Any]:
    """Items of the patch over those of the same key, and the others behind them."""
    changes = {_named(item, key): item for item in patch}
    known = {_named(item, key) for item in base}
    over = [_merged(item, changes.get(_named(item, key), {}), "") for item in base]
    return over + [item for item in patch if _named(item, key) not in known]


def _named(item: object, key: str = "name") -> str | int | None:
    """An item's key; None where it has none that could be one. What is rendered has one in every item."""
    value = item.get(key) if isinstance(item, Mapping) else None
    return value if isinstance(value, str | int) else None


def _refusals(patch: Mapping[str, Any]) -> Iterator[Refusal]:
    yield from _unknown(patch, ("metadata", "spec"), "")
    yield from _empty(patch, "")
    metadata, spec = _object(patch, "metadata"), _object(patch, "spec")
    yield from _unknown(metadata, ("labels", "annotations"), "metadata.")
    for kind in ("labels", "annotations"):
        for key in _object(metadata, kind):
            if key in names.labels("") or str(key).startswith(f"{names.GROUP}/"):
                yield f"metadata.{kind}.{key}", "the operator's own: leave it away"
    yield from _owned(spec, _OF_THE_POD, "spec.")
    yield from _weakened(_object(spec, "securityContext"), "spec.securityContext.")
    yield from _volumes(spec)
    yield from _containers(spec)


def _unknown(node: Mapping[str, Any], known: tuple[str, ...], path: str) -> Iterator[Refusal]:
    for key in node:
        if key not in known:
            yield f"{path}{key}", f"only {' and '.join(known)} can be patched"


def _empty(node: object, path: str) -> Iterator[Refusal]:
    """A patch only adds and replaces; what is written to remove something would silently do nothing."""
    if node is None:
        yield path.strip("."), "null removes nothing here: leave it away"
    pairs = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for key, value in pairs:
        if str(key).startswith("$"):
            yield f"{path}.{key}".strip("."), "directives are not read: leave it away"
        yield from _empty(value, f"{path}.{key}")


def _object(node: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A member that is an object, or an empty one: what is no object is for the API server to refuse."""
    value = node.get(key)
    return value if isinstance(value, Mapping) else {}


def _items(node: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    value = node.get(key)
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _owned(node: Mapping[str, Any], owned: Mapping[str, str], path: str) -> Iterator[Refusal]:
    yield from ((f"{path}{key}", owned[key]) for key in node if key in owned)


def _volumes(spec: Mapping[str, Any]) -> Iterator[Refusal]:
    for volume in _items(spec, "volumes"):
        if _named(volume) == "model":
            yield "spec.volumes[model]", "set spec.model.source or spec.model.cache"


def _containers(spec: Mapping[str, Any]) -> Iterator[Refusal]:
    for kind in ("containers", "initContainers"):
        for number, container in enumerate(_items(spec, kind)):
            if "name" not in container:
                yield f"spec.{kind}[{number}]", f"needs a name; the replica's own container is {names.CONTAINER}"
            if _named(container) == names.CONTAINER:
                yield from _runtime(container, f"spec.{kind}[{names.CONTAINER}].")


def _runtime(container: Mapping[str, Any], path: str) -> Iterator[Refusal]:
    yield from _owned(container, _OF_THE_RUNTIME, path)
    yield from _weakened(_object(container, "securityContext"), f"{path}securityContext.")
    for variable in _items(container, "env"):
        name = str(_named(variable))
        if name == "HOME":
            yield f"{path}env[HOME]", "the operator sets it to the only writable folder: leave it away"
        elif name in VARIABLES_WITH_A_FIELD:
            yield f"{path}env[{name}]", f"set {VARIABLES_WITH_A_FIELD[name]}"
    for mount in _items(container, "volumeMounts"):
        folder = _named(mount, "mountPath")
        if folder in (names.MODELS_FOLDER, names.HOME):
            yield f"{path}volumeMounts[{folder}]", "the operator's own: choose another folder"
    resources = _object(container, "resources")
    for kind in ("requests", "limits"):
        if names.GPU_RESOURCE in _object(resources, kind):
            yield f"{path}resources.{kind}", f"set spec.accelerator.count instead of {names.GPU_RESOURCE}"


def _weakened(context: Mapping[str, Any], path: str) -> Iterator[Refusal]:
    """What would take a pod out of the restricted profile."""
    for key, allowed in _ONLY.items():
        if key in context and context[key] not in allowed:
            yield f"{path}{key}", _RESTRICTED
    if context.get("runAsUser") == 0:
        yield f"{path}runAsUser", _RESTRICTED
    if _object(context, "seccompProfile").get("type", "RuntimeDefault") == "Unconfined":
        yield f"{path}seccompProfile", _RESTRICTED
    capabilities = _object(context, "capabilities")
    if any(right not in _ADDED_RIGHTS for right in _list(capabilities, "add")):
        yield f"{path}capabilities.add", _RESTRICTED
    if "drop" in capabilities and "ALL" not in _list(capabilities, "drop"):
        yield f"{path}capabilities.drop", _RESTRICTED


def _list(node: Mapping[str, Any], key: str) -> list[str]:
    value = node.get(key)
    return [str(item) for item in value] if isinstance(value, list) else []
