"""Pieces of a mixed cell, forwards and backwards, that compute exactly what the plain operations do.

Legend: B batch, C channels of an edge, G edges of a group, H = W side of a map, k side of a kernel, M = B H W pixels,
K operations. A grouped map is [B, G C, H, W] in channels_last memory: the channels of one edge lie together.

    1. A depthwise convolution's input gradient is the convolution of the output gradient with the flipped kernel.
    2. Its 5×5 weight gradient is that of two 5×3 kernels on the map shifted by a column; of four 3×3 on small maps.
       Taps that meet nothing but padding (on 1×1 maps all but the middle one) are left out.
    3. A convolution of dilation 2 is a plain one on each of the four sub-grids of every other row and column.
    4. Batch-norm without affine parameters times an architecture weight w is batch-norm of gain w.
    5. y = W d, d of mean m and second moment S = E[d dᵀ]: y has the mean μ = W m, the variance diag(W S Wᵀ) − μ², and
       w (y − μ) / σ = W̃ d + constant, W̃ = w W / σ. So the normalised map is a plain convolution: y is never made.
    6. Backwards, with g the gradient of that map, P = Σ g dᵀ and q = (diag(P Wᵀ) − μ Σg) / (σ M):
           ∂w = M Σ_c q,   ∂d = W̃ᵀ (g − mean g) − Wᵀ diag(w q / σ²) (W d − μ),
           ∂W = (w / σ) (P − Σg mᵀ − (M q / σ) (W S − μ mᵀ)).

Nothing here knows of autograd: `fast_cell.py` calls the forward parts, keeps what they return, and calls the backward
parts with it.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

_aten = torch.ops.aten


def as_pixels_last(x: Tensor) -> Tensor:
    """x in the memory format in which all of this is fast: the channels of a pixel lie together."""
    return x.contiguous(memory_format=torch.channels_last)


def statistics_dtype(x: Tensor) -> torch.dtype:
    """In which the batch statistics of x are held: at least float32."""
    return torch.promote_types(x.dtype, torch.float32)


# --- convolutions -----------------------------------------------------------------------------------------------------


def weight_gradient(x: Tensor, g: Tensor, weight: Tensor, stride: int, padding: list[int], dilation: int = 1) -> Tensor:
    """∂ of a grouped convolution's weight, from its input x and the gradient g of its output."""
    groups = x.shape[1] // weight.shape[1]
    steps, spread, mask = [stride, stride], [dilation, dilation], [False, True, False]
    return _aten.convolution_backward(g, x, weight, None, steps, padding, spread, False, [0, 0], groups, mask)[1]


