"""Logits to token ids. Every row is its own: no draw depends on the batch, on earlier draws or on a generator's state.

Random rows use the Gumbel trick: argmax(logit / temperature + g) draws from the softmax when each token has its own
Gumbel noise g. The noise is a hash of (seed, position, token id), so a request that is preempted, moved or batched
otherwise draws the same token again. A kernel backend can do all of it in two launches; the noise is the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import torch

from octavo_kernels.noise import gumbel
from octavo_runtime.runner.counter import noise_key
from octavo_runtime.runner.drawing import changes_of, draws_of
from octavo_runtime.runner.logprobs import describe
from octavo_runtime.runner.shaping import allow, shape
from octavo_runtime.runner.transfer import on_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from octavo_kernels.interface import KernelBackend
    from octavo_runtime.core.batch import SamplingRow, TokenLogprobs

_CANDIDATES: Final = 1024  # most probable tokens that top-p looks at before it resorts to sorting the vocabulary


class Choice(NamedTuple):
    """What was chosen from R rows of logits, on their device."""

    tokens: Tensor  # [R] int64
    best: Tensor  # [R] fp32, the largest logit; see `check`
    certain: Tensor | None = None  # bool; False: another token may have been the right one. None: all are


@torch.inference_mode()  # logits come from a pass in this mode, and nothing else may change them in place
def choose(
    logits: Tensor, rows: Sequence[SamplingRow], kernels: KernelBackend | None = None
) -> tuple[list[int], list[TokenLogprobs | None] | None]:
    """`sample`, and log probabilities under the raw logits for the rows that ask; None when none does."""
    asking = [(index, row.shaping.params.logprobs) for index, row in enumerate(rows) if row.shaping is not None]
    wanted = {index: top for index, top in asking if top is not None}
    if not wanted:
        return sample(logits, rows, kernels), None
    raw = logits[list(wanted)]  # a copy, which sampling leaves alone
    tokens = sample(logits, rows, kernels)
    described = describe(raw, [tokens[index] for index in wanted], list(wanted.values()))
    found = dict(zip(wanted, described, strict=True))
    return tokens, [found.get(index) for index in range(len(rows))]


@torch.inference_mode()
def sample(logits: Tensor, rows: Sequence[SamplingRow], kernels: KernelBackend | None = None) -> list[int]:
    """Choose one token for each of `rows` from logits `[len(rows), vocab_size]` fp32, which may be overwritten.
    `kernels` do it, or with None torch does.

    Raises `FloatingPointError` naming the rows whose logits are not numbers or in which no token may be chosen, since a
    choice would be noise.
    """
    choice = pick(logits, rows, kernels=kernels)
    check(choice.best.tolist())
    chosen: list[int] = choice.tokens.tolist()
    return chosen


@torch.inference_mode()
def pick(
    logits: Tensor, rows: Sequence[SamplingRow], *, surely: bool = True, kernels: KernelBackend | None = None
) -> Choice:
    """What `sample` does, to be `check`ed. With `surely` False, without waiting for the device: then top-p may keep too
    little, which the choice tells. With `kernels` nothing waits and nothing is in doubt.
    """
    if kernels is not None:
        return _pick_with(kernels, logits, rows)
    shape(logits, rows)
    best, tokens = logits.max(dim=-1)
    drawn = [index for index, row in enumerate(rows) if row.temperature > 0]
    if not drawn:
        return Choice(tokens, best)
    index = on_device(drawn, logits.device)
    drawn_rows = [rows[row] for row in drawn]
    scaled = _scale(logits[index] - best[index, None], drawn_rows)
    certain = _filter(scaled, drawn_rows, surely=surely)
    tokens[index] = (scaled + _gumbel(scaled.shape[1], drawn_rows, scaled.device)).argmax(dim=-1)
    return Choice(tokens, best, certain)


def _pick_with(kernels: KernelBackend, logits: Tensor, rows: Sequence[SamplingRow]) -> Choice:
    allow(logits, rows)
    changes = changes_of(rows, logits.shape[1], logits.device)
    if changes is not None:
        kernels.adjust(logits, changes)
    return Choice(*kernels.draw(logits, draws_of(rows, logits.device)))


def check(best: Sequence[float]) -> None:
    """Raises `FloatingPointError` naming the rows that offered nothing to choose from, by their largest logits."""
    broken = [row for row, value in enumerate(best) if value != value]  # noqa: PLR0124  NaN alone differs from itself
    if broken:
        raise FloatingPointError(f"the logits of rows {broken} are not numbers")
    empty = [row for row, value in enumerate(best) if value == -torch.inf]
    if empty:
        raise FloatingPointError(f"no token may be chosen in rows {empty}")


def _scale(logits: Tensor, rows: Sequence[SamplingRow]) -> Tensor:
    """By the temperatures. The rows' maxima are 0, so that no temperature however small makes them overflow."""
    return logits / on_device([row.temperature for row in rows], logits.device)[:, None]


