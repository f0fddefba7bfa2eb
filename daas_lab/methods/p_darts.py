"""P-DARTS (Chen et al., arXiv 1904.12760): three stages, each of a deeper network with fewer operations an edge.

    stage         1          2      3
    cells         5/8        11/8   17/8    of what a configuration says, at least 3 (the source's are 5, 11, 17)
    operations    7 (all)    5      3       those of the largest α; α, weights and their rate begin anew
    p_0           0.0        0.4    0.7     dropout on skips

In the first two fifths of a stage's n epochs (`chenxin061/pdarts:train_search.py`) α rests and p = p_0 (n − k − 1) / n
for k = 0, 1, …; after them p = p_0 exp(−5 (k − 2n/5) / n). The source drops values of a skip's output; here a step of
training drops a whole edge's skip or divides its weight by 1 − p. The cut keeps two skips in normal cells.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from daas_lab.fields import number
from daas_lab.methods.method import Architecture, Method, Mixture, Moment, seed_of
from daas_lab.methods.pruning import alive, prune
from daas_lab.methods.rules import few_skips
from daas_lab.methods.schedules import stage
from daas_lab.space.budget import EdgeBudget
from daas_lab.space.cell_space import CELL_TYPES, SKIP
from daas_lab.space.genotype import Genotype

CELLS, OPERATIONS, STAGES = (5 / 8, 11 / 8, 17 / 8), (5, 3), 3


@dataclass(frozen=True, kw_only=True)
class PDARTS(Method):
    """DARTS in three stages."""

    dropout_1: float = number(at_least=0, at_most=0.99, default=0.0)  # p_0 of the stages, as printed for CIFAR-10
    dropout_2: float = number(at_least=0, at_most=0.99, default=0.4)
    dropout_3: float = number(at_least=0, at_most=0.99, default=0.7)
    skips: int = number(at_least=0, default=2)  # most that a normal cell keeps, as published

    title: ClassVar[str] = "P-DARTS"
    colour: ClassVar[str] = "#332288"

    def dropout(self, at: Moment) -> float:
        s, k, n = stage(at.epoch, at.epochs, STAGES)
        first, rest = (self.dropout_1, self.dropout_2, self.dropout_3)[s], int(0.4 * n)
        return first * ((n - k - 1) / n if k < rest else math.exp(-5 * (k - rest) / n))

    def depth(self, layers: int, at: Moment) -> int:
        return max(3, round(CELLS[stage(at.epoch, at.epochs, STAGES)[0]] * layers))

    def annealing(self, at: Moment) -> tuple[int, int]:
        _, k, n = stage(at.epoch, at.epochs, STAGES)
        return k + 1, n

    def mix(self, architecture: Architecture, cell_type: str, at: Moment) -> Mixture:
        weights, p = architecture.alphas.softmax(dim=1), self.dropout(at)
        scale = torch.ones_like(weights)
        if at.training and p and SKIP in at.space.operations:
            drawn = torch.rand(len(weights), generator=at.generator(cell_type)) >= p
            scale[:, at.space.operations.index(SKIP)] = drawn.to(weights) / (1 - p)
        return Mixture(weights * scale, weights.new_ones(len(weights)), architecture.alphas)

    def architecture_gradients(self, step: Any) -> None:
        _, k, n = stage(step.network.at.epoch, step.config.epochs, STAGES)
        if k >= int(0.4 * n):
            step.backward()

    def after_epoch(self, search: Any) -> None:
        s, k, n = stage(search.epoch, search.config.epochs, STAGES)
        if k == n - 1 and search.epoch < search.config.epochs:
            draws = torch.Generator().manual_seed(seed_of(search.config.seed, "alphas", search.epoch))
            for alphas in (search.network.alphas(name).data for name in CELL_TYPES):
                ranks = alphas.argsort(dim=1, descending=True).argsort(dim=1)
                prune(alphas, ranks >= OPERATIONS[s], search.config.space)
                fresh = self.initial_noise * torch.randn(alphas.shape, generator=draws).to(alphas)
                alphas.copy_(torch.where(alive(alphas), fresh, alphas))

    def select(self, architectures: Mapping[str, Architecture], budget: EdgeBudget, at: Moment) -> Genotype:
        return few_skips(self.skips, self, architectures, budget, at, ("normal",))
