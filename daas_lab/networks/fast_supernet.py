"""The super-network of the paper's seven operations, or some of them, computed in another order than supernet.py's: the
same function.

Legend: B batch, C channels of a cell, H = W side of its map, E edges of a cell, O operations of the space.

A cell holds the weights of all its edges in a few stacks, and a training pass through it is one function
(fast_cell.py). A `state_dict` has the names of the readable form. A candidate that retires leaves the stacks.
"""

import math
import sys
from collections.abc import Mapping
from functools import lru_cache
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from daas_lab.errors import refuse
from daas_lab.methods.method import Method, Mixture
from daas_lab.networks import kernels
from daas_lab.networks.fast_cell import MixedCellFunction
from daas_lab.networks.fast_evaluation import evaluate_cell
from daas_lab.networks.fast_layers import CornersFunction, halves
from daas_lab.networks.fast_plan import NORMED, Plan, leaving_order
from daas_lab.networks.supernet import Computed, MixedCell, SuperNetwork
from daas_lab.space.cell_space import NONE, PRIMITIVES, Space
from daas_lab.space.operations import FactorizedReduce

# What the rows of a cell's stacks are called, one kind after the other, as fast_plan.py orders them: of the kernels,
# and of the batch-norms; the pointwise matrices are called as the batch-norms are, without the pools'.
DEPTHWISE = ("sep_conv_{0}x{0}.depthwise_1", "sep_conv_{0}x{0}.depthwise_2", "dil_conv_{0}x{0}.depthwise")
NORMS = (
    "max_pool_3x3.norm",
    "avg_pool_3x3.norm",
    "sep_conv_3x3.norm_1",
    "sep_conv_5x5.norm_1",
    "sep_conv_3x3.norm_2",
    "sep_conv_5x5.norm_2",
    "dil_conv_3x3.norm",
    "dil_conv_5x5.norm",
)


class StackedNorms(nn.BatchNorm2d):
    """Running statistics of many batch-norms without affine parameters, one after the other; the cell names them."""

    def __init__(self, channels: int, rows: int):
        super().__init__(rows * channels, affine=False)

    def keep(self, rows: Tensor, channels: int) -> None:
        """Only these batch-norms, of `channels` each."""
        for name in ("running_mean", "running_var"):
            setattr(self, name, getattr(self, name).view(-1, channels)[rows].view(-1))
        self.num_features = len(rows) * channels

    def among(self, rows: Tensor, batch: Tensor | None, channels: int) -> Tensor:
        """Batch statistics [2, n channels] of these rows, with the running ones of all others, which so stay as they
        are: if they move by a momentum, for they count batches together."""
        running: Any = self.running_mean, self.running_var
        both = torch.stack(running).view(2, -1, channels)
        if batch is not None:
            both[:, rows] = batch.view(2, -1, channels).to(both.dtype)
        return both.view(2, -1)

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        pass

    def _load_from_state_dict(self, *arguments):
        pass


def update_statistics(norms: list[Any], batch: list[tuple[Tensor, Tensor]]) -> None:
    """Move running statistics towards the batch's by each norm's momentum; None: average over all batches so far."""
    torch._foreach_add_([norm.num_batches_tracked for norm in norms], 1)
    by_momentum: dict[float, list[int]] = {}
    for k, norm in enumerate(norms):
        momentum = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        by_momentum.setdefault(momentum, []).append(k)
    for momentum, chosen in by_momentum.items():
        running = [value for k in chosen for value in (norms[k].running_mean, norms[k].running_var)]
        torch._foreach_lerp_(running, [value for k in chosen for value in batch[k]], momentum)


@lru_cache(maxsize=64)
def rows_of(plan: Plan) -> dict[str, list[tuple[str, int]]]:
    """Stack → what its rows are of: the name in an edge of the readable form, and the edge's place in leaving order."""

    def of(*names: str, edges: int = len(leaving_order(plan.nodes))) -> list[tuple[str, int]]:
        having = [plan.candidates[PRIMITIVES.index(name.partition(".")[0])] for name in names]
        return [(name, e) for name, own in zip(names, having, strict=True) for e in own if e < edges]

    rows = {f"depthwise_{k}": of(*(name.format(k) for name in DEPTHWISE)) for k in (3, 5)}
    rows |= {"pointwise": of(*(name.replace("norm", "pointwise") for name in NORMS[2:])), "norms": of(*NORMS)}
    if plan.reduces:
        strided = 2 * (plan.nodes - 2)
        rows |= {f"skip_{n}": of(f"skip_connect.conv_{n}", edges=strided) for n in (1, 2)}
        rows["skip_norms"] = of("skip_connect.norm", edges=strided)
    return rows


