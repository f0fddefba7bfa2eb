"""Budgets that limit the cost of the cells: their text, the cut under them, and what is refused."""

import itertools
import json
import math
import random
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from daas_lab.cli import main
from daas_lab.compose import search_config
from daas_lab.errors import LabError
from daas_lab.methods import rules
from daas_lab.methods.lookup import METHODS
from daas_lab.methods.method import Architecture, Method, Moment
from daas_lab.methods.pruning import GONE
from daas_lab.runs.folder import read_run
from daas_lab.space import limited, selection
from daas_lab.space.budget import QUANTITIES, EdgeBudget, split_budgets
from daas_lab.space.cell_space import CELL_TYPES, PRIMITIVES, cell_edges
from daas_lab.space.cost import check_limits, count, meets, sizes_under
from daas_lab.space.genotype import CellGenotype, Edge, Genotype
from daas_lab.studies.sweep_file import read_sweep
from daas_lab.train.evolution import close_choices, genotype_after
from tests.made_runs import write_search

# --- the text ---------------------------------------------------------------------------------------------------------


@given(st.dictionaries(st.sampled_from(QUANTITIES), st.integers(0, 10**15 - 1)), st.sampled_from(["8/14", "1,1*2"]))
def test_a_limit_is_what_its_text_says(limits, edges):
    budget = replace(EdgeBudget.parse(edges), limits=tuple((q, limits[q]) for q in QUANTITIES if q in limits))
    assert EdgeBudget.parse(str(budget)) == budget and split_budgets(f"{budget} 4/14") == [str(budget), "4/14"]
    assert str(budget.unlimited) == edges


def test_units_spaces_and_order():
    text = "normal=8/14; reduce=4/14*2 ; multiply_adds <= 40M;parameters<=3.3M"
    budget = EdgeBudget.parse(text)
    assert budget.limits == (("parameters", 3_300_000), ("multiply_adds", 40_000_000))
    assert str(budget) == "normal=8/14;reduce=4/14*2;parameters<=3.3M;multiply_adds<=40M"
    assert [EdgeBudget.parse(f"8/14;parameters<={n}").limits[0][1] for n in ("500k", "0.5M", "500000", "1.5G")] == [
        500_000, 500_000, 500_000, 1_500_000_000]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        *("8/14; flops<=3M", "8/14; parameters<3M", "8/14; parameters<=", "8/14; parameters<=3MB"),
        *("8/14; parameters<=1.5", "8/14; parameters<=3M; parameters<=2M", "parameters<=3M", "8/14; parameters=3M"),
        *(
            "8/14; parameters<=1e6",
            "8/14; parameters<=-3",
            "8/14; parameters<=٣M",
            "8/14 parameters<=3M",
            "8/14; parameters<=3M*2",
        ),
    ],
)
def test_a_limit_that_cannot_be_read_is_refused(text):
    with pytest.raises(LabError, match=r"budget = .*: must be ") as error:
        EdgeBudget.parse(text)
    assert "parameters<=" in str(error.value) or "one with a limit" in str(error.value)


# --- the strongest cells under it, beside all there are ---------------------------------------------------------------

NAMES = ("max_pool_3x3", "skip_connect", "sep_conv_3x3")


def all_cells(budget, cell_type):
    """Every cell that the edges of `budget` allow, in the order of edges and operations."""
    edges = cell_edges(budget.nodes)
    choices = (itertools.combinations(group.candidates(), group.keep) for group in budget.groups(cell_type))
    for kept in itertools.product(*choices):
        kept = sorted((edge for group in kept for edge in group), key=edges.index)
        fed = tuple(sorted({node for _, node in kept}))
        if all(source in (0, 1, *fed) for source, _ in kept):
            for sets in itertools.product(itertools.combinations(NAMES, budget.operations), repeat=len(kept)):
                chosen = [Edge(*edge, name) for edge, names in zip(kept, sets, strict=True) for name in names]
                yield CellGenotype(tuple(chosen), fed)


@pytest.fixture(scope="module", params=["1,1*2", "{2+3}:1", "{2+3}:2", "normal={2+3}:1;reduce=1,1"])
def every_pair(request):
    """A budget, and of every pair of cells that it allows the size."""
    budget = EdgeBudget.parse(request.param)
    pairs = itertools.product(*(all_cells(budget, name) for name in CELL_TYPES))
    return budget, {cells: count(cells) for cells in itertools.starmap(Genotype, pairs)}


