"""A ModelServer as the operator works with it: its raw object, parsed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from octavo_operator.core.errors import SpecError
from octavo_operator.core.manifest import Owner
from octavo_operator.core.spec import ModelServerSpec, parse_spec
from octavo_operator.core.status_model import ModelServerStatus

Raw = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Server:
    """A ModelServer after admission, parsed once per generation. `spec` is None where `error` says why."""

    owner: Owner
    generation: int
    spec: ModelServerSpec | None
    error: SpecError | None


def parse_server(raw: Raw) -> Server:
    """The ModelServer in a raw object."""
    metadata = raw["metadata"]
    owner = Owner(metadata["namespace"], metadata["name"], metadata["uid"])
    try:
        spec, error = parse_spec(raw.get("spec", {})), None
    except SpecError as caught:
        spec, error = None, caught
    return Server(owner, metadata["generation"], spec, error)


def parse_status(raw: Raw) -> ModelServerStatus:
    """The status that the operator wrote last; an empty one where it was never written or does not parse."""
    try:
        return ModelServerStatus.model_validate(raw.get("status", {}))
    except ValueError:
        return ModelServerStatus()
