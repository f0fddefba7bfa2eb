"""Fig. 2: the entropy losses as surfaces, with the direction in which gradient descent moves; Fig. 5: the control
functions of their weights; and the gradient of an edge's α. Theme of `plots.py`.

The formulas are written in numpy, for grids of points; a test holds them against `losses.py`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from daas_lab.methods import schedules
from daas_lab.report.plots import DASHES, INK, LINE_COLOURS, new_axes, themed
from daas_lab.space.cell_space import PRIMITIVES
from daas_lab.space.operations import operation_colour

# Corners of the triangle in which a point of the 3-operation simplex is drawn.
CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(3) / 2]])
TRAJECTORY = "#7A0177"  # the colour of no operation
# The colour map ends beyond the largest value, so that black arrows can be seen on it.
PALE = 1.7


def simplex_entropy(weights) -> np.ndarray:
    """Eq. (2) of weights [..., O] that sum to 1 → [...]."""
    weights = np.asarray(weights, dtype=float)
    return -(weights * np.log(np.where(weights > 0, weights, 1))).sum(-1)


def entropy_flow(weights) -> np.ndarray:
    """da/dt of the weights a = softmax(α) [..., O] when α follows the negative gradient of Eq. (2)."""
    a = np.asarray(weights, dtype=float)
    velocity = a * (np.log(np.where(a > 0, a, 1)) + simplex_entropy(a)[..., None])
    return a * (velocity - (a * velocity).sum(-1, keepdims=True))


def node_loss(betas, keep: float, square_factor: float = 1.0) -> np.ndarray:
    """Eq. (4) of β [..., n] → [...]: entropy of softmax(min(β, 1)) + factor · (Σ positive min(β, 1) − keep)²."""
    capped = np.minimum(np.asarray(betas, dtype=float), 1)
    weights = np.exp(capped - capped.max(-1, keepdims=True))
    entropy = simplex_entropy(weights / weights.sum(-1, keepdims=True))
    return entropy + square_factor * (np.maximum(capped, 0).sum(-1) - keep) ** 2


@themed
def entropy_surface(
    *,
    trajectory=None,
    operations: Sequence[str] = (PRIMITIVES[0], PRIMITIVES[2], PRIMITIVES[3]),
    title: str = "Operation entropy, Eq. (2), and where it pushes",
    ax: Axes | None = None,
) -> Axes:
    """Fig. 2: Eq. (2) over the weights of three operations, arrows along its descent, one corner an operation.

    `trajectory` [T, 3]: a run's weights of these three operations; each entry is rescaled to sum 1.
    """
    ax = ax or new_axes((5.6, 4.6))
    a = _simplex_points(90)
    values = simplex_entropy(a)
    x, y = (a @ CORNERS).T
    shades = ax.tricontourf(x, y, values, levels=12, cmap="Blues", vmin=0, vmax=PALE * values.max())
    ax.figure.colorbar(shades, ax=ax, label="entropy (nats)", shrink=0.8)
    coarse = _simplex_points(13)
    coarse = coarse[(coarse > 0).all(1)]
    flow = entropy_flow(coarse) @ CORNERS
    length = np.linalg.norm(flow, axis=1, keepdims=True)
    # All arrows but that of the resting point have the same length: the direction is what matters.
    flow = np.divide(flow, length, out=np.zeros_like(flow), where=length > 1e-9) * 0.045
    ax.quiver(*(coarse @ CORNERS).T, *flow.T, color=INK, angles="xy", scale_units="xy", scale=1, width=0.004)
    ax.plot(*CORNERS[[0, 1, 2, 0]].T, color=INK, linewidth=1)
    if trajectory is not None:
        points = np.asarray(trajectory, dtype=float)
        _draw_trajectory(ax, points / points.sum(1, keepdims=True) @ CORNERS)
    places = (("center", "top", -8), ("center", "top", -8), ("center", "bottom", 6))
    for corner, name, (ha, va, shift) in zip(CORNERS, operations, places, strict=True):
        style: dict[str, Any] = {"color": operation_colour(name), "fontweight": "bold", "annotation_clip": False}
        ax.annotate(name, corner, (0, shift), textcoords="offset points", ha=ha, va=va, **style)
    ax.set_title(title, pad=20)
    ax.set(aspect="equal", xlim=(-0.12, 1.12), ylim=(-0.1, 0.95))
    ax.axis("off")
    return ax


@themed
def edge_loss_surface(
    *,
    keep: float = 2,
    square_factor: float = 1.0,
    others: Sequence[float] = (1.0,),
    trajectory=None,
    names: tuple[str, str] = ("the first edge", "the second edge"),
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Fig. 2: Eq. (4) over two free β of a node whose other inputs are held at `others`, arrows along its descent.

    `keep` is k, the edges to keep; `trajectory` [T, 2]: the two β of a run over its epochs; `names` of their edges.
    """
    ax = ax or new_axes((5.6, 4.6))
    path = None if trajectory is None else np.asarray(trajectory, dtype=float)
    reach = 2.0 if path is None else max(2.0, 1.1 * float(np.abs(path).max()))
    axis = np.linspace(-reach, reach, 161)

    def loss(first, second):
        rest = [np.full_like(first, value) for value in others]
        return node_loss(np.stack([first, second, *rest], axis=-1), keep, square_factor)

    values = loss(*np.meshgrid(axis, axis))
    limits = {"vmin": values.min(), "vmax": values.min() + PALE * np.ptp(values)}
    shades = ax.contourf(axis, axis, values, levels=16, cmap="Blues", **limits)
    ax.figure.colorbar(shades, ax=ax, label="edge loss of the node")
    x, y = np.meshgrid(*2 * [np.linspace(-0.925 * reach, 0.925 * reach, 13)])
    h = 1e-4
    flow = -np.stack([loss(x + h, y) - loss(x - h, y), loss(x, y + h) - loss(x, y - h)]) / (2 * h)
    length = np.linalg.norm(flow, axis=0)
    flow = np.divide(flow, length, out=np.zeros_like(flow), where=length > 1e-6) * 0.1 * reach
    ax.quiver(x, y, *flow, color=INK, angles="xy", scale_units="xy", scale=1, width=0.004)
    if path is not None:
        _draw_trajectory(ax, path)
    # Above 1 the cap leaves no gradient, below 0 a β is outside the squared term's sum.
    for limit in (0, 1):
        ax.axhline(limit, color="#888888", linestyle=":", linewidth=1)
        ax.axvline(limit, color="#888888", linestyle=":", linewidth=1)
    held = ", ".join(f"{value:g}" for value in others)
    default = f"Edge loss, Eq. (4), k = {keep:g}, factor {square_factor:g}" + (f"; other β = {held}" if held else "")
    ax.set(title=title or default, xlabel=f"β of {names[0]}", ylabel=f"β of {names[1]}")
    ax.grid(visible=False)
    return ax


