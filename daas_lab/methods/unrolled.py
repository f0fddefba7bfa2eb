"""DARTS's second-order gradient of α and β: through one unrolled step of the network weights (Liu et al., 1806.09055).

With w' = w − ξ (∇_w L_train(w, α) + weight decay and momentum), the step that the optimizer would take:

    d/dα L_val(w', α) = ∇_α L_val(w', α) − ξ ∇²_{α,w} L_train(w, α) · v,   v = ∇_{w'} L_val(w', α)

and the product with the mixed derivative is (∇_α L_train(w + ε v, α) − ∇_α L_train(w − ε v, α)) / 2ε.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


def unrolled_gradients(
    network: nn.Module,
    architecture: list[Tensor],
    weights: list[Tensor],
    optimizer: torch.optim.SGD,
    train_loss: Callable[[], Tensor],
    objective: Callable[[], Tensor],
    radius: float,
) -> list[Tensor | None]:
    """The gradient for each of the `architecture` parameters; None for one that has no part in the objective; with
    ε = `radius` / |v|.

    `train_loss()` and `objective()` compute L_train and L_val of the network as it stands. `optimizer` holds the
    weights in one group; its gradient clipping is not unrolled. Weights and running statistics are left as they were.
    """
    group = optimizer.param_groups[0]
    rate, momentum, decay = group["lr"], group["momentum"], group["weight_decay"]
    buffers = list(network.buffers())
    saved_weights, saved_buffers = ([tensor.detach().clone() for tensor in part] for part in (weights, buffers))

    train_only(trained=weights, resting=architecture)
    change = list(torch.autograd.grad(train_loss(), weights, materialize_grads=True))
    velocities = [optimizer.state.get(weight, {}).get("momentum_buffer") for weight in weights]
    with torch.no_grad():
        torch._foreach_add_(change, saved_weights, alpha=decay)
        if all(velocity is not None for velocity in velocities):
            torch._foreach_add_(change, velocities, alpha=momentum)
        torch._foreach_add_(weights, change, alpha=-rate)

    train_only(trained=[*architecture, *weights], resting=[])
    gradients = torch.autograd.grad(objective(), [*architecture, *weights], allow_unused=True)
    direct, v = gradients[: len(architecture)], gradients[len(architecture) :]
    v = [torch.zeros_like(weight) if part is None else part for part, weight in zip(v, weights, strict=True)]
    epsilon = radius / torch.stack(torch._foreach_norm(v)).norm().clamp(min=1e-12)
    torch._foreach_mul_(v, epsilon)

    train_only(trained=architecture, resting=weights)
    sides = []
    for sign in (1, -1):
        with torch.no_grad():
            torch._foreach_copy_(weights, saved_weights)
            torch._foreach_add_(weights, v, alpha=sign)
        sides.append(torch.autograd.grad(train_loss(), architecture, allow_unused=True))
    with torch.no_grad():
        torch._foreach_copy_(weights, saved_weights)
        torch._foreach_copy_(buffers, saved_buffers)
    return [
        None if gradient is None else gradient - rate * (above - below) / (2 * epsilon)
        for gradient, above, below in zip(direct, *sides, strict=True)
    ]


def train_only(trained: Iterable[Tensor], resting: Iterable[Tensor]) -> None:
    """Turn off the gradients that the next update does not use; its result does not change."""
    for parameter in resting:
        parameter.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)
