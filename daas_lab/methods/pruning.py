"""Candidates that leave a search for good: their α is put so low that softmax and σ give exactly 0, and no gradient.

So α alone says who has left: a checkpoint needs no mask beside it (the way of GOLD-NAS's code, arXiv 2007.03331).

Legend: E edges of a cell, O candidate operations.
"""

import torch
from torch import Tensor

from daas_lab.methods.masks import split_nodes
from daas_lab.space.cell_space import Space

GONE = -1e4  # what α becomes when its candidate leaves the search


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


# --- over all that enters a node, as GOLD-NAS has it ------------------------------------------------------------------


def node_sums(values: Tensor) -> Tensor:
    """[E, O] → [E, 1]: for each edge the sum over all operations of all edges that enter its node."""
    parts = split_nodes(values)
    return torch.cat([part.sum().expand(len(part), 1) for part in parts])


def node_shares(alphas: Tensor) -> Tensor:
    """p = σ(α) / Σ σ(α) over all that enters the node, [E, O]."""
    weights = alphas.sigmoid()
    return weights / node_sums(weights).clamp(min=torch.finfo(weights.dtype).tiny)


def node_penalty(alphas: Tensor, least: float) -> Tensor:
    """Σ [p > least] · log(1 + n p), n being how many candidates of the node have p > least: smallest where one has
    all."""
    p = node_shares(alphas)
    counted = (p > least).to(p)
    return (counted * (node_sums(counted) * p).log1p()).sum()


@torch.no_grad()
def prune_smallest(alphas: Tensor, free: Tensor, low: float, high: float) -> int:
    """A round of pruning α [cell types, E, O]: every p ≤ `low` leaves, and the smallest of all other p if it is
    ≤ `high`; only where `free`, which is kept up to date. Returns how many left."""
    p = torch.stack([node_shares(part) for part in alphas]).masked_fill(~free, torch.inf)
    leaving = p <= low
    others = p.masked_fill(leaving, torch.inf).flatten()
    smallest = others.argmin()
    leaving.view(-1)[smallest] |= others[smallest] <= high
    free &= ~leaving
    return prune(alphas, leaving)
