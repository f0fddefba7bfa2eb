"""Where the nodes, edges and labels of a cell diagram go: one geometry for every renderer of `drawing.py`.

Nodes stand in columns by longest path from the inputs, and between two such columns is one for labels. An edge owns a
place in each column that it passes, a label or a gap, and runs level through it; it bends between columns only. So no
label can overlap another label, a node or an edge. Points of 1/72 inch, y grows downwards.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from daas_lab.space.genotype import CellGenotype

FONT_SIZE = 10
NODE, INPUT, OUTPUT = 28, 48, 46  # widths; all are as high as a node
COLUMN_GAP = 34
LABEL_HEIGHT, PASS_HEIGHT, NODE_HEIGHT = 24, 13, 40  # of the places in a column, spacing included
CHARACTER = 6.3  # width of one at FONT_SIZE, on the safe side
ARROW = 7
MARGIN, TITLE_HEIGHT = 8, 26

Point = tuple[float, float]


class Vertex(NamedTuple):
    """A node as drawn: `kind` is input, node, dropped or output; centre and size."""

    id: str
    kind: str
    number: int | None  # None: the output
    label: str
    x: float
    y: float
    width: float


class Route(NamedTuple):
    """An edge as drawn. `path`: start, then three points for each Bézier piece; the arrow goes on to `tip`."""

    id: str
    source: str  # ids of vertices
    target: str
    key: tuple[int, int] | None  # (source, node); None: into the concatenation
    operation: str | None
    path: tuple[Point, ...]
    tip: Point
    label: str
    label_at: Point


class Note(NamedTuple):
    """A line of text around its centre."""

    text: str
    x: float
    y: float
    bold: bool


class Layout(NamedTuple):
    """A diagram: its size and what is on it."""

    width: float
    height: float
    vertices: tuple[Vertex, ...]
    routes: tuple[Route, ...]
    notes: tuple[Note, ...]


def layout_cell(
    cell: CellGenotype, name: str, *, title: str = "", nodes: int | None = None, values: Mapping | None = None
) -> Layout:
    """Lay out one cell, with ids that begin with `name`.

    A node below `nodes` (default: the cell's own) that has no input is drawn as dropped. `values` (source, node) →
    number is added to the edges' labels.
    """
    names, chains = _chains(cell, name, max(nodes or 0, cell.nodes))
    labels = [_label(edge.operation, (values or {}).get((edge.source, edge.node))) for edge in cell.edges]
    columns = _order(chains)
    heights = {place: _height(place) for column in columns for place in column}
    y = _heights_at(columns, chains, heights)
    widths = [max(_width(place, labels) for place in column) for column in columns]
    x, right = [], MARGIN
    for width in widths:
        x.append(right + width / 2)
        right += width + COLUMN_GAP
    top = min(y[place] - heights[place] / 2 for place in y) - MARGIN - (TITLE_HEIGHT if title else 0)
    bottom = max(y[place] + heights[place] / 2 for place in y) + MARGIN
    at = {place: (x[c], y[place] - top) for c, column in enumerate(columns) for place in column}
    vertices = {place: Vertex(*names[place], *at[place], _width(place, labels)) for place in names}
    routes = [_route(n, chain, cell, labels, at, widths, vertices, name) for n, chain in enumerate(chains)]
    notes = (Note(title, (right - COLUMN_GAP + MARGIN) / 2, TITLE_HEIGHT / 2 + 2, True),) if title else ()
    part = Layout(right - COLUMN_GAP + MARGIN, bottom - top, tuple(vertices.values()), tuple(_distinct(routes)), notes)
    # A title longer than the cell needs a wider sheet.
    room = len(title) * CHARACTER * 1.2 + 2 * MARGIN - part.width
    return _moved(part, room / 2, 0, width=part.width + room) if room > 0 else part


def stack(layouts: Sequence[Layout], footer: str = "") -> Layout:
    """Diagrams one below the other, and a line of text under them."""
    width = max([part.width for part in layouts] + [len(footer) * CHARACTER + 2 * MARGIN])
    vertices: list[Vertex] = []
    routes: list[Route] = []
    notes: list[Note] = []
    height = 0.0
    for part in layouts:
        part = _moved(part, (width - part.width) / 2, height, width)
        vertices += part.vertices
        routes += part.routes
        notes += part.notes
        height += part.height
    if footer:
        notes.append(Note(footer, width / 2, height + 8, False))
        height += 20
    return Layout(width, height, tuple(vertices), tuple(routes), tuple(notes))


# --- places: ("node", n), ("output",), ("label", edge), ("pass", chain, column) ---------------------------------------


Named = tuple[str, str, int | None, str]  # id, kind, number and text of a node


def _chains(cell: CellGenotype, name: str, nodes: int) -> tuple[dict[tuple, Named], list[list[tuple]]]:
    """Every node's (id, kind, number, text), and every edge as the places from its source to its target.

    A chain has one place a column: [column, place]. The operations' edges come first, in the cell's order.
    """
    rank = {0: 0, 1: 0}
    names: dict[tuple, Named] = {("node", n): (f"{name}-{n}", "input", n, f"c_{{k-{2 - n}}}") for n in (0, 1)}
    for node in range(2, nodes):
        sources = cell.sources(node)
        rank[node] = 1 + max((rank[source] for source in sources), default=0)
        names["node", node] = (f"{name}-{node}", "node" if sources else "dropped", node, str(node))
    names["output",] = (f"{name}-output", "output", None, "output")
    last = 2 * max(rank.values()) + 2
    ends: list[tuple[int, int, tuple, tuple]] = [
        (2 * rank[edge.source], 2 * rank[edge.node], ("node", edge.source), ("node", edge.node)) for edge in cell.edges
    ]
    ends += [(2 * rank[node], last, ("node", node), ("output",)) for node in cell.concat]
    chains: list[list[tuple]] = [[] for _ in ends]
    load = dict.fromkeys(range(last), 0)
    # Short edges have no choice of where their label goes; long ones then take the emptiest column.
    for n in sorted(range(len(ends)), key=lambda n: (ends[n][1] - ends[n][0], n)):
        start, end, source, target = ends[n]
        label_column = min(range(start + 1, end, 2), key=lambda column: (load[column], -column))
        if n < len(cell.edges):
            load[label_column] += 1
        between = [
            (column, ("label", n) if column == label_column and n < len(cell.edges) else ("pass", n, column))
            for column in range(start + 1, end)
        ]
        chains[n] = [(start, source), *between, (end, target)]
    # A dropped node has no edge; it stands in the first column of nodes.
    chains += [[(2 * rank[place[1]], place)] for place, facts in names.items() if facts[1] == "dropped"]
    chains += [[(0, ("node", n))] for n in (0, 1)]
    return names, chains


def _order(chains: list) -> list[list[tuple]]:
    """The places of each column from top to bottom: barycentre sweeps, the order with the fewest crossings kept."""
    count = 1 + max(column for chain in chains for column, _ in chain)
    columns = [list(dict.fromkeys(p for chain in chains for c, p in chain if c == column)) for column in range(count)]
    columns[0].sort()
    before, after = _neighbours(chains)
    best, fewest = [list(column) for column in columns], _crossings(columns, after)
    for sweep in range(12):
        forward = sweep % 2 == 0
        indices = range(1, count) if forward else range(count - 2, -1, -1)
        for c in indices:
            neighbours, other = (before, columns[c - 1]) if forward else (after, columns[c + 1])
            position = {place: n / max(len(other) - 1, 1) for n, place in enumerate(other)}
            own = {place: n / max(len(columns[c]) - 1, 1) for n, place in enumerate(columns[c])}
            means = {p: _mean([position[q] for q in neighbours.get(p, [])], own[p]) for p in columns[c]}
            columns[c].sort(key=means.__getitem__)
        crossings = _crossings(columns, after)
        if crossings < fewest:
            best, fewest = [list(column) for column in columns], crossings
    return best


def _neighbours(chains: list) -> tuple[dict, dict]:
    before: dict[tuple, list] = {}
    after: dict[tuple, list] = {}
    for chain in chains:
        for (_, left), (_, right) in itertools.pairwise(chain):
            after.setdefault(left, []).append(right)
            before.setdefault(right, []).append(left)
    return before, after


def _crossings(columns: list, after: dict) -> int:
    total = 0
    for left, right in itertools.pairwise(columns):
        position = {place: n for n, place in enumerate(right)}
        lines = [(n, position[q]) for n, place in enumerate(left) for q in after.get(place, [])]
        total += sum((a - c) * (b - d) < 0 for i, (a, b) in enumerate(lines) for c, d in lines[:i])
    return total


def _mean(values: list, default: float) -> float:
    return sum(values) / len(values) if values else default


def _heights_at(columns: list, chains: list, heights: dict) -> dict:
    """y of every place: pulled towards its neighbours, never closer to the next than their heights allow."""
    before, after = _neighbours(chains)
    y: dict[tuple, float] = {}
    for column in columns:
        y |= zip(column, _spread([0.0] * len(column), [heights[place] for place in column]), strict=True)
    for sweep in range(16):
        for column in columns if sweep % 2 == 0 else reversed(columns):
            wanted = [_mean([y[q] for q in before.get(p, []) + after.get(p, [])], y[p]) for p in column]
            y |= zip(column, _spread(wanted, [heights[place] for place in column]), strict=True)
    return y


def _spread(wanted: Sequence[float], heights: Sequence[float]) -> list[float]:
    """The positions nearest to `wanted` (least squares) that keep their order and half of both heights between."""
    offsets = [0.0]
    for a, b in itertools.pairwise(heights):
        offsets.append(offsets[-1] + (a + b) / 2)
    # Pool adjacent violators: blocks of places that touch move together.
    blocks: list[tuple[float, int]] = []  # (position, places)
    for w, offset in zip(wanted, offsets, strict=True):
        blocks.append((w - offset, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, n), (b, m) = blocks[-2:]
            blocks[-2:] = [((a * n + b * m) / (n + m), n + m)]
    levels = [level for level, size in blocks for _ in range(size)]
    return [level + offset for level, offset in zip(levels, offsets, strict=True)]


# --- sizes and lines --------------------------------------------------------------------------------------------------


def _label(operation: str, value: float | None) -> str:
    return operation if value is None else f"{operation}  {value:z.1f}"


def _height(place: tuple) -> float:
    return {"label": LABEL_HEIGHT, "pass": PASS_HEIGHT}.get(place[0], NODE_HEIGHT)


def _width(place: tuple, labels: Sequence[str]) -> float:
    if place[0] == "label":
        return len(labels[place[1]]) * CHARACTER + 8
    if place[0] == "pass":
        return 0
    return OUTPUT if place[0] == "output" else INPUT if place[1] < 2 else NODE


def _route(n, chain, cell, labels, at, widths, vertices, name) -> Route | None:
    if len(chain) == 1:
        return None
    source, target = vertices[chain[0][1]], vertices[chain[-1][1]]
    stops, label_at = [(source.x + source.width / 2, source.y)], (0.0, 0.0)
    for column, place in chain[1:-1]:
        x, y = at[place]
        if place[0] == "label":  # the line runs below the text
            label_at, y = (x, y - 3), y + 7
        stops += [(x - widths[column] / 2, y), (x + widths[column] / 2, y)]
    tip = (target.x - target.width / 2, target.y)
    stops.append((tip[0] - ARROW, tip[1]))
    path = stops[:1]
    for (x0, y0), (x1, y1) in itertools.pairwise(stops):
        path += [((x0 + x1) / 2, y0), ((x0 + x1) / 2, y1), (x1, y1)]
    ends = (source.id, target.id)
    if n >= len(cell.edges):
        return Route(f"{source.id}-output", *ends, None, None, tuple(path), tip, "", label_at)
    edge = cell.edges[n]
    identity = f"{name}-{edge.source}-{edge.node}-{edge.operation}"
    return Route(identity, *ends, edge[:2], edge.operation, tuple(path), tip, labels[n], label_at)


def _distinct(routes: Sequence[Route | None]) -> list[Route]:
    """The edges that are drawn, with a number after the id of one that repeats (NASNet pools an input twice)."""
    seen: dict[str, int] = {}
    distinct = []
    for route in filter(None, routes):
        seen[route.id] = seen.get(route.id, 0) + 1
        distinct.append(route if seen[route.id] == 1 else route._replace(id=f"{route.id}-{seen[route.id]}"))
    return distinct


def _moved(layout: Layout, dx: float, dy: float, width: float) -> Layout:
    """The layout shifted to the right and down, on a sheet of `width`."""

    def moved(point: Point) -> Point:
        return point[0] + dx, point[1] + dy

    routes = [
        route._replace(path=tuple(map(moved, route.path)), tip=moved(route.tip), label_at=moved(route.label_at))
        for route in layout.routes
    ]
    vertices = [vertex._replace(x=vertex.x + dx, y=vertex.y + dy) for vertex in layout.vertices]
    notes = [note._replace(x=note.x + dx, y=note.y + dy) for note in layout.notes]
    return Layout(width, layout.height, tuple(vertices), tuple(routes), tuple(notes))
