"""The projection onto weights between 0 and 1 that sum to an exact number (Amos et al., arXiv 1906.08707).

Of n scores y and a real number k: b = σ(x) with x = y + τ, and τ such that Σ b = k. By the implicit function theorem
dτ/dy_e = −s_e / Σ s with s = b (1 − b) = σ(x) σ(−x).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

CEILING = 60.0  # σ(60) is 1 in float64, and σ(−60) = 9e-27 is nothing beside any k
BISECTIONS = 56  # of an interval of 2 · 60: τ to 2e-15


def project(scores: Sequence[Tensor], keep: Sequence[float]) -> list[Tensor]:
    """Rows of scores [n], each with its own n, and their k > 0 → logits x [n] in float64, σ(x) sums to min(k, n).

    Where k ≥ n all weights are 1, whatever the scores. The number of operations does not depend on the values, and
    none of them is read by the host.
    """
    logits = [torch.full_like(row, CEILING, dtype=torch.float64) for row in scores]
    free = [r for r, (row, k) in enumerate(zip(scores, keep, strict=True)) if k < len(row)]
    if not free:
        return logits
    # Shifted so that the ⌈k⌉-th largest score is 0: then τ lies within the ceiling for scores of any size, and the
    # edge at 0 has s ≥ σ(60) σ(−60), so that Σ s is never 0.
    shifted = [_shift(scores[r].double(), math.ceil(keep[r])) for r in free]
    longest = max(map(len, shifted))
    # A score of −∞ has the weight 0 and the gradient 0.
    padded = torch.stack([F.pad(row, (0, longest - len(row)), value=-math.inf) for row in shifted])
    offsets = ExactSum.apply(padded, torch.cat([padded.new_full((1,), keep[r]) for r in free]))
    for r, row, offset in zip(free, shifted, offsets, strict=True):
        logits[r] = row + offset
    return logits


def between_logits(x: Tensor, y: Tensor, share: float) -> Tensor:
    """The logits of (1 − share) σ(x) + share σ(y), for 0 ≤ share ≤ 1, whatever has saturated."""
    # Filled in on the device of x: a tensor of numbers is copied there, and the host waits.
    weights = torch.stack([x.new_full((1,), part) for part in (1 - share, share)]).log()
    both = torch.stack([x, y])
    on, off = ((F.logsigmoid(sign * both) + weights).logsumexp(dim=0) for sign in (1, -1))
    return on - off


def _shift(scores: Tensor, rank: int) -> Tensor:
    return scores - scores.detach().topk(rank).values[-1]


class ExactSum(Function):
    """Scores [R, n] with the ⌈k⌉-th largest of each row at 0, k [R] → τ [R]."""

    @staticmethod
    def forward(ctx, scores, keep):
        low = torch.full_like(keep, -CEILING)
        width = 2 * CEILING
        for _ in range(BISECTIONS):
            width /= 2
            middle = low + width
            low = torch.where((scores + middle[:, None]).sigmoid().sum(dim=1) < keep, middle, low)
        ctx.save_for_backward(scores, low)
        return low

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        scores, offsets = ctx.saved_tensors
        x = scores + offsets[:, None]
        s = x.sigmoid() * (-x).sigmoid()
        return -g[:, None] * s / s.sum(dim=1, keepdim=True), None
