"""The super-network's building blocks as autograd functions that compute exactly what the plain operations do.

Legend: B batch, C channels of an edge, G edges of a group, H = W side of a map, k side of a kernel, M = B H W pixels,
K operations that are summed. A grouped map is [B, G C, H, W]: the channels of one edge lie together.

    1. A depthwise convolution's input gradient is the convolution of the output gradient with the flipped kernel.
    2. Its 5×5 weight gradient is that of two 5×3 kernels, on the output gradient shifted by two columns.
    3. A convolution of dilation 2 is a plain one on each of the four sub-grids of every other row and column.
    4. Batch-norm without affine parameters times an architecture weight w is batch-norm of gain w.
    5. y = W d, d of mean m and second moment S = E[d dᵀ]: y has the mean μ = W m, the variance diag(W S Wᵀ) − μ² and
       Σ_k w_k (y_k − μ_k) / σ_k = Σ_k W̃_k d_k + constant, W̃ = w W / σ. So the normalised sum is a plain convolution.
    6. Backwards, with g the gradient of that sum, P = Σ g dᵀ and q = (diag(P Wᵀ) − μ Σg) / (σ M):
           ∂w = M Σ_c q,   ∂d = W̃ᵀ (g − mean g) − Wᵀ diag(w q / σ²) (W d − μ),
           ∂W = (w / σ) (P − Σg mᵀ − (M q / σ) (W S − μ mᵀ)).
"""

from functools import lru_cache

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_convolution_backward = torch.ops.aten.convolution_backward


def as_pixels_last(x: Tensor) -> Tensor:
    """x in the memory format in which all of this is fast: the channels of a pixel lie together."""
    return x.contiguous(memory_format=torch.channels_last)


def is_plain(x: Tensor) -> bool:
    """Whether to leave x to torch's own operations: under autocast, where each of them chooses its precision."""
    return torch.is_autocast_enabled(x.device.type) or x.dtype not in (torch.float32, torch.float64)


def weight_gradient(x: Tensor, g: Tensor, shape: tuple, stride: int, padding: tuple, groups: int) -> Tensor:
    """∂ of a convolution's weight of `shape`, from its input x and the gradient g of its output."""
    steps, ones = [stride, stride], [1, 1]
    weight = x.new_empty(shape)
    mask = [False, True, False]
    return _convolution_backward(g, x, weight, None, steps, list(padding), ones, False, [0, 0], groups, mask)[1]


# --- depthwise convolutions -------------------------------------------------------------------------------------------