@lru_cache(maxsize=64)
def rows_among(whole: Plan, part: Plan, device: torch.device) -> dict[str, Tensor]:
    """Stack of `whole` → which of its rows `part` has."""
    places = {stack: {row: k for k, row in enumerate(rows)} for stack, rows in rows_of(whole).items()}
    found = {stack: [places[stack][row] for row in rows] for stack, rows in rows_of(part).items()}
    with torch.inference_mode(False):
        return {stack: torch.tensor(rows, dtype=torch.int64, device=device) for stack, rows in found.items()}


class FastCell(nn.Module):
    """A cell with all its edges. Its inputs are the outputs of the two cells before it, after a ReLU."""

    preprocess_0: Any  # a FactorizedReduce or what relu_conv_norm makes
    preprocess_1: Any
    order: Tensor
    columns: Tensor
    living: Tensor
    living_edges: Tensor

    def __init__(self, cell: MixedCell, space: Space, partial_channels: int):
        """With the weights of the readable `cell`, so that a seed gives both forms the same."""
        super().__init__()
        self.cell_type = cell.cell_type
        self.preprocess_0, self.preprocess_1 = cell.preprocess_0, cell.preprocess_1
        reduces, C = cell.cell_type == "reduce", self.preprocess_1.conv.out_channels // partial_channels
        order = [space.edges.index(edge) for edge in leaving_order(space.nodes)]
        having = [tuple(k for k, e in enumerate(order) if name in cell.edges[e]) for name in PRIMITIVES]
        # Which of the space's operations the paper's seven are, in their order; O: it has none such.
        places = {name: o for o, name in enumerate(space.operations)}
        columns = [places.get(name, len(places)) for name in PRIMITIVES]
        self.C, self.order_of_edges, self.order_of_operations = C, order, columns
        self.register_buffer("order", torch.tensor(order), persistent=False)
        self.register_buffer("columns", torch.tensor(columns), persistent=False)
        # [E, 7] and [E]: 0 for who has left, whatever weight a method gives it. An edge that still has `none` has not.
        self.register_buffer("living", torch.ones(len(order), len(PRIMITIVES)), persistent=False)
        self.register_buffer("living_edges", torch.ones(len(order)), persistent=False)
        self.norms = StackedNorms(C, sum(len(having[o]) for o in NORMED))
        self.plan = Plan(space.nodes, reduces, partial_channels, self.norms.eps, tuple(having))
        rows = {stack: len(names) for stack, names in rows_of(self.plan).items()}
        self.depthwise_3 = nn.Parameter(torch.empty(rows["depthwise_3"], C, 9))
        self.depthwise_5 = nn.Parameter(torch.empty(rows["depthwise_5"], C, 25))
        self.pointwise = nn.Parameter(torch.empty(rows["pointwise"], C, C))
        if reduces:
            self.skip_1 = nn.Parameter(torch.empty(rows["skip_1"], C // 2, C))
            self.skip_2 = nn.Parameter(torch.empty(rows["skip_2"], C - C // 2, C))
            self.skip_norms = StackedNorms(C, rows["skip_norms"])
        self.layout = self._lay_out()
        self.load_state_dict(cell.state_dict())

    def _lay_out(self) -> dict[str, tuple[str, int, tuple[int, ...]]]:
        """Name in the readable form → where it is here: tensor, place of its first number, shape."""
        layout: dict[str, tuple[str, int, tuple[int, ...]]] = {}
        for stack, rows in rows_of(self.plan).items():
            for row, (name, position) in enumerate(rows):
                name = f"edges.{self.order_of_edges[position]}.{name}"
                if stack.endswith("norms"):
                    for value in ("running_mean", "running_var"):
                        layout[f"{name}.{value}"] = f"{stack}.{value}", row * self.C, (self.C,)
                    layout[f"{name}.num_batches_tracked"] = f"{stack}.num_batches_tracked", 0, ()
                else:
                    one = getattr(self, stack)[0]
                    shape = (self.C, 1, *[math.isqrt(one.shape[1])] * 2) if "depthwise" in stack else (*one.shape, 1, 1)
                    layout[f"{name}.weight"] = stack, row * one.numel(), shape
        return layout

    def keep(self, candidates: Tensor) -> dict[nn.Parameter, tuple[nn.Parameter, Tensor]]:
        """Retires all but `candidates` [E, O]: old stacks → the new ones, and which of the old rows they have."""
        chosen = self._of_the_seven(candidates.tolist())
        self.living = torch.tensor(chosen).to(self.living)
        self.living_edges = candidates[self.order_of_edges].any(dim=1).to(self.living)
        before, self.plan, moved = self.plan, self.plan.only(chosen), {}
        for stack, index in rows_among(before, self.plan, self.order.device).items():
            if stack.endswith("norms"):
                getattr(self, stack).keep(index, self.C)
            else:
                old = getattr(self, stack)
                new = nn.Parameter(old.detach()[index], requires_grad=old.requires_grad)
                setattr(self, stack, new)
                moved[old] = new, index
        self.layout = self._lay_out()
        return moved

    def _of_the_seven(self, chosen: list[list[bool]]) -> list[list[bool]]:
        """Who of [E, O] is chosen, edges in leaving order, operations in that of the paper's seven."""
        return [[(*chosen[e], False)[o] for o in self.order_of_operations] for e in self.order_of_edges]

    def entry(self, key: str, stack: Tensor | None = None) -> Tensor:
        """What the readable form calls `key`: a view of its stack here, or of a `stack` of the same shape."""
        owner, start, shape = self.layout[key]
        stack = attrgetter(owner)(self) if stack is None else stack
        return stack.view(-1)[start : start + math.prod(shape)].view(shape)

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        for key in self.layout:
            value = self.entry(key)
            destination[prefix + key] = value if keep_vars else value.detach()

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, errors):
        for key in self.layout:
            value, own = state_dict.get(prefix + key), self.entry(key).detach()
            if value is None:
                missing_keys.append(prefix + key)
            elif value.shape != own.shape:
                errors.append(f"{prefix + key} is {list(value.shape)}, must be {list(own.shape)}")
            else:
                own.copy_(value)
        known = (f"{prefix}preprocess_0.", f"{prefix}preprocess_1.")
        unexpected_keys += [
            key
            for key in state_dict
            if key.startswith(prefix) and not key.startswith(known) and key.removeprefix(prefix) not in self.layout
        ]

    def forward(self, input_0: Tensor, input_1: Tensor, operations: Tensor, edges: Tensor, computed: Computed = None):
        """Operation weights a [E, O], edge weights b [E], who is `computed` [E, O] → [B, (N-2) C, H, W], and batch
        statistics if training."""
        states = [
            _preprocess(module, x, self.training)
            for module, x in ((self.preprocess_0, input_0), (self.preprocess_1, input_1))
        ]
        zs, batch = [z for z, _ in states], [statistics for _, statistics in states]
        operations = F.pad(operations, (0, 1))[:, self.columns]
        gains = (edges.unsqueeze(1) * operations)[self.order] * self.living
        edges = edges[self.order] * self.living_edges
        names = ("depthwise_3", "depthwise_5", "pointwise", *(("skip_1", "skip_2") if self.plan.reduces else ()))
        stacks = [getattr(self, name) for name in names]
        if not self.training:
            norms = [self.norms, self.skip_norms] if self.plan.reduces else [self.norms]
            running = [(norm.running_mean, norm.running_var) for norm in norms]
            return evaluate_cell(self.plan, *zs, gains, edges, *stacks, running=running), ()
        plan, rows = self.plan, None
        if computed is not None:
            plan = plan.only(self._of_the_seven(computed))
            rows = rows_among(self.plan, plan, zs[0].device)
            stacks = [stack[rows[name]] for name, stack in zip(names, stacks, strict=True)]
        device = zs[0].device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            zs, stacks = [z.to(dtype) for z in zs], [stack.to(dtype) for stack in stacks]
        with torch.autocast(device, enabled=False):
            output, *statistics = MixedCellFunction.apply(plan, *zs, gains, edges, *stacks)
        for (name, norm), own in zip(self._stacked_norms().items(), statistics, strict=False):
            batch.append((own if rows is None else norm.among(rows[name], own, self.C)).unbind())
        return output, batch

    def all_norms(self) -> list[nn.BatchNorm2d]:
        """In the order of the batch statistics."""
        return [self.preprocess_0.norm, self.preprocess_1.norm, *self._stacked_norms().values()]

    def _stacked_norms(self) -> dict[str, Any]:
        skips = {"skip_norms": self.skip_norms} if self.plan.reduces and len(self.skip_1) else {}
        return {"norms": self.norms} | skips


def _preprocess(module: Any, r: Tensor, training: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
    """What `module` computes from an input r that has passed its ReLU; its running statistics wait for the end of the
    forward pass like all others."""
    if isinstance(module, FactorizedReduce):
        y = halves(CornersFunction.apply(r), module.conv_1.weight, module.conv_2.weight)
    else:
        y = F.conv2d(r, module.conv.weight)
    if not training:
        return module.norm(y), ()
    mean, variance = torch.zeros(2, y.shape[1], dtype=kernels.statistics_dtype(y), device=y.device).unbind()
    return F.batch_norm(y, mean, variance, None, None, True, 1.0, module.norm.eps), (mean, variance)


class FastSuperNetwork(SuperNetwork):
    """The super-network with the cells above.

    `checkpointed`: keep only what enters each cell, and run the cell again in the backward pass. All other arguments
    are those of `SuperNetwork`.
    """

    def __init__(self, space: Space, method: Method, *, checkpointed: bool = False, **arguments: Any):
        super().__init__(space, method, **arguments)
        self.checkpointed = checkpointed

    def begin(self, layers: int) -> None:
        """As in the readable form, whose weights the cells take over."""
        super().begin(layers)
        self.cells = nn.ModuleList(FastCell(cell, self.space, self.partial_channels) for cell in self.cells)

    def keep(self, candidates: Mapping[str, Tensor]) -> dict[nn.Parameter, tuple[nn.Parameter, Tensor]]:
        """As in the readable form; here stacks of weights get smaller."""
        self.candidates = dict(candidates)
        moved: dict[nn.Parameter, tuple[nn.Parameter, Tensor]] = {}
        for cell in self.cells:
            moved |= cell.keep(candidates[cell.cell_type])
        return moved

    def forward(self, x: Tensor, mixtures: Mapping[str, Mixture] | None = None) -> Tensor:
        """Images [B, image channels, H, W] → logits [B, classes]; mixed by `mixtures`, by default those of α and β."""
        mixtures = self.mixtures() if mixtures is None else mixtures
        x = self.stem(kernels.as_pixels_last(x))
        states = (F.relu(x),) * 2  # both cells after a cell begin with this ReLU
        norms, statistics, computed = [], [], self.who_is_computed(mixtures)
        for cell in self.cells:
            arguments = (*states, *mixtures[cell.cell_type][:2], computed[cell.cell_type])
            if self.checkpointed and torch.is_grad_enabled():
                x, batch = checkpoint(cell, *arguments, use_reentrant=False)
            else:
                x, batch = cell(*arguments)
            if self.training:
                norms += cell.all_norms()
                statistics += batch
            states = (states[1], F.relu(x))
        if self.training:
            update_statistics(norms, statistics)
        return self.classifier(x.mean(dim=(2, 3)))


def make_supernet(space: Space, method: Method, *, checkpointed: bool = False, **arguments: Any) -> SuperNetwork:
    """The fast form where it can take over, else the readable one, and a line on stderr that says so.

    `arguments`: those of `SuperNetwork`. `checkpointed`: less memory for more time, which only the fast form can.
    """
    if checkpointed:
        check_checkpointed(space, method)
    why = _lacks_fast_form(space, method)
    if not why:
        return FastSuperNetwork(space, method, checkpointed=checkpointed, **arguments)
    print(f"super-network: the readable form, several times slower: the fast one is {why}", file=sys.stderr)
    return SuperNetwork(space, method, **arguments)


def check_checkpointed(space: Space, method: Method) -> None:
    """Raise where the fast form cannot take over: the readable one keeps all of its forward pass."""
    if why := _lacks_fast_form(space, method):
        raise refuse("checkpointed", True, f"false: the fast form, which can, is {why}")


def _lacks_fast_form(space: Space, method: Method) -> str:
    """What the fast form is of, where it cannot take over; else nothing."""
    others = [name for name in space.operations if name not in (*PRIMITIVES, NONE)]
    if others:
        return f"of the paper's seven operations, not {', '.join(others)}"
    if method.affine:
        return "of the paper's seven operations without affine batch-norm"
    # Its weights have other names than those that a method chooses by.
    chooses = type(method).trains_weight is not Method.trains_weight
    return "of the paper's seven operations, and trains all of its weights" if chooses else ""