def _filter(scaled: Tensor, rows: Sequence[SamplingRow], *, surely: bool) -> Tensor | None:
    """Make what min-p, top-k and top-p drop minus infinity. Returns where that is certain, None for everywhere."""
    _drop_improbable(scaled, rows)
    filtered = [index for index, row in enumerate(rows) if row.top_p < 1 or row.top_k > 0]
    if not filtered:
        return None
    index = on_device(filtered, scaled.device)
    kept = scaled[index]
    least, certain = _least_logits(kept, [rows[row] for row in filtered], surely=surely)
    scaled[index] = kept.masked_fill(kept < least, -torch.inf)
    return certain


def _drop_improbable(scaled: Tensor, rows: Sequence[SamplingRow]) -> None:
    """Min-p: what is less probable than that share of the most probable token, whose scaled logit is 0, goes."""
    shares = [row.shaping.params.min_p if row.shaping is not None else 0.0 for row in rows]
    if any(shares):
        least = on_device(shares, scaled.device).log()[:, None]
        scaled.masked_fill_(scaled < least, -torch.inf)


def _least_logits(scaled: Tensor, rows: Sequence[SamplingRow], *, surely: bool) -> tuple[Tensor, Tensor | None]:
    """The smallest logit that top-k and then top-p let through, `[R, 1]`, and where that is certain; None: everywhere.

    Ties with it stay in.
    """
    vocab_size = scaled.shape[1]
    kept = [row.top_k if 0 < row.top_k < vocab_size else vocab_size for row in rows]
    top_k = on_device(kept, scaled.device)
    top_p = on_device([row.top_p for row in rows], scaled.device)
    count = min(_CANDIDATES, vocab_size)
    least, found = _least_among(scaled, count, top_k, top_p)
    if max(kept) <= count:
        return least, None
    if not surely:
        return least, found
    if not bool(found.all()):
        exact, _ = _least_among(scaled[~found], vocab_size, top_k[~found], top_p[~found])
        least[~found] = exact
    return least, None


def _least_among(scaled: Tensor, count: int, top_k: Tensor, top_p: Tensor) -> tuple[Tensor, Tensor]:
    """Look at each row's `count` largest logits. Returns the least one let through `[R, 1]`, and where that is final.

    A token stays while the probability of those above it is below `top_p`, over what top-k left: the smallest set that
    reaches `top_p` (Holtzman et al., 2019).
    """
    largest = scaled.topk(count, dim=-1).values
    ranks = torch.arange(count, device=scaled.device)
    largest = largest.masked_fill(ranks >= top_k[:, None], -torch.inf)
    whole = torch.where(top_k <= count, largest.logsumexp(-1), scaled.logsumexp(-1))
    probabilities = (largest - whole[:, None]).exp()
    above = probabilities.cumsum(-1) - probabilities
    stays = (above < top_p[:, None]) & (largest > -torch.inf)
    stays[:, 0] = True
    last = stays.sum(-1, keepdim=True) - 1
    return largest.gather(-1, last), (last[:, 0] < count - 1) | (top_k <= count)


def _gumbel(vocab_size: int, rows: Sequence[SamplingRow], device: torch.device) -> Tensor:
    """Gumbel noise of each row's (seed, position) and each token id, `[R, vocab_size]`."""
    return gumbel(on_device([noise_key(row.seed, row.position) for row in rows], device), vocab_size)
