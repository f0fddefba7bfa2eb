"""Eq. (1)–(7): the losses of discretization-aware search. They take tensors, never models.

Legend: E edges of a cell, O operations, n inputs of a node. Entropies are computed from logits by log-softmax, so that
values and gradients stay finite for any finite α and β: p log p with p underflowing to 0 would be 0 · ∞.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F


def classification_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Eq. (1), with the minus sign that its print lacks: mean cross-entropy of [B, classes] against [B]."""
    return F.cross_entropy(logits, targets)


def entropy(logits: Tensor) -> Tensor:
    """−Σ p log p of p = softmax(logits) over the last dimension: [..., n] → [...]."""
    # Logits further apart than the type's range give −∞, which times p = 0 is NaN; its smallest number does as well.
    log_p = logits.log_softmax(dim=-1).clamp(min=torch.finfo(logits.dtype).min)
    return -(log_p.exp() * log_p).sum(dim=-1)


def operation_entropy(operation_logits: Tensor, keep: int = 1) -> Tensor:
    """Eq. (2) of every edge: [E, O] → [E], zero where an edge has decided for `keep` operations.

    For more than one operation an edge it is Eq. (4)'s form with a as the candidates: with p = min(keep · a, 1),
    −Σ p log p + (Σ p − keep)². At keep = 1 that is Eq. (2), for Σ a = 1. Like Eq. (4) it has lesser minima beside the
    ones at 0: an edge that is left with one operation too few stays there, at 1.
    """
    if keep == 1:
        return entropy(operation_logits)
    log_p = (operation_logits.log_softmax(dim=-1) + torch.tensor(float(keep)).log()).clamp(
        min=torch.finfo(operation_logits.dtype).min, max=0
    )
    p = log_p.exp()
    return -(p * log_p).sum(dim=-1) + (p.sum(dim=-1) - keep) ** 2


def operation_loss(operation_logits: Mapping[str, Tensor], keep: int = 1) -> Tensor:
    """Eq. (3): Eq. (2) summed over all edges; cell type → logits [E, O]."""
    return sum(operation_entropy(logits, keep).sum() for logits in operation_logits.values())  # type: ignore[return-value]


def node_edge_loss(betas: Tensor, keep: float, square_factor: float = 1.0) -> Tensor:
    """Eq. (4) of one node: its inputs' β [n] and the number of edges to keep → a scalar.

    The entropy of softmax(min(β, 1)) plus `square_factor` · (Σ of the positive min(β, 1) − keep)².
    """
    capped = betas.clamp(max=1)
    return entropy(capped) + square_factor * (capped.clamp(min=0).sum() - keep) ** 2


def edge_loss(
    betas: Mapping[str, Tensor],
    targets: Mapping[str, Mapping[int, int]],
    first_node: int = 2,
    square_factor: float = 1.0,
) -> Tensor:
    """Eq. (5): Eq. (4) summed over the nodes from `first_node` on and both cell types.

    `betas` cell type → [E]; `targets` cell type → node → edges to keep (`EdgeBudget.targets`).
    """
    total = next(iter(betas.values())).new_zeros(())
    for cell_type, values in betas.items():
        keep = targets[cell_type]
        for node, inputs in zip(keep, values.split(list(keep)), strict=True):  # node j has j inputs
            if node >= first_node:
                total = total + node_edge_loss(inputs, keep[node], square_factor)
    return total


def exact_edge_loss(edge_logits: Mapping[str, Tensor]) -> Tensor:
    """Binary entropy −Σ [b log b + (1 − b) log(1 − b)] of b = σ(x), over all edges: cell type → x [E].

    The edge loss of exact budgets: with Σ b given, it is zero only where every b is 0 or 1.
    """
    terms = ((x.sigmoid() * F.softplus(-x) + (-x).sigmoid() * F.softplus(x)).sum() for x in edge_logits.values())
    return sum(terms)  # type: ignore[return-value]


def objective(classification: Tensor, operation: Tensor, edge: Tensor) -> Tensor:
    """Eq. (6): L = L^C + L^O + L^E."""
    return classification + operation + edge


def prioritised_objective(
    classification: Tensor, operation: Tensor, edge: Tensor, lambda_c: float, lambda_1: float, lambda_2: float
) -> Tensor:
    """Eq. (7): L = L^C + λ_c (λ_α L^O + λ_β L^E) with λ_α = λ_1 and λ_β = 4 λ_2."""
    return classification + sum(prioritised_terms(operation, edge, lambda_c, lambda_1, lambda_2).values())


def prioritised_terms(
    operation: Tensor,
    edge: Tensor,
    lambda_c: float,
    lambda_1: float,
    lambda_2: float,
    *,
    factor: float = 1.0,
    edge_factor: float = 4.0,
) -> dict[str, Tensor]:
    """The two terms that Eq. (7) adds to L^C, by name; `factor` is that of the whole regulariser."""
    return {
        "operation_term": factor * lambda_c * (lambda_1 * operation),
        "edge_term": factor * lambda_c * (edge_factor * lambda_2 * edge),
    }
