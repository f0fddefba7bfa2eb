"""SNAS (Xie et al., arXiv 1812.09926): candidates drawn by a Gumbel-softmax whose temperature falls."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from daas_lab.fields import number
from daas_lab.methods import schedules
from daas_lab.methods.method import Architecture, Method, Mixture, Moment
from daas_lab.methods.sampling import DRAWN, gumbel


@dataclass(frozen=True, kw_only=True)
class SNAS(Method):
    """a = softmax((log p + G) / τ) with p = softmax(α) and G Gumbel noise, τ linearly from 1 to 0.03 over the search.

    One level, as published: α and weights are trained on the same images by the same draws, one an edge and step, that
    all cells of a type share. Evaluated without noise, a = softmax(α / τ), and cut by softmax(α): at the last τ many
    weights are 1.0, and equals have no order. The paper's penalty on the cost of candidates is left out: no other
    method here has one.
    """

    tau_start: float = number(above=0, default=1.0)  # the source's
    tau_end: float = number(above=0, default=0.03)  # draws are all but one-hot; the source's as well

    title: ClassVar[str] = "SNAS"
    colour: ClassVar[str] = "#88CCEE"
    remark: ClassVar[str] = DRAWN

    def tau(self, at: Moment) -> float:
        """The temperature of an epoch."""
        return schedules.between(self.tau_start, self.tau_end, at.epoch, at.epochs)

    def mix(self, architecture: Architecture, cell_type: str, at: Moment) -> Mixture:
        """The noise is drawn only in training; log p and α differ by what a softmax does not see."""
        alphas, betas = architecture
        draws = at._replace(part="").generator(cell_type, alphas.device)
        noise = gumbel(alphas, draws) if at.training else 0.0
        return Mixture(((alphas + noise) / self.tau(at)).softmax(dim=1), torch.ones_like(betas), alphas)

    def architecture_gradients(self, step: Any) -> None:
        """On the weights' images."""
        step.batch = step.next_batch
        step.backward()
