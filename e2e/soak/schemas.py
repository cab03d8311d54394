"""The chart and the children of ModelServers against the schemas of several Kubernetes minors, as those publish them.

Kubernetes' Go module carries its OpenAPI document (20 MB a version, fetched once by the go command and checked against
Go's checksum database). A field that a minor does not know would be dropped there, or refused by a strict client.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from cluster import versions
from cluster.layout import paths
from cluster.progress import Progress
from cluster.toolchain import go_binary, go_environment
from kit.chart import rendered
from soak.goals import Goal

if TYPE_CHECKING:
    from collections.abc import Iterator

KUBERNETES: Final = ("v1.31.0", "v1.34.0", versions.KUBERNETES)
"""The oldest that the chart takes (kubeVersion), one between, and the one that everything else is tested with."""
OPTIONS: Final = (
    (),
    ("replicas=2", "watchNamespaces={a,b}", "recordingRules.enabled=true"),
    ("prometheus.url=https://prom:9090", "prometheus.authorization.secretName=t", "prometheus.ca.configMapName=ca"),
)
"""Values of the chart that render what the defaults do not."""

_MODEL: Final = {"source": {"pvc": {"claimName": "models"}}}
SPECS: Final = (
    {"model": _MODEL, "replicas": 2},
    {"model": {"source": {"hub": {"repo": "org/model"}}}, "accelerator": {"profile": "H100", "count": 2}},
    {"model": {"source": {"s3": {"uri": "s3://models/smol"}}, "cache": {"pvc": {"claimName": "cache"}}}},
    {"model": {"source": {"oci": {"image": "example.invalid/smol:1"}}}},
    {"model": {"source": {"hub": {"repo": "org/model"}}, "cache": {"claim": {"size": "20Gi"}}}},
    {
        "model": _MODEL,
        "autoscaling": {"maxReplicas": 3, "targets": {"waitingPerReplica": 1}, "scaleToZero": {}},
        "runtime": {"resources": {"limits": {"memory": "4Gi"}}, "env": [{"name": "A", "value": "1"}]},
    },
)

_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}

Raw = dict[str, Any]


def run() -> Iterator[Goal]:
    """What each minor says of everything that is rendered; kinds of other projects (PodMonitor, …) are left out."""
    manifests = [*_chart(), *_children()]
    for version in KUBERNETES:
        kinds, wrong, checked = _Kinds(_document(version)), list[str](), 0
        for manifest in manifests:
            schema = kinds.of(manifest)
            if schema is not None:
                checked += 1
                wrong += [f"{manifest['kind']} {where}" for where in kinds.faults(schema, manifest, "")]
        words = f"{len(wrong)} in {checked} objects" + (f": {'; '.join(sorted(set(wrong))[:5])}" if wrong else "")
        yield Goal(f"chart and children against Kubernetes {version}: faults", "0", words, not wrong and checked > 0)


def _chart() -> Iterator[Raw]:
    for values in OPTIONS:
        yield from rendered(*(f"--set={value}" for value in values))


def _children() -> Iterator[Raw]:
    kind = {"apiVersion": "octavo.dev/v1alpha1", "kind": "ModelServer"}
    servers = [kind | {"metadata": {"name": f"chat-{index}"}, "spec": spec} for index, spec in enumerate(SPECS)]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump_all(servers, file)
        file.flush()
        images = ("--runtime-image=r:1", "--activator-image=a:1")
        command = [sys.executable, "-m", "octavo_operator", "render", file.name, *images]
        yield from _documents(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _documents(text: str) -> list[Raw]:
    return [manifest for manifest in yaml.safe_load_all(text) if manifest]


def _document(version: str) -> Raw:
    """The OpenAPI document of a version of Kubernetes."""
    go = str(go_binary(paths(), Progress()))
    command = [go, "mod", "download", "-json", f"k8s.io/kubernetes@{version}"]
    with tempfile.TemporaryDirectory() as nowhere:  # in no module of ours
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=go_environment(), cwd=nowhere)
    found = json.loads(done.stdout)
    if "Error" in found:
        raise OSError(f"k8s.io/kubernetes@{version}: {found['Error']}")
    document: Raw = json.loads((Path(found["Dir"]) / "api/openapi-spec/swagger.json").read_text())
    return document


class _Kinds:
    """The kinds of one OpenAPI document."""

    def __init__(self, document: Raw) -> None:
        self._definitions: Raw = document["definitions"]
        self._by_kind = {
            (kind["group"], kind["version"], kind["kind"]): schema
            for schema in self._definitions.values()
            for kind in schema.get("x-kubernetes-group-version-kind", ())
        }

    def of(self, manifest: Raw) -> Raw | None:
        """The schema of an object; None where the document does not know its kind."""
        group, _, version = manifest["apiVersion"].rpartition("/")
        found: Raw | None = self._by_kind.get((group, version, manifest["kind"]))
        return found

    def faults(self, schema: Raw, value: Any, path: str) -> Iterator[str]:
        """The paths of what is missing, unknown or of another type."""
        while "$ref" in schema:
            schema = self._definitions[schema["$ref"].rsplit("/", 1)[-1]]
        if not _is_a(value, schema):
            yield f"{path}: {value!r} is no {schema['type']}"
        elif isinstance(value, dict):
            yield from self._faults_of_members(schema, value, path)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                yield from self.faults(schema.get("items", {}), item, f"{path}[{index}]")

    def _faults_of_members(self, schema: Raw, value: Raw, path: str) -> Iterator[str]:
        properties, others = schema.get("properties"), schema.get("additionalProperties")
        for name in schema.get("required", ()):
            if name not in value:
                yield f"{path}.{name}: missing"
        for name, member in value.items():
            if properties is not None and name in properties:
                yield from self.faults(properties[name], member, f"{path}.{name}")
            elif isinstance(others, dict):
                yield from self.faults(others, member, f"{path}.{name}")
            elif properties is not None:
                yield f"{path}.{name}: unknown"


def _is_a(value: Any, schema: Raw) -> bool:
    """Whether the value has the schema's type; int-or-string and quantities are written as strings or numbers."""
    kind = schema.get("type")
    if schema.get("format") == "int-or-string" or kind is None:
        return True
    return isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))