@themed
def edge_loss_by_factor(factors: Sequence[float] = (1.0, 0.2), keep: int = 2, inputs: int = 3) -> Figure:
    """Eq. (4) of a node on the way from all of its edges to a single one, a line for each factor of its squared term.

    From left to right β falls from 1 to -5, edge after edge; the best number of kept edges is marked on each line.
    """
    falling = np.linspace(1, -5, 121)
    betas = np.ones((1, inputs))
    for e in range(inputs - 1, 0, -1):
        step = np.repeat(betas[-1:], len(falling), axis=0)
        step[:, e] = falling
        betas = np.concatenate([betas, step])
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    ax = figure.subplots()
    kept = inputs - np.arange(len(betas)) / len(falling)
    for factor, colour, dashes in zip(factors, LINE_COLOURS, DASHES, strict=False):
        loss = node_loss(betas, keep, factor)
        ax.plot(kept, loss, color=colour, linestyle=dashes, label=f"factor {factor:g}")
        ax.plot(kept[loss.argmin()], loss.min(), "o", color=colour)
        ax.annotate(f"{loss.min():.2f}", (kept[loss.argmin()], loss.min()), (4, 6), textcoords="offset points")
    ax.invert_xaxis()
    ax.set(
        title=f"Edge loss of a node with {inputs} inputs, {keep} to keep",
        xlabel="edges left (β of the others falls from 1 to -5, one after the other)",
        ylabel="edge loss",
    )
    ax.set_xticks(range(inputs, 0, -1))
    ax.legend()
    return figure


