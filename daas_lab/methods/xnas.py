"""XNAS (Nayman et al., arXiv 1906.08031): the operations of an edge as experts whose weights are multiplied.

    a = v / Σ v,    v_o ← v_o · exp(η R_o),    R_o = −∂L/∂a_o clipped to ±𝓛,    η = √(2 ln O / S) / 𝓛
    after step t of all S an expert leaves where v_o < max v · exp(−2 η 𝓛 (S − t)): it can no longer win

α = log v, so that a = softmax(α) and the update is plain gradient descent on α with ∂L/∂a for a gradient. η is the
one that bounds the regret best (the paper's Theorem 1). After the last step every edge has one expert left: what
choosing one costs is paid within the search, by weights that were still trained with several. A softmax says nothing
of edges with one expert each; they rank by its α, η times its whole reward, which edges of one node can be compared by.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from daas_lab.fields import number
from daas_lab.methods.method import Architecture, Method, Mixture, Moment, Strengths
from daas_lab.methods.pruning import prune
from daas_lab.space.cell_space import CELL_TYPES


@dataclass(frozen=True, kw_only=True)
class XNAS(Method):
    """Exponentiated gradient with wipe-out. `arch_learning_rate` is a factor of η."""

    initial_noise: float = number(at_least=0, default=0.0)  # every expert starts at v = 1
    # 𝓛; the paper's was not found in print. Twice the median of |∂L/∂a| in a short search of digits (`quick`, seed 100,
    # 8 epochs: 0.05; one in ten is over 0.15, the largest is 0.7): a looser bound has every edge undecided to the end.
    bound: float = number(above=0, default=0.1)

    title: ClassVar[str] = "XNAS"
    colour: ClassVar[str] = "#AA4499"
    edges_rank_by_weights: ClassVar[bool] = False
    operations_rank_edges: ClassVar[bool] = True
    remark: ClassVar[str] = "XNAS has one operation an edge before the cut already: its drop is that of edges alone."

    @classmethod
    def settings(cls, protocol: str, epochs: int) -> dict[str, Any]:
        """η as it stands above: it knows the number of steps, no preset has to scale it."""
        return {"arch_learning_rate": 1.0}

    def rate(self, config: Any) -> float:
        """η of a search."""
        steps = config.epochs * config.steps
        return config.arch_learning_rate * math.sqrt(2 * math.log(len(config.space.operations)) / steps) / self.bound

    def mix(self, architecture: Architecture, cell_type: str, at: Moment) -> Mixture:
        """a = softmax(α), with ∂L/∂a passed on to α as it is; every edge weighs 1."""
        alphas = architecture.alphas
        weights = alphas.softmax(dim=1).detach() + (alphas - alphas.detach())
        return Mixture(weights, alphas.new_ones(len(alphas)), alphas)

    def strengths(self, architecture: Architecture, cell_type: str, at: Moment) -> Strengths:
        """Operations and edges rank by α."""
        alphas = architecture.alphas
        return Strengths(alphas, alphas[:, at.space.choices].amax(dim=1))

    def optimizer(self, groups: list[dict], **rules: Any) -> torch.optim.Optimizer:
        """Plain gradient descent, without decay."""
        return torch.optim.SGD(groups, lr=rules["lr"], fused=rules["fused"])

    def architecture_gradients(self, step: Any) -> None:
        """−R · η, for an optimizer whose rate is 1 or what the configuration says."""
        step.backward()
        step.average()
        largest = self.bound * step.scaler.get_scale()  # a scaler has yet to scale the gradient back
        eta = self.rate(step.config) / step.config.arch_learning_rate
        for alphas in map(step.network.alphas, CELL_TYPES):
            if alphas.grad is not None:  # of a short network all cells are of one type; a scaler has to see an overflow
                alphas.grad = alphas.grad.where(alphas.grad.isinf(), eta * alphas.grad.clamp(-largest, largest))

    def after_step(self, step: Any) -> None:
        """Wipe-out."""
        config, at = step.config, step.network.at
        left = config.epochs * config.steps - ((at.epoch - 1) * config.steps + at.step + 1)  # S − t
        for alphas in map(step.network.alphas, CELL_TYPES):
            least = alphas.amax(dim=1, keepdim=True) - 2 * self.rate(config) * self.bound * left
            prune(alphas, alphas < least, config.space)
