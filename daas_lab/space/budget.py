"""Edge budgets: how many edges each node of a cell keeps, and the text form in which users write them.

A budget may also limit what the cell's network costs, `8/14; multiply_adds<=300M`: the parameters or multiply-adds of
the paper's CIFAR-10 network (36 channels, 20 cells, no auxiliary head), as `daas-lab count` and the tables have them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import NamedTuple

from daas_lab.errors import refuse
from daas_lab.space.cell_space import Space


class Group(NamedTuple):
    """Nodes that share a number of edges to keep; a single node is a group of one."""

    nodes: tuple[int, ...]
    keep: int

    def candidates(self) -> list[tuple[int, int]]:
        """Edges that enter the group. Those inside it are none: a node left without input offers no edge."""
        return [(source, node) for node in self.nodes for source in range(node) if source not in self.nodes]


NAMED_BUDGETS = {
    "8/14": (Group((2,), 2), Group((3,), 2), Group((4,), 2), Group((5,), 2)),
    "6/14": (Group((2,), 1), Group((3,), 1), Group((4,), 2), Group((5,), 2)),
    "5/14": (Group((2,), 1), Group((3,), 1), Group((4,), 1), Group((5,), 2)),
    "4/14": (Group((2,), 1), Group((3,), 1), Group((4,), 1), Group((5,), 1)),
    "3/14": (Group((2, 3), 1), Group((4,), 1), Group((5,), 1)),
}
BUDGET_SYNTAX = (
    "a configuration of the paper (" + ", ".join(NAMED_BUDGETS) + "), counts per node (1,1,2,2), groups "
    "({2+3}:1,4:1,5:1), or normal=…;reduce=… of these; *2 at the end keeps two operations an edge; limits may follow, "
    "; parameters<=3.3M or ; multiply_adds<=300M (M: 10^6)"
)
QUANTITIES = ("parameters", "multiply_adds")  # what a limit may be of
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}


_COUNT = r"[0-9]{1,3}"  # of edges or operations, or a node's number


@dataclass(frozen=True)
class EdgeBudget:
    """How many edges each intermediate node, or group of nodes, keeps in either cell type.

    `operations` is how many operations a kept edge keeps: 1 in every configuration of the paper. `limits`: some of
    `QUANTITIES`, in their order, each with the most that the network of both cells may have.
    """

    normal: tuple[Group, ...]
    reduce: tuple[Group, ...]
    operations: int = 1
    limits: tuple[tuple[str, int], ...] = ()

    def __post_init__(self):
        for groups in (self.normal, self.reduce):
            listed = [node for group in groups for node in group.nodes]
            if listed != list(range(2, 2 + len(listed))) or not listed:
                raise refuse("budget", self._text(groups), "groups that list the nodes 2, 3, … once each, in order")
            sources = 2  # nodes that are sure to have input: a group may leave some of its own without
            for group in groups:
                possible = sources * len(group.nodes)
                if not 1 <= group.keep <= possible:
                    nodes = "+".join(map(str, group.nodes))
                    raise refuse(f"budget of node {nodes}", group.keep, f"1 to {possible}, the edges it can take")
                sources += -(-group.keep // sources)
        if len(nodes_in(self.normal)) != len(nodes_in(self.reduce)):
            raise refuse("budget", str(self), "for the same number of nodes in both cell types")
        if self.operations < 1:
            raise refuse("operations per edge", self.operations, "1 or more")

    def check(self, space: Space) -> None:
        """Raise unless cells of this space can keep what the budget says."""
        if self.nodes != space.nodes:
            raise refuse("budget", str(self), f"for {space.nodes - 2} intermediate nodes (nodes = {space.nodes})")
        if self.operations > len(space.choices):
            raise refuse("operations per edge", self.operations, f"1 to {len(space.choices)}")

    @property
    def nodes(self) -> int:
        """Number of nodes of a cell, the two inputs included."""
        return 2 + len(nodes_in(self.normal))

    @property
    def edges(self) -> int:
        """Number of edges kept in both cells."""
        return sum(group.keep for groups in (self.normal, self.reduce) for group in groups)

    @property
    def unlimited(self) -> "EdgeBudget":
        """The same edges, whatever they cost."""
        return replace(self, limits=())

    def groups(self, cell_type: str) -> tuple[Group, ...]:
        """The groups of `"normal"` or `"reduce"` cells."""
        return getattr(self, cell_type)

    def only(self, cell_type: str) -> "EdgeBudget":
        """The budget with this cell type's groups in both."""
        groups = self.groups(cell_type)
        return EdgeBudget(groups, groups, self.operations)

    def targets(self, cell_type: str) -> dict[int, int]:
        """Node → k_j of Eq. (4); in a group each node has the group's k, as the paper trains 3/14."""
        return {node: min(group.keep, node) for group in self.groups(cell_type) for node in group.nodes}

    @classmethod
    def parse(cls, text: "str | EdgeBudget") -> "EdgeBudget":
        """Read the text form; `str(budget)` gives it back."""
        if isinstance(text, EdgeBudget):
            return text
        parts = _tight(str(text)).split(";")
        limits = dict(_parse_limit(part, text) for part in parts if "<" in part)
        if len(limits) < sum("<" in part for part in parts):
            raise refuse("budget", text, "one with a limit for each quantity at most")
        body, star, operations = ";".join(part for part in parts if "<" not in part).partition("*")
        if star and not re.fullmatch(_COUNT, operations):
            raise refuse("budget", text, BUDGET_SYNTAX)
        separate = re.fullmatch(r"normal=([^=;]*);reduce=([^=;]*)", body)
        if separate:
            normal, reduce = (_parse_groups(part, text) for part in separate.groups())
        else:
            normal = reduce = _parse_groups(body, text)
        ordered = tuple((name, limits[name]) for name in QUANTITIES if name in limits)
        return cls(normal, reduce, int(operations) if star else 1, ordered)

    def __str__(self) -> str:
        text = self._text(self.normal)
        if self.normal != self.reduce:
            text = f"normal={text};reduce={self._text(self.reduce)}"
        text = text if self.operations == 1 else f"{text}*{self.operations}"
        return ";".join([text, *(f"{name}<={amount(most)}" for name, most in self.limits)])

    @staticmethod
    def _text(groups: tuple[Group, ...]) -> str:
        for name, named in NAMED_BUDGETS.items():
            if groups == named:
                return name
        if [group.nodes for group in groups] == [(node,) for node in range(2, 2 + len(groups))]:
            return ",".join(str(group.keep) for group in groups)
        names = ("{" + "+".join(map(str, g.nodes)) + "}" if len(g.nodes) > 1 else str(g.nodes[0]) for g in groups)
        return ",".join(f"{name}:{group.keep}" for name, group in zip(names, groups, strict=True))


