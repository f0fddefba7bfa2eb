"""Temperature alone: DARTS whose softmax sharpens (as Zhang and Ding, arXiv 2306.06855, without their noise)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from daas_lab.fields import number
from daas_lab.methods import schedules
from daas_lab.methods.da2s_exact import LEAST_TRAVEL
from daas_lab.methods.method import Architecture, Method, Mixture, Moment


@dataclass(frozen=True, kw_only=True)
class Annealing(Method):
    """a = softmax(α / T), T geometrically from 1 to `temperature`; no loss, no noise, every edge weighs 1.

    T is 1 for half of the search and then falls as that of `da2s_exact`: how small a gap comes of temperature alone.
    """

    hold: int = number(at_least=0, default=0)  # epochs before T begins to fall
    temperature: float = number(above=0, default=0.1)  # T at the end

    title: ClassVar[str] = "temperature alone"
    colour: ClassVar[str] = "#BBCC33"

    @classmethod
    def settings(cls, protocol: str, epochs: int) -> dict[str, Any]:
        """As `da2s_exact`, which it is compared with."""
        return {"hold": round(0.5 * epochs), "least_travel": LEAST_TRAVEL}

    def mix(self, architecture: Architecture, cell_type: str, at: Moment) -> Mixture:
        """Edges rank by softmax(α): at a small T many weights are 1.0, and equals have no order."""
        alphas, betas = architecture
        T = self.temperature ** schedules.progress(at.epoch, at.epochs, self.hold)
        return Mixture((alphas / T).softmax(dim=1), torch.ones_like(betas), alphas)
