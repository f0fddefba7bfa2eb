"""β-DARTS (Ye et al., arXiv 2203.01665): a loss that keeps an edge's operation weights from moving apart.

    L = L^C + λ(e) · mean over edges of log Σ_o exp(α_eo),    λ(e) = 50 · (e − 1) / E

(`Sunshine-Ye/Beta-DARTS:optimizers/darts/architect.py`; the mean over the edges of both cell types). The source has
λ = 50 · (e − 1) / 100 whatever E is, so 25 after 50 epochs; here λ goes by the share of the search. The loss's gradient
in α is a / (number of edges): what leads is pushed down most, *against* weights that are one-hot. In the first epoch it
is nothing, and there operations take their order; Adam, which divides a gradient by its size, then keeps it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from daas_lab.fields import number
from daas_lab.methods.method import Architecture, Method, Mixture, Moment


@dataclass(frozen=True, kw_only=True)
class BetaDARTS(Method):
    """DARTS with the loss above."""

    decay: float = number(at_least=0, default=50.0)  # what λ rises to; in the source after 100 epochs

    title: ClassVar[str] = "β-DARTS"
    colour: ClassVar[str] = "#882255"

    def regularise(
        self, architectures: Mapping[str, Architecture], mixtures: Mapping[str, Mixture], at: Moment
    ) -> dict[str, Tensor]:
        """λ(e) · mean logsumexp α."""
        alphas = torch.cat([architecture.alphas for architecture in architectures.values()])
        return {"decay_term": self.decay * (at.epoch - 1) / at.epochs * alphas.logsumexp(dim=1).mean()}
