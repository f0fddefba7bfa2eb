"""GOLD-NAS (Bi et al., arXiv 2007.03331; `sunsmarterjie/GOLD_NAS:cifar_search`): one level, and a growing penalty.

    w = σ(α),    p_o = w_o / Σ w over all operations that enter o's node,    n = how many of them have p > η_min
    L = L^C + λ Σ [p_o > η_min] · log(1 + n p_o)    over both cell types; there times reg_flops + μ FLOPs_o, set to 1
    after an epoch, n0 times: out with every p ≤ η_min, and with the smallest p if it is ≤ η_max;
    if n0 or more left: λ ← λ / c0, Δ ← λ0; else Δ ← c0 Δ, λ ← λ + Δ    (at first λ = 0, Δ = λ0)
Left out: that factor, and 0.4 CE of the auxiliary head. There every cell has its own α and the search ends at 240 M
multiply-adds; here a type's cells share α, what the budget keeps stays, and when all else has left λ is 0. α learns
from the weights' images, β holds λ and Δ. The network mixes with b = Σ_o w_o, a = w / b: a cut that keeps b keeps w.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from daas_lab.fields import number
from daas_lab.methods.masks import cell_mask
from daas_lab.methods.method import Architecture, Method, Mixture, Moment
from daas_lab.methods.pruning import alive, node_penalty, prune_smallest
from daas_lab.space.budget import EdgeBudget
from daas_lab.space.cell_space import CELL_TYPES, Space


@dataclass(frozen=True, kw_only=True)
class GoldNAS(Method):
    budget: str = "8/14"
    initial_noise: float = number(at_least=0, default=0.0)  # w = ½ for all, as published
    eta_min: float = number(at_least=0, default=0.01)  # of 2 operations an edge, as published: here times 2/O
    eta_max: float = number(at_least=0, default=0.05)  # likewise
    lambda_0: float = number(above=0, default=1e-2)  # there 1e-5, grown until enough is out; 1e-4 is too low on digits
    growth: float = number(above=1, default=2.0)  # c0, as published
    pace: float = number(above=0, default=0.5)  # n0 ends within this share of the epochs; there n0 is 4, of 392
    momentum: float = number(at_least=0, at_most=1, default=0.9)  # of α, as published

    title: ClassVar[str] = "GOLD-NAS"
    colour: ClassVar[str] = "#DDAA33"
    learns_edges: ClassVar[bool] = True
    betas_of_edges: ClassVar[bool] = False
    edge_weight: ClassVar[str] = "learned"

    @classmethod
    def settings(cls, protocol: str, epochs: int) -> dict[str, Any]:
        return {"arch_learning_rate": 1.0}  # as published; λ adapts to the number of steps

    def start(self, space: Space, budget: EdgeBudget) -> Architecture:
        return Architecture(super().start(space, budget).alphas, torch.tensor([0.0, self.lambda_0]))

    def mix(self, architecture: Architecture, cell_type: str, at: Moment) -> Mixture:
        logits = torch.nn.functional.logsigmoid(architecture.alphas)
        return Mixture(logits.softmax(dim=1), logits.exp().sum(dim=1), logits)

    def regularise(self, architectures: Any, mixtures: Any, at: Moment) -> dict:
        low = self.eta_min * 2 / len(at.space.operations)
        return {"pruning_term": sum(b[0].detach() * node_penalty(a, low) for a, b in architectures.values())}

    def optimizer(self, groups: list[dict], **rules: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, lr=rules["lr"], momentum=self.momentum)  # not fused: see `fuses_sgd`

    def architecture_gradients(self, step: Any) -> None:
        step.batch = step.next_batch
        step.backward()
        step.average()
        largest = step.config.gradient_clip * step.scaler.get_scale()  # clipped as the weights are
        torch.nn.utils.clip_grad_norm_(map(step.network.alphas, CELL_TYPES), largest)

    def after_epoch(self, search: Any) -> None:
        network, config = search.network, search.config
        cells = self.select(network.architectures(), EdgeBudget.parse(self.budget), network.at)
        alphas = torch.stack([network.alphas(name).data for name in CELL_TYPES])
        kept = torch.stack([cell_mask(cells.cell(name), config.space, alphas) for name in CELL_TYPES]) > 0
        free, scale = ~kept & alive(alphas), 2 / len(config.space.operations)
        rounds = 1 + int((~kept).sum().item() / (self.pace * config.epochs))  # n0
        gone = sum(prune_smallest(alphas, free, scale * self.eta_min, scale * self.eta_max) for _ in range(rounds))
        factor, delta = network.betas(CELL_TYPES[0]).tolist()
        grown = min(self.growth * delta, 1.0)  # without an end it would overflow
        factor, delta = (factor / self.growth, self.lambda_0) if gone >= rounds else (factor + grown, grown)
        for name, part in zip(CELL_TYPES, alphas, strict=True):
            network.alphas(name).data.copy_(part)
            network.betas(name).data.copy_(torch.tensor([factor if free.any() else 0.0, delta]))
