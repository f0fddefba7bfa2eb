"""Exact budgets (ours): a relaxation whose edge weights sum to exactly the number of edges to keep."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from daas_lab.fields import number
from daas_lab.methods import losses, schedules
from daas_lab.methods.method import Architecture, Method, Mixture, Moment, Strengths
from daas_lab.methods.prioritised import Prioritised
from daas_lab.methods.projection import CEILING, project
from daas_lab.methods.protocols import PROTOCOLS
from daas_lab.space.budget import EdgeBudget, Group
from daas_lab.space.cell_space import Space, cell_edges, nodes_of


@dataclass(frozen=True, kw_only=True)
class DA2SExact(Prioritised):
    """b = σ(y + τ) with Σ b = k over the candidates of each group of nodes, and a = softmax(α / T).

    Half of the search is DARTS; then k falls from all edges to the budget, T from 1 to `temperature`, and the losses
    grow: Eq. (3), and the binary entropy of b. Every b ≤ 1, and kept edges end at 1: the cut has nothing to rescale.
    """

    budget: str = "8/14"
    hold: int = number(at_least=0, default=0)  # epochs before λ, k and the temperature begin to move
    temperature: float = number(above=0, default=0.1)  # T at the end
    regulariser_factor: float = number(at_least=0, default=0.5)
    # The share of the epochs after `hold` in which k falls; in the rest what is left can settle.
    fall: float = number(above=0, at_most=1, default=0.5)
    node_worth: float = number(at_least=0, default=3.0)  # of a joint group's node, in the scores of what leaves it

    title: ClassVar[str] = "exact budgets"
    colour: ClassVar[str] = "#009E73"
    learns_edges: ClassVar[bool] = True
    edges_rank_by_weights: ClassVar[bool] = False
    operations_rank_edges: ClassVar[bool] = True
    # The images that it is compared on had a say in what it is.
    remark: ClassVar[str] = (
        "The form of `da2s_exact`, which is that of `da2s_descent` too, was chosen, while it was planned, by the test "
        "error of smaller searches on Fashion-MNIST: on those images their errors are not those of methods chosen "
        "without them."
    )
    always: ClassVar = Method.always | {
        "regulariser_factor": 0.5,
        "edge_factor": 4.0,
        "fall": 0.5,
        "node_worth": 3.0,
    }

    @classmethod
    def numbers(cls, protocol: str) -> dict[str, Any]:
        """The delayed logarithm is the protocol's."""
        return {"authors_log": PROTOCOLS[protocol].authors_log}

    @classmethod
    def always_under(cls, protocol: str) -> Mapping[str, Any]:
        """As `numbers`, before configurations held it."""
        return cls.always | {"authors_log": protocol == "authors"}

    @classmethod
    def settings(cls, protocol: str, epochs: int) -> dict[str, Any]:
        """Half of the search is DARTS; see `LEAST_TRAVEL`."""
        return {"hold": round(0.5 * epochs), "least_travel": LEAST_TRAVEL}

    def mix(self, architecture: Architecture, cell_type: str, at: Moment) -> Mixture:
        """a = softmax(α / T) with T from 1 to `temperature` geometrically; b = σ(y + τ), Σ b = k, of the scores
        y = β + log of the edge's largest a."""
        alphas, betas = architecture
        opening = self.opening(at)
        logits = alphas / self.temperature ** schedules.progress(opening.epoch, opening.epochs, self.hold)
        x = self.edge_logits(edge_scores(logits, betas, at.space), cell_type, at)
        return Mixture(logits.softmax(dim=1), x.sigmoid().to(betas), logits, x.to(betas))

    def opening(self, at: Moment) -> Moment:
        """The part of the search in which λ and T move, all of it, and how far it has come."""
        return at

    def edge_logits(self, scores: Tensor, cell_type: str, at: Moment) -> Tensor:
        """Scores [E] → x [E] in float64, b = σ(x)."""
        groups = EdgeBudget.parse(self.budget).groups(cell_type)
        progress = schedules.progress(at.epoch, at.epochs, self.hold)
        return exact_edge_logits(scores, groups, min(1.0, progress / self.fall), self.node_worth)

    def lambdas(self, at: Moment) -> tuple[float, float, float]:
        """λ_c, λ_1 and λ_2 of an epoch: 0 during the hold."""
        at = self.opening(at)
        if at.epoch <= self.hold:
            return 0.0, 0.0, 0.0
        return super().lambdas(at._replace(epoch=at.epoch - self.hold, epochs=at.epochs - self.hold))

    def unweighted(
        self, architectures: Mapping[str, Architecture], mixtures: Mapping[str, Mixture]
    ) -> tuple[Tensor, Tensor]:
        """Eq. (3), and the binary entropy of b."""
        keep = EdgeBudget.parse(self.budget).operations
        operation = losses.operation_loss({name: mixture.ranks for name, mixture in mixtures.items()}, keep)
        edges = {name: mixture.edge_logits for name, mixture in mixtures.items()}
        return operation, losses.exact_edge_loss(edges)  # type: ignore[arg-type]  # `mix` gives every mixture its logits

    def strengths(self, architecture: Architecture, cell_type: str, at: Moment) -> Strengths:
        """Edges rank by the scores that are projected."""
        mixture = self.mix(architecture, cell_type, at)
        return Strengths(mixture.ranks, edge_scores(mixture.ranks, architecture.betas, at.space))


