"""Budgets, genotypes and their text forms: properties that hold for every budget and any strengths."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daas_lab.errors import LabError
from daas_lab.space.budget import NAMED_BUDGETS, EdgeBudget, Group
from daas_lab.space.cell_space import CELL_TYPES, PRIMITIVES, cell_edges, nodes_of
from daas_lab.space.genotype import CellGenotype, Edge, Genotype
from daas_lab.space.selection import derive_cell, random_genotype, select_edges
from daas_lab.space.text_forms import (
    PUBLISHED,
    format_darts,
    format_darts_or_json,
    from_darts,
    load_genotype,
    parse_genotype,
)


@st.composite
def groups_of(draw, nodes):
    """Groups that cover the nodes 2 … `nodes` - 1, each with a number of edges that it can keep."""
    groups, sources, node = [], 2, 2
    while node < nodes:
        size = draw(st.integers(1, min(3, nodes - node)))
        keep = draw(st.integers(1, sources * size))
        groups.append(Group(tuple(range(node, node + size)), keep))
        # However the choice falls, this many more nodes have input.
        sources, node = sources + -(-keep // sources), node + size
    return tuple(groups)


@st.composite
def budgets(draw):
    nodes = draw(st.integers(3, 8))
    normal = draw(groups_of(nodes))
    reduce = draw(st.one_of(st.just(normal), groups_of(nodes)))
    return EdgeBudget(normal, reduce, draw(st.integers(1, 3)))


@st.composite
def strengths_and_budget(draw):
    budget = draw(budgets())
    edges = len(cell_edges(budget.nodes))
    # Few distinct values, so that ties are common.
    number = st.one_of(st.integers(-2, 2).map(float), st.floats(-1e6, 1e6))
    operations = draw(st.lists(st.lists(number, min_size=7, max_size=7), min_size=edges, max_size=edges))
    return operations, draw(st.lists(number, min_size=edges, max_size=edges)), budget


# --- budgets ----------------------------------------------------------------------------------------------------------


@given(budgets())
def test_a_budget_is_what_its_text_says(budget):
    assert EdgeBudget.parse(str(budget)) == budget


@given(budgets())
def test_eq_4_has_a_target_for_every_node_that_it_can_meet(budget):
    for cell_type in CELL_TYPES:
        targets = budget.targets(cell_type)
        assert list(targets) == list(range(2, budget.nodes))
        for group in budget.groups(cell_type):
            assert {targets[node] for node in group.nodes} == {min(group.keep, node) for node in group.nodes}


def test_the_configurations_of_the_paper():
    kept = {name: [(group.nodes, group.keep) for group in groups] for name, groups in NAMED_BUDGETS.items()}
    assert kept == {
        "8/14": [((2,), 2), ((3,), 2), ((4,), 2), ((5,), 2)],
        "6/14": [((2,), 1), ((3,), 1), ((4,), 2), ((5,), 2)],
        "5/14": [((2,), 1), ((3,), 1), ((4,), 1), ((5,), 2)],
        "4/14": [((2,), 1), ((3,), 1), ((4,), 1), ((5,), 1)],
        "3/14": [((2, 3), 1), ((4,), 1), ((5,), 1)],
    }
    for name, groups in NAMED_BUDGETS.items():
        assert sum(group.keep for group in groups) == int(name.split("/")[0])
    assert str(EdgeBudget.parse("1,1,2,2")) == "6/14"
    assert str(EdgeBudget.parse("{2+3}:1,4:1,5:1")) == str(EdgeBudget.parse(" { 2 + 3 } : 1 , 4: 1,5 :1 ")) == "3/14"
    assert [str(EdgeBudget.parse(text)) for text in ("8/14 * 2", "8 / 14* 2", "8/14 *2")] == ["8/14*2"] * 3
    assert str(EdgeBudget.parse("normal=8/14; reduce=1,1,1,1*2")) == "normal=8/14;reduce=4/14*2"
    assert EdgeBudget.parse("3/14").targets("normal") == {2: 1, 3: 1, 4: 1, 5: 1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("9/14", ["9/14", "8/14", "{2+3}:1"]),
        ("", ["{2+3}:1"]),
        ("3,2,2,2", ["node 2", "3", "1 to 2"]),
        ("2,2,2,0", ["node 5", "0", "1 to 5"]),
        ("{2+3}:1,4:4,5:1", ["node 4", "4", "1 to 3"]),
        ("4:1,5:1", ["4:1,5:1", "in order"]),
        ("{2+4}:1,3:1", ["in order"]),
        ("normal=8/14;reduce=1,1", ["same number of nodes"]),
        ("normal=8/14;normal=4/14;reduce=4/14", ["normal=…;reduce=…"]),
        ("normal=8/14;4/14", ["normal=…;reduce=…"]),
        ("2 2,2,2", ["2 2,2,2", "8/14"]),
        ("8/14*0", ["operations per edge", "0", "1 or more"]),
        ("8/14*two", ["two", "*2"]),
        ("8/14*²", ["²", "*2"]),
    ],
)
def test_a_budget_that_cannot_be_is_refused_with_what_is_allowed(text, words):
    with pytest.raises(LabError) as error:
        EdgeBudget.parse(text)
    assert all(word in str(error.value) for word in words), error.value


# --- strengths and a budget make a cell -------------------------------------------------------------------------------


def _rank(edge, strengths, index):
    """Strong before weak; of equals, the one that is listed first."""
    return -strengths[index[edge]], index[edge]


@given(strengths_and_budget())
def test_every_cell_keeps_its_budget_and_the_strongest(case):
    operations, strengths, budget = case
    index = {edge: e for e, edge in enumerate(cell_edges(budget.nodes))}
    for cell_type in CELL_TYPES:
        cell = derive_cell(operations, strengths, budget.groups(cell_type), budget.operations)
        live, pairs = {0, 1}, {(edge.source, edge.node) for edge in cell.edges}
        for group in budget.groups(cell_type):
            kept = {pair for pair in pairs if pair[1] in group.nodes}
            assert len(kept) == group.keep
            offered = {edge for edge in index if edge[1] in group.nodes and edge[0] in live}
            assert kept <= offered, "a dropped node offers no edge"
            others = {(i, j) for i, j in offered - kept if i not in group.nodes}
            last = max(_rank(edge, strengths, index) for edge in kept)
            assert all(last < _rank(edge, strengths, index) for edge in others)
            live |= {node for _, node in kept}
        assert cell.concat == tuple(sorted(live - {0, 1}))
        for pair in pairs:
            row = operations[index[pair]]
            chosen = [PRIMITIVES.index(edge.operation) for edge in cell.edges if edge[:2] == pair]
            assert chosen == sorted(chosen) and len(chosen) == budget.operations
            assert set(chosen) == set(sorted(range(7), key=lambda o, row=row: (-row[o], o))[: budget.operations])


@given(strengths_and_budget())
def test_every_genotype_comes_back_from_json(case):
    operations, strengths, budget = case
    cells = (
        derive_cell(operations, strengths, budget.groups(cell_type), budget.operations) for cell_type in CELL_TYPES
    )
    genotype = Genotype(*cells)
    assert Genotype.from_json(json.loads(json.dumps(genotype.to_json()))) == genotype


@given(budgets(), st.integers(0, 10**6))
def test_random_cells_keep_the_budget_too(budget, seed):
    genotype = random_genotype(budget, seed)
    assert genotype == random_genotype(budget, seed)
    for cell_type in CELL_TYPES:
        edges = genotype.cell(cell_type).edges
        for group in budget.groups(cell_type):
            inside = [edge for edge in edges if edge.node in group.nodes]
            assert len(inside) == group.keep * budget.operations
            assert len(set(inside)) == len(inside)


def test_a_dropped_node_offers_no_edge_however_strong():
    strengths = [0.0] * 14
    index = {edge: e for e, edge in enumerate(cell_edges())}
    strengths[index[0, 3]] = 1.0
    strengths[index[2, 4]] = strengths[index[2, 5]] = strengths[index[2, 3]] = 9.0
    kept = select_edges(strengths, NAMED_BUDGETS["3/14"])
    assert kept == [(0, 3), (0, 4), (0, 5)]


@pytest.mark.parametrize("nodes", range(3, 13))
def test_edges_are_listed_by_node_then_by_source(nodes):
    edges = cell_edges(nodes)
    assert edges == sorted(edges, key=lambda edge: edge[::-1]) and nodes_of(len(edges)) == nodes
    assert all(source < node for source, node in edges)


def test_a_wrong_number_of_strengths_is_refused():
    with pytest.raises(LabError, match="number of edge strengths = 13: must be 14"):
        select_edges([0.0] * 13, NAMED_BUDGETS["8/14"])


# --- text forms -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_cells_come_back_from_json_and_from_darts_tuples(name, tmp_path):
    genotype = PUBLISHED[name]
    assert load_genotype(name) == genotype
    for text in (json.dumps(genotype.to_json()), format_darts_or_json(genotype)):
        path = tmp_path / "cell.txt"
        path.write_text(text)
        assert load_genotype(path) == genotype


def test_darts_tuples_as_they_are_printed():
    text = (
        "Genotype(normal=[('sep_conv_3x3', 1), ('skip_connect', 0), ('dil_conv_5x5', 2), ('max_pool_3x3', 0)], "
        "normal_concat=range(2, 4), reduce=[('skip_connect', 0), ('skip_connect', 1), ('avg_pool_3x3', 1), "
        "('sep_conv_5x5', 2)], reduce_concat=[2, 3])"
    )
    genotype = parse_genotype(text)
    assert genotype.normal.concat == (2, 3)
    assert genotype.normal.edges[:3] == (
        Edge(1, 2, "sep_conv_3x3"),
        Edge(0, 2, "skip_connect"),
        Edge(2, 3, "dil_conv_5x5"),
    )
    assert genotype.reduce.sources(3) == [1, 2]


def test_a_cell_that_darts_tuples_cannot_say_is_refused():
    genotype = random_genotype(EdgeBudget.parse("4/14"), 0)
    with pytest.raises(LabError, match="two for each node"):
        format_darts(genotype)
    with pytest.raises(LabError, match="2, two for each node from 2 to 2"):
        from_darts([("skip_connect", 0)], [2], [("skip_connect", 0)], [2])


@pytest.mark.parametrize(
    "text", ["Genotype(", "Genotype(normal=[])", "Genotype(normal=open('x'), normal_concat=[2])", "Genotype([])"]
)
def test_damaged_darts_tuples_are_refused_with_the_form(text, tmp_path):
    path = tmp_path / "cell.txt"
    path.write_text(text)
    with pytest.raises(LabError, match=r"genotype .*normal_concat") as error:
        load_genotype(path)
    assert str(path) in str(error.value)


GOOD = {"edges": [[0, 2, "skip_connect"], [2, 3, "skip_connect"]], "concat": [2, 3]}


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ({"edges": [[0, 2, "sep_conv_4x4"]], "concat": [2]}, ["(0, 2)", "sep_conv_4x4", "sep_conv_3x3"]),
        ({"edges": [[2, 3, "skip_connect"]], "concat": [3]}, ["source", "2", "has inputs: 0, 1"]),
        ({"edges": [[3, 3, "skip_connect"]], "concat": [3]}, ["source", "3"]),
        ({"edges": [[0, 1, "skip_connect"]], "concat": [2]}, ["node", "1", "2 to 99"]),
        ({"edges": [[0, 3, "skip_connect"], [0, 2, "skip_connect"]], "concat": [2]}, ["order of their nodes"]),
        ({"edges": [[0, 2, "skip_connect"]], "concat": [2, 3]}, ["concat", "[2, 3]", "have inputs: 2"]),
        ({"edges": [[0, 2, "skip_connect"]], "concat": [2, 2]}, ["concat"]),
        ({"edges": [[0, 2, "skip_connect"]], "concat": []}, ["concat"]),
        ({"edges": [[0, 2, "skip_connect"]], "concat": [2.0]}, ["concat"]),
        ({"edges": [["0", 2, "skip_connect"]], "concat": [2]}, ["edges"]),
        ({"edges": [[0, 2]], "concat": [2]}, ["edges"]),
        ({"edges": [[0, 2, "skip_connect"]]}, ["concat"]),
        ([], ["edges"]),
    ],
)
@pytest.mark.parametrize("cell_type", CELL_TYPES)
def test_a_cell_that_cannot_exist_is_refused_by_name(cell, words, cell_type):
    data = {"format": 1, "normal": GOOD, "reduce": GOOD} | {cell_type: cell}
    with pytest.raises(LabError) as error:
        Genotype.from_json(data)
    assert all(word in str(error.value) for word in (f"genotype's {cell_type} cell", *words)), error.value


@pytest.mark.parametrize("data", [None, [], {"format": 2}, {"format": 1}])
def test_another_format_is_refused(data):
    with pytest.raises(LabError, match="genotype"):
        Genotype.from_json(data)


def test_a_genotype_is_loaded_from_what_it_is_written_as():
    cells = PUBLISHED["DARTS_V2"]
    assert load_genotype(cells) == load_genotype(cells.to_json()) == load_genotype("DARTS_V2") == cells
    with pytest.raises(LabError, match="genotype = None: must be a Genotype"):
        load_genotype(None)


def test_a_file_that_is_missing_or_no_json_is_named(tmp_path):
    with pytest.raises(LabError, match=r"DARTS_V9.*a file, a genotype's text, or a name .*did you mean DARTS_V2"):
        load_genotype("DARTS_V9")
    path = tmp_path / "cell.json"
    path.write_text("{")
    with pytest.raises(LabError, match=r"cell\.json: genotype = '{'"):
        load_genotype(path)


def test_several_operations_and_dropped_nodes_are_part_of_a_cell():
    edges = (
        Edge(0, 3, "skip_connect"),
        Edge(0, 3, "sep_conv_3x3"),
        Edge(1, 3, "skip_connect"),
        Edge(3, 5, "skip_connect"),
    )
    cell = CellGenotype(edges, (3, 5))
    assert cell.nodes == 6 and cell.sources(3) == [0, 1] and cell.sources(4) == []
    assert Genotype.from_json(Genotype(cell, cell).to_json()).normal == cell
