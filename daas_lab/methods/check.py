"""What every method has to keep, tried on a method: for our tests on each of ours, and for a user on his own."""

import math
import sys
from collections.abc import Callable, Collection, Mapping
from itertools import product
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from daas_lab.errors import LabError
from daas_lab.fields import one_or_more
from daas_lab.methods import rules
from daas_lab.methods.lookup import method_class
from daas_lab.methods.method import Architecture, Method, Mixture, Moment, check_declaration
from daas_lab.space.budget import NAMED_BUDGETS, EdgeBudget
from daas_lab.space.cell_space import CELL_TYPES, Space
from daas_lab.space.genotype import Genotype

EPOCHS = 10
PARTS = ("architecture", "weights")  # of a step: a method may mix differently in each
# What a search records of every epoch by itself, and what its method measures of it: no term may take such a name, and
# what a method of one's own measures none of the former.
# fmt: off
OF_THE_SEARCH = (
    "epoch", "learning_rate", "architecture_loss", "train_loss", "train_accuracy", "held_out_loss", "held_out_accuracy",
    "regulariser_share", "gap",
)
# fmt: on
MEASURED = (
    *("operation_loss", "edge_loss", "operation_entropy", "largest_operation_weight"),
    *("lambda_c", "lambda_1", "lambda_2"),
)
RECORDED = (*OF_THE_SEARCH, *MEASURED)


def check_method(method: type[Method] | Method | str, budgets: tuple[str, ...] = tuple(NAMED_BUDGETS)) -> None:
    """Raise `LabError` with what the method (a class, one that is made, or a name) does not keep; say nothing if it
    keeps all.

    Finite weights, losses and gradients for any finite α and β; the shapes of `Mixture`; the same weights every time
    at evaluation; a gradient that reaches α, by nobody who is not computed; cells with no more edges than their budget,
    of operations of the space.
    """
    method = method_class(method) if isinstance(method, str) else method
    check_declaration(method if isinstance(method, type) else type(method))
    space = Space()
    for budget in map(EdgeBudget.parse, one_or_more(budgets)):
        made = method if isinstance(method, Method) else _made(method, budget)
        if made.trains:
            check_start(made, space, budget)
            _check_extremes(made, space, budget)
            _check_gradients(made, space, budget)
            _check_evaluation(made, space, budget)
        _check_cells(made, space, budget)


def check_start(method: Method, space: Space, budget: EdgeBudget, epochs: int = EPOCHS, layers: int = 8) -> None:
    """Raise unless the method gives a mixture of the right shape and finite numbers in the first and last epoch, and
    selects a genotype that keeps to the budget's limits; a search does this before it trains anything."""
    with torch.random.fork_rng(devices=[]):
        start = {name: _architecture(method, space, budget, name) for name in CELL_TYPES}
        for epoch, part in product((1, epochs), PARTS):
            _terms(method, start, Moment(epoch, epochs, training=True, part=part, space=space))
        _check_measured(method, start, Moment(1, epochs, space=space))
        _check_plan(method, start, space, epochs, layers)
        if method.trains and type(method).architecture_gradients is Method.architecture_gradients:
            _check_gradients(method, space, budget)
        last, draws = Moment(epochs, epochs, space=space), torch.Generator().manual_seed(0)
        _selected(method, start, budget.unlimited, last)
        if budget.limits:  # which a cell may meet by chance
            for _ in range(3):
                rules.select(rules.OWN, method, {name: _drawn_like(start[name], draws) for name in start}, budget, last)


def _check_plan(method: Method, start: Mapping[str, Architecture], space: Space, epochs: int, layers: int) -> None:
    """What a search asks of a method beside its mixtures."""
    groups = [{"params": [torch.zeros_like(both[k]) for both in start.values()]} for k in range(2)]
    optimizer = _call(method, "optimizer", method.optimizer, groups, lr=0.1, weight_decay=0.0, fused=False)
    if not isinstance(optimizer, torch.optim.Optimizer) or len(optimizer.param_groups) != 2:
        raise _broken(method, "optimizer", "returns no torch.optim.Optimizer of the two groups that it is given")
    for epoch in (1, epochs):
        at = Moment(epoch, epochs, space=space)
        depth = _call(method, "depth", method.depth, layers, at)
        if not isinstance(depth, Integral) or depth < 3:
            raise _broken(
                method, "depth", f"gives {depth!r} in epoch {epoch} of {epochs}, no number of cells, 3 or more"
            )
        place = _call(method, "annealing", method.annealing, at)
        whole = isinstance(place, tuple) and len(place) == 2 and all(isinstance(number, Integral) for number in place)
        if not whole or not 1 <= place[0] <= place[1]:
            raise _broken(method, "annealing", f"gives {place!r} in epoch {epoch} of {epochs}, not (epoch, of epochs)")
    stops = _call(method, "stops", method.stops, epochs, space)
    if not isinstance(stops, Mapping):
        raise _broken(method, "stops", f"returns {stops!r}, no mapping budget → epoch")
    for text, stop in stops.items():
        budget = _call(method, "stops", EdgeBudget.parse, text)
        _call(method, "stops", budget.check, space)
        if str(budget) != text:
            raise _broken(method, "stops", f"names a budget {text!r}, which is written {str(budget)!r}")
        if not isinstance(stop, Integral) or not 1 <= int(stop) <= epochs:
            raise _broken(method, "stops", f"is at {text} after epoch {stop!r}, none of 1 to {epochs}")


