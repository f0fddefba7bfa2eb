"""One search for every budget: k falls as it should, and what it was at a stop is kept and found again."""

import json
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from daas_lab import cli
from daas_lab.compose import search_config
from daas_lab.errors import LabError
from daas_lab.methods.da2s_exact import edge_scores, exact_edge_logits
from daas_lab.methods.method import Architecture
from daas_lab.methods.projection import between_logits, project
from daas_lab.runs.folder import read_run, stop_name
from daas_lab.space.budget import NAMED_BUDGETS, EdgeBudget
from daas_lab.space.cell_space import CELL_TYPES, NONE, PRIMITIVES, Space, cell_edges
from daas_lab.studies import make
from daas_lab.studies.paper_tables import budgets_of
from daas_lab.studies.settings import Settings
from daas_lab.train.cut import cut
from daas_lab.train.discretize import architecture_of, derive_genotype
from daas_lab.train.evolution import genotype_after
from daas_lab.train.perturbation import keep_perturbed_cells
from daas_lab.train.search import load_supernet, search
from tests.killing import Stopped, stopped_in_every_epoch
from tests.killing import stop as stop_after_an_epoch

INDEX = {edge: e for e, edge in enumerate(cell_edges(6))}
SHORT = {"epochs": 9, "hold": 2, "steps": 2, "threads": 1, "budget": "3/14", "retire": 1e-3}


def descent(**changes):
    return search_config("tiny", "digits", "da2s_descent", **{"budget": "3/14", "epochs": 50, "hold": 10} | changes)


def edges_at(config, betas, epoch):
    """b [E] in float64 with all α alike, so that the scores are β and a constant."""
    made = Architecture(torch.zeros(14, 7, dtype=torch.float64), betas)
    return config.searcher.mix(made, "normal", config.moment(epoch)).edges


def test_k_falls_from_budget_to_budget_and_rests_at_each_stop():
    config, betas = descent(), torch.linspace(-2, 2, 14, dtype=torch.float64).sin()
    stops = config.searcher.stops(50, config.space)
    assert stops == {"8/14": 26, "6/14": 32, "5/14": 38, "4/14": 44, "3/14": 50}  # 16 of 40 epochs, then 6 each
    before = {node: node for node in range(2, 6)}
    for (budget, stop), begun in zip(stops.items(), (10, 26, 32, 38, 44), strict=True):
        if budget == "3/14":
            continue
        keep = EdgeBudget.parse(budget).targets("normal")
        fall = (stop - begun) // 2
        for epoch, share in ((begun + 1, 1 / fall), (begun + 2, 2 / fall), (begun + fall, 1.0), (stop, 1.0)):
            b = edges_at(config, betas, epoch)
            for node in range(2, 6):
                own = [INDEX[source, node] for source in range(node)]
                k = before[node] + (keep[node] - before[node]) * share
                assert b[own].sum().item() == pytest.approx(k, abs=1e-9)
                expected = project([betas[own]], [k])[0].sigmoid()
                torch.testing.assert_close(b[own], expected, rtol=0, atol=1e-9)
        before = keep


def test_separate_nodes_are_joined_in_steps():
    config, betas = descent(), torch.linspace(-3, 2, 14, dtype=torch.float64).cos()
    apart, joined = (edges_at(config, betas, epoch) for epoch in (44, 50))
    assert apart[:5].sum().item() == pytest.approx(2) and joined[:4].sum().item() == pytest.approx(1)
    assert joined[INDEX[2, 3]] < 1e-20
    scores, groups = betas - math.log(7), EdgeBudget.parse("3/14").normal
    for epoch, share in ((45, 1 / 3), (46, 2 / 3), (50, 1.0)):
        grown = exact_edge_logits(scores / 0.1 ** ((epoch - 44) / 6), groups, 1.0).sigmoid()
        torch.testing.assert_close(
            edges_at(config, betas, epoch), (1 - share) * apart + share * grown, rtol=0, atol=1e-12
        )
    plain = exact_edge_logits(scores, groups, 1.0).sigmoid()
    assert joined[3] > 0.8 > 0.4 > plain[3]  # of scores that differ by 0.3


