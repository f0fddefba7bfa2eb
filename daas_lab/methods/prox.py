"""DARTS-PRIME's proximity (Maile et al., arXiv 2106.11655): the distance of the weights to their own cut.

    L = L^C + e/E · ρ/2 · Σ over cell types ‖a − disc(a)‖₂,    a = softmax(α)

(`k8lion/DARTS-PRIME:src/model_admm_hard_statebn.py`, `prox_loss`; the norm is not squared). disc(a) is the cell that
would be cut *now* at the search's budget: a one-hot row for a kept edge, zeros for one that is dropped. A softmax
cannot reach zeros: the dropped edges are drawn to even weights, where they are nearest.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from daas_lab.fields import number
from daas_lab.methods.masks import cell_mask
from daas_lab.methods.method import Architecture, Method, Mixture, Moment
from daas_lab.space.budget import EdgeBudget


@dataclass(frozen=True, kw_only=True)
class Prox(Method):
    """DARTS with the loss above; the source's cells keep two edges a node, here it is the budget."""

    budget: str = "8/14"
    rho: float = number(at_least=0, default=0.1)  # ρ, as published

    title: ClassVar[str] = "DARTS-PRIME"
    colour: ClassVar[str] = "#117733"

    def regularise(
        self, architectures: Mapping[str, Architecture], mixtures: Mapping[str, Mixture], at: Moment
    ) -> dict[str, Tensor]:
        """e/E · ρ/2 · ‖a − disc(a)‖₂."""
        with torch.no_grad():
            cells = self.select(architectures, EdgeBudget.parse(self.budget), at)
        distance = sum(
            torch.linalg.vector_norm(a - cell_mask(cells.cell(name), at.space, a)) for name, (a, *_) in mixtures.items()
        )
        return {"prox_term": at.epoch / at.epochs * self.rho / 2 * distance}
