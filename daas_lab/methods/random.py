"""Chance: a cell drawn uniformly under the budget, nothing trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from daas_lab.methods.method import Architecture, Method, Moment
from daas_lab.space.budget import EdgeBudget
from daas_lab.space.cost import check_limits, meets
from daas_lab.space.genotype import Genotype
from daas_lab.space.selection import random_genotype


@dataclass(frozen=True, kw_only=True)
class Random(Method):
    """What a search is worth at all is seen beside this."""

    title: ClassVar[str] = "random cells"
    colour: ClassVar[str] = "#777777"
    trains: ClassVar[bool] = False
    asks_for_budget: ClassVar[bool] = True

    def select(self, architectures: Mapping[str, Architecture], budget: EdgeBudget, at: Moment) -> Genotype:
        """Drawn by the search's seed, under a limit until one keeps to it."""
        check_limits(budget, at.space.operations)
        return random_genotype(budget, at.seed, at.space.operations, lambda cells: meets(cells, budget))
