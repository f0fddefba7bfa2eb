"""What moves α in a search: the loss, or the regulariser beside it."""

import torch
from torch import Tensor

from daas_lab.methods.pruning import alive
from daas_lab.networks.supernet import SuperNetwork
from daas_lab.space.cell_space import CELL_TYPES


class RegulariserShare:
    """The share of an epoch's movement of α that the gradient of the method's regulariser makes.

    Adam moves α by lr · m / (√v + ε), m the running mean of the gradients, which is linear in them. With m taken as the
    gradient of the step, for it reaches back no more than two steps, the regulariser's part of a step is
    lr · g / (√v + ε), g its gradient and v that of all terms. The share is the sum of these parts over the epoch, along
    the whole movement Δα: ⟨Σ, Δα⟩ / ⟨Δα, Δα⟩. The rest is the loss's and weight decay's. Below 0 it pulled against the
    movement, above 1 the rest did.
    """

    def __init__(self, network: SuperNetwork, optimizer: torch.optim.Optimizer):
        self.network, self.optimizer = network, optimizer
        self.alphas = [network.alphas(name) for name in CELL_TYPES]
        self.start = [alphas.detach().clone() for alphas in self.alphas]
        self.moved = [torch.zeros_like(alphas) for alphas in self.start]
        self.gradients: list[Tensor] = []
        self.before: list[Tensor] = []  # α before the step
        self.group = next(g for g in optimizer.param_groups if any(p is self.alphas[0] for p in g["params"]))
        # Of another rule the parts are not known.
        self.measures = isinstance(optimizer, torch.optim.Adam) and self.group["lr"] > 0

    def before_step(self) -> None:
        """Take the regulariser's gradient where α stands."""
        if not self.measures:
            return
        network = self.network
        found = network.method.regularise(network.architectures(), network.mixtures(), network.at)
        terms = [term for term in found.values() if term.requires_grad]  # edges that are all kept have none
        self.measures = bool(terms)
        if terms:
            self.gradients = list(torch.autograd.grad(terms, self.alphas, materialize_grads=True))
            self.before = [alphas.detach().clone() for alphas in self.alphas]

    @torch.no_grad()
    def after_step(self) -> None:
        """Add the regulariser's part of the step, if the optimizer has made one: where a gradient is not finite in
        float16 it makes none, and of the first it then has no state, or one of 0 / 0."""
        if not self.measures:
            return
        group = self.group
        for alphas, before, gradient, moved in zip(self.alphas, self.before, self.gradients, self.moved, strict=True):
            state = self.optimizer.state[alphas]
            if "exp_avg_sq" not in state:
                continue
            variance = state["exp_avg_sq"] / (1 - group["betas"][1] ** state["step"])
            part = group["lr"] * gradient / (variance.sqrt() + group["eps"])
            moved -= torch.where((alphas != before).any(), part, 0.0)

    @torch.no_grad()
    def share(self) -> float | None:
        """Of the epoch; None where there is no regulariser, or α has not moved. Who has left counts for nothing: only
        weight decay still moves its α."""
        if not self.gradients:
            return None
        whole = [(alphas - start) * alive(alphas) for alphas, start in zip(self.alphas, self.start, strict=True)]
        along, square = (
            float(sum(((a * b).sum() for a, b in zip(parts, whole, strict=True)), start=torch.zeros(())))
            for parts in (self.moved, whole)
        )
        return along / square if square else None
