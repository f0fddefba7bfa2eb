"""Other spaces than the paper's: sets of operations as text, one's own operations, and the networks of any space."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from daas_lab.compose import retrain_config, search_config
from daas_lab.errors import LabError
from daas_lab.methods.lookup import method_class
from daas_lab.networks.derived import Network
from daas_lab.networks.fast_layers import speed_up
from daas_lab.networks.fast_supernet import FastSuperNetwork, make_supernet
from daas_lab.networks.supernet import SuperNetwork
from daas_lab.runs.folder import read_run
from daas_lab.runs.records import read_record, write_record
from daas_lab.space.budget import EdgeBudget, two_edges
from daas_lab.space.cell_space import (
    CELL_TYPES,
    EXTRA_PRIMITIVES,
    NAMED_SETS,
    NONE,
    PRIMITIVES,
    SKIP,
    WITH_SKIP,
    Space,
    canonical_operations,
    known_operations,
    operations_digest,
    own_operations,
)
from daas_lab.space.cost import count
from daas_lab.space.genotype import CellGenotype, Edge, Genotype
from daas_lab.space.operations import OPERATIONS, make_candidate, make_operation, named_operations, parse_operations
from daas_lab.space.selection import derive_cell, random_genotype
from daas_lab.studies.settings import Settings
from daas_lab.train.evolution import genotype_after
from daas_lab.train.search import search
from tests.made_runs import write_search

OWN = """
from torch import nn


def gated(channels, stride, affine):
    depthwise = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
    pointwise = nn.Conv2d(channels, 2 * channels, 1, bias=False)
    return nn.Sequential(depthwise, pointwise, nn.GLU(dim=1), nn.BatchNorm2d(channels, affine=affine))


def blur(channels, stride, affine):
    return nn.AvgPool2d(5, stride, 2)
"""
SIZES = {"channels": 4, "layers": 3, "classes": 3}


@pytest.fixture
def own(tmp_path, forgets_operations):
    """A file of one's own operations; afterwards nothing is known of it."""
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


# --- the table --------------------------------------------------------------------------------------------------------