def worths(kind, draws):
    """Of few values, so that sums are often equal; of any; and of some that a float's sum would lose."""
    drawn = {
        "ties": lambda: draws.choice([0, 0.25, 0.5]),
        "any": draws.random,
        "small": lambda: 10 ** draws.uniform(-30, 0),
    }[kind]
    return {name: [[drawn() for _ in NAMES] for _ in cell_edges(4)] for name in CELL_TYPES}


def total(worth, cells):
    """The sum of worth, without rounding."""
    return sum(
        Fraction(worth[name][cell_edges(4).index(edge[:2])][NAMES.index(edge.operation)])
        for name in CELL_TYPES
        for edge in cells.cell(name).edges
    )


@pytest.mark.parametrize("kind", ["ties", "any", "small"])
@pytest.mark.parametrize("limited_by", [QUANTITIES[:1], QUANTITIES[1:], QUANTITIES])
def test_no_cell_under_the_limit_is_worth_more(every_pair, limited_by, kind):
    edges, sizes = every_pair
    draws = random.Random(f"{limited_by} {kind}")
    worth = worths(kind, draws)
    totals = {cells: total(worth, cells) for cells in sizes}
    for limit in (draws.choice(list(sizes.values())) for _ in range(3)):  # each is one that a cell has exactly
        budget = replace(edges, limits=tuple((name, limit[name]) for name in limited_by))
        fitting = [cells for cells, size in sizes.items() if all(size[name] <= limit[name] for name in limited_by)]
        # Of equal sums the cheapest, of these the first.
        best = max(fitting, key=lambda cells: (totals[cells], *(-sizes[cells][name] for name in limited_by)))
        assert limited.strongest_within(budget, NAMES, worth, sizes_under(budget, NAMES)) == best


def test_what_has_left_is_kept_only_where_nothing_else_keeps_to_the_limit(every_pair):
    edges, sizes = every_pair
    draws, gone = random.Random(1), NAMES.index("skip_connect")
    worth = worths("any", draws)
    for rows in worth.values():
        for row in rows:
            row[gone] = -math.inf
    without = [cells for cells in sizes if "skip_connect" not in str(cells)]
    least = min(sizes[cells]["parameters"] for cells in without)
    for limit, kept in ((least, False), (least - 1, True)):
        budget = replace(edges, limits=(("parameters", limit),))
        if kept and min(size["parameters"] for size in sizes.values()) > limit:
            continue
        found = limited.strongest_within(budget, NAMES, worth, sizes_under(budget, NAMES))
        assert sizes[found]["parameters"] <= limit and ("skip_connect" in str(found)) == kept


def test_a_limit_that_no_cell_meets_is_refused_with_the_smallest(every_pair):
    edges, sizes = every_pair
    for name in QUANTITIES:
        least = min(size[name] for size in sizes.values())
        check_limits(replace(edges, limits=((name, least),)), NAMES)
        with pytest.raises(LabError) as error:
            check_limits(replace(edges, limits=((name, least - 1),)), NAMES)
        said = str(error.value).partition("must be ")[2].partition(" at least")[0]
        assert EdgeBudget.parse(f"{edges};{said}").limits == ((name, least),)
    few = min(size["parameters"] for size in sizes.values())
    least = min(size["multiply_adds"] for size in sizes.values() if size["parameters"] == few)
    check_limits(replace(edges, limits=(("parameters", few), ("multiply_adds", least))), NAMES)
    with pytest.raises(LabError, match="no cell with parameters<="):
        check_limits(replace(edges, limits=(("parameters", few), ("multiply_adds", least - 1))), NAMES)


# --- of the paper's space, by every method and rule -------------------------------------------------------------------

AT = Moment(1, 1)


def drawn_architectures(config, seed=0):
    """α and β far from their start."""
    torch.manual_seed(seed)
    start = config.searcher.start(config.space, config.edge_budget.only("normal"))
    return {name: Architecture(*(2 * torch.randn_like(part).double() for part in start)) for name in CELL_TYPES}


@pytest.mark.parametrize("budget", ["8/14", "3/14", "normal=2,3,2,2;reduce=4/14"])
def test_the_limit_is_exact_and_changes_nothing_where_it_is_met(budget):
    given = drawn_architectures(search_config("tiny", "digits", "darts"))
    edges = EdgeBudget.parse(budget)
    whole = Method().select(given, edges, AT)
    for name in QUANTITIES:
        size = count(whole)[name]
        assert rules.select("own", Method(), given, replace(edges, limits=((name, size),)), AT) == whole
        cells = rules.select("own", Method(), given, replace(edges, limits=((name, size - 1),)), AT)
        assert cells != whole and count(cells)[name] < size
        kept = [sum(edge.node in group.nodes for edge in cells.cell(cell).edges) == group.keep
                for cell in CELL_TYPES for group in edges.groups(cell)]  # fmt: skip
        assert all(kept)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_and_rule_keeps_to_it(method):
    config = search_config("tiny", "digits", method, budget="8/14; parameters<=2M; multiply_adds<=330M")
    given = drawn_architectures(config) if config.searcher.trains else {}
    others = ("strongest", "threshold:0.1", "skips:1") if method == "darts" else ()
    for rule in ("own", *others):
        cells = rules.select(rule, config.searcher, given, config.edge_budget, config.moment())
        assert meets(cells, config.edge_budget)
        if rule == "skips:1":
            for name in CELL_TYPES:
                assert sum(edge.operation == "skip_connect" for edge in cells.cell(name).edges) <= 1


