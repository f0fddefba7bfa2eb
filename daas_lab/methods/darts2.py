"""DARTS, second order (Liu et al., arXiv 1806.09055): through one unrolled step of the weights."""

from dataclasses import dataclass
from typing import Any, ClassVar

from daas_lab.errors import refuse
from daas_lab.fields import number
from daas_lab.methods.method import Method
from daas_lab.methods.unrolled import unrolled_gradients


@dataclass(frozen=True, kw_only=True)
class Darts2(Method):
    """DARTS with the second-order gradient of α (unrolled.py)."""

    # ε = radius / |v|, as published. Many a ReLU switches within it: the curvature that it measures is smoothed, and
    # can be far from autograd's, which radii of 1e-5 and less give.
    radius: float = number(above=0, default=0.01)

    title: ClassVar[str] = "DARTS, second order"
    colour: ClassVar[str] = "#E69F00"
    always: ClassVar = Method.always | {"radius": 0.01}

    def check(self, config: Any) -> None:
        """A whole step is unrolled, in one part."""
        if config.micro_batches > 1:
            raise refuse("micro_batches", config.micro_batches, f"1 for {self.title}, which unrolls a whole step")
        if config.precision == "float16":
            raise refuse("precision", config.precision, f"float32 or bfloat16 for {self.title}")

    def architecture_gradients(self, step: Any) -> None:
        """Of L_val after the step that the weights' optimizer would take."""
        parameters = step.network.arch_parameters()
        weights = step.weight_optimizer.param_groups[0]["params"]
        gradients = unrolled_gradients(
            step.network, parameters, weights, step.weight_optimizer, step.train_loss, step.objective, self.radius
        )
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
