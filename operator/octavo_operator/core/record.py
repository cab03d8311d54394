"""A decision's inputs as one line of JSON, exact, and back: what the status keeps so that it can be made again.

JSON keeps a float to the last bit. Fields that have their default are left out; unknown ones, written by a later
version, are an error: a decision made again from half of its inputs would be another decision.
"""

import json
from dataclasses import MISSING, asdict, fields
from typing import Any, Final

from octavo_operator.core.autoscale import Inputs
from octavo_operator.core.memory import Recalled
from octavo_operator.core.policy import ScalingPolicy
from octavo_operator.core.window import Signals

_PARTS: Final = {"signals": Signals, "policy": ScalingPolicy, "recalled": Recalled}


def to_record(inputs: Inputs) -> str:
    """The inputs as JSON."""
    parts = {name: _changed(getattr(inputs, name)) for name in _PARTS}
    return json.dumps(parts | {"current": inputs.current}, separators=(",", ":"))


def from_record(text: str) -> Inputs:
    """The inputs in a record. ValueError when it is none."""
    try:
        raw = json.loads(text)
        return Inputs(
            signals=Signals(**raw["signals"]),
            policy=ScalingPolicy(**raw["policy"]),
            current=int(raw["current"]),
            recalled=Recalled(**raw["recalled"]),
        )
    except (TypeError, KeyError) as error:
        raise ValueError(f"no record of a decision: {error}") from error


def _changed(part: Any) -> dict[str, Any]:  # noqa: ANN401  any of three dataclasses
    defaults = {item.name: item.default for item in fields(part)}
    values = asdict(part)
    return {name: value for name, value in values.items() if defaults[name] is MISSING or value != defaults[name]}
