"""What a discrete cell is: edge budgets, genotypes, their text forms, and strengths + budget → genotype.

Node numbers are those of the paper: 0 and 1 are the outputs of the two previous cells, 2 … N-1 are intermediate, and
node j may take an edge from every i < j. Edges are listed by node, then by source: (0,2) (1,2) (0,3) (1,3) (2,3) …
Nothing here needs torch: strengths are sequences of floats.
"""

import ast
import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from daas_lab.errors import LabError, one_of, refuse
from daas_lab.space.published import PUBLISHED_TUPLES

PRIMITIVES = (
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
# Operations of published cells that the super-network does not offer.
EXTRA_PRIMITIVES = ("sep_conv_7x7", "conv_7x1_1x7")
CELL_TYPES = ("normal", "reduce")


def cell_edges(nodes: int = 6) -> list[tuple[int, int]]:
    """All (source, node) pairs of a cell with `nodes` nodes, in the order of α and β."""
    return [(source, node) for node in range(2, nodes) for source in range(node)]


def input_edges(node: int) -> list[int]:
    """Places in `cell_edges` of the edges that enter `node`, which has as many inputs as its number."""
    first = sum(range(2, node))
    return list(range(first, first + node))


def nodes_of(edges: int) -> int:
    """Number of nodes of a cell with `edges` edges, the inverse of `len(cell_edges(nodes))`."""
    return next(nodes for nodes in range(3, edges + 4) if len(cell_edges(nodes)) >= edges)


# --- edge budgets -----------------------------------------------------------------------------------------------------


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
    "({2+3}:1,4:1,5:1), or normal=…;reduce=… of these; *2 at the end keeps two operations an edge"
)


@dataclass(frozen=True)
class EdgeBudget:
    """How many edges each intermediate node, or group of nodes, keeps in either cell type.

    `operations` is how many operations a kept edge keeps: 1 in every configuration of the paper.
    """

    normal: tuple[Group, ...]
    reduce: tuple[Group, ...]
    operations: int = 1

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
        if len(_listed(self.normal)) != len(_listed(self.reduce)):
            raise refuse("budget", str(self), "for the same number of nodes in both cell types")
        if not 1 <= self.operations <= len(PRIMITIVES):
            raise refuse("operations per edge", self.operations, f"1 to {len(PRIMITIVES)}")

    @property
    def nodes(self) -> int:
        """Number of nodes of a cell, the two inputs included."""
        return 2 + len(_listed(self.normal))

    def groups(self, cell_type: str) -> tuple[Group, ...]:
        """The groups of `"normal"` or `"reduce"` cells."""
        return getattr(self, cell_type)

    def targets(self, cell_type: str) -> dict[int, int]:
        """Node → k_j of Eq. (4); in a group each node has the group's k, as the paper trains 3/14."""
        return {node: min(group.keep, node) for group in self.groups(cell_type) for node in group.nodes}

    @classmethod
    def parse(cls, text: "str | EdgeBudget") -> "EdgeBudget":
        """Read the text form; `str(budget)` gives it back."""
        if isinstance(text, EdgeBudget):
            return text
        body, star, operations = str(text).strip().partition("*")
        if star and not operations.isdecimal():
            raise refuse("budget", text, BUDGET_SYNTAX)
        separate = re.fullmatch(r"\s*normal=([^=;]*);\s*reduce=([^=;]*)", body)
        if separate:
            normal, reduce = (_parse_groups(part, text) for part in separate.groups())
        else:
            normal = reduce = _parse_groups(body, text)
        return cls(normal, reduce, int(operations) if star else 1)

    def __str__(self) -> str:
        text = self._text(self.normal)
        if self.normal != self.reduce:
            text = f"normal={text};reduce={self._text(self.reduce)}"
        return text if self.operations == 1 else f"{text}*{self.operations}"

    @staticmethod
    def _text(groups: tuple[Group, ...]) -> str:
        for name, named in NAMED_BUDGETS.items():
            if groups == named:
                return name
        if [group.nodes for group in groups] == [(node,) for node in range(2, 2 + len(groups))]:
            return ",".join(str(group.keep) for group in groups)
        names = ("{" + "+".join(map(str, g.nodes)) + "}" if len(g.nodes) > 1 else str(g.nodes[0]) for g in groups)
        return ",".join(f"{name}:{group.keep}" for name, group in zip(names, groups, strict=True))