def _simplex_points(steps: int) -> np.ndarray:
    """All points of the 3-simplex whose coordinates are multiples of 1 / `steps`: [points, 3]."""
    i, j = (axis.ravel() for axis in np.meshgrid(*2 * [np.arange(steps + 1)], indexing="ij"))
    return np.stack([i, j, steps - i - j], axis=1)[i + j <= steps] / steps


def _draw_trajectory(ax: Axes, points: np.ndarray) -> None:
    ax.plot(*points.T, color=TRAJECTORY, linewidth=2, label="a run, epoch by epoch")
    ax.plot(*points[0], "o", color="white", markeredgecolor=TRAJECTORY, markersize=7, label="start")
    ax.plot(*points[-1], "o", color=TRAJECTORY, markersize=7, label="end")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3)


@themed
def edge_gradient(
    weights: Sequence[float],
    gradient: Sequence[float],
    differences: Sequence[float],
    operations: Sequence[str],
    *,
    title: str = "",
) -> Figure:
    """An edge's mixture a [O], and the gradient of the loss in its α [O] beside the same by finite differences [O]."""
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    mixture, slope = figure.subplots(1, 2)
    places, colours = range(len(operations)), [operation_colour(name) for name in operations]
    mixture.bar(places, weights, color=colours)
    mixture.set(title="the mixture: a = softmax(α)", ylabel="weight a")
    slope.bar(places, gradient, color=colours)
    slope.plot(places, differences, "x", color=INK, label="finite difference")
    slope.axhline(0, color=INK, linewidth=0.8)
    slope.set(title="∂L/∂α, which descent takes α against", ylabel="gradient of the loss")
    slope.legend()
    for ax in (mixture, slope):
        ax.set_xticks(places, operations, rotation=35, ha="right")
        ax.grid(axis="x", visible=False)
    figure.suptitle(title)
    return figure


@themed
def control_functions(
    epochs: int = 50, *, delayed: bool = False, authors_log: bool = True, ax: Axes | None = None
) -> Axes:
    """Fig. 5: the five control functions of epochs 1 … `epochs`; `delayed` ones are 0 for the first 16 %."""
    ax = ax or new_axes((5.2, 3.8))
    suffix, x = ":delayed" if delayed else "", range(1, epochs + 1)
    for function, colour, dashes in zip(schedules.FUNCTIONS, LINE_COLOURS, DASHES, strict=False):
        y = [schedules.coefficient(function + suffix, epoch, epochs, authors_log) for epoch in x]
        drawstyle = "steps-post" if function in ("const", "step") else "default"
        ax.plot(x, y, color=colour, linestyle=dashes, drawstyle=drawstyle, label=function)
    when = f", delayed by {schedules.delay_epochs(epochs)} epochs" if delayed else ""
    ax.set(title=f"Control functions{when}", xlabel="epoch", ylabel="coefficient λ", ylim=(-0.04, 1.06))
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=5, columnspacing=1, handlelength=1.6)
    return ax


@themed
def control_function_panels(epochs: int = 50) -> Figure:
    """Fig. 5: the control functions that begin at once, and the delayed ones, side by side."""
    figure = Figure(figsize=(9.6, 3.9), layout="constrained")
    for ax, delayed in zip(figure.subplots(1, 2, sharey=True), (False, True), strict=True):
        control_functions(epochs, delayed=delayed, ax=ax)
    return figure
