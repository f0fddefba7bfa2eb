"""Cell diagrams: geometry without overlaps, the same in every renderer; ids, colours, files."""

import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import PathPatch

from daas_lab.report import drawing
from daas_lab.report.cell_layout import CHARACTER, NODE, layout_cell
from daas_lab.space.budget import EdgeBudget
from daas_lab.space.cell_space import CELL_TYPES
from daas_lab.space.genotype import CellGenotype, Edge, Genotype
from daas_lab.space.operations import operation_colour
from daas_lab.space.selection import random_genotype
from daas_lab.space.text_forms import PUBLISHED

CELLS = PUBLISHED | {
    "3/14": random_genotype(EdgeBudget.parse("3/14"), 0),
    "two operations": random_genotype(EdgeBudget.parse("8/14*2"), 0),
    "one node": random_genotype(EdgeBudget.parse("1"), 0),
    "seven nodes": random_genotype(EdgeBudget.parse("2,2,2,2,2,2,2"), 0),
}
SVG = "{http://www.w3.org/2000/svg}"


def boxes(layout):
    """Left, right, top, bottom of every label and node."""
    for vertex in layout.vertices:
        yield vertex.x - vertex.width / 2, vertex.x + vertex.width / 2, vertex.y - NODE / 2, vertex.y + NODE / 2
    for route in layout.routes:
        if route.label:
            half, (x, y) = len(route.label) * CHARACTER / 2, route.label_at
            yield x - half, x + half, y - 6, y + 6


def points(route, steps=24):
    """Points of a route's Bézier pieces."""
    for p0, p1, p2, p3 in (route.path[n : n + 4] for n in range(0, len(route.path) - 1, 3)):
        for t in (n / steps for n in range(1, steps)):
            weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
            yield tuple(sum(w * p[axis] for w, p in zip(weights, (p0, p1, p2, p3), strict=True)) for axis in (0, 1))


@pytest.mark.parametrize("cell_type", CELL_TYPES)
@pytest.mark.parametrize("name", CELLS)
def test_nothing_overlaps(name, cell_type):
    layout = layout_cell(CELLS[name].cell(cell_type), cell_type, title="A cell")
    found = list(boxes(layout))
    for n, (left, right, top, bottom) in enumerate(found):
        assert left >= 0
        assert right <= layout.width
        assert top >= 0
        assert bottom <= layout.height
        for a, b, c, d in found[:n]:
            assert left >= b or right <= a or top >= d or bottom <= c
        for route in layout.routes:
            assert not any(left < x < right and top < y < bottom for x, y in points(route)), (route.id, found[n])
    ids = [item.id for item in (*layout.vertices, *layout.routes)]
    assert len(set(ids)) == len(ids)
    operations = [(*route.key, route.operation) for route in layout.routes if route.operation]
    assert operations == [tuple(edge) for edge in CELLS[name].cell(cell_type).edges]


def test_inputs_are_left_and_the_output_right():
    layout = layout_cell(PUBLISHED["PDARTS"].normal, "normal")
    x = {vertex.id: vertex.x for vertex in layout.vertices}
    assert x["normal-0"] == x["normal-1"] == min(x.values())
    assert x["normal-output"] == max(x.values())
    assert all(x[route.source] < x[route.target] for route in layout.routes)


def test_repeated_edges_have_their_own_ids():
    ids = [route.id for route in layout_cell(PUBLISHED["NASNet"].normal, "normal").routes]
    assert "normal-0-5-avg_pool_3x3" in ids
    assert "normal-0-5-avg_pool_3x3-2" in ids


def test_dropped_nodes_are_drawn_apart():
    cell = CellGenotype((Edge(0, 3, "skip_connect"),), (3,))
    kinds = {vertex.id: vertex.kind for vertex in layout_cell(cell, "normal", nodes=5).vertices}
    assert kinds == {
        "normal-0": "input",
        "normal-1": "input",
        "normal-2": "dropped",
        "normal-3": "node",
        "normal-4": "dropped",
        "normal-output": "output",
    }
    assert "stroke-dasharray" in drawing.cells_svg(Genotype(cell, cell), nodes=5)


def test_svg_edges_can_be_mapped_back():
    genotype = PUBLISHED["DARTS_V2"]
    root = ElementTree.fromstring(drawing.cells_svg(genotype, title="DARTS <V2>"))
    edges = [group.attrib for group in root.iter(f"{SVG}g") if group.get("class") == "edge"]
    for name in CELL_TYPES:
        own = [edge for edge in edges if edge["data-cell"] == name]
        assert [(int(e["data-source"]), int(e["data-node"]), e["data-operation"]) for e in own] == [
            tuple(edge) for edge in genotype.cell(name).edges
        ]
    strokes = {path.get("stroke") for path in root.iter(f"{SVG}path")}
    assert operation_colour("sep_conv_3x3") in strokes


