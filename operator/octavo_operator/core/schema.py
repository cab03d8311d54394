"""What the models of the API share: camelCase names, frozen values, and helpers that put Kubernetes' words into a
schema.
"""

from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema
from pydantic.alias_generators import to_camel

from octavo_operator.core.units import parse_duration, parse_quantity

SUBDOMAIN: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
"""A DNS-1123 subdomain: the name of most objects."""

type_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)


class SpecModel(BaseModel):
    """Part of a spec: strict, because a field that is silently ignored is worse than an error."""

    model_config = ConfigDict(**type_config, extra="forbid")


class StatusModel(BaseModel):
    """Part of a status: lenient, because it may have been written by another version of the operator."""

    model_config = ConfigDict(**type_config, extra="ignore")


def rule(expression: str, message: str, **more: str) -> dict[str, str]:
    """One CEL rule; the message says what to write instead, since the API server already names the field."""
    return {"rule": " ".join(expression.split()), "message": message, **more}


def rules(*items: dict[str, str]) -> dict[str, Any]:
    """CEL rules for `json_schema_extra` of a field or a model."""
    return {"x-kubernetes-validations": list(items)}


def _seconds(value: object) -> int:
    if isinstance(value, int):
        return value
    if isinstance(value, str):
        return parse_duration(value)
    raise ValueError(f"{value!r} is no duration")


def _quantity(value: object) -> str:
    if not isinstance(value, str | int):
        raise ValueError(f"{value!r} is no quantity")  # noqa: TRY004  pydantic reports only a ValueError
    parse_quantity(value)
    return str(value)


Seconds = Annotated[int, BeforeValidator(_seconds)]
"""Parsed to whole seconds; written as a duration such as 90s, 5m or 1h30m."""

_DURATION_PATTERN = "^([0-9]{1,5}h)?([0-9]{1,5}m)?([0-9]{1,5}s)?$"


def duration(low: str, high: str) -> WithJsonSchema:
    """Schema of a duration between `low` and `high`, both included."""
    shape = f"self.matches('{_DURATION_PATTERN}') && self != ''"
    return WithJsonSchema(
        {
            "type": "string",
            "maxLength": 18,
            **rules(
                rule(shape, "write whole hours, minutes and seconds, such as 90s, 5m or 1h30m"),
                rule(
                    f"!({shape}) || (duration(self) >= duration('{low}') && duration(self) <= duration('{high}'))",
                    f"must be between {low} and {high}",
                ),
            ),
        }
    )


def _quantity_schema(example: str) -> WithJsonSchema:
    return WithJsonSchema(
        {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": True,
            "maxLength": 32,
            **rules(
                rule(
                    "isQuantity(string(self)) && quantity(string(self)).isGreaterThan(quantity('0'))",
                    f"must be a positive quantity such as {example}",
                )
            ),
        }
    )


Cpu = Annotated[str, BeforeValidator(_quantity), _quantity_schema("500m or 2")]
Memory = Annotated[str, BeforeValidator(_quantity), _quantity_schema("256Mi or 4Gi")]