def test_the_table_is_what_cells_can_name_and_none():
    assert set(OPERATIONS) == {*PRIMITIVES, *EXTRA_PRIMITIVES, *WITH_SKIP, NONE}
    for name, operation in OPERATIONS.items():
        parameters = list(make_operation(name, 4, 1, affine=True).parameters())
        assert operation.free == (not parameters), name


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("stride", [1, 2])
def test_every_operation_keeps_or_halves_the_side(name, stride):
    for make in (make_operation(name, 4, stride, affine=True), make_candidate(name, 4, stride)):
        assert make(torch.randn(2, 4, 8, 8)).shape == (2, 4, 8 // stride, 8 // stride)


# --- sets of operations as text ---------------------------------------------------------------------------------------


def test_a_set_of_operations_is_a_text(own):
    assert parse_operations("") == parse_operations(",".join(PRIMITIVES)) == PRIMITIVES
    assert canonical_operations(", ".join(PRIMITIVES)) == "" == operations_digest("")
    text = f"none, {own}:gated, skip_connect"
    state = torch.random.get_rng_state()
    assert parse_operations(text) == ("none", "gated", "skip_connect")
    assert torch.equal(torch.random.get_rng_state(), state), "trying an operation draws no random number"
    assert not OPERATIONS["gated"].free and parse_operations(f"{own}:blur,{own}:gated") == ("blur", "gated")
    assert OPERATIONS["blur"].free and OPERATIONS["blur"].colour != OPERATIONS["gated"].colour


def test_the_same_file_is_the_same_text_from_every_folder(own, monkeypatch):
    monkeypatch.chdir(own.parent)
    assert canonical_operations("own.py:gated, skip_connect") == f"{own}:gated,skip_connect"
    assert operations_digest("own.py:gated,skip_connect") == operations_digest(f"{own}:gated,skip_connect")


def test_an_edited_file_is_another_operation_under_the_same_name(own):
    text = f"{own}:gated,skip_connect"
    parse_operations(text)
    first, digest = OPERATIONS["gated"].make, operations_digest(text)
    own.write_text(OWN.replace("3, stride, 1", "5, stride, 2"))
    parse_operations(text)
    assert OPERATIONS["gated"].make is not first and operations_digest(text) != digest
    assert make_operation("gated", 4, 1, affine=False)[0].kernel_size == (5, 5)
    # What a run's folder remembers is the content of its time.
    assert named_operations(text, digest) == ("gated", "skip_connect") and OPERATIONS["gated"].make is first


def test_what_a_folder_remembers_is_never_executed(own):
    own.write_text("raise SystemExit('executed')\n" + OWN)
    text = f"{own}:gated,skip_connect"
    with pytest.raises(LabError, match=r"operations = .*own\.py:gated.*name the same file again"):
        named_operations(text, operations_digest(text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("skip_connect", ["two or more", "none"]),
        ("none,skip_connect", ["two or more"]),
        ("sep_conv_4x4,skip_connect", ["sep_conv_4x4", "did you mean sep_conv_"]),
        ("skip_connect,max_pool_3x3,skip_connect", ["differ"]),
        ("{own}:gated,skip_connect,{own}:gated", ["differ"]),
        ("skip_connect,,max_pool_3x3", ["''"]),
        ("{own}:nothing,skip_connect", ["own.py:nothing", "a name that"]),
        ("{own}.py:gated,skip_connect", ["own.py.py:gated", "No such file"]),
    ],
)
def test_a_set_that_cannot_be_is_refused(own, text, words):
    with pytest.raises(LabError) as refusal:
        parse_operations(text.format(own=own))
    message = str(refusal.value)
    assert message.startswith("operations = ") and "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("def op(channels, stride, affine): return nn.AvgPool2d(3, 1, 1)", ["stride 2", "makes (2, 240, 8, 8)"]),
        ("def op(channels, stride, affine): return nn.Conv2d(channels, 3, 1, stride)", ["stride 1", "(2, 3, 8, 8)"]),
        ("def op(channels, stride, affine): return lambda x: x", ["no torch.nn.Module"]),
        ("def op(channels, stride): return nn.Identity()", ["stride 1", "TypeError"]),
        ("def op(channels, stride, affine): 1 / 0", ["ZeroDivisionError"]),
        ("def op(channels, stride, affine): return nn.LSTM(8, 8)", ["stride 1"]),
        ("def op(channels, stride, affine): return nn.Threshold(9, float('nan'))", ["not finite"]),
        ("def op(channels, stride, affine): return nn.MaxPool2d(1, stride, return_indices=True)", ["tuple"]),
        ("op = 3", ["TypeError"]),
        ("def op(channels, stride, affine): return nn.Sequential(nn.ReLU(inplace=True), "
         "nn.Conv2d(channels, channels, 1, stride))", ["changes its input (inplace=True?)"]),
    ],
)  # fmt: skip
def test_an_operation_that_does_not_fit_is_refused_before_anything_is_trained(own, body, words):
    own.write_text("from torch import nn\n\n" + body + "\n")
    with pytest.raises(LabError) as refusal:
        parse_operations(f"{own}:op,skip_connect")
    message = str(refusal.value)
    assert message.startswith("operations = ") and f"{own}:op" in message and "\n" not in message
    assert all(word in message for word in words), message
    assert "op" not in OPERATIONS and "op" not in own_operations


@pytest.mark.parametrize(
    ("groups", "channels", "words"),
    [
        (4, {"channels": 6}, "fails with 6 channels, stride 1"),
        (2, {"method": "pc_darts"}, "fails with 1 channels, stride 1"),
        (8, {"channels": 8}, ""),
        (3, {"channels": 9}, ""),
    ],
)
def test_an_operation_is_tried_with_the_channels_that_it_will_have(own, groups, channels, words):
    body = f"nn.Conv2d(channels, channels, 3, stride, 1, groups={groups}, bias=False)"
    own.write_text(f"from torch import nn\n\ndef op(channels, stride, affine):\n    return {body}\n")
    made = partial(search_config, "tiny", "digits", operations=f"{own}:op,skip_connect", **channels)
    if not words:
        assert made().channels == channels["channels"]
        return
    with pytest.raises(LabError, match=words):
        made()
    cells = Genotype(*[CellGenotype.of([Edge(0, node, "op") for node in (2, 3)])] * 2)
    with pytest.raises(LabError, match="fails with 3 channels"):
        retrain_config(cells, "tiny", "digits", channels=3)