def nodes_in(groups: Sequence[Group]) -> list[int]:
    return [node for group in groups for node in group.nodes]


def _parse_groups(body: str, text: object) -> tuple[Group, ...]:
    if body in NAMED_BUDGETS:
        return NAMED_BUDGETS[body]
    if re.fullmatch(rf"{_COUNT}(,{_COUNT})*", body):
        return tuple(Group((node,), int(keep)) for node, keep in enumerate(body.split(","), start=2))
    item = rf"(?:\{{{_COUNT}(?:\+{_COUNT})+\}}|{_COUNT}):{_COUNT}"
    if re.fullmatch(rf"{item}(,{item})*", body):
        split = (part.rsplit(":", 1) for part in body.split(","))
        return tuple(Group(tuple(map(int, nodes.strip("{}").split("+"))), int(keep)) for nodes, keep in split)
    raise refuse("budget", text, BUDGET_SYNTAX)


def _parse_limit(part: str, text: object) -> tuple[str, int]:
    """`"multiply_adds<=300M"` → `("multiply_adds", 300_000_000)`."""
    found = re.fullmatch(r"(\w+)<=([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([kMG]?)", part)
    most = Decimal(found[2]) * _UNITS[found[3]] if found else Decimal()
    if not found or found[1] not in QUANTITIES or most != int(most):
        allowed = " or ".join(f"{name}<=" for name in QUANTITIES)
        raise refuse("budget", text, f"limited by {allowed} and a whole number, as 300M, 3.3M or 500k (M: 10^6)")
    return found[1], int(most)


def amount(number: int) -> str:
    """A limit's number as it is written, exactly: 3300000 → 3.3M."""
    unit = next((unit for unit in reversed(_UNITS) if number >= _UNITS[unit]), "")
    whole, rest = divmod(number, _UNITS[unit])
    digits = f"{rest:0{len(str(_UNITS[unit])) - 1}d}".rstrip("0") if rest else ""
    return f"{whole}{'.' * bool(digits)}{digits}{unit}"


def split_budgets(text: str) -> list[str]:
    """The texts of budgets with spaces between them; there may be spaces within them too, beside their signs."""
    return _tight(text).split()


def _tight(text: str) -> str:
    """Without the spaces beside its signs, and around it."""
    return re.sub(r"\s*(<=|[;,:=*/+])\s*|(?<=\{)\s+|\s+(?=\})", r"\1", text).strip()


def two_edges(nodes: int = 6) -> EdgeBudget:
    """The paper's 8/14 for cells of any number of nodes: each keeps two edges."""
    return EdgeBudget.parse(",".join("2" for _ in range(2, nodes)))


def every_edge(nodes: int = 6) -> EdgeBudget:
    """The budget that keeps all edges, so that a picture of its cell shows each."""
    return EdgeBudget.parse(",".join(str(node) for node in range(2, nodes)))
