"""What a model thought of tokens: log probabilities under its raw logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from octavo_runtime.core.batch import TokenLogprobs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def describe(logits: Tensor, tokens: Sequence[int], tops: Sequence[int]) -> list[TokenLogprobs]:
    """Rate `tokens[i]` under the raw logits `[R, vocab_size]` of row i, and name the `tops[i]` most probable beside it.

    A rank counts the tokens that are more probable, so equals share one. Raises `FloatingPointError` when they
    are not numbers.
    """
    chosen = torch.tensor(tokens, device=logits.device)[:, None]
    whole = logits.logsumexp(-1, keepdim=True)
    if bool(whole.isnan().any()):
        raise FloatingPointError("the logits of rows to be described are not numbers")
    own = logits.gather(-1, chosen)
    ranks = (logits > own).sum(-1) + 1
    values, ids = logits.topk(min(max(tops), logits.shape[1]), dim=-1)
    listed = zip(
        tokens, (own - whole)[:, 0].tolist(), ranks.tolist(), ids.tolist(), (values - whole).tolist(), tops, strict=True
    )
    return [
        TokenLogprobs(token, logprob, rank, list(zip(best[:top], scores[:top], strict=True)))
        for token, logprob, rank, best, scores, top in listed
    ]