@pytest.mark.parametrize("share", [0.0, 1e-3, 0.5, 1.0])
def test_logits_between_two_are_finite_where_both_have_saturated(share):
    x = torch.tensor([-60.0, -3.0, 0.0, 60.0, 60.0, -60.0, 2.0], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([60.0, 1.0, 5.0, 60.0, -60.0, -60.0, -1.0], dtype=torch.float64, requires_grad=True)
    between = between_logits(x, y, share)
    expected = (1 - share) * x.sigmoid() + share * y.sigmoid()
    torch.testing.assert_close(between.sigmoid(), expected, rtol=1e-12, atol=0)
    gradients = torch.autograd.grad(between.sum(), (x, y))
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("operations", [PRIMITIVES, (NONE, *PRIMITIVES)])
def test_the_scores_of_edges_are_of_what_a_cell_can_have(operations):
    space, draws = Space(6, operations), torch.Generator().manual_seed(0)
    alphas, betas = torch.randn(14, len(operations), generator=draws), torch.randn(14, generator=draws)
    largest = [[row[o] for o, name in enumerate(operations) if name != NONE] for row in alphas.log_softmax(1).tolist()]
    seen = Seen()
    with seen:
        scores = edge_scores(alphas, betas, space)
    torch.testing.assert_close(scores, betas + torch.tensor(list(map(max, largest))))
    assert (torch.ops.aten.index.Tensor in seen.functions) == (NONE in operations)
    with seen:
        edge_scores(alphas, betas, space)
        between_logits(alphas[0], alphas[1], 0.3)
    assert seen.copied == (NONE in operations), "once, the places of the choices"


class Seen(TorchDispatchMode):
    """Which operations were asked for, and how often Python's numbers became a tensor: on a GPU the host waits."""

    def __init__(self):
        super().__init__()
        self.functions, self.copied = set(), 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        self.functions.add(function)
        self.copied += function is torch.ops.aten.lift_fresh.default
        return function(*arguments, **named or {})


def test_the_losses_grow_and_the_temperature_falls_in_the_first_stage_alone():
    config = descent()
    first = search_config("tiny", "digits", "da2s_exact", budget="8/14", epochs=26, hold=10)
    for epoch in (1, 10, 14, 26):
        assert config.searcher.lambdas(config.moment(epoch)) == first.searcher.lambdas(first.moment(epoch))
    assert config.searcher.lambdas(config.moment(40)) == config.searcher.lambdas(config.moment(26))
    alphas, betas = torch.randn(14, 7, generator=torch.Generator().manual_seed(0)), torch.zeros(14)
    for epoch in (26, 50):
        mixture = config.searcher.mix(Architecture(alphas, betas), "normal", config.moment(epoch))
        torch.testing.assert_close(mixture.operations, (alphas / 0.1).softmax(1))


def test_the_learning_rate_of_the_weights_falls_in_each_stage():
    config = descent()
    places = {epoch: config.searcher.annealing(config.moment(epoch)) for epoch in (1, 26, 27, 32, 33, 50)}
    assert places == {1: (1, 26), 26: (26, 26), 27: (1, 6), 32: (6, 6), 33: (1, 6), 50: (6, 6)}
    exact = search_config("tiny", "digits", "da2s_exact", epochs=50)
    assert exact.searcher.annealing(exact.moment(30)) == (30, 50)


def test_for_its_first_budget_alone_it_is_the_search_for_that_budget():
    config, made = descent(budget="8/14"), Architecture(torch.randn(14, 7), torch.randn(14))
    exact = search_config("tiny", "digits", "da2s_exact", budget="8/14", epochs=50, hold=10)
    for epoch in (1, 20, 50):
        ours, theirs = (c.searcher.mix(made, "normal", c.moment(epoch)) for c in (config, exact))
        assert torch.equal(ours.edges, theirs.edges) and torch.equal(ours.operations, theirs.operations)


def test_stages_of_less_than_an_epoch_leave_the_last_one_to_its_own_budget():
    config = descent(epochs=5, hold=2)
    assert [*config.searcher.stops(5, config.space).values()] == [4, 4, 5, 5, 5]
    b = edges_at(config, torch.linspace(-1, 1, 14, dtype=torch.float64), 5)
    assert b[:4].sum().item() == pytest.approx(1) and b[9:].sum().item() == pytest.approx(1)


@pytest.mark.parametrize("through", ["9/14", "8/14 5", ["8/14"]])
def test_what_is_no_budget_is_refused_by_the_fields_name(through):
    with pytest.raises(LabError, match="through"):
        descent(through=through)


def test_a_path_that_gives_back_what_it_took_is_refused():
    with pytest.raises(LabError, match=r"through = '8/14 6/14'.*2,1,1,1 keeps more edges of node 2 than 6/14"):
        descent(budget="2,1,1,1", through="8/14 6/14")
    assert list(descent(budget="1,1,1,2").searcher.stops(50, descent().space)) == ["8/14", "6/14", "5/14"]


# --- a search that stops and goes on ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("descent") / "run"
    search(search_config("tiny", "digits", "da2s_descent", **SHORT), folder, progress=False)
    return folder


def test_cell_drop_and_weights_of_a_stop_are_those_of_its_epoch(searched, capsys):
    run = read_run(searched)
    stops = run.search.searcher.stops(9, run.search.space)
    assert stops == {"8/14": 5, "6/14": 6, "5/14": 7, "4/14": 8, "3/14": 9}
    assert cli.main(["gap", str(searched), "--edge-weight", "learned", "--stage", "both", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    for budget, stop in stops.items():
        [row] = run.history[stop - 1]["gap"]
        assert row in measured and row["budget"] == budget
        assert row["before"] == run.history[stop - 1]["held_out_accuracy"]
        network, config = load_supernet(searched, budget)
        assert network.at.epoch == stop == config.epoch_of(budget)
        for name, array in run.architecture(stop).items():
            assert architecture_of(network)[name].tolist() == array.tolist()
        cells = derive_genotype(config, run.architecture(stop), EdgeBudget.parse(budget), stop)
        assert genotype_after(run, budget=budget) == cells
    assert genotype_after(run) == run.genotype
    rates = [record["learning_rate"] for record in run.history]
    assert rates[0] == rates[5] == rates[6] == rates[7] == rates[8] == 0.025 > rates[1] > rates[4]
    assert len({record["held_out_accuracy"] for record in run.history[3:]}) > 1  # or the test shows nothing


@pytest.mark.slow
def test_every_reader_comes_back_to_the_stop(searched, tmp_path):
    row = cut(searched, "6/14", tmp_path / "net", edge_weight="learned")
    assert row["after"] == read_run(searched).history[5]["gap"][0]["after"]
    settings = Settings(preset="tiny", dataset="digits", runs=tmp_path, figures=tmp_path, workers=1)
    rows = make.drops([read_run(searched)], ["6/14", "3/14"], settings, ("none", "both"), progress=False)
    before = {row["budget"]: row["before"] for row in rows}
    history = read_run(searched).history
    assert before == {"6/14": history[5]["held_out_accuracy"], "3/14": history[8]["held_out_accuracy"]}
    keep_perturbed_cells(searched, "data", ["5/14"])
    network, _ = load_supernet(searched, "5/14")
    chosen = genotype_after(read_run(searched), budget="5/14", select="perturbation")
    for name in CELL_TYPES:
        for source, node, operation in chosen.cell(name).edges:
            place = INDEX[source, node], network.space.operations.index(operation)
            assert network.candidates[name][place]


def test_a_damaged_stop_is_named_and_the_others_are_read(searched, capsys):
    path = searched / stop_name(6)
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:-40])
        assert cli.main(["gap", str(searched), "--budget", "6/14"]) == 2
        assert f"the weights of epoch 6, and {path} is missing or damaged" in capsys.readouterr().err
        assert load_supernet(searched, "8/14")[0].at.epoch == 5
    finally:
        path.write_bytes(whole)


def test_it_stands_for_all_budgets_that_it_stopped_at(searched):
    run = read_run(searched)
    assert budgets_of(run, tuple(NAMED_BUDGETS)) == ["8/14", "6/14", "5/14", "4/14", "3/14"]
    assert budgets_of(run, ("4/14", "6/14")) == ["6/14", "4/14"] and budgets_of(run, ("1,1,2,1",)) == ["3/14"]


def test_other_methods_have_no_stops(tmp_path):
    config = search_config("tiny", "digits", "da2s", epochs=1, steps=1, threads=1)
    search(config, tmp_path / "run", progress=False)
    assert not list((tmp_path / "run").glob("stop.*")) and {config.epoch_of(budget) for budget in NAMED_BUDGETS} == {1}


def _train(folder, on_epoch):
    search(search_config("tiny", "digits", "da2s_descent", **SHORT), folder, progress=False, on_epoch=on_epoch)


@pytest.mark.slow
def test_stopped_in_every_epoch_it_ends_with_the_same_bytes(tmp_path):
    folder, undisturbed = stopped_in_every_epoch(_train, tmp_path)
    for stop in (5, 6, 7, 8):
        assert (folder / stop_name(stop)).read_bytes() == (undisturbed / stop_name(stop)).read_bytes()
    for name in ("history.jsonl", "architecture.safetensors", "genotype.json"):
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes()


def test_before_it_has_come_to_a_stop_a_search_is_read_as_it_is(tmp_path):
    with pytest.raises(Stopped):
        search(
            search_config("tiny", "digits", "da2s_descent", **SHORT),
            tmp_path,
            progress=False,
            on_epoch=stop_after_an_epoch,
        )
    network, _ = load_supernet(tmp_path, "8/14")
    assert network.at.epoch == 1
    with pytest.raises(LabError, match="must be finished before its drops are kept"):
        make.measure_drops(tmp_path, read_run(tmp_path).search, [("8/14", "both")], tmp_path, "own", 1)
    assert not read_run(tmp_path).finished


def test_a_limit_of_cost_is_no_stop():
    with pytest.raises(LabError, match="through = '8/14;parameters<=3M': must be budgets of edges"):
        descent(through="8/14;parameters<=3M")
