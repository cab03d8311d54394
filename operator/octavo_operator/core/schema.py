"""What the models of the API share: camelCase names, frozen values, and helpers that put Kubernetes' words into a
schema.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    WithJsonSchema,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from octavo_operator.core.units import parse_duration, parse_quantity

SUBDOMAIN: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
"""A DNS-1123 subdomain: the name of most objects."""

type_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)


Check = tuple[Callable[[Any], bool], str]
"""What must hold for a value, and what to write instead."""


class SpecModel(BaseModel):
    """Part of a spec: strict, because a field that is silently ignored is worse than an error."""

    model_config = ConfigDict(**type_config, extra="forbid")

    checks: ClassVar[tuple[Check, ...]] = ()
    """The CEL rules once more, for objects that no API server has seen: older than the CRD, or in a file."""

    @model_validator(mode="after")
    def _meets_its_checks(self) -> Self:
        for holds, message in self.checks:
            if not holds(self):
                raise ValueError(message)
        return self


class StatusModel(BaseModel):
    """Part of a status: lenient, because it may have been written by another version of the operator."""

    model_config = ConfigDict(**type_config, extra="ignore")


def rule(expression: str, message: str, **more: str) -> dict[str, str]:
    """One CEL rule; the message says what to write instead, since the API server already names the field."""
    return {"rule": " ".join(expression.split()), "message": message, **more}


def rules(*items: dict[str, str]) -> dict[str, Any]:
    """CEL rules for `json_schema_extra` of a field or a model."""
    return {"x-kubernetes-validations": list(items)}


def meets(*checks: Check) -> AfterValidator:
    """The CEL rules of a field once more, as `SpecModel.checks` has those of an object."""

    def check(value: Any) -> Any:  # noqa: ANN401  the field's own type
        for holds, message in checks:
            if not holds(value):
                raise ValueError(message)
        return value

    return AfterValidator(check)


def _seconds(value: object) -> int:
    if isinstance(value, int):
        return value
    if isinstance(value, str):
        return parse_duration(value)
    raise ValueError(f"{value!r} is no duration")


def _quantity(value: object) -> str:
    if not isinstance(value, str | int):
        raise ValueError(f"{value!r} is no quantity")  # noqa: TRY004  pydantic reports only a ValueError
    if parse_quantity(value) <= 0:
        raise ValueError(f"{value!r} is not positive")
    return str(value)


Seconds = Annotated[int, BeforeValidator(_seconds)]
"""Parsed to whole seconds; written as a duration such as 90s, 5m or 1h30m."""

_DURATION_PATTERN = "^([0-9]{1,5}h)?([0-9]{1,5}m)?([0-9]{1,5}s)?$"


@dataclass(frozen=True, slots=True, eq=False)  # by identity: a union of annotations wants to hash them
class Bounded:
    """A parsed number between two others, both included, and the schema of how it is written."""

    low: int
    high: int
    message: str
    schema: JsonSchemaValue

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The bounds behind the parser."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, _: CoreSchema, __: object) -> JsonSchemaValue:
        """The written form."""
        return dict(self.schema)

    def _check(self, value: int) -> int:
        if not self.low <= value <= self.high:
            raise ValueError(self.message)
        return value


def duration(low: str, high: str) -> Bounded:
    """A duration between `low` and `high`, both included."""
    shape = f"self.matches('{_DURATION_PATTERN}') && self != ''"
    return Bounded(
        parse_duration(low),
        parse_duration(high),
        f"must be between {low} and {high}",
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
        },
    )


_LATENCY: Final = re.compile(r"([0-9]{1,7})(ms|s)")


def _milliseconds(value: object) -> int:
    if isinstance(value, int):
        return value
    match = _LATENCY.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is no latency such as 500ms or 2s")
    return int(match.group(1)) * (1 if match.group(2) == "ms" else 1000)


Milliseconds = Annotated[int, BeforeValidator(_milliseconds)]
"""Parsed to whole milliseconds; written as a latency such as 500ms or 2s."""


def latency(low: str, high: str) -> Bounded:
    """A latency between `low` and `high`, both included."""
    shape = f"self.matches('^{_LATENCY.pattern}$')"
    return Bounded(
        _milliseconds(low),
        _milliseconds(high),
        f"must be between {low} and {high}",
        {
            "type": "string",
            "maxLength": 9,
            **rules(
                rule(shape, "write whole milliseconds or seconds, such as 500ms or 2s"),
                rule(
                    f"!({shape}) || (duration(self) >= duration('{low}') && duration(self) <= duration('{high}'))",
                    f"must be between {low} and {high}",
                ),
            ),
        },
    )


def written(pattern: str, message: str) -> Any:  # noqa: ANN401  two annotations' worth, for Annotated[str, *…]
    """A string of that shape. A pattern alone would be answered with the pattern, which says nobody what to write."""
    expression = re.compile(pattern)
    cel = pattern.replace("\\", "\\\\")
    return (
        meets((lambda text: expression.fullmatch(text) is not None, message)),
        Field(json_schema_extra=rules(rule(f"self.matches('{cel}')", message))),
    )


_AMOUNT: Final = "^[0-9.]+([eE][-+]?[0-9]{1,2}|[a-zA-Z]{0,2})$"


def is_amount(field: str) -> str:
    """The CEL expression for "this is a quantity". Its shape is looked at first: Kubernetes computes 1e999999999, for
    minutes.
    """
    return f"(string({field}).matches('{_AMOUNT}') && isQuantity(string({field})))"


def _quantity_schema(example: str) -> WithJsonSchema:
    return WithJsonSchema(
        {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": True,
            "maxLength": 32,
            **rules(
                rule(
                    f"{is_amount('self')} && quantity(string(self)).isGreaterThan(quantity('0'))",
                    f"must be a positive quantity such as {example}",
                )
            ),
        }
    )


Cpu = Annotated[str, BeforeValidator(_quantity), _quantity_schema("500m or 2")]
Price = Annotated[str, BeforeValidator(_quantity), _quantity_schema("'2.5'")]
Memory = Annotated[str, BeforeValidator(_quantity), _quantity_schema("256Mi or 4Gi")]
