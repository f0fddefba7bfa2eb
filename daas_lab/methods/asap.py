"""ASAP (Noy et al., arXiv 1904.04123): a softmax that is annealed, and operations that leave as they fall behind.

    a = softmax(α / τ),    τ(e) = 1.6 · 0.95^e for e = 0, 1, … of 50 epochs (here in shares of the epochs)
    after an epoch an operation leaves its edge for good where a < 0.4 / O

While τ ≥ 1 only the weights are trained and nothing leaves. (uninas:uninas/methods/asap.py has the constants, but
divides its threshold by O once an edge: after the first edge nothing can leave. Here it is divided once.)
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from daas_lab.fields import number
from daas_lab.methods.method import Architecture, Method, Mixture, Moment, Strengths
from daas_lab.methods.pruning import alive, prune
from daas_lab.space.cell_space import Space


@dataclass(frozen=True, kw_only=True)
class ASAP(Method):
    """DARTS, annealed and pruned."""

    first_temperature: float = number(above=0, default=1.6)  # τ at the start, as published
    cooling: float = number(above=0, at_most=1, default=0.95)  # of τ, in a fiftieth of the search
    grace: float = number(above=0, default=1.0)  # the τ under which candidates may leave, as published
    threshold: float = number(at_least=0, at_most=1, default=0.4)  # share of 1/O that a candidate needs to stay

    title: ClassVar[str] = "ASAP"
    colour: ClassVar[str] = "#999933"

    @classmethod
    def settings(cls, protocol: str, epochs: int) -> dict[str, Any]:
        """α rests while τ ≥ 1: nine or ten of 50 epochs, counted by the published numbers. With others `warmup` is
        `rest` of theirs."""
        return {"warmup": cls().rest(epochs)}

    def rest(self, epochs: int) -> int:
        """The epochs in which τ ≥ `grace`, but for the last."""
        return sum(self.temperature_at(Moment(epoch, epochs)) >= self.grace for epoch in range(1, epochs))

    def temperature_at(self, at: Moment) -> float:
        """τ of an epoch."""
        return self.first_temperature * self.cooling ** (50 * (at.epoch - 1) / at.epochs)

    def mix(self, architecture: Architecture, cell_type: str, at: Moment) -> Mixture:
        """a = softmax(α / τ); every edge weighs 1."""
        logits = architecture.alphas / self.temperature_at(at)
        return Mixture(logits.softmax(dim=1), logits.new_ones(len(logits)), logits)

    def strengths(self, architecture: Architecture, cell_type: str, at: Moment) -> Strengths:
        """Edges rank by the largest share of softmax(α); one with a single operation left, by the share that this had
        beside its last rivals, which β remembers."""
        alphas, betas = architecture
        alone = alive(alphas)[:, at.space.choices].sum(dim=1) < 2
        return Strengths(alphas, torch.where(alone, betas, _largest_share(alphas, at.space)))

    @torch.no_grad()
    def after_epoch(self, search: Any) -> None:
        """What has fallen under the threshold leaves, but never the last operation of an edge."""
        network, space = search.network, search.config.space
        if self.temperature_at(network.at) >= self.grace:
            return
        for name, mixture in network.mixtures().items():
            alphas, betas = network.architectures()[name]
            rivals = alive(alphas)[:, space.choices].sum(dim=1) > 1
            betas.copy_(torch.where(rivals, _largest_share(alphas, space), betas))
            prune(alphas, mixture.operations < self.threshold / len(space.operations), space)


def _largest_share(alphas: Tensor, space: Space) -> Tensor:
    """[E, O] → [E], without the temperature, which is another one in every epoch."""
    return alphas.softmax(dim=1)[:, space.choices].amax(dim=1)
