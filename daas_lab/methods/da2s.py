"""DA²S (arXiv 2007.03154): DARTS with entropy losses on operations and edges, as its text or its code has them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from daas_lab.fields import number
from daas_lab.methods import losses, schedules
from daas_lab.methods.masks import split_nodes
from daas_lab.methods.method import Architecture, Mixture, Moment, Strengths
from daas_lab.methods.prioritised import Prioritised
from daas_lab.methods.protocols import PROTOCOLS
from daas_lab.space.budget import EdgeBudget
from daas_lab.space.cell_space import Space


@dataclass(frozen=True, kw_only=True)
class DA2S(Prioritised):
    """L^C + factor · λ_c (λ_1 L^O + 4 λ_2 L^E), Eq. (7), with β capped at 1 in the forward pass and in the loss alike.

    The defaults are those of the protocol `authors`; `numbers` has what `paper` changes.
    """

    budget: str = "8/14"  # how many edges Eq. (4) asks of each node
    lambda_1: str = "log:delayed"
    regulariser_factor: float = number(at_least=0, default=0.1)
    square_factor: float = number(at_least=0, default=0.2)
    first_edge_node: int = number(at_least=2, at_most=12, default=3)  # type: ignore[misc]  # of all others a constant
    initial_noise: float = number(at_least=0, default=1e-4)
    steepens: bool = True
    scales_edges: bool = True

    title: ClassVar[str] = "DA²S"
    colour: ClassVar[str] = "#0072B2"
    learns_edges: ClassVar[bool] = True
    edges_rank_by_weights: ClassVar[bool] = False
    # Two kept edges end at b = 0.5 each, so that the weight 1 changes the scale as well.
    edge_weight: ClassVar[str] = "learned"

    @classmethod
    def numbers(cls, protocol: str) -> dict[str, Any]:
        """The protocol's constants."""
        known = cls.__dataclass_fields__
        return {name: value for name, value in vars(PROTOCOLS[protocol]).items() if name in known}

    @classmethod
    def always_under(cls, protocol: str) -> Mapping[str, Any]:
        """What the protocol's constants were before configurations held them."""
        return _ALWAYS[protocol] | {"edge_factor": 4.0}

    @classmethod
    def settings(cls, protocol: str, epochs: int) -> dict[str, Any]:
        """Partial channels and the epochs in which α rests."""
        constants = PROTOCOLS[protocol]
        delay = schedules.delay_epochs(epochs) if constants.delay_alphas else 0
        return {"partial_channels": constants.partial_channels, "alpha_delay": delay}

    def start(self, space: Space, budget: EdgeBudget) -> Architecture:
        """Noise, and β around k/n (k of n inputs to keep): Eq. (4) does not see a β ≤ 0, and could not pull it up."""
        alphas, noise = super().start(space, budget)
        targets = budget.targets("normal")
        return Architecture(alphas, torch.tensor([targets[node] / node for _, node in space.edges]) + noise)

    def mix(self, architecture: Architecture, cell_type: str, at: Moment) -> Mixture:
        """§3.1 of the text: a = softmax(α), b = softmax of min(β, 1) over a node's inputs. The published code steepens
        α and multiplies b by n, the number of inputs. Edges of a node without β weigh 1/n, or 1 where b is scaled."""
        alphas, betas = architecture
        logits, capped = steepen(alphas) if self.steepens else alphas, cap(betas)
        edges = []
        for inputs in split_nodes(capped):
            n = len(inputs)
            if n < self.first_edge_node:
                edges.append(torch.ones_like(inputs) if self.scales_edges else torch.full_like(inputs, 1 / n))
            else:
                edges.append(n * inputs.softmax(dim=0) if self.scales_edges else inputs.softmax(dim=0))
        return Mixture(logits.softmax(dim=1), torch.cat(edges), logits, capped)

    def unweighted(
        self, architectures: Mapping[str, Architecture], mixtures: Mapping[str, Mixture]
    ) -> tuple[Tensor, Tensor]:
        """L^O and L^E, Eq. (3) and (5)."""
        budget = EdgeBudget.parse(self.budget)
        logits = {name: mixture.ranks for name, mixture in mixtures.items()}
        operation = losses.operation_loss(logits, budget.operations)
        betas = {name: architecture.betas for name, architecture in architectures.items()}
        targets = {name: budget.targets(name) for name in betas}
        return operation, losses.edge_loss(betas, targets, self.first_edge_node, self.square_factor)

    def strengths(self, architecture: Architecture, cell_type: str, at: Moment) -> Strengths:
        """Edges rank by β; those of a node without β by their largest operation weight, also beside another node's β,
        where a group joins the two."""
        operations, largest = super().strengths(architecture, cell_type, at)
        free = sum(range(2, self.first_edge_node))  # edges that enter the nodes without β
        return Strengths(operations, torch.cat([largest[:free], architecture.betas[free:].to(largest)]))


_ALWAYS = {
    "paper": {
        "first_edge_node": 2,
        "square_factor": 1.0,
        "regulariser_factor": 1.0,
        "initial_noise": 1e-3,
        "authors_log": False,
        "steepens": False,
        "scales_edges": False,
    },
    "authors": {
        "first_edge_node": 3,
        "square_factor": 0.2,
        "regulariser_factor": 0.1,
        "initial_noise": 1e-4,
        "authors_log": True,
        "steepens": True,
        "scales_edges": True,
    },
}


def cap(betas: Tensor) -> Tensor:
    """min(β, 1) of Eq. (4): forward pass and loss alike."""
    return betas.clamp(max=1)


def steepen(alphas: Tensor) -> Tensor:
    """The published code's logits g(2α): g(x) = x³ where x < -1, else x.

    Below -1e6 the cube is held, so that it stays finite in float32; the weight is zero there all the same.
    """
    x = 2 * alphas
    return torch.where(x < -1, x.clamp(-1e6, -1) ** 3, x)
