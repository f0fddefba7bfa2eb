"""One search for every budget (ours): exact budgets, with a k that falls from one budget to the next."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from daas_lab.errors import LabError
from daas_lab.methods.da2s_exact import LEAST_TRAVEL, DA2SExact, exact_edge_logits
from daas_lab.methods.method import Moment
from daas_lab.methods.projection import between_logits
from daas_lab.space.budget import EdgeBudget, split_budgets
from daas_lab.space.cell_space import Space


@dataclass(frozen=True, kw_only=True)
class DA2SDescent(DA2SExact):
    """`da2s_exact` through several budgets: after `hold` a stage for each of `through` that keeps more edges than the
    search's own, and a last one for its own.

    In a stage k falls to its budget, in the share `fall` of the epochs, and what is left settles. The losses grow and
    T falls in the first stage alone. At the end of a stage the cell of its budget stands, and the weights are kept.
    Where nodes are joined that had a k each (3/14), b goes from the one projection over to the other.
    """

    through: str = "8/14 6/14 5/14 4/14"

    title: ClassVar[str] = "exact, one search"
    colour: ClassVar[str] = "#66CC99"

    @classmethod
    def settings(cls, protocol: str, epochs: int) -> dict[str, Any]:
        """A fifth of the search is DARTS. The weights' learning rate ends where they can still follow the last cut."""
        return {"hold": round(0.2 * epochs), "least_travel": LEAST_TRAVEL, "learning_rate_min": 0.005}

    def __post_init__(self):
        super().__post_init__()
        try:
            budgets = [str(EdgeBudget.parse(text)) for text in split_budgets(self.through)]
        except LabError as error:
            raise LabError(f"through: {error}") from None
        object.__setattr__(self, "through", " ".join(budgets))

    def path(self, nodes: int) -> list[EdgeBudget]:
        """The budgets of the stages, for cells of so many nodes."""
        last = EdgeBudget.parse(self.budget)
        through = map(EdgeBudget.parse, self.through.split())
        passed = [budget for budget in through if budget.nodes == nodes and _edges(budget) > _edges(last)]
        return [*sorted(passed, key=_edges, reverse=True), last]

    def stops(self, epochs: int, space: Space) -> dict[str, int]:
        path, left = self.path(space.nodes), epochs - self.hold
        return {str(budget): self.hold - (-left * s // len(path)) for s, budget in enumerate(path, start=1)}

    def opening(self, at: Moment) -> Moment:
        return at._replace(epoch=min(at.epoch, first := min(self.stops(at.epochs, at.space).values())), epochs=first)

    def edge_logits(self, scores: Tensor, cell_type: str, at: Moment) -> Tensor:
        begun, before = self.hold, None
        stages = {stop: budget for budget, stop in self.stops(at.epochs, at.space).items()}
        for stop, budget in stages.items():  # of those that share an epoch the last
            groups = EdgeBudget.parse(budget).groups(cell_type)
            if at.epoch <= stop:
                break
            begun, before = stop, groups
        progress = min(1.0, max(0, at.epoch - begun) / (max(1, stop - begun) * self.fall))
        if before is None or [group.nodes for group in before] == [group.nodes for group in groups]:
            return exact_edge_logits(scores, groups, progress, self.node_worth, before)
        apart, joined = (exact_edge_logits(scores, end, 1.0, self.node_worth) for end in (before, groups))
        return between_logits(apart, joined, progress)


def _edges(budget: EdgeBudget) -> int:
    return sum(group.keep for groups in (budget.normal, budget.reduce) for group in groups)
