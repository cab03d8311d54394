"""Desired against observed -> what has to be applied. An empty plan is no API call.

    desired          observed                                  action
    ────────         ────────                                  ──────
    child            absent                                    apply (Created)
    child            other applied hash                        apply (Updated)
    child            same hash, an owned field differs         apply (DriftRepaired)
    child            same hash, every owned field equal        nothing
    child            controlled by somebody else               refuse: never take over a foreign object
    -                ours                                      remove (Removed); the replicas not before others came

What the API server writes in another way is no difference: quantities, and zero values that it leaves out of an answer.
Fields that are only in `observed` belong to the API server or to other managers and are none of our business. What is
applied over an existing child names the version that it was compared with: it does not land on another one.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from octavo_operator.core import names
from octavo_operator.core.manifest import Manifest, slot
from octavo_operator.core.names import Reason
from octavo_operator.core.units import same_quantity

_AMOUNT: Final = re.compile(r"\.resources\.(limits|requests)\.|\.(sizeLimit|divisor)$")
_LEFT_OUT: Final[tuple[Any, ...]] = ("", [], {}, None)
"""Values that the API server leaves out of its answers wherever they stand in a pod template, but for emptyDir: {}."""
_LEFT_OUT_THERE: Final = frozenset(
    {"hostPort", "initialDelaySeconds", "readOnly", "stdin", "stdinOnce", "tty", "publishNotReadyAddresses"}
)
"""Fields whose zero or false it leaves out too; of most others false is a value that it keeps."""
_TEMPLATE: Final = re.compile(r"\.(?:template|leaderTemplate|workerTemplate)\.(spec\.)?")
_OF_WORKLOADS: Final = frozenset({*names.WORKLOADS, f"Service{names.OF_GROUPS}"})
_KEYS: Final = {"volumeMounts": "mountPath"}
"""Lists whose items have another key than their name: one volume can be mounted twice."""


@dataclass(frozen=True, slots=True)
class Step:
    """One child to apply or to remove, and why."""

    manifest: Manifest
    reason: str
    message: str
    drift: tuple[str, ...] = ()
    """Paths of the fields that somebody else has changed."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to apply, which children cannot be because their names are taken, and which have to go."""

    steps: tuple[Step, ...] = ()
    conflicts: tuple[str, ...] = ()
    removals: tuple[Step, ...] = ()
    """Children that are not wanted any more, as they were observed."""
    marks: tuple[Manifest, ...] = ()
    """What to write on pods first, so that the right ones go (victims.py)."""
    awaited: Manifest | None = None
    """The workload that has to be there before one of the other kind goes."""


def make_plan(desired: tuple[Manifest, ...], observed: Mapping[str, Manifest]) -> Plan:
    """The steps from `observed` (slot -> object) to `desired`."""
    steps: list[Step] = []
    conflicts: list[str] = []
    for manifest in desired:
        existing = observed.get(_slot(manifest))
        if existing is not None and not _is_ours(manifest, existing):
            conflicts.append(f"{manifest['kind']} {manifest['metadata']['name']}")
        elif (step := _step(manifest, existing)) is not None:
            steps.append(step)
    awaited = _awaited(desired, observed)
    removals = _removals(desired, observed, kept=_OF_WORKLOADS if awaited else frozenset())
    return Plan(tuple(steps), tuple(conflicts), removals, awaited=awaited)


def _removals(
    desired: tuple[Manifest, ...], observed: Mapping[str, Manifest], *, kept: frozenset[str]
) -> tuple[Step, ...]:
    """Observed children that are certainly ours, are not wanted, and are not going yet."""
    wanted = {_slot(manifest) for manifest in desired}
    owner = _owner(desired)
    return tuple(
        Step(existing, Reason.REMOVED, f"{existing['kind']} {existing['metadata']['name']} removed")
        for place, existing in observed.items()
        if place not in wanted | kept
        and _controller(existing) == owner
        and "deletionTimestamp" not in existing["metadata"]
    )


def _awaited(desired: tuple[Manifest, ...], observed: Mapping[str, Manifest]) -> Manifest | None:
    """The wanted workload, where one of the other kind is there and stays until it is taken up by its controller.

    Then the other one goes, whether the new replicas are ready or not: they may need what the old ones have.
    """
    wanted = {place: manifest for manifest in desired if (place := _slot(manifest)) in names.WORKLOADS}
    others = [observed[place] for place in names.WORKLOADS if place in observed and place not in wanted]
    if not any(_controller(other) == _owner(desired) for other in others):
        return None
    return next(
        (manifest for place, manifest in wanted.items() if not _is_taken_up(manifest, observed.get(place))), None
    )


