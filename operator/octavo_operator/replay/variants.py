"""`--try FIELD=VALUE,VALUE`: every combination of some fields' values, each a policy of its own.

    --try autoscaling.targets.kvUtilizationPercent=70,90 --try autoscaling.targets.waitingPerReplica=3,null

gives 70/3, 70/null, 90/3 and 90/null; null leaves a field out. Each is checked like any spec.
"""

import argparse
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any, Final

import yaml

from octavo_operator.core.errors import SettingsError

MOST: Final = 100
"""Policies that one run tries."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A field of the spec, by its keys, and the values to try."""

    keys: tuple[str, ...]
    values: tuple[Any, ...]


def trial(text: str) -> Trial:
    """From an argument; its errors are argparse's."""
    field, equals, values = text.partition("=")
    keys = tuple(field.removeprefix("spec.").split("."))
    if not equals or not all(keys) or not all(values.split(",")):
        raise argparse.ArgumentTypeError(f"{text}: must be FIELD=VALUE,VALUE, such as autoscaling.maxReplicas=4,8")
    try:
        return Trial(keys, tuple(yaml.safe_load(value) for value in values.split(",")))
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from error


def vary(raw: Mapping[str, Any], trials: Sequence[Trial]) -> dict[str, dict[str, Any]]:
    """The raw specs by the values that make them, in the order of the arguments."""
    if (number := prod(len(item.values) for item in trials)) > MOST:
        raise SettingsError(f"--try: {number} combinations; at most {MOST}")
    found = {}
    for values in product(*(item.values for item in trials)):
        spec = deepcopy(dict(raw))
        for item, value in zip(trials, values, strict=True):
            _put(spec, item.keys, value)
        found["/".join("null" if value is None else str(value) for value in values)] = spec
    return found


def _put(spec: dict[str, Any], keys: tuple[str, ...], value: Any) -> None:  # noqa: ANN401  as YAML has it
    node = spec
    for key in keys[:-1]:
        node = node.setdefault(key, {})
        if not isinstance(node, dict):
            raise SettingsError(f"--try {'.'.join(keys)}: {key} has no fields")
    node.pop(keys[-1], None)
    if value is not None:
        node[keys[-1]] = value