def _listed(groups: Sequence[Group]) -> list[int]:
    return [node for group in groups for node in group.nodes]


def _parse_groups(body: str, text: object) -> tuple[Group, ...]:
    body = body.replace(" ", "")
    if body in NAMED_BUDGETS:
        return NAMED_BUDGETS[body]
    if re.fullmatch(r"\d+(,\d+)*", body):
        return tuple(Group((node,), int(keep)) for node, keep in enumerate(body.split(","), start=2))
    item = r"(?:\{\d+(?:\+\d+)+\}|\d+):\d+"
    if re.fullmatch(rf"{item}(,{item})*", body):
        split = (part.rsplit(":", 1) for part in body.split(","))
        return tuple(Group(tuple(map(int, nodes.strip("{}").split("+"))), int(keep)) for nodes, keep in split)
    raise refuse("budget", text, BUDGET_SYNTAX)


# --- genotypes --------------------------------------------------------------------------------------------------------


class Edge(NamedTuple):
    """One operation between two nodes. Several operations on the same pair are several of these."""

    source: int
    node: int
    operation: str


@dataclass(frozen=True)
class CellGenotype:
    """The edges of a discrete cell in the order of its nodes, and the nodes whose outputs are concatenated."""

    edges: tuple[Edge, ...]
    concat: tuple[int, ...]

    def __post_init__(self):
        if [edge.node for edge in self.edges] != sorted(edge.node for edge in self.edges):
            raise refuse("edges", [tuple(edge) for edge in self.edges], "listed in the order of their nodes")
        fed = {0, 1}
        for edge in self.edges:
            one_of(f"operation of edge ({edge.source}, {edge.node})", edge.operation, PRIMITIVES + EXTRA_PRIMITIVES)
            if edge.node < 2:
                raise refuse(f"node of edge {tuple(edge)}", edge.node, "2 or more: nodes 0 and 1 are the cell's inputs")
            if edge.source not in fed or edge.source >= edge.node:
                inputs = ", ".join(str(node) for node in sorted(fed) if node < edge.node)
                raise refuse(f"source of edge {tuple(edge)}", edge.source, f"an earlier node that has inputs: {inputs}")
            fed.add(edge.node)
        wrong = [node for node in self.concat if node not in fed - {0, 1}]
        if wrong or not self.concat or len(set(self.concat)) != len(self.concat):
            allowed = ", ".join(str(node) for node in sorted(fed - {0, 1}))
            raise refuse("concat", list(self.concat), f"a choice of the intermediate nodes that have inputs: {allowed}")

    @property
    def nodes(self) -> int:
        """Number of nodes up to the last one in use, the two inputs included."""
        return 1 + max((*self.concat, *(edge.node for edge in self.edges)))

    def sources(self, node: int) -> list[int]:
        """The distinct nodes that `node` takes input from."""
        return sorted({edge.source for edge in self.edges if edge.node == node})


