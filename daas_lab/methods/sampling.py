"""One candidate an edge: what is drawn or rounded in the forward pass, and how a gradient passes through it.

Legend: E edges of a cell, O candidate operations.
"""

import torch
from torch import Tensor

from daas_lab.methods.method import Moment

# What has to be said beside the drops of methods that train on one path an edge.
DRAWN = (
    "GDAS, SNAS and ProxylessNAS are trained on drawn paths, and evaluated, with the statistics of these, on the "
    "likeliest: too low an accuracy before the cut to read a drop from, without that of statistics estimated again."
)


def gumbel(like: Tensor, draws: torch.Generator) -> Tensor:
    """G = −log(−log U), of the shape of `like`: argmax(α + G) is a draw from softmax(α) (Maddison et al., 1611.00712),
    and the k largest of α + G are k draws without replacement."""
    exponential = torch.empty_like(like, requires_grad=False).exponential_(generator=draws)
    return -exponential.clamp(min=torch.finfo(like.dtype).tiny).log()  # a draw of 0 would be an infinite G


def one_hot(scores: Tensor) -> Tensor:
    """[E, O] → 1 for the largest of each edge, 0 for the others."""
    return torch.zeros_like(scores).scatter(1, scores.argmax(dim=1, keepdim=True), 1.0)


def computed_of(weights: Tensor, at: Moment) -> Tensor | None:
    """Who is computed [E, O] where a step of the network's weights needs only what weighs something; α asks all of them
    for a gradient, and statistics are estimated of all."""
    return weights != 0 if at.training and at.part == "weights" else None


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """`hard` in the forward pass, to the bit, and the gradient of `soft` in the backward pass."""
    return hard + (soft - soft.detach())