def _made(method: type[Method], budget: EdgeBudget) -> Method:
    asks = "budget" in method.__dataclass_fields__
    return _call(method, "__init__", method, **({"budget": str(budget)} if asks else {}))


def _architecture(method: Method, space: Space, budget: EdgeBudget, cell_type: str) -> Architecture:
    shape = [len(space.edges), len(space.operations)]
    start = _call(method, "start", method.start, space, budget.only(cell_type))
    try:
        start = Architecture(*start)
        found = list(start.alphas.shape), list(start.betas.shape)
    except (TypeError, AttributeError):
        raise _broken(method, "start", "returns no Architecture(alphas [E, O], betas [E])") from None
    if found[0] != shape:
        raise _broken(method, "start", f"gives α {found[0]}, not {shape}")
    return start


def _drawn_like(start: Architecture, draws: torch.Generator, scale: float = 1.0) -> Architecture:
    return Architecture(*(scale * torch.randn(part.shape, generator=draws) for part in start))


def _mixture(method: Method, architecture: Architecture, cell_type: str, at: Moment) -> Mixture:
    mixture = _call(method, "mix", method.mix, architecture, cell_type, at)
    try:
        mixture = Mixture(*mixture)
        shape = list(architecture.alphas.shape)
        pairs = zip(("operations", "edges"), mixture[:2], (shape, shape[:1]), strict=True)
        found = [(name, value, list(value.shape), wanted) for name, value, wanted in pairs]
    except (TypeError, AttributeError):
        raise _broken(method, "mix", "returns no Mixture(operations [E, O], edges [E])") from None
    for name, value, shape, wanted in found:
        if shape != wanted:
            raise _broken(method, "mix", f"gives {name} of shape {shape}, not {wanted}")
        if not value.isfinite().all():
            raise _broken(method, "mix", f"gives {name} that are not finite in epoch {at.epoch} of {at.epochs}")
    if (computed := mixture.computed) is not None:
        shape = found[0][3]
        if not isinstance(computed, Tensor) or computed.dtype != torch.bool or list(computed.shape) != shape:
            found = f"{computed.dtype} {list(computed.shape)}" if isinstance(computed, Tensor) else repr(computed)
            raise _broken(method, "mix", f"gives computed = {found}, which is no tensor of truth values {shape}")
        if not at.training:
            raise _broken(method, "mix", "says who is computed where nothing is trained: all are")
        if mixture.operations[~computed].any():
            raise _broken(method, "mix", "gives a weight to a candidate that is not computed")
    return mixture


def _terms(method: Method, architectures: Mapping[str, Architecture], at: Moment) -> list[Tensor]:
    """The terms of the loss, after the mixtures that they are made of."""
    mixtures = {name: _mixture(method, both, name, at) for name, both in architectures.items()}
    terms = _call(method, "regularise", method.regularise, architectures, mixtures, at)
    _check_names(method, "regularise", terms, "term", RECORDED)
    for name, term in terms.items():
        if not isinstance(term, Tensor):
            raise _broken(method, "regularise", f"gives {name} = {term!r}, which is no tensor")
        if term.shape != () or not term.isfinite():
            raise _broken(method, "regularise", f"gives {name} = {term.tolist()}, not one finite number")
    return list(terms.values())


def _check_measured(method: Method, architectures: Mapping[str, Architecture], at: Moment) -> None:
    with torch.no_grad():
        mixtures = {name: _mixture(method, both, name, at) for name, both in architectures.items()}
        numbers = _call(method, "measure", method.measure, architectures, mixtures, at)
    _check_names(method, "measure", numbers, "number", OF_THE_SEARCH)
    for name, value in numbers.items():
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise _broken(method, "measure", f"gives {name} = {value!r}, not one finite number")


def _check_names(method: Method, part: str, found: Any, kind: str, taken: Collection[str]) -> None:
    """Raise unless the method gives its `kind` by names that the search has not `taken`."""
    if not isinstance(found, Mapping):
        raise _broken(method, part, f"returns no mapping name → {kind}")
    for name in found:
        if name in taken:
            raise _broken(method, part, f"names a {kind} {name!r}, as the search names what it records itself")


def _selected(method: Method, architectures: Mapping[str, Architecture], budget: EdgeBudget, at: Moment) -> Genotype:
    cells = _call(method, "select", method.select, architectures, budget, at)
    if not isinstance(cells, Genotype):
        raise _broken(method, "select", f"returns no Genotype: {cells!r}")
    return cells


