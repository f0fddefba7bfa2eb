"""DrNAS (Chen et al., arXiv 2006.10355): operation weights drawn from a Dirichlet distribution that is learned."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F

from daas_lab.fields import number
from daas_lab.methods.method import Architecture, Method, Mixture, Moment
from daas_lab.methods.pruning import alive


@dataclass(frozen=True, kw_only=True)
class DrNAS(Method):
    """a ~ Dirichlet(c), c = elu(α) + 1, with the pathwise gradient: a = g / Σ g of draws g_o ~ Gamma(c_o).

    The source's l2 term is Adam's weight decay of 1e-3 (`arch_weight_decay`), which adds 1e-3 α to the gradient. Its
    stages (partial channels, fewer operations) are left out: on this scale every method has the same network.
    Evaluated at the mean c / Σ c; edges and operations rank by softmax(α), as published.
    """

    # Where α < −7 the gamma draws would all but vanish together, and their gradient with them.
    least_concentration: float = number(above=0, default=1e-3)

    title: ClassVar[str] = "DrNAS"
    colour: ClassVar[str] = "#225522"

    def mix(self, architecture: Architecture, cell_type: str, at: Moment) -> Mixture:
        """In float64: a gamma draw of a small concentration underflows in float32."""
        alphas, betas = architecture
        gammas = (F.elu(alphas.double()) + 1).clamp(min=self.least_concentration)
        if at.training:
            gammas = torch._standard_gamma(gammas, generator=at.generator(cell_type, alphas.device))
        gammas = gammas * alive(alphas)  # what has left keeps nothing of its least concentration
        operations = gammas / gammas.sum(dim=1, keepdim=True).clamp(min=torch.finfo(gammas.dtype).tiny)
        return Mixture(operations.to(alphas), torch.ones_like(betas), alphas)
