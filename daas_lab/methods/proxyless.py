"""ProxylessNAS (Cai et al., arXiv 1812.00332): binary gates, one drawn path for the weights and two for α."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from daas_lab.methods.method import Architecture, Method, Mixture, Moment
from daas_lab.methods.sampling import DRAWN, computed_of, gumbel, one_hot, straight_through


@dataclass(frozen=True, kw_only=True)
class Proxyless(Method):
    """Gates g: 1 for the path that is computed, drawn from p = softmax(α), else 0. Weights see one drawn path an edge.

    For α two paths are drawn without replacement, p taken over the two, and one of the two computed by a draw from it:
    ∂L/∂α_i = Σ_j ∂L/∂g_j p_j (δ_ij − p_i), i and j of the two. When the optimizer has moved the two, both are shifted
    so that Σ exp(α) of the two is as before: the probabilities of all other paths stay. Evaluated at onehot(argmax α).
    Who is not drawn is not computed. All cells of a type share a step's draws; the paper's penalty on latency is left
    out.
    """

    every_path: bool = False  # compute all, drawn or not: batch statistics of all at every step

    title: ClassVar[str] = "ProxylessNAS"
    colour: ClassVar[str] = "#000000"
    remark: ClassVar[str] = DRAWN
    always: ClassVar[dict[str, Any]] = Method.always | {"every_path": True}

    @classmethod
    def settings(cls, protocol: str, epochs: int) -> dict[str, Any]:
        """As published: no decay of α, which would move the paths that are not drawn, and in the first quarter (40
        epochs of 160) only the weights are trained."""
        return {"arch_weight_decay": 0.0, "warmup": round(0.25 * epochs)}

    def mix(self, architecture: Architecture, cell_type: str, at: Moment) -> Mixture:
        """The gates as operation weights; edges rank by softmax(α)."""
        alphas, betas = architecture
        if not at.training:
            gates, computed = one_hot(alphas), None
        elif at.part == "weights":
            gates = one_hot(alphas + gumbel(alphas, at.generator(cell_type, alphas.device)))
            computed = computed_of(gates, at)
        else:
            two, path = two_paths(alphas.detach(), cell_type, at)
            gates, computed = straight_through(path, alphas.masked_fill(~two, -torch.inf).softmax(dim=1)), two
        return Mixture(gates, torch.ones_like(betas), alphas, computed=None if self.every_path else computed)

    def optimizer(self, groups: list[dict], **rules: Any) -> torch.optim.Optimizer:
        """Adam without momentum, as published: a path that is not drawn does not move."""
        return torch.optim.Adam(groups, betas=(0.0, 0.999), **rules)

    def architecture_gradients(self, step: Any) -> None:
        """Also keeps α as it is before the optimizer moves it."""
        step.memory = {name: both.alphas.detach().clone() for name, both in step.network.architectures().items()}
        step.backward()

    @torch.no_grad()
    def after_step(self, step: Any) -> None:
        """Shift the two: α −= log(Σ exp(α now) / Σ exp(α before)), the sums over the two."""
        for name, before in step.memory.items():
            alphas, (two, _) = step.network.alphas(name), two_paths(before, name, step.network.at)
            now, then = (x.masked_fill(~two, -torch.inf).logsumexp(dim=1, keepdim=True) for x in (alphas, before))
            alphas.sub_(torch.where(two, now - then, 0.0))


def two_paths(alphas: Tensor, cell_type: str, at: Moment) -> tuple[Tensor, Tensor]:
    """Which two paths of each edge a step draws, bool [E, O], and the one of them that is computed, one-hot [E, O]."""
    draws = at.generator(cell_type, alphas.device)
    places = (alphas + gumbel(alphas, draws)).topk(2, dim=1).indices
    two = torch.zeros_like(alphas, dtype=torch.bool).scatter(1, places, True)
    return two, one_hot((alphas + gumbel(alphas, draws)).masked_fill(~two, -torch.inf))