@pytest.mark.parametrize("name", ["sep_conv_3x3", "none", "values"])
def test_names_that_mean_something_else_are_refused(own, name):
    own.write_text(OWN.replace("def gated", f"def {name}"))
    with pytest.raises(LabError, match="a function of another name"):
        parse_operations(f"{own}:{name},skip_connect")


# --- cells ------------------------------------------------------------------------------------------------------------


def test_a_cell_of_ones_own_operation_asks_for_the_file(own):
    edges = tuple(Edge(node - 2, node, "gated") for node in (2, 3))
    with pytest.raises(LabError, match=r"edge \(0, 2\) = 'gated': .*FILE\.py:function was named: --own"):
        CellGenotype(edges, (2, 3))
    parse_operations(f"{own}:gated,skip_connect")
    cell = CellGenotype(edges, (2, 3))
    genotype = Genotype(cell, cell)
    assert Genotype.from_json(json.loads(json.dumps(genotype.to_json()))) == genotype
    assert known_operations()[-1] == "gated"
    with pytest.raises(LabError, match="'none'"):
        CellGenotype((Edge(0, 2, NONE),), (2,))


def test_a_cell_stands_for_the_operations_of_its_run_though_another_file_has_the_names(own, tmp_path):
    """Two searches that compare two files' function of one name: sizes and retrainings are each one's own."""
    runs, sizes = [], []
    for name, body in (("one", OWN), ("other", OWN.replace("3, stride, 1", "5, stride, 2"))):
        path = tmp_path / f"{name}.py"
        path.write_text(body)
        changes = {"nodes": 4, "budget": "1,1", "operations": f"skip_connect,{path}:gated"}
        runs.append(read_run(write_search(tmp_path / name, "da2s", "tiny", "digits", **changes)))
        alphas = {cell: np.ones_like(array) * [0.0, 1.0] for cell, array in runs[-1].alphas.items()}
        runs[-1] = replace(runs[-1], alphas=alphas)
        sizes.append(count(genotype_after(runs[-1]))["parameters"])
    assert sizes[0] < sizes[1]
    configs = [Settings(preset="tiny", dataset="digits").retraining(genotype_after(run), 0) for run in runs]
    assert [config.operations for config in configs] == [f"{tmp_path}/{name}.py:gated" for name in ("one", "other")]
    write_record(runs[0], tmp_path / "one.json")
    read_run(runs[1].folder)
    count(genotype_after(read_record(tmp_path / "one.json")))
    assert count(read_record(tmp_path / "one.json").genotype or genotype_after(runs[0]))["parameters"] == sizes[0]


def test_none_is_passed_over_in_every_cut():
    names = ("none", "skip_connect", "sep_conv_3x3")
    cell = derive_cell([[9, 1, 2]] * 5, [1, 2, 3, 4, 5], two_edges(4).normal, names=names)
    assert {edge.operation for edge in cell.edges} == {"sep_conv_3x3"}
    cell = derive_cell([[9, 1, 2]] * 5, [1, 2, 3, 4, 5], two_edges(4).normal, 2, names)
    assert [edge.operation for edge in cell.edges[:2]] == ["skip_connect", "sep_conv_3x3"]
    for seed in range(20):
        drawn = random_genotype(EdgeBudget.parse("2,2*2"), seed, names)
        assert {edge.operation for edge in drawn.normal.edges} == {"skip_connect", "sep_conv_3x3"}
    for cut in (lambda: derive_cell([[9, 1, 2]] * 5, [1] * 5, two_edges(4).normal, 3, names),
                lambda: random_genotype(EdgeBudget.parse("2,2*3"), 0, names)):  # fmt: skip
        with pytest.raises(LabError, match="operations per edge = 3: must be 1 to 2"):
            cut()


@pytest.mark.parametrize("method", ["darts", "pc_darts", "da2s", "da2s_exact"])
def test_an_edge_that_prefers_none_does_not_rank_by_it(method):
    space = Space(4, ("none", "skip_connect", "sep_conv_3x3"))
    budget = EdgeBudget.parse("1,1")
    fields = {"budget": "1,1"} if "budget" in method_class(method).__dataclass_fields__ else {}
    network = SuperNetwork(space, method_class(method)(**fields), budget=budget, **SIZES)
    with torch.no_grad():
        for cell_type in CELL_TYPES:
            network.betas(cell_type).zero_()
            network.alphas(cell_type).copy_(torch.tensor([9.0, 0, 0]).expand(5, 3))
            network.alphas(cell_type)[1::2] = torch.tensor([0.0, 0, 1])  # edges (1,2) and (1,3)
    cell = network.method.select(network.architectures(), budget, network.at).normal
    if network.method.learns_edges and method == "da2s":  # its edges rank by β
        assert {edge.operation for edge in cell.edges} <= set(space.operations[1:])
    else:
        assert [tuple(edge) for edge in cell.edges] == [(1, 2, "sep_conv_3x3"), (1, 3, "sep_conv_3x3")]


