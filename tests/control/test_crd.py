from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from octavo_operator.__main__ import main
from octavo_operator.core.crd import build_crd, crd_yaml, structural

ROOT = Path(__file__).parents[2]
SCHEMA = build_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every node of a structural schema with its path."""
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from nodes(schema[key], f"{path}[]")


def test_the_committed_crd_is_the_generated_one():
    assert (ROOT / "crds/modelserver.yaml").read_text() == crd_yaml()


def test_the_charts_copy_is_the_same_file():
    assert (ROOT / "charts/octavo/files/modelserver.yaml").read_bytes() == (ROOT / "crds/modelserver.yaml").read_bytes()


def test_the_command_prints_it(capsys):
    assert main(["crd"]) == 0
    assert capsys.readouterr().out == crd_yaml()


def test_every_property_explains_itself():
    bare = [
        path
        for path, node in nodes(SCHEMA)
        if path.startswith((".spec", ".status")) and not path.endswith("[]") and not node.get("description")
    ]
    assert bare == []


def test_the_spec_has_no_floats():
    assert [path for path, node in nodes(SCHEMA) if node.get("type") == "number"] == []


def test_strings_lists_and_maps_of_the_spec_are_bounded():
    """CEL's cost is estimated from the bounds, and etcd keeps what is written."""
    needs = {"string": "maxLength", "array": "maxItems"}
    unbounded = [
        path
        for path, node in nodes(SCHEMA["properties"]["spec"])
        if (node.get("type") in needs and needs[node["type"]] not in node and "enum" not in node)
        or ("additionalProperties" in node and "maxProperties" not in node)
    ]
    assert unbounded == []


def test_integers_of_the_spec_refuse_negative_numbers():
    integers = [(path, node) for path, node in nodes(SCHEMA["properties"]["spec"]) if node.get("type") == "integer"]
    assert integers
    assert [path for path, node in integers if node.get("minimum", -1) < 0] == []


def test_every_rule_says_what_to_write_instead():
    rules = [rule for _, node in nodes(SCHEMA) for rule in node.get("x-kubernetes-validations", [])]
    assert len(rules) >= 25
    assert [rule for rule in rules if len(rule.get("message", "")) < 15] == []


def test_no_default_is_invented_for_a_status_but_that_nobody_has_looked():
    found = [(path, node["default"]) for path, node in nodes(SCHEMA["properties"]["status"]) if "default" in node]
    assert found == [("", {"observedGeneration": -1})]


def test_the_yaml_has_no_anchors():
    assert "&id" not in crd_yaml()
    assert yaml.safe_load(crd_yaml()) == build_crd()


def test_a_construct_that_the_converter_does_not_know_is_an_error():
    with pytest.raises(ValueError, match="exclusiveMinimum"):
        structural({"type": "integer", "exclusiveMinimum": 0}, {})
