"""DOTS (Gu et al., CVPR 2021): first the operations, then the edges, chosen as whole sets of a node's inputs.

    b_e = Σ softmax(β / T)_s over the sets s that hold e,    T = 10 · (0.02 / 10)^((e − e0) / (E − e0)) from e0 on

A set has as many inputs as the budget keeps (pairs at 8/14, as published), so that Σ b is that number. Of 70 epochs
(`guyuchao/DOTS:pytorch/train_search.py`; here in shares) only weights are trained in 15, then α beside them in 15,
while edges weigh 1. Then each edge keeps its strongest operation for good, 20 epochs train weights under even sets, and
from e0 on β learns beside them, from their images (one level). The source keeps two operations; it restarts after 30.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from daas_lab.fields import number
from daas_lab.methods.masks import edge_sets
from daas_lab.methods.method import Architecture, Method, Mixture, Moment
from daas_lab.methods.pruning import prune
from daas_lab.space.budget import EdgeBudget
from daas_lab.space.cell_space import CELL_TYPES, Space


@dataclass(frozen=True, kw_only=True)
class DOTS(Method):
    """The two phases above; β [S] has an entry for each set."""

    budget: str = "8/14"
    first_temperature: float = number(above=0, default=10.0)  # T at e0, as published
    last_temperature: float = number(above=0, default=0.02)  # and in the last epoch

    title: ClassVar[str] = "DOTS"
    colour: ClassVar[str] = "#44AA99"
    learns_edges: ClassVar[bool] = True
    betas_of_edges: ClassVar[bool] = False

    @classmethod
    def settings(cls, protocol: str, epochs: int) -> dict[str, Any]:
        """α rests in the first phase."""
        return {"warmup": phases(epochs)[0]}

    def check(self, config: Any) -> None:
        """Sets of edges that can be listed."""
        _ = [edge_sets(config.edge_budget.groups(name)) for name in CELL_TYPES]

    def start(self, space: Space, budget: EdgeBudget) -> Architecture:
        """All sets alike."""
        return Architecture(super().start(space, budget).alphas, torch.zeros(sum(edge_sets(budget.normal)[0])))

    def mix(self, architecture: Architecture, cell_type: str, at: Moment) -> Mixture:
        """a = softmax(α), one-hot after its phase; b = 1 until then."""
        _, operations, rest = phases(at.epochs)
        progress = max(0, at.epoch - rest - 1) / max(1, at.epochs - rest - 1)
        temperature = self.first_temperature * (self.last_temperature / self.first_temperature) ** progress
        sizes, held = edge_sets(EdgeBudget.parse(self.budget).groups(cell_type))
        parts = [(part / temperature).softmax(dim=0) for part in architecture.betas.split(sizes)]
        edges = torch.cat(parts) @ held.to(architecture.betas)
        chosen = edges if at.epoch > operations else torch.ones_like(edges)
        return Mixture(architecture.alphas.softmax(dim=1), chosen, architecture.alphas)

    def architecture_gradients(self, step: Any) -> None:
        """Of α, of neither, or of β."""
        epoch, (_, operations, rest) = step.network.at.epoch, phases(step.config.epochs)
        if epoch > rest:
            step.batch = step.next_batch
        if epoch <= operations or epoch > rest:
            step.backward()

    def after_epoch(self, search: Any) -> None:
        """At the end of α's phase all but an edge's strongest operation leave."""
        if search.epoch == phases(search.config.epochs)[1]:
            for alphas in map(search.network.alphas, CELL_TYPES):
                prune(alphas, torch.ones_like(alphas, dtype=torch.bool), search.config.space)


def phases(epochs: int) -> tuple[int, int, int]:
    """The last epochs in which α rests, α learns, and β rests: 15, 30 and 50 of 70."""
    warm = int(epochs * 15 / 70)
    operations = max(warm + 1, round(epochs * 30 / 70))
    return warm, operations, max(operations, round(epochs * 50 / 70))
