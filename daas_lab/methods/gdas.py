"""GDAS (Dong and Yang, arXiv 1910.04465): one drawn candidate an edge, with the gradient of a Gumbel-softmax."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from daas_lab.fields import number
from daas_lab.methods import schedules
from daas_lab.methods.method import Architecture, Method, Mixture, Moment
from daas_lab.methods.sampling import DRAWN, computed_of, gumbel, one_hot, straight_through


@dataclass(frozen=True, kw_only=True)
class GDAS(Method):
    """a = onehot(argmax p̃) forward and p̃ backward, p̃ = softmax((log softmax(α) + G) / τ), τ linearly from 10 to 0.1.

    Weights are trained on the drawn one alone. For α all candidates are computed here, so that ∂L/∂a_o is exact for
    those not drawn (the source computes only the drawn one); all cells of a type share a step's draws. Evaluated at
    onehot(argmax α), without a draw.
    """

    tau_start: float = number(above=0, default=10.0)  # the source's: at first every candidate gets a gradient
    tau_end: float = number(above=0, default=0.1)  # the source's: at last only those that compete for the argmax
    every_path: bool = False  # for the weights, too, compute all: batch statistics of all at every step

    title: ClassVar[str] = "GDAS"
    colour: ClassVar[str] = "#004488"
    remark: ClassVar[str] = DRAWN
    always: ClassVar[dict[str, Any]] = Method.always | {"every_path": True}

    def tau(self, at: Moment) -> float:
        """The temperature of an epoch."""
        return schedules.between(self.tau_start, self.tau_end, at.epoch, at.epochs)

    def mix(self, architecture: Architecture, cell_type: str, at: Moment) -> Mixture:
        """One-hot weights; edges rank by softmax(α), as published."""
        alphas, betas = architecture
        scores = alphas.log_softmax(dim=1)
        if at.training:
            scores = scores + gumbel(alphas, at.generator(cell_type, alphas.device))
        soft = (scores / self.tau(at)).softmax(dim=1)
        hard = one_hot(scores)
        computed = None if self.every_path else computed_of(hard, at)
        return Mixture(straight_through(hard, soft), torch.ones_like(betas), alphas, computed=computed)
