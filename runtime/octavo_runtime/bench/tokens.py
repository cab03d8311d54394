"""Prompts as token ids, as the server makes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavo_runtime.errors import InvalidArgument
from octavo_runtime.text.chat import render

if TYPE_CHECKING:
    from collections.abc import Sequence

    from octavo_runtime.bench.prompts import Prompt
    from octavo_runtime.text.tokenizer import Tokenizer


def encode_prompts(prompts: Sequence[Prompt], tokenizer: Tokenizer, max_model_len: int) -> list[list[int]]:
    """Token ids of each prompt. Raises `InvalidArgument` when one does not fit with its answer."""
    return [_encode(number, prompt, tokenizer, max_model_len) for number, prompt in enumerate(prompts, 1)]


def _encode(number: int, prompt: Prompt, tokenizer: Tokenizer, max_model_len: int) -> list[int]:
    ids = _ids(prompt, tokenizer)
    if not ids or len(ids) + prompt.max_tokens > max_model_len:
        raise InvalidArgument(
            f"prompt {number} has {len(ids)} tokens and asks for {prompt.max_tokens}; the model takes {max_model_len}"
        )
    return ids


def _ids(prompt: Prompt, tokenizer: Tokenizer) -> list[int]:
    if prompt.token_ids is not None:
        return list(prompt.token_ids)
    if prompt.messages is None:
        return tokenizer.encode(prompt.text or "")
    if tokenizer.chat_template is None:
        raise InvalidArgument("the prompts have messages; the model has no chat template")
    text = render(list(prompt.messages), tokenizer.chat_template, special_tokens=tokenizer.special_tokens)
    return tokenizer.encode(text, add_special_tokens=False)  # the template has written them