@dataclass(frozen=True)
class Genotype:
    """A normal and a reduction cell."""

    normal: CellGenotype
    reduce: CellGenotype

    def cell(self, cell_type: str) -> CellGenotype:
        """The cell of `"normal"` or `"reduce"`."""
        return getattr(self, cell_type)

    def to_json(self) -> dict:
        """The stable form: `{"format": 1, "normal": {"edges": [[source, node, operation], …], "concat": […]}, …}`."""
        cells = {name: self.cell(name) for name in CELL_TYPES}
        return {"format": 1} | {
            name: {"edges": [list(edge) for edge in cell.edges], "concat": list(cell.concat)}
            for name, cell in cells.items()
        }

    @classmethod
    def from_json(cls, data: object) -> "Genotype":
        """Read `to_json`'s form; a cell that cannot exist is refused with the edge and the reason."""
        if not isinstance(data, dict) or data.get("format") != 1 or data["format"] is True:
            raise refuse("format of the genotype", data.get("format") if isinstance(data, dict) else data, "1")
        cells = []
        for name in CELL_TYPES:
            try:
                edges = tuple(Edge(*_edge_types(*entry)) for entry in data[name]["edges"])
                concat = tuple(data[name]["concat"])
                if any(type(node) is not int for node in concat):
                    raise TypeError("concat is [int, …]")
            except (KeyError, TypeError, ValueError) as error:
                expected = 'an object {"edges": [[source, node, operation], …], "concat": [node, …]}'
                raise refuse(f"genotype's {name} cell", data.get(name), expected) from error
            try:
                cells.append(CellGenotype(edges, concat))
            except LabError as error:
                raise LabError(f"genotype's {name} cell: {error}") from error
        return cls(*cells)


def _edge_types(source, node, operation) -> tuple[int, int, str]:
    if not (type(source) is int and type(node) is int and isinstance(operation, str)):
        raise TypeError("an edge is [int, int, str]")
    return source, node, operation


def load_genotype(name_or_path: "str | Path | Genotype | dict") -> Genotype:
    """A published cell by name, else a file: our JSON or the text of a DARTS `Genotype(…)` tuple. A genotype itself,
    or what `to_json` made of it, will do as well."""
    if isinstance(name_or_path, Genotype):
        return name_or_path
    if isinstance(name_or_path, dict):
        return Genotype.from_json(name_or_path)
    if not isinstance(name_or_path, (str, Path)):
        raise refuse("genotype", name_or_path, "a Genotype, its JSON, a file, or one of " + ", ".join(PUBLISHED))
    if str(name_or_path) in PUBLISHED:
        return PUBLISHED[str(name_or_path)]
    path = Path(name_or_path)
    if not path.is_file():
        raise refuse("genotype", str(name_or_path), "a file, or one of " + ", ".join(PUBLISHED))
    try:
        text = path.read_text(encoding="utf-8")
        if text.lstrip().startswith("Genotype("):
            return parse_darts(text)
        return Genotype.from_json(json.loads(text))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise LabError(f"genotype file {path}: not JSON ({error})") from error
    except LabError as error:
        raise LabError(f"genotype file {path}: {error}") from error