def test_a_candidate_that_has_left_is_not_kept_for_being_cheap():
    given = drawn_architectures(search_config("tiny", "digits", "darts"))
    for both in given.values():
        both.alphas[:, :3] += GONE  # all that is cheap
        both.alphas[:2, 2] -= GONE
    whole = count(Method().select(given, EdgeBudget.parse("8/14"), AT))["parameters"]
    for limit in (whole - 1, int(0.97 * whole)):
        cells = rules.select("own", Method(), given, EdgeBudget.parse(f"8/14;parameters<={limit}"), AT)
        for name in CELL_TYPES:
            for edge in cells.cell(name).edges:
                assert given[name].alphas[rules.place(edge, AT.space)] > GONE / 2


@pytest.mark.parametrize("limit", ["2.5M", "1.8M", "1.6M"])
def test_few_skips_under_a_limit_are_few(limit):
    config = search_config("tiny", "digits", "darts", operations="skip_connect,max_pool_3x3,sep_conv_3x3")
    given = drawn_architectures(config)
    for both in given.values():
        both.alphas[:, 0] += 3
    at, budget = config.moment(), EdgeBudget.parse(f"8/14;parameters<={limit}")
    cells = rules.select("skips:1", config.searcher, given, budget, at)
    assert all(sum(edge.operation == "skip_connect" for edge in cells.cell(name).edges) <= 1 for name in CELL_TYPES)
    only = search_config("tiny", "digits", "darts", operations="skip_connect,sep_conv_3x3")
    given = {name: both._replace(alphas=both.alphas[:, [0, 2]]) for name, both in given.items()}
    if limit == "1.6M":
        with pytest.raises(LabError, match="one that cells of at most 1 skip connections meet"):
            rules.select("skips:1", only.searcher, given, budget, only.moment())


def test_a_way_to_select_that_keeps_to_no_limit_is_refused():
    class Heaviest(Method):
        title = "heaviest"

        def select(self, architectures, budget, at):
            return Method.select(self, architectures, budget.unlimited, at)

    given = drawn_architectures(search_config("tiny", "digits", "darts"))
    with pytest.raises(LabError, match="without a limit for heaviest"):
        rules.select("own", Heaviest(), given, EdgeBudget.parse("8/14;parameters<=1.5M"), AT)


def test_random_cells_are_drawn_until_one_keeps_to_it(monkeypatch):
    monkeypatch.setattr(selection, "MOST_DRAWS", 50)
    config = search_config("tiny", "digits", "random", budget="8/14; multiply_adds<=350M")
    cells = rules.select("own", config.searcher, {}, config.edge_budget, config.moment())
    assert meets(cells, config.edge_budget)
    with pytest.raises(LabError, match="chance"):
        rules.select("own", config.searcher, {}, EdgeBudget.parse("8/14;multiply_adds<=227.3M"), config.moment())


def test_operations_of_ones_own_and_five_nodes(tmp_path, forgets_operations):
    (tmp_path / "own.py").write_text(
        "from torch import nn\n\n\ndef wide(channels, stride, affine):\n"
        "    return nn.Conv2d(channels, channels, 3, stride, 1, bias=False)\n"
    )
    operations = f"skip_connect,max_pool_3x3,{tmp_path}/own.py:wide"
    config = search_config("tiny", "digits", "darts", nodes=5, operations=operations, budget="2,2,1")
    given = drawn_architectures(config)
    for both in given.values():
        both.alphas[:, 2] += 9
    whole = rules.select("own", config.searcher, given, config.edge_budget, config.moment())
    assert all(edge.operation == "wide" for name in CELL_TYPES for edge in whole.cell(name).edges)
    size = count(whole)["parameters"]
    budget = replace(config.edge_budget, limits=(("parameters", size - 1),))
    cells = rules.select("own", config.searcher, given, budget, config.moment())
    changed = [edge for name in CELL_TYPES for edge in cells.cell(name).edges if edge.operation != "wide"]
    assert meets(cells, budget) and len(changed) == 1


