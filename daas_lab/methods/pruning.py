"""Candidates that leave a search for good: their α is put so low that softmax and σ give exactly 0, and no gradient.

So α alone says who has left: a checkpoint needs no mask beside it (the way of GOLD-NAS's code, arXiv 2007.03331).

Legend: E edges of a cell, O candidate operations.
"""

import torch
from torch import Tensor

from daas_lab.space.cell_space import Space
from daas_lab.space.genotype import CellGenotype

GONE = -1e4


def alive(alphas: Tensor) -> Tensor:
    """Which of α [E, O] are still searched. An optimizer moves one that has left by a learning rate a step at most."""
    return alphas > GONE / 2


@torch.no_grad()
def prune(alphas: Tensor, leaving: Tensor, space: Space | None = None) -> int:
    """Candidates where `leaving` [E, O] leave, in place; returns how many that were still there did.

    With `space`, the strongest operation of every edge that a cell can have stays, whatever `leaving` says: a softmax
    over an edge that nobody is left on would give all of them back.
    """
    leaving = leaving & alive(alphas)
    if space is not None:
        allowed = torch.full_like(alphas, -torch.inf)
        allowed[:, space.choices] = 0
        leaving = leaving.scatter(1, (alphas + allowed).argmax(dim=1, keepdim=True), False)
    alphas[leaving] = GONE
    return int(leaving.sum())


def one_hot(cell: CellGenotype, space: Space, like: Tensor) -> Tensor:
    """The weights of a discrete cell [E, O]: 1 for its operations, 0 for all else; type and device are those of
    `like`."""
    weights = torch.zeros(len(space.edges), len(space.operations), dtype=like.dtype)
    for source, node, operation in cell.edges:
        weights[space.edges.index((source, node)), space.operations.index(operation)] = 1
    return weights.to(like.device)
