"""Cell diagrams (Fig. 6): graphviz where its `dot` program is installed, matplotlib where not, plain SVG for widgets.

All three draw the one geometry of `cell_layout.py`: same positions, labels, colours. The `.dot` file carries it too
(`layout=nop2`), so that `dot -Tpdf` reproduces the picture; without that attribute graphviz lays it out by itself.
"""

import shutil
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import graphviz
import matplotlib
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, FancyBboxPatch, PathPatch, Polygon
from matplotlib.path import Path as Curve

from daas_lab.report.cell_layout import ARROW, CHARACTER, FONT_SIZE, NODE, Layout, Route, Vertex, layout_cell, stack
from daas_lab.report.plots import CELL_NAMES, INK, save_figure, themed
from daas_lab.space.cell_space import CELL_TYPES
from daas_lab.space.genotype import Genotype
from daas_lab.space.operations import operation_colour
from daas_lab.space.text_forms import load_genotype

FILLS = {"input": "#E8EEF4", "node": "#FFFFFF", "dropped": "#FFFFFF", "output": "#F3EBDD"}
CONCAT_COLOUR, DROPPED_COLOUR = "#8A8A8A", "#AAAAAA"
LINE_WIDTH = 1.8
PNG_DPI = 110

# Cell type → what is coloured by value: (source, node) an edge, a node's number a node.
Values = Mapping[str, Mapping[tuple[int, int] | int, float]]


def draw_cells(
    genotype: Genotype | str,
    *,
    title: str = "",
    nodes: int | None = None,
    values: Values | None = None,
    value_label: str = "value",
) -> graphviz.Digraph | Figure:
    """Fig. 6: both cells of a genotype, or of what `load_genotype` takes: inputs left, output right, edges labelled
    with and coloured by their operation.

    A node below `nodes` without input is drawn dashed, as dropped. With `values` edges (and nodes) are coloured by
    value instead, pale to dark, the number beside the operation and `value_label` below. Displays itself in a notebook:
    a graph, or matplotlib's figure where graphviz's program is missing.
    """
    draw = _figure if missing_dot_notice() else _digraph
    return draw(*_sheet(genotype, title, nodes, values, value_label))


def cells_svg(
    genotype: Genotype,
    *,
    title: str = "",
    nodes: int | None = None,
    values: Values | None = None,
    value_label: str = "value",
) -> str:
    """Both cells as SVG text without any program's help, for notebooks and widgets.

    Each edge is a `<g class="edge" id="normal-0-2-sep_conv_3x3" data-cell data-source data-node data-operation>` with a
    wide invisible line to click on.
    """
    return _svg(*_sheet(genotype, title, nodes, values, value_label))


def cells_figure(
    genotype: Genotype,
    *,
    title: str = "",
    nodes: int | None = None,
    values: Values | None = None,
    value_label: str = "value",
) -> Figure:
    """Both cells drawn by matplotlib."""
    return _figure(*_sheet(genotype, title, nodes, values, value_label))