# --- where it may stand -----------------------------------------------------------------------------------------------


def test_a_search_asks_for_the_edges_and_its_cut_keeps_to_the_limit():
    plain, config = (
        search_config("tiny", "digits", "da2s", budget=budget) for budget in ("8/14", "8/14; multiply_adds<=300M")
    )
    assert config.budget == "8/14;multiply_adds<=300M" and config.searcher == plain.searcher
    given = {"gap_every": 1, "gap_budgets": "8/14; multiply_adds<=300M 4/14"}
    assert search_config("tiny", "digits", "da2s", **given).gap_budgets == "8/14;multiply_adds<=300M 4/14"
    for name in ("budget", "gap_budgets"):
        with pytest.raises(LabError, match=r"must be multiply_adds<=227.27232M at least"):
            search_config("tiny", "digits", "da2s", gap_every=1, **{name: "8/14; multiply_adds<=40M"})
    with pytest.raises(LabError, match="leaves something out"):
        search_config("tiny", "digits", budget="2,3,4,5*7; parameters<=9G")


@pytest.mark.parametrize("method", ["darts", "da2s"])
def test_on_the_command_line(tmp_path, capsys, method):
    folder = write_search(tmp_path / "x", method, "tiny", "digits")
    least = json.loads(_said(capsys, ["genotype", str(folder), "--budget", "8/14; parameters<=1.5M"]))
    assert count(Genotype.from_json(least))["parameters"] <= 1_500_000
    (tmp_path / "cells.json").write_text(json.dumps(least))
    said = _said(capsys, ["count", str(tmp_path / "cells.json")])
    assert f"{count(Genotype.from_json(least))['parameters']:,} parameters" in said
    for arguments, field, word in (
        (["--budget", "8/14; multiply_adds<=40M"], "budget", "multiply_adds<=227.27232M at least"),
        (["--budget", "8/14*9; parameters<=3M"], "operations per edge", "9: must be 1 to 7"),
        (
            ["--budget", "8/14; parameters<=1.5M", "--select", "perturbation"],
            "budget",
            "without a limit for perturbation",
        ),
    ):
        assert main(["genotype", str(folder), *arguments]) == 2
        captured = capsys.readouterr()
        assert captured.err.count("\n") == 1 and f"{field} = " in captured.err and word in captured.err


def _said(capsys, arguments):
    assert main(arguments) == 0
    return capsys.readouterr().out


def test_a_sweep_cuts_to_it(tmp_path):
    def swept(budget):
        text = json.dumps({"preset": "tiny", "dataset": "digits", "search": {"method": "darts", "budget": budget}})
        (tmp_path / "s.yaml").write_text(text)
        return read_sweep(tmp_path / "s.yaml")

    [cuts] = swept(["8/14", "8/14; parameters<=2M"]).searches.values()
    assert cuts == ["8/14", "8/14;parameters<=2M"]
    with pytest.raises(LabError, match=r"parameters<=1\.370134M at least"):
        swept("8/14; parameters<=1M")


def test_near_ties_are_named_where_the_other_meets_the_limit_too(tmp_path):
    run = read_run(write_search(tmp_path / "x", "darts", "tiny", "digits"))
    for name in CELL_TYPES:
        run.alphas[name][-1] = 0.0
        run.alphas[name][-1][:, PRIMITIVES.index("sep_conv_5x5")] = 1.0
        run.alphas[name][-1][:, PRIMITIVES.index("sep_conv_3x3")] = 0.999
    whole = genotype_after(run, budget="8/14")
    budget = f"8/14; multiply_adds<={count(whole)['multiply_adds'] - 1}"
    cells = genotype_after(run, budget=budget)
    kept = [edge.operation for name in CELL_TYPES for edge in cells.cell(name).edges]
    assert sorted(set(kept)) == ["sep_conv_3x3", "sep_conv_5x5"] and kept.count("sep_conv_3x3") == 1
    assert cells.normal.edges[0] == (0, 2, "sep_conv_3x3")  # of equals the cheapest, and of these the first
    rows = close_choices(run, budget=budget)
    # 3×3 would do as well on every other edge; on the one that has it, where the node has no others, nothing would.
    expected = {f"{e.source}→{e.node} {e.operation}" for name in CELL_TYPES for e in cells.cell(name).edges}
    assert {row["kept"] for row in rows} == expected - {"0→2 sep_conv_3x3"}
    assert all("sep_conv" in row["next"] and 0 <= row["margin"] < 0.01 for row in rows) and len(rows) == 15
