"""pydantic models -> the CustomResourceDefinition.

pydantic's JSON schema is no structural schema: it has `$ref`, `title`, `anyOf` with null, and defaults that are
objects. `structural` rewrites exactly what these models produce and raises on the rest, so that a new construct
cannot slip through. Kubernetes' own rules: https://kubernetes.io/docs/tasks/extend-kubernetes/custom-
resources/custom-resource-definitions/
"""

from typing import Any, Final

import yaml

from octavo_operator.core import names
from octavo_operator.core.schema import rule, rules
from octavo_operator.core.spec import ModelServerSpec
from octavo_operator.core.status_model import NEVER, ModelServerStatus

Schema = dict[str, Any]

_KEPT: Final = (
    "description",
    "type",
    "format",
    "enum",
    "pattern",
    "default",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
    "anyOf",
    "x-kubernetes-int-or-string",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-validations",
    "required",
)
_DROPPED: Final = frozenset({"title", "$defs", "additionalProperties"})


def structural(schema: Schema, definitions: Schema, *, defaults: bool = True) -> Schema:
    """A structural OpenAPI v3 schema of one node of a pydantic JSON schema. ValueError for what it does not know.

    `defaults=False` leaves them away: the API server must not invent a status, but for the one that says that nobody
    has looked yet.
    """
    node = _without_null(_inlined(schema, definitions), definitions)
    unknown = node.keys() - set(_KEPT) - _DROPPED - {"properties", "items"}
    if unknown:
        raise ValueError(f"no rule for {sorted(unknown)} in {schema}")
    out: Schema = {key: node[key] for key in _KEPT if key in node}
    _set_default(out, node, wanted=defaults)
    if "properties" in node:
        children = node["properties"].items()
        out["properties"] = {name: structural(child, definitions, defaults=defaults) for name, child in children}
    if "items" in node:
        out["items"] = structural(node["items"], definitions, defaults=defaults)
    values = node.get("additionalProperties")
    if isinstance(values, dict):
        out["additionalProperties"] = structural(values, definitions, defaults=defaults)
    return out


def _set_default(out: Schema, node: Schema, *, wanted: bool) -> None:
    """Absent stays absent; an object's default is {}, which the API server fills from the members' own defaults."""
    default = node.get("default")
    if not wanted or default is None or default in ([], ()):
        out.pop("default", None)
    elif "properties" in node:
        out["default"] = {}


def _inlined(schema: Schema, definitions: Schema) -> Schema:
    if "$ref" not in schema:
        return schema
    target = definitions[schema["$ref"].rsplit("/", 1)[-1]]
    return {**target, **{key: value for key, value in schema.items() if key != "$ref"}}


def _without_null(schema: Schema, definitions: Schema) -> Schema:
    """`anyOf [X, null]` is an optional X: absence is how Kubernetes writes null."""
    choices = schema.get("anyOf", [])
    if {"type": "null"} not in choices:
        return schema
    (only,) = [choice for choice in choices if choice != {"type": "null"}]
    around = {key: value for key, value in schema.items() if key != "anyOf"}
    return {**_inlined(only, definitions), **around}


_ROOT_RULES: Final = rules(
    rule(
        f"""self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')
            && size(self.metadata.name) <= {names.MAX_NAME_LENGTH}""",
        "metadata.name becomes the name of a Service: begin with a letter, use only a-z, 0-9 and '-', "
        f"end with a letter or digit, at most {names.MAX_NAME_LENGTH} characters",
    ),
    rule(
        f"""!has(self.spec.accelerator) || self.spec.accelerator.nodes == 1
            || size(self.metadata.name) <= {names.MAX_GROUPED_NAME_LENGTH}""",
        f"with accelerator.nodes metadata.name becomes that of each group: at most {names.MAX_GROUPED_NAME_LENGTH} "
        "characters",
    ),
)


def _root_schema() -> Schema:
    spec = ModelServerSpec.model_json_schema()
    status = ModelServerStatus.model_json_schema()
    return {
        "type": "object",
        "description": "ModelServer serves one language model on Kubernetes behind an OpenAI-compatible endpoint, and "
        "scales its replicas on the load of their KV caches and queues.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": f"Version of this object's schema: {names.API_VERSION}."},
            "kind": {"type": "string", "description": f"Kind of this object: {names.KIND}."},
            "metadata": {"type": "object"},
            "spec": structural(spec, spec["$defs"]),
            "status": structural(status, status["$defs"], defaults=False) | {"default": {"observedGeneration": NEVER}},
        },
        **_ROOT_RULES,
    }


def _column(name: str, path: str, kind: str, description: str, *, wide: bool = False) -> Schema:
    priority = {"priority": 1} if wide else {}
    return {"name": name, "type": kind, "jsonPath": path, "description": description, **priority}


def _columns() -> list[Schema]:
    ready = '.status.conditions[?(@.type=="Ready")]'
    return [
        _column("MODEL", ".status.model.servedName", "string", "Name under which the model is served"),
        _column("READY", ".status.readyReplicas", "integer", "Replicas that serve"),
        _column("DESIRED", ".status.desiredReplicas", "integer", "Replicas wanted now"),
        _column("KV", ".status.load.kvUtilizationPercent", "integer", "KV cache in use, in percent"),
        _column("QUEUE", ".status.load.waiting", "integer", "Requests that wait"),
        _column("REASON", f"{ready}.reason", "string", "Why it is ready or not"),
        _column("AGE", ".metadata.creationTimestamp", "date", "Time since creation"),
        _column("RUNNING", ".status.load.running", "integer", "Requests that run", wide=True),
        _column("COST/H", ".status.cost.perHour", "string", "What all replicas cost in an hour", wide=True),
        _column("COST/1M", ".status.cost.perMillionTokens", "string", "What a million tokens cost now", wide=True),
        _column("URL", ".status.url", "string", "Endpoint inside the cluster", wide=True),
        _column("MESSAGE", f"{ready}.message", "string", "Why it is ready or not, in words", wide=True),
    ]


def build_crd() -> dict[str, Any]:
    """The CustomResourceDefinition `modelservers.octavo.dev` as a plain object."""
    version = {
        "name": names.VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": _root_schema()},
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "additionalPrinterColumns": _columns(),
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names.PLURAL}.{names.GROUP}"},
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": names.KIND,
                "listKind": f"{names.KIND}List",
                "plural": names.PLURAL,
                "singular": names.SINGULAR,
                "shortNames": [names.SHORT_NAME],
                "categories": [names.CATEGORY],
            },
            "versions": [version],
        },
    }


def crd_yaml() -> str:
    """`build_crd` as the text of crds/modelserver.yaml."""
    head = "# Generated by `octavo-operator crd` from octavo_operator/core/spec.py and status_model.py. Do not edit.\n"
    return head + yaml.dump(build_crd(), Dumper=_PlainDumper, sort_keys=False, width=120, allow_unicode=True)


class _PlainDumper(yaml.SafeDumper):
    """Without anchors and aliases, which many tools that read CRDs do not know."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ANN401  the signature is PyYAML's
        del data
        return True
