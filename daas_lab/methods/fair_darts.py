"""FairDARTS (Chu et al., arXiv 1911.12126): operations that do not compete, and a loss that makes each decide.

    a = σ(α),    L = L^C − 10 · mean (σ(α) − ½)²    over all candidates of both cell types

The mean of squares is the zero-one loss of `xiaomi-automl/FairDARTS:fairdarts/separate_loss.py`. An operation is chosen
where σ(α) ≥ 0.85.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from daas_lab.fields import number
from daas_lab.methods.method import Architecture, Method, Mixture, Moment
from daas_lab.methods.rules import edge_values
from daas_lab.space.budget import EdgeBudget
from daas_lab.space.cell_space import CELL_TYPES
from daas_lab.space.genotype import CellGenotype, Genotype


@dataclass(frozen=True, kw_only=True)
class FairDARTS(Method):
    """a = σ(α), and of the edges that a budget allows those that pass the threshold."""

    zero_one: float = number(at_least=0, default=10.0)  # factor of the zero-one loss, as published
    threshold: float = number(at_least=0, at_most=1, default=0.85)  # least σ(α) of what a cell keeps, as published

    title: ClassVar[str] = "FairDARTS"
    colour: ClassVar[str] = "#56B4E9"

    @classmethod
    def settings(cls, protocol: str, epochs: int) -> dict[str, Any]:
        """Adam's learning rate × steps of the source (3e-3, 50 epochs of 195), wherever a preset's is less."""
        return {"least_travel": 29.0}

    def mix(self, architecture: Architecture, cell_type: str, at: Moment) -> Mixture:
        """a = σ(α); every edge weighs 1."""
        alphas = architecture.alphas
        return Mixture(alphas.sigmoid(), alphas.new_ones(len(alphas)))

    def optimizer(self, groups: list[dict], **rules: Any) -> torch.optim.Optimizer:
        """Adam with the source's momentum."""
        return torch.optim.Adam(groups, betas=(0.9, 0.999), **rules)

    def regularise(
        self, architectures: Mapping[str, Architecture], mixtures: Mapping[str, Mixture], at: Moment
    ) -> dict[str, Tensor]:
        """−10 · mean (a − ½)²."""
        weights = torch.cat([mixture.operations for mixture in mixtures.values()])
        return {"zero_one_term": -self.zero_one * (weights - 0.5).square().mean()}

    def select(self, architectures: Mapping[str, Architecture], budget: EdgeBudget, at: Moment) -> Genotype:
        """The budget's strongest edges, less what stays under the threshold; but every node keeps its strongest
        operation, over the threshold or not: a cell with nothing in it is no network."""
        strongest = super().select(architectures, budget, at)
        cells = []
        for name in CELL_TYPES:
            cell = strongest.cell(name)
            strength = edge_values(cell.edges, architectures[name].alphas.sigmoid(), at.space)
            of_nodes = ([edge for edge in cell.edges if edge.node == node] for node in cell.concat)
            best = {max(edges, key=strength.__getitem__) for edges in of_nodes}
            kept = tuple(edge for edge in cell.edges if strength[edge] >= self.threshold or edge in best)
            cells.append(CellGenotype(kept, cell.concat))
        return Genotype(*cells)