def from_darts(normal, normal_concat, reduce, reduce_concat) -> Genotype:
    """DARTS's tuples: a list of `(operation, source)`, two for each node from node 2 on."""
    cells = []
    for pairs, concat in ((normal, normal_concat), (reduce, reduce_concat)):
        if len(pairs) % 2:
            raise refuse("number of (operation, source) pairs", len(pairs), "even, two for each node")
        edges = (Edge(int(source), 2 + k // 2, operation) for k, (operation, source) in enumerate(pairs))
        cells.append(CellGenotype(tuple(edges), tuple(concat)))
    return Genotype(*cells)


# Name → genotype; the cells themselves are in published.py.
PUBLISHED = {name: from_darts(*cells) for name, cells in PUBLISHED_TUPLES.items()}


def parse_darts(text: str) -> Genotype:
    """Read the printed form `Genotype(normal=[('sep_conv_3x3', 1), …], normal_concat=[2, 3, 4, 5], …)`."""
    fields = ("normal", "normal_concat", "reduce", "reduce_concat")
    try:
        call = ast.parse(text.strip(), mode="eval").body
        # range(2, 6) is how DARTS prints its concat.
        values = {}
        for keyword in call.keywords:
            is_range = isinstance(keyword.value, ast.Call) and keyword.value.func.id == "range"
            arguments = keyword.value.args if is_range else [keyword.value]
            literals = [ast.literal_eval(argument) for argument in arguments]
            values[keyword.arg] = list(range(*literals)) if is_range else literals[0]
        return from_darts(*(values[field] for field in fields))
    except LabError:
        raise
    except (SyntaxError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise refuse("DARTS genotype", text[:80], "Genotype(" + "=…, ".join(fields) + "=…)") from error


def format_darts(genotype: Genotype) -> str:
    """The printed DARTS form; refused for a cell that it cannot say (a node without exactly two inputs)."""
    parts = []
    for name in CELL_TYPES:
        cell = genotype.cell(name)
        nodes = [edge.node for edge in cell.edges]
        if nodes != [node for node in range(2, cell.nodes) for _ in range(2)]:
            raise refuse(f"inputs of the {name} cell's nodes", nodes, "two for each node to be written as DARTS tuples")
        pairs = ", ".join(f"({edge.operation!r}, {edge.source})" for edge in cell.edges)
        parts.append(f"{name}=[{pairs}], {name}_concat={list(cell.concat)}")
    return f"Genotype({', '.join(parts)})"


def format_darts_or_json(genotype: Genotype) -> str:
    """The printed DARTS form, or JSON for a cell that it cannot say."""
    try:
        return format_darts(genotype)
    except LabError:
        return json.dumps(genotype.to_json())


# --- strengths + budget → genotype ------------------------------------------------------------------------------------


def select_edges(strengths: Sequence[float], groups: Sequence[Group]) -> list[tuple[int, int]]:
    """The edges that a cell keeps: in each group the `keep` strongest of its candidates that come from a live node.

    `strengths` [E] in the order of `cell_edges`. A node of a group may be left without input; it is then no source for
    later nodes. Equal strengths keep the edge that is listed first.
    """
    index = {edge: e for e, edge in enumerate(cell_edges(2 + len(_listed(groups))))}
    if len(strengths) != len(index):
        raise refuse("number of edge strengths", len(strengths), str(len(index)))
    live, kept = {0, 1}, []
    for group in groups:
        candidates = [edge for edge in group.candidates() if edge[0] in live]
        strongest = sorted(candidates, key=lambda edge: -strengths[index[edge]])[: group.keep]
        kept += strongest
        live |= {node for _, node in strongest}
    return sorted(kept, key=index.__getitem__)


def derive_cell(
    operation_strengths: Sequence[Sequence[float]],
    edge_strengths: Sequence[float],
    groups: Sequence[Group],
    operations: int = 1,
) -> CellGenotype:
    """Operation strengths [E, O] and edge strengths [E] → the cell that keeps the strongest under `groups`."""
    index = {edge: e for e, edge in enumerate(cell_edges(2 + len(_listed(groups))))}
    edges = []
    for source, node in select_edges(edge_strengths, groups):
        strengths = operation_strengths[index[source, node]]
        strongest = sorted(range(len(strengths)), key=lambda o: -strengths[o])[:operations]
        edges += [Edge(source, node, PRIMITIVES[o]) for o in sorted(strongest)]
    return CellGenotype(tuple(edges), tuple(sorted({edge.node for edge in edges})))


def every_edge(nodes: int = 6) -> EdgeBudget:
    """The budget that keeps all edges, so that a picture of its cell shows each."""
    return EdgeBudget.parse(",".join(str(node) for node in range(2, nodes)))


def random_genotype(budget: EdgeBudget, seed: int) -> Genotype:
    """A pair of cells drawn uniformly from those that `budget` allows, by rejection of cells that leave it unmet."""
    rng = random.Random(seed)
    return Genotype(*(_random_cell(budget.groups(name), budget.operations, rng) for name in CELL_TYPES))


def _random_cell(groups: Sequence[Group], operations: int, rng: random.Random) -> CellGenotype:
    # The group choices multiply to all edge sets; a set with an edge from a dropped node is not a cell, so draw again.
    choices = [list(combinations(group.candidates(), group.keep)) for group in groups]
    while True:
        kept = sorted((edge for group in choices for edge in rng.choice(group)), key=lambda edge: edge[::-1])
        live = {0, 1} | {node for _, node in kept}
        if all(source in live for source, _ in kept):
            break
    edges = [
        Edge(source, node, PRIMITIVES[o])
        for source, node in kept
        for o in sorted(rng.sample(range(len(PRIMITIVES)), operations))
    ]
    return CellGenotype(tuple(edges), tuple(sorted({edge.node for edge in edges})))
