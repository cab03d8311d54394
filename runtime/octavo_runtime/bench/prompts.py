"""What requests say: made up by seed, or read from a JSONL file. Pure.

Made-up prompts are common English words, most of which are one token each in the vocabularies that know English. So
they go to any server, by both endpoints. Where the tokenizer is known they have the length asked for exactly, else
nearly; what the server counted is in the result either way.
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from octavo_runtime.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_WORDS: Final = """
    the of and to in is you that it he was for on are as with his they at be this have from or one had by word but
    not what all were we when your can said there use an each which she do how their if will up other about out many
    then them these so some her would make like him into time has look two more write go see number no way could
    people my than first water been call who oil its now find long down day did get come made may part over new
    sound take only little work know place year live me back give most very after thing our just name good sentence
    man think say great where help through much before line right too mean old any same tell boy follow came want
    show also around form three small set put end does another well large must big even such because turn here why
    ask went men read need land different home us move try kind hand picture again change off play spell air away
    animal house point
""".split()  # noqa: SIM905  a list of 200 quoted words cannot be read


class Encoder(Protocol):
    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request. Exactly one of `text`, `token_ids` and `messages`."""

    max_tokens: int
    text: str | None = None
    token_ids: tuple[int, ...] | None = None
    messages: tuple[dict[str, Any], ...] | None = None


@dataclass(frozen=True, slots=True)
class Synthetic:
    """Lengths in tokens; a prompt is the shared prefix, the same for all, and then `input_len` of its own."""

    input_len: int
    output_len: int
    shared_prefix_len: int = 0


def make_prompts(shape: Synthetic, count: int, seed: int, encoder: Encoder | None = None) -> list[Prompt]:
    """`count` different prompts. Without `encoder`, a word counts as a token."""
    generator = random.Random(f"prompts {seed}")
    prefix = generator.choices(_WORDS, k=shape.shared_prefix_len)
    length = shape.shared_prefix_len + shape.input_len
    texts = [" ".join(prefix + generator.choices(_WORDS, k=shape.input_len)) for _ in range(count)]
    return [Prompt(shape.output_len, text=_cut(text, length, encoder) if encoder else text) for text in texts]


def _cut(text: str, length: int, encoder: Encoder) -> str:
    """`text` without as many of its last characters as it takes to have `length` tokens, or the next fewer."""
    low, high = 1, len(text)
    while low < high:  # the longest beginning that fits
        middle = (low + high + 1) // 2
        if len(encoder.encode(text[:middle])) <= length:
            low = middle
        else:
            high = middle - 1
    return text[:low]


def parse_prompts(lines: Iterable[str], default_max_tokens: int) -> list[Prompt]:
    """A JSON object per line: "prompt" (a text or token ids) or "messages", and "max_tokens" if the answer's length is
    its own. Other fields are ignored. Raises `InvalidArgument` with the line's number.
    """
    prompts = [
        _parse(line, f"line {number}", default_max_tokens) for number, line in enumerate(lines, 1) if line.strip()
    ]
    if not prompts:
        raise InvalidArgument("the file of prompts has none")
    return prompts


def _parse(line: str, where: str, default_max_tokens: int) -> Prompt:
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise InvalidArgument(f"{where} of the prompts is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise InvalidArgument(f"{where} of the prompts is not a JSON object")
    max_tokens = fields.get("max_tokens", default_max_tokens)
    if type(max_tokens) is not int or max_tokens < 1:
        raise InvalidArgument(f"{where} of the prompts: max_tokens is {max_tokens!r}, not a positive number")
    match fields:
        case {"messages": [*messages]} if messages and all(isinstance(message, dict) for message in messages):
            return Prompt(max_tokens, messages=tuple(messages))
        case {"prompt": str(text)} if text:
            return Prompt(max_tokens, text=text)
        case {"prompt": [*ids]} if ids and all(type(token) is int for token in ids):
            return Prompt(max_tokens, token_ids=tuple(ids))
    raise InvalidArgument(f'{where} of the prompts has neither a "prompt" (text or token ids) nor "messages"')


def repeat(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """`count` prompts: the first ones, or all of them again and again."""
    return [prompts[index % len(prompts)] for index in range(count)]


def digest(prompts: Sequence[Prompt]) -> str:
    """Names the prompts: two runs with the same digest asked for the same."""
    content = [[prompt.text, prompt.token_ids, prompt.messages, prompt.max_tokens] for prompt in prompts]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