def depthwise(x: Tensor, weight: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
    """x [B, G C, H, W], kernels [G C, 1, k, k] → [B, G C, H / stride, W / stride]."""
    cut = _unseen(x, weight, dilation)
    if cut:
        weight = weight[..., cut:-cut, cut:-cut]
    if weight.shape[-1] == stride == 1:
        return x * weight.view(-1, 1, 1)
    return F.conv2d(x, weight, None, stride, dilation * (weight.shape[-1] // 2), dilation, weight.shape[0])


def _unseen(x: Tensor, weight: Tensor, dilation: int) -> int:
    """How many outer rings of a kernel meet padding only, wherever on x it lies."""
    return max(0, weight.shape[-1] // 2 - (max(x.shape[2:]) - 1) // dilation)


def depthwise_input_gradient(x: Tensor, g: Tensor, weight: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
    """∂x. Identity 1; a stride leaves zeros between the numbers of g."""
    if stride > 1:
        spread = torch.zeros_like(x)
        spread[:, :, ::stride, ::stride] = g
        g = spread
    return depthwise(g, weight.flip(2, 3), 1, dilation)


def depthwise_weight_gradient(x: Tensor, g: Tensor, weight: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
    """∂ of the kernels. Identity 2, for float32 on CPU, whose 5×5 weight gradient has no fast kernel."""
    k, side, cut = weight.shape[-1], max(x.shape[2:]), _unseen(x, weight, dilation)
    if cut:
        inner = weight[..., cut:-cut, cut:-cut]
        return F.pad(depthwise_weight_gradient(x, g, inner, stride, dilation), (cut,) * 4)
    if (k, side, stride, dilation, x.device.type) == (3, 2, 1, 1, "cpu"):  # faster than if the kernel has to pad
        return weight_gradient(F.pad(x, (1, 1, 1, 1)), g, weight, 1, [0, 0])
    if k != 5 or dilation > 1 or x.device.type != "cpu" or x.dtype != torch.float32:
        return weight_gradient(x, g, weight, stride, [dilation * (k // 2)] * 2, dilation)
    if stride == 1 and side <= 4:
        x = F.pad(x, (1, 1, 1, 1))
        corners = [
            weight_gradient(x, F.pad(g, (2 - a, a, 2 - b, b)), weight[..., :3, :3], 1, [1, 1])
            for b in (2, 0)
            for a in (2, 0)
        ]
        top, bottom = (torch.cat([corners[i], corners[i + 1][..., 1:]], 3) for i in (0, 2))
        return torch.cat([top, bottom[..., 1:, :]], 2)
    if stride == 1:
        # On a map shifted by a column the 5×3 kernel is exact, but for its column that then lacks the map's last.
        left, right = (weight_gradient(F.pad(x, pad), g, weight[..., :3], 1, [2, 1]) for pad in ((1, -1), (-1, 1)))
        middle = left[..., 2:] + weight_gradient(x[..., -1:], g[..., -1:], weight[..., :1], 1, [2, 0])
        return torch.cat([left[..., :2], middle, right[..., 1:]], 3)
    x, shift = F.pad(x, (1, 1)), 2 // stride
    left, right = (
        weight_gradient(x, F.pad(g, pad), weight[..., :3], stride, [2, 1]) for pad in ((0, shift), (shift, 0))
    )
    return torch.cat([left, right[..., 1:]], 3)


def copies(x: Tensor, count: int) -> Tensor:
    """x [B, C, H, W] once for every edge that reads it → [B, count C, H, W]."""
    return x if count == 1 else torch.cat([x] * count, dim=1)


def sum_copies(x: Tensor, count: int) -> Tensor:
    """Backwards: [B, count C, H, W] → [B, C, H, W]."""
    if count == 1:
        return x
    return x.permute(0, 2, 3, 1).unflatten(3, (count, -1)).sum(3).permute(0, 3, 1, 2)


def group_size(x: Tensor, numbers: int) -> int:
    """How many of the edges that leave a node to run together: on CPU, as long as their map, of `numbers`
    numbers for each, stays within the cache."""
    return 1000 if x.device.type != "cpu" else max(1, 2**19 // numbers)


# --- sub-grids --------------------------------------------------------------------------------------------------------


def to_subgrids(x: Tensor) -> Tensor:
    """[B, C, H, W] → [4 B, C, H / 2, W / 2], the four sub-grids of every other row and column."""
    batch, channels, height, width = x.shape
    x = x.permute(0, 2, 3, 1).reshape(batch, height // 2, 2, width // 2, 2, channels)
    x = x.permute(2, 4, 0, 1, 3, 5).reshape(4 * batch, height // 2, width // 2, channels)
    return x.permute(0, 3, 1, 2)


def from_subgrids(x: Tensor) -> Tensor:
    """The inverse of `to_subgrids`."""
    batch, channels, height, width = x.shape
    x = x.permute(0, 2, 3, 1).reshape(2, 2, batch // 4, height, width, channels)
    x = x.permute(2, 3, 0, 4, 1, 5).reshape(batch // 4, 2 * height, 2 * width, channels)
    return x.permute(0, 3, 1, 2)


# --- pools ------------------------------------------------------------------------------------------------------------


def average_pool(x: Tensor, stride: int) -> Tensor:
    """3×3 average over the pixels inside the map; on CPU as a depthwise convolution, which is several times faster."""
    if x.device.type != "cpu":
        return F.avg_pool2d(x, 3, stride, 1, count_include_pad=False)
    return depthwise(x, _ones(x.shape[1], x.dtype), stride) * _inverse_counts(x.shape[1:], stride, x.dtype)


def average_pool_backward(g: Tensor, x: Tensor, stride: int) -> Tensor:
    """∂x."""
    if x.device.type != "cpu":
        return _aten.avg_pool2d_backward(g, x, [3, 3], [stride] * 2, [1, 1], False, False, None)
    g = g * _inverse_counts(x.shape[1:], stride, x.dtype)
    return depthwise_input_gradient(x, g, _ones(x.shape[1], x.dtype), stride)


@lru_cache(maxsize=64)
def _ones(channels: int, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return torch.ones(channels, 1, 3, 3, dtype=dtype)


@lru_cache(maxsize=64)
def _inverse_counts(shape: tuple[int, ...], stride: int, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        counts = 9 * F.avg_pool2d(torch.ones(1, *shape, dtype=torch.float64), 3, stride, 1)
        return as_pixels_last(counts.reciprocal()).to(dtype)


# --- pointwise convolution and batch-norm -----------------------------------------------------------------------------


class Normalisation(NamedTuple):
    """A pair of functions for K pointwise convolutions, each followed by batch-norm and a gain for each edge.

    forward(inputs, W, gains, eps) → outputs, mean, variance, saved
    backward(gs, inputs, W, saved, wanted) → ∂inputs, ∂W, ∂gains, each as far as the three flags `wanted` say

    inputs, outputs, gs and ∂inputs are K maps [B, G_k C, H, W], each with its own number of edges; G is the sum of all
    G_k. W is [G, C, C], gains [G] or None for ones; mean and (unbiased) variance are [G C].
    """

    forward: Callable
    backward: Callable


def normalisation(x: Tensor, channels: int) -> Normalisation:
    """The faster one for maps like x with C = `channels`, both being the same function.

    The second moments cost C² products a pixel, the other way a pass over C numbers, which is dear where the map has
    left the cache. They also need sums in full precision, which products of bfloat16, or of TensorFloat-32 on CUDA,
    are not.
    """
    cuda = x.device.type == "cuda"
    full = x.dtype in (torch.float32, torch.float64) and not (cuda and convolves_in_tf32())
    return BY_MOMENTS if full and (cuda or x.numel() >= 2**20) and channels <= 16 else BY_PIXELS


def convolves_in_tf32() -> bool:
    """Whether cuDNN may round to 19 bits. `torch.compile` cannot look into this switch: to it, it is a constant."""
    cudnn: Any = torch.backends.cudnn  # typed without its `conv`
    return cudnn.conv.fp32_precision == "tf32"


def _edges_of(maps: list[Tensor], C: int) -> list[int]:
    """G_k of each map."""
    return [x.shape[1] // C for x in maps]


def _own_channels(values: Tensor, edges: list[int], C: int) -> tuple[Tensor, ...]:
    """[G, C, 1] → one vector [G_k C] for each map."""
    return values.view(-1).split([G * C for G in edges])


def _own_kernels(W: Tensor, edges: list[int]) -> list[Tensor]:
    """[G, C, C] → one kernel [G_k C, C, 1, 1] for each map."""
    C = W.shape[1]
    return list(W.reshape(-1, C, 1, 1).split([G * C for G in edges]))


def _moments_forward(inputs: list[Tensor], W: Tensor, gains: Tensor | None, eps: float):
    """Identity 5. All small matrices are [G, C, C], all numbers of a channel [G, C, 1]."""
    C = W.shape[1]
    edges = _edges_of(inputs, C)
    pixels = inputs[0].numel() // inputs[0].shape[1]
    kernels = _own_kernels(W, edges)
    m = torch.cat([d.sum((0, 2, 3)) for d in inputs]).view(-1, C, 1).div_(pixels)
    S = [weight_gradient(d, d, kernel, 1, [0, 0]) for d, kernel in zip(inputs, kernels, strict=True)]
    S = torch.cat(S).view(-1, C, C).div_(pixels)
    WS, mean = torch.bmm(W, S), torch.bmm(W, m)
    variance = (WS * W).sum(2, keepdim=True).addcmul_(mean, mean, value=-1).clamp_(min=0)
    inverse = (variance + eps).rsqrt_()
    scale = inverse if gains is None else gains.reshape(-1, 1, 1) * inverse
    kernels, biases = _own_kernels(scale * W, edges), _own_channels((scale * mean).neg_(), edges, C)
    outputs = [
        F.conv2d(d, kernel, bias, groups=G) for d, kernel, bias, G in zip(inputs, kernels, biases, edges, strict=True)
    ]
    variance = variance.view(-1) * (pixels / max(1, pixels - 1))
    return outputs, mean.view(-1), variance, (WS, m, mean, inverse, scale)


def _moments_backward(gs: list[Tensor], inputs: list[Tensor], W: Tensor, saved: tuple, wanted: tuple):
    """Identity 6."""
    WS, m, mean, inverse, scale = saved
    C = W.shape[1]
    edges = _edges_of(inputs, C)
    pixels = gs[0].numel() // gs[0].shape[1]
    pairs = list(zip(inputs, gs, _own_kernels(W, edges), strict=True))
    P = torch.cat([weight_gradient(d, g, kernel, 1, [0, 0]) for d, g, kernel in pairs]).view(-1, C, C)
    sums = {id(g): g for g in gs}
    sums = {key: g.sum((0, 2, 3)) for key, g in sums.items()}
    g_sum = torch.cat([sums[id(g)] for g in gs]).view(-1, C, 1)
    q = (P * W).sum(2, keepdim=True).addcmul_(g_sum, mean, value=-1).mul_(inverse)
    bend = scale * q * inverse / pixels
    grad_inputs = grad_W = grad_gains = None
    if wanted[0]:
        Wt = W.transpose(1, 2)
        back = _own_kernels((scale * W).transpose(1, 2), edges)
        inner = _own_kernels(torch.bmm(Wt, bend * W).neg_(), edges)
        shift = _own_channels(torch.bmm(Wt, bend * mean - scale * (g_sum / pixels)), edges, C)
        grad_inputs = [
            F.conv2d(g, back[k], groups=G).add_(F.conv2d(d, inner[k], shift[k], groups=G))
            for k, (g, d, G) in enumerate(zip(gs, inputs, edges, strict=True))
        ]
    if wanted[1]:
        mt = m.transpose(1, 2)
        grad_W = torch.baddbmm(P, g_sum, mt, alpha=-1).mul_(scale)
        grad_W.addcmul_(bend * pixels, torch.baddbmm(WS, mean, mt, alpha=-1), value=-1)
    if wanted[2]:
        grad_gains = q.sum((1, 2))
    return grad_inputs, grad_W, grad_gains


def _pixels_forward(inputs: list[Tensor], W: Tensor, gains: Tensor | None, eps: float):
    """Identity 4."""
    C = W.shape[1]
    edges = _edges_of(inputs, C)
    dtype = statistics_dtype(inputs[0])
    kernels = _own_kernels(W, edges)
    gains = torch.ones(len(W), dtype=dtype, device=W.device) if gains is None else gains.to(dtype)
    gains = _own_channels(gains.repeat_interleave(C), edges, C)
    mean, variance = torch.zeros(2, len(W) * C, dtype=dtype, device=W.device)
    means, variances = _own_channels(mean, edges, C), _own_channels(variance, edges, C)
    ys, outputs, scales = [], [], []
    for k, d in enumerate(inputs):
        ys.append(F.conv2d(d, kernels[k], groups=edges[k]))
        output, *scale = torch.native_batch_norm(ys[k], gains[k], None, means[k], variances[k], True, 1.0, eps)
        outputs.append(output)
        scales.append(tuple(scale))
    return outputs, mean, variance, (tuple(ys), gains, tuple(scales))


def _pixels_backward(gs: list[Tensor], inputs: list[Tensor], W: Tensor, saved: tuple, wanted: tuple):
    ys, gains, scales = saved
    C = W.shape[1]
    edges = _edges_of(inputs, C)
    kernels = _own_kernels(W, edges)
    back = _own_kernels(W.transpose(1, 2), edges) if wanted[0] else []
    grad_inputs, grad_W, grad_gains = [], [], []
    mask = [wanted[0] or wanted[1], wanted[2], False]
    for k, (g, d) in enumerate(zip(gs, inputs, strict=True)):
        g, grad_gain, _ = _aten.native_batch_norm_backward(g, ys[k], gains[k], None, None, *scales[k], True, 0.0, mask)
        grad_gains.append(grad_gain)
        if wanted[0]:
            grad_inputs.append(F.conv2d(g, back[k], groups=edges[k]))
        if wanted[1]:
            grad_W.append(weight_gradient(d, g, kernels[k], 1, [0, 0]))
    return (
        grad_inputs if wanted[0] else None,
        torch.cat(grad_W).view(W.shape) if wanted[1] else None,
        torch.cat(grad_gains).view(-1, C).sum(1) if wanted[2] else None,
    )


BY_MOMENTS = Normalisation(_moments_forward, _moments_backward)
BY_PIXELS = Normalisation(_pixels_forward, _pixels_backward)