# Learning rate × steps that an exact search had after its hold when it left no edge undecided (digits, 8/14 and 4/14,
# 30 epochs of 12 steps).
LEAST_TRAVEL = 9.0


def edge_scores(operation_logits: Tensor, betas: Tensor, space: Space) -> Tensor:
    """β + log of the edge's largest operation weight, [E]: an edge that has not chosen its operation is worth less."""
    weights = operation_logits.log_softmax(dim=1)
    if len(space.choices) < len(space.operations):
        weights = weights[:, _choices(space, weights.device)]
    return betas + weights.amax(dim=1)


@lru_cache(maxsize=64)
def _choices(space: Space, device: torch.device) -> Tensor:
    """Kept on the device: a list as an index is copied there each time, and the host waits."""
    with torch.inference_mode(False):
        return torch.tensor(space.choices, device=device)


def exact_edge_logits(
    scores: Tensor,
    groups: tuple[Group, ...],
    progress: float,
    node_worth: float = 3.0,
    before: tuple[Group, ...] | None = None,
) -> Tensor:
    """Scores [E] → x [E] in float64, σ(x) summing to k over the candidates of each group, k from all, or what the
    groups keep in `before`, to `keep`.

    An edge that leaves a node of a joint group is worth what its node is: batch-norm hides how little a node gets, so
    its score carries `node_worth` · log of the node's incoming weight. Edges inside a group have the weight 0.
    """
    index = {edge: e for e, edge in enumerate(cell_edges(nodes_of(len(scores))))}
    values = scores.double().unbind()
    logits = [torch.full_like(values[0], -CEILING)] * len(values)
    liveness: dict[int, Tensor] = {}
    # Solved together, unless one group's scores wait for the liveness of another.
    joint = any(len(group.nodes) > 1 for group in groups)
    for part in [[group] for group in groups] if joint else [groups]:
        candidates = [group.candidates() for group in part]
        rows = [
            torch.stack(
                [values[index[source, node]] + node_worth * liveness.get(source, 0.0) for source, node in edges]
            )
            for edges in candidates
        ]
        start = [len(row) for row in rows] if before is None else [before[groups.index(group)].keep for group in part]
        keep = [first + (group.keep - first) * progress for first, group in zip(start, part, strict=True)]
        for group, edges, x in zip(part, candidates, project(rows, keep), strict=True):
            for edge, value in zip(edges, x.unbind(), strict=True):
                logits[index[edge]] = value
            for node in group.nodes if len(group.nodes) > 1 else ():
                incoming = F.logsigmoid(torch.stack([logits[index[edge]] for edge in edges if edge[1] == node]))
                # A node with several inputs is not worth more than one that is sure to have one.
                liveness[node] = incoming.logsumexp(dim=0).clamp(max=0)
    return torch.stack(logits)
