"""What a discrete cell is. Node numbers are those of `cell_space`."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from daas_lab.errors import LabError, refuse, suggestion
from daas_lab.space.cell_space import CELL_TYPES, known_operations

MOST_NODES = 100  # more than any cell has: a larger number is a slip, and would be drawn for hours


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
            _check_operation(edge)
            if not 2 <= edge.node < MOST_NODES:
                allowed = f"2 to {MOST_NODES - 1}: nodes 0 and 1 are the cell's inputs"
                raise refuse(f"node of edge {tuple(edge)}", edge.node, allowed)
            if edge.source not in fed or edge.source >= edge.node:
                inputs = ", ".join(str(node) for node in sorted(fed) if node < edge.node)
                raise refuse(f"source of edge {tuple(edge)}", edge.source, f"an earlier node that has inputs: {inputs}")
            fed.add(edge.node)
        wrong = [node for node in self.concat if node not in fed - {0, 1}]
        if wrong or not self.concat or len(set(self.concat)) != len(self.concat):
            allowed = ", ".join(str(node) for node in sorted(fed - {0, 1}))
            raise refuse("concat", list(self.concat), f"a choice of the intermediate nodes that have inputs: {allowed}")

    @classmethod
    def of(cls, edges: Iterable[Edge]) -> "CellGenotype":
        """The cell of these edges in which every node that is fed is concatenated."""
        edges = tuple(edges)
        return cls(edges, tuple(sorted({edge.node for edge in edges})))

    @property
    def nodes(self) -> int:
        """Number of nodes up to the last one in use, the two inputs included."""
        return 1 + max((*self.concat, *(edge.node for edge in self.edges)))

    def sources(self, node: int) -> list[int]:
        """The distinct nodes that `node` takes input from."""
        return sorted({edge.source for edge in self.edges if edge.node == node})


NAMING = "--own, in a search or retraining --set operations=, in Python load_operations"


def _check_operation(edge: Edge) -> None:
    known = known_operations()
    if edge.operation not in known:
        allowed = f"one of {', '.join(known)}{suggestion(edge.operation, known)}, or of one's own"
        field = f"operation of edge ({edge.source}, {edge.node})"
        raise refuse(field, edge.operation, f"{allowed}, once its FILE.py:function was named: {NAMING}")


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
