"""SDARTS-RS (Chen and Hsieh, arXiv 2002.05283): weights that are trained under random changes of the mixture."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from daas_lab.fields import number
from daas_lab.methods import schedules
from daas_lab.methods.method import Architecture, Method, Mixture, Moment
from daas_lab.methods.pruning import alive
from daas_lab.methods.sampling import one_hot


@dataclass(frozen=True, kw_only=True)
class SDARTSRS(Method):
    """ã = clip(softmax(α) + U(−ε, ε)) in the steps of the weights, softmax(α) in those of α and at evaluation.

    clip: to [0, 1], then divided by the edge's sum; where nothing is left, the largest weighs 1. ε grows linearly from
    0.03 in the first epoch to 0.3 in the last (the published code stops one epoch short of it).
    """

    epsilon_start: float = number(at_least=0, default=0.03)  # the source's
    epsilon_end: float = number(at_least=0, default=0.3)  # the source's: twice what a candidate weighs at first

    title: ClassVar[str] = "SDARTS-RS"
    colour: ClassVar[str] = "#FFAABB"

    def epsilon(self, at: Moment) -> float:
        """How far a weight may be moved in an epoch."""
        return schedules.between(self.epsilon_start, self.epsilon_end, at.epoch, at.epochs)

    def mix(self, architecture: Architecture, cell_type: str, at: Moment) -> Mixture:
        """α has no part in a step of the weights, so that nothing passes back through the change."""
        alphas, betas = architecture
        operations = alphas.softmax(dim=1)
        if at.training and at.part == "weights":
            draws, epsilon = at.generator(cell_type, alphas.device), self.epsilon(at)
            changed = operations.detach() + torch.empty_like(operations).uniform_(-epsilon, epsilon, generator=draws)
            changed = changed.masked_fill(~alive(alphas), -torch.inf)
            clipped = changed.clamp(0, 1)
            clipped = torch.where(clipped.sum(dim=1, keepdim=True) > 0, clipped, one_hot(changed))
            operations = clipped / clipped.sum(dim=1, keepdim=True)
        return Mixture(operations, torch.ones_like(betas), alphas)
