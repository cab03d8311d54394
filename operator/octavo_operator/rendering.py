"""`octavo-operator render FILE…`: the children of ModelServers in files, without a cluster, for reviews and CI.

What only the API server knows is not there: owner references and the hash of what was applied, which contains them; an
activator has its Service's name instead of its address. The number of replicas is the one that a new ModelServer starts
with.
"""

import argparse
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from octavo_operator.core import names
from octavo_operator.core.activator import why_none
from octavo_operator.core.errors import SettingsError, SpecError
from octavo_operator.core.manifest import Defaults, Manifest, Owner
from octavo_operator.core.profiles import BUILT_IN, Profiles, extended, settle
from octavo_operator.core.render import render
from octavo_operator.core.rollout import replaces_in_place
from octavo_operator.core.spec import ModelServerSpec, parse_spec

_NAME: Final = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument(
        "files", metavar="FILE", nargs="+", help="YAML or JSON with ModelServers among others; - is stdin"
    )
    parser.add_argument("--runtime-image", help="where a ModelServer names none; default: $OCTAVO_RUNTIME_IMAGE")
    parser.add_argument("--activator-image", default="", help="the operator's own; default: $OCTAVO_ACTIVATOR_IMAGE")
    parser.add_argument("--namespace", default="default", help="where a ModelServer names none; default: default")
    parser.add_argument("--operator-namespace", default="octavo-system", help="default: octavo-system")
    parser.add_argument("--prometheus-namespace", default="monitoring", help="default: monitoring")
    parser.add_argument(
        "--profiles", metavar="FILE", help="more accelerator profiles: the installation's ConfigMap, or name: profile"
    )
    parser.add_argument("--pod-monitors", action="store_true", help="as in a cluster that has PodMonitors")


def print_children(options: argparse.Namespace) -> int:
    """The command; returns the exit status."""
    try:
        images = (os.environ.get(f"OCTAVO_{kind}_IMAGE", "") for kind in ("RUNTIME", "ACTIVATOR"))
        text, wrong = render_files(options, *images)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 64
    if wrong:
        sys.stderr.write("".join(f"{line}\n" for line in wrong))
        return 1
    sys.stdout.write(text)
    return 0


def render_files(options: argparse.Namespace, runtime_image: str, activator_image: str) -> tuple[str, list[str]]:
    """The children as YAML, and what is wrong, one line each with file, document and field. SettingsError: no file.

    The images are those of the installation, where the options name none.
    """
    defaults = Defaults(
        runtime_image=options.runtime_image or runtime_image,
        activator_image=options.activator_image or activator_image,
        operator_namespace=options.operator_namespace,
        prometheus_namespace=options.prometheus_namespace,
        pod_monitors=options.pod_monitors,
        served=names.OPTIONAL_KINDS,
        profiles=_profiles(options.profiles),
    )
    children: list[Manifest] = []
    wrong: list[str] = []
    found = list(_model_servers(options.files))
    for where, raw in found:
        try:
            children += _children(raw, options.namespace, defaults)
        except SpecError as error:
            wrong.append(f"{where}: {error}")
    if not found:  # most likely a typo in apiVersion or kind, which a review must not let pass
        wrong.append(f"{', '.join(options.files)}: no {names.KIND} of {names.API_VERSION} in it")
    return yaml.safe_dump_all(children, sort_keys=False, width=120, explicit_start=True), wrong


def _model_servers(files: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every ModelServer with the words for where it is."""
    for file in files:
        for number, document in enumerate(_documents(file), start=1):
            for raw in _items(document):
                yield f"{file}: document {number}, {names.KIND} {_metadata(raw).get('name')}", raw


def _profiles(file: str | None) -> Profiles:
    """The built-in ones and those of a file, all of which must be right: it is being reviewed."""
    if file is None:
        return BUILT_IN
    document = next(iter(_documents(file)), None)
    if not isinstance(document, dict):
        raise SettingsError(f"--profiles {file}: must be a ConfigMap, or a mapping of names to profiles")
    found = extended((document.get("data") or {}) if document.get("kind") == "ConfigMap" else document)
    if found.broken:
        raise SettingsError(f"--profiles {file}: " + "; ".join(f"{name}: {why}" for name, why in found.broken.items()))
    return found


def _documents(file: str) -> list[Any]:
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        return list(yaml.safe_load_all(text))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise SettingsError(f"{file}: {' '.join(str(error).split())}") from error


def _items(document: object) -> list[dict[str, Any]]:
    """The ModelServers in a document, which may be a List."""
    if not isinstance(document, dict):
        return []
    if document.get("kind") in ("List", f"{names.KIND}List"):
        items = document.get("items")
        return [found for item in (items if isinstance(items, list) else ()) for found in _items(item)]
    ours = document.get("kind") == names.KIND and str(document.get("apiVersion", "")).startswith(f"{names.GROUP}/")
    return [document] if ours else []


def _metadata(raw: dict[str, Any]) -> dict[str, Any]:
    """It may be anything in a file; without one there is no name, and that is said."""
    metadata = raw.get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def _children(raw: dict[str, Any], namespace: str, defaults: Defaults) -> list[Manifest]:
    metadata = _metadata(raw)
    owner = Owner(str(metadata.get("namespace") or namespace), _name(metadata.get("name")), uid="")
    if raw["apiVersion"] != names.API_VERSION:
        raise SpecError("apiVersion", f"must be {names.API_VERSION} (got {raw['apiVersion']!r})")
    spec = settle(parse_spec(raw.get("spec", {})), defaults.profiles)
    if spec.nodes > 1 and len(owner.name) > names.MAX_GROUPED_NAME_LENGTH:
        most = f"at most {names.MAX_GROUPED_NAME_LENGTH} characters with spec.accelerator.nodes"
        raise SpecError("metadata.name", f"becomes that of each group: {most} (got {owner.name!r})")
    if not (spec.runtime.image or defaults.runtime_image):
        raise SpecError("spec.runtime.image", "set it, or name the installation's image with --runtime-image")
    if why := why_none(spec, defaults):
        raise SpecError("spec.autoscaling.scaleToZero", f"{why}, or --activator-image")
    replicas, upstream = _replicas(spec), f"{owner.name}{names.OF_REPLICAS}.{owner.namespace}.svc"
    in_place = replaces_in_place(spec, replicas, None, (), now=0.0)
    manifests = render(spec, owner, replicas, defaults, in_place=in_place, upstream=upstream)
    return [_without_the_cluster(manifest) for manifest in manifests]


def _name(name: object) -> str:
    if isinstance(name, str) and _NAME.fullmatch(name) and len(name) <= names.MAX_NAME_LENGTH:
        return name
    shape = f"begin with a letter, use only a-z, 0-9 and '-', at most {names.MAX_NAME_LENGTH} characters"
    raise SpecError("metadata.name", f"becomes the name of a Service: {shape} (got {name!r})")


def _replicas(spec: ModelServerSpec) -> int:
    if spec.replicas is not None:
        return spec.replicas
    return spec.autoscaling.min_replicas if spec.autoscaling else 1


def _without_the_cluster(manifest: Manifest) -> Manifest:
    gone = ("ownerReferences", "annotations")
    return manifest | {"metadata": {key: value for key, value in manifest["metadata"].items() if key not in gone}}