def test_graphviz_source_is_pinned_and_coloured(tmp_path):
    drawing.save_cells(PUBLISHED["NASNet"], "cells", tmp_path, formats=("dot",))
    source = (tmp_path / "cells.dot").read_text()
    assert "layout=nop2" in source
    for operation in ("sep_conv_7x7", "avg_pool_3x3"):
        (line, *_) = [line for line in source.splitlines() if f"label={operation} " in line]
        assert f'color="{operation_colour(operation)}"' in line
    assert source.count("->") == (10 + 5) + (10 + 3)  # edges, and nodes in the concat, of both cells


def test_matplotlib_draws_the_same_geometry():
    genotype = PUBLISHED["DARTS_V1"]
    (ax,) = drawing.cells_figure(genotype).axes
    layout, _ = drawing._sheet(genotype, "", None, None, "")
    curves = [patch for patch in ax.patches if isinstance(patch, PathPatch)]
    assert [curve.get_gid() for curve in curves] == [route.id for route in layout.routes]
    assert curves[0].get_path().vertices.tolist() == [list(point) for point in layout.routes[0].path]
    assert to_hex(curves[0].get_edgecolor()).upper() == operation_colour("sep_conv_3x3")
    texts = {text.get_text() for text in ax.texts}
    assert {"c_{k-2}", "c_{k-1}", "5", "output", "sep_conv_3x3", "Reduction cell"} <= texts


@pytest.mark.needs("dot")
def test_graphviz_keeps_the_positions_and_has_nothing_to_say(tmp_path, capfd):
    paths = drawing.save_cells(PUBLISHED["PC_DARTS_CIFAR"], "cell", tmp_path, title="PC-DARTS")
    assert [path.name for path in paths] == ["cell.svg", "cell.png", "cell.dot"]
    layout, _ = drawing._sheet(PUBLISHED["PC_DARTS_CIFAR"], "PC-DARTS", None, None, "")
    root = ElementTree.parse(paths[0]).getroot()
    centres = {g.get("id"): g.find(f"{SVG}ellipse") for g in root.iter(f"{SVG}g")}
    circles = [vertex for vertex in layout.vertices if vertex.kind == "node"]
    for a, b in pairwise(circles):
        dx, dy = (float(centres[b.id].get(key)) - float(centres[a.id].get(key)) for key in ("cx", "cy"))
        assert (dx, dy) == pytest.approx((b.x - a.x, b.y - a.y), abs=0.1)
    assert paths[1].stat().st_size < 300_000
    assert capfd.readouterr().err == ""


def test_without_dot_the_cell_is_still_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(drawing.shutil, "which", lambda name: None)
    other = tmp_path / "cell.png"
    other.write_text("somebody's")
    paths = drawing.save_cells(PUBLISHED["DARTS_V2"], "cell", tmp_path, formats=("svg",))
    assert [path.name for path in paths] == ["cell.svg", "cell.dot"] and other.read_text() == "somebody's"
    (tmp_path / "cell.dot").write_text("edited")
    paths = drawing.save_cells(PUBLISHED["DARTS_V2"], "cell", tmp_path, formats=("svg",))
    assert [path.name for path in paths] == ["cell.svg"] and (tmp_path / "cell.dot").read_text() == "edited"
    paths = drawing.save_cells(PUBLISHED["DARTS_V2"], "cell", tmp_path)
    assert len(paths) == 3 and all(path.stat().st_size > 1000 for path in paths)
    notice = drawing.missing_dot_notice()
    assert "install graphviz" in notice
    assert "\n" not in notice


def test_heat_map_of_values():
    values = {"normal": {(0, 2): 0.0, (1, 2): 40.0, 3: 20.0}}
    layout, colours = drawing._sheet(PUBLISHED["DARTS_V2"], "", None, values, "cost (points)")
    by_key = {route.key: route for route in layout.routes if route.id.startswith("normal")}
    assert by_key[1, 2].label == "sep_conv_3x3  40.0"
    assert colours[by_key[0, 2].id] != colours[by_key[1, 2].id]
    assert colours[by_key[0, 4].id] == drawing.CONCAT_COLOUR  # no value
    assert colours["normal-3"] != colours["normal-4"]
    assert "cost (points)" in layout.notes[-1].text