def depthwise(x: Tensor, weight: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
    """x [B, C, H, W], kernels [G C, 1, k, k] → [B, G C, H / stride, W / stride].

    Every edge of the group reads x, or its own channels where x has them all.
    """
    copies = weight.shape[0] // x.shape[1]
    if is_plain(x) or dilation > 1:
        padding = dilation * (weight.shape[-1] // 2)
        return F.conv2d(_repeat(x, copies), weight, None, stride, padding, dilation, weight.shape[0])
    return Depthwise.apply(x, weight, stride, copies)


class Depthwise(Function):
    """Identities 1 and 2."""

    @staticmethod
    def forward(ctx, x, weight, stride, copies):
        x = as_pixels_last(x)
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.copies = stride, copies
        return F.conv2d(_repeat(x, copies), weight, None, stride, weight.shape[-1] // 2, 1, weight.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        x, weight = ctx.saved_tensors
        channels, padding = weight.shape[0], weight.shape[-1] // 2
        g, stride = as_pixels_last(g), ctx.stride
        grad_x = grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = _depthwise_weight_gradient(_repeat(x, ctx.copies), g, weight.shape, stride)
        if ctx.needs_input_grad[0]:
            if stride == 1:
                grad_x = F.conv2d(g, weight.flip(2, 3), None, 1, padding, 1, channels)
            else:
                x = _repeat(x, ctx.copies)
                steps, pads, mask = [stride, stride], [padding, padding], [True, False, False]
                grad_x = _convolution_backward(g, x, weight, None, steps, pads, [1, 1], False, [0, 0], channels, mask)[
                    0
                ]
            grad_x = _sum_copies(grad_x, ctx.copies)
        return grad_x, grad_weight, None, None


def _depthwise_weight_gradient(x: Tensor, g: Tensor, shape: tuple, stride: int) -> Tensor:
    channels, _, k, _ = shape
    if k != 5 or x.device.type != "cpu" or x.dtype != torch.float32:
        return weight_gradient(x, g, shape, stride, (k // 2, k // 2), channels)
    x, shift = F.pad(x, (1, 1)), 2 // stride
    left, right = (
        weight_gradient(x, F.pad(g, pad), (channels, 1, 5, 3), stride, (2, 1), channels)
        for pad in ((0, shift), (shift, 0))
    )
    return torch.cat([left, right[..., 1:]], dim=3)


def _repeat(x: Tensor, copies: int) -> Tensor:
    return x if copies == 1 else torch.cat([x] * copies, dim=1)


def _sum_copies(x: Tensor, copies: int) -> Tensor:
    """[B, G C, H, W] → [B, C, H, W], the sum over the group."""
    if copies == 1:
        return x
    return as_pixels_last(x).permute(0, 2, 3, 1).unflatten(3, (copies, -1)).sum(3).permute(0, 3, 1, 2)


def group_size(x: Tensor, edges: int) -> int:
    """How many of the `edges` that leave a node to run together: on CPU, as long as a map stays within the cache."""
    return edges if x.device.type != "cpu" else max(1, min(edges, 2**20 // x.numel()))


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
    if is_plain(x) or x.device.type != "cpu":
        return F.avg_pool2d(x, 3, stride, 1, count_include_pad=False)
    ones = x.new_ones(x.shape[1], 1, 3, 3)
    sums = depthwise(x, ones, stride)
    return sums * _inverse_counts(x.shape[1:], stride, x.dtype)


@lru_cache(maxsize=64)
def _inverse_counts(shape: tuple[int, ...], stride: int, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        counts = 9 * F.avg_pool2d(torch.ones(1, *shape, dtype=dtype), 3, stride, 1)
        return as_pixels_last(counts.reciprocal())


# --- pointwise convolutions and batch-norm ----------------------------------------------------------------------------


def pointwise(x: Tensor, weight: Tensor) -> Tensor:
    """x [B, C, H, W], weight [C', C, 1, 1] → [B, C', H, W]."""
    return F.conv2d(x, weight) if is_plain(x) else Pointwise.apply(x, weight)


class Pointwise(Function):
    """A 1×1 convolution whose input gradient is one too."""

    @staticmethod
    def forward(ctx, x, weight):
        x = as_pixels_last(x)
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        x, weight = ctx.saved_tensors
        g = as_pixels_last(g)
        grad_x = F.conv2d(g, weight.transpose(0, 1).contiguous()) if ctx.needs_input_grad[0] else None
        grad_weight = weight_gradient(x, g, weight.shape, 1, (0, 0), 1) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight


def batch_norm(y: Tensor, gain: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """y [B, C, H, W], gain [C] → normalised y times the gain; mean and unbiased variance [C] of y. Identity 4."""
    dtype = torch.float64 if y.dtype == torch.float64 else torch.float32
    mean, variance = torch.zeros(2, y.shape[1], dtype=dtype, device=y.device)
    return F.batch_norm(y, mean, variance, gain, None, True, 1.0, eps), mean, variance


def pointwise_norm_sum(
    inputs: list[Tensor], weights: list[Tensor], gains: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Σ_k gain_k · batch-norm(W_k d_k), with the statistics of every W_k d_k.

    inputs d_k [B, G C, H, W], weights W_k [G C, C, 1, 1], gains [K, G] → [B, G C, H, W], means and unbiased variances
    [K, G C].
    """
    groups = gains.shape[1]
    channels = weights[0].shape[1]
    if is_plain(inputs[0]) or channels > 32:
        # A pass over C numbers a pixel costs less than the C² products of the second moment.
        gains = gains.repeat_interleave(channels, dim=1)
        outputs = [
            batch_norm(F.conv2d(d, weight, groups=groups), gain, eps)
            for d, weight, gain in zip(inputs, weights, gains.unbind(), strict=True)
        ]
        total, means, variances = zip(*outputs, strict=True)
        return sum(total[1:], start=total[0]), torch.stack(means), torch.stack(variances)
    return PointwiseNormSum.apply(gains, eps, *inputs, *weights)


def pointwise_running_norm_sum(inputs: list[Tensor], weights: list[Tensor], gains: Tensor, norms: list) -> Tensor:
    """The same sum at evaluation: `norms`, K lists of G, and the gains go into the weights of the convolutions."""
    count, groups = gains.shape
    channels = weights[0].shape[1]
    mean = torch.stack([norm.running_mean for row in norms for norm in row]).view(count, -1)
    variance = torch.stack([norm.running_var for row in norms for norm in row]).view(count, -1)
    scale = gains.repeat_interleave(channels, dim=1) * (variance + norms[0][0].eps).rsqrt()
    scaled = [weight * s.view(-1, 1, 1, 1) for weight, s in zip(weights, scale.unbind(), strict=True)]
    bias = -(scale * mean).sum(0)
    total = F.conv2d(inputs[0], scaled[0], bias, groups=groups)
    for d, weight in zip(inputs[1:], scaled[1:], strict=True):
        total = total + F.conv2d(d, weight, groups=groups)
    return total


class PointwiseNormSum(Function):
    """Identities 5 and 6. Keeps the inputs only: neither W d nor its normalised form is ever made.

    All small matrices are [K G, C, C], all numbers of a channel [K G, C, 1].
    """

    @staticmethod
    def forward(ctx, gains, eps, *tensors):
        K, G = gains.shape
        inputs, C = [as_pixels_last(d) for d in tensors[:K]], tensors[K].shape[1]
        pixels, shape = inputs[0].numel() // inputs[0].shape[1], tensors[K].shape
        W = torch.cat(tensors[K:]).view(K * G, C, C)
        m = torch.cat([d.mean((0, 2, 3)) for d in inputs]).view(K * G, C, 1)
        S = torch.cat([weight_gradient(d, d, shape, 1, (0, 0), G) for d in inputs]).view(K * G, C, C).div_(pixels)
        WS, mean = torch.bmm(W, S), torch.bmm(W, m)
        variance = (WS * W).sum(2, keepdim=True).addcmul_(mean, mean, value=-1).clamp_(min=0)
        inverse = (variance + eps).rsqrt_()
        gain = gains.reshape(K * G, 1, 1)
        scale = gain * inverse
        bias = (scale * mean).view(K, G * C).sum(0).neg_()
        total = None
        for d, weight in zip(inputs, (scale * W).view(K * G * C, C, 1, 1).chunk(K), strict=True):
            part = F.conv2d(d, weight, bias, groups=G)
            total, bias = part if total is None else total.add_(part), None
        variances = variance.view(K, G * C) * (pixels / max(1, pixels - 1))
        means = mean.view(K, G * C)
        ctx.mark_non_differentiable(means, variances)
        ctx.set_materialize_grads(False)
        ctx.sizes = K, G, C
        ctx.save_for_backward(gain, W, WS, m, mean, inverse, *inputs)
        return total, means, variances

    @staticmethod
    @once_differentiable
    def backward(ctx, g, *_):
        gain, W, WS, m, mean, inverse, *inputs = ctx.saved_tensors
        K, G, C = ctx.sizes
        grads: list[Tensor | None] = [None] * (2 + 2 * K)
        if g is None:
            return tuple(grads)
        g = as_pixels_last(g)
        pixels, shape = g.numel() // g.shape[1], (G * C, C, 1, 1)
        P = torch.cat([weight_gradient(d, g, shape, 1, (0, 0), G) for d in inputs]).view(K * G, C, C)
        g_sum = g.sum((0, 2, 3)).view(G, C, 1)
        g_sum = torch.cat([g_sum] * K) if K > 1 else g_sum
        q = (P * W).sum(2, keepdim=True).addcmul_(g_sum, mean, value=-1).mul_(inverse / pixels)
        scale = gain * inverse
        bend = scale * q * inverse
        if ctx.needs_input_grad[0]:
            grads[0] = q.sum((1, 2)).mul_(pixels).view(K, G)
        if any(ctx.needs_input_grad[2 : 2 + K]):
            Wt = W.transpose(1, 2)
            back = (scale * W).transpose(1, 2).contiguous()
            inner = torch.bmm(Wt, bend * W).neg_().view(K * G * C, C, 1, 1).chunk(K)
            shift = torch.bmm(Wt, bend * mean - scale * (g_sum / pixels)).view(K * G * C).chunk(K)
            back = back.view(K * G * C, C, 1, 1).chunk(K)
            for k, d in enumerate(inputs):
                if ctx.needs_input_grad[2 + k]:
                    grads[2 + k] = F.conv2d(g, back[k], groups=G).add_(F.conv2d(d, inner[k], shift[k], groups=G))
        if any(ctx.needs_input_grad[2 + K :]):
            mt = m.transpose(1, 2)
            grad_W = torch.baddbmm(P, g_sum, mt, alpha=-1).mul_(scale)
            grad_W.addcmul_(bend, torch.baddbmm(WS, mean, mt, alpha=-1), value=-pixels)
            grads[2 + K :] = grad_W.view(K * G * C, C, 1, 1).chunk(K)
        return tuple(grads)


# --- mixtures ---------------------------------------------------------------------------------------------------------


def mix(weights: Tensor, *maps: Tensor) -> tuple[Tensor, ...]:
    """weights [n, Q], Q maps [B, C, H, W] → the n sums Σ_q w_eq x_q."""
    if is_plain(maps[0]):
        return tuple(sum(w * x for w, x in zip(row, maps, strict=True)) for row in weights.unbind())
    return Mix.apply(weights, *maps)


class Mix(Function):
    """The sums without their terms: those are never kept, and the backward pass adds up in place."""

    @staticmethod
    def forward(ctx, weights, *maps):
        ctx.save_for_backward(weights, *maps)
        return tuple(_weighted_sum(row, maps) for row in weights.unbind())

    @staticmethod
    @once_differentiable
    def backward(ctx, *gs):
        weights, *maps = ctx.saved_tensors
        gs = [as_pixels_last(g) for g in gs]
        grad_weights, grad_maps = None, [None] * len(maps)
        if ctx.needs_input_grad[0]:
            flat = [x.permute(0, 2, 3, 1).reshape(-1) for x in maps]
            products = [torch.dot(f, g) for g in (g.permute(0, 2, 3, 1).reshape(-1) for g in gs) for f in flat]
            grad_weights = torch.stack(products).view(weights.shape)
        if any(ctx.needs_input_grad[1:]):
            grad_maps = [_weighted_sum(column, gs) for column in weights.unbind(1)]
        return grad_weights, *grad_maps


def _weighted_sum(weights: Tensor, maps: list[Tensor]) -> Tensor:
    first, *others = weights.unbind()
    total = maps[0] * first
    for weight, x in zip(others, maps[1:], strict=True):
        total.addcmul_(x, weight)
    return total
