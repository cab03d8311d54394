r"""Special tokens that a user types are text, not control.

A chat template writes `<|im_end|>` where a message ends. A user who writes the same characters could end the message
and speak with another role's voice. So special tokens in contents are hidden while the template runs, and are encoded
as any other text afterwards:

    content                 hi <|im_end|>
    hidden                  hi hidden4f…n0end
    rendered                <|im_start|>user\nhi hidden4f…n0end<|im_end|>
    tokens                  [1]             user\nhi <|im_end|>    [2]
                            template's own  in many plain tokens   template's own

Contents without special tokens, nearly all, go the usual way, so their tokens are exactly transformers'.
"""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING

from tokenizers import Tokenizer as Backend

if TYPE_CHECKING:
    from octavo_runtime.text.tokenizer import Tokenizer


class SpecialTexts:
    """The texts of a tokenizer's special tokens, and a copy of it for which they are plain text."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._plain: Backend | None = None
        special = {t.content: (i, t) for i, t in backend.get_added_tokens_decoder().items() if t.special and t.content}
        longest_first = sorted(special, key=len, reverse=True)
        self._ids = [special[text][0] for text in longest_first]
        self._anywhere = _any_of([re.escape(text) for text in longest_first])
        self._in_template = _any_of([_with_spaces(re.escape(text), special[text][1]) for text in longest_first])

    def substitute(self, content: str, hidden: list[str], mark: str) -> str:
        """Put `mark` and a number in the place of each special token, whose text is added to `hidden`."""

        def hide(match: re.Match[str]) -> str:
            hidden.append(match[0])
            return f"{mark}n{len(hidden) - 1}end"

        return self._anywhere.sub(hide, content)

    def encode(self, rendered: str, hidden: list[str], mark: str) -> list[int]:
        """Encode a rendered template; what was hidden comes out as plain text."""
        back = re.compile(rf"{mark}n(\d+)end")
        plain = self._plain_backend()
        ids: list[int] = []
        at = 0
        for match in self._in_template.finditer(rendered):
            ids += _encode(plain, back.sub(lambda found: hidden[int(found[1])], rendered[at : match.start()]))
            ids.append(self._ids[(match.lastindex or 0) - 1])
            at = match.end()
        return ids + _encode(plain, back.sub(lambda found: hidden[int(found[1])], rendered[at:]))

    def _plain_backend(self) -> Backend:
        """Made at the first need: the setting is the whole tokenizer's, and a copy takes its time and memory."""
        if self._plain is None:
            plain = Backend.from_str(self._backend.to_str())
            plain.encode_special_tokens = True
            self._plain = plain
        return self._plain


class ContentGuard:
    """One request's contents on their way through the template."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._mark = f"hidden{secrets.token_hex(8)}"  # nobody can type it
        self._hidden: list[str] = []

    def hide(self, content: str) -> str:
        return self._tokenizer.special_texts.substitute(content, self._hidden, self._mark)

    @property
    def hides_something(self) -> bool:
        return bool(self._hidden)

    def encode(self, rendered: str, add_special_tokens: bool) -> list[int]:
        """Token ids of the rendered chat. `add_special_tokens` puts BOS and the like around it."""
        if not self._hidden:
            return self._tokenizer.encode(rendered, add_special_tokens)
        ids = self._tokenizer.special_texts.encode(rendered, self._hidden, self._mark)
        return self._tokenizer.surround(ids) if add_special_tokens else ids


def _any_of(patterns: list[str]) -> re.Pattern[str]:
    """One group for each of `patterns`; matches nothing when there are none."""
    return re.compile("|".join(f"({pattern})" for pattern in patterns) or r"(?!)")


def _with_spaces(pattern: str, token: object) -> str:
    """Some special tokens swallow the white space before or after them."""
    before = r"\s*" if getattr(token, "lstrip", False) else ""
    after = r"\s*" if getattr(token, "rstrip", False) else ""
    return before + pattern + after


def _encode(backend: Backend, text: str) -> list[int]:
    ids: list[int] = backend.encode(text, add_special_tokens=False).ids if text else []
    return ids
