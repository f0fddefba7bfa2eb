"""One search for every budget (ours): exact budgets, with a k that falls from one budget to the next."""

import math
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any, ClassVar

from torch import Tensor

from daas_lab.errors import LabError, refuse
from daas_lab.fields import number
from daas_lab.methods import schedules
from daas_lab.methods.da2s_exact import LEAST_TRAVEL, DA2SExact, exact_edge_logits
from daas_lab.methods.method import Moment
from daas_lab.methods.projection import between_logits
from daas_lab.space.budget import EdgeBudget, split_budgets
from daas_lab.space.cell_space import CELL_TYPES, Space


@dataclass(frozen=True, kw_only=True)
class DA2SDescent(DA2SExact):
    """`da2s_exact` through several budgets: a stage for each of `through` that keeps more edges than the search's own,
    and a last one for its own; the first begins with `hold` epochs of DARTS.

    In a stage k falls to its budget, in the share `fall` of the epochs, and what is left settles, while the weights'
    learning rate falls along a cosine of its own. The losses grow and T falls in the first stage alone. At the end of a
    stage the cell of its budget stands, and the weights are kept. Where nodes are joined that had a k each (3/14), b
    goes from the one projection over to the other, whose scores grow by 1 / T.
    """

    through: str = "8/14 6/14 5/14 4/14"
    first: float = number(above=0, at_most=1, default=0.4)  # share of the first stage in the epochs after `hold`

    title: ClassVar[str] = "one search for all"
    colour: ClassVar[str] = "#66CC99"

    @classmethod
    def settings(cls, protocol: str, epochs: int) -> dict[str, Any]:
        """The first seventh of the search is DARTS."""
        return {"hold": round(epochs / 7), "least_travel": LEAST_TRAVEL}

    def __post_init__(self):
        super().__post_init__()
        try:
            budgets = [EdgeBudget.parse(text) for text in split_budgets(self.through)]
        except LabError as error:
            raise LabError(f"through: {error}") from None
        if any(budget.limits for budget in budgets):
            raise refuse("through", self.through, "budgets of edges, without a limit of cost: that is for the cut")
        object.__setattr__(self, "through", " ".join(map(str, budgets)))

    def check(self, config: Any) -> None:
        """Raise where a node would keep more edges than a stage before had left it."""
        path = [*map(EdgeBudget.parse, self.stops(config.epochs, config.space))]
        for before, budget in pairwise(path):
            for name, node in product(CELL_TYPES, range(2, config.nodes)):
                if budget.targets(name)[node] > before.targets(name)[node]:
                    why = f"{budget} keeps more edges of node {node} than {before}, which comes before it"
                    raise refuse("through", self.through, f"budgets of which each only takes edges away: {why}")

    def stops(self, epochs: int, space: Space) -> dict[str, int]:
        last, left = EdgeBudget.parse(self.budget), epochs - self.hold
        through = [budget for budget in map(EdgeBudget.parse, self.through.split()) if budget.nodes == space.nodes]
        path = [*sorted((b for b in through if b.edges > last.edges), key=lambda b: -b.edges), last]
        later = (1 - self.first) / max(1, len(path) - 1)
        ends = [math.ceil(left * (self.first + later * s) - 1e-9) for s in range(len(path) - 1)]
        return {str(budget): self.hold + end for budget, end in zip(path, [*ends, left], strict=True)}

    def stage(self, at: Moment) -> tuple[str, str, int, int]:
        """The budgets that the stage of an epoch begins with (none: "") and ends with; the epochs after which."""
        before, begun = "", 0
        stages = {stop: budget for budget, stop in self.stops(at.epochs, at.space).items()}  # the last of an epoch's
        for stop, budget in stages.items():
            if at.epoch <= stop:
                break
            before, begun = budget, stop
        return before, budget, begun, stop

    def annealing(self, at: Moment) -> tuple[int, int]:
        *_, begun, stop = self.stage(at)
        return at.epoch - begun, stop - begun

    def opening(self, at: Moment) -> Moment:
        return at._replace(epoch=min(at.epoch, first := min(self.stops(at.epochs, at.space).values())), epochs=first)

    def edge_logits(self, scores: Tensor, cell_type: str, at: Moment) -> Tensor:
        before, budget, begun, stop = self.stage(at)
        groups, begun = EdgeBudget.parse(budget).groups(cell_type), max(begun, self.hold)
        progress = min(1.0, max(0, at.epoch - begun) / (max(1, stop - begun) * self.fall))
        if not before:
            return exact_edge_logits(scores, groups, progress, self.node_worth)
        start = EdgeBudget.parse(before).groups(cell_type)
        if [group.nodes for group in start] == [group.nodes for group in groups]:
            return exact_edge_logits(scores, groups, progress, self.node_worth, start)
        # What is left of the node that goes has to be nothing, for batch-norm gives it its full size again.
        sharp = scores / self.temperature ** schedules.progress(at.epoch, stop, begun)
        apart = exact_edge_logits(scores, start, 1.0, self.node_worth)
        joined = exact_edge_logits(sharp, groups, 1.0, self.node_worth)
        return between_logits(apart, joined, progress)