def _is_taken_up(manifest: Manifest, existing: Manifest | None) -> bool:
    return existing is not None and _is_ours(manifest, existing) and bool(existing.get("status"))


def _owner(desired: tuple[Manifest, ...]) -> str:
    (owner,) = {manifest["metadata"]["ownerReferences"][0]["uid"] for manifest in desired}
    return str(owner)


def _slot(manifest: Manifest) -> str:
    (owner,) = manifest["metadata"]["ownerReferences"]
    return slot(manifest, owner["name"])


def _controller(existing: Mapping[str, Any]) -> str | None:
    """The uid of an object's controller, if it has one."""
    references = existing["metadata"].get("ownerReferences", ())
    return next((str(reference["uid"]) for reference in references if reference.get("controller")), None)


def _is_ours(manifest: Manifest, existing: Manifest) -> bool:
    """Ours, or without a controller: a child that an orphaning deletion left behind is adopted again."""
    (owner,) = manifest["metadata"]["ownerReferences"]
    return belongs_to(existing, owner["uid"], owner["name"])


def belongs_to(existing: Mapping[str, Any], uid: str, name: str) -> bool:
    """Whether an object is a child of the ModelServer with that uid and name."""
    controller = _controller(existing)
    if controller is not None:
        return controller == uid
    return bool(existing["metadata"].get("labels", {}).get(names.LABEL_MODEL_SERVER) == name)


def _step(manifest: Manifest, existing: Manifest | None) -> Step | None:
    what = f"{manifest['kind']} {manifest['metadata']['name']}"
    if existing is None:
        return Step(manifest, Reason.CREATED, f"{what} created")
    differences = difference(manifest, existing)
    if not differences:
        return None
    manifest = _over(existing, manifest)
    if any(path.endswith(names.ANNOTATION_APPLIED) for path in differences):
        return Step(manifest, Reason.UPDATED, f"{what} updated")
    return Step(manifest, Reason.DRIFT_REPAIRED, f"{what} put back: {', '.join(differences[:5])}", differences)


def _over(existing: Manifest, manifest: Manifest) -> Manifest:
    """The manifest for exactly that version of the child."""
    seen = {key: existing["metadata"][key] for key in ("uid", "resourceVersion") if key in existing["metadata"]}
    return manifest | {"metadata": manifest["metadata"] | seen}


def difference(desired: Any, observed: Any, path: str = "") -> tuple[str, ...]:  # noqa: ANN401  any JSON value
    """Paths at which `observed` lacks what `desired` says; () when every owned field is as it should be."""
    if isinstance(desired, dict) and isinstance(observed, dict):
        return tuple(
            found
            for key, value in desired.items()
            for found in difference(value, observed.get(key), f"{path}.{key}" if path else key)
        )
    if isinstance(desired, list) and isinstance(observed, list):
        return _list_difference(desired, observed, path)
    return () if desired == observed or _is_rewritten(desired, observed, path) else (path,)


def _is_rewritten(desired: object, observed: object, path: str) -> bool:
    """Whether `observed` is how the API server writes `desired`."""
    template = _TEMPLATE.search(path)
    if desired == "" and template and template[1]:  # the API server's default, whatever that is
        return True
    if observed is None and template:
        return desired in _LEFT_OUT or (not desired and path.rsplit(".", 1)[-1] in _LEFT_OUT_THERE)
    return _AMOUNT.search(path) is not None and _same_amount(desired, observed)


def _list_difference(desired: list[Any], observed: list[Any], path: str) -> tuple[str, ...]:
    """Lists whose items have names of their own are maps (others may add items); the rest are one value."""
    key = _KEYS.get(path.rsplit(".", 1)[-1], "name")
    keys = [item[key] for item in desired if isinstance(item, dict) and key in item]
    if keys and len(keys) == len(desired) and all(keys.count(name) == 1 for name in keys):
        present = {item[key]: item for item in observed if isinstance(item, dict) and key in item}
        return tuple(
            found for item in desired for found in difference(item, present.get(item[key]), f"{path}[{item[key]}]")
        )
    if len(desired) != len(observed):
        return (path,)
    pairs = enumerate(zip(desired, observed, strict=True))
    return tuple(found for index, (mine, theirs) in pairs for found in difference(mine, theirs, f"{path}[{index}]"))


def _same_amount(desired: object, observed: object) -> bool:
    """The API server rewrites quantities: 1024Mi becomes 1Gi, and the number 0.5 becomes "500m"."""
    return (
        isinstance(desired, str | int | float) and isinstance(observed, str) and same_quantity(str(desired), observed)
    )