# --- networks ---------------------------------------------------------------------------------------------------------

SPACES = {
    "with none": (5, "none,skip_connect,sep_conv_3x3,avg_pool_3x3", 1),
    "partial channels": (4, "sep_conv_7x7,conv_7x1_1x7,skip_connect,none", 2),
    "one's own": (4, "{own}:gated,max_pool_3x3,skip_connect,{own}:blur", 1),
    "one's own, partial channels": (5, "{own}:gated,skip_connect", 2),
    "the paper's, five nodes": (5, "", 1),
}


@pytest.fixture(params=SPACES)
def space_and_channels(request, own):
    nodes, text, partial_channels = SPACES[request.param]
    return Space(nodes, parse_operations(text.format(own=own))), partial_channels


def test_gradients_of_any_space_are_those_of_finite_differences(space_and_channels):
    space, partial_channels = space_and_channels
    torch.manual_seed(0)
    network = make_supernet(space, method_class("pc_darts")(), partial_channels=partial_channels, **SIZES).double()
    for parameter in network.arch_parameters():
        parameter.data = torch.randn_like(parameter)
    x, classes = torch.randn(4, 3, 8, 8, dtype=torch.float64), torch.arange(4) % 3
    F.cross_entropy(network(x), classes).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())
    step = 1e-6
    for parameter in network.arch_parameters():
        gradient, measured = parameter.grad.flatten(), []
        chosen = range(0, parameter.numel(), 5)
        with torch.no_grad():
            for place in chosen:
                sides = []
                for change in (step, -2 * step):
                    parameter.view(-1)[place] += change
                    sides.append(F.cross_entropy(network(x), classes))
                parameter.view(-1)[place] += step
                measured.append((sides[0] - sides[1]) / (2 * step))
        torch.testing.assert_close(gradient[list(chosen)], torch.stack(measured), rtol=1e-4, atol=1e-8)


def test_a_cell_of_any_space_becomes_a_network(space_and_channels):
    space, partial_channels = space_and_channels
    torch.manual_seed(1)
    network = make_supernet(space, method_class("da2s")(), partial_channels=partial_channels, **SIZES)
    genotype = network.method.select(network.architectures(), two_edges(space.nodes), network.at)
    for cell_type in CELL_TYPES:
        edges = genotype.cell(cell_type).edges
        assert len(edges) == 2 * (space.nodes - 2)
        assert {edge.operation for edge in edges} <= set(space.operations) - {NONE}
    # A cell that has them all, whatever the draw kept.
    kept = [name for name in space.operations if name != NONE]
    edges = [Edge(n % 2, node, name) for node in (2, 3) for n, name in enumerate(kept)]
    everything = CellGenotype(tuple(edges), (2, 3))
    for cells in (genotype, Genotype(everything, everything)):
        derived = Network(cells, auxiliary=False, **SIZES)
        fast = speed_up(Network(cells, auxiliary=False, **SIZES))
        fast.load_state_dict(derived.state_dict())
        x = torch.randn(4, 3, 8, 8)
        torch.testing.assert_close(fast(x), derived(x), rtol=1e-4, atol=1e-5)
        fast(x).sum().backward()
        counted = count(cells, **SIZES, side=8)
        assert counted["parameters"] == sum(parameter.numel() for parameter in derived.parameters())
        multiply_adds = 0

        def add(module, _, output):
            nonlocal multiply_adds
            multiply_adds += output[0].numel() * module.weight[0].numel()

        for module in derived.eval().modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                module.register_forward_hook(add)
        derived(torch.zeros(1, 3, 8, 8))
        assert counted["multiply_adds"] == multiply_adds


