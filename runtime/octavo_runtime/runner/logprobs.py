"""What a model thought of tokens: log probabilities under its raw logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from octavo_runtime.core.batch import TokenLogprobs
from octavo_runtime.runner.transfer import on_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def describe(logits: Tensor, tokens: Sequence[int], tops: Sequence[int]) -> list[TokenLogprobs]:
    """Rate `tokens[i]` under the raw logits `[R, vocab_size]` of row i, and name the `tops[i]` most probable beside it.

    A rank counts the tokens that are more probable, so equals share one. Raises `FloatingPointError` when they
    are not numbers.
    """
    chosen = on_device(tokens, logits.device)[:, None]
    whole = logits.logsumexp(-1, keepdim=True)
    own = logits.gather(-1, chosen)
    ranks = (logits > own).sum(-1, keepdim=True) + 1
    values, ids = logits.topk(min(max(tops), logits.shape[1]), dim=-1)
    columns = (whole, own - whole, ranks, values - whole, ids)
    rows = torch.cat([column.double() for column in columns], dim=1).tolist()  # one wait for the device, not one each
    if any(row[0] != row[0] for row in rows):
        raise FloatingPointError("the logits of rows to be described are not numbers")
    return [_entry(token, row[1:], top) for token, row, top in zip(tokens, rows, tops, strict=True)]


def _entry(token: int, row: Sequence[float], top: int) -> TokenLogprobs:
    """`row`: the token's log probability, its rank, the best tokens' log probabilities and their ids."""
    logprob, rank, *listed = row
    count = len(listed) // 2
    best = list(zip(map(int, listed[count:]), listed[:count], strict=True))
    return TokenLogprobs(token, logprob, int(rank), best[:top])
