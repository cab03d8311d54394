"""Chat messages to the text that a model was trained on, by the model's own template.

A template is code from the model's author, run in Jinja's sandbox with the settings and helpers that transformers gives
(`apply_chat_template`), so that the same template gives the same text.
"""

from __future__ import annotations

import json
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import jinja2
import jinja2.ext
import jinja2.nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from octavo_runtime.errors import ModelUnsupported, RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jinja2.parser import Parser

_CONTINUE_HERE: Final = "octavo-continues-here "  # the space tells whether the template trims contents


def render(
    messages: Sequence[Mapping[str, Any]],
    template: str,
    *,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    special_tokens: Mapping[str, str] | None = None,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """Render `messages`, each `{"role": …, "content": …}` with text content, as text that ends where the answer begins.

    With `continue_final_message` that is within the last message, right after its content. `variables` are the
    template's own switches (`chat_template_kwargs`).

    Raises `RequestError` naming `messages` when the template rejects them (a wrong order of roles, for instance), and
    `ModelUnsupported` when the template itself does not parse.
    """
    compiled = compile_template(template)
    given: list[Mapping[str, Any]] = list(messages)
    if continue_final_message and given:
        given[-1] = {**given[-1], "content": given[-1]["content"] + _CONTINUE_HERE}
    known = {
        "tools": None,
        "documents": None,
        **(special_tokens or {}),
        **(variables or {}),
        "messages": given,
        "add_generation_prompt": add_generation_prompt,
    }
    try:
        text = compiled.render(known)
    except (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise RequestError(f"the model's chat template rejects these messages: {error}", param="messages") from error
    return _until_end_of_content(text) if continue_final_message else text


def _until_end_of_content(text: str) -> str:
    """Cut at the mark that was put after the last content. A template that trims contents trims before it, too."""
    at = text.rfind(_CONTINUE_HERE.strip())
    if at < 0:
        message = "continue_final_message: the model's chat template does not write the last message's content"
        raise RequestError(message, param="continue_final_message")
    return text[:at] if text[at:].startswith(_CONTINUE_HERE) else text[:at].rstrip()


@lru_cache(maxsize=8)
def compile_template(template: str) -> jinja2.Template:
    """Compile a template; called at start, it finds a broken one before the first request does."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    try:
        return environment.from_string(template)
    except jinja2.TemplateSyntaxError as error:
        raise ModelUnsupported(f"the chat template does not parse, line {error.lineno}: {error.message}") from error


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks the assistant's words for training; here the marks vanish and the words stay."""

    tags = {"generation"}  # noqa: RUF012  jinja2's own declaration

    def parse(self, parser: Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Like Jinja's filter, but without escaping for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(layout: str) -> str:
    return datetime.now().strftime(layout)  # noqa: DTZ005  templates mean the server's local date, as transformers does
