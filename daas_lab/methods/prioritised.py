"""Eq. (7)'s regulariser: an operation and an edge loss, each with a control function of its own and one for both."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from daas_lab.fields import number
from daas_lab.methods import losses, schedules
from daas_lab.methods.method import Architecture, Method, Mixture, Moment


@dataclass(frozen=True, kw_only=True)
class Prioritised(Method):
    """L^C + factor · λ_c (λ_1 L^O + 4 λ_2 L^E), Eq. (7). A method says which losses they are: `unweighted`."""

    lambda_c: str = "linear"  # control function of the whole regulariser
    lambda_1: str = "const"  # of the operation loss
    lambda_2: str = "const"  # of the edge loss
    regulariser_factor: float = number(at_least=0, default=1.0)
    edge_factor: float = number(at_least=0, default=4.0)  # λ_β = 4 λ_2
    authors_log: bool = True

    def lambdas(self, at: Moment) -> tuple[float, float, float]:
        """λ_c, λ_1 and λ_2 of an epoch."""
        texts = (self.lambda_c, self.lambda_1, self.lambda_2)
        c, one, two = (schedules.coefficient(text, at.epoch, at.epochs, self.authors_log) for text in texts)
        return c, one, two

    def unweighted(
        self, architectures: Mapping[str, Architecture], mixtures: Mapping[str, Mixture]
    ) -> tuple[Tensor, Tensor]:
        """L^O and L^E."""
        raise NotImplementedError

    def regularise(
        self, architectures: Mapping[str, Architecture], mixtures: Mapping[str, Mixture], at: Moment
    ) -> dict[str, Tensor]:
        """The two losses of Eq. (7), each with its weight."""
        operation, edge = self.unweighted(architectures, mixtures)
        return losses.prioritised_terms(
            operation, edge, *self.lambdas(at), factor=self.regulariser_factor, edge_factor=self.edge_factor
        )

    def measure(
        self, architectures: Mapping[str, Architecture], mixtures: Mapping[str, Mixture], at: Moment
    ) -> dict[str, float]:
        """Also L^E without its weight, and the λ."""
        _, edge = self.unweighted(architectures, mixtures)
        lambdas = dict(zip(("lambda_c", "lambda_1", "lambda_2"), self.lambdas(at), strict=True))
        return super().measure(architectures, mixtures, at) | {"edge_loss": float(edge)} | lambdas