def test_the_fast_form_takes_over_where_it_can_and_says_where_it_cannot(own, capsys):
    method = method_class("darts")()
    for text in ("", "no_skip", ",".join(reversed(PRIMITIVES)), ",".join((*PRIMITIVES, "none"))):
        assert type(make_supernet(Space(4, parse_operations(text)), method, **SIZES)) is FastSuperNetwork
        assert capsys.readouterr().err == ""
    for text, others in ((f"{own}:gated,skip_connect", "not gated\n"), ("all_skip", f"not {', '.join(WITH_SKIP)}\n")):
        space = Space(4, parse_operations(text))
        assert type(make_supernet(space, method, **SIZES)) is SuperNetwork
        line = capsys.readouterr().err
        assert line.count("\n") == 1 and "the readable form" in line and line.endswith(others)
        with pytest.raises(LabError, match="checkpointed = True: must be false"):
            make_supernet(space, method, checkpointed=True, **SIZES)
    chooser = type("Chooser", (method_class("darts"),), {"trains_weight": lambda self, name: "sep_conv" not in name})
    network = make_supernet(Space(4), chooser(), **SIZES)
    trained, all_of_them = network.weight_parameters(), len(list(network.parameters())) - 4  # of α and β
    assert type(network) is SuperNetwork and 0 < len(trained) < all_of_them
    assert "trains all of its weights" in capsys.readouterr().err


def test_a_seed_gives_both_forms_the_same_numbers():
    states = []
    for form in (SuperNetwork, FastSuperNetwork):
        torch.manual_seed(0)
        states.append(form(Space(4), method_class("da2s")(), partial_channels=2, **SIZES).state_dict())
        states.append({"next": torch.rand(1)})
    assert list(states[0]) != [] and states[0].keys() == states[2].keys() and states[1] == states[3]
    assert all(torch.equal(value, states[2][name]) for name, value in states[0].items())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"channels": 6, "partial_channels": 4}, "channels = 6: must be divisible by partial_channels = 4"),
        ({"budget": EdgeBudget.parse("8/14")}, r"budget = '8/14': must be for 2 intermediate nodes \(nodes = 4\)"),
        ({"budget": EdgeBudget.parse("1,1*3")}, "operations per edge = 3: must be 1 to 2"),
    ],
)
def test_a_network_that_cannot_be_is_refused(changes, words):
    with pytest.raises(LabError, match=words):
        SuperNetwork(Space(4, ("none", "skip_connect", "max_pool_3x3")), method_class("darts")(), **SIZES | changes)


# --- the paper's set without its favourite, and with it everywhere ----------------------------------------------------


def test_named_sets():
    assert parse_operations("no_skip") == tuple(name for name in PRIMITIVES if name != SKIP)
    assert parse_operations("all_skip") == NAMED_SETS["all_skip"] == WITH_SKIP and len(WITH_SKIP) == 6
    assert canonical_operations("no_skip") == ",".join(NAMED_SETS["no_skip"])
    with pytest.raises(LabError, match="no_skip"):
        parse_operations("no_skips")


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", WITH_SKIP)
def test_an_operation_with_a_skip_beside_it_is_their_sum(name, stride):
    together, x = make_candidate(name, 4, stride).double(), torch.randn(2, 4, 8, 8, dtype=torch.float64)
    alone = make_candidate(name.removesuffix("_and_skip"), 4, stride).double()
    names = {
        key.removeprefix("branch.").replace("operation.", "pool." if "pool" in name else ""): value
        for key, value in together.state_dict().items()
        if key.startswith("branch.")
    }
    alone.load_state_dict(names)
    skip = make_operation(SKIP, 4, stride, affine=False).double()
    skip.load_state_dict(
        {key.removeprefix("skip."): value for key, value in together.state_dict().items() if key.startswith("skip.")}
    )
    assert torch.allclose(together(x), alone(x) + skip(x), atol=1e-12)


@pytest.mark.parametrize("operations", ["no_skip", "all_skip"])
def test_a_named_set_is_searched(operations, tmp_path):
    config = search_config("tiny", "digits", "darts", operations=operations, nodes=4, budget="1,1", epochs=1, steps=1)
    search(config, tmp_path, progress=False)
    kept = {edge.operation for name in CELL_TYPES for edge in read_run(tmp_path).genotype.cell(name).edges}
    assert kept <= set(NAMED_SETS[operations])
