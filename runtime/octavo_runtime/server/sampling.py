"""A request's wishes as `SamplingParams`: defaults filled in, token ids checked, lengths made to fit."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from octavo_runtime.core.batch import SamplingParams
from octavo_runtime.errors import ContextLengthExceeded, RequestError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from octavo_runtime.engine.messages import Started
    from octavo_runtime.server.openai import GenerationRequest
    from octavo_runtime.text.tokenizer import Tokenizer

_COLDEST: Final = 1e-4
_SEEDS: Final = 1 << 63


def sampling_params(request: GenerationRequest, tokenizer: Tokenizer, limits: Started) -> SamplingParams:
    """How to sample, whatever the prompt: `after_prompt` sets `max_tokens` and the seed. Raises `RequestError`."""
    check_vocabulary("stop_token_ids", request.stop_token_ids or (), limits.vocab_size)
    check_vocabulary("logit_bias", (token for token, _ in request.logit_bias), limits.vocab_size)
    check_vocabulary("allowed_token_ids", request.allowed_token_ids or (), limits.vocab_size)
    params = SamplingParams(
        max_tokens=limits.max_model_len,
        temperature=_temperature(request.temperature),
        top_p=_default(request.top_p, 1.0),
        top_k=min(max(request.top_k or 0, 0), limits.vocab_size),
        stop_token_ids=_stop_token_ids(request, tokenizer),
        min_tokens=request.min_tokens or 0,
        min_p=_default(request.min_p, 0.0),
        repetition_penalty=_default(request.repetition_penalty, 1.0),
        presence_penalty=_default(request.presence_penalty, 0.0),
        frequency_penalty=_default(request.frequency_penalty, 0.0),
        logit_bias=request.logit_bias,
        bad_words=bad_word_tokens(request.bad_words or [], tokenizer),
        logprobs=request.top_logprobs_wanted,
        prompt_logprobs=request.prompt_logprobs_wanted,
        allowed_token_ids=None if request.allowed_token_ids is None else tuple(request.allowed_token_ids),
    )
    _check_that_some_token_is_left(params)
    return params


def after_prompt(
    params: SamplingParams, request: GenerationRequest, limits: Started, num_prompt_tokens: int, prompt_param: str
) -> SamplingParams:
    """`params` for the first choice after a prompt of so many tokens. Raises `RequestError`."""
    max_tokens = fit(request, num_prompt_tokens, limits.max_model_len, prompt_param)
    if params.min_tokens > max_tokens:
        message = f"min_tokens: {params.min_tokens} is more than the {max_tokens} tokens that may be generated"
        raise RequestError(message, param="min_tokens")
    return replace(
        params,
        max_tokens=max(max_tokens, 1),  # of an echo alone, one that nobody sees
        seed=secrets.randbits(63) if request.seed is None else request.seed % _SEEDS,
    )


def choice_seed(seed: int, number: int) -> int:
    """Choice `number` of a request with `seed`; the first has the seed itself."""
    return (seed + number) % _SEEDS


def fit(request: GenerationRequest, num_prompt: int, max_model_len: int, prompt_param: str) -> int:
    """The number of tokens to generate at most. Raises when prompt and answer cannot both fit."""
    if num_prompt == 0:
        raise RequestError(f"{prompt_param}: has no tokens", param=prompt_param)
    room = max_model_len - num_prompt
    if room < 1:
        message = f"{prompt_param}: {num_prompt} tokens; this server takes {max_model_len}, prompt and answer together"
        raise ContextLengthExceeded(message, param=prompt_param)
    param, max_tokens = request.length_limit
    if max_tokens is None:
        return room
    if max_tokens > room:
        message = (
            f"{param}: {max_tokens} and a prompt of {num_prompt} tokens are more than the {max_model_len} tokens "
            "that this server takes"
        )
        raise ContextLengthExceeded(message, param=param)
    return max_tokens


def truncate(request: GenerationRequest, tokens: list[int], max_model_len: int) -> list[int]:
    """The end of a prompt: as many tokens as asked for, or with -1 as many as leave room for the answer."""
    wanted = request.truncate_prompt_tokens
    if wanted is None:
        return tokens
    if wanted == 0:
        message = "truncate_prompt_tokens: must be -1 or at least 1, not 0"
        raise RequestError(message, param="truncate_prompt_tokens")
    if wanted == -1:
        wanted = max(max_model_len - max(request.length_limit[1] or 1, 1), 1)
    return tokens[-wanted:]


def bad_word_tokens(words: list[str], tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    """The token sequences of each word, at the start of a text and after a space."""
    sequences: dict[tuple[int, ...], None] = {}
    for index, word in enumerate(words):
        bare = word.lstrip()
        for text in (bare, " " + bare) if bare else (word,):
            tokens = tokenizer.encode(text, add_special_tokens=False)
            if not tokens:
                param = f"bad_words[{index}]"
                raise RequestError(f"{param}: {word[:40]!r} has no tokens", param=param)
            sequences[tuple(tokens)] = None
    return tuple(sequences)


def check_vocabulary(param: str, token_ids: Iterable[int], vocab_size: int) -> None:
    wrong = next((token for token in token_ids if not 0 <= token < vocab_size), None)
    if wrong is not None:
        raise RequestError(f"{param}: token id {wrong} is not in [0, {vocab_size})", param=param)


def _stop_token_ids(request: GenerationRequest, tokenizer: Tokenizer) -> frozenset[int]:
    own = frozenset(request.stop_token_ids or ())
    return own if request.ignore_eos else own | tokenizer.eos_token_ids


def _check_that_some_token_is_left(params: SamplingParams) -> None:
    if params.allowed_token_ids is None:
        return
    never = {word[0] for word in params.bad_words if len(word) == 1}
    if params.min_tokens > 0:
        never |= params.stop_token_ids
    if not set(params.allowed_token_ids) - never:
        message = "allowed_token_ids: bad_words and min_tokens forbid all of them"
        raise RequestError(message, param="allowed_token_ids")


def _temperature(asked: float | None) -> float:
    """Below `_COLDEST` dividing by it overflows, and the most likely token has all of the probability anyway."""
    if asked is None:
        return 1.0
    return asked if asked >= _COLDEST else 0.0


def _default(asked: float | None, default: float) -> float:
    return default if asked is None else asked