def save_cells(
    genotype: Genotype,
    stem: str,
    folder: str | Path,
    *,
    title: str = "",
    nodes: int | None = None,
    values: Values | None = None,
    value_label: str = "value",
    formats: Sequence[str] = ("svg", "png", "dot"),
) -> list[Path]:
    """Write `<stem>.svg`, `.png` and `.dot` (or those of `formats`) into `folder` and return the paths.

    Without the `dot` program matplotlib draws the pictures, the `.dot` is written too where there is none, and
    `missing_dot_notice` is the line to show.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    layout, colours = _sheet(genotype, title, nodes, values, value_label)
    if missing_dot_notice():
        save_figure(_figure(layout, colours), stem, folder, [suffix for suffix in formats if suffix != "dot"])
        asked = "dot" in formats or (folder / f"{stem}.dot").exists()  # that one may have been edited
        formats = (*formats, *([] if asked else ["dot"]))
    paths = [folder / f"{stem}.{suffix}" for suffix in formats]
    for path in paths:
        if path.suffix == ".dot":
            path.write_text(_digraph(layout, colours).source, encoding="utf-8")
        elif not missing_dot_notice():
            dpi = PNG_DPI if path.suffix == ".png" else None
            path.write_bytes(_digraph(layout, colours, dpi=dpi).pipe(path.suffix[1:]))
    return paths


def missing_dot_notice() -> str | None:
    """One line on how to install graphviz where its `dot` program is missing, else None."""
    if shutil.which("dot"):
        return None
    return (
        "graphviz's program `dot` is not installed, so matplotlib drew the cells: "
        "apt install graphviz, brew install graphviz, or conda install -c conda-forge graphviz"
    )


# --- what is on the sheet, and its colours ----------------------------------------------------------------------------


def _sheet(genotype, title, nodes, values, value_label) -> tuple[Layout, dict[str, str]]:
    genotype = load_genotype(genotype)
    parts = [
        layout_cell(
            genotype.cell(name),
            name,
            title=f"{title}: {CELL_NAMES[name]}" if title else CELL_NAMES[name].capitalize(),
            nodes=nodes,
            values=(values or {}).get(name),
        )
        for name in CELL_TYPES
    ]
    numbers = [number for cell in (values or {}).values() for number in cell.values()]
    footer = ""
    if numbers:
        low, high = (f"{bound:.1f}" for bound in (min(numbers), max(numbers)))
        footer = (
            f"{value_label}: {low} everywhere"
            if low == high
            else f"Colour: {value_label}, {low} (pale) to {high} (dark)"
        )
    layout = stack(parts, footer)
    return layout, _colours(layout, values)


def _route_colour(route: Route) -> str:
    return operation_colour(route.operation) if route.operation else CONCAT_COLOUR


def _colours(layout: Layout, values: Values | None) -> dict[str, str]:
    """Id → colour of every edge's line and every node's fill."""
    colours = {vertex.id: FILLS[vertex.kind] for vertex in layout.vertices}
    colours |= {route.id: _route_colour(route) for route in layout.routes}
    if not values:
        return colours
    numbers = [number for cell in values.values() for number in cell.values()]
    low, span = min(numbers), (max(numbers) - min(numbers)) or 1.0
    shades = matplotlib.colormaps["YlOrRd"]
    items: list[Route | Vertex] = [*layout.routes, *layout.vertices]
    for item in items:
        key = item.key if isinstance(item, Route) else item.number
        number = None if key is None else values.get(item.id.split("-")[0], {}).get(key)
        if number is not None:
            share = (number - low) / span
            # Lines need more of the scale's strength than fills, which must leave the number readable.
            colours[item.id] = to_hex(shades(0.25 + 0.7 * share if isinstance(item, Route) else 0.05 + 0.5 * share))
        elif isinstance(item, Route) and item.operation:
            colours[item.id] = CONCAT_COLOUR
    return colours


def _border(vertex: Vertex) -> str:
    return DROPPED_COLOUR if vertex.kind == "dropped" else INK


def _arrow(route: Route) -> tuple[tuple[float, float], ...]:
    x, y = route.tip
    return (x, y), (x - ARROW, y - ARROW / 2.4), (x - ARROW, y + ARROW / 2.4)


# --- graphviz ---------------------------------------------------------------------------------------------------------


def _digraph(layout: Layout, colours: Mapping[str, str], dpi: int | None = None) -> graphviz.Digraph:
    graph = graphviz.Digraph("cells", format="svg")
    graph.attr(layout="nop2", rankdir="LR", bgcolor="white", bb=f"0,0,{layout.width:.1f},{layout.height:.1f}")
    if dpi:
        graph.attr(dpi=str(dpi))
    graph.attr("node", fontname="Helvetica", fontsize=str(FONT_SIZE), fixedsize="true", style="filled")
    graph.attr("edge", fontname="Helvetica", fontsize=str(FONT_SIZE), arrowsize="0.7")

    def at(x, y):
        return f"{x:.2f},{layout.height - y:.2f}"

    for n, note in enumerate(layout.notes):
        graph.node(
            f"note-{n}",
            f"<<b>{escape(note.text)}</b>>" if note.bold else graphviz.escape(note.text),
            shape="plaintext",
            style="",
            margin="0",
            width=f"{(1.5 * len(note.text) * CHARACTER + 20) / 72:.3f}",  # or graphviz warns that the text does not fit
            height="0.36",
            pos=at(note.x, note.y),
            fontsize=str(FONT_SIZE + 1),
        )
    for vertex in layout.vertices:
        graph.node(
            vertex.id,
            graphviz.escape(vertex.label),
            id=vertex.id,
            shape="circle" if vertex.kind in ("node", "dropped") else "box",
            style="filled,dashed" if vertex.kind == "dropped" else "filled",
            color=_border(vertex),
            fontcolor=_border(vertex),
            fillcolor=colours[vertex.id],
            width=f"{vertex.width / 72:.4f}",
            height=f"{NODE / 72:.4f}",
            pos=at(vertex.x, vertex.y),
        )
    for route in layout.routes:
        path = " ".join(at(*point) for point in route.path)
        label = {"label": graphviz.escape(route.label), "lp": at(*route.label_at)} if route.label else {}
        graph.edge(
            route.source,
            route.target,
            id=route.id,
            color=colours[route.id],
            fontcolor=INK,
            penwidth=str(LINE_WIDTH if route.operation else 1.0),
            pos=f"e,{at(*route.tip)} {path}",
            **label,
        )
    return graph


# --- matplotlib -------------------------------------------------------------------------------------------------------


@themed
def _figure(layout: Layout, colours: Mapping[str, str]) -> Figure:
    figure = Figure(figsize=(layout.width / 72, layout.height / 72))
    ax = figure.add_axes((0, 0, 1, 1), xlim=(0, layout.width), ylim=(layout.height, 0))
    ax.axis("off")
    for route in layout.routes:
        colour, width = colours[route.id], LINE_WIDTH if route.operation else 1.0
        curve = Curve(route.path, [Curve.MOVETO] + [Curve.CURVE4] * (len(route.path) - 1))
        ax.add_patch(PathPatch(curve, facecolor="none", edgecolor=colour, linewidth=width, gid=route.id))
        ax.add_patch(Polygon(_arrow(route), color=colour, linewidth=0))
        if route.label:
            ax.text(*route.label_at, route.label, ha="center", va="center", fontsize=FONT_SIZE - 1)
    for vertex in layout.vertices:
        style: dict[str, Any] = {"facecolor": colours[vertex.id], "edgecolor": _border(vertex), "zorder": 3}
        style |= {"gid": vertex.id, "linestyle": "--" if vertex.kind == "dropped" else "-"}
        if vertex.kind in ("node", "dropped"):
            ax.add_patch(Ellipse((vertex.x, vertex.y), NODE, NODE, **style))
        else:
            corner = (vertex.x - vertex.width / 2, vertex.y - NODE / 2)
            ax.add_patch(FancyBboxPatch(corner, vertex.width, NODE, boxstyle="square,pad=0", **style))
        place, colour = (vertex.x, vertex.y), _border(vertex)
        ax.text(*place, vertex.label, ha="center", va="center", fontsize=FONT_SIZE, color=colour, zorder=4)
    for note in layout.notes:
        weight = "bold" if note.bold else "normal"
        ax.text(
            layout.width / 2, note.y, note.text, ha="center", va="center", fontsize=FONT_SIZE + 1, fontweight=weight
        )
    return figure


# --- SVG text ---------------------------------------------------------------------------------------------------------


def _svg(layout: Layout, colours: Mapping[str, str]) -> str:
    font = f'font-family="Helvetica, Arial, sans-serif" font-size="{FONT_SIZE}" text-anchor="middle" fill="{INK}"'
    size = (
        f'viewBox="0 0 {layout.width:.1f} {layout.height:.1f}" width="{layout.width:.1f}" height="{layout.height:.1f}"'
    )
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for route in layout.routes:
        (x, y), *rest = route.path
        path = f"M{x:.1f},{y:.1f}C" + " ".join(f"{x:.1f},{y:.1f}" for x, y in rest)
        arrow = " ".join(f"{x:.1f},{y:.1f}" for x, y in _arrow(route))
        colour, data = colours[route.id], ""
        if route.operation and route.key:
            source, node = route.key
            data = f' data-cell="{route.id.split("-")[0]}" data-source="{source}" data-node="{node}"'
            data += f' data-operation="{escape(route.operation)}"'
        lines += [
            f'<g class="{"edge" if route.operation else "concat"}" id="{escape(route.id)}"{data}>',
            f'<path d="{path}" fill="none" stroke="transparent" stroke-width="12"/>' if route.operation else "",
            f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{LINE_WIDTH if route.operation else 1}"/>',
            f'<polygon points="{arrow}" fill="{colour}"/>',
            _svg_text(route.label, *route.label_at) if route.label else "",
            "</g>",
        ]
    for vertex in layout.vertices:
        dashes = ' stroke-dasharray="4 3"' if vertex.kind == "dropped" else ""
        style = f'fill="{colours[vertex.id]}" stroke="{_border(vertex)}"{dashes}'
        if vertex.kind in ("node", "dropped"):
            shape = f'<circle cx="{vertex.x:.1f}" cy="{vertex.y:.1f}" r="{NODE / 2}" {style}/>'
        else:
            corner = f'x="{vertex.x - vertex.width / 2:.1f}" y="{vertex.y - NODE / 2:.1f}"'
            shape = f'<rect {corner} width="{vertex.width}" height="{NODE}" {style}/>'
        lines.append(f'<g class="node" id="{vertex.id}">{shape}{_svg_text(vertex.label, vertex.x, vertex.y)}</g>')
    for note in layout.notes:
        weight = ' font-weight="bold"' if note.bold else ""
        lines.append(_svg_text(note.text, note.x, note.y, weight))
    return "\n".join(line for line in (*lines, "</svg>") if line) + "\n"


def _svg_text(text: str, x: float, y: float, style: str = "") -> str:
    # Baseline: a third of the size below the middle; `dominant-baseline` is not known to every viewer.
    return f'<text x="{x:.1f}" y="{y + FONT_SIZE / 3:.1f}"{style}>{escape(text)}</text>'
