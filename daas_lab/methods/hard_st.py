"""Hard-ST (Kim, arXiv 2603.14157): the strongest candidate alone in the forward pass, straight through backward."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from daas_lab.fields import number
from daas_lab.methods.method import Architecture, Method, Mixture, Moment
from daas_lab.methods.sampling import computed_of, one_hot, straight_through


@dataclass(frozen=True, kw_only=True)
class HardST(Method):
    """a = onehot(argmax α) forward, ∂a/∂α that of softmax(α / T): what is trained is what the cut keeps of each edge.

    The paper shows it on networks of logic gates; here it is DARTS with that forward pass, without a draw, in training
    and evaluation alike. What its cut can cost is the edges. For α all candidates are computed, for the weights the
    strongest alone.
    """

    temperature: float = number(above=0, default=1.0)  # the same in all epochs: at none is there a selection gap
    every_path: bool = False  # for the weights, too, compute all: batch statistics of all at every step

    title: ClassVar[str] = "Hard-ST"
    colour: ClassVar[str] = "#BB5566"
    always: ClassVar[dict[str, Any]] = Method.always | {"every_path": True}

    def mix(self, architecture: Architecture, cell_type: str, at: Moment) -> Mixture:
        """One-hot weights; edges rank by softmax(α)."""
        alphas, betas = architecture
        soft = (alphas / self.temperature).softmax(dim=1)
        hard = one_hot(alphas)
        computed = None if self.every_path else computed_of(hard, at)
        return Mixture(straight_through(hard, soft), torch.ones_like(betas), alphas, computed=computed)