def _check_extremes(method: Method, space: Space, budget: EdgeBudget) -> None:
    start = {name: _architecture(method, space, budget, name) for name in CELL_TYPES}
    for scale, epoch, part in product((0.0, 1.0, 1e4), (1, EPOCHS), PARTS):
        draws = torch.Generator().manual_seed(0)
        architectures = {name: _drawn_like(start[name], draws, scale) for name in CELL_TYPES}
        leaves = [leaf.requires_grad_() for both in architectures.values() for leaf in both]
        at = Moment(epoch, EPOCHS, training=True, part=part, space=space)
        terms = _terms(method, architectures, at)
        mixture = _mixture(method, architectures["normal"], "normal", at)
        if part == "architecture":
            _check_computed(method, architectures["normal"], mixture)
        total = sum(terms, start=mixture.operations.sum() + mixture.edges.sum())
        if total.requires_grad:
            gradients = torch.autograd.grad(total, leaves, allow_unused=True)
            if not all(gradient is None or gradient.isfinite().all() for gradient in gradients):
                raise _broken(method, "mix", f"has a gradient that is not finite for α and β around {scale:g}")


def _check_gradients(method: Method, space: Space, budget: EdgeBudget) -> None:
    start = _architecture(method, space, budget, "normal")
    leaves = Architecture(*(part.detach().clone().requires_grad_() for part in start))
    at = Moment(1, EPOCHS, training=True, part="architecture", space=space)
    mixture = _mixture(method, leaves, "normal", at)
    _check_computed(method, leaves, mixture)
    terms = _terms(method, dict.fromkeys(CELL_TYPES, leaves), at) if budget.normal == budget.reduce else []
    weights = torch.linspace(-1, 1, mixture.operations.numel()).view_as(mixture.operations)
    total = sum(terms, start=(weights * mixture.operations).sum())
    gradient = None
    if total.requires_grad:
        (gradient,) = torch.autograd.grad(total, [leaves.alphas], allow_unused=True)
    if gradient is None or not gradient.any():
        raise _broken(method, "mix", "leaves α without a gradient")


def _check_computed(method: Method, leaves: Architecture, mixture: Mixture) -> None:
    """In a step of α, which are the `leaves` of the mixture."""
    computed, operations = mixture.computed, mixture.operations
    if computed is None or not operations.requires_grad:
        return
    weights = torch.linspace(-1, 1, operations.numel()).view_as(operations) * ~computed
    given = {"allow_unused": True, "retain_graph": True}
    (gradient,) = torch.autograd.grad(operations, [leaves.alphas], weights.to(operations), **given)
    if gradient is not None and gradient.any():
        raise _broken(method, "mix", "asks a candidate that is not computed for a gradient of α")


def _check_evaluation(method: Method, space: Space, budget: EdgeBudget) -> None:
    start = _architecture(method, space, budget, "normal")
    at = Moment(EPOCHS, EPOCHS, space=space)
    first, second = (_mixture(method, start, "normal", at) for _ in range(2))
    if not all(torch.equal(one, other) for one, other in zip(first[:2], second[:2], strict=True)):
        raise _broken(method, "mix", "gives other weights at evaluation each time: it may draw only while at.training")


def _check_cells(method: Method, space: Space, budget: EdgeBudget) -> None:
    at, draws = Moment(EPOCHS, EPOCHS, space=space), torch.Generator().manual_seed(1)
    start = {name: _architecture(method, space, budget, name) for name in CELL_TYPES}
    for _ in range(3):
        architectures = {name: _drawn_like(start[name], draws) for name in CELL_TYPES}
        cells = _selected(method, architectures, budget, at)
        for name in CELL_TYPES:
            edges = cells.cell(name).edges
            wanted = sum(group.keep for group in budget.groups(name)) * budget.operations
            if len(edges) > wanted:
                raise _broken(method, "select", f"keeps {len(edges)} edges of the {wanted} that budget {budget} allows")
            if unknown := {edge.operation for edge in edges} - set(space.operations):
                raise _broken(method, "select", f"keeps {unknown.pop()!r}, which is no operation of the space")


def _call(method: type[Method] | Method, name: str, function: Callable, *arguments: Any, **named: Any) -> Any:
    """The function's result; whatever it raises is said to be the method's, in one line."""
    try:
        return function(*arguments, **named)
    except LabError as error:
        said = str(error)
        raise (error if said.startswith("method ") else _broken(method, name, f"says: {said}")) from None
    except Exception as error:
        raise _broken(method, name, f"raises {error!r}") from error


def _broken(method: type[Method] | Method, part: str, what: str) -> LabError:
    cls = method if isinstance(method, type) else type(method)
    module = sys.modules.get(cls.__module__)
    file = getattr(module, "__file__", None) or "the notebook"
    return LabError(f"method {file}:{cls.__name__}: {part} {what}")
